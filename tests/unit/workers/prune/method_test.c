/*
 * What holds for every method of methods.def (and for the skeleton), on a toy model of four layers whose sublayers have tensors in the
 * inventory but no weights: the evaluator is a table. New methods join unasked.
 */
#include "base/check.h"
#include "workers/prune/prune.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

extern const struct prune_method prune_method_skeleton;

enum { LAYERS = 4, SUBLAYERS = 2 * LAYERS, METHODS_MAX = 64 };

struct world {
    struct inventory inventory;
    struct inventory_tensor tensors[4 * LAYERS + 1];
    char names[4 * LAYERS + 1][64];
    struct sublayer sublayers[SUBLAYERS];
    double cosines[LAYERS];
    double sublayer_cosines[SUBLAYERS];
    double span_angles[LAYERS * (LAYERS + 1) / 2];
    bool removed[SUBLAYERS];
    struct prune_evaluator evaluator;
    struct prune_run run;
};

static void add_tensor(struct world *world, const char *name, uint64_t rows, uint64_t columns)
{
    size_t index = world->inventory.tensor_count++;
    (void)snprintf(world->names[index], sizeof world->names[index], "%s", name);
    world->tensors[index] = (struct inventory_tensor){.name = world->names[index],
                                                      .dtype = DTYPE_F32,
                                                      .rank = columns > 0 ? 2 : 1,
                                                      .shape = {rows, columns},
                                                      .bytes = 4 * rows * (columns > 0 ? columns : 1)};
}

static bool world_restart(void *context, const bool *removed, struct error *error)
{
    (void)error;
    struct world *world = context;
    memcpy(world->removed, removed, sizeof world->removed);
    return true;
}

/* Deeper sublayers matter less, attention less than FFN; the more is gone, the more each costs. */
static bool world_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                           struct error *error)
{
    (void)best;
    (void)error;
    const struct world *world = context;
    double score = 0;
    for (size_t i = 0; i < SUBLAYERS; i++) {
        bool is_gone = world->removed[i] || (i >= unit->first && i < unit->first + unit->count);
        score += is_gone ? (double)(SUBLAYERS - i) + (i % 2 == 0 ? 0 : 3) : 0;
    }
    *ret_score = score;
    return true;
}

static bool world_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    (void)error;
    struct world *world = context;
    for (size_t i = 0; i < unit->count; i++) {
        world->removed[unit->first + i] = true;
    }
    return true;
}

static void world_start(struct world *world)
{
    *world = (struct world){0};
    world->inventory.tensors = world->tensors;
    world->inventory.config.model_type = "llama";
    (void)snprintf(world->inventory.config.prefix, sizeof world->inventory.config.prefix, "model.");
    world->inventory.config.layer_count = LAYERS;
    add_tensor(world, "model.embed_tokens.weight", 10, 4);
    for (size_t i = 0; i < LAYERS; i++) {
        static const char *const suffixes[] = {"self_attn.q_proj.weight", "input_layernorm.weight",
                                               "mlp.down_proj.weight", "post_attention_layernorm.weight"};
        for (size_t s = 0; s < 4; s++) {
            char name[64];
            (void)snprintf(name, sizeof name, "model.layers.%zu.%s", i, suffixes[s]);
            add_tensor(world, name, 4, s == 0 ? 4 : s == 2 ? 8 : 0);
        }
        world->inventory.config.layers[i] = (struct model_layer){.has_attention = true, .has_ffn = true};
        world->cosines[i] = 0.9 + 0.01 * (double)i;
    }
    for (size_t i = 0; i < SUBLAYERS; i++) {
        world->sublayers[i] = (struct sublayer){.kind = i % 2 == 0 ? SUBLAYER_ATTENTION : SUBLAYER_FFN,
                                                .layer = i / 2,
                                                .parameter_count = i % 2 == 0 ? 16 : 32,
                                                .norm_count = 4};
        world->sublayer_cosines[i] = 0.9 + 0.01 * (double)(i * 5 % SUBLAYERS); /* 0 5 2 7 4 1 6 3 */
    }
    for (size_t from = 0; from < LAYERS; from++) {
        for (size_t to = from + 1; to <= LAYERS; to++) {
            world->span_angles[prune_span_index(LAYERS, from, to)] =
                0.1 * (double)(to - from) + 0.01 * (double)((from + 2) % LAYERS);
        }
    }
    world->evaluator = (struct prune_evaluator){
        .context = world, .restart = world_restart, .evaluate = world_evaluate, .commit = world_commit};
    world->run = (struct prune_run){.inventory = &world->inventory,
                                    .sublayers = world->sublayers,
                                    .sublayer_count = SUBLAYERS,
                                    .seed = 7,
                                    .block_cosines = world->cosines,
                                    .sublayer_cosines = world->sublayer_cosines,
                                    .span_angles = world->span_angles,
                                    .evaluator = &world->evaluator};
}

