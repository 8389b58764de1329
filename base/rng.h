/*
 * base/rng.h: counter-based random numbers, Philox4x32-10 (Salmon et al., SC'11). A draw is a function of
 * (seed, stream, step, index) alone: no state, so order, threads and resumes cannot change it.
 * rng_fill_entropy is the one source of true randomness (getrandom), for identifiers.
 */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include "base/error.h"
#include <stddef.h>
#include <stdint.h>

struct rng {
    uint64_t seed;
    uint32_t stream, step; /* who draws (a method, a layer), and when */
};
uint64_t rng_u64(const struct rng *rng, uint64_t index);
double rng_unit(const struct rng *rng, uint64_t index); /* [0, 1), 53 bits */
/* [0, end), end >= 1; each probability is off by at most 2^-64. */
uint64_t rng_below(const struct rng *rng, uint64_t index, uint64_t end);
/* Fisher-Yates over 0..count-1. */
void rng_permutation(const struct rng *rng, size_t count, size_t *ret_order);
void rng_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_words[4]);

bool rng_fill_entropy(void *bytes, size_t count, struct error *error) MUST_USE;
/* The prefix as given ("job_"), at most 13 bytes, + 26 characters [0-9A-Z] (Crockford base32 of 130 bits: 48
 * bits of time_ms, then entropy). */
struct identifier {
    char text[40];
};
bool rng_identifier(const char *prefix, int64_t time_ms, struct identifier *ret_id,
                    struct error *error) MUST_USE;

#endif
