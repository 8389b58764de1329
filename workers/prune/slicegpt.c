/*
 * workers/prune/slicegpt.c: SliceGPT (Ashkboos et al., arXiv 2401.15024) with one rotation for the whole residual stream, so that the result
 * is a plain model of a smaller hidden size that loads everywhere (structured_pruning 8, export). The basis: eigenvectors of the
 * sum over all signals of C / trace C, largest eigenvalue first. The original gives each signal its own basis and pays with a matrix on
 * every residual connection, which no stock runtime has.
 *
 * The width d' is the largest multiple of `round_to` that meets the target. A tied head comes apart, so a small model may grow before
 * it shrinks: where no width is enough the answer is UNREACHABLE.
 */
#include "workers/prune/rotation.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

static const char *const signal_kinds[] = {"residual", "normed", NULL};
static const struct param_spec params[] = {
    {.name = "round_to",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 4096,
     .unit = "channels",
     .help = "The hidden size that is left is a multiple of it. Default: 8, and for Llama also the number of "
             "query heads, as stock loaders demand."},
    {.name = "signals",
     .type = PARAM_ENUM,
     .values = signal_kinds,
     .default_json = "\"residual\"",
     .help =
         "What the rotation is fitted to: the residual stream as it is, or its rows as norms leave them."},
};

static bool is_reached(struct plan *plan, const struct prune_run *run, const struct prune_target *target,
                       size_t count)
{
    plan->is_rotated = true;
    plan->hidden_count = count;
    return prune_target_reached(target, plan, run->inventory);
}

/* The largest width that is enough: what is left shrinks with it, so halving finds it. */
static bool choose_width(struct plan *plan, const struct prune_run *run, const struct prune_target *target,
                         size_t step, struct error *error)
{
    size_t size = run->inventory->config.hidden_size;
    size_t enough = 1;
    size_t more = size / step + 1; /* in steps; not enough, or too wide */
    if (more < 2 || !is_reached(plan, run, target, step)) {
        struct plan_size smallest;
        plan_measure(plan, run->inventory, target->element_bytes, &smallest);
        plan_clear_widths(plan);
        char field[64];
        (void)snprintf(field, sizeof field, "/target/%s", prune_target_name(target->kind));
        return error_set_field(error, ERROR_UNREACHABLE, field,
                               "the target cannot be reached by a smaller hidden size; the smallest, %zu of "
                               "%zu channels, reaches %.10g",
                               step, size, prune_target_achieved(target, &smallest));
    }
    while (more - enough > 1) {
        size_t middle = enough + (more - enough) / 2;
        *(is_reached(plan, run, target, middle * step) ? &enough : &more) = middle;
    }
    return is_reached(plan, run, target, enough * step);
}

static bool put_weights(struct prune_run *run, const double *basis, struct plan *plan, struct error *error)
{
    OWNED_MEMORY char *path = file_join(run->work_folder, PATCH_FILE);
    plan->patch = patch_create(path, error);
    struct mixing mixing = {run->inventory, run->weights, plan->patch, {run->pool, run->cancel}};
    return plan->patch != NULL && rotation_put(&mixing, basis, plan->hidden_count, &run->observer, error) &&
           patch_sync(plan->patch, error);
}

/* ---- the basis ---------------------------------------------------------------------------------------------------- */

/* A header line, then the basis as it lies in memory:  PRUNEDBS <version> <sha256 of it> <hidden size>\n. It is a cache of the same
 * machine's: what is not whole is passed over and made anew. */
#define BASIS_VERSION      1
#define BASIS_HEADER_BYTES 128

static size_t basis_bytes(size_t size)
{
    return size * size * sizeof(double);
}

static bool load_basis(const char *path, size_t size, double *ret_basis)
{
    size_t count = 0;
    size_t found_size = 0;
    int version = 0;
    char expected[SHA256_HEX];
    char found[SHA256_HEX];
    OWNED_MEMORY char *bytes =
        path != NULL ? file_load(path, basis_bytes(size) + BASIS_HEADER_BYTES, &count, NULL) : NULL;
    const char *newline = bytes != NULL ? memchr(bytes, '\n', count) : NULL;
    if (newline == NULL || (size_t)(bytes + count - newline - 1) != basis_bytes(size) ||
        sscanf(bytes, "PRUNEDBS %d %64s %zu\n", &version, expected, &found_size) != 3 ||
        version != BASIS_VERSION || found_size != size) {
        return false;
    }
    sha256_hex_of(newline + 1, basis_bytes(size), found);
    if (strcmp(found, expected) != 0) {
        return false;
    }
    memcpy(ret_basis, newline + 1, basis_bytes(size));
    return true;
}