/* Those that a world without weights can run. The others are tested on real models (pass_test.c, width_methods_test.c). */
static size_t list_methods(const struct prune_method **ret_methods)
{
    size_t count = 0;
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        if (((*method)->needs & PRUNE_NEED_MODEL) == 0 && ((*method)->traits & PRUNE_TRAIT_WIDTH) == 0) {
            ret_methods[count++] = *method;
        }
    }
    ret_methods[count++] = &prune_method_skeleton;
    return count;
}

static const struct prune_layers *world_layers; /* of the runs that follow */

/* given: its parameters, or NULL for all its defaults. */
static bool run_method_with(const struct prune_method *method, const json_t *given_parameters,
                            const struct prune_target *target, uint64_t seed, struct plan *plan,
                            struct error *error)
{
    struct world world;
    world_start(&world);
    struct param_spec spec = {.name = method->name,
                              .type = PARAM_OBJECT,
                              .members = method->params,
                              .member_count = method->param_count};
    JSON_OWNED empty = json_object();
    JSON_OWNED parameters = param_resolve(&spec, given_parameters != NULL ? given_parameters : empty);
    world.run.parameters = parameters;
    world.run.layers = world_layers;
    world.run.seed = seed;
    OWNED(plan) given = plan_create(SUBLAYERS); /* for methods that read one: from the end backwards */
    for (size_t i = SUBLAYERS; i-- > 0;) {
        plan_add_point(given, i, NAN, true);
    }
    world.run.given = given;
    return method->decide(&world.run, target, plan, error);
}

static bool run_method(const struct prune_method *method, const struct prune_target *target, uint64_t seed,
                       struct plan *plan, struct error *error)
{
    return run_method_with(method, NULL, target, seed, plan, error);
}

static void every_method_has_what_the_catalogue_prints(void **state)
{
    (void)state;
    size_t count = 0;
    for (const struct prune_method *const *item = prune_methods(); *item != NULL; item++, count++) {
        const struct prune_method *method = *item;
        assert_true(strlen(method->name) > 0 && strlen(method->summary) > 20 &&
                    strlen(method->reference) > 0);
        assert_non_null(method->decide);
        assert_int_equal((method->needs & PRUNE_NEED_MODEL) != 0, method->pass_bytes != NULL);
        for (size_t p = 0; p < method->param_count; p++) {
            assert_non_null(method->params[p].help);
        }
        assert_ptr_equal(prune_method_find(method->name), method);
    }
    assert_true(count >= 5);
    assert_null(prune_method_find("no_such_method"));
}

static void every_method_stops_at_the_first_point_past_every_kind_of_target(void **state)
{
    (void)state;
    static const struct prune_target targets[] = {
        {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0.3},
        {.kind = PRUNE_TARGET_PARAMS, .count = 152},
        {.kind = PRUNE_TARGET_PARAMS, .count = 150}, /* a third block */
        {.kind = PRUNE_TARGET_MEMORY_BYTES, .count = 608},
        {.kind = PRUNE_TARGET_MEMORY_BYTES, .count = 600},
        {.kind = PRUNE_TARGET_MEMORY_BYTES, .count = 304, .element_bytes = 2},
        {.kind = PRUNE_TARGET_MEMORY_BYTES, .count = 300, .element_bytes = 2},
        {.kind = PRUNE_TARGET_NUM_LAYERS, .count = 3},
        {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 2},
        {.kind = PRUNE_TARGET_NUM_LAYERS, .count = 2, .require_packable = true},
    };
    struct world world;
    world_start(&world);
    const struct prune_method *methods[METHODS_MAX];
    size_t count = list_methods(methods);
    for (size_t i = 0; i < count; i++) {
        for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
            OWNED(plan) plan = plan_create(SUBLAYERS);
            struct error error = {0};
            if (!run_method(methods[i], &targets[t], 7, plan, &error)) {
                /* An order whose points never pack may say so, and what was estimated to be out of reach. */
                OWNED(plan) none = plan_create(SUBLAYERS);
                bool is_foreseen = methods[i]->estimate != NULL &&
                                   !methods[i]->estimate(&world.run, &targets[t], none, NULL);
                assert_true((targets[t].require_packable || is_foreseen) && error.code == ERROR_UNREACHABLE);
                continue;
            }
            assert_true(prune_target_reached(&targets[t], plan, &world.inventory));
            size_t chosen = plan->removed_count;
            for (size_t earlier = 0; earlier < chosen; earlier++) {
                if (earlier == 0 || plan->points[earlier - 1].is_cut) {
                    plan_cut(plan, earlier);
                    assert_false(prune_target_reached(&targets[t], plan, &world.inventory));
                }
            }
        }
    }
}

