/*
 * workers/tensor/cpu.h: the operations of every backend that computes on the host. cpu.c cuts a job into tasks for
 * the pool and calls a table of fine kernels, each of which does a part of the job on one thread. A CPU backend is such
 * a table: reference's is plain C, native's is compiled per instruction set, openblas and onednn put their products in
 * a copy of native's.
 *
 * The state of a CPU backend (what its `open` returns) is a struct cpu; its members in struct backend are the cpu_*
 * functions below.
 */
#ifndef WORKERS_TENSOR_CPU_H
#define WORKERS_TENSOR_CPU_H

#include "workers/tensor/backend.h"

/* A product sees at most this many rows, and its columns begin at a multiple of PRODUCT_COLUMNS. */
#define PRODUCT_ROWS    252
#define PRODUCT_COLUMNS 32
/* Columns of the head that are scanned together, and the key blocks of attention: parts of the definition of a result. */
#define HEAD_COLUMNS    512

/* out[r, c] = x[r] . w[first_column + c] + bias[first_column + c], r < rows, c < columns */
struct product {
    const struct matrix *w;
    size_t first_column, columns;
    size_t rows;
    const float *const *x; /* [rows], rows of k */
    const float *bias;     /* [n] or NULL */
    float *out;
    size_t out_stride;
    void *scratch; /* product_scratch(dtype, k) bytes, aligned to 64 */
};

/* Queries [first_query, first_query + query_count) of one segment, heads [first_head, first_head + head_count) that share one
 * KV head. Row 0 of the sequence is the segment's first row. */
#define ATTENTION_HEADS 8
struct attention_tile {
    const struct attention *job;
    const struct segment *segment;
    size_t first_query, query_count, first_head, head_count, kv_head;
    void *scratch; /* attention_scratch(head_size) bytes */
};

struct distance_row {
    enum distance_kind kind;
    size_t count;
    const float *original, *candidate; /* [count] */
    double original_scale, candidate_scale;
};

/* Thread-safe, one thread each, no allocation. */
struct kernels {
    const char *name;
    /* What a library behind the kernels takes on top of scratch: once, and in each thread. */
    size_t library_bytes, library_thread_bytes;

    /* > 0: rows come in tiles of that many, cut from each segment's first row and padded inside; columns are cut at
     * multiples of column_tile and nowhere else. 0: a row's bits do not depend on any cut. */
    size_t row_tile, column_tile;
    size_t (*matrix_bytes)(enum dtype dtype, size_t n, size_t k);
    void (*matrix_write)(const struct matrix *matrix, size_t first_row, size_t row_count, const float *rows,
                         size_t stride);
    size_t (*product_scratch)(enum dtype dtype, size_t k);
    void (*product)(const struct product *job);
    void (*product_of_lone_rows)(
        const struct product *job); /* where rows are tiled: rows that are in no tile */

    void (*norm)(const struct norm *job, size_t first_row, size_t row_count);
    /* One row, turned by the angles of one position: cosines, sines [rotary_size / 2] */
    void (*rope)(size_t heads, size_t head_size, size_t rotary_size, const float *cosines, const float *sines,
                 float *x);
    void (*activate)(const struct activate *job, size_t first_row, size_t row_count);
    bool (*add)(size_t count, float *to, const float *from, float factor); /* false: a sum is not finite */
    void (*softcap)(size_t count, float *x, float cap);
    /* Continues a scan with `count` logits whose first has index `first`, a multiple of HEAD_COLUMNS. */
    void (*scan)(size_t count, const float *logits, size_t first, struct head_scan *scan);
    double (*squares)(size_t count, const float *x);
    double (*distance)(const struct distance_row *row);
    void (*to_bf16)(size_t count, const float *x, uint16_t *to); /* rounded to nearest even; NaN stays NaN */

    size_t attention_queries; /* of a tile */
    size_t (*attention_scratch)(size_t head_size);
    void (*attend)(const struct attention_tile *tile);
    /* One query; first_query is its row in the job. */
    void (*attend_row)(const struct attention_rows *job, const struct attention_tile *tile);
};
extern const struct kernels kernels_reference;

/* The table of native for this CPU, or for the one that PRUNED_ISA names (baseline, avx2, avx512, avx512_bf16, amx, and for
 * tests amx_emulated);
 * UNSUPPORTED: the CPU lacks it. */
