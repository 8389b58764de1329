/* client/commands.c: one function a verb. See client.h. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/spec.h"
#include "client/client.h"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 60000 /* how long `wait` bears a service that is away (a restart) */
#define POLL_MS     300

/* ---- talking ------------------------------------------------------------------------------------------- */

static enum client_exit complain(const struct error *error)
{
    (void)fprintf(stderr, "prunectl: %s\n", error->message);
    return error->code == ERROR_UNAVAILABLE ? CLIENT_UNREACHABLE : CLIENT_FAILED;
}

/* Prints every fault of a problem body. */
static enum client_exit complain_answer(const struct http_answer *answer, const json_t *body)
{
    const json_t *errors = json_object_get(body, "errors");
    const char *detail = json_string_value(json_object_get(body, "detail"));
    (void)fprintf(stderr, "prunectl: %ld: %s\n", answer->status,
                  detail != NULL ? detail : answer->body.bytes);
    for (size_t i = 0; json_array_size(errors) > 1 && i < json_array_size(errors); i++) {
        const json_t *fault = json_array_get(errors, i);
        const char *pointer = json_string_value(json_object_get(fault, "pointer"));
        const char *message = json_string_value(json_object_get(fault, "message"));
        (void)fprintf(stderr, "  %s: %s\n", pointer != NULL ? pointer : "", message != NULL ? message : "");
    }
    return answer->status == 503 ? CLIENT_UNREACHABLE : CLIENT_FAILED;
}

/* An answer with a status below 300 as JSON, owned; else it was complained about and *ret_exit says how to
 * end. */
static json_t *call(struct client *client, const char *method, const char *path, const char *body,
                    const char *key, enum client_exit *ret_exit)
{
    struct error error;
    FINISHED(http_answer) answer = {0};
    if (!http_request(&client->http, method, path, body, key, &answer, &error)) {
        *ret_exit = complain(&error);
        return NULL;
    }
    JSON_OWNED json = json_parse(answer.body.bytes, answer.body.length, 64u << 20, &error);
    if (answer.status >= 300) {
        *ret_exit = complain_answer(&answer, json);
        return NULL;
    }
    if (json == NULL) {
        *ret_exit = complain(&error);
    }
    return TAKE(json);
}

static void print_json(const json_t *json)
{
    OWNED_MEMORY char *text = json_format(json, true);
    (void)puts(text);
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "";
}

/* ---- jobs ---------------------------------------------------------------------------------------------- */

static void print_job(const struct client *client, const json_t *job)
{
    if (client->is_json) {
        print_json(job);
        return;
    }
    if (client->is_quiet) {
        (void)puts(text_of(job, "id"));
        return;
    }
    (void)printf("%s  %s", text_of(job, "id"), text_of(job, "status"));
    if (*text_of(job, "name") != '\0') {
        (void)printf("  %s", text_of(job, "name"));
    }
    const json_t *error = json_object_get(job, "error");
    if (json_is_object(error)) {
        (void)printf("  %s: %s", text_of(error, "code"), text_of(error, "message"));
    }
    (void)putchar('\n');
}

static void pause_ms(long milliseconds)
{
    (void)nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
}

