/*
 * workers/model/inventory.c: looking at a model folder with suspicion. Order: the files that belong;
 * config.json; which weight files there are (one, or an index and its shards); their headers; then the
 * agreement of tensors and config, and of tokenizer and vocabulary. Faults are collected as far as they can
 * be judged apart.
 *
 * Sizes of allocations follow from headers that were checked against file sizes, never from config.json.
 */
#include "workers/model/inventory_internal.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/architecture.h"
#include "workers/model/safetensors.h"
#include "workers/model/tokenizer.h"
#include <stdio.h>
#include <string.h>

#define CONFIG_LIMIT_BYTES (1u << 20)
#define FILES_MAX          (ST_SHARDS_MAX + 64)
static const char index_name[] = "model.safetensors.index.json";

/* ---- files ----------------------------------------------------------------------------------- */

static bool belongs(const char *name)
{
    static const char *const companions[] = {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "added_tokens.json",
        "special_tokens_map.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "LICENSE",
        "LICENSE.txt",
        "LICENSE.md",
        "NOTICE",
    };
    for (size_t i = 0; i < sizeof companions / sizeof companions[0]; i++) {
        if (strcmp(name, companions[i]) == 0) {
            return true;
        }
    }
    return false;
}

struct listing {
    struct inventory *inventory;
    bool has_index, has_single;
    size_t gguf_count;
};

static bool list_file(const char *relative, const struct stat *status, void *context, struct error *error)
{
    struct listing *listing = context;
    struct inventory *inventory = listing->inventory;
    bool is_file = S_ISREG(status->st_mode) || S_ISLNK(status->st_mode);
    if (strchr(relative, '/') != NULL || !is_file || !file_name_is_safe(relative)) {
        return true;
    }
    bool is_index = strcmp(relative, index_name) == 0, is_weights = text_ends_with(relative, ".safetensors");
    listing->has_index = listing->has_index || is_index;
    listing->has_single = listing->has_single || strcmp(relative, "model.safetensors") == 0;
    bool is_gguf = text_ends_with(relative, ".gguf");
    listing->gguf_count += is_gguf ? 1 : 0;
    if (!is_index && !is_weights && !is_gguf && !belongs(relative)) {
        return true;
    }
    if (inventory->file_count == FILES_MAX) {
        return error_set(error, ERROR_TOO_LARGE, "the folder holds more than %d model files", FILES_MAX);
    }
    inventory->files[inventory->file_count].path =
        arena_copy_text(inventory->arena, relative, strlen(relative));
    inventory->file_count++;
    return true;
}

static int compare_files(const void *a, const void *b)
{
    const struct inventory_file *left = a, *right = b;
    return strcmp(left->path, right->path);
}

static size_t find_file(const struct inventory *inventory, const char *path)
{
    struct inventory_file key = {.path = path};
    const struct inventory_file *found =
        bsearch(&key, inventory->files, inventory->file_count, sizeof key, compare_files);
    return found != NULL ? (size_t)(found - inventory->files) : SIZE_MAX;
}

/* Weight files that are not part of the model (a second format, shards no index names) do not belong. A GGUF file is a
 * config as well. */
static void keep_weight_files(struct inventory *inventory, const struct st_index *index, bool is_gguf)
{
    size_t kept = 0;
    for (size_t i = 0; i < inventory->file_count; i++) {
        const char *path = inventory->files[i].path;
        bool is_kept = true;
        if (text_ends_with(path, ".safetensors")) {
            is_kept = index == NULL && strcmp(path, "model.safetensors") == 0;
            for (size_t s = 0; index != NULL && s < index->shard_count && !is_kept; s++) {
                is_kept = strcmp(path, index->shards[s]) == 0;
            }
        } else if (strcmp(path, index_name) == 0) {
            is_kept = index != NULL;
        } else if (text_ends_with(path, ".gguf")) {
            is_kept = is_gguf;
        } else if (strcmp(path, "config.json") == 0) {
            is_kept = !is_gguf;
        }
        if (is_kept) {
            inventory->files[kept++] = inventory->files[i];
        }
    }
    inventory->file_count = kept;
}

