/*
 * workers/tensor/cuda/cuda_internal.h: what the files of libpruned-cuda.so share.
 *
 * A device has one stream for all operations and one for uploads. Operations take the lock, wait (on the device) for the uploads
 * that were started before, and put their kernels on the stream; only those with results for the host wait for the GPU. Uploads
 * go through pinned slots from any thread, after what was on the operations' stream when they were started.
 *
 * `rounded` is the bf16 copy of the rows that the last norm, activation or attention wrote, or that the last product read: most
 * products read such rows, several of them the same. Every operation that writes device memory says so (cuda_wrote), and a copy
 * whose rows were touched is forgotten.
 */
#ifndef WORKERS_TENSOR_CUDA_CUDA_INTERNAL_H
#define WORKERS_TENSOR_CUDA_CUDA_INTERNAL_H

#include "workers/tensor/cuda/cuda.h"
#include "workers/tensor/cuda/kernels.h"
#include <cublasLt.h>
#include <pthread.h>
#include <stdatomic.h>

#define STAGING_SLOTS     4
#define STAGING_BYTES     ((size_t)8 << 20)
#define WORKSPACE_BYTES   ((size_t)32 << 20)
#define ROUNDED_BYTES     ((size_t)512 << 20) /* results are not rounded ahead beyond this */
#define PRODUCT_ROWS      ((size_t)16384)     /* rows that are rounded at once for a product */
#define HEAD_ROWS         ((size_t)4096)      /* the head's logits: at most 4096 x 8192 fp32, 128 MiB */
#define HEAD_COLUMNS      ((size_t)8192)      /* and the segments of every scan */
#define MANY_NOMINAL_ROWS ((size_t)4096)      /* for which the algorithm of a product is chosen */
#define FEW_NOMINAL_ROWS  ((size_t)16)

/* Device memory that grows. */
struct buffer {
    void *data; /* owned */
    size_t bytes;
};

struct rounded {
    struct buffer buffer; /* bf16 [rows, stride], stride = k rounded up to 8 */
    const float *x;       /* what it is the copy of; NULL: nothing */
    size_t x_stride, rows, k, stride;
};

struct segment_table {
    struct segment *segments; /* owned; what the rest was made for */
    size_t count;
    struct buffer rows, positions, tiles;
    size_t row_count, tile_count, first_row, end_row;
};

/* One algorithm of cuBLASLt and what it was chosen for. */
struct product_key {
    enum dtype dtype;
    size_t n, k, nominal_rows, w_stride, x_stride, out_stride;
    unsigned w_alignment, x_alignment, out_alignment, bias_alignment; /* bytes, up to 16; bias: 0 if none */
};
struct algorithm {
    struct product_key key;
    cublasLtMatmulAlgo_t algorithm;
    bool adds_bias; /* in its epilogue */
};

struct slot {
    void *bytes;        /* pinned, STAGING_BYTES */
    cudaEvent_t before; /* what an upload waits for */
    cudaEvent_t done;   /* the last upload from here */
    bool is_taken;      /* guarded by staging_lock */
};

struct cuda {
    int ordinal;
    char identity[256];
    cudaStream_t stream, upload_stream;
    cudaEvent_t upload_mark;
    cublasLtHandle_t blas;
    void *workspace; /* of the products, WORKSPACE_BYTES */

    pthread_mutex_t lock; /* all below, up to the next lock */
    unsigned uploads_seen;
    int32_t *is_finite; /* on the device; 1 between operations */
    struct rounded rounded;
    struct segment_table table;
    struct algorithm *algorithms; /* owned */
    size_t algorithm_count;
    /* Per operation: indices, factors or scales; results; bf16 keys and values; logits of the head. */
    struct buffer inputs[2], results[2], packed, logits;

    pthread_mutex_t staging_lock;
    pthread_cond_t slot_is_free;
    struct slot slots[STAGING_SLOTS];
    atomic_uint uploads; /* started so far */
};

extern const struct cuda_host *cuda_host; /* set by the entry */

/* ---- errors (cuda.c): true where the status is success; else OUT_OF_MEMORY or INTERNAL, naming `what` ------------------- */
bool cuda_fine(cudaError_t status, const char *what, struct error *error);
bool cublas_fine(cublasStatus_t status, const char *what, struct error *error);

