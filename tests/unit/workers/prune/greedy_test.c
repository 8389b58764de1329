/*
 * The greedy search on the toy of structured_pruning 1.8: one hidden unit, logits (h, 0), four sublayers that add constants. All in
 * double, so the numbers must come out to the last printed digit, and the search that starts from cached prefixes must equal the one
 * that recomputes everything bit for bit.
 */
#include "base/check.h"
#include "workers/prune/greedy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TOY_COUNT = 4, TOY_SCORES_MAX = 16 };
static const double toy_constants[TOY_COUNT] = {1, 0.1, -2, 0.05};

enum toy_metric { TOY_JS_REFERENCE, TOY_JS_TEXTBOOK, TOY_EUCLID };
struct toy {
    struct prune_evaluator interface;
    enum toy_metric metric;
    bool uses_cache;
    bool removed[TOY_COUNT];
    double cache[TOY_COUNT + 1]; /* state before each sublayer */
    double original;
    struct {
        size_t sublayer;
        double score;
    } scores[TOY_SCORES_MAX];
    size_t score_count, fail_at;
    struct cancel *cancel;
};

static double toy_run(const struct toy *toy, size_t first, double state, size_t without)
{
    for (size_t i = first; i < TOY_COUNT; i++) {
        state += toy->removed[i] || i == without ? 0 : toy_constants[i];
    }
    return state;
}

static double kl(const double *p, const double *q)
{
    return p[0] * (log(p[0]) - log(q[0])) + p[1] * (log(p[1]) - log(q[1]));
}

static double toy_distance(const struct toy *toy, double state)
{
    double p[2] = {1 / (1 + exp(-toy->original)), 1 / (1 + exp(toy->original))};
    double q[2] = {1 / (1 + exp(-state)), 1 / (1 + exp(state))};
    double m[2] = {(p[0] + q[0]) / 2, (p[1] + q[1]) / 2};
    switch (toy->metric) {
    case TOY_JS_REFERENCE:
        return 0.5 * (kl(m, p) + kl(m, q)) / 2; /* divided by the vocabulary, as the engine does */
    case TOY_JS_TEXTBOOK:
        return 0.5 * (kl(p, m) + kl(q, m)) / 2;
    case TOY_EUCLID:
        return fabs(toy->original - state);
    }
    return NAN;
}

static bool toy_restart(void *context, const bool *removed, struct error *error)
{
    (void)error;
    struct toy *toy = context;
    memcpy(toy->removed, removed, sizeof toy->removed);
    toy->cache[0] = 0;
    for (size_t i = 0; i < TOY_COUNT; i++) {
        toy->cache[i + 1] = toy->cache[i] + (toy->removed[i] ? 0 : toy_constants[i]);
    }
    return true;
}

static bool toy_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                         struct error *error)
{
    (void)best;
    struct toy *toy = context;
    size_t first = toy->uses_cache ? unit->first : 0;
    double state = toy_run(toy, first, toy->uses_cache ? toy->cache[first] : 0, unit->first);
    *ret_score = toy_distance(toy, state);
    if (toy->fail_at != 0 && toy->score_count + 1 == toy->fail_at) {
        return error_set(error, ERROR_NUMERIC, "told to fail");
    }
    assert_true(toy->score_count < TOY_SCORES_MAX);
    toy->scores[toy->score_count].sublayer = unit->first;
    toy->scores[toy->score_count++].score = *ret_score;
    return true;
}

static bool toy_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    struct toy *toy = context;
    bool removed[TOY_COUNT];
    memcpy(removed, toy->removed, sizeof removed);
    removed[unit->first] = true;
    return toy_restart(toy, removed, error);
}

static void toy_start(struct toy *toy, enum toy_metric metric, bool uses_cache)
{
    *toy = (struct toy){.metric = metric, .uses_cache = uses_cache};
    toy->interface = (struct prune_evaluator){
        .context = toy, .restart = toy_restart, .evaluate = toy_evaluate, .commit = toy_commit};
    toy->original = toy_run(toy, 0, 0, TOY_COUNT);
}

/* Two layers of attention and FFN without any tensor: enough for counting sublayers. */
struct toy_world {
    struct inventory inventory;
    struct sublayer sublayers[TOY_COUNT];
    struct prune_run run;
};

