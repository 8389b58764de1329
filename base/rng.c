/*
 * base/rng.c: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC'11). key = seed (low word first); counter = index (low word first), stream, step; a 64-bit draw is the
 * first two words of the block, low word first.
 */
#include "base/rng.h"
#include "base/check.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

__extension__ typedef unsigned __int128 rng_u128;

#define PHILOX_MULTIPLIER_0 0xD2511F53u
#define PHILOX_MULTIPLIER_1 0xCD9E8D57u
#define PHILOX_WEYL_0       0x9E3779B9u /* golden ratio */
#define PHILOX_WEYL_1       0xBB67AE85u /* sqrt(3) - 1 */
#define PHILOX_ROUNDS       10

void rng_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_words[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t product0 = (uint64_t)PHILOX_MULTIPLIER_0 * c0;
        uint64_t product1 = (uint64_t)PHILOX_MULTIPLIER_1 * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)product1;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)product0;
        k0 += PHILOX_WEYL_0;
        k1 += PHILOX_WEYL_1;
    }
    ret_words[0] = c0;
    ret_words[1] = c1;
    ret_words[2] = c2;
    ret_words[3] = c3;
}

uint64_t rng_u64(const struct rng *rng, uint64_t index)
{
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), rng->stream, rng->step};
    const uint32_t key[2] = {(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)};
    uint32_t words[4];
    rng_philox4x32(counter, key, words);
    return (uint64_t)words[1] << 32 | words[0];
}

double rng_unit(const struct rng *rng, uint64_t index)
{
    return (double)(rng_u64(rng, index) >> 11) * 0x1p-53;
}

uint64_t rng_below(const struct rng *rng, uint64_t index, uint64_t end)
{
    CHECK(end >= 1);
    return (uint64_t)(((rng_u128)rng_u64(rng, index) * end) >> 64);
}

void rng_permutation(const struct rng *rng, size_t count, size_t *ret_order)
{
    for (size_t i = 0; i < count; i++) {
        ret_order[i] = i;
    }
    for (size_t i = count; i-- > 1;) {
        size_t other = (size_t)rng_below(rng, i, i + 1);
        size_t kept = ret_order[i];
        ret_order[i] = ret_order[other];
        ret_order[other] = kept;
    }
}

bool rng_fill_entropy(void *bytes, size_t count, struct error *error)
{
    unsigned char *at = bytes;
    while (count > 0) {
        ssize_t got = getrandom(at, count, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return error_set_errno(error, errno, "random bytes from the kernel");
        }
        at += got;
        count -= (size_t)got;
    }
    return true;
}

bool rng_identifier(const char *prefix, int64_t time_ms, struct identifier *ret_id, struct error *error)
{
    static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"; /* Crockford: no I, L, O, U */
    enum { DIGITS = 26, TIME_BYTES = 6, ALL_BYTES = 17 };              /* 130 of 136 bits are used */
    size_t prefix_length = strlen(prefix);
    CHECK(prefix_length + DIGITS < sizeof ret_id->text);

    unsigned char bits[ALL_BYTES];
    for (int i = 0; i < TIME_BYTES; i++) {
        bits[i] = (unsigned char)((uint64_t)time_ms >> (8 * (TIME_BYTES - 1 - i)));
    }
    if (!rng_fill_entropy(bits + TIME_BYTES, ALL_BYTES - TIME_BYTES, error)) {
        return false;
    }
    memcpy(ret_id->text, prefix, prefix_length);
    for (size_t i = 0; i < DIGITS; i++) {
        size_t bit = i * 5;
        unsigned pair = (unsigned)bits[bit / 8] << 8 | (bit / 8 + 1 < ALL_BYTES ? bits[bit / 8 + 1] : 0u);
        ret_id->text[prefix_length + i] = alphabet[(pair >> (11 - bit % 8)) & 31u];
    }
    ret_id->text[prefix_length + DIGITS] = '\0';
    return true;
}
