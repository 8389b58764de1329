/* workers/select/deita.c: see deita.h. A block of candidates meets the admitted rows, chunk by chunk, on the pool; then its own records one after
 * another, by their products among themselves. */
#include "workers/select/deita.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/select/rows.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ROWS = 4096, TASK_ROWS = 8 };

#define ROUNDING 1e-12

struct walking {
    const struct dense_threads *threads;
    const struct deita_walk *walk;
    size_t chunk_rows;
    double margin;     /* of a screened cosine */
    double *squares;   /* [n] */
    size_t *order;     /* [ordered] by falling score */
    size_t ordered;    /* records that take part */
    float **chunks;    /* [n / chunk_rows] of [chunk_rows, size]: the admitted rows, in order, of length 1 */
    float *rows;       /* [DEITA_BLOCK, size] the candidates, of length 1 */
    float *cosines;    /* [DEITA_BLOCK, the larger of DEITA_BLOCK and chunk_rows] */
    uint64_t shortest; /* tokens of the shortest record */
    size_t *admitted_ids; /* the caller's order */
    struct deita_use use;
    /* the block */
    const size_t *ids; /* [count] of the candidates */
    size_t count;
    bool is_near[DEITA_BLOCK];
    size_t chunk, chunk_count; /* the chunk it meets, and the rows in it */
};

static void walking_finish(struct walking *walking)
{
    for (size_t c = 0; walking->chunks != NULL && c <= walking->walk->n / CHUNK_ROWS; c++) {
        free(walking->chunks[c]);
    }
    free(walking->squares);
    free(walking->order);
    free(walking->chunks);
    free(walking->rows);
    free(walking->cosines);
}

bool deita_scores(const double *complexity, const double *quality, size_t count, double *ret_scores,
                  struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        ret_scores[i] = complexity[i] * quality[i];
        if (isnan(ret_scores[i]) && !isnan(complexity[i]) && !isnan(quality[i])) {
            return error_set(error, ERROR_NUMERIC, "record %zu: complexity %g times quality %g", i,
                             complexity[i], quality[i]);
        }
    }
    return true;
}

/* Whether two records are too near each other. screened: their cosine by an fp32 product. */
static bool are_near(const struct walking *walking, size_t a, size_t b, float screened)
{
    const struct deita_walk *walk = walking->walk;
    double cosine = (double)screened, limit = 1.0 - walk->threshold;
    if (cosine < limit - walking->margin) {
        return false;
    }
    if (cosine <= limit + walking->margin) {
        cosine = rows_cosine(walk->rows + a * walk->size, walking->squares[a], walk->rows + b * walk->size,
                             walking->squares[b], walk->size);
    }
    return 1.0 - cosine <= walk->threshold + ROUNDING;
}

static void meet_task(void *context, size_t task, size_t thread)
{
    (void)thread;
    struct walking *walking = context;
    const size_t *others = walking->admitted_ids + walking->chunk * walking->chunk_rows;
    size_t end = (task + 1) * TASK_ROWS < walking->count ? (task + 1) * TASK_ROWS : walking->count;
    for (size_t r = task * TASK_ROWS; r < end; r++) {
        const float *cosines = walking->cosines + r * walking->chunk_count;
        for (size_t a = 0; a < walking->chunk_count && !walking->is_near[r]; a++) {
            walking->is_near[r] = are_near(walking, walking->ids[r], others[a], cosines[a]);
        }
    }
}

static bool multiply(struct walking *walking, const float *others, size_t count, struct error *error)
{
    return rows_multiply(walking->threads, walking->walk->size, walking->rows, walking->count, others, count,
                         walking->cosines, count, error);
}

static bool meet_admitted(struct walking *walking, struct error *error)
{
    size_t records = walking->use.admitted.records;
    for (size_t done = 0; done < records; done += walking->chunk_rows) {
        walking->chunk = done / walking->chunk_rows;
        walking->chunk_count = records - done < walking->chunk_rows ? records - done : walking->chunk_rows;
        if (!multiply(walking, walking->chunks[walking->chunk], walking->chunk_count, error) ||
            !pool_run(walking->threads->pool, (walking->count + TASK_ROWS - 1) / TASK_ROWS, meet_task,
                      walking, walking->threads->cancel, error)) {
            return false;
        }
    }
    return true;
}

static bool admit(struct walking *walking, size_t id, const float *row, struct error *error)
{
    size_t place = walking->use.admitted.records, size = walking->walk->size;
    float **chunk = &walking->chunks[place / walking->chunk_rows];
    if (*chunk == NULL) {
        *chunk = memory_try_array(walking->chunk_rows, size * sizeof **chunk, "admitted rows", error);
        if (*chunk == NULL) {
            return false;
        }
    }
    memcpy(*chunk + place % walking->chunk_rows * size, row, size * sizeof *row);
    walking->admitted_ids[place] = id;
    walking->use.admitted.records++;
    walking->use.admitted.tokens += walking->walk->tokens != NULL ? walking->walk->tokens[id] : 0;
    return true;
}