/* ---- operations (cuda.c) ------------------------------------------------------------------------------------------------ */

/* Takes the lock and puts what follows after all uploads so far; NULL: CANCELLED or a fault. cuda_leave gives the lock back and
 * returns is_fine. */
struct cuda *cuda_enter(const struct exec *exec, struct error *error) MUST_USE;
struct cuda *cuda_enter_device(struct device *device, struct error *error) MUST_USE;
bool cuda_leave(struct cuda *cuda, bool is_fine);
/* Contents are lost when it grows. Waits for the device then. */
bool cuda_reserve(struct buffer *buffer, size_t bytes, const char *what, struct error *error) MUST_USE;
/* Host array into a buffer, in the order of the stream. host NULL: *ret_array is NULL. */
bool cuda_put(struct cuda *cuda, struct buffer *buffer, const void *host, size_t bytes,
              const void **ret_array, struct error *error) MUST_USE;
/* Waits for the stream and copies to the host. */
bool cuda_get(struct cuda *cuda, void *host, const void *from, size_t bytes, const char *what,
              struct error *error) MUST_USE;
/* Rows [rows, count] at stride were or will be written. */
void cuda_wrote(struct cuda *cuda, const void *to, size_t rows, size_t count, size_t stride);

/* ---- memory (memory.c) -------------------------------------------------------------------------------------------------- */
bool cuda_open_staging(struct cuda *cuda, struct error *error) MUST_USE;
void cuda_close_staging(struct cuda *cuda);
void *cuda_memory_create(struct device *device, size_t bytes, const char *what, struct error *error);
void cuda_memory_destroy(struct device *device, void *memory);
bool cuda_memory_write(struct device *device, void *to, const void *from, size_t bytes, struct error *error);
bool cuda_memory_read(struct device *device, void *to, const void *from, size_t bytes, struct error *error);
bool cuda_memory_copy(struct device *device, void *to, const void *from, size_t bytes, struct error *error);
size_t cuda_matrix_stride(enum dtype dtype, size_t k); /* elements between rows of a matrix */
size_t cuda_matrix_bytes(enum dtype dtype, size_t n, size_t k);
bool cuda_matrix_write(struct device *device, const struct matrix *matrix, size_t first_row, size_t row_count,
                       const float *rows, size_t stride, struct error *error);

/* ---- products (products.c) ---------------------------------------------------------------------------------------------- */
/* Where a result of `rows` rows of `count` is also to be written as bf16, if it is; NULL: nowhere. Claim it by cuda_rounded_keep
 * once the kernel is on the stream. */
uint16_t *cuda_rounded_room(struct cuda *cuda, const struct device *device, size_t rows, size_t count);
void cuda_rounded_keep(struct cuda *cuda, const float *x, size_t x_stride, size_t rows, size_t count);
bool cuda_matmul(const struct exec *exec, const struct matmul *job, struct error *error);
bool cuda_head(const struct exec *exec, const struct head *job, struct error *error);

/* ---- the rest (operations.c, reductions.c) ------------------------------------------------------------------------------ */
bool cuda_norm(const struct exec *exec, const struct norm *job, struct error *error);
bool cuda_rope(const struct exec *exec, const struct rope *job, struct error *error);
bool cuda_attention(const struct exec *exec, const struct attention *job, struct error *error);
bool cuda_attention_rows(const struct exec *exec, const struct attention_rows *job, struct error *error);
bool cuda_activate(const struct exec *exec, const struct activate *job, struct error *error);
bool cuda_add(const struct exec *exec, const struct add *job, bool *ret_is_finite, struct error *error);
bool cuda_copy_rows(const struct exec *exec, const struct copy_rows *job, struct error *error);
bool cuda_softcap(const struct exec *exec, const struct softcap *job, struct error *error);
bool cuda_route(const struct exec *exec, const struct route *job, struct error *error);
bool cuda_scan(const struct exec *exec, const struct scan *job, struct error *error);
bool cuda_squares(const struct exec *exec, size_t rows, size_t count, const float *x, size_t stride,
                  double *ret_squares, struct error *error);
bool cuda_distance(const struct exec *exec, const struct distance *job, struct error *error);

#endif
