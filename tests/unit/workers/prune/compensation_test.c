/*
 * tests/unit/workers/prune/compensation_test.c: the sweep that repairs a pruned model, for every family of tests/golden/families.
 *
 * What the report says of a projection is measured again here, on the finished model: source and pruned model run whole, and the held-out error
 * between the two outputs of each projection is what the report promised, so the weights that were solved are those that are read. Where what
 * goes is silent nothing is changed. Threads, chunks, spilling, small budgets and resumes change no byte.
 */
#include "tests/unit/workers/model/golden.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/model/architecture.h"
#include "workers/model/patch.h"
#include "workers/model/tap.h"
#include "workers/model/weights.h"
#include "workers/prune/compensation.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SEQUENCES = 24, TOKENS = 40, ROWS = SEQUENCES * TOKENS };

static int32_t tokens[ROWS];
static struct token_sequence sequences[SEQUENCES];
static struct token_batch batch = {sequences, SEQUENCES};

static void make_batch(const struct model_config *config)
{
    for (size_t i = 0; i < ROWS; i++) {
        tokens[i] = (int32_t)rng_below(&(struct rng){.seed = 77}, i, config->vocab_size);
    }
    for (size_t s = 0; s < SEQUENCES; s++) {
        sequences[s] = (struct token_sequence){tokens + s * TOKENS, TOKENS};
    }
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

/* Every unit but those whose number and `seed` make a multiple of three; at least one. */
static size_t choose(uint32_t *list, size_t count, size_t unit, size_t seed)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if ((i / unit + seed) % 3 != 0) {
            list[kept++] = (uint32_t)i;
        }
    }
    for (size_t i = 0; kept == 0 && i < unit; i++) {
        list[kept++] = (uint32_t)i;
    }
    return kept;
}

static void narrow_ffn(struct plan *plan, size_t sublayer, const struct model_layer *layer)
{
    size_t of = layer->intermediate_size, experts = layer->expert_count > 0 ? layer->expert_count : 1;
    size_t count = of - of / 3;
    uint32_t *lists = memory_create(experts * count, sizeof *lists);
    for (size_t e = 0; e < experts; e++) { /* another third of each expert */
        for (size_t c = 0; c < count; c++) {
            lists[e * count + c] = (uint32_t)(c + (c >= e % count ? of / 3 : 0));
        }
    }
    plan_keep_expert_channels(plan, sublayer, lists, experts, count, of);
    free(lists);
}

/* Whole KV groups of heads, a third of the channels; the attention sublayer `removed` goes (SIZE_MAX: none). */
static struct plan *make_plan(const struct inventory *inventory, size_t removed)
{
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&inventory->config, &listed);
    struct plan *plan = plan_create(count);
    for (size_t i = 0; i < count; i++) {
        const struct model_layer *layer = &inventory->config.layers[listed[i].layer];
        if (i == removed) {
            plan_add_point(plan, i, (double)NAN, true);
            plan_cut(plan, 1);
        } else if (listed[i].is_attention) {
            uint32_t *heads = memory_create(layer->head_count, sizeof *heads);
            size_t kept = choose(heads, layer->head_count, layer->head_count / layer->kv_head_count, i);
            plan_keep_heads(plan, i, heads, kept, layer->head_count);
            free(heads);
        } else {
            narrow_ffn(plan, i, layer);
        }
    }
    free(listed);
    return plan;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

struct setting {
    enum least_squares_mode mode;
    size_t threads, chunk_rows;
    uint64_t memory_bytes, weights_bytes, gram_bytes;
    bool repairs_all, plain_tokens;
    enum prune_repair_target target;
    const json_t *state;
    /* After this many states the run is drained; 0: never. The last state is kept, owned. */
    size_t drain_after;
    json_t *saved;
    size_t save_count;
    struct cancel cancel;
};

static bool keep_state(void *context, const json_t *state, bool must, struct error *error)
{
    (void)error;
    struct setting *setting = context;
    setting->save_count++;
    json_decref(setting->saved);
    setting->saved = json_deep_copy(state);
    if (setting->save_count + 1 == setting->drain_after) { /* the group after this one is this run's last */
        cancel_request(&setting->cancel, CANCEL_DRAIN);
    }
    assert_int_equal(must, setting->drain_after > 0 && setting->save_count == setting->drain_after);
    return true;
}