bool inventory_stat_file(int folder_fd, struct inventory_file *file, int *ret_fd, struct error *error)
{
    OWNED_FD int fd = file_open_beneath(folder_fd, file->path, true, error);
    struct stat status;
    if (fd < 0) {
        return false;
    }
    if (fstat(fd, &status) != 0) {
        return error_set(error, ERROR_IO, "cannot look at %s", file->path);
    }
    file->bytes = (uint64_t)status.st_size;
    file->mtime_ns = (int64_t)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec;
    *ret_fd = fd_take(&fd);
    return true;
}

bool inventory_hash_file(int fd, const struct inventory_file *file, const struct cancel *cancel,
                         char ret_hex[65], struct error *error)
{
    size_t window = (size_t)1 << 20;
    OWNED_MEMORY unsigned char *bytes = memory_create(window, 1);
    struct sha256 hash;
    sha256_start(&hash);
    for (uint64_t done = 0; done < file->bytes;) {
        size_t part = (size_t)(file->bytes - done < window ? file->bytes - done : window);
        if (!cancel_check_now(cancel, error) || !file_read_at(fd, bytes, part, done, file->path, error)) {
            return false;
        }
        sha256_update(&hash, bytes, part);
        done += part;
    }
    sha256_end_hex(&hash, ret_hex);
    return true;
}

/* ---- tensors --------------------------------------------------------------------------------- */

struct inspection {
    struct inventory *inventory;
    int folder_fd;
    bool is_hashed;
    const struct cancel *cancel;
    struct error_list *faults;
    struct st_index index;     /* entry_count 0: one file */
    struct st_header *headers; /* [file_count]; empty for other files */
    const char *path;          /* as it was given */
    const char *folder;
    const char *only_file; /* the GGUF file that path names; NULL: path is a folder */
};

static bool add_tensors(struct inspection *inspection, size_t file)
{
    struct inventory *inventory = inspection->inventory;
    const struct st_header *header = &inspection->headers[file];
    bool is_sound = true;
    for (size_t i = 0; i < header->tensor_count; i++) {
        const struct st_tensor *from = &header->tensors[i];
        struct inventory_tensor tensor = {.name = from->name,
                                          .rank = from->rank,
                                          .file = file,
                                          .offset_bytes = from->offset_bytes,
                                          .bytes = from->bytes};
        memcpy(tensor.shape, from->shape, sizeof tensor.shape);
        if (!st_dtype_to_dtype(from->dtype, &tensor.dtype)) {
            if (!architecture_ignores(&inventory->config, from->name)) {
                is_sound = error_list_add(inspection->faults, ERROR_UNSUPPORTED, from->name,
                                          "tensor %.100s is %s; F32, F16 and BF16 are supported", from->name,
                                          st_dtype_slug(from->dtype));
            }
            continue;
        }
        inventory->tensors[inventory->tensor_count++] = tensor;
    }
    return is_sound;
}

static bool read_files(struct inspection *inspection)
{
    struct inventory *inventory = inspection->inventory;
    struct error error = {0};
    bool is_sound = true;
    inspection->headers =
        arena_allocate(inventory->arena, inventory->file_count + 1, sizeof *inspection->headers);
    for (size_t i = 0; i < inventory->file_count; i++) {
        struct inventory_file *file = &inventory->files[i];
        OWNED_FD int fd = -1;
        bool is_read = inventory_stat_file(inspection->folder_fd, file, &fd, &error) &&
                       (!inspection->is_hashed ||
                        inventory_hash_file(fd, file, inspection->cancel, file->sha256, &error)) &&
                       (!text_ends_with(file->path, ".safetensors") ||
                        st_header_read(fd, file->path, inventory->arena, &inspection->headers[i], &error));
        if (!is_read) {
            is_sound = error_list_add_error(inspection->faults, &error);
        }
        if (error.code == ERROR_CANCELLED) {
            return false;
        }
    }
    return is_sound;
}

/* Each tensor of the index lies in exactly the shard it names, and shards hold nothing else. */
static bool check_index(struct inspection *inspection)
{
    struct inventory *inventory = inspection->inventory;
    const struct st_index *index = &inspection->index;
    bool is_sound = true;
    for (size_t i = 0; i < index->entry_count; i++) {
        const struct inventory_tensor *tensor = inventory_find(inventory, index->entries[i].tensor);
        if (tensor == NULL || strcmp(inventory->files[tensor->file].path, index->entries[i].shard) != 0) {
            is_sound = error_list_add(inspection->faults, ERROR_CORRUPT_FILE, index->entries[i].tensor,
                                      "the index says that tensor %.100s lies in %.60s; it does not",
                                      index->entries[i].tensor, index->entries[i].shard);
        }
    }
    if (is_sound && index->entry_count != inventory->tensor_count) {
        is_sound = error_list_add(inspection->faults, ERROR_CORRUPT_FILE, index_name,
                                  "the index names %zu tensors, the shards hold %zu", index->entry_count,
                                  inventory->tensor_count);
    }
    return is_sound;
}

