/*
 * tests/unit/workers/model/embeddings_golden_test.c: sentence embeddings of a real encoder (all-MiniLM-L6-v2, fp16 weights) from
 * text to vector: our WordPiece gives the ids of `tokenizers`, our encoder and mean pooling the embeddings of transformers, in fp32 to
 * 1e-6 a component and in bf16 to a cosine of 1 - 1e-3. tests/golden/embeddings/origin.md says how the goldens were made. Skipped where the
 * model is not there.
 */
#include "tests/unit/workers/model/fixture.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "workers/model/tokenizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SENTENCES 8
#define SIZE      384

static char *load(const char *folder, const char *name, size_t *ret_count)
{
    char path[600];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return file_load(path, (size_t)64 << 20, ret_count, NULL);
}

struct world {
    char *folder; /* a copy of the model under the names that a model folder has */
    struct pool *pool;
    struct inventory *inventory;
    struct tokenizer *tokenizer;
    json_t *sentences;
    float goldens[SENTENCES][SIZE];
    struct tokens tokens[SENTENCES];
    struct token_sequence sequences[SENTENCES];
};

static void world_finish(struct world *world)
{
    for (size_t s = 0; s < SENTENCES; s++) {
        tokens_finish(&world->tokens[s]);
    }
    json_decref(world->sentences);
    tokenizer_destroy(world->tokenizer);
    inventory_destroy(world->inventory);
    pool_destroy(world->pool);
    if (world->folder != NULL) {
        fixture_destroy(world->folder);
    }
}

static void copy(const struct world *world, const char *from, const char *name, const char *to)
{
    size_t count = 0;
    OWNED_MEMORY char *bytes = load(from, name, &count);
    assert_non_null(bytes);
    fixture_write(world->folder, to, bytes, count);
}

static void open_world(struct world *world)
{
    const char *data = getenv("PRUNED_TEST_DATA"), *source = getenv("PRUNED_TEST_SOURCE");
    char model[512], golden[512];
    (void)snprintf(model, sizeof model, "%s/models/all-MiniLM-L6-v2", data != NULL ? data : "../shared/data");
    (void)snprintf(golden, sizeof golden, "%s/tests/golden/embeddings", source != NULL ? source : ".");
    if (!file_is_folder(model)) {
        skip();
    }
    world->folder = fixture_create_folder();
    copy(world, model, "config.json", "config.json");
    copy(world, model, "tokenizer.json", "tokenizer.json");
    copy(world, model, "model.fp16.safetensors", "model.safetensors");
    FINISHED(error_list) faults = {0};
    world->pool = pool_create(2, NULL);
    world->inventory = inventory_inspect(world->folder, false, NULL, &faults);
    world->tokenizer = tokenizer_load(world->folder, NULL);
    assert_non_null(world->inventory);
    assert_non_null(world->tokenizer);
    size_t count = 0;
    OWNED_MEMORY char *text = load(golden, "sentences.json", &count);
    assert_non_null(text);
    world->sentences = json_parse(text, count, (size_t)1 << 20, NULL);
    assert_int_equal(json_array_size(world->sentences), SENTENCES);
    OWNED_MEMORY char *values = load(golden, "embeddings.f32", &count);
    assert_int_equal(count, sizeof world->goldens);
    memcpy(world->goldens, values, count);
    for (size_t s = 0; s < SENTENCES; s++) {
        const char *sentence =
            json_string_value(json_object_get(json_array_get(world->sentences, s), "text"));
        assert_true(
            tokenizer_encode(world->tokenizer, sentence, strlen(sentence), true, &world->tokens[s], NULL));
        world->sequences[s] = (struct token_sequence){world->tokens[s].ids, world->tokens[s].count};
    }
}

static void sentences_have_the_ids_of_the_library(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    open_world(&world);
    for (size_t s = 0; s < SENTENCES; s++) {
        const json_t *ids = json_object_get(json_array_get(world.sentences, s), "ids");
        assert_int_equal(world.tokens[s].count, json_array_size(ids));
        for (size_t t = 0; t < world.tokens[s].count; t++) {
            assert_int_equal(world.tokens[s].ids[t], json_integer_value(json_array_get(ids, t)));
        }
    }
}

static double cosine(const float *a, const float *b)
{
    double dot = 0.0, left = 0.0, right = 0.0;
    for (size_t i = 0; i < SIZE; i++) {
        dot += (double)a[i] * (double)b[i];
        left += (double)a[i] * (double)a[i];
        right += (double)b[i] * (double)b[i];
    }
    return dot / sqrt(left * right);
}

static void embed(struct world *world, enum dtype dtype, float embeddings[SENTENCES][SIZE])
{
    struct error error = {0};
    struct model_options options = {.dtype = dtype, .pool = world->pool};
    struct token_batch batch = {world->sequences, SENTENCES};
    OWNED(model) model = model_open(world->inventory, world->folder, &options, &error);
    assert_non_null(model);
    OWNED(hidden) hidden = hidden_create(model, &batch, &error);
    if (hidden == NULL || !model_embed(model, &batch, hidden, &error) ||
        !model_run_from(model, 0, NULL, hidden, &error)) {
        fail_msg("%s", error.message);
    }
    for (size_t s = 0; s < SENTENCES; s++) {
        assert_true(model_mean_pool(hidden, s, true, embeddings[s], &error));
    }
}

static void sentences_have_the_embeddings_of_transformers(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    open_world(&world);
    static float embeddings[SENTENCES][SIZE];
    embed(&world, DTYPE_F32, embeddings);
    for (size_t s = 0; s < SENTENCES; s++) {
        for (size_t i = 0; i < SIZE; i++) {
            if (!(fabsf(embeddings[s][i] - world.goldens[s][i]) < 1e-6f)) {
                fail_msg("sentence %zu, component %zu: %g, not %g", s, i, (double)embeddings[s][i],
                         (double)world.goldens[s][i]);
            }
        }
    }
    embed(&world, DTYPE_BF16, embeddings);
    for (size_t s = 0; s < SENTENCES; s++) {
        if (!(cosine(embeddings[s], world.goldens[s]) > 1.0 - 1e-3)) {
            fail_msg("sentence %zu in bf16: cosine %.9f", s, cosine(embeddings[s], world.goldens[s]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentences_have_the_ids_of_the_library),
        cmocka_unit_test(sentences_have_the_embeddings_of_transformers),
    };
    json_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