static void world_start(struct toy_world *world, struct toy *toy)
{
    *world = (struct toy_world){0};
    world->inventory.config.layer_count = 2;
    for (size_t i = 0; i < 2; i++) {
        world->inventory.config.layers[i] = (struct model_layer){.has_attention = true, .has_ffn = true};
    }
    for (size_t i = 0; i < TOY_COUNT; i++) {
        world->sublayers[i].kind = i % 2 == 0 ? SUBLAYER_ATTENTION : SUBLAYER_FFN;
        world->sublayers[i].layer = i / 2;
    }
    world->run = (struct prune_run){.inventory = &world->inventory,
                                    .sublayers = world->sublayers,
                                    .sublayer_count = TOY_COUNT,
                                    .evaluator = &toy->interface};
}

static const struct greedy_options unprotected = {.granularity = PRUNE_BY_SUBLAYER};

static void search_three(struct toy *toy, struct plan *plan)
{
    struct toy_world world;
    world_start(&world, toy);
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 3};
    struct error error = {0};
    assert_true(greedy_search(&world.run, &unprotected, &target, plan, &error));
}

static double find_score(const struct toy *toy, size_t from, size_t sublayer)
{
    for (size_t i = from; i < toy->score_count; i++) {
        if (toy->scores[i].sublayer == sublayer) {
            return toy->scores[i].score;
        }
    }
    fail_msg("sublayer %zu was not evaluated", sublayer);
    return NAN;
}

static void assert_near(double value, double expected)
{
    assert_true(fabs(value - expected) <= 5e-7 * fabs(expected));
}

static void toy_is_removed_in_the_order_3_1_0_by_every_metric(void **state)
{
    (void)state;
    for (int metric = TOY_JS_REFERENCE; metric <= TOY_EUCLID; metric++) {
        struct toy toy;
        toy_start(&toy, (enum toy_metric)metric, true);
        OWNED(plan) plan = plan_create(TOY_COUNT);
        search_three(&toy, plan);
        assert_int_equal(plan->removed_count, 3);
        assert_int_equal(plan->points[0].sublayer, 3);
        assert_int_equal(plan->points[1].sublayer, 1);
        assert_int_equal(plan->points[2].sublayer, 0);
        assert_false(plan->removed[2]);
    }
}

static void toy_scores_are_those_of_the_specification(void **state)
{
    (void)state;
    struct toy toy;
    OWNED(plan) plan = plan_create(TOY_COUNT);
    toy_start(&toy, TOY_JS_TEXTBOOK, true);
    search_three(&toy, plan);
    assert_near(find_score(&toy, 0, 3) * 2, 6.488720e-05);
    assert_near(find_score(&toy, 0, 1) * 2, 2.568094e-04);
    assert_near(find_score(&toy, 0, 0) * 2, 2.002956e-02);
    assert_near(find_score(&toy, 0, 2) * 2, 1.103960e-01);
    assert_near(find_score(&toy, 4, 1) * 2, 5.715055e-04);
    assert_near(find_score(&toy, 4, 0) * 2, 2.172130e-02);
    assert_near(find_score(&toy, 4, 2) * 2, 1.056959e-01);
    assert_near(find_score(&toy, 7, 0) * 2, 2.519310e-02);
    assert_near(find_score(&toy, 7, 2) * 2, 9.638919e-02);
    OWNED(plan) second = plan_create(TOY_COUNT);
    toy_start(&toy, TOY_JS_REFERENCE, true);
    search_three(&toy, second);
    assert_near(find_score(&toy, 0, 3) * 2, 6.489230e-05);
    OWNED(plan) third = plan_create(TOY_COUNT);
    toy_start(&toy, TOY_EUCLID, true);
    search_three(&toy, third);
    assert_near(find_score(&toy, 0, 3), 0.05);
    assert_near(find_score(&toy, 0, 2), 2.0);
}

static void cached_prefixes_change_no_bit(void **state)
{
    (void)state;
    struct toy fast;
    struct toy naive;
    toy_start(&fast, TOY_JS_REFERENCE, true);
    toy_start(&naive, TOY_JS_REFERENCE, false);
    OWNED(plan) first = plan_create(TOY_COUNT);
    OWNED(plan) second = plan_create(TOY_COUNT);
    search_three(&fast, first);
    search_three(&naive, second);
    assert_int_equal(fast.score_count, naive.score_count);
    assert_int_equal(fast.score_count, 9);
    for (size_t i = 0; i < fast.score_count; i++) {
        assert_int_equal(fast.scores[i].sublayer, naive.scores[i].sublayer);
        assert_memory_equal(&fast.scores[i].score, &naive.scores[i].score, sizeof(double));
    }
}

