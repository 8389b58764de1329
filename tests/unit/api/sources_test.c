/* Models and texts of a request, over real storage: what resolves to what, which job is waited for, and every fault's pointer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/sources.h"
#include "base/file.h"
#include "base/hash.h"
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TENANT STORAGE_TENANT_DEFAULT

struct bench {
    char folder[64];
    char uri[80]; /* of that folder, which is a root */
    struct storage *storage;
};

static void open_state(struct bench *bench, size_t finished_in_memory)
{
    struct error error = {0};
    OWNED_MEMORY char *folder = file_join(bench->folder, "state");
    const struct storage_options options = {
        .folder = folder, .reserve_bytes = 1, .finished_in_memory = finished_in_memory};
    if (!storage_open(&options, &bench->storage, &error)) {
        fail_msg("%s", error.message);
    }
}

static int start(void **state)
{
    struct bench *bench = test_calloc(1, sizeof *bench);
    (void)snprintf(bench->folder, sizeof bench->folder, "/tmp/pruned-sources-XXXXXX");
    assert_non_null(mkdtemp(bench->folder));
    (void)snprintf(bench->uri, sizeof bench->uri, "file://%s", bench->folder);
    open_state(bench, 0);
    *state = bench;
    return 0;
}

static int stop(void **state)
{
    struct bench *bench = *state;
    storage_close(bench->storage);
    assert_true(file_remove_tree(bench->folder, NULL));
    test_free(bench);
    return 0;
}

/* ---- jobs in every state --------------------------------------------------------------------------------- */

struct waiter {
    sem_t answered;
    struct job *job; /* acquired */
};

static void on_job(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    struct waiter *waiter = context;
    waiter->job = job == NULL || error != NULL ? NULL : job_acquire(job);
    assert_int_equal(sem_post(&waiter->answered), 0);
}

/* The answer of a storage call that was given on_job; released. */
static void finish_wait(struct waiter *waiter, char ret_id[40], uint64_t *ret_epoch)
{
    while (sem_wait(&waiter->answered) != 0) {
    }
    assert_non_null(waiter->job);
    (void)snprintf(ret_id, 40, "%s", waiter->job->id);
    *ret_epoch = waiter->job->epoch;
    job_release(waiter->job);
    (void)sem_destroy(&waiter->answered);
}

static void insert_spec(const struct bench *bench, json_t *spec, bool is_planned, char ret_id[40])
{
    struct waiter waiter = {0};
    uint64_t epoch;
    JSON_OWNED plan = is_planned ? json_object() : NULL;
    const struct job_draft draft = {.tenant_id = TENANT, .type = "pruning", .spec = spec, .plan = plan};
    assert_int_equal(sem_init(&waiter.answered, 0, 0), 0);
    storage_insert_job(bench->storage, &draft, on_job, &waiter);
    finish_wait(&waiter, ret_id, &epoch);
}

static void insert(const struct bench *bench, bool is_planned, char ret_id[40])
{
    JSON_OWNED spec = json_object();
    insert_spec(bench, spec, is_planned, ret_id);
}

static void apply(const struct bench *bench, const char *id, const struct job_event *event)
{
    struct waiter waiter = {0};
    char same[40];
    uint64_t epoch;
    assert_int_equal(sem_init(&waiter.answered, 0, 0), 0);
    storage_apply(bench->storage, TENANT, id, event, on_job, &waiter);
    finish_wait(&waiter, same, &epoch);
}

static void remove_job(const struct bench *bench, const char *id)
{
    struct waiter waiter = {0};
    char same[40];
    uint64_t epoch;
    assert_int_equal(sem_init(&waiter.answered, 0, 0), 0);
    storage_delete_job(bench->storage, TENANT, id, on_job, &waiter);
    finish_wait(&waiter, same, &epoch);
}

/* A job that succeeded with one file. */
static void insert_result_of(const struct bench *bench, const char *name, char ret_id[40])
{
    struct waiter waiter = {0};
    char sha256[SHA256_HEX];
    uint64_t epoch = 0;
    struct error error = {0};
    insert(bench, true, ret_id);
    assert_int_equal(sem_init(&waiter.answered, 0, 0), 0);
    storage_claim_job(bench->storage, UINT64_MAX, on_job, &waiter);
    finish_wait(&waiter, ret_id, &epoch);
    OWNED_MEMORY char *work = storage_make_work_folder(bench->storage, ret_id, epoch, &error);
    assert_non_null(work);
    OWNED_MEMORY char *out = file_join(work, "out");
    OWNED_MEMORY char *path = file_join(out, name);
    assert_true(file_make_folders(out, 0700, NULL));
    assert_true(file_save(path, "{}", 2, 0600, NULL));
    sha256_hex_of("{}", 2, sha256);
    JSON_OWNED files = json_pack("[{s:s,s:i,s:s}]", "path", name, "bytes", 2, "sha256", sha256);
    JSON_OWNED result = json_object();
    waiter.job = NULL;
    assert_int_equal(sem_init(&waiter.answered, 0, 0), 0);
    storage_publish(bench->storage, TENANT, ret_id, epoch, files, result, on_job, &waiter);
    finish_wait(&waiter, ret_id, &epoch);
}

