/*
 * workers/data/overlap.c: which n-grams of one token stream occur in another.
 *
 * The calibration n-grams go into a set of 64-bit hashes; each evaluation n-gram is looked up. With 64 bits
 * and a few million n-grams a false hit has a chance of about 1e-6 over a whole job, and a refusal needs a
 * long unbroken run of hits. A run of r hits in a row means r + n - 1 tokens that all stand in calibration
 * text; text that is really the same gives one run of its whole length, wherever windows happen to be cut.
 */
#include "workers/data/overlap.h"
#include "base/memory.h"

#include <string.h>

#define CANCEL_EVERY 65536u

/* Open addressing; 0 marks a free slot (a hash of 0 is stored as 1). */
struct hash_set {
    uint64_t *slots; /* [slot_count] */
    size_t slot_count;
};

static uint64_t mix64(uint64_t value)
{
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93u;
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93u;
    return value ^ value >> 32;
}

static uint64_t hash_ngram(const int32_t *tokens, size_t count)
{
    uint64_t hash = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < count; i++) {
        hash = mix64(hash + (uint32_t)tokens[i]) * 0x9e3779b97f4a7c15u + i;
    }
    return hash != 0 ? hash : 1;
}

static size_t set_slot(const struct hash_set *set, uint64_t hash)
{
    size_t slot = (size_t)mix64(hash) & (set->slot_count - 1);
    while (set->slots[slot] != 0 && set->slots[slot] != hash) {
        slot = (slot + 1) & (set->slot_count - 1);
    }
    return slot;
}

static bool set_create(struct hash_set *set, const struct windows *windows, size_t ngram,
                       const struct cancel *cancel, struct error *error)
{
    size_t per_window = windows->window_tokens - ngram + 1;
    set->slot_count = 64;
    while (set->slot_count < windows->count * per_window * 2) {
        set->slot_count *= 2;
    }
    set->slots = memory_try_array(set->slot_count, sizeof *set->slots, "calibration n-grams", error);
    if (set->slots == NULL) {
        return false;
    }
    for (size_t i = 0; i < windows->count; i++) {
        const int32_t *tokens = windows->tokens + i * windows->window_tokens;
        for (size_t t = 0; t < per_window; t++) {
            uint64_t hash = hash_ngram(tokens + t, ngram);
            set->slots[set_slot(set, hash)] = hash;
        }
        if (!cancel_check_now(cancel, error)) {
            return false;
        }
    }
    return true;
}

static bool count_shared(const struct hash_set *set, const struct token_stream *evaluation,
                         const struct cancel *cancel, struct overlap *overlap, struct error *error)
{
    /* BOS stands for no text: it may start both streams. */
    const int32_t *tokens = evaluation->tokens.ids + evaluation->bos_count;
    size_t count = evaluation->tokens.count - evaluation->bos_count, ngram = overlap->ngram_tokens, run = 0;
    for (size_t t = 0; t + ngram <= count; t++) {
        bool is_shared = set->slots[set_slot(set, hash_ngram(tokens + t, ngram))] != 0;
        overlap->ngram_count++;
        overlap->shared_ngram_count += is_shared ? 1 : 0;
        run = is_shared ? run + 1 : 0;
        if (run > 0 && run + ngram - 1 > overlap->longest_run_tokens) {
            overlap->longest_run_tokens = run + ngram - 1;
        }
        if (t % CANCEL_EVERY == 0 && !cancel_check_now(cancel, error)) {
            return false;
        }
    }
    overlap->ngram_ratio =
        overlap->ngram_count > 0 ? (double)overlap->shared_ngram_count / (double)overlap->ngram_count : 0;
    return true;
}

static size_t smallest(size_t left, size_t right)
{
    return left < right ? left : right;
}

bool overlap_check(const struct windows *calibration, const char *calibration_name,
                   const struct token_stream *evaluation, const char *evaluation_name,
                   size_t evaluation_window_tokens, const struct cancel *cancel, struct overlap *ret_overlap,
                   struct error *error)
{
    /* One token less than a window, because BOS shifts one stream against the other. */
    size_t window = smallest(calibration->window_tokens, evaluation_window_tokens);
    size_t limit = smallest(window > 1 ? window - 1 : 1, OVERLAP_RUN_MAX);
    struct overlap overlap = {.ngram_tokens = smallest(OVERLAP_NGRAM, limit)};
    struct hash_set set = {0};
    bool ok = set_create(&set, calibration, overlap.ngram_tokens, cancel, error) &&
              count_shared(&set, evaluation, cancel, &overlap, error);
    free(set.slots);
    if (!ok) {
        return false;
    }
    *ret_overlap = overlap;
    if (overlap.longest_run_tokens >= limit) {
        return error_set_field(
            error, ERROR_TEXT_OVERLAP, evaluation_name,
            "the evaluation text %s shares a run of %zu tokens with the calibration text %s (a window has %zu)",
            evaluation_name, overlap.longest_run_tokens, calibration_name, window);
    }
    return true;
}

json_t *overlap_format(const struct overlap *overlap)
{
    json_t *json = json_object();
    json_put_i64(json, "ngram_tokens", (int64_t)overlap->ngram_tokens);
    json_put_double(json, "ngram_ratio", overlap->ngram_ratio);
    json_put_i64(json, "shared_ngrams", (int64_t)overlap->shared_ngram_count);
    json_put_i64(json, "longest_run_tokens", (int64_t)overlap->longest_run_tokens);
    return json;
}
