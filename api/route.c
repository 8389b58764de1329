/* api/route.c: see route.h. Some thirty rows: a linear search costs less than the system call that brought
 * the request. */
#include "api/route.h"
#include "api/api_internal.h"
#include "base/check.h"
#include <stdio.h>
#include <string.h>

static const struct route routes[] = {
#define ROUTE(name, handler, method, pattern, body, flags, query)                                            \
    {ROUTE_##name, method, pattern, body, flags, query, handle_##handler},
#include "api/routes.def"
#undef ROUTE
};

static const struct {
    enum http_method method;
    const char *name;
} methods[] = {
    {HTTP_GET, "GET"}, {HTTP_HEAD, "HEAD"}, {HTTP_POST, "POST"}, {HTTP_PUT, "PUT"}, {HTTP_DELETE, "DELETE"}};

enum http_method http_method_parse(const char *name)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(methods[i].name, name) == 0) {
            return methods[i].method;
        }
    }
    return HTTP_OTHER;
}

const struct route *route_get(enum route_id id)
{
    CHECK(id < ROUTE_COUNT);
    return &routes[id];
}

/* Fills in the variables of a match; false if the path is another one. */
static bool pattern_matches(const char *pattern, const struct target *target, struct route_match *match)
{
    size_t index = 0, variables[2] = {0, 0}, variable_count = 0;
    const char *rest = pattern + 1;
    while (*rest != '\0') {
        size_t length = strcspn(rest, "/");
        if (index >= target->segment_count) {
            return false;
        }
        const char *segment = target->segments[index];
        bool is_tail = length == 5 && strncmp(rest, "{...}", 5) == 0;
        bool is_variable = is_tail || (length == 2 && strncmp(rest, "{}", 2) == 0);
        if (is_variable && variable_count < 2) {
            variables[variable_count++] = index;
        }
        if (is_variable ? segment[0] == '\0'
                        : strlen(segment) != length || strncmp(segment, rest, length) != 0) {
            return false;
        }
        index = is_tail ? target->segment_count : index + 1;
        rest += length + (rest[length] == '/' ? 1 : 0);
    }
    if (index != target->segment_count) {
        return false;
    }
    match->first_variable = variables[0];
    match->second_variable = variables[1];
    return true;
}

struct route_match route_find(const struct target *target, enum http_method method)
{
    struct route_match match = {0};
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        const struct route *route = &routes[i];
        if (!pattern_matches(route->pattern, target, &match)) {
            continue;
        }
        unsigned takes = route->method | (route->method == HTTP_GET ? (unsigned)HTTP_HEAD : 0u);
        match.allow |= takes;
        if ((takes & method) != 0) {
            match.route = route;
            return match;
        }
    }
    return match;
}

void route_format_allow(unsigned mask, char *ret_text, size_t capacity)
{
    size_t length = 0;
    ret_text[0] = '\0';
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if ((mask & methods[i].method) != 0 && length < capacity) {
            length += (size_t)snprintf(ret_text + length, capacity - length, "%s%s", length > 0 ? ", " : "",
                                       methods[i].name);
        }
    }
}

bool route_takes_query(const struct route *route, const char *name)
{
    size_t length = strlen(name);
    for (const char *known = route->query; *known != '\0';) {
        size_t known_length = strcspn(known, " ");
        if (known_length == length && strncmp(known, name, length) == 0) {
            return true;
        }
        known += known_length + (known[known_length] == ' ' ? 1 : 0);
    }
    return false;
}
