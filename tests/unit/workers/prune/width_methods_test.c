/*
 * What holds for every width method of methods.def, on the small models of every family (grouped queries, biases, fused projections,
 * Conv1D, mixtures, encoders): the target is reached and the step before misses it, what stays is exactly the highest scores with ties by
 * index, the same job gives the same plan, nothing asked for changes nothing, and the narrowed model computes what the masked one does.
 * New methods join unasked.
 */
#include "tests/unit/workers/model/golden.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/model/source.h"
#include "workers/model/tap.h"
#include "workers/prune/prefix.h"
#include "workers/prune/prune.h"
#include "workers/prune/width.h"
#include "workers/prune/width_score.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* One golden, opened, and a run of one method over it. */
struct world {
    const struct golden *golden;
    struct pool *pool;
    struct model *model;
    struct source *source;
    struct sublayer *sublayers;
    struct width_statistics *statistics;
    struct prefix_evaluator *evaluator; /* NULL: the method needs none */
    struct objective_text text;
    json_t *parameters, *allocation;
    struct prune_run run;
};

static void world_finish(struct world *world)
{
    width_statistics_destroy(world->statistics);
    prefix_evaluator_destroy(world->evaluator);
    source_destroy(world->source);
    model_destroy(world->model);
    pool_destroy(world->pool);
    free(world->sublayers);
    json_decref(world->parameters);
    json_decref(world->allocation);
}

/* settings: JSON of the method's parameters that are not the defaults. */
static void world_start(struct world *world, const struct golden *golden, const struct prune_method *method,
                        const char *settings, const char *allocation)
{
    struct error error = {0};
    *world = (struct world){.golden = golden};
    world->pool = pool_create(2, NULL);
    world->model = golden_open_model(golden, world->pool, NULL, 0);
    world->source = source_open(golden->inventory, golden->folder, &error);
    assert_non_null(world->source);
    struct param_spec spec = {.name = method->name,
                              .type = PARAM_OBJECT,
                              .members = method->params,
                              .member_count = method->param_count};
    JSON_OWNED given = json_parse(settings, strlen(settings), 4096, NULL);
    assert_non_null(given);
    world->parameters = param_resolve(&spec, given);
    world->allocation = allocation != NULL ? json_parse(allocation, strlen(allocation), 4096, NULL) : NULL;
    struct width_gathering gathering = {.wanted = width_wanted(method, world->parameters, world->allocation),
                                        .leverage_ratio = 1,
                                        .model = world->model,
                                        .batch = &golden->batch,
                                        .inventory = golden->inventory,
                                        .folder = golden->folder,
                                        .pool = world->pool};
    world->statistics = width_gather(&gathering, &error);
    if (world->statistics == NULL) {
        fail_msg("%s: %s: %s", golden->name, method->name, error.message);
    }
    size_t count = model_sublayer_count(world->model);
    world->sublayers = memory_create(count + 1, sizeof *world->sublayers);
    for (size_t i = 0; i < count; i++) {
        world->sublayers[i] = *model_sublayer(world->model, i);
    }
    world->run = (struct prune_run){.method = method,
                                    .inventory = golden->inventory,
                                    .sublayers = world->sublayers,
                                    .sublayer_count = count,
                                    .parameters = world->parameters,
                                    .seed = 3,
                                    .statistics = world->statistics,
                                    .allocation = world->allocation,
                                    .weights = world->source,
                                    .pool = world->pool,
                                    .work_folder = golden->folder};
    if ((method->needs & PRUNE_NEED_EVALUATOR) != 0) {
        struct prefix_options options;
        prefix_options_read(world->parameters, &options);
        world->text = (struct objective_text){.batch = golden->batch};
        world->evaluator = prefix_evaluator_create(world->model, &world->text, &options);
        world->run.evaluator = prefix_evaluator_interface(world->evaluator);
        world->run.model = world->model;
    }
}

static bool has_kind(const struct world *world)
{
    unsigned kinds = WIDTH_KINDS_CHANNELS, wanted = 0;
    if (world->run.method->choose != NULL) {
        world->run.method->choose(world->parameters, &kinds, &wanted);
    }
    struct width_groups groups = {0};
    width_list_groups(&world->run, kinds, &groups);
    bool has = groups.count > 0;
    width_groups_finish(&groups);
    return has;
}

