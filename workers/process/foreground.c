/*
 * workers/process/foreground.c: `pruned run SPEC.json --out DIR`, the same recipe with a person watching.
 *
 * Work stands in DIR/.work until it is done; then the files move up into DIR and .work goes. A run that is
 * interrupted (Ctrl-C once: stop at the next resume point; at once where the stages have not begun) or fails leaves
 * .work, and --resume continues from it. DIR must hold nothing else: results are never mixed. Exit: 0 done, 1 failed,
 * 2 usage or a bad spec, 3 interrupted.
 */
#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "workers/process/process_internal.h"
#include "workers/recipe/recipe.h"
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SPEC_LIMIT  (1u << 20)
#define WORK_NAME   ".work"
#define MOVING_NAME "moving" /* in .work: the results are on their way up */

#define CACHE_BYTES ((uint64_t)4 << 30)

struct options {
    const char *spec, *out;
    const char *cache; /* NULL: none */
    uint64_t cache_bytes;
    size_t threads;
    bool is_resume;
};

struct display {
    bool is_terminal;
    int last_tenth; /* of the whole, on a plain stream */
    bool is_line_open;
};

static struct cancel interrupt;
static atomic_bool is_running; /* there may be work to save */

static void on_interrupt(int number)
{
    if (atomic_load(&interrupt.state) != CANCEL_NONE) {
        _exit(128 + number);
    }
    atomic_store(&interrupt.state, atomic_load(&is_running) ? CANCEL_DRAIN : CANCEL_NOW);
}

/* ---- what the person sees ------------------------------------------------------------------------------ */

static void end_line(struct display *display)
{
    if (display->is_line_open) {
        (void)fputc('\n', stderr);
        display->is_line_open = false;
    }
}

static void on_stage(void *context, const char *stage)
{
    struct display *display = context;
    end_line(display);
    (void)fprintf(stderr, "stage %s\n", stage);
}

static void on_progress(void *context, const char *stage, uint64_t step, uint64_t steps, const char *unit,
                        double ratio, double rate_per_second, double eta_seconds)
{
    struct display *display = context;
    char eta[32] = "";
    if (eta_seconds >= 0) {
        (void)snprintf(eta, sizeof eta, ", %.0f s left", eta_seconds);
    }
    int tenth = (int)(ratio * 10);
    if (display->is_terminal) {
        (void)fprintf(stderr, "\r\033[K%5.1f %%  %s %llu/%llu %s%s", ratio * 100, stage,
                      (unsigned long long)step, (unsigned long long)steps, unit != NULL ? unit : "", eta);
        display->is_line_open = true;
    } else if (tenth != display->last_tenth) {
        display->last_tenth = tenth;
        (void)fprintf(stderr, "%.0f %% %s %llu/%llu %s%s\n", ratio * 100, stage, (unsigned long long)step,
                      (unsigned long long)steps, unit != NULL ? unit : "", eta);
    }
    (void)rate_per_second;
}

static void on_message(void *context, const char *level, const char *message, json_t *data)
{
    (void)data;
    end_line(context);
    (void)fprintf(stderr, "%s: %s\n", level, message);
}

static bool is_interruption(const struct error_list *faults)
{
    for (size_t i = 0; i < faults->stored; i++) {
        if (faults->items[i].code == ERROR_CANCELLED) {
            return true;
        }
    }
    return false;
}

static int print_faults(const struct error_list *faults)
{
    for (size_t i = 0; i < faults->stored; i++) {
        const struct error *fault = &faults->items[i];
        (void)fprintf(stderr, "pruned run: %s%s%s (%s)\n", fault->field, *fault->field != '\0' ? ": " : "",
                      fault->message, error_code_slug(fault->code));
    }
    return 2;
}

static int print_error(const struct error *error)
{
    (void)fprintf(stderr, "pruned run: %s%s%s (%s)\n", error->field, *error->field != '\0' ? ": " : "",
                  error->message, error_code_slug(error->code));
    return 1;
}

