#include "tests/unit/storage/support.h"

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- clock and folders --------------------------------------------------------------------------------- */

static int64_t read_wall(void *context)
{
    return __atomic_load_n(&((struct test_clock *)context)->wall_ms, __ATOMIC_RELAXED);
}

static int64_t read_boot(void *context)
{
    return __atomic_load_n(&((struct test_clock *)context)->boot_ns, __ATOMIC_RELAXED);
}

void test_clock_init(struct test_clock *clock)
{
    clock->wall_ms = 1800000000000;
    clock->boot_ns = 1000000000;
    clock->source = (struct clock_source){.wall_ms = read_wall, .boot_ns = read_boot, .context = clock};
}

void test_clock_advance(struct test_clock *clock, int64_t ms)
{
    (void)__atomic_add_fetch(&clock->wall_ms, ms, __ATOMIC_RELAXED);
    (void)__atomic_add_fetch(&clock->boot_ns, ms * 1000000, __ATOMIC_RELAXED);
}

char *make_test_folder(void)
{
    const char *base = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    char *folder = file_join(base, "pruned-storage-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    return folder;
}

void remove_test_folder(char *folder)
{
    struct error error = {0};
    if (!file_remove_tree(folder, &error)) {
        fail_msg("%s", error.message);
    }
    free(folder);
}

struct storage *open_test_storage(const char *folder, struct test_clock *clock)
{
    struct storage_options options = {
        .folder = folder, .clock = clock != NULL ? &clock->source : NULL, .reserve_bytes = 1};
    struct storage *storage = NULL;
    struct error error = {0};
    if (!storage_open(&options, &storage, &error)) {
        fail_msg("storage_open: %s", error.message);
    }
    return storage;
}

bool wait_until(bool (*holds)(void *context), void *context)
{
    for (int i = 0; i < 2000; i++) {
        if (holds(context)) {
            return true;
        }
        struct timespec pause = {.tv_nsec = 5000000};
        (void)nanosleep(&pause, NULL);
    }
    return false;
}

int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->folder = make_test_folder();
    test_clock_init(&fixture->clock);
    fixture->storage = open_test_storage(fixture->folder, &fixture->clock);
    *state = fixture;
    return 0;
}

int tear_down(void **state)
{
    struct fixture *fixture = *state;
    storage_close(fixture->storage);
    remove_test_folder(fixture->folder);
    free(fixture);
    return 0;
}

void reopen(struct fixture *fixture)
{
    storage_close(fixture->storage);
    fixture->storage = open_test_storage(fixture->folder, &fixture->clock);
}

/* ---- callbacks as calls -------------------------------------------------------------------------------- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int answered; /* guarded by lock; twice would be a defect */
    struct answer answer;
    struct page *page;
    struct error error;
    uint64_t bytes;
    bool existed;
    char folder[512];
    struct model_record *model;
};

static void waiter_init(struct waiter *waiter)
{
    memset(waiter, 0, sizeof *waiter);
    CHECK(pthread_mutex_init(&waiter->lock, NULL) == 0 && pthread_cond_init(&waiter->wake, NULL) == 0);
}

static void waiter_answer(struct waiter *waiter, const struct error *error)
{
    pthread_mutex_lock(&waiter->lock);
    if (error != NULL) {
        CHECK(error->code != ERROR_NONE && error->message[0] != '\0');
        waiter->error = *error;
    }
    waiter->answered++;
    pthread_cond_signal(&waiter->wake);
    pthread_mutex_unlock(&waiter->lock);
}

static void waiter_wait(struct waiter *waiter)
{
    pthread_mutex_lock(&waiter->lock);
    while (waiter->answered == 0) {
        pthread_cond_wait(&waiter->wake, &waiter->lock);
    }
    CHECK(waiter->answered == 1);
    pthread_mutex_unlock(&waiter->lock);
    (void)pthread_mutex_destroy(&waiter->lock);
    (void)pthread_cond_destroy(&waiter->wake);
}

