/* workers/recipe/checkpoint.c: see checkpoint.h. */
#include "workers/recipe/checkpoint.h"

#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include <stdio.h>
#include <string.h>

#define CHECKPOINT_MAGIC       "PRUNEDCK"
#define CHECKPOINT_LIMIT_BYTES (256u << 20)

bool checkpoint_save(const char *folder, const struct checkpoint_identity *identity, const json_t *payload,
                     struct error *error)
{
    OWNED_MEMORY char *json = json_format(payload, false);
    size_t length = strlen(json);
    char payload_sha256[65];
    sha256_hex_of(json, length, payload_sha256);
    FINISHED(text) file = {0};
    text_append_format(&file, "%s %d %s %s %s %zu %s\n", CHECKPOINT_MAGIC, CHECKPOINT_VERSION,
                       identity->spec_sha256, identity->input_sha256, payload_sha256, length,
                       identity->machine);
    text_append_bytes(&file, json, length);
    OWNED_MEMORY char *path = file_join(folder, "checkpoint");
    OWNED_MEMORY char *fresh = file_join(folder, "checkpoint.new");
    OWNED_MEMORY char *old = file_join(folder, "checkpoint.old");
    if (!file_save(fresh, file.bytes, file.length, 0644, error)) {
        return false;
    }
    if (file_exists(path) && file_system->rename(path, old) != 0) {
        return error_set(error, ERROR_IO, "%s: cannot be renamed", path);
    }
    if (file_system->rename(fresh, path) != 0) {
        return error_set(error, ERROR_IO, "%s: cannot be renamed", fresh);
    }
    return file_sync_folder(folder, error);
}

struct header {
    struct checkpoint_identity identity;
    char payload_sha256[65];
    int version;
};

/* Owned payload of a whole file; NULL for one that is absent, torn or of another version. */
static json_t *load_generation(const char *path, struct header *ret_header)
{
    size_t count = 0;
    OWNED_MEMORY char *bytes =
        file_exists(path) ? file_load(path, CHECKPOINT_LIMIT_BYTES, &count, NULL) : NULL;
    char *newline = bytes != NULL ? memchr(bytes, '\n', count) : NULL;
    if (newline == NULL) {
        return NULL;
    }
    *newline = '\0';
    struct header header = {0};
    size_t length = 0;
    int consumed = 0;
    if (sscanf(bytes, CHECKPOINT_MAGIC " %d %64s %64s %64s %zu %n", &header.version,
               header.identity.spec_sha256, header.identity.input_sha256, header.payload_sha256, &length,
               &consumed) != 5 ||
        header.version != CHECKPOINT_VERSION) {
        return NULL;
    }
    (void)snprintf(header.identity.machine, sizeof header.identity.machine, "%s", bytes + consumed);
    const char *payload = newline + 1;
    char sha256[65];
    if ((size_t)(bytes + count - payload) != length) {
        return NULL;
    }
    sha256_hex_of(payload, length, sha256);
    if (strcmp(sha256, header.payload_sha256) != 0) {
        return NULL;
    }
    *ret_header = header;
    return json_parse(payload, length, CHECKPOINT_LIMIT_BYTES, NULL);
}

bool checkpoint_load(const char *folder, const struct checkpoint_identity *identity, json_t **ret_payload,
                     struct error *error)
{
    static const char *const names[] = {"checkpoint", "checkpoint.new", "checkpoint.old"};
    *ret_payload = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        OWNED_MEMORY char *path = file_join(folder, names[i]);
        struct header header;
        JSON_OWNED payload = load_generation(path, &header);
        if (payload == NULL) {
            continue;
        }
        if (strcmp(header.identity.machine, identity->machine) != 0) {
            return error_set(
                error, ERROR_UNSUPPORTED,
                "the checkpoint was made on \"%s\" and cannot go on on \"%s\": the results would be mixed",
                header.identity.machine, identity->machine);
        }
        if (strcmp(header.identity.spec_sha256, identity->spec_sha256) != 0) {
            return error_set(error, ERROR_CONFLICT,
                             "the checkpoint in the work folder belongs to another request");
        }
        if (strcmp(header.identity.input_sha256, identity->input_sha256) != 0) {
            return error_set(error, ERROR_INPUT_CHANGED,
                             "the model or a text changed since the checkpoint was made");
        }
        *ret_payload = json_incref(payload);
        return true;
    }
    return true;
}
