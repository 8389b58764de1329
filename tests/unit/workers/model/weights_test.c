/* Weights held and streamed: the same bits whatever the budget, nothing beyond it, what is needed last goes first, and rows of a
 * file seen in another order. */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include "tests/unit/workers/model/fixture.h"
#include "workers/model/source.h"
#include "workers/model/weights.h"
#include "workers/tensor/pool.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct fixture_spec deep = {.layers = 6,
                                         .hidden = 48,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_size = 12,
                                         .ffn = 80,
                                         .vocab = 97,
                                         .dtype = DTYPE_BF16,
                                         .shard_count = 3};

static int32_t tokens[40];
static struct token_sequence sequences[] = {{tokens, 17}, {tokens + 17, 23}};
static const struct token_batch batch = {sequences, 2};

static void run_logits(const struct fixture *fixture, enum dtype dtype, uint64_t budget, float *ret_logits,
                       uint64_t *ret_read, bool *ret_is_resident)
{
    struct error error = {0};
    struct model_options options = {.dtype = dtype, .weights_budget_bytes = budget, .pool = fixture->pool};
    for (size_t i = 0; i < 40; i++) {
        tokens[i] = (int32_t)(i * 31 % deep.vocab);
    }
    OWNED(model) model = model_open(fixture->inventory, fixture->folder, &options, &error);
    if (model == NULL) {
        fail_msg("%s", error.message);
    }
    OWNED(hidden) hidden = hidden_create(model, &batch, &error);
    for (size_t pass = 0; pass < 2; pass++) {
        assert_true(model_embed(model, &batch, hidden, &error));
        assert_true(model_run_from(model, 0, NULL, hidden, &error));
        assert_true(model_logits(model, hidden, 1, 0, 23, ret_logits, &error));
    }
    *ret_read = weights_bytes_read(model_get_weights(model));
    *ret_is_resident = model_is_resident(model);
}

static void the_budget_changes_no_bit(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_open(&deep, NULL, 2, &fixture);
    const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (size_t d = 0; d < 2; d++) {
        struct weights_size size;
        weights_measure(fixture.inventory, NULL, dtypes[d], &size);
        float held[23 * 97];
        float streamed[23 * 97];
        uint64_t read_once = 0;
        uint64_t read_often = 0;
        bool is_resident = false;
        run_logits(&fixture, dtypes[d], 0, held, &read_once, &is_resident);
        assert_true(is_resident);
        const uint64_t budgets[] = {size.least_bytes, size.least_bytes * 2, size.resident_bytes};
        for (size_t i = 0; i < 3; i++) {
            run_logits(&fixture, dtypes[d], budgets[i], streamed, &read_often, &is_resident);
            assert_memory_equal(held, streamed, sizeof held);
            assert_int_equal(is_resident, i == 2);
            assert_true(i == 2 ? read_often == read_once : read_often > read_once);
        }
    }
    fixture_finish(&fixture);
}

static void weights_keep_to_their_budget(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_open(&deep, NULL, 1, &fixture);
    struct error error = {0};
    struct device *device = device_open("reference", DTYPE_F32, fixture.pool, NULL, &error);
    struct weights_size size;
    weights_measure(fixture.inventory, "reference", DTYPE_F32, &size);
    struct weights_options options = {
        .device = device, .pool = fixture.pool, .dtype = DTYPE_F32, .budget_bytes = 1};
    assert_null(weights_open(fixture.inventory, fixture.folder, &options, &error));
    assert_int_equal(error.code, ERROR_TOO_LARGE);
    options.budget_bytes = size.least_bytes;
    struct weights *weights = weights_open(fixture.inventory, fixture.folder, &options, &error);
    assert_non_null(weights);
    for (size_t pass = 0; pass < 3; pass++) {
        for (size_t layer = 0; layer < deep.layers; layer++) {
            struct sublayer_weights attention;
            struct sublayer_weights ffn;
            assert_true(weights_acquire(weights, layer, true, &attention, &error));
            assert_true(weights_acquire(weights, layer, false, &ffn, &error));
            assert_true(weights_held_bytes(weights) <= options.budget_bytes);
            weights_release(weights, layer, true);
            weights_release(weights, layer, false);
        }
        struct head_weights head;
        assert_true(weights_acquire_head(weights, &head, &error));
        assert_true(weights_held_bytes(weights) <= options.budget_bytes);
        assert_int_equal(head.matrix.n, deep.vocab);
        weights_release_head(weights);
    }
    /* More memory from now on: two passes later nothing is read any more. */
    weights_set_budget(weights, size.resident_bytes);
    uint64_t before = 0;
    for (size_t pass = 0; pass < 2; pass++) {
        before = weights_bytes_read(weights);
        for (size_t layer = 0; layer < deep.layers; layer++) {
            struct sublayer_weights ffn;
            assert_true(weights_acquire(weights, layer, false, &ffn, &error));
            weights_release(weights, layer, false);
        }
    }
    assert_int_equal(weights_bytes_read(weights), before);
    /* And less: what does not fit goes at once. */
    weights_set_budget(weights, size.least_bytes);
    assert_true(weights_held_bytes(weights) <= size.least_bytes);
    weights_destroy(weights);
    device_destroy(device);
    fixture_finish(&fixture);
}