static bool collect_tensors(struct inspection *inspection)
{
    struct inventory *inventory = inspection->inventory;
    size_t count = 0;
    bool is_sound = true;
    for (size_t i = 0; i < inventory->file_count; i++) {
        count += inspection->headers[i].tensor_count;
    }
    inventory->tensors = arena_allocate(inventory->arena, count + 1, sizeof *inventory->tensors);
    for (size_t i = 0; i < inventory->file_count; i++) {
        is_sound = add_tensors(inspection, i) && is_sound;
    }
    inventory_sort_tensors(inventory);
    for (size_t i = 1; i < inventory->tensor_count; i++) {
        const char *name = inventory->tensors[i].name;
        if (strcmp(name, inventory->tensors[i - 1].name) == 0) {
            is_sound = error_list_add(inspection->faults, ERROR_CORRUPT_FILE, name,
                                      "tensor %.100s lies in two shards", name);
        }
    }
    return is_sound && (inspection->index.entry_count == 0 || check_index(inspection));
}

/* ---- agreement ------------------------------------------------------------------------------- */

static void format_shape(const uint64_t *shape, size_t rank, char *to, size_t size)
{
    size_t length = (size_t)snprintf(to, size, "[");
    for (size_t i = 0; i < rank && length < size; i++) {
        length += (size_t)snprintf(to + length, size - length, "%s%llu", i > 0 ? ", " : "",
                                   (unsigned long long)shape[i]);
    }
    (void)snprintf(to + (length < size ? length : size - 2), length < size ? size - length : 2, "]");
}

struct agreement {
    struct inventory *inventory;
    struct error_list *faults;
};

static void check_tensor(enum weight_role role, size_t layer, const struct weight_shape *wanted,
                         void *context)
{
    (void)role;
    (void)layer;
    struct agreement *agreement = context;
    struct inventory *inventory = agreement->inventory;
    const struct inventory_tensor *tensor = inventory_find(inventory, wanted->name);
    inventory->parameter_count += wanted->count;
    inventory->prunable_count += wanted->part != WEIGHT_PART_MODEL && !wanted->is_norm ? wanted->count : 0;
    if (tensor == NULL) {
        error_list_add(agreement->faults, ERROR_CONFIG_MISMATCH, wanted->name,
                       "tensor %s is missing; config.json asks for it", wanted->name);
        return;
    }
    if (tensor->rank != wanted->rank ||
        memcmp(tensor->shape, wanted->shape, wanted->rank * sizeof wanted->shape[0]) != 0) {
        char is[96], should[96];
        format_shape(tensor->shape, tensor->rank, is, sizeof is);
        format_shape(wanted->shape, wanted->rank, should, sizeof should);
        error_list_add(agreement->faults, ERROR_CONFIG_MISMATCH, wanted->name,
                       "tensor %s is %s; config.json makes it %s", wanted->name, is, should);
    }
}

static bool is_known_name(const struct model_config *config, const char *name)
{
    struct weight_shape shape;
    size_t layer = 0, expert = 0;
    const char *suffix = NULL;
    enum weight_role role = WEIGHT_EMBEDDING;
    if (architecture_split_name(config, name, &layer, &suffix) &&
        architecture_find_role(config, suffix, &role, &expert) &&
        architecture_tensor(config, role, layer, expert, &shape)) {
        return true;
    }
    for (size_t i = 0; i < WEIGHT_ATTENTION_NORM; i++) {
        if (architecture_tensor(config, (enum weight_role)i, 0, 0, &shape) && strcmp(shape.name, name) == 0) {
            return true;
        }
    }
    return architecture_ignores(config, name);
}

/* Counts what the config asks for, checks that the tensors have it, and marks those that it does not ask for.
 */
