/*
 * The state machine of a job, first by its rules one at a time, then by a simulator: thousands of random
 * sequences of events, from writers of the right and of wrong epochs, under a wall clock that also steps back, and after
 * each event every invariant. A failure prints the seed of its sequence.
 */
#include "storage/job.h"

#include "base/check.h"
#include "base/rng.h"
#include "storage/job_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOW_MS INT64_C(1800000000000)

static struct job *make_job(bool planned)
{
    struct job *job = job_create();
    (void)snprintf(job->id, sizeof job->id, "job_TEST");
    job->state = planned ? JOB_STATE_QUEUED : JOB_STATE_VALIDATING;
    job->created_at_ms = NOW_MS;
    job->updated_at_ms = NOW_MS;
    job->queued_at_ms = planned ? NOW_MS : 0;
    job->version = 1;
    job->spec = json_object();
    job->plan = planned ? json_object() : NULL;
    return job;
}

/* Applies an event that must be accepted, and lets go of the version before. */
static struct job *step(struct job *job, struct job_event event, int64_t now_ms)
{
    struct job *next = NULL;
    struct job_effects effects;
    struct error error = {0};
    event.epoch = job->epoch;
    if (!job_apply(job, &event, now_ms, &next, &effects, &error)) {
        fail_msg("event %d: %s", (int)event.kind, error.message);
    }
    job_release(job);
    return next;
}

static enum error_code refusal(const struct job *job, struct job_event event)
{
    struct job *next = NULL;
    struct job_effects effects;
    struct error error = {0};
    bool applied = job_apply(job, &event, NOW_MS, &next, &effects, &error);
    job_release(next);
    return applied ? ERROR_NONE : error.code;
}

static void every_state_has_a_slug_that_reads_back(void **state)
{
    (void)state;
    for (int i = 0; i < JOB_STATE_COUNT; i++) {
        enum job_state parsed = JOB_STATE_VALIDATING;
        assert_true(job_state_parse(job_state_slug((enum job_state)i), &parsed));
        assert_int_equal(parsed, i);
    }
    enum job_state untouched = JOB_STATE_PAUSED;
    assert_false(job_state_parse("done", &untouched));
    assert_int_equal(untouched, JOB_STATE_PAUSED);
}

static void a_job_goes_from_validation_to_success_with_its_stages_as_steps(void **state)
{
    (void)state;
    json_t *plan = json_pack("{s:i}", "disk_bytes", 5);
    json_t *files = json_pack("[{s:s}]", "path", "plan.json");
    json_t *result = json_object();
    struct job *job = make_job(false);
    job = step(job, (struct job_event){.kind = JOB_EVENT_VALIDATED, .plan = plan, .memory_bytes = 77},
               NOW_MS + 1000);
    assert_int_equal(job->state, JOB_STATE_QUEUED);
    assert_int_equal(job->memory_bytes, 77);
    assert_ptr_equal(job->plan, plan);
    job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, NOW_MS + 2000);
    assert_int_equal(job->epoch, 1);
    assert_int_equal(job->started_at_ms, NOW_MS + 2000);
    job = step(job, (struct job_event){.kind = JOB_EVENT_STAGE, .stage = "inspect"}, NOW_MS + 3000);
    job->progress_ratio = 0.25; /* of the whole job: a new stage does not lower it */
    job = step(job, (struct job_event){.kind = JOB_EVENT_STAGE, .stage = "score"}, NOW_MS + 5000);
    assert_true(job->progress_ratio == 0.25 && job->progress_steps == 0);
    assert_string_equal(job->stage, "score");
    json_t *first = json_array_get(job->steps, 0);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "inspect");
    assert_string_equal(json_string_value(json_object_get(first, "status")), "succeeded");
    assert_int_equal(json_integer_value(json_object_get(first, "started_at")), NOW_MS / 1000 + 3);
    assert_int_equal(json_integer_value(json_object_get(first, "finished_at")), NOW_MS / 1000 + 5);
    job = step(
        job,
        (struct job_event){
            .kind = JOB_EVENT_SUCCEEDED, .files = files, .result = result, .revision = "0123456789abcdef"},
        NOW_MS + 9000);
    assert_int_equal(job->state, JOB_STATE_SUCCEEDED);
    assert_ptr_equal(job->files, files);
    assert_ptr_equal(job->result, result);
    assert_string_equal(job->revision, "0123456789abcdef");
    assert_int_equal(job->finished_at_ms, NOW_MS + 9000);
    assert_int_equal(refusal(job, (struct job_event){.kind = JOB_EVENT_CANCEL}), ERROR_CONFLICT);
    assert_int_equal(refusal(job, (struct job_event){.kind = JOB_EVENT_RETRY}), ERROR_CONFLICT);
    assert_int_equal(refusal(job, (struct job_event){.kind = JOB_EVENT_SUCCEEDED, .epoch = 1}), ERROR_FENCED);
    job_release(job);
    json_decref(plan);
    json_decref(files);
    json_decref(result);
}