/* In passes over all layers, some of what a budget holds must still be there the next time. */
static void passes_in_order_find_what_stayed(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_open(&deep, NULL, 1, &fixture);
    struct error error = {0};
    struct device *device = device_open("reference", DTYPE_F32, fixture.pool, NULL, &error);
    struct weights_size size;
    weights_measure(fixture.inventory, "reference", DTYPE_F32, &size);
    struct weights_options options = {
        .device = device, .pool = fixture.pool, .dtype = DTYPE_F32, .budget_bytes = size.resident_bytes / 2};
    struct weights *weights = weights_open(fixture.inventory, fixture.folder, &options, &error);
    uint64_t reads[3] = {0};
    for (size_t pass = 0; pass < 3; pass++) {
        uint64_t before = weights_bytes_read(weights);
        for (size_t i = 0; i < 2 * deep.layers; i++) {
            struct sublayer_weights sublayer;
            assert_true(weights_acquire(weights, i / 2, i % 2 == 0, &sublayer, &error));
            weights_release(weights, i / 2, i % 2 == 0);
        }
        reads[pass] = weights_bytes_read(weights) - before;
    }
    assert_true(reads[1] < reads[0] * 3 / 4);
    assert_true(reads[2] <= reads[1]);
    weights_destroy(weights);
    device_destroy(device);
    fixture_finish(&fixture);
}

/* ---- the source ---------------------------------------------------------------------------------- */

enum { ROWS = 24, COLUMNS = 5 };

struct seen {
    struct inventory inventory;
    struct inventory_tensor tensor;
    struct inventory_file file;
    char *folder;
    struct source *source;
    float values[ROWS * COLUMNS];
};

static void seen_open(struct seen *seen)
{
    *seen = (struct seen){.folder = fixture_create_folder()};
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        seen->values[i] = (float)i;
    }
    fixture_write(seen->folder, "weights.bin", seen->values, sizeof seen->values);
    seen->file = (struct inventory_file){.path = "weights.bin", .bytes = sizeof seen->values};
    seen->tensor = (struct inventory_tensor){
        .name = "t", .dtype = DTYPE_F32, .rank = 2, .shape = {ROWS, COLUMNS}, .bytes = sizeof seen->values};
    seen->inventory = (struct inventory){
        .tensors = &seen->tensor, .tensor_count = 1, .files = &seen->file, .file_count = 1};
    seen->source = source_open(&seen->inventory, seen->folder, NULL);
    assert_non_null(seen->source);
}

static void seen_close(struct seen *seen)
{
    source_destroy(seen->source);
    fixture_destroy(seen->folder);
}

/* Every way to cut the view's rows gives the same, and `wanted` says which element stands where. */
static void check_view(struct seen *seen, const struct source_view *view,
                       size_t (*wanted)(size_t row, size_t column))
{
    float rows[ROWS * COLUMNS];
    for (uint64_t step = 1; step <= view->rows; step++) {
        for (uint64_t first = 0; first < view->rows; first += step) {
            uint64_t count = first + step <= view->rows ? step : view->rows - first;
            OWNED_MEMORY void *window = memory_create(source_window_bytes(view, count), 1);
            assert_true(source_read_rows(seen->source, view, first, count, window, rows, NULL));
            for (size_t i = 0; i < count * view->columns; i++) {
                size_t row = (size_t)first + i / (size_t)view->columns;
                float value = seen->values[wanted(row, i % (size_t)view->columns)];
                assert_true(rows[i] == value + view->add);
            }
        }
    }
}

