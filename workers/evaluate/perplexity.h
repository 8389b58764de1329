/*
 * workers/evaluate/perplexity.h: perplexity in the two protocols of design section 7.
 *
 * gptq: documents joined by two newlines, one BOS at the very start if the tokenizer adds one,
 * non-overlapping windows, the tail dropped; each window predicts its tokens but the first. exp of the mean
 * over all scored tokens.
 *
 * rolling: each document by itself; every token is scored once. The first window of a document is led by BOS
 * (the tokenizer's, else the config's, else EOS as lm-evaluation-harness does; without any the first token is
 * not scored), later ones by the previous token. The tail is kept. A window feeds at most window_tokens
 * tokens.
 *
 * Bits per byte: nll_sum / ln 2 over the bytes the scored tokens stand for, taken as the text's bytes times
 * scored tokens over all its tokens (exact for rolling).
 *
 * By position: the same by what a prediction could see, in buckets of 1, 2 to 3, 4 to 7, ... tokens of context. A model that lost its
 * long memory shows it there, and a short window hides it.
 */
#ifndef WORKERS_EVALUATE_PERPLEXITY_H
#define WORKERS_EVALUATE_PERPLEXITY_H

#include "base/error.h"
#include "base/json.h"
#include "workers/data/corpus.h"
#include "workers/evaluate/control.h"
#include "workers/evaluate/score.h"
#include "workers/model/model.h"
#include "workers/model/tokenizer.h"
#include <stddef.h>
#include <stdint.h>

enum perplexity_protocol { PERPLEXITY_GPTQ, PERPLEXITY_ROLLING };
bool perplexity_protocol_parse(const char *text,
                               enum perplexity_protocol *ret_protocol); /* "gptq", "rolling" */
const char *perplexity_protocol_name(enum perplexity_protocol protocol);

struct perplexity {
    enum perplexity_protocol protocol;
    size_t window_tokens, window_count;
    uint64_t token_count; /* scored */
    uint64_t text_tokens; /* of the text, BOS not counted */
    uint64_t text_bytes;
    double nll_sum;  /* nats, summed in token order */
    double nll_mean; /* nats per scored token */
    double perplexity, bits_per_byte;
    double bucket_nll[SCORE_BUCKETS]; /* sums; bucket b: contexts of 2^b to 2^(b+1) - 1 tokens */
    uint64_t bucket_tokens[SCORE_BUCKETS];
};
/* TEXT_TOO_SHORT (gptq: not one window), TOKENIZER_MISMATCH, OUT_OF_RANGE (window_tokens < 2), NUMERIC,
 * CANCELLED, OUT_OF_MEMORY. */
bool perplexity_measure(struct model *model, const struct tokenizer *tokenizer, const struct corpus *corpus,
                        enum perplexity_protocol protocol, size_t window_tokens,
                        const struct evaluate_control *control, struct perplexity *ret_perplexity,
                        struct error *error) MUST_USE;
/* {"protocol", "perplexity", "nll_mean", "bits_per_byte", "tokens_scored", "tokens", "windows",
 * "window_tokens", "by_position": [{"first", "last" (tokens of context), "tokens", "nll_mean", "perplexity"}]}. Owned. */
json_t *perplexity_format(const struct perplexity *perplexity) MUST_USE;

#endif
