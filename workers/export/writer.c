/* workers/export/writer.c: see writer.h. */
#include "workers/export/writer.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/export/padding.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct writer {
    const struct export_draft *draft;
    const struct inventory *inventory;
    const struct source *source;
    const struct export_options *options;
    unsigned char *bytes; /* [WRITER_CHUNK_BYTES] */
    struct padded_reader reader;
    uint64_t done_bytes;
};

/* The tensors of one file: [first, end). */
struct shard {
    size_t first, end;
};

/* Fills shards in name order up to the limit; a tensor that is larger by itself gets a file of its own. */
static size_t plan_shards(const struct export_draft *draft, uint64_t max_bytes, struct shard **ret_shards)
{
    struct shard *shards = memory_create(draft->tensor_count + 1, sizeof *shards);
    size_t count = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < draft->tensor_count; i++) {
        if (count == 0 || (bytes > 0 && bytes + draft->tensors[i].bytes > max_bytes)) {
            shards[count++] = (struct shard){i, i};
            bytes = 0;
        }
        shards[count - 1].end = i + 1;
        bytes += draft->tensors[i].bytes;
    }
    if (count == 0) {
        count = 1;
    }
    *ret_shards = shards;
    return count;
}

static void shard_name(size_t index, size_t count, char ret_name[64])
{
    if (count == 1) {
        (void)snprintf(ret_name, 64, "model.safetensors");
    } else {
        (void)snprintf(ret_name, 64, "model-%05zu-of-%05zu.safetensors", index + 1, count);
    }
}

static char *format_header(const struct writer *writer, const struct shard *shard, size_t *ret_length)
{
    JSON_OWNED header = json_object();
    json_t *metadata = json_object();
    json_put_text(metadata, "format", "pt");
    json_put(header, "__metadata__", metadata);
    uint64_t offset = 0;
    for (size_t i = shard->first; i < shard->end; i++) {
        const struct export_tensor *tensor = &writer->draft->tensors[i];
        json_t *item = json_object();
        json_put_text(item, "dtype", dtype_slug(tensor->dtype));
        json_t *shape = json_array();
        for (size_t d = 0; d < tensor->rank; d++) {
            CHECK(json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d])) == 0);
        }
        json_put(item, "shape", shape);
        json_t *offsets = json_array();
        CHECK(json_array_append_new(offsets, json_integer((json_int_t)offset)) == 0);
        offset += tensor->bytes;
        CHECK(json_array_append_new(offsets, json_integer((json_int_t)offset)) == 0);
        json_put(item, "data_offsets", offsets);
        json_put(header, tensor->name, item);
    }
    OWNED_MEMORY char *json = json_format(header, false);
    size_t length = strlen(json);
    size_t padded = (length + 7) / 8 * 8;
    char *bytes = memory_create(padded + 9, 1);
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (char)(unsigned char)((uint64_t)padded >> (8 * i));
    }
    memcpy(bytes + 8, json, length);
    memset(bytes + 8 + length, ' ', padded - length);
    *ret_length = padded + 8;
    return bytes;
}

static bool append(struct writer *writer, int fd, const void *bytes, size_t count, struct error *error)
{
    if (!cancel_check_now(writer->options->cancel, error) || !file_append(fd, bytes, count, error)) {
        return false;
    }
    writer->done_bytes += count;
    if (writer->options->progress != NULL) {
        writer->options->progress(writer->options->context, writer->done_bytes, writer->draft->weight_bytes);
    }
    return true;
}

/* Zeros, or the bytes of the source as they are. */
static bool copy_tensor(struct writer *writer, int fd, const struct export_tensor *tensor,
                        struct error *error)
{
    const struct inventory_tensor *from = &writer->inventory->tensors[tensor->source];
    if (tensor->is_zero) {
        memset(writer->bytes, 0, WRITER_CHUNK_BYTES);
    }
    for (uint64_t done = 0; done < tensor->bytes; done += WRITER_CHUNK_BYTES) {
        uint64_t left = tensor->bytes - done;
        size_t count = left < WRITER_CHUNK_BYTES ? (size_t)left : WRITER_CHUNK_BYTES;
        if (!tensor->is_zero && !source_read_bytes(writer->source, from, done, count, writer->bytes, error)) {
            return false;
        }
        if (!append(writer, fd, writer->bytes, count, error)) {
            return false;
        }
    }
    return true;
}

