/* base/memory.c: host memory; see memory.h for which function may fail and which aborts. */
#include "base/memory.h"
#include "base/check.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_ALIGNMENT ((size_t)64) /* a cache line, and the widest vector register */

void *memory_create(size_t count, size_t item_bytes)
{
    void *pointer = calloc(count > 0 ? count : 1, item_bytes > 0 ? item_bytes : 1);
    CHECK(pointer != NULL);
    return pointer;
}

void *memory_resize(void *pointer, size_t count, size_t item_bytes)
{
    size_t bytes = 0;
    CHECK(!__builtin_mul_overflow(count, item_bytes, &bytes));
    void *resized = realloc(pointer, bytes > 0 ? bytes : 1);
    CHECK(resized != NULL);
    return resized;
}

char *memory_copy_text(const char *text)
{
    if (text == NULL) {
        return NULL;
    }
    char *copy = strdup(text);
    CHECK(copy != NULL);
    return copy;
}

void *memory_try_array(size_t count, size_t item_bytes, const char *what, struct error *error)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, item_bytes, &bytes) || bytes > (size_t)PTRDIFF_MAX - MEMORY_ALIGNMENT) {
        (void)error_set(error, ERROR_OUT_OF_MEMORY, "%s: %zu items of %zu bytes exceed the address space",
                        what, count, item_bytes);
        return NULL;
    }
    size_t padded = (bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
    padded = padded > 0 ? padded : MEMORY_ALIGNMENT;
    void *pointer = aligned_alloc(MEMORY_ALIGNMENT, padded);
    if (pointer == NULL) {
        (void)error_set(error, ERROR_OUT_OF_MEMORY, "%s: no memory for %zu items of %zu bytes", what, count,
                        item_bytes);
        return NULL;
    }
    memset(pointer, 0, padded);
    return pointer;
}
