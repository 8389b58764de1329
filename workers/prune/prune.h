/*
 * workers/prune/prune.h: deciding what goes. A method receives what it named in `needs` and returns a plan;
 * it touches no weight (design section 3). The rewriter of workers/export applies the plan.
 *
 *     methods.def     one line per method: the registry, and what meson compiles
 *     <method>.c      one file per method
 *     greedy.h        the greedy search that FinerCut is made of, independent of any model
 *     prefix.h        an evaluator of candidate plans over a model: rounds of candidates, exact, with early abort
 *     race.h          candidates of a round against each other, with early abort
 *     wave.h          candidates taken through a model together, layer by layer, from cached prefixes
 *     objective.h     what candidates are judged by: distances of logits, log-likelihood, accuracy
 *     statistics.c    how far blocks, sublayers and spans of blocks turn the hidden states
 *     target.c        what "reached" means, the same for every method
 *
 * A new method is one file and one line in methods.def (tests/unit/workers/prune/method_skeleton.c is the
 * thing to copy). From the entry come GET /v1/methods, validation, the statistics gathered and the contract
 * tests.
 *
 * Threads: one thread per run.
 */
#ifndef WORKERS_PRUNE_PRUNE_H
#define WORKERS_PRUNE_PRUNE_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/json.h"
#include "base/param.h"
#include "workers/model/inventory.h"
#include "workers/model/model.h"
#include "workers/model/plan.h"
#include "workers/model/source.h"
#include "workers/model/sweep.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- targets -------------------------------------------------------------------------------------------- */

enum prune_target_kind {
    PRUNE_TARGET_SPARSITY,          /* removed prunable / prunable >= ratio */
    PRUNE_TARGET_PARAMS,            /* parameters left <= count */
    PRUNE_TARGET_MEMORY_BYTES,      /* bytes of the exported weights <= count */
    PRUNE_TARGET_NUM_LAYERS,        /* blocks after packing <= count */
    PRUNE_TARGET_SUBLAYERS_REMOVED, /* >= count */
};
struct prune_target {
    enum prune_target_kind kind;
    double ratio;
    uint64_t count;
    bool require_packable; /* only points whose blocks all have attention and FFN */
    size_t element_bytes;  /* of the exported dtype; 0: as stored (for memory_bytes) */
};
/* From a validated and resolved `target` object. */
bool prune_target_parse(const json_t *target, struct prune_target *ret_target, struct error *error) MUST_USE;
const char *prune_target_name(enum prune_target_kind kind); /* "sparsity" */
/* Whether the plan as it is cut meets the target. At least one sublayer must be left. */
bool prune_target_reached(const struct prune_target *target, const struct plan *plan,
                          const struct inventory *inventory);
/* What a size has reached, in the target's own measure. */
double prune_target_achieved(const struct prune_target *target, const struct plan_size *size);
/* Cuts at the first point at or past the target; UNREACHABLE names the nearest point of the curve. */
bool prune_target_cut(const struct prune_target *target, struct plan *plan, const struct inventory *inventory,
                      struct error *error) MUST_USE;

/* ---- one run -------------------------------------------------------------------------------------------- */

/* What goes in one step: a sublayer, or all sublayers of a block. Consecutive in residual order. */
struct prune_unit {
    size_t first, count;
};

/* One candidate of a round of a greedy search. */
enum prune_standing {
    PRUNE_PENDING, /* not evaluated */
    PRUNE_EXACT,   /* score is its score */
    PRUNE_BOUND, /* given up: its score is at least `score`, which is enough to say that another one wins. An evaluator that screens
                      (prefix.h) knows this by measured errors only. */
};
struct prune_candidate {
    struct prune_unit unit;
    double cost;  /* candidates are ranked by score / cost; 1 where nothing else is asked for; > 0 */
    double prior; /* what an earlier round made of it (a score or a bound); NAN: nothing */
    double score;
    enum prune_standing standing;
};
/* Candidates in the order that settles ties: the first wins. */
struct prune_round {
    struct prune_candidate *candidates; /* [count] */
    size_t count;
    double
        lazy_epsilon; /* in [0, 1): candidates that an earlier round left behind may stay pending; < 0: none may */
    void *context;
    /* After candidates were settled: a resume point. False ends the round. */
    bool (*settled)(void *context, struct error *error);
};

