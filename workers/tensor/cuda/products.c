/*
 * workers/tensor/cuda/products.c: products by cuBLASLt, and the head on top of them.
 *
 * cuBLASLt counts columns first: our out[rows, n] = x[rows, k] w[n, k]^T is its D[n, rows] = W^T X with W [k, n] and X [k, rows].
 * fp32 is multiplied as fp32. For bf16, x is rounded to rows of k rounded up to 8 with zeros, as the weights are stored, so that the
 * tensor cores meet aligned rows whatever k is.
 *
 * The algorithm: what the library ranks first at a nominal number of rows, without a split of k (whose parts would be added in
 * another order) and, where there is one, without workspace; see cuda.h for what follows from that.
 */
#include "workers/tensor/cuda/cuda_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

#define CANDIDATES 16

/* One product on the device; x in the dtype of w. */
struct product {
    struct product_key key;
    size_t rows;
    const void *x, *w;
    const float *bias; /* or NULL */
    float *out;
};

struct descriptors {
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, out;
};

static void destroy_descriptors(const struct descriptors *d)
{
    (void)(d->operation != NULL && cublasLtMatmulDescDestroy(d->operation));
    (void)(d->w != NULL && cublasLtMatrixLayoutDestroy(d->w));
    (void)(d->x != NULL && cublasLtMatrixLayoutDestroy(d->x));
    (void)(d->out != NULL && cublasLtMatrixLayoutDestroy(d->out));
}

static bool create_descriptors(const struct product *product, bool adds_bias, struct descriptors *ret,
                               struct error *error)
{
    static const char what[] = "describing a product";
    const struct product_key *key = &product->key;
    cudaDataType_t type = key->dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const cublasOperation_t turned = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const void *bias = product->bias;
    *ret = (struct descriptors){NULL, NULL, NULL, NULL};
    return cublas_fine(cublasLtMatmulDescCreate(&ret->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), what,
                       error) &&
           cublas_fine(cublasLtMatmulDescSetAttribute(ret->operation, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                                      sizeof turned),
                       what, error) &&
           (!adds_bias ||
            (cublas_fine(cublasLtMatmulDescSetAttribute(ret->operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                        &epilogue, sizeof epilogue),
                         what, error) &&
             cublas_fine(cublasLtMatmulDescSetAttribute(ret->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                        &bias, sizeof bias),
                         what, error))) &&
           cublas_fine(cublasLtMatrixLayoutCreate(&ret->w, type, key->k, key->n, (int64_t)key->w_stride),
                       what, error) &&
           cublas_fine(
               cublasLtMatrixLayoutCreate(&ret->x, type, key->k, product->rows, (int64_t)key->x_stride), what,
               error) &&
           cublas_fine(cublasLtMatrixLayoutCreate(&ret->out, CUDA_R_32F, key->n, product->rows,
                                                  (int64_t)key->out_stride),
                       what, error);
}

/* ---- the choice of an algorithm ----------------------------------------------------------------------------------------- */

static bool set_preference(cublasLtMatmulPreference_t preference, const struct product_key *key,
                           struct error *error)
{
    static const char what[] = "choosing an algorithm";
    const uint64_t workspace = WORKSPACE_BYTES;
    const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t bytes;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->w_alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->x_alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->out_alignment},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->out_alignment},
    };
    bool is_fine =
        cublas_fine(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                         &workspace, sizeof workspace),
                    what, error) &&
        cublas_fine(cublasLtMatmulPreferenceSetAttribute(preference,
                                                         CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                         &no_reduction, sizeof no_reduction),
                    what, error);
    for (size_t i = 0; is_fine && i < sizeof alignments / sizeof *alignments; i++) {
        is_fine = cublas_fine(cublasLtMatmulPreferenceSetAttribute(preference, alignments[i].attribute,
                                                                   &alignments[i].bytes,
                                                                   sizeof alignments[i].bytes),
                              what, error);
    }
    return is_fine;
}

