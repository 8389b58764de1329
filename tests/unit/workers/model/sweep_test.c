/* A set of sequences layer by layer, in memory and through a file: the bits of a forward pass over all at once, chunk by chunk. */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include "tests/unit/workers/model/fixture.h"
#include "workers/model/sweep.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SEQUENCES = 11, TOKENS = 300 };

struct world {
    struct fixture fixture;
    int32_t tokens[TOKENS];
    struct token_sequence sequences[SEQUENCES];
    struct token_batch batch;
    size_t rows;
};

static void world_open(struct world *world)
{
    *world = (struct world){0};
    fixture_open(&fixture_small, NULL, 2, &world->fixture);
    for (size_t i = 0; i < TOKENS; i++) {
        world->tokens[i] = (int32_t)(i * 29 % fixture_small.vocab);
    }
    for (size_t s = 0; s < SEQUENCES; s++) {
        size_t count = s * 17 % 40 + 1;
        world->sequences[s] = (struct token_sequence){world->tokens + world->rows, count};
        world->rows += count;
    }
    assert_true(world->rows <= TOKENS);
    world->batch = (struct token_batch){world->sequences, SEQUENCES};
}

static bool run_layers(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    const size_t *sublayers = context; /* first and end */
    for (size_t i = sublayers[0]; i < sublayers[1]; i++) {
        if (!model_run_sublayer(chunk->hidden->model, i, chunk->hidden, error)) {
            return false;
        }
    }
    return true;
}

struct collected {
    float *rows;
    size_t next_row, next_sequence;
};

static bool collect(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct collected *collected = context;
    assert_int_equal(chunk->first_row, collected->next_row);
    assert_int_equal(chunk->first_sequence, collected->next_sequence);
    size_t size = chunk->hidden->hidden_size;
    bool is_read = hidden_read(chunk->hidden, 0, chunk->hidden->row_count,
                               collected->rows + chunk->first_row * size, error);
    collected->next_row += chunk->hidden->row_count;
    collected->next_sequence += chunk->hidden->sequence_count;
    return is_read;
}

static float *sweep_rows(struct world *world, const struct sweep_options *options, uint64_t *ret_spilled)
{
    struct error error = {0};
    struct model *model = world->fixture.model;
    size_t count = model_sublayer_count(model);
    float *rows = memory_create(world->rows * fixture_small.hidden, sizeof *rows);
    OWNED(sweep) sweep = sweep_create(model, &world->batch, options, &error);
    if (sweep == NULL || !sweep_embed(sweep, &error)) {
        fail_msg("%s", error.message);
    }
    for (size_t i = 0; i < count; i += 2) {
        size_t sublayers[2] = {i, i + 2 < count ? i + 2 : count};
        assert_true(sweep_each(sweep, true, run_layers, sublayers, &error));
    }
    struct collected collected = {.rows = rows};
    assert_true(sweep_each(sweep, false, collect, &collected, &error));
    assert_int_equal(collected.next_row, world->rows);
    assert_int_equal(collected.next_sequence, SEQUENCES);
    *ret_spilled = sweep_spilled_bytes(sweep);
    return rows;
}

static size_t count_entries(const char *folder)
{
    DIR *entries = opendir(folder);
    size_t count = 0;
    assert_non_null(entries);
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        count += entry->d_name[0] != '.';
    }
    (void)closedir(entries);
    return count;
}

