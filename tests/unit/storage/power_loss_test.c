/*
 * The database under a disk that keeps only what was synced, and under one whose n-th call fails.
 *
 * Killing a process never tests an fsync: the page cache survives it. So SQLite gets a file layer that holds
 * every write in memory until the file is synced, and passes it on only then. A child works on such a disk and
 * is cut off at its n-th sync: before it, in the middle of it (half of the bytes arrive), or just after it. What it
 * had been told is durable has to be there when the file is opened again; n runs through all syncs.
 */
#include "tests/unit/storage/support.h"

#include "base/check.h"
#include "storage/sqlite_internal.h" /* sqlite3.h */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the disk ------------------------------------------------------------------------------------------ */

enum cut { CUT_NEVER, CUT_BEFORE, CUT_HALFWAY, CUT_AFTER };

static struct {
    sqlite3_vfs layer;
    sqlite3_vfs *real;
    bool volatile_writes; /* held in memory until synced */
    enum cut cut;
    long syncs_until_cut;
    /* One call that fails; counted down on the DB thread, armed by the test. */
    atomic_long writes_until_failure, syncs_until_failure;
    int write_failure;
} disk;

struct disk_file {
    sqlite3_file base;
    sqlite3_file *real; /* behind this struct, in the same memory */
    unsigned char *bytes;
    sqlite3_int64 size, capacity, dirty_from, dirty_to;
};

static bool counts_to_zero(atomic_long *calls)
{
    return atomic_load(calls) > 0 && atomic_fetch_sub(calls, 1) == 1;
}

static struct disk_file *of(sqlite3_file *file)
{
    return (struct disk_file *)(void *)file;
}

static void grow(struct disk_file *file, sqlite3_int64 size)
{
    if (size > file->capacity) {
        sqlite3_int64 capacity = size * 2;
        unsigned char *bytes = realloc(file->bytes, (size_t)capacity);
        CHECK(bytes != NULL);
        memset(bytes + file->capacity, 0, (size_t)(capacity - file->capacity));
        file->bytes = bytes;
        file->capacity = capacity;
    }
    if (size > file->size) {
        memset(file->bytes + file->size, 0, (size_t)(size - file->size));
        file->size = size;
    }
}

/* Passes on the first `share` in four of what is dirty. */
static int flush(struct disk_file *file, int share)
{
    sqlite3_int64 there = 0;
    int code = file->real->pMethods->xFileSize(file->real, &there);
    if (code == SQLITE_OK && there > file->size) {
        code = file->real->pMethods->xTruncate(file->real, file->size);
    }
    sqlite3_int64 to = file->dirty_to < file->size ? file->dirty_to : file->size;
    sqlite3_int64 count = to > file->dirty_from ? (to - file->dirty_from) * share / 4 : 0;
    if (code == SQLITE_OK && count > 0) {
        code = file->real->pMethods->xWrite(file->real, file->bytes + file->dirty_from, (int)count,
                                            file->dirty_from);
    }
    file->dirty_from = INT64_MAX;
    file->dirty_to = 0;
    return code;
}

static int disk_close(sqlite3_file *base)
{
    struct disk_file *file = of(base);
    (void)flush(file, 4); /* the machine still runs: what was written gets there in the end */
    free(file->bytes);
    return file->real->pMethods->xClose(file->real);
}

static int disk_read(sqlite3_file *base, void *bytes, int count, sqlite3_int64 offset)
{
    struct disk_file *file = of(base);
    sqlite3_int64 there = offset >= file->size ? 0 : file->size - offset;
    sqlite3_int64 got = there < count ? there : count;
    if (got > 0) {
        memcpy(bytes, file->bytes + offset, (size_t)got);
    }
    if (got < count) {
        memset((char *)bytes + got, 0, (size_t)(count - got));
        return SQLITE_IOERR_SHORT_READ;
    }
    return SQLITE_OK;
}

static int disk_write(sqlite3_file *base, const void *bytes, int count, sqlite3_int64 offset)
{
    struct disk_file *file = of(base);
    if (counts_to_zero(&disk.writes_until_failure)) {
        return disk.write_failure;
    }
    grow(file, offset + count);
    memcpy(file->bytes + offset, bytes, (size_t)count);
    file->dirty_from = offset < file->dirty_from ? offset : file->dirty_from;
    file->dirty_to = offset + count > file->dirty_to ? offset + count : file->dirty_to;
    return disk.volatile_writes ? SQLITE_OK : flush(file, 4);
}

