/*
 * workers/prune/replaceme.c: ReplaceMe (Shopkhoev et al., arXiv 2505.02819): a span of n blocks goes, and a linear map takes over what it did.
 * With M the output of the FFN right before the span, Y the residual stream that it is added to and L the stream after the span,
 * rows are tokens,
 *
 *     T* = argmin_T |M T + Y - L|^2 + alpha |T|^2 = (M^T M + alpha I)^-1 M^T (L - Y)
 *
 * The map is folded into the projection that makes M: W_down <- T*^T W_down, and so its bias. The result is a plain model with n
 * blocks fewer. Experts: the FFN's output is a weighted sum of theirs, and a linear map of a sum is the sum of maps, so T* goes into
 * every expert's down projection.
 *
 * fit "ridge" is the published form, which shrinks T towards zero. fit "correction" (default) shrinks towards T = I, the plain removal
 * of the span: T* = I + D, D = argmin |M D + (Y + M) - L|^2 + lambda |D|^2; lambda is chosen by held-out sequences, and where no map does
 * better on those than removal alone, nothing is folded (least_squares.h).
 *
 * The span of n blocks is that of least angle (angular_span.c) among those that an FFN comes right before; the target chooses n.
 *
 * Streaming: one pass, layer by layer, as far as the end of the span. M and Y of all tokens are kept until L is there: in memory where
 * hidden states are, else in a file without a name.
 */
#include "workers/prune/angular_span.h"
#include "workers/prune/least_squares.h"
#include "workers/prune/mixing.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/tap.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const token_choices[] = {"last", "all", NULL};
static const char *const fits[] = {"correction", "ridge", NULL};
static const struct param_spec params[] = {
    {.name = "tokens",
     .type = PARAM_ENUM,
     .values = token_choices,
     .default_json = "\"all\"",
     .help = "Whose states the angle of a span is averaged over: the last token of each sequence, or all."},
    {.name = "fit",
     .type = PARAM_ENUM,
     .values = fits,
     .default_json = "\"correction\"",
     .help = "Correction: the map nears the identity, its ridge chosen on held-out sequences. Ridge: the "
             "published form, near zero."},
    {.name = "alpha",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 1e6,
     .default_json = "0.0001",
     .help = "Of fit ridge: the ridge, in units of the mean square of the FFN's outputs."},
};

/* ---- rows that wait ---------------------------------------------------------------------------------------------- */

/* M and Y of all tokens, [2, rows, size]. */
struct row_store {
    float *values; /* owned; NULL: they are in the file */
    int fd;        /* -1: none */
    size_t rows, size;
};

static void row_store_finish(struct row_store *store)
{
    free(store->values);
    if (store->fd >= 0) {
        (void)close(store->fd);
    }
}

static bool row_store_init(struct row_store *store, size_t rows, size_t size, const char *folder,
                           struct error *error)
{
    *store = (struct row_store){.fd = -1, .rows = rows, .size = size};
    if (folder == NULL) {
        store->values = memory_try_array(2 * rows + 1, size * sizeof(float), "rows of the FFN", error);
        return store->values != NULL;
    }
    OWNED_MEMORY char *path = file_join(folder, "replaceme.rows");
    if (file_system->unlink(path) != 0 && errno != ENOENT) { /* of an attempt that was killed */
        return error_set_errno(error, errno, "%.200s cannot be removed", path);
    }
    store->fd = file_create(path, 0600, error);
    return store->fd >= 0 && (file_system->unlink(path) == 0 ||
                              error_set_errno(error, errno, "%.200s cannot be removed", path));
}

enum { STORED_M, STORED_Y };

static size_t place(const struct row_store *store, unsigned which, size_t first)
{
    return (which * store->rows + first) * store->size;
}

static bool row_store_put(struct row_store *store, unsigned which, size_t first, size_t count,
                          const float *rows, struct error *error)
{
    size_t at = place(store, which, first);
    size_t bytes = count * store->size * sizeof *rows;
    if (store->values == NULL) {
        return file_write_at(store->fd, rows, bytes, at * sizeof *rows, error);
    }
    memcpy(store->values + at, rows, bytes);
    return true;
}

static bool row_store_get(const struct row_store *store, unsigned which, size_t first, size_t count,
                          float *ret_rows, struct error *error)
{
    size_t at = place(store, which, first);
    size_t bytes = count * store->size * sizeof *ret_rows;
    if (store->values == NULL) {
        return file_read_at(store->fd, ret_rows, bytes, at * sizeof *ret_rows, "rows of the FFN", error);
    }
    memcpy(ret_rows, store->values + at, bytes);
    return true;
}