static void protected_layers_wait_until_enough_is_gone(void **state)
{
    (void)state;
    struct toy toy;
    struct toy_world world;
    toy_start(&toy, TOY_EUCLID, true);
    world_start(&world, &toy);
    struct greedy_options options = {
        .granularity = PRUNE_BY_SUBLAYER, .protected_layers = 1, .release_count = 2};
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 3};
    OWNED(plan) plan = plan_create(TOY_COUNT);
    struct error error = {0};
    assert_true(greedy_search(&world.run, &options, &target, plan, &error));
    assert_int_equal(plan->points[0].sublayer, 3);
    assert_int_equal(plan->points[1].sublayer, 2); /* 0 and 1 are still protected */
    assert_int_equal(plan->points[2].sublayer, 0); /* released, and now the nearest to the original */
}

static void a_full_curve_ranks_everything_and_cuts_at_the_target(void **state)
{
    (void)state;
    struct toy toy;
    struct toy_world world;
    toy_start(&toy, TOY_EUCLID, true);
    world_start(&world, &toy);
    struct greedy_options options = {.granularity = PRUNE_BY_SUBLAYER, .is_full_curve = true};
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 1};
    OWNED(plan) plan = plan_create(TOY_COUNT);
    struct error error = {0};
    assert_true(greedy_search(&world.run, &options, &target, plan, &error));
    assert_int_equal(plan->point_count, TOY_COUNT);
    assert_int_equal(plan->removed_count, 1);
    assert_true(plan->removed[3]);
    assert_int_equal(plan->points[3].sublayer, 2);
}

static void a_target_that_leaves_nothing_is_unreachable_and_names_the_nearest(void **state)
{
    (void)state;
    struct toy toy;
    struct toy_world world;
    toy_start(&toy, TOY_EUCLID, true);
    world_start(&world, &toy);
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 4};
    OWNED(plan) plan = plan_create(TOY_COUNT);
    struct error error = {0};
    assert_false(greedy_search(&world.run, &unprotected, &target, plan, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
    assert_string_equal(error.field, "/target/sublayers_removed");
    assert_non_null(strstr(error.message, "removes 3 sublayers"));
}

struct saved {
    json_t *state;
    size_t save_count, stop_after;
    struct cancel *cancel;
};

static bool keep_state(void *context, const json_t *search_state, bool must, struct error *error)
{
    (void)must;
    (void)error;
    struct saved *saved = context;
    json_decref(saved->state);
    saved->state = json_deep_copy(search_state);
    saved->save_count++;
    if (saved->save_count == saved->stop_after) {
        cancel_request(saved->cancel, CANCEL_DRAIN);
    }
    return true;
}

static void a_search_stopped_anywhere_goes_on_to_the_same_plan(void **state)
{
    (void)state;
    struct toy toy;
    OWNED(plan) whole = plan_create(TOY_COUNT);
    toy_start(&toy, TOY_JS_REFERENCE, true);
    search_three(&toy, whole);
    for (size_t stop = 1; stop <= 8; stop++) {
        struct toy_world world;
        struct cancel cancel = {0};
        struct saved saved = {.stop_after = stop, .cancel = &cancel};
        struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 3};
        struct error error = {0};
        toy_start(&toy, TOY_JS_REFERENCE, true);
        world_start(&world, &toy);
        world.run.observer = (struct prune_observer){.context = &saved, .save = keep_state};
        world.run.cancel = &cancel;
        OWNED(plan) part = plan_create(TOY_COUNT);
        assert_false(greedy_search(&world.run, &unprotected, &target, part, &error));
        assert_int_equal(error.code, ERROR_DRAINED);
        size_t done = toy.score_count;
        struct cancel fresh = {0};
        world.run.cancel = &fresh;
        world.run.state = json_deep_copy(saved.state);
        OWNED(plan) rest = plan_create(TOY_COUNT);
        assert_true(greedy_search(&world.run, &unprotected, &target, rest, &error));
        assert_int_equal(rest->point_count, whole->point_count);
        assert_memory_equal(rest->removed, whole->removed, TOY_COUNT * sizeof(bool));
        for (size_t i = 0; i < whole->point_count; i++) {
            assert_int_equal(rest->points[i].sublayer, whole->points[i].sublayer);
            assert_memory_equal(&rest->points[i].score, &whole->points[i].score, sizeof(double));
        }
        assert_int_equal(toy.score_count, 9); /* nothing was evaluated twice */
        assert_true(done >= stop);
        json_decref((json_t *)(uintptr_t)world.run.state);
        json_decref(saved.state);
    }
}

