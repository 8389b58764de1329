/* tests/unit/workers/tensor/dtype_test.c: all 65536 patterns of the short types, and rounding. */
#include "workers/tensor/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* By the definition of IEEE binary16, in double. */
static double f16_value(unsigned bits)
{
    unsigned exponent = (bits >> 10) & 31, fraction = bits & 1023;
    double size =
        exponent == 0 ? ldexp((double)fraction, -24) : ldexp(1024.0 + (double)fraction, (int)exponent - 25);
    size = exponent == 31 ? (fraction == 0 ? (double)INFINITY : (double)NAN) : size;
    return (bits & 0x8000u) != 0 ? -size : size;
}

static void every_half_converts_exactly_and_back(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        uint16_t half = (uint16_t)bits, back = 0;
        float value = 0.0f;
        dtype_to_f32(DTYPE_F16, &half, 1, &value);
        double should = f16_value(bits);
        if (isnan(should)) {
            assert_true(isnan(value));
        } else {
            assert_true((double)value == should && (signbit(value) != 0) == (bits >= 0x8000u));
        }
        dtype_from_f32(DTYPE_F16, &value, 1, &back);
        assert_true(isnan(should) ? (back & 0x7c00u) == 0x7c00u && (back & 0x3ffu) != 0 : back == half);
    }
}

static void every_bf16_converts_exactly_and_back(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        uint16_t half = (uint16_t)bits, back = 0;
        uint32_t wide = (uint32_t)bits << 16;
        float value = 0.0f, should = 0.0f;
        memcpy(&should, &wide, sizeof should);
        dtype_to_f32(DTYPE_BF16, &half, 1, &value);
        assert_true(isnan(should) ? isnan(value) : value == should);
        dtype_from_f32(DTYPE_BF16, &value, 1, &back);
        assert_true(isnan(should) ? (back & 0x7f80u) == 0x7f80u && (back & 0x7fu) != 0 : back == half);
    }
}

static void rounding_goes_to_the_nearest_and_to_even(void **state)
{
    (void)state;
    static const struct {
        float value;
        double f16;
    } cases[] = {{1.0f + 0x1p-11f, 1.0},
                 {1.0f + 0x1.8p-10f, 1.0 + 0x1p-9},
                 {1.0f + 0x1.1p-11f, 1.0 + 0x1p-10},
                 {65519.0f, 65504.0},
                 {65520.0f, (double)INFINITY},
                 {0x1p-25f, 0.0},
                 {0x1.8p-25f, 0x1p-24},
                 {0x1.8p-24f, 0x1p-23},
                 {-0x1.ff8p-15f, -0x1.ff8p-15},
                 {-0x1.ffcp-15f, -0x1p-14}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint16_t half = 0;
        float back = 0.0f;
        dtype_from_f32(DTYPE_F16, &cases[i].value, 1, &half);
        dtype_to_f32(DTYPE_F16, &half, 1, &back);
        assert_true((double)back == cases[i].f16);
    }
    static const float bf16[][2] = {
        {1.0f + 0x1p-8f, 1.0f}, {1.0f + 0x1.8p-7f, 1.0f + 0x1p-6f}, {1.0f + 0x1.01p-8f, 1.0f + 0x1p-7f}};
    for (size_t i = 0; i < 3; i++) {
        uint16_t half = 0;
        float back = 0.0f;
        dtype_from_f32(DTYPE_BF16, &bf16[i][0], 1, &half);
        dtype_to_f32(DTYPE_BF16, &half, 1, &back);
        assert_true(back == bf16[i][1]);
    }
}

static void unaligned_sources_and_odd_counts_are_fine(void **state)
{
    (void)state;
    unsigned char bytes[64];
    float values[7], back[7];
    for (size_t i = 0; i < 7; i++) {
        values[i] = (float)i - 3.5f;
    }
    static const enum dtype all[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (size_t d = 0; d < 3; d++) {
        dtype_from_f32(all[d], values, 7, bytes + 1);
        dtype_to_f32(all[d], bytes + 1, 7, back);
        assert_memory_equal(values, back, sizeof values);
        dtype_to_f32(all[d], bytes + 1, 0, back);
    }
}

/* Long runs take the vector path, single elements the other. */
static void a_long_run_gives_the_bits_of_single_elements(void **state)
{
    (void)state;
    enum { COUNT = 65536 + 5 };
    static uint16_t halves[COUNT], backs[COUNT];
    static float values[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        halves[i] = (uint16_t)i;
    }
    static const enum dtype all[] = {DTYPE_F16, DTYPE_BF16};
    for (size_t d = 0; d < 2; d++) {
        dtype_to_f32(all[d], halves, COUNT, values);
        for (size_t i = 0; i < COUNT; i++) {
            float value = 0.0f;
            dtype_to_f32(all[d], &halves[i], 1, &value);
            assert_memory_equal(&value, &values[i], sizeof value);
        }
        for (size_t i = 0; i < COUNT; i++) { /* between the numbers too */
            uint32_t bits = (uint32_t)(i * 65521u + 4099u);
            memcpy(&values[i], &bits, sizeof bits);
        }
        dtype_from_f32(all[d], values, COUNT, backs);
        for (size_t i = 0; i < COUNT; i++) {
            uint16_t back = 0;
            dtype_from_f32(all[d], &values[i], 1, &back);
            assert_int_equal(back, backs[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_converts_exactly_and_back),
        cmocka_unit_test(every_bf16_converts_exactly_and_back),
        cmocka_unit_test(rounding_goes_to_the_nearest_and_to_even),
        cmocka_unit_test(unaligned_sources_and_odd_counts_are_fine),
        cmocka_unit_test(a_long_run_gives_the_bits_of_single_elements),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
