/*
 * workers/model/inventory_gguf.c: a GGUF file as the weights of a model. gguf.h says what Hugging Face checkpoint it is
 * equivalent to; here that becomes an inventory's config and tensors, and its vocabulary a tokenizer.
 */
#include "workers/model/inventory_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/gguf.h"
#include "workers/model/tokenizer.h"
#include <string.h>

char *inventory_folder(const char *path)
{
    if (!text_ends_with(path, ".gguf") || file_is_folder(path)) {
        return memory_copy_text(path);
    }
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return memory_copy_text(".");
    }
    char *folder = memory_copy_text(path);
    folder[slash == path ? 1 : slash - path] = '\0';
    return folder;
}

const char *inventory_gguf_name(const struct inventory *inventory)
{
    for (size_t i = 0; i < inventory->file_count; i++) {
        if (text_ends_with(inventory->files[i].path, ".gguf")) {
            return inventory->files[i].path;
        }
    }
    return NULL;
}

enum dtype inventory_kept_dtype(const struct inventory_tensor *tensor)
{
    return dtype_is_block(tensor->dtype) ? DTYPE_F16 : tensor->dtype;
}

static struct gguf *open_gguf(int folder_fd, const char *name, struct error *error)
{
    OWNED_FD int fd = file_open_beneath(folder_fd, name, true, error);
    struct gguf *gguf = fd >= 0 ? gguf_read(fd, error) : NULL;
    if (gguf == NULL && error != NULL) {
        (void)error_prefix(error, "%s: ", name);
        if (error->field[0] == '\0') {
            (void)snprintf(error->field, sizeof error->field, "%.100s", name);
        }
    }
    return gguf;
}

static void add_tensors(struct inventory *inventory, const struct gguf_map *map, size_t file)
{
    inventory->tensors = arena_allocate(inventory->arena, map->count + 1, sizeof *inventory->tensors);
    for (size_t i = 0; i < map->count; i++) {
        const struct gguf_tensor_map *from = &map->tensors[i];
        struct inventory_tensor *to = &inventory->tensors[inventory->tensor_count++];
        *to = (struct inventory_tensor){.name =
                                            arena_copy_text(inventory->arena, from->name, strlen(from->name)),
                                        .dtype = from->dtype,
                                        .rank = from->rank,
                                        .layout = from->layout,
                                        .layout_heads = from->layout_heads,
                                        .file = file,
                                        .offset_bytes = from->offset_bytes,
                                        .bytes = from->bytes};
        memcpy(to->shape, from->shape, sizeof to->shape);
    }
}

bool inventory_read_gguf(struct inventory *inventory, int folder_fd, size_t file, struct error_list *faults)
{
    struct error error = {0};
    OWNED(gguf) gguf = open_gguf(folder_fd, inventory->files[file].path, &error);
    if (gguf == NULL) {
        return error_list_add_error(faults, &error);
    }
    inventory->config_json = gguf_config(gguf, faults);
    if (inventory->config_json == NULL ||
        !model_config_parse(inventory->config_json, &inventory->config, faults)) {
        return false;
    }
    FINISHED(gguf_map) map = {0};
    if (!gguf_map(gguf, &map, &error)) {
        return error_list_add_error(faults, &error);
    }
    add_tensors(inventory, &map, file);
    return true;
}

struct tokenizer *inventory_load_tokenizer(const struct inventory *inventory, const char *path,
                                           struct error *error)
{
    OWNED_MEMORY char *folder = inventory_folder(path);
    const char *name = inventory_gguf_name(inventory);
    for (size_t i = 0; i < inventory->file_count; i++) {
        if (name == NULL || strcmp(inventory->files[i].path, "tokenizer.json") == 0) {
            return tokenizer_load(folder, error);
        }
    }
    OWNED_FD int folder_fd = file_open_folder(folder, error);
    OWNED(gguf) gguf = folder_fd >= 0 ? open_gguf(folder_fd, name, error) : NULL;
    OWNED_MEMORY char *text = gguf != NULL ? gguf_tokenizer_json(gguf, error) : NULL;
    return text != NULL ? tokenizer_parse(text, strlen(text), error) : NULL;
}
