/* tests/fuzz/shard_index_fuzz.c: model.safetensors.index.json. No accepted shard name leaves the folder. */
#include "base/check.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"
#include "workers/model/safetensors.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    OWNED(arena) arena = arena_create(0);
    struct st_index index;
    struct error error = {0};
    if (!st_index_parse((const char *)bytes, count, arena, &index, &error)) {
        CHECK(error.code != ERROR_NONE && error.message[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < index.shard_count; i++) {
        CHECK(strchr(index.shards[i], '/') == NULL && index.shards[i][0] != '.');
        CHECK(text_ends_with(index.shards[i], ".safetensors"));
        CHECK(i == 0 || strcmp(index.shards[i - 1], index.shards[i]) < 0);
    }
    for (size_t i = 1; i < index.entry_count; i++) {
        CHECK(strcmp(index.entries[i - 1].tensor, index.entries[i].tensor) < 0);
    }
    return 0;
}