static void every_method_repeats_itself_for_the_same_seed(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 4};
    const struct prune_method *methods[METHODS_MAX];
    size_t count = list_methods(methods);
    for (size_t i = 0; i < count; i++) {
        bool differs = false;
        for (uint64_t seed = 0; seed < 20; seed++) {
            OWNED(plan) first = plan_create(SUBLAYERS);
            OWNED(plan) second = plan_create(SUBLAYERS);
            OWNED(plan) other = plan_create(SUBLAYERS);
            assert_true(run_method(methods[i], &target, seed, first, NULL));
            assert_true(run_method(methods[i], &target, seed, second, NULL));
            assert_true(run_method(methods[i], &target, seed + 1, other, NULL));
            assert_memory_equal(first->removed, second->removed, SUBLAYERS * sizeof(bool));
            differs = differs || memcmp(first->removed, other->removed, SUBLAYERS * sizeof(bool)) != 0;
        }
        assert_int_equal(differs, (methods[i]->traits & PRUNE_TRAIT_SEEDED) != 0);
    }
}

static void every_method_leaves_skipped_layers_alone(void **state)
{
    (void)state;
    const struct prune_method *methods[METHODS_MAX];
    size_t count = list_methods(methods);
    for (size_t layer = 0; layer < LAYERS; layer++) {
        bool skip[LAYERS] = {false};
        double ratio[LAYERS] = {0};
        skip[layer] = true;
        world_layers = &(struct prune_layers){LAYERS, skip, ratio};
        for (size_t i = 0; i + 1 < count; i++) { /* the skeleton is the last */
            for (size_t removed = 1; removed < SUBLAYERS; removed++) {
                struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = removed};
                OWNED(plan) plan = plan_create(SUBLAYERS);
                struct error error = {0};
                bool is_made = run_method(methods[i], &target, 7, plan, &error);
                assert_true(is_made || error.code == ERROR_UNREACHABLE);
                assert_true(is_made || removed > 1);
                assert_false(plan->removed[2 * layer] || plan->removed[2 * layer + 1]);
            }
        }
    }
    world_layers = NULL;
}

static void every_method_refuses_to_remove_everything(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = SUBLAYERS};
    const struct prune_method *methods[METHODS_MAX];
    size_t count = list_methods(methods);
    for (size_t i = 0; i < count; i++) {
        OWNED(plan) plan = plan_create(SUBLAYERS);
        struct error error = {0};
        assert_false(run_method(methods[i], &target, 7, plan, &error));
        assert_int_equal(error.code, ERROR_UNREACHABLE);
        assert_int_equal(plan->removed_count, 0);
    }
}

static void a_target_of_nothing_removes_nothing(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_SPARSITY, .ratio = 0};
    const struct prune_method *methods[METHODS_MAX];
    size_t count = list_methods(methods);
    for (size_t i = 0; i < count; i++) {
        OWNED(plan) plan = plan_create(SUBLAYERS);
        assert_true(run_method(methods[i], &target, 7, plan, NULL));
        assert_int_equal(plan->removed_count, 0);
    }
}

static void shortgpt_removes_the_blocks_that_turn_least(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_NUM_LAYERS, .count = 2};
    OWNED(plan) plan = plan_create(SUBLAYERS);
    assert_true(run_method(prune_method_find("shortgpt"), &target, 7, plan, NULL));
    assert_int_equal(plan->removed_count, 4);
    assert_int_equal(plan->points[1].sublayer, 7);
    assert_true(fabs(plan->points[1].score - 0.07) < 1e-12);
    assert_true(isnan(plan->points[0].score) && !plan->points[0].is_cut);
    assert_int_equal(plan->points[3].sublayer, 5);
}

