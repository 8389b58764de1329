/*
 * bench/finercut.c: FinerCut's search alone, for finercut.py. One line of JSON: the tokens, the removal order with its scores, seconds
 * (from after opening the model, weights not yet read, to the last round), and the evaluator's own account.
 *
 *     finercut MODEL TEXT [--samples N] [--window N] [--remove N] [--protect RATIO] [--metric NAME] [--dtype f32|bf16]
 *              [--screen bf16] [--threads N] [--parameters JSON]
 *
 * TEXT: a file, or a .jsonl of records with a member "text". --parameters: further parameters of the method, as in a job.
 */
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "workers/data/corpus.h"
#include "workers/data/windows.h"
#include "workers/prune/prefix.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct options {
    const char *folder, *text, *metric, *dtype, *screen, *parameters;
    size_t samples, window, remove, threads;
    double protect;
};

static bool parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){.metric = "js",
                                .dtype = "f32",
                                .parameters = "{}",
                                .samples = 10,
                                .window = 256,
                                .remove = 15,
                                .threads = 2,
                                .protect = 0.4};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (argv[i][0] != '-') {
            *(options->folder == NULL ? &options->folder : &options->text) = argv[i];
            continue;
        }
        if (value == NULL) {
            return false;
        }
        size_t number = (size_t)strtoull(value, NULL, 10);
        if (strcmp(argv[i], "--samples") == 0) {
            options->samples = number;
        } else if (strcmp(argv[i], "--window") == 0) {
            options->window = number;
        } else if (strcmp(argv[i], "--remove") == 0) {
            options->remove = number;
        } else if (strcmp(argv[i], "--threads") == 0) {
            options->threads = number;
        } else if (strcmp(argv[i], "--protect") == 0) {
            options->protect = strtod(value, NULL);
        } else if (strcmp(argv[i], "--metric") == 0) {
            options->metric = value;
        } else if (strcmp(argv[i], "--dtype") == 0) {
            options->dtype = value;
        } else if (strcmp(argv[i], "--screen") == 0) {
            options->screen = value;
        } else if (strcmp(argv[i], "--parameters") == 0) {
            options->parameters = value;
        } else {
            return false;
        }
        i++;
    }
    return options->folder != NULL && options->text != NULL && options->threads > 0;
}

struct bench {
    struct options options;
    struct pool *pool;
    struct inventory *inventory;
    struct model *model, *screen;
    struct tokenizer *tokenizer;
    struct corpus *corpus;
    struct windows *windows;
    json_t *parameters;
};

static struct model *open_model(struct bench *bench, const char *dtype, struct error *error)
{
    struct model_options options = {.dtype = strcmp(dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
                                    .pool = bench->pool};
    return model_open(bench->inventory, bench->options.folder, &options, error);
}

static bool read_parameters(struct bench *bench, const struct prune_method *method, struct error *error)
{
    struct param_spec spec = {.name = method->name,
                              .type = PARAM_OBJECT,
                              .members = method->params,
                              .member_count = method->param_count};
    const char *text = bench->options.parameters;
    JSON_OWNED given = json_parse(text, strlen(text), 1 << 16, error);
    if (given == NULL) {
        return false;
    }
    json_put_text(given, "metric", bench->options.metric);
    json_put_double(given, "protect_ratio", bench->options.protect);
    FINISHED(error_list) faults = {0};
    if (!param_validate(&spec, given, "", &faults)) {
        *error = faults.items[0];
        return false;
    }
    bench->parameters = param_resolve(&spec, given);
    return true;
}

static bool open_all(struct bench *bench, struct error *error)
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
    struct corpus_options corpus = {.path = options->text};
    bench->tokenizer = inventory_load_tokenizer(bench->inventory, options->folder, error);
    bench->corpus = bench->tokenizer != NULL ? corpus_load(&corpus, error) : NULL;
    if (bench->corpus == NULL) {
        return false;
    }
    struct windows_options windows = {.window_tokens = options->window,
                                      .num_samples = options->samples,
                                      .vocab_size = bench->inventory->config.vocab_size};
    bench->windows = windows_create(bench->corpus, bench->tokenizer, &windows, error);
    bench->model = bench->windows != NULL ? open_model(bench, options->dtype, error) : NULL;
    if (bench->model != NULL && options->screen != NULL) {
        bench->screen = open_model(bench, options->screen, error);
    }
    return bench->model != NULL && (options->screen == NULL || bench->screen != NULL);
}

