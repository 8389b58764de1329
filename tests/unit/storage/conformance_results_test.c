/*
 * The promises of storage/storage.h about results, blobs and models, written against that header alone: whatever database
 * stands behind it has to pass this file.
 */
#include "tests/unit/storage/support.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- results ------------------------------------------------------------------------------------------- */

static const char MODEL_BYTES[] = "not really a model, but forty-odd bytes of it";
static const char PLAN_BYTES[] = "{\"removed\":[3,4]}";

static json_t *write_result(struct storage *storage, const struct job *job)
{
    struct error error = {0};
    OWNED_MEMORY char *work = storage_make_work_folder(storage, job->id, job->epoch, &error);
    assert_non_null(work);
    OWNED_MEMORY char *out = file_join(work, "out");
    write_file(out, "hf/model.safetensors", MODEL_BYTES, sizeof MODEL_BYTES);
    write_file(out, "plan.json", PLAN_BYTES, sizeof PLAN_BYTES);
    write_file(out, "plan-copy.json", PLAN_BYTES, sizeof PLAN_BYTES);
    write_file(out, "report.json", job->id, sizeof job->id);
    json_t *files = json_array();
    describe_file(files, "report.json", job->id, sizeof job->id);
    describe_file(files, "plan.json", PLAN_BYTES, sizeof PLAN_BYTES);
    describe_file(files, "plan-copy.json", PLAN_BYTES, sizeof PLAN_BYTES);
    describe_file(files, "hf/model.safetensors", MODEL_BYTES, sizeof MODEL_BYTES);
    return files;
}

static void expect_artifact(struct storage *storage, const struct job *job, const char *path,
                            const void *bytes, size_t count)
{
    uint64_t size = 0;
    char sha256[65];
    struct error error = {0};
    OWNED_FD int fd = storage_open_artifact(storage, job, path, &size, sha256, &error);
    assert_true(fd >= 0);
    assert_int_equal(size, count);
    char wanted[65];
    sha256_hex_of(bytes, count, wanted);
    assert_string_equal(sha256, wanted);
    OWNED_MEMORY char *read = malloc(count);
    assert_int_equal(pread(fd, read, count, 0), count);
    assert_memory_equal(read, bytes, count);
}

static void a_published_result_can_be_opened_and_survives_a_restart(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    json_t *files = write_result(fixture->storage, job);
    json_t *result = json_pack("{s:f}", "sparsity_ratio", 0.25);
    struct answer done = publish_files(fixture->storage, job->id, job->epoch, files, result);
    EXPECT_OK(done);
    assert_int_equal(done.job->state, JOB_STATE_SUCCEEDED);
    assert_int_equal(json_array_size(done.job->files), 4);
    assert_string_equal(json_string_value(json_object_get(json_array_get(done.job->files, 0), "path")),
                        "hf/model.safetensors");
    assert_int_equal(strlen(done.job->revision), 40);
    expect_artifact(fixture->storage, done.job, "hf/model.safetensors", MODEL_BYTES, sizeof MODEL_BYTES);
    reopen(fixture);
    struct answer read = get_job(fixture->storage, TENANT, job->id);
    assert_int_equal(read.job->state, JOB_STATE_SUCCEEDED);
    assert_true(json_equal(read.job->result, result));
    assert_true(json_equal(read.job->files, done.job->files));
    assert_string_equal(read.job->revision, done.job->revision);
    expect_artifact(fixture->storage, read.job, "plan.json", PLAN_BYTES, sizeof PLAN_BYTES);
    expect_artifact(fixture->storage, read.job, "plan-copy.json", PLAN_BYTES, sizeof PLAN_BYTES);
    expect_artifact(fixture->storage, read.job, "report.json", job->id, sizeof job->id);
    uint64_t bytes = 0;
    char sha256[65];
    struct error error = {0};
    assert_int_equal(storage_open_artifact(fixture->storage, read.job, "no/such", &bytes, sha256, &error),
                     -1);
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    struct answer twice = publish_files(fixture->storage, job->id, job->epoch, files, result);
    EXPECT(twice, FENCED);
    json_decref(files);
    json_decref(result);
    answer_finish(&done);
    answer_finish(&read);
    job_release(job);
}