static void a_rejected_job_fails_and_says_why(void **state)
{
    (void)state;
    struct error cause = {0};
    (void)error_set_field(&cause, ERROR_UNREACHABLE, "/target", "the target would remove everything");
    struct job *job = make_job(false);
    job = step(job, (struct job_event){.kind = JOB_EVENT_REJECTED, .error = &cause, .error_stage = "plan"},
               NOW_MS);
    assert_int_equal(job->state, JOB_STATE_FAILED);
    assert_string_equal(json_string_value(json_object_get(job->error, "code")), "unreachable");
    assert_string_equal(json_string_value(json_object_get(job->error, "field")), "/target");
    assert_string_equal(json_string_value(json_object_get(job->error, "stage")), "plan");
    assert_true(json_is_false(json_object_get(job->error, "retryable")));
    job = step(job, (struct job_event){.kind = JOB_EVENT_RETRY}, NOW_MS);
    assert_int_equal(job->state, JOB_STATE_VALIDATING); /* it has no plan yet */
    assert_null(job->error);
    job_release(job);
}

static void a_job_that_waits_says_for_whom_until_it_is_queued(void **state)
{
    (void)state;
    const struct job_event first = {.kind = JOB_EVENT_WAITING, .message = "waiting for job_A"};
    const struct job_event second = {.kind = JOB_EVENT_WAITING, .message = "waiting for job_B"};
    struct job *job = make_job(false);
    job = step(job, first, NOW_MS);
    assert_int_equal(job->state, JOB_STATE_VALIDATING);
    assert_string_equal(job->status_reason, "waiting for job_A");
    struct job *next = NULL;
    struct job_effects effects;
    assert_true(job_apply(job, &first, NOW_MS, &next, &effects, NULL));
    assert_false(effects.changed); /* nothing to write */
    assert_int_equal(next->version, job->version);
    job_release(next);
    job = step(job, second, NOW_MS);
    assert_string_equal(job->status_reason, "waiting for job_B");
    assert_int_equal(job->version, 3);
    json_t *plan = json_object();
    job = step(job, (struct job_event){.kind = JOB_EVENT_VALIDATED, .plan = plan}, NOW_MS);
    assert_null(job->status_reason);
    assert_int_equal(refusal(job, first), ERROR_CONFLICT);
    job_release(job);
    json_decref(plan);
}