/* Lower is better: 0 neither splits k nor needs workspace, 1 does not split k, 2 the rest. */
static unsigned rank(const cublasLtMatmulHeuristicResult_t *result)
{
    int32_t split = 1;
    size_t written = 0;
    cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
        &result->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split, &written);
    if (status == CUBLAS_STATUS_SUCCESS && (split > 1 || split < 0)) {
        return 2;
    }
    return result->workspaceSize > 0 ? 1 : 0;
}

/* *ret_is_found false: the library knows none for this description. */
static bool ask_library(struct cuda *cuda, const struct product *product, bool adds_bias,
                        cublasLtMatmulAlgo_t *ret_algorithm, bool *ret_is_found, struct error *error)
{
    struct descriptors d;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int count = 0;
    *ret_is_found = false;
    bool is_fine = create_descriptors(product, adds_bias, &d, error) &&
                   cublas_fine(cublasLtMatmulPreferenceCreate(&preference), "choosing an algorithm", error) &&
                   set_preference(preference, &product->key, error);
    if (is_fine) {
        cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
            cuda->blas, d.operation, d.w, d.x, d.out, d.out, preference, CANDIDATES, results, &count);
        is_fine =
            status == CUBLAS_STATUS_NOT_SUPPORTED || cublas_fine(status, "choosing an algorithm", error);
        count = status == CUBLAS_STATUS_SUCCESS ? count : 0;
    }
    for (unsigned wanted = 0; is_fine && !*ret_is_found && wanted < 3; wanted++) {
        for (int i = 0; i < count && !*ret_is_found; i++) {
            if (results[i].state == CUBLAS_STATUS_SUCCESS && rank(&results[i]) == wanted) {
                *ret_algorithm = results[i].algo;
                *ret_is_found = true;
            }
        }
    }
    if (preference != NULL) {
        (void)cublasLtMatmulPreferenceDestroy(preference);
    }
    destroy_descriptors(&d);
    return is_fine;
}

static const struct algorithm *find_algorithm(struct cuda *cuda, const struct product *product,
                                              struct error *error)
{
    for (size_t i = 0; i < cuda->algorithm_count; i++) {
        if (memcmp(&cuda->algorithms[i].key, &product->key, sizeof product->key) == 0) {
            return &cuda->algorithms[i];
        }
    }
    struct product nominal = *product;
    nominal.rows = product->key.nominal_rows;
    struct algorithm algorithm = {.key = product->key, .adds_bias = product->bias != NULL};
    bool is_found = false;
    if (!ask_library(cuda, &nominal, algorithm.adds_bias, &algorithm.algorithm, &is_found, error)) {
        return NULL;
    }
    if (!is_found && algorithm.adds_bias) {
        algorithm.adds_bias = false;
        if (!ask_library(cuda, &nominal, false, &algorithm.algorithm, &is_found, error)) {
            return NULL;
        }
    }
    if (!is_found) {
        error_set(error, ERROR_UNSUPPORTED, "GPU: cuBLASLt has no algorithm for a product of %s [%zu, %zu]",
                  dtype_slug(product->key.dtype), product->key.n, product->key.k);
        return NULL;
    }
    cuda->algorithms = memory_resize(cuda->algorithms, cuda->algorithm_count + 1, sizeof algorithm);
    cuda->algorithms[cuda->algorithm_count] = algorithm;
    return &cuda->algorithms[cuda->algorithm_count++];
}

/* ---- one product -------------------------------------------------------------------------------------------------------- */

/* The largest power of two up to 16 that divides it. */
static unsigned alignment_of(const void *pointer)
{
    uintptr_t low = (uintptr_t)pointer & (~(uintptr_t)pointer + 1);
    return low == 0 || low > 16 ? 16 : (unsigned)low;
}

/* Of all rows, wherever the job begins: the same rows in another job must meet the same algorithm. */
static unsigned alignment_of_rows(const void *pointer, size_t stride, enum dtype dtype)
{
    unsigned first = alignment_of(pointer),
             step = alignment_of((const void *)(uintptr_t)(stride * dtype_bytes(dtype)));
    return first < step ? first : step;
}