/* Attention has half the parameters of an FFN here, and what it costs grows with what is gone. */
static void a_greedy_search_ranks_by_what_is_asked_for(void **state)
{
    (void)state;
    static const struct {
        const char *rank;
        size_t second;
    } rows[] = {{"score", 4}, {"score_per_parameter", 7}};
    for (size_t i = 0; i < 2; i++) {
        struct world world;
        world_start(&world);
        JSON_OWNED parameters = json_pack("{s:s, s:f}", "rank_by", rows[i].rank, "protect_ratio", 0.4);
        struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 2};
        OWNED(plan) plan = plan_create(SUBLAYERS);
        struct error error = {0};
        world.run.parameters = parameters;
        assert_true(prune_method_find("finercut")->decide(&world.run, &target, plan, &error));
        assert_int_equal(plan->points[0].sublayer, 6);
        assert_int_equal(plan->points[1].sublayer, rows[i].second);
    }
}

static void sleb_keeps_the_first_and_the_last_block(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_NUM_LAYERS, .count = 2};
    OWNED(plan) plan = plan_create(SUBLAYERS);
    assert_true(run_method(prune_method_find("sleb"), &target, 7, plan, NULL));
    assert_int_equal(plan->removed_count, 4);
    assert_false(plan->removed[0] || plan->removed[1] || plan->removed[6] || plan->removed[7]);
    OWNED(plan) rest = plan_create(SUBLAYERS);
    struct error error = {0};
    target.count = 1;
    assert_false(run_method(prune_method_find("sleb"), &target, 7, rest, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
}

/* Whatever the order of removal: an estimate fails where the method does, and promises no less than it leaves. */
static void what_no_order_reaches_is_said_before_the_job(void **state)
{
    (void)state;
    static const struct {
        const char *name, *member, *value;
        size_t most; /* sublayers that may go */
    } rows[] = {
        {"sleb", "curve", "target", 4},
        {"llm_drop", "sublayers", "both", SUBLAYERS - 1},
        {"llm_drop", "sublayers", "attention", LAYERS},
        {"llm_drop", "sublayers", "ffn", LAYERS},
    };
    struct world world;
    world_start(&world);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct prune_method *method = prune_method_find(rows[i].name);
        JSON_OWNED parameters = json_pack("{s:s}", rows[i].member, rows[i].value);
        world.run.parameters = parameters;
        for (size_t removed = 0; removed <= SUBLAYERS; removed++) {
            struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = removed};
            struct error error = {0};
            OWNED(plan) estimate = plan_create(SUBLAYERS);
            OWNED(plan) plan = plan_create(SUBLAYERS);
            bool is_possible = method->estimate(&world.run, &target, estimate, &error);
            assert_int_equal(is_possible, removed <= rows[i].most);
            assert_int_equal(run_method_with(method, parameters, &target, 7, plan, NULL), is_possible);
            if (!is_possible) {
                assert_int_equal(error.code, ERROR_UNREACHABLE);
                assert_string_equal(error.field, "/target/sublayers_removed");
                continue;
            }
            struct plan_size promised, left;
            plan_measure(estimate, &world.inventory, 0, &promised);
            plan_measure(plan, &world.inventory, 0, &left);
            assert_true(promised.removed_sublayer_count >= removed);
            assert_true(promised.parameter_count >= left.parameter_count);
        }
    }
}

static void last_blocks_removes_from_the_end(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 3};
    OWNED(plan) plan = plan_create(SUBLAYERS);
    assert_true(run_method(prune_method_find("last_blocks"), &target, 7, plan, NULL));
    assert_int_equal(plan->removed_count, 4); /* whole blocks: the first point at or past three */
    for (size_t i = 0; i < SUBLAYERS; i++) {
        assert_int_equal(plan->removed[i], i >= 4);
    }
}

static void llm_drop_removes_the_sublayers_that_turn_least(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 3};
    OWNED(plan) plan = plan_create(SUBLAYERS);
    assert_true(run_method(prune_method_find("llm_drop"), &target, 7, plan, NULL));
    static const size_t order[] = {3, 6, 1, 4, 7, 2, 5, 0};
    for (size_t i = 0; i < SUBLAYERS; i++) {
        assert_int_equal(plan->points[i].sublayer, order[i]);
        assert_true(plan->points[i].is_cut &&
                    fabs(plan->points[i].score - (0.03 + 0.01 * (double)i)) < 1e-12);
    }
    assert_int_equal(plan->removed_count, 3);
}