static void transient_failures_back_off_and_the_fifth_is_final(void **state)
{
    (void)state;
    static const int seconds[] = {10, 20, 40, 80};
    struct error cause = {0};
    (void)error_set(&cause, ERROR_IO, "the disk coughed");
    struct job *job = make_job(true);
    int64_t now_ms = NOW_MS;
    for (size_t i = 0; i < 4; i++) {
        job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, now_ms);
        job = step(job, (struct job_event){.kind = JOB_EVENT_FAILED_TRANSIENT, .error = &cause}, now_ms);
        assert_int_equal(job->state, JOB_STATE_QUEUED);
        assert_string_equal(job->status_reason, "retry_backoff");
        assert_int_equal(job->run_at_ms, now_ms + seconds[i] * 1000);
        now_ms = job->run_at_ms;
    }
    job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, now_ms);
    job = step(job, (struct job_event){.kind = JOB_EVENT_FAILED_TRANSIENT, .error = &cause}, now_ms);
    assert_int_equal(job->state, JOB_STATE_FAILED);
    assert_string_equal(json_string_value(json_object_get(job->error, "code")), "io");
    job = step(job, (struct job_event){.kind = JOB_EVENT_RETRY}, now_ms);
    assert_int_equal(job->retry_count, 0);
    assert_int_equal(job->run_at_ms, 0);
    assert_int_equal(job->state, JOB_STATE_QUEUED);
    job_release(job);
}

static struct job *die(struct job *job)
{
    job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, NOW_MS);
    return step(job, (struct job_event){.kind = JOB_EVENT_WORKER_DIED, .message = "killed by signal 9"},
                NOW_MS);
}

static void three_deaths_in_a_row_end_a_job_and_a_finished_step_forgives(void **state)
{
    (void)state;
    struct job *job = die(die(make_job(true)));
    assert_int_equal(job->state, JOB_STATE_QUEUED);
    assert_string_equal(job->status_reason, "worker_lost");
    job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, NOW_MS);
    job = step(job, (struct job_event){.kind = JOB_EVENT_STEP_FINISHED}, NOW_MS);
    job = step(job, (struct job_event){.kind = JOB_EVENT_WORKER_DIED}, NOW_MS);
    job = die(job);
    assert_int_equal(job->state, JOB_STATE_QUEUED);
    /* Drains and restarts in between count as nothing. */
    job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, NOW_MS);
    uint32_t attempts = job->attempt_count;
    job = step(job, (struct job_event){.kind = JOB_EVENT_RELEASED}, NOW_MS);
    assert_int_equal(job->crash_count, 2);
    assert_int_equal(job->attempt_count, attempts - 1);
    job = die(job);
    assert_int_equal(job->state, JOB_STATE_FAILED);
    assert_string_equal(json_string_value(json_object_get(job->error, "code")), "worker_crash");
    assert_non_null(strstr(json_string_value(json_object_get(job->error, "message")), "signal 9"));
    job_release(job);
}

static void a_cancel_wins_over_whatever_the_worker_says_last(void **state)
{
    (void)state;
    static const enum job_event_kind last[] = {JOB_EVENT_SUCCEEDED,        JOB_EVENT_FAILED,
                                               JOB_EVENT_FAILED_TRANSIENT, JOB_EVENT_WORKER_DIED,
                                               JOB_EVENT_RELEASED,         JOB_EVENT_CANCELLED};
    for (size_t i = 0; i < sizeof last / sizeof *last; i++) {
        json_t *files = json_array();
        struct job *job = make_job(true);
        job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, NOW_MS);
        job = step(job, (struct job_event){.kind = JOB_EVENT_CANCEL}, NOW_MS);
        assert_int_equal(job->state, JOB_STATE_CANCELLING);
        job = step(job, (struct job_event){.kind = last[i], .files = files}, NOW_MS);
        assert_int_equal(job->state, JOB_STATE_CANCELLED);
        assert_null(job->files);
        job_release(job);
        json_decref(files);
    }
    struct job *running = step(make_job(true), (struct job_event){.kind = JOB_EVENT_CLAIMED}, NOW_MS);
    assert_int_equal(refusal(running, (struct job_event){.kind = JOB_EVENT_CANCELLED, .epoch = 1}),
                     ERROR_CONFLICT);
    job_release(running);
}

static void a_given_up_worker_is_fenced_even_before_the_next_claim(void **state)
{
    (void)state;
    struct job *job = die(make_job(true));
    assert_int_equal(job->epoch, 1);
    assert_int_equal(refusal(job, (struct job_event){.kind = JOB_EVENT_SUCCEEDED, .epoch = 1}), ERROR_FENCED);
    assert_int_equal(refusal(job, (struct job_event){.kind = JOB_EVENT_STAGE, .epoch = 1, .stage = "x"}),
                     ERROR_FENCED);
    job_release(job);
}

