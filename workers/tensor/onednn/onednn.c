/*
 * workers/tensor/onednn/onednn.c: bf16 products by oneDNN (fp32 accumulation), everything else by our own vector kernels.
 *
 * A matrix is cut into pieces of K_BLOCK x COLUMNS, each packed once in the blocked layout that oneDNN asks for; the layout's
 * strides are in its descriptor, so we write elements where they belong ourselves, rows in any order and from any thread. A tile of
 * TILE_ROWS rows (LONE_ROWS when decoding), zero-padded, meets the pieces of a block of columns one after the other, and oneDNN
 * adds each product to the last (post-op sum). It only ever sees these few shapes, so a row's bits do not depend on the batch;
 * measured (design section 4), K at most 1024 is also what it is fast at. Its OpenMP runtime is held to one thread in each
 * thread of our pool.
 */
#include "workers/tensor/cpu.h"

#include "base/check.h"
#include <dnnl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TILE_ROWS 192
#define LONE_ROWS 16
#define K_BLOCK   1024
#define COLUMNS   HEAD_COLUMNS

void omp_set_num_threads(int count); /* of libgomp, which libdnnl brings; clang has no omp.h */

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* Pieces are padded with zeros to whole vectors and whole AMX steps: no kernel for edges runs. */
#define PAD 32

/* One piece's packed layout, and products of tiles with it: by rows (TILE_ROWS, LONE_ROWS), and first or added. */
struct shape {
    size_t k, n;
    dnnl_memory_desc_t weights;
    dnnl_primitive_t products[2][2];
    dnnl_memory_desc_t scratchpads[2][2];
    struct shape *next;
};

static dnnl_engine_t engine; /* set once, then constant */
static struct kernels ours, native;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct shape *shapes;    /* guarded by lock; a shape never changes and is never freed */
static size_t scratchpad_bytes; /* guarded by lock: the most that a product of a known shape needs */

static void check(dnnl_status_t status)
{
    CHECK(status == dnnl_success); /* shapes are ours: only the end of memory could fail */
}

static dnnl_memory_desc_t plain(size_t rows, size_t columns, dnnl_data_type_t type, dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t desc;
    dnnl_dims_t dims = {(dnnl_dim_t)rows, (dnnl_dim_t)columns};
    check(dnnl_memory_desc_init_by_tag(&desc, 2, dims, type, tag));
    return desc;
}

/* The library's own scratch belongs to the thread that makes a primitive, not to those that run it: we hand it ours. */
static dnnl_primitive_t make_product(size_t rows, struct shape *shape, bool is_first,
                                     dnnl_memory_desc_t *ret_scratchpad)
{
    dnnl_memory_desc_t x = plain(rows, shape->k, dnnl_bf16, dnnl_ab),
                       out = plain(rows, shape->n, dnnl_f32, dnnl_ab);
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attributes;
    dnnl_post_ops_t after;
    dnnl_primitive_desc_t found;
    dnnl_primitive_t product;
    check(dnnl_matmul_desc_init(&desc, &x, &shape->weights, NULL, &out));
    check(dnnl_primitive_attr_create(&attributes));
    check(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user));
    check(dnnl_post_ops_create(&after));
    if (!is_first) {
        check(dnnl_post_ops_append_sum(after, 1.0f));
        check(dnnl_primitive_attr_set_post_ops(attributes, after));
    }
    check(dnnl_primitive_desc_create(&found, &desc, attributes, engine, NULL));
    if (shape->weights.format_kind == dnnl_format_kind_any) {
        shape->weights = *dnnl_primitive_desc_query_md(found, dnnl_query_weights_md, 0);
        CHECK(shape->weights.format_kind == dnnl_blocked && shape->weights.offset0 == 0);
    }
    *ret_scratchpad = *dnnl_primitive_desc_query_md(found, dnnl_query_scratchpad_md, 0);
    check(dnnl_primitive_create(&product, found));
    check(dnnl_primitive_desc_destroy(found));
    check(dnnl_post_ops_destroy(after));
    check(dnnl_primitive_attr_destroy(attributes));
    return product;
}

