/*
 * workers/prune/width.h: methods that make sublayers narrower. They are three separate pieces (design section 3):
 *
 *     statistics   one dense pass over the calibration batch, layer by layer (width_gather)
 *     scores       what a method is: a number for every unit that may go (prune_method.score)
 *     allocation   how many units each sublayer keeps, and so which (allocation.h); the same for every method
 *
 * Compensation, the repair of what stays, follows the plan (compensation.h).
 *
 * A group is a row of units that compete: they are alike and lie in one sublayer.
 *
 *     WIDTH_HEADS           query heads of an attention sublayer. What goes: whole KV groups, or equally many heads of every group
 *     WIDTH_CHANNELS        channels of a plain FFN
 *     WIDTH_EXPERTS         experts of an FFN that has them
 *     WIDTH_EXPERT_CHANNELS channels of every expert: each its own, equally many: a matrix of scores, a row for each expert
 *     WIDTH_HIDDEN          residual channels: one group for the model (sublayer SIZE_MAX)
 *
 * Threads: one thread drives; the pool inside.
 */
#ifndef WORKERS_PRUNE_WIDTH_H
#define WORKERS_PRUNE_WIDTH_H

#include "base/json.h"
#include "workers/model/architecture.h"
#include "workers/model/inventory.h"
#include "workers/model/model.h"
#include "workers/model/source.h"
#include "workers/model/sweep.h"
#include "workers/prune/moments.h"
#include "workers/prune/scores.h"

struct plan;
struct prune_method;
struct prune_observer;
struct prune_run;
struct prune_target;

/* ---- statistics -------------------------------------------------------------------------------------------------- */

enum width_statistic {
    WIDTH_MOMENTS = 1u << 0,  /* of the inputs of output projections */
    WIDTH_LEVERAGE = 1u << 1, /* ridge leverage of the same columns */
    WIDTH_ROUTED = 1u << 2,   /* of experts: mean gate times norm of the output */
    WIDTH_RESIDUAL = 1u << 3, /* moments of normed rows, the inputs of sublayers */
    WIDTH_ANGLES = 1u << 4,   /* of layers: how far they turn the residual */
    WIDTH_WEIGHTS = 1u << 5,  /* column sums of output projections; needs no data */
};
#define WIDTH_NEEDS_DATA (WIDTH_MOMENTS | WIDTH_LEVERAGE | WIDTH_ROUTED | WIDTH_RESIDUAL | WIDTH_ANGLES)

/* Of one sublayer. An FFN with experts has one of each for every expert, else there is one; not gathered: NULL. */
struct width_sublayer {
    size_t count;                   /* columns of the output projection: heads * head_size, or channels */
    size_t part_count;              /* experts, or 1 */
    struct moments **moments;       /* [part_count] */
    double **leverage;              /* [part_count][count] */
    struct weight_columns *columns; /* [part_count] */
    struct routed_norm *routed;     /* [part_count] */
    struct moments *residual;       /* of the normed rows: [hidden] */
};
struct width_statistics {
    unsigned have; /* bits of width_statistic */
    size_t sublayer_count, layer_count;
    struct width_sublayer *sublayers;
    double
        *angles; /* [layer_count] mean over tokens of acos(cos(input, output)) / pi; NAN for an empty layer */
    double *cosines; /* [layer_count] mean of cos(input, output) */
};
void width_statistics_destroy(struct width_statistics *statistics);
OWNED_DEFINE(width_statistics)

struct width_gathering {
    unsigned wanted;       /* bits of width_statistic */
    double leverage_ratio; /* lambda of the leverage, of the mean of the Gram matrix's diagonal */
    struct model *model;   /* NULL where no data is needed */
    const struct token_batch *batch;
    struct sweep_options sweep;
    const struct inventory *inventory;
    const char *folder; /* of the model's files */
    struct pool *pool;
    const struct cancel *cancel;
    const struct prune_observer *observer; /* may be NULL */
};
/* One forward pass, layer by layer. Sums in double, in token order, whatever the chunks. */
struct width_statistics *width_gather(const struct width_gathering *gathering, struct error *error) MUST_USE;
/* A role's weight as [outputs, inputs], as the forward pass reads it but for fused q, k, v, whose rows stay as they are. False: there is
 * none. */
bool width_view(const struct inventory *inventory, enum weight_role role, size_t layer, size_t expert,
                struct source_view *ret_view);