/* Long-polls until the job ends. A service that is away for a while is waited for. */
static enum client_exit watch(struct client *client, const char *id)
{
    FINISHED(text) path = {0};
    text_append_format(&path, "/v1/jobs/%s?wait=5&until=change", id);
    struct display display;
    display_init(&display);
    int64_t answered_ms = clock_boot_ms(&clock_system);
    for (;;) {
        struct error error;
        FINISHED(http_answer) answer = {0};
        int64_t asked_ms = clock_boot_ms(&clock_system);
        if (!http_request(&client->http, "GET", path.bytes, NULL, NULL, &answer, &error) ||
            answer.status == 503) {
            if (asked_ms - answered_ms > PATIENCE_MS) {
                display_end(&display);
                error_set(&error, ERROR_UNAVAILABLE, "%s has been away for a minute", client->http.base);
                return complain(&error);
            }
            pause_ms(POLL_MS);
            continue;
        }
        answered_ms = clock_boot_ms(&clock_system);
        JSON_OWNED job = json_parse(answer.body.bytes, answer.body.length, 64u << 20, &error);
        if (answer.status >= 300 || job == NULL) {
            display_end(&display);
            return complain_answer(&answer, job);
        }
        bool is_terminal = false;
        enum client_exit outcome = client_exit_of(text_of(job, "status"), &is_terminal);
        if (!client->is_quiet) {
            display_job(&display, job);
        }
        if (is_terminal) {
            display_end(&display);
            print_job(client, job);
            return outcome;
        }
        if (answered_ms - asked_ms < POLL_MS) {
            pause_ms(POLL_MS); /* changes come quicker than eyes */
        }
    }
}

static char *read_body(const char *file, struct error *error)
{
    if (strcmp(file, "-") != 0) {
        size_t count;
        return file_load(file, JSON_LIMIT_BYTES, &count, error);
    }
    FINISHED(text) body = {0};
    char bytes[65536];
    for (size_t count = 1; count > 0 && body.length <= JSON_LIMIT_BYTES;) {
        count = fread(bytes, 1, sizeof bytes, stdin);
        text_append_bytes(&body, bytes, count);
    }
    return text_take(&body);
}

/* The type says where a spec goes. One without goes where the first type's jobs go. NULL: *error names those there are. */
static const char *find_type(const json_t *spec, struct error *error)
{
    const json_t *type = json_object_get(spec, "type");
    FINISHED(text) known = {0};
    for (size_t i = 0; i < SPEC_TYPE_COUNT; i++) {
        if (type == NULL || strcmp(text_of(spec, "type"), spec_types[i]) == 0) {
            return spec_types[i];
        }
        text_append_format(&known, "%s%s", i > 0 ? ", " : "", spec_types[i]);
    }
    OWNED_MEMORY char *named = json_format(type, false);
    (void)error_set(error, ERROR_UNKNOWN_VALUE, "there is no job type %.60s; there are %s", named,
                    known.bytes);
    return NULL;
}

static enum client_exit submit(struct client *client)
{
    struct error error;
    enum client_exit outcome = CLIENT_FAILED;
    if (client->file == NULL) {
        (void)fprintf(stderr, "prunectl: submit needs -f FILE (or -f - for standard input)\n");
        return CLIENT_USAGE;
    }
    OWNED_MEMORY char *body = read_body(client->file, &error);
    JSON_OWNED spec = body == NULL ? NULL : json_parse(body, strlen(body), JSON_LIMIT_BYTES, &error);
    const char *type = spec == NULL ? NULL : find_type(spec, &error);
    struct identifier key;
    if (type == NULL || !rng_identifier("submit_", clock_wall_ms(&clock_system), &key, &error)) {
        (void)complain(&error);
        return CLIENT_USAGE;
    }
    FINISHED(text) path = {0};
    text_append_format(&path, "/v1/%s/jobs%s", type, client->is_dry_run ? "?dry_run=true" : "");
    JSON_OWNED job = call(client, "POST", path.bytes, body, client->is_dry_run ? NULL : key.text, &outcome);
    if (job == NULL) {
        return outcome;
    }
    if (client->is_dry_run) {
        print_json(job);
        return CLIENT_OK;
    }
    if (!client->is_wait) {
        print_job(client, job);
        return CLIENT_OK;
    }
    if (!client->is_quiet) {
        (void)fprintf(stderr, "%s\n", text_of(job, "id"));
    }
    return watch(client, text_of(job, "id"));
}

/* A name that may stand in a path: our ids hold nothing else, and anything else is not found anyway. */
static bool path_of(const struct client *client, const char *prefix, const char *suffix,
                    struct text *ret_path)
{
    const char *id = client->arguments[0];
    if (!file_name_is_safe(id) || strchr(id, '/') != NULL) {
        (void)fprintf(stderr, "prunectl: \"%.80s\" is no id\n", id);
        return false;
    }
    text_append_format(ret_path, "%s%s%s", prefix, id, suffix);
    return true;
}

