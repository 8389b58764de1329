/* workers/prune/gram.c: see gram.h. */
#include "workers/prune/gram.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)32 << 20)
#define LEAST_BLOCK ((size_t)64)
#define KEEP_ROWS   256 /* of outputs at once */

static size_t count_block_rows(size_t in, size_t out)
{
    size_t rows = BLOCK_BYTES / (sizeof(float) * (in + out));
    rows = rows < LEAST_BLOCK ? LEAST_BLOCK : rows;
    return rows < DENSE_BLOCK_ROWS ? rows : DENSE_BLOCK_ROWS;
}

static size_t count_values(size_t in, size_t out)
{
    return GRAM_PARTS * (in + out * in + 2 * out);
}

uint64_t gram_bytes(size_t in, size_t out)
{
    uint64_t squares = (uint64_t)in * (in + 1), blocks = (uint64_t)count_block_rows(in, out) * (in + out);
    return (squares + count_values(in, out)) * sizeof(double) + blocks * sizeof(float);
}

struct gram *gram_create(size_t in, size_t out, struct error *error)
{
    CHECK(in > 0);
    OWNED(gram) gram = memory_create(1, sizeof *gram);
    gram->in = in;
    gram->out = out;
    gram->block_rows = count_block_rows(in, out);
    gram->squares = memory_try_array(in + 1, in * sizeof *gram->squares, "a Gram matrix", error);
    gram->values = memory_try_array(count_values(in, out), sizeof *gram->values, "a Gram matrix", error);
    gram->block_x = memory_try_array(gram->block_rows, in * sizeof *gram->block_x, "rows of sums", error);
    gram->block_e =
        memory_try_array(gram->block_rows, (out + 1) * sizeof *gram->block_e, "rows of sums", error);
    if (gram->squares == NULL || gram->values == NULL || gram->block_x == NULL || gram->block_e == NULL) {
        return NULL;
    }
    dense_symmetric_pair(gram->squares, in, &gram->parts[GRAM_FIT].c, &gram->parts[GRAM_HELD_OUT].c);
    double *values = gram->values;
    for (size_t p = 0; p < GRAM_PARTS; p++) {
        struct gram_sums *sums = &gram->parts[p];
        sums->cross = values;
        sums->x = sums->cross + out * in;
        sums->e = sums->x + in;
        sums->e_squares = sums->e + out;
        values = sums->e_squares + out;
    }
    return TAKE(gram);
}

void gram_destroy(struct gram *gram)
{
    if (gram != NULL) {
        free(gram->squares);
        free(gram->values);
        free(gram->block_x);
        free(gram->block_e);
        free(gram);
    }
}

/* ---- adding -------------------------------------------------------------------------------------- */

static bool flush(struct gram *gram, const struct dense_threads *threads, struct error *error)
{
    struct gram_sums *sums = &gram->parts[gram->block_part];
    size_t rows = gram->block_count, in = gram->in, out = gram->out;
    gram->block_count = 0;
    return rows == 0 || (dense_add_gram(threads, rows, gram->block_x, in, &sums->c, error) &&
                         (out == 0 || dense_add_cross(threads, rows, out, gram->block_e, out, in,
                                                      gram->block_x, in, sums->cross, in, error)));
}

static void add_row(struct gram *gram, struct gram_sums *sums, const struct gram_rows *rows, size_t r)
{
    float *x = gram->block_x + gram->block_count * gram->in;
    float *e = gram->block_e + gram->block_count * gram->out;
    const float *from = rows->x + r * rows->x_stride;
    float weight = rows->weights != NULL ? rows->weights[r] : 1.0f;
    for (size_t i = 0; i < gram->in; i++) {
        x[i] = weight * from[i];
        sums->x[i] += (double)weight * (double)x[i];
    }
    for (size_t o = 0; o < gram->out; o++) {
        float y = rows->y[r * rows->y_stride + o];
        float z = rows->z != NULL ? rows->z[r * rows->z_stride + o] : 0.0f;
        float drift = rows->drift != NULL ? rows->drift[r * rows->drift_stride + o] : 0.0f;
        e[o] = weight * (y - z + drift);
        double target = (double)weight * (double)y;
        sums->e[o] += (double)weight * (double)e[o];
        sums->e_squares[o] += (double)e[o] * (double)e[o];
        sums->y_square += target * target;
    }
    sums->tokens++;
    sums->weight += (double)weight * (double)weight;
    gram->block_count++;
}

bool gram_add(struct gram *gram, const struct dense_threads *threads, enum gram_part part,
              const struct gram_rows *rows, struct error *error)
{
    CHECK(gram->out == 0 || rows->y != NULL);
    if (rows->rows > 0 && part != gram->block_part) {
        if (!flush(gram, threads, error)) {
            return false;
        }
        gram->block_part = part;
    }
    for (size_t r = 0; r < rows->rows; r++) {
        add_row(gram, &gram->parts[part], rows, r);
        if (gram->block_count == gram->block_rows && !flush(gram, threads, error)) {
            return false;
        }
    }
    return true;
}

/* An element of C or E^T X that is not finite has a diagonal element or a sum of squares that is not. */
static bool is_finite(const struct gram *gram, const struct gram_sums *sums)
{
    bool is_good = isfinite(sums->y_square);
    for (size_t i = 0; i < gram->in; i++) {
        is_good = is_good && isfinite(dense_symmetric_get(&sums->c, i, i));
    }
    for (size_t o = 0; o < gram->out; o++) {
        is_good = is_good && isfinite(sums->e_squares[o]);
    }
    return is_good;
}