static void take_job(void *context, struct job *job, bool replayed, const struct error *error)
{
    struct waiter *waiter = context;
    waiter->answer.job = job != NULL ? job_acquire(job) : NULL;
    waiter->answer.replayed = replayed;
    CHECK(error == NULL || job == NULL);
    waiter_answer(waiter, error);
}

static struct answer await_job(struct waiter *waiter)
{
    waiter_wait(waiter);
    waiter->answer.error = waiter->error;
    return waiter->answer;
}

void answer_finish(struct answer *answer)
{
    job_release(answer->job);
    answer->job = NULL;
}

struct answer insert_draft(struct storage *storage, const struct job_draft *draft)
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_insert_job(storage, draft, take_job, &waiter);
    return await_job(&waiter);
}

struct answer insert_job(struct storage *storage, const char *key, const char *request_sha256,
                         uint64_t memory_bytes, bool planned)
{
    json_t *spec = json_pack("{s:s, s:{s:s}}", "type", "pruning", "method", "type", "finercut");
    json_t *plan = planned ? json_pack("{s:I}", "memory_bytes", (json_int_t)memory_bytes) : NULL;
    struct job_draft draft = {.tenant_id = TENANT,
                              .type = "pruning",
                              .idempotency_key = key,
                              .request_sha256 = request_sha256,
                              .spec = spec,
                              .plan = plan,
                              .memory_bytes = memory_bytes};
    struct answer answer = insert_draft(storage, &draft);
    json_decref(spec);
    json_decref(plan);
    return answer;
}

struct answer apply_event(struct storage *storage, const char *job_id, const struct job_event *event)
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_apply(storage, TENANT, job_id, event, take_job, &waiter);
    return await_job(&waiter);
}

struct answer claim_job(struct storage *storage, uint64_t memory_limit_bytes)
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_claim_job(storage, memory_limit_bytes, take_job, &waiter);
    return await_job(&waiter);
}

struct answer get_job(struct storage *storage, const char *tenant_id, const char *job_id)
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_get_job(storage, tenant_id, job_id, take_job, &waiter);
    return await_job(&waiter);
}

struct answer delete_job(struct storage *storage, const char *job_id)
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_delete_job(storage, TENANT, job_id, take_job, &waiter);
    return await_job(&waiter);
}

struct answer publish_files(struct storage *storage, const char *job_id, uint64_t epoch, json_t *files,
                            json_t *result)
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_publish(storage, TENANT, job_id, epoch, files, result, take_job, &waiter);
    return await_job(&waiter);
}

struct job *make_running_job(struct storage *storage)
{
    struct answer inserted = insert_job(storage, NULL, NULL, 0, true);
    assert_int_equal(inserted.error.code, ERROR_NONE);
    struct answer claimed = claim_job(storage, UINT64_MAX);
    assert_int_equal(claimed.error.code, ERROR_NONE);
    assert_non_null(claimed.job);
    assert_string_equal(claimed.job->id, inserted.job->id);
    assert_int_equal(claimed.job->state, JOB_STATE_RUNNING);
    answer_finish(&inserted);
    return claimed.job;
}

/* ---- pages --------------------------------------------------------------------------------------------- */

static void take_jobs(void *context, struct job *const *jobs, size_t count, bool has_more,
                      const struct error *error)
{
    struct waiter *waiter = context;
    CHECK(count <= 128);
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(waiter->page->ids[i], sizeof waiter->page->ids[i], "%s", jobs[i]->id);
        waiter->page->states[i] = jobs[i]->state;
    }
    waiter->page->count = count;
    waiter->page->has_more = has_more;
    waiter_answer(waiter, error);
}

void list_jobs(struct storage *storage, const struct job_filter *filter, struct page *ret_page)
{
    struct waiter waiter;
    waiter_init(&waiter);
    memset(ret_page, 0, sizeof *ret_page);
    waiter.page = ret_page;
    storage_list_jobs(storage, filter, take_jobs, &waiter);
    waiter_wait(&waiter);
    ret_page->error = waiter.error;
}