/* Judges candidates by the distance of their logits from the original's. The greedy search knows no more of a
 * model. */
struct prune_evaluator {
    void *context;
    /* Starts from the model without removed[] (of [sublayer_count]; all false: the original). */
    bool (*restart)(void *context, const bool *removed, struct error *error);
    /* Score of the current model without `unit`, lower is better. `best`: the lowest of this round so far
     * (INFINITY at its start): an evaluator may keep the trajectory of a candidate that beats it. */
    bool (*evaluate)(void *context, const struct prune_unit *unit, double best, double *ret_score,
                     struct error *error);
    /* `unit` is gone from the current model. */
    bool (*commit)(void *context, const struct prune_unit *unit, struct error *error);
    /* What follows may be NULL. All pending candidates of a round together: afterwards the lowest score / cost among the exact
     * ones (ties: the first) is the lowest of all that were to be evaluated. */
    bool (*evaluate_round)(void *context, struct prune_round *round, struct error *error);
    /* Milliseconds of one sublayer over the calibration text: a measurement, different each time. */
    bool (*time_sublayer)(void *context, size_t sublayer, double *ret_ms, struct error *error);
    /* What the search cost so far, for reports: owned. */
    json_t *(*describe)(void *context);
};

struct prune_observer { /* members may be NULL */
    void *context;
    void (*progress)(void *context, uint64_t step, uint64_t steps, const char *unit);
    /* A resume point: `state` (borrowed) is all that decide() needs to go on. must: the run stops next, so it
     * has to be durable; otherwise the callee decides whether the last one is old enough. */
    bool (*save)(void *context, const json_t *state, bool must, struct error *error);
};

/* What the request says of single layers, in the source's numbering. */
struct prune_layers {
    size_t layer_count;
    bool *skip; /* [layer_count]: nothing of the layer goes */
    double *
        ratio; /* [layer_count]: share of its prunable weights that goes (width methods); NAN: the allocation decides */
};

struct prune_method;
struct width_judge;
struct width_statistics;

struct prune_run {
    const struct prune_method *method; /* whose run it is */
    const struct inventory *inventory;
    const struct sublayer *sublayers; /* [sublayer_count] */
    size_t sublayer_count;
    const json_t *parameters; /* the method's own object, validated and resolved */
    uint64_t seed;
    const double *block_cosines;       /* [layer_count], PRUNE_NEED_BLOCK_COSINES; NAN for an empty layer */
    const double *sublayer_cosines;    /* [sublayer_count], PRUNE_NEED_SUBLAYER_COSINES */
    const double *span_angles;         /* [prune_span_count], PRUNE_NEED_SPAN_ANGLES */
    struct prune_evaluator *evaluator; /* PRUNE_NEED_EVALUATOR */
    const struct plan *given;          /* PRUNE_NEED_PLAN */
    const struct prune_layers *layers; /* NULL: the request says nothing of layers */
    /* PRUNE_TRAIT_CURVE: the curve that an earlier search with the same scores ended with; the search goes on from its end. NULL: none.
     * `state` is later than it. */
    const struct plan *curve;
    /* Width methods: */
    /* How far the model with these widths is from the original; allocations that search ask it. NULL: none of them. */
    struct width_judge *judge;
    bool adds_biases; /* compensation may add some: they count, where the family can say them */
    const double *sublayer_milliseconds; /* [sublayer_count], measured; NULL: cost is not milliseconds */
    const struct width_statistics *statistics; /* what the method's `choose` asks for */
    const json_t *allocation;                  /* the body's member, resolved; NULL: the method's default */
    const struct source *weights;              /* of the inventory, for scores that read weights themselves */
    struct pool *pool;
    const char *work_folder; /* for files of the plan (patch.h) */
    /* PRUNE_NEED_MODEL: for passes of the method's own, over the calibration batch, with this for states. With an evaluator it is the model
     * that the evaluator runs, for taps that mask. */
    struct model *model;
    const struct token_batch *batch;
    struct sweep_options sweep;
    const char *kept_path; /* of a file where what a pass found may wait for another target; NULL: none */
    const struct cancel *cancel; /* may be NULL */
    struct prune_observer observer;
    const json_t *state; /* of an earlier attempt, from observer.save; NULL: none */
};

