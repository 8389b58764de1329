/*
 * tests/tools/dump_perplexity.c: perplexity for comparison with other programs.
 *
 *     dump_perplexity MODEL_FOLDER TEXT_FILE whole|first|second WINDOW_TOKENS
 *
 * Prints {"gptq": {...}, "rolling": {...}, "dataset": {...}}. Environment: PRUNED_DUMP_BACKEND, PRUNED_DUMP_THREADS (default 1),
 * PRUNED_DUMP_BATCH (tokens).
 */
#include "base/memory.h"
#include "workers/evaluate/evaluate.h"

#include <stdio.h>

static size_t environment_number(const char *name, size_t fallback)
{
    const char *value = getenv(name);
    return value != NULL ? (size_t)strtoul(value, NULL, 10) : fallback;
}

static json_t *measure(const char *folder, const struct corpus_options *options, size_t window_tokens,
                       struct error *error)
{
    FINISHED(error_list) faults = {0};
    OWNED(inventory) inventory = inventory_inspect(folder, false, NULL, &faults);
    if (inventory == NULL) {
        *error = faults.items[0];
        return NULL;
    }
    OWNED(pool) pool = pool_create(environment_number("PRUNED_DUMP_THREADS", 1), error);
    struct model_options model_options = {.backend = getenv("PRUNED_DUMP_BACKEND"), .pool = pool};
    OWNED(model) model = pool != NULL ? model_open(inventory, folder, &model_options, error) : NULL;
    OWNED(tokenizer) tokenizer = model != NULL ? inventory_load_tokenizer(inventory, folder, error) : NULL;
    OWNED(corpus) corpus = tokenizer != NULL ? corpus_load(options, error) : NULL;
    struct evaluation evaluation = {.corpus = corpus,
                                    .protocols = {PERPLEXITY_GPTQ, PERPLEXITY_ROLLING},
                                    .protocol_count = 2,
                                    .window_tokens = window_tokens};
    struct evaluate_control control = {.batch_tokens = environment_number("PRUNED_DUMP_BATCH", 0)};
    json_t *json = NULL;
    return corpus != NULL && evaluate_model(model, tokenizer, &evaluation, &control, &json, error) ? json
                                                                                                   : NULL;
}

int main(int argc, char **argv)
{
    struct corpus_options options = {0};
    if (argc != 5 || !corpus_half_parse(argv[3], &options.half)) {
        (void)fprintf(stderr,
                      "usage: dump_perplexity MODEL_FOLDER TEXT_FILE whole|first|second WINDOW_TOKENS\n");
        return 2;
    }
    options.path = argv[2];
    json_start();
    struct error error = {0};
    JSON_OWNED json = measure(argv[1], &options, (size_t)strtoul(argv[4], NULL, 10), &error);
    if (json == NULL) {
        (void)fprintf(stderr, "%s (%s): %s\n", error_code_slug(error.code), error.field, error.message);
        return 1;
    }
    OWNED_MEMORY char *text = json_format(json, true);
    (void)fputs(text, stdout);
    return 0;
}
