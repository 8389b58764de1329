/*
 * workers/tensor/cuda/memory.c: device memory, and the way to and from it.
 *
 * Whatever goes up is first put into one of a few pinned slots (a matrix's rows are rounded on the way), then copied by the
 * upload stream while the caller fills the next slot. An upload waits on the device for the operations that were
 * started before it, because they may still read what it overwrites; operations started later wait for it in turn.
 */
#include "workers/tensor/cuda/cuda_internal.h"

#include "base/check.h"
#include "workers/tensor/dtype.h"
#include <string.h>

/* ---- slots -------------------------------------------------------------------------------------------------------------- */

bool cuda_open_staging(struct cuda *cuda, struct error *error)
{
    for (size_t i = 0; i < STAGING_SLOTS; i++) {
        struct slot *slot = &cuda->slots[i];
        if (!cuda_fine(cudaMallocHost(&slot->bytes, STAGING_BYTES), "pinned memory", error) ||
            !cuda_fine(cudaEventCreateWithFlags(&slot->before, cudaEventDisableTiming), "pinned memory",
                       error) ||
            !cuda_fine(cudaEventCreateWithFlags(&slot->done, cudaEventDisableTiming), "pinned memory",
                       error)) {
            return false;
        }
    }
    return true;
}

void cuda_close_staging(struct cuda *cuda)
{
    for (size_t i = 0; i < STAGING_SLOTS; i++) {
        struct slot *slot = &cuda->slots[i];
        if (slot->before != NULL) {
            (void)cudaEventDestroy(slot->before);
        }
        if (slot->done != NULL) {
            (void)cudaEventDestroy(slot->done);
        }
        (void)cudaFreeHost(slot->bytes);
    }
}

/* A slot whose last copy has ended; waits for one. Any thread. */
static struct slot *take_slot(struct cuda *cuda, struct error *error)
{
    struct slot *slot = NULL;
    pthread_mutex_lock(&cuda->staging_lock);
    while (slot == NULL) {
        for (size_t i = 0; i < STAGING_SLOTS && slot == NULL; i++) {
            slot = cuda->slots[i].is_taken ? NULL : &cuda->slots[i];
        }
        if (slot == NULL) {
            pthread_cond_wait(&cuda->slot_is_free, &cuda->staging_lock);
        }
    }
    slot->is_taken = true;
    pthread_mutex_unlock(&cuda->staging_lock);
    if (!cuda_fine(cudaSetDevice(cuda->ordinal), "choosing the device", error) ||
        !cuda_fine(cudaEventSynchronize(slot->done), "a copy", error)) {
        pthread_mutex_lock(&cuda->staging_lock);
        slot->is_taken = false;
        pthread_cond_signal(&cuda->slot_is_free);
        pthread_mutex_unlock(&cuda->staging_lock);
        return NULL;
    }
    return slot;
}

static void give_slot(struct cuda *cuda, struct slot *slot)
{
    pthread_mutex_lock(&cuda->staging_lock);
    slot->is_taken = false;
    pthread_cond_signal(&cuda->slot_is_free);
    pthread_mutex_unlock(&cuda->staging_lock);
}

/* Starts the copy of a filled slot and gives it back. */
static bool send(struct cuda *cuda, struct slot *slot, void *to, size_t bytes, struct error *error)
{
    bool is_fine =
        cuda_fine(cudaEventRecord(slot->before, cuda->stream), "an upload", error) &&
        cuda_fine(cudaStreamWaitEvent(cuda->upload_stream, slot->before, 0), "an upload", error) &&
        cuda_fine(cudaMemcpyAsync(to, slot->bytes, bytes, cudaMemcpyHostToDevice, cuda->upload_stream),
                  "an upload", error) &&
        cuda_fine(cudaEventRecord(slot->done, cuda->upload_stream), "an upload", error);
    (void)atomic_fetch_add(&cuda->uploads, 1);
    give_slot(cuda, slot);
    return is_fine;
}

/* ---- plain memory ------------------------------------------------------------------------------------------------------- */

void *cuda_memory_create(struct device *device, size_t bytes, const char *what, struct error *error)
{
    struct cuda *cuda = cuda_enter_device(device, error);
    if (cuda == NULL) {
        return NULL;
    }
    void *memory = NULL;
    size_t wanted = bytes > 0 ? bytes : 1;
    cudaError_t status = cudaMalloc(&memory, wanted);
    if (status != cudaSuccess) {
        size_t left = 0, total = 0;
        (void)cudaGetLastError();
        if (cudaMemGetInfo(&left, &total) == cudaSuccess &&
            (status == cudaErrorMemoryAllocation || wanted > total)) {
            error_set(error, ERROR_OUT_OF_MEMORY, "GPU: %s needs %zu bytes; %zu of %zu are free", what, bytes,
                      left, total);
            (void)cuda_leave(cuda, false);
            return NULL;
        }
    }
    bool is_fine = cuda_fine(status, what, error);
    if (is_fine && !cuda_fine(cudaMemsetAsync(memory, 0, wanted, cuda->stream), what, error)) {
        (void)cudaFree(memory);
        is_fine = false;
    }
    return cuda_leave(cuda, is_fine) ? memory : NULL;
}

void cuda_memory_destroy(struct device *device, void *memory)
{
    if (memory == NULL) {
        return;
    }
    struct cuda *cuda = cuda_host->device_state(device);
    pthread_mutex_lock(&cuda->lock);
    /* Its size is not known here, and its address may come back as something else. */
    cuda->rounded.x = NULL;
    (void)cudaSetDevice(cuda->ordinal);
    (void)cudaFree(memory); /* waits for all streams */
    (void)cuda_leave(cuda, true);
}

