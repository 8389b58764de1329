/* workers/tensor/device.c: opening a backend: its table is copied, it chooses its members, and holes are filled along
 * falls_back_to, so that callers never look for NULL. Scratch belongs to thread slots and grows to what was asked for. */
#include "workers/tensor/backend.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct backend *const backends[] = {
#define TENSOR_BACKEND(id) &backend_##id,
#include "workers/tensor/backends.def"
#undef TENSOR_BACKEND
};
#define BACKEND_COUNT (sizeof backends / sizeof backends[0])

static const char *const names[] = {
#define TENSOR_BACKEND(id) #id,
#include "workers/tensor/backends.def"
#undef TENSOR_BACKEND
    NULL,
};

struct scratch {
    void *data; /* owned */
    size_t bytes;
};

struct device {
    struct backend backend;
    enum dtype dtype;
    void *state; /* the backend's */
    struct pool *pool;
    const struct cancel *cancel;
    struct scratch *scratch; /* [threads]; each is touched by who runs in the slot */
};

const char *const *backend_names(void)
{
    return names;
}

static const struct backend *find(const char *name)
{
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            return backends[i];
        }
    }
    return NULL;
}

static void fill_from(struct backend *backend, const struct backend *next)
{
#define FILL(member) backend->member = backend->member != NULL ? backend->member : next->member
    FILL(supports);
    FILL(overhead_bytes);
    FILL(memory_create);
    FILL(memory_destroy);
    FILL(memory_write);
    FILL(memory_read);
    FILL(memory_copy);
    FILL(matrix_bytes);
    FILL(matrix_write);
    FILL(norm);
    FILL(matmul);
    FILL(rope);
    FILL(attention);
    FILL(attention_rows);
    FILL(activate);
    FILL(add);
    FILL(copy_rows);
    FILL(route);
    FILL(softcap);
    FILL(head);
    FILL(scan);
    FILL(squares);
    FILL(distance);
#undef FILL
}

static void fill_holes(struct backend *backend)
{
    for (const struct backend *next = backend; next != &backend_reference;) {
        next = next->falls_back_to != NULL ? find(next->falls_back_to) : &backend_reference;
        CHECK(next != NULL && next->is_host == backend->is_host);
        fill_from(backend, next);
    }
}

/* The table as the backend leaves it on this machine, and its state. */
static bool open_backend(const struct backend *wanted, struct pool *pool, struct backend *ret_backend,
                         void **ret_state, struct error *error)
{
    *ret_backend = *wanted;
    if (!ret_backend->open(ret_backend, pool, ret_state, error)) {
        return error_prefix(error, "backend %s: ", wanted->name);
    }
    if (ret_backend->is_host) {
        fill_holes(ret_backend);
    }
    return true;
}

static bool open_best(enum dtype dtype, struct pool *pool, struct backend *ret_backend, void **ret_state,
                      struct error *error)
{
    for (size_t pass = 0; pass < 2; pass++) { /* one that is fast at it; else one that can */
        for (size_t i = 0; i < BACKEND_COUNT; i++) {
            if (!backends[i]->is_host || /* a GPU is used when it is asked for */
                !open_backend(backends[i], pool, ret_backend, ret_state, error)) {
                continue;
            }
            if (pass == 1 || ret_backend->supports(*ret_state, dtype)) {
                return true;
            }
            ret_backend->close(*ret_state);
        }
    }
    return false;
}

static bool list_names(const char *name, struct error *error)
{
    char list[160] = "";
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        size_t used = strlen(list);
        (void)snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    return error_set(error, ERROR_UNKNOWN_VALUE, "no backend is named \"%.40s\"; there are %s", name, list);
}

