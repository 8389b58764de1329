/*
 * base/memory.h: host memory. Small allocations abort when memory ends (the queue is durable); anything
 * sized by a model or a request goes through memory_try_array, after a limit check.
 */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include "base/error.h"
#include <stddef.h>

/* Zeroed; abort at the end of memory. Free with free(). */
void *memory_create(size_t count, size_t item_bytes) MUST_USE;
/* Grows like realloc; new bytes are not zeroed. Aborts at the end of memory. */
void *memory_resize(void *pointer, size_t count, size_t item_bytes) MUST_USE;
char *memory_copy_text(const char *text) MUST_USE; /* NULL gives NULL */

/* Zeroed, 64-byte aligned, overflow-checked. NULL and OUT_OF_MEMORY on failure, naming `what`. */
void *memory_try_array(size_t count, size_t item_bytes, const char *what, struct error *error) MUST_USE;

#endif
