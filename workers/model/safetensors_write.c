/*
 * workers/model/safetensors_write.c: checkpoints in one pass. All shapes are known beforehand, so each shard's header can be
 * written when the shard is opened and its data simply follows; nothing is buffered and nothing is patched later.
 */
#include "workers/model/safetensors.h"

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include <stdio.h>
#include <string.h>

struct shard {
    char name[64];
    size_t first, count; /* of specs */
    uint64_t bytes;      /* of tensor data */
};
struct st_writer {
    char *folder;
    const struct st_spec *specs; /* borrowed */
    size_t spec_count;
    struct shard *shards; /* [shard_count] */
    size_t shard_count;
    size_t current; /* shard that is being filled */
    uint64_t written, total_bytes;
    int fd; /* of the current shard, -1: none open */
};

static uint64_t spec_bytes(const struct st_spec *spec)
{
    uint64_t bytes = dtype_bytes(spec->dtype);
    for (size_t i = 0; i < spec->rank; i++) {
        CHECK(!__builtin_mul_overflow(bytes, spec->shape[i], &bytes));
    }
    return bytes;
}

static void cut_shards(struct st_writer *writer, uint64_t max_shard_bytes)
{
    writer->shards = memory_create(writer->spec_count + 1, sizeof *writer->shards);
    writer->shard_count = 1;
    for (size_t i = 0; i < writer->spec_count; i++) {
        struct shard *shard = &writer->shards[writer->shard_count - 1];
        uint64_t bytes = spec_bytes(&writer->specs[i]);
        if (max_shard_bytes != 0 && shard->count > 0 && shard->bytes + bytes > max_shard_bytes) {
            shard = &writer->shards[writer->shard_count++];
            shard->first = i;
        }
        shard->count++;
        shard->bytes += bytes;
        writer->total_bytes += bytes;
    }
    for (size_t i = 0; i < writer->shard_count; i++) {
        char *name = writer->shards[i].name;
        if (writer->shard_count == 1) {
            (void)snprintf(name, sizeof writer->shards[i].name, "model.safetensors");
        } else {
            (void)snprintf(name, sizeof writer->shards[i].name, "model-%05zu-of-%05zu.safetensors", i + 1, writer->shard_count);
        }
    }
}

/* {"__metadata__":{"format":"pt"},"name":{...},...} and spaces to a multiple of 8. */
static void format_header(const struct st_writer *writer, const struct shard *shard, struct text *text)
{
    uint64_t offset = 0;
    text_append(text, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = shard->first; i < shard->first + shard->count; i++) {
        const struct st_spec *spec = &writer->specs[i];
        JSON_OWNED name = json_string(spec->name);
        CHECK(name != NULL);
        char *quoted = json_dumps(name, JSON_ENCODE_ANY | JSON_COMPACT);
        text_append_format(text, ",%s:{\"dtype\":\"%s\",\"shape\":[", quoted, dtype_slug(spec->dtype));
        free(quoted);
        for (size_t d = 0; d < spec->rank; d++) {
            text_append_format(text, "%s%llu", d > 0 ? "," : "", (unsigned long long)spec->shape[d]);
        }
        uint64_t bytes = spec_bytes(spec);
        text_append_format(text, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset, (unsigned long long)(offset + bytes));
        offset += bytes;
    }
    text_append(text, "}");
    while (text->length % 8 != 0) {
        text_append(text, " ");
    }
}

static bool open_shard(struct st_writer *writer, struct error *error)
{
    const struct shard *shard = &writer->shards[writer->current];
    OWNED_MEMORY char *path = file_join(writer->folder, shard->name);
    FINISHED(text) text = {0};
    writer->fd = file_create(path, 0644, error);
    if (writer->fd < 0) {
        return false;
    }
    format_header(writer, shard, &text);
    unsigned char prefix[8];
    for (size_t i = 0; i < sizeof prefix; i++) {
        prefix[i] = (unsigned char)((uint64_t)text.length >> (8 * i));
    }
    writer->written = 0;
    return file_append(writer->fd, prefix, sizeof prefix, error) && file_append(writer->fd, text.bytes, text.length, error);
}

static bool finish_shard(struct st_writer *writer, struct error *error)
{
    bool is_synced = file_sync(writer->fd, error);
    (void)close(writer->fd);
    writer->fd = -1;
    return is_synced;
}

/* Closes full shards and opens the next; stays on the last one. */
static bool advance(struct st_writer *writer, struct error *error)
{
    while (writer->written == writer->shards[writer->current].bytes && writer->current + 1 < writer->shard_count) {
        if (!finish_shard(writer, error)) {
            return false;
        }
        writer->current++;
        if (!open_shard(writer, error)) {
            return false;
        }
    }
    return true;
}

struct st_writer *st_writer_open(const char *folder, const struct st_spec *specs, size_t count, uint64_t max_shard_bytes,
                                 struct error *error)
{
    OWNED(st_writer) writer = memory_create(1, sizeof *writer);
    writer->fd = -1;
    writer->folder = memory_copy_text(folder);
    writer->specs = specs;
    writer->spec_count = count;
    cut_shards(writer, max_shard_bytes);
    if (!open_shard(writer, error)) {
        return NULL;
    }
    return TAKE(writer);
}

bool st_writer_append(struct st_writer *writer, const void *bytes, size_t count, struct error *error)
{
    const unsigned char *from = bytes;
    while (count > 0) {
        if (!advance(writer, error)) {
            return false;
        }
        uint64_t room = writer->shards[writer->current].bytes - writer->written;
        CHECK(room > 0); /* more bytes than the shapes have */
        size_t part = count < room ? count : (size_t)room;
        if (!file_append(writer->fd, from, part, error)) {
            return false;
        }
        writer->written += part;
        from += part;
        count -= part;
    }
    return true;
}

static bool save_index(const struct st_writer *writer, struct error *error)
{
    JSON_OWNED index = json_object();
    json_t *map = json_object(), *metadata = json_object();
    json_put_i64(metadata, "total_size", (int64_t)writer->total_bytes);
    for (size_t s = 0; s < writer->shard_count; s++) {
        for (size_t i = 0; i < writer->shards[s].count; i++) {
            json_put_text(map, writer->specs[writer->shards[s].first + i].name, writer->shards[s].name);
        }
    }
    json_put(index, "metadata", metadata);
    json_put(index, "weight_map", map);
    OWNED_MEMORY char *text = json_format(index, true);
    OWNED_MEMORY char *path = file_join(writer->folder, "model.safetensors.index.json");
    return file_save(path, text, strlen(text), 0644, error);
}

bool st_writer_close(struct st_writer *writer, struct error *error)
{
    OWNED(st_writer) owned = writer;
    if (!advance(owned, error)) {
        return false;
    }
    CHECK(owned->current + 1 == owned->shard_count && owned->written == owned->shards[owned->current].bytes);
    return finish_shard(owned, error) && (owned->shard_count == 1 || save_index(owned, error));
}

void st_writer_destroy(struct st_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    if (writer->fd >= 0) {
        (void)close(writer->fd);
    }
    free(writer->shards);
    free(writer->folder);
    free(writer);
}

size_t st_writer_file_count(const struct st_writer *writer)
{
    return writer->shard_count;
}

const char *st_writer_file_name(const struct st_writer *writer, size_t index)
{
    return writer->shards[index].name;
}