static char *patch_path(const struct golden *golden)
{
    return file_join(golden->folder, PATCH_FILE);
}

static json_t *compensate(const struct golden *golden, const struct inventory *inventory,
                          struct setting *setting, struct plan *plan, struct error *error)
{
    OWNED_MEMORY char *path = patch_path(golden);
    OWNED(pool) pool = pool_create(setting->threads > 0 ? setting->threads : 2, NULL);
    struct prune_compensation options = {.inventory = inventory,
                                         .folder = golden->folder,
                                         .model = {.dtype = DTYPE_F32,
                                                   .weights_budget_bytes = setting->weights_bytes,
                                                   .pool = pool,
                                                   .cancel = &setting->cancel},
                                         .batch = &batch,
                                         .sweep = {.chunk_rows = setting->chunk_rows,
                                                   .memory_bytes = setting->memory_bytes,
                                                   .spill_folder = golden->folder},
                                         .gram_bytes = setting->gram_bytes,
                                         .mode = setting->mode,
                                         .allows_new_biases = true,
                                         .repairs_all = setting->repairs_all,
                                         .plain_tokens = setting->plain_tokens,
                                         .target = setting->target,
                                         .patch_path = path,
                                         .observer = {.context = setting, .save = keep_state},
                                         .state = setting->state};
    json_t *report = NULL;
    return prune_compensate(&options, plan, &report, error) ? report : NULL;
}

static json_t *compensate_well(const struct golden *golden, const struct inventory *inventory,
                               struct setting *setting, struct plan *plan)
{
    struct error error = {0};
    json_t *report = compensate(golden, inventory, setting, plan, &error);
    if (report == NULL) {
        fail_msg("%s: %s", golden->name, error.message);
    }
    json_decref(setting->saved);
    setting->saved = NULL;
    return report;
}

static double number(const json_t *entry, const char *name)
{
    return json_number_value(json_object_get(entry, name));
}

static const char *text(const json_t *entry, const char *name)
{
    return json_string_value(json_object_get(entry, name));
}

/* ---- measuring the finished model -------------------------------------------------------------------------------- */

enum { MOST_SUBLAYERS = 16, MOST_EXPERTS = 8 };
struct outputs {
    size_t size;
    double *weights
        [MOST_SUBLAYERS]; /* [ROWS] of tokens: one over the rms of the residual behind what runs at once */
    float *states[MOST_SUBLAYERS];              /* [ROWS, hidden]: the residual behind each sublayer */
    float *rows[MOST_SUBLAYERS][MOST_EXPERTS];  /* [ROWS, size] */
    float *gates[MOST_SUBLAYERS][MOST_EXPERTS]; /* [ROWS]; 0: not there */
};

static bool keep_rows(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    struct outputs *outputs = context;
    assert_true(rows->sublayer < MOST_SUBLAYERS && rows->expert < MOST_EXPERTS);
    float **place = &outputs->rows[rows->sublayer][rows->expert];
    float **gates = &outputs->gates[rows->sublayer][rows->expert];
    if (*place == NULL) {
        *place = memory_create(ROWS * rows->size, sizeof **place);
        *gates = memory_create(ROWS, sizeof **gates);
    }
    outputs->size = rows->size;
    for (size_t r = 0; r < rows->rows; r++) {
        size_t row = rows->first_row + (rows->numbers != NULL ? (size_t)rows->numbers[r] : r);
        memcpy(*place + row * rows->size, rows->values + r * rows->stride, rows->size * sizeof **place);
        (*gates)[row] = rows->weights != NULL ? rows->weights[r] : 1.0f;
    }
    return true;
}

static void free_outputs(struct outputs *outputs)
{
    for (size_t i = 0; i < MOST_SUBLAYERS; i++) {
        free(outputs->weights[i]);
        free(outputs->states[i]);
        for (size_t e = 0; e < MOST_EXPERTS; e++) {
            free(outputs->rows[i][e]);
            free(outputs->gates[i][e]);
        }
    }
}