static void a_search_goes_on_from_the_curve_of_an_earlier_one(void **state)
{
    (void)state;
    struct toy toy;
    struct toy_world world;
    struct error error = {0};
    toy_start(&toy, TOY_EUCLID, true);
    OWNED(plan) whole = plan_create(TOY_COUNT);
    search_three(&toy, whole);
    size_t all_scores = toy.score_count;
    for (size_t known = 0; known <= 3; known++) {
        OWNED(plan) curve = plan_create(TOY_COUNT);
        for (size_t i = 0; i < known; i++) {
            plan_add_point(curve, whole->points[i].sublayer, whole->points[i].score, true);
        }
        toy_start(&toy, TOY_EUCLID, true);
        world_start(&world, &toy);
        world.run.curve = curve;
        OWNED(plan) plan = plan_create(TOY_COUNT);
        struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 3};
        assert_true(greedy_search(&world.run, &unprotected, &target, plan, &error));
        assert_true(known == 0 ? toy.score_count == all_scores : toy.score_count < all_scores);
        assert_true(known < 3 || toy.score_count == 0);
        assert_int_equal(plan->point_count, 3);
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(plan->points[i].sublayer, whole->points[i].sublayer);
            assert_memory_equal(&plan->points[i].score, &whole->points[i].score, sizeof(double));
        }
    }
}

static void skipped_layers_are_no_candidates(void **state)
{
    (void)state;
    struct toy toy;
    struct toy_world world;
    struct error error = {0};
    toy_start(&toy, TOY_EUCLID, true);
    world_start(&world, &toy);
    bool skip[2] = {false, true};
    double ratio[2] = {NAN, NAN};
    world.run.layers = &(struct prune_layers){2, skip, ratio};
    OWNED(plan) plan = plan_create(TOY_COUNT);
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 2};
    assert_true(greedy_search(&world.run, &unprotected, &target, plan, &error));
    assert_int_equal(plan->point_count, 2);
    assert_false(plan->removed[2] || plan->removed[3]);
    for (size_t i = 0; i < toy.score_count; i++) {
        assert_true(toy.scores[i].sublayer < 2);
    }
    OWNED(plan) more = plan_create(TOY_COUNT);
    target.count = 3;
    toy_start(&toy, TOY_EUCLID, true);
    assert_false(greedy_search(&world.run, &unprotected, &target, more, &error));
    assert_int_equal(error.code, ERROR_UNREACHABLE);
}

static void an_error_of_the_evaluator_ends_the_search(void **state)
{
    (void)state;
    struct toy toy;
    struct toy_world world;
    toy_start(&toy, TOY_EUCLID, true);
    toy.fail_at = 6;
    world_start(&world, &toy);
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = 3};
    OWNED(plan) plan = plan_create(TOY_COUNT);
    struct error error = {0};
    assert_false(greedy_search(&world.run, &unprotected, &target, plan, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(toy_is_removed_in_the_order_3_1_0_by_every_metric),
        cmocka_unit_test(toy_scores_are_those_of_the_specification),
        cmocka_unit_test(cached_prefixes_change_no_bit),
        cmocka_unit_test(protected_layers_wait_until_enough_is_gone),
        cmocka_unit_test(a_full_curve_ranks_everything_and_cuts_at_the_target),
        cmocka_unit_test(a_target_that_leaves_nothing_is_unreachable_and_names_the_nearest),
        cmocka_unit_test(a_search_stopped_anywhere_goes_on_to_the_same_plan),
        cmocka_unit_test(a_search_goes_on_from_the_curve_of_an_earlier_one),
        cmocka_unit_test(skipped_layers_are_no_candidates),
        cmocka_unit_test(an_error_of_the_evaluator_ends_the_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
