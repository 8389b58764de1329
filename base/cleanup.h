/*
 * base/cleanup.h: owned locals. `OWNED(tensor) scores = NULL;` calls tensor_destroy(scores) when the scope
 * ends; `return TAKE(scores);` hands it on. A type joins with OWNED_DEFINE(tensor) after its _destroy.
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

#define OWNED(type) __attribute__((cleanup(type##_cleanup))) struct type *
#define OWNED_DEFINE(type)                                                                                   \
    static inline void type##_cleanup(struct type **pointer)                                                 \
    {                                                                                                        \
        type##_destroy(*pointer);                                                                            \
    }
/* For structs in the caller's memory: `FINISHED(text) line = {0};` calls text_finish(&line). */
#define FINISHED(type) __attribute__((cleanup(type##_finish))) struct type
#define TAKE(pointer)                                                                                        \
    (__extension__({                                                                                         \
        __typeof__(pointer) taken_ = (pointer);                                                              \
        (pointer) = NULL;                                                                                    \
        taken_;                                                                                              \
    }))

/* Plain memory: `OWNED_MEMORY char *text = NULL;` */
#define OWNED_MEMORY __attribute__((cleanup(memory_cleanup)))
static inline void memory_cleanup(void *pointer)
{
    void **owned = (void **)pointer;
    free(*owned);
}
/* Descriptors: `OWNED_FD int fd = -1;` */
#define OWNED_FD __attribute__((cleanup(fd_cleanup)))
static inline void fd_cleanup(const int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
}
/* Hands a descriptor on: `return fd_take(&fd);` */
static inline int fd_take(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#endif