static bool check_agreement(struct inventory *inventory, struct error_list *faults)
{
    struct agreement agreement = {inventory, faults};
    size_t before = faults->count;
    architecture_visit(&inventory->config, check_tensor, &agreement);
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        struct inventory_tensor *tensor = &inventory->tensors[i];
        size_t layer = 0;
        const char *suffix = NULL;
        inventory->weight_bytes += tensor->bytes;
        tensor->is_extra = !is_known_name(&inventory->config, tensor->name);
        inventory->extra_tensor_count += tensor->is_extra;
        if (architecture_split_name(&inventory->config, tensor->name, &layer, &suffix) &&
            layer >= inventory->config.layer_count &&
            !architecture_ignores(&inventory->config, tensor->name)) {
            error_list_add(faults, ERROR_CONFIG_MISMATCH, tensor->name,
                           "tensor %s belongs to layer %zu; config.json has %zu layers", tensor->name, layer,
                           inventory->config.layer_count);
        }
    }
    return faults->count == before;
}

static bool check_tokenizer(const struct inspection *inspection)
{
    const struct inventory *inventory = inspection->inventory;
    struct error error = {0};
    bool is_gguf = inventory_gguf_name(inventory) != NULL;
    if (!is_gguf && find_file(inventory, "tokenizer.json") == SIZE_MAX) {
        return true; /* what needs text will say so */
    }
    OWNED(tokenizer) tokenizer = inventory_load_tokenizer(inventory, inspection->path, &error);
    if (tokenizer == NULL) {
        if (is_gguf && error.code == ERROR_NOT_FOUND) {
            return true;
        }
        if (error.field[0] == '\0') {
            (void)snprintf(error.field, sizeof error.field, "tokenizer.json");
        }
        return error_list_add_error(inspection->faults, &error);
    }
    size_t size = tokenizer_vocab_size(tokenizer);
    if (size > inventory->config.vocab_size) {
        return error_list_add(inspection->faults, ERROR_TOKENIZER_MISMATCH, "tokenizer.json",
                              "tokenizer.json has %zu tokens; the model's vocabulary has %zu", size,
                              inventory->config.vocab_size);
    }
    return true;
}

/* ---- the whole
 * ----------------------------------------------------------------------------------------------------------
 */

static bool list_folder(struct inspection *inspection, struct listing *listing)
{
    struct inventory *inventory = inspection->inventory;
    struct error error = {0};
    inventory->files = arena_allocate(inventory->arena, FILES_MAX, sizeof *inventory->files);
    *listing = (struct listing){.inventory = inventory};
    if (inspection->only_file != NULL) {
        inventory->files[inventory->file_count++].path =
            arena_copy_text(inventory->arena, inspection->only_file, strlen(inspection->only_file));
        listing->gguf_count = 1;
        return true;
    }
    if (!file_walk(inspection->folder, list_file, listing, &error)) {
        return error_list_add_error(inspection->faults, &error);
    }
    qsort(inventory->files, inventory->file_count, sizeof *inventory->files, compare_files);
    bool has_safetensors = listing->has_single || listing->has_index;
    if (!has_safetensors && listing->gguf_count > 1) {
        return error_list_add(inspection->faults, ERROR_UNSUPPORTED, "model.safetensors",
                              "the folder holds %zu GGUF files; name one of them as the model",
                              listing->gguf_count);
    }
    if (find_file(inventory, "config.json") == SIZE_MAX && (has_safetensors || listing->gguf_count == 0)) {
        return error_list_add(inspection->faults, ERROR_NOT_FOUND, "config.json",
                              "the folder has no config.json");
    }
    if (!has_safetensors && listing->gguf_count == 0) {
        return error_list_add(inspection->faults, ERROR_NOT_FOUND, "model.safetensors",
                              "the folder has neither model.safetensors nor %s, nor a GGUF file", index_name);
    }
    return true;
}

static char *load_beneath(const struct inspection *inspection, const char *path, size_t limit_bytes,
                          size_t *ret_count, struct error *error)
{
    OWNED_FD int fd = file_open_beneath(inspection->folder_fd, path, true, error);
    uint64_t size = 0;
    if (fd < 0 || !file_size(fd, &size, error)) {
        return NULL;
    }
    if (size > limit_bytes) {
        error_set_field(error, ERROR_TOO_LARGE, path, "%s has %llu bytes; at most %zu are read", path,
                        (unsigned long long)size, limit_bytes);
        return NULL;
    }
    char *bytes = memory_try_array((size_t)size + 1, 1, path, error);
    if (bytes != NULL && !file_read_at(fd, bytes, (size_t)size, 0, path, error)) {
        free(bytes);
        return NULL;
    }
    *ret_count = (size_t)size;
    return bytes;
}

