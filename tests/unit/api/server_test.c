/*
 * The whole door over real storage, with a host that answers from a script: from bytes on a socket to bytes on a socket.
 * What needs a worker is in tests/http.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/text.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char catalogue_text[] =
    "{\"version\": 1, \"engine\": {\"version\": \"test\"}, \"job_types\": {\"pruning\": {\"body\": {\"type\": \"object\","
    " \"members\": ["
    "{\"name\": \"model\", \"type\": \"text\", \"flags\": [\"required\"], \"min\": 1, \"max\": 4096},"
    "{\"name\": \"seed\", \"type\": \"integer\", \"min\": 0, \"max\": 100, \"default\": 42},"
    "{\"name\": \"name\", \"type\": \"text\", \"min\": 1, \"max\": 20}]}}},"
    " \"methods\": []}";

struct bench {
    char folder[64];
    struct storage *storage;
    struct api *api;
    json_t *catalogue;
    atomic_int plan_count;
    pthread_mutex_t lock; /* guards the three below */
    api_host_done *held_done;
    void *held_context;
    bool holds;
};

static void on_change(void *context, struct job *job, const struct job_effects *effects)
{
    (void)effects;
    struct bench *bench = context;
    if (bench->api != NULL) {
        api_notify(bench->api, job);
    }
}

/* Plans everything but seed 13. With `holds` set, the first plan is left unanswered until it is released. */
static void fake_plan(void *context, const json_t *request, api_host_done *done, void *done_context)
{
    struct bench *bench = context;
    (void)atomic_fetch_add(&bench->plan_count, 1);
    (void)pthread_mutex_lock(&bench->lock);
    bool is_held = bench->holds;
    if (is_held) {
        bench->held_done = done;
        bench->held_context = done_context;
    }
    (void)pthread_mutex_unlock(&bench->lock);
    if (is_held) {
        return;
    }
    const json_t *spec = json_object_get(request, "spec");
    if (json_integer_value(json_object_get(spec, "seed")) == 13) {
        FINISHED(error_list) faults = {0};
        (void)error_list_add(&faults, ERROR_UNREACHABLE, "/seed", "no plan for 13");
        (void)error_list_add(&faults, ERROR_NOT_FOUND, "/model", "and another");
        done(done_context, NULL, &faults);
        return;
    }
    JSON_OWNED answer = json_pack("{s:{s:i}}", "plan", "memory_bytes", 4096);
    done(done_context, answer, NULL);
}

static void fake_inspect(void *context, const char *folder, api_host_done *done, void *done_context)
{
    (void)context;
    OWNED_MEMORY char *path = file_join(folder, "config.json");
    if (!file_exists(path)) {
        FINISHED(error_list) faults = {0};
        (void)error_list_add(&faults, ERROR_NOT_FOUND, "config.json", "the folder has no config.json");
        done(done_context, NULL, &faults);
        return;
    }
    JSON_OWNED answer = json_pack("{s:{s:[]}}", "inventory", "tensors");
    done(done_context, answer, NULL);
}

static int start(void **state)
{
    struct bench *bench = test_calloc(1, sizeof *bench);
    struct error error = {0};
    (void)snprintf(bench->folder, sizeof bench->folder, "/tmp/pruned-api-XXXXXX");
    assert_non_null(mkdtemp(bench->folder));
    assert_int_equal(pthread_mutex_init(&bench->lock, NULL), 0);
    bench->catalogue = json_parse(catalogue_text, sizeof catalogue_text - 1, 65536, &error);
    assert_non_null(bench->catalogue);
    OWNED_MEMORY char *state_folder = file_join(bench->folder, "state");
    const struct storage_options storage = {
        .folder = state_folder, .reserve_bytes = 1, .on_change = on_change, .on_change_context = bench};
    assert_true(storage_open(&storage, &bench->storage, &error));
    const char *const roots[] = {bench->folder, NULL};
    const struct api_options options = {
        .listen_fd = -1,
        .address = "127.0.0.1",
        .roots = roots,
        .max_upload_bytes = 100000,
        .catalogue = bench->catalogue,
        .storage = bench->storage,
        .host = {.context = bench, .plan = fake_plan, .inspect = fake_inspect},
    };
    struct api *api = NULL;
    if (!api_start(&options, &api, &error)) {
        fail_msg("%s", error.message);
    }
    bench->api = api;
    *state = bench;
    return 0;
}

