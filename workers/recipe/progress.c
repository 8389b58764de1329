/*
 * workers/recipe/progress.c: how far the whole job is. Each stage has an expected share of the work; inside a stage, steps of
 * parts. The rate is of the stage's own unit since the stage began in this attempt, the ETA of the whole job: what is left, at the
 * pace of this attempt.
 */
#include "workers/recipe/recipe_internal.h"

#include "base/memory.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#define EMIT_EVERY_NS 200000000

const char *const recipe_stage_names[STAGE_COUNT] = {"inspect", "read",   "calibrate", "embed",  "score",
                                                     "search",  "select", "rewrite",   "export", "evaluate"};

static atomic_uint_fast64_t touch_count;
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static const struct pool *watched_pool; /* guarded by pool_lock */
static uint64_t pool_base;              /* guarded by pool_lock: tasks of pools that are gone */

void recipe_touch(void)
{
    atomic_fetch_add_explicit(&touch_count, 1, memory_order_relaxed);
}

void recipe_watch_pool(const struct pool *pool)
{
    (void)pthread_mutex_lock(&pool_lock);
    pool_base += watched_pool != NULL ? pool_finished_count(watched_pool) : 0;
    watched_pool = pool;
    (void)pthread_mutex_unlock(&pool_lock);
}

uint64_t recipe_activity(void)
{
    (void)pthread_mutex_lock(&pool_lock);
    uint64_t count = pool_base + (watched_pool != NULL ? pool_finished_count(watched_pool) : 0);
    (void)pthread_mutex_unlock(&pool_lock);
    return count + atomic_load_explicit(&touch_count, memory_order_relaxed);
}

void progress_enter(struct recipe *recipe, enum recipe_stage stage)
{
    struct progress *progress = &recipe->progress;
    progress->stage = stage;
    progress->stage_start_ns = clock_boot_ns(&clock_system);
    progress->stage_entered_ns = progress->stage_start_ns;
    if (progress->start_ns == 0) {
        progress->start_ns = progress->stage_start_ns;
    }
    progress->has_stage_first_step = false;
    progress->scope_start = 0;
    progress->scope_end = 1;
    progress->part_start = 0;
    progress->part_end = 1;
    if (recipe->job->observer.stage != NULL) {
        recipe->job->observer.stage(recipe->job->observer.context, recipe_stage_names[stage]);
    }
    progress->emitted_ns = 0;
    progress_step(recipe, 0, 1, recipe_stage_names[stage]);
    progress->has_stage_first_step = false;
}

void progress_scope(struct recipe *recipe, double start, double end)
{
    recipe->progress.scope_start = start;
    recipe->progress.scope_end = end;
    progress_part(recipe, 0, 1);
}

void progress_part(struct recipe *recipe, double start, double end)
{
    recipe->progress.part_start = start;
    recipe->progress.part_end = end;
    recipe->progress.has_stage_first_step = false;
    recipe->progress.stage_start_ns = clock_boot_ns(&clock_system);
}

static double whole_ratio(const struct progress *progress, double stage_ratio)
{
    double total = 0;
    double finished = 0;
    for (size_t i = 0; i < STAGE_COUNT; i++) {
        total += progress->weights[i];
        finished += i < (size_t)progress->stage ? progress->weights[i] : 0;
    }
    finished += progress->weights[progress->stage] * stage_ratio;
    return total > 0 ? finished / total : 0;
}

void progress_step(struct recipe *recipe, uint64_t step, uint64_t steps, const char *unit)
{
    struct progress *progress = &recipe->progress;
    recipe_touch();
    int64_t now_ns = clock_boot_ns(&clock_system);
    if (recipe->deadline_ns != 0 && now_ns > recipe->deadline_ns) {
        recipe->is_timed_out = true;
        cancel_request(&recipe->local_cancel, CANCEL_NOW);
    }
    if (!cancel_check_now(recipe->job->cancel, NULL)) {
        cancel_request(&recipe->local_cancel, CANCEL_NOW);
    }
    double part = steps > 0 ? (double)step / (double)steps : 0;
    part = part > 1 ? 1 : part;
    double inside = progress->part_start + part * (progress->part_end - progress->part_start);
    double ratio =
        whole_ratio(progress, progress->scope_start + inside * (progress->scope_end - progress->scope_start));
    progress->ratio = ratio > progress->ratio ? ratio : progress->ratio; /* never backwards */
    if (!progress->has_first_ratio && progress->stage > STAGE_CALIBRATE) {
        progress->has_first_ratio = true;
        progress->first_ratio = progress->ratio;
        progress->start_ns = now_ns;
    }
    if (!progress->has_stage_first_step) {
        progress->has_stage_first_step = true;
        progress->stage_first_step = step;
    }
    bool is_last = step >= steps;
    if (recipe->job->observer.progress == NULL ||
        (!is_last && progress->emitted_ns != 0 && now_ns - progress->emitted_ns < EMIT_EVERY_NS)) {
        return;
    }
    progress->emitted_ns = now_ns;
    double stage_seconds = (double)(now_ns - progress->stage_start_ns) / 1e9;
    double seconds = (double)(now_ns - progress->start_ns) / 1e9;
    double moved = progress->ratio - progress->first_ratio;
    double rate = step > progress->stage_first_step && stage_seconds > 0
                      ? (double)(step - progress->stage_first_step) / stage_seconds
                      : -1;
    double eta =
        progress->has_first_ratio && moved > 0 && seconds > 0 ? (1 - progress->ratio) * seconds / moved : -1;
    recipe->job->observer.progress(recipe->job->observer.context, recipe_stage_names[progress->stage], step,
                                   steps, unit, progress->ratio, rate, eta);
}

void progress_finish(struct recipe *recipe)
{
    struct progress *progress = &recipe->progress;
    progress->scope_start = 0;
    progress->scope_end = 1;
    progress->part_start = 0;
    progress->part_end = 1;
    progress_step(recipe, 1, 1, recipe_stage_names[progress->stage]);
}

bool recipe_check(struct recipe *recipe, struct error *error)
{
    if (!cancel_check(recipe->job->cancel, error)) {
        return false;
    }
    if (recipe->is_timed_out ||
        (recipe->deadline_ns != 0 && clock_boot_ns(&clock_system) > recipe->deadline_ns)) {
        json_int_t seconds =
            json_integer_value(json_object_get(json_object_get(recipe->spec, "limits"), "max_seconds"));
        return error_set_field(error, ERROR_TIME_LIMIT, "/limits/max_seconds",
                               "the job ran longer than %lld seconds", (long long)seconds);
    }
    return true;
}

void recipe_warn(struct recipe *recipe, const char *format, ...)
{
    char message[384];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    (void)json_array_append_new(recipe->warnings, json_string(message));
    if (recipe->job->observer.message != NULL) {
        recipe->job->observer.message(recipe->job->observer.context, "warning", message, NULL);
    }
}
