/*
 * workers/tensor/cpu_product.c: products of CPU backends, and the fused head that is made of them.
 *
 * Rows are cut into groups: where a backend's rows are independent of any cut, runs of up to PRODUCT_ROWS rows (of the head
 * only those that are wanted); where it works on tiles, tiles that start at a segment's first row. Columns are cut so that there
 * is work for all threads. All groups of one block of columns come one after the other, while its weights are in the cache.
 *
 * The head goes through the vocabulary in rounds of HEAD_ROUND segments of HEAD_COLUMNS columns, and through the rows in blocks
 * of HEAD_GROUPS groups, so that what is kept is bounded: the scans of one round, merged in order before the next.
 */
#include "workers/tensor/cpu.h"

#include "base/check.h"
#include <string.h>

#define HEAD_ROUND  64
#define HEAD_GROUPS 2

struct row_group {
    size_t first, count; /* in `order` */
    bool is_lone;        /* no tile, though the backend has tiles */
};

struct row_cut {
    struct row_group *groups; /* [count] */
    size_t count;
    const uint32_t *order; /* row of each place; NULL: the place itself */
};

static size_t at_most(size_t value, size_t limit)
{
    return value < limit ? value : limit;
}

static size_t round_up(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

static size_t group_limit(size_t rows, size_t segment_count, size_t row_tile)
{
    return row_tile > 0 ? rows / row_tile + segment_count + rows / PRODUCT_ROWS + 2 : rows / PRODUCT_ROWS + 2;
}

/* Groups of about equal size, whole multiples of 42, which the microkernels of all instruction sets divide. */
static void cut_free_rows(struct row_cut *cut, size_t rows, bool is_lone)
{
    if (rows == 0) {
        return;
    }
    size_t pieces = (rows + PRODUCT_ROWS - 1) / PRODUCT_ROWS;
    size_t step = round_up((rows + pieces - 1) / pieces, 42);
    for (size_t first = 0; first < rows; first += step) {
        cut->groups[cut->count++] =
            (struct row_group){.first = first, .count = at_most(step, rows - first), .is_lone = is_lone};
    }
}

static bool is_wanted(const int32_t *targets, size_t row)
{
    return targets == NULL || targets[row] >= 0;
}

static void cut_tiles(struct row_cut *cut, const struct segment *segments, size_t segment_count,
                      size_t row_tile, const int32_t *targets)
{
    for (size_t s = 0; s < segment_count; s++) {
        for (size_t done = 0; done < segments[s].count; done += row_tile) {
            struct row_group group = {.first = segments[s].first_row + done,
                                      .count = at_most(row_tile, segments[s].count - done)};
            bool is_any = false;
            for (size_t r = 0; r < group.count && !is_any; r++) {
                is_any = is_wanted(targets, group.first + r);
            }
            if (is_any) {
                cut->groups[cut->count++] = group;
            }
        }
    }
}

static void product_of(const struct kernels *kernels, const struct row_group *group,
                       const struct product *product)
{
    if (group->is_lone) {
        kernels->product_of_lone_rows(product);
    } else {
        kernels->product(product);
    }
}

bool cpu_matrix_write(struct device *device, const struct matrix *matrix, size_t first_row, size_t row_count,
                      const float *rows, size_t stride, struct error *error)
{
    (void)error;
    struct cpu *cpu = device_state(device);
    CHECK(first_row + row_count <= matrix->n);
    cpu->kernels.matrix_write(matrix, first_row, row_count, rows, stride);
    return true;
}

/* ---- matmul ------------------------------------------------------------------------------------------------------ */

struct matmul_run {
    const struct matmul *job;
    const struct kernels *kernels;
    struct device *device;
    struct row_cut cut;
    size_t column_step;
};

static void matmul_task(void *context, size_t index, size_t thread)
{
    const struct matmul_run *run = context;
    const struct matmul *job = run->job;
    const struct row_group *group = &run->cut.groups[index % run->cut.count];
    size_t column = index / run->cut.count * run->column_step;
    const float *x[PRODUCT_ROWS];
    for (size_t r = 0; r < group->count; r++) {
        x[r] = job->x + (group->first + r) * job->x_stride;
    }
    struct product product = {.w = job->w,
                              .first_column = column,
                              .columns = at_most(run->column_step, job->w->n - column),
                              .rows = group->count,
                              .x = x,
                              .bias = job->bias,
                              .out = job->out + group->first * job->out_stride + column,
                              .out_stride = job->out_stride,
                              .scratch = cpu_scratch(run->device, thread)};
    product_of(run->kernels, group, &product);
}

/* Enough tasks for a good balance, but no smaller ones than pay for packing their rows again. */
static size_t choose_columns(size_t n, size_t group_count, size_t threads)
{
    size_t wanted = (threads * 6 + group_count - 1) / group_count;
    size_t step = round_up((n + wanted - 1) / wanted, PRODUCT_COLUMNS);
    return step < 64 ? 64 : at_most(step, 1024);
}

bool cpu_matmul(const struct exec *exec, const struct matmul *job, struct error *error)
{
    const struct kernels *kernels = &cpu_of(exec)->kernels;
    if (job->rows == 0 || job->w->n == 0) {
        return true;
    }
    struct matmul_run run = {.job = job, .kernels = kernels, .device = exec->device};
    size_t limit = group_limit(job->rows, job->segment_count, kernels->row_tile);
    struct row_group few[16];
    run.cut.groups = limit <= 16 ? few : cpu_buffer(exec, limit * sizeof *run.cut.groups, error);
    if (run.cut.groups == NULL ||
        !cpu_reserve(exec, kernels->product_scratch(job->w->dtype, job->w->k), error)) {
        return false;
    }
    if (kernels->row_tile == 0 || job->segments == NULL) {
        cut_free_rows(&run.cut, job->rows, kernels->row_tile > 0);
    } else {
        cut_tiles(&run.cut, job->segments, job->segment_count, kernels->row_tile, NULL);
    }
    size_t threads = exec->is_shared ? device_thread_count(exec->device) : 1;
    run.column_step =
        kernels->column_tile > 0 ? kernels->column_tile : choose_columns(job->w->n, run.cut.count, threads);
    size_t columns = (job->w->n + run.column_step - 1) / run.column_step;
    return exec_run(exec, run.cut.count * columns, matmul_task, &run, error);
}

/* ---- head -------------------------------------------------------------------------------------------------------- */

struct head_run {
    const struct head *job;
    const struct kernels *kernels;
    struct device *device;
    struct row_cut cut;
    size_t first_group, group_count; /* of this round */
    size_t first_segment;
    struct head_scan *parts; /* [HEAD_ROUND][HEAD_GROUPS][PRODUCT_ROWS] */
};

static struct head_scan *part_of(const struct head_run *run, size_t segment, size_t group)
{
    return run->parts + (segment * HEAD_GROUPS + group) * PRODUCT_ROWS;
}

static size_t row_at(const struct row_cut *cut, size_t place)
{
    return cut->order != NULL ? cut->order[place] : place;
}

static void head_task(void *context, size_t index, size_t thread)
{
    const struct head_run *run = context;
    const struct head *job = run->job;
    size_t g = index % run->group_count, segment = index / run->group_count;
    const struct row_group *group = &run->cut.groups[run->first_group + g];
    size_t column = (run->first_segment + segment) * HEAD_COLUMNS;
    const float *x[PRODUCT_ROWS];
    for (size_t r = 0; r < group->count; r++) {
        x[r] = job->x + row_at(&run->cut, group->first + r) * job->x_stride;
    }
    size_t columns = at_most(HEAD_COLUMNS, job->w->n - column);
    float *logits = cpu_scratch(run->device, thread);
    struct product product = {.w = job->w,
                              .first_column = column,
                              .columns = columns,
                              .rows = group->count,
                              .x = x,
                              .out = logits,
                              .out_stride = HEAD_COLUMNS,
                              .scratch = logits + (size_t)PRODUCT_ROWS * HEAD_COLUMNS};
    product_of(run->kernels, group, &product);
    struct head_scan *parts = part_of(run, segment, g);
    for (size_t r = 0; r < group->count; r++) {
        size_t row = row_at(&run->cut, group->first + r);
        if (!is_wanted(job->targets, row)) {
            continue;
        }
        float *at = logits + r * HEAD_COLUMNS;
        if (job->softcap > 0.0f) {
            run->kernels->softcap(columns, at, job->softcap);
        }
        head_scan_start(&parts[r]);
        run->kernels->scan(columns, at, column, &parts[r]);
        if (job->targets != NULL && (size_t)job->targets[row] >= column &&
            (size_t)job->targets[row] < column + columns) {
            job->target_logits[row] = at[(size_t)job->targets[row] - column];
        }
    }
}

static void merge_round(const struct head_run *run, size_t segment_count)
{
    const struct head *job = run->job;
    for (size_t g = 0; g < run->group_count; g++) {
        const struct row_group *group = &run->cut.groups[run->first_group + g];
        for (size_t r = 0; r < group->count; r++) {
            size_t row = row_at(&run->cut, group->first + r);
            for (size_t s = 0; s < segment_count && is_wanted(job->targets, row); s++) {
                head_scan_merge(&job->scans[row], &part_of(run, s, g)[r]);
            }
        }
    }
}

static bool run_rounds(const struct exec *exec, struct head_run *run, struct error *error)
{
    size_t segments = (run->job->w->n + HEAD_COLUMNS - 1) / HEAD_COLUMNS;
    for (size_t group = 0; group < run->cut.count; group += HEAD_GROUPS) {
        run->first_group = group;
        run->group_count = at_most(HEAD_GROUPS, run->cut.count - group);
        for (size_t segment = 0; segment < segments; segment += HEAD_ROUND) {
            size_t count = at_most(HEAD_ROUND, segments - segment);
            run->first_segment = segment;
            if (!exec_run(exec, count * run->group_count, head_task, run, error)) {
                return false;
            }
            merge_round(run, count);
        }
    }
    return true;
}

#define PART_BYTES (sizeof(struct head_scan) * HEAD_ROUND * HEAD_GROUPS * PRODUCT_ROWS)

size_t cpu_product_scratch_bytes(const struct kernels *kernels, size_t widest)
{
    size_t f32 = kernels->product_scratch(DTYPE_F32, widest),
           bf16 = kernels->product_scratch(DTYPE_BF16, widest);
    return sizeof(float) * PRODUCT_ROWS * HEAD_COLUMNS + (f32 > bf16 ? f32 : bf16);
}

/* Segments have a row each, at least. */
size_t cpu_product_buffer_bytes(const struct kernels *kernels, size_t rows)
{
    return PART_BYTES + 64 + group_limit(rows, rows, kernels->row_tile) * sizeof(struct row_group) +
           rows * sizeof(uint32_t);
}

bool cpu_head(const struct exec *exec, const struct head *job, struct error *error)
{
    const struct kernels *kernels = &cpu_of(exec)->kernels;
    struct head_run run = {.job = job, .kernels = kernels, .device = exec->device};
    size_t limit = group_limit(job->rows, job->segment_count, kernels->row_tile);
    size_t parts_bytes = PART_BYTES;
    size_t groups_bytes = round_up(limit * sizeof *run.cut.groups, 64);
    char *buffer = cpu_buffer(exec, parts_bytes + groups_bytes + job->rows * sizeof *run.cut.order, error);
    size_t scratch = sizeof(float) * PRODUCT_ROWS * HEAD_COLUMNS;
    if (buffer == NULL ||
        !cpu_reserve(exec, scratch + kernels->product_scratch(job->w->dtype, job->w->k), error)) {
        return false;
    }
    run.parts = (void *)buffer;
    run.cut.groups = (void *)(buffer + parts_bytes);
    for (size_t r = 0; r < job->rows; r++) {
        head_scan_start(&job->scans[r]);
    }
    if (kernels->row_tile == 0 || job->segments == NULL) {
        uint32_t *order = (void *)(buffer + parts_bytes + groups_bytes);
        size_t count = 0;
        for (size_t r = 0; r < job->rows; r++) {
            if (is_wanted(job->targets, r)) {
                order[count++] = (uint32_t)r;
            }
        }
        run.cut.order = order;
        cut_free_rows(&run.cut, count, kernels->row_tile > 0);
    } else {
        cut_tiles(&run.cut, job->segments, job->segment_count, kernels->row_tile, job->targets);
    }
    return run_rounds(exec, &run, error);
}
