/*
 * api/problem.h: faults on the wire. One body is both RFC 9457 (type, title, status, detail, instance,
 * errors[]) and OpenAI's envelope (error: {message, type, param, code}), so that either kind of client
 * understands it.
 *
 * The code decides the status, by a switch without default: a new code without a mapping does not compile.
 * Faults found inside a request body (a pointer leads to them) are a 422 whatever their code says elsewhere:
 * a 404 on POST would look like a wrong address. INTERNAL and IO are logged by the caller and hidden from the
 * client.
 */
#ifndef API_PROBLEM_H
#define API_PROBLEM_H

#include "base/error.h"
#include "base/json.h"

unsigned problem_status(enum error_code code);
/* The status for a fault found inside a request body or in what it names: 4xx become 422, and so does OUT_OF_MEMORY; 400
 * (not JSON) and 413 stay where they speak of the body itself and not of a file. */
unsigned problem_status_in_body(const struct error *error);
const char *problem_title(enum error_code code);
/* OpenAI's error.type: invalid_request_error, not_found_error, server_error, ... */
const char *problem_class(unsigned status);
/* "/target/sparsity" -> "target.sparsity"; other fields stay as they are. */
void problem_param(const char *field, char *ret_param, size_t capacity);
/* Owned. items: 1..count faults, the first one gives title and detail; total: how many there were in all. */
json_t *problem_body(unsigned status, const struct error *items, size_t count, size_t total,
                     const char *instance, const char *request_id) MUST_USE;

#endif
