/*
 * tests/unit/workers/evaluate/tasks_golden_test.c: on records of eight public sets real models give each choice the log-likelihood
 * that transformers gives it under lm-evaluation-harness' rules (tests/golden/tasks/), and so the same accuracies. Skips what is not
 * there.
 */
#include "tests/unit/workers/data/fixture.h"
#include "workers/evaluate/evaluate.h"

#include <math.h>

/* Nats of a sum over a continuation; both sides compute in fp32. 6.3e-5 at most was seen (a continuation of 100
 * tokens), a few units in the last place of each of its logits. */
#define TOLERANCE 2e-4

struct loaded {
    char name[64];
    struct inventory *inventory;
    struct pool *pool;
    struct model *model;
    struct tokenizer *tokenizer;
};

static char *data_path(const char *folder, const char *name)
{
    const char *root = getenv("PRUNED_TEST_DATA");
    OWNED_MEMORY char *inner = file_join(root != NULL ? root : "../shared/data", folder);
    return file_join(inner, name);
}

static const char *member(const json_t *golden, const char *name)
{
    return json_string_value(json_object_get(golden, name));
}

static void unload(struct loaded *loaded)
{
    tokenizer_destroy(loaded->tokenizer);
    model_destroy(loaded->model);
    pool_destroy(loaded->pool);
    inventory_destroy(loaded->inventory);
    *loaded = (struct loaded){0};
}

static bool load_model(struct loaded *loaded, const char *name)
{
    if (strcmp(loaded->name, name) == 0) {
        return true;
    }
    unload(loaded);
    OWNED_MEMORY char *folder = data_path("models", name);
    if (!file_is_folder(folder)) {
        return false;
    }
    FINISHED(error_list) faults = {0};
    loaded->inventory = inventory_inspect(folder, false, NULL, &faults);
    loaded->pool = pool_create(2, NULL);
    struct model_options options = {.pool = loaded->pool};
    loaded->model = model_open(loaded->inventory, folder, &options, NULL);
    loaded->tokenizer = tokenizer_load(folder, NULL);
    assert_true(loaded->model != NULL && loaded->tokenizer != NULL);
    (void)snprintf(loaded->name, sizeof loaded->name, "%s", name);
    return true;
}

static struct task_set *load_set(const json_t *golden)
{
    char file[96];
    (void)snprintf(file, sizeof file, "%s.jsonl", member(golden, "set"));
    OWNED_MEMORY char *path = data_path("eval/llm-foundry", file);
    enum task_kind kind = TASK_GENERATE;
    assert_true(task_kind_parse(member(golden, "kind"), &kind));
    struct task_set *set =
        file_exists(path) ? task_set_load(member(golden, "set"), kind, path, NULL, NULL, NULL) : NULL;
    if (set != NULL) {
        task_set_limit(set, (size_t)json_integer_value(json_object_get(golden, "limit")));
        task_set_delimit(set, member(golden, "delimiter"));
    }
    return set;
}

static double compare_likelihoods(const struct loaded *loaded, const struct task_set *set,
                                  const json_t *golden, const struct evaluate_control *control)
{
    size_t count = task_item_count(set), at = 0;
    OWNED_MEMORY struct task_likelihood *found = memory_create(count, sizeof *found);
    assert_true(task_likelihoods(loaded->model, loaded->tokenizer, set, control, found, NULL));
    double worst = 0;
    for (size_t i = 0; i < set->record_count; i++) {
        const json_t *wanted = json_array_get(json_object_get(golden, "nll"), i);
        const json_t *greedy = json_array_get(json_object_get(golden, "is_greedy"), i);
        assert_int_equal(json_array_size(wanted), set->records[i].choice_count);
        for (size_t c = 0; c < json_array_size(wanted); c++, at++) {
            worst = fmax(worst, fabs(found[at].nll - json_real_value(json_array_get(wanted, c))));
            assert_int_equal(found[at].is_greedy, json_is_true(json_array_get(greedy, c)));
        }
    }
    assert_int_equal(at, count);
    return worst;
}

