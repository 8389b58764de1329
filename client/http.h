/*
 * client/http.h: requests to the service, over libcurl. One thread.
 *
 * A request fails (false) only if no answer came: UNAVAILABLE. Any status is an answer.
 */
#ifndef CLIENT_HTTP_H
#define CLIENT_HTTP_H

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include <stdint.h>

struct http {
    char *base;  /* owned: "http://127.0.0.1:8765" without a slash at its end */
    char *token; /* owned; NULL: none */
    void *curl;  /* the easy handle, kept for its connection */
};
/* host: a URL, or host:port. */
bool http_open(struct http *http, const char *host, const char *token, struct error *error) MUST_USE;
void http_close(struct http *http);

struct http_answer {
    long status;
    struct text body;
};
void http_answer_finish(struct http_answer *answer);

/* path: "/v1/jobs". body: JSON text or NULL. idempotency_key may be NULL. */
bool http_request(struct http *http, const char *method, const char *path, const char *body,
                  const char *idempotency_key, struct http_answer *ret_answer, struct error *error) MUST_USE;
/* Streams the body of a GET into fd and hashes it on the way. on_bytes may be NULL. Any status but 200 is an
 * error here. */
bool http_download(struct http *http, const char *path, int fd,
                   void (*on_bytes)(void *context, uint64_t bytes), void *context, char ret_sha256[65],
                   struct error *error) MUST_USE;

#endif
