/*
 * The accelerated search against the naive form (one full forward per candidate) on real models: every score and the ranking must agree
 * bit for bit, whatever is kept in memory. Run once per core type that the CPU can play (see meson.build). Models: the one in
 * tests/skills, and stories260K where ../shared/data is there.
 */
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/weights.h"
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

enum { SEQUENCES = 3, MANY_SEQUENCES = 14, TOKENS = 70 };

struct world {
    struct inventory *inventory;
    struct pool *pool;
    struct model *model;
    struct token_batch batch;
    struct objective_text text;
    struct token_sequence sequences[MANY_SEQUENCES];
    int32_t tokens[MANY_SEQUENCES][TOKENS];
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
        /* The families are many: theirs are shorter. The others' rows cross the edge of a block of logits. */
        bool is_family = strstr(folder, "/families/") != NULL;
        world->sequences[s] =
            (struct token_sequence){world->tokens[s], is_family ? 45 - 9 * s : TOKENS - 20 * s};
    }
    world->batch = (struct token_batch){world->sequences, SEQUENCES};
    world->text = (struct objective_text){.batch = world->batch};
    world->count = model_sublayer_count(world->model);
    world->sublayers = memory_create(world->count, sizeof *world->sublayers);
    for (size_t i = 0; i < world->count; i++) {
        world->sublayers[i] = *model_sublayer(world->model, i);
    }
    return true;
}

/* Enough tokens that some say what the others come to. */
static void world_lengthen(struct world *world)
{
    for (size_t s = 0; s < MANY_SEQUENCES; s++) {
        for (size_t t = 0; t < TOKENS; t++) {
            world->tokens[s][t] =
                (int32_t)((t * t * 31 + s * 977 + t * 7 + 3) % world->inventory->config.vocab_size);
        }
        world->sequences[s] = (struct token_sequence){world->tokens[s], TOKENS};
    }
    world->batch.sequence_count = MANY_SEQUENCES;
    world->text.batch.sequence_count = MANY_SEQUENCES;
}

static void world_finish(struct world *world)
{
    model_destroy(world->model);
    pool_destroy(world->pool);
    inventory_destroy(world->inventory);
    free(world->sublayers);
}

/* ---- the naive form ------------------------------------------------------------------------------------------------ */

/* One full forward a candidate, with the same head. Every score is kept, by round and first sublayer. */
struct naive {
    struct prune_evaluator interface;
    struct world *world;
    struct objective_text text;
    struct objective *objective;
    struct hidden *hidden;
    bool *removed;
    double *scores; /* [rounds][sublayers] */
    size_t round;
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
    size_t items = naive->text.batch.sequence_count;
    size_t slot = 0;
    OWNED_MEMORY double *terms = memory_create(items, sizeof *terms);
    OWNED_MEMORY double *values = memory_create(naive->hidden->row_count, sizeof *values);
    struct objective_query query = {
        .hidden = naive->hidden, .slots = &slot, .slot_count = 1, .item_count = items, .values = &values};
    mark(naive, unit, true);
    bool is_good = model_embed(model, &naive->world->batch, naive->hidden, error) &&
                   model_run_from(model, 0, naive->removed, naive->hidden, error) &&
                   objective_evaluate(naive->objective, &query, error) &&
                   objective_terms(naive->objective, 0, items, values, terms, error);
    mark(naive, unit, false);
    *ret_score = is_good ? objective_total(naive->objective, terms) : 0;
    naive->scores[naive->round * naive->world->count + unit->first] = *ret_score;
    return is_good;
}

static bool naive_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    (void)error;
    struct naive *naive = context;
    mark(naive, unit, true);
    naive->round++;
    return true;
}

