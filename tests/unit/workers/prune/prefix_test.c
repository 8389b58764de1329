/*
 * The accelerated search against the naive form (one full forward per candidate) on real models: every score and the ranking must agree
 * bit for bit, whatever is kept in memory. Run once per core type that the CPU can play (see meson.build). Models: the one in
 * tests/skills, and stories260K where ../shared/data is there.
 */
#include "base/file.h"
#include "base/memory.h"
#include "workers/prune/greedy.h"
#include "workers/prune/prefix.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SEQUENCES = 3, TOKENS = 70 };

struct world {
    struct inventory *inventory;
    struct pool *pool;
    struct model *model;
    struct token_batch batch;
    struct token_sequence sequences[SEQUENCES];
    int32_t tokens[SEQUENCES][TOKENS];
    struct sublayer *sublayers;
    size_t count;
};

static bool world_open(struct world *world, const char *folder, size_t threads)
{
    *world = (struct world){0};
    if (!file_is_folder(folder)) {
        return false;
    }
    FINISHED(error_list) faults = {0};
    struct error error = {0};
    world->inventory = inventory_inspect(folder, false, NULL, &faults);
    assert_non_null(world->inventory);
    world->pool = pool_create(threads, &error);
    assert_non_null(world->pool);
    struct model_options options = {.pool = world->pool};
    world->model = model_open(world->inventory, folder, &options, &error);
    assert_non_null(world->model);
    for (size_t s = 0; s < SEQUENCES; s++) {
        for (size_t t = 0; t < TOKENS; t++) {
            world->tokens[s][t] =
                (int32_t)((t * t * 31 + s * 977 + t * 7 + 3) % world->inventory->config.vocab_size);
        }
        world->sequences[s] = (struct token_sequence){world->tokens[s], TOKENS - 20 * s};
    }
    world->batch = (struct token_batch){world->sequences, SEQUENCES};
    world->count = model_sublayer_count(world->model);
    world->sublayers = memory_create(world->count, sizeof *world->sublayers);
    for (size_t i = 0; i < world->count; i++) {
        world->sublayers[i] = *model_sublayer(world->model, i);
    }
    return true;
}

static void world_finish(struct world *world)
{
    model_destroy(world->model);
    pool_destroy(world->pool);
    inventory_destroy(world->inventory);
    free(world->sublayers);
}

/* ---- the naive form ------------------------------------------------------------------------------------------------ */

struct naive {
    struct prune_evaluator interface;
    struct world *world;
    struct head_reference *reference;
    struct hidden *hidden;
    bool *removed;
};

static bool naive_restart(void *context, const bool *removed, struct error *error)
{
    (void)error;
    struct naive *naive = context;
    memcpy(naive->removed, removed, naive->world->count * sizeof *removed);
    return true;
}

static void mark(struct naive *naive, const struct prune_unit *unit, bool is_removed)
{
    for (size_t i = 0; i < unit->count; i++) {
        naive->removed[unit->first + i] = is_removed;
    }
}

static bool naive_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                           struct error *error)
{
    (void)best;
    struct naive *naive = context;
    struct model *model = naive->world->model;
    double terms[SEQUENCES];
    mark(naive, unit, true);
    bool is_good = model_embed(model, &naive->world->batch, naive->hidden, error) &&
                   model_run_from(model, 0, naive->removed, naive->hidden, error) &&
                   head_distance(model, naive->reference, naive->hidden, 0, SEQUENCES, terms, error);
    mark(naive, unit, false);
    *ret_score = is_good ? head_distance_total(naive->reference, terms) : 0;
    return is_good;
}

static bool naive_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    (void)error;
    mark(context, unit, true);
    return true;
}

/* ---- recording every score ----------------------------------------------------------------------------------------- */

struct recorder {
    struct prune_evaluator interface;
    struct prune_evaluator *inner;
    double *scores;
    size_t count, capacity;
};

static bool record_restart(void *context, const bool *removed, struct error *error)
{
    struct recorder *recorder = context;
    return recorder->inner->restart(recorder->inner->context, removed, error);
}

static bool record_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                            struct error *error)
{
    struct recorder *recorder = context;
    if (!recorder->inner->evaluate(recorder->inner->context, unit, best, ret_score, error)) {
        return false;
    }
    if (recorder->count == recorder->capacity) {
        recorder->capacity = 2 * recorder->capacity + 64;
        recorder->scores = memory_resize(recorder->scores, recorder->capacity, sizeof *recorder->scores);
    }
    recorder->scores[recorder->count++] = *ret_score;
    return true;
}

