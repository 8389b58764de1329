/*
 * api/route.h: the table of routes (routes.def) and the search through it.
 *
 * A pattern is literal segments, `{}` for any one segment and `{...}` for one or more segments up to the end.
 * Rows are tried in order; several rows may share a pattern with different methods. HEAD is answered wherever
 * GET is.
 */
#ifndef API_ROUTE_H
#define API_ROUTE_H

#include "api/target.h"
#include <stdbool.h>
#include <stddef.h>

enum http_method {
    HTTP_GET = 1u << 0,
    HTTP_HEAD = 1u << 1,
    HTTP_POST = 1u << 2,
    HTTP_PUT = 1u << 3,
    HTTP_DELETE = 1u << 4,
    HTTP_OTHER = 1u << 5,
};
enum http_method http_method_parse(const char *name);

enum route_body { BODY_NONE, BODY_JSON, BODY_BLOB }; /* what the route expects after its header */
enum route_flag {
    ROUTE_OPEN = 1u << 0,   /* answered without a token: probes and the landing page */
    ROUTE_ADMITS = 1u << 1, /* brings new work or data: 503 while draining */
};

enum route_id {
#define ROUTE(name, handler, method, pattern, body, flags, query) ROUTE_##name,
#include "api/routes.def"
#undef ROUTE
    ROUTE_COUNT,
    ROUTE_NONE = ROUTE_COUNT, /* no such route, or refused before one was looked for */
};

struct request;
struct route {
    enum route_id id;
    enum http_method method;
    const char *pattern;
    enum route_body body;
    unsigned flags;
    const char *query; /* names of the query parameters it takes, separated by spaces */
    void (*handle)(struct request *request);
};

struct route_match {
    const struct route *route; /* NULL: see allow */
    size_t first_variable;     /* index of the segment that the first {} stands for */
    size_t second_variable;    /* of the second; 0 if there is none */
    unsigned allow;            /* methods that the path has, as a mask; 0: no such path (404), else 405 */
};
struct route_match route_find(const struct target *target, enum http_method method);
const struct route *route_get(enum route_id id);
/* "GET, HEAD, POST" */
void route_format_allow(unsigned mask, char *ret_text, size_t capacity);
/* Whether the route takes a query parameter of that name. */
bool route_takes_query(const struct route *route, const char *name);

#endif