/* ---- one pass ---------------------------------------------------------------------------------------------------- */

enum { STEP = 1024 }; /* rows that are looked at together */

struct pass {
    struct prune_run *run;
    size_t ffn;             /* the sublayer before the span */
    size_t first, end;      /* sublayers of the visit */
    size_t size, held_from; /* row from which on rows are held out; all rows: none are */
    bool is_last;           /* of the span: L is there after the visit */
    bool is_correction;
    struct row_store store;
    float *outputs; /* [rows of the chunk, size]: M */
    float *rows;    /* [3, STEP, size] */
    struct gram *gram;
    struct dense_threads threads;
};

static bool add_outputs(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    const struct pass *pass = context;
    for (size_t r = 0; r < rows->rows; r++) {
        size_t to = rows->first_row + (rows->numbers != NULL ? (size_t)rows->numbers[r] : r);
        const float *from = rows->values + r * rows->stride;
        float weight = rows->weights != NULL ? rows->weights[r] : 1.0f;
        for (size_t i = 0; i < rows->size; i++) {
            pass->outputs[to * pass->size + i] += weight * from[i];
        }
    }
    return true;
}

static bool keep_stream(struct pass *pass, const struct sweep_chunk *chunk, struct error *error)
{
    for (size_t done = 0; done < chunk->hidden->row_count; done += STEP) {
        size_t left = chunk->hidden->row_count - done;
        size_t now = left < STEP ? left : STEP;
        if (!hidden_read(chunk->hidden, done, now, pass->rows, error) ||
            !row_store_put(&pass->store, STORED_Y, chunk->first_row + done, now, pass->rows, error)) {
            return false;
        }
    }
    return true;
}

static bool run_ffn(struct pass *pass, const struct sweep_chunk *chunk, struct error *error)
{
    struct model *model = pass->run->model;
    size_t count = chunk->hidden->row_count;
    struct model_tap tap = {.context = pass, .points = 1u << TAP_FFN_OUTPUT, .visit = add_outputs};
    memset(pass->outputs, 0, count * pass->size * sizeof *pass->outputs);
    if (!keep_stream(pass, chunk, error)) {
        return false;
    }
    model_set_tap(model, &tap);
    bool is_good = model_run_sublayer(model, pass->ffn, chunk->hidden, error);
    model_set_tap(model, NULL);
    return is_good && row_store_put(&pass->store, STORED_M, chunk->first_row, count, pass->outputs, error);
}

/* Rows of x = M and y = L - Y. */
static bool add_rows(struct pass *pass, const struct sweep_chunk *chunk, size_t done, size_t count,
                     struct error *error)
{
    size_t row = chunk->first_row + done;
    size_t values = count * pass->size;
    float *m = pass->rows, *y = m + STEP * pass->size, *wanted = y + STEP * pass->size;
    if (!row_store_get(&pass->store, STORED_M, row, count, m, error) ||
        !row_store_get(&pass->store, STORED_Y, row, count, y, error) ||
        !hidden_read(chunk->hidden, done, count, wanted, error)) {
        return false;
    }
    for (size_t i = 0; i < values; i++) {
        wanted[i] -= y[i];
    }
    struct gram_rows rows = {.rows = count,
                             .x = m,
                             .x_stride = pass->size,
                             .y = wanted,
                             .y_stride = pass->size,
                             .z = pass->is_correction ? m : NULL,
                             .z_stride = pass->size};
    enum gram_part part = row >= pass->held_from ? GRAM_HELD_OUT : GRAM_FIT;
    return gram_add(pass->gram, &pass->threads, part, &rows, error);
}

static bool add_chunk(struct pass *pass, const struct sweep_chunk *chunk, struct error *error)
{
    for (size_t done = 0; done < chunk->hidden->row_count;) {
        size_t row = chunk->first_row + done;
        size_t left = chunk->hidden->row_count - done;
        size_t now = left < STEP ? left : STEP;
        if (row < pass->held_from && row + now > pass->held_from) {
            now = pass->held_from - row;
        }
        if (!add_rows(pass, chunk, done, now, error)) {
            return false;
        }
        done += now;
    }
    return true;
}

static bool visit(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct pass *pass = context;
    for (size_t i = pass->first; i < pass->end; i++) {
        if (!(i == pass->ffn ? run_ffn(pass, chunk, error)
                             : model_run_sublayer(pass->run->model, i, chunk->hidden, error))) {
            return false;
        }
    }
    return !pass->is_last || add_chunk(pass, chunk, error);
}

