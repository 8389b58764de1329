/*
 * The promises of storage/storage.h about jobs and their events, written against that header alone: whatever database
 * stands behind it has to pass this file.
 */
#include "tests/unit/storage/support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* ---- jobs ---------------------------------------------------------------------------------------------- */

static void an_inserted_job_can_be_read_at_once_and_after_a_restart(void **state)
{
    struct fixture *fixture = *state;
    struct answer planned = insert_job(fixture->storage, NULL, NULL, 1234, true);
    struct answer plain = insert_job(fixture->storage, NULL, NULL, 0, false);
    EXPECT_OK(planned);
    EXPECT_OK(plain);
    assert_int_equal(planned.job->state, JOB_STATE_QUEUED);
    assert_int_equal(plain.job->state, JOB_STATE_VALIDATING);
    assert_true(plain.job->row > planned.job->row);
    assert_memory_equal(planned.job->id, "job_", 4);
    assert_int_equal(strlen(planned.job->id), 30);
    struct job *peeked = storage_peek_job(fixture->storage, TENANT, planned.job->id);
    assert_ptr_equal(peeked, planned.job);
    job_release(peeked);
    reopen(fixture);
    struct answer read = get_job(fixture->storage, TENANT, planned.job->id);
    EXPECT_OK(read);
    assert_int_equal(read.job->state, JOB_STATE_QUEUED);
    assert_int_equal(read.job->memory_bytes, 1234);
    assert_int_equal(read.job->created_at_ms, planned.job->created_at_ms);
    assert_true(json_equal(read.job->spec, planned.job->spec));
    assert_true(json_equal(read.job->plan, planned.job->plan));
    assert_int_equal(read.job->version, planned.job->version);
    answer_finish(&read);
    answer_finish(&planned);
    answer_finish(&plain);
}

static void the_same_idempotency_key_gives_the_same_job_and_another_request_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct answer first = insert_job(fixture->storage, "key-1", "aaaa", 0, true);
    struct answer again = insert_job(fixture->storage, "key-1", "aaaa", 0, true);
    struct answer other = insert_job(fixture->storage, "key-1", "bbbb", 0, true);
    EXPECT_OK(again);
    assert_false(first.replayed);
    assert_true(again.replayed);
    assert_string_equal(first.job->id, again.job->id);
    EXPECT(other, IDEMPOTENCY_MISMATCH);
    assert_null(other.job);
    json_t *spec = json_object();
    struct job_draft draft = {.tenant_id = "tenant_other",
                              .type = "pruning",
                              .idempotency_key = "key-1",
                              .request_sha256 = "bbbb",
                              .spec = spec};
    struct answer elsewhere = insert_draft(fixture->storage, &draft);
    EXPECT_OK(elsewhere);
    assert_false(elsewhere.replayed);
    reopen(fixture);
    struct answer later = insert_job(fixture->storage, "key-1", "aaaa", 0, true);
    assert_true(later.replayed);
    assert_string_equal(first.job->id, later.job->id);
    struct page page;
    list_jobs(fixture->storage, &(struct job_filter){.tenant_id = TENANT, .limit = 10}, &page);
    assert_int_equal(page.count, 1);
    json_decref(spec);
    answer_finish(&first);
    answer_finish(&again);
    answer_finish(&elsewhere);
    answer_finish(&later);
}