static void take_events(void *context, const struct storage_event *events, size_t count, bool has_more,
                        const struct error *error)
{
    struct waiter *waiter = context;
    CHECK(count <= 128);
    for (size_t i = 0; i < count; i++) {
        waiter->page->seqs[i] = events[i].seq;
        (void)snprintf(waiter->page->ids[i], sizeof waiter->page->ids[i], "%s", events[i].id);
        (void)snprintf(waiter->page->types[i], sizeof waiter->page->types[i], "%s", events[i].type);
        (void)snprintf(waiter->page->levels[i], sizeof waiter->page->levels[i], "%s", events[i].level);
        (void)snprintf(waiter->page->messages[i], sizeof waiter->page->messages[i], "%s", events[i].message);
    }
    waiter->page->count = count;
    waiter->page->has_more = has_more;
    waiter_answer(waiter, error);
}

void list_events(struct storage *storage, const char *tenant_id, const char *job_id, int64_t after_seq,
                 size_t limit, struct page *ret_page)
{
    struct waiter waiter;
    waiter_init(&waiter);
    memset(ret_page, 0, sizeof *ret_page);
    waiter.page = ret_page;
    storage_list_events(storage, tenant_id, job_id, after_seq, limit, take_events, &waiter);
    waiter_wait(&waiter);
    ret_page->error = waiter.error;
}

/* ---- files and models ---------------------------------------------------------------------------------- */

static void take_blob(void *context, uint64_t bytes, bool existed, const struct error *error)
{
    struct waiter *waiter = context;
    waiter->bytes = bytes;
    waiter->existed = existed;
    waiter_answer(waiter, error);
}

struct error upload(struct storage *storage, const void *bytes, size_t count, const char *sha256,
                    bool *ret_existed)
{
    struct error error = {0};
    struct storage_upload *upload = storage_open_upload(storage, count, &error);
    if (upload == NULL) {
        return error;
    }
    /* In two pieces, as a body comes. */
    size_t half = count / 2;
    if (!storage_append_upload(upload, bytes, half, &error) ||
        !storage_append_upload(upload, (const char *)bytes + half, count - half, &error)) {
        storage_abandon_upload(upload);
        return error;
    }
    struct waiter waiter;
    waiter_init(&waiter);
    storage_finish_upload(upload, sha256, take_blob, &waiter);
    waiter_wait(&waiter);
    if (waiter.error.code == ERROR_NONE) {
        CHECK(waiter.bytes == count);
        *ret_existed = waiter.existed;
    }
    return waiter.error;
}

void write_file(const char *folder, const char *relative, const void *bytes, size_t count)
{
    struct error error = {0};
    OWNED_MEMORY char *path = file_join(folder, relative);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    bool made = file_make_folders(path, 0700, &error);
    *slash = '/';
    if (!made || !file_save(path, bytes, count, 0600, &error)) {
        fail_msg("%s", error.message);
    }
}

void describe_file(json_t *files, const char *path, const void *bytes, size_t count)
{
    char sha256[SHA256_HEX];
    sha256_hex_of(bytes, count, sha256);
    CHECK(json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "path", path, "bytes", (json_int_t)count,
                                                 "sha256", sha256)) == 0);
}

static void take_folder(void *context, const char *folder, const struct error *error)
{
    struct waiter *waiter = context;
    (void)snprintf(waiter->folder, sizeof waiter->folder, "%s", folder != NULL ? folder : "");
    waiter_answer(waiter, error);
}

struct error assemble_model(struct storage *storage, const char *model_id, json_t *files,
                            char ret_folder[512])
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_assemble_model(storage, model_id, files, take_folder, &waiter);
    waiter_wait(&waiter);
    memcpy(ret_folder, waiter.folder, 512);
    return waiter.error;
}

static void take_model(void *context, struct model_record *model, const struct error *error)
{
    struct waiter *waiter = context;
    waiter->model = model != NULL ? model_record_acquire(model) : NULL;
    waiter_answer(waiter, error);
}

struct error insert_model(struct storage *storage, const struct model_record *draft,
                          struct model_record **ret_model)
{
    struct waiter waiter;
    waiter_init(&waiter);
    storage_insert_model(storage, draft, take_model, &waiter);
    waiter_wait(&waiter);
    *ret_model = waiter.model;
    return waiter.error;
}
