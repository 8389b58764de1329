/* tests/unit/workers/prune/small_model.h: a small real model with a calibration batch and an empty folder, for methods that make passes and
 * leave weights. Failing to open one fails the test. */
#ifndef TESTS_UNIT_WORKERS_PRUNE_SMALL_MODEL_H
#define TESTS_UNIT_WORKERS_PRUNE_SMALL_MODEL_H

#include "workers/model/source.h"
#include "workers/prune/prune.h"

enum { SMALL_SEQUENCES = 10, SMALL_TOKENS = 64 };

struct small_model {
    char folder[512], work[64]; /* of the model; of files, removed by finish */
    struct inventory *inventory;
    struct source *source;
    struct pool *pool;
    struct model *model;
    struct token_batch batch;
    struct token_sequence sequences[SMALL_SEQUENCES];
    int32_t tokens[SMALL_SEQUENCES][SMALL_TOKENS];
    struct sublayer *sublayers;
    size_t sublayer_count, row_count, size;
    json_t *parameters;
    double *span_angles;
    struct prune_run run; /* all of the above, without parameters */
};
/* name: of tests/golden/families, or a path from the project's root where it has a slash. */
void small_model_open(struct small_model *small, const char *name);
void small_model_finish(struct small_model *small);

/* Runs a method with these parameters ("{}") over the batch; angles are gathered where it needs them. */
bool small_model_decide(struct small_model *small, const char *method, const char *parameters,
                        const struct prune_target *target, struct plan *plan, struct error *error);
/* The pruned model. Both owned. */
struct model *small_model_apply(const struct small_model *small, const struct plan *plan,
                                struct inventory **ret_derived);
/* The stream after every sublayer that the plan leaves, up to but not including `end`: [rows, size], owned. plan NULL: all. */
float *small_model_stream(const struct small_model *small, struct model *model, const struct plan *plan,
                          size_t end);
/* The largest difference of logits between a model and the pruned one, over all tokens. ret_largest (may be NULL): of the logits. */
double small_model_difference(const struct small_model *small, struct model *model, const struct plan *plan,
                              struct model *other, const struct plan *other_plan, double *ret_largest);

#endif
