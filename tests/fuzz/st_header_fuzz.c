/*
 * tests/fuzz/st_header_fuzz.c: a safetensors header. The first 8 bytes are the length of the data behind it. What is accepted has
 * sorted, distinct names and tensors that cover the data exactly.
 */
#include "base/check.h"
#include "tests/fuzz/fuzz.h"
#include "workers/model/safetensors.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    uint64_t data_bytes = 0, covered = 0;
    if (count < sizeof data_bytes) {
        return 0;
    }
    memcpy(&data_bytes, bytes, sizeof data_bytes);
    size_t n = count - sizeof data_bytes;
    OWNED(arena) arena = arena_create(0);
    struct st_header header;
    struct error error = {0};
    if (!st_header_parse((const char *)bytes + sizeof data_bytes, n, data_bytes, arena, &header, &error)) {
        CHECK(error.code == ERROR_CORRUPT_FILE && error.message[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < header.tensor_count; i++) {
        const struct st_tensor *tensor = &header.tensors[i];
        CHECK(i == 0 || strcmp(header.tensors[i - 1].name, tensor->name) < 0);
        CHECK(tensor->offset_bytes >= 8 + n && tensor->bytes <= data_bytes);
        CHECK(tensor->offset_bytes - 8 - n <= data_bytes - tensor->bytes);
        covered += tensor->bytes;
    }
    CHECK(covered == data_bytes);
    return 0;
}