static int disk_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct disk_file *file = of(base);
    grow(file, size);
    file->size = size;
    return disk.volatile_writes ? SQLITE_OK : flush(file, 4);
}

static int disk_sync(sqlite3_file *base, int flags)
{
    (void)flags;
    struct disk_file *file = of(base);
    if (counts_to_zero(&disk.syncs_until_failure)) {
        return SQLITE_IOERR_FSYNC;
    }
    bool cut = disk.cut != CUT_NEVER && --disk.syncs_until_cut == 0;
    if (cut && disk.cut != CUT_BEFORE) {
        (void)flush(file, disk.cut == CUT_HALFWAY ? 2 : 4);
    }
    if (cut) {
        (void)kill(getpid(), SIGKILL);
    }
    return flush(file, 4);
}

static int disk_file_size(sqlite3_file *base, sqlite3_int64 *ret_size)
{
    *ret_size = of(base)->size;
    return SQLITE_OK;
}

static int disk_lock(sqlite3_file *base, int level)
{
    return of(base)->real->pMethods->xLock(of(base)->real, level);
}

static int disk_unlock(sqlite3_file *base, int level)
{
    return of(base)->real->pMethods->xUnlock(of(base)->real, level);
}

static int disk_check_lock(sqlite3_file *base, int *ret_locked)
{
    return of(base)->real->pMethods->xCheckReservedLock(of(base)->real, ret_locked);
}

static int disk_control(sqlite3_file *base, int operation, void *argument)
{
    (void)base;
    (void)operation;
    (void)argument;
    return SQLITE_NOTFOUND;
}

static int disk_sector_bytes(sqlite3_file *base)
{
    (void)base;
    return 512;
}

static int disk_characteristics(sqlite3_file *base)
{
    (void)base;
    return 0; /* promises nothing: no atomic writes, no order */
}

static const sqlite3_io_methods disk_methods = {
    .iVersion = 1,
    .xClose = disk_close,
    .xRead = disk_read,
    .xWrite = disk_write,
    .xTruncate = disk_truncate,
    .xSync = disk_sync,
    .xFileSize = disk_file_size,
    .xLock = disk_lock,
    .xUnlock = disk_unlock,
    .xCheckReservedLock = disk_check_lock,
    .xFileControl = disk_control,
    .xSectorSize = disk_sector_bytes,
    .xDeviceCharacteristics = disk_characteristics,
};

static int disk_open(sqlite3_vfs *layer, const char *name, sqlite3_file *base, int flags, int *ret_flags)
{
    (void)layer;
    struct disk_file *file = of(base);
    memset(file, 0, sizeof *file);
    file->real = (sqlite3_file *)(void *)(file + 1);
    file->dirty_from = INT64_MAX;
    int code = disk.real->xOpen(disk.real, name, file->real, flags, ret_flags);
    sqlite3_int64 size = 0;
    if (code == SQLITE_OK) {
        file->base.pMethods = &disk_methods;
        code = file->real->pMethods->xFileSize(file->real, &size);
        grow(file, size);
        if (code == SQLITE_OK && size > 0) {
            code = file->real->pMethods->xRead(file->real, file->bytes, (int)size, 0);
        }
    }
    return code;
}

static void install_disk(bool volatile_writes, enum cut cut, long syncs)
{
    disk.real = sqlite3_vfs_find("unix");
    CHECK(disk.real != NULL && sqlite3_vfs_unregister(&disk.layer) == SQLITE_OK);
    disk.layer = *disk.real;
    disk.layer.zName = "disk";
    disk.layer.pNext = NULL;
    disk.layer.szOsFile = (int)sizeof(struct disk_file) + disk.real->szOsFile;
    disk.layer.xOpen = disk_open;
    disk.volatile_writes = volatile_writes;
    disk.cut = cut;
    disk.syncs_until_cut = syncs;
    CHECK(sqlite3_vfs_register(&disk.layer, 1) == SQLITE_OK);
}