/* What cannot be kept is made anew the next time. */
static void save_basis(const char *path, size_t size, const double *basis)
{
    char sha256[SHA256_HEX];
    OWNED_MEMORY char *bytes =
        path != NULL ? memory_try_array(basis_bytes(size) + BASIS_HEADER_BYTES, 1, "a basis", NULL) : NULL;
    if (bytes == NULL) {
        return;
    }
    sha256_hex_of(basis, basis_bytes(size), sha256);
    int length = snprintf(bytes, BASIS_HEADER_BYTES, "PRUNEDBS %d %s %zu\n", BASIS_VERSION, sha256, size);
    memcpy(bytes + length, basis, basis_bytes(size));
    bool is_kept = file_save(path, bytes, (size_t)length + basis_bytes(size), 0644, NULL);
    (void)is_kept;
}

static bool make_basis(struct prune_run *run, size_t size, double *ret_basis, struct error *error)
{
    const char *signals = json_string_value(json_object_get(run->parameters, "signals"));
    struct rotation_gathering gathering = {.model = run->model,
                                           .batch = run->batch,
                                           .sweep = run->sweep,
                                           .is_normed = signals != NULL && strcmp(signals, "normed") == 0,
                                           .observer = &run->observer};
    struct dense_threads threads = {run->pool, run->cancel};
    OWNED_MEMORY double *values = memory_create(size, sizeof *values);
    if (load_basis(run->kept_path, size, ret_basis)) {
        return true;
    }
    if (!rotation_gather(&gathering, ret_basis, error) ||
        !dense_eigen(&threads, size, ret_basis, values, error)) {
        return false;
    }
    save_basis(run->kept_path, size, ret_basis);
    return true;
}

static bool rotate(struct prune_run *run, struct plan *plan, struct error *error)
{
    size_t size = run->inventory->config.hidden_size;
    OWNED_MEMORY double *basis =
        memory_try_array(basis_bytes(size), 1, "a basis of the residual stream", error);
    return basis != NULL && make_basis(run, size, basis, error) && put_weights(run, basis, plan, error);
}

/* ---- the method --------------------------------------------------------------------------------------------------- */

/* LlamaConfig of transformers refuses a hidden size that the number of query heads does not divide, whatever head_dim says. */
static size_t choose_step(const json_t *round_to, const struct model_config *config)
{
    if (json_is_integer(round_to)) {
        return (size_t)json_integer_value(round_to);
    }
    size_t heads = strcmp(config->model_type, "llama") == 0 ? config->head_count : 1;
    size_t step = 8;
    while (step % heads != 0) {
        step += 8;
    }
    return step;
}

/* The width, and whether there can be one. A plan without a width removes nothing. */
static bool slicegpt_estimate(const struct prune_run *run, const struct prune_target *target,
                              struct plan *ret_plan, struct error *error)
{
    const struct model_config *config = &run->inventory->config;
    if (prune_target_reached(target, ret_plan, run->inventory)) {
        return true;
    }
    for (size_t layer = 0; layer < config->layer_count; layer++) {
        if (prune_is_skipped(run, layer)) {
            return error_set_field(error, ERROR_UNSUPPORTED, "/layers/skip",
                                   "method slicegpt changes every layer, so none can be skipped");
        }
    }
    size_t step = choose_step(json_object_get(run->parameters, "round_to"), config);
    return rotation_check(config, error) && choose_width(ret_plan, run, target, step, error);
}

static bool slicegpt_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                            struct error *error)
{
    if (!slicegpt_estimate(run, target, ret_plan, error)) {
        return false;
    }
    if (ret_plan->hidden_count > 0 && !rotate(run, ret_plan, error)) {
        plan_clear_widths(ret_plan);
        return false;
    }
    return true;
}

/* The basis, three matrices of its size while eigenvectors are made; or Gram matrices, or weights beside it. */
static uint64_t slicegpt_bytes(const struct inventory *inventory, const struct prune_pass *pass)
{
    (void)pass;
    uint64_t size = inventory->config.hidden_size;
    uint64_t matrix = size * size * sizeof(double);
    uint64_t gather = matrix + 2 * DENSE_BLOCK_ROWS * size * sizeof(float);
    uint64_t put = rotation_put_bytes(&inventory->config);
    uint64_t most = 2 * matrix > gather ? 2 * matrix : gather;
    return matrix + (most > put ? most : put);
}

static const char *const late_params[] = {"round_to", NULL};

const struct prune_method prune_method_slicegpt = {
    .name = "slicegpt",
    .summary = "Rotates the residual stream onto its principal axes and slices the hidden size.",
    .reference = "Ashkboos et al. 2024, SliceGPT, arXiv 2401.15024, with a single rotation",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_MODEL,
    .traits = PRUNE_TRAIT_REPLACE | PRUNE_TRAIT_PACKS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .late_params = late_params,
    .decide = slicegpt_decide,
    .estimate = slicegpt_estimate,
    .pass_bytes = slicegpt_bytes,
};
