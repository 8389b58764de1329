/* tests/unit/workers/model/golden.c: see golden.h. */
#include "tests/unit/workers/model/golden.h"

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

#define FAMILIES_MAX 128

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
    assert_true(json_is_array(json) && json_array_size(json) <= GOLDEN_SEQUENCES_MAX);
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

struct hidden *golden_run(struct model *model, const struct token_batch *batch)
{
    struct error error = {0};
    struct hidden *hidden = hidden_create(model, batch, &error);
    if (hidden == NULL || !model_embed(model, batch, hidden, &error) ||
        !model_run_from(model, 0, NULL, hidden, &error)) {
        fail_msg("%s", error.message);
    }
    return hidden;
}

float *golden_take_values(const struct golden *golden, struct model *model, const struct hidden *hidden,
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

struct model *golden_open_model(const struct golden *golden, struct pool *pool, const char *backend,
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

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name);
}

int golden_test_all(const char *group, void (*test)(void **state))
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
        golden->name = strrchr(golden->source, '/') + 1;
        tests[count++] = (struct CMUnitTest){.name = memory_copy_text(entry->d_name),
                                             .test_func = test,
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
    return _cmocka_run_group_tests(group, tests, count, NULL, NULL);
}
