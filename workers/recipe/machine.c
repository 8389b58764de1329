/*
 * workers/recipe/machine.c: what the bits of a result depend on besides the inputs: the instruction set that kernels choose from and
 * the BLAS library's core type.
 */
#include "workers/recipe/recipe_internal.h"

#include <stdio.h>

static const char *instruction_set(void)
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

const char *machine_identity(void)
{
    static char identity[128];
    if (identity[0] == '\0') {
        (void)snprintf(identity, sizeof identity, "%s", instruction_set());
    }
    return identity;
}
