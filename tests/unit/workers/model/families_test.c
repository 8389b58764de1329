/*
 * tests/unit/workers/model/families_test.c: every family against transformers. Each folder of tests/golden/families holds a small
 * random model with all that is peculiar to its family and the logits that transformers makes of four sequences (an encoder's last
 * states and embeddings); origin.md there says how, and why 2e-5 of the largest logit is the tolerance.
 *
 * A new family joins by its folder alone. What is tried: every CPU backend, weights resident and streamed under the least
 * budget, one sequence at a time and all in a batch, and decoding token by token with the cache.
 */
#include "tests/unit/workers/model/fixture.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOLERANCE     2e-5
#define FAMILIES_MAX  128
#define SEQUENCES_MAX 16

struct golden {
    char source[512]; /* in the tree; some of its files are links to those of another folder */
    char *folder;     /* a copy without links, which an inventory would refuse */
    struct inventory *inventory;
    struct token_sequence sequences[SEQUENCES_MAX];
    struct token_batch batch;
    size_t token_count, width;
    bool is_encoder;
    float *values;     /* [token_count, width]: logits, or states */
    float *embeddings; /* [sequence_count, hidden]; NULL: none */
};

static void *load_floats(const char *folder, const char *name, size_t count)
{
    char path[600];
    size_t bytes = 0;
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    OWNED_MEMORY char *raw = file_load(path, (size_t)4 << 20, &bytes, NULL);
    if (raw == NULL) {
        return NULL;
    }
    assert_int_equal(bytes, count * sizeof(float));
    float *values = memory_create(count + 1, sizeof *values);
    memcpy(values, raw, bytes);
    return values;
}

static void load_tokens(struct golden *golden)
{
    char path[600];
    size_t bytes = 0;
    (void)snprintf(path, sizeof path, "%s/tokens.json", golden->source);
    OWNED_MEMORY char *text = file_load(path, (size_t)1 << 20, &bytes, NULL);
    assert_non_null(text);
    json_t *json = json_parse(text, bytes, (size_t)1 << 20, NULL);
    assert_true(json_is_array(json) && json_array_size(json) <= SEQUENCES_MAX);
    golden->batch = (struct token_batch){golden->sequences, json_array_size(json)};
    for (size_t s = 0; s < golden->batch.sequence_count; s++) {
        const json_t *item = json_array_get(json, s);
        int32_t *tokens = memory_create(json_array_size(item) + 1, sizeof *tokens);
        for (size_t t = 0; t < json_array_size(item); t++) {
            tokens[t] = (int32_t)json_integer_value(json_array_get(item, t));
        }
        golden->sequences[s] = (struct token_sequence){tokens, json_array_size(item)};
        golden->token_count += json_array_size(item);
    }
    json_decref(json);
}

static void copy_file(struct golden *golden, const char *name)
{
    char path[600];
    size_t bytes = 0;
    (void)snprintf(path, sizeof path, "%s/%s", golden->source, name);
    OWNED_MEMORY char *content = file_load(path, (size_t)4 << 20, &bytes, NULL);
    assert_non_null(content);
    fixture_write(golden->folder, name, content, bytes);
}

static int open_golden(void **state)
{
    struct golden *golden = *state;
    golden->folder = fixture_create_folder();
    copy_file(golden, "config.json");
    copy_file(golden, "model.safetensors");
    FINISHED(error_list) faults = {0};
    golden->inventory = inventory_inspect(golden->folder, false, NULL, &faults);
    for (size_t i = 0; i < faults.stored; i++) {
        print_message("%s: %s: %s\n", golden->source, faults.items[i].field, faults.items[i].message);
    }
    if (golden->inventory == NULL) {
        return -1;
    }
    load_tokens(golden);
    size_t hidden = golden->inventory->config.hidden_size, vocab = golden->inventory->config.vocab_size;
    golden->values = load_floats(golden->source, "logits.f32", golden->token_count * vocab);
    golden->width = vocab;
    if (golden->values == NULL) {
        golden->is_encoder = true;
        golden->width = hidden;
        golden->values = load_floats(golden->source, "hidden.f32", golden->token_count * hidden);
        golden->embeddings =
            load_floats(golden->source, "embedding.f32", golden->batch.sequence_count * hidden);
    }
    return golden->values != NULL ? 0 : -1;
}

