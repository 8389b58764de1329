/*
 * workers/data/candidates.h: the records of several instruction sets as token sequences, prompt and response, and which of them can be
 * chosen at all.
 *
 * The prompt is what the template makes of a record, with what the tokenizer puts in front; the response is encoded by itself, so that the
 * border between the two is always a border of tokens. End-of-text tokens at the end of a response are not part of it. A record longer than
 * max_tokens loses the end of its response.
 *
 * Threads: immutable once made.
 */
#ifndef WORKERS_DATA_CANDIDATES_H
#define WORKERS_DATA_CANDIDATES_H

#include "base/cancel.h"
#include "workers/data/instructions.h"
#include "workers/model/config.h"
#include "workers/model/tokenizer.h"
#include "workers/tensor/pool.h"

enum candidate_status {
    CANDIDATE_VALID,
    CANDIDATE_EMPTY_RESPONSE, /* nothing is left to learn */
    CANDIDATE_LONG_PROMPT,    /* the prompt alone reaches max_tokens */
    CANDIDATE_DUPLICATE,      /* the same tokens of prompt and response, before any cut, stood before */
    CANDIDATE_STATUS_COUNT,
};
extern const char *const candidate_status_names[CANDIDATE_STATUS_COUNT];

struct candidate {
    uint32_t source, record; /* of sets[source]->records */
    enum candidate_status status;
    uint32_t copy_of;      /* candidate, of a DUPLICATE */
    bool is_truncated;     /* its response lost its end */
    const int32_t *tokens; /* [prompt_count + response_count], borrowed of the set; NULL unless VALID */
    uint32_t prompt_count, response_count;
};
struct candidates {
    struct instructions *const *sets; /* borrowed of the options, [set_count] */
    size_t set_count;
    struct candidate *items; /* owned: every record, set by set */
    size_t item_count;
    uint32_t *valid; /* owned, [valid_count]: numbers of items */
    size_t valid_count;
    size_t status_counts[CANDIDATE_STATUS_COUNT], truncated_count;
    uint64_t valid_tokens;       /* of all valid records, whole */
    size_t common_prompt_tokens; /* with which all prompts begin; 0 where there is one prompt alone */
    int32_t **tokens;            /* owned, by item; NULL unless VALID */
    char sha256[65];             /* of the valid records' tokens */
};
struct candidates_options {
    struct instructions *const *sets; /* [set_count], borrowed for the result's life */
    size_t set_count;
    const size_t *limits; /* [set_count]: the first so many records of each; 0: all. NULL: all */
    const struct instruction_template *form;
    const struct tokenizer *tokenizer;
    const struct model_config *config; /* end-of-text tokens, vocabulary */
    size_t max_tokens;                 /* >= 2 */
    struct pool *pool;
    const struct cancel *cancel;
};
/* Owned. No valid record is no error here. INVALID_ARGUMENT: a text that is no UTF-8, a token that the model lacks, or a prompt without
 * tokens, naming file and record; TOO_LARGE: records that 32 bits do not count; CANCELLED, OUT_OF_MEMORY. */
struct candidates *candidates_create(const struct candidates_options *options, struct error *error) MUST_USE;
void candidates_destroy(struct candidates *candidates);
OWNED_DEFINE(candidates)
const struct instruction_record *candidates_record(const struct candidates *candidates, size_t item);

#endif
