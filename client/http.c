/* client/http.c: see http.h. */
#include "client/http.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_LIMIT    (64u << 20)
#define CONNECT_SECONDS 10L
#define REQUEST_SECONDS 60L

bool http_open(struct http *http, const char *host, const char *token, struct error *error)
{
    struct text base = {0};
    text_append_format(&base, "%s%s", strstr(host, "://") == NULL ? "http://" : "", host);
    while (base.length > 0 && base.bytes[base.length - 1] == '/') {
        base.bytes[--base.length] = '\0';
    }
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
    *http =
        (struct http){.base = text_take(&base), .token = memory_copy_text(token), .curl = curl_easy_init()};
    return http->curl != NULL || error_set(error, ERROR_INTERNAL, "libcurl cannot be started");
}

void http_close(struct http *http)
{
    if (http->curl != NULL) {
        curl_easy_cleanup(http->curl);
    }
    free(http->base);
    free(http->token);
    *http = (struct http){0};
}

void http_answer_finish(struct http_answer *answer)
{
    text_finish(&answer->body);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct text *body = context;
    if (body->length + size * count > ANSWER_LIMIT) {
        return 0;
    }
    text_append_bytes(body, bytes, size * count);
    return size * count;
}

static struct curl_slist *add_header(struct curl_slist *list, const char *name, const char *value)
{
    FINISHED(text) line = {0};
    text_append_format(&line, "%s: %s", name, value);
    return curl_slist_append(list, line.bytes);
}

/* Common to both kinds of request; returns the headers, to be freed after it. */
static struct curl_slist *prepare(struct http *http, const char *path, struct curl_slist *headers)
{
    FINISHED(text) url = {0};
    text_append_format(&url, "%s%s", http->base, path);
    curl_easy_reset(http->curl);
    (void)curl_easy_setopt(http->curl, CURLOPT_URL, url.bytes); /* copied */
    (void)curl_easy_setopt(http->curl, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    (void)curl_easy_setopt(http->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(http->curl, CURLOPT_USERAGENT, "prunectl/" PRUNED_VERSION);
    if (http->token != NULL) {
        FINISHED(text) bearer = {0};
        text_append_format(&bearer, "Bearer %s", http->token);
        headers = add_header(headers, "Authorization", bearer.bytes);
    }
    (void)curl_easy_setopt(http->curl, CURLOPT_HTTPHEADER, headers);
    return headers;
}

static bool unreachable(const struct http *http, CURLcode code, struct error *error)
{
    return error_set(error, ERROR_UNAVAILABLE, "%s: %s", http->base, curl_easy_strerror(code));
}

bool http_request(struct http *http, const char *method, const char *path, const char *body,
                  const char *idempotency_key, struct http_answer *ret_answer, struct error *error)
{
    struct curl_slist *headers = NULL;
    if (body != NULL) {
        headers = add_header(headers, "Content-Type", "application/json");
        headers = curl_slist_append(headers, "Expect:"); /* no wait for a 100 on larger bodies */
    }
    if (idempotency_key != NULL) {
        headers = add_header(headers, "Idempotency-Key", idempotency_key);
    }
    headers = prepare(http, path, headers);
    struct http_answer answer = {0};
    (void)curl_easy_setopt(http->curl, CURLOPT_CUSTOMREQUEST, method);
    (void)curl_easy_setopt(http->curl, CURLOPT_TIMEOUT, REQUEST_SECONDS);
    (void)curl_easy_setopt(http->curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(http->curl, CURLOPT_WRITEDATA, &answer.body);
    if (body != NULL) {
        (void)curl_easy_setopt(http->curl, CURLOPT_POSTFIELDS, body);
    } else if (strcmp(method, "POST") == 0) {
        (void)curl_easy_setopt(http->curl, CURLOPT_POSTFIELDS, "");
    }
    CURLcode code = curl_easy_perform(http->curl);
    (void)curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &answer.status);
    curl_slist_free_all(headers);
    if (code != CURLE_OK) {
        http_answer_finish(&answer);
        return unreachable(http, code, error);
    }
    text_append(&answer.body, "");
    *ret_answer = answer;
    return true;
}

struct download {
    int fd;
    struct sha256 hash;
    uint64_t bytes;
    void (*on_bytes)(void *context, uint64_t bytes);
    void *context;
    struct error error;
};

static size_t on_file(char *bytes, size_t size, size_t count, void *context)
{
    struct download *download = context;
    if (!file_append(download->fd, bytes, size * count, &download->error)) {
        return 0;
    }
    sha256_update(&download->hash, bytes, size * count);
    download->bytes += size * count;
    if (download->on_bytes != NULL) {
        download->on_bytes(download->context, download->bytes);
    }
    return size * count;
}

bool http_download(struct http *http, const char *path, int fd,
                   void (*on_bytes)(void *context, uint64_t bytes), void *context, char ret_sha256[65],
                   struct error *error)
{
    struct download download = {.fd = fd, .on_bytes = on_bytes, .context = context};
    sha256_start(&download.hash);
    struct curl_slist *headers = prepare(http, path, NULL);
    (void)curl_easy_setopt(http->curl, CURLOPT_FAILONERROR, 1L);
    (void)curl_easy_setopt(http->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(http->curl, CURLOPT_LOW_SPEED_TIME, REQUEST_SECONDS);
    (void)curl_easy_setopt(http->curl, CURLOPT_WRITEFUNCTION, on_file);
    (void)curl_easy_setopt(http->curl, CURLOPT_WRITEDATA, &download);
    CURLcode code = curl_easy_perform(http->curl);
    long status = 0;
    (void)curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    if (download.error.code != ERROR_NONE) {
        *error = download.error;
        return false;
    }
    if (code == CURLE_HTTP_RETURNED_ERROR) {
        return error_set(error, ERROR_NOT_FOUND, "%s: the service answered %ld", path, status);
    }
    if (code != CURLE_OK) {
        return unreachable(http, code, error);
    }
    sha256_end_hex(&download.hash, ret_sha256);
    return true;
}
