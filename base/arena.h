/*
 * base/arena.h: many small objects freed at once. Memory is zeroed and 16-byte aligned. Aborts at the end of
 * memory unless a byte limit was given, past which it returns NULL. One thread at a time.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/cleanup.h"
#include "base/error.h"
#include <stddef.h>

struct arena;
struct arena *arena_create(size_t limit_bytes); /* 0: no limit */
void *arena_allocate(struct arena *arena, size_t count, size_t item_bytes) MUST_USE;
char *arena_copy_text(struct arena *arena, const char *bytes, size_t length) MUST_USE; /* NUL-terminated */
void arena_destroy(struct arena *arena);
OWNED_DEFINE(arena)

#endif