static void naive_start(struct naive *naive, struct world *world, const struct objective_options *objective)
{
    struct error error = {0};
    *naive = (struct naive){.world = world, .text = world->text};
    naive->interface = (struct prune_evaluator){
        .context = naive, .restart = naive_restart, .evaluate = naive_evaluate, .commit = naive_commit};
    naive->removed = memory_create(world->count, sizeof *naive->removed);
    naive->scores = memory_create(world->count * world->count, sizeof *naive->scores);
    naive->hidden = hidden_create(world->model, &world->batch, &error);
    assert_true(model_embed(world->model, &world->batch, naive->hidden, &error));
    assert_true(model_run_from(world->model, 0, NULL, naive->hidden, &error));
    naive->objective = objective_create(world->model, &naive->text, objective, naive->hidden, &error);
    assert_non_null(naive->objective);
}

static void naive_finish(struct naive *naive)
{
    free(naive->removed);
    free(naive->scores);
    hidden_destroy(naive->hidden);
    objective_destroy(naive->objective);
}

/* ---- checking every score ------------------------------------------------------------------------------------------ */

/* Stands before the evaluator and holds what it says against the naive scores. */
struct checker {
    struct prune_evaluator interface;
    struct prune_evaluator *inner;
    const struct naive *naive;
    size_t round, exact_count, bound_count;
    bool is_screened; /* what goes early is no rigorous bound */
    /* What the evaluator said of screening at the end. */
    int64_t sampled, at_once;
};

static bool check_restart(void *context, const bool *removed, struct error *error)
{
    struct checker *checker = context;
    return checker->inner->restart(checker->inner->context, removed, error);
}

static bool check_evaluate(void *context, const struct prune_unit *unit, double best, double *ret_score,
                           struct error *error)
{
    struct checker *checker = context;
    return checker->inner->evaluate(checker->inner->context, unit, best, ret_score, error);
}

static bool check_round(void *context, struct prune_round *round, struct error *error)
{
    struct checker *checker = context;
    if (!checker->inner->evaluate_round(checker->inner->context, round, error)) {
        return false;
    }
    double best = INFINITY;
    for (size_t i = 0; i < round->count; i++) {
        const struct prune_candidate *candidate = &round->candidates[i];
        best = candidate->standing == PRUNE_EXACT ? fmin(best, candidate->score / candidate->cost) : best;
    }
    for (size_t i = 0; i < round->count; i++) {
        const struct prune_candidate *candidate = &round->candidates[i];
        double should =
            checker->naive->scores[checker->round * checker->naive->world->count + candidate->unit.first];
        if (candidate->standing == PRUNE_EXACT) {
            checker->exact_count++;
            assert_memory_equal(&candidate->score, &should, sizeof should);
        } else if (candidate->standing == PRUNE_BOUND) {
            checker->bound_count++;
            assert_true(should / candidate->cost > best);
            assert_true(checker->is_screened ||
                        (candidate->score <= should && candidate->score / candidate->cost > best));
        } else {
            assert_true(round->lazy_epsilon >= 0);
        }
    }
    return true;
}

static bool check_commit(void *context, const struct prune_unit *unit, struct error *error)
{
    struct checker *checker = context;
    checker->round++;
    return checker->inner->commit(checker->inner->context, unit, error);
}

static bool check_time(void *context, size_t sublayer, double *ret_ms, struct error *error)
{
    struct checker *checker = context;
    return checker->inner->time_sublayer(checker->inner->context, sublayer, ret_ms, error);
}

struct saved {
    json_t *state;
    size_t save_count, stop_after;
    bool counts_inside; /* only resume points with some scores of a round count */
    struct cancel *cancel;
};

static bool keep_state(void *context, const json_t *state, bool must, struct error *error)
{
    (void)must;
    (void)error;
    struct saved *saved = context;
    json_decref(saved->state);
    saved->state = json_deep_copy(state);
    size_t index;
    json_t *score;
    bool is_inside = false; /* some scores of a round are known */
    json_array_foreach(json_object_get(saved->state, "scores"), index, score)
    {
        is_inside = is_inside || json_is_number(score);
    }
    saved->save_count += is_inside || !saved->counts_inside ? 1 : 0;
    if (saved->save_count == saved->stop_after) {
        cancel_request(saved->cancel, CANCEL_DRAIN);
    }
    return true;
}

