/* workers/tensor/cuda/reductions.c: operations whose results go to the host; each waits for them. */
#include "workers/tensor/cuda/cuda_internal.h"

#include <stddef.h>

_Static_assert((int)DISTANCE_SQUARES == (int)ROW_SQUARES && (int)DISTANCE_ANGULAR == (int)ROW_ANGULAR &&
                   (int)DISTANCE_KL == (int)ROW_KL && (int)DISTANCE_JS == (int)ROW_JS &&
                   (int)DISTANCE_JS_TEXTBOOK == (int)ROW_JS_TEXTBOOK,
               "distances have the numbers of backend.h");
_Static_assert(sizeof(struct head_scan) == sizeof(struct row_scan) &&
                   offsetof(struct head_scan, max) == offsetof(struct row_scan, max) &&
                   offsetof(struct head_scan, sum) == offsetof(struct row_scan, sum) &&
                   offsetof(struct head_scan, index) == offsetof(struct row_scan, index),
               "scans are copied as they are");

bool cuda_route(const struct exec *exec, const struct route *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    size_t count = job->rows * job->active_count;
    return cuda_leave(cuda,
                      cuda_reserve(&cuda->results[0], count * sizeof *job->experts, "routes", error) &&
                          cuda_reserve(&cuda->results[1], count * sizeof *job->weights, "routes", error) &&
                          cuda_fine(kernel_route(job->rows, job->expert_count, job->active_count,
                                                 job->is_normalised, job->logits, job->stride,
                                                 cuda->results[0].data, cuda->results[1].data, cuda->stream),
                                    "routes", error) &&
                          cuda_get(cuda, job->experts, cuda->results[0].data, count * sizeof *job->experts,
                                   "routes", error) &&
                          cuda_get(cuda, job->weights, cuda->results[1].data, count * sizeof *job->weights,
                                   "routes", error));
}

bool cuda_scan(const struct exec *exec, const struct scan *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    size_t bytes = job->rows * sizeof *job->scans;
    bool is_fine = cuda_reserve(&cuda->results[0], bytes, "scans", error);
    const struct kernel_scan kernel = {.rows = job->rows,
                                       .count = job->count,
                                       .segment_columns = HEAD_COLUMNS,
                                       .logits = job->logits,
                                       .stride = job->stride,
                                       .scans = cuda->results[0].data};
    return cuda_leave(
        cuda, is_fine &&
                  cuda_fine(kernel_scan_start(job->rows, kernel.scans, cuda->stream), "scans", error) &&
                  cuda_fine(kernel_scan(&kernel, cuda->stream), "scans", error) &&
                  cuda_get(cuda, job->scans, kernel.scans, bytes, "scans", error));
}

bool cuda_squares(const struct exec *exec, size_t rows, size_t count, const float *x, size_t stride,
                  double *ret_squares, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    size_t bytes = rows * sizeof *ret_squares;
    return cuda_leave(
        cuda, cuda_reserve(&cuda->results[0], bytes, "squares", error) &&
                  cuda_fine(kernel_squares(rows, count, x, stride, cuda->results[0].data, cuda->stream),
                            "squares", error) &&
                  cuda_get(cuda, ret_squares, cuda->results[0].data, bytes, "squares", error));
}

bool cuda_distance(const struct exec *exec, const struct distance *job, struct error *error)
{
    struct cuda *cuda = cuda_enter(exec, error);
    if (cuda == NULL) {
        return false;
    }
    size_t bytes = job->rows * sizeof *job->distances;
    bool needs_scales = job->kind != DISTANCE_SQUARES;
    const void *original_scales = NULL, *candidate_scales = NULL;
    bool is_fine = cuda_put(cuda, &cuda->inputs[0], needs_scales ? job->original_scales : NULL, bytes,
                            &original_scales, error) &&
                   cuda_put(cuda, &cuda->inputs[1], needs_scales ? job->candidate_scales : NULL, bytes,
                            &candidate_scales, error) &&
                   cuda_reserve(&cuda->results[0], bytes, "distances", error);
    const struct kernel_distance kernel = {.kind = (enum row_distance)job->kind,
                                           .rows = job->rows,
                                           .count = job->count,
                                           .original = job->original,
                                           .candidate = job->candidate,
                                           .original_stride = job->original_stride,
                                           .candidate_stride = job->candidate_stride,
                                           .original_scales = original_scales,
                                           .candidate_scales = candidate_scales,
                                           .distances = cuda->results[0].data};
    return cuda_leave(cuda, is_fine &&
                                cuda_fine(kernel_distance(&kernel, cuda->stream), "distances", error) &&
                                cuda_get(cuda, job->distances, kernel.distances, bytes, "distances", error));
}