static double *weigh_tokens(const float *rows, size_t size)
{
    double *weights = memory_create(ROWS, sizeof *weights);
    for (size_t r = 0; r < ROWS; r++) {
        double square = 0.0;
        for (size_t i = 0; i < size; i++) {
            square += (double)rows[r * size + i] * (double)rows[r * size + i];
        }
        weights[r] = sqrt((double)size / square);
    }
    return weights;
}

/* All sublayers but the removed; outputs: may be NULL. rows [ROWS, hidden]: the last states. */
static bool run_sublayers(struct model *model, const bool *removed, struct hidden *hidden,
                          struct outputs *outputs, float *rows, struct error *error)
{
    bool is_parallel = model_get_config(model)->is_parallel;
    for (size_t i = 0; i < model_sublayer_count(model); i++) {
        if ((removed == NULL || !removed[i]) && !model_run_sublayer(model, i, hidden, error)) {
            return false;
        }
        assert_true(hidden_read(hidden, 0, ROWS, rows, error));
        if (outputs != NULL) {
            size_t count = ROWS * hidden->hidden_size;
            outputs->weights[i] = weigh_tokens(rows, hidden->hidden_size);
            outputs->states[i] = memory_create(count, sizeof *rows);
            memcpy(outputs->states[i], rows, count * sizeof *rows);
        }
        if (outputs != NULL && is_parallel && model_sublayer(model, i)->kind == SUBLAYER_FFN && i > 0) {
            memcpy(outputs->weights[i - 1], outputs->weights[i], ROWS * sizeof *outputs->weights[i]);
        }
    }
    return true;
}

/* The last states of a run over the batch, owned: [ROWS, hidden]. outputs: may be NULL. */
static float *run_model(const struct golden *golden, const struct inventory *inventory, const bool *removed,
                        struct outputs *outputs)
{
    struct error error = {0};
    OWNED(pool) pool = pool_create(2, NULL);
    struct model_options options = {.dtype = DTYPE_F32, .pool = pool};
    OWNED(model) model = model_open(inventory, golden->folder, &options, &error);
    OWNED(hidden) hidden = model != NULL ? hidden_create(model, &batch, &error) : NULL;
    struct model_tap tap = {
        .context = outputs, .points = 1u << TAP_ATTENTION_OUTPUT | 1u << TAP_FFN_OUTPUT, .visit = keep_rows};
    if (model != NULL && outputs != NULL) {
        model_set_tap(model, &tap);
    }
    float *rows = memory_create(ROWS * inventory->config.hidden_size, sizeof *rows);
    if (hidden == NULL || !model_embed(model, &batch, hidden, &error) ||
        !run_sublayers(model, removed, hidden, outputs, rows, &error)) {
        fail_msg("%s: %s", golden->name, error.message);
    }
    return rows;
}

/* Held-out error of one projection, gates and all, relative to the source's outputs. */
static double measure(const struct outputs *source, const struct outputs *pruned, size_t sublayer,
                      size_t expert, bool plain_tokens, bool is_residual)
{
    const float *y = source->rows[sublayer][expert], *z = pruned->rows[sublayer][expert];
    const float *there = source->gates[sublayer][expert], *gates = pruned->gates[sublayer][expert];
    double lost = 0.0, all = 0.0;
    for (size_t r = ROWS - ROWS / 4; r < ROWS && y != NULL && z != NULL; r++) {
        for (size_t o = 0; o < source->size && there[r] > 0.0f && gates[r] > 0.0f; o++) {
            double weight = (double)gates[r] * (plain_tokens ? 1.0 : source->weights[sublayer][r]);
            double wanted = (double)y[r * source->size + o];
            double missing = is_residual ? (double)source->states[sublayer][r * source->size + o] -
                                               (double)pruned->states[sublayer][r * source->size + o]
                                         : wanted - (double)z[r * source->size + o];
            lost += weight * weight * missing * missing;
            all += weight * weight * wanted * wanted;
        }
    }
    return all > 0.0 ? lost / all : 0.0;
}