static int close_golden(void **state)
{
    struct golden *golden = *state;
    for (size_t s = 0; s < golden->batch.sequence_count; s++) {
        free((void *)(uintptr_t)golden->sequences[s].tokens);
    }
    inventory_destroy(golden->inventory);
    free(golden->values);
    free(golden->embeddings);
    fixture_destroy(golden->folder);
    return 0;
}

static void compare(const struct golden *golden, const char *what, size_t sequence, const float *values)
{
    size_t first = 0, count = golden->sequences[sequence].count * golden->width;
    for (size_t s = 0; s < sequence; s++) {
        first += golden->sequences[s].count * golden->width;
    }
    double largest = 0.0, worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double should = (double)golden->values[first + i], off = fabs((double)values[i] - should);
        largest = fmax(largest, fabs(should));
        worst = off > worst || isnan(off) ? off : worst;
    }
    if (!(worst <= TOLERANCE * largest)) {
        fail_msg("%s, %s, sequence %zu: off by %g, the largest is %g", golden->source, what, sequence, worst,
                 largest);
    }
}

static struct hidden *run(struct model *model, const struct token_batch *batch)
{
    struct error error = {0};
    struct hidden *hidden = hidden_create(model, batch, &error);
    if (hidden == NULL || !model_embed(model, batch, hidden, &error) ||
        !model_run_from(model, 0, NULL, hidden, &error)) {
        fail_msg("%s", error.message);
    }
    return hidden;
}

/* Logits, or an encoder's states: owned. */
static float *take_values(const struct golden *golden, struct model *model, const struct hidden *hidden,
                          size_t sequence)
{
    const struct segment *segment = &hidden->segments[sequence];
    struct error error = {0};
    float *values = memory_create(segment->count * golden->width + 1, sizeof *values);
    bool is_done = golden->is_encoder
                       ? hidden_read(hidden, segment->first_row, segment->count, values, &error)
                       : model_logits(model, hidden, sequence, 0, segment->count, values, &error);
    if (!is_done) {
        fail_msg("%s", error.message);
    }
    return values;
}

static void compare_embedding(const struct golden *golden, const struct hidden *hidden, size_t sequence)
{
    size_t size = hidden->hidden_size;
    OWNED_MEMORY float *embedding = memory_create(size, sizeof *embedding);
    assert_true(model_mean_pool(hidden, sequence, true, embedding, NULL));
    for (size_t i = 0; i < size; i++) {
        assert_true(fabsf(embedding[i] - golden->embeddings[sequence * size + i]) < 1e-6f);
    }
}

/* All sequences in a batch; then each alone, whose bits must be those of the batch. */
static void compare_forward(const struct golden *golden, struct model *model, const char *what)
{
    OWNED(hidden) together = run(model, &golden->batch);
    for (size_t s = 0; s < golden->batch.sequence_count; s++) {
        OWNED_MEMORY float *values = take_values(golden, model, together, s);
        compare(golden, what, s, values);
        struct token_batch one = {golden->batch.sequences + s, 1};
        OWNED(hidden) single = run(model, &one);
        OWNED_MEMORY float *alone = take_values(golden, model, single, 0);
        assert_memory_equal(alone, values, golden->sequences[s].count * golden->width * sizeof *alone);
        if (golden->embeddings != NULL) {
            compare_embedding(golden, together, s);
        }
    }
}

/* Continues the first half of each sequence token by token: what is chosen must be the argmax (or as good, to the tolerance) of
 * a forward pass over prompt and continuation. */
