/*
 * workers/process/sandbox.h: what a worker gives up before it reads a stranger's model.
 *
 * No privilege is needed. In order: the process dies with its parent, never gains privileges, writes no core,
 * holds no descriptor it was not given, is the first to go when memory ends, and yields the CPU to everyone
 * else. Then Landlock (Linux 5.13; silently absent where the kernel has none) leaves reading of the system,
 * of the given inputs, and writing below the work folder and the folder of kept scores alone; seccomp takes away sockets, exec, ptrace,
 * new processes, signals to others (the service runs as the same user) and the kernel's doors.
 *
 * One worker serves one attempt, so nothing is ever given back.
 */
#ifndef WORKERS_PROCESS_SANDBOX_H
#define WORKERS_PROCESS_SANDBOX_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* keep_fd: the one descriptor above 2 that stays; -1: none. is_background: nice 19, oom_score_adj 900. */
void sandbox_start(int keep_fd, bool is_background);

struct sandbox_paths {
    const char *const *readable; /* files and folders, [readable_count]; NULL entries are skipped */
    size_t readable_count;
    const char *writable; /* one folder; NULL: none */
    const char *cache;    /* another one; NULL: none */
    uint64_t
        memory_limit_bytes; /* 0: none; the address space is capped well above it, against runaways only */
    /* The job computes on a GPU: its device nodes can be written, the program's folder can be read (the backend lies there as a
     * shared object), and the address space is not capped, because the driver reserves hundreds of gigabytes of it. */
    bool uses_gpu;
};
/* Confines this process for good. Fails only if the kernel has a mechanism and refuses it. */
bool sandbox_enter(const struct sandbox_paths *paths, struct error *error) MUST_USE;

#endif