/* As many rows at a time as make about a chunk. */
static bool convert_tensor(struct writer *writer, int fd, const struct export_tensor *tensor,
                           struct error *error)
{
    uint64_t rows = tensor->rank > 0 ? tensor->shape[0] : 1;
    uint64_t columns = rows > 0 ? tensor->element_count / rows : 1;
    uint64_t step = WRITER_CHUNK_BYTES / sizeof(float) / (columns > 0 ? columns : 1);
    step = step > 0 ? step : 1;
    step = step < rows ? step : rows;
    size_t elements = (size_t)(step * columns);
    OWNED_MEMORY float *values = memory_try_array(elements, sizeof *values, tensor->name, error);
    OWNED_MEMORY void *out = memory_try_array(elements, dtype_bytes(tensor->dtype), tensor->name, error);
    if (values == NULL || out == NULL) {
        return false;
    }
    for (uint64_t done = 0; done < rows; done += step) {
        uint64_t part = rows - done < step ? rows - done : step;
        size_t count = (size_t)(part * columns);
        if (!padded_reader_read(&writer->reader, tensor, done, part, values, error)) {
            return false;
        }
        dtype_from_f32(tensor->dtype, values, count, out);
        if (!append(writer, fd, out, count * dtype_bytes(tensor->dtype), error)) {
            return false;
        }
    }
    return true;
}

static bool write_tensor(struct writer *writer, int fd, const struct export_tensor *tensor,
                         struct error *error)
{
    const struct inventory_tensor *from = &writer->inventory->tensors[tensor->source];
    struct source_view view;
    source_view_canonical(from, &view);
    bool is_plain = from->dtype == tensor->dtype && tensor->padding == NULL && source_view_is_plain(&view);
    return tensor->is_zero || is_plain ? copy_tensor(writer, fd, tensor, error)
                                       : convert_tensor(writer, fd, tensor, error);
}

static bool write_shard(struct writer *writer, const struct shard *shard, const char *path,
                        struct error *error)
{
    OWNED_FD int fd = file_create(path, 0644, error);
    if (fd < 0) {
        return false;
    }
    size_t length = 0;
    OWNED_MEMORY char *header = format_header(writer, shard, &length);
    if (!file_append(fd, header, length, error)) {
        return false;
    }
    for (size_t i = shard->first; i < shard->end; i++) {
        if (!write_tensor(writer, fd, &writer->draft->tensors[i], error)) {
            return false;
        }
    }
    return file_sync(fd, error);
}

static bool write_index(const struct export_draft *draft, const struct shard *shards, size_t count,
                        const char *out_folder, struct error *error)
{
    JSON_OWNED index = json_object();
    json_t *metadata = json_object();
    json_put_i64(metadata, "total_size", (int64_t)draft->weight_bytes);
    json_put(index, "metadata", metadata);
    json_t *map = json_object();
    for (size_t s = 0; s < count; s++) {
        char name[64];
        shard_name(s, count, name);
        for (size_t i = shards[s].first; i < shards[s].end; i++) {
            json_put_text(map, draft->tensors[i].name, name);
        }
    }
    json_put(index, "weight_map", map);
    OWNED_MEMORY char *bytes = json_format(index, true);
    OWNED_MEMORY char *path = file_join(out_folder, "model.safetensors.index.json");
    return file_save(path, bytes, strlen(bytes), 0644, error);
}

bool writer_write_weights(const struct export_draft *draft, const struct inventory *inventory,
                          const struct source *source, const char *out_folder,
                          const struct export_options *options, struct error *error)
{
    struct writer writer = {.draft = draft,
                            .inventory = inventory,
                            .source = source,
                            .options = options,
                            .reader = {.inventory = inventory, .source = source}};
    writer.bytes = memory_create(WRITER_CHUNK_BYTES, 1);
    struct shard *shards = NULL;
    size_t count = plan_shards(draft, options->max_shard_bytes, &shards);
    bool is_good = true;
    for (size_t i = 0; i < count && is_good; i++) {
        char name[64];
        shard_name(i, count, name);
        OWNED_MEMORY char *path = file_join(out_folder, name);
        is_good = write_shard(&writer, &shards[i], path, error);
    }
    is_good = is_good && (count == 1 || write_index(draft, shards, count, out_folder, error));
    free(shards);
    free(writer.bytes);
    padded_reader_finish(&writer.reader);
    return is_good;
}