static bool run_layers(struct pass *pass, struct sweep *sweep, size_t span_end, struct error *error)
{
    const struct prune_run *run = pass->run;
    size_t last_layer = run->sublayers[span_end - 1].layer;
    while (pass->end < span_end) {
        size_t layer = run->sublayers[pass->end].layer;
        pass->first = pass->end;
        while (pass->end < span_end && run->sublayers[pass->end].layer == layer) {
            pass->end++;
        }
        pass->is_last = pass->end == span_end;
        if (!sweep_each(sweep, true, visit, pass, error)) {
            return false;
        }
        if (run->observer.progress != NULL) {
            run->observer.progress(run->observer.context, layer + 1, last_layer + 1, "layer");
        }
    }
    return gram_finish(pass->gram, &pass->threads, error);
}

static size_t count_rows(const struct token_batch *batch)
{
    size_t rows = 0;
    for (size_t s = 0; s < batch->sequence_count; s++) {
        rows += batch->sequences[s].count;
    }
    return rows;
}

/* The sums over M and L - Y for the span [ffn + 1, span_end) of sublayers. */
static bool gather(struct pass *pass, size_t span_end, struct error *error)
{
    const struct prune_run *run = pass->run;
    size_t rows = count_rows(run->batch);
    bool is_spilled = run->sweep.spill_folder != NULL;
    pass->held_from = pass->is_correction ? gram_first_held_out_row(run->batch) : rows;
    OWNED(sweep) sweep = sweep_create(run->model, run->batch, &run->sweep, error);
    if (sweep == NULL ||
        !row_store_init(&pass->store, rows, pass->size, is_spilled ? run->sweep.spill_folder : NULL, error)) {
        return false;
    }
    size_t row_bytes = pass->size * sizeof(float);
    OWNED_MEMORY float *outputs =
        memory_try_array(sweep_most_rows(sweep) + 1, row_bytes, "outputs of the FFN", error);
    OWNED_MEMORY float *buffer = memory_try_array((size_t)3 * STEP, row_bytes, "rows of the FFN", error);
    pass->outputs = outputs;
    pass->rows = buffer;
    bool is_good = outputs != NULL && buffer != NULL && sweep_embed(sweep, error) &&
                   run_layers(pass, sweep, span_end, error);
    row_store_finish(&pass->store);
    pass->store = (struct row_store){.fd = -1};
    return is_good;
}

/* ---- the map ----------------------------------------------------------------------------------------------------- */

/* T*^T [size, size], or NULL where removal alone does best: owned. */
static bool solve(struct pass *pass, double **ret_map, struct error *error)
{
    size_t size = pass->size;
    const double *solved = NULL;
    *ret_map = NULL;
    if (pass->is_correction) {
        struct least_squares_request request = {.mode = LEAST_SQUARES_LS};
        struct least_squares_result result = {0};
        if (!least_squares_solve(pass->gram, &pass->threads, &request, &result, error)) {
            return false;
        }
        solved = result.weights; /* lies in the gram */
        least_squares_result_finish(&result);
        if (solved == NULL) {
            return true;
        }
    } else {
        double alpha = json_number_value(json_object_get(pass->run->parameters, "alpha")) *
                       gram_mean_diagonal(&pass->gram->parts[GRAM_FIT]);
        if (!least_squares_map(pass->gram, &pass->threads, alpha, &solved, error)) {
            return false;
        }
    }
    double *map = memory_try_array(size * size, sizeof *map, "the linear map", error);
    if (map == NULL) {
        return false;
    }
    memcpy(map, solved, size * size * sizeof *map);
    for (size_t i = 0; i < size && pass->is_correction; i++) {
        map[i * size + i] += 1;
    }
    *ret_map = map;
    return true;
}

static bool fold_role(const struct mixing *mixing, enum weight_role role, size_t layer, size_t expert,
                      const double *map, struct error *error)
{
    const struct model_config *config = &mixing->inventory->config;
    struct weight_shape shape;
    return !architecture_tensor(config, role, layer, expert, &shape) ||
           mixing_put_outputs(mixing, &shape, shape.name, map, config->hidden_size, error);
}

