/*
 * workers/evaluate/divergence.h: how far a pruned model's predictions are from the original's, on the same text.
 *
 * kl_mean: KL(original || pruned) = sum_v p(v) (log p(v) - log q(v)) in nats, the mean over predictions.
 * agreement at k: the share of predictions whose likeliest token under the original (ties: lower id) is among the k likeliest of the
 * pruned model (ties: lower id first).
 * Predictions are those of the gptq protocol (perplexity.h): non-overlapping windows from the start of the text, each token but a
 * window's first.
 *
 * The two models need not be there at once. What has to be known of the original is its distribution at every prediction; kept are
 * the states before its head, hidden_size floats a prediction in a file (9 KB where the logits of a 49k vocabulary would be 196 KB,
 * in any format more than these), and its head alone makes the same logits of them again, bit by bit. So a second model beside the
 * pruned one holds just its head: model_open reads nothing before it is asked for. Under streaming the head is read once a batch.
 */
#ifndef WORKERS_EVALUATE_DIVERGENCE_H
#define WORKERS_EVALUATE_DIVERGENCE_H

#include "base/error.h"
#include "base/json.h"
#include "workers/data/windows.h"
#include "workers/evaluate/control.h"
#include "workers/model/model.h"
#include "workers/tensor/pool.h"
#include <stddef.h>
#include <stdint.h>

enum { DIVERGENCE_RANKS = 3 }; /* k = 1, 5, 10 */
extern const size_t divergence_ranks[DIVERGENCE_RANKS];

struct divergence {
    size_t window_tokens, window_count;
    uint64_t token_count; /* predictions */
    double kl_mean;
    double agreement[DIVERGENCE_RANKS];
};

/* What divergence_measure holds beside the pruned model and a batch of it: for the plan of memory. */
uint64_t divergence_bytes(const struct model_config *config, size_t batch_tokens);

/* The original's states into the file, which is created or gone on with (control->resume). */
bool divergence_keep(struct model *original, const struct windows *windows,
                     const struct evaluate_control *control, const char *path, struct error *error) MUST_USE;
/* `original` is asked for its head alone. Both have the same vocabulary (CHECKed). pool: borrowed. NUMERIC, INPUT_CHANGED (the file
 * is not what was kept), CANCELLED, OUT_OF_MEMORY. */
bool divergence_measure(struct model *original, struct model *pruned, const struct windows *windows,
                        const struct evaluate_control *control, const char *path, struct pool *pool,
                        struct divergence *ret_divergence, struct error *error) MUST_USE;
/* {"kl_mean", "agreement": {"top_1", "top_5", "top_10"}, "tokens", "windows", "window_tokens"}. Owned. */
json_t *divergence_format(const struct divergence *divergence) MUST_USE;

/* Of one prediction, from logits [vocab]: KL in nats, and how many tokens the pruned model puts before the original's likeliest.
 * False where a logit is not finite. */
bool divergence_of_logits(const float *original, const float *pruned, size_t vocab_size, double *ret_kl,
                          size_t *ret_rank);

#endif
