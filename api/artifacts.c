/*
 * api/artifacts.c: the files of a result. Content-addressed, so the sha256 is a strong ETag that never
 * changes and a cache may keep them for ever; sent by sendfile from the blob. Repr-Digest speaks of the whole
 * file and therefore stays true on a 206 (RFC 9530).
 */
#include "api/api_internal.h"
#include "api/range.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *content_type(const char *path)
{
    static const struct {
        const char *suffix, *type;
    } types[] = {{".json", "application/json"},
                 {".html", "text/html; charset=utf-8"},
                 {".md", "text/markdown; charset=utf-8"},
                 {".txt", "text/plain; charset=utf-8"},
                 {".py", "text/x-python; charset=utf-8"},
                 {".jsonl", "application/x-ndjson"},
                 {"SHA256SUMS", "text/plain; charset=utf-8"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (text_ends_with(path, types[i].suffix)) {
            return types[i].type;
        }
    }
    return "application/octet-stream";
}

/* "sha-256=:<base64>:" of 64 hex digits. */
static void format_digest(const char *hex, char ret_text[64])
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = (size_t)snprintf(ret_text, 64, "sha-256=:");
    unsigned buffer = 0, bits = 0;
    for (size_t i = 0; i < 64; i++) {
        unsigned digit = hex[i] <= '9' ? (unsigned)(hex[i] - '0') : (unsigned)(hex[i] - 'a' + 10);
        buffer = (buffer << 4) | digit;
        bits += 4;
        if (bits >= 6) {
            bits -= 6;
            ret_text[length++] = alphabet[(buffer >> bits) & 63u];
        }
    }
    /* 256 bits are 42 sextets and 4 bits over: one more character and one sign of padding. */
    ret_text[length++] = alphabet[(buffer << (6 - bits)) & 63u];
    (void)snprintf(ret_text + length, 64 - length, "=:");
}

static void answer_unsatisfiable(struct request *request, uint64_t bytes)
{
    struct error error = {0};
    char header[48];
    (void)error_set_field(&error, ERROR_RANGE_NOT_SATISFIABLE, "Range", "the file has %" PRIu64 " bytes",
                          bytes);
    struct MHD_Response *response = response_problem(request, 416, &error, 1, 1);
    (void)snprintf(header, sizeof header, "bytes */%" PRIu64, bytes);
    response_header(response, "Content-Range", header);
    request_answer(request, 416, response);
}

/* Takes fd. */
static void answer_file(struct request *request, const char *path, int fd, uint64_t bytes, const char *sha256)
{
    char etag[80], digest[64], header[96];
    struct range range = {.offset = 0, .count = bytes};
    enum range_kind kind = RANGE_WHOLE;
    unsigned status = 200;
    struct MHD_Response *response = NULL;
    (void)snprintf(etag, sizeof etag, "\"%s\"", sha256);
    if (range_if_none_match(request->if_none_match, etag)) {
        (void)close(fd);
        status = 304;
        response = response_empty();
    } else {
        if (request->method == HTTP_GET && range_if_range_matches(request->if_range, etag)) {
            kind = range_parse(request->range, bytes, &range);
        }
        if (kind == RANGE_UNSATISFIABLE) {
            (void)close(fd);
            answer_unsatisfiable(request, bytes);
            return;
        }
        response = MHD_create_response_from_fd_at_offset64(range.count, fd, range.offset);
        response_header(response, "Content-Type", content_type(path));
        response_header(response, "Accept-Ranges", "bytes");
    }
    if (kind == RANGE_PART) {
        status = 206;
        (void)snprintf(header, sizeof header, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, range.offset,
                       range.offset + range.count - 1, bytes);
        response_header(response, "Content-Range", header);
    }
    format_digest(sha256, digest);
    response_header(response, "ETag", etag);
    response_header(response, "Repr-Digest", digest);
    response_header(response, "Cache-Control", "private, max-age=31536000, immutable");
    if (text_ends_with(path, ".html")) { /* a report is self-contained: inline style and SVG, nothing else */
        response_header(
            response, "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'");
    }
    request_answer(request, status, response);
}

static void send_artifact(struct request *request, const struct job *job, const char *path)
{
    struct error error = {0};
    uint64_t bytes = 0;
    char sha256[SHA256_HEX];
    if (job->files == NULL) {
        (void)error_set_field(&error, ERROR_NOT_FOUND, "path",
                              "the job is %s; its files come when it has succeeded",
                              job_state_slug(job->state));
        request_answer_error(request, 0, &error);
        return;
    }
    int fd = storage_open_artifact(request->api->options.storage, job, path, &bytes, sha256, &error);
    if (fd < 0) {
        request_answer_error(request, 0, &error);
        return;
    }
    answer_file(request, path, fd, bytes, sha256);
}

static void send_named(struct request *request, struct job *job)
{
    OWNED_MEMORY char *path = request_tail(request, 1);
    send_artifact(request, job, path);
}

void handle_job_artifact(struct request *request)
{
    job_then(request, send_named);
}

static void send_report(struct request *request, struct job *job)
{
    send_artifact(request, job, "report.json");
}

void handle_job_report(struct request *request)
{
    job_then(request, send_report);
}

static void send_report_html(struct request *request, struct job *job)
{
    send_artifact(request, job, "report.html");
}

void handle_job_report_html(struct request *request)
{
    job_then(request, send_report_html);
}

static void list_artifacts(struct request *request, struct job *job)
{
    json_t *data = json_array(), *file = NULL;
    size_t index = 0;
    json_array_foreach(job->files, index, file)
    {
        const char *path = json_string_value(json_object_get(file, "path"));
        struct text url = {0};
        text_append_format(&url, "/v1/jobs/%s/artifacts/%s", job->id, path);
        json_t *item = json_copy(file);
        json_put_text(item, "object", "artifact");
        json_put_text(item, "content_type", content_type(path));
        json_put_text(item, "url", url.bytes);
        text_finish(&url);
        (void)json_array_append_new(data, item);
    }
    json_t *body = json_object();
    json_put_text(body, "object", "list");
    json_put(body, "data", data);
    json_put(body, "has_more", json_false());
    json_put_text(body, "revision", job->revision);
    request_answer_json(request, 200, body);
}

void handle_job_artifacts(struct request *request)
{
    job_then(request, list_artifacts);
}
