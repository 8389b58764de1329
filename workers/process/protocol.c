/*
 * workers/process/protocol.c: frames, the same code on both ends of the socket pair.
 *
 * The reader keeps one buffer and hands out frames from its front; the rest is moved down only when a feed
 * arrives, so a burst of small frames costs one memmove. The length is checked before a byte of the body is
 * waited for: a broken peer cannot make us hold more than PROTOCOL_FRAME_LIMIT.
 */
#include "workers/process/protocol.h"
#include "base/cleanup.h"
#include <string.h>

static const char *const type_slugs[] = {
#define X(name, slug) [PROTOCOL_##name] = slug,
    PROTOCOL_TYPES(X)
#undef X
};

const char *protocol_type_slug(enum protocol_type type)
{
    return type_slugs[type];
}

bool protocol_type_parse(const char *slug, enum protocol_type *ret_type)
{
    for (size_t i = 0; i < sizeof type_slugs / sizeof *type_slugs; i++) {
        if (strcmp(slug, type_slugs[i]) == 0) {
            *ret_type = (enum protocol_type)i;
            return true;
        }
    }
    return false;
}

json_t *protocol_message(enum protocol_type type)
{
    json_t *message = json_object();
    json_put_text(message, "type", protocol_type_slug(type));
    return message;
}

bool protocol_append_frame(struct text *bytes, const json_t *message, struct error *error)
{
    OWNED_MEMORY char *body = json_format(message, false);
    size_t count = strlen(body);
    if (count > PROTOCOL_FRAME_LIMIT) {
        return error_set(error, ERROR_TOO_LARGE, "a worker frame of %zu bytes is over the limit of %u", count,
                         PROTOCOL_FRAME_LIMIT);
    }
    const unsigned char head[4] = {(unsigned char)(count & 0xff), (unsigned char)(count >> 8 & 0xff),
                                   (unsigned char)(count >> 16 & 0xff), (unsigned char)(count >> 24 & 0xff)};
    text_append_bytes(bytes, head, sizeof head);
    text_append_bytes(bytes, body, count);
    return true;
}

void protocol_reader_feed(struct protocol_reader *reader, const void *bytes, size_t count)
{
    if (reader->taken > 0) {
        size_t rest = reader->bytes.length - reader->taken;
        memmove(reader->bytes.bytes, reader->bytes.bytes + reader->taken, rest);
        reader->bytes.length = rest;
        reader->taken = 0;
    }
    text_append_bytes(&reader->bytes, bytes, count);
}

bool protocol_reader_next(struct protocol_reader *reader, json_t **ret_message, enum protocol_type *ret_type,
                          struct error *error)
{
    size_t rest = reader->bytes.length - reader->taken;
    if (rest < 4) {
        *ret_message = NULL;
        return true;
    }
    const unsigned char *head = (const unsigned char *)reader->bytes.bytes + reader->taken;
    size_t count = (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    if (count > PROTOCOL_FRAME_LIMIT) {
        return error_set(error, ERROR_CORRUPT_FILE, "a frame announces %zu bytes; the limit is %u", count,
                         PROTOCOL_FRAME_LIMIT);
    }
    if (rest - 4 < count) {
        *ret_message = NULL;
        return true;
    }
    struct error cause;
    JSON_OWNED message =
        json_parse(reader->bytes.bytes + reader->taken + 4, count, PROTOCOL_FRAME_LIMIT, &cause);
    const char *slug = NULL;
    if (message == NULL || !json_get_text(message, "", "type", &slug, &cause)) {
        return error_set(error, ERROR_CORRUPT_FILE, "a frame of %zu bytes: %s", count, cause.message);
    }
    enum protocol_type type;
    if (!protocol_type_parse(slug, &type)) {
        return error_set(error, ERROR_CORRUPT_FILE, "a frame of the unknown type \"%.40s\"", slug);
    }
    reader->taken += 4 + count;
    *ret_type = type;
    *ret_message = TAKE(message);
    return true;
}

void protocol_reader_finish(struct protocol_reader *reader)
{
    text_finish(&reader->bytes);
    reader->taken = 0;
}
