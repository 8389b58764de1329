/*
 * workers/export/sums.c: SHA256SUMS in the format of sha256sum(1). It covers everything that is the same in
 * every run: all files but report.* and itself (design section 5).
 */
#include "workers/export/export.h"

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"
#include <string.h>

struct summing {
    const char *folder;
    json_t *files;
    struct text sums;
};

static bool sum_file(const char *relative, const struct stat *status, void *context, struct error *error)
{
    struct summing *summing = context;
    if (S_ISDIR(status->st_mode) || strcmp(relative, "SHA256SUMS") == 0) {
        return true;
    }
    OWNED_MEMORY char *path = file_join(summing->folder, relative);
    char sha256[65];
    uint64_t bytes = 0;
    if (!file_hash(path, sha256, &bytes, error)) {
        return false;
    }
    json_t *item = json_object();
    json_put_text(item, "path", relative);
    json_put_i64(item, "bytes", (int64_t)bytes);
    json_put_text(item, "sha256", sha256);
    CHECK(json_array_append_new(summing->files, item) == 0);
    if (!text_starts_with(relative, "report.")) {
        text_append_format(&summing->sums, "%s  %s\n", sha256, relative);
    }
    return true;
}

/* Keeps the list sorted by path: "SHA256SUMS" goes where it belongs. */
static void insert_sums(json_t *files, const char *sha256, size_t bytes)
{
    json_t *item = json_object();
    json_put_text(item, "path", "SHA256SUMS");
    json_put_i64(item, "bytes", (int64_t)bytes);
    json_put_text(item, "sha256", sha256);
    size_t at = 0;
    while (at < json_array_size(files) &&
           strcmp(json_string_value(json_object_get(json_array_get(files, at), "path")), "SHA256SUMS") < 0) {
        at++;
    }
    CHECK(json_array_insert_new(files, at, item) == 0);
}

bool export_write_sums(const char *out_folder, json_t **ret_files, struct error *error)
{
    JSON_OWNED files = json_array();
    struct summing summing = {.folder = out_folder, .files = files};
    OWNED_MEMORY char *path = file_join(out_folder, "SHA256SUMS");
    char sha256[65];
    bool is_good = file_walk(out_folder, sum_file, &summing, error) &&
                   file_save(path, summing.sums.bytes != NULL ? summing.sums.bytes : "", summing.sums.length,
                             0644, error) &&
                   file_hash(path, sha256, NULL, error) && file_sync_folder(out_folder, error);
    if (is_good) {
        insert_sums(files, sha256, summing.sums.length);
        *ret_files = json_incref(files);
    }
    text_finish(&summing.sums);
    return is_good;
}
