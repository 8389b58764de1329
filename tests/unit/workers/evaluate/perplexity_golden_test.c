/*
 * tests/unit/workers/evaluate/perplexity_golden_test.c: real models over real text give the perplexity that transformers gives
 * (tests/golden/perplexity/), within 1e-4. Skips what is not there; the one case that takes minutes runs with PRUNED_LONG=1.
 */
#include "tests/unit/workers/data/fixture.h"
#include "workers/evaluate/evaluate.h"

#include <math.h>

#define TOLERANCE   1e-5 /* 4e-7 away at most; 1e-4 is promised */
#define LONG_TOKENS 50000
#define LONG_LAYERS 6

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

static void check_protocol(const json_t *golden, struct model *model, const struct tokenizer *tokenizer,
                           const struct corpus *corpus, enum perplexity_protocol protocol)
{
    const json_t *expected = json_object_get(golden, perplexity_protocol_name(protocol));
    size_t window = (size_t)json_integer_value(json_object_get(golden, "window_tokens"));
    struct evaluate_control control = {0};
    struct perplexity result = {0};
    struct error error = {0};
    assert_true(perplexity_measure(model, tokenizer, corpus, protocol, window, &control, &result, &error));
    assert_int_equal(result.token_count, json_integer_value(json_object_get(expected, "tokens_scored")));
    assert_int_equal(result.window_count, json_integer_value(json_object_get(expected, "windows")));
    double perplexity = json_real_value(json_object_get(expected, "perplexity"));
    double bits = json_real_value(json_object_get(expected, "bits_per_byte"));
    print_message("# %s on %s, %s: %.9g, %.2g away\n", member(golden, "model"), corpus->name,
                  perplexity_protocol_name(protocol), result.perplexity,
                  fabs(result.perplexity / perplexity - 1));
    assert_true(fabs(result.perplexity / perplexity - 1) < TOLERANCE);
    assert_true(fabs(result.bits_per_byte / bits - 1) < TOLERANCE);
}

/* False where model or text are missing, or the case is too long for now. */
static bool check_case(const json_t *golden)
{
    OWNED_MEMORY char *folder = data_path("models", member(golden, "model"));
    OWNED_MEMORY char *path = data_path("text", member(golden, "text"));
    if (!file_is_folder(folder) || !file_exists(path)) {
        return false;
    }
    FINISHED(error_list) faults = {0};
    struct error error = {0};
    OWNED(inventory) inventory = inventory_inspect(folder, false, NULL, &faults);
    assert_non_null(inventory);
    const json_t *rolling = json_object_get(golden, "rolling");
    if (getenv("PRUNED_LONG") == NULL && inventory->config.layer_count >= LONG_LAYERS &&
        json_integer_value(json_object_get(rolling, "tokens_scored")) > LONG_TOKENS) {
        print_message("# %s on %s: only with PRUNED_LONG=1\n", member(golden, "model"),
                      member(golden, "text"));
        return false;
    }
    OWNED(pool) pool = pool_create(2, &error);
    struct model_options options = {.pool = pool};
    OWNED(model) model = model_open(inventory, folder, &options, &error);
    OWNED(tokenizer) tokenizer = tokenizer_load(folder, &error);
    struct corpus_options corpus_options = {.path = path};
    assert_true(corpus_half_parse(member(golden, "half"), &corpus_options.half));
    OWNED(corpus) corpus = corpus_load(&corpus_options, &error);
    assert_non_null(model);
    assert_non_null(tokenizer);
    assert_non_null(corpus);
    check_protocol(golden, model, tokenizer, corpus, PERPLEXITY_GPTQ);
    check_protocol(golden, model, tokenizer, corpus, PERPLEXITY_ROLLING);
    return true;
}

static void real_models_have_the_perplexity_that_transformers_finds(void **state)
{
    (void)state;
    const char *source = getenv("PRUNED_TEST_SOURCE");
    OWNED_MEMORY char *path =
        file_join(source != NULL ? source : ".", "tests/golden/perplexity/perplexity.json");
    struct error error = {0};
    JSON_OWNED goldens = json_load(path, 1u << 20, &error);
    assert_non_null(goldens);
    size_t done = 0;
    for (size_t i = 0; i < json_array_size(goldens); i++) {
        done += check_case(json_array_get(goldens, i)) ? 1 : 0;
    }
    if (done == 0) {
        print_message("no models and texts under PRUNED_TEST_DATA: nothing compared\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_models_have_the_perplexity_that_transformers_finds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
