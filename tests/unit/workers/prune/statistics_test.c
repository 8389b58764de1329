/*
 * What one sweep tells of how far blocks, sublayers and spans turn the states, against the plain form: all states kept side by side and
 * every mean made by hand. Models: the one in tests/skills, and families of tests/golden whose layers differ (experts, parallel
 * branches, norms around, norms after).
 */
#include "base/file.h"
#include "base/memory.h"
#include "workers/prune/prune.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SEQUENCES = 4, TOKENS = 75 };
static const size_t counts[SEQUENCES] = {75, 3, 70, 1};

struct world {
    struct inventory *inventory;
    struct pool *pool;
    struct model *model;
    struct token_batch batch;
    struct token_sequence sequences[SEQUENCES];
    int32_t tokens[SEQUENCES][TOKENS];
    size_t layers, sublayers, rows, size;
};

static void world_open(struct world *world, const char *folder)
{
    *world = (struct world){0};
    FINISHED(error_list) faults = {0};
    struct error error = {0};
    world->inventory = inventory_inspect(folder, false, NULL, &faults);
    assert_non_null(world->inventory);
    world->pool = pool_create(2, &error);
    assert_non_null(world->pool);
    struct model_options options = {.pool = world->pool};
    world->model = model_open(world->inventory, folder, &options, &error);
    assert_non_null(world->model);
    for (size_t s = 0; s < SEQUENCES; s++) {
        size_t most = world->inventory->config.context_tokens;
        size_t count = counts[s] < most ? counts[s] : most;
        for (size_t t = 0; t < count; t++) {
            world->tokens[s][t] =
                (int32_t)((t * t * 31 + s * 977 + t * 7 + 3) % world->inventory->config.vocab_size);
        }
        world->sequences[s] = (struct token_sequence){world->tokens[s], count};
        world->rows += count;
    }
    world->batch = (struct token_batch){world->sequences, SEQUENCES};
    world->layers = world->inventory->config.layer_count;
    world->sublayers = model_sublayer_count(world->model);
    world->size = world->inventory->config.hidden_size;
}

static void world_finish(struct world *world)
{
    model_destroy(world->model);
    pool_destroy(world->pool);
    inventory_destroy(world->inventory);
}

static double cosine(const float *a, const float *b, size_t count)
{
    long double dot = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < count; i++) {
        dot += (long double)a[i] * (long double)b[i];
        aa += (long double)a[i] * (long double)a[i];
        bb += (long double)b[i] * (long double)b[i];
    }
    return (double)(dot / sqrtl(aa * bb));
}

struct answer {
    double *blocks, *sublayers, *spans;
};

static void answer_create(const struct world *world, struct answer *ret_answer)
{
    ret_answer->blocks = memory_create(world->layers, sizeof(double));
    ret_answer->sublayers = memory_create(world->sublayers, sizeof(double));
    ret_answer->spans = memory_create(prune_span_count(world->layers), sizeof(double));
}

static void answer_finish(struct answer *answer)
{
    free(answer->blocks);
    free(answer->sublayers);
    free(answer->spans);
}

static void gather(struct world *world, const struct prune_turn_options *options, struct answer *answer)
{
    struct prune_turns turns = {answer->blocks, answer->sublayers, answer->spans};
    struct error error = {0};
    if (!prune_gather_turns(world->model, &world->batch, options, NULL, &turns, &error)) {
        fail_msg("%s", error.message);
    }
}

/* The state before every sublayer, and the last: [sublayers + 1, rows, size]. */
static float *keep_all(struct world *world)
{
    struct error error = {0};
    size_t count = world->rows * world->size;
    float *states = memory_create((world->sublayers + 1) * count, sizeof *states);
    OWNED(hidden) hidden = hidden_create(world->model, &world->batch, &error);
    assert_true(model_embed(world->model, &world->batch, hidden, &error));
    for (size_t i = 0; i <= world->sublayers; i++) {
        assert_true(hidden_read(hidden, 0, world->rows, states + i * count, &error));
        if (i < world->sublayers) {
            assert_true(model_run_sublayer(world->model, i, hidden, &error));
        }
    }
    return states;
}

static size_t first_sublayer(const struct world *world, size_t layer)
{
    size_t i = 0;
    while (i < world->sublayers && model_sublayer(world->model, i)->layer < layer) {
        i++;
    }
    return i;
}

static double mean_cosine(const struct world *world, const float *states, size_t before, size_t after)
{
    double sum = 0;
    size_t count = world->rows * world->size;
    for (size_t r = 0; r < world->rows; r++) {
        sum += cosine(states + before * count + r * world->size, states + after * count + r * world->size,
                      world->size);
    }
    return sum / (double)world->rows;
}

static double mean_angle(const struct world *world, const float *states, size_t before, size_t after,
                         bool is_all)
{
    double sum = 0;
    size_t count = world->rows * world->size, row = 0, used = 0;
    for (size_t s = 0; s < SEQUENCES; s++) {
        for (size_t t = 0; t < world->sequences[s].count; t++, row++) {
            if (is_all || t + 1 == world->sequences[s].count) {
                double value = cosine(states + before * count + row * world->size,
                                      states + after * count + row * world->size, world->size);
                sum += acos(value > 1 ? 1 : value) / acos(-1);
                used++;
            }
        }
    }
    return sum / (double)used;
}