static int stop(void **state)
{
    struct bench *bench = *state;
    struct api *api = bench->api;
    bench->api = NULL;
    api_stop(api);
    storage_close(bench->storage);
    json_decref(bench->catalogue);
    assert_true(file_remove_tree(bench->folder, NULL));
    (void)pthread_mutex_destroy(&bench->lock);
    test_free(bench);
    return 0;
}

/* ---- a client ---------------------------------------------------------------------------------------------------- */

struct answer {
    int status;
    char *text; /* all of it; owned */
    json_t *json;
};
static void answer_finish(struct answer *answer)
{
    free(answer->text);
    json_decref(answer->json);
}

static int connect_to(const struct bench *bench)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(api_port(bench->api))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* Not an assertion: also called beside the test's thread. */
static struct answer receive(int fd)
{
    struct text text = {0};
    char buffer[4096];
    ssize_t count = 0;
    while ((count = read(fd, buffer, sizeof buffer)) > 0) {
        text_append_bytes(&text, buffer, (size_t)count);
    }
    struct answer answer = {.text = text_take(&text)};
    (void)sscanf(answer.text, "HTTP/1.1 %d", &answer.status);
    const char *body = strstr(answer.text, "\r\n\r\n");
    if (body != NULL && strlen(body) > 4) {
        answer.json = json_parse(body + 4, strlen(body + 4), 1 << 20, NULL);
    }
    (void)close(fd);
    return answer;
}

static int send_request(const struct bench *bench, const char *method, const char *path, const char *headers,
                        const char *body)
{
    struct text text = {0};
    int fd = connect_to(bench);
    text_append_format(&text, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s", method, path,
                       headers);
    if (body != NULL) {
        text_append_format(&text, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    }
    text_append_format(&text, "\r\n%s", body != NULL ? body : "");
    assert_int_equal(write(fd, text.bytes, text.length), (ssize_t)text.length);
    text_finish(&text);
    return fd;
}

static struct answer ask(const struct bench *bench, const char *method, const char *path, const char *headers,
                         const char *body)
{
    return receive(send_request(bench, method, path, headers, body));
}

static const char *text_at(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "";
}

static void submit_body(const struct bench *bench, int seed, char body[256])
{
    (void)snprintf(body, 256, "{\"model\": \"file://%s\", \"seed\": %d}", bench->folder, seed);
}

/* ---- tests ----------------------------------------------------------------------------------------------------------- */

static void a_model_by_path_is_accepted_and_validated_later(void **state)
{
    struct bench *bench = *state;
    char body[256];
    submit_body(bench, 1, body);
    FINISHED(answer) answer = ask(bench, "POST", "/v1/pruning/jobs", "", body);
    assert_int_equal(answer.status, 201);
    assert_string_equal(text_at(answer.json, "status"), "validating");
    assert_string_equal(text_at(answer.json, "object"), "pruning.job");
    assert_non_null(strstr(answer.text, "Location: /v1/jobs/job_"));
    assert_non_null(strstr(answer.text, "X-Request-Id: req_"));
    assert_int_equal(atomic_load(&bench->plan_count), 0);
}

static void a_dry_run_plans_and_stores_nothing(void **state)
{
    struct bench *bench = *state;
    char body[256];
    submit_body(bench, 1, body);
    FINISHED(answer) answer = ask(bench, "POST", "/v1/pruning/jobs?dry_run=true", "", body);
    assert_int_equal(answer.status, 200);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(answer.json, "plan"), "memory_bytes")), 4096);
    FINISHED(answer) list = ask(bench, "GET", "/v1/jobs", "", NULL);
    assert_int_equal(json_array_size(json_object_get(list.json, "data")), 0);
    submit_body(bench, 13, body);
    FINISHED(answer) refused = ask(bench, "POST", "/v1/pruning/jobs?dry_run=true", "", body);
    assert_int_equal(refused.status, 422);
    assert_int_equal(json_array_size(json_object_get(refused.json, "errors")), 2);
}