/* ---- what stays is what scores highest --------------------------------------------------------------------------- */

/* kept: [kept_count] of units [count]. Every kept unit beats every other, ties by index. */
static void assert_highest(const double *scores, size_t count, const uint32_t *kept, size_t kept_count)
{
    OWNED_MEMORY bool *stays = memory_create(count + 1, sizeof *stays);
    for (size_t i = 0; i < kept_count; i++) {
        assert_true(kept[i] < count && (i == 0 || kept[i] > kept[i - 1]));
        stays[kept[i]] = true;
    }
    for (size_t a = 0; a < count; a++) {
        for (size_t b = 0; b < count; b++) {
            assert_true(!stays[a] || stays[b] || scores[a] > scores[b] || (scores[a] == scores[b] && a < b));
        }
    }
}

static void check_heads(const struct world *world, const struct width_group *group,
                        const struct plan_width *width)
{
    const struct model_layer *layer = &world->golden->inventory->config.layers[group->layer];
    size_t each = layer->head_count / layer->kv_head_count;
    OWNED_MEMORY uint32_t *kept = memory_create(group->count + 1, sizeof *kept);
    if (world->run.method->ranks_within_groups && each > 1) {
        size_t left = width->head_count / layer->kv_head_count;
        assert_int_equal(width->head_count % layer->kv_head_count, 0);
        for (size_t g = 0; g < layer->kv_head_count; g++) {
            for (size_t i = 0; i < left; i++) {
                assert_int_equal(width->heads[g * left + i] / each, g);
                kept[i] = (uint32_t)(width->heads[g * left + i] % each);
            }
            assert_highest(group->scores + g * each, each, kept, left);
        }
        return;
    }
    OWNED_MEMORY double *scores = memory_create(layer->kv_head_count + 1, sizeof *scores);
    score_fold(SCORE_MEAN, group->scores, group->count, each, scores);
    assert_int_equal(width->head_count % each, 0);
    for (size_t i = 0; i < width->head_count; i++) {
        kept[i / each] = width->heads[i] / (uint32_t)each;
        assert_int_equal(width->heads[i] % each, i % each);
    }
    assert_highest(scores, layer->kv_head_count, kept, width->head_count / each);
}

static void check_choice(struct world *world, const struct plan *plan)
{
    unsigned kinds = WIDTH_KINDS_CHANNELS, wanted = 0;
    if (world->run.method->choose != NULL) {
        world->run.method->choose(world->parameters, &kinds, &wanted);
    }
    struct width_groups groups = {0};
    width_list_groups(&world->run, kinds, &groups);
    assert_true(world->run.method->score(&world->run, &groups, NULL));
    for (size_t i = 0; i < groups.count; i++) {
        const struct width_group *group = &groups.items[i];
        const struct plan_width *width = group->kind != WIDTH_HIDDEN ? &plan->widths[group->sublayer] : NULL;
        if (group->kind == WIDTH_HIDDEN && plan->hidden != NULL) {
            assert_highest(group->scores, group->count, plan->hidden, plan->hidden_count);
        } else if (group->kind == WIDTH_HEADS && width->heads != NULL) {
            check_heads(world, group, width);
        } else if (group->kind == WIDTH_EXPERTS && width->experts != NULL) {
            assert_highest(group->scores, group->count, width->experts, width->expert_count);
        } else if (width != NULL && width->channels != NULL && width->experts == NULL &&
                   (group->kind == WIDTH_CHANNELS || group->kind == WIDTH_EXPERT_CHANNELS)) {
            assert_int_equal(width->channel_lists, group->rows);
            for (size_t e = 0; e < group->rows; e++) {
                assert_highest(group->scores + e * group->count, group->count,
                               width->channels + e * width->channel_count, width->channel_count);
            }
        }
    }
    width_groups_finish(&groups);
}

/* ---- narrowed is masked ------------------------------------------------------------------------------------------ */

struct mask {
    const struct plan *plan;
    size_t head_size;
};

