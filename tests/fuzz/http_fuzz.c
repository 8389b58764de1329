/*
 * tests/fuzz/http_fuzz.c: the parsers of the HTTP door that see a client's bytes first. The first byte chooses:
 *   T a request target   G header fields, one "name:value" a line   R a Range for a file of 1000 bytes   E an If-None-Match
 */
#include "api/gate.h"
#include "api/range.h"
#include "api/route.h"
#include "api/target.h"
#include "base/check.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void try_target(const char *raw)
{
    struct target target;
    struct error error = {0};
    if (!target_parse(raw, &target, &error)) {
        CHECK(error.code == ERROR_INVALID_ARGUMENT && target.bytes == NULL);
        return;
    }
    for (size_t i = 0; i < target.segment_count; i++) {
        const char *segment = target.segments[i];
        CHECK(strchr(segment, '/') == NULL && strcmp(segment, "..") != 0 &&
              text_is_utf8(segment, strlen(segment)));
    }
    struct route_match match = route_find(&target, HTTP_GET);
    if (match.route != NULL) {
        CHECK(match.first_variable <= target.segment_count && (match.allow & HTTP_GET) != 0);
    }
    target_finish(&target);
}

static void try_headers(const char *bytes, size_t count)
{
    static const char *const hosts[] = {"pruned.example", NULL};
    struct gate gate = {0};
    struct error error = {0};
    while (count > 0) {
        const char *end = memchr(bytes, '\n', count);
        size_t length = end != NULL ? (size_t)(end - bytes) : count;
        const char *colon = memchr(bytes, ':', length);
        size_t name_length = colon != NULL ? (size_t)(colon - bytes) : length;
        const char *value = colon != NULL ? colon + 1 : bytes + length;
        gate_add_header(&gate, bytes, name_length, value, (size_t)(bytes + length - value));
        count -= length + (end != NULL ? 1 : 0);
        bytes += length + (end != NULL ? 1 : 0);
    }
    bool passes = gate_finish(&gate, "HTTP/1.1", hosts, &error);
    CHECK(passes == (error.code == ERROR_NONE));
    if (passes) {
        CHECK(gate.host_count == 1 && gate.length_count + gate.encoding_count <= 1);
    }
}

static void try_range(const char *header)
{
    struct range range = {0};
    if (range_parse(header, 1000, &range) == RANGE_PART) {
        CHECK(range.count >= 1 && range.offset < 1000 && range.count <= 1000 - range.offset);
    }
    CHECK(range_parse(header, 0, &range) != RANGE_PART);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (count == 0) {
        return 0;
    }
    char *text = malloc(count);
    CHECK(text != NULL);
    memcpy(text, bytes + 1, count - 1);
    text[count - 1] = '\0';
    if (bytes[0] == 'T') {
        try_target(text);
    } else if (bytes[0] == 'G') {
        try_headers(text, count - 1);
    } else if (bytes[0] == 'R') {
        try_range(text);
    } else if (bytes[0] == 'E') {
        (void)range_if_none_match(text, "\"a\"");
    }
    free(text);
    return 0;
}