static void check_report(const struct golden *golden, const json_t *report, const struct outputs *source,
                         const struct outputs *pruned)
{
    bool plain_tokens = strcmp(text(report, "token_weights"), "none") == 0;
    const struct model_config *config = &golden->inventory->config;
    bool is_residual = strcmp(text(report, "target"), "residual") == 0 && !config->is_parallel &&
                       architecture_of(config)->norm_placement == NORM_BEFORE;
    const json_t *entries = json_object_get(report, "sublayers");
    for (size_t i = 0; i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);
        double before = number(entry, "error_before"), after = number(entry, "error_after");
        double measured =
            measure(source, pruned, (size_t)number(entry, "sublayer"), (size_t)number(entry, "expert"),
                    plain_tokens, is_residual && json_object_get(entry, "expert") == NULL);
        if (!(fabs(measured - after) <= 2e-4 * before + 1e-9)) {
            fail_msg("%s, %s, sublayer %g: the error is %g, the report says %g (before: %g)", golden->name,
                     text(entry, "mode"), number(entry, "sublayer"), measured, after, before);
        }
        assert_true(after <= before);
        assert_true((after < before) ==
                    (strcmp(text(entry, "note"), "fitted") == 0 || strcmp(text(entry, "mode"), "none") != 0));
    }
}

static void the_report_is_what_the_finished_model_does(void **state)
{
    const struct golden *golden = *state;
    make_batch(&golden->inventory->config);
    struct outputs source = {0};
    float *last = run_model(golden, golden->inventory, NULL, &source);
    static const enum least_squares_mode modes[] = {LEAST_SQUARES_BIAS, LEAST_SQUARES_LS,
                                                    LEAST_SQUARES_LS_BIAS, LEAST_SQUARES_AUTO};
    for (size_t m = 0; m < 4; m++) {
        OWNED(plan) plan = make_plan(golden->inventory, SIZE_MAX);
        struct setting setting = {.mode = modes[m],
                                  .plain_tokens = m < 2,
                                  .target = m % 2 == 0 ? PRUNE_REPAIR_RESIDUAL : PRUNE_REPAIR_OUTPUT};
        JSON_OWNED report = compensate_well(golden, golden->inventory, &setting, plan);
        OWNED(inventory) derived = plan_apply(plan, golden->inventory, NULL);
        struct outputs pruned = {0};
        float *rows = run_model(golden, derived, plan->removed, &pruned);
        check_report(golden, report, &source, &pruned);
        double repaired = number(report, "repaired_count");
        bool can_have_bias = derived->config.has_o_bias || derived->config.has_ffn_bias;
        assert_true(modes[m] == LEAST_SQUARES_BIAS ? can_have_bias || repaired == 0.0 : repaired > 0.0);
        assert_int_equal(plan->patch != NULL, repaired > 0.0);
        free(rows);
        free_outputs(&pruned);
    }
    free(last);
    free_outputs(&source);
}

/* Repairs, and measures what was made against what was reported. */
static void repair_and_check(const struct golden *golden, struct plan *plan, bool repairs_all,
                             size_t first_sublayer, size_t least_entries)
{
    struct outputs source = {0}, pruned = {0};
    float *last = run_model(golden, golden->inventory, NULL, &source);
    struct setting setting = {
        .mode = LEAST_SQUARES_LS, .repairs_all = repairs_all, .target = PRUNE_REPAIR_RESIDUAL};
    JSON_OWNED report = compensate_well(golden, golden->inventory, &setting, plan);
    const json_t *entries = json_object_get(report, "sublayers");
    assert_true(json_array_size(entries) >= least_entries);
    assert_true(number(json_array_get(entries, 0), "sublayer") >= (double)first_sublayer);
    assert_true(number(report, "repaired_count") > 0.0);
    OWNED(inventory) derived = plan_apply(plan, golden->inventory, NULL);
    float *rows = run_model(golden, derived, plan->removed, &pruned);
    if (plan->hidden != NULL) { /* outputs of the channels that stay */
        for (size_t i = 0; i < MOST_SUBLAYERS * MOST_EXPERTS; i++) {
            float *y = source.rows[i / MOST_EXPERTS][i % MOST_EXPERTS];
            for (size_t r = 0; y != NULL && r < ROWS; r++) {
                for (size_t o = 0; o < plan->hidden_count; o++) {
                    y[r * plan->hidden_count + o] = y[r * source.size + plan->hidden[o]];
                }
            }
        }
        for (size_t i = 0; i < plan->sublayer_count; i++) {
            for (size_t r = 0; r < ROWS * plan->hidden_count; r++) {
                size_t from = r / plan->hidden_count * source.size + plan->hidden[r % plan->hidden_count];
                source.states[i][r] = source.states[i][from];
            }
        }
        source.size = plan->hidden_count;
    }
    check_report(golden, report, &source, &pruned);
    free(rows);
    free(last);
    free_outputs(&source);
    free_outputs(&pruned);
}