const struct kernels *native_kernels(struct error *error) MUST_USE;
/* The table of one instruction set; UNSUPPORTED. product_of_lone_rows is for fp32 matrices that lie row by row. */
const struct kernels *native_kernels_of(const char *isa, struct error *error) MUST_USE;
size_t native_matrix_bytes(enum dtype dtype, size_t n, size_t k);

struct cpu {
    struct kernels kernels;
    size_t thread_count;
    struct cpu_buffer {
        void *data;
        size_t bytes;
    } * buffers; /* [thread_count]: an operation's own memory while its tasks use the scratch of the slots */
};
struct cpu *cpu_create(const struct kernels *kernels, struct pool *pool);
void cpu_close(void *state); /* struct backend's close */
uint64_t cpu_overhead_bytes(void *state, size_t threads, size_t rows, size_t widest);
/* Of cpu_product.c: bytes of the two areas of a slot. */
size_t cpu_product_scratch_bytes(const struct kernels *kernels, size_t widest);
size_t cpu_product_buffer_bytes(const struct kernels *kernels, size_t rows);

void *cpu_memory_create(struct device *device, size_t bytes, const char *what, struct error *error);
void cpu_memory_destroy(struct device *device, void *memory);
bool cpu_memory_copy(struct device *device, void *to, const void *from, size_t bytes, struct error *error);
bool cpu_matrix_write(struct device *device, const struct matrix *matrix, size_t first_row, size_t row_count,
                      const float *rows, size_t stride, struct error *error);
bool cpu_norm(const struct exec *exec, const struct norm *job, struct error *error);
bool cpu_matmul(const struct exec *exec, const struct matmul *job, struct error *error);
bool cpu_rope(const struct exec *exec, const struct rope *job, struct error *error);
bool cpu_attention(const struct exec *exec, const struct attention *job, struct error *error);
bool cpu_attention_rows(const struct exec *exec, const struct attention_rows *job, struct error *error);
bool cpu_activate(const struct exec *exec, const struct activate *job, struct error *error);
bool cpu_add(const struct exec *exec, const struct add *job, bool *ret_is_finite, struct error *error);
bool cpu_copy_rows(const struct exec *exec, const struct copy_rows *job, struct error *error);
bool cpu_route(const struct exec *exec, const struct route *job, struct error *error);
bool cpu_softcap(const struct exec *exec, const struct softcap *job, struct error *error);
bool cpu_head(const struct exec *exec, const struct head *job, struct error *error);
bool cpu_scan(const struct exec *exec, const struct scan *job, struct error *error);
bool cpu_squares(const struct exec *exec, size_t rows, size_t count, const float *x, size_t stride,
                 double *ret_squares, struct error *error);
bool cpu_distance(const struct exec *exec, const struct distance *job, struct error *error);

#define CPU_OPERATIONS                                                                                       \
    .is_host = true, .close = cpu_close, .overhead_bytes = cpu_overhead_bytes,                               \
    .memory_create = cpu_memory_create, .memory_destroy = cpu_memory_destroy,                                \
    .memory_write = cpu_memory_copy, .memory_read = cpu_memory_copy, .memory_copy = cpu_memory_copy,         \
    .matrix_write = cpu_matrix_write, .norm = cpu_norm, .matmul = cpu_matmul, .rope = cpu_rope,              \
    .attention = cpu_attention, .attention_rows = cpu_attention_rows, .activate = cpu_activate,              \
    .add = cpu_add, .copy_rows = cpu_copy_rows, .route = cpu_route, .softcap = cpu_softcap,                  \
    .head = cpu_head, .scan = cpu_scan, .squares = cpu_squares, .distance = cpu_distance

/* Parts of cpu.c that cpu_head.c and cpu_attention.c need. */
struct cpu *cpu_of(const struct exec *exec);
/* At least `bytes` of scratch in every slot that the exec may run in, so that tasks cannot fail. */
bool cpu_reserve(const struct exec *exec, size_t bytes, struct error *error) MUST_USE;
void *cpu_scratch(struct device *device, size_t thread); /* what was reserved */
void *cpu_buffer(const struct exec *exec, size_t bytes, struct error *error) MUST_USE;

#endif