static void llm_drop_keeps_to_the_kind_that_was_asked_for(void **state)
{
    (void)state;
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 4};
    OWNED(plan) plan = plan_create(SUBLAYERS);
    JSON_OWNED attention = json_pack("{s:s}", "sublayers", "attention");
    assert_true(run_method_with(prune_method_find("llm_drop"), attention, &target, 7, plan, NULL));
    for (size_t i = 0; i < SUBLAYERS; i++) {
        assert_int_equal(plan->removed[i], i % 2 == 0);
    }
    JSON_OWNED ffn = json_pack("{s:s}", "sublayers", "ffn");
    OWNED(plan) second = plan_create(SUBLAYERS);
    struct error error = {0};
    target.count = 5;
    assert_false(run_method_with(prune_method_find("llm_drop"), ffn, &target, 7, second, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
    assert_non_null(strstr(error.message, "removes 4 sublayers"));
}

/* Angles: 0.1 n + 0.02, 0.03, 0, 0.01 for spans from layer 0, 1, 2, 3. */
static void angular_span_takes_the_span_of_least_angle_for_every_count(void **state)
{
    (void)state;
    static const size_t firsts[] = {2, 2, 0}; /* of 1, 2 and 3 blocks; spans of 3 begin at 0 or 1 */
    static const double angles[] = {0.1, 0.2, 0.32};
    for (size_t n = 1; n <= 3; n++) {
        struct prune_target target = {.kind = PRUNE_TARGET_NUM_LAYERS, .count = LAYERS - n};
        OWNED(plan) plan = plan_create(SUBLAYERS);
        assert_true(run_method(prune_method_find("angular_span"), &target, 7, plan, NULL));
        assert_int_equal(plan->removed_count, 2 * n);
        for (size_t i = 0; i < 2 * n; i++) {
            assert_int_equal(plan->points[i].sublayer, 2 * firsts[n - 1] + i);
            assert_int_equal(plan->points[i].is_cut, i + 1 == 2 * n);
        }
        assert_true(fabs(plan->points[2 * n - 1].score - angles[n - 1]) < 1e-12);
    }
}

static void angular_span_keeps_the_last_block_where_the_deepest_go(void **state)
{
    (void)state;
    JSON_OWNED deepest = json_pack("{s:s}", "rule", "deepest");
    for (size_t n = 1; n <= 3; n++) {
        struct prune_target target = {.kind = PRUNE_TARGET_NUM_LAYERS, .count = LAYERS - n};
        OWNED(plan) plan = plan_create(SUBLAYERS);
        assert_true(run_method_with(prune_method_find("angular_span"), deepest, &target, 7, plan, NULL));
        for (size_t i = 0; i < SUBLAYERS; i++) {
            assert_int_equal(plan->removed[i], i < SUBLAYERS - 2 && i >= SUBLAYERS - 2 - 2 * n);
        }
    }
}

static void a_target_object_is_read_from_json(void **state)
{
    (void)state;
    struct error error = {0};
    struct prune_target target = {0};
    JSON_OWNED json = json_pack("{s:f, s:b}", "sparsity", 0.25, "require_packable", 1);
    assert_true(prune_target_parse(json, &target, &error));
    assert_int_equal(target.kind, PRUNE_TARGET_SPARSITY);
    assert_true(target.require_packable && target.ratio > 0.249 && target.ratio < 0.251);
    JSON_OWNED both = json_pack("{s:f, s:i}", "sparsity", 0.25, "params", 5);
    assert_false(prune_target_parse(both, &target, &error));
    JSON_OWNED none = json_object();
    assert_false(prune_target_parse(none, &target, &error));
    assert_int_equal(error.code, ERROR_MISSING_FIELD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_has_what_the_catalogue_prints),
        cmocka_unit_test(every_method_stops_at_the_first_point_past_every_kind_of_target),
        cmocka_unit_test(every_method_repeats_itself_for_the_same_seed),
        cmocka_unit_test(every_method_leaves_skipped_layers_alone),
        cmocka_unit_test(every_method_refuses_to_remove_everything),
        cmocka_unit_test(a_target_of_nothing_removes_nothing),
        cmocka_unit_test(shortgpt_removes_the_blocks_that_turn_least),
        cmocka_unit_test(a_greedy_search_ranks_by_what_is_asked_for),
        cmocka_unit_test(sleb_keeps_the_first_and_the_last_block),
        cmocka_unit_test(what_no_order_reaches_is_said_before_the_job),
        cmocka_unit_test(last_blocks_removes_from_the_end),
        cmocka_unit_test(llm_drop_removes_the_sublayers_that_turn_least),
        cmocka_unit_test(llm_drop_keeps_to_the_kind_that_was_asked_for),
        cmocka_unit_test(angular_span_takes_the_span_of_least_angle_for_every_count),
        cmocka_unit_test(angular_span_keeps_the_last_block_where_the_deepest_go),
        cmocka_unit_test(a_target_object_is_read_from_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
