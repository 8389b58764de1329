/* tests/unit/workers/model/gguf_fixture.h: GGUF files put together in memory, sound or not. */
#ifndef TESTS_UNIT_WORKERS_MODEL_GGUF_FIXTURE_H
#define TESTS_UNIT_WORKERS_MODEL_GGUF_FIXTURE_H

#include "base/text.h"
#include "workers/model/gguf.h"

#include <string.h>

struct gguf_builder {
    struct text pairs, infos, data;
    uint64_t pair_count, tensor_count;
    uint64_t alignment;
};

static inline void gguf_put_int(struct text *text, uint64_t value, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        unsigned char byte = (unsigned char)(value >> (8 * i));
        text_append_bytes(text, &byte, 1);
    }
}

static inline void gguf_put_text(struct text *text, const char *string)
{
    gguf_put_int(text, strlen(string), 8);
    text_append(text, string);
}

static inline void gguf_add_u32(struct gguf_builder *builder, const char *key, uint32_t value)
{
    gguf_put_text(&builder->pairs, key);
    gguf_put_int(&builder->pairs, GGUF_U32, 4);
    gguf_put_int(&builder->pairs, value, 4);
    builder->pair_count++;
}

static inline void gguf_add_f32(struct gguf_builder *builder, const char *key, float value)
{
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    gguf_put_text(&builder->pairs, key);
    gguf_put_int(&builder->pairs, GGUF_F32, 4);
    gguf_put_int(&builder->pairs, bits, 4);
    builder->pair_count++;
}

static inline void gguf_add_bool(struct gguf_builder *builder, const char *key, bool value)
{
    gguf_put_text(&builder->pairs, key);
    gguf_put_int(&builder->pairs, GGUF_BOOL, 4);
    gguf_put_int(&builder->pairs, value, 1);
    builder->pair_count++;
}

static inline void gguf_add_text(struct gguf_builder *builder, const char *key, const char *value)
{
    gguf_put_text(&builder->pairs, key);
    gguf_put_int(&builder->pairs, GGUF_TEXT, 4);
    gguf_put_text(&builder->pairs, value);
    builder->pair_count++;
}

/* Begins an array; its elements follow by gguf_put_*. */
static inline void gguf_begin_array(struct gguf_builder *builder, const char *key, enum gguf_type type,
                                    uint64_t count)
{
    gguf_put_text(&builder->pairs, key);
    gguf_put_int(&builder->pairs, GGUF_ARRAY, 4);
    gguf_put_int(&builder->pairs, type, 4);
    gguf_put_int(&builder->pairs, count, 8);
    builder->pair_count++;
}

/* dims: as in the file, fastest first. The offset is given; where data is added, it is the writer's business. */
static inline void gguf_add_info(struct gguf_builder *builder, const char *name, const uint64_t *dims,
                                 uint32_t rank, uint32_t type, uint64_t offset)
{
    gguf_put_text(&builder->infos, name);
    gguf_put_int(&builder->infos, rank, 4);
    for (uint32_t i = 0; i < rank; i++) {
        gguf_put_int(&builder->infos, dims[i], 8);
    }
    gguf_put_int(&builder->infos, type, 4);
    gguf_put_int(&builder->infos, offset, 8);
    builder->tensor_count++;
}

static inline void gguf_pad(struct text *text, size_t alignment)
{
    while (text->length % alignment != 0) {
        text_append_bytes(text, "", 1);
    }
}

/* An F32 tensor of zeros. */
static inline void gguf_add_zeros(struct gguf_builder *builder, const char *name, uint64_t columns,
                                  uint64_t rows)
{
    uint64_t dims[] = {columns, rows};
    gguf_pad(&builder->data, 32);
    gguf_add_info(builder, name, dims, rows > 0 ? 2 : 1, 0, builder->data.length);
    for (uint64_t i = 0; i < columns * (rows > 0 ? rows : 1); i++) {
        gguf_put_int(&builder->data, 0, 4);
    }
}

/* The whole file into ret_file; the builder is emptied. */
static inline void gguf_build(struct gguf_builder *builder, uint32_t version, struct text *ret_file)
{
    text_append(ret_file, "GGUF");
    gguf_put_int(ret_file, version, 4);
    gguf_put_int(ret_file, builder->tensor_count, 8);
    gguf_put_int(ret_file, builder->pair_count, 8);
    text_append_bytes(ret_file, builder->pairs.bytes, builder->pairs.length);
    text_append_bytes(ret_file, builder->infos.bytes, builder->infos.length);
    if (builder->tensor_count > 0) {
        gguf_pad(ret_file, builder->alignment > 0 ? builder->alignment : 32);
    }
    text_append_bytes(ret_file, builder->data.bytes, builder->data.length);
    text_finish(&builder->pairs);
    text_finish(&builder->infos);
    text_finish(&builder->data);
    *builder = (struct gguf_builder){0};
}

#endif
