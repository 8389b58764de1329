/* workers/tensor/cuda/cuda.c: opening a GPU, the order of operations on it, and the table. See cuda_internal.h. */
#include "workers/tensor/cuda/cuda_internal.h"

#include "base/memory.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOWEST_CAPABILITY 8 /* bf16 tensor cores, cp.async */

const struct cuda_host *cuda_host;

bool cuda_fine(cudaError_t status, const char *what, struct error *error)
{
    if (status == cudaSuccess) {
        return true;
    }
    (void)cudaGetLastError(); /* what can be cleared is; a broken context stays broken */
    return error_set(error, status == cudaErrorMemoryAllocation ? ERROR_OUT_OF_MEMORY : ERROR_INTERNAL,
                     "GPU: %s: %s", what, cudaGetErrorString(status));
}

bool cublas_fine(cublasStatus_t status, const char *what, struct error *error)
{
    return status == CUBLAS_STATUS_SUCCESS ||
           error_set(error, status == CUBLAS_STATUS_ALLOC_FAILED ? ERROR_OUT_OF_MEMORY : ERROR_INTERNAL,
                     "GPU: %s: cuBLASLt says %s", what, cublasLtGetStatusString(status));
}

/* ---- operations --------------------------------------------------------------------------------------------------------- */

struct cuda *cuda_enter_device(struct device *device, struct error *error)
{
    struct cuda *cuda = cuda_host->device_state(device);
    pthread_mutex_lock(&cuda->lock);
    bool is_fine = cuda_fine(cudaSetDevice(cuda->ordinal), "choosing the device", error);
    unsigned uploads = atomic_load(&cuda->uploads);
    if (is_fine && uploads != cuda->uploads_seen) {
        is_fine =
            cuda_fine(cudaEventRecord(cuda->upload_mark, cuda->upload_stream), "waiting for uploads",
                      error) &&
            cuda_fine(cudaStreamWaitEvent(cuda->stream, cuda->upload_mark, 0), "waiting for uploads", error);
        cuda->uploads_seen = is_fine ? uploads : cuda->uploads_seen;
    }
    if (!is_fine) {
        pthread_mutex_unlock(&cuda->lock);
        return NULL;
    }
    return cuda;
}

struct cuda *cuda_enter(const struct exec *exec, struct error *error)
{
    return cuda_host->check(exec, error) ? cuda_enter_device(exec->device, error) : NULL;
}

bool cuda_leave(struct cuda *cuda, bool is_fine)
{
    pthread_mutex_unlock(&cuda->lock);
    return is_fine;
}

bool cuda_reserve(struct buffer *buffer, size_t bytes, const char *what, struct error *error)
{
    if (buffer->bytes >= bytes && buffer->data != NULL) {
        return true;
    }
    (void)cudaFree(buffer->data); /* waits for whoever uses it */
    *buffer = (struct buffer){NULL, 0};
    size_t wanted = (bytes + 0xffff) & ~(size_t)0xffff;
    wanted = wanted > 0 ? wanted : 0x10000;
    if (!cuda_fine(cudaMalloc(&buffer->data, wanted), what, error)) {
        buffer->data = NULL;
        return false;
    }
    buffer->bytes = wanted;
    return true;
}

bool cuda_put(struct cuda *cuda, struct buffer *buffer, const void *host, size_t bytes,
              const void **ret_array, struct error *error)
{
    *ret_array = NULL;
    if (host == NULL || bytes == 0) {
        return true;
    }
    /* From pageable memory: the call returns once the driver has its own copy. */
    if (!cuda_reserve(buffer, bytes, "inputs of an operation", error) ||
        !cuda_fine(cudaMemcpyAsync(buffer->data, host, bytes, cudaMemcpyHostToDevice, cuda->stream),
                   "inputs of an operation", error)) {
        return false;
    }
    *ret_array = buffer->data;
    return true;
}

bool cuda_get(struct cuda *cuda, void *host, const void *from, size_t bytes, const char *what,
              struct error *error)
{
    return (bytes == 0 || cuda_fine(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, cuda->stream),
                                    what, error)) &&
           cuda_fine(cudaStreamSynchronize(cuda->stream), what, error);
}

void cuda_wrote(struct cuda *cuda, const void *to, size_t rows, size_t count, size_t stride)
{
    struct rounded *rounded = &cuda->rounded;
    if (rounded->x == NULL || rows == 0) {
        return;
    }
    uintptr_t start = (uintptr_t)to, end = start + ((rows - 1) * stride + count) * sizeof(float);
    uintptr_t kept = (uintptr_t)rounded->x;
    uintptr_t kept_end = kept + ((rounded->rows - 1) * rounded->x_stride + rounded->k) * sizeof(float);
    if (start < kept_end && kept < end) {
        rounded->x = NULL;
    }
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

static void close_cuda(void *state)
{
    struct cuda *cuda = state;
    if (cuda == NULL) {
        return;
    }
    (void)cudaSetDevice(cuda->ordinal);
    (void)cudaDeviceSynchronize();
    struct buffer *const buffers[] = {&cuda->inputs[0],  &cuda->inputs[1],       &cuda->results[0],
                                      &cuda->results[1], &cuda->packed,          &cuda->logits,
                                      &cuda->table.rows, &cuda->table.positions, &cuda->rounded.buffer,
                                      &cuda->table.tiles};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        (void)cudaFree(buffers[i]->data);
    }
    cuda_close_staging(cuda);
    (void)cudaFree(cuda->is_finite);
    (void)cudaFree(cuda->workspace);
    if (cuda->blas != NULL) {
        (void)cublasLtDestroy(cuda->blas);
    }
    if (cuda->upload_mark != NULL) {
        (void)cudaEventDestroy(cuda->upload_mark);
    }
    if (cuda->upload_stream != NULL) {
        (void)cudaStreamDestroy(cuda->upload_stream);
    }
    if (cuda->stream != NULL) {
        (void)cudaStreamDestroy(cuda->stream);
    }
    pthread_mutex_destroy(&cuda->lock);
    pthread_mutex_destroy(&cuda->staging_lock);
    pthread_cond_destroy(&cuda->slot_is_free);
    free(cuda->table.segments);
    free(cuda->algorithms);
    free(cuda);
}

