/*
 * tests/tools/pruned-dump.c: prints what the engine computes, for comparison with other implementations.
 *
 *     pruned-dump MODEL tokens TEXT_FILE           {"tokens": [...]} of a text file, special tokens added
 *     pruned-dump MODEL logits TOKENS OUT          raw fp32 logits of all tokens of all sequences, [tokens,
 * vocab_size] pruned-dump MODEL nll TOKENS                 {"nll": [[...]]}: of each token given those before
 * it pruned-dump MODEL generate TOKENS COUNT      {"tokens": [[...]]}: greedy continuations
 *
 * TOKENS is a JSON file: [[id, ...], ...]. Environment: PRUNED_DUMP_BACKEND, PRUNED_DUMP_THREADS (default 1).
 */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT_BYTES (256u << 20)

struct dump {
    struct inventory *inventory;
    struct pool *pool;
    struct model *model;
    struct token_batch batch;
};

static bool read_tokens(const char *path, size_t vocab_size, struct token_batch *batch, struct error *error)
{
    JSON_OWNED json = json_load(path, FILE_LIMIT_BYTES, error);
    if (json == NULL) {
        return false;
    }
    batch->sequence_count = json_array_size(json);
    batch->sequences = memory_create(batch->sequence_count + 1, sizeof *batch->sequences);
    for (size_t s = 0; s < batch->sequence_count; s++) {
        const json_t *list = json_array_get(json, s);
        size_t count = json_array_size(list);
        int32_t *tokens = memory_create(count + 1, sizeof *tokens);
        batch->sequences[s] = (struct token_sequence){tokens, count};
        for (size_t t = 0; t < count; t++) {
            json_int_t id = json_integer_value(json_array_get(list, t));
            if (id < 0 || (size_t)id >= vocab_size) {
                return error_set(error, ERROR_OUT_OF_RANGE,
                                 "token %lld of sequence %zu is outside the vocabulary", (long long)id, s);
            }
            tokens[t] = (int32_t)id;
        }
    }
    return true;
}

static bool print_tokens(const char *folder, const char *path, struct error *error)
{
    size_t length = 0;
    OWNED(tokenizer) tokenizer = tokenizer_load(folder, error);
    OWNED_MEMORY char *text = tokenizer != NULL ? file_load(path, FILE_LIMIT_BYTES, &length, error) : NULL;
    FINISHED(tokens) tokens = {0};
    if (text == NULL || !tokenizer_encode(tokenizer, text, length, true, &tokens, error)) {
        return false;
    }
    printf("{\"tokens\": [");
    for (size_t i = 0; i < tokens.count; i++) {
        printf("%s%d", i > 0 ? ", " : "", tokens.ids[i]);
    }
    printf("]}\n");
    return true;
}

static bool write_logits(struct dump *dump, const struct hidden *hidden, const char *path,
                         struct error *error)
{
    size_t vocab = model_get_config(dump->model)->vocab_size;
    FILE *out = fopen(path, "wbe");
    if (out == NULL) {
        return error_set(error, ERROR_IO, "cannot write %s", path);
    }
    bool is_done = true;
    for (size_t s = 0; s < dump->batch.sequence_count && is_done; s++) {
        size_t count = dump->batch.sequences[s].count;
        OWNED_MEMORY float *logits = memory_create(count * vocab + 1, sizeof *logits);
        is_done = model_logits(dump->model, hidden, s, 0, count, logits, error) &&
                  (fwrite(logits, sizeof *logits, count * vocab, out) == count * vocab ||
                   error_set(error, ERROR_IO, "cannot write %s", path));
    }
    if (fclose(out) != 0 && is_done) {
        is_done = error_set(error, ERROR_IO, "cannot write %s", path);
    }
    return is_done;
}

static bool print_nll(struct dump *dump, const struct hidden *hidden, struct error *error)
{
    size_t count = dump->batch.sequence_count;
    OWNED_MEMORY struct target_sequence *targets = memory_create(count + 1, sizeof *targets);
    for (size_t s = 0; s < count; s++) {
        const struct token_sequence *sequence = &dump->batch.sequences[s];
        int32_t *wanted = memory_create(sequence->count + 1, sizeof *wanted);
        for (size_t t = 0; t < sequence->count; t++) {
            wanted[t] = t + 1 < sequence->count ? sequence->tokens[t + 1] : -1;
        }
        targets[s].targets = wanted;
        targets[s].nll = memory_create(sequence->count + 1, sizeof *targets[s].nll);
    }
    if (!model_nll(dump->model, hidden, targets, error)) {
        return false;
    }
    printf("{\"nll\": [");
    for (size_t s = 0; s < count; s++) {
        printf("%s[", s > 0 ? ", " : "");
        for (size_t t = 0; t + 1 < dump->batch.sequences[s].count; t++) {
            printf("%s%.17g", t > 0 ? ", " : "", targets[s].nll[t]);
        }
        printf("]");
    }
    printf("]}\n");
    return true;
}

