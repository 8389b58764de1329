/*
 * workers/prune/width_score.h: what the score functions of width methods share: which structures a method's parameters choose, and the way
 * from scores of an output projection's columns to scores of groups (width.h): channels are columns, heads are head_size columns folded,
 * experts' channels are a row for each expert.
 */
#ifndef WORKERS_PRUNE_WIDTH_SCORE_H
#define WORKERS_PRUNE_WIDTH_SCORE_H

#include "workers/prune/prune.h"
#include "workers/prune/width.h"

#define WIDTH_KINDS_CHANNELS (WIDTH_KIND(WIDTH_CHANNELS) | WIDTH_KIND(WIDTH_EXPERT_CHANNELS))
#define WIDTH_KINDS_ALL      (WIDTH_KINDS_CHANNELS | WIDTH_KIND(WIDTH_HEADS))

/* Parameter `structures`: "channels" (of FFNs, those of experts too), "heads", or "all". */
extern const char *const width_structures[];
#define WIDTH_STRUCTURES_PARAM(preset)                                                                       \
    {                                                                                                        \
        .name = "structures", .type = PARAM_ENUM, .values = width_structures,                                \
        .default_json = "\"" preset "\"",                                                                    \
        .help = "What goes: FFN channels (each expert's own where there are some), attention heads, or all." \
    }
unsigned width_structures_chosen(const json_t *parameters); /* bits of WIDTH_KIND */
/* prune_method.choose of methods that have this parameter and score by activations and weights. */
void width_choose_structures(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics);

/* A parameter of type ENUM as the index of its value in `values` (NULL-terminated); of NUMBER. The parameters are resolved. */
size_t width_find_value(const json_t *parameters, const char *name, const char *const *values);
double width_find_number(const json_t *parameters, const char *name);

/* One output projection: an attention's, a plain FFN's, or of one expert. */
struct width_part {
    const struct width_group *group;
    const struct width_sublayer *sublayer; /* statistics; members not gathered are NULL */
    size_t part;                           /* expert, or 0 */
};
static inline const struct moments *width_part_moments(const struct width_part *part)
{
    return part->sublayer->moments[part->part];
}
static inline const struct weight_columns *width_part_columns(const struct width_part *part)
{
    return &part->sublayer->columns[part->part];
}
/* Scores of all columns of a projection: ret_scores [part->sublayer->count]. */
typedef bool (*width_column_score)(const struct prune_run *run, const struct width_part *part,
                                   double *ret_scores, struct error *error);
/* Fills every group of heads, channels and experts' channels, and checks that all scores are finite numbers; other kinds are left alone.
 * head_fold: how the columns of a head become its score. */
bool width_score_columns(const struct prune_run *run, struct width_groups *groups, width_column_score score,
                         enum score_fold head_fold, struct error *error) MUST_USE;

/* Fills every group of experts with REAP's score: mean over routed tokens of the router's weight times the output's norm. */
bool width_score_experts(const struct prune_run *run, struct width_groups *groups,
                         struct error *error) MUST_USE;

/* A whole weight as [outputs, inputs] in fp32, owned; NULL on failure. fused q, k, v as they are stored, fused gate and up as one. */
float *width_read_weight(const struct prune_run *run, enum weight_role role, size_t layer, size_t expert,
                         size_t *ret_rows, size_t *ret_columns, struct error *error) MUST_USE;
/* [channels, hidden] of an FFN or an expert, fused or not; gate NULL where the FFN has none. Both owned. */
bool width_read_inputs(const struct prune_run *run, size_t layer, size_t expert, float **ret_up,
                       float **ret_gate, struct error *error) MUST_USE;

#endif
