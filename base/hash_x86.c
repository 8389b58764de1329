/*
 * base/hash_x86.c: SHA-256 by the SHA extensions. sha256rnds2 does two rounds on the state kept as two
 * registers, {A,B,E,F} and {C,D,G,H} (highest word first); sha256msg1/msg2 extend the message schedule four
 * words at a time. With W[i] = words 4i..4i+3, the schedule is W[i] = msg2(msg1(W[i-4], W[i-3]) + words
 * 4i-7..4i-4, W[i-1]). Elsewhere than on x86 the portable code alone is used.
 */
#include "base/check.h"
#include "base/hash_internal.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

bool sha256_x86_is_supported(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 &&
           (b & (1u << 29)) != 0; /* SHA: older compilers' __builtin_cpu_supports does not know the name */
}

__attribute__((target("sha,sse4.1"))) void sha256_blocks_x86(uint32_t state[8], const unsigned char *bytes,
                                                             size_t block_count)
{
    const __m128i byte_order = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i dcba = _mm_loadu_si128((const __m128i *)(const void *)state);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)(const void *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xB1);
    __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1B);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);

    for (; block_count > 0; block_count--, bytes += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i words[4]; /* the last four quadruples of the schedule, a ring */
        for (int i = 0; i < 16; i++) {
            __m128i now;
            if (i < 4) {
                now = _mm_loadu_si128((const __m128i *)(const void *)(bytes + (ptrdiff_t)16 * i));
                now = _mm_shuffle_epi8(now, byte_order);
            } else {
                const __m128i last = words[(i - 1) & 3];
                now = _mm_sha256msg1_epu32(words[i & 3], words[(i - 3) & 3]);
                now = _mm_add_epi32(now, _mm_alignr_epi8(last, words[(i - 2) & 3], 4));
                now = _mm_sha256msg2_epu32(now, last);
            }
            words[i & 3] = now;
            const __m128i constants =
                _mm_loadu_si128((const __m128i *)(const void *)(sha256_round_constants + (ptrdiff_t)4 * i));
            const __m128i input = _mm_add_epi32(now, constants);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, input);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(input, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }

    __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
    __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

#else

bool sha256_x86_is_supported(void)
{
    return false;
}

void sha256_blocks_x86(uint32_t state[8], const unsigned char *bytes, size_t block_count)
{
    (void)state;
    (void)bytes;
    (void)block_count;
    CHECK(sha256_x86_is_supported());
}

#endif
