/* workers/data/lines.c: see lines.h. */
#include "workers/data/lines.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "workers/model/utf8.h"

const char *lines_file_name(const char *name, const char *path)
{
    const char *slash = strrchr(path, '/');
    return name != NULL ? name : slash != NULL ? slash + 1 : path;
}

char *lines_load_file(const char *path, const char *name, size_t limit_bytes, size_t *ret_count,
                      char ret_sha256[65], struct error *error)
{
    struct error cause = {0};
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(path, limit_bytes, &count, &cause);
    if (bytes == NULL) {
        (void)error_set_field(error, cause.code, name, "%s", cause.message);
        return NULL;
    }
    size_t valid = utf8_valid_prefix(bytes, count);
    if (valid != count) {
        (void)error_set_field(error, ERROR_CORRUPT_FILE, name, "%s: not UTF-8 at byte %zu", name, valid);
        return NULL;
    }
    sha256_hex_of(bytes, count, ret_sha256);
    *ret_count = count;
    return TAKE(bytes);
}

bool lines_next(struct lines *lines)
{
    while (lines->next < lines->count) {
        lines->first = lines->next;
        lines->next = lines_end(lines->bytes, lines->count, lines->first);
        lines->after = lines->next;
        lines->number++;
        while (lines->after > lines->first &&
               (lines->bytes[lines->after - 1] == '\n' || lines->bytes[lines->after - 1] == '\r')) {
            lines->after--;
        }
        if (!lines_is_blank(lines->bytes + lines->first, lines->after - lines->first)) {
            return true;
        }
    }
    return false;
}