static bool fold(struct prune_run *run, size_t layer, const double *map, struct plan *plan,
                 struct error *error)
{
    const struct model_layer *home = &run->inventory->config.layers[layer];
    OWNED_MEMORY char *path = file_join(run->work_folder, PATCH_FILE);
    plan->patch = patch_create(path, error);
    struct mixing mixing = {run->inventory, run->weights, plan->patch, {run->pool, run->cancel}};
    if (plan->patch == NULL) {
        return false;
    }
    for (size_t expert = 0; expert < home->expert_count; expert++) {
        if (!fold_role(&mixing, WEIGHT_EXPERT_DOWN, layer, expert, map, error)) {
            return false;
        }
    }
    return (home->expert_count > 0 || (fold_role(&mixing, WEIGHT_DOWN, layer, 0, map, error) &&
                                       fold_role(&mixing, WEIGHT_DOWN_BIAS, layer, 0, map, error))) &&
           patch_sync(plan->patch, error);
}

static bool replace(struct prune_run *run, const struct prune_unit *blocks, const struct angular_span *span,
                    struct plan *plan, struct error *error)
{
    const char *fit = json_string_value(json_object_get(run->parameters, "fit"));
    const struct prune_unit *last = &blocks[span->first + span->count - 1];
    struct pass pass = {.run = run,
                        .ffn = blocks[span->first].first - 1,
                        .size = run->inventory->config.hidden_size,
                        .is_correction = fit == NULL || strcmp(fit, "correction") == 0,
                        .store = {.fd = -1},
                        .threads = {run->pool, run->cancel}};
    OWNED(gram) gram = gram_create(pass.size, pass.size, error);
    OWNED_MEMORY double *map = NULL;
    pass.gram = gram;
    bool is_good =
        gram != NULL && gather(&pass, last->first + last->count, error) && solve(&pass, &map, error);
    row_store_finish(&pass.store);
    return is_good && (map == NULL || fold(run, run->sublayers[pass.ffn].layer, map, plan, error));
}

static bool replaceme_check(const struct model_config *config, struct error *error)
{
    return architecture_of(config)->norm_placement == NORM_BEFORE ||
           error_set(
               error, ERROR_UNSUPPORTED,
               "models of type %s have norms after their FFN: a linear map cannot be folded through one",
               config->model_type);
}

static bool replaceme_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                             struct error *error)
{
    OWNED_MEMORY struct prune_unit *blocks = NULL;
    size_t count = angular_span_list(run, &blocks);
    if (prune_target_reached(target, ret_plan, run->inventory)) {
        return true; /* without removing anything */
    }
    if (!replaceme_check(&run->inventory->config, error)) {
        return false;
    }
    for (size_t n = 1; n < count; n++) {
        struct angular_span span;
        if (!angular_span_choose(run, blocks, count, n, ANGULAR_SPAN_AFTER_FFN, &span, error)) {
            return false;
        }
        if (span.count == 0) {
            continue;
        }
        angular_span_put(ret_plan, blocks, &span);
        if (prune_target_reached(target, ret_plan, run->inventory)) {
            return replace(run, blocks, &span, ret_plan, error);
        }
    }
    return prune_target_cut(target, ret_plan, run->inventory, error); /* says what the longest span reaches */
}

static uint64_t replaceme_bytes(const struct inventory *inventory, const struct prune_pass *pass)
{
    const struct model_config *config = &inventory->config;
    uint64_t size = config->hidden_size;
    uint64_t row = size * sizeof(float);
    uint64_t widest = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        widest = config->layers[i].intermediate_size > widest ? config->layers[i].intermediate_size : widest;
    }
    uint64_t kept = pass->is_spilled ? 0 : 2 * pass->rows * row;
    uint64_t gather = kept + (pass->chunk_rows + 3 * STEP) * row;
    uint64_t map = size * size * sizeof(double);
    uint64_t solve = least_squares_bytes(size, size) + map;
    uint64_t put = map + mixing_bytes(size, widest);
    uint64_t most = gather > solve ? gather : solve;
    return gram_bytes(size, size) + (most > put ? most : put);
}

static const char *const late_params[] = {"fit", "alpha", NULL};

const struct prune_method prune_method_replaceme = {
    .name = "replaceme",
    .summary = "Replaces a span of blocks by a linear map that is folded into the FFN before it.",
    .reference = "Shopkhoev et al. 2025, ReplaceMe, arXiv 2505.02819, least squares form",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_SPAN_ANGLES | PRUNE_NEED_MODEL,
    .traits = PRUNE_TRAIT_REPLACE | PRUNE_TRAIT_PACKS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .late_params = late_params,
    .decide = replaceme_decide,
    .pass_bytes = replaceme_bytes,
};
