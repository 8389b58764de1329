/* tests/unit/workers/tensor/quant_test.c: block types against the `gguf` package (tests/golden/gguf). */
#include "base/cleanup.h"
#include "base/file.h"
#include "workers/tensor/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *load(const char *type, const char *ending, size_t *ret_count)
{
    const char *source = getenv("PRUNED_TEST_SOURCE");
    assert_non_null(source);
    char path[512];
    (void)snprintf(path, sizeof path, "%s/tests/golden/gguf/%s.%s", source, type, ending);
    struct error error = {0};
    char *bytes = file_load(path, 1u << 20, ret_count, &error);
    assert_non_null(bytes);
    return bytes;
}

static void every_type_decodes_bit_for_bit_as_the_gguf_package(void **state)
{
    (void)state;
    for (int type = DTYPE_F16; type < DTYPE_COUNT; type++) {
        enum dtype dtype = (enum dtype)type;
        size_t block_bytes = 0, value_bytes = 0;
        OWNED_MEMORY char *blocks = load(dtype_slug(dtype), "blocks", &block_bytes);
        OWNED_MEMORY char *should = load(dtype_slug(dtype), "f32", &value_bytes);
        size_t count = value_bytes / sizeof(float);
        assert_true(count >= 512);
        assert_int_equal(dtype_size_bytes(dtype, count), block_bytes);
        /* At an odd address, as rows in a file may lie. */
        OWNED_MEMORY char *shifted = calloc(block_bytes + 1, 1);
        OWNED_MEMORY float *values = calloc(count, sizeof *values);
        assert_non_null(shifted);
        assert_non_null(values);
        memcpy(shifted + 1, blocks, block_bytes);
        dtype_to_f32(dtype, shifted + 1, count, values);
        assert_memory_equal(values, should, value_bytes);
    }
}

static void q8_0_encodes_bit_for_bit_as_the_gguf_package(void **state)
{
    (void)state;
    size_t block_bytes = 0, value_bytes = 0;
    OWNED_MEMORY char *values = load("encode", "f32", &value_bytes);
    OWNED_MEMORY char *should = load("encode", "Q8_0", &block_bytes);
    OWNED_MEMORY char *blocks = calloc(block_bytes, 1);
    OWNED_MEMORY float *aligned = calloc(value_bytes, 1);
    assert_non_null(blocks);
    assert_non_null(aligned);
    memcpy(aligned, values, value_bytes);
    dtype_from_f32(DTYPE_Q8_0, aligned, value_bytes / sizeof(float), blocks);
    assert_memory_equal(blocks, should, block_bytes);
}

static void a_nan_stays_visible_in_its_q8_0_block(void **state)
{
    (void)state;
    float values[64] = {[3] = NAN, [4] = 1.0f, [40] = 2.0f}, back[64];
    unsigned char blocks[68];
    dtype_from_f32(DTYPE_Q8_0, values, 64, blocks);
    dtype_to_f32(DTYPE_Q8_0, blocks, 64, back);
    assert_true(isnan(back[3]) && isnan(back[4]));
    assert_true(back[40] > 1.99f && back[40] < 2.01f);
}

static void sizes_and_spellings_agree(void **state)
{
    (void)state;
    assert_int_equal(dtype_size_bytes(DTYPE_Q4_1, 64), 40);
    assert_int_equal(dtype_size_bytes(DTYPE_Q6_K, 512), 420);
    assert_int_equal(dtype_size_bytes(DTYPE_BF16, 3), 6);
    assert_int_equal(dtype_block_count(DTYPE_F32), 1);
    assert_int_equal(dtype_block_count(DTYPE_Q5_K), 256);
    for (int type = 0; type < DTYPE_COUNT; type++) {
        enum dtype dtype = DTYPE_F32;
        assert_true(dtype_parse(dtype_slug((enum dtype)type), &dtype) && (int)dtype == type);
        assert_int_equal(dtype_is_block(dtype), type > DTYPE_BF16);
    }
    enum dtype dtype = DTYPE_F32;
    assert_false(dtype_parse("Q2_K", &dtype));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_decodes_bit_for_bit_as_the_gguf_package),
        cmocka_unit_test(q8_0_encodes_bit_for_bit_as_the_gguf_package),
        cmocka_unit_test(a_nan_stays_visible_in_its_q8_0_block),
        cmocka_unit_test(sizes_and_spellings_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