static void a_job_waits_across_a_restart_and_says_for_whom(void **state)
{
    struct fixture *fixture = *state;
    JSON_OWNED spec = json_object();
    JSON_OWNED plan = json_object();
    const struct job_draft draft = {
        .tenant_id = TENANT, .type = "evaluation", .status_reason = "waiting for job_A", .spec = spec};
    struct answer waiting = insert_draft(fixture->storage, &draft);
    EXPECT_OK(waiting);
    reopen(fixture);
    struct answer read = get_job(fixture->storage, TENANT, waiting.job->id);
    assert_int_equal(read.job->state, JOB_STATE_VALIDATING);
    assert_string_equal(read.job->status_reason, "waiting for job_A");
    const struct job_event next = {.kind = JOB_EVENT_WAITING, .message = "waiting for job_B"};
    const struct job_event validated = {.kind = JOB_EVENT_VALIDATED, .plan = plan};
    struct answer moved = apply_event(fixture->storage, waiting.job->id, &next);
    EXPECT_OK(moved);
    assert_string_equal(moved.job->status_reason, "waiting for job_B");
    struct answer queued = apply_event(fixture->storage, waiting.job->id, &validated);
    EXPECT_OK(queued);
    struct answer late = apply_event(fixture->storage, waiting.job->id, &next);
    EXPECT(late, CONFLICT);
    reopen(fixture);
    struct answer after = get_job(fixture->storage, TENANT, waiting.job->id);
    assert_int_equal(after.job->state, JOB_STATE_QUEUED);
    assert_null(after.job->status_reason);
    answer_finish(&waiting);
    answer_finish(&read);
    answer_finish(&moved);
    answer_finish(&queued);
    answer_finish(&after);
}

static void another_tenant_finds_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct answer mine = insert_job(fixture->storage, NULL, NULL, 0, true);
    struct page page;
    struct answer read = get_job(fixture->storage, "tenant_other", mine.job->id);
    EXPECT(read, NOT_FOUND);
    assert_null(storage_peek_job(fixture->storage, "tenant_other", mine.job->id));
    list_events(fixture->storage, "tenant_other", mine.job->id, 0, 10, &page);
    EXPECT(page, NOT_FOUND);
    list_jobs(fixture->storage, &(struct job_filter){.tenant_id = "tenant_other", .limit = 10}, &page);
    EXPECT_OK(page);
    assert_int_equal(page.count, 0);
    list_jobs(fixture->storage,
              &(struct job_filter){.tenant_id = "tenant_other", .limit = 10, .after = mine.job->id}, &page);
    EXPECT(page, NOT_FOUND);
    answer_finish(&mine);
}

static void claims_go_by_order_and_by_what_fits(void **state)
{
    struct fixture *fixture = *state;
    struct answer large = insert_job(fixture->storage, NULL, NULL, 1000, true);
    struct answer small = insert_job(fixture->storage, NULL, NULL, 10, true);
    struct answer waiting = insert_job(fixture->storage, NULL, NULL, 0, false);
    struct answer first = claim_job(fixture->storage, 100);
    assert_string_equal(first.job->id, small.job->id);
    assert_int_equal(first.job->epoch, 1);
    assert_int_equal(first.job->attempt_count, 1);
    struct answer none = claim_job(fixture->storage, 100);
    EXPECT_OK(none);
    assert_null(none.job);
    struct answer second = claim_job(fixture->storage, 1000);
    assert_string_equal(second.job->id, large.job->id);
    struct answer empty = claim_job(fixture->storage, UINT64_MAX);
    assert_null(empty.job);
    json_t *spec = json_pack("{s:i}", "priority", 5);
    json_t *plan = json_object();
    struct answer ordinary = insert_job(fixture->storage, NULL, NULL, 0, true);
    struct job_draft draft = {.tenant_id = TENANT, .type = "pruning", .spec = spec, .plan = plan};
    struct answer urgent = insert_draft(fixture->storage, &draft);
    struct answer third = claim_job(fixture->storage, 0);
    assert_string_equal(third.job->id, urgent.job->id);
    json_decref(spec);
    json_decref(plan);
    answer_finish(&large);
    answer_finish(&small);
    answer_finish(&waiting);
    answer_finish(&first);
    answer_finish(&second);
    answer_finish(&ordinary);
    answer_finish(&urgent);
    answer_finish(&third);
}