static void set_alignments(struct product *product)
{
    struct product_key *key = &product->key;
    key->w_alignment = alignment_of_rows(product->w, key->w_stride, key->dtype);
    key->x_alignment = alignment_of_rows(product->x, key->x_stride, key->dtype);
    key->out_alignment = alignment_of_rows(product->out, key->out_stride, DTYPE_F32);
    key->bias_alignment = product->bias != NULL ? alignment_of(product->bias) : 0;
}

/* *ret_is_accepted false: the algorithm is not for this many rows. */
static bool try_product(struct cuda *cuda, const struct product *product, const struct algorithm *algorithm,
                        bool *ret_is_accepted, struct error *error)
{
    const float one = 1.0f, zero = 0.0f;
    struct descriptors d;
    cublasLtMatmulHeuristicResult_t result;
    bool is_fine = create_descriptors(product, algorithm->adds_bias, &d, error);
    *ret_is_accepted = is_fine &&
                       cublasLtMatmulAlgoCheck(cuda->blas, d.operation, d.w, d.x, d.out, d.out,
                                               &algorithm->algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
                       result.workspaceSize <= WORKSPACE_BYTES;
    if (*ret_is_accepted) {
        is_fine =
            cublas_fine(cublasLtMatmul(cuda->blas, d.operation, &one, product->w, d.w, product->x, d.x, &zero,
                                       product->out, d.out, product->out, d.out, &algorithm->algorithm,
                                       cuda->workspace, WORKSPACE_BYTES, cuda->stream),
                        "a product", error);
    }
    destroy_descriptors(&d);
    if (*ret_is_accepted && is_fine && product->bias != NULL && !algorithm->adds_bias) {
        return cuda_fine(kernel_add_bias(product->rows, product->key.n, product->bias, product->out,
                                         product->key.out_stride, cuda->stream),
                         "a product's bias", error);
    }
    return is_fine;
}

static bool run_product(struct cuda *cuda, struct product *product, struct error *error)
{
    set_alignments(product);
    const struct algorithm *algorithm = find_algorithm(cuda, product, error);
    bool is_accepted = false;
    if (algorithm == NULL || !try_product(cuda, product, algorithm, &is_accepted, error)) {
        return false;
    }
    if (is_accepted) {
        return true;
    }
    product->key.nominal_rows = product->rows; /* one of its own */
    algorithm = find_algorithm(cuda, product, error);
    if (algorithm == NULL || !try_product(cuda, product, algorithm, &is_accepted, error)) {
        return false;
    }
    return is_accepted ||
           error_set(error, ERROR_INTERNAL, "GPU: cuBLASLt refuses the algorithm that it chose");
}

/* ---- rounded rows ------------------------------------------------------------------------------------------------------- */

uint16_t *cuda_rounded_room(struct cuda *cuda, const struct device *device, size_t rows, size_t count)
{
    size_t bytes = rows * count * sizeof(uint16_t);
    if (cuda_host->device_dtype(device) != DTYPE_BF16 || count % 8 != 0 || bytes == 0 ||
        bytes > ROUNDED_BYTES) {
        return NULL;
    }
    cuda->rounded.x = NULL;
    return cuda_reserve(&cuda->rounded.buffer, bytes, "rounded rows", NULL) ? cuda->rounded.buffer.data
                                                                            : NULL;
}

void cuda_rounded_keep(struct cuda *cuda, const float *x, size_t x_stride, size_t rows, size_t count)
{
    cuda->rounded.x = x;
    cuda->rounded.x_stride = x_stride;
    cuda->rounded.rows = rows;
    cuda->rounded.k = count;
    cuda->rounded.stride = count;
}

/* bf16 rows of x, kept or made now. */
static bool find_rounded(struct cuda *cuda, size_t rows, size_t k, const float *x, size_t x_stride,
                         const void **ret_x, struct error *error)
{
    struct rounded *kept = &cuda->rounded;
    if (kept->x != NULL && x >= kept->x && kept->k == k && kept->x_stride == x_stride && x_stride > 0) {
        size_t offset = (size_t)(x - kept->x), row = offset / x_stride;
        if (offset % x_stride == 0 && row + rows <= kept->rows) {
            *ret_x = (const uint16_t *)kept->buffer.data + row * kept->stride;
            return true;
        }
    }
    size_t stride = cuda_matrix_stride(DTYPE_BF16, k);
    kept->x = NULL;
    if (!cuda_reserve(&kept->buffer, rows * stride * sizeof(uint16_t), "rounded rows", error) ||
        !cuda_fine(kernel_round(rows, k, x, x_stride, kept->buffer.data, stride, cuda->stream),
                   "rounding rows", error)) {
        return false;
    }
    cuda_rounded_keep(cuda, x, x_stride, rows, k);
    kept->stride = stride;
    *ret_x = kept->buffer.data;
    return true;
}

/* ---- matmul ------------------------------------------------------------------------------------------------------------- */

/* Columns [column, column + n) of the product of some rows; out [rows, n]. */
struct part {
    const struct matrix *w;
    size_t column, n, rows;
    const float *x;
    size_t x_stride;
    const float *bias;
    float *out;
    size_t out_stride;
    bool is_few;
};

static bool multiply(struct cuda *cuda, const struct part *part, struct error *error)
{
    enum dtype dtype = part->w->dtype;
    size_t k = part->w->k, w_stride = cuda_matrix_stride(dtype, k);
    struct product product;
    memset(&product, 0, sizeof product); /* keys are compared whole */
    product.key.dtype = dtype;
    product.key.n = part->n;
    product.key.k = dtype == DTYPE_BF16 ? w_stride : k;
    product.key.nominal_rows = part->is_few ? FEW_NOMINAL_ROWS : MANY_NOMINAL_ROWS;
    product.key.w_stride = w_stride;
    product.key.x_stride = dtype == DTYPE_BF16 ? w_stride : part->x_stride > k ? part->x_stride : k;
    product.key.out_stride = part->out_stride > part->n ? part->out_stride : part->n;
    product.rows = part->rows;
    product.x = part->x;
    product.w = (const char *)part->w->data + part->column * w_stride * dtype_bytes(dtype);
    product.bias = part->bias;
    product.out = part->out;
    if (dtype == DTYPE_BF16 &&
        !find_rounded(cuda, part->rows, k, part->x, part->x_stride, &product.x, error)) {
        return false;
    }
    return run_product(cuda, &product, error);
}

/* k == 0: nothing is summed. */
static bool fill_with_bias(struct cuda *cuda, const struct matmul *job, struct error *error)
{
    size_t n = job->w->n;
    return cuda_fine(cudaMemset2DAsync(job->out, job->out_stride * sizeof(float), 0, n * sizeof(float),
                                       job->rows, cuda->stream),
                     "a product", error) &&
           (job->bias == NULL ||
            cuda_fine(kernel_add_bias(job->rows, n, job->bias, job->out, job->out_stride, cuda->stream),
                      "a product", error));
}

bool cuda_matmul(const struct exec *exec, const struct matmul *job, struct error *error)
{
    CHECK(job->w->dtype == DTYPE_F32 || job->w->dtype == DTYPE_BF16);
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL || job->rows == 0 || job->w->n == 0) {
        return cuda != NULL && cuda_leave(cuda, true);
    }
    if (job->w->k == 0) {
        return cuda_leave(cuda, fill_with_bias(cuda, job, error));
    }
    cuda_wrote(cuda, job->out, job->rows, job->w->n, job->out_stride);
    bool is_fine = true;
    for (size_t first = 0; is_fine && first < job->rows; first += PRODUCT_ROWS) {
        size_t left = job->rows - first;
        const struct part part = {.w = job->w,
                                  .n = job->w->n,
                                  .rows = left < PRODUCT_ROWS ? left : PRODUCT_ROWS,
                                  .x = job->x + first * job->x_stride,
                                  .x_stride = job->x_stride,
                                  .bias = job->bias,
                                  .out = job->out + first * job->out_stride,
                                  .out_stride = job->out_stride,
                                  .is_few = job->segments == NULL};
        is_fine = multiply(cuda, &part, error);
    }
    return cuda_leave(cuda, is_fine);
}

