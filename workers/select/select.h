/*
 * workers/select/select.h: which records of a data set heal a pruned model best. A selector receives what it named in `needs`, as
 * arrays over records, and returns an order of records that its budget pays for; it touches neither model nor file.
 *
 *     methods.def          one line per selector: the registry
 *     method_<name>.c      one file per selector; what it computes lies beside it in a file without "method_" where it is more than a line
 *     clustering.h         records into clusters by what they ask: neighbours, graph, spectrum, labels
 *     assembly.h           PASER's walk: clusters share the budget by their damage, records come by efficiency
 *     admission.h          whether a record may join those before it: concepts that conflict, near duplicates
 *     measure.h            what a model says of records: damage, losses, embeddings
 *     one_shot.h           what a model says of anchors behind records (these two alone run models)
 *
 * Records are those that can be chosen: each has a response, and copies are gone. Everything is in double where it is compared, ties go to
 * the smaller index (ranking.h), and random choices are counter-based, so the same arrays give the same selection.
 *
 * Threads: one thread per run; it drives the pool.
 */
#ifndef WORKERS_SELECT_SELECT_H
#define WORKERS_SELECT_SELECT_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include "base/param.h"
#include "workers/data/instructions.h"
#include "workers/select/ranking.h"
#include "workers/tensor/dense.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum select_need {
    SELECT_NEED_EMBEDDINGS = 1u << 0, /* records->embeddings */
    SELECT_NEED_DAMAGE = 1u << 1, /* records->damages, by the parameter `damage`, and entropies: two models */
    SELECT_NEED_LOSSES = 1u << 2, /* records->losses: the response after its prompt */
    SELECT_NEED_ALONE = 1u << 3,  /* records->alone_losses: the response by itself */
    SELECT_NEED_EL2N = 1u << 4,   /* records->el2n */
    SELECT_NEED_FIELDS = 1u << 5, /* records->columns: the numbers that parameter `columns` names */
    SELECT_NEED_TARGETS = 1u << 6,   /* run->targets: the records of parameter `targets`, with embeddings */
    SELECT_NEED_ENTROPIES = 1u << 7, /* records->entropies, of the model that the losses are of */
    /* records->zero_shot and one_shot: the original before anchors, by the parameters `anchors`, `targets`, `threshold`, `delta` (one_shot.h); with
     * EMBEDDINGS, by which the anchors are chosen */
    SELECT_NEED_ONE_SHOT = 1u << 8,
    SELECT_NEED_EFFORTS = 1u << 9, /* records->efforts */
};

/* Borrowed; [count] each, NULL where nobody asked. */
struct select_records {
    size_t count;
    const uint32_t *prompt_tokens, *response_tokens; /* as the models read them: at least 1 each */
    const uint32_t *total_tokens;
    const struct instruction_record *const *texts; /* of the data set, in its own words */
    const uint32_t *sources;                       /* which file each is of, < source_count */
    size_t source_count;
    const float *embeddings; /* [count, embedding_size], each of length 1 or 0 */
    size_t embedding_size;
    const double *damages; /* mean over response tokens, nats; may be negative where `damage` is delta_nll */
    const double *
        entropies; /* mean over response tokens, nats: of the original's, with damages, or as ENTROPIES says */
    const double *losses; /* mean nats a response token */
    const double *alone_losses;
    const double *el2n;
    const double *efforts;
    const double *
        columns; /* [count, column_count], in the order of the parameter; NaN: the record has no such number */
    size_t column_count;
    const double *zero_shot; /* [anchor_count]: log-probability of an anchor's answer */
    const double *one_shot;  /* [count, anchor_count]: the same behind a record; NaN: not asked */
    size_t anchor_count;
};

/* The parameter `targets` of selectors that need them: data sets as in dataset.sources, read with the same template, each a group. */
#define SELECT_TARGETS_PARAM                                                                                 \
    {                                                                                                        \
        .name = "targets", .type = PARAM_ARRAY, .flags = PARAM_REQUIRED, .min = 1, .max = 64,                \
        .members = &select_source_item, .member_count = 1,                                                   \
        .help = "Data sets of what the model shall be good at; those that are chosen are like them.",        \
    }
extern const struct param_spec select_source_item;
/* An item of the parameter `columns`. */
extern const struct param_spec select_column_item;