static void a_job_in_backoff_is_not_claimed_before_its_time(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    struct job_event transient = {.kind = JOB_EVENT_FAILED_TRANSIENT, .epoch = job->epoch};
    struct answer failed = apply_event(fixture->storage, job->id, &transient);
    assert_int_equal(failed.job->state, JOB_STATE_QUEUED);
    struct storage_counts counts;
    storage_get_counts(fixture->storage, &counts);
    assert_int_equal(counts.by_state[JOB_STATE_QUEUED], 1);
    assert_int_equal(counts.runnable, 0);
    struct answer early = claim_job(fixture->storage, UINT64_MAX);
    assert_null(early.job);
    test_clock_advance(&fixture->clock, 10000);
    struct answer due = claim_job(fixture->storage, UINT64_MAX);
    assert_non_null(due.job);
    assert_int_equal(due.job->epoch, job->epoch + 1);
    answer_finish(&failed);
    answer_finish(&due);
    job_release(job);
}

static void a_writer_of_an_older_epoch_is_fenced_and_leaves_no_trace(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    struct job_event died = {.kind = JOB_EVENT_WORKER_DIED, .epoch = job->epoch, .message = "signal 9"};
    struct answer requeued = apply_event(fixture->storage, job->id, &died);
    EXPECT_OK(requeued);
    struct answer claimed = claim_job(fixture->storage, UINT64_MAX);
    struct page before;
    list_events(fixture->storage, TENANT, job->id, 0, 100, &before);
    struct job_event late[] = {
        {.kind = JOB_EVENT_STAGE, .epoch = job->epoch, .stage = "score"},
        {.kind = JOB_EVENT_STEP_FINISHED, .epoch = job->epoch},
        {.kind = JOB_EVENT_MESSAGE, .epoch = job->epoch, .message = "still here"},
        {.kind = JOB_EVENT_SUCCEEDED, .epoch = job->epoch},
        {.kind = JOB_EVENT_FAILED, .epoch = job->epoch},
        {.kind = JOB_EVENT_RELEASED, .epoch = job->epoch},
        {.kind = JOB_EVENT_STAGE, .epoch = claimed.job->epoch + 1, .stage = "score"},
    };
    for (size_t i = 0; i < sizeof late / sizeof *late; i++) {
        struct answer answer = apply_event(fixture->storage, job->id, &late[i]);
        EXPECT(answer, FENCED);
    }
    struct page after;
    list_events(fixture->storage, TENANT, job->id, 0, 100, &after);
    assert_int_equal(after.count, before.count);
    struct answer read = get_job(fixture->storage, TENANT, job->id);
    assert_int_equal(read.job->version, claimed.job->version);
    answer_finish(&requeued);
    answer_finish(&claimed);
    answer_finish(&read);
    job_release(job);
}

static void unknown_jobs_are_not_found(void **state)
{
    struct fixture *fixture = *state;
    struct job_event cancel = {.kind = JOB_EVENT_CANCEL};
    const char *ids[] = {"job_00000000000000000000000000", "", "x",
                         "job_000000000000000000000000000000000000000000000000000000000000000000000000"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        struct answer applied = apply_event(fixture->storage, ids[i], &cancel);
        EXPECT(applied, NOT_FOUND);
        struct answer read = get_job(fixture->storage, TENANT, ids[i]);
        EXPECT(read, NOT_FOUND);
        struct answer deleted = delete_job(fixture->storage, ids[i]);
        EXPECT(deleted, NOT_FOUND);
        assert_null(storage_peek_job(fixture->storage, TENANT, ids[i]));
    }
}

static void only_finished_jobs_can_be_deleted(void **state)
{
    struct fixture *fixture = *state;
    struct answer job = insert_job(fixture->storage, "key", "sha", 0, true);
    struct answer refused = delete_job(fixture->storage, job.job->id);
    EXPECT(refused, CONFLICT);
    struct job_event cancel = {.kind = JOB_EVENT_CANCEL};
    struct answer cancelled = apply_event(fixture->storage, job.job->id, &cancel);
    assert_int_equal(cancelled.job->state, JOB_STATE_CANCELLED);
    struct answer deleted = delete_job(fixture->storage, job.job->id);
    EXPECT_OK(deleted);
    struct answer read = get_job(fixture->storage, TENANT, job.job->id);
    EXPECT(read, NOT_FOUND);
    struct page page;
    list_events(fixture->storage, TENANT, job.job->id, 0, 10, &page);
    EXPECT(page, NOT_FOUND);
    struct storage_counts counts;
    storage_get_counts(fixture->storage, &counts);
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(counts.by_state[i], 0);
    }
    struct answer anew = insert_job(fixture->storage, "key", "another", 0, true);
    EXPECT_OK(anew); /* the key went with its job */
    assert_false(anew.replayed);
    answer_finish(&job);
    answer_finish(&cancelled);
    answer_finish(&deleted);
    answer_finish(&anew);
}

