/*
 * tests/unit/workers/prune/width_gather_test.c: statistics of every family against sums made here from the same rows; the same bytes
 * whatever the chunks and the threads; and their file.
 */
#include "tests/unit/workers/model/golden.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/tap.h"
#include "workers/prune/prune.h"
#include "workers/prune/width.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EVERYTHING                                                                                           \
    (WIDTH_MOMENTS | WIDTH_LEVERAGE | WIDTH_ROUTED | WIDTH_RESIDUAL | WIDTH_ANGLES | WIDTH_WEIGHTS)

static struct width_statistics *gather(const struct golden *golden, size_t threads, size_t chunk_rows)
{
    OWNED(pool) pool = pool_create(threads, NULL);
    OWNED(model) model = golden_open_model(golden, pool, NULL, 0);
    struct width_gathering gathering = {.wanted = EVERYTHING,
                                        .leverage_ratio = 0.01,
                                        .model = model,
                                        .batch = &golden->batch,
                                        .sweep = {.chunk_rows = chunk_rows},
                                        .inventory = golden->inventory,
                                        .folder = golden->folder,
                                        .pool = pool};
    struct error error = {0};
    struct width_statistics *statistics = width_gather(&gathering, &error);
    if (statistics == NULL) {
        fail_msg("%s: %s", golden->name, error.message);
    }
    return statistics;
}

/* ---- sums made here ---------------------------------------------------------------------------------------------- */

struct naive {
    const struct width_statistics *statistics;
    double **squares; /* [sublayer_count] of part 0: [count] */
    uint64_t *tokens; /* [sublayer_count] of all parts */
};

static bool add_naive(void *context, const struct tap_rows *rows, struct error *error)
{
    (void)error;
    struct naive *naive = context;
    naive->tokens[rows->sublayer] += rows->rows;
    for (size_t r = 0; r < rows->rows && rows->expert == 0; r++) {
        for (size_t c = 0; c < rows->size; c++) {
            double x = (double)rows->values[r * rows->stride + c];
            naive->squares[rows->sublayer][c] += x * x;
        }
    }
    return true;
}

static void compare_with_sums_made_here(const struct golden *golden,
                                        const struct width_statistics *statistics)
{
    size_t count = statistics->sublayer_count;
    struct naive naive = {.statistics = statistics,
                          .squares = memory_create(count, sizeof(double *)),
                          .tokens = memory_create(count, sizeof *naive.tokens)};
    for (size_t i = 0; i < count; i++) {
        naive.squares[i] = memory_create(statistics->sublayers[i].count, sizeof(double));
    }
    OWNED(pool) pool = pool_create(2, NULL);
    OWNED(model) model = golden_open_model(golden, pool, NULL, 0);
    struct model_tap tap = {
        .context = &naive, .points = 1u << TAP_HEADS | 1u << TAP_CHANNELS, .visit = add_naive};
    model_set_tap(model, &tap);
    OWNED(hidden) hidden = golden_run(model, &golden->batch);
    for (size_t i = 0; i < count; i++) {
        const struct width_sublayer *sublayer = &statistics->sublayers[i];
        uint64_t tokens = 0;
        for (size_t p = 0; p < sublayer->part_count; p++) {
            tokens += sublayer->moments[p]->tokens;
        }
        assert_int_equal(tokens, naive.tokens[i]);
        assert_int_equal(sublayer->residual->tokens, golden->token_count);
        for (size_t c = 0; c < sublayer->count; c++) {
            double is = sublayer->moments[0]->raw_square[c], should = naive.squares[i][c];
            assert_true(fabs(is - should) <= 1e-12 * should + 1e-30);
            assert_true(sublayer->leverage[0][c] >= 0 && sublayer->leverage[0][c] <= 1);
        }
        free(naive.squares[i]);
    }
    free(naive.squares);
    free(naive.tokens);
    for (size_t layer = 0; layer < statistics->layer_count; layer++) {
        double cosine = statistics->cosines[layer];
        assert_true(cosine >= -1 && cosine <= 1 && statistics->angles[layer] >= 0);
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static char *save(const struct golden *golden, const struct width_statistics *statistics, size_t *ret_count)
{
    char path[600];
    struct error error = {0};
    (void)snprintf(path, sizeof path, "%s/statistics", golden->folder);
    if (!width_statistics_save(statistics, path, &error)) {
        fail_msg("%s", error.message);
    }
    char *bytes = file_load(path, (size_t)64 << 20, ret_count, &error);
    assert_non_null(bytes);
    return bytes;
}

static void a_file_gives_them_back_or_says_that_it_is_damaged(const struct golden *golden, char *bytes,
                                                              size_t count)
{
    char path[600];
    struct error error = {0};
    (void)snprintf(path, sizeof path, "%s/statistics", golden->folder);
    OWNED(width_statistics) loaded = width_statistics_load(path, &error);
    assert_non_null(loaded);
    size_t again_count = 0;
    OWNED_MEMORY char *again = save(golden, loaded, &again_count);
    assert_int_equal(count, again_count);
    assert_memory_equal(bytes, again, count);
    for (size_t at = 0; at < count; at += count / 7 + 1) {
        bytes[at] = (char)(bytes[at] ^ 1);
        assert_true(file_save(path, bytes, count, 0644, NULL));
        assert_null(width_statistics_load(path, &error));
        assert_int_equal(error.code, ERROR_CORRUPT_FILE);
        bytes[at] = (char)(bytes[at] ^ 1);
        assert_true(file_save(path, bytes, at, 0644, NULL));
        assert_null(width_statistics_load(path, &error));
    }
}

static void statistics_hold(void **state)
{
    const struct golden *golden = *state;
    if (golden->is_encoder) {
        return;
    }
    size_t count = 0, other_count = 0;
    OWNED(width_statistics) statistics = gather(golden, 2, 4096);
    compare_with_sums_made_here(golden, statistics);
    OWNED_MEMORY char *bytes = save(golden, statistics, &count);
    OWNED(width_statistics) other = gather(golden, 1, 1);
    OWNED_MEMORY char *other_bytes = save(golden, other, &other_count);
    assert_int_equal(count, other_count);
    assert_memory_equal(bytes, other_bytes, count);
    a_file_gives_them_back_or_says_that_it_is_damaged(golden, bytes, count);
}

int main(void)
{
    return golden_test_all("width_gather", statistics_hold);
}