static bool read_config(struct inspection *inspection)
{
    struct inventory *inventory = inspection->inventory;
    struct error error = {0};
    size_t count = 0;
    OWNED_MEMORY char *text = load_beneath(inspection, "config.json", CONFIG_LIMIT_BYTES, &count, &error);
    inventory->config_json = text != NULL ? json_parse(text, count, CONFIG_LIMIT_BYTES, &error) : NULL;
    if (inventory->config_json == NULL) {
        (void)snprintf(error.field, sizeof error.field, "config.json");
        (void)error_prefix(&error, "config.json: ");
        return error_list_add_error(inspection->faults, &error);
    }
    return model_config_parse(inventory->config_json, &inventory->config, inspection->faults);
}

/* model.safetensors where there is one, else the index, as transformers does. */
static bool choose_weight_files(struct inspection *inspection, const struct listing *listing)
{
    struct inventory *inventory = inspection->inventory;
    struct error error = {0};
    if (listing->has_single) {
        keep_weight_files(inventory, NULL, false);
        return true;
    }
    size_t count = 0;
    OWNED_MEMORY char *text = load_beneath(inspection, index_name, ST_INDEX_LIMIT_BYTES, &count, &error);
    if (text == NULL || !st_index_parse(text, count, inventory->arena, &inspection->index, &error)) {
        return error_list_add_error(inspection->faults, &error);
    }
    bool is_sound = true;
    for (size_t i = 0; i < inspection->index.shard_count; i++) {
        if (find_file(inventory, inspection->index.shards[i]) == SIZE_MAX) {
            is_sound =
                error_list_add(inspection->faults, ERROR_NOT_FOUND, inspection->index.shards[i],
                               "the index names %s, which is not in the folder", inspection->index.shards[i]);
        }
    }
    keep_weight_files(inventory, &inspection->index, false);
    return is_sound;
}

static bool read_gguf(struct inspection *inspection)
{
    struct inventory *inventory = inspection->inventory;
    keep_weight_files(inventory, NULL, true);
    size_t file = 0;
    while (file < inventory->file_count && !text_ends_with(inventory->files[file].path, ".gguf")) {
        file++;
    }
    return read_files(inspection) &&
           inventory_read_gguf(inventory, inspection->folder_fd, file, inspection->faults);
}

static bool read_safetensors(struct inspection *inspection, const struct listing *listing)
{
    bool has_config = read_config(inspection);
    bool has_files = choose_weight_files(inspection, listing) && read_files(inspection);
    return has_config && has_files && collect_tensors(inspection);
}

static bool inspect(struct inspection *inspection)
{
    struct listing listing;
    if (!list_folder(inspection, &listing)) {
        return false;
    }
    bool is_gguf = !listing.has_single && !listing.has_index;
    if (!(is_gguf ? read_gguf(inspection) : read_safetensors(inspection, &listing))) {
        return false;
    }
    inventory_settle_names(inspection->inventory);
    bool agrees = check_agreement(inspection->inventory, inspection->faults);
    return check_tokenizer(inspection) && agrees;
}

struct inventory *inventory_inspect(const char *path, bool hash, const struct cancel *cancel,
                                    struct error_list *faults)
{
    struct error error = {0};
    OWNED_MEMORY char *folder = inventory_folder(path);
    OWNED_FD int folder_fd = file_open_folder(folder, &error);
    if (folder_fd < 0) {
        error_list_add_error(faults, &error);
        return NULL;
    }
    bool is_file = strcmp(folder, path) != 0;
    const char *slash = strrchr(path, '/');
    OWNED(inventory) inventory = memory_create(1, sizeof *inventory);
    inventory->arena = arena_create(0);
    struct inspection inspection = {.inventory = inventory,
                                    .folder_fd = folder_fd,
                                    .is_hashed = hash,
                                    .cancel = cancel,
                                    .faults = faults,
                                    .path = path,
                                    .folder = folder,
                                    .only_file = !is_file        ? NULL
                                                 : slash != NULL ? slash + 1
                                                                 : path};
    return inspect(&inspection) ? TAKE(inventory) : NULL;
}