static bool stays(const uint32_t *list, size_t count, size_t unit)
{
    bool is_there = list == NULL;
    for (size_t i = 0; i < count && !is_there; i++) {
        is_there = list[i] == unit;
    }
    return is_there;
}

static bool apply_mask(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    const struct mask *mask = context;
    const struct plan_width *width = &mask->plan->widths[rows->sublayer];
    for (size_t c = 0; c < rows->size; c++) {
        bool is_kept =
            rows->point == TAP_HEADS
                ? stays(width->heads, width->head_count, c / mask->head_size)
                : stays(width->channels == NULL ? NULL
                                                : width->channels + rows->expert * width->channel_count,
                        width->channel_count, c);
        for (size_t r = 0; r < rows->rows && !is_kept; r++) {
            rows->values[r * rows->stride + c] = 0;
        }
    }
    return true;
}

static struct hidden *run_model(struct model *model, const struct token_batch *batch, const bool *removed)
{
    struct error error = {0};
    struct hidden *hidden = hidden_create(model, batch, &error);
    if (hidden == NULL || !model_embed(model, batch, hidden, &error) ||
        !model_run_from(model, 0, removed, hidden, &error)) {
        fail_msg("%s", error.message);
    }
    return hidden;
}

/* is_masked: beside the source with what goes set to zero; else beside the source as it is. */
static void check_narrowed(struct world *world, const struct plan *plan, bool is_masked)
{
    const struct golden *golden = world->golden;
    struct error error = {0};
    OWNED(inventory) narrowed = plan_apply(plan, golden->inventory, &error);
    if (narrowed == NULL) {
        fail_msg("%s: %s: %s", golden->name, world->run.method->name, error.message);
    }
    struct model_options options = {.dtype = DTYPE_F32, .pool = world->pool};
    OWNED(model) model = model_open(narrowed, golden->folder, &options, &error);
    if (model == NULL) {
        fail_msg("%s: %s: %s", golden->name, world->run.method->name, error.message);
    }
    OWNED(hidden) small = run_model(model, &golden->batch, plan->removed);
    size_t count = small->row_count * small->hidden_size;
    OWNED_MEMORY float *is = memory_create(count, sizeof *is);
    assert_true(hidden_read(small, 0, small->row_count, is, &error));
    for (size_t i = 0; i < count; i++) {
        assert_true(isfinite(is[i]));
    }
    bool has_experts_gone = false;
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        has_experts_gone = has_experts_gone || plan->widths[i].experts != NULL;
    }
    if (plan->patch != NULL || plan->hidden != NULL || has_experts_gone) {
        return; /* merged, or another norm or router: not a mask of the whole model */
    }
    struct mask mask = {plan, golden->inventory->config.head_size};
    unsigned points = 1u << TAP_HEADS | 1u << TAP_CHANNELS;
    struct model_tap tap = {.context = &mask, .points = points, .changed = points, .visit = apply_mask};
    model_set_tap(world->model, is_masked ? &tap : NULL);
    OWNED(hidden) masked = run_model(world->model, &golden->batch, plan->removed);
    model_set_tap(world->model, NULL);
    OWNED_MEMORY float *should = memory_create(count, sizeof *should);
    assert_true(hidden_read(masked, 0, masked->row_count, should, &error));
    double most = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        most = fmax(most, fabs((double)is[i] - (double)should[i]));
        largest = fmax(largest, fabs((double)should[i]));
    }
    if (most > 1e-5 * fmax(1, largest)) {
        fail_msg("%s: %s: narrowed and source differ by %g", golden->name, world->run.method->name, most);
    }
}

/* ---- one method on one family ------------------------------------------------------------------------------------ */