static void compare_decoding(const struct golden *golden, struct model *model)
{
    enum { NEW_TOKENS = 6 };
    size_t count = golden->batch.sequence_count, vocab = golden->width;
    struct generation generations[SEQUENCES_MAX];
    int32_t chosen[SEQUENCES_MAX][NEW_TOKENS];
    struct error error = {0};
    for (size_t s = 0; s < count; s++) {
        generations[s] = (struct generation){.prompt = golden->sequences[s].tokens,
                                             .prompt_count = (golden->sequences[s].count + 1) / 2,
                                             .tokens = chosen[s],
                                             .max_tokens = NEW_TOKENS};
    }
    if (!model_generate(model, NULL, generations, count, NULL, 0, &error)) {
        fail_msg("%s", error.message);
    }
    for (size_t s = 0; s < count; s++) {
        size_t prompt = generations[s].prompt_count, length = prompt + NEW_TOKENS;
        assert_int_equal(generations[s].token_count, NEW_TOKENS);
        OWNED_MEMORY int32_t *tokens = memory_create(length, sizeof *tokens);
        memcpy(tokens, generations[s].prompt, prompt * sizeof *tokens);
        memcpy(tokens + prompt, chosen[s], sizeof chosen[s]);
        struct token_sequence sequence = {tokens, length};
        struct token_batch batch = {&sequence, 1};
        OWNED(hidden) hidden = run(model, &batch);
        OWNED_MEMORY float *logits = take_values(golden, model, hidden, 0);
        for (size_t t = 0; t < NEW_TOKENS; t++) {
            const float *row = logits + (prompt - 1 + t) * vocab;
            float best = row[0];
            for (size_t v = 1; v < vocab; v++) {
                best = fmaxf(best, row[v]);
            }
            if (!(row[chosen[s][t]] >= best - 1e-4f)) {
                fail_msg("%s: sequence %zu, token %zu: chose %d", golden->source, s, t, chosen[s][t]);
            }
        }
    }
}

static struct model *open_model(const struct golden *golden, struct pool *pool, const char *backend,
                                uint64_t budget_bytes)
{
    struct error error = {0};
    struct model_options options = {
        .backend = backend, .dtype = DTYPE_F32, .weights_budget_bytes = budget_bytes, .pool = pool};
    struct model *model = model_open(golden->inventory, golden->folder, &options, &error);
    if (model == NULL && error.code != ERROR_UNSUPPORTED) {
        fail_msg("%s: %s", backend, error.message);
    }
    return model;
}

static void a_family_has_the_values_of_transformers(void **state)
{
    const struct golden *golden = *state;
    OWNED(pool) pool = pool_create(2, NULL);
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        OWNED(model) model = open_model(golden, pool, *name, 0);
        if (model == NULL) {
            continue; /* not on this machine */
        }
        compare_forward(golden, model, *name);
        if (!golden->is_encoder) {
            compare_decoding(golden, model);
        }
    }
    struct model_size size;
    model_measure(golden->inventory, NULL, DTYPE_F32, 2, 128, &size);
    OWNED(model) streamed = open_model(golden, pool, NULL, size.weights_least_bytes);
    assert_non_null(streamed);
    compare_forward(golden, streamed, "streamed");
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name);
}

int main(void)
{
    static struct golden goldens[FAMILIES_MAX];
    static struct CMUnitTest tests[FAMILIES_MAX];
    const char *source = getenv("PRUNED_TEST_SOURCE");
    char root[400];
    size_t count = 0;
    json_start();
    (void)snprintf(root, sizeof root, "%s/tests/golden/families", source != NULL ? source : ".");
    DIR *folder = opendir(root);
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL && count < FAMILIES_MAX;) {
        struct golden *golden = &goldens[count];
        if (snprintf(golden->source, sizeof golden->source, "%s/%s", root, entry->d_name) < 0 ||
            entry->d_name[0] == '.' || !file_is_folder(golden->source)) {
            continue;
        }
        tests[count++] = (struct CMUnitTest){.name = memory_copy_text(entry->d_name),
                                             .test_func = a_family_has_the_values_of_transformers,
                                             .setup_func = open_golden,
                                             .teardown_func = close_golden,
                                             .initial_state = golden};
    }
    if (folder == NULL || count == 0) {
        (void)fprintf(stderr, "no families in %s\n", root);
        return 1;
    }
    (void)closedir(folder);
    qsort(tests, count, sizeof tests[0], compare_names);
    return _cmocka_run_group_tests("families", tests, count, NULL, NULL);
}