static void the_revision_does_not_depend_on_the_report(void **state)
{
    struct fixture *fixture = *state;
    char revisions[2][41];
    for (size_t i = 0; i < 2; i++) {
        struct job *job = make_running_job(fixture->storage);
        json_t *files = write_result(fixture->storage, job); /* the report holds the job's id */
        struct answer done = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
        EXPECT_OK(done);
        memcpy(revisions[i], done.job->revision, 41);
        json_decref(files);
        answer_finish(&done);
        job_release(job);
    }
    assert_string_equal(revisions[0], revisions[1]);
    struct storage_counts counts;
    storage_get_counts(fixture->storage, &counts);
    assert_int_equal(counts.blob_count, 4); /* model, plan, and each job's own report */
}

static void a_publication_that_does_not_hold_what_it_says_is_refused(void **state)
{
    struct fixture *fixture = *state;
    static const char *const hostile[] = {"../escape", "/etc/passwd", "a//b", "", "a/../b", "white space"};
    struct error error = {0};
    struct job *job = make_running_job(fixture->storage);
    json_t *files = write_result(fixture->storage, job);
    json_t *file = json_array_get(files, 1);
    json_object_set_new(file, "bytes", json_integer(1));
    struct answer answer = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT(answer, CHECKSUM_MISMATCH);
    json_object_set_new(file, "bytes", json_integer(sizeof PLAN_BYTES));
    json_t *right = json_incref(json_object_get(file, "sha256"));
    json_object_set_new(file, "sha256",
                        json_string("0000000000000000000000000000000000000000000000000000000000000000"));
    answer = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT(answer, CHECKSUM_MISMATCH);
    json_object_set_new(file, "sha256", right);
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        json_object_set_new(file, "path", json_string(hostile[i]));
        answer = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
        EXPECT(answer, INVALID_ARGUMENT);
    }
    json_object_set_new(file, "path", json_string("missing.json"));
    json_object_set_new(file, "sha256",
                        json_string("1111111111111111111111111111111111111111111111111111111111111111"));
    answer = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT(answer, CHECKSUM_MISMATCH); /* not NOT_FOUND, which says that the job is gone */
    OWNED_MEMORY char *work = storage_make_work_folder(fixture->storage, job->id, job->epoch, &error);
    OWNED_MEMORY char *out = file_join(work, "out");
    assert_true(file_remove_tree(out, &error));
    answer = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT(answer, CHECKSUM_MISMATCH);
    struct answer still = get_job(fixture->storage, TENANT, job->id);
    assert_int_equal(still.job->state, JOB_STATE_RUNNING);
    answer_finish(&still);
    json_decref(files);
    job_release(job);
}

static void a_link_in_the_output_is_not_followed(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    json_t *files = write_result(fixture->storage, job);
    struct error error = {0};
    OWNED_MEMORY char *work = storage_make_work_folder(fixture->storage, job->id, job->epoch, &error);
    OWNED_MEMORY char *link = file_join(work, "out/link");
    assert_int_equal(symlink("/etc/hostname", link), 0);
    OWNED_MEMORY char *bytes = NULL;
    size_t count = 0;
    bytes = file_load("/etc/hostname", 4096, &count, &error);
    assert_non_null(bytes);
    describe_file(files, "link", bytes, count);
    struct answer answer = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT(answer, FORBIDDEN);
    json_decref(files);
    job_release(job);
}