static enum client_exit job_verb(struct client *client, const char *method, const char *suffix)
{
    enum client_exit outcome = CLIENT_FAILED;
    FINISHED(text) path = {0};
    if (!path_of(client, "/v1/jobs/", suffix, &path)) {
        return CLIENT_USAGE;
    }
    JSON_OWNED job = call(client, method, path.bytes, NULL, NULL, &outcome);
    if (job == NULL) {
        return outcome;
    }
    if (strcmp(method, "GET") == 0 && !client->is_quiet) {
        print_json(job);
    } else {
        print_job(client, job);
    }
    return CLIENT_OK;
}

static enum client_exit get(struct client *client)
{
    return job_verb(client, "GET", "");
}

static enum client_exit cancel(struct client *client)
{
    return job_verb(client, "POST", "/cancel");
}

static enum client_exit retry(struct client *client)
{
    return job_verb(client, "POST", "/retry");
}

static enum client_exit wait_for(struct client *client)
{
    FINISHED(text) path = {0};
    return path_of(client, "", "", &path) ? watch(client, path.bytes) : CLIENT_USAGE;
}

/* ---- lists --------------------------------------------------------------------------------------------- */

static enum client_exit list(struct client *client, const char *path,
                             void (*print)(const struct client *, const json_t *))
{
    enum client_exit outcome = CLIENT_FAILED;
    JSON_OWNED answer = call(client, "GET", path, NULL, NULL, &outcome);
    if (answer == NULL) {
        return outcome;
    }
    if (client->is_json) {
        print_json(answer);
        return CLIENT_OK;
    }
    const json_t *data = json_object_get(answer, "data");
    for (size_t i = 0; i < json_array_size(data); i++) {
        print(client, json_array_get(data, i));
    }
    return CLIENT_OK;
}

static enum client_exit ls(struct client *client)
{
    FINISHED(text) path = {0};
    text_append_format(&path, "/v1/jobs?limit=%s%s%s", client->limit != NULL ? client->limit : "20",
                       client->status != NULL ? "&status=" : "",
                       client->status != NULL ? client->status : "");
    return list(client, path.bytes, print_job);
}

static void print_named(const struct client *client, const json_t *item)
{
    (void)client;
    const char *id = text_of(item, "id");
    (void)printf("%-28s %s\n", *text_of(item, "name") != '\0' ? text_of(item, "name") : id,
                 *text_of(item, "summary") != '\0' ? text_of(item, "summary") : id);
}

/* Methods of two job types may share a name. */
static void print_method(const struct client *client, const json_t *item)
{
    (void)client;
    (void)printf("%-10s %-20s %s\n", text_of(item, "job_type"), text_of(item, "name"),
                 text_of(item, "summary"));
}

static enum client_exit methods(struct client *client)
{
    return list(client, "/v1/methods", print_method);
}

static enum client_exit models(struct client *client)
{
    return list(client, "/v1/models", print_named);
}

/* ---- download ------------------------------------------------------------------------------------------ */

struct transfer {
    struct display display;
    const char *name;
    double done_bytes, all_bytes;
};

static void on_bytes(void *context, uint64_t bytes)
{
    struct transfer *transfer = context;
    display_bytes(&transfer->display, transfer->name, transfer->done_bytes + (double)bytes,
                  transfer->all_bytes);
}

static bool is_there(const char *path, const char *sha256)
{
    char found[65];
    return file_exists(path) && file_hash(path, found, NULL, NULL) && strcmp(found, sha256) == 0;
}

static bool make_parent(const char *path, struct error *error)
{
    FINISHED(text) parent = {0};
    text_append_bytes(&parent, path, (size_t)(strrchr(path, '/') - path));
    return file_make_folders(parent.bytes, 0777, error);
}