static size_t as_stored(size_t row, size_t column)
{
    return row * COLUMNS + column;
}
static size_t transposed(size_t row, size_t column)
{
    return column * COLUMNS + row;
}
static size_t by_part(size_t row, size_t column) /* 2 heads of 3 parts of 4 rows */
{
    size_t part = row / 8, head = row % 8 / 4;
    return ((head * 3 + part) * 4 + row % 4) * COLUMNS + column;
}
static size_t by_halves(size_t row, size_t column) /* 3 heads of 8 rows, stored as pairs */
{
    size_t head = row / 8, within = row % 8;
    return (head * 8 + within % 4 * 2 + within / 4) * COLUMNS + column;
}

static void rows_are_seen_in_any_order(void **state)
{
    (void)state;
    struct seen seen;
    struct source_view view;
    seen_open(&seen);
    source_view_canonical(&seen.tensor, &view);
    assert_true(source_view_is_plain(&view));
    check_view(&seen, &view, as_stored);
    view.add = 1;
    assert_false(source_view_is_plain(&view));
    check_view(&seen, &view, as_stored);
    source_view_canonical(&seen.tensor, &view);
    source_view_transpose(&view);
    assert_int_equal(view.rows, COLUMNS);
    check_view(&seen, &view, transposed);
    source_view_transpose(&view);
    check_view(&seen, &view, as_stored);
    source_view_deinterleave(&view, 2, 4);
    check_view(&seen, &view, by_part);
    source_view_canonical(&seen.tensor, &view);
    view.layout = LAYOUT_ROPE_PAIRS;
    view.layout_heads = 3;
    check_view(&seen, &view, by_halves);
    /* What the file holds apart and the canonical tensor head by head is apart again in the forward pass. */
    view.layout = LAYOUT_QKV_CONCATENATED;
    view.layout_heads = 2;
    source_view_deinterleave(&view, 2, 4);
    check_view(&seen, &view, as_stored);
    seen_close(&seen);
}

static void a_value_that_is_no_number_is_named_where_it_stands(void **state)
{
    (void)state;
    const float bad[] = {(float)NAN, INFINITY, -INFINITY};
    for (size_t at = 0; at < ROWS * COLUMNS; at++) {
        struct seen seen;
        seen_open(&seen);
        OWNED_MEMORY char *path = file_join(seen.folder, "weights.bin");
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        assert_int_equal(fseek(file, (long)(at * sizeof(float)), SEEK_SET), 0);
        assert_int_equal(fwrite(&bad[at % 3], sizeof(float), 1, file), 1);
        assert_int_equal(fclose(file), 0);
        struct source_view view;
        struct error error = {0};
        float rows[ROWS * COLUMNS];
        source_view_canonical(&seen.tensor, &view);
        OWNED_MEMORY void *window = memory_create(source_window_bytes(&view, ROWS), 1);
        assert_false(source_read_rows(seen.source, &view, 0, ROWS, window, rows, &error));
        char element[32];
        (void)snprintf(element, sizeof element, "at element %zu", at);
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, element));
        assert_string_equal(error.field, "t");
        seen_close(&seen);
    }
}

static void a_shorter_file_is_input_changed(void **state)
{
    (void)state;
    struct seen seen;
    struct source_view view;
    struct error error = {0};
    float rows[ROWS * COLUMNS];
    seen_open(&seen);
    OWNED_MEMORY char *path = file_join(seen.folder, "weights.bin");
    assert_int_equal(truncate(path, 100), 0);
    source_view_canonical(&seen.tensor, &view);
    OWNED_MEMORY void *window = memory_create(source_window_bytes(&view, ROWS), 1);
    assert_false(source_read_rows(seen.source, &view, 0, ROWS, window, rows, &error));
    assert_int_equal(error.code, ERROR_INPUT_CHANGED);
    seen_close(&seen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_budget_changes_no_bit),
        cmocka_unit_test(weights_keep_to_their_budget),
        cmocka_unit_test(passes_in_order_find_what_stayed),
        cmocka_unit_test(rows_are_seen_in_any_order),
        cmocka_unit_test(a_value_that_is_no_number_is_named_where_it_stands),
        cmocka_unit_test(a_shorter_file_is_input_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