static void check_ratio(struct world *world, double ratio, double *ret_achieved)
{
    const struct golden *golden = world->golden;
    const char *method = world->run.method->name;
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = ratio};
    OWNED(plan) plan = plan_create(world->run.sublayer_count);
    OWNED(plan) again = plan_create(world->run.sublayer_count);
    struct error error = {0};
    if (!world->run.method->decide(&world->run, &target, plan, &error)) {
        fail_msg("%s: %s at %g: %s", golden->name, method, ratio, error.message);
    }
    struct plan_size size;
    plan_measure(plan, golden->inventory, 0, &size);
    *ret_achieved = size.sparsity_ratio;
    assert_true(prune_target_reached(&target, plan, golden->inventory) && size.sparsity_ratio >= ratio);
    if (!plan_check_widths(plan, &golden->inventory->config, &error)) {
        fail_msg("%s: %s at %g: %s", golden->name, method, ratio, error.message);
    }
    if (ratio == 0) {
        assert_true(plan_is_empty(plan));
        return;
    }
    assert_true(plan_has_widths(plan) || plan->removed_count > 0);
    check_choice(world, plan);
    check_narrowed(world, plan, true);
    assert_true(world->run.method->decide(&world->run, &target, again, &error));
    JSON_OWNED first = plan_format(plan, golden->inventory);
    JSON_OWNED second = plan_format(again, golden->inventory);
    assert_true(json_equal(first, second));
    if (world->evaluator != NULL) {
        return; /* how many sublayers go follows from the target */
    }
    /* Asked for what it reached, it does the same: the first point past the target. */
    OWNED(plan) exact = plan_create(world->run.sublayer_count);
    target.ratio = size.sparsity_ratio;
    assert_true(world->run.method->decide(&world->run, &target, exact, &error));
    JSON_OWNED third = plan_format(exact, golden->inventory);
    assert_true(json_equal(first, third));
}

static void check_method(const struct golden *golden, const struct prune_method *method, const char *settings,
                         const char *allocation)
{
    static const double ratios[] = {0, 0.1, 0.25};
    struct world world;
    world_start(&world, golden, method, settings, allocation);
    if (!has_kind(&world)) {
        struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.1};
        OWNED(plan) plan = plan_create(world.run.sublayer_count);
        struct error error = {0};
        assert_false(method->decide(&world.run, &target, plan, &error));
        assert_int_equal(error.code, ERROR_UNSUPPORTED);
        world_finish(&world);
        return;
    }
    double before = -1;
    for (size_t i = 0; i < sizeof ratios / sizeof ratios[0]; i++) {
        double achieved = 0;
        check_ratio(&world, ratios[i], &achieved);
        assert_true(achieved >= before || world.evaluator != NULL);
        before = achieved;
    }
    world_finish(&world);
}

static void every_method_holds_its_contract(void **state)
{
    const struct golden *golden = *state;
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        bool is_judged = ((*method)->needs & PRUNE_NEED_EVALUATOR) != 0; /* by a head, which encoders lack */
        if (((*method)->traits & PRUNE_TRAIT_WIDTH) != 0 && !(is_judged && golden->is_encoder)) {
            check_method(golden, *method, "{}", NULL);
        }
    }
}

