/* workers/tensor/cpu.c: row operations of CPU backends, cut into runs of rows of about TASK_ELEMENTS elements; the state of a CPU
 * backend; host memory. Products are in cpu_product.c, attention in cpu_attention.c. */
#include "workers/tensor/cpu.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#define TASK_ELEMENTS 32768

/* ---- state and memory -------------------------------------------------------------------------------------------- */

struct cpu *cpu_create(const struct kernels *kernels, struct pool *pool)
{
    struct cpu *cpu = memory_create(1, sizeof *cpu);
    cpu->kernels = *kernels;
    cpu->thread_count = pool_thread_count(pool);
    cpu->buffers = memory_create(cpu->thread_count, sizeof *cpu->buffers);
    return cpu;
}

void cpu_close(void *state)
{
    struct cpu *cpu = state;
    if (cpu == NULL) {
        return;
    }
    for (size_t i = 0; i < cpu->thread_count; i++) {
        free(cpu->buffers[i].data);
    }
    free(cpu->buffers);
    free(cpu);
}

#define STACK_BYTES (256u << 10) /* of a thread, as far as kernels touch it */
#define FIXED_BYTES (1u << 20)   /* code that is touched first when it runs, tables, the allocator's slack */

uint64_t cpu_overhead_bytes(void *state, size_t threads, size_t rows, size_t widest)
{
    const struct kernels *kernels = &((struct cpu *)state)->kernels;
    size_t head_size = widest < 512 ? widest : 512;
    uint64_t product = cpu_product_scratch_bytes(kernels, widest);
    uint64_t attention = kernels->attention_scratch(head_size);
    uint64_t scratch = product > attention ? product : attention;
    uint64_t each =
        scratch + cpu_product_buffer_bytes(kernels, rows) + STACK_BYTES + kernels->library_thread_bytes;
    return FIXED_BYTES + kernels->library_bytes + threads * each;
}

struct cpu *cpu_of(const struct exec *exec)
{
    return device_state(exec->device);
}

bool cpu_reserve(const struct exec *exec, size_t bytes, struct error *error)
{
    size_t first = exec->is_shared ? 0 : exec->thread;
    size_t end = exec->is_shared ? device_thread_count(exec->device) : exec->thread + 1;
    for (size_t thread = first; thread < end; thread++) {
        if (device_scratch(exec->device, thread, bytes, error) == NULL) {
            return false;
        }
    }
    return true;
}

void *cpu_scratch(struct device *device, size_t thread)
{
    return device_scratch(device, thread, 0, NULL);
}

void *cpu_buffer(const struct exec *exec, size_t bytes, struct error *error)
{
    struct cpu_buffer *buffer = &cpu_of(exec)->buffers[exec->is_shared ? 0 : exec->thread];
    if (buffer->bytes < bytes || buffer->data == NULL) {
        free(buffer->data);
        buffer->data = memory_try_array(bytes, 1, "buffer of an operation", error);
        buffer->bytes = buffer->data != NULL ? bytes : 0;
    }
    return buffer->data;
}

/*
 * What is large comes from mmap, zeroed when it is first touched and given back at once, so that the peak is what is in use, and
 * in huge pages where there are some: products walk over all of a matrix and would miss the TLB on each panel. The
 * page in front holds the length. Under a sanitizer all memory is malloc's, which it watches.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAPPED_BYTES SIZE_MAX
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MAPPED_BYTES SIZE_MAX
#endif
#endif
#ifndef MAPPED_BYTES
#define MAPPED_BYTES ((size_t)1 << 20)
#endif
#define HEADER_BYTES 4096

void *cpu_memory_create(struct device *device, size_t bytes, const char *what, struct error *error)
{
    (void)device;
    size_t whole = 0;
    if (__builtin_add_overflow(bytes, HEADER_BYTES, &whole)) {
        error_set(error, ERROR_OUT_OF_MEMORY, "%s: %zu bytes exceed the address space", what, bytes);
        return NULL;
    }
    char *base = NULL;
    if (bytes < MAPPED_BYTES) {
        base = memory_try_array(bytes + 64, 1, what, error);
        if (base == NULL) {
            return NULL;
        }
        *(size_t *)(void *)base = 0;
        return base + 64;
    }
    base = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        error_set(error, ERROR_OUT_OF_MEMORY, "%s: no memory for %zu bytes", what, bytes);
        return NULL;
    }
    (void)madvise(base, whole, MADV_HUGEPAGE);
    *(size_t *)(void *)(base + HEADER_BYTES - 64) = whole;
    return base + HEADER_BYTES;
}

void cpu_memory_destroy(struct device *device, void *memory)
{
    (void)device;
    if (memory == NULL) {
        return;
    }
    char *header = (char *)memory - 64;
    size_t whole = *(size_t *)(void *)header;
    if (whole == 0) {
        free(header);
        return;
    }
    CHECK(munmap((char *)memory - HEADER_BYTES, whole) == 0);
}

bool cpu_memory_copy(struct device *device, void *to, const void *from, size_t bytes, struct error *error)
{
    (void)device;
    (void)error;
    if (bytes > 0) {
        memmove(to, from, bytes);
    }
    return true;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* A job over rows, cut into tasks of `step` rows. */