static double number(const json_t *golden, const char *name)
{
    return json_number_value(json_object_get(golden, name));
}

static void compare_case(const struct loaded *loaded, const struct task_set *set, const json_t *golden)
{
    struct evaluate_control control = {0};
    double worst = compare_likelihoods(loaded, set, golden, &control);
    struct task_result result = {0};
    assert_true(task_measure(loaded->model, loaded->tokenizer, set, &control, &result, NULL));
    print_message("# %s on %s: accuracy %.4f, log-likelihoods at most %.2g away\n", loaded->name, set->name,
                  result.accuracy, worst);
    assert_true(worst < TOLERANCE);
    assert_true(fabs(result.accuracy - number(golden, "accuracy")) < 1e-12);
    assert_true(fabs(result.accuracy_stderr - number(golden, "accuracy_stderr")) < 1e-12);
    assert_int_equal(result.has_norm, json_object_get(golden, "accuracy_norm") != NULL);
    if (result.has_norm) {
        assert_true(fabs(result.accuracy_norm - number(golden, "accuracy_norm")) < 1e-12);
        assert_true(fabs(result.accuracy_norm_stderr - number(golden, "accuracy_norm_stderr")) < 1e-12);
        assert_true(fabs(result.accuracy_bytes - number(golden, "accuracy_bytes")) < 1e-12);
        assert_true(fabs(result.accuracy_bytes_stderr - number(golden, "accuracy_bytes_stderr")) < 1e-12);
    }
    if (set->kind == TASK_LANGUAGE_MODELING) {
        assert_true(fabs(result.perplexity / number(golden, "perplexity") - 1) < TOLERANCE);
    }
}

static void real_models_rate_choices_as_transformers_does(void **state)
{
    (void)state;
    const char *source = getenv("PRUNED_TEST_SOURCE");
    OWNED_MEMORY char *path = file_join(source != NULL ? source : ".", "tests/golden/tasks/tasks.json");
    JSON_OWNED goldens = json_load(path, 4u << 20, NULL);
    assert_non_null(goldens);
    struct loaded loaded = {0};
    size_t done = 0;
    for (size_t i = 0; i < json_array_size(goldens); i++) {
        const json_t *golden = json_array_get(goldens, i);
        OWNED(task_set) set = load_set(golden);
        if (set != NULL && load_model(&loaded, member(golden, "model"))) {
            compare_case(&loaded, set, golden);
            done++;
        }
    }
    unload(&loaded);
    if (done == 0) {
        print_message("no models and sets under PRUNED_TEST_DATA: nothing compared\n");
        skip();
    }
}

/* Digits do not depend on how many records go at once. */
static void batches_do_not_change_a_digit(void **state)
{
    (void)state;
    static const char *const names[] = {"boolq", "winogrande", "openbook_qa"};
    struct loaded loaded = {0};
    if (!load_model(&loaded, "stories260K")) {
        skip();
    }
    for (size_t n = 0; n < 3; n++) {
        char file[64];
        (void)snprintf(file, sizeof file, "%s.jsonl", names[n]);
        OWNED_MEMORY char *path = data_path("eval/llm-foundry", file);
        OWNED(task_set) set = task_set_load(names[n], TASK_CHOICE, path, NULL, NULL, NULL);
        assert_non_null(set);
        task_set_limit(set, 8);
        size_t count = task_item_count(set);
        struct task_likelihood found[2][64];
        assert_true(count <= 64);
        for (size_t i = 0; i < 2; i++) {
            struct evaluate_control control = {.batch_tokens = i == 0 ? 1 : 8192};
            assert_true(task_likelihoods(loaded.model, loaded.tokenizer, set, &control, found[i], NULL));
        }
        for (size_t i = 0; i < count; i++) {
            assert_memory_equal(&found[0][i].nll, &found[1][i].nll, sizeof(double));
        }
    }
    unload(&loaded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_models_rate_choices_as_transformers_does),
        cmocka_unit_test(batches_do_not_change_a_digit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