static void the_life_of_a_job_is_in_its_events(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    struct job_event steps[] = {
        {.kind = JOB_EVENT_STAGE, .epoch = job->epoch, .stage = "calibrate"},
        {.kind = JOB_EVENT_MESSAGE, .epoch = job->epoch, .level = "warn", .message = "two samples are short"},
        {.kind = JOB_EVENT_STAGE, .epoch = job->epoch, .stage = "score"},
        {.kind = JOB_EVENT_CANCEL},
        {.kind = JOB_EVENT_CANCELLED, .epoch = job->epoch},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct answer answer = apply_event(fixture->storage, job->id, &steps[i]);
        EXPECT_OK(answer);
        answer_finish(&answer);
    }
    struct page page;
    list_events(fixture->storage, TENANT, job->id, 0, 100, &page);
    static const char *const types[] = {"status",   "status", "progress", "message",
                                        "progress", "status", "status"};
    assert_int_equal(page.count, 7);
    for (size_t i = 0; i < page.count; i++) {
        assert_string_equal(page.types[i], types[i]);
        assert_memory_equal(page.ids[i], "evt_", 4);
        assert_true(i == 0 || page.seqs[i] > page.seqs[i - 1]);
    }
    assert_string_equal(page.levels[3], "warn");
    assert_string_equal(page.messages[3], "two samples are short");
    struct page rest;
    list_events(fixture->storage, TENANT, job->id, page.seqs[2], 2, &rest);
    assert_int_equal(rest.count, 2);
    assert_true(rest.has_more);
    assert_int_equal(rest.seqs[0], page.seqs[3]);
    list_events(fixture->storage, TENANT, job->id, page.seqs[6], 2, &rest);
    assert_int_equal(rest.count, 0);
    assert_false(rest.has_more);
    struct answer read = get_job(fixture->storage, TENANT, job->id);
    assert_int_equal(json_array_size(read.job->steps), 2);
    answer_finish(&read);
    job_release(job);
}

/* ---- paging -------------------------------------------------------------------------------------------- */

static void walk_pages(struct storage *storage, struct job_filter filter, char (*ret_ids)[40],
                       size_t *ret_count)
{
    size_t count = 0;
    struct page page;
    do {
        list_jobs(storage, &filter, &page);
        EXPECT_OK(page);
        for (size_t i = 0; i < page.count; i++) {
            memcpy(ret_ids[count++], page.ids[i], 40);
        }
        filter.after = count > 0 ? ret_ids[count - 1] : NULL;
    } while (page.has_more);
    *ret_count = count;
}

static void check_paging(struct fixture *fixture, char (*ids)[40], size_t count)
{
    static const size_t limits[] = {1, 3, 7, 100};
    char found[64][40];
    for (size_t l = 0; l < 4; l++) {
        size_t found_count = 0;
        walk_pages(fixture->storage, (struct job_filter){.tenant_id = TENANT, .limit = limits[l]}, found,
                   &found_count);
        assert_int_equal(found_count, count);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(found[i], ids[count - 1 - i]);
        }
        walk_pages(fixture->storage,
                   (struct job_filter){.tenant_id = TENANT, .limit = limits[l], .ascending = true}, found,
                   &found_count);
        assert_int_equal(found_count, count);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(found[i], ids[i]);
        }
    }
}