/* A sublayer that is gone is not repaired, and those behind it see that it is gone. */
static void removed_sublayers_are_skipped(void **state)
{
    const struct golden *golden = *state;
    make_batch(&golden->inventory->config);
    OWNED(plan) plan = make_plan(golden->inventory, 0);
    repair_and_check(golden, plan, false, 1, 2);
}

/* Projections that lost nothing are left alone, unless all are to make up for what earlier sublayers miss. */
static void whole_projections_are_repaired_on_demand(void **state)
{
    const struct golden *golden = *state;
    make_batch(&golden->inventory->config);
    OWNED(plan) narrow = make_plan(golden->inventory, SIZE_MAX);
    OWNED(plan) plan = plan_create(narrow->sublayer_count);
    plan_add_point(plan, 0, (double)NAN, true);
    plan_cut(plan, 1);
    struct setting setting = {.mode = LEAST_SQUARES_LS};
    JSON_OWNED nothing = compensate_well(golden, golden->inventory, &setting, plan);
    assert_int_equal(json_array_size(json_object_get(nothing, "sublayers")), 0);
    assert_null(plan->patch);
    repair_and_check(golden, plan, true, 1, plan->sublayer_count - 1);
}

/* With fewer residual channels every projection has lost some. */
static void outputs_that_stay_are_compared(void **state)
{
    const struct golden *golden = *state;
    const struct model_config *config = &golden->inventory->config;
    make_batch(config);
    OWNED(plan) narrow = make_plan(golden->inventory, SIZE_MAX);
    OWNED(plan) plan = plan_create(narrow->sublayer_count);
    uint32_t *hidden = memory_create(config->hidden_size, sizeof *hidden);
    size_t kept = choose(hidden, config->hidden_size, 1, 1);
    plan_keep_hidden(plan, hidden, kept, config->hidden_size);
    free(hidden);
    struct error error = {0};
    if (plan_check_widths(plan, config, &error)) {
        repair_and_check(golden, plan, false, 0, plan->sublayer_count);
    } else {
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
    }
}

/* ---- silent parts ------------------------------------------------------------------------------------------------ */

