/*
 * workers/model/inventory_json.c: the inventory as a record: to JSON and back, and whether a folder is still
 * the one that was inspected. Parsing checks types and ranges only; the record comes from our own database.
 *
 *     {"version": 2, "config": {...}, "files": [[path, bytes, mtime_ns, sha256], ...],
 *      "tensors": [[name, dtype, [shape], file, offset, bytes, is_extra, layout, layout_heads], ...],
 *      "parameter_count": n, "prunable_count": n, "weight_bytes": n}
 *
 * Version 1 had no layouts: all were plain.
 */
#include "workers/model/inventory_internal.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/safetensors.h"
#include <string.h>

#define INVENTORY_VERSION 2

static const char *const layout_slugs[] = {[LAYOUT_PLAIN] = "plain",
                                           [LAYOUT_ROPE_PAIRS] = "rope_pairs",
                                           [LAYOUT_NORM_PLUS_ONE] = "norm_plus_one",
                                           [LAYOUT_TRANSPOSED] = "transposed",
                                           [LAYOUT_QKV_CONCATENATED] = "qkv_concatenated"};

void inventory_destroy(struct inventory *inventory)
{
    if (inventory == NULL) {
        return;
    }
    json_decref(inventory->config_json);
    arena_destroy(inventory->arena);
    free(inventory);
}