static void pages_hold_every_job_once_in_order_whatever_is_still_in_memory(void **state)
{
    struct fixture *fixture = *state;
    enum { COUNT = 20 };
    char ids[COUNT][40];
    for (size_t i = 0; i < COUNT; i++) {
        struct answer answer = insert_job(fixture->storage, NULL, NULL, 0, true);
        memcpy(ids[i], answer.job->id, 40);
        answer_finish(&answer);
    }
    check_paging(fixture, ids, COUNT);
    /* Finish most of them in a mixed order, and keep only four finished ones in memory. */
    storage_close(fixture->storage);
    struct storage_options options = {.folder = fixture->folder,
                                      .clock = &fixture->clock.source,
                                      .reserve_bytes = 1,
                                      .finished_in_memory = 4};
    struct error error = {0};
    assert_true(storage_open(&options, &fixture->storage, &error));
    for (size_t i = 0; i < COUNT; i++) {
        size_t pick = i * 7 % COUNT;
        struct job_event cancel = {.kind = JOB_EVENT_CANCEL};
        if (pick % 5 != 0) {
            struct answer answer = apply_event(fixture->storage, ids[pick], &cancel);
            EXPECT_OK(answer);
            answer_finish(&answer);
            test_clock_advance(&fixture->clock, 5);
        }
    }
    check_paging(fixture, ids, COUNT);
    size_t peeked = 0;
    for (size_t i = 0; i < COUNT; i++) {
        struct job *job = storage_peek_job(fixture->storage, TENANT, ids[i]);
        peeked += job != NULL ? 1 : 0;
        job_release(job);
        struct answer read = get_job(fixture->storage, TENANT, ids[i]);
        EXPECT_OK(read);
        assert_int_equal(read.job->state, i % 5 == 0 ? JOB_STATE_QUEUED : JOB_STATE_CANCELLED);
        answer_finish(&read);
    }
    assert_int_equal(peeked, 8); /* four live, four finished */
    storage_close(fixture->storage);
    assert_true(storage_open(&options, &fixture->storage, &error));
    check_paging(fixture, ids, COUNT);
    /* One that had left comes back to life, and is counted once. */
    struct job_event retry = {.kind = JOB_EVENT_RETRY};
    struct answer retried = apply_event(fixture->storage, ids[7], &retry);
    EXPECT_OK(retried);
    struct storage_counts counts;
    storage_get_counts(fixture->storage, &counts);
    assert_int_equal(counts.by_state[JOB_STATE_QUEUED], 5);
    assert_int_equal(counts.by_state[JOB_STATE_CANCELLED], 15);
    check_paging(fixture, ids, COUNT);
    answer_finish(&retried);
}

static void filters_keep_what_was_asked_for(void **state)
{
    struct fixture *fixture = *state;
    struct answer pruning = insert_job(fixture->storage, NULL, NULL, 0, true);
    json_t *spec = json_pack("{s:s}", "type", "evaluation");
    struct job_draft draft = {.tenant_id = TENANT, .type = "evaluation", .spec = spec};
    struct answer evaluation = insert_draft(fixture->storage, &draft);
    struct page page;
    for (size_t round = 0; round < 2; round++) {
        list_jobs(fixture->storage,
                  &(struct job_filter){.tenant_id = TENANT, .limit = 10, .type = "evaluation"}, &page);
        assert_int_equal(page.count, 1);
        assert_string_equal(page.ids[0], evaluation.job->id);
        list_jobs(fixture->storage,
                  &(struct job_filter){.tenant_id = TENANT, .limit = 10, .method = "finercut"}, &page);
        assert_int_equal(page.count, 1);
        assert_string_equal(page.ids[0], pruning.job->id);
        list_jobs(
            fixture->storage,
            &(struct job_filter){.tenant_id = TENANT, .limit = 10, .state_mask = 1u << JOB_STATE_VALIDATING},
            &page);
        assert_int_equal(page.count, 1);
        list_jobs(fixture->storage,
                  &(struct job_filter){.tenant_id = TENANT,
                                       .limit = 10,
                                       .state_mask = 1u << JOB_STATE_VALIDATING | 1u << JOB_STATE_QUEUED |
                                                     1u << JOB_STATE_FAILED},
                  &page);
        assert_int_equal(page.count, 2);
        reopen(fixture);
    }
    list_jobs(fixture->storage, &(struct job_filter){.tenant_id = TENANT, .limit = 0}, &page);
    EXPECT(page, OUT_OF_RANGE);
    list_jobs(fixture->storage, &(struct job_filter){.tenant_id = TENANT, .limit = 101}, &page);
    EXPECT(page, OUT_OF_RANGE);
    list_jobs(fixture->storage, &(struct job_filter){.tenant_id = TENANT, .limit = 1, .after = "job_none"},
              &page);
    EXPECT(page, NOT_FOUND);
    json_decref(spec);
    answer_finish(&pruning);
    answer_finish(&evaluation);
}