static void insert_result(const struct bench *bench, char ret_id[40])
{
    insert_result_of(bench, "config.json", ret_id);
}

static void insert_failed(const struct bench *bench, char ret_id[40])
{
    struct error cause = {0};
    (void)error_set_field(&cause, ERROR_TEXT_TOO_SHORT, "/calibration", "it holds three words");
    insert(bench, false, ret_id);
    apply(bench, ret_id, &(struct job_event){.kind = JOB_EVENT_REJECTED, .error = &cause});
}

/* ---- asking ---------------------------------------------------------------------------------------------- */

static bool resolve(const struct bench *bench, const json_t *spec, unsigned flags,
                    struct sources *ret_sources, struct error_list *faults)
{
    const char *const roots[] = {bench->folder, NULL};
    return sources_resolve(bench->storage, TENANT, roots, spec, flags, ret_sources, faults);
}

static json_t *name_models(const char *model, const char *pruned, const char *embedding)
{
    json_t *spec = json_object();
    json_put_text(spec, "model", model);
    json_put_text(spec, "pruned_model", pruned);
    json_put_text(spec, "embedding_model", embedding);
    return spec;
}

static const char *name_result(const char *id, char ret_uri[64])
{
    (void)snprintf(ret_uri, 64, "job:%s", id);
    return ret_uri;
}

/* ---- tests ------------------------------------------------------------------------------------------------ */

static void each_model_is_resolved_by_the_same_rules(void **state)
{
    struct bench *bench = *state;
    char id[40], uri[64];
    insert_result(bench, id);
    JSON_OWNED spec = name_models(bench->uri, name_result(id, uri), bench->folder);
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    assert_true(resolve(bench, spec, 0, &sources, &faults));
    assert_string_equal(sources.wait_reason, "");
    assert_string_equal(sources.models[0].folder, bench->folder);
    assert_null(sources.models[1].folder);
    assert_string_equal(sources.models[1].job, id);
    assert_string_equal(sources.models[2].folder, bench->folder);
    assert_ptr_equal(sources_find_unlaid(&sources), &sources.models[1]);
    JSON_OWNED request = sources_plan_request(&sources, spec);
    const json_t *models = json_object_get(request, "models");
    assert_int_equal(json_object_size(models), 2);
    assert_string_equal(json_string_value(json_object_get(json_object_get(models, uri), "job")), id);
    assert_string_equal(json_string_value(json_object_get(json_object_get(models, bench->folder), "folder")),
                        bench->folder);
    assert_string_equal(json_string_value(json_object_get(json_object_get(request, "model"), "folder")),
                        bench->folder);
    sources.models[1].folder = strdup("/laid/out");
    assert_null(sources_find_unlaid(&sources));
}

static void the_same_model_may_be_named_more_than_once(void **state)
{
    struct bench *bench = *state;
    char id[40], uri[64];
    insert_result(bench, id);
    JSON_OWNED spec = name_models(name_result(id, uri), uri, uri);
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    assert_true(resolve(bench, spec, 0, &sources, &faults));
    JSON_OWNED request = sources_plan_request(&sources, spec);
    assert_int_equal(json_object_size(json_object_get(request, "models")), 1);
    assert_string_equal(json_string_value(json_object_get(json_object_get(request, "model"), "job")), id);
    JSON_OWNED alone = name_models(bench->uri, NULL, NULL);
    FINISHED(sources) one = {0};
    assert_true(resolve(bench, alone, 0, &one, &faults));
    JSON_OWNED least = sources_plan_request(&one, alone);
    assert_int_equal(json_object_size(json_object_get(least, "models")), 0);
}

static void each_fault_has_the_pointer_of_its_model(void **state)
{
    struct bench *bench = *state;
    JSON_OWNED spec = name_models("nobody", "file:///etc", "ftp://host/model");
    json_put(spec, "dataset", json_pack("{s:[{s:s}]}", "sources", "source", "file:///etc/passwd"));
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    assert_false(resolve(bench, spec, SOURCES_MAY_WAIT, &sources, &faults));
    static const struct {
        const char *field;
        enum error_code code;
    } wanted[] = {{"/model", ERROR_NOT_FOUND},
                  {"/pruned_model", ERROR_FORBIDDEN},
                  {"/embedding_model", ERROR_UNSUPPORTED},
                  {"/dataset/sources/0/source", ERROR_FORBIDDEN}};
    assert_int_equal(faults.stored, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(faults.items[i].field, wanted[i].field);
        assert_int_equal(faults.items[i].code, wanted[i].code);
    }
}