static void a_result_that_comes_after_a_cancel_is_dropped(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    json_t *files = write_result(fixture->storage, job);
    struct job_event cancel = {.kind = JOB_EVENT_CANCEL};
    struct answer cancelling = apply_event(fixture->storage, job->id, &cancel);
    struct answer done = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT_OK(done);
    assert_int_equal(done.job->state, JOB_STATE_CANCELLED);
    assert_null(done.job->files);
    json_decref(files);
    answer_finish(&cancelling);
    answer_finish(&done);
    job_release(job);
}

static void a_repeated_publication_finds_what_the_first_one_moved(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    json_t *files = write_result(fixture->storage, job);
    /* The first try fails at its last file, in sorted order: the others are in the store by then. */
    json_t *last = json_array_get(files, 0);
    json_t *right = json_incref(json_object_get(last, "sha256"));
    json_object_set_new(last, "sha256",
                        json_string("0000000000000000000000000000000000000000000000000000000000000000"));
    struct answer failed = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT(failed, CHECKSUM_MISMATCH);
    json_object_set_new(last, "sha256", right);
    struct answer done = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT_OK(done);
    expect_artifact(fixture->storage, done.job, "hf/model.safetensors", MODEL_BYTES, sizeof MODEL_BYTES);
    json_decref(files);
    answer_finish(&done);
    job_release(job);
}

static void a_job_cancelled_between_two_attempts_leaves_no_work_folder(void **state)
{
    struct fixture *fixture = *state;
    struct error error = {0};
    struct job *job = make_running_job(fixture->storage);
    OWNED_MEMORY char *work = storage_make_work_folder(fixture->storage, job->id, job->epoch, &error);
    write_file(work, "checkpoint", "one", 3);
    const struct job_event events[] = {{.kind = JOB_EVENT_RELEASED, .epoch = job->epoch},
                                       {.kind = JOB_EVENT_CANCEL}};
    struct answer released = apply_event(fixture->storage, job->id, &events[0]);
    assert_int_equal(released.job->state, JOB_STATE_QUEUED);
    assert_true(file_exists(work)); /* the next attempt goes on from it */
    struct answer cancelled = apply_event(fixture->storage, job->id, &events[1]);
    assert_int_equal(cancelled.job->state, JOB_STATE_CANCELLED);
    assert_false(file_exists(work));
    answer_finish(&released);
    answer_finish(&cancelled);
    job_release(job);
}

