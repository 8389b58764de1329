/*
 * workers/model/model.h: a language model as a list of sublayers in residual order, and the steps a forward
 * pass is made of. A caller composes them: embed, run some sublayers, apply the head. Skipping a sublayer is
 * not calling it.
 *
 *     tokens -> model_embed -> h_0 -> sublayer 0 -> h_1 -> ... -> h_N -> head (final norm, lm_head)
 *
 * Pre-norm residual: h_{j+1} = h_j + f_j(norm_j(h_j)).
 *
 * With NORM_AFTER families h_{j+1} = norm_j(h_j + f_j(h_j)); in a parallel layer the FFN reads what its attention read.
 *
 * Determinism (design section 4): a row's bits depend on its own sequence only, not on the batch, the cut into chunks, the
 * budget of memory or the threads (backend.h). Statistics are summed in double, per token, in token order.
 *
 * One thread drives a model (it uses the pool inside). All functions poll the cancel flag. Errors: CANCELLED,
 * OUT_OF_MEMORY, NUMERIC (names the sublayer, or sequence and token), INPUT_CHANGED / IO from reading weights.
 */
#ifndef WORKERS_MODEL_MODEL_H
#define WORKERS_MODEL_MODEL_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "workers/model/config.h"
#include "workers/model/inventory.h"
#include "workers/tensor/pool.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model;

struct model_options {
    const char *backend;           /* "native", "reference", ...; NULL: the best there is for dtype */
    enum dtype dtype;              /* what products are made in: DTYPE_F32 or DTYPE_BF16 */
    uint64_t weights_budget_bytes; /* what weights may take (weights.h); 0: no limit, all resident */
    struct pool *pool;             /* borrowed for the model's life */
    const struct cancel *cancel;   /* may be NULL */
};
struct model *model_open(const struct inventory *inventory, const char *folder,
                         const struct model_options *options, struct error *error) MUST_USE;
void model_destroy(struct model *model);
OWNED_DEFINE(model)

const struct model_config *model_get_config(const struct model *model);

enum sublayer_kind { SUBLAYER_ATTENTION, SUBLAYER_FFN };
struct sublayer {
    enum sublayer_kind kind;
    size_t layer;             /* the layer it came from, in the source's numbering */
    uint64_t parameter_count; /* prunable: attention or FFN weights and biases, without the norm */
    uint64_t norm_count;      /* parameters of its norm, which goes with it */
    bool is_identity; /* its output projection is all zero (an `identity` export): skipping it changes nothing
                       */
};
/* Its weights are read anew when it next runs: the patch of its plan holds others. */
void model_forget_sublayer(struct model *model, size_t index);
size_t model_sublayer_count(const struct model *model);
const struct sublayer *model_sublayer(const struct model *model, size_t index);

/* ---- sequences and hidden states ------------------------------------------------------------------------------- */

struct token_sequence {
    const int32_t *tokens; /* [count], borrowed */
    size_t count;
};
struct token_batch {
    struct token_sequence *sequences; /* [sequence_count] */
    size_t sequence_count;
};

/* Hidden states of a batch: fp32 rows in the device's memory, sequence after sequence without gaps. */
struct hidden {
    size_t sequence_count, hidden_size, row_count;
    struct segment *segments; /* [sequence_count]; positions start at 0 */
    float *rows;              /* [row_count, hidden_size], device memory */
    /* Parallel families only: what the attention of layer `branch_layer` read, for its FFN. */
    float *branch;       /* [row_count, hidden_size], device memory; NULL where no layer is parallel */
    size_t branch_layer; /* SIZE_MAX: nothing is there */
    struct model *model; /* borrowed: whose device it is */
};
struct hidden *hidden_create(struct model *model, const struct token_batch *batch,
                             struct error *error) MUST_USE;
bool hidden_copy(struct hidden *to, const struct hidden *from, struct error *error) MUST_USE; /* same shape */
void hidden_destroy(struct hidden *hidden);
OWNED_DEFINE(hidden)
uint64_t hidden_bytes(const struct hidden *hidden);
/* Rows to and from the host, [count, hidden_size]; the branch is left alone. */
bool hidden_read(const struct hidden *hidden, size_t first_row, size_t count, float *ret_rows,
                 struct error *error) MUST_USE;
bool hidden_write(struct hidden *hidden, size_t first_row, size_t count, const float *rows,
                  struct error *error) MUST_USE;
/* Device rows [from_row, from_row + count) to to_row of another batch of the same model. The branch goes with them where both
 * have the one of the same layer; where only `to` has one, the rows are their own branch (their layer's attention did not run). */