static void parameters_and_allocations_do_too(void **state)
{
    static const struct {
        const char *method, *settings, *allocation;
    } cases[] = {
        {"cfsp", "{\"axis\": \"channel\"}", NULL},
        {"cfsp", "{\"axis\": \"channel\", \"fine\": \"one_wa\"}", "{\"type\": \"uniform\"}"},
        {"cfsp", "{\"fine\": \"wanda_base\"}", NULL},
        {"cfsp", "{\"fine\": \"mag_base\"}", NULL},
        {"cfsp", "{\"fine\": \"one_a\", \"power\": 2}", NULL},
        {"flap", "{\"metric\": \"ifv\"}", NULL},
        {"flap", "{\"metric\": \"wifn\", \"structures\": \"channels\"}",
         "{\"type\": \"uniform\", \"align\": 0}"},
        {"wanda_sp", "{\"structures\": \"channels\"}", "{\"type\": \"global\", \"align\": 3}"},
        {"minitron", "{\"experts\": true}", NULL},
        {"minitron", "{\"heads\": false}", NULL},
        {"adapt_pruner", "{\"criterion\": \"magnitude_sp\"}", NULL},
        {"adapt_pruner", "{\"merges\": true, \"structures\": \"channels\"}", NULL},
        {"magnitude_sp", "{}", "{\"type\": \"global\", \"cost\": \"flops\", \"cost_power\": 1}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_method(*state, prune_method_find(cases[i].method), cases[i].settings, cases[i].allocation);
    }
}

/* ---- channels that are zero --------------------------------------------------------------------------------------- */

/* Sets rows (or columns) `first` and every fourth one after it to zero in the file, up to `end`; of a vector its elements. */
static void zero_in_file(const struct golden *golden, enum weight_role role, size_t layer, size_t expert,
                         bool is_of_columns, size_t first, size_t end)
{
    struct weight_shape shape;
    if (!architecture_tensor(&golden->inventory->config, role, layer, expert, &shape)) {
        return;
    }
    const struct inventory_tensor *tensor = inventory_find(golden->inventory, shape.name);
    assert_non_null(tensor);
    bool has_columns = is_of_columns != shape.is_transposed;
    uint64_t rows = shape.rank == 2 ? shape.shape[0] : shape.count, columns = shape.count / rows;
    size_t bytes = (size_t)(tensor->bytes / shape.count);
    char path[700];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", golden->folder);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    for (uint64_t r = 0; r < rows; r++) {
        for (uint64_t c = 0; c < columns; c++) {
            uint64_t unit = has_columns && shape.rank == 2 ? c : r;
            if (unit >= first && unit < end && (unit - first) % 4 == 0) {
                static const char zero[8];
                assert_int_equal(
                    fseek(file, (long)(tensor->offset_bytes + (r * columns + c) * bytes), SEEK_SET), 0);
                assert_int_equal(fwrite(zero, bytes, 1, file), 1);
            }
        }
    }
    assert_int_equal(fclose(file), 0);
}

/* What goes into a quarter of all channels, and what comes of them. */
static void zero_channels(const struct golden *golden)
{
    const struct model_config *config = &golden->inventory->config;
    for (size_t layer = 0; layer < config->layer_count; layer++) {
        size_t count = config->layers[layer].intermediate_size;
        for (size_t e = 0; e < config->layers[layer].expert_count; e++) {
            zero_in_file(golden, WEIGHT_EXPERT_UP, layer, e, false, 1, count);
            zero_in_file(golden, WEIGHT_EXPERT_DOWN, layer, e, true, 1, count);
        }
        if (config->layers[layer].expert_count == 0) {
            zero_in_file(golden, WEIGHT_UP, layer, 0, false, 1, count);
            zero_in_file(golden, WEIGHT_UP_BIAS, layer, 0, false, 1, count);
            zero_in_file(golden, WEIGHT_GATE_UP, layer, 0, false, count + 1, 2 * count);
            zero_in_file(golden, WEIGHT_DOWN, layer, 0, true, 1, count);
        }
    }
}

/* A target that just these channels meet: they go, and the model computes what it did. */
static void check_zero_channels(const struct golden *golden, const struct prune_method *method,
                                const char *settings)
{
    struct world world;
    struct error error = {0};
    const struct model_config *config = &golden->inventory->config;
    world_start(&world, golden, method, settings, "{\"type\": \"uniform\", \"align\": 0}");
    OWNED(plan) wanted = plan_create(world.run.sublayer_count);
    for (size_t i = 0; i < world.run.sublayer_count; i++) {
        const struct model_layer *layer = &config->layers[world.sublayers[i].layer];
        size_t lists = layer->expert_count > 0 ? layer->expert_count : 1, count = 0;
        OWNED_MEMORY uint32_t *kept = memory_create(lists * layer->intermediate_size + 1, sizeof *kept);
        for (size_t e = 0; e < lists; e++) {
            for (uint32_t c = 0; c < layer->intermediate_size; c++) {
                kept[count] = c;
                count += c % 4 == 1 ? 0 : 1;
            }
        }
        if (world.sublayers[i].kind == SUBLAYER_FFN && layer->expert_count > 0) {
            plan_keep_expert_channels(wanted, i, kept, lists, count / lists, layer->intermediate_size);
        } else if (world.sublayers[i].kind == SUBLAYER_FFN) {
            plan_keep_channels(wanted, i, kept, count, layer->intermediate_size);
        }
    }
    struct plan_size size;
    plan_measure(wanted, golden->inventory, 0, &size);
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = size.sparsity_ratio};
    OWNED(plan) plan = plan_create(world.run.sublayer_count);
    if (!method->decide(&world.run, &target, plan, &error)) {
        fail_msg("%s: %s: %s", golden->name, method->name, error.message);
    }
    JSON_OWNED is = plan_format(plan, golden->inventory);
    JSON_OWNED should = plan_format(wanted, golden->inventory);
    /* ReLU lets other channels sleep through the whole batch: they are as good. */
    if (!json_equal(is, should) && config->activation != ACTIVATION_RELU) {
        fail_msg("%s: %s keeps channels that are zero", golden->name, method->name);
    }
    check_narrowed(&world, plan, false);
    world_finish(&world);
}