static void every_fault_comes_at_once(void **state)
{
    struct bench *bench = *state;
    FINISHED(answer)
    answer = ask(bench, "POST", "/v1/pruning/jobs", "",
                 "{\"model\": \"file:///etc\", \"seed\": 101, \"sead\": 1, \"type\": \"evaluation\"}");
    assert_int_equal(answer.status, 422);
    assert_int_equal(json_array_size(json_object_get(answer.json, "errors")), 4);
    FINISHED(answer) broken = ask(bench, "POST", "/v1/pruning/jobs", "", "{\"model\": ");
    assert_int_equal(broken.status, 400);
    FINISHED(answer) twice = ask(bench, "POST", "/v1/pruning/jobs", "", "{\"seed\": 1, \"seed\": 1}");
    assert_int_equal(twice.status, 400);
    assert_string_equal(text_at(json_object_get(twice.json, "error"), "code"), "duplicate_key");
    FINISHED(answer) array = ask(bench, "POST", "/v1/pruning/jobs", "", "[]");
    assert_int_equal(array.status, 422);
    FINISHED(answer) empty = ask(bench, "POST", "/v1/pruning/jobs", "", "");
    assert_int_equal(empty.status, 400);
    FINISHED(answer) bare = ask(bench, "POST", "/v1/pruning/jobs", "", NULL);
    assert_int_equal(bare.status, 415);
}

static void the_same_key_is_the_same_job(void **state)
{
    struct bench *bench = *state;
    char body[256];
    submit_body(bench, 1, body);
    FINISHED(answer) first = ask(bench, "POST", "/v1/pruning/jobs", "Idempotency-Key: k\r\n", body);
    FINISHED(answer) second = ask(bench, "POST", "/v1/pruning/jobs", "Idempotency-Key: k\r\n", body);
    assert_int_equal(second.status, 201);
    assert_string_equal(text_at(first.json, "id"), text_at(second.json, "id"));
    assert_non_null(strstr(second.text, "Idempotency-Replayed: true"));
    submit_body(bench, 2, body);
    FINISHED(answer) third = ask(bench, "POST", "/v1/pruning/jobs", "Idempotency-Key: k\r\n", body);
    assert_int_equal(third.status, 422);
    assert_string_equal(text_at(json_object_get(third.json, "error"), "code"), "idempotency_mismatch");
}

static void a_long_poll_ends_when_the_job_does(void **state)
{
    struct bench *bench = *state;
    char body[256], path[128];
    submit_body(bench, 1, body);
    FINISHED(answer) job = ask(bench, "POST", "/v1/pruning/jobs", "", body);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s?wait=20", text_at(job.json, "id"));
    int waiting = send_request(bench, "GET", path, "", NULL);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s/cancel", text_at(job.json, "id"));
    FINISHED(answer) cancelled = ask(bench, "POST", path, "", NULL);
    assert_int_equal(cancelled.status, 200);
    FINISHED(answer) woken = receive(waiting);
    assert_int_equal(woken.status, 200);
    assert_string_equal(text_at(woken.json, "status"), "cancelled");
    FINISHED(answer) again = ask(bench, "POST", path, "", NULL);
    assert_int_equal(again.status, 409);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s", text_at(job.json, "id"));
    FINISHED(answer) deleted = ask(bench, "DELETE", path, "", NULL);
    assert_int_equal(deleted.status, 204);
    FINISHED(answer) gone = ask(bench, "GET", path, "", NULL);
    assert_int_equal(gone.status, 404);
}