static void chunks_and_files_change_no_bit(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    struct error error = {0};
    struct model *model = world.fixture.model;
    struct hidden *hidden = hidden_create(model, &world.batch, &error);
    OWNED_MEMORY float *whole = memory_create(world.rows * fixture_small.hidden, sizeof *whole);
    assert_true(model_embed(model, &world.batch, hidden, &error));
    assert_true(model_run_from(model, 0, NULL, hidden, &error));
    assert_true(hidden_read(hidden, 0, world.rows, whole, &error));
    char *folder = fixture_create_folder();
    uint64_t all = world.rows * fixture_small.hidden * sizeof(float);
    const struct sweep_options options[] = {
        {0},
        {.chunk_rows = 1},
        {.chunk_rows = 50},
        {.chunk_rows = 1, .memory_bytes = 1, .spill_folder = folder},
        {.chunk_rows = 40, .memory_bytes = 1, .spill_folder = folder},
        {.chunk_rows = 40,
         .memory_bytes = 3 * (40 * fixture_small.hidden * sizeof(float) + 4096) + all / 2,
         .spill_folder = folder},
        {.chunk_rows = 10000, .memory_bytes = 1, .spill_folder = folder},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        uint64_t spilled = 0;
        OWNED_MEMORY float *rows = sweep_rows(&world, &options[i], &spilled);
        assert_memory_equal(rows, whole, world.rows * fixture_small.hidden * sizeof *rows);
        assert_true(i < 3 ? spilled == 0 : i == 5 ? spilled > 0 && spilled < all : spilled == all);
        assert_int_equal(count_entries(folder), 0);
    }
    fixture_destroy(folder);
    hidden_destroy(hidden);
    fixture_finish(&world.fixture);
}

static ssize_t full_disk(int fd, const void *bytes, size_t count, off_t offset)
{
    (void)fd;
    (void)bytes;
    (void)count;
    (void)offset;
    errno = ENOSPC;
    return -1;
}

static void a_full_disk_is_told(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    struct error error = {0};
    char *folder = fixture_create_folder();
    const struct sweep_options options = {.chunk_rows = 20, .memory_bytes = 1, .spill_folder = folder};
    struct file_system broken = file_system_real;
    broken.pwrite = full_disk;
    file_system = &broken;
    struct sweep *sweep = sweep_create(world.fixture.model, &world.batch, &options, &error);
    assert_non_null(sweep);
    assert_false(sweep_embed(sweep, &error));
    file_system = &file_system_real;
    assert_int_equal(error.code, ERROR_STORAGE_FULL);
    fixture_destroy(folder);
    sweep_destroy(sweep);
    fixture_finish(&world.fixture);
}

static bool refuse(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    size_t *left = context;
    (void)chunk;
    return (*left)-- > 0 || error_set(error, ERROR_CANCELLED, "enough");
}

static void a_visit_that_fails_ends_the_sweep(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    char *folder = fixture_create_folder();
    const struct sweep_options options = {.chunk_rows = 20, .memory_bytes = 1, .spill_folder = folder};
    struct sweep *sweep = sweep_create(world.fixture.model, &world.batch, &options, NULL);
    assert_true(sweep_embed(sweep, NULL));
    for (size_t visits = 0; visits < 4; visits++) {
        struct error error = {0};
        size_t left = visits;
        assert_false(sweep_each(sweep, true, refuse, &left, &error));
        assert_int_equal(error.code, ERROR_CANCELLED);
    }
    fixture_destroy(folder);
    sweep_destroy(sweep);
    fixture_finish(&world.fixture);
}

static void cosines_equal_their_definition(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    struct error error = {0};
    struct model *model = world.fixture.model;
    struct hidden *a = hidden_create(model, &world.batch, &error);
    struct hidden *b = hidden_create(model, &world.batch, &error);
    assert_true(model_embed(model, &world.batch, a, &error) && model_embed(model, &world.batch, b, &error));
    assert_true(model_run_sublayer(model, 0, b, &error));
    float zeros[64] = {0};
    assert_true(hidden_write(a, 0, 1, zeros, &error) && hidden_write(b, 0, 1, zeros, &error));
    assert_true(hidden_write(a, 1, 1, zeros, &error));
    OWNED_MEMORY double *cosines = memory_create(world.rows, sizeof *cosines);
    assert_true(hidden_cosines(a, b, cosines, &error));
    assert_true(fabs(cosines[0] - 1) < 1e-15);
    assert_true(fabs(cosines[1]) < 1e-15);
    for (size_t r = 2; r < world.rows; r++) {
        double dot = 0;
        double squares_a = 0;
        double squares_b = 0;
        for (size_t i = r * a->hidden_size; i < (r + 1) * a->hidden_size; i++) {
            dot += (double)a->rows[i] * (double)b->rows[i];
            squares_a += (double)a->rows[i] * (double)a->rows[i];
            squares_b += (double)b->rows[i] * (double)b->rows[i];
        }
        assert_true(fabs(cosines[r] - dot / sqrt(squares_a * squares_b)) < 1e-12);
        assert_true(cosines[r] < 1);
    }
    hidden_destroy(a);
    hidden_destroy(b);
    fixture_finish(&world.fixture);
}

