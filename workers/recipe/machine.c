/*
 * workers/recipe/machine.c: what the bits of a result depend on besides the inputs: the backend, the element type of its products, the
 * instruction set that kernels choose from, a library's version and core type.
 */
#include "workers/recipe/recipe_internal.h"

#include "workers/tensor/backend.h"
#include "workers/tensor/dense.h"
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

bool machine_describe(const struct recipe_compute *compute, struct pool *pool, struct machine *ret_machine,
                      struct error *error)
{
    OWNED(device) device = device_open(compute->backend, compute->dtype, pool, NULL, error);
    if (device == NULL) {
        return false;
    }
    (void)snprintf(ret_machine->backend, sizeof ret_machine->backend, "%s", device_name(device));
    (void)snprintf(ret_machine->identity, sizeof ret_machine->identity, "%s, %s %s, %s, %s",
                   machine_instruction_set(), device_name(device), compute->dtype_name,
                   device_identity(device), dense_identity());
    return true;
}