struct row_run {
    const struct kernels *kernels;
    const void *job;
    size_t rows, step;
    void (*run)(const struct row_run *run, size_t first, size_t count);
    void *result;
};

static void row_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    const struct row_run *run = context;
    size_t first = index * run->step, left = run->rows - first;
    run->run(run, first, left < run->step ? left : run->step);
}

static bool run_rows(const struct exec *exec, const void *job, size_t rows, size_t size,
                     void (*part)(const struct row_run *run, size_t first, size_t count), void *result,
                     struct error *error)
{
    size_t step = TASK_ELEMENTS / (size > 0 ? size : 1);
    step = step > 0 ? step : 1;
    struct row_run run = {.kernels = &cpu_of(exec)->kernels,
                          .job = job,
                          .rows = rows,
                          .step = step,
                          .run = part,
                          .result = result};
    return exec_run(exec, (rows + step - 1) / step, row_task, &run, error);
}

static void norm_part(const struct row_run *run, size_t first, size_t count)
{
    run->kernels->norm(run->job, first, count);
}

bool cpu_norm(const struct exec *exec, const struct norm *job, struct error *error)
{
    return run_rows(exec, job, job->rows, job->groups * job->size, norm_part, NULL, error);
}

static void rope_part(const struct row_run *run, size_t first, size_t count)
{
    const struct rope *job = run->job;
    size_t half = job->rotary_size / 2;
    for (size_t s = 0; s < job->segment_count; s++) {
        const struct segment *segment = &job->segments[s];
        size_t row = first > segment->first_row ? first : segment->first_row;
        for (; row < first + count && row < segment->first_row + segment->count; row++) {
            size_t position = segment->position + row - segment->first_row;
            run->kernels->rope(job->heads, job->head_size, job->rotary_size, job->cosines + position * half,
                               job->sines + position * half, job->x + row * job->stride);
        }
    }
}

bool cpu_rope(const struct exec *exec, const struct rope *job, struct error *error)
{
    size_t rows = 0;
    for (size_t s = 0; s < job->segment_count; s++) {
        size_t end = job->segments[s].first_row + job->segments[s].count;
        rows = end > rows ? end : rows;
    }
    return run_rows(exec, job, rows, job->heads * job->head_size, rope_part, NULL, error);
}

static void activate_part(const struct row_run *run, size_t first, size_t count)
{
    run->kernels->activate(run->job, first, count);
}

bool cpu_activate(const struct exec *exec, const struct activate *job, struct error *error)
{
    return run_rows(exec, job, job->rows, job->count * 2, activate_part, NULL, error);
}

static void add_part(const struct row_run *run, size_t first, size_t count)
{
    const struct add *job = run->job;
    bool is_finite = true;
    for (size_t i = first; i < first + count; i++) {
        size_t row = job->to_rows != NULL ? (size_t)job->to_rows[i] : i;
        float factor = job->factors != NULL ? job->factors[i] : 1.0f;
        is_finite &= run->kernels->add(job->size, job->to + row * job->to_stride,
                                       job->from + i * job->from_stride, factor);
    }
    if (!is_finite) {
        atomic_store((atomic_bool *)run->result, false);
    }
}

bool cpu_add(const struct exec *exec, const struct add *job, bool *ret_is_finite, struct error *error)
{
    atomic_bool is_finite = true;
    if (!run_rows(exec, job, job->rows, job->size, add_part, &is_finite, error)) {
        return false;
    }
    *ret_is_finite = atomic_load(&is_finite);
    return true;
}

static void copy_part(const struct row_run *run, size_t first, size_t count)
{
    const struct copy_rows *job = run->job;
    for (size_t i = first; i < first + count; i++) {
        size_t to = job->to_rows != NULL ? (size_t)job->to_rows[i] : i;
        size_t from = job->from_rows != NULL ? (size_t)job->from_rows[i] : i;
        if (job->size > 0) {
            memcpy(job->to + to * job->to_stride, job->from + from * job->from_stride,
                   job->size * sizeof *job->to);
        }
    }
}