/* ---- restart ------------------------------------------------------------------------------------------- */

static void a_restart_requeues_what_ran_and_ends_what_was_being_cancelled(void **state)
{
    struct fixture *fixture = *state;
    struct job *running = make_running_job(fixture->storage);
    struct job *cancelling = make_running_job(fixture->storage);
    struct job_event cancel = {.kind = JOB_EVENT_CANCEL};
    struct answer cancelled = apply_event(fixture->storage, cancelling->id, &cancel);
    assert_int_equal(cancelled.job->state, JOB_STATE_CANCELLING);
    reopen(fixture);
    struct answer first = get_job(fixture->storage, TENANT, running->id);
    struct answer second = get_job(fixture->storage, TENANT, cancelling->id);
    assert_int_equal(first.job->state, JOB_STATE_QUEUED);
    assert_int_equal(first.job->epoch, running->epoch);
    assert_int_equal(first.job->attempt_count, 0);
    assert_int_equal(first.job->crash_count, 0);
    assert_true(first.job->version > running->version);
    assert_int_equal(second.job->state, JOB_STATE_CANCELLED);
    struct job_event late = {.kind = JOB_EVENT_STAGE, .epoch = running->epoch, .stage = "score"};
    struct answer fenced = apply_event(fixture->storage, running->id, &late);
    EXPECT(fenced, FENCED);
    struct answer claimed = claim_job(fixture->storage, UINT64_MAX);
    assert_string_equal(claimed.job->id, running->id);
    assert_int_equal(claimed.job->epoch, running->epoch + 1);
    answer_finish(&cancelled);
    answer_finish(&first);
    answer_finish(&second);
    answer_finish(&claimed);
    job_release(running);
    job_release(cancelling);
}

static void a_second_opener_is_told_that_the_database_is_held(void **state)
{
    struct fixture *fixture = *state;
    struct storage_options options = {.folder = fixture->folder};
    struct storage *second = NULL;
    struct error error = {0};
    assert_false(storage_open(&options, &second, &error));
    assert_int_equal(error.code, ERROR_CONFLICT);
    assert_non_null(strstr(error.message, "another process"));
    assert_null(second);
    struct answer still = insert_job(fixture->storage, NULL, NULL, 0, true);
    EXPECT_OK(still);
    answer_finish(&still);
}

/* ---- progress ------------------------------------------------------------------------------------------ */

struct seen_progress {
    struct storage *storage;
    const char *job_id;
    uint64_t step;
};

static bool shows_step(void *context)
{
    struct seen_progress *seen = context;
    struct job *job = storage_peek_job(seen->storage, TENANT, seen->job_id);
    bool shows = job != NULL && job->progress_step == seen->step;
    job_release(job);
    return shows;
}

