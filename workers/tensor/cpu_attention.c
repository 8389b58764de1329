/* workers/tensor/cpu_attention.c: attention of CPU backends, cut into tiles of queries of one segment and of up to
 * ATTENTION_HEADS heads that share keys and values. A segment is
 * cut from its own first row, so its bits do not depend on the others. Late tiles have the most keys and go first. */
#include "workers/tensor/cpu.h"

#include "base/check.h"

struct attention_run {
    const struct attention *job;
    const struct kernels *kernels;
    struct device *device;
    size_t tile_count;
};

/* Groups of heads: those of one KV head, in parts of ATTENTION_HEADS. */
static size_t parts_per_kv(size_t heads_per_kv)
{
    return (heads_per_kv + ATTENTION_HEADS - 1) / ATTENTION_HEADS;
}

static void set_heads(struct attention_tile *tile, size_t group, size_t heads_per_kv)
{
    size_t parts = parts_per_kv(heads_per_kv), first = group % parts * ATTENTION_HEADS;
    size_t left = heads_per_kv - first;
    tile->kv_head = group / parts;
    tile->first_head = tile->kv_head * heads_per_kv + first;
    tile->head_count = left < ATTENTION_HEADS ? left : ATTENTION_HEADS;
}

static size_t tiles_of(const struct kernels *kernels, const struct segment *segment)
{
    return (segment->count + kernels->attention_queries - 1) / kernels->attention_queries;
}

static void attention_task(void *context, size_t index, size_t thread)
{
    const struct attention_run *run = context;
    const struct attention *job = run->job;
    struct attention_tile tile = {
        .job = job, .segment = job->segments, .scratch = cpu_scratch(run->device, thread)};
    size_t heads_per_kv = job->head_count / job->kv_head_count;
    size_t groups = job->kv_head_count * parts_per_kv(heads_per_kv);
    size_t number = run->tile_count - 1 - index / groups;
    set_heads(&tile, index % groups, heads_per_kv);
    for (; number >= tiles_of(run->kernels, tile.segment); tile.segment++) {
        number -= tiles_of(run->kernels, tile.segment);
    }
    tile.first_query = number * run->kernels->attention_queries;
    size_t left = tile.segment->count - tile.first_query;
    tile.query_count = left < run->kernels->attention_queries ? left : run->kernels->attention_queries;
    run->kernels->attend(&tile);
}

bool cpu_attention(const struct exec *exec, const struct attention *job, struct error *error)
{
    CHECK(job->kv_head_count > 0 && job->head_count % job->kv_head_count == 0);
    struct attention_run run = {.job = job, .kernels = &cpu_of(exec)->kernels, .device = exec->device};
    for (size_t s = 0; s < job->segment_count; s++) {
        CHECK(job->segments[s].position == 0);
        run.tile_count += tiles_of(run.kernels, &job->segments[s]);
    }
    size_t groups = job->kv_head_count * parts_per_kv(job->head_count / job->kv_head_count);
    return cpu_reserve(exec, run.kernels->attention_scratch(job->head_size), error) &&
           exec_run(exec, run.tile_count * groups, attention_task, &run, error);
}

struct rows_run {
    const struct attention_rows *job;
    const struct kernels *kernels;
    struct device *device;
};

static void rows_task(void *context, size_t index, size_t thread)
{
    const struct rows_run *run = context;
    size_t heads_per_kv = run->job->head_count / run->job->kv_head_count;
    size_t groups = run->job->kv_head_count * parts_per_kv(heads_per_kv);
    struct attention_tile tile = {
        .first_query = index / groups, .query_count = 1, .scratch = cpu_scratch(run->device, thread)};
    set_heads(&tile, index % groups, heads_per_kv);
    run->kernels->attend_row(run->job, &tile);
}

bool cpu_attention_rows(const struct exec *exec, const struct attention_rows *job, struct error *error)
{
    CHECK(job->kv_head_count > 0 && job->head_count % job->kv_head_count == 0);
    struct rows_run run = {.job = job, .kernels = &cpu_of(exec)->kernels, .device = exec->device};
    size_t groups = job->kv_head_count * parts_per_kv(job->head_count / job->kv_head_count);
    return cpu_reserve(exec, run.kernels->attention_scratch(job->head_size), error) &&
           exec_run(exec, job->rows * groups, rows_task, &run, error);
}