struct search_case {
    struct objective_options objective;
    struct wave_options wave;
    bool is_exhaustive;
    struct model *screen;
    struct greedy_options greedy;
    size_t rounds;     /* 0: the whole curve */
    size_t stop_after; /* resume points, then the search goes on anew; 0: never */
    bool stops_inside; /* only those with some scores of a round count */
};

static bool run_search(struct world *world, struct prune_evaluator *evaluator, const struct search_case *how,
                       struct saved *saved, const json_t *state, struct plan *plan, struct error *error)
{
    struct greedy_options greedy = how->greedy;
    greedy.is_full_curve = how->rounds == 0;
    struct cancel cancel = {0};
    saved->cancel = &cancel;
    struct prune_run run = {.inventory = world->inventory,
                            .sublayers = world->sublayers,
                            .sublayer_count = world->count,
                            .evaluator = evaluator,
                            .cancel = &cancel,
                            .observer = {.context = saved, .save = keep_state},
                            .state = state};
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED,
                                  .count = how->rounds > 0 ? how->rounds : 1};
    return greedy_search(&run, &greedy, &target, plan, error);
}

/* The accelerated search, stopped and gone on with where the case says so. */
static void search_checked(struct world *world, const struct naive *naive, const struct search_case *how,
                           struct plan *plan, struct checker *checker)
{
    struct error error = {0};
    struct prefix_options options = {.objective = how->objective,
                                     .wave = how->wave,
                                     .is_exhaustive = how->is_exhaustive,
                                     .screen = how->screen};
    struct saved saved = {.stop_after = how->stop_after, .counts_inside = how->stops_inside};
    for (size_t attempt = 0;; attempt++) {
        OWNED(prefix_evaluator)
        evaluator = prefix_evaluator_create(world->model, &world->text, &options);
        *checker = (struct checker){.inner = prefix_evaluator_interface(evaluator),
                                    .naive = naive,
                                    .is_screened = how->screen != NULL};
        checker->interface = (struct prune_evaluator){.context = checker,
                                                      .restart = check_restart,
                                                      .evaluate = check_evaluate,
                                                      .commit = check_commit,
                                                      .evaluate_round = check_round,
                                                      .time_sublayer = check_time};
        JSON_OWNED state = json_deep_copy(saved.state);
        size_t gone = 0; /* what the state has already removed were rounds too */
        for (size_t i = 0; i < json_array_size(json_object_get(state, "points")); i++) {
            gone +=
                json_is_true(json_object_get(json_array_get(json_object_get(state, "points"), i), "is_cut"));
        }
        checker->round = gone;
        saved.stop_after = attempt == 0 ? how->stop_after : 0;
        OWNED(plan) part = plan_create(world->count);
        bool is_done =
            run_search(world, &checker->interface, how, &saved, state, attempt == 0 ? part : plan, &error);
        if (attempt == 0 && is_done) {
            for (size_t i = 0; i < part->point_count; i++) {
                plan_add_point(plan, part->points[i].sublayer, part->points[i].score, part->points[i].is_cut);
            }
            plan_cut(plan, part->removed_count);
        }
        if (!is_done && error.code != ERROR_DRAINED) {
            fail_msg("%s", error.message);
        }
        /* There is a resume point a round at least, so an early stop comes before the end. */
        assert_true(!is_done || attempt > 0 || how->stop_after == 0 || how->stop_after >= how->rounds);
        if (is_done) {
            JSON_OWNED work = checker->inner->describe(checker->inner->context);
            const json_t *screen = json_object_get(work, "screen");
            checker->sampled = json_integer_value(json_object_get(screen, "sampled"));
            checker->at_once = json_integer_value(json_object_get(screen, "confirmed_at_once"));
            break;
        }
        assert_true(attempt == 0);
    }
    json_decref(saved.state);
}

