/* workers/prune/compensation_internal.h: shared by compensation.c (order, resume, report) and compensation_pass.c (what passes, and what is
 * made of it). */
#ifndef WORKERS_PRUNE_COMPENSATION_INTERNAL_H
#define WORKERS_PRUNE_COMPENSATION_INTERNAL_H

#include "workers/model/architecture.h"
#include "workers/model/source.h"
#include "workers/prune/compensation.h"

/* One projection that is repaired. */
struct repair_job {
    size_t sublayer, layer;
    size_t expert; /* of the pruned model; 0 where there are none */
    bool is_attention, has_experts, can_have_bias;
    size_t in, out;
    struct gram *gram; /* owned */
    /* Of the current chunk: the outputs of the source's projection, and where each row's lies. Owned. */
    float *y;        /* [y_capacity, out] */
    uint32_t *slots; /* [row_capacity]; UINT32_MAX: the source did not send the row here */
    size_t y_count, y_capacity, row_capacity;
};
/* Sublayers whose inputs are known at once: one, or both of a parallel layer. */
struct repair_group {
    size_t first, end;
    struct repair_job *jobs; /* owned */
    size_t job_count;
};

struct repair {
    const struct prune_compensation *options;
    struct plan *plan;
    struct dense_threads threads;
    struct inventory *derived;
    struct source *source; /* of derived */
    struct model *dense, *pruned;
    struct sweep *dense_sweep, *pruned_sweep;
    struct repair_group *groups;
    size_t group_count, repairing_end; /* the groups behind it have no jobs */
    size_t first_held_out_row;
    bool is_own_patch, adds_attention_bias, adds_ffn_bias; /* made by this run */
    json_t *entries;                                       /* owned; the report's sublayers */
    /* Of the pass that is on. */
    const struct repair_group *group;
    struct repair_job *jobs; /* of the group, those that are summed now */
    size_t job_count;
    bool keeps_dense; /* another pass follows: the source's stream stays where it is */
    size_t chunk_row; /* first of the current chunk */
    float *weights;   /* owned, [weight_capacity]: of the chunk's rows; NULL: 1 */
    size_t weight_capacity;
    float *row_weights; /* owned, [weight_capacity]: of rows that are summed */
    float
        *drift; /* owned; of the chunk, the source's residual in front of the group less the pruned model's */
    size_t drift_capacity;
    bool has_drift; /* the target is the residual */
    float *x;       /* owned; the inputs shown last */
    size_t x_capacity, x_size;
};

/* Both streams through a group, with nothing summed. */
bool repair_run(struct repair *repair, const struct repair_group *group, struct error *error) MUST_USE;
/* Sums and solves the group's jobs, fills the patch and the report, and takes both streams through the group. */
bool repair_group(struct repair *repair, const struct repair_group *group, struct error *error) MUST_USE;

#endif
