/* tests/unit/base/rng_test.c: Philox against the published known answers, and what is built on it. */
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Random123's kat_vectors, philox4x32 with 10 rounds: zeros, ones, digits of pi. */
static void philox_gives_the_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        uint32_t words[4];
        rng_philox4x32(vectors[i].counter, vectors[i].key, words);
        assert_memory_equal(words, vectors[i].words, sizeof words);
    }
}

static void a_draw_depends_on_all_four_and_nothing_else(void **state)
{
    (void)state;
    struct rng rng = {.seed = 1, .stream = 2, .step = 3};
    uint64_t first = rng_u64(&rng, 5);
    assert_true(rng_u64(&rng, 6) != first);
    assert_true(rng_u64(&rng, 5 + (1ull << 32)) != first);
    assert_true(rng_u64(&(struct rng){.seed = 1ull << 32 | 1, .stream = 2, .step = 3}, 5) != first);
    assert_true(rng_u64(&(struct rng){.seed = 1, .stream = 3, .step = 3}, 5) != first);
    assert_true(rng_u64(&(struct rng){.seed = 1, .stream = 2, .step = 4}, 5) != first);
    assert_true(rng_u64(&rng, 5) == first);
}

static void units_fill_the_half_open_interval_evenly(void **state)
{
    (void)state;
    const struct rng rng = {.seed = 42};
    enum { DRAWS = 20000, BINS = 20 };
    int bins[BINS] = {0};
    for (uint64_t i = 0; i < DRAWS; i++) {
        double unit = rng_unit(&rng, i);
        assert_true(unit >= 0 && unit < 1);
        bins[(int)(unit * BINS)]++;
    }
    for (int i = 0; i < BINS; i++) { /* 1000 expected, deviation 31: six of them */
        assert_in_range(bins[i], 815, 1185);
    }
}

static void below_stays_below_and_reaches_everything(void **state)
{
    (void)state;
    const struct rng rng = {.seed = 7, .stream = 1};
    int seen[7] = {0};
    for (uint64_t i = 0; i < 7000; i++) {
        uint64_t value = rng_below(&rng, i, 7);
        assert_true(value < 7);
        seen[value]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_in_range(seen[i], 820, 1180);
    }
    assert_int_equal(rng_below(&rng, 3, 1), 0);
}

static void a_permutation_holds_each_index_once_and_repeats(void **state)
{
    (void)state;
    const struct rng rng = {.seed = 9};
    size_t order[101], again[101];
    unsigned char seen[101] = {0};
    size_t moved = 0;
    rng_permutation(&rng, 101, order);
    rng_permutation(&rng, 101, again);
    for (size_t i = 0; i < 101; i++) {
        assert_true(order[i] < 101);
        assert_int_equal(seen[order[i]]++, 0);
        assert_int_equal(order[i], again[i]);
        moved += order[i] != i;
    }
    assert_true(moved > 90);
    rng_permutation(&rng, 0, order);
}

static void identifiers_have_their_form_and_sort_by_time(void **state)
{
    (void)state;
    struct error error = {0};
    struct identifier early, late, twin;
    assert_true(rng_identifier("job_", 1700000000000, &early, &error));
    assert_true(rng_identifier("job_", 1700000000001, &late, &error));
    assert_true(rng_identifier("job_", 1700000000001, &twin, &error));
    assert_int_equal(strlen(early.text), 30);
    assert_memory_equal(early.text, "job_", 4);
    assert_int_equal(strspn(early.text + 4, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), 26);
    assert_true(strcmp(early.text, late.text) < 0);
    assert_true(strcmp(late.text, twin.text) != 0);
    /* 1700000000000 = 0x018bcfe56800; its 48 bits fill nine digits and three bits of the tenth. */
    assert_memory_equal(early.text + 4, "065WZSB80", 9);
}

static void entropy_fills_all_bytes(void **state)
{
    (void)state;
    unsigned char bytes[1000];
    size_t zeros = 0;
    memset(bytes, 0, sizeof bytes);
    assert_true(rng_fill_entropy(bytes, sizeof bytes, NULL));
    for (size_t i = 0; i < sizeof bytes; i++) {
        zeros += bytes[i] == 0;
    }
    assert_true(zeros < 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_known_answers),
        cmocka_unit_test(a_draw_depends_on_all_four_and_nothing_else),
        cmocka_unit_test(units_fill_the_half_open_interval_evenly),
        cmocka_unit_test(below_stays_below_and_reaches_everything),
        cmocka_unit_test(a_permutation_holds_each_index_once_and_repeats),
        cmocka_unit_test(identifiers_have_their_form_and_sort_by_time),
        cmocka_unit_test(entropy_fills_all_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