static int print_interrupted(void)
{
    (void)fprintf(stderr, "pruned run: interrupted; --resume continues from here\n");
    return 3;
}

/* ---- folders ------------------------------------------------------------------------------------------- */

static bool refuse_other_entries(const char *relative, const struct stat *status, void *context,
                                 struct error *error)
{
    (void)status;
    if (text_starts_with(relative, WORK_NAME)) {
        return true;
    }
    return error_set(error, ERROR_CONFLICT, "%s is not empty (it holds %.100s); name a new folder",
                     (const char *)context, relative);
}

/* A run that was killed while its files moved up has files beside .work, and says so by a marker inside it. */
static bool open_folders(const struct options *options, const char *work, struct error *error)
{
    char *out = (char *)(uintptr_t)options->out;
    OWNED_MEMORY char *marker = file_join(work, MOVING_NAME);
    bool was_moving = options->is_resume && file_exists(marker);
    if (!file_make_folders(out, 0777, error) ||
        (!was_moving && !file_walk(out, refuse_other_entries, out, error))) {
        return false;
    }
    if (!options->is_resume && !file_remove_tree(work, error)) {
        return false;
    }
    return file_make_folders(work, 0777, error);
}

/* A run that was killed after its files had moved is done: its sums are there and .work is not. */
static bool is_finished(const struct options *options, const char *work)
{
    OWNED_MEMORY char *sums = file_join(options->out, "SHA256SUMS");
    return options->is_resume && file_exists(sums) && !file_is_folder(work);
}

/* Moves the finished files of out/ (whole folders at the top level) up beside .work. */
static bool move_results(const char *work, const char *out, const json_t *files, struct error *error)
{
    OWNED_MEMORY char *from = file_join(work, "out");
    OWNED_MEMORY char *marker = file_join(work, MOVING_NAME);
    OWNED_MEMORY char *trash = file_join(out, WORK_NAME ".old");
    if (!file_save(marker, "", 0, 0666, error)) {
        return false;
    }
    for (size_t i = 0; i < json_array_size(files); i++) {
        const char *path = json_string_value(json_object_get(json_array_get(files, i), "path"));
        if (path == NULL) {
            continue;
        }
        char first[512];
        (void)snprintf(first, sizeof first, "%.*s", (int)strcspn(path, "/"), path);
        OWNED_MEMORY char *source = file_join(from, first);
        OWNED_MEMORY char *target = file_join(out, first);
        if (file_system->rename(source, target) != 0 &&
            errno != ENOENT) { /* ENOENT: its folder went before */
            return error_set_errno(error, errno, "moving %.200s to %.200s", source, target);
        }
    }
    if (!file_sync_folder(out, error) || !file_remove_tree(trash, error)) {
        return false;
    }
    if (file_system->rename(work, trash) != 0) { /* at once, so that a kill leaves all of it or nothing */
        return error_set_errno(error, errno, "moving %.200s away", work);
    }
    return file_remove_tree(trash, error);
}

/* ---- the run ------------------------------------------------------------------------------------------- */

static bool parse_options(int argc, char **argv, struct options *ret_options)
{
    struct options options = {.cache_bytes = CACHE_BYTES};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t threads = cores > 0 ? (uint64_t)cores : 1;
    for (int i = 0; i < argc && argv[i] != NULL; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--resume") == 0) {
            options.is_resume = true;
        } else if (strcmp(argv[i], "--out") == 0 && value != NULL) {
            options.out = argv[++i];
        } else if (strcmp(argv[i], "--cache") == 0 && value != NULL) {
            options.cache = argv[++i];
        } else if (strcmp(argv[i], "--cache-bytes") == 0 && value != NULL) {
            if (!text_parse_u64(value, strlen(value), &options.cache_bytes)) {
                return false;
            }
            i++;
        } else if (strcmp(argv[i], "--threads") == 0 && value != NULL) {
            if (!text_parse_u64(value, strlen(value), &threads) || threads < 1 || threads > 1024) {
                return false;
            }
            i++;
        } else if (*argv[i] != '-' && options.spec == NULL) {
            options.spec = argv[i];
        } else {
            return false;
        }
    }
    options.threads = (size_t)threads;
    *ret_options = options;
    return options.spec != NULL && options.out != NULL;
}