bool gram_finish(struct gram *gram, const struct dense_threads *threads, struct error *error)
{
    if (!flush(gram, threads, error)) {
        return false;
    }
    for (size_t p = 0; p < GRAM_PARTS; p++) {
        if (!is_finite(gram, &gram->parts[p])) {
            return error_set(error, ERROR_NUMERIC, "the sums of a projection's inputs are not finite");
        }
    }
    return true;
}

size_t gram_first_held_out_row(const struct token_batch *batch)
{
    size_t rows = 0, count = batch->sequence_count;
    if (count == 1) {
        return batch->sequences[0].count - batch->sequences[0].count / 4;
    }
    size_t held_out = count / 4 > 0 ? count / 4 : 1;
    for (size_t s = 0; s + held_out < count; s++) {
        rows += batch->sequences[s].count;
    }
    return rows;
}

double gram_mean_diagonal(const struct gram_sums *sums)
{
    double sum = 0.0;
    for (size_t i = 0; i < sums->c.n; i++) {
        sum += dense_symmetric_get(&sums->c, i, i);
    }
    return sums->c.n > 0 ? sum / (double)sums->c.n : 0.0;
}

/* ---- losing columns ------------------------------------------------------------------------------ */

/* Rows [first, first + count) of outputs: with D = W without its kept columns, E^T X = D C, e^2 = the diagonal of D C D^T. */
struct keeping {
    const struct gram *from;
    struct gram *to;
    const float *weights;
    const uint32_t *kept;
    bool *is_kept;       /* [from->in] */
    double *w, *product; /* [KEEP_ROWS, from->in] */
};

static bool multiply_rows(const struct keeping *keeping, const struct dense_threads *threads, size_t first,
                          size_t count, const struct gram_sums *sums, bool is_whole, struct error *error)
{
    size_t in = keeping->from->in;
    for (size_t r = 0; r < count; r++) {
        for (size_t i = 0; i < in; i++) {
            bool is_in = is_whole || !keeping->is_kept[i];
            keeping->w[r * in + i] = is_in ? (double)keeping->weights[(first + r) * in + i] : 0.0;
        }
    }
    return dense_multiply_symmetric(threads, count, keeping->w, in, &sums->c, keeping->product, in, error);
}

static double dot(const double *a, const double *b, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

static bool keep_outputs(const struct keeping *keeping, const struct dense_threads *threads, size_t part,
                         size_t first, size_t count, struct error *error)
{
    const struct gram_sums *from = &keeping->from->parts[part];
    struct gram_sums *to = &keeping->to->parts[part];
    size_t in = keeping->from->in, kept = keeping->to->in;
    if (!multiply_rows(keeping, threads, first, count, from, true, error)) {
        return false;
    }
    to->y_square += dot(keeping->w, keeping->product, count * in);
    if (!multiply_rows(keeping, threads, first, count, from, false, error)) {
        return false;
    }
    for (size_t r = 0; r < count; r++) {
        const double *w = keeping->w + r * in, *product = keeping->product + r * in;
        to->e_squares[first + r] = dot(w, product, in);
        to->e[first + r] = dot(w, from->x, in);
        for (size_t i = 0; i < kept; i++) {
            to->cross[(first + r) * kept + i] = product[keeping->kept[i]];
        }
    }
    return true;
}

static void keep_inputs(const struct gram *from, const uint32_t *kept, struct gram *to)
{
    for (size_t p = 0; p < GRAM_PARTS; p++) {
        const struct gram_sums *source = &from->parts[p];
        struct gram_sums *sums = &to->parts[p];
        sums->tokens = source->tokens;
        sums->weight = source->weight;
        for (size_t i = 0; i < to->in; i++) {
            sums->x[i] = source->x[kept[i]];
            size_t begin = sums->c.is_upper ? i : 0, end = sums->c.is_upper ? to->in : i + 1;
            for (size_t j = begin; j < end; j++) {
                sums->c.values[i * sums->c.stride + j] = dense_symmetric_get(&source->c, kept[i], kept[j]);
            }
        }
    }
}

struct gram *gram_keep(const struct gram *gram, const struct dense_threads *threads, const float *weights,
                       size_t out, const uint32_t *kept, size_t kept_count, struct error *error)
{
    CHECK(gram->out == 0 && gram->block_count == 0 && out > 0);
    OWNED(gram) to = gram_create(kept_count, out, error);
    OWNED_MEMORY bool *is_kept = memory_create(gram->in, sizeof *is_kept);
    size_t count = KEEP_ROWS * gram->in;
    OWNED_MEMORY double *w = memory_try_array(count, sizeof *w, "rows of weights", error);
    OWNED_MEMORY double *product = memory_try_array(count, sizeof *product, "rows of weights", error);
    if (to == NULL || w == NULL || product == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < kept_count; i++) {
        is_kept[kept[i]] = true;
    }
    keep_inputs(gram, kept, to);
    struct keeping keeping = {gram, to, weights, kept, is_kept, w, product};
    for (size_t p = 0; p < GRAM_PARTS; p++) {
        for (size_t first = 0; first < out; first += KEEP_ROWS) {
            size_t rows = out - first < KEEP_ROWS ? out - first : KEEP_ROWS;
            if (!keep_outputs(&keeping, threads, p, first, rows, error)) {
                return NULL;
            }
        }
    }
    return TAKE(to);
}