static json_t *format_tokens(const struct windows *windows)
{
    json_t *all = json_array();
    for (size_t s = 0; s < windows->count; s++) {
        json_t *ids = json_array();
        for (size_t t = 0; t < windows->sequences[s].count; t++) {
            (void)json_array_append_new(ids, json_integer(windows->sequences[s].tokens[t]));
        }
        (void)json_array_append_new(all, ids);
    }
    return all;
}

static void print(const struct bench *bench, const struct plan *plan, double seconds, json_t *search)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    json_t *line = json_object();
    json_t *order = json_array();
    for (size_t i = 0; i < plan->removed_count; i++) {
        json_t *point = json_object();
        json_put_i64(point, "sublayer", (int64_t)plan->points[i].sublayer);
        json_put_double(point, "score", plan->points[i].score);
        (void)json_array_append_new(order, point);
    }
    json_put_text(line, "what", "pruned finercut");
    json_put_text(line, "backend", model_get_identity(bench->model));
    json_put_i64(line, "threads", (int64_t)bench->options.threads);
    json_put(line, "order", order);
    json_put_double(line, "seconds", seconds);
    json_put_double(line, "cpu_seconds",
                    (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec * 1e-6);
    json_put_i64(line, "peak_rss_bytes", (int64_t)usage.ru_maxrss * 1024);
    json_put(line, "search", search);
    json_put(line, "tokens", format_tokens(bench->windows));
    OWNED_MEMORY char *text = json_format(line, false);
    (void)puts(text);
    json_decref(line);
}

static bool run(struct bench *bench, struct error *error)
{
    const struct prune_method *method = prune_method_find("finercut");
    if (!read_parameters(bench, method, error) || !open_all(bench, error)) {
        return false;
    }
    size_t count = model_sublayer_count(bench->model);
    OWNED_MEMORY struct sublayer *sublayers = memory_create(count, sizeof *sublayers);
    for (size_t i = 0; i < count; i++) {
        sublayers[i] = *model_sublayer(bench->model, i);
    }
    int64_t start = clock_boot_ns(&clock_system);
    struct objective_text text = {.batch = {bench->windows->sequences, bench->windows->count}};
    struct prefix_options options;
    prefix_options_read(bench->parameters, &options);
    options.screen = bench->screen;
    OWNED(prefix_evaluator) evaluator = prefix_evaluator_create(bench->model, &text, &options);
    struct prune_run prune = {.inventory = bench->inventory,
                              .sublayers = sublayers,
                              .sublayer_count = count,
                              .parameters = bench->parameters,
                              .evaluator = prefix_evaluator_interface(evaluator)};
    struct prune_target target = {.kind = PRUNE_TARGET_SUBLAYERS_REMOVED, .count = bench->options.remove};
    OWNED(plan) plan = plan_create(count);
    if (!method->decide(&prune, &target, plan, error)) {
        return false;
    }
    double seconds = (double)(clock_boot_ns(&clock_system) - start) * 1e-9;
    print(bench, plan, seconds, prune.evaluator->describe(prune.evaluator->context));
    return true;
}

int main(int argc, char **argv)
{
    struct error error = {0};
    struct bench bench = {0};
    if (!parse(argc, argv, &bench.options)) {
        (void)fprintf(stderr, "usage: see the head of bench/finercut.c\n");
        return 2;
    }
    json_start();
    bool is_done = run(&bench, &error);
    if (!is_done) {
        (void)fprintf(stderr, "%s: %s\n", error_code_slug(error.code), error.message);
    }
    windows_destroy(bench.windows);
    corpus_destroy(bench.corpus);
    tokenizer_destroy(bench.tokenizer);
    model_destroy(bench.model);
    model_destroy(bench.screen);
    inventory_destroy(bench.inventory);
    pool_destroy(bench.pool);
    json_decref(bench.parameters);
    return is_done ? 0 : 1;
}
