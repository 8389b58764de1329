/* workers/data/candidates.c: see candidates.h. Records are encoded in parallel, each into memory of its own. */
#include "workers/data/candidates.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/memory.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

const char *const candidate_status_names[CANDIDATE_STATUS_COUNT] = {"valid", "empty_response", "long_prompt",
                                                                    "duplicate"};

struct digest {
    unsigned char bytes[SHA256_BYTES];
};

struct encoding {
    const struct candidates_options *options;
    struct candidates *candidates;
    struct digest *digests; /* [item_count] of the tokens of prompt and response */
    pthread_mutex_t lock;
    size_t failed_item; /* guarded by lock: the first that failed; SIZE_MAX: none */
    struct error error; /* guarded by lock */
};

const struct instruction_record *candidates_record(const struct candidates *candidates, size_t item)
{
    const struct candidate *candidate = &candidates->items[item];
    return &candidates->sets[candidate->source]->records[candidate->record];
}

static bool is_end(const struct model_config *config, int32_t token)
{
    for (size_t i = 0; i < config->eos_token_count; i++) {
        if (config->eos_tokens[i] == token) {
            return true;
        }
    }
    return false;
}

static bool check_tokens(const struct tokens *tokens, size_t vocab_size, struct error *error)
{
    for (size_t i = 0; i < tokens->count; i++) {
        if (tokens->ids[i] < 0 || (size_t)tokens->ids[i] >= vocab_size) {
            return error_set(error, ERROR_INVALID_ARGUMENT,
                             "token %d of the tokenizer is outside the model's vocabulary of %zu",
                             tokens->ids[i], vocab_size);
        }
    }
    return true;
}

/* Fills lengths, tokens, status (but for copies) and digest. */
static bool encode_item(struct encoding *run, size_t index, struct tokens *tokens, struct text *prompt,
                        struct error *error)
{
    const struct candidates_options *options = run->options;
    struct candidates *candidates = run->candidates;
    struct candidate *item = &candidates->items[index];
    const struct instruction_record *record = candidates_record(candidates, index);
    instruction_format_prompt(options->form, record, prompt);
    if (!tokenizer_encode(options->tokenizer, prompt->bytes, prompt->length, true, tokens, error)) {
        return false;
    }
    size_t prompt_count = tokens->count, response_bytes = strlen(record->response);
    if (!tokenizer_encode(options->tokenizer, record->response, response_bytes, false, tokens, error) ||
        !check_tokens(tokens, options->config->vocab_size, error)) {
        return false;
    }
    while (tokens->count > prompt_count && is_end(options->config, tokens->ids[tokens->count - 1])) {
        tokens->count--;
    }
    struct sha256 hash;
    uint64_t border = prompt_count;
    sha256_start(&hash);
    sha256_update(&hash, &border, sizeof border);
    sha256_update(&hash, tokens->ids, tokens->count * sizeof *tokens->ids);
    sha256_end(&hash, run->digests[index].bytes);
    if (tokens->count == prompt_count) {
        item->status = CANDIDATE_EMPTY_RESPONSE;
    } else if (prompt_count >= options->max_tokens) {
        item->status = CANDIDATE_LONG_PROMPT;
    } else if (prompt_count == 0) {
        return error_set(error, ERROR_INVALID_ARGUMENT,
                         "the prompt has no tokens: nothing predicts the response's first");
    } else if (tokens->count > options->max_tokens) {
        tokens->count = options->max_tokens;
        item->is_truncated = true;
    }
    item->prompt_count = (uint32_t)prompt_count;
    item->response_count = (uint32_t)(tokens->count - prompt_count);
    candidates->tokens[index] =
        memory_try_array(tokens->count, sizeof(int32_t), "the tokens of a record", error);
    if (candidates->tokens[index] == NULL) {
        return false;
    }
    memcpy(candidates->tokens[index], tokens->ids, tokens->count * sizeof(int32_t));
    item->tokens = candidates->tokens[index];
    return true;
}

static void encode_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct encoding *run = context;
    struct tokens tokens = {0};
    FINISHED(text) prompt = {0};
    struct error error = {0};
    if (!encode_item(run, index, &tokens, &prompt, &error)) {
        pthread_mutex_lock(&run->lock);
        if (index < run->failed_item) {
            run->failed_item = index;
            run->error = error;
        }
        pthread_mutex_unlock(&run->lock);
    }
    tokens_finish(&tokens);
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

struct ranked_digest {
    const struct digest *digest;
    uint32_t item;
};

static int compare_digests(const void *a, const void *b)
{
    const struct ranked_digest *left = a, *right = b;
    int order = memcmp(left->digest, right->digest, sizeof *left->digest);
    return order != 0 ? order : left->item < right->item ? -1 : left->item > right->item;
}