struct select_run {
    const struct select_records *records;
    /* TARGETS; count, sources, source_count and embeddings alone. Each source has a record. */
    const struct select_records *targets;
    const json_t *parameters; /* the selector's own object, validated and resolved */
    struct budget budget;
    uint64_t seed;
    const struct dense_threads *threads;
    void *context;
    void (*progress)(void *context, const char *what, uint64_t step, uint64_t steps); /* may be NULL */
};

/* Why a chosen record is there. */
enum select_reason {
    SELECT_NOT_CHOSEN,
    SELECT_CHOSEN,   /* by its own merit */
    SELECT_REFILLED, /* with budget that another cluster could not use */
    SELECT_DESPITE,  /* although its concepts conflict: nothing else was left */
    SELECT_REJECTED, /* not chosen: its concepts conflict with those of a record before it */
    SELECT_FILTERED, /* not chosen: the selector never ranks it (a band, a score above one) */
};
/* What a selector says. Owned. */
struct selection {
    size_t count;
    size_t *order; /* [chosen_count], room for count: the best first */
    size_t chosen_count;
    double *scores;              /* [count]; NaN: none */
    const char *score_name;      /* static: "efficiency" */
    enum select_reason *reasons; /* [count] */
    uint32_t *labels;            /* [count], < cluster_count; NULL: no clusters */
    size_t cluster_count;
    bool *is_token_pruned; /* [count]: token_masks.jsonl says which of its tokens count; NULL: of none */
    float *map;            /* [count, 2]: a picture of the records; NULL: none */
    json_t *clusters;      /* array of [cluster_count], what the report says of each; NULL: none */
    json_t *details;       /* object: what else the report says */
};
struct selection *selection_create(size_t count, struct error *error) MUST_USE; /* OUT_OF_MEMORY */
void selection_destroy(struct selection *selection);
OWNED_DEFINE(selection)
/* The best of the first `ranked` records of an order, as far as the budget goes: fills order, chosen_count, reasons. order: [ranked]. */
void selection_take(struct selection *selection, const struct select_run *run, const size_t *order,
                    size_t ranked);
/* The whole of a selector that is a ranking: by selection->scores, which are filled; NaN is no score and is FILTERED. */
bool selection_take_best(struct selection *selection, const struct select_run *run,
                         enum ranking_direction direction, struct error *error) MUST_USE;
/* How many records the budget pays for, at most count; of tokens by their mean over all records. */
size_t selection_wanted(const struct select_run *run);
/* Parameters by name; CHECKed to be there, as param_resolve made them. */
double select_number(const struct select_run *run, const char *name);
size_t select_count(const struct select_run *run, const char *name);
const char *select_text(const struct select_run *run, const char *name);
bool select_flag(const struct select_run *run, const char *name);
/* Calls run->progress where there is one. */
void select_progress(const struct select_run *run, const char *what, uint64_t step, uint64_t steps);

struct select_method {
    const char *name;      /* API identifier, snake_case, never renamed */
    const char *summary;   /* one sentence for GET /v1/methods */
    const char *reference; /* paper and the equations implemented */
    unsigned needs;
    bool
        is_loss_of_pruned; /* losses, alone_losses, el2n and efforts are the pruned model's; else the original's */
    const struct param_spec *params;
    size_t param_count;
    /* Whether resolved parameters agree with each other; the error's field points to one, "/name". To be asked before anything is measured. NULL: they always
     * do. INVALID_ARGUMENT. */
    bool (*check)(const json_t *parameters, struct error *error);
    /* For the plan of memory: what select() takes at most beside its arrays, of so many records and targets. NULL: little. */
    uint64_t (*choose_bytes)(const json_t *parameters, size_t records, size_t targets);
    /* Required. *ret_selection: created by the caller, of run->records->count. Errors: CANCELLED, OUT_OF_MEMORY, NUMERIC,
     * INVALID_ARGUMENT (columns that no record has), UNSUPPORTED. */
    bool (*select)(const struct select_run *run, struct selection *ret_selection, struct error *error);
};
#define SELECT_METHOD(id) extern const struct select_method select_method_##id;
#include "workers/select/methods.def"
#undef SELECT_METHOD

/* All selectors, in the order of methods.def; NULL-terminated. */
const struct select_method *const *select_methods(void);
const struct select_method *select_method_find(const char *name); /* NULL: none */
/* Whether it asks a pruned model at all. */
bool select_needs_pruned(const struct select_method *method);

#endif
