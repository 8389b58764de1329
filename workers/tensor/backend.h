/*
 * workers/tensor/backend.h: the arithmetic behind the model, as a table of whole operations on rows that lie in
 * the device's memory. `reference` implements every one in plain C and is the truth that the others are tested
 * against; a member that a backend leaves NULL is answered by the backend it builds upon (`falls_back_to`, in
 * the end by reference).
 *
 * Words. A row is one token's vector, fp32, contiguous; a job says how far rows lie apart (strides, in elements).
 * A matrix holds weights [n, k] in a layout of the backend's own, F32 or BF16; products of a BF16 matrix are made of
 * operands rounded to bf16 and summed in fp32. A segment is a run of rows that are consecutive tokens of one sequence.
 *
 * Determinism (design section 4). What a row comes out as depends on that row, on the weights, and for attention
 * on the earlier rows of its sequence: never on what else is in the job, on the row's place in it, on how the
 * operation was cut into tasks, or on the number of threads. Sums have a fixed order.
 *
 * Threads. One thread drives a device with shared execs. An exec that is not shared runs where it is called, in its
 * own thread slot; several such may run at once, in different slots. Errors: CANCELLED, OUT_OF_MEMORY, and what a
 * device may say (INTERNAL, naming the operation).
 *
 * Files: dtype, quant (element types), pool (threads), device.c (opening, memory, scratch, the registry),
 * backends.def (the list), cpu.h (operations of CPU backends, over tables of kernels), reference/, native/, openblas/,
 * onednn/, cuda/ (the backends).
 */
#ifndef WORKERS_TENSOR_BACKEND_H
#define WORKERS_TENSOR_BACKEND_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "workers/tensor/dtype.h"
#include "workers/tensor/pool.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- devices ----------------------------------------------------------------------------------------------------- */

struct backend;
struct device; /* an opened backend */

/* pool and cancel are borrowed for the device's life; cancel may be NULL. name NULL: the best there is for `dtype`, the
 * dtype of most matrices, among those whose memory is the host's.
 * UNKNOWN_VALUE; UNSUPPORTED where this machine or build has not what the backend needs. */
struct device *device_open(const char *name, enum dtype dtype, struct pool *pool, const struct cancel *cancel,
                           struct error *error) MUST_USE;
void device_destroy(struct device *device);
OWNED_DEFINE(device)
const struct backend *device_get_backend(const struct device *device); /* holes filled */
const char *device_name(const struct device *device);
enum dtype device_dtype(const struct device *device); /* as device_open was given it */
size_t device_thread_count(const struct device *device);
/* Library, version, instruction set and core type on which the bits of results depend. Static. */
const char *device_identity(const struct device *device);
/* The names for a job's `backend`, NULL-terminated, in order of preference. */
const char *const *backend_names(void);

/* Where an operation runs: spread over the device's threads, or all of it here, in slot `thread` < thread_count. */
struct exec {
    struct device *device;
    bool is_shared;
    size_t thread;
};

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

struct matrix {
    enum dtype dtype; /* DTYPE_F32 or DTYPE_BF16 */
    size_t n, k;
    void *data; /* matrix_bytes(...) of device memory, aligned to 64 */
};

struct segment {
    size_t first_row, count; /* rows of the job */
    size_t position;         /* of the first row in its sequence */
};

enum norm_kind { NORM_RMS, NORM_LAYER };
/* RMS: x / sqrt(mean(x^2) + epsilon) * weight. LAYER: (x - mean) / sqrt(variance + epsilon) * weight + bias. Each group of
 * `size` elements of a row apart (heads); group g starts at g * size. In place: out == x. */
struct norm {
    enum norm_kind kind;
    size_t rows, groups, size;
    const float *x;
    size_t x_stride;
    const float *weight, *bias; /* [size]; bias NULL: none */
    float epsilon;
    float *out;
    size_t out_stride;
};

/* out[rows, n] = x[rows, k] * w^T + bias */
struct matmul {
    size_t rows;
    const float *x;
    size_t x_stride;
    const struct matrix *w;
    const float *bias; /* [n] or NULL */
    float *out;
    size_t out_stride;
    const struct segment
        *segments; /* [segment_count] that cover all rows; NULL: each row is alone (decoding) */
    size_t segment_count;
};

/* Rotate-half, in place: of each head the first rotary_size elements are turned in pairs (i, i + rotary_size / 2) by the
 * angle of the row's position; the rest stays. */
struct rope {
    const struct segment *segments;
    size_t segment_count;
    size_t heads, head_size, rotary_size;
    const float *cosines, *sines; /* [positions, rotary_size / 2], device memory */
    float *x;                     /* head h of row r: x + r * stride + h * head_size */
    size_t stride;
};