static size_t pad(size_t value)
{
    return (value + PAD - 1) / PAD * PAD;
}

static void start_engine(void)
{
    check(dnnl_engine_create(&engine, dnnl_cpu, 0));
}

/* Of a piece of k x n, which are padded. */
static const struct shape *shape_of(size_t k, size_t n)
{
    k = pad(k);
    n = pad(n);
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_engine);
    pthread_mutex_lock(&lock);
    struct shape *shape = shapes;
    while (shape != NULL && (shape->k != k || shape->n != n)) {
        shape = shape->next;
    }
    if (shape == NULL) {
        shape = calloc(1, sizeof *shape);
        CHECK(shape != NULL);
        *shape = (struct shape){.k = k, .n = n, .next = shapes};
        shape->weights = plain(k, n, dnnl_bf16, dnnl_format_tag_any);
        for (size_t i = 0; i < 4; i++) {
            shape->products[i / 2][i % 2] = make_product(i / 2 == 0 ? TILE_ROWS : LONE_ROWS, shape,
                                                         i % 2 == 0, &shape->scratchpads[i / 2][i % 2]);
            size_t bytes = dnnl_memory_desc_get_size(&shape->scratchpads[i / 2][i % 2]);
            scratchpad_bytes = bytes > scratchpad_bytes ? bytes : scratchpad_bytes;
        }
        shapes = shape;
    }
    pthread_mutex_unlock(&lock);
    return shape;
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

static size_t at_most(size_t value, size_t limit)
{
    return value < limit ? value : limit;
}

static size_t piece_bytes(size_t k, size_t n)
{
    return (dnnl_memory_desc_get_size(&shape_of(k, n)->weights) + 63) / 64 * 64;
}

/* Of all pieces of a block of n columns. */
static size_t column_bytes(size_t k, size_t n)
{
    size_t whole = k / K_BLOCK;
    return (whole > 0 ? whole * piece_bytes(K_BLOCK, n) : 0) +
           (k % K_BLOCK > 0 ? piece_bytes(k % K_BLOCK, n) : 0);
}

/* Bytes before the piece of these columns and this block of k, both multiples of the block sizes. */
static size_t piece_offset(size_t n, size_t k, size_t column, size_t start)
{
    size_t offset = column > 0 ? column / COLUMNS * column_bytes(k, COLUMNS) : 0;
    return offset + (start > 0 ? start / K_BLOCK * piece_bytes(K_BLOCK, at_most(COLUMNS, n - column)) : 0);
}

static size_t onednn_matrix_bytes(enum dtype dtype, size_t n, size_t k)
{
    if (dtype != DTYPE_BF16) {
        return native_matrix_bytes(dtype, n, k);
    }
    size_t rest = n % COLUMNS > 0 ? column_bytes(k, n % COLUMNS) : 0;
    return (n >= COLUMNS ? n / COLUMNS * column_bytes(k, COLUMNS) : 0) + rest;
}

/* Elements between the origin and index `index` of dimension `dim`: in a blocked layout the dimensions' shares add up. */
static size_t offset_in(const dnnl_memory_desc_t *desc, int dim, size_t index)
{
    const dnnl_blocking_desc_t *blocking = &desc->format_desc.blocking;
    size_t offset = 0, inner_stride = 1;
    for (int i = blocking->inner_nblks - 1; i >= 0; i--) {
        size_t size = (size_t)blocking->inner_blks[i];
        if (blocking->inner_idxs[i] == dim) {
            offset += index % size * inner_stride;
            index /= size;
        }
        inner_stride *= size;
    }
    return offset + index * (size_t)blocking->strides[dim];
}

