/* workers/prune/compensation.c: which projections are repaired, in what order; resume and report. See compensation.h. */
#include "workers/prune/compensation_internal.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/patch.h"
#include "workers/model/weights.h"
#include <stdlib.h>
#include <string.h>

#define STATE_VERSION 1

/* ---- jobs ---------------------------------------------------------------------------------------- */

static bool is_lossy(const struct plan *plan, size_t sublayer)
{
    const struct plan_width *width = &plan->widths[sublayer];
    return width->heads != NULL || width->channels != NULL || plan->hidden_count > 0;
}

static void add_jobs(const struct repair *repair, const struct plan_sublayer *listed, size_t sublayer,
                     struct repair_group *group)
{
    const struct model_config *config = &repair->derived->config;
    const struct model_layer *layer = &config->layers[listed->layer];
    bool has_experts = !listed->is_attention && layer->expert_count > 0;
    size_t count = has_experts ? layer->expert_count : 1;
    struct weight_shape bias;
    if (repair->plan->removed[sublayer] ||
        !(repair->options->repairs_all || is_lossy(repair->plan, sublayer))) {
        return;
    }
    group->jobs = memory_resize(group->jobs, group->job_count + count, sizeof *group->jobs);
    for (size_t expert = 0; expert < count; expert++) {
        group->jobs[group->job_count++] = (struct repair_job){
            .sublayer = sublayer,
            .layer = listed->layer,
            .expert = expert,
            .is_attention = listed->is_attention,
            .has_experts = has_experts,
            .can_have_bias =
                !has_experts &&
                architecture_tensor(config, listed->is_attention ? WEIGHT_O_BIAS : WEIGHT_DOWN_BIAS,
                                    listed->layer, 0, &bias),
            .in = listed->is_attention ? layer->head_count * config->head_size : layer->intermediate_size,
            .out = config->hidden_size};
    }
}

static void list_groups(struct repair *repair)
{
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&repair->derived->config, &listed);
    repair->groups = memory_create(count + 1, sizeof *repair->groups);
    for (size_t i = 0; i < count; i++) {
        bool is_with_last =
            repair->derived->config.is_parallel && i > 0 && listed[i].layer == listed[i - 1].layer;
        if (!is_with_last) {
            repair->groups[repair->group_count++] = (struct repair_group){.first = i};
        }
        struct repair_group *group = &repair->groups[repair->group_count - 1];
        group->end = i + 1;
        add_jobs(repair, &listed[i], i, group);
        repair->repairing_end = group->job_count > 0 ? repair->group_count : repair->repairing_end;
    }
    free(listed);
}

/* ---- resume -------------------------------------------------------------------------------------- */

static bool save(const struct repair *repair, size_t next_group, bool must, struct error *error)
{
    const struct prune_observer *observer = &repair->options->observer;
    if (observer->save == NULL) {
        return true;
    }
    if (!patch_sync(repair->plan->patch, error)) {
        return false;
    }
    JSON_OWNED state = json_object();
    json_put_i64(state, "version", STATE_VERSION);
    json_put_i64(state, "next_group", (int64_t)next_group);
    json_put_text(state, "mode", least_squares_name(repair->options->mode));
    json_put(state, "is_own_patch", json_boolean(repair->is_own_patch));
    json_put(state, "adds_attention_bias", json_boolean(repair->adds_attention_bias));
    json_put(state, "adds_ffn_bias", json_boolean(repair->adds_ffn_bias));
    json_put(state, "patch", patch_format(repair->plan->patch));
    json_put(state, "sublayers", json_incref(repair->entries));
    return observer->save(observer->context, state, must, error);
}

/* The patch as the state has it, and what goes with it. */
static bool restore(struct repair *repair, size_t *ret_next_group, struct error *error)
{
    const json_t *state = repair->options->state;
    int64_t version = 0, next = 0;
    const char *mode = NULL;
    json_t *index = NULL, *entries = NULL;
    if (!json_get_i64(state, "", "version", STATE_VERSION, STATE_VERSION, &version, error) ||
        !json_get_i64(state, "", "next_group", 0, INT32_MAX, &next, error) ||
        !json_get_text(state, "", "mode", &mode, error) ||
        !json_get_array(state, "", "patch", &index, error) ||
        !json_get_array(state, "", "sublayers", &entries, error)) {
        return error_prefix(error, "the state of a compensation: ");
    }
    if (strcmp(mode, least_squares_name(repair->options->mode)) != 0) {
        return error_set(error, ERROR_CONFLICT, "the state is of a compensation by %.32s, not %s", mode,
                         least_squares_name(repair->options->mode));
    }
    repair->is_own_patch = json_is_true(json_object_get(state, "is_own_patch"));
    repair->adds_attention_bias = json_is_true(json_object_get(state, "adds_attention_bias"));
    repair->adds_ffn_bias = json_is_true(json_object_get(state, "adds_ffn_bias"));
    struct patch *patch = patch_open(repair->options->patch_path, index, error);
    if (patch == NULL) {
        return false;
    }
    patch_destroy(repair->plan->patch);
    repair->plan->patch = patch;
    json_decref(repair->entries);
    repair->entries = json_deep_copy(entries);
    *ret_next_group = (size_t)next;
    return true;
}