static void progress_shows_in_the_job_and_ends_with_its_attempt(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    struct seen_progress seen = {.storage = fixture->storage, .job_id = job->id, .step = 3};
    struct job_progress progress = {
        .step = 3, .steps = 10, .unit = "sublayers", .ratio = 0.3, .rate_per_second = 2, .eta_seconds = 3.5};
    storage_progress(fixture->storage, job->id, job->epoch, &progress);
    assert_true(wait_until(shows_step, &seen));
    struct job *shown = storage_peek_job(fixture->storage, TENANT, job->id);
    assert_string_equal(shown->progress_unit, "sublayers");
    assert_true(shown->version > job->version);
    assert_true(shown->progress_ratio > 0.29 && shown->progress_ratio < 0.31);
    progress.step = 99;
    storage_progress(fixture->storage, job->id, job->epoch + 1, &progress);
    storage_progress(fixture->storage, "job_unknown", 1, &progress);
    struct job_event died = {.kind = JOB_EVENT_WORKER_DIED, .epoch = job->epoch};
    struct answer requeued = apply_event(fixture->storage, job->id, &died);
    assert_true(requeued.job->version > shown->version);
    assert_true(requeued.job->progress_ratio < 0);
    storage_progress(fixture->storage, job->id, job->epoch, &progress);
    test_clock_advance(&fixture->clock, 1000);
    struct answer claimed = claim_job(fixture->storage, UINT64_MAX);
    struct job *after = storage_peek_job(fixture->storage, TENANT, job->id);
    assert_int_equal(after->progress_step, 0);
    job_release(after);
    job_release(shown);
    job_release(job);
    answer_finish(&requeued);
    answer_finish(&claimed);
}

/* ---- on_change ----------------------------------------------------------------------------------------- */

struct heard {
    atomic_size_t status, reports;
    atomic_uint_fast64_t step;
};

static void hear(void *context, struct job *job, const struct job_effects *effects)
{
    struct heard *heard = context;
    if (strcmp(effects->log_type, "progress") == 0 && job->stage == NULL) {
        atomic_store(&heard->step, job->progress_step);
        atomic_fetch_add(&heard->reports, 1);
    } else {
        atomic_fetch_add(&heard->status, 1);
    }
}

static bool heard_one_report(void *context)
{
    return atomic_load(&((struct heard *)context)->reports) == 1;
}

static bool heard_two_reports(void *context)
{
    return atomic_load(&((struct heard *)context)->reports) == 2;
}

static void on_change_hears_of_every_commit_and_of_four_reports_a_second(void **state)
{
    struct fixture *fixture = *state;
    struct heard heard = {0};
    storage_close(fixture->storage);
    struct storage_options options = {.folder = fixture->folder,
                                      .clock = &fixture->clock.source,
                                      .reserve_bytes = 1,
                                      .on_change = hear,
                                      .on_change_context = &heard};
    struct error error = {0};
    assert_true(storage_open(&options, &fixture->storage, &error));
    struct job *job = make_running_job(fixture->storage);
    assert_int_equal(atomic_load(&heard.status), 2);
    struct job_progress progress = {.step = 1, .steps = 100, .ratio = 0.01};
    storage_progress(fixture->storage, job->id, job->epoch, &progress);
    assert_true(wait_until(heard_one_report, &heard));
    for (progress.step = 2; progress.step <= 50; progress.step++) {
        storage_progress(fixture->storage, job->id, job->epoch, &progress);
    }
    /* A command that is answered has passed the thread that would have reported. */
    struct job_event message = {.kind = JOB_EVENT_MESSAGE, .epoch = job->epoch, .message = "tick"};
    for (size_t i = 0; i < 3; i++) {
        struct answer answer = apply_event(fixture->storage, job->id, &message);
        EXPECT_OK(answer);
        answer_finish(&answer);
    }
    assert_int_equal(atomic_load(&heard.reports), 1);
    assert_int_equal(atomic_load(&heard.status), 5);
    test_clock_advance(&fixture->clock, 251);
    assert_true(wait_until(heard_two_reports, &heard));
    assert_int_equal(atomic_load(&heard.step), 50); /* the newest, not the next */
    job_release(job);
}

/* ---- threads ------------------------------------------------------------------------------------------- */

enum { VISITORS = 4, VISITS = 60 };

struct visitor {
    struct storage *storage;
    unsigned number;
    size_t claimed;
};