const struct inventory_tensor *inventory_find(const struct inventory *inventory, const char *name)
{
    size_t low = 0, high = inventory->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(inventory->tensors[middle].name, name);
        if (order == 0) {
            return &inventory->tensors[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* ---- to JSON --------------------------------------------------------------------------------- */

static json_t *format_tensor(const struct inventory_tensor *tensor)
{
    json_t *shape = json_array();
    for (size_t i = 0; i < tensor->rank; i++) {
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    }
    return json_pack("[s, s, o, I, I, I, b, s, I]", tensor->name, dtype_slug(tensor->dtype), shape,
                     (json_int_t)tensor->file, (json_int_t)tensor->offset_bytes, (json_int_t)tensor->bytes,
                     tensor->is_extra, layout_slugs[tensor->layout], (json_int_t)tensor->layout_heads);
}

json_t *inventory_format(const struct inventory *inventory)
{
    json_t *json = json_object(), *files = json_array(), *tensors = json_array();
    for (size_t i = 0; i < inventory->file_count; i++) {
        const struct inventory_file *file = &inventory->files[i];
        json_array_append_new(files, json_pack("[s, I, I, s]", file->path, (json_int_t)file->bytes,
                                               (json_int_t)file->mtime_ns, file->sha256));
    }
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        json_array_append_new(tensors, format_tensor(&inventory->tensors[i]));
    }
    json_put_i64(json, "version", INVENTORY_VERSION);
    json_put(json, "config", json_incref(inventory->config_json));
    json_put(json, "files", files);
    json_put(json, "tensors", tensors);
    json_put_i64(json, "parameter_count", (int64_t)inventory->parameter_count);
    json_put_i64(json, "prunable_count", (int64_t)inventory->prunable_count);
    json_put_i64(json, "weight_bytes", (int64_t)inventory->weight_bytes);
    return json;
}

/* ---- and back -------------------------------------------------------------------------------- */

static bool refuse(struct error *error, const char *what, size_t index)
{
    return error_set(error, ERROR_CORRUPT_FILE, "inventory: %s %zu is not as it was written", what, index);
}

static bool read_u64(const json_t *array, size_t index, uint64_t *ret_value)
{
    const json_t *value = json_array_get(array, index);
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return false;
    }
    *ret_value = (uint64_t)json_integer_value(value);
    return true;
}

static bool parse_file(struct inventory *inventory, const json_t *entry, size_t index, struct error *error)
{
    struct inventory_file *file = &inventory->files[index];
    const char *path = json_string_value(json_array_get(entry, 0)),
               *sha256 = json_string_value(json_array_get(entry, 3));
    if (path == NULL || !file_name_is_safe(path) || !read_u64(entry, 1, &file->bytes) ||
        !json_is_integer(json_array_get(entry, 2)) || sha256 == NULL ||
        (sha256[0] != '\0' && !sha256_hex_is_valid(sha256))) {
        return refuse(error, "file", index);
    }
    file->path = arena_copy_text(inventory->arena, path, strlen(path));
    file->mtime_ns = json_integer_value(json_array_get(entry, 2));
    (void)snprintf(file->sha256, sizeof file->sha256, "%s", sha256);
    return true;
}

static bool parse_layout(struct inventory_tensor *tensor, const json_t *entry)
{
    const char *slug = json_string_value(json_array_get(entry, 7));
    uint64_t heads = 0;
    if (json_array_size(entry) == 7) {
        return true; /* version 1 */
    }
    for (size_t i = 0; slug != NULL && i < sizeof layout_slugs / sizeof layout_slugs[0]; i++) {
        if (strcmp(slug, layout_slugs[i]) == 0 && read_u64(entry, 8, &heads)) {
            tensor->layout = (enum tensor_layout)i;
            tensor->layout_heads = (size_t)heads;
            return layout_fits(tensor->layout, tensor->layout_heads,
                               tensor->rank > 0 ? (size_t)tensor->shape[0] : 1);
        }
    }
    return false;
}

static bool parse_tensor(struct inventory *inventory, const json_t *entry, size_t index, struct error *error)
{
    struct inventory_tensor *tensor = &inventory->tensors[index];
    const char *name = json_string_value(json_array_get(entry, 0));
    const json_t *shape = json_array_get(entry, 2);
    uint64_t file = 0, count = 1, size = 0;
    tensor->rank = json_array_size(shape);
    if (name == NULL || json_string_value(json_array_get(entry, 1)) == NULL ||
        !dtype_parse(json_string_value(json_array_get(entry, 1)), &tensor->dtype) || !json_is_array(shape) ||
        tensor->rank > ST_RANK_MAX || !read_u64(entry, 3, &file) || file >= inventory->file_count ||
        !read_u64(entry, 4, &tensor->offset_bytes) || !read_u64(entry, 5, &tensor->bytes)) {
        return refuse(error, "tensor", index);
    }
    for (size_t i = 0; i < tensor->rank; i++) {
        if (!read_u64(shape, i, &tensor->shape[i]) ||
            __builtin_mul_overflow(count, tensor->shape[i], &count)) {
            return refuse(error, "tensor", index);
        }
    }
    if (count > UINT64_MAX / 8 || count % dtype_block_count(tensor->dtype) != 0 ||
        !parse_layout(tensor, entry)) {
        return refuse(error, "tensor", index);
    }
    size = dtype_size_bytes(tensor->dtype, (size_t)count);
    if (size != tensor->bytes || (index > 0 && strcmp(tensor[-1].name, name) >= 0)) {
        return refuse(error, "tensor", index);
    }
    tensor->name = arena_copy_text(inventory->arena, name, strlen(name));
    tensor->file = (size_t)file;
    tensor->is_extra = json_is_true(json_array_get(entry, 6));
    inventory->extra_tensor_count += tensor->is_extra;
    return true;
}

static bool parse_counts(struct inventory *inventory, const json_t *json, struct error *error)
{
    int64_t parameters = 0, prunable = 0, bytes = 0;
    if (!json_get_i64(json, "", "parameter_count", 0, INT64_MAX, &parameters, error) ||
        !json_get_i64(json, "", "prunable_count", 0, INT64_MAX, &prunable, error) ||
        !json_get_i64(json, "", "weight_bytes", 0, INT64_MAX, &bytes, error)) {
        return error_prefix(error, "inventory: ");
    }
    inventory->parameter_count = (uint64_t)parameters;
    inventory->prunable_count = (uint64_t)prunable;
    inventory->weight_bytes = (uint64_t)bytes;
    return true;
}

static bool parse_lists(struct inventory *inventory, const json_t *json, struct error *error)
{
    json_t *files = NULL, *tensors = NULL;
    if (!json_get_array(json, "", "files", &files, error) ||
        !json_get_array(json, "", "tensors", &tensors, error)) {
        return error_prefix(error, "inventory: ");
    }
    inventory->file_count = json_array_size(files);
    inventory->tensor_count = json_array_size(tensors);
    inventory->files = arena_allocate(inventory->arena, inventory->file_count + 1, sizeof *inventory->files);
    inventory->tensors =
        arena_allocate(inventory->arena, inventory->tensor_count + 1, sizeof *inventory->tensors);
    for (size_t i = 0; i < inventory->file_count; i++) {
        if (!parse_file(inventory, json_array_get(files, i), i, error)) {
            return false;
        }
    }
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        if (!parse_tensor(inventory, json_array_get(tensors, i), i, error)) {
            return false;
        }
    }
    return true;
}