static uint64_t budget_left(const struct walking *walking)
{
    const struct budget *budget = &walking->walk->budget;
    return budget->limit - (budget->unit == BUDGET_RECORDS ? (uint64_t)walking->use.admitted.records
                                                           : walking->use.admitted.tokens);
}

static bool is_spent(const struct walking *walking)
{
    return budget_left(walking) < (walking->walk->budget.unit == BUDGET_RECORDS ? 1 : walking->shortest);
}

/* Whether candidate r is too near to one admitted from this block: the last admitted ones, whose places in the block are given. */
static bool meets_own(const struct walking *walking, size_t r, const size_t *admitted, size_t count)
{
    for (size_t a = 0; a < count; a++) {
        if (are_near(walking, walking->ids[r], walking->ids[admitted[a]],
                     walking->cosines[r * walking->count + admitted[a]])) {
            return true;
        }
    }
    return false;
}

static void gather_candidates(struct walking *walking)
{
    size_t size = walking->walk->size;
    for (size_t r = 0; r < walking->count; r++) {
        size_t id = walking->ids[r];
        double scale = rows_inverse(walking->squares[id]);
        const float *from = walking->walk->rows + id * size;
        for (size_t c = 0; c < size; c++) {
            walking->rows[r * size + c] = (float)(scale * (double)from[c]);
        }
        walking->is_near[r] = false;
    }
}

static bool walk_block(struct walking *walking, struct error *error)
{
    const struct deita_walk *walk = walking->walk;
    size_t admitted[DEITA_BLOCK], count = 0;
    gather_candidates(walking);
    if (!meet_admitted(walking, error) || !multiply(walking, walking->rows, walking->count, error)) {
        return false;
    }
    for (size_t r = 0; r < walking->count && !is_spent(walking); r++) {
        size_t id = walking->ids[r];
        if (walking->is_near[r] || meets_own(walking, r, admitted, count)) {
            walking->use.too_near++;
        } else if (walk->budget.unit == BUDGET_TOKENS && walk->tokens[id] > budget_left(walking)) {
            walking->use.too_long++;
        } else if (admit(walking, id, walking->rows + r * walk->size, error)) {
            admitted[count++] = r;
        } else {
            return false;
        }
    }
    return true;
}

static bool allocate(struct walking *walking, struct error *error)
{
    size_t n = walking->walk->n, row_bytes = walking->walk->size * sizeof(float);
    walking->chunk_rows = n < CHUNK_ROWS ? n : CHUNK_ROWS;
    size_t columns = walking->chunk_rows > DEITA_BLOCK ? walking->chunk_rows : DEITA_BLOCK;
    return (walking->squares = memory_try_array(n, sizeof(double), "squared lengths", error)) != NULL &&
           (walking->order = memory_try_array(n, sizeof(size_t), "an order", error)) != NULL &&
           (walking->chunks = memory_try_array(n / CHUNK_ROWS + 1, sizeof(float *), "chunks", error)) !=
               NULL &&
           (walking->rows = memory_try_array(DEITA_BLOCK, row_bytes, "candidates", error)) != NULL &&
           (walking->cosines = memory_try_array(DEITA_BLOCK, columns * sizeof(float), "cosines", error)) !=
               NULL;
}

static bool prepare(struct walking *walking, struct error *error)
{
    const struct deita_walk *walk = walking->walk;
    walking->margin = rows_margin(walk->size, 1.0, 1.0);
    walking->shortest = UINT64_MAX;
    for (size_t i = 0; i < walk->n && walk->tokens != NULL; i++) {
        bool is_shorter = !isnan(walk->scores[i]) && walk->tokens[i] < walking->shortest;
        walking->shortest = is_shorter ? walk->tokens[i] : walking->shortest;
    }
    return allocate(walking, error) &&
           rows_measure_squares(walking->threads, walk->rows, walk->n, walk->size, walking->squares, error) &&
           ranking_order(walk->scores, walk->n, RANKING_FALLING, RANKING_NAN_DROP, walk->n, walking->order,
                         &walking->ordered, error);
}

bool deita_choose(const struct dense_threads *threads, const struct deita_walk *walk, size_t *ret_order,
                  struct deita_use *ret_use, struct error *error)
{
    CHECK(walk->size >= 1 && walk->threshold >= 0.0);
    CHECK(walk->tokens != NULL || walk->budget.unit == BUDGET_RECORDS);
    FINISHED(walking) walking = {.threads = threads, .walk = walk, .admitted_ids = ret_order};
    if (!prepare(&walking, error)) {
        return false;
    }
    for (size_t done = 0; done < walking.ordered && !is_spent(&walking); done += DEITA_BLOCK) {
        walking.ids = walking.order + done;
        walking.count = walking.ordered - done < DEITA_BLOCK ? walking.ordered - done : DEITA_BLOCK;
        if (!walk_block(&walking, error)) {
            return false;
        }
    }
    *ret_use = walking.use;
    return true;
}