static void an_old_version_stays_as_it_was(void **state)
{
    (void)state;
    struct job *job = step(make_job(true), (struct job_event){.kind = JOB_EVENT_CLAIMED}, NOW_MS);
    job = step(job, (struct job_event){.kind = JOB_EVENT_STAGE, .stage = "score"}, NOW_MS);
    char *before = json_format(job->steps, false);
    struct job *next = NULL;
    struct job_effects effects;
    struct error error = {0};
    struct job_event event = {.kind = JOB_EVENT_STAGE, .epoch = 1, .stage = "rewrite"};
    assert_true(job_apply(job, &event, NOW_MS, &next, &effects, &error));
    char *after = json_format(job->steps, false);
    assert_string_equal(before, after);
    assert_string_equal(job->stage, "score");
    assert_int_equal(json_array_size(next->steps), 2);
    assert_ptr_equal(next->spec, job->spec);
    free(before);
    free(after);
    job_release(job);
    job_release(next);
}

/* ---- the simulator ------------------------------------------------------------------------------------- */

enum { SEQUENCES = 4000, EVENTS = 60, EVENT_KINDS = JOB_EVENT_RETRY + 1 };

/* From row to column: a transition that some event makes. */
static const bool legal[JOB_STATE_COUNT][JOB_STATE_COUNT] = {
    [JOB_STATE_VALIDATING] =
        {[JOB_STATE_QUEUED] = true, [JOB_STATE_FAILED] = true, [JOB_STATE_CANCELLED] = true},
    [JOB_STATE_QUEUED] = {[JOB_STATE_RUNNING] = true, [JOB_STATE_CANCELLED] = true},
    [JOB_STATE_RUNNING] = {[JOB_STATE_QUEUED] = true,
                           [JOB_STATE_CANCELLING] = true,
                           [JOB_STATE_SUCCEEDED] = true,
                           [JOB_STATE_FAILED] = true},
    [JOB_STATE_CANCELLING] = {[JOB_STATE_CANCELLED] = true},
    [JOB_STATE_FAILED] = {[JOB_STATE_QUEUED] = true, [JOB_STATE_VALIDATING] = true},
    [JOB_STATE_CANCELLED] = {[JOB_STATE_QUEUED] = true, [JOB_STATE_VALIDATING] = true},
};

static bool is_fenced_kind(enum job_event_kind kind)
{
    return kind != JOB_EVENT_VALIDATED && kind != JOB_EVENT_REJECTED && kind != JOB_EVENT_WAITING &&
           kind != JOB_EVENT_CLAIMED && kind != JOB_EVENT_CANCEL && kind != JOB_EVENT_RETRY;
}

static bool is_held(const struct job *job)
{
    return job->state == JOB_STATE_RUNNING || job->state == JOB_STATE_CANCELLING;
}

static size_t count_running_steps(const struct job *job)
{
    size_t running = 0;
    size_t index;
    const json_t *item;
    json_array_foreach(job->steps, index, item)
    {
        running += strcmp(json_string_value(json_object_get(item, "status")), "running") == 0 ? 1 : 0;
    }
    return running;
}

#define HOLDS(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fail_msg("sequence %u, event %u (kind %d): not so: %s", sequence, number, (int)event->kind,      \
                     #condition);                                                                            \
        }                                                                                                    \
    } while (0)

