/*
 * A measurement that is stopped after any batch and taken up again ends at the same digits: perplexity by both protocols, generated
 * answers, choices. On the model and tasks of tests/skills.
 */
#include "base/cleanup.h"
#include "workers/evaluate/perplexity.h"
#include "workers/evaluate/tasks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SKILLS PROJECT_ROOT "/tests/skills"

struct world {
    struct inventory *inventory;
    struct pool *pool;
    struct model *model;
    struct tokenizer *tokenizer;
    struct cancel cancel;
    size_t batches, stop_after;
};

static void world_open(struct world *world)
{
    *world = (struct world){0};
    FINISHED(error_list) faults = {0};
    world->inventory = inventory_inspect(SKILLS "/model", false, NULL, &faults);
    world->pool = pool_create(2, NULL);
    struct model_options options = {.pool = world->pool};
    world->model = model_open(world->inventory, SKILLS "/model", &options, NULL);
    world->tokenizer = tokenizer_load(SKILLS "/model", NULL);
    assert_true(world->model != NULL && world->tokenizer != NULL);
}

static void world_close(struct world *world)
{
    tokenizer_destroy(world->tokenizer);
    model_destroy(world->model);
    pool_destroy(world->pool);
    inventory_destroy(world->inventory);
}

static void on_progress(void *context, const char *what, uint64_t done, uint64_t total, const char *unit)
{
    (void)what;
    (void)unit;
    struct world *world = context;
    assert_true(done <= total);
    world->batches++;
    if (world->batches == world->stop_after) {
        cancel_request(&world->cancel, CANCEL_NOW);
    }
}

/* Runs `measure` in pieces of stop_after batches until it is done; returns how many pieces that took. */
static size_t run_in_pieces(struct world *world, size_t stop_after, size_t batch_tokens,
                            bool (*measure)(struct world *world, const struct evaluate_control *control,
                                            void *result, struct error *error),
                            void *result)
{
    JSON_OWNED place = json_object();
    for (size_t piece = 1; piece < 200; piece++) {
        atomic_store(&world->cancel.state, CANCEL_NONE);
        world->batches = 0;
        world->stop_after = stop_after;
        struct evaluate_control control = {.batch_tokens = batch_tokens,
                                           .cancel = &world->cancel,
                                           .context = world,
                                           .progress = on_progress,
                                           .resume = stop_after > 0 ? place : NULL};
        struct error error = {0};
        if (measure(world, &control, result, &error)) {
            return piece;
        }
        assert_int_equal(error.code, ERROR_CANCELLED);
    }
    fail_msg("it never ended");
    return 0;
}

static const struct corpus *text; /* of the perplexity tests */
static enum perplexity_protocol protocol;

static bool measure_perplexity(struct world *world, const struct evaluate_control *control, void *result,
                               struct error *error)
{
    return perplexity_measure(world->model, world->tokenizer, text, protocol, 64, control, result, error);
}

static void perplexity_goes_on_to_the_same_digits(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    struct corpus_options options = {.path = SKILLS "/data/evaluation.txt", .half = CORPUS_FIRST_HALF};
    OWNED(corpus) corpus = corpus_load(&options, NULL);
    assert_non_null(corpus);
    text = corpus;
    for (int p = PERPLEXITY_GPTQ; p <= PERPLEXITY_ROLLING; p++) {
        protocol = (enum perplexity_protocol)p;
        struct perplexity whole = {0};
        struct perplexity pieces = {0};
        assert_int_equal(run_in_pieces(&world, 0, 2048, measure_perplexity, &whole), 1);
        assert_true(run_in_pieces(&world, 1, 2048, measure_perplexity, &pieces) > 2);
        assert_memory_equal(&whole.nll_sum, &pieces.nll_sum, sizeof whole.nll_sum);
        assert_memory_equal(&whole.perplexity, &pieces.perplexity, sizeof whole.perplexity);
        assert_memory_equal(&whole.bits_per_byte, &pieces.bits_per_byte, sizeof whole.bits_per_byte);
        assert_int_equal(whole.token_count, pieces.token_count);
    }
    world_close(&world);
}

static const struct task_set *set;

static bool measure_task(struct world *world, const struct evaluate_control *control, void *result,
                         struct error *error)
{
    return task_measure(world->model, world->tokenizer, set, control, result, error);
}

static void compare_task(struct world *world, enum task_kind kind, const char *path)
{
    OWNED(task_set) loaded = task_set_load("skill", kind, path, NULL, NULL, NULL);
    assert_non_null(loaded);
    loaded->record_count = loaded->record_count < 60 ? loaded->record_count : 60;
    set = loaded;
    struct task_result whole = {0};
    struct task_result pieces = {0};
    assert_int_equal(run_in_pieces(world, 0, 512, measure_task, &whole), 1);
    assert_true(run_in_pieces(world, 2, 512, measure_task, &pieces) > 1);
    assert_int_equal(whole.correct_count, pieces.correct_count);
    assert_int_equal(whole.correct_norm_count, pieces.correct_norm_count);
    assert_int_equal(whole.generated_tokens, pieces.generated_tokens);
}

static void tasks_go_on_to_the_same_counts(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    compare_task(&world, TASK_GENERATE, SKILLS "/data/copy.jsonl");
    compare_task(&world, TASK_CHOICE, SKILLS "/data/choice/agree.jsonl");
    world_close(&world);
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(perplexity_goes_on_to_the_same_digits),
        cmocka_unit_test(tasks_go_on_to_the_same_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