static void a_wait_ends_by_itself(void **state)
{
    struct bench *bench = *state;
    char body[256], path[128];
    submit_body(bench, 1, body);
    FINISHED(answer) job = ask(bench, "POST", "/v1/pruning/jobs", "", body);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s?wait=1&until=change", text_at(job.json, "id"));
    FINISHED(answer) answer = ask(bench, "GET", path, "", NULL);
    assert_int_equal(answer.status, 200);
    char *etag = strstr(answer.text, "ETag: "), header[128];
    assert_non_null(etag);
    (void)snprintf(header, sizeof header, "If-None-Match: %.*s\r\n", (int)strcspn(etag + 6, "\r"), etag + 6);
    FINISHED(answer) same = ask(bench, "GET", path, header, NULL);
    assert_int_equal(same.status, 304);
    FINISHED(answer) news = ask(bench, "GET", path, "If-None-Match: \"old\"\r\n", NULL);
    assert_int_equal(news.status, 200);
}

static void parked_requests_are_answered_at_the_end(void **state)
{
    struct bench *bench = *state;
    char body[256], path[128];
    submit_body(bench, 1, body);
    FINISHED(answer) job = ask(bench, "POST", "/v1/pruning/jobs", "", body);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s?wait=20", text_at(job.json, "id"));
    int waiting[20];
    for (size_t i = 0; i < 20; i++) {
        waiting[i] = send_request(bench, "GET", path, "", NULL);
    }
    FINISHED(answer) alive = ask(bench, "GET", "/livez", "", NULL);
    assert_int_equal(alive.status, 200);
    struct api *api = bench->api;
    bench->api = NULL;
    api_stop(api);
    for (size_t i = 0; i < 20; i++) {
        FINISHED(answer) answer = receive(waiting[i]);
        assert_true(answer.status == 200 || answer.status == 0); /* 0: not yet read when the door closed */
    }
}

static void a_host_that_is_slow_holds_up_only_its_request(void **state)
{
    struct bench *bench = *state;
    char body[256];
    submit_body(bench, 1, body);
    bench->holds = true;
    int waiting = send_request(bench, "POST", "/v1/pruning/jobs?dry_run=true", "", body);
    FINISHED(answer) alive = ask(bench, "GET", "/livez", "", NULL);
    assert_int_equal(alive.status, 200);
    api_host_done *done = NULL;
    while (done == NULL) {
        (void)pthread_mutex_lock(&bench->lock);
        done = bench->held_done;
        (void)pthread_mutex_unlock(&bench->lock);
        (void)usleep(1000);
    }
    JSON_OWNED plan = json_pack("{s:{s:i}}", "plan", "memory_bytes", 1);
    done(bench->held_context, plan, NULL);
    FINISHED(answer) answer = receive(waiting);
    assert_int_equal(answer.status, 200);
}

static void blobs_are_kept_by_their_hash(void **state)
{
    struct bench *bench = *state;
    char path[128], hex[SHA256_HEX];
    sha256_hex_of("hello", 5, hex);
    (void)snprintf(path, sizeof path, "/v1/blobs/sha256:%s", hex);
    FINISHED(answer) absent = ask(bench, "HEAD", path, "", NULL);
    assert_int_equal(absent.status, 404);
    FINISHED(answer) made = ask(bench, "PUT", path, "", "hello");
    assert_int_equal(made.status, 201);
    FINISHED(answer) again = ask(bench, "PUT", path, "", "hello");
    assert_int_equal(again.status, 200);
    FINISHED(answer) wrong = ask(bench, "PUT", path, "Content-Encoding: x\r\n", "other");
    assert_int_equal(wrong.status, 200); /* what we have is right whatever is sent now */
    FINISHED(answer) head = ask(bench, "HEAD", path, "", NULL);
    assert_int_equal(head.status, 200);
    assert_non_null(strstr(head.text, "Content-Length: 5\r\n"));
    hex[0] = hex[0] == '0' ? '1' : '0';
    (void)snprintf(path, sizeof path, "/v1/blobs/sha256:%s", hex);
    FINISHED(answer) mismatch = ask(bench, "PUT", path, "", "hello");
    assert_int_equal(mismatch.status, 422);
    FINISHED(answer)
    large = ask(bench, "PUT", path, "Expect: 100-continue\r\nContent-Length: 100001\r\n", NULL);
    assert_int_equal(large.status, 413);
    FINISHED(answer) bad = ask(bench, "PUT", "/v1/blobs/md5:1", "", "hello");
    assert_int_equal(bad.status, 422);
}

