/*
 * tests/unit/storage/support.h: storage for tests: a temporary folder, a clock that stands in the test's
 * hand, and each callback function of storage.h as a call that waits for its answer.
 */
#ifndef TESTS_UNIT_STORAGE_SUPPORT_H
#define TESTS_UNIT_STORAGE_SUPPORT_H

#include "storage/storage.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define TENANT STORAGE_TENANT_DEFAULT

/* Wall and monotonic time; starts at a fixed date and moves only by hand. Thread-safe. */
struct test_clock {
    struct clock_source source;
    int64_t wall_ms, boot_ns; /* atomic */
};
void test_clock_init(struct test_clock *clock);
void test_clock_advance(struct test_clock *clock, int64_t ms);

char *make_test_folder(void);          /* owned; below the system's temporary folder */
void remove_test_folder(char *folder); /* taken */
struct storage *open_test_storage(const char *folder,
                                  struct test_clock *clock); /* fails the test if it cannot */

/* A test case's own folder, clock and open storage. */
struct fixture {
    char *folder;
    struct test_clock clock;
    struct storage *storage;
};
int set_up(void **state);
int tear_down(void **state);
void reopen(struct fixture *fixture);
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#define EXPECT_OK(answer)     assert_int_equal((answer).error.code, ERROR_NONE)
#define EXPECT(answer, which) assert_int_equal((answer).error.code, ERROR_##which)

/* What an operation answered. Release with answer_finish. */
struct answer {
    struct error error; /* code ERROR_NONE: it went well */
    struct job *job;
    bool replayed;
};
void answer_finish(struct answer *answer);
struct answer insert_job(struct storage *storage, const char *key, const char *request_sha256,
                         uint64_t memory_bytes, bool planned);
struct answer insert_draft(struct storage *storage, const struct job_draft *draft);
struct answer apply_event(struct storage *storage, const char *job_id, const struct job_event *event);
struct answer claim_job(struct storage *storage, uint64_t memory_limit_bytes);
struct answer get_job(struct storage *storage, const char *tenant_id, const char *job_id);
struct answer delete_job(struct storage *storage, const char *job_id);
struct answer publish_files(struct storage *storage, const char *job_id, uint64_t epoch, json_t *files,
                            json_t *result);
/* The same for tests that need a job to work with: inserts, claims, checks. */
struct job *make_running_job(struct storage *storage);

struct page {
    struct error error;
    char ids[128][40];
    char types[128][24], levels[128][8], messages[128][384]; /* of events */
    int64_t seqs[128];
    enum job_state states[128];
    size_t count;
    bool has_more;
};
void list_jobs(struct storage *storage, const struct job_filter *filter, struct page *ret_page);
void list_events(struct storage *storage, const char *tenant_id, const char *job_id, int64_t after_seq,
                 size_t limit, struct page *ret_page);

/* Puts bytes into the blob store under the hash given. */
struct error upload(struct storage *storage, const void *bytes, size_t count, const char *sha256,
                    bool *ret_existed);
/* Writes a file below a folder, making the folders in between. */
void write_file(const char *folder, const char *relative, const void *bytes, size_t count);
/* [{path, bytes, sha256}] of one file's content, appended to `files`. */
void describe_file(json_t *files, const char *path, const void *bytes, size_t count);
struct error assemble_model(struct storage *storage, const char *model_id, json_t *files,
                            char ret_folder[512]);
struct error insert_model(struct storage *storage, const struct model_record *draft,
                          struct model_record **ret_model);
/* Waits until the condition holds, ten seconds at most. */
bool wait_until(bool (*holds)(void *context), void *context);

#endif
