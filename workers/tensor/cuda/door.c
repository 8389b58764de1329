/* workers/tensor/cuda/door.c: see cuda.h. What the program knows of CUDA: where the shared object may be. It stays loaded: a
 * driver's threads do not survive their code. */
#include "workers/tensor/cuda/cuda.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void nothing(void *context, size_t index, size_t thread)
{
    (void)context;
    (void)index;
    (void)thread;
}

/* A turn of exec_run where it is called polls the cancel flag. */
static bool check(const struct exec *exec, struct error *error)
{
    const struct exec here = {.device = exec->device, .is_shared = false, .thread = exec->thread};
    return exec_run(&here, 1, nothing, NULL, error);
}

static const struct cuda_host host = {
    .version = PRUNED_VERSION,
    .backend_bytes = sizeof(struct backend),
    .device_state = device_state,
    .device_dtype = device_dtype,
    .check = check,
};

/* Beside the program, in the library folder, or where the loader looks; the first that exists. */
static void find_library(char *ret_path, size_t size)
{
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0) {
        program[length] = '\0';
        char *slash = strrchr(program, '/');
        if (slash != NULL) {
            *slash = '\0';
            int needed = snprintf(ret_path, size, "%s/%s", program, CUDA_LIBRARY);
            if (needed > 0 && (size_t)needed < size && access(ret_path, R_OK) == 0) {
                return;
            }
        }
    }
    (void)snprintf(ret_path, size, "%s/%s", PRUNED_LIBDIR, CUDA_LIBRARY);
    if (access(ret_path, R_OK) != 0) {
        (void)snprintf(ret_path, size, "%s", CUDA_LIBRARY);
    }
}

static const struct backend *load(struct error *error)
{
    char path[PATH_MAX];
    find_library(path, sizeof path);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        error_set(
            error, ERROR_UNSUPPORTED,
            "%s could not be opened (%.200s); it is built with -Dcuda=enabled and lies beside the program or in %s",
            CUDA_LIBRARY, why != NULL ? why : "no reason given", PRUNED_LIBDIR);
        return NULL;
    }
    const struct backend *(*entry)(const struct cuda_host *, struct error *) = NULL;
    void *symbol = dlsym(library, CUDA_ENTRY);
    if (symbol == NULL) {
        error_set(error, ERROR_UNSUPPORTED, "%.200s has no entry %s: it belongs to another version of pruned",
                  path, CUDA_ENTRY);
        return NULL;
    }
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from an object's pointer to a function's */
    return entry(&host, error);
}

static bool open_cuda(struct backend *self, struct pool *pool, void **ret_state, struct error *error)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const struct backend *loaded; /* guarded by lock */
    pthread_mutex_lock(&lock);
    loaded = loaded != NULL ? loaded : load(error);
    const struct backend *table = loaded;
    pthread_mutex_unlock(&lock);
    if (table == NULL) {
        return false;
    }
    struct backend chosen = *table;
    if (!chosen.open(&chosen, pool, ret_state, error)) {
        return false;
    }
    *self = chosen;
    return true;
}

const struct backend backend_cuda = {
    .name = "cuda",
    .summary =
        "NVIDIA GPUs from compute capability 8.0: cuBLASLt and own kernels, in a shared object that is opened when asked for.",
    .is_host = false,
    .open = open_cuda,
};