/* To a file and back (base/file's atomic save; a hash guards it): scores once, prune many times. load: NULL with CORRUPT_FILE, or
 * NOT_FOUND. */
bool width_statistics_save(const struct width_statistics *statistics, const char *path,
                           struct error *error) MUST_USE;
struct width_statistics *width_statistics_load(const char *path, struct error *error) MUST_USE;
/* Bytes of the statistics themselves, and of what gathering them takes at its peak, they included, besides the model and the sweep. */
uint64_t width_statistics_bytes(const struct model_config *config, unsigned wanted);
uint64_t width_gather_bytes(const struct model_config *config, unsigned wanted);

/* ---- judging widths ---------------------------------------------------------------------------------------------- */

/* The divergence KL(original || narrowed) of the next token's distribution, mean over the tokens of a batch. What goes is masked, not cut: no
 * weight is read anew. Heads, channels and channels of experts alone: a router over fewer experts weighs them anew, and norms over fewer residual
 * channels too. model and batch are borrowed; the model must be whole. */
struct width_judge;
struct width_judge *width_judge_create(struct model *model, const struct token_batch *batch,
                                       const struct cancel *cancel, struct error *error) MUST_USE;
void width_judge_destroy(struct width_judge *judge);
OWNED_DEFINE(width_judge)
/* Of the first `sequences` of the batch (0: all; SIZE_MAX: a quarter). Removed sublayers are skipped. UNSUPPORTED: experts or residual channels go. */
bool width_judge_plan(struct width_judge *judge, const struct plan *plan, size_t sequences,
                      double *ret_divergence, struct error *error) MUST_USE;
uint64_t width_judge_bytes(const struct model_config *config, size_t rows);

/* ---- groups ------------------------------------------------------------------------------------------------------ */

enum width_kind { WIDTH_HEADS, WIDTH_CHANNELS, WIDTH_EXPERTS, WIDTH_EXPERT_CHANNELS, WIDTH_HIDDEN };
#define WIDTH_KIND(kind) (1u << (kind))
struct width_group {
    enum width_kind kind;
    size_t sublayer, layer; /* SIZE_MAX for WIDTH_HIDDEN */
    size_t count;           /* units */
    size_t rows;            /* WIDTH_EXPERT_CHANNELS: experts; else 1 */
    double *scores;         /* owned, [rows, count]; higher stays longer */
};
struct width_groups {
    struct width_group *items;
    size_t count;
};
/* The groups of these kinds that the model has, in residual order, hidden last; scores zero. Those of layers.skip are
 * there too: the allocation keeps them whole. */
void width_list_groups(const struct prune_run *run, unsigned kinds, struct width_groups *ret_groups);
void width_groups_finish(struct width_groups *groups);

/* What the members of an allocation are unless given. */
#define WIDTH_GENERATIONS 16
#define WIDTH_OFFSPRING   8
#define WIDTH_LEVELS      8
#define WIDTH_SHARPNESS   1.0
#define WIDTH_AMPLITUDE   0.02
#define WIDTH_INCREMENT   0.02
/* The allocation that a request means: its `type`, the method's default for "auto" and for none. */
const char *width_allocation_name(const struct prune_method *method, const json_t *allocation);
/* The statistics that a job needs: the method's by its parameters, and the allocation's. */
unsigned width_wanted(const struct prune_method *method, const json_t *parameters, const json_t *allocation);
/* The cost that the allocation weighs units by: that of a request whose allocation asks for one (global, knapsack), NULL for others. */
const char *width_cost(const struct prune_method *method, const json_t *allocation);
/* Whether the allocation asks the judge. */
bool width_needs_judge(const struct prune_method *method, const json_t *allocation);
/* prune_method.decide of width methods: scores, then the allocation. ret_plan may already lack sublayers: the widths of what is left make up
 * what is missing to the target. UNREACHABLE with the least that can be kept; UNSUPPORTED where the model has nothing of the kind. */
bool width_decide(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                  struct error *error) MUST_USE;
/* What it will be like, before anything is scored: the same ratio everywhere. Errors as width_decide's. */
bool width_estimate(const struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                    struct error *error) MUST_USE;

/* What a group keeps, put into the plan. kept: [rows][kept_count], ascending; query heads for heads. Channels of experts after the experts
 * themselves: those that go have no list. */
void width_keep(struct plan *plan, const struct width_group *group, const uint32_t *kept, size_t kept_count);

#endif