/* Temporary, hash, then the name: what bears its name is whole. */
static bool fetch(struct client *client, const json_t *file, const char *folder, struct transfer *transfer,
                  struct error *error)
{
    const char *name = text_of(file, "path");
    const char *sha256 = text_of(file, "sha256");
    if (!file_name_is_safe(name)) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "the service names a file \"%.100s\"; refused", name);
    }
    OWNED_MEMORY char *path = file_join(folder, name);
    if (is_there(path, sha256)) {
        return true;
    }
    FINISHED(text) url = {0};
    FINISHED(text) temporary = {0};
    text_append_format(&url, "/v1/jobs/%s/artifacts/%s", client->arguments[0], name);
    text_append_format(&temporary, "%s.part", path);
    (void)unlink(temporary.bytes);
    OWNED_FD int fd = -1;
    char found[65];
    if (!make_parent(path, error) || (fd = file_create(temporary.bytes, 0666, error)) < 0) {
        return false;
    }
    transfer->name = name;
    bool is_fine = http_download(&client->http, url.bytes, fd, client->is_quiet ? NULL : on_bytes, transfer,
                                 found, error);
    if (is_fine && strcmp(found, sha256) != 0) {
        is_fine = error_set(error, ERROR_CHECKSUM_MISMATCH, "%s: received sha256 %s, expected %s", name,
                            found, sha256);
    }
    if (is_fine && rename(temporary.bytes, path) != 0) {
        is_fine = error_set(error, ERROR_IO, "cannot rename %s", temporary.bytes);
    }
    if (!is_fine) {
        (void)unlink(temporary.bytes);
    }
    return is_fine;
}

static enum client_exit download(struct client *client)
{
    enum client_exit outcome = CLIENT_FAILED;
    const char *folder = client->arguments[1];
    FINISHED(text) path = {0};
    if (!path_of(client, "/v1/jobs/", "/artifacts", &path)) {
        return CLIENT_USAGE;
    }
    JSON_OWNED answer = call(client, "GET", path.bytes, NULL, NULL, &outcome);
    if (answer == NULL) {
        return outcome;
    }
    const json_t *files = json_object_get(answer, "data");
    struct transfer transfer = {0};
    display_init(&transfer.display);
    for (size_t i = 0; i < json_array_size(files); i++) {
        transfer.all_bytes += json_number_value(json_object_get(json_array_get(files, i), "bytes"));
    }
    for (size_t i = 0; i < json_array_size(files); i++) {
        struct error error;
        const json_t *file = json_array_get(files, i);
        if (!fetch(client, file, folder, &transfer, &error)) {
            display_end(&transfer.display);
            return complain(&error);
        }
        transfer.done_bytes += json_number_value(json_object_get(file, "bytes"));
    }
    display_end(&transfer.display);
    if (client->is_json) {
        print_json(answer);
    } else if (!client->is_quiet) {
        (void)printf("%zu files, %.0f bytes, all hashes match: %s\n", json_array_size(files),
                     transfer.all_bytes, folder);
    }
    return CLIENT_OK;
}

const struct client_command client_commands[] = {
    {"submit", "-f FILE [--wait] [--dry-run]", "submit the job in FILE (- for standard input)", 0, 0, submit},
    {"ls", "[--status S] [--limit N]", "list jobs, newest first", 0, 0, ls},
    {"get", "ID", "print a job", 1, 1, get},
    {"wait", "ID", "wait for a job; the exit code tells how it ended", 1, 1, wait_for},
    {"cancel", "ID", "cancel a job", 1, 1, cancel},
    {"retry", "ID", "queue a failed or cancelled job again", 1, 1, retry},
    {"download", "ID DIR", "fetch a result and check every SHA-256", 2, 2, download},
    {"methods", "", "list the methods", 0, 0, methods},
    {"models", "", "list the registered models", 0, 0, models},
    {NULL, NULL, NULL, 0, 0, NULL},
};