struct inventory *inventory_parse(const json_t *json, struct error *error)
{
    int64_t version = 0;
    json_t *config = NULL;
    if (!json_get_i64(json, "", "version", 1, INVENTORY_VERSION, &version, error) ||
        !json_get_object(json, "", "config", &config, error)) {
        (void)error_prefix(error, "inventory: ");
        return NULL;
    }
    OWNED(inventory) inventory = memory_create(1, sizeof *inventory);
    FINISHED(error_list) faults = {0};
    inventory->arena = arena_create(0);
    inventory->config_json = json_incref(config);
    if (!model_config_parse(config, &inventory->config, &faults)) {
        error_set_field(error, faults.items[0].code, faults.items[0].field, "inventory: %s",
                        faults.items[0].message);
        return NULL;
    }
    if (!parse_lists(inventory, json, error) || !parse_counts(inventory, json, error)) {
        return NULL;
    }
    inventory_choose_prefix(inventory);
    return TAKE(inventory);
}

/* ---- is it still the same? ------------------------------------------------------------------- */

static bool verify_file(int folder_fd, const struct inventory_file *file, struct error *error)
{
    struct inventory_file now = {.path = file->path};
    OWNED_FD int fd = -1;
    if (!inventory_stat_file(folder_fd, &now, &fd, error)) {
        return error_set_field(error, ERROR_INPUT_CHANGED, file->path,
                               "%s was there when the model was registered and cannot be opened", file->path);
    }
    if (now.bytes != file->bytes) {
        return error_set_field(error, ERROR_INPUT_CHANGED, file->path,
                               "%s has %llu bytes, it had %llu when the model was registered", file->path,
                               (unsigned long long)now.bytes, (unsigned long long)file->bytes);
    }
    if (now.mtime_ns == file->mtime_ns) {
        return true;
    }
    if (file->sha256[0] != '\0') {
        if (!inventory_hash_file(fd, &now, NULL, now.sha256, error)) {
            return false;
        }
        if (strcmp(now.sha256, file->sha256) == 0) {
            return true;
        }
    }
    return error_set_field(error, ERROR_INPUT_CHANGED, file->path,
                           "%s was changed after the model was registered", file->path);
}

bool inventory_verify(const struct inventory *inventory, const char *path, struct error *error)
{
    OWNED_MEMORY char *folder = inventory_folder(path);
    OWNED_FD int folder_fd = file_open_folder(folder, error);
    if (folder_fd < 0) {
        return false;
    }
    for (size_t i = 0; i < inventory->file_count; i++) {
        if (!verify_file(folder_fd, &inventory->files[i], error)) {
            return false;
        }
    }
    return true;
}

void inventory_model_sha256(const struct inventory *inventory, char ret_hex[65])
{
    struct sha256 hash;
    sha256_start(&hash);
    for (size_t i = 0; i < inventory->file_count; i++) { /* sorted by path */
        const struct inventory_file *file = &inventory->files[i];
        if (text_ends_with(file->path, ".safetensors") || text_ends_with(file->path, ".gguf") ||
            text_starts_with(file->path, "model.safetensors") || strcmp(file->path, "config.json") == 0 ||
            strcmp(file->path, "tokenizer.json") == 0) {
            sha256_update(&hash, file->path, strlen(file->path) + 1);
            sha256_update(&hash, file->sha256, strlen(file->sha256) + 1);
        }
    }
    sha256_end_hex(&hash, ret_hex);
}
