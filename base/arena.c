/*
 * base/arena.c: a list of blocks, newest first; allocation bumps a cursor in the newest. Blocks double from 4
 * KiB to 1 MiB; an object larger than a block gets one of its own. The limit counts what was asked for
 * (rounded up to 16 bytes), not the unused rest of blocks.
 */
#include "base/arena.h"
#include "base/check.h"
#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_ALIGNMENT         ((size_t)16)
#define ARENA_FIRST_BLOCK_BYTES ((size_t)4096)
#define ARENA_LAST_BLOCK_BYTES  ((size_t)1 << 20)

struct arena_block {
    struct arena_block *next; /* older */
    size_t used, capacity;    /* of bytes[] */
    _Alignas(16) unsigned char bytes[];
};

struct arena {
    struct arena_block *newest;
    size_t limit_bytes, total_bytes, next_block_bytes;
};

struct arena *arena_create(size_t limit_bytes)
{
    struct arena *arena = memory_create(1, sizeof *arena);
    arena->limit_bytes = limit_bytes;
    arena->next_block_bytes = ARENA_FIRST_BLOCK_BYTES;
    return arena;
}

static struct arena_block *arena_add_block(struct arena *arena, size_t bytes)
{
    size_t capacity = arena->next_block_bytes;
    if (arena->next_block_bytes < ARENA_LAST_BLOCK_BYTES) {
        arena->next_block_bytes *= 2;
    }
    if (capacity < bytes) {
        capacity = bytes;
    }
    CHECK(capacity <= (size_t)PTRDIFF_MAX - sizeof(struct arena_block));
    struct arena_block *block = memory_create(1, sizeof *block + capacity);
    block->capacity = capacity;
    block->next = arena->newest;
    arena->newest = block;
    return block;
}

void *arena_allocate(struct arena *arena, size_t count, size_t item_bytes)
{
    size_t bytes = 0, total = 0;
    bool overflow = __builtin_mul_overflow(count, item_bytes, &bytes) ||
                    __builtin_add_overflow(bytes > 0 ? bytes : 1, ARENA_ALIGNMENT - 1, &bytes);
    bytes -= bytes % ARENA_ALIGNMENT;
    overflow = overflow || __builtin_add_overflow(arena->total_bytes, bytes, &total);
    if (arena->limit_bytes > 0 && (overflow || total > arena->limit_bytes)) {
        return NULL;
    }
    CHECK(!overflow);
    struct arena_block *block = arena->newest;
    if (block == NULL || block->capacity - block->used < bytes) {
        block = arena_add_block(arena, bytes);
    }
    void *object = block->bytes + block->used;
    block->used += bytes;
    arena->total_bytes = total;
    return object;
}

char *arena_copy_text(struct arena *arena, const char *bytes, size_t length)
{
    CHECK(length < SIZE_MAX);
    char *copy = arena_allocate(arena, length + 1, 1);
    if (copy != NULL && length > 0) {
        memcpy(copy, bytes, length);
    }
    return copy;
}

void arena_destroy(struct arena *arena)
{
    if (arena == NULL) {
        return;
    }
    struct arena_block *block = arena->newest;
    while (block != NULL) {
        struct arena_block *older = block->next;
        free(block);
        block = older;
    }
    free(arena);
}