static void a_result_without_a_model_is_none(void **state)
{
    struct bench *bench = *state;
    char id[40], uri[64];
    insert_result_of(bench, "report.json", id);
    JSON_OWNED spec = name_models(bench->uri, NULL, name_result(id, uri));
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    assert_false(resolve(bench, spec, SOURCES_MAY_WAIT, &sources, &faults));
    assert_int_equal(faults.items[0].code, ERROR_INVALID_ARGUMENT);
    assert_string_equal(faults.items[0].field, "/embedding_model");
    assert_non_null(strstr(faults.items[0].message, id));
}

static void a_job_that_has_not_ended_is_waited_for(void **state)
{
    struct bench *bench = *state;
    char first[40], second[40], done[40], first_uri[64], second_uri[64], done_uri[64], reason[64];
    insert_result(bench, done);
    insert(bench, false, first);
    insert(bench, true, second);
    (void)name_result(done, done_uri);
    (void)name_result(second, second_uri);
    JSON_OWNED spec = name_models(done_uri, name_result(first, first_uri), second_uri);
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    assert_true(resolve(bench, spec, SOURCES_MAY_WAIT, &sources, &faults));
    (void)snprintf(reason, sizeof reason, "waiting for %s", first);
    assert_string_equal(sources.wait_reason, reason);
    FINISHED(sources) none = {0};
    assert_false(resolve(bench, spec, 0, &none, &faults)); /* a dry run cannot wait */
    assert_int_equal(faults.stored, 2);
    assert_int_equal(faults.items[0].code, ERROR_CONFLICT);
    assert_string_equal(faults.items[0].field, "/pruned_model");
    assert_non_null(strstr(faults.items[0].message, first));
    assert_string_equal(faults.items[1].field, "/embedding_model");
    JSON_OWNED replay = name_models(bench->uri, NULL, NULL);
    char file_uri[80];
    (void)snprintf(file_uri, sizeof file_uri, "%s/plan.json", second_uri);
    json_put_text(replay, "source", file_uri);
    FINISHED(sources) file = {0};
    FINISHED(error_list) quiet = {0};
    assert_true(resolve(bench, replay, SOURCES_MAY_WAIT, &file, &quiet));
    assert_non_null(strstr(file.wait_reason, second));
}

/* Only once it is over are paths resolved: what they lead to then is what counts. */
static void while_a_job_is_waited_for_an_accepted_request_is_not_resolved(void **state)
{
    struct bench *bench = *state;
    char id[40], uri[64];
    insert(bench, true, id);
    JSON_OWNED spec = name_models(name_result(id, uri), "file:///etc", NULL);
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    assert_false(resolve(bench, spec, SOURCES_MAY_WAIT, &sources, &faults));
    assert_int_equal(faults.items[0].code, ERROR_FORBIDDEN);
    FINISHED(error_list) none = {0};
    assert_true(resolve(bench, spec, SOURCES_MAY_WAIT | SOURCES_ACCEPTED, &sources, &none));
    assert_non_null(strstr(sources.wait_reason, id));
    apply(bench, id, &(struct job_event){.kind = JOB_EVENT_CANCEL});
    assert_false(resolve(bench, spec, SOURCES_MAY_WAIT | SOURCES_ACCEPTED, &sources, &none));
    assert_int_equal(none.stored, 2); /* of the job and of the path */
}

/* One job without a result is enough to fail, whatever the others do. */
static void a_job_that_ended_without_a_result_is_a_fault_that_says_how(void **state)
{
    struct bench *bench = *state;
    char failed[40], cancelled[40], live[40], uris[3][64];
    insert_failed(bench, failed);
    insert(bench, true, cancelled);
    apply(bench, cancelled, &(struct job_event){.kind = JOB_EVENT_CANCEL});
    insert(bench, true, live);
    JSON_OWNED spec = name_models(name_result(live, uris[0]), name_result(failed, uris[1]),
                                  name_result(cancelled, uris[2]));
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    assert_false(resolve(bench, spec, SOURCES_MAY_WAIT | SOURCES_ACCEPTED, &sources, &faults));
    assert_int_equal(faults.stored, 2);
    assert_int_equal(faults.items[0].code, ERROR_PARENT_FAILED);
    assert_string_equal(faults.items[0].field, "/pruned_model");
    assert_non_null(strstr(faults.items[0].message, failed));
    assert_non_null(strstr(faults.items[0].message, "text_too_short: it holds three words"));
    assert_int_equal(faults.items[1].code, ERROR_PARENT_FAILED);
    assert_string_equal(faults.items[1].field, "/embedding_model");
    assert_non_null(strstr(faults.items[1].message, "cancelled"));
    apply(bench, failed, &(struct job_event){.kind = JOB_EVENT_RETRY}); /* it may still come to a result */
    JSON_OWNED hopeful = name_models(uris[1], NULL, NULL);
    FINISHED(error_list) none = {0};
    assert_true(resolve(bench, hopeful, SOURCES_MAY_WAIT, &sources, &none));
    assert_non_null(strstr(sources.wait_reason, failed));
}