static void channels_that_are_zero_go_first(void **state)
{
    static const struct {
        const char *method, *settings;
    } cases[] = {
        {"wanda_sp", "{\"structures\": \"channels\"}"},
        {"magnitude_sp", "{\"structures\": \"channels\"}"},
        {"flap", "{\"structures\": \"channels\", \"metric\": \"wifn\"}"},
        {"flap", "{\"structures\": \"channels\"}"},
        {"cfsp", "{}"},
        {"cfsp", "{\"axis\": \"channel\"}"},
        {"minitron", "{\"heads\": false}"},
        {"adapt_pruner", "{\"structures\": \"channels\"}"},
        {"modegpt", "{}"},
    };
    const struct golden *golden = *state;
    zero_channels(golden);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_zero_channels(golden, prune_method_find(cases[i].method), cases[i].settings);
    }
}

/* ---- single layers, and what cannot be had ------------------------------------------------------------------------ */

/* The share of a layer's prunable weights that the plan removes. */
static double share_of_layer(const struct world *world, const struct plan *plan, size_t layer)
{
    struct plan_size cut;
    OWNED(plan) one = plan_create(plan->sublayer_count);
    double all = 0;
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        const struct plan_width *width = &plan->widths[i];
        const struct model_layer *item = &world->golden->inventory->config.layers[layer];
        if (world->sublayers[i].layer != layer) {
            continue;
        }
        all += (double)world->sublayers[i].parameter_count;
        if (width->channels != NULL && item->expert_count > 0) {
            plan_keep_expert_channels(one, i, width->channels, width->channel_lists, width->channel_count,
                                      item->intermediate_size);
        } else if (width->channels != NULL) {
            plan_keep_channels(one, i, width->channels, width->channel_count, item->intermediate_size);
        }
    }
    plan_measure(one, world->golden->inventory, 0, &cut);
    return (double)cut.removed_prunable_count / all;
}

static void layers_that_are_skipped_or_given_get_what_was_said(void **state)
{
    const struct golden *golden = *state;
    size_t count = golden->inventory->config.layer_count;
    struct world world;
    struct error error = {0};
    if (count < 3) {
        return;
    }
    world_start(&world, golden, prune_method_find("wanda_sp"), "{\"structures\": \"channels\"}",
                "{\"type\": \"uniform\", \"align\": 0}");
    OWNED_MEMORY bool *skip = memory_create(count, sizeof *skip);
    OWNED_MEMORY double *ratio = memory_create(count, sizeof *ratio);
    for (size_t i = 0; i < count; i++) {
        ratio[i] = i == 1 ? 0.3 : (double)NAN;
    }
    skip[0] = true;
    struct prune_layers layers = {.layer_count = count, .skip = skip, .ratio = ratio};
    world.run.layers = &layers;
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.2};
    OWNED(plan) plan = plan_create(world.run.sublayer_count);
    if (!world.run.method->decide(&world.run, &target, plan, &error)) {
        fail_msg("%s: %s", golden->name, error.message);
    }
    assert_true(prune_target_reached(&target, plan, golden->inventory));
    assert_true(share_of_layer(&world, plan, 0) == 0);
    double step = 1.0 / (double)golden->inventory->config.layers[1].intermediate_size;
    assert_true(fabs(share_of_layer(&world, plan, 1) - 0.3) <=
                step + 0.02); /* biases and norms of heads stay */
    world_finish(&world);
}

