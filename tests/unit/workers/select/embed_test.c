/* tests/unit/workers/select/embed_test.c: vectors as embeddings, against plain arithmetic. An encoder's pass: measure_test.c, measure_families_test.c. */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/embed.h"

static double length_of(const float *vector, size_t size)
{
    double square = 0;
    for (size_t c = 0; c < size; c++) {
        square += (double)vector[c] * (double)vector[c];
    }
    return sqrt(square);
}

static void centre(float *vectors, size_t count, size_t size)
{
    double means[2];
    assert_true(size <= COUNT_OF(means));
    embed_mean(vectors, count, size, means);
    embed_vectors(vectors, count, size, means);
}

static void vectors_become_embeddings(void **state)
{
    (void)state;
    enum { COUNT = 40, SIZE = 17 };
    for (size_t is_centred = 0; is_centred < 2; is_centred++) {
        OWNED_MEMORY float *raw = plain_rows((size_t)COUNT * SIZE, 9);
        OWNED_MEMORY float *vectors = memory_create((size_t)COUNT * SIZE, sizeof *vectors);
        memcpy(vectors, raw, (size_t)COUNT * SIZE * sizeof *raw);
        double means[SIZE];
        embed_mean(raw, COUNT, SIZE, means);
        embed_vectors(vectors, COUNT, SIZE, is_centred == 1 ? means : NULL);
        for (size_t i = 0; i < COUNT; i++) {
            double expected[SIZE], square = 0;
            for (size_t c = 0; c < SIZE; c++) {
                double mean = 0;
                for (size_t j = 0; j < COUNT && is_centred == 1; j++) {
                    mean += (double)raw[j * SIZE + c];
                }
                expected[c] = (double)raw[i * SIZE + c] - mean / COUNT;
                square += expected[c] * expected[c];
            }
            for (size_t c = 0; c < SIZE; c++) {
                assert_close((double)vectors[i * SIZE + c], expected[c] / sqrt(square), 1e-6);
            }
            assert_close(length_of(vectors + i * SIZE, SIZE), 1, 1e-6);
        }
    }
}

static void vectors_without_direction_become_zero(void **state)
{
    (void)state;
    float one[] = {3, -4}, same[] = {0.1F, 0.7F, 0.1F, 0.7F, 0.1F, 0.7F}, zeros[] = {0, 0, 3, 4};
    embed_vectors(one, 1, 2, NULL);
    assert_close((double)one[0], 0.6, 1e-7);
    assert_close((double)one[1], -0.8, 1e-7);
    centre(one, 1, 2); /* one record is its own mean */
    assert_true(one[0] == 0.0F && one[1] == 0.0F);
    centre(same, 3, 2);
    for (size_t i = 0; i < COUNT_OF(same); i++) {
        assert_true(same[i] == 0.0F);
    }
    embed_vectors(zeros, 2, 2, NULL);
    assert_true(zeros[0] == 0.0F && zeros[1] == 0.0F);
    assert_close((double)zeros[3], 0.8, 1e-7);
    /* Far from one, and beside a direction that all share. */
    float large[] = {1e30F, 1e30F, -1e30F, 1e30F}, small[] = {1e-30F, 0, 0, -1e-30F};
    float shared[] = {100, 0.001F, 100, -0.001F};
    embed_vectors(large, 2, 2, NULL);
    embed_vectors(small, 2, 2, NULL);
    centre(shared, 2, 2);
    assert_close((double)large[2], -sqrt(0.5), 1e-6);
    assert_close((double)small[3], -1, 1e-6);
    assert_close((double)shared[1], 1, 1e-6);
    assert_close((double)shared[3], -1, 1e-6);
    embed_vectors(NULL, 0, 5, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_become_embeddings),
        cmocka_unit_test(vectors_without_direction_become_zero),
    };
    return cmocka_run_group_tests_name("workers/select/embed", tests, NULL, NULL);
}