static bool record_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    struct recorder *recorder = context;
    return recorder->inner->commit(recorder->inner->context, unit, error);
}

/* Ranks everything (or `rounds` rounds), and says what it cost. */
static struct plan *rank(struct world *world, struct prune_evaluator *inner,
                         enum prune_granularity granularity, uint64_t rounds, struct recorder *ret_recorder,
                         uint64_t *ret_token_sublayers)
{
    *ret_recorder = (struct recorder){.inner = inner};
    ret_recorder->interface =
        (struct prune_evaluator){ret_recorder, record_restart, record_evaluate, record_commit};
    struct prune_run run = {.inventory = world->inventory,
                            .sublayers = world->sublayers,
                            .sublayer_count = world->count,
                            .evaluator = &ret_recorder->interface};
    struct greedy_options options = {.granularity = granularity, .is_full_curve = rounds == 0};
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = rounds > 0 ? rounds : 1};
    struct plan *plan = plan_create(world->count);
    struct error error = {0};
    uint64_t before = model_get_work(world->model).token_sublayers;
    if (!greedy_search(&run, &options, &target, plan, &error)) {
        fail_msg("%s", error.message);
    }
    *ret_token_sublayers = model_get_work(world->model).token_sublayers - before;
    return plan;
}

static void compare(struct world *world, enum head_metric metric, enum prune_granularity granularity,
                    uint64_t rounds, uint64_t memory_limit_bytes, const char *label)
{
    struct error error = {0};
    struct naive naive = {.world = world};
    naive.interface = (struct prune_evaluator){&naive, naive_restart, naive_evaluate, naive_commit};
    naive.removed = memory_create(world->count, sizeof *naive.removed);
    naive.hidden = hidden_create(world->model, &world->batch, &error);
    assert_true(model_embed(world->model, &world->batch, naive.hidden, &error));
    assert_true(model_run_from(world->model, 0, NULL, naive.hidden, &error));
    naive.reference = head_reference_create(world->model, naive.hidden, metric, &error);
    assert_non_null(naive.reference);
    OWNED(prefix_evaluator)
    evaluator = prefix_evaluator_create(world->model, &world->batch, metric, memory_limit_bytes, &error);
    assert_non_null(evaluator);
    struct recorder slow;
    struct recorder fast;
    uint64_t slow_work = 0;
    uint64_t fast_work = 0;
    OWNED(plan) expected = rank(world, &naive.interface, granularity, rounds, &slow, &slow_work);
    OWNED(plan)
    plan = rank(world, prefix_evaluator_interface(evaluator), granularity, rounds, &fast, &fast_work);
    assert_int_equal(fast.count, slow.count);
    assert_memory_equal(fast.scores, slow.scores, slow.count * sizeof(double));
    assert_int_equal(plan->point_count, expected->point_count);
    for (size_t i = 0; i < plan->point_count; i++) {
        assert_int_equal(plan->points[i].sublayer, expected->points[i].sublayer);
        assert_memory_equal(&plan->points[i].score, &expected->points[i].score, sizeof(double));
    }
    (void)printf("# %s: %zu candidates, %zu states kept, token-sublayers %llu of %llu naive (%.2fx fewer)\n",
                 label, fast.count, prefix_evaluator_state_count(evaluator), (unsigned long long)fast_work,
                 (unsigned long long)slow_work, (double)slow_work / (double)fast_work);
    free(slow.scores);
    free(fast.scores);
    free(naive.removed);
    hidden_destroy(naive.hidden);
    head_reference_destroy(naive.reference);
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */

#define STORIES PROJECT_ROOT "/../shared/data/models/stories260K"
#define SKILLS  PROJECT_ROOT "/tests/skills/model"

static void stories260k_ranks_alike_by_every_metric(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    if (!world_open(&world, STORIES, 2)) {
        (void)printf("# ../shared/data/models/stories260K is not there\n");
        skip();
    }
    static const struct {
        enum head_metric metric;
        const char *label;
    } rows[] = {{HEAD_METRIC_NORM, "norm"},
                {HEAD_METRIC_ANGULAR, "angular"},
                {HEAD_METRIC_KL, "kl"},
                {HEAD_METRIC_JS, "js"},
                {HEAD_METRIC_JS_TEXTBOOK, "js textbook"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        compare(&world, rows[i].metric, PRUNE_BY_SUBLAYER, 0, 0, rows[i].label);
    }
    compare(&world, HEAD_METRIC_JS, PRUNE_BY_BLOCK, 0, 0, "js, blocks");
}

static void less_memory_changes_no_bit(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    assert_true(world_open(&world, SKILLS, 2));
    struct error error = {0};
    OWNED(hidden) one = hidden_create(world.model, &world.batch, &error);
    uint64_t state_bytes = hidden_bytes(one);
    uint64_t states = world.count + 1;
    compare(&world, HEAD_METRIC_JS, PRUNE_BY_SUBLAYER, 2, 0, "all trajectories");
    compare(&world, HEAD_METRIC_JS, PRUNE_BY_SUBLAYER, 2, state_bytes * (states + 2), "the cache alone");
    compare(&world, HEAD_METRIC_JS, PRUNE_BY_SUBLAYER, 2, state_bytes * 6, "every few states");
    compare(&world, HEAD_METRIC_JS, PRUNE_BY_SUBLAYER, 1, 1, "the embedding alone");
    compare(&world, HEAD_METRIC_KL, PRUNE_BY_BLOCK, 4, state_bytes * 6, "blocks, every few states");
}

static void a_restart_in_the_middle_goes_on_with_the_same_scores(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    assert_true(world_open(&world, SKILLS, 1));
    struct error error = {0};
    OWNED(prefix_evaluator)
    first = prefix_evaluator_create(world.model, &world.batch, HEAD_METRIC_JS, 0, &error);
    OWNED(prefix_evaluator)
    second = prefix_evaluator_create(world.model, &world.batch, HEAD_METRIC_JS, 0, &error);
    struct prune_evaluator *one = prefix_evaluator_interface(first);
    struct prune_evaluator *two = prefix_evaluator_interface(second);
    OWNED_MEMORY bool *removed = memory_create(world.count, sizeof *removed);
    struct prune_unit gone = {5, 1};
    double score = 0;
    assert_true(one->restart(one->context, removed, &error));
    assert_true(one->evaluate(one->context, &gone, INFINITY, &score, &error));
    assert_true(one->commit(one->context, &gone, &error));
    removed[5] = true;
    assert_true(two->restart(two->context, removed, &error));
    for (size_t i = 0; i < world.count; i += 3) {
        if (i == 5) {
            continue;
        }
        struct prune_unit unit = {i, 1};
        double again = 0;
        assert_true(one->evaluate(one->context, &unit, INFINITY, &score, &error));
        assert_true(two->evaluate(two->context, &unit, INFINITY, &again, &error));
        assert_memory_equal(&score, &again, sizeof score);
    }
}

static void block_cosines_lie_between_minus_one_and_one(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    assert_true(world_open(&world, SKILLS, 2));
    struct error error = {0};
    size_t layers = world.inventory->config.layer_count;
    OWNED_MEMORY double *cosines = memory_create(layers, sizeof *cosines);
    OWNED_MEMORY double *again = memory_create(layers, sizeof *again);
    const struct prune_turn_options held = {.angle_memory_bytes = 0};
    const struct prune_turn_options spilled = {
        .sweep = {.chunk_rows = 1, .memory_bytes = 1, .spill_folder = "/tmp"}};
    assert_true(prune_gather_turns(world.model, &world.batch, &held, NULL,
                                   &(struct prune_turns){.block_cosines = cosines}, &error));
    assert_true(prune_gather_turns(world.model, &world.batch, &spilled, NULL,
                                   &(struct prune_turns){.block_cosines = again}, &error));
    assert_memory_equal(cosines, again, layers * sizeof *cosines);
    for (size_t i = 0; i < layers; i++) {
        assert_true(cosines[i] > -1 && cosines[i] < 1);
    }
}

int main(void)
{
    const char *core = getenv("OPENBLAS_CORETYPE");
    if (core != NULL && strcmp(core, "SkylakeX") == 0 && !__builtin_cpu_supports("avx512f")) {
        (void)printf("1..0 # SKIP the CPU has no AVX-512\n");
        return 0;
    }
    if (core != NULL && strcmp(core, "Haswell") == 0 && !__builtin_cpu_supports("avx2")) {
        (void)printf("1..0 # SKIP the CPU has no AVX2\n");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories260k_ranks_alike_by_every_metric),
        cmocka_unit_test(less_memory_changes_no_bit),
        cmocka_unit_test(a_restart_in_the_middle_goes_on_with_the_same_scores),
        cmocka_unit_test(block_cosines_lie_between_minus_one_and_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