static void remove_disk(void)
{
    CHECK(sqlite3_vfs_unregister(&disk.layer) == SQLITE_OK);
    CHECK(sqlite3_vfs_register(sqlite3_vfs_find("unix"), 1) == SQLITE_OK);
}

/* ---- power loss ---------------------------------------------------------------------------------------- */

struct note { /* what the child was told is durable */
    char id[40];
    uint64_t version;
    enum job_state state;
};

static void tell(int fd, struct answer *answer)
{
    struct note note = {.version = answer->job->version, .state = answer->job->state};
    memcpy(note.id, answer->job->id, sizeof note.id);
    CHECK(write(fd, &note, sizeof note) == sizeof note);
    answer_finish(answer);
}

enum { CHILD_JOBS = 4 };

static _Noreturn void work_until_cut(const char *folder, int fd, enum cut cut, long syncs)
{
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(quiet >= 0 && dup2(quiet, STDERR_FILENO) >= 0);
    install_disk(true, cut, syncs);
    struct storage *storage = open_test_storage(folder, NULL);
    for (size_t i = 0; i < CHILD_JOBS; i++) {
        struct answer inserted = insert_job(storage, NULL, NULL, 0, true);
        struct answer claimed = claim_job(storage, UINT64_MAX);
        tell(fd, &inserted);
        struct job_event stage = {.kind = JOB_EVENT_STAGE, .epoch = claimed.job->epoch, .stage = "score"};
        struct answer staged = apply_event(storage, claimed.job->id, &stage);
        struct job_event failed = {.kind = JOB_EVENT_FAILED, .epoch = claimed.job->epoch};
        struct answer ended =
            i % 2 == 0 ? apply_event(storage, claimed.job->id, &failed) : (struct answer){0};
        tell(fd, &claimed);
        tell(fd, &staged);
        if (ended.job != NULL) {
            tell(fd, &ended);
        }
    }
    storage_close(storage); /* checkpoints, which syncs too */
    _exit(0);
}

static void check_note(struct storage *storage, const struct note *note)
{
    struct answer found = get_job(storage, TENANT, note->id);
    assert_int_equal(found.error.code, ERROR_NONE);
    assert_true(found.job->version >= note->version);
    if (note->state == JOB_STATE_FAILED) {
        assert_int_equal(found.job->state, JOB_STATE_FAILED);
    }
    struct page events;
    list_events(storage, TENANT, note->id, 0, 100, &events);
    assert_true(events.count >= note->version); /* each version of these jobs came with an event */
    answer_finish(&found);
}

/* Returns whether the child was cut off. */
static bool lose_power_at(enum cut cut, long syncs, size_t *notes)
{
    char *folder = make_test_folder();
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(ends[0]);
        work_until_cut(folder, ends[1], cut, syncs);
    }
    (void)close(ends[1]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    bool was_cut = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    assert_true(was_cut || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    install_disk(false, CUT_NEVER, 0); /* this one need not wait for a real disk */
    struct storage *storage = open_test_storage(folder, NULL);
    struct note note;
    while (read(ends[0], &note, sizeof note) == sizeof note) {
        check_note(storage, &note);
        (*notes)++;
    }
    (void)close(ends[0]);
    struct answer goes_on = insert_job(storage, NULL, NULL, 0, true);
    assert_int_equal(goes_on.error.code, ERROR_NONE);
    answer_finish(&goes_on);
    storage_close(storage);
    remove_disk();
    remove_test_folder(folder);
    return was_cut;
}

static void what_was_acknowledged_survives_power_loss_at_every_sync(void **state)
{
    (void)state;
    static const enum cut cuts[] = {CUT_BEFORE, CUT_HALFWAY, CUT_AFTER};
    size_t notes = 0;
    long crashes = 0;
    for (size_t i = 0; i < 3; i++) {
        long syncs = 1;
        while (lose_power_at(cuts[i], syncs, &notes)) {
            syncs++;
            crashes++;
            assert_true(syncs < 500);
        }
        assert_true(syncs > CHILD_JOBS * 3); /* every commit syncs */
    }
    print_message("# %ld cuts, %zu acknowledgements checked\n", crashes, notes);
}

/* ---- failing calls ------------------------------------------------------------------------------------- */

struct outcome {
    atomic_size_t answered, accepted;
    atomic_int refusal; /* the code of the last error */
};

static void count_answer(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)job;
    (void)replayed;
    struct outcome *outcome = context;
    if (error == NULL) {
        atomic_fetch_add(&outcome->accepted, 1);
    } else {
        atomic_store(&outcome->refusal, (int)error->code);
    }
    atomic_fetch_add(&outcome->answered, 1);
}