bool prune_is_skipped(const struct prune_run *run, size_t layer);
enum prune_granularity { PRUNE_BY_SUBLAYER, PRUNE_BY_BLOCK };
/* The units of a run in residual order, those of skipped layers left out: owned (free). */
size_t prune_list_units(const struct prune_run *run, enum prune_granularity granularity,
                        struct prune_unit **ret_units);
/* Adds the unit's sublayers to the curve; a result may end at its last one. */
void prune_add_unit(struct plan *plan, const struct prune_unit *unit, double score);
/* For prune_method.estimate of methods that remove such units, all but the last sublayer of the model, in an order that is not known yet:
 * the first point at which the target is met when the smallest go first, than which no order leaves more; where that never meets it,
 * when the largest do. Whether the rest packs depends on the order and is not asked. UNREACHABLE: no order meets it. */
bool prune_estimate(const struct prune_run *run, const struct prune_unit *units, size_t count,
                    const struct prune_target *target, struct plan *ret_plan, struct error *error) MUST_USE;
enum prune_granularity prune_run_granularity(const struct prune_run *run); /* parameter `granularity` */
bool prune_angles_of_all_tokens(const json_t *parameters);                 /* parameter `tokens` */

/* ---- methods -------------------------------------------------------------------------------------------- */

struct width_groups;
enum prune_need {
    PRUNE_NEED_CALIBRATION = 1u << 0,   /* calibration text; the others imply it */
    PRUNE_NEED_BLOCK_COSINES = 1u << 1, /* mean cosine between the input and the output of each block */
    PRUNE_NEED_PLAN = 1u << 3,          /* run->given: the plan.json that parameter `source` names */
    PRUNE_NEED_WIDTH = 1u << 6,         /* run->statistics */
    PRUNE_NEED_MODEL = 1u << 7,         /* run->model, batch and sweep, weights, pool, work_folder */
    PRUNE_NEED_EVALUATOR =
        1u << 2, /* run->evaluator, with the distance named by parameters `metric` and `js_form`; the
                   calibration text's log-likelihood where the method has no such parameter */
    PRUNE_NEED_SUBLAYER_COSINES = 1u << 4, /* mean cosine between the stream before and after each sublayer */
    PRUNE_NEED_SPAN_ANGLES =
        1u << 5, /* mean angle between the states before and after every span of layers, of the
                                         tokens that parameter `tokens` names */
};
#define PRUNE_NEEDS_TURNS (PRUNE_NEED_BLOCK_COSINES | PRUNE_NEED_SUBLAYER_COSINES | PRUNE_NEED_SPAN_ANGLES)
enum prune_trait {
    PRUNE_TRAIT_CURVE = 1u << 0,  /* its scores are distances of whole models: a removal curve */
    PRUNE_TRAIT_SEEDED = 1u << 1, /* the seed changes its choice */
    PRUNE_TRAIT_WIDTH =
        1u << 2, /* makes sublayers narrower: takes `allocation`, `compensation`, layers.per_layer */
    PRUNE_TRAIT_REPLACE = 1u << 3, /* leaves weights that are not the source's, whatever the compensation */
    PRUNE_TRAIT_APART = 1u << 4,   /* plans of different targets are not parts of one another */
    PRUNE_TRAIT_PACKS =
        1u << 5, /* whole blocks go, or all layers get one width: results pack whatever the target */
};

/* A pass over the calibration batch that decide() makes itself. */
struct prune_pass {
    uint64_t rows;       /* tokens */
    uint64_t chunk_rows; /* of the sweep, at most */
    bool is_spilled;     /* states are */
};