static bool print_generation(struct dump *dump, size_t max_tokens, struct error *error)
{
    size_t count = dump->batch.sequence_count;
    OWNED_MEMORY struct generation *generations = memory_create(count + 1, sizeof *generations);
    for (size_t s = 0; s < count; s++) {
        generations[s] = (struct generation){.prompt = dump->batch.sequences[s].tokens,
                                             .prompt_count = dump->batch.sequences[s].count,
                                             .tokens = memory_create(max_tokens + 1, sizeof(int32_t)),
                                             .max_tokens = max_tokens};
    }
    const struct model_config *config = model_get_config(dump->model);
    if (!model_generate(dump->model, NULL, generations, count, config->eos_tokens, config->eos_token_count,
                        error)) {
        return false;
    }
    printf("{\"tokens\": [");
    for (size_t s = 0; s < count; s++) {
        printf("%s[", s > 0 ? ", " : "");
        for (size_t t = 0; t < generations[s].token_count; t++) {
            printf("%s%d", t > 0 ? ", " : "", generations[s].tokens[t]);
        }
        printf("]");
    }
    printf("]}\n");
    return true;
}

static bool open_model(const char *folder, struct dump *dump, struct error *error)
{
    FINISHED(error_list) faults = {0};
    const char *threads = getenv("PRUNED_DUMP_THREADS");
    dump->pool = pool_create(threads != NULL ? (size_t)atoi(threads) : 1, error);
    dump->inventory = inventory_inspect(folder, false, NULL, &faults);
    for (size_t i = 0; i < faults.stored; i++) {
        (void)fprintf(stderr, "%s: %s\n", error_code_slug(faults.items[i].code), faults.items[i].message);
        *error = faults.items[i];
    }
    if (dump->inventory == NULL || dump->pool == NULL) {
        return false;
    }
    const char *dtype = getenv("PRUNED_DUMP_DTYPE");
    struct model_options options = {.backend = getenv("PRUNED_DUMP_BACKEND"),
                                    .dtype =
                                        dtype != NULL && strcmp(dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
                                    .pool = dump->pool};
    dump->model = model_open(dump->inventory, folder, &options, error);
    return dump->model != NULL;
}

static bool run(int argc, char **argv, struct dump *dump, struct error *error)
{
    if (strcmp(argv[2], "tokens") == 0) {
        return print_tokens(argv[1], argv[3], error);
    }
    if (!open_model(argv[1], dump, error) ||
        !read_tokens(argv[3], model_get_config(dump->model)->vocab_size, &dump->batch, error)) {
        return false;
    }
    if (strcmp(argv[2], "generate") == 0 && argc == 5) {
        return print_generation(dump, (size_t)atoi(argv[4]), error);
    }
    OWNED(hidden) hidden = hidden_create(dump->model, &dump->batch, error);
    if (hidden == NULL || !model_embed(dump->model, &dump->batch, hidden, error) ||
        !model_run_from(dump->model, 0, NULL, hidden, error)) {
        return false;
    }
    if (strcmp(argv[2], "logits") == 0 && argc == 5) {
        return write_logits(dump, hidden, argv[4], error);
    }
    if (strcmp(argv[2], "nll") == 0) {
        return print_nll(dump, hidden, error);
    }
    return error_set(error, ERROR_INVALID_ARGUMENT, "no command is named \"%s\"", argv[2]);
}

int main(int argc, char **argv)
{
    struct error error = {0};
    struct dump dump = {0};
    if (argc < 4) {
        (void)fprintf(stderr, "usage: pruned-dump MODEL tokens|logits|nll|generate FILE [OUT|COUNT]\n");
        return 2;
    }
    json_start();
    bool is_done = run(argc, argv, &dump, &error);
    if (!is_done) {
        (void)fprintf(stderr, "%s: %s\n", error_code_slug(error.code), error.message);
    }
    model_destroy(dump.model);
    inventory_destroy(dump.inventory);
    pool_destroy(dump.pool);
    return is_done ? 0 : 1;
}