static void a_registered_model_is_planned_before_the_201(void **state)
{
    struct bench *bench = *state;
    char body[256], path[128];
    OWNED_MEMORY char *config = file_join(bench->folder, "config.json");
    (void)snprintf(body, sizeof body, "{\"name\": \"m\", \"source\": \"file://%s\"}", bench->folder);
    FINISHED(answer) refused = ask(bench, "POST", "/v1/models", "", body);
    assert_int_equal(refused.status, 422);
    assert_true(file_save(config, "{}", 2, 0600, NULL));
    FINISHED(answer) model = ask(bench, "POST", "/v1/models", "", body);
    assert_int_equal(model.status, 201);
    FINISHED(answer) again = ask(bench, "POST", "/v1/models", "", body);
    assert_int_equal(again.status, 200);
    (void)snprintf(path, sizeof path, "/v1/models/%s", text_at(model.json, "id"));
    FINISHED(answer) read = ask(bench, "GET", path, "", NULL);
    assert_int_equal(read.status, 200);
    FINISHED(answer) job = ask(bench, "POST", "/v1/pruning/jobs", "", "{\"model\": \"m\"}");
    assert_int_equal(job.status, 201);
    assert_string_equal(text_at(job.json, "status"), "queued");
    FINISHED(answer)
    impossible = ask(bench, "POST", "/v1/pruning/jobs", "", "{\"model\": \"m\", \"seed\": 13}");
    assert_int_equal(impossible.status, 422);
    assert_string_equal(text_at(json_object_get(impossible.json, "error"), "code"), "unreachable");
    FINISHED(answer) list = ask(bench, "GET", "/v1/jobs", "", NULL);
    assert_int_equal(json_array_size(json_object_get(list.json, "data")), 1);
}

static void a_refused_upload_of_a_model_leaves_no_folder(void **state)
{
    struct bench *bench = *state;
    char path[128], hex[SHA256_HEX], body[256];
    sha256_hex_of("hello", 5, hex);
    (void)snprintf(path, sizeof path, "/v1/blobs/sha256:%s", hex);
    FINISHED(answer) blob = ask(bench, "PUT", path, "", "hello");
    assert_int_equal(blob.status, 201);
    (void)snprintf(body, sizeof body,
                   "{\"name\": \"m\", \"files\": [{\"path\": \"model.safetensors\", \"sha256\": \"%s\"}]}",
                   hex);
    FINISHED(answer) refused = ask(bench, "POST", "/v1/models", "", body);
    assert_int_equal(refused.status, 422);
    (void)snprintf(body, sizeof body,
                   "{\"name\": \"m\", \"files\": [{\"path\": \"config.json\", \"sha256\": \"%s\"}]}", hex);
    FINISHED(answer) taken = ask(bench, "POST", "/v1/models", "", body);
    assert_int_equal(taken.status, 201);
    FINISHED(answer)
    both = ask(bench, "POST", "/v1/models", "", "{\"name\": \"x\", \"source\": \"file:///\", \"files\": []}");
    assert_int_equal(both.status, 422);
    FINISHED(answer)
    escape = ask(bench, "POST", "/v1/models", "",
                 "{\"name\": \"../x\", \"files\": [{\"path\": \"../y\", \"sha256\": \"z\"}]}");
    assert_int_equal(escape.status, 422);
}

/* ---- a result, published as a worker's would be -------------------------------------------------------------------- */

#define LONG_NAME                                                                                            \
    "a-folder-with-a-name-of-some-length/another-folder-with-a-name-of-some-length/and-a-file-of-ours.txt"

static void keep_epoch(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)replayed;
    (void)error;
    atomic_ullong *epoch = context;
    atomic_store(epoch, job != NULL ? job->epoch : UINT64_MAX);
}

static void ignore_job(void *context, struct job *job, bool replayed, const struct error *error)
{
    (void)context;
    (void)job;
    (void)replayed;
    (void)error;
}