bool hidden_place(struct hidden *to, size_t to_row, const struct hidden *from, size_t from_row, size_t count,
                  struct error *error) MUST_USE;

/* Token ids must lie in the vocabulary (CHECKed; data/ validates). Positions start at 0 in every sequence. */
bool model_embed(struct model *model, const struct token_batch *batch, struct hidden *ret_hidden,
                 struct error *error) MUST_USE;
/* In place. */
bool model_run_sublayer(struct model *model, size_t index, struct hidden *hidden,
                        struct error *error) MUST_USE;
/* All sublayers in [first, sublayer_count) whose removed[] is false; removed NULL: none is. */
bool model_run_from(struct model *model, size_t first, const bool *removed, struct hidden *hidden,
                    struct error *error) MUST_USE;
/* States of a batch after all sublayers but the removed. Owned. */
struct hidden *model_run_batch(struct model *model, const struct token_batch *batch, const bool *removed,
                               struct error *error) MUST_USE;

/* Sequences that begin alike, at the price of one beginning. Sequence s of `wholes` begins with all tokens of sequence
 * prefix_of[s] of `prefixes` and goes on; prefix_of never falls. ret_rest (owned): the states after all sublayers (but the removed)
 * of what goes on, a sequence each, positions where they belong. Values are those of whole sequences within rounding, and a row's
 * bits depend on its sequence and the prefix's length alone. Sublayer by sublayer, so keys and values of one are held:
 * model_shared_bytes of the plan of memory, for `rows` tokens of whole sequences. */
bool model_run_shared(struct model *model, const bool *removed, const struct token_batch *prefixes,
                      const struct token_batch *wholes, const size_t *prefix_of, struct hidden **ret_rest,
                      struct error *error) MUST_USE;
/* False for encoders, with a tap (which what decodes does not show) and where the length of a sequence decides how its beginning is turned (longrope). */
bool model_can_share(const struct model *model);
uint64_t model_shared_bytes(const struct model_config *config, size_t rows);

/* ---- the head: never materialises [tokens, vocab] beyond a tile ------------------------------ */

/* Logits of `count` tokens of one sequence from `first`: ret_logits [count, vocab_size], on the host. */
bool model_logits(struct model *model, const struct hidden *hidden, size_t sequence, size_t first,
                  size_t count, float *ret_logits, struct error *error) MUST_USE;

/* What the head's matrix reads: the states after the final norm, [count, hidden_size]. */
bool model_head_inputs(struct model *model, const struct hidden *hidden, size_t sequence, size_t first,
                       size_t count, float *ret_rows, struct error *error) MUST_USE;

/* Negative log-likelihood in nats. targets[s][t] is the token that position t of sequence s should predict;
 * -1: not scored. ret_nll: same shape, 0 where not scored. ret_is_greedy (may be NULL): whether the target is
 * the argmax (ties: lower id). */
struct target_sequence {
    const int32_t *targets; /* [token_counts[s]] */
    double *nll;            /* [token_counts[s]] */
    bool *is_greedy;        /* [token_counts[s]] or NULL */
};
bool model_nll(struct model *model, const struct hidden *hidden, struct target_sequence *targets,
               struct error *error) MUST_USE;

/* Distances between the original's logits and a candidate's (FinerCut eq., structured_pruning 1.2). */
enum head_metric {
    HEAD_METRIC_NORM,
    HEAD_METRIC_ANGULAR,
    HEAD_METRIC_KL,
    HEAD_METRIC_JS,
    HEAD_METRIC_JS_TEXTBOOK
};
struct head_reference; /* what of the original is needed again: final-normed states or logits, log-sum-exp */
/* NORM and ANGULAR by the head's Gram matrix where that is possible (gram_head.h). */
struct head_reference *head_reference_create(struct model *model, const struct hidden *original,
                                             enum head_metric metric, struct error *error) MUST_USE;
/* All metrics from logits. */
struct head_reference *head_reference_create_plain(struct model *model, const struct hidden *original,
                                                   enum head_metric metric, struct error *error) MUST_USE;
void head_reference_destroy(struct head_reference *reference);
uint64_t head_reference_bytes(const struct model_config *config,
                              size_t rows); /* what one holds; for the plan of the work */
OWNED_DEFINE(head_reference)
/* One term per sequence, each non-negative: NORM |Z0-Z|_F over [tokens, vocab]; ANGULAR sum over tokens of
 * acos; KL, JS sum over tokens and vocabulary divided by vocab_size. The whole distance is the sum of the
 * terms over the number of sequences (NORM) or of tokens (others); head_distance_total does it, in sequence
 * order. hidden holds either all of the reference's sequences or just the `sequence_count` from
 * `first_sequence` on. ret_terms: [sequence_count]. */