static void a_job_that_is_not_there_was_deleted_once_the_request_was_taken(void **state)
{
    struct bench *bench = *state;
    char id[40], uri[64];
    insert_result(bench, id);
    JSON_OWNED spec = name_models(bench->uri, name_result(id, uri), NULL);
    remove_job(bench, id);
    FINISHED(sources) sources = {0};
    FINISHED(error_list) submitted = {0};
    assert_false(resolve(bench, spec, SOURCES_MAY_WAIT, &sources, &submitted));
    assert_int_equal(submitted.items[0].code, ERROR_NOT_FOUND);
    FINISHED(error_list) accepted = {0};
    assert_false(resolve(bench, spec, SOURCES_MAY_WAIT | SOURCES_ACCEPTED, &sources, &accepted));
    assert_int_equal(accepted.items[0].code, ERROR_PARENT_FAILED);
    assert_string_equal(accepted.items[0].field, "/pruned_model");
    assert_non_null(strstr(accepted.items[0].message, "deleted"));
}

static bool is_resolved(const struct bench *bench, const json_t *spec)
{
    FINISHED(sources) sources = {0};
    FINISHED(error_list) faults = {0};
    return resolve(bench, spec, SOURCES_MAY_WAIT | SOURCES_ACCEPTED, &sources, &faults);
}

static void a_result_that_left_memory_is_there_for_a_job_that_names_it(void **state)
{
    struct bench *bench = *state;
    char parent[40], child[40], other[40], uri[64];
    storage_close(bench->storage);
    open_state(bench, 1);
    insert_result(bench, parent);
    JSON_OWNED spec = name_models(bench->uri, name_result(parent, uri), NULL);
    insert_spec(bench, spec, false, child);
    insert_failed(bench, other);
    assert_true(is_resolved(bench, spec));
    storage_close(bench->storage); /* a start loads the last that finished, and what live jobs name */
    open_state(bench, 1);
    assert_true(is_resolved(bench, spec));
    struct error cause = {.code = ERROR_IO};
    apply(bench, child, &(struct job_event){.kind = JOB_EVENT_REJECTED, .error = &cause});
    insert_failed(bench, other);
    assert_false(is_resolved(bench, spec)); /* nobody needs it */
    apply(bench, child, &(struct job_event){.kind = JOB_EVENT_RETRY});
    assert_true(is_resolved(bench, spec));
    struct storage_counts counts;
    storage_get_counts(bench->storage, &counts);
    assert_int_equal(counts.by_state[JOB_STATE_SUCCEEDED], 1);
    assert_int_equal(counts.by_state[JOB_STATE_FAILED], 2);
    assert_int_equal(counts.by_state[JOB_STATE_VALIDATING], 1);
    remove_job(bench, parent);
    assert_false(is_resolved(bench, spec));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_model_is_resolved_by_the_same_rules, start, stop),
        cmocka_unit_test_setup_teardown(the_same_model_may_be_named_more_than_once, start, stop),
        cmocka_unit_test_setup_teardown(each_fault_has_the_pointer_of_its_model, start, stop),
        cmocka_unit_test_setup_teardown(a_result_without_a_model_is_none, start, stop),
        cmocka_unit_test_setup_teardown(a_job_that_has_not_ended_is_waited_for, start, stop),
        cmocka_unit_test_setup_teardown(while_a_job_is_waited_for_an_accepted_request_is_not_resolved, start,
                                        stop),
        cmocka_unit_test_setup_teardown(a_result_that_left_memory_is_there_for_a_job_that_names_it, start,
                                        stop),
        cmocka_unit_test_setup_teardown(a_job_that_ended_without_a_result_is_a_fault_that_says_how, start,
                                        stop),
        cmocka_unit_test_setup_teardown(a_job_that_is_not_there_was_deleted_once_the_request_was_taken, start,
                                        stop),
    };
    json_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