/* softmax(softcap(scale q k^T)) v, of whole sequences (segments with position 0). Causal: keys up to the query's own position;
 * window > 0: and of those only the last `window`. Head h reads keys and values of head h / (head_count / kv_head_count).
 * softcap(s) = cap tanh(s / cap), 0: none. Never holds more scores than a tile's. */
struct attention {
    enum dtype
        dtype; /* BF16: operands of the two products may be rounded to bf16, sums stay fp32. F32: they are not */
    const struct segment *segments;
    size_t segment_count;
    size_t head_count, kv_head_count, head_size, window;
    bool is_causal;
    float scale, softcap;
    const float *q, *k, *v;
    size_t q_stride, kv_stride;
    float *out; /* [rows, head_count * head_size] */
    size_t out_stride;
};

/* One query a row against keys and values kept before; row i's lie at keys + first_rows[i] * kv_stride, counts[i] of them, the
 * query's own the last. For decoding. */
struct attention_rows {
    size_t rows;
    const size_t *first_rows, *counts; /* [rows], host */
    size_t head_count, kv_head_count, head_size, window;
    float scale, softcap;
    const float *q;
    size_t q_stride;
    const float *keys, *values;
    size_t kv_stride;
    float *out;
    size_t out_stride;
};

enum activation { ACTIVATION_SILU, ACTIVATION_GELU, ACTIVATION_GELU_TANH, ACTIVATION_RELU };
/* x = f(x), or f(x) * up where up is given (same stride). GELU: by erf; GELU_TANH: by its tanh form. */
struct activate {
    enum activation kind;
    size_t rows, count;
    float *x;
    const float *up; /* or NULL */
    size_t stride;
};

/* to[to_rows[i]] += factors[i] * from[i]; to_rows NULL: i; factors NULL: 1. to_rows ascending, each at most once. */
struct add {
    size_t rows, size;
    float *to;
    size_t to_stride;
    const float *from;
    size_t from_stride;
    const int32_t *to_rows; /* [rows], host */
    const float *factors;   /* [rows], host */
};

/* to[to_rows[i]] = from[from_rows[i]], `size` elements each; NULL: i. Host indices. Targets differ. */
struct copy_rows {
    size_t rows, size;
    float *to;
    size_t to_stride;
    const float *from;
    size_t from_stride;
    const int32_t *to_rows, *from_rows;
};

/* Mixture of experts: softmax over all experts, the active_count largest (ties: lower index), in falling order;
 * is_normalised: their weights divided by their sum. Results to the host. */
struct route {
    size_t rows, expert_count, active_count;
    bool is_normalised;
    const float *logits; /* [rows, expert_count] */
    size_t stride;
    int32_t *experts; /* [rows, active_count], host */
    float *weights;   /* [rows, active_count], host */
};

/* x = cap tanh(x / cap) */
struct softcap {
    size_t rows, count;
    float *x;
    size_t stride;
    float cap;
};

/* Log-sum-exp and argmax of a row of logits; ties go to the lower index. */
struct head_scan {
    float max;    /* -INFINITY at the start */
    double sum;   /* of exp(logit - max) */
    size_t index; /* of max */
};
void head_scan_start(struct head_scan *scan);
void head_scan_merge(struct head_scan *into, const struct head_scan *next); /* next: of later columns */
double head_scan_logsumexp(const struct head_scan *scan);

/* The fused head: scans of x * w^T without holding a row of logits. Segments of a fixed number of columns are scanned
 * apart and merged in order. */
struct head {
    size_t rows;
    const float *x; /* final-normed */
    size_t x_stride;
    const struct matrix *w; /* [vocab, hidden] */
    float softcap;          /* of the logits; 0: none */
    const struct segment *segments;
    size_t segment_count;
    const int32_t *targets;  /* [rows], host; -1: this row is not wanted; NULL: all rows, no targets */
    struct head_scan *scans; /* [rows], host, filled */
    float *target_logits;    /* [rows], host, filled where there is a target; NULL without targets */
};

/* Scans of logits that are there. */
struct scan {
    size_t rows, count;
    const float *logits;
    size_t stride;
    struct head_scan *scans; /* [rows], host */
};

enum distance_kind { DISTANCE_SQUARES, DISTANCE_ANGULAR, DISTANCE_KL, DISTANCE_JS, DISTANCE_JS_TEXTBOOK };
/* Per row. SQUARES: sum (original - candidate)^2. ANGULAR: the angle, at most pi/2. KL, JS: the divergence in nats. The scales are
 * what was found out about each row before: log-sum-exp (KL, JS), L2 norm (ANGULAR). */