/* What follows touches device memory from the host's side: forget copies of it. */
static void forget(struct cuda *cuda, const void *to, size_t bytes)
{
    pthread_mutex_lock(&cuda->lock);
    cuda_wrote(cuda, to, 1, (bytes + sizeof(float) - 1) / sizeof(float), 0);
    pthread_mutex_unlock(&cuda->lock);
}

bool cuda_memory_write(struct device *device, void *to, const void *from, size_t bytes, struct error *error)
{
    struct cuda *cuda = cuda_host->device_state(device);
    forget(cuda, to, bytes);
    for (size_t start = 0; start < bytes; start += STAGING_BYTES) {
        size_t part = bytes - start < STAGING_BYTES ? bytes - start : STAGING_BYTES;
        struct slot *slot = take_slot(cuda, error);
        if (slot == NULL) {
            return false;
        }
        memcpy(slot->bytes, (const char *)from + start, part);
        if (!send(cuda, slot, (char *)to + start, part, error)) {
            return false;
        }
    }
    return true;
}

/* Two slots: one is filled by the device while the other is emptied here. */
static bool read_slots(struct cuda *cuda, struct slot *const *slots, char *to, const char *from, size_t bytes,
                       struct error *error)
{
    size_t pending = 0, done = 0, parts = (bytes + STAGING_BYTES - 1) / STAGING_BYTES;
    for (; done < parts; done++) {
        for (; pending < parts && pending < done + 2; pending++) {
            size_t start = pending * STAGING_BYTES;
            size_t part = bytes - start < STAGING_BYTES ? bytes - start : STAGING_BYTES;
            struct slot *slot = slots[pending % 2];
            if (!cuda_fine(
                    cudaMemcpyAsync(slot->bytes, from + start, part, cudaMemcpyDeviceToHost, cuda->stream),
                    "a download", error) ||
                !cuda_fine(cudaEventRecord(slot->done, cuda->stream), "a download", error)) {
                return false;
            }
        }
        size_t start = done * STAGING_BYTES,
               part = bytes - start < STAGING_BYTES ? bytes - start : STAGING_BYTES;
        if (!cuda_fine(cudaEventSynchronize(slots[done % 2]->done), "a download", error)) {
            return false;
        }
        memcpy(to + start, slots[done % 2]->bytes, part);
    }
    return true;
}

bool cuda_memory_read(struct device *device, void *to, const void *from, size_t bytes, struct error *error)
{
    /* The lock before the slots: no other reader holds one slot and waits for its second. Writers wait for nothing else. */
    struct cuda *cuda = cuda_enter_device(device, error);
    if (cuda == NULL) {
        return false;
    }
    struct slot *slots[2] = {take_slot(cuda, error), NULL};
    slots[1] = slots[0] != NULL ? take_slot(cuda, error) : NULL;
    bool is_fine = slots[1] != NULL && read_slots(cuda, slots, to, from, bytes, error);
    for (size_t i = 0; i < 2; i++) {
        if (slots[i] != NULL) {
            give_slot(cuda, slots[i]);
        }
    }
    return cuda_leave(cuda, is_fine);
}

bool cuda_memory_copy(struct device *device, void *to, const void *from, size_t bytes, struct error *error)
{
    struct cuda *cuda = cuda_enter_device(device, error);
    if (cuda == NULL) {
        return false;
    }
    cuda_wrote(cuda, to, 1, (bytes + sizeof(float) - 1) / sizeof(float), 0);
    return cuda_leave(cuda, bytes == 0 || cuda_fine(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                                                    cuda->stream),
                                                    "a copy", error));
}

/* ---- matrices ----------------------------------------------------------------------------------------------------------- */

/* Rows start at multiples of 16 bytes, which the tensor cores ask for; the padding is zero and takes part in products. */
size_t cuda_matrix_stride(enum dtype dtype, size_t k)
{
    return dtype == DTYPE_BF16 ? (k + 7) / 8 * 8 : (k + 3) / 4 * 4;
}

size_t cuda_matrix_bytes(enum dtype dtype, size_t n, size_t k)
{
    return n * cuda_matrix_stride(dtype, k) * dtype_bytes(dtype);
}

bool cuda_matrix_write(struct device *device, const struct matrix *matrix, size_t first_row, size_t row_count,
                       const float *rows, size_t stride, struct error *error)
{
    CHECK(first_row + row_count <= matrix->n);
    struct cuda *cuda = cuda_host->device_state(device);
    size_t width = cuda_matrix_stride(matrix->dtype, matrix->k), item = dtype_bytes(matrix->dtype),
           row_bytes = width * item;
    if (matrix->k == 0) {
        return true;
    }
    if (row_bytes > STAGING_BYTES) {
        return error_set(error, ERROR_UNSUPPORTED, "GPU: rows of %zu weights are wider than %zu bytes",
                         matrix->k, STAGING_BYTES);
    }
    size_t at_once = STAGING_BYTES / row_bytes;
    for (size_t start = 0; start < row_count; start += at_once) {
        size_t part = row_count - start < at_once ? row_count - start : at_once;
        struct slot *slot = take_slot(cuda, error);
        if (slot == NULL) {
            return false;
        }
        for (size_t r = 0; r < part; r++) {
            char *to = (char *)slot->bytes + r * row_bytes;
            dtype_from_f32(matrix->dtype, rows + (start + r) * stride, matrix->k, to);
            memset(to + matrix->k * item, 0, (width - matrix->k) * item);
        }
        if (!send(cuda, slot, (char *)matrix->data + (first_row + start) * row_bytes, part * row_bytes,
                  error)) {
            return false;
        }
    }
    return true;
}
