/*
 * One job from spec to files, on the model and text of tests/skills: what an observer sees, cancel, drain and resume, less memory, and
 * what the catalogue and the plan of the work say.
 */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/param.h"
#include "workers/recipe/catalogue.h"
#include "workers/recipe/recipe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL       PROJECT_ROOT "/tests/skills/model"
#define CALIBRATION PROJECT_ROOT "/tests/skills/data/calibration.txt"
#define EVALUATION  PROJECT_ROOT "/tests/skills/data/evaluation.txt"

struct world {
    char folder[64];
    json_t *spec, *inputs;
    struct cancel cancel;
    size_t step_count, cancel_after;
    enum cancel_state cancel_with;
    double last_ratio;
    char stages[256];
    struct recipe_job job;
};

static void on_stage(void *context, const char *stage)
{
    struct world *world = context;
    (void)strncat(world->stages, stage, sizeof world->stages - strlen(world->stages) - 1);
    (void)strncat(world->stages, " ", sizeof world->stages - strlen(world->stages) - 1);
}

static void on_progress(void *context, const char *stage, uint64_t step, uint64_t steps, const char *unit,
                        double ratio, double rate, double eta)
{
    (void)rate;
    (void)eta;
    struct world *world = context;
    assert_non_null(stage);
    assert_non_null(unit);
    assert_true(step <= steps || steps == 0);
    assert_true(ratio >= world->last_ratio && ratio <= 1);
    world->last_ratio = ratio;
}

static void on_step(void *context, const char *stage, uint64_t step)
{
    (void)stage;
    (void)step;
    struct world *world = context;
    world->step_count++;
    if (world->cancel_after != 0 && world->step_count == world->cancel_after) {
        cancel_request(&world->cancel, world->cancel_with);
    }
}

static void world_start(struct world *world, const char *method, int removed)
{
    *world = (struct world){.folder = "/tmp/pruned-recipe-XXXXXX"};
    assert_non_null(mkdtemp(world->folder));
    world->spec =
        json_pack("{s:s, s:s, s:{s:s}, s:{s:i}, s:{s:s, s:i, s:i}, s:{s:b}}", "type", "pruning", "model",
                  MODEL, "method", "type", method, "target", "sublayers_removed", removed, "calibration",
                  "source", CALIBRATION, "num_samples", 3, "window_tokens", 48, "evaluation", "speed", 0);
    assert_non_null(world->spec);
    world->inputs = json_pack("{s:s, s:s}", CALIBRATION, CALIBRATION, EVALUATION, EVALUATION);
    world->job = (struct recipe_job){.spec = world->spec,
                                     .model_folder = MODEL,
                                     .inputs = world->inputs,
                                     .work_folder = world->folder,
                                     .threads = 2,
                                     .cancel = &world->cancel,
                                     .observer = {world, on_stage, on_progress, on_step, NULL}};
}

static void world_finish(struct world *world)
{
    json_decref(world->spec);
    json_decref(world->inputs);
    assert_true(file_remove_tree(world->folder, NULL));
}

static bool run_world(struct world *world, json_t **ret_result, struct error *error)
{
    json_t *files = NULL;
    const char *stage = NULL;
    bool is_done = recipe_run(&world->job, &files, ret_result, &stage, error);
    assert_non_null(stage);
    assert_int_equal(is_done, files != NULL);
    json_decref(files);
    return is_done;
}

static char *read_sums(const struct world *world)
{
    OWNED_MEMORY char *path = file_join(world->folder, "out/SHA256SUMS");
    size_t count = 0;
    return file_load(path, 1 << 20, &count, NULL);
}

static void a_job_goes_through_its_stages_and_never_backwards(void **state)
{
    (void)state;
    struct world world;
    world_start(&world, "finercut", 2);
    struct error error = {0};
    JSON_OWNED result = NULL;
    uint64_t activity = recipe_activity();
    if (!run_world(&world, &result, &error)) {
        fail_msg("%s", error.message);
    }
    assert_string_equal(world.stages, "inspect calibrate score search rewrite export evaluate ");
    assert_true(world.last_ratio > 0.999);
    assert_true(world.step_count >= 3);
    assert_true(recipe_activity() > activity);
    assert_int_equal(json_array_size(json_object_get(result, "removed")), 2);
    world_finish(&world);
}