static struct checker compare(struct world *world, const struct search_case *how, const char *label)
{
    struct naive naive;
    naive_start(&naive, world, &how->objective);
    struct saved saved = {0};
    struct error error = {0};
    OWNED(plan) expected = plan_create(world->count);
    OWNED(plan) plan = plan_create(world->count);
    uint64_t start = model_get_work(world->model).token_sublayers;
    assert_true(run_search(world, &naive.interface, how, &saved, NULL, expected, &error));
    uint64_t slow = model_get_work(world->model).token_sublayers - start;
    json_decref(saved.state);
    struct checker checker;
    start = model_get_work(world->model).token_sublayers;
    search_checked(world, &naive, how, plan, &checker);
    uint64_t fast = model_get_work(world->model).token_sublayers - start;
    assert_int_equal(plan->point_count, expected->point_count);
    for (size_t i = 0; i < plan->point_count; i++) {
        assert_int_equal(plan->points[i].sublayer, expected->points[i].sublayer);
        assert_memory_equal(&plan->points[i].score, &expected->points[i].score, sizeof(double));
    }
    (void)printf("# %s: %zu exact, %zu bounds, token-sublayers %llu of %llu naive (%.2fx fewer)\n", label,
                 checker.exact_count, checker.bound_count, (unsigned long long)fast, (unsigned long long)slow,
                 (double)slow / (double)fast);
    naive_finish(&naive);
    return checker;
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */

#define STORIES PROJECT_ROOT "/../shared/data/models/stories260K"
#define SKILLS  PROJECT_ROOT "/tests/skills/model"

static const struct objective_options metrics[] = {
    {.metric = HEAD_METRIC_JS}, {.metric = HEAD_METRIC_NORM},        {.metric = HEAD_METRIC_ANGULAR},
    {.metric = HEAD_METRIC_KL}, {.metric = HEAD_METRIC_JS_TEXTBOOK}, {.kind = OBJECTIVE_NLL},
};
static const char *const metric_names[] = {"js", "norm", "angular", "kl", "js textbook", "nll"};
#define METRIC_COUNT (sizeof metrics / sizeof metrics[0])

static void stories260k_ranks_alike_by_every_metric(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    if (!world_open(&world, STORIES, 2)) {
        (void)printf("# ../shared/data/models/stories260K is not there\n");
        skip();
    }
    for (size_t i = 0; i < METRIC_COUNT; i++) {
        compare(&world, &(struct search_case){.objective = metrics[i]}, metric_names[i]);
    }
    compare(&world, &(struct search_case){.greedy = {.granularity = PRUNE_BY_BLOCK}, .objective = metrics[0]},
            "js, blocks");
}

/* Parallel layers, norms around and after, experts, windows, learned positions, and the plain ones. */
static void every_family_ranks_alike_with_every_switch(void **state)
{
    (void)state;
    static const char *const families[] = {"gpt_neox",   "gpt_neox_serial", "mixtral", "qwen3_moe",
                                           "gemma2",     "gemma3_text",     "gpt2",    "opt",
                                           "llama_bias", "qwen2_window"};
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++) {
        FINISHED(world) world = {0};
        char folder[512];
        (void)snprintf(folder, sizeof folder, PROJECT_ROOT "/tests/golden/families/%s", families[f]);
        assert_true(world_open(&world, folder, 1));
        for (unsigned bits = 0; bits < 16; bits++) {
            struct search_case how = {.objective = metrics[(bits + f) % METRIC_COUNT],
                                      .wave = {.is_uncached = (bits & 1) != 0, .is_single = (bits & 2) != 0},
                                      .is_exhaustive = (bits & 4) != 0};
            how.greedy.granularity = (bits & 8) != 0 ? PRUNE_BY_BLOCK : PRUNE_BY_SUBLAYER;
            compare(&world, &how, families[f]);
        }
    }
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
    struct search_case how = {.objective = metrics[0], .rounds = 2};
    compare(&world, &how, "all trajectories");
    static const char *const labels[] = {"the cache alone", "few states", "one sequence"};
    const uint64_t limits[] = {state_bytes * (states + 2), state_bytes * 6, 1};
    for (size_t i = 0; i < 3; i++) {
        how.wave.memory_limit_bytes = limits[i];
        compare(&world, &how, labels[i]);
    }
    how.greedy.granularity = PRUNE_BY_BLOCK;
    how.rounds = 4;
    how.wave.memory_limit_bytes = state_bytes * 6;
    compare(&world, &how, "blocks, few states");
}