/* Whether the plan narrows a sublayer of this kind, and a bias that the source lacks could be of use there. */
static bool wants_new_bias(const struct repair *repair, bool is_attention)
{
    const struct prune_compensation *options = repair->options;
    const struct plan *plan = repair->plan;
    bool takes_bias = options->mode == LEAST_SQUARES_BIAS || options->mode == LEAST_SQUARES_LS_BIAS ||
                      options->mode == LEAST_SQUARES_AUTO;
    bool is_added = is_attention ? plan->adds_attention_bias : plan->adds_ffn_bias;
    if (!options->allows_new_biases || !takes_bias || is_added ||
        !plan_can_add_bias(&options->inventory->config, is_attention)) {
        return false;
    }
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&options->inventory->config, &listed);
    bool is_wanted = false;
    for (size_t i = 0; i < count; i++) {
        is_wanted = is_wanted || (listed[i].is_attention == is_attention && !plan->removed[i] &&
                                  (options->repairs_all || is_lossy(plan, i)));
    }
    free(listed);
    return is_wanted;
}

static bool prepare_plan(struct repair *repair, size_t *ret_next_group, struct error *error)
{
    struct plan *plan = repair->plan;
    if (repair->options->state != NULL) {
        if (!restore(repair, ret_next_group, error)) {
            return false;
        }
    } else {
        repair->adds_attention_bias = wants_new_bias(repair, true);
        repair->adds_ffn_bias = wants_new_bias(repair, false);
        repair->is_own_patch = plan->patch == NULL;
        if (plan->patch == NULL) {
            plan->patch = patch_create(repair->options->patch_path, error);
        }
    }
    plan->adds_attention_bias = plan->adds_attention_bias || repair->adds_attention_bias;
    plan->adds_ffn_bias = plan->adds_ffn_bias || repair->adds_ffn_bias;
    return plan->patch != NULL;
}

/* ---- the whole ----------------------------------------------------------------------------------- */

static bool open_streams(struct repair *repair, struct error *error)
{
    const struct prune_compensation *options = repair->options;
    repair->derived = plan_apply(repair->plan, options->inventory, error);
    if (repair->derived == NULL) {
        return false;
    }
    list_groups(repair);
    repair->source = source_open(repair->derived, options->folder, error);
    repair->dense = repair->source != NULL
                        ? model_open(options->inventory, options->folder, &options->model, error)
                        : NULL;
    repair->pruned =
        repair->dense != NULL ? model_open(repair->derived, options->folder, &options->model, error) : NULL;
    if (repair->pruned == NULL) {
        return false;
    }
    weights_set_removed(model_get_weights(repair->pruned), repair->plan->removed);
    repair->dense_sweep = sweep_create(repair->dense, options->batch, &options->sweep, error);
    repair->pruned_sweep = repair->dense_sweep != NULL
                               ? sweep_create(repair->pruned, options->batch, &options->sweep, error)
                               : NULL;
    return repair->pruned_sweep != NULL && sweep_embed(repair->dense_sweep, error) &&
           sweep_embed(repair->pruned_sweep, error);
}

static void close_streams(struct repair *repair)
{
    sweep_destroy(repair->dense_sweep);
    sweep_destroy(repair->pruned_sweep);
    model_destroy(repair->dense);
    model_destroy(repair->pruned);
    source_destroy(repair->source);
    inventory_destroy(repair->derived);
    for (size_t i = 0; i < repair->group_count; i++) {
        free(repair->groups[i].jobs);
    }
    free(repair->groups);
    free(repair->x);
    free(repair->weights);
    free(repair->row_weights);
    free(repair->drift);
}

static bool run_groups(struct repair *repair, size_t next_group, struct error *error)
{
    const struct prune_compensation *options = repair->options;
    const struct prune_observer *observer = &options->observer;
    for (size_t i = 0; i < repair->repairing_end; i++) {
        const struct repair_group *group = &repair->groups[i];
        bool is_repaired = i >= next_group && group->job_count > 0;
        if (!(is_repaired ? repair_group(repair, group, error) : repair_run(repair, group, error))) {
            return false;
        }
        if (observer->progress != NULL) {
            observer->progress(observer->context, i + 1, repair->repairing_end, "sublayer");
        }
        bool goes_on = cancel_check(options->model.cancel, error);
        size_t done = i + 1 > next_group ? i + 1 : next_group;
        if (((is_repaired || !goes_on) && !save(repair, done, !goes_on, goes_on ? error : NULL)) ||
            !goes_on) {
            return false;
        }
    }
    return true;
}

