/*
 * workers/data/overlap.h: calibration and evaluation text never overlap (design section 7). A run of tokens
 * as long as the shorter window (OVERLAP_RUN_MAX at most) found in both is the same text: TEXT_OVERLAP.
 * Shorter coincidences are reported as the share of evaluation 13-grams that also occur in calibration.
 *
 * The evaluation stream is what perplexity scores. Task prompts are not judged here.
 */
#ifndef WORKERS_DATA_OVERLAP_H
#define WORKERS_DATA_OVERLAP_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/json.h"
#include "workers/data/windows.h"
#include <stddef.h>
#include <stdint.h>

#define OVERLAP_NGRAM   13
#define OVERLAP_RUN_MAX 256

struct overlap {
    size_t ngram_tokens; /* OVERLAP_NGRAM, or less when a window is shorter */
    uint64_t ngram_count,
        shared_ngram_count; /* of the evaluation stream; how many of them occur in calibration */
    double ngram_ratio;
    size_t longest_run_tokens; /* of evaluation tokens all of whose n-grams occur in calibration */
};
/* ret_overlap is filled on TEXT_OVERLAP too. evaluation_window_tokens: the window perplexity uses. The names
 * go into the message. */
bool overlap_check(const struct windows *calibration, const char *calibration_name,
                   const struct token_stream *evaluation, const char *evaluation_name,
                   size_t evaluation_window_tokens, const struct cancel *cancel, struct overlap *ret_overlap,
                   struct error *error) MUST_USE;
/* {"ngram_tokens", "ngram_ratio", "shared_ngrams", "longest_run_tokens"}. Owned. */
json_t *overlap_format(const struct overlap *overlap) MUST_USE;

#endif