bool cpu_copy_rows(const struct exec *exec, const struct copy_rows *job, struct error *error)
{
    return run_rows(exec, job, job->rows, job->size, copy_part, NULL, error);
}

/* Among few experts a search for the next largest is as good as a sort. */
static void route_row(const struct route *job, size_t row)
{
    const float *logits = job->logits + row * job->stride;
    int32_t *experts = job->experts + row * job->active_count;
    float *weights = job->weights + row * job->active_count;
    float previous = INFINITY;
    size_t previous_index = 0;
    double sum = 0.0, active_sum = 0.0;
    for (size_t a = 0; a < job->active_count; a++) {
        size_t best = SIZE_MAX;
        for (size_t e = 0; e < job->expert_count; e++) {
            bool is_after = a == 0 || logits[e] < previous || (logits[e] == previous && e > previous_index);
            if (is_after && (best == SIZE_MAX || logits[e] > logits[best])) {
                best = e;
            }
        }
        best = best == SIZE_MAX ? a : best; /* only NaN is left: the sum that follows is NaN too */
        experts[a] = (int32_t)best;
        previous = logits[best];
        previous_index = best;
    }
    double max = (double)logits[experts[0]];
    for (size_t e = 0; e < job->expert_count; e++) {
        sum += exp((double)logits[e] - max);
    }
    for (size_t a = 0; a < job->active_count; a++) {
        active_sum += exp((double)logits[experts[a]] - max);
    }
    for (size_t a = 0; a < job->active_count; a++) {
        double weight = exp((double)logits[experts[a]] - max);
        weights[a] = (float)(weight / (job->is_normalised ? active_sum : sum));
    }
}

static void route_part(const struct row_run *run, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        route_row(run->job, i);
    }
}

bool cpu_route(const struct exec *exec, const struct route *job, struct error *error)
{
    CHECK(job->active_count <= job->expert_count);
    if (job->active_count == 0) {
        return true;
    }
    return run_rows(exec, job, job->rows, job->expert_count * 8, route_part, NULL, error);
}

static void softcap_part(const struct row_run *run, size_t first, size_t count)
{
    const struct softcap *job = run->job;
    for (size_t i = first; i < first + count; i++) {
        run->kernels->softcap(job->count, job->x + i * job->stride, job->cap);
    }
}

bool cpu_softcap(const struct exec *exec, const struct softcap *job, struct error *error)
{
    return run_rows(exec, job, job->rows, job->count * 2, softcap_part, NULL, error);
}

static void scan_part(const struct row_run *run, size_t first, size_t count)
{
    const struct scan *job = run->job;
    for (size_t i = first; i < first + count; i++) {
        head_scan_start(&job->scans[i]);
        run->kernels->scan(job->count, job->logits + i * job->stride, 0, &job->scans[i]);
    }
}

bool cpu_scan(const struct exec *exec, const struct scan *job, struct error *error)
{
    return run_rows(exec, job, job->rows, job->count, scan_part, NULL, error);
}

struct squares {
    size_t count, stride;
    const float *x;
};

static void squares_part(const struct row_run *run, size_t first, size_t count)
{
    const struct squares *job = run->job;
    for (size_t i = first; i < first + count; i++) {
        ((double *)run->result)[i] = run->kernels->squares(job->count, job->x + i * job->stride);
    }
}

bool cpu_squares(const struct exec *exec, size_t rows, size_t count, const float *x, size_t stride,
                 double *ret_squares, struct error *error)
{
    struct squares job = {.count = count, .stride = stride, .x = x};
    return run_rows(exec, &job, rows, count, squares_part, ret_squares, error);
}

static void distance_part(const struct row_run *run, size_t first, size_t count)
{
    const struct distance *job = run->job;
    for (size_t i = first; i < first + count; i++) {
        struct distance_row row = {
            .kind = job->kind,
            .count = job->count,
            .original = job->original + i * job->original_stride,
            .candidate = job->candidate + i * job->candidate_stride,
            .original_scale = job->original_scales != NULL ? job->original_scales[i] : 0.0,
            .candidate_scale = job->candidate_scales != NULL ? job->candidate_scales[i] : 0.0};
        job->distances[i] = run->kernels->distance(&row);
    }
}

bool cpu_distance(const struct exec *exec, const struct distance *job, struct error *error)
{
    return run_rows(exec, job, job->rows, job->count * 4, distance_part, NULL, error);
}