static bool has_bias(const json_t *entries, bool is_attention)
{
    bool has = false;
    for (size_t i = 0; i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);
        const char *kind = json_string_value(json_object_get(entry, "kind"));
        const char *mode = json_string_value(json_object_get(entry, "mode"));
        has = has || ((strcmp(kind, "attention") == 0) == is_attention && strstr(mode, "bias") != NULL);
    }
    return has;
}

/* What turned out to be of no use goes: biases that nobody has, a patch without tensors. */
static bool finish_plan(const struct repair *repair, struct error *error)
{
    struct plan *plan = repair->plan;
    if (repair->adds_attention_bias && !has_bias(repair->entries, true)) {
        plan->adds_attention_bias = false;
    }
    if (repair->adds_ffn_bias && !has_bias(repair->entries, false)) {
        plan->adds_ffn_bias = false;
    }
    if (!repair->is_own_patch || patch_count(plan->patch) > 0) {
        return patch_sync(plan->patch, error);
    }
    patch_destroy(plan->patch);
    plan->patch = NULL;
    (void)file_system->unlink(repair->options->patch_path); /* empty; a later attempt would replace it */
    return true;
}

static json_t *format_report(const struct repair *repair)
{
    size_t repaired = 0, count = json_array_size(repair->entries);
    for (size_t i = 0; i < count; i++) {
        const json_t *mode = json_object_get(json_array_get(repair->entries, i), "mode");
        repaired += strcmp(json_string_value(mode), "none") != 0 ? 1 : 0;
    }
    json_t *report = json_object();
    json_put_text(report, "mode", least_squares_name(repair->options->mode));
    json_put_text(report, "target", repair->options->target == PRUNE_REPAIR_RESIDUAL ? "residual" : "output");
    json_put_text(report, "token_weights", repair->options->plain_tokens ? "none" : "residual");
    json_put_i64(report, "repaired_count", (int64_t)repaired);
    json_put_i64(report, "skipped_count", (int64_t)(count - repaired));
    json_put(report, "sublayers", json_incref(repair->entries));
    return report;
}

bool prune_compensate(const struct prune_compensation *options, struct plan *plan, json_t **ret_report,
                      struct error *error)
{
    if (plan->is_rotated && options->mode != LEAST_SQUARES_NONE) {
        return error_set(error, ERROR_UNSUPPORTED,
                         "a plan that rotates the residual cannot be compensated: outputs do not compare");
    }
    struct repair repair = {.options = options,
                            .plan = plan,
                            .threads = {options->model.pool, options->model.cancel},
                            .first_held_out_row = gram_first_held_out_row(options->batch),
                            .entries = json_array()};
    size_t next_group = 0;
    bool is_good = options->mode == LEAST_SQUARES_NONE ||
                   (prepare_plan(&repair, &next_group, error) && open_streams(&repair, error) &&
                    run_groups(&repair, next_group, error));
    close_streams(&repair);
    is_good = is_good && (options->mode == LEAST_SQUARES_NONE || finish_plan(&repair, error));
    if (is_good) {
        *ret_report = format_report(&repair);
    }
    json_decref(repair.entries);
    return is_good;
}

uint64_t prune_compensation_bytes(const struct model_config *config, size_t chunk_rows, uint64_t gram_limit)
{
    uint64_t most = 0, out = config->hidden_size, states = config->is_parallel ? 4 : 2;
    for (size_t i = 0; i < config->layer_count; i++) {
        const struct model_layer *layer = &config->layers[i];
        for (size_t part = 0; part < 2; part++) {
            bool is_attention = part == 0;
            uint64_t in = is_attention ? layer->head_count * config->head_size : layer->intermediate_size;
            if (in == 0 || !(is_attention ? layer->has_attention : layer->has_ffn)) {
                continue;
            }
            uint64_t experts = !is_attention && layer->expert_count > 0 ? layer->expert_count : 1;
            uint64_t active = experts > 1 ? 2 * layer->active_expert_count : 1; /* room that grows doubles */
            uint64_t one = gram_bytes((size_t)in, (size_t)out), all = experts * one;
            all = gram_limit > 0 && all > gram_limit ? (gram_limit > one ? gram_limit : one) : all;
            uint64_t rows =
                chunk_rows * (states * out + active * out + out + in + experts + 2) * sizeof(float);
            uint64_t bytes = all + least_squares_bytes((size_t)in, (size_t)out) + rows;
            if (config->is_parallel) { /* its two sublayers at once */
                bytes *= 2;
            }
            most = bytes > most ? bytes : most;
        }
    }
    return most;
}