/* The first GPU that this process sees (CUDA_VISIBLE_DEVICES chooses). */
static bool find_gpu(int *ret_ordinal, struct cudaDeviceProp *ret_properties, struct error *error)
{
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count < 1) {
        (void)cudaGetLastError();
        return error_set(error, ERROR_UNSUPPORTED, "no GPU can be used here: %s",
                         status != cudaSuccess ? cudaGetErrorString(status) : "the driver lists no device");
    }
    if (!cuda_fine(cudaGetDeviceProperties(ret_properties, 0), "asking for its properties", error)) {
        return false;
    }
    if (ret_properties->major < LOWEST_CAPABILITY) {
        return error_set(error, ERROR_UNSUPPORTED, "%.100s has compute capability %d.%d; %d.0 is the lowest",
                         ret_properties->name, ret_properties->major, ret_properties->minor,
                         LOWEST_CAPABILITY);
    }
    *ret_ordinal = 0;
    return true;
}

static void set_identity(struct cuda *cuda, const struct cudaDeviceProp *properties)
{
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    (void)snprintf(cuda->identity, sizeof cuda->identity, "cuda %d, driver %d, cublasLt %zu, %.120s, sm_%d%d",
                   runtime, driver, cublasLtGetVersion(), properties->name, properties->major,
                   properties->minor);
}

static bool make_streams(struct cuda *cuda, struct error *error)
{
    const int32_t one = 1;
    return cuda_fine(cudaSetDevice(cuda->ordinal), "choosing the device", error) &&
           cuda_fine(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "opening", error) &&
           cuda_fine(cudaStreamCreateWithFlags(&cuda->upload_stream, cudaStreamNonBlocking), "opening",
                     error) &&
           cuda_fine(cudaEventCreateWithFlags(&cuda->upload_mark, cudaEventDisableTiming), "opening",
                     error) &&
           cublas_fine(cublasLtCreate(&cuda->blas), "opening", error) &&
           cuda_fine(cudaMalloc(&cuda->workspace, WORKSPACE_BYTES), "workspace", error) &&
           cuda_fine(cudaMalloc((void **)&cuda->is_finite, sizeof one), "opening", error) &&
           cuda_fine(cudaMemcpy(cuda->is_finite, &one, sizeof one, cudaMemcpyHostToDevice), "opening",
                     error) &&
           cuda_open_staging(cuda, error);
}

static bool open_cuda(struct backend *self, struct pool *pool, void **ret_state, struct error *error)
{
    (void)self;
    (void)pool; /* the GPU has threads of its own */
    struct cudaDeviceProp properties;
    int ordinal = 0;
    if (!find_gpu(&ordinal, &properties, error)) {
        return false;
    }
    struct cuda *cuda = memory_create(1, sizeof *cuda);
    cuda->ordinal = ordinal;
    pthread_mutex_init(&cuda->lock, NULL);
    pthread_mutex_init(&cuda->staging_lock, NULL);
    pthread_cond_init(&cuda->slot_is_free, NULL);
    set_identity(cuda, &properties);
    if (!make_streams(cuda, error)) {
        close_cuda(cuda);
        return false;
    }
    *ret_state = cuda;
    return true;
}

static const char *identity(void *state)
{
    return ((struct cuda *)state)->identity;
}

static bool supports(void *state, enum dtype dtype)
{
    (void)state;
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16;
}

static const struct backend table = {
    .name = "cuda",
    .summary =
        "NVIDIA GPUs from compute capability 8.0: cuBLASLt and own kernels, in a shared object that is opened when asked for.",
    .is_host = false,
    .open = open_cuda,
    .close = close_cuda,
    .identity = identity,
    .supports = supports,
    .memory_create = cuda_memory_create,
    .memory_destroy = cuda_memory_destroy,
    .memory_write = cuda_memory_write,
    .memory_read = cuda_memory_read,
    .memory_copy = cuda_memory_copy,
    .matrix_bytes = cuda_matrix_bytes,
    .matrix_write = cuda_matrix_write,
    .norm = cuda_norm,
    .matmul = cuda_matmul,
    .rope = cuda_rope,
    .attention = cuda_attention,
    .attention_rows = cuda_attention_rows,
    .activate = cuda_activate,
    .add = cuda_add,
    .copy_rows = cuda_copy_rows,
    .route = cuda_route,
    .softcap = cuda_softcap,
    .head = cuda_head,
    .scan = cuda_scan,
    .squares = cuda_squares,
    .distance = cuda_distance,
};

__attribute__((visibility("default"))) const struct backend *
pruned_cuda_backend_1(const struct cuda_host *host, struct error *error)
{
    if (strcmp(host->version, PRUNED_VERSION) != 0 || host->backend_bytes != sizeof table) {
        error_set(error, ERROR_UNSUPPORTED, "%s is of version %s, the program of %.40s", CUDA_LIBRARY,
                  PRUNED_VERSION, host->version);
        return NULL;
    }
    cuda_host = host;
    return &table;
}
