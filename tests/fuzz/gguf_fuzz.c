/*
 * tests/fuzz/gguf_fuzz.c: a GGUF file. The first two bytes are how many thousands of bytes of weights the file would have
 * after those that are given. What is accepted lies inside the file, and its config, names and tokenizer are refused with a
 * reason or made.
 */
#include "base/arena.h"
#include "base/check.h"
#include "tests/fuzz/fuzz.h"
#include "workers/model/gguf.h"

#include <stdlib.h>
#include <string.h>

static void check_map(const struct gguf *gguf, uint64_t file_bytes)
{
    struct gguf_map map;
    struct error error = {0};
    if (!gguf_map(gguf, &map, &error)) {
        CHECK(error.code != ERROR_NONE && error.message[0] != '\0');
        return;
    }
    for (size_t i = 0; i < map.count; i++) {
        const struct gguf_tensor_map *tensor = &map.tensors[i];
        CHECK(i == 0 || strcmp(map.tensors[i - 1].name, tensor->name) <= 0);
        CHECK(tensor->bytes <= file_bytes && tensor->offset_bytes <= file_bytes - tensor->bytes);
        CHECK(layout_fits(tensor->layout, tensor->layout_heads, (size_t)tensor->shape[0]));
    }
    gguf_map_finish(&map);
}

static void check_config(const struct gguf *gguf)
{
    struct error_list faults = {0};
    JSON_OWNED config = gguf_config(gguf, &faults);
    CHECK((config == NULL) == (faults.count > 0));
    error_list_finish(&faults);
}

static void check_tokenizer(const struct gguf *gguf)
{
    struct error error = {0};
    OWNED_MEMORY char *json = gguf_tokenizer_json(gguf, &error);
    if (json == NULL) {
        CHECK(error.code != ERROR_NONE && error.message[0] != '\0');
        return;
    }
    /* Only that it is JSON: tokenizer_fuzz has the rest, at a hundredth of the speed (it compiles patterns). */
    JSON_OWNED parsed = json_parse(json, strlen(json), (size_t)64 << 20, &error);
    CHECK(parsed != NULL || error.code != ERROR_MALFORMED_JSON);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (count < 2) {
        return 0;
    }
    struct error error = {0};
    uint64_t file_bytes = count - 2 + UINT64_C(1000) * (bytes[0] | (unsigned)bytes[1] << 8);
    OWNED(gguf) gguf = gguf_parse(bytes + 2, count - 2, file_bytes, &error);
    if (gguf == NULL) {
        CHECK(error.code != ERROR_NONE && error.message[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        CHECK(gguf->tensors[i].bytes <= file_bytes);
        CHECK(gguf->tensors[i].offset_bytes <= file_bytes - gguf->tensors[i].bytes);
    }
    check_map(gguf, file_bytes);
    check_config(gguf);
    check_tokenizer(gguf);
    return 0;
}