/* ---- the head ----------------------------------------------------------------------------------------------------------- */

/* Scans of up to HEAD_ROWS rows, columns after columns. */
static bool scan_head_rows(struct cuda *cuda, const struct head *job, size_t first, size_t rows,
                           struct error *error)
{
    size_t vocab = job->w->n;
    const void *targets = NULL;
    if (!cuda_put(cuda, &cuda->inputs[0], job->targets != NULL ? job->targets + first : NULL,
                  rows * sizeof(int32_t), &targets, error) ||
        !cuda_reserve(&cuda->results[0], rows * sizeof(struct row_scan), "scans of the head", error) ||
        !cuda_reserve(&cuda->results[1], rows * sizeof(float), "target logits", error) ||
        !cuda_reserve(&cuda->logits, rows * HEAD_COLUMNS * sizeof(float), "logits of the head", error) ||
        !cuda_fine(kernel_scan_start(rows, cuda->results[0].data, cuda->stream), "head", error)) {
        return false;
    }
    for (size_t column = 0; column < vocab; column += HEAD_COLUMNS) {
        size_t n = vocab - column < HEAD_COLUMNS ? vocab - column : HEAD_COLUMNS;
        const struct part part = {.w = job->w,
                                  .column = column,
                                  .n = n,
                                  .rows = rows,
                                  .x = job->x + first * job->x_stride,
                                  .x_stride = job->x_stride,
                                  .out = cuda->logits.data,
                                  .out_stride = HEAD_COLUMNS};
        const struct kernel_scan scan = {.rows = rows,
                                         .first = column,
                                         .count = n,
                                         .segment_columns = HEAD_COLUMNS,
                                         .logits = cuda->logits.data,
                                         .stride = HEAD_COLUMNS,
                                         .targets = targets,
                                         .scans = cuda->results[0].data,
                                         .target_logits = cuda->results[1].data};
        if (!multiply(cuda, &part, error) ||
            (job->softcap > 0.0f &&
             !cuda_fine(kernel_softcap(rows, n, cuda->logits.data, HEAD_COLUMNS, job->softcap, cuda->stream),
                        "head", error)) ||
            !cuda_fine(kernel_scan(&scan, cuda->stream), "head", error)) {
            return false;
        }
    }
    return cuda_get(cuda, job->scans + first, cuda->results[0].data, rows * sizeof *job->scans, "head",
                    error);
}