static void write_piece(const dnnl_memory_desc_t *desc, uint16_t *piece, size_t k, size_t first_column,
                        size_t count, const float *rows, size_t stride)
{
    uint32_t offsets[K_BLOCK];
    uint16_t halves[K_BLOCK];
    for (size_t i = 0; i < k; i++) {
        offsets[i] = (uint32_t)offset_in(desc, 0, i);
    }
    for (size_t r = 0; r < count; r++) {
        uint16_t *to = piece + offset_in(desc, 1, first_column + r);
        native.to_bf16(k, rows + r * stride, halves);
        for (size_t i = 0; i < k; i++) {
            to[offsets[i]] = halves[i];
        }
    }
}

static void onednn_matrix_write(const struct matrix *matrix, size_t first_row, size_t row_count,
                                const float *rows, size_t stride)
{
    if (matrix->dtype != DTYPE_BF16) {
        native.matrix_write(matrix, first_row, row_count, rows, stride);
        return;
    }
    for (size_t done = 0; done < row_count;) {
        size_t first = first_row + done, column = first / COLUMNS * COLUMNS;
        size_t columns = at_most(COLUMNS, matrix->n - column),
               count = at_most(row_count - done, column + columns - first);
        for (size_t start = 0; start < matrix->k; start += K_BLOCK) {
            size_t k = at_most(K_BLOCK, matrix->k - start);
            size_t offset = piece_offset(matrix->n, matrix->k, column, start);
            write_piece(&shape_of(k, columns)->weights, (uint16_t *)(void *)((char *)matrix->data + offset),
                        k, first - column, count, rows + done * stride + start, stride);
        }
        done += count;
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

#define TILE_BYTES (TILE_ROWS * (K_BLOCK * sizeof(uint16_t) + COLUMNS * sizeof(float)))

/* The shapes of a matrix are known since its bytes were asked for. */
static size_t onednn_product_scratch(enum dtype dtype, size_t k)
{
    if (dtype != DTYPE_BF16) {
        return native.product_scratch(dtype, k);
    }
    (void)shape_of(k == 0 ? 1 : at_most(k, K_BLOCK), COLUMNS);
    pthread_mutex_lock(&lock);
    size_t bytes = TILE_BYTES + scratchpad_bytes;
    pthread_mutex_unlock(&lock);
    return bytes;
}

static void execute(dnnl_stream_t stream, const struct shape *shape, size_t rows, bool is_first, void *x,
                    void *w, void *out, void *scratchpad)
{
    size_t r = rows == TILE_ROWS ? 0 : 1, f = is_first ? 0 : 1;
    dnnl_memory_desc_t x_desc = plain(rows, shape->k, dnnl_bf16, dnnl_ab),
                       out_desc = plain(rows, shape->n, dnnl_f32, dnnl_ab);
    dnnl_exec_arg_t arguments[] = {{.arg = DNNL_ARG_SRC},
                                   {.arg = DNNL_ARG_WEIGHTS},
                                   {.arg = DNNL_ARG_DST},
                                   {.arg = DNNL_ARG_SCRATCHPAD}};
    check(dnnl_memory_create(&arguments[0].memory, &x_desc, engine, x));
    check(dnnl_memory_create(&arguments[1].memory, &shape->weights, engine, w));
    check(dnnl_memory_create(&arguments[2].memory, &out_desc, engine, out));
    check(dnnl_memory_create(&arguments[3].memory, &shape->scratchpads[r][f], engine, scratchpad));
    check(dnnl_primitive_execute(shape->products[r][f], stream, 4, arguments));
    for (size_t i = 0; i < 4; i++) {
        check(dnnl_memory_destroy(arguments[i].memory));
    }
}

/* Rows [first, first + count) of the job as one tile of `tile` rows. */
static void multiply_tile(const struct product *job, dnnl_stream_t stream, size_t first, size_t count,
                          size_t tile)
{
    size_t n = job->w->n, k = job->w->k, columns = job->columns;
    uint16_t *x = job->scratch;
    float *out = (float *)(void *)(x + (size_t)TILE_ROWS * K_BLOCK);
    for (size_t start = 0; start < k; start += K_BLOCK) {
        size_t length = at_most(K_BLOCK, k - start);
        size_t padded = pad(length);
        for (size_t r = 0; r < count; r++) {
            native.to_bf16(length, job->x[first + r] + start, x + r * padded);
            memset(x + r * padded + length, 0, (padded - length) * sizeof *x);
        }
        memset(x + count * padded, 0, (tile - count) * padded * sizeof *x);
        char *piece = (char *)job->w->data + piece_offset(n, k, job->first_column, start);
        execute(stream, shape_of(length, columns), tile, start == 0, x, piece, out,
                (char *)job->scratch + TILE_BYTES);
    }
    size_t out_stride = pad(columns);
    if (k == 0) {
        memset(out, 0, count * out_stride * sizeof *out);
    }
    const float *bias = job->bias != NULL ? job->bias + job->first_column : NULL;
    for (size_t r = 0; r < count; r++) {
        float *to = job->out + (first + r) * job->out_stride;
        for (size_t c = 0; c < columns; c++) {
            to[c] = out[r * out_stride + c] + (bias != NULL ? bias[c] : 0.0f);
        }
    }
}

static void multiply(const struct product *job, size_t tile)
{
    static _Thread_local bool is_single;
    if (!is_single) {
        omp_set_num_threads(1);
        is_single = true;
    }
    dnnl_stream_t stream;
    check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
    for (size_t row = 0; row < job->rows; row += tile) {
        multiply_tile(job, stream, row, at_most(tile, job->rows - row), tile);
    }
    check(dnnl_stream_destroy(stream));
}

static void onednn_product(const struct product *job)
{
    if (job->w->dtype != DTYPE_BF16) {
        native.product(job);
    } else {
        multiply(job, TILE_ROWS);
    }
}

static void onednn_lone_rows(const struct product *job)
{
    if (job->w->dtype != DTYPE_BF16) {
        native.product(job);
    } else {
        multiply(job, LONE_ROWS);
    }
}

/* ---- the backend ------------------------------------------------------------------------------------------------- */

static bool onednn_open(struct backend *self, struct pool *pool, void **ret_state, struct error *error)
{
    (void)self;
    const struct kernels *kernels = native_kernels_of("avx512_bf16", NULL);
    if (kernels == NULL) {
        return error_set(error, ERROR_UNSUPPORTED, "oneDNN's bf16 needs a CPU with AVX512-BF16");
    }
    native = *kernels;
    ours = native;
    ours.library_bytes = (size_t)8 << 20; /* its code, ours made at run time; 3 MiB were measured */
    ours.library_thread_bytes = (size_t)1 << 20;
    ours.row_tile = TILE_ROWS;
    ours.column_tile = COLUMNS;
    ours.matrix_bytes = onednn_matrix_bytes;
    ours.matrix_write = onednn_matrix_write;
    ours.product_scratch = onednn_product_scratch;
    ours.product = onednn_product;
    ours.product_of_lone_rows = onednn_lone_rows;
    *ret_state = cpu_create(&ours, pool);
    return true;
}

static const char *onednn_identity(void *state)
{
    static char text[96];
    const dnnl_version_t *version = dnnl_version();
    (void)snprintf(text, sizeof text, "oneDNN %d.%d.%d isa 0x%x, %s", version->major, version->minor,
                   version->patch, (unsigned)dnnl_get_effective_cpu_isa(),
                   ((struct cpu *)state)->kernels.name);
    return text;
}

static bool onednn_supports(void *state, enum dtype dtype)
{
    (void)state;
    return dtype == DTYPE_BF16;
}

const struct backend backend_onednn = {
    .name = "onednn",
    .summary =
        "bf16 by oneDNN with fp32 accumulation, single-threaded on fixed tiles inside our own pool; the rest as native.",
    .falls_back_to = "native",
    CPU_OPERATIONS,
    .open = onednn_open,
    .identity = onednn_identity,
    .supports = onednn_supports,
    .matrix_bytes = onednn_matrix_bytes,
};