struct pair {
    size_t chunk_count;
    bool is_failing;
};

/* The first goes two sublayers further, the second one. */
static bool run_both(void *context, const struct sweep_chunk *first, const struct sweep_chunk *second,
                     struct error *error)
{
    struct pair *pair = context;
    assert_int_equal(first->first_row, second->first_row);
    assert_int_equal(first->first_sequence, second->first_sequence);
    assert_int_equal(first->hidden->row_count, second->hidden->row_count);
    struct model *model = first->hidden->model;
    if (pair->is_failing && pair->chunk_count == 3) {
        return error_set(error, ERROR_CANCELLED, "enough");
    }
    pair->chunk_count++;
    return model_run_sublayer(model, 0, first->hidden, error) &&
           model_run_sublayer(model, 1, first->hidden, error) &&
           model_run_sublayer(model, 0, second->hidden, error);
}

static void two_sweeps_go_side_by_side(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    struct error error = {0};
    struct model *model = world.fixture.model;
    size_t count = world.rows * fixture_small.hidden;
    OWNED_MEMORY float *expected = memory_create(2 * count, sizeof *expected);
    struct hidden *hidden = hidden_create(model, &world.batch, &error);
    assert_true(model_embed(model, &world.batch, hidden, &error));
    assert_true(model_run_sublayer(model, 0, hidden, &error));
    assert_true(hidden_read(hidden, 0, world.rows, expected + count, &error));
    assert_true(model_run_sublayer(model, 1, hidden, &error));
    assert_true(hidden_read(hidden, 0, world.rows, expected, &error));
    hidden_destroy(hidden); /* before its model */
    char *folder = fixture_create_folder();
    for (size_t spilling = 0; spilling < 4; spilling++) {
        struct sweep_options held = {.chunk_rows = 40},
                             spilled = {.chunk_rows = 40, .memory_bytes = 1, .spill_folder = folder};
        OWNED(sweep) first = sweep_create(model, &world.batch, spilling % 2 == 1 ? &spilled : &held, &error);
        OWNED(sweep) second = sweep_create(model, &world.batch, spilling / 2 == 1 ? &spilled : &held, &error);
        assert_true(sweep_embed(first, &error) && sweep_embed(second, &error));
        struct pair pair = {0};
        assert_true(sweep_each_beside(first, true, second, true, run_both, &pair, &error));
        assert_true(pair.chunk_count > 3);
        OWNED_MEMORY float *rows = memory_create(count, sizeof *rows);
        for (size_t i = 0; i < 2; i++) {
            struct collected collected = {.rows = rows};
            assert_true(sweep_each(i == 0 ? first : second, false, collect, &collected, &error));
            assert_memory_equal(rows, expected + i * count, count * sizeof *rows);
        }
        pair = (struct pair){.is_failing = true};
        assert_false(sweep_each_beside(first, true, second, true, run_both, &pair, &error));
        assert_int_equal(error.code, ERROR_CANCELLED);
        assert_int_equal(pair.chunk_count, 3);
    }
    fixture_destroy(folder);
    fixture_finish(&world.fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_sweeps_go_side_by_side),
        cmocka_unit_test(chunks_and_files_change_no_bit),
        cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(a_visit_that_fails_ends_the_sweep),
        cmocka_unit_test(cosines_equal_their_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