/* Of equal records the first stays. */
static bool mark_copies(struct encoding *run, struct error *error)
{
    struct candidates *candidates = run->candidates;
    OWNED_MEMORY struct ranked_digest *ranked =
        memory_try_array(candidates->item_count, sizeof *ranked, "hashes of records", error);
    if (ranked == NULL) {
        return false;
    }
    size_t count = 0;
    for (size_t i = 0; i < candidates->item_count; i++) {
        if (candidates->items[i].status == CANDIDATE_VALID) {
            ranked[count++] = (struct ranked_digest){&run->digests[i], (uint32_t)i};
        }
    }
    qsort(ranked, count, sizeof *ranked, compare_digests);
    for (size_t i = 0, first = 0; i < count; i++) {
        if (memcmp(ranked[i].digest, ranked[first].digest, sizeof *ranked[i].digest) != 0) {
            first = i;
        } else if (i != first) {
            candidates->items[ranked[i].item].status = CANDIDATE_DUPLICATE;
            candidates->items[ranked[i].item].copy_of = ranked[first].item;
        }
    }
    return true;
}

/* ---- the set ----------------------------------------------------------------------------------------------------- */

static size_t common_prefix(const struct candidates *candidates)
{
    if (candidates->valid_count < 2) {
        return 0;
    }
    const struct candidate *first = &candidates->items[candidates->valid[0]];
    size_t common = first->prompt_count;
    for (size_t i = 1; i < candidates->valid_count; i++) {
        const struct candidate *item = &candidates->items[candidates->valid[i]];
        size_t same = 0;
        while (same < common && same < item->prompt_count && item->tokens[same] == first->tokens[same]) {
            same++;
        }
        common = same;
    }
    return common;
}

static void sum_up(struct candidates *candidates)
{
    struct sha256 hash;
    sha256_start(&hash);
    for (size_t i = 0; i < candidates->item_count; i++) {
        struct candidate *item = &candidates->items[i];
        candidates->status_counts[item->status]++;
        if (item->status != CANDIDATE_VALID) {
            free(candidates->tokens[i]);
            candidates->tokens[i] = NULL;
            item->tokens = NULL;
            continue;
        }
        uint32_t lengths[2] = {item->prompt_count, item->response_count};
        size_t count = (size_t)lengths[0] + lengths[1];
        candidates->truncated_count += item->is_truncated;
        candidates->valid[candidates->valid_count++] = (uint32_t)i;
        candidates->valid_tokens += count;
        sha256_update(&hash, lengths, sizeof lengths);
        sha256_update(&hash, item->tokens, count * sizeof *item->tokens);
    }
    sha256_end_hex(&hash, candidates->sha256);
    candidates->common_prompt_tokens = common_prefix(candidates);
}

static bool list_items(struct candidates *candidates, const struct candidates_options *options,
                       struct error *error)
{
    for (size_t s = 0; s < options->set_count; s++) {
        size_t count = options->sets[s]->record_count;
        size_t limit = options->limits != NULL ? options->limits[s] : 0;
        candidates->item_count += limit > 0 && limit < count ? limit : count;
    }
    if (candidates->item_count >= UINT32_MAX) {
        return error_set(error, ERROR_TOO_LARGE, "more than 2^32 - 2 records");
    }
    candidates->items =
        memory_try_array(candidates->item_count, sizeof *candidates->items, "the list of records", error);
    candidates->valid =
        memory_try_array(candidates->item_count, sizeof *candidates->valid, "the list of records", error);
    candidates->tokens =
        memory_try_array(candidates->item_count, sizeof *candidates->tokens, "the list of records", error);
    if (candidates->items == NULL || candidates->valid == NULL || candidates->tokens == NULL) {
        return false;
    }
    for (size_t s = 0, i = 0; s < options->set_count; s++) {
        size_t count = options->sets[s]->record_count;
        size_t limit = options->limits != NULL ? options->limits[s] : 0;
        count = limit > 0 && limit < count ? limit : count;
        for (size_t r = 0; r < count; r++, i++) {
            candidates->items[i] = (struct candidate){.source = (uint32_t)s, .record = (uint32_t)r};
        }
    }
    return true;
}

struct candidates *candidates_create(const struct candidates_options *options, struct error *error)
{
    CHECK(options->max_tokens >= 2);
    OWNED(candidates) candidates = memory_create(1, sizeof *candidates);
    candidates->sets = options->sets;
    candidates->set_count = options->set_count;
    if (!list_items(candidates, options, error)) {
        return NULL;
    }
    OWNED_MEMORY struct digest *digests =
        memory_try_array(candidates->item_count, sizeof *digests, "hashes of records", error);
    struct encoding run = {options, candidates, digests, PTHREAD_MUTEX_INITIALIZER, SIZE_MAX, {0}};
    if (digests == NULL ||
        !pool_run(options->pool, candidates->item_count, encode_task, &run, options->cancel, error)) {
        return NULL;
    }
    if (run.failed_item != SIZE_MAX) {
        const struct candidate *item = &candidates->items[run.failed_item];
        if (error != NULL) {
            *error = run.error;
            error_prefix(error, "%s, record %u: ", options->sets[item->source]->name, item->record + 1);
        }
        return NULL;
    }
    if (!mark_copies(&run, error)) {
        return NULL;
    }
    sum_up(candidates);
    return TAKE(candidates);
}

void candidates_destroy(struct candidates *candidates)
{
    if (candidates == NULL) {
        return;
    }
    for (size_t i = 0; i < candidates->item_count && candidates->tokens != NULL; i++) {
        free(candidates->tokens[i]);
    }
    free(candidates->tokens);
    free(candidates->items);
    free(candidates->valid);
    free(candidates);
}