static json_t *write_file(const char *folder, const char *path, const char *content)
{
    char hex[SHA256_HEX];
    OWNED_MEMORY char *full = file_join(folder, path);
    char *slash = strrchr(full, '/');
    *slash = '\0';
    assert_true(file_make_folders(full, 0700, NULL));
    *slash = '/';
    assert_true(file_save(full, content, strlen(content), 0600, NULL));
    sha256_hex_of(content, strlen(content), hex);
    return json_pack("{s:s,s:I,s:s}", "path", path, "bytes", (json_int_t)strlen(content), "sha256", hex);
}

/* A job that succeeded with two files; its id. */
static void make_result(struct bench *bench, char ret_id[40])
{
    char body[256], path[128];
    struct error error = {0};
    OWNED_MEMORY char *config = file_join(bench->folder, "config.json");
    assert_true(file_save(config, "{}", 2, 0600, NULL));
    (void)snprintf(body, sizeof body, "{\"name\": \"m\", \"source\": \"file://%s\"}", bench->folder);
    FINISHED(answer) model = ask(bench, "POST", "/v1/models", "", body);
    assert_int_equal(model.status, 201);
    FINISHED(answer) job = ask(bench, "POST", "/v1/pruning/jobs", "", "{\"model\": \"m\"}");
    assert_int_equal(job.status, 201);
    (void)snprintf(ret_id, 40, "%s", text_at(job.json, "id"));
    atomic_ullong epoch;
    atomic_init(&epoch, 0);
    storage_claim_job(bench->storage, UINT64_MAX, keep_epoch, &epoch);
    while (atomic_load(&epoch) == 0) {
        (void)usleep(1000);
    }
    OWNED_MEMORY char *work = storage_make_work_folder(bench->storage, ret_id, atomic_load(&epoch), &error);
    assert_non_null(work);
    OWNED_MEMORY char *out = file_join(work, "out");
    JSON_OWNED files =
        json_pack("[o,o]", write_file(out, LONG_NAME, "hello world"), write_file(out, "report.json", "{}"));
    JSON_OWNED result = json_object();
    storage_publish(bench->storage, STORAGE_TENANT_DEFAULT, ret_id, atomic_load(&epoch), files, result,
                    ignore_job, NULL);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s?wait=20", ret_id);
    FINISHED(answer) done = ask(bench, "GET", path, "", NULL);
    assert_string_equal(text_at(done.json, "status"), "succeeded");
}

static void a_result_is_served_whole_and_in_parts(void **state)
{
    struct bench *bench = *state;
    char id[40], path[256];
    make_result(bench, id);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s/artifacts/" LONG_NAME, id);
    FINISHED(answer) whole = ask(bench, "GET", path, "", NULL);
    assert_int_equal(whole.status, 200);
    assert_non_null(strstr(whole.text, "\r\n\r\nhello world"));
    assert_non_null(
        strstr(whole.text, "Repr-Digest: sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:"));
    FINISHED(answer) part = ask(bench, "GET", path, "Range: bytes=6-8\r\n", NULL);
    assert_int_equal(part.status, 206);
    assert_non_null(strstr(part.text, "Content-Range: bytes 6-8/11\r\n"));
    assert_non_null(strstr(part.text, "\r\n\r\nwor"));
    FINISHED(answer) beyond = ask(bench, "GET", path, "Range: bytes=11-\r\n", NULL);
    assert_int_equal(beyond.status, 416);
    FINISHED(answer) other = ask(bench, "GET", path, "Range: bytes=6-8\r\nIf-Range: \"x\"\r\n", NULL);
    assert_int_equal(other.status, 200);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s/report", id);
    FINISHED(answer) report = ask(bench, "GET", path, "", NULL);
    assert_int_equal(report.status, 200);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s/report.html", id);
    FINISHED(answer) missing = ask(bench, "GET", path, "", NULL);
    assert_int_equal(missing.status, 404);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s/retry", id);
    FINISHED(answer) retry = ask(bench, "POST", path, "", NULL);
    assert_int_equal(retry.status, 409);
}

