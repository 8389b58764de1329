/*
 * api/gate.h: what a request's header must look like before anything else looks at it.
 *
 * libmicrohttpd 0.9.75 accepts messages that a proxy in front of it may read differently: two Content-Length
 * fields, Content-Length beside chunked, `Content-Length : 5`, two Host fields. Each is a way to smuggle a
 * second request. The gate refuses them all with one 400 and closes the connection. It also refuses a Host
 * that names neither this machine nor an allowed name, which is what stops a web page from reaching a
 * loopback service by DNS rebinding; an IP literal is always allowed, as rebinding needs a name.
 *
 * Pure functions: no MHD type here, so that unit tests and fuzzers call them directly.
 */
#ifndef API_GATE_H
#define API_GATE_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gate {
    size_t header_count, length_count, encoding_count, host_count;
    bool chunked;            /* Transfer-Encoding: chunked */
    uint64_t content_length; /* 0 if none was given */
    bool expects_continue;
    char host[256];
    struct error fault; /* the first one; code ERROR_NONE while all is well */
};
/* Zero-initialise, hand in every header field as received, then finish. */
void gate_add_header(struct gate *gate, const char *name, size_t name_length, const char *value,
                     size_t value_length);
/* version: "HTTP/1.1". hosts: allowed names, NULL-terminated, "*" allows all; localhost always is. */
bool gate_finish(struct gate *gate, const char *version, const char *const *hosts,
                 struct error *error) MUST_USE;
/* The name inside a Host field: "[::1]:80" -> "::1", "Localhost.:80" -> "localhost". False if it is
 * malformed. */
bool gate_parse_host(const char *host, char *ret_name, size_t capacity, bool *ret_is_address) MUST_USE;

#endif