static void streamed_weights_change_no_bit_and_are_read_once_a_round(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    assert_true(world_open(&world, SKILLS, 2));
    struct weights_size size;
    weights_measure(world.inventory, NULL, DTYPE_F32, &size);
    struct weights *weights = model_get_weights(world.model);
    struct search_case how = {.objective = metrics[0], .rounds = 3};
    compare(&world, &how, "resident");
    weights_set_budget(weights, size.least_bytes);
    assert_false(model_is_resident(world.model));
    compare(&world, &how, "streamed");
    struct error error = {0};
    struct prefix_options options = {.objective = how.objective};
    OWNED(prefix_evaluator)
    evaluator = prefix_evaluator_create(world.model, &world.text, &options);
    struct saved saved = {0};
    OWNED(plan) plan = plan_create(world.count);
    uint64_t before = weights_bytes_read(weights);
    assert_true(run_search(&world, prefix_evaluator_interface(evaluator), &how, &saved, NULL, plan, &error));
    json_decref(saved.state);
    uint64_t whole = world.inventory->weight_bytes;
    (void)printf("# read %.2f times the model in %zu rounds\n",
                 (double)(weights_bytes_read(weights) - before) / (double)whole, how.rounds);
    assert_in_range(weights_bytes_read(weights) - before, whole, (how.rounds + 1) * whole);
}

static void screening_in_bf16_leaves_winners_and_scores_as_they_are(void **state)
{
    (void)state;
    static const char *const folders[] = {SKILLS, STORIES, PROJECT_ROOT "/tests/golden/families/gpt_neox",
                                          PROJECT_ROOT "/tests/golden/families/qwen3_moe"};
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
        FINISHED(world) world = {0};
        if (!world_open(&world, folders[f], 2)) {
            continue;
        }
        struct error error = {0};
        struct model_options options = {.pool = world.pool, .dtype = DTYPE_BF16};
        OWNED(model) screen = model_open(world.inventory, folders[f], &options, &error);
        assert_non_null(screen);
        for (size_t i = 0; i < METRIC_COUNT; i += 2) {
            struct search_case how = {
                .objective = metrics[i], .screen = screen, .rounds = 5, .is_exhaustive = i == 4};
            if (how.rounds >= world.count) {
                how.rounds = world.count - 1;
            }
            compare(&world, &how, metric_names[i]);
        }
    }
}

static void whoever_goes_by_what_some_tokens_say_would_have_lost(void **state)
{
    (void)state;
    static const char *const folders[] = {SKILLS, STORIES};
    for (size_t f = 0; f < sizeof folders / sizeof folders[0]; f++) {
        FINISHED(world) world = {0};
        if (!world_open(&world, folders[f], 2)) {
            continue;
        }
        world_lengthen(&world);
        struct error error = {0};
        struct model_options options = {.pool = world.pool, .dtype = DTYPE_BF16};
        OWNED(model) screen = model_open(world.inventory, folders[f], &options, &error);
        assert_non_null(screen);
        struct search_case how = {.objective = metrics[0], .screen = screen};
        bool is_small = f == 1; /* the larger model takes most of this file's time: it has one case of each */
        for (size_t g = 0; g < (is_small ? 3 : 1); g++) {
            how.greedy.granularity = g == 1 ? PRUNE_BY_BLOCK : PRUNE_BY_SUBLAYER;
            how.greedy.rank = g == 2 ? GREEDY_BY_SCORE_PER_PARAMETER : GREEDY_BY_SCORE;
            how.rounds = g == 1 || !is_small ? 3 : 5;
            struct checker said = compare(&world, &how, "sampled");
            (void)printf("# %lld went by some of the tokens, %lld were confirmed at once\n",
                         (long long)said.sampled, (long long)said.at_once);
            assert_true(said.sampled > 0 && said.at_once > 0);
        }
        how = (struct search_case){.objective = metrics[3], .screen = screen, .rounds = is_small ? 3 : 2};
        how.stops_inside = true;
        for (how.stop_after = is_small ? 1 : 2; how.stop_after < (is_small ? 4 : 3); how.stop_after++) {
            compare(&world, &how, "sampled, stopped");
        }
    }
}