static void check_model(const char *folder)
{
    FINISHED(world) world = {0};
    world_open(&world, folder);
    OWNED_MEMORY float *states = keep_all(&world);
    for (int all = 0; all < 2; all++) {
        struct prune_turn_options plain = {.angles_of_all_tokens = all == 1};
        struct prune_turn_options tight = {
            .sweep = {.chunk_rows = 1, .memory_bytes = 1, .spill_folder = "/tmp"},
            .angles_of_all_tokens = all == 1,
            .angle_memory_bytes = 1};
        FINISHED(answer) answer = {0};
        FINISHED(answer) again = {0};
        answer_create(&world, &answer);
        answer_create(&world, &again);
        gather(&world, &plain, &answer);
        gather(&world, &tight, &again);
        assert_memory_equal(answer.blocks, again.blocks, world.layers * sizeof(double));
        assert_memory_equal(answer.sublayers, again.sublayers, world.sublayers * sizeof(double));
        assert_memory_equal(answer.spans, again.spans, prune_span_count(world.layers) * sizeof(double));
        for (size_t i = 0; i < world.sublayers; i++) {
            assert_true(fabs(answer.sublayers[i] - mean_cosine(&world, states, i, i + 1)) < 1e-12);
        }
        for (size_t from = 0; from < world.layers; from++) {
            size_t before = first_sublayer(&world, from);
            double block = mean_cosine(&world, states, before, first_sublayer(&world, from + 1));
            assert_true(fabs(answer.blocks[from] - block) < 1e-12);
            for (size_t to = from + 1; to <= world.layers; to++) {
                double expected = mean_angle(&world, states, before, first_sublayer(&world, to), all == 1);
                double found = answer.spans[prune_span_index(world.layers, from, to)];
                assert_true(fabs(found - expected) < 1e-9 && found > 0 && found < 1);
            }
        }
    }
}

static void sums_agree_with_the_plain_form_whatever_memory_there_is(void **state)
{
    (void)state;
    static const char *const folders[] = {"tests/skills/model", "tests/golden/families/qwen3_moe",
                                          "tests/golden/families/gpt_neox",
                                          "tests/golden/families/gemma3_text", "tests/golden/families/gpt2"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char folder[512];
        (void)snprintf(folder, sizeof folder, PROJECT_ROOT "/%s", folders[i]);
        check_model(folder);
    }
}

static void every_span_has_an_index_of_its_own(void **state)
{
    (void)state;
    for (size_t layers = 1; layers < 9; layers++) {
        size_t next = 0;
        for (size_t from = 0; from < layers; from++) {
            for (size_t to = from + 1; to <= layers; to++) {
                assert_int_equal(prune_span_index(layers, from, to), next++);
            }
        }
        assert_int_equal(next, prune_span_count(layers));
    }
}

/* structured_pruning section 9: cosine, influence 1 - cosine, angle / pi. */
static void analytic_vectors_of_influence_and_angle(void **state)
{
    (void)state;
    FINISHED(world) world = {0};
    world_open(&world, PROJECT_ROOT "/tests/skills/model");
    static const double rows[][6] = {
        /* a, b, cosine, influence, angle */
        {1, 0, 1, 1, 0.29289, 0.25}, {1, 0, 1, 1.7320508, 0.5, 0.33333},
        {1, 0, 0, 3, 1, 0.5},        {1, 2, -2, -4, 2, 1},
        {0, 0, 0, 0, 0, 0},          {0, 0, 1, 0, 1, 0.5},
    };
    struct error error = {0};
    struct token_sequence one = {.count = 1};
    struct token_batch batch = {&one, 1};
    OWNED(hidden) a = hidden_create(world.model, &batch, &error);
    OWNED(hidden) b = hidden_create(world.model, &batch, &error);
    OWNED_MEMORY float *row = memory_create(world.size, sizeof *row);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double value = 0;
        row[0] = (float)rows[i][0];
        row[1] = (float)rows[i][1];
        assert_true(hidden_write(a, 0, 1, row, &error));
        row[0] = (float)rows[i][2];
        row[1] = (float)rows[i][3];
        assert_true(hidden_write(b, 0, 1, row, &error));
        assert_true(hidden_cosines(a, b, &value, &error));
        assert_true(fabs(1 - value - rows[i][4]) < 1e-5);
        double product = rows[i][0] * rows[i][2] + rows[i][1] * rows[i][3];
        double angle = prune_angle(product, hypot(rows[i][0], rows[i][1]), hypot(rows[i][2], rows[i][3]));
        assert_true(fabs(angle - rows[i][5]) < 1e-5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_span_has_an_index_of_its_own),
        cmocka_unit_test(analytic_vectors_of_influence_and_angle),
        cmocka_unit_test(sums_agree_with_the_plain_form_whatever_memory_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