static void check_state(const struct job *job, const struct job_event *event, unsigned sequence,
                        unsigned number)
{
    bool terminal = job_state_is_terminal(job->state);
    HOLDS(terminal == (job->finished_at_ms != 0));
    HOLDS(job->run_at_ms == 0 || job->state == JOB_STATE_QUEUED);
    HOLDS(count_running_steps(job) <= (is_held(job) ? 1 : 0));
    HOLDS(job->state != JOB_STATE_QUEUED || job->plan != NULL);
    HOLDS(job->state == JOB_STATE_VALIDATING || job->state == JOB_STATE_FAILED ||
          job->state == JOB_STATE_CANCELLED || job->queued_at_ms != 0);
    HOLDS((job->files != NULL) == (job->state == JOB_STATE_SUCCEEDED));
    HOLDS(job->error == NULL || job->state == JOB_STATE_FAILED);
    HOLDS(job->state != JOB_STATE_FAILED || job->error != NULL);
    HOLDS(job->crash_count < JOB_CRASH_LIMIT || job->state == JOB_STATE_FAILED);
    HOLDS(job->retry_count < JOB_RETRY_LIMIT || job->state == JOB_STATE_FAILED);
    HOLDS(job->updated_at_ms >= job->created_at_ms);
}

static void check_transition(const struct job *job, const struct job *next, const struct job_event *event,
                             const struct job_effects *effects, uint32_t deaths, unsigned sequence,
                             unsigned number)
{
    bool claimed = event->kind == JOB_EVENT_CLAIMED;
    HOLDS(job->state == next->state || legal[job->state][next->state]);
    HOLDS(!job_state_is_terminal(job->state) || event->kind == JOB_EVENT_RETRY);
    HOLDS(next->epoch == job->epoch + (claimed ? 1 : 0));
    HOLDS(next->version == job->version + (effects->changed ? 1 : 0));
    HOLDS(next->updated_at_ms >= job->updated_at_ms);
    HOLDS(effects->changed || next->state == job->state);
    HOLDS(event->kind != JOB_EVENT_WAITING ||
          (next->state == JOB_STATE_VALIDATING && next->plan == job->plan));
    HOLDS(next->status_reason == NULL || next->state == JOB_STATE_VALIDATING ||
          strncmp(next->status_reason, "waiting", 7) != 0);
    HOLDS(effects->stop_worker == (job->state == JOB_STATE_RUNNING && next->state == JOB_STATE_CANCELLING));
    HOLDS(effects->wake_scheduler == (next->state == JOB_STATE_QUEUED && job->state != JOB_STATE_QUEUED));
    HOLDS(!is_fenced_kind(event->kind) || (event->epoch == job->epoch && is_held(job)));
    HOLDS(effects->log_type[0] != '\0' && (!effects->changed || effects->log_level[0] != '\0'));
    if (event->kind == JOB_EVENT_WORKER_DIED && job->state == JOB_STATE_RUNNING) {
        HOLDS((next->state == JOB_STATE_FAILED) == (deaths + 1 >= JOB_CRASH_LIMIT));
    }
    check_state(next, event, sequence, number);
}

/* From wherever a sequence stopped, the job can still be brought to an end: none is lost. */
static void bring_to_an_end(struct job *job, json_t *files)
{
    int64_t late_ms = job->updated_at_ms + INT64_C(7200000);
    json_t *plan = json_object();
    if (job->state == JOB_STATE_VALIDATING) {
        job = step(job, (struct job_event){.kind = JOB_EVENT_VALIDATED, .plan = plan}, late_ms);
    }
    if (job->state == JOB_STATE_QUEUED) {
        job = step(job, (struct job_event){.kind = JOB_EVENT_CLAIMED}, late_ms);
    }
    if (is_held(job)) {
        bool cancelling = job->state == JOB_STATE_CANCELLING;
        job = step(job, (struct job_event){.kind = JOB_EVENT_SUCCEEDED, .files = files}, late_ms);
        assert_int_equal(job->state, cancelling ? JOB_STATE_CANCELLED : JOB_STATE_SUCCEEDED);
    }
    assert_true(job_state_is_terminal(job->state));
    job_release(job);
    json_decref(plan);
}

