/* tests/unit/base/hash_test.c: SHA-256 and SHA-1 against FIPS 180-4's examples, and the two codes against
 * each other. */
#include "base/hash.h"
#include "base/hash_internal.h"
#include "base/memory.h"
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TWO_BLOCKS "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"

static void sha256_gives_the_published_digests(void **state)
{
    (void)state;
    static const char *const vectors[][2] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {TWO_BLOCKS, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        char hex[SHA256_HEX];
        sha256_hex_of(vectors[i][0], strlen(vectors[i][0]), hex);
        assert_string_equal(hex, vectors[i][1]);
    }
}

static void sha256_of_a_million_letters(void **state)
{
    (void)state;
    struct sha256 hash;
    char part[997], hex[SHA256_HEX];
    memset(part, 'a', sizeof part);
    sha256_start(&hash);
    for (size_t rest = 1000000; rest > 0;) {
        size_t count = rest < sizeof part ? rest : sizeof part;
        sha256_update(&hash, part, count);
        rest -= count;
    }
    sha256_end_hex(&hash, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void both_compressions_agree_and_match_the_example(void **state)
{
    (void)state;
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    static const uint32_t abc_digest[8] = {0xba7816bf, 0x8f01cfea, 0x414140de, 0x5dae2223,
                                           0xb00361a3, 0x96177a9c, 0xb410ff61, 0xf20015ad};
    unsigned char block[64] = {'a', 'b', 'c', 0x80, [63] = 24};
    uint32_t portable[8], fast[8];
    memcpy(portable, start, sizeof start);
    sha256_blocks_portable(portable, block, 1);
    assert_memory_equal(portable, abc_digest, sizeof portable);
    if (!sha256_x86_is_supported()) {
        return;
    }
    memcpy(fast, start, sizeof start);
    sha256_blocks_x86(fast, block, 1);
    assert_memory_equal(fast, abc_digest, sizeof fast);

    enum { BLOCKS = 37 };
    const struct rng rng = {.seed = 3};
    unsigned char *bytes = memory_create(BLOCKS * 64 + 1, 1);
    for (uint64_t i = 0; i < BLOCKS * 64 + 1; i++) {
        bytes[i] = (unsigned char)rng_u64(&rng, i);
    }
    sha256_blocks_portable(portable, bytes + 1, BLOCKS); /* + 1: unaligned input */
    sha256_blocks_x86(fast, bytes + 1, BLOCKS);
    assert_memory_equal(portable, fast, sizeof fast);
    free(bytes);
}

static void pieces_do_not_matter(void **state)
{
    (void)state;
    unsigned char bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 7);
    }
    for (size_t length = 0; length <= sizeof bytes; length++) {
        char whole[SHA256_HEX], pieces[SHA256_HEX];
        sha256_hex_of(bytes, length, whole);
        struct sha256 hash;
        sha256_start(&hash);
        for (size_t at = 0, step = 1; at < length; at += step, step = step * 3 % 71 + 1) {
            step = step < length - at ? step : length - at;
            sha256_update(&hash, bytes + at, step);
            sha256_update(&hash, bytes, 0);
        }
        sha256_end_hex(&hash, pieces);
        assert_string_equal(whole, pieces);
    }
}

static void hex_digests_are_recognised(void **state)
{
    (void)state;
    char hex[SHA256_HEX + 1];
    sha256_hex_of("abc", 3, hex);
    assert_true(sha256_hex_is_valid(hex));
    hex[64] = 'a';
    hex[65] = '\0';
    assert_false(sha256_hex_is_valid(hex));
    hex[63] = '\0';
    assert_false(sha256_hex_is_valid(hex));
    sha256_hex_of("abc", 3, hex);
    hex[0] = 'B';
    assert_false(sha256_hex_is_valid(hex));
    assert_false(sha256_hex_is_valid(NULL));
    assert_false(sha256_hex_is_valid(""));
}

static void sha1_gives_the_published_digests(void **state)
{
    (void)state;
    char hex[41];
    sha1_hex_of("", 0, hex);
    assert_string_equal(hex, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    sha1_hex_of("abc", 3, hex);
    assert_string_equal(hex, "a9993e364706816aba3e25717850c26c9cd0d89d");
    sha1_hex_of(TWO_BLOCKS, strlen(TWO_BLOCKS), hex);
    assert_string_equal(hex, "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    char *letters = memory_create(1000000, 1);
    memset(letters, 'a', 1000000);
    sha1_hex_of(letters, 1000000, hex);
    assert_string_equal(hex, "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
    free(letters);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_published_digests),
        cmocka_unit_test(sha256_of_a_million_letters),
        cmocka_unit_test(both_compressions_agree_and_match_the_example),
        cmocka_unit_test(pieces_do_not_matter),
        cmocka_unit_test(hex_digests_are_recognised),
        cmocka_unit_test(sha1_gives_the_published_digests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