static void what_cannot_be_reached_says_how_far_it_goes(void **state)
{
    const struct golden *golden = *state;
    struct world world;
    struct error error = {0};
    world_start(&world, golden, prune_method_find("magnitude_sp"), "{\"structures\": \"channels\"}", NULL);
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.995};
    OWNED(plan) plan = plan_create(world.run.sublayer_count);
    assert_false(world.run.method->decide(&world.run, &target, plan, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
    assert_string_equal(error.field, "/target/sparsity");
    const char *number = strstr(error.message, "it is ");
    assert_non_null(number);
    double nearest = strtod(number + strlen("it is "), NULL);
    assert_true(nearest > 0.1 && nearest < 0.995 && !plan_has_widths(plan));
    target.ratio = nearest * (1 - 1e-9); /* and that far it does go */
    assert_true(world.run.method->decide(&world.run, &target, plan, &error));
    world_finish(&world);
}

/* ---- two_ssp's second stage --------------------------------------------------------------------------------------- */

static double nll_of(const struct golden *golden, struct model *model, const struct hidden *hidden)
{
    double sum = 0;
    for (size_t s = 0; s < golden->batch.sequence_count; s++) {
        OWNED_MEMORY float *logits = golden_take_values(golden, model, hidden, s);
        for (size_t t = 0; t + 1 < golden->sequences[s].count; t++) {
            const float *row = logits + t * golden->width;
            double most = -INFINITY, all = 0;
            for (size_t v = 0; v < golden->width; v++) {
                most = fmax(most, (double)row[v]);
            }
            for (size_t v = 0; v < golden->width; v++) {
                all += exp((double)row[v] - most);
            }
            sum += most + log(all) - (double)row[golden->sequences[s].tokens[t + 1]];
        }
    }
    return sum;
}

/* Each attention in turn taken out of the narrowed model itself. */
static void check_attention(const struct world *world, const struct plan *plan)
{
    const struct golden *golden = world->golden;
    struct error error = {0};
    OWNED(plan) narrow = plan_copy(plan);
    plan_cut(narrow, 0);
    OWNED(inventory) inventory = plan_apply(narrow, golden->inventory, &error);
    assert_non_null(inventory);
    struct model_options options = {.dtype = DTYPE_F32, .pool = world->pool};
    OWNED(model) model = model_open(inventory, golden->folder, &options, &error);
    assert_non_null(model);
    OWNED_MEMORY bool *removed = memory_create(world->run.sublayer_count, sizeof *removed);
    double least = INFINITY, chosen = INFINITY;
    for (size_t i = 0; i < world->run.sublayer_count; i++) {
        if (world->sublayers[i].kind == SUBLAYER_ATTENTION) {
            removed[i] = true;
            OWNED(hidden) hidden = run_model(model, &golden->batch, removed);
            double nll = nll_of(golden, model, hidden);
            least = fmin(least, nll);
            chosen = plan->removed[i] ? nll : chosen;
            removed[i] = false;
        }
    }
    assert_true(isfinite(chosen) && chosen <= least * (1 + 1e-6));
}

static void two_ssp_removes_the_attention_that_the_narrowed_model_misses_least(void **state)
{
    const struct golden *golden = *state;
    struct world world;
    struct error error = {0};
    if (golden->is_encoder) {
        return;
    }
    world_start(&world, golden, prune_method_find("two_ssp"), "{\"attention_sublayers\": 1}", NULL);
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.4};
    OWNED(plan) plan = plan_create(world.run.sublayer_count);
    if (!world.run.method->decide(&world.run, &target, plan, &error)) {
        fail_msg("%s: %s", golden->name, error.message);
    }
    assert_int_equal(plan->removed_count, 1);
    check_attention(&world, plan);
    world_finish(&world);
}

static void test_family(void **state)
{
    every_method_holds_its_contract(state);
    parameters_and_allocations_do_too(state);
    two_ssp_removes_the_attention_that_the_narrowed_model_misses_least(state);
    layers_that_are_skipped_or_given_get_what_was_said(state);
    what_cannot_be_reached_says_how_far_it_goes(state);
    channels_that_are_zero_go_first(state); /* it changes the files: last */
}

int main(void)
{
    return golden_test_all("width methods", test_family);
}