static void a_file_written_long_ago_is_young_once_it_is_published(void **state)
{
    struct fixture *fixture = *state;
    struct error error = {0};
    struct job *job = make_running_job(fixture->storage);
    json_t *files = write_result(fixture->storage, job);
    OWNED_MEMORY char *work = storage_make_work_folder(fixture->storage, job->id, job->epoch, &error);
    OWNED_MEMORY char *file = file_join(work, "out/plan.json");
    const struct timespec long_ago[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
    assert_int_equal(utimensat(AT_FDCWD, file, long_ago, 0), 0);
    struct answer done = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT_OK(done);
    char sha256[65];
    char relative[128];
    struct stat status;
    sha256_hex_of(PLAN_BYTES, sizeof PLAN_BYTES, sha256);
    (void)snprintf(relative, sizeof relative, "blobs/%.2s/%s", sha256, sha256);
    OWNED_MEMORY char *blob = file_join(fixture->folder, relative);
    assert_int_equal(stat(blob, &status), 0);
    assert_true(clock_wall_ms(&clock_system) / 1000 - status.st_mtim.tv_sec < 3600);
    json_decref(files);
    answer_finish(&done);
    job_release(job);
}

static void the_next_attempt_takes_over_the_work_of_the_newest_before_it(void **state)
{
    struct fixture *fixture = *state;
    struct error error = {0};
    OWNED_MEMORY char *first = storage_make_work_folder(fixture->storage, "job_a", 1, &error);
    write_file(first, "checkpoint", "one", 3);
    OWNED_MEMORY char *third = storage_make_work_folder(fixture->storage, "job_a", 3, &error);
    assert_non_null(strstr(third, "job_a.3"));
    assert_false(file_exists(first));
    OWNED_MEMORY char *checkpoint = file_join(third, "checkpoint");
    assert_true(file_exists(checkpoint));
    OWNED_MEMORY char *same = storage_make_work_folder(fixture->storage, "job_a", 3, &error);
    assert_string_equal(same, third);
    OWNED_MEMORY char *other = storage_make_work_folder(fixture->storage, "job_b", 1, &error);
    storage_remove_work_folder(fixture->storage, "job_a");
    assert_false(file_exists(third)); /* out of reach at once, deleted later */
    assert_true(file_exists(other));
    OWNED_MEMORY char *fresh = storage_make_work_folder(fixture->storage, "job_a", 4, &error);
    OWNED_MEMORY char *gone = file_join(fresh, "checkpoint");
    assert_false(file_exists(gone));
}

static void a_start_sweeps_what_no_live_job_and_no_model_owns(void **state)
{
    struct fixture *fixture = *state;
    struct error error = {0};
    struct job *job = make_running_job(fixture->storage);
    OWNED_MEMORY char *kept = storage_make_work_folder(fixture->storage, job->id, job->epoch, &error);
    OWNED_MEMORY char *stale = storage_make_work_folder(fixture->storage, "job_nobody", 1, &error);
    write_file(fixture->folder, "tmp/0123-upload-1", "half", 4);
    write_file(fixture->folder, "models/model_half/config.json", "{}", 2);
    reopen(fixture);
    assert_true(file_exists(kept));
    assert_false(file_exists(stale));
    OWNED_MEMORY char *model = file_join(fixture->folder, "models/model_half");
    assert_false(file_exists(model));
    storage_close(fixture->storage); /* waits for the sweep behind the start */
    fixture->storage = NULL;
    OWNED_MEMORY char *temporaries = file_join(fixture->folder, "tmp");
    assert_int_equal(rmdir(temporaries), 0); /* empty */
    job_release(job);
}

/* ---- blobs --------------------------------------------------------------------------------------------- */

static void an_uploaded_blob_is_found_by_its_hash_and_kept_once(void **state)
{
    struct fixture *fixture = *state;
    char sha256[65];
    sha256_hex_of(MODEL_BYTES, sizeof MODEL_BYTES, sha256);
    uint64_t bytes = 0;
    bool existed = true;
    assert_false(storage_find_blob(fixture->storage, sha256, &bytes));
    struct error error = upload(fixture->storage, MODEL_BYTES, sizeof MODEL_BYTES, sha256, &existed);
    assert_int_equal(error.code, ERROR_NONE);
    assert_false(existed);
    assert_true(storage_find_blob(fixture->storage, sha256, &bytes));
    assert_int_equal(bytes, sizeof MODEL_BYTES);
    error = upload(fixture->storage, MODEL_BYTES, sizeof MODEL_BYTES, sha256, &existed);
    assert_int_equal(error.code, ERROR_NONE);
    assert_true(existed);
    assert_false(storage_find_blob(fixture->storage, "../../etc/passwd", &bytes));
    char wrong[65];
    sha256_hex_of("x", 1, wrong);
    error = upload(fixture->storage, MODEL_BYTES, sizeof MODEL_BYTES, wrong, &existed);
    assert_int_equal(error.code, ERROR_CHECKSUM_MISMATCH);
    assert_non_null(strstr(error.message, wrong));
    assert_non_null(strstr(error.message, sha256));
    assert_false(storage_find_blob(fixture->storage, wrong, &bytes));
    error = upload(fixture->storage, MODEL_BYTES, sizeof MODEL_BYTES, "nonsense", &existed);
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
}

static void an_upload_keeps_to_its_announced_length(void **state)
{
    struct fixture *fixture = *state;
    struct error error = {0};
    struct storage_upload *upload = storage_open_upload(fixture->storage, 4, &error);
    assert_non_null(upload);
    assert_true(storage_append_upload(upload, "abc", 3, &error));
    assert_false(storage_append_upload(upload, "de", 2, &error));
    assert_int_equal(error.code, ERROR_TOO_LARGE);
    storage_abandon_upload(upload);
    storage_abandon_upload(NULL);
    assert_null(storage_open_upload(fixture->storage, UINT64_MAX / 2, &error));
    assert_int_equal(error.code, ERROR_STORAGE_FULL);
}

static void new_work_is_refused_below_the_disk_reserve_and_reading_goes_on(void **state)
{
    struct fixture *fixture = *state;
    struct answer before = insert_job(fixture->storage, "key", "sha", 0, true);
    storage_close(fixture->storage);
    struct storage_options options = {
        .folder = fixture->folder, .clock = &fixture->clock.source, .reserve_bytes = UINT64_MAX / 2};
    struct error error = {0};
    assert_true(storage_open(&options, &fixture->storage, &error));
    struct answer refused = insert_job(fixture->storage, NULL, NULL, 0, true);
    EXPECT(refused, STORAGE_FULL);
    struct answer replayed = insert_job(fixture->storage, "key", "sha", 0, true);
    EXPECT_OK(replayed); /* nothing new is stored */
    assert_null(storage_open_upload(fixture->storage, 1, &error));
    assert_int_equal(error.code, ERROR_STORAGE_FULL);
    struct answer read = get_job(fixture->storage, TENANT, before.job->id);
    EXPECT_OK(read);
    struct job_event cancel = {.kind = JOB_EVENT_CANCEL};
    struct answer cancelled = apply_event(fixture->storage, before.job->id, &cancel);
    EXPECT_OK(cancelled);
    answer_finish(&before);
    answer_finish(&replayed);
    answer_finish(&read);
    answer_finish(&cancelled);
}

static bool blob_is_gone(void *context)
{
    struct storage_counts counts;
    storage_get_counts(context, &counts);
    return counts.blob_count == 4;
}

static void only_old_blobs_that_no_job_refers_to_are_swept(void **state)
{
    struct fixture *fixture = *state;
    struct job *job = make_running_job(fixture->storage);
    json_t *files = write_result(fixture->storage, job);
    struct answer done = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
    EXPECT_OK(done);
    char orphan[65];
    uint64_t bytes = 0;
    bool existed = false;
    sha256_hex_of("orphan", 6, orphan);
    struct error error = upload(fixture->storage, "orphan", 6, orphan, &existed);
    assert_int_equal(error.code, ERROR_NONE);
    char wanted[65]; /* by a job that waits */
    char source[80];
    sha256_hex_of("text", 4, wanted);
    error = upload(fixture->storage, "text", 4, wanted, &existed);
    assert_int_equal(error.code, ERROR_NONE);
    (void)snprintf(source, sizeof source, "sha256:%s", wanted);
    JSON_OWNED spec = json_pack("{s:{s:s}}", "calibration", "source", source);
    const struct job_draft draft = {.tenant_id = TENANT, .type = "pruning", .spec = spec};
    struct answer waiting = insert_draft(fixture->storage, &draft);
    EXPECT_OK(waiting);
    /* The test clock stands in 2027; files carry the kernel's time. */
    int64_t wall_ms = clock_wall_ms(&clock_system);
    __atomic_store_n(&fixture->clock.wall_ms, wall_ms, __ATOMIC_RELAXED);
    reopen(fixture);
    storage_close(fixture->storage);
    fixture->storage = open_test_storage(fixture->folder, &fixture->clock);
    assert_true(storage_find_blob(fixture->storage, orphan, &bytes)); /* young */
    test_clock_advance(&fixture->clock, (int64_t)25 * 3600 * 1000);
    reopen(fixture);
    assert_true(wait_until(blob_is_gone, fixture->storage));
    assert_false(storage_find_blob(fixture->storage, orphan, &bytes));
    assert_true(storage_find_blob(fixture->storage, wanted, &bytes));
    answer_finish(&waiting);
    expect_artifact(fixture->storage, done.job, "plan.json", PLAN_BYTES, sizeof PLAN_BYTES);
    expect_artifact(fixture->storage, done.job, "hf/model.safetensors", MODEL_BYTES, sizeof MODEL_BYTES);
    json_decref(files);
    answer_finish(&done);
    job_release(job);
}

/* ---- models -------------------------------------------------------------------------------------------- */

static void a_model_is_assembled_from_blobs_and_found_by_id_and_name(void **state)
{
    struct fixture *fixture = *state;
    char sha256[65];
    char folder[512];
    bool existed = false;
    sha256_hex_of(MODEL_BYTES, sizeof MODEL_BYTES, sha256);
    json_t *files = json_pack("[{s:s, s:s}, {s:s, s:s}]", "path", "model.safetensors", "sha256", sha256,
                              "path", "original/model.safetensors", "sha256", sha256);
    struct error error = assemble_model(fixture->storage, "model_one", files, folder);
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_string_equal(error.field, sha256);
    assert_int_equal(upload(fixture->storage, MODEL_BYTES, sizeof MODEL_BYTES, sha256, &existed).code,
                     ERROR_NONE);
    error = assemble_model(fixture->storage, "model_one", files, folder);
    assert_int_equal(error.code, ERROR_NONE);
    OWNED_MEMORY char *file = file_join(folder, "original/model.safetensors");
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(file, 4096, &count, &error);
    assert_int_equal(count, sizeof MODEL_BYTES);
    assert_memory_equal(bytes, MODEL_BYTES, count);
    json_t *inventory =
        json_pack("{s:[{s:s, s:i}], s:i}", "files", "path", "model.safetensors", "mtime_ns", 1, "layers", 3);
    struct model_record draft = {.id = "model_one", .tenant_id = TENANT};
    char name[] = "mine";
    char source[] = "blobs";
    draft.name = name;
    draft.source = source;
    draft.folder = folder;
    draft.inventory = inventory;
    struct model_record *model = NULL;
    assert_int_equal(insert_model(fixture->storage, &draft, &model).code, ERROR_NONE);
    assert_true(model->row > 0 && model->created_at_ms > 0);
    model_record_release(model);
    storage_discard_model(fixture->storage, "model_one"); /* it has a record: it stays */
    assert_true(file_exists(file));
    reopen(fixture);
    assert_true(file_exists(file));
    struct model_record *by_id = storage_find_model(fixture->storage, TENANT, "model_one");
    struct model_record *by_name = storage_find_model(fixture->storage, TENANT, "mine");
    assert_ptr_equal(by_id, by_name);
    assert_string_equal(by_id->folder, folder);
    assert_true(json_equal(by_id->inventory, inventory));
    assert_null(storage_find_model(fixture->storage, "tenant_other", "mine"));
    assert_null(storage_find_model(fixture->storage, TENANT, "yours"));
    model_record_release(by_id);
    model_record_release(by_name);
    json_decref(files);
    json_decref(inventory);
}

static void a_model_name_is_one_model_and_the_same_content_is_a_replay(void **state)
{
    struct fixture *fixture = *state;
    char name[] = "mine";
    char source[] = "file:///models/a";
    char folder[] = "/models/a";
    struct model_record draft = {
        .id = "model_a", .tenant_id = TENANT, .name = name, .source = source, .folder = folder};
    json_t *inventory = json_pack("{s:[{s:s, s:i}]}", "files", "sha256", "aa", "mtime_ns", 1);
    json_t *touched = json_pack("{s:[{s:s, s:i}]}", "files", "sha256", "aa", "mtime_ns", 2);
    json_t *changed = json_pack("{s:[{s:s, s:i}]}", "files", "sha256", "bb", "mtime_ns", 1);
    struct model_record *first = NULL;
    struct model_record *again = NULL;
    struct model_record *other = NULL;
    draft.inventory = inventory;
    assert_int_equal(insert_model(fixture->storage, &draft, &first).code, ERROR_NONE);
    (void)snprintf(draft.id, sizeof draft.id, "model_b");
    draft.inventory = touched;
    assert_int_equal(insert_model(fixture->storage, &draft, &again).code, ERROR_NONE);
    assert_string_equal(again->id, "model_a");
    draft.inventory = changed;
    struct error error = insert_model(fixture->storage, &draft, &other);
    assert_int_equal(error.code, ERROR_CONFLICT);
    assert_null(other);
    (void)snprintf(draft.tenant_id, sizeof draft.tenant_id, "tenant_other");
    assert_int_equal(insert_model(fixture->storage, &draft, &other).code, ERROR_NONE);
    model_record_release(first);
    model_record_release(again);
    model_record_release(other);
    json_decref(inventory);
    json_decref(touched);
    json_decref(changed);
}

static void models_are_listed_newest_first_in_pages(void **state)
{
    struct fixture *fixture = *state;
    char source[] = "file:///m";
    char folder[] = "/m";
    for (int i = 0; i < 5; i++) {
        char name[16];
        struct model_record draft = {.tenant_id = TENANT, .name = name, .source = source, .folder = folder};
        (void)snprintf(name, sizeof name, "m%d", i);
        (void)snprintf(draft.id, sizeof draft.id, "model_%d", i);
        struct model_record *model = NULL;
        assert_int_equal(insert_model(fixture->storage, &draft, &model).code, ERROR_NONE);
        model_record_release(model);
    }
    bool has_more = false;
    struct model_record **models = NULL;
    assert_int_equal(storage_list_models(fixture->storage, TENANT, NULL, 3, &has_more, &models), 3);
    assert_true(has_more);
    assert_string_equal(models[0]->id, "model_4");
    char after[40];
    memcpy(after, models[2]->id, sizeof after);
    for (size_t i = 0; i < 3; i++) {
        model_record_release(models[i]);
    }
    free(models);
    assert_int_equal(storage_list_models(fixture->storage, TENANT, after, 3, &has_more, &models), 2);
    assert_false(has_more);
    assert_string_equal(models[1]->id, "model_0");
    model_record_release(models[0]);
    model_record_release(models[1]);
    free(models);
}

static void a_result_laid_out_twice_is_one_folder(void **state)
{
    struct fixture *fixture = *state;
    char sha256[65];
    char folder[512];
    char again[512];
    bool existed = false;
    sha256_hex_of("abc", 3, sha256);
    assert_int_equal(upload(fixture->storage, "abc", 3, sha256, &existed).code, ERROR_NONE);
    json_t *files = json_pack("[{s:s, s:s}]", "path", "config.json", "sha256", sha256);
    assert_int_equal(assemble_model(fixture->storage, "job_x", files, folder).code, ERROR_NONE);
    assert_int_equal(assemble_model(fixture->storage, "job_x", files, again).code, ERROR_NONE);
    assert_string_equal(folder, again);
    OWNED_MEMORY char *file = file_join(folder, "config.json");
    assert_true(file_exists(file));
    storage_close(fixture->storage); /* waits for what is removed in the background */
    fixture->storage = NULL;
    OWNED_MEMORY char *temporaries = file_join(fixture->folder, "tmp");
    assert_int_equal(rmdir(temporaries), 0); /* empty */
    json_decref(files);
}

static void a_deleted_result_takes_its_folder_with_it_once_nobody_reads_it(void **state)
{
    struct fixture *fixture = *state;
    char folder[512];
    char source[64];
    static const char *const readers[] = {NULL, "model", "pruned_model", "embedding_model"};
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        bool is_read = readers[i] != NULL;
        struct job *job = make_running_job(fixture->storage);
        json_t *files = write_result(fixture->storage, job);
        struct answer done = publish_files(fixture->storage, job->id, job->epoch, files, NULL);
        EXPECT_OK(done);
        assert_int_equal(assemble_model(fixture->storage, job->id, done.job->files, folder).code, ERROR_NONE);
        (void)snprintf(source, sizeof source, "job:%s", job->id);
        JSON_OWNED spec = json_pack("{s:s}", "model", "job:job_of_another");
        json_put_text(spec, is_read ? readers[i] : "name", source);
        JSON_OWNED plan = json_object();
        const struct job_draft draft = {
            .tenant_id = TENANT, .type = "evaluation", .spec = spec, .plan = plan};
        struct answer reader = insert_draft(fixture->storage, &draft);
        EXPECT_OK(reader);
        struct answer claimed = claim_job(fixture->storage, UINT64_MAX);
        assert_string_equal(claimed.job->id, reader.job->id);
        struct answer deleted = delete_job(fixture->storage, job->id);
        EXPECT_OK(deleted);
        assert_int_equal(file_exists(folder), is_read);
        answer_finish(&done);
        answer_finish(&reader);
        answer_finish(&claimed);
        answer_finish(&deleted);
        json_decref(files);
        job_release(job);
    }
}