static void a_search_stopped_in_the_middle_of_a_round_goes_on_to_the_same_plan(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    assert_true(world_open(&world, SKILLS, 1));
    for (size_t stop = 1; stop < 14; stop += 3) {
        struct search_case how = {.objective = metrics[stop % METRIC_COUNT], .rounds = 4, .stop_after = stop};
        compare(&world, &how, "stopped");
        how.wave.is_single = true;
        how.is_exhaustive = true;
        how.greedy.rank = GREEDY_BY_SCORE_PER_PARAMETER;
        compare(&world, &how, "stopped, per parameter");
    }
}

/* The plan of a lazy search, stopped after `stop` resume points or not at all. */
static struct plan *search_lazily(struct world *world, const struct naive *naive, double epsilon, size_t stop)
{
    struct search_case how = {
        .objective = metrics[0], .rounds = 5, .stop_after = stop, .greedy = {.lazy_epsilon = epsilon}};
    struct plan *plan = plan_create(world->count);
    struct checker checker;
    search_checked(world, naive, &how, plan, &checker);
    return plan;
}

/* Its choice may differ from the exhaustive one, so it is held against itself; with epsilon near 1 nobody is left out. */
static void a_lazy_search_repeats_itself_and_is_verified_at_its_end(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    assert_true(world_open(&world, SKILLS, 2));
    struct naive naive;
    struct error error = {0};
    struct saved saved = {0};
    struct search_case how = {.objective = metrics[0], .rounds = 5};
    naive_start(&naive, &world, &how.objective);
    OWNED(plan) expected = plan_create(world.count);
    assert_true(run_search(&world, &naive.interface, &how, &saved, NULL, expected, &error));
    json_decref(saved.state);
    OWNED(plan) all = search_lazily(&world, &naive, 0.999999, 0);
    assert_memory_equal(all->removed, expected->removed, world.count * sizeof(bool));
    OWNED(plan) whole = search_lazily(&world, &naive, 0.3, 0);
    assert_memory_equal(&whole->points[0].score, &expected->points[0].score, sizeof(double));
    for (size_t stop = 2; stop < 8; stop += 2) {
        OWNED(plan) plan = search_lazily(&world, &naive, 0.3, stop);
        assert_int_equal(plan->point_count, whole->point_count);
        for (size_t i = 0; i < plan->point_count; i++) {
            assert_int_equal(plan->points[i].sublayer, whole->points[i].sublayer);
            assert_memory_equal(&plan->points[i].score, &whole->points[i].score, sizeof(double));
        }
    }
    naive_finish(&naive);
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
        cmocka_unit_test(every_family_ranks_alike_with_every_switch),
        cmocka_unit_test(streamed_weights_change_no_bit_and_are_read_once_a_round),
        cmocka_unit_test(screening_in_bf16_leaves_winners_and_scores_as_they_are),
        cmocka_unit_test(whoever_goes_by_what_some_tokens_say_would_have_lost),
        cmocka_unit_test(a_search_stopped_in_the_middle_of_a_round_goes_on_to_the_same_plan),
        cmocka_unit_test(a_lazy_search_repeats_itself_and_is_verified_at_its_end),
        cmocka_unit_test(block_cosines_lie_between_minus_one_and_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