/* Sets outputs [first, first + count) of a projection to zero in the file, and of its bias. */
static void silence(const struct golden *golden, enum weight_role role, size_t layer, size_t expert,
                    size_t first, size_t count)
{
    struct weight_shape shape;
    const struct inventory *inventory = golden->inventory;
    if (!architecture_tensor(&inventory->config, role, layer, expert, &shape)) {
        return;
    }
    const struct inventory_tensor *tensor = inventory_find(inventory, shape.name);
    size_t size = dtype_bytes(tensor->dtype), width = tensor->rank > 1 ? (size_t)tensor->shape[1] : 1;
    bool is_across = tensor->rank > 1 && shape.is_transposed;
    OWNED_MEMORY char *path = file_join(golden->folder, inventory->files[tensor->file].path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    char zeros[4096] = {0};
    for (size_t piece = 0; piece < (is_across ? (size_t)tensor->shape[0] : 1); piece++) {
        size_t at = is_across ? piece * width + first : first * width;
        size_t bytes = (is_across ? count : count * width) * size;
        assert_true(bytes <= sizeof zeros);
        assert_int_equal(pwrite(fd, zeros, bytes, (off_t)(tensor->offset_bytes + at * size)), (ssize_t)bytes);
    }
    (void)close(fd);
}

static void silence_head(const struct golden *golden, size_t layer, size_t group)
{
    const struct model_config *config = &golden->inventory->config;
    size_t size = config->head_size, q = config->layers[layer].head_count * size;
    size_t kv = config->layers[layer].kv_head_count * size;
    bool is_interleaved = architecture_of(config)->qkv_order == QKV_INTERLEAVED;
    size_t fused = is_interleaved ? (3 * group + 2) * size : q + kv + group * size;
    silence(golden, WEIGHT_V, layer, 0, group * size, size);
    silence(golden, WEIGHT_V_BIAS, layer, 0, group * size, size);
    silence(golden, WEIGHT_QKV, layer, 0, fused, size);
    silence(golden, WEIGHT_QKV_BIAS, layer, 0, fused, size);
}

static void silence_channel(const struct golden *golden, size_t layer, size_t expert, size_t channel)
{
    size_t width = golden->inventory->config.layers[layer].intermediate_size;
    silence(golden, WEIGHT_UP, layer, 0, channel, 1);
    silence(golden, WEIGHT_UP_BIAS, layer, 0, channel, 1);
    silence(golden, WEIGHT_GATE_UP, layer, 0, width + channel, 1);
    silence(golden, WEIGHT_EXPERT_UP, layer, expert, channel, 1);
}

static bool is_in(const uint32_t *list, size_t count, size_t item)
{
    for (size_t i = 0; i < count; i++) {
        if (list[i] == item) {
            return true;
        }
    }
    return false;
}

static void silence_all(const struct golden *golden, const struct plan *plan)
{
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&golden->inventory->config, &listed);
    for (size_t i = 0; i < count; i++) {
        const struct plan_width *width = &plan->widths[i];
        const struct model_layer *layer = &golden->inventory->config.layers[listed[i].layer];
        for (size_t h = 0; width->heads != NULL && h < layer->head_count; h++) {
            if (!is_in(width->heads, width->head_count, h)) {
                silence_head(golden, listed[i].layer, h / (layer->head_count / layer->kv_head_count));
            }
        }
        for (size_t e = 0; width->channels != NULL && e < width->channel_lists; e++) {
            for (size_t c = 0; c < layer->intermediate_size; c++) {
                if (!is_in(width->channels + e * width->channel_count, width->channel_count, c)) {
                    silence_channel(golden, listed[i].layer, e, c);
                }
            }
        }
    }
    free(listed);
}

static void silent_parts_leave_the_model_alone(void **state)
{
    const struct golden *golden = *state;
    make_batch(&golden->inventory->config);
    OWNED(plan) wanted = make_plan(golden->inventory, SIZE_MAX);
    silence_all(golden, wanted);
    struct error_list faults = {0};
    OWNED(inventory) inventory = inventory_inspect(golden->folder, false, NULL, &faults);
    assert_non_null(inventory);
    OWNED_MEMORY float *expected = run_model(golden, inventory, NULL, NULL);
    for (size_t mode = LEAST_SQUARES_NONE; mode <= LEAST_SQUARES_AUTO; mode++) {
        OWNED(plan) plan = plan_copy(wanted);
        struct setting setting = {.mode = (enum least_squares_mode)mode};
        JSON_OWNED report = compensate_well(golden, inventory, &setting, plan);
        assert_int_equal(number(report, "repaired_count"), 0);
        assert_true(plan->patch == NULL && !plan->adds_attention_bias && !plan->adds_ffn_bias);
        OWNED(inventory) derived = plan_apply(plan, inventory, NULL);
        OWNED_MEMORY float *rows = run_model(golden, derived, plan->removed, NULL);
        double most = 0.0, off = 0.0;
        for (size_t i = 0; i < ROWS * inventory->config.hidden_size; i++) {
            most = fmax(most, fabs((double)expected[i]));
            off = fmax(off, fabs((double)rows[i] - (double)expected[i]));
        }
        assert_true(off <= 1e-5 * most);
    }
}

/* ---- the same bytes ---------------------------------------------------------------------------------------------- */

/* tail_most: bytes that may lie behind the end: what an interrupted attempt left there goes with the next write, and counts for nothing
 * until then. */
static void assert_same(const struct golden *golden, const char *what, const char *bytes, size_t count,
                        size_t tail_most, const struct plan *plan, const json_t *report,
                        const json_t *expected)
{
    OWNED_MEMORY char *path = patch_path(golden);
    size_t other_count = 0;
    OWNED_MEMORY char *other = file_load(path, (size_t)16 << 20, &other_count, NULL);
    assert_non_null(other);
    if (other_count < count || other_count > count + tail_most || memcmp(other, bytes, count) != 0) {
        fail_msg("%s: other bytes %s", golden->name, what);
    }
    assert_true(json_equal(report, expected));
    assert_non_null(plan->patch);
}