static void a_refused_model_leaves_no_folder(void **state)
{
    struct fixture *fixture = *state;
    char sha256[65];
    char folder[512];
    bool existed = false;
    sha256_hex_of("abc", 3, sha256);
    assert_int_equal(upload(fixture->storage, "abc", 3, sha256, &existed).code, ERROR_NONE);
    json_t *files = json_pack("[{s:s, s:s}]", "path", "config.json", "sha256", sha256);
    assert_int_equal(assemble_model(fixture->storage, "model_x", files, folder).code, ERROR_NONE);
    assert_true(file_is_folder(folder));
    storage_discard_model(fixture->storage, "model_x");
    assert_false(file_exists(folder));
    storage_discard_model(fixture->storage, "../blobs");
    uint64_t bytes = 0;
    assert_true(storage_find_blob(fixture->storage, sha256, &bytes));
    json_object_set_new(json_array_get(files, 0), "path", json_string("../../escape"));
    assert_int_equal(assemble_model(fixture->storage, "model_y", files, folder).code, ERROR_INVALID_ARGUMENT);
    json_decref(files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_published_result_can_be_opened_and_survives_a_restart),
        CASE(the_revision_does_not_depend_on_the_report),
        CASE(a_publication_that_does_not_hold_what_it_says_is_refused),
        CASE(a_link_in_the_output_is_not_followed),
        CASE(a_result_that_comes_after_a_cancel_is_dropped),
        CASE(a_repeated_publication_finds_what_the_first_one_moved),
        CASE(a_job_cancelled_between_two_attempts_leaves_no_work_folder),
        CASE(a_file_written_long_ago_is_young_once_it_is_published),
        CASE(the_next_attempt_takes_over_the_work_of_the_newest_before_it),
        CASE(a_start_sweeps_what_no_live_job_and_no_model_owns),
        CASE(an_uploaded_blob_is_found_by_its_hash_and_kept_once),
        CASE(an_upload_keeps_to_its_announced_length),
        CASE(new_work_is_refused_below_the_disk_reserve_and_reading_goes_on),
        CASE(only_old_blobs_that_no_job_refers_to_are_swept),
        CASE(a_model_is_assembled_from_blobs_and_found_by_id_and_name),
        CASE(a_model_name_is_one_model_and_the_same_content_is_a_replay),
        CASE(models_are_listed_newest_first_in_pages),
        CASE(a_result_laid_out_twice_is_one_folder),
        CASE(a_deleted_result_takes_its_folder_with_it_once_nobody_reads_it),
        CASE(a_refused_model_leaves_no_folder),
    };
    json_start();
    return cmocka_run_group_tests_name("storage conformance: results", tests, NULL, NULL);
}
