/*
 * workers/export/export.c: the folder. Weights and config.json are made from the plan; what belongs to the
 * tokenizer and the licence goes over byte for byte (ecosystem 3.1). File names are fixed lists and two
 * prefixes, so nothing else of the source folder leaks into a result.
 */
#include "workers/export/export.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/export/python_files.h"
#include "workers/export/writer.h"
#include "workers/model/gguf.h"
#include <stdlib.h>
#include <string.h>

static const char *const side_files[] = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
};

/* Where the model is one GGUF file of a folder, that folder's files are not its. */
static bool is_of_model(const struct inventory *inventory, const char *path)
{
    if (inventory_gguf_name(inventory) == NULL) {
        return true;
    }
    for (size_t i = 0; i < inventory->file_count; i++) {
        if (strcmp(inventory->files[i].path, path) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_side_file(const char *path)
{
    for (size_t i = 0; i < sizeof side_files / sizeof side_files[0]; i++) {
        if (strcmp(path, side_files[i]) == 0) {
            return true;
        }
    }
    return strchr(path, '/') == NULL ? text_starts_with(path, "LICENSE") || text_starts_with(path, "NOTICE")
                                     : text_starts_with(path, "additional_chat_templates/");
}

static bool copy_bytes(int from, int to, uint64_t bytes, const char *name, const struct cancel *cancel,
                       struct error *error)
{
    OWNED_MEMORY unsigned char *buffer = memory_create(WRITER_CHUNK_BYTES, 1);
    for (uint64_t done = 0; done < bytes; done += WRITER_CHUNK_BYTES) {
        size_t count = bytes - done < WRITER_CHUNK_BYTES ? (size_t)(bytes - done) : WRITER_CHUNK_BYTES;
        if (!cancel_check_now(cancel, error) || !file_read_at(from, buffer, count, done, name, error) ||
            !file_append(to, buffer, count, error)) {
            return false;
        }
    }
    return file_sync(to, error);
}

static bool copy_file(int source_folder_fd, const char *relative, const char *out_folder,
                      const struct cancel *cancel, struct error *error)
{
    OWNED_FD int from = file_open_beneath(source_folder_fd, relative, true, error);
    uint64_t bytes = 0;
    if (from < 0 || !file_size(from, &bytes, error)) {
        return false;
    }
    OWNED_MEMORY char *path = file_join(out_folder, relative);
    const char *slash = strrchr(relative, '/');
    if (slash != NULL) {
        OWNED_MEMORY char *folder = file_join(out_folder, relative);
        *strrchr(folder, '/') = '\0';
        if (!file_make_folders(folder, 0755, error)) {
            return false;
        }
    }
    OWNED_FD int to = file_create(path, 0644, error);
    return to >= 0 && copy_bytes(from, to, bytes, relative, cancel, error);
}

struct side_list {
    const struct inventory *inventory;
    char *paths[256]; /* owned */
    size_t count;
};

static bool collect_side_file(const char *relative, const struct stat *status, void *context,
                              struct error *error)
{
    (void)error;
    struct side_list *list = context;
    bool is_file = S_ISREG(status->st_mode) || S_ISLNK(status->st_mode);
    if (is_file && is_side_file(relative) && is_of_model(list->inventory, relative) &&
        list->count < sizeof list->paths / sizeof list->paths[0]) {
        list->paths[list->count++] = memory_copy_text(relative);
    }
    return true;
}

static bool copy_side_files(const struct inventory *inventory, int source_fd, const char *source_folder,
                            const char *out_folder, const struct cancel *cancel, struct error *error)
{
    struct side_list list = {.inventory = inventory};
    bool is_good = file_walk(source_folder, collect_side_file, &list, error);
    for (size_t i = 0; i < list.count; i++) {
        is_good = is_good && copy_file(source_fd, list.paths[i], out_folder, cancel, error);
        free(list.paths[i]);
    }
    return is_good;
}

/* Nothing changes: the weight files go over as they are, with the index where there is one. */
static bool copy_weights(int source_fd, const struct inventory *inventory, const char *out_folder,
                         const struct cancel *cancel, struct error *error)
{
    for (size_t i = 0; i < inventory->file_count; i++) {
        const char *path = inventory->files[i].path;
        bool is_weight = text_ends_with(path, ".safetensors.index.json");
        for (size_t t = 0; t < inventory->tensor_count; t++) {
            is_weight = is_weight || inventory->tensors[t].file == i;
        }
        if (is_weight && !copy_file(source_fd, path, out_folder, cancel, error)) {
            return false;
        }
    }
    return true;
}

static bool write_weights(const struct export_draft *draft, const char *source_path,
                          const struct inventory *inventory, const char *out_folder,
                          const struct export_options *options, struct error *error)
{
    OWNED(source) source = source_open(inventory, source_path, error);
    return source != NULL && writer_write_weights(draft, inventory, source, out_folder, options, error);
}

static bool save_text(const char *folder, const char *name, const char *text, struct error *error)
{
    OWNED_MEMORY char *path = file_join(folder, name);
    return file_save(path, text, strlen(text), 0644, error);
}

static bool write_python_files(const struct export_draft *draft, const char *out_folder, struct error *error)
{
    return (!export_is_remote(draft->layout) ||
            save_text(out_folder, "modeling_pruned.py", python_modeling_pruned, error)) &&
           (draft->layout != EXPORT_DECILM ||
            (save_text(out_folder, "configuration_decilm.py", python_configuration_decilm, error) &&
             save_text(out_folder, "modeling_decilm.py", python_modeling_decilm, error)));
}

/* The tokenizer that lies in a GGUF file, where there is no other. */
static bool write_gguf_tokenizer(const struct inventory *inventory, int source_fd, const char *out_folder,
                                 struct error *error)
{
    const char *name = inventory_gguf_name(inventory);
    OWNED_MEMORY char *path = file_join(out_folder, "tokenizer.json");
    if (name == NULL || file_exists(path)) {
        return true;
    }
    OWNED_FD int fd = file_open_beneath(source_fd, name, true, error);
    OWNED(gguf) gguf = fd >= 0 ? gguf_read(fd, error) : NULL;
    if (gguf == NULL) {
        return false;
    }
    struct error missing = {0};
    OWNED_MEMORY char *text = gguf_tokenizer_json(gguf, &missing);
    if (text == NULL && missing.code == ERROR_NOT_FOUND) {
        return true;
    }
    return text != NULL ? save_text(out_folder, "tokenizer.json", text, error)
                        : error_set(error, missing.code, "%s", missing.message);
}

bool export_write(const struct export_draft *draft, const struct inventory *inventory,
                  const char *source_path, const char *out_folder, const struct export_options *options,
                  struct error *error)
{
    OWNED_MEMORY char *source_folder = inventory_folder(source_path);
    OWNED_FD int source_fd = file_open_folder(source_folder, error);
    if (source_fd < 0) {
        return false;
    }
    bool is_good = draft->is_verbatim
                       ? copy_weights(source_fd, inventory, out_folder, options->cancel, error)
                       : write_weights(draft, source_path, inventory, out_folder, options, error);
    OWNED_MEMORY char *config = json_format(draft->config, true);
    return is_good && save_text(out_folder, "config.json", config, error) &&
           copy_side_files(inventory, source_fd, source_folder, out_folder, options->cancel, error) &&
           write_gguf_tokenizer(inventory, source_fd, out_folder, error) &&
           write_python_files(draft, out_folder, error) && file_sync_folder(out_folder, error);
}
