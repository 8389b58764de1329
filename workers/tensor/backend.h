/*
 * workers/tensor/backend.h: the arithmetic behind the model, as a table of operations. A backend fills in
 * what it does well; a NULL member is answered by `reference`, which implements everything in plain C and is
 * the truth that the others are tested against.
 *
 * Operations work on host memory, fp32, on one thread, on one tile; the floor above splits work into tiles
 * and hands them to the pool. This is where determinism comes from (design section 4):
 *
 *  - A GEMM sees tiles of TILE_ROWS rows (zero-padded; `rows` says how many count) and panels of at most
 * PANEL_COLUMNS columns. Cuts never depend on the batch or on the number of threads, so neither do bits.
 *  - rows_matmul, for decoding, computes each output as one dot product in an order fixed by k alone.
 *  - Everything else is per row, in a fixed order.
 *
 * Files: dtype (element types), pool (threads), backend.c (the registry), backends.def (the list), reference/
 * and openblas/ (the backends). All functions are thread-safe after start.
 */
#ifndef WORKERS_TENSOR_BACKEND_H
#define WORKERS_TENSOR_BACKEND_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TILE_ROWS     64
#define PANEL_COLUMNS 512

/* out[rows, n] = x[rows, k] * w[n, k]^T + bias[n] */
struct matmul {
    size_t rows, n, k;
    const float *x;    /* [TILE_ROWS, k] readable, rows past `rows` finite */
    const float *w;    /* [n, k] */
    const float *bias; /* [n] or NULL */
    float *out;        /* [TILE_ROWS, n] writable; rows past `rows` are finite afterwards */
    size_t x_stride, w_stride, out_stride; /* elements from one row to the next */
};

/* One tile of queries of one sequence against all keys up to them. Heads [first_head, first_head +
 * head_count); head h reads keys and values of head h / heads_per_kv. Pointers are to row 0 of the sequence,
 * head 0. */
struct attention {
    size_t tile; /* queries are rows [tile * TILE_ROWS, ...) of the sequence */
    size_t rows; /* of the tile that count */
    size_t first_head, head_count, heads_per_kv, head_size;
    const float *q, *k, *v; /* whole tiles readable and finite */
    size_t stride;          /* elements from one position to the next, of q, k and v alike */
    float *out;             /* rows of the whole sequence, [.., heads * head_size] */
    size_t out_stride;
    float *scratch; /* attention_scratch(tile) floats */
};
static inline size_t attention_scratch(size_t tile)
{
    return (size_t)TILE_ROWS * (tile + 1) * TILE_ROWS;
}

/* One query against `count` cached keys, for decoding. */
struct attention_row {
    size_t count, head_count, heads_per_kv, head_size;
    const float *q;             /* [head_count, head_size] */
    const float *keys, *values; /* [count, stride] */
    size_t stride;
    float *out;     /* [head_count, head_size] */
    float *scratch; /* [count rounded up to 16] */
};

/* Running log-sum-exp and argmax over a row of logits that comes in pieces; ties go to the lower index. */
struct head_scan {
    float max;    /* -INFINITY at the start */
    double sum;   /* of exp(logit - max) */
    size_t index; /* of max */
};
void head_scan_start(struct head_scan *scan);
void head_scan_merge(struct head_scan *into, const struct head_scan *next); /* next: of later columns */
double head_scan_logsumexp(const struct head_scan *scan);

enum distance_kind { DISTANCE_SQUARES, DISTANCE_ANGULAR, DISTANCE_KL, DISTANCE_JS, DISTANCE_JS_TEXTBOOK };
/* Two rows of logits, and what was found out about each before: the log-sum-exp (KL, JS), the L2 norm
 * (ANGULAR). */
struct distance_row {
    size_t count;
    const float *original, *candidate; /* [count] */
    double original_scale, candidate_scale;
};

struct backend {
    const char *name, *summary;
    /* Once in a process, before anything else, from one thread. May choose members by what the CPU has. NULL:
     * nothing to do. */
    bool (*start)(struct backend *self, struct error *error);
    /* Library, version and core type, on which the bits of results depend; NULL: our own code alone. After start. */
    const char *(*library)(void);

    void (*matmul)(const struct matmul *job);
    /* Few rows (decoding): x [rows, k]; no padding is read or written. A row's bits depend on that row and w
     * alone. */
    void (*rows_matmul)(const struct matmul *job);
    /* out[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * w */
    void (*rmsnorm)(size_t rows, size_t size, const float *x, size_t x_stride, const float *w, float epsilon,
                    float *out, size_t out_stride);
    /* Rotate-half, in place: pairs (i, i + head_size/2) turned by the angle of the row's position. cosines,
     * sines: [rows, head_size/2] */
    void (*rope)(size_t rows, size_t heads, size_t head_size, const float *cosines, const float *sines,
                 float *x, size_t stride);
    void (*attention)(const struct attention *job);
    void (*attention_row)(const struct attention_row *job);
    /* gate = silu(gate) * up */
    void (*silu_mul)(size_t rows, size_t count, float *gate, const float *up, size_t stride);
    /* to += from; false if a sum is not finite */
    bool (*add)(size_t count, float *to, const float *from);
    /* Continues a scan with `count` logits whose first has index `first`. */
    void (*scan)(size_t count, const float *logits, size_t first, struct head_scan *scan);
    double (*squares)(size_t count, const float *x); /* sum of x^2 */
    /* SQUARES: sum (original - candidate)^2. ANGULAR: the angle, at most pi/2. KL, JS: the divergence in
     * nats. */
    double (*distance)(enum distance_kind kind, const struct distance_row *row);
};

/* The backend, started, its NULL members filled in from `reference`. NULL name: the first of the list.
 * UNKNOWN_VALUE. Not thread-safe; static lifetime. */
const struct backend *backend_open(const char *name, struct error *error) MUST_USE;
/* NULL-terminated, in order of preference. */
const char *const *backend_names(void);

#define TENSOR_BACKEND(id) extern const struct backend backend_##id;
#include "workers/tensor/backends.def"
#undef TENSOR_BACKEND

#endif