static uint64_t plan_member(const struct world *world, const char *name)
{
    FINISHED(error_list) faults = {0};
    JSON_OWNED plan = NULL;
    JSON_OWNED inventory = NULL;
    assert_true(recipe_plan(&world->job, &plan, &inventory, &faults));
    return (uint64_t)json_integer_value(json_object_get(plan, name));
}

/* From all that it would take down to the least: held, spilled, streamed. */
static void less_memory_gives_the_same_bytes(void **state)
{
    (void)state;
    static const char *const methods[] = {"finercut", "shortgpt"};
    for (size_t m = 0; m < 2; m++) {
        struct world roomy;
        struct error error = {0};
        JSON_OWNED first = NULL;
        world_start(&roomy, methods[m], 2);
        uint64_t whole = plan_member(&roomy, "memory_bytes");
        uint64_t least = plan_member(&roomy, "memory_bytes_least");
        assert_true(least < whole);
        assert_true(run_world(&roomy, &first, &error));
        OWNED_MEMORY char *one = read_sums(&roomy);
        for (size_t i = 0; i < 4; i++) {
            struct world tight;
            JSON_OWNED second = NULL;
            world_start(&tight, methods[m], 2);
            tight.job.memory_limit_bytes = least + (whole - least) * i / 4;
            assert_true(plan_member(&tight, "memory_bytes") <= tight.job.memory_limit_bytes);
            if (!run_world(&tight, &second, &error)) {
                fail_msg("%s", error.message);
            }
            OWNED_MEMORY char *two = read_sums(&tight);
            assert_string_equal(one, two);
            world_finish(&tight);
        }
        struct world refused;
        JSON_OWNED none = NULL;
        world_start(&refused, methods[m], 2);
        refused.job.memory_limit_bytes = least - 1;
        assert_false(run_world(&refused, &none, &error));
        assert_int_equal(error.code, ERROR_OUT_OF_MEMORY);
        world_finish(&refused);
        world_finish(&roomy);
    }
}

static void drained_after_any_step_it_goes_on_to_the_same_bytes(void **state)
{
    (void)state;
    struct world whole;
    struct error error = {0};
    JSON_OWNED expected = NULL;
    world_start(&whole, "shortgpt", 4);
    assert_true(run_world(&whole, &expected, &error));
    OWNED_MEMORY char *sums = read_sums(&whole);
    for (size_t stop = 1; stop < whole.step_count; stop++) {
        struct world cut;
        world_start(&cut, "shortgpt", 4);
        cut.cancel_after = stop;
        cut.cancel_with = CANCEL_DRAIN;
        error = (struct error){0};
        JSON_OWNED result = NULL;
        if (run_world(&cut, &result, &error)) {
            world_finish(&cut); /* the last steps have nothing after them that could stop */
            continue;
        }
        assert_int_equal(error.code, ERROR_DRAINED);
        atomic_store(&cut.cancel.state, CANCEL_NONE);
        cut.cancel_after = 0;
        cut.last_ratio = 0;
        JSON_OWNED again = NULL;
        assert_true(run_world(&cut, &again, &error));
        OWNED_MEMORY char *resumed = read_sums(&cut);
        assert_string_equal(resumed, sums);
        world_finish(&cut);
    }
    world_finish(&whole);
}

