/*
 * workers/recipe/selection.h: a selection job: which records of some data sets heal a pruned model best.
 *
 *     selection.c          what the request asks for; inspect and read: models, tokenizers, data sets, records
 *     selection_check.c    what it asks for and cannot have
 *     selection_plan.c     what it will cost
 *     selection_measure.c  embed and score: what models say of the records, kept on disk, the original's part for later jobs too
 *     selection_one_shot.c  score: anchors, and what records do for their answers
 *     selection_choose.c   select: the selector, on arrays
 *     selection_report.c   export: selected.jsonl, scores.jsonl, report.json, request.json
 *     selection_masks.c    export: token_masks.jsonl
 *     page_selection.c     report.html
 *     catalogue_selection.c  the body of the request
 *
 * Stages: inspect, read, embed, score, select, export.
 */
#ifndef WORKERS_RECIPE_SELECTION_H
#define WORKERS_RECIPE_SELECTION_H

#include "base/hash.h"
#include "base/text.h"
#include "workers/data/candidates.h"
#include "workers/recipe/recipe_internal.h"
#include "workers/select/measure.h"
#include "workers/select/one_shot.h"
#include "workers/select/select.h"

#define SELECTION_SOURCES_MAX    256
#define SELECTION_ENCODER_TOKENS 256 /* as the common sentence encoders were trained */
#define SELECTION_VERSION        1   /* of what is kept of the original */

/* A model beside the original. */
struct selection_model {
    struct inventory *inventory; /* owned; NULL: not asked for */
    const char *folder;          /* borrowed of the job */
    const char *name;            /* borrowed of the spec */
    char sha256[65];
};

/* Data sets, and the records they have. */
struct selection_sets {
    struct instructions *sets[SELECTION_SOURCES_MAX]; /* owned */
    size_t limits[SELECTION_SOURCES_MAX];
    size_t count;
    struct candidates *candidates; /* owned; after read, as is order */
    struct measure_order order;
    float *embeddings; /* owned, [valid_count, embedding_size] */
};

/* One pass of a model: what it measures, where it lies. */
struct selection_pass {
    struct measure_request request;
    struct measure_layout layout;
    int fd; /* -1: no such pass */
    bool is_from_cache;
    double seconds; /* of this attempt */
};

struct selection_job {
    const struct select_method *method;
    const json_t *parameters; /* of the method; borrowed from the spec */
    struct instruction_template form;
    size_t max_tokens;
    struct selection_model pruned, encoder;
    struct tokenizer *encoder_tokenizer;    /* owned */
    struct selection_sets dataset, targets; /* targets: what the method's parameter names */
    struct budget budget;                   /* after read */
    struct selection_pass original, damaged;
    size_t embedding_size;
    struct selection *selection;
    double *damages, *entropies, *losses, *alone_losses, *el2n, *efforts; /* owned, [valid_count] */
    double *columns; /* owned, [valid_count, column_count] */
    size_t column_count;
    struct selection_pass asking;    /* one_shot.h; what follows is owned */
    struct one_shot_anchor *anchors; /* [anchor_count], in the order in which they are asked */
    struct tokens *follows;
    size_t anchor_count;
    double *zero_shot, *one_shot;
    struct one_shot_counts one_shot_counts;
};

/* Of the resolved spec: the method, the template. Nothing is checked; selection_inspect does. */
void selection_read_spec(struct recipe *recipe);
void selection_finish(struct selection_job *selection);
/* What the checkpoint is bound to, beside the original. */
void selection_identify(const struct recipe *recipe, struct sha256 *hash);

bool selection_inspect(struct recipe *recipe, struct error *error) MUST_USE;
bool selection_read(struct recipe *recipe, struct error *error) MUST_USE;
bool selection_embed(struct recipe *recipe, struct error *error) MUST_USE;
bool selection_score(struct recipe *recipe, struct error *error) MUST_USE;
bool selection_choose(struct recipe *recipe, struct error *error) MUST_USE;

/* A pass that goes on: what measure.h and one_shot.h call as `advanced`, with a selection_going. */
struct selection_going {
    struct recipe *recipe;
    const char *member; /* of recipe->done: how many steps are done */
    int fd;             /* its file */
};
bool selection_advance(void *context, size_t done, size_t total, struct error *error) MUST_USE;
size_t selection_done_before(const struct recipe *recipe, const char *member);
/* In the work folder, read and write, of so many bytes; -1 with an error. */
int selection_open_file(const struct recipe *recipe, const char *name, uint64_t bytes,
                        struct error *error) MUST_USE;
/* After the embeddings. */
bool selection_ask_one_shot(struct recipe *recipe, struct error *error) MUST_USE;
/* Of chosen records whose tokens are pruned (select.h), a line each in the order chosen: source, record, response_tokens, and `kept`, runs [start, count]
 * of the response's tokens. Appends; ret_counts, an object, gets records, tokens, tokens_kept. */
bool selection_format_masks(const struct selection_job *selection, struct text *lines, json_t *ret_counts,
                            struct error *error) MUST_USE;
bool selection_export(struct recipe *recipe, json_t **ret_result, struct error *error) MUST_USE;

/* What the passes of a request measure. */
void selection_requests(const json_t *spec, const struct select_method *method,
                        struct measure_request *ret_original, struct measure_request *ret_pruned);
/* The plan of memory: of records and tokens as they are, or as many as text_bytes may hold. pruned, encoder: NULL without. */
struct selection_size {
    const struct inventory *original, *pruned, *encoder;
    const json_t *spec;
    const struct select_method *method;
    size_t threads, records, targets; /* records: with the targets */
    uint64_t tokens, text_bytes, limit_bytes;
};
void selection_plan_memory(const struct selection_size *size, struct memory_plan *ret_plan);
/* The whole plan of a job before it runs: recipe_plan's part for selection jobs. Owned; faults are added. */
json_t *selection_plan(const struct recipe_job *job, const json_t *spec, const struct inventory *inventory,
                       struct error_list *faults) MUST_USE;
/* The inventory of a model beside the original that the spec names under `member`; NULL with faults, and without where it names none. */
struct inventory *selection_find_model(const struct recipe_job *job, const json_t *spec, const char *member,
                                       const char **ret_folder, struct error_list *faults) MUST_USE;
const struct select_method *selection_method(const json_t *spec, const json_t **ret_parameters);
/* Everything that can be refused without reading a data set, with pointers into the spec. pruned: NULL without. */
void selection_check(const json_t *spec, const struct inventory *original, const struct inventory *pruned,
                     struct error_list *faults);

/* catalogue_selection.c */
const struct param_spec *catalogue_selection_body(const struct param_spec *common, size_t common_count);

#endif