struct prune_method {
    const char *name;      /* API identifier, snake_case, never renamed */
    const char *summary;   /* one sentence for GET /v1/methods */
    const char *reference; /* paper and the equations implemented */
    unsigned needs, traits;
    const struct param_spec *params;
    size_t param_count;
    /* Parameters that change no score, only what is made of them: scores are kept and found again without them. NULL-terminated; NULL:
     * none. */
    const char *const *late_params;
    /* Required. Fills ret_plan's curve and cuts it at the target, or says UNREACHABLE with the nearest point.
     * ret_plan: empty, of run->sublayer_count. Errors: OUT_OF_MEMORY, NUMERIC, CANCELLED, DRAINED,
     * UNREACHABLE. */
    bool (*decide)(struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                   struct error *error);
    /* By arithmetic alone, before the job: a plan as large as decide()'s will be, or the reason that there is none. NULL: prune_estimate
     * of all units says it, for width methods width_estimate. */
    bool (*estimate)(const struct prune_run *run, const struct prune_target *target, struct plan *ret_plan,
                     struct error *error);
    /* PRUNE_NEED_MODEL: what decide() takes at most beside weights, the sweep and the forward pass. */
    uint64_t (*pass_bytes)(const struct inventory *inventory, const struct prune_pass *pass);
    /* Width methods (width.h). decide is width_decide, which calls score and then the allocation. */
    bool ranks_within_groups;       /* heads: equally many of every KV group go, else whole groups */
    bool standardises;              /* a global ranking compares standardised scores */
    const char *default_allocation; /* "uniform", "global", ... */
    const char *default_compensation;
    /* Required of width methods: which kinds of groups go by these parameters (bits of WIDTH_KIND), and what they need (bits of
     * width_statistic). */
    void (*choose)(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics);
    /* Fills the scores of every group. Errors: NUMERIC, OUT_OF_MEMORY, CANCELLED. */
    bool (*score)(const struct prune_run *run, struct width_groups *groups, struct error *error);
};
#define PRUNE_METHOD(id) extern const struct prune_method prune_method_##id;
#include "workers/prune/methods.def"
#undef PRUNE_METHOD

/* All methods, in the order of methods.def; NULL-terminated. */
const struct prune_method *const *prune_methods(void);
const struct prune_method *prune_method_find(const char *name); /* NULL: none */

/* ---- statistics ----------------------------------------------------------------------------------------- */

/* Spans of layers [from, to), 0 <= from < to <= layer_count, as a triangle: from after from, to ascending. */
size_t prune_span_count(size_t layer_count);
size_t prune_span_index(size_t layer_count, size_t from, size_t to);

/* acos(product / (norm_a norm_b)) / pi, clamped: 0..1. Two zero vectors do not differ (0); one is at a right angle (0.5). */
double prune_angle(double product, double norm_a, double norm_b);

/* How far the model's parts turn its states: what prune_gather_turns fills where a pointer is not NULL. Means over tokens. */
struct prune_turns {
    double
        *block_cosines; /* [layer_count]: cos(input, output) of each layer; NAN for one without sublayers */
    double *sublayer_cosines; /* [sublayer_count]: cos(x, x + f(norm x)) (LLM-Drop) */
    double *span_angles;      /* [prune_span_count]: acos(cos(h_from, h_to)) / pi */
};
struct prune_turn_options {
    struct sweep_options sweep; /* memory and file for the states of one layer */
    bool angles_of_all_tokens;  /* else of the last token of each sequence */
    uint64_t
        angle_memory_bytes; /* for the states of all layers that angles are made of; 0: no limit. One sequence's are held
                                    whatever it says; with less than all, the batch goes through the model in groups. */
};
/* One dense forward over the batch. Sums in double, tokens in order, so that neither chunks nor groups nor memory change a bit.
 * observer (may be NULL): its progress is told of layers. Nothing is filled on failure. */
bool prune_gather_turns(struct model *model, const struct token_batch *batch,
                        const struct prune_turn_options *options, const struct prune_observer *observer,
                        const struct prune_turns *ret_turns, struct error *error) MUST_USE;
/* Bytes that angles want at best and at least, for sequences of up to longest_rows. */
void prune_measure_turns(const struct model_config *config, size_t sequence_count, size_t longest_rows,
                         bool angles_of_all_tokens, uint64_t *ret_best_bytes, uint64_t *ret_least_bytes);

#endif