static uint64_t run_sequence(unsigned sequence, json_t *plan, json_t *files)
{
    static const char *const stages[] = {"inspect", "calibrate", "score", "search"};
    static const char *const reasons[] = {"waiting for job_A", "waiting for job_B"};
    struct rng rng = {.seed = 20270115, .stream = sequence};
    struct job *job = make_job(rng_below(&rng, 1000, 2) == 0);
    int64_t now_ms = NOW_MS;
    uint32_t deaths = 0; /* the rule counted by hand */
    uint64_t applied_count = 0;
    for (unsigned number = 0; number < EVENTS; number++) {
        rng.step = number;
        now_ms += (int64_t)rng_below(&rng, 0, 40000) - 8000; /* the wall clock may step back */
        uint64_t skew = rng_below(&rng, 1, 8);
        struct job_event made = {.kind = (enum job_event_kind)rng_below(&rng, 2, EVENT_KINDS),
                                 .epoch =
                                     job->epoch + (skew == 0 ? 1 : 0) - (skew == 1 && job->epoch > 0 ? 1 : 0),
                                 .stage = stages[rng_below(&rng, 3, 4)],
                                 .message = reasons[rng_below(&rng, 5, 2)],
                                 .plan = plan,
                                 .files = files,
                                 .memory_bytes = number};
        const struct job_event *event = &made;
        struct job_effects effects;
        struct job *next = NULL;
        struct error error = {0};
        struct job before = *job;
        bool applied = job_apply(job, event, now_ms, &next, &effects, &error);
        HOLDS(memcmp(&before, job, sizeof before) == 0);
        if (!applied) {
            HOLDS(next == NULL && (error.code == ERROR_FENCED || error.code == ERROR_CONFLICT));
            HOLDS((error.code == ERROR_FENCED) ==
                  (is_fenced_kind(event->kind) && (event->epoch != job->epoch || !is_held(job))));
            continue;
        }
        applied_count++;
        check_transition(job, next, event, &effects, deaths, sequence, number);
        if (event->kind == JOB_EVENT_WORKER_DIED && job->state == JOB_STATE_RUNNING) {
            deaths++;
        } else if (event->kind == JOB_EVENT_STEP_FINISHED || event->kind == JOB_EVENT_RETRY) {
            deaths = 0;
        }
        job_release(job);
        job = next;
        if (job->state == JOB_STATE_SUCCEEDED && rng_below(&rng, 4, 4) == 0) { /* nothing moves it any more */
            job_release(job);
            job = make_job(false);
            deaths = 0;
        }
    }
    bring_to_an_end(job, files);
    return applied_count;
}

static void no_sequence_of_events_breaks_an_invariant(void **state)
{
    (void)state;
    json_t *plan = json_object();
    json_t *files = json_pack("[{s:s}]", "path", "plan.json");
    uint64_t applied = 0;
    for (unsigned sequence = 0; sequence < SEQUENCES; sequence++) {
        applied += run_sequence(sequence, plan, files);
    }
    print_message("# %d sequences of %d events, %llu accepted\n", SEQUENCES, EVENTS,
                  (unsigned long long)applied);
    assert_true(applied > SEQUENCES * EVENTS / 20); /* the simulator did meet the machine */
    assert_int_equal(plan->refcount, 1);
    assert_int_equal(files->refcount, 1);
    json_decref(plan);
    json_decref(files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_state_has_a_slug_that_reads_back),
        cmocka_unit_test(a_job_goes_from_validation_to_success_with_its_stages_as_steps),
        cmocka_unit_test(a_rejected_job_fails_and_says_why),
        cmocka_unit_test(a_job_that_waits_says_for_whom_until_it_is_queued),
        cmocka_unit_test(transient_failures_back_off_and_the_fifth_is_final),
        cmocka_unit_test(three_deaths_in_a_row_end_a_job_and_a_finished_step_forgives),
        cmocka_unit_test(a_cancel_wins_over_whatever_the_worker_says_last),
        cmocka_unit_test(a_given_up_worker_is_fenced_even_before_the_next_claim),
        cmocka_unit_test(an_old_version_stays_as_it_was),
        cmocka_unit_test(no_sequence_of_events_breaks_an_invariant),
    };
    json_start();
    return cmocka_run_group_tests_name("storage/job", tests, NULL, NULL);
}
