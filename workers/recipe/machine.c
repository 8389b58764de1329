/*
 * workers/recipe/machine.c: what the bits of a result depend on besides the inputs: the instruction set that kernels choose from and
 * the BLAS library's core type.
 */
#include "workers/recipe/recipe_internal.h"

#include "workers/tensor/backend.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

const char *machine_instruction_set(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) {
        return "x86-64 avx512f";
    }
    return __builtin_cpu_supports("avx2") ? "x86-64 avx2" : "x86-64";
#else
    return "generic";
#endif
}

bool machine_reset_peak(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    bool is_good = write(fd, "5", 1) == 1; /* 5: VmHWM starts again from what is resident now */
    (void)close(fd);
    return is_good;
}

const char *machine_identity(void)
{
    static char identity[128];
    if (identity[0] == '\0') {
        const struct backend *backend = backend_open(NULL, NULL);
        const char *library =
            backend != NULL && backend->library != NULL ? backend->library() : "own kernels";
        (void)snprintf(identity, sizeof identity, "%s, %s", machine_instruction_set(), library);
    }
    return identity;
}