/* tar itself is the judge: it must find both names, the long one from its pax header. */
static void a_result_is_one_tar_with_long_names_too(void **state)
{
    struct bench *bench = *state;
    char id[40], path[256], command[512], line[512];
    make_result(bench, id);
    (void)snprintf(path, sizeof path, "/v1/jobs/%s/archive", id);
    int fd = send_request(bench, "GET", path, "", NULL);
    FINISHED(text) all = {0};
    char buffer[4096];
    ssize_t count = 0;
    while ((count = read(fd, buffer, sizeof buffer)) > 0) {
        text_append_bytes(&all, buffer, (size_t)count);
    }
    (void)close(fd);
    const char *body = strstr(all.bytes, "\r\n\r\n");
    assert_non_null(body);
    body += 4;
    size_t length = all.length - (size_t)(body - all.bytes);
    assert_int_equal(length % 512, 0);
    OWNED_MEMORY char *archive = file_join(bench->folder, "result.tar");
    assert_true(file_save(archive, body, length, 0600, NULL));
    (void)snprintf(command, sizeof command, "tar tf %s", archive);
    FILE *listing = popen(command, "r");
    assert_non_null(listing);
    char wanted[2][256];
    (void)snprintf(wanted[0], sizeof wanted[0], "%s/" LONG_NAME "\n", id);
    (void)snprintf(wanted[1], sizeof wanted[1], "%s/report.json\n", id);
    for (size_t i = 0; i < 2; i++) {
        assert_non_null(fgets(line, sizeof line, listing));
        assert_string_equal(line, wanted[i]);
    }
    assert_null(fgets(line, sizeof line, listing));
    assert_int_equal(pclose(listing), 0);
}

static void draining_refuses_new_work_and_goes_on_reading(void **state)
{
    struct bench *bench = *state;
    char body[256];
    submit_body(bench, 1, body);
    api_drain(bench->api);
    FINISHED(answer) refused = ask(bench, "POST", "/v1/pruning/jobs", "", body);
    assert_int_equal(refused.status, 503);
    assert_non_null(strstr(refused.text, "Retry-After: "));
    FINISHED(answer) list = ask(bench, "GET", "/v1/jobs", "", NULL);
    assert_int_equal(list.status, 200);
    FINISHED(answer) ready = ask(bench, "GET", "/readyz", "", NULL);
    assert_int_equal(ready.status, 503);
}

static void a_body_past_its_limit_still_gets_an_answer(void **state)
{
    struct bench *bench = *state;
    char *body = malloc((2u << 20) + 1);
    assert_non_null(body);
    memset(body, ' ', 2u << 20);
    body[2u << 20] = '\0';
    FINISHED(answer) answer = ask(bench, "POST", "/v1/pruning/jobs", "", body);
    assert_int_equal(answer.status, 413);
    assert_string_equal(text_at(json_object_get(answer.json, "error"), "code"), "too_large");
    free(body);
}

#define SERVED(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
    json_start();
    log_start("server_test", LOG_ERROR, LOG_FORMAT_JSON);
    const struct CMUnitTest tests[] = {
        SERVED(a_model_by_path_is_accepted_and_validated_later),
        SERVED(a_dry_run_plans_and_stores_nothing),
        SERVED(every_fault_comes_at_once),
        SERVED(the_same_key_is_the_same_job),
        SERVED(a_long_poll_ends_when_the_job_does),
        SERVED(a_wait_ends_by_itself),
        SERVED(parked_requests_are_answered_at_the_end),
        SERVED(a_host_that_is_slow_holds_up_only_its_request),
        SERVED(blobs_are_kept_by_their_hash),
        SERVED(a_registered_model_is_planned_before_the_201),
        SERVED(a_refused_upload_of_a_model_leaves_no_folder),
        SERVED(a_result_is_served_whole_and_in_parts),
        SERVED(a_result_is_one_tar_with_long_names_too),
        SERVED(draining_refuses_new_work_and_goes_on_reading),
        SERVED(a_body_past_its_limit_still_gets_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
