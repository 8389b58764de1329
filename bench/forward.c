/*
 * bench/forward.c: how fast our forward pass is. One line of JSON for a model folder:
 *
 *     forward MODEL [--dtype f32|bf16] [--backend NAME] [--threads N] [--sequences N] [--tokens N] [--head none|nll|logits]
 *             [--budget BYTES] [--runs N]
 *
 * A run embeds `sequences` sequences of `tokens` random tokens, takes them through all sublayers and, as asked, through the
 * head: nll (fused, log-likelihood of every next token) or logits (all of them materialised, sequence by sequence). The first
 * run, which also reads the weights, is not counted; the median of the others is. peers/ measures the same of others.
 */
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "workers/model/model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct options {
    const char *folder, *dtype, *backend, *head;
    size_t threads, sequences, tokens, runs;
    uint64_t budget_bytes;
};

static bool parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){
        .dtype = "f32", .head = "none", .threads = 2, .sequences = 1, .tokens = 2048, .runs = 5};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (argv[i][0] != '-') {
            options->folder = argv[i];
            continue;
        }
        if (value == NULL) {
            return false;
        }
        size_t number = (size_t)strtoull(value, NULL, 10);
        if (strcmp(argv[i], "--dtype") == 0) {
            options->dtype = value;
        } else if (strcmp(argv[i], "--backend") == 0) {
            options->backend = value;
        } else if (strcmp(argv[i], "--head") == 0) {
            options->head = value;
        } else if (strcmp(argv[i], "--threads") == 0) {
            options->threads = number;
        } else if (strcmp(argv[i], "--sequences") == 0) {
            options->sequences = number;
        } else if (strcmp(argv[i], "--tokens") == 0) {
            options->tokens = number;
        } else if (strcmp(argv[i], "--runs") == 0) {
            options->runs = number;
        } else if (strcmp(argv[i], "--budget") == 0) {
            options->budget_bytes = number;
        } else {
            return false;
        }
        i++;
    }
    return options->folder != NULL && options->threads > 0 && options->sequences > 0 && options->tokens > 1 &&
           options->runs > 0;
}

struct bench {
    struct options options;
    struct pool *pool;
    struct inventory *inventory;
    struct model *model;
    struct token_batch batch;
    struct target_sequence *targets;
    float *logits; /* [tokens, vocab] */
};

static bool run(struct bench *bench, struct error *error)
{
    const char *head = bench->options.head;
    OWNED(hidden) hidden = hidden_create(bench->model, &bench->batch, error);
    if (hidden == NULL || !model_embed(bench->model, &bench->batch, hidden, error) ||
        !model_run_from(bench->model, 0, NULL, hidden, error)) {
        return false;
    }
    if (strcmp(head, "nll") == 0) {
        return model_nll(bench->model, hidden, bench->targets, error);
    }
    for (size_t s = 0; strcmp(head, "logits") == 0 && s < bench->batch.sequence_count; s++) {
        if (!model_logits(bench->model, hidden, s, 0, bench->options.tokens, bench->logits, error)) {
            return false;
        }
    }
    return true;
}

static void make_batch(struct bench *bench, size_t vocab)
{
    const struct options *options = &bench->options;
    bench->batch.sequence_count = options->sequences;
    bench->batch.sequences = memory_create(options->sequences, sizeof *bench->batch.sequences);
    bench->targets = memory_create(options->sequences, sizeof *bench->targets);
    for (size_t s = 0; s < options->sequences; s++) {
        struct rng rng = {.seed = 7, .stream = (uint32_t)s};
        int32_t *tokens = memory_create(options->tokens + 1, sizeof *tokens);
        for (size_t t = 0; t <= options->tokens; t++) {
            tokens[t] = (int32_t)rng_below(&rng, t, vocab);
        }
        bench->batch.sequences[s] = (struct token_sequence){tokens, options->tokens};
        bench->targets[s] = (struct target_sequence){.targets = tokens + 1,
                                                     .nll = memory_create(options->tokens, sizeof(double))};
    }
}

static bool open_model(struct bench *bench, struct error *error)
{
    const struct options *options = &bench->options;
    FINISHED(error_list) faults = {0};
    bench->inventory = inventory_inspect(options->folder, false, NULL, &faults);
    bench->pool = pool_create(options->threads, error);
    if (bench->inventory == NULL || bench->pool == NULL) {
        if (faults.stored > 0) {
            *error = faults.items[0];
        }
        return false;
    }
    struct model_options model = {.backend = options->backend,
                                  .dtype = strcmp(options->dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
                                  .weights_budget_bytes = options->budget_bytes,
                                  .pool = bench->pool};
    bench->model = model_open(bench->inventory, options->folder, &model, error);
    return bench->model != NULL;
}

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static bool measure(struct bench *bench, struct error *error)
{
    const struct options *options = &bench->options;
    int64_t start = clock_boot_ns(&clock_system);
    if (!open_model(bench, error)) {
        return false;
    }
    size_t vocab = model_get_config(bench->model)->vocab_size;
    make_batch(bench, vocab);
    if (strcmp(options->head, "logits") == 0) {
        bench->logits = memory_try_array(options->tokens * vocab, sizeof(float), "logits", error);
        if (bench->logits == NULL) {
            return false;
        }
    }
    if (!run(bench, error)) {
        return false;
    }
    double first_seconds = (double)(clock_boot_ns(&clock_system) - start) * 1e-9;
    OWNED_MEMORY double *seconds = memory_create(options->runs, sizeof *seconds);
    for (size_t i = 0; i < options->runs; i++) {
        start = clock_boot_ns(&clock_system);
        if (!run(bench, error)) {
            return false;
        }
        seconds[i] = (double)(clock_boot_ns(&clock_system) - start) * 1e-9;
    }
    qsort(seconds, options->runs, sizeof *seconds, compare_doubles);
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    double median = seconds[options->runs / 2], tokens = (double)(options->sequences * options->tokens);
    printf(
        "{\"what\": \"pruned forward\", \"model\": \"%s\", \"dtype\": \"%s\", \"backend\": \"%s\", \"threads\": %zu, "
        "\"sequences\": %zu, \"tokens\": %zu, \"head\": \"%s\", \"runs\": %zu, \"tokens_per_second\": %.2f, "
        "\"seconds\": %.4f, \"best_seconds\": %.4f, \"load_and_first_run_seconds\": %.3f, \"peak_rss_bytes\": %lld}\n",
        options->folder, options->dtype, model_get_identity(bench->model), options->threads,
        options->sequences, options->tokens, options->head, options->runs, tokens / median, median,
        seconds[0], first_seconds, (long long)usage.ru_maxrss * 1024);
    return true;
}

int main(int argc, char **argv)
{
    struct error error = {0};
    struct bench bench = {0};
    if (!parse(argc, argv, &bench.options)) {
        (void)fprintf(stderr, "usage: see the head of bench/forward.c\n");
        return 2;
    }
    json_start();
    bool is_done = measure(&bench, &error);
    if (!is_done) {
        (void)fprintf(stderr, "%s: %s\n", error_code_slug(error.code), error.message);
    }
    for (size_t s = 0; s < bench.batch.sequence_count; s++) {
        free((void *)(uintptr_t)bench.batch.sequences[s].tokens);
        free(bench.targets[s].nll);
    }
    free(bench.batch.sequences);
    free(bench.targets);
    free(bench.logits);
    model_destroy(bench.model);
    inventory_destroy(bench.inventory);
    pool_destroy(bench.pool);
    return is_done ? 0 : 1;
}
