/* What the projection keeps and lets go: by number, by weight, and what it then says about being complete. */
#include "storage/projection.h"

#include "base/memory.h"
#include "storage/job_internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct job *make_job(int64_t row, enum job_state state, size_t spec_bytes)
{
    struct job *job = job_create();
    (void)snprintf(job->id, sizeof job->id, "job_%lld", (long long)row);
    (void)snprintf(job->tenant_id, sizeof job->tenant_id, "tenant");
    job->row = row;
    job->type = memory_copy_text("pruning");
    job->state = state;
    job->finished_at_ms = job_state_is_terminal(state) ? 1000 + row : 0;
    char *text = memory_create(spec_bytes + 1, 1);
    memset(text, 'x', spec_bytes);
    job->spec = json_pack("{s:s}", "text", text);
    free(text);
    return job;
}

static void put(struct projection *projection, int64_t row, enum job_state state, size_t spec_bytes)
{
    struct job *job = make_job(row, state, spec_bytes);
    projection_put(projection, job, NULL);
    job_release(job);
}

static bool holds(struct projection *projection, int64_t row)
{
    char id[40];
    (void)snprintf(id, sizeof id, "job_%lld", (long long)row);
    struct job *job = projection_find(projection, "tenant", id);
    job_release(job);
    return job != NULL;
}

static void heavy_finished_jobs_leave_before_the_number_is_reached(void **state)
{
    (void)state;
    struct projection *projection = projection_create(100, 10000);
    put(projection, 1, JOB_STATE_RUNNING, 50000); /* live ones always stay */
    put(projection, 2, JOB_STATE_FAILED, 4000);
    put(projection, 3, JOB_STATE_FAILED, 4000);
    assert_true(holds(projection, 2));
    put(projection, 4, JOB_STATE_FAILED, 4000);
    assert_false(holds(projection, 2));
    assert_true(holds(projection, 3));
    put(projection, 5, JOB_STATE_FAILED, 20000); /* too heavy even alone */
    assert_false(holds(projection, 3));
    assert_false(holds(projection, 5));
    assert_true(holds(projection, 1));
    struct storage_counts counts;
    projection_get_counts(projection, 0, &counts);
    assert_int_equal(counts.by_state[JOB_STATE_FAILED], 4); /* they exist all the same */
    put(projection, 1, JOB_STATE_FAILED, 10);
    assert_true(holds(projection, 1));
    projection_destroy(projection);
}

/* A job that names `named`, as a model and as a source. */
static void put_naming(struct projection *projection, int64_t row, enum job_state state, int64_t named)
{
    struct job *job = make_job(row, state, 1);
    char uri[64];
    (void)snprintf(uri, sizeof uri, "job:job_%lld", (long long)named);
    json_put_text(job->spec, "pruned_model", uri);
    (void)snprintf(uri, sizeof uri, "job:job_%lld/plan.json", (long long)named);
    json_put(job->spec, "texts", json_pack("[{s:s}]", "source", uri));
    projection_put(projection, job, NULL);
    job_release(job);
}

static void a_finished_job_stays_while_a_live_one_names_it(void **state)
{
    (void)state;
    struct projection *projection = projection_create(1, INT64_MAX);
    put(projection, 1, JOB_STATE_SUCCEEDED, 1);
    put_naming(projection, 2, JOB_STATE_VALIDATING, 1);
    put_naming(projection, 3, JOB_STATE_VALIDATING, 1);
    put(projection, 4, JOB_STATE_SUCCEEDED, 1);
    assert_true(holds(projection, 1)); /* the oldest, and one too many */
    assert_false(holds(projection, 4));
    put_naming(projection, 2, JOB_STATE_RUNNING, 1);
    put_naming(projection, 2, JOB_STATE_FAILED, 1);
    assert_true(holds(projection, 1)); /* another one is left */
    assert_false(holds(projection, 2));
    put_naming(projection, 3, JOB_STATE_CANCELLED, 1);
    assert_false(holds(projection, 1));
    assert_true(holds(projection, 3));
    projection_destroy(projection);
}