static void threads_chunks_and_resumes_change_no_byte(void **state)
{
    const struct golden *golden = *state;
    make_batch(&golden->inventory->config);
    OWNED_MEMORY char *path = patch_path(golden);
    OWNED(plan) plan = make_plan(golden->inventory, SIZE_MAX);
    struct setting first = {.mode = LEAST_SQUARES_AUTO};
    JSON_OWNED expected = compensate_well(golden, golden->inventory, &first, plan);
    size_t groups = first.save_count, count = 0;
    OWNED_MEMORY char *bytes = file_load(path, (size_t)16 << 20, &count, NULL);
    assert_non_null(bytes);
    JSON_OWNED index = patch_format(plan->patch);
    struct weights_size size;
    weights_measure(golden->inventory, NULL, DTYPE_F32, &size);
    struct {
        const char *what;
        struct setting setting;
    } others[] = {{"on one thread", {.threads = 1}},
                  {"by chunks", {.chunk_rows = 1}},
                  {"spilled, on three threads", {.threads = 3, .chunk_rows = 100, .memory_bytes = 1}},
                  {"one expert at a time", {.gram_bytes = 1}},
                  {"with streamed weights", {.weights_bytes = size.least_bytes, .gram_bytes = 1}}};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        OWNED(plan) other = make_plan(golden->inventory, SIZE_MAX);
        others[i].setting.mode = LEAST_SQUARES_AUTO;
        JSON_OWNED report = compensate_well(golden, golden->inventory, &others[i].setting, other);
        assert_same(golden, others[i].what, bytes, count, 0, other, report, expected);
    }
    for (size_t drained = 2; drained <= groups; drained++) {
        struct error error = {0};
        OWNED(plan) interrupted = make_plan(golden->inventory, SIZE_MAX);
        struct setting setting = {.mode = LEAST_SQUARES_AUTO, .drain_after = drained};
        assert_null(compensate(golden, golden->inventory, &setting, interrupted, &error));
        assert_int_equal(error.code, ERROR_DRAINED);
        int fd =
            open(path, O_WRONLY | O_APPEND | O_CLOEXEC); /* what came after the state counts for nothing */
        assert_int_equal(write(fd, "half a tensor", 13), 13);
        (void)close(fd);
        OWNED(plan) resumed = make_plan(golden->inventory, SIZE_MAX);
        struct setting again = {.mode = LEAST_SQUARES_AUTO, .state = setting.saved};
        JSON_OWNED report = compensate_well(golden, golden->inventory, &again, resumed);
        /* Drained behind a sublayer that is not repaired, the run saves once more. */
        assert_in_range(again.save_count, groups - drained, groups - drained + 1);
        JSON_OWNED other_index = patch_format(resumed->patch);
        assert_true(json_equal(index, other_index));
        assert_true(resumed->adds_attention_bias == plan->adds_attention_bias &&
                    resumed->adds_ffn_bias == plan->adds_ffn_bias);
        assert_same(golden, "after a resume", bytes, count, 13, resumed, report, expected);
        json_decref(setting.saved);
    }
}

static void a_rotated_plan_is_refused(void **state)
{
    const struct golden *golden = *state;
    make_batch(&golden->inventory->config);
    OWNED(plan) plan = make_plan(golden->inventory, SIZE_MAX);
    plan->is_rotated = true;
    struct setting setting = {.mode = LEAST_SQUARES_LS};
    struct error error = {0};
    assert_null(compensate(golden, golden->inventory, &setting, plan, &error));
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
}

static void test_family(void **state)
{
    the_report_is_what_the_finished_model_does(state);
    removed_sublayers_are_skipped(state);
    whole_projections_are_repaired_on_demand(state);
    outputs_that_stay_are_compared(state);
    threads_chunks_and_resumes_change_no_byte(state);
    a_rotated_plan_is_refused(state);
    silent_parts_leave_the_model_alone(state); /* the last: it changes the model's file */
}

int main(void)
{
    return golden_test_all("a pruned model is repaired", test_family);
}