/* Everything a busy service does at once, from one of several threads. */
static void *visit(void *context)
{
    struct visitor *visitor = context;
    struct page *page = calloc(1, sizeof *page);
    for (unsigned i = 0; i < VISITS; i++) {
        char key[32];
        (void)snprintf(key, sizeof key, "key-%u", i); /* all visitors use the same keys */
        struct answer inserted = insert_job(visitor->storage, key, "sha", 0, true);
        struct answer claimed = claim_job(visitor->storage, UINT64_MAX);
        if (claimed.job != NULL) {
            visitor->claimed++;
            struct job_progress progress = {.step = i, .steps = VISITS, .unit = "visits"};
            storage_progress(visitor->storage, claimed.job->id, claimed.job->epoch, &progress);
            struct job_event stage = {.kind = JOB_EVENT_STAGE, .epoch = claimed.job->epoch, .stage = "score"};
            struct answer staged = apply_event(visitor->storage, claimed.job->id, &stage);
            struct job_event cancel = {.kind = i % 2 == 0 ? JOB_EVENT_CANCEL : JOB_EVENT_FAILED,
                                       .epoch = claimed.job->epoch};
            struct answer ended = apply_event(visitor->storage, claimed.job->id, &cancel);
            answer_finish(&staged);
            answer_finish(&ended);
        }
        list_jobs(visitor->storage, &(struct job_filter){.tenant_id = TENANT, .limit = 20}, page);
        struct storage_counts counts;
        storage_get_counts(visitor->storage, &counts);
        struct job *peeked = storage_peek_job(visitor->storage, TENANT, inserted.job->id);
        job_release(peeked);
        answer_finish(&inserted);
        answer_finish(&claimed);
    }
    free(page);
    return NULL;
}

static void calls_may_come_from_any_thread_and_a_job_is_claimed_once(void **state)
{
    struct fixture *fixture = *state;
    struct visitor visitors[VISITORS] = {0};
    pthread_t threads[VISITORS];
    for (unsigned i = 0; i < VISITORS; i++) {
        visitors[i] = (struct visitor){.storage = fixture->storage, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, visit, &visitors[i]), 0);
    }
    size_t claimed = 0;
    for (unsigned i = 0; i < VISITORS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        claimed += visitors[i].claimed;
    }
    struct storage_counts counts;
    storage_get_counts(fixture->storage, &counts);
    uint64_t jobs = 0;
    for (size_t i = 0; i < 8; i++) {
        jobs += counts.by_state[i];
    }
    assert_int_equal(jobs, VISITS);
    assert_int_equal(claimed, VISITS);
    assert_int_equal(counts.by_state[JOB_STATE_QUEUED], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(an_inserted_job_can_be_read_at_once_and_after_a_restart),
        CASE(the_same_idempotency_key_gives_the_same_job_and_another_request_is_refused),
        CASE(a_job_waits_across_a_restart_and_says_for_whom),
        CASE(another_tenant_finds_nothing),
        CASE(claims_go_by_order_and_by_what_fits),
        CASE(a_job_in_backoff_is_not_claimed_before_its_time),
        CASE(a_writer_of_an_older_epoch_is_fenced_and_leaves_no_trace),
        CASE(unknown_jobs_are_not_found),
        CASE(only_finished_jobs_can_be_deleted),
        CASE(the_life_of_a_job_is_in_its_events),
        CASE(pages_hold_every_job_once_in_order_whatever_is_still_in_memory),
        CASE(filters_keep_what_was_asked_for),
        CASE(a_restart_requeues_what_ran_and_ends_what_was_being_cancelled),
        CASE(a_second_opener_is_told_that_the_database_is_held),
        CASE(progress_shows_in_the_job_and_ends_with_its_attempt),
        CASE(on_change_hears_of_every_commit_and_of_four_reports_a_second),
        CASE(calls_may_come_from_any_thread_and_a_job_is_claimed_once),
    };
    json_start();
    return cmocka_run_group_tests_name("storage conformance: jobs", tests, NULL, NULL);
}