static void a_page_is_served_only_where_nothing_has_left(void **state)
{
    (void)state;
    struct projection *projection = projection_create(2, INT64_MAX);
    for (int64_t row = 1; row <= 6; row++) {
        put(projection, row, row == 2 ? JOB_STATE_QUEUED : JOB_STATE_FAILED, 1);
    }
    struct job_filter filter = {.tenant_id = "tenant", .limit = 2};
    struct job_list list = {0};
    assert_true(projection_list(projection, &filter, 2, &list)); /* 6 and 5 */
    assert_int_equal(list.count, 2);
    assert_int_equal(list.jobs[0]->row, 6);
    job_list_finish(&list);
    assert_false(projection_list(projection, &filter, 3, &list)); /* 4 has left */
    job_list_finish(&list);
    filter.ascending = true;
    assert_false(projection_list(projection, &filter, 1, &list));
    job_list_finish(&list);
    filter.after = "job_5";
    assert_true(projection_list(projection, &filter, 3, &list));
    assert_int_equal(list.count, 1);
    job_list_finish(&list);
    filter.after = NULL;
    filter.state_mask = 1u << JOB_STATE_QUEUED; /* live jobs never leave */
    assert_true(projection_list(projection, &filter, 3, &list));
    assert_int_equal(list.count, 1);
    assert_int_equal(list.jobs[0]->row, 2);
    job_list_finish(&list);
    projection_destroy(projection);
}

static void a_waiting_report_is_dropped_with_its_attempt(void **state)
{
    (void)state;
    struct projection *projection = projection_create(10, INT64_MAX);
    put(projection, 1, JOB_STATE_RUNNING, 1);
    struct job_progress progress = {.step = 7};
    int64_t next_ns = 0;
    assert_true(projection_report(projection, "job_1", 0, &progress));
    put(projection, 1, JOB_STATE_QUEUED, 1);
    put(projection, 1, JOB_STATE_RUNNING, 1);
    assert_null(projection_take_report(projection, 1000, &next_ns));
    assert_false(projection_report(projection, "job_1", 1, &progress));
    assert_false(projection_report(projection, "job_2", 0, &progress));
    assert_true(projection_report(projection, "job_1", 0, &progress));
    struct job *job = projection_take_report(projection, 1000, &next_ns);
    assert_int_equal(job->progress_step, 7);
    job_release(job);
    assert_true(projection_report(projection, "job_1", 0, &progress));
    assert_null(projection_take_report(projection, 2000, &next_ns));
    assert_int_equal(next_ns, 1000 + PROJECTION_REPORT_INTERVAL_NS);
    projection_destroy(projection);
}

static void thousands_of_jobs_are_found_again(void **state)
{
    (void)state;
    struct projection *projection = projection_create(10000, INT64_MAX);
    for (int64_t row = 1; row <= 5000; row++) {
        put(projection, row, row % 3 == 0 ? JOB_STATE_CANCELLED : JOB_STATE_QUEUED, 1);
    }
    for (int64_t row = 1; row <= 5000; row += 7) {
        char id[40];
        (void)snprintf(id, sizeof id, "job_%lld", (long long)row);
        struct job *job = projection_find(projection, NULL, id);
        projection_remove(projection, job);
        job_release(job);
    }
    for (int64_t row = 1; row <= 5000; row++) {
        assert_int_equal(holds(projection, row), row % 7 != 1);
    }
    projection_destroy(projection);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heavy_finished_jobs_leave_before_the_number_is_reached),
        cmocka_unit_test(a_finished_job_stays_while_a_live_one_names_it),
        cmocka_unit_test(a_page_is_served_only_where_nothing_has_left),
        cmocka_unit_test(a_waiting_report_is_dropped_with_its_attempt),
        cmocka_unit_test(thousands_of_jobs_are_found_again),
    };
    json_start();
    return cmocka_run_group_tests_name("storage/projection", tests, NULL, NULL);
}