bool head_distance(struct model *model, const struct head_reference *reference, const struct hidden *hidden,
                   size_t first_sequence, size_t sequence_count, double *ret_terms,
                   struct error *error) MUST_USE;
/* Many candidates at once, token by token: hidden holds the sequences [first_sequence, first_sequence + sequence_count) of the candidate
 * in slot 0, then those of slot 1, ... */
struct head_comparison {
    const struct hidden *hidden;
    const size_t *slots; /* [slot_count]: the candidates that are wanted */
    size_t slot_count;
    size_t first_sequence, sequence_count;
    const size_t *tokens; /* [token_count], ascending, counted from the first of these sequences; NULL: all */
    size_t token_count;
    double *const *values; /* [slot_count] of [tokens of these sequences]: filled where asked for */
};
/* What head_distance makes its terms of, the same bits. Where !model_rows_are_free, ask for all tokens. */
bool head_compare(struct model *model, const struct head_reference *reference,
                  const struct head_comparison *comparison, struct error *error) MUST_USE;
/* The term of one sequence from the values of its tokens. NUMERIC where they are not finite. */
bool head_term(const struct head_reference *reference, size_t sequence, const double *values,
               double *ret_term, struct error *error) MUST_USE;
/* Whether a comparison makes no logits, so that asking for some tokens saves nothing. */
bool head_reference_is_small(const struct head_reference *reference);
/* Whether the bits of a row's logits depend on the row alone: not on how it is cut into tiles with its neighbours. */
bool model_rows_are_free(const struct model *model);
double head_distance_total(const struct head_reference *reference, const double *terms);

/* Two models on the same tokens, each with its own head: the states before it, in the same sequences. Of each row, in nats: how far the
 * pruned model's prediction is from the original's (HEAD_METRIC_KL, or HEAD_METRIC_JS_TEXTBOOK: 0..ln 2), and the entropy of the
 * original's. Where one vocabulary is longer, only the ids that both have count, each distribution made whole over them. A row's bits
 * depend on its sequence alone. The models lie on the same kind of device (CHECKed). NUMERIC: names sequence and token. */
struct head_pair {
    struct model *original, *pruned;
    const struct hidden *original_hidden, *pruned_hidden;
    enum head_metric metric;
    double *divergences; /* [row_count], filled */
    double *entropies;   /* [row_count], filled; or NULL */
};
bool head_compare_pair(const struct head_pair *pair, struct error *error) MUST_USE;

/* ---- generation ------------------------------------------------------------------------------ */

struct generation {
    const int32_t *prompt; /* [prompt_count], at least 1 */
    size_t prompt_count;
    int32_t *tokens;    /* [max_tokens], filled */
    size_t token_count; /* filled; stops before a stop token (which is not stored) */
    size_t max_tokens;
};
/* Greedy (ties: lower id), KV cache, many sequences side by side; each sequence's bits are its own. */
bool model_generate(struct model *model, const bool *removed, struct generation *generations, size_t count,
                    const int32_t *stop_tokens, size_t stop_count, struct error *error) MUST_USE;

/* Work done since opening, for reports: tokens through sublayers, and through the head. */
struct model_work {
    uint64_t token_sublayers, token_heads;
};
struct model_work model_get_work(const struct model *model);
/* What the bits of results depend on (device_identity); whether all weights are held. */
const char *model_get_identity(const struct model *model);
bool model_is_resident(const struct model *model);
struct weights;
struct weights *model_get_weights(const struct model *model); /* borrowed */
/* Borrowed, for statistics over states on the host; the cancel flag may be NULL. */
struct pool *model_get_pool(const struct model *model);
const struct cancel *model_get_cancel(const struct model *model);

/* For the plan of the work, besides hidden states and head references: what all weights need, the least budget for weights
 * that works, and what a forward pass and the head take besides (scratch, position tables, the device's own), with sequences of
 * up to longest_tokens. */
struct model_size {
    uint64_t weights_resident_bytes, weights_least_bytes, working_bytes;
};
void model_measure(const struct inventory *inventory, const char *backend, enum dtype dtype, size_t threads,
                   size_t longest_tokens, struct model_size *ret_size);

/* ---- embeddings (encoders; any model's last states) -------------------------------------------------------------- */

/* The mean of a sequence's states, [hidden_size], summed in double in token order; is_normalised: divided by its L2 norm.
 * NUMERIC where it is not finite, naming the sequence. */
bool model_mean_pool(const struct hidden *hidden, size_t sequence, bool is_normalised, float *ret_embedding,
                     struct error *error) MUST_USE;

#endif