static int run(const struct recipe_job *job, const struct options *options)
{
    struct error error = {0};
    JSON_OWNED files = NULL;
    JSON_OWNED result = NULL;
    const char *stage = NULL;
    atomic_store(&is_running, true);
    bool is_done = recipe_run(job, &files, &result, &stage, &error);
    end_line(job->observer.context);
    if (options->cache != NULL && !file_trim_folder(options->cache, options->cache_bytes, NULL)) {
        (void)fprintf(stderr, "warning: the cache %s could not be cut to its size\n", options->cache);
    }
    if (!is_done && (error.code == ERROR_DRAINED || error.code == ERROR_CANCELLED)) {
        return print_interrupted();
    }
    if (!is_done) {
        if (stage != NULL) {
            error_prefix(&error, "%s: ", stage);
        }
        return print_error(&error);
    }
    if (!move_results(job->work_folder, options->out, files, &error)) {
        return print_error(&error);
    }
    OWNED_MEMORY char *text = json_format(result, true);
    (void)printf("%s\n", text);
    return 0;
}

int foreground_main(int argc, char **argv)
{
    struct options options;
    if (!parse_options(argc, argv, &options)) {
        (void)fprintf(stderr, "usage: pruned run SPEC.json --out DIR [--threads N] [--resume]\n"
                              "                  [--cache DIR [--cache-bytes N]]\n");
        return 2;
    }
    (void)signal(SIGINT, on_interrupt); /* before the model is hashed, which takes long */
    (void)signal(SIGTERM, on_interrupt);
    struct error error = {0};
    FINISHED(error_list) faults = {0};
    JSON_OWNED written = json_load(options.spec, SPEC_LIMIT, &error);
    if (written == NULL) {
        (void)print_error(&error);
        return 2;
    }
    JSON_OWNED spec = spec_resolve(written, &faults);
    OWNED_MEMORY char *model = NULL;
    JSON_OWNED models = NULL;
    JSON_OWNED inputs = NULL;
    if (spec == NULL || !spec_find_files(spec, &model, &models, &inputs, &faults)) {
        return print_faults(&faults);
    }
    OWNED_MEMORY char *work = file_join(options.out, WORK_NAME);
    struct display display = {.is_terminal = isatty(STDERR_FILENO) == 1, .last_tenth = -1};
    struct recipe_job job = {.spec = spec,
                             .model_folder = model,
                             .models = models,
                             .inputs = inputs,
                             .work_folder = work,
                             .cache_folder = options.cache,
                             .threads = options.threads,
                             .cancel = &interrupt,
                             .observer = {&display, on_stage, on_progress, NULL, on_message}};
    const json_t *limits = json_object_get(spec, "limits");
    json_int_t most_threads = json_integer_value(json_object_get(limits, "threads"));
    if (most_threads > 0 && (size_t)most_threads < job.threads) {
        job.threads = (size_t)most_threads;
    }
    job.memory_limit_bytes = (uint64_t)json_integer_value(json_object_get(limits, "max_memory_bytes"));
    JSON_OWNED plan = NULL;
    JSON_OWNED inventory = NULL;
    if (!recipe_plan(&job, &plan, &inventory, &faults)) {
        return is_interruption(&faults) ? print_interrupted() : print_faults(&faults);
    }
    job.inventory = inventory;
    if (is_finished(&options, work)) {
        OWNED_MEMORY char *trash = file_join(options.out, WORK_NAME ".old");
        (void)!file_remove_tree(trash, NULL);
        (void)fprintf(stderr, "pruned run: %s was finished before\n", options.out);
        return 0;
    }
    if (!open_folders(&options, work, &error)) {
        return print_error(&error);
    }
    return run(&job, &options);
}