/* Those that are wanted; others stay as they are. */
static bool fetch_target_logits(struct cuda *cuda, const struct head *job, size_t first, size_t rows,
                                float *logits, struct error *error)
{
    if (!cuda_get(cuda, logits, cuda->results[1].data, rows * sizeof *logits, "head", error)) {
        return false;
    }
    for (size_t r = 0; r < rows; r++) {
        if (job->targets[first + r] >= 0) {
            job->target_logits[first + r] = logits[r];
        }
    }
    return true;
}

bool cuda_head(const struct exec *exec, const struct head *job, struct error *error)
{
    OWNED_MEMORY float *logits =
        memory_create(job->rows < HEAD_ROWS ? job->rows + 1 : HEAD_ROWS, sizeof *logits);
    bool is_fine = true;
    for (size_t first = 0; is_fine && first < job->rows; first += HEAD_ROWS) {
        size_t rows = job->rows - first < HEAD_ROWS ? job->rows - first : HEAD_ROWS;
        struct cuda *cuda = cuda_enter(exec, error); /* between blocks of rows, others may have a turn */
        is_fine = cuda != NULL &&
                  cuda_leave(cuda, scan_head_rows(cuda, job, first, rows, error) &&
                                       (job->targets == NULL || job->target_logits == NULL ||
                                        fetch_target_logits(cuda, job, first, rows, logits, error)));
    }
    return is_fine;
}