struct distance {
    enum distance_kind kind;
    size_t rows, count;
    const float *original, *candidate; /* [rows, count] */
    size_t original_stride, candidate_stride;
    const double *original_scales, *candidate_scales; /* [rows], host */
    double *distances;                                /* [rows], host, filled */
};

/* ---- the table --------------------------------------------------------------------------------------------------- */

struct backend {
    const char *name, *summary;
    const char *falls_back_to; /* name of another backend whose members fill the holes; NULL: reference */
    bool is_host;              /* device memory is host memory */
    /* May choose members by what the CPU has (self is a copy). UNSUPPORTED: not on this machine. *ret_state: the device's own. */
    bool (*open)(struct backend *self, struct pool *pool, void **ret_state, struct error *error);
    void (*close)(void *state);
    const char *(*identity)(void *state); /* NULL: our own code alone */
    /* Whether matrices of this dtype are the backend's own work, and fast. */
    bool (*supports)(void *state, enum dtype dtype);
    uint64_t (*overhead_bytes)(void *state, size_t threads, size_t rows,
                               size_t widest); /* see device_overhead_bytes */

    /* Memory of the device; zeroed. write and read: to and from the host; copy: inside. They wait for earlier operations. */
    void *(*memory_create)(struct device *device, size_t bytes, const char *what, struct error *error);
    void (*memory_destroy)(struct device *device, void *memory);
    bool (*memory_write)(struct device *device, void *to, const void *from, size_t bytes,
                         struct error *error);
    bool (*memory_read)(struct device *device, void *to, const void *from, size_t bytes, struct error *error);
    bool (*memory_copy)(struct device *device, void *to, const void *from, size_t bytes, struct error *error);

    size_t (*matrix_bytes)(enum dtype dtype, size_t n, size_t k);
    /* Sets rows [first_row, first_row + row_count) from fp32 rows on the host. Thread-safe for disjoint rows. Padding inside the
     * layout must be zero before the first write (memory_create's memory is; to use memory again: matrix_clear). */
    bool (*matrix_write)(struct device *device, const struct matrix *matrix, size_t first_row,
                         size_t row_count, const float *rows, size_t stride, struct error *error);

    bool (*norm)(const struct exec *exec, const struct norm *job, struct error *error);
    bool (*matmul)(const struct exec *exec, const struct matmul *job, struct error *error);
    bool (*rope)(const struct exec *exec, const struct rope *job, struct error *error);
    bool (*attention)(const struct exec *exec, const struct attention *job, struct error *error);
    bool (*attention_rows)(const struct exec *exec, const struct attention_rows *job, struct error *error);
    bool (*activate)(const struct exec *exec, const struct activate *job, struct error *error);
    /* *ret_is_finite: all sums are. */
    bool (*add)(const struct exec *exec, const struct add *job, bool *ret_is_finite, struct error *error);
    bool (*copy_rows)(const struct exec *exec, const struct copy_rows *job, struct error *error);
    bool (*route)(const struct exec *exec, const struct route *job, struct error *error);
    bool (*softcap)(const struct exec *exec, const struct softcap *job, struct error *error);
    bool (*head)(const struct exec *exec, const struct head *job, struct error *error);
    bool (*scan)(const struct exec *exec, const struct scan *job, struct error *error);
    /* ret_squares[r] = sum of x[r]^2, host */
    bool (*squares)(const struct exec *exec, size_t rows, size_t count, const float *x, size_t stride,
                    double *ret_squares, struct error *error);
    bool (*distance)(const struct exec *exec, const struct distance *job, struct error *error);
};

#define TENSOR_BACKEND(id) extern const struct backend backend_##id;
#include "workers/tensor/backends.def"
#undef TENSOR_BACKEND

/* ---- for backends and their callers ------------------------------------------------------------------------------ */

void *device_state(const struct device *device); /* what open returned */
/* Bytes of host memory that a device may take besides what its callers create: scratch of all threads, for jobs of up to `rows` rows,
 * matrices up to `widest` elements a row, and heads of up to 512; and what a library takes. For the plan of memory: an upper bound.
 * Opens the backend for a moment; 0 where it cannot be opened. */
uint64_t device_overhead_bytes(const char *name, enum dtype dtype, size_t threads, size_t rows,
                               size_t widest);
/* Runs task(context, index, thread) for index < count on the exec. CANCELLED. */
bool exec_run(const struct exec *exec, size_t count, void (*task)(void *context, size_t index, size_t thread),
              void *context, struct error *error) MUST_USE;
/* Scratch of a thread slot on the host, at least `bytes`, aligned to 64; contents are lost at the next call for the slot. Call inside
 * the slot, or from the driving thread while nothing runs. */
void *device_scratch(struct device *device, size_t thread, size_t bytes, struct error *error) MUST_USE;
void matrix_clear(struct device *device, const struct matrix *matrix);

#endif