static void a_cancelled_job_says_so(void **state)
{
    (void)state;
    struct world world;
    world_start(&world, "finercut", 6);
    world.cancel_after = 1;
    world.cancel_with = CANCEL_NOW;
    struct error error = {0};
    JSON_OWNED result = NULL;
    assert_false(run_world(&world, &result, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    world_finish(&world);
}

static void a_damaged_export_is_made_again(void **state)
{
    (void)state;
    struct world world;
    struct error error = {0};
    JSON_OWNED first = NULL;
    JSON_OWNED second = NULL;
    world_start(&world, "random", 3);
    assert_true(run_world(&world, &first, &error));
    OWNED_MEMORY char *sums = read_sums(&world);
    OWNED_MEMORY char *weights = file_join(world.folder, "out/model.safetensors");
    assert_true(file_save(weights, "short", 5, 0644, &error));
    world.last_ratio = 0;
    assert_true(run_world(&world, &second, &error));
    OWNED_MEMORY char *again = read_sums(&world);
    assert_string_equal(again, sums);
    world_finish(&world);
}

static void the_plan_of_the_work_is_exact_for_methods_without_data(void **state)
{
    (void)state;
    struct world world;
    world_start(&world, "last_blocks", 4);
    FINISHED(error_list) faults = {0};
    JSON_OWNED plan = NULL;
    JSON_OWNED inventory = NULL;
    assert_true(recipe_plan(&world.job, &plan, &inventory, &faults));
    assert_non_null(inventory);
    const json_t *output = json_object_get(plan, "output");
    assert_true(json_is_true(json_object_get(output, "is_exact")));
    JSON_OWNED result = NULL;
    struct error error = {0};
    assert_true(run_world(&world, &result, &error));
    const json_t *after = json_object_get(json_object_get(result, "size"), "after");
    assert_true(json_equal(json_object_get(output, "parameters"), json_object_get(after, "parameters")));
    assert_true(json_equal(json_object_get(output, "weight_bytes"), json_object_get(after, "weight_bytes")));
    assert_true(json_integer_value(json_object_get(plan, "memory_bytes")) > 1000000);
    world_finish(&world);
}

static void the_plan_of_the_work_lists_every_fault(void **state)
{
    (void)state;
    struct world world;
    world_start(&world, "finercut", 24);
    json_put_i64(json_object_get(world.spec, "calibration"), "window_tokens", 100000);
    json_put(world.spec, "evaluation",
             json_pack("{s:{s:s}, s:i}", "text", "source", "nowhere", "window_tokens", 100000));
    FINISHED(error_list) faults = {0};
    JSON_OWNED plan = NULL;
    JSON_OWNED inventory = NULL;
    assert_false(recipe_plan(&world.job, &plan, &inventory, &faults));
    static const char *const fields[] = {"/calibration/window_tokens", "/evaluation/text/source",
                                         "/evaluation/window_tokens", "/target/sublayers_removed"};
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
        bool is_found = false;
        for (size_t i = 0; i < faults.stored; i++) {
            is_found = is_found || strcmp(faults.items[i].field, fields[f]) == 0;
        }
        if (!is_found) {
            fail_msg("no fault at %s", fields[f]);
        }
    }
    world_finish(&world);
}

static void the_catalogue_travels_and_still_validates(void **state)
{
    (void)state;
    JSON_OWNED catalogue = recipe_catalogue();
    OWNED_MEMORY char *text = json_format(catalogue, false);
    struct error error = {0};
    JSON_OWNED again = json_parse(text, strlen(text), 16 << 20, &error);
    const json_t *types = json_object_get(again, "job_types");
    const json_t *body = json_object_get(json_object_get(types, "pruning"), "body");
    FINISHED(param_tree) tree = {0};
    assert_true(param_parse(body, &tree, &error));
    struct world world;
    world_start(&world, "finercut", 2);
    (void)json_object_del(world.spec, "type");
    FINISHED(error_list) faults = {0};
    assert_true(param_validate(tree.root, world.spec, "", &faults));
    JSON_OWNED here = param_resolve(catalogue_body("pruning"), world.spec);
    JSON_OWNED there = param_resolve(tree.root, world.spec);
    assert_true(json_equal(here, there));
    assert_non_null(
        json_object_get(json_object_get(json_object_get(here, "method"), "finercut"), "protect_ratio"));
    assert_null(catalogue_body("merging"));
    world_finish(&world);
}

int main(void)
{
    json_start();
    file_sync_failure_is_error = true;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_goes_through_its_stages_and_never_backwards),
        cmocka_unit_test(less_memory_gives_the_same_bytes),
        cmocka_unit_test(drained_after_any_step_it_goes_on_to_the_same_bytes),
        cmocka_unit_test(a_cancelled_job_says_so),
        cmocka_unit_test(a_damaged_export_is_made_again),
        cmocka_unit_test(the_plan_of_the_work_is_exact_for_methods_without_data),
        cmocka_unit_test(the_plan_of_the_work_lists_every_fault),
        cmocka_unit_test(the_catalogue_travels_and_still_validates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