static void insert_batch(struct storage *storage, struct outcome *outcome)
{
    json_t *spec = json_object();
    json_t *plan = json_object();
    struct job_draft draft = {.tenant_id = TENANT, .type = "pruning", .spec = spec, .plan = plan};
    for (size_t i = 0; i < 30; i++) {
        storage_insert_job(storage, &draft, count_answer, outcome);
    }
    struct answer last = insert_job(storage, NULL, NULL, 0, true); /* answered after them */
    atomic_fetch_add(&outcome->accepted, last.job != NULL ? 1 : 0);
    answer_finish(&last);
    json_decref(spec);
    json_decref(plan);
}

/* Returns whether the failing write was reached. */
static bool fail_write(long number, int failure, enum error_code expected)
{
    char *folder = make_test_folder();
    install_disk(false, CUT_NEVER, 0);
    struct storage *storage = open_test_storage(folder, NULL);
    struct outcome outcome = {0};
    disk.write_failure = failure;
    atomic_store(&disk.writes_until_failure, number);
    insert_batch(storage, &outcome);
    bool reached = atomic_exchange(&disk.writes_until_failure, 0) == 0;
    assert_int_equal(atomic_load(&outcome.answered), 30);
    if (atomic_load(&outcome.refusal) != ERROR_NONE) {
        assert_int_equal(atomic_load(&outcome.refusal), expected);
    }
    struct storage_counts counts;
    storage_get_counts(storage, &counts);
    assert_int_equal(counts.by_state[JOB_STATE_QUEUED], atomic_load(&outcome.accepted));
    insert_batch(storage, &outcome); /* the disk is well again */
    storage_close(storage);
    remove_disk();
    storage = open_test_storage(folder, NULL);
    storage_get_counts(storage, &counts);
    assert_int_equal(counts.by_state[JOB_STATE_QUEUED], atomic_load(&outcome.accepted));
    assert_true(atomic_load(&outcome.accepted) >= 31);
    storage_close(storage);
    remove_test_folder(folder);
    return reached;
}

static void a_write_that_fails_refuses_its_batch_and_what_was_accepted_is_all_there_is(void **state)
{
    (void)state;
    long number = 1;
    while (fail_write(number, SQLITE_FULL, ERROR_STORAGE_FULL) && number < 40) {
        number++;
    }
    assert_true(number > 5);
    for (number = 1; number < 5; number++) {
        (void)fail_write(number, SQLITE_IOERR_WRITE, ERROR_IO);
    }
}

static void a_sync_of_the_database_that_fails_ends_the_process(void **state)
{
    (void)state;
    for (long number = 1; number <= 4; number++) {
        char *folder = make_test_folder();
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
            CHECK(quiet >= 0 && dup2(quiet, STDERR_FILENO) >= 0);
            install_disk(true, CUT_NEVER, 0);
            struct storage *storage = open_test_storage(folder, NULL);
            atomic_store(&disk.syncs_until_failure, number);
            for (size_t i = 0; i < 10; i++) {
                struct answer answer = insert_job(storage, NULL, NULL, 0, true);
                answer_finish(&answer);
            }
            _exit(0);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        struct storage *storage = open_test_storage(folder, NULL);
        struct storage_counts counts;
        storage_get_counts(storage, &counts);
        assert_true(counts.by_state[JOB_STATE_QUEUED] >= (uint64_t)number - 1);
        storage_close(storage);
        remove_test_folder(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_acknowledged_survives_power_loss_at_every_sync),
        cmocka_unit_test(a_write_that_fails_refuses_its_batch_and_what_was_accepted_is_all_there_is),
        cmocka_unit_test(a_sync_of_the_database_that_fails_ends_the_process),
    };
    json_start();
    return cmocka_run_group_tests_name("storage power loss", tests, NULL, NULL);
}