struct device *device_open(const char *name, enum dtype dtype, struct pool *pool, const struct cancel *cancel,
                           struct error *error)
{
    CHECK(pool != NULL);
    struct backend backend;
    void *state = NULL;
    if (name == NULL) {
        if (!open_best(dtype, pool, &backend, &state, error)) {
            return NULL;
        }
    } else {
        const struct backend *wanted = find(name);
        if (wanted == NULL) {
            list_names(name, error);
            return NULL;
        }
        if (!open_backend(wanted, pool, &backend, &state, error)) {
            return NULL;
        }
    }
    struct device *device = memory_create(1, sizeof *device);
    *device =
        (struct device){.backend = backend, .dtype = dtype, .state = state, .pool = pool, .cancel = cancel};
    device->scratch = memory_create(pool_thread_count(pool), sizeof *device->scratch);
    return device;
}

void device_destroy(struct device *device)
{
    if (device == NULL) {
        return;
    }
    device->backend.close(device->state);
    for (size_t i = 0; i < pool_thread_count(device->pool); i++) {
        free(device->scratch[i].data);
    }
    free(device->scratch);
    free(device);
}

const struct backend *device_get_backend(const struct device *device)
{
    return &device->backend;
}

const char *device_name(const struct device *device)
{
    return device->backend.name;
}

enum dtype device_dtype(const struct device *device)
{
    return device->dtype;
}

size_t device_thread_count(const struct device *device)
{
    return pool_thread_count(device->pool);
}

const char *device_identity(const struct device *device)
{
    return device->backend.identity != NULL ? device->backend.identity(device->state) : device->backend.name;
}

void *device_state(const struct device *device)
{
    return device->state;
}

bool exec_run(const struct exec *exec, size_t count, void (*task)(void *context, size_t index, size_t thread),
              void *context, struct error *error)
{
    if (exec->is_shared) {
        return pool_run(exec->device->pool, count, task, context, exec->device->cancel, error);
    }
    for (size_t i = 0; i < count; i++) {
        if (!cancel_check_now(exec->device->cancel, error)) {
            return false;
        }
        task(context, i, exec->thread);
    }
    return true;
}

void *device_scratch(struct device *device, size_t thread, size_t bytes, struct error *error)
{
    CHECK(thread < pool_thread_count(device->pool));
    struct scratch *scratch = &device->scratch[thread];
    if (scratch->bytes < bytes || scratch->data == NULL) {
        free(scratch->data);
        scratch->data = memory_try_array(bytes + 64, 1, "scratch", error);
        scratch->bytes = scratch->data != NULL ? bytes : 0;
    }
    return scratch->data;
}

uint64_t device_overhead_bytes(const char *name, enum dtype dtype, size_t threads, size_t rows, size_t widest)
{
    OWNED(pool) pool = pool_create(1, NULL);
    OWNED(device) device = pool != NULL ? device_open(name, dtype, pool, NULL, NULL) : NULL;
    return device != NULL && device->backend.overhead_bytes != NULL
               ? device->backend.overhead_bytes(device->state, threads, rows, widest)
               : 0;
}

void matrix_clear(struct device *device, const struct matrix *matrix)
{
    size_t bytes = device->backend.matrix_bytes(matrix->dtype, matrix->n, matrix->k);
    if (device->backend.is_host) {
        memset(matrix->data, 0, bytes);
        return;
    }
    static const char zeros[4096];
    for (size_t done = 0; done < bytes; done += sizeof zeros) {
        size_t left = bytes - done, part = left < sizeof zeros ? left : sizeof zeros;
        CHECK(device->backend.memory_write(device, (char *)matrix->data + done, zeros, part, NULL));
    }
}

void head_scan_start(struct head_scan *scan)
{
    *scan = (struct head_scan){.max = -INFINITY};
}

void head_scan_merge(struct head_scan *into, const struct head_scan *next)
{
    if (next->max == -INFINITY) {
        return;
    }
    if (next->max > into->max) {
        into->sum = into->sum * exp((double)into->max - (double)next->max) + next->sum;
        into->max = next->max;
        into->index = next->index;
        return;
    }
    into->sum += next->sum * exp((double)next->max - (double)into->max);
}

double head_scan_logsumexp(const struct head_scan *scan)
{
    return (double)scan->max + log(scan->sum);
}
