/* api/target.c: see target.h. */
#include "api/target.h"
#include "base/memory.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

/* Decodes in place: the result is never longer. A decoded byte that `refused` holds, or a control character,
 * fails. */
static bool decode(char *text, bool plus_is_space, const char *refused)
{
    char *out = text;
    for (const char *in = text; *in != '\0'; in++) {
        if (*in == '%') {
            int high = hex_digit(in[1]), low = high < 0 ? -1 : hex_digit(in[2]);
            if (low < 0) {
                return false;
            }
            unsigned char byte = (unsigned char)(high * 16 + low);
            if (byte < 0x20 || byte == 0x7f || strchr(refused, byte) != NULL) {
                return false;
            }
            *out++ = (char)byte;
            in += 2;
        } else {
            *out++ = (char)(plus_is_space && *in == '+' ? ' ' : *in);
        }
    }
    *out = '\0';
    return text_is_utf8(text, (size_t)(out - text));
}

static bool parse_segments(char *path, struct target *target, struct error *error)
{
    if (strcmp(path, "/") == 0) {
        return true;
    }
    char *rest = path + 1;
    while (rest != NULL) {
        char *segment = strsep(&rest, "/");
        if (target->segment_count == TARGET_SEGMENT_LIMIT) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "path",
                                   "the path has more than %d segments", TARGET_SEGMENT_LIMIT);
        }
        if (!decode(segment, false, "/\\")) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "path",
                                   "the path holds a percent escape that is broken or not allowed");
        }
        if (strcmp(segment, ".") == 0 || strcmp(segment, "..") == 0) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "path", "the path holds a \"%s\" segment",
                                   segment);
        }
        target->segments[target->segment_count++] = segment;
    }
    return true;
}

static bool parse_query(char *query, struct target *target, struct error *error)
{
    while (query != NULL) {
        char *pair = strsep(&query, "&");
        if (*pair == '\0') {
            continue;
        }
        char *value = strchr(pair, '=');
        if (value != NULL) {
            *value++ = '\0';
        } else {
            value = pair + strlen(pair);
        }
        if (!decode(pair, true, "") || !decode(value, true, "")) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "query",
                                   "the query holds a percent escape that is broken or not allowed");
        }
        if (target_find_query(target, pair) != NULL) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, pair, "the query names \"%s\" twice", pair);
        }
        if (target->query_count == TARGET_QUERY_LIMIT) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "query",
                                   "the query has more than %d parameters", TARGET_QUERY_LIMIT);
        }
        target->query[target->query_count++] = (struct target_pair){.name = pair, .value = value};
    }
    return true;
}

bool target_parse(const char *raw, struct target *ret_target, struct error *error)
{
    struct target target = {0};
    *ret_target = target;
    if (raw[0] != '/') {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, "path",
                               "the request target must begin with a slash");
    }
    for (const char *byte = raw; *byte != '\0'; byte++) {
        if (*byte <= 0x20 || *byte >= 0x7f || *byte == '#') {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "path",
                                   "the request target holds a byte that must be percent-encoded");
        }
    }
    target.bytes = memory_copy_text(raw);
    char *query = strchr(target.bytes, '?');
    if (query != NULL) {
        *query++ = '\0';
    }
    if (!parse_segments(target.bytes, &target, error) || !parse_query(query, &target, error)) {
        target_finish(&target);
        return false;
    }
    *ret_target = target;
    return true;
}

void target_finish(struct target *target)
{
    free(target->bytes);
    *target = (struct target){0};
}

const char *target_find_query(const struct target *target, const char *name)
{
    for (size_t i = 0; i < target->query_count; i++) {
        if (strcmp(target->query[i].name, name) == 0) {
            return target->query[i].value;
        }
    }
    return NULL;
}
