/* What single selectors choose, on records few enough to say it by hand; that they keep to their contract is methods_test.c's. */
#include "tests/unit/workers/select/parameters.h"

enum { MOST = 16 };

/* Of one selection: arrays of what the selector asks for, the rest NULL. */
struct scene {
    const char *method, *parameters;
    struct budget budget;
    struct select_records records;
    struct select_records targets;
};

/* All of 5 tokens, 2 of prompt and 3 of response, unless the scene says. */
static const uint32_t two[MOST] = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2};
static const uint32_t three[MOST] = {3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3};
static const uint32_t five[MOST] = {5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};

static struct selection *choose(const struct scene *scene, uint64_t seed)
{
    const struct select_method *method = select_method_find(scene->method);
    assert_non_null(method);
    JSON_OWNED parameters = parameters_resolve(method, scene->parameters);
    struct select_records records = scene->records;
    records.prompt_tokens = records.prompt_tokens != NULL ? records.prompt_tokens : two;
    records.response_tokens = records.response_tokens != NULL ? records.response_tokens : three;
    records.total_tokens = records.total_tokens != NULL ? records.total_tokens : five;
    records.source_count = 1;
    const struct select_run run = {.records = &records,
                                   .targets = scene->targets.count > 0 ? &scene->targets : NULL,
                                   .parameters = parameters,
                                   .budget = scene->budget,
                                   .seed = seed,
                                   .threads = &plain_threads};
    struct error error = {0};
    struct selection *selection = selection_create(records.count, NULL);
    if (!method->select(&run, selection, &error)) {
        print_error("%s: %s\n", scene->method, error.message);
        fail();
    }
    return selection;
}

static void assert_order(const struct scene *scene, const size_t *expected, size_t count)
{
    OWNED(selection) selection = choose(scene, 1);
    if (selection->chosen_count != count ||
        (count > 0 && memcmp(selection->order, expected, count * sizeof *expected) != 0)) {
        for (size_t i = 0; i < selection->chosen_count; i++) {
            print_error("%s: record %zu\n", scene->method, selection->order[i]);
        }
        fail();
    }
}
#define ASSERT_ORDER(scene, ...)                                                                             \
    assert_order(scene, (const size_t[]){__VA_ARGS__}, sizeof(size_t[]){__VA_ARGS__} / sizeof(size_t))

static int64_t detail(const struct scene *scene, const char *name)
{
    OWNED(selection) selection = choose(scene, 1);
    return json_integer_value(json_object_get(selection->details, name));
}

static void perplexity_takes_the_band_and_nothing_else(void **state)
{
    (void)state;
    const double losses[] = {5, 1, 3, 2, 4};
    struct scene scene = {.method = "perplexity",
                          .parameters = "{\"low_ratio\": 0.0, \"high_ratio\": 0.4}",
                          .budget = {BUDGET_RECORDS, 5},
                          .records = {.count = 5, .losses = losses}};
    bool is_first[2] = {false, false};
    for (uint64_t seed = 0; seed < 20; seed++) {
        OWNED(selection) selection = choose(&scene, seed);
        assert_int_equal(selection->chosen_count, 2);
        assert_int_equal(selection->order[0] + selection->order[1], 4);
        assert_true(selection->order[0] == 1 || selection->order[0] == 3);
        is_first[selection->order[0] / 2] = true;
        assert_int_equal(selection->reasons[0], SELECT_FILTERED);
    }
    assert_true(is_first[0] && is_first[1]);
    scene.parameters = "{\"low_ratio\": 0.8, \"high_ratio\": 1}";
    ASSERT_ORDER(&scene, 0);
}

static void the_two_ratios_order_otherwise(void **state)
{
    (void)state;
    const double losses[] = {1, 3, 4, 1}, alone[] = {2, 5, 3, 0};
    struct scene scene = {.method = "ifd",
                          .parameters = "{}",
                          .budget = {BUDGET_RECORDS, 4},
                          .records = {.count = 4, .losses = losses, .alone_losses = alone}};
    ASSERT_ORDER(&scene, 1, 0);
    assert_int_equal(detail(&scene, "above_one"), 1);
    assert_int_equal(detail(&scene, "undefined"), 1);
    scene.method = "superfiltering";
    ASSERT_ORDER(&scene, 0, 1);
    scene.parameters = "{\"min_response_tokens\": 4}";
    assert_order(&scene, NULL, 0);
    assert_int_equal(detail(&scene, "short_responses"), 4);
}

static void el2n_leaves_out_the_very_top(void **state)
{
    (void)state;
    const double el2n[] = {0.1, 1.2, 0.7, 0.9};
    struct scene scene = {.method = "el2n",
                          .parameters = "{}",
                          .budget = {BUDGET_RECORDS, 2},
                          .records = {.count = 4, .el2n = el2n}};
    ASSERT_ORDER(&scene, 1, 3);
    scene.parameters = "{\"skip_ratio\": 0.25}";
    ASSERT_ORDER(&scene, 3, 2);
}

static void nuggets_rank_by_the_share_of_anchors_that_were_asked(void **state)
{
    (void)state;
    const double zero[] = {-1, -2, -3}, none = (double)NAN;
    const double one[] = {-1,   -1,   -4,              /* a tie is no win: 1 of 3 */
                          none, -1,   -2,              /* 2 of 2 */
                          none, none, none, 0, -1, -3, /* 2 of 3 */
                          -2,   none, -2.5 /* 1 of 2 */};
    struct scene scene = {.method = "nuggets",
                          .parameters = "{\"threshold\": 0.5}",
                          .budget = {BUDGET_RECORDS, 5},
                          .records = {.count = 5, .zero_shot = zero, .one_shot = one, .anchor_count = 3}};
    ASSERT_ORDER(&scene, 1, 3, 4, 0);
    assert_int_equal(detail(&scene, "pairs"), 15);
    assert_int_equal(detail(&scene, "pairs_asked"), 10);
    assert_int_equal(detail(&scene, "records_above_threshold"), 2);
    OWNED(selection) selection = choose(&scene, 1);
    assert_int_equal(selection->reasons[2], SELECT_FILTERED);
    assert_true(selection->scores[3] == 2.0 / 3.0 && selection->scores[4] == 0.5);
}

static void degrees_to_rows(const double *degrees, size_t count, float *ret_rows)
{
    for (size_t i = 0; i < count; i++) {
        ret_rows[2 * i] = (float)cos(degrees[i] * 0.017453292519943295);
        ret_rows[2 * i + 1] = (float)sin(degrees[i] * 0.017453292519943295);
    }
}

/* Two fans of three directions: 0, 10 and -20 degrees, and the same turned by 90. */
static void prototypes_are_near_the_middle_of_their_fan(void **state)
{
    (void)state;
    const double degrees[] = {0, 10, -20, 90, 100, 70};
    float rows[12];
    degrees_to_rows(degrees, 6, rows);
    struct scene scene = {.method = "prototypes",
                          .parameters = "{\"side\": \"easy\", \"centroids\": 2, \"balance_ratio\": 1}",
                          .budget = {BUDGET_RECORDS, 2},
                          .records = {.count = 6, .embeddings = rows, .embedding_size = 2}};
    OWNED(selection) easy = choose(&scene, 1);
    assert_int_equal(easy->order[0] + easy->order[1], 0 + 3);
    scene.parameters = "{\"side\": \"hard\", \"centroids\": 2, \"balance_ratio\": 1}";
    OWNED(selection) hard = choose(&scene, 1);
    assert_int_equal(hard->order[0] + hard->order[1], 2 + 5);
    degrees_to_rows((const double[]){0, 1, -2, 90, 110, 60}, 6,
                    rows); /* the second fan is wide: by distance alone both are its */
    OWNED(selection) even = choose(&scene, 1);
    assert_int_equal(even->order[0] + even->order[1], 5 + 2);
    scene.parameters = "{\"side\": \"hard\", \"centroids\": 2, \"balance_ratio\": 0}";
    OWNED(selection) wide = choose(&scene, 1);
    assert_int_equal(wide->order[0] + wide->order[1], 5 + 4);
    degrees_to_rows(degrees, 6, rows);
    scene.budget = (struct budget){BUDGET_TOKENS, 20};
    OWNED(selection) more = choose(&scene, 1);
    assert_int_equal(more->chosen_count, 4);
    assert_true(more->reasons[0] == SELECT_NOT_CHOSEN && more->reasons[3] == SELECT_NOT_CHOSEN);
}

static void targets_take_turns_in_choosing_what_is_like_them(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 0, 1, 0.6F, 0.8F, 0.8F, 0.6F, -1, 0}, targets[] = {1, 0, 0, 1, 0, 1};
    const uint32_t sources[] = {0, 1, 1};
    struct scene scene = {
        .method = "rds",
        .parameters = "{\"targets\": [{\"source\": \"a\"}, {\"source\": \"b\"}]}",
        .budget = {BUDGET_RECORDS, 4},
        .records = {.count = 5, .embeddings = rows, .embedding_size = 2},
        .targets = {
            .count = 3, .embeddings = targets, .embedding_size = 2, .sources = sources, .source_count = 2}};
    ASSERT_ORDER(&scene, 0, 1, 3, 2);
    OWNED(selection) selection = choose(&scene, 1);
    assert_close(selection->scores[2], 0.8, 1e-6);
    assert_close(selection->scores[4], 0, 1e-6);
}

/* T1 of the reference: one target at 0; also through the centroids that stand for many. */
static void transport_goes_towards_the_target_or_away(void **state)
{
    (void)state;
    enum { MANY = 2100 };
    const float rows[] = {0, 1, 3};
    static const float targets[MANY];
    static const uint32_t sources[MANY];
    struct scene scene = {
        .method = "gotd",
        .parameters = "{\"targets\": [{\"source\": \"a\"}]}",
        .budget = {BUDGET_RECORDS, 3},
        .records = {.count = 3, .embeddings = rows, .embedding_size = 1},
        .targets = {.embeddings = targets, .embedding_size = 1, .sources = sources, .source_count = 1}};
    for (size_t count = 1; count <= MANY; count += MANY - 1) {
        scene.targets.count = count;
        ASSERT_ORDER(&scene, 0, 1, 2);
        OWNED(selection) selection = choose(&scene, 1);
        assert_close(selection->scores[0], -2, 1e-4);
        assert_close(selection->scores[1], -0.5, 1e-4);
        assert_close(selection->scores[2], 2.5, 1e-4);
    }
    scene.parameters = "{\"targets\": [{\"source\": \"a\"}], \"side\": \"away\"}";
    ASSERT_ORDER(&scene, 2, 1, 0);
}

static void deita_passes_over_what_is_near_a_better_one(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 0.999F, 0.0447F, 0, 1};
    const double columns[] = {2, 3, 2, 2.5, 1, 1};
    const struct scene scene = {
        .method = "deita",
        .parameters = "{}",
        .budget = {BUDGET_RECORDS, 3},
        .records = {
            .count = 3, .embeddings = rows, .embedding_size = 2, .columns = columns, .column_count = 2}};
    ASSERT_ORDER(&scene, 0, 2);
    assert_int_equal(detail(&scene, "too_near"), 1);
}

static void deita_leaves_out_what_says_no_number(void **state)
{
    (void)state;
    const float rows[] = {1, 0, 0, 1, -1, 0, 0, -1};
    const double columns[] = {2, 3, (double)NAN, 9, 9, (double)NAN, 1, 1};
    const struct scene scene = {
        .method = "deita",
        .parameters = "{}",
        .budget = {BUDGET_RECORDS, 4},
        .records = {
            .count = 4, .embeddings = rows, .embedding_size = 2, .columns = columns, .column_count = 2}};
    ASSERT_ORDER(&scene, 0, 3);
    assert_int_equal(detail(&scene, "records_without_numbers"), 2);
    OWNED(selection) selection = choose(&scene, 1);
    assert_true(selection->reasons[1] == SELECT_FILTERED && selection->reasons[2] == SELECT_FILTERED);
    const struct select_method *method = select_method_find("deita");
    JSON_OWNED parameters = parameters_resolve(method, "{}");
    struct select_records records = scene.records;
    struct error error = {0};
    records.count = 2;
    records.columns = columns + 2;
    const struct select_run run = {
        .records = &records, .parameters = parameters, .budget = scene.budget, .threads = &plain_threads};
    OWNED(selection) none = selection_create(2, NULL);
    assert_false(method->select(&run, none, &error));
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
}

static void instruction_mining_takes_the_least_promised_loss(void **state)
{
    (void)state;
    const double columns[] = {1, 0, 0,           0,
                              0, 4, (double)NAN, 8}; /* 1, 0, -2, and 1/3 - 4 by the column's mean */
    const struct scene scene = {
        .method = "instruction_mining",
        .parameters = "{\"columns\": [\"a\", \"/b/c\"], \"coefficients\": [1, -0.5], \"intercept\": 3}",
        .budget = {BUDGET_RECORDS, 3},
        .records = {.count = 4, .columns = columns, .column_count = 2}};
    ASSERT_ORDER(&scene, 3, 2, 1);
    assert_int_equal(detail(&scene, "records_with_gaps"), 1);
    OWNED(selection) selection = choose(&scene, 1);
    assert_close(selection->scores[0], 4, 1e-12);
}

/* T1 of the reference; the third best is the first of those of equal contrast. */
static void q_tuning_keeps_the_two_corners(void **state)
{
    (void)state;
    const double losses[] = {0, log(10), 0, log(10)}, entropies[] = {1, 1, 5, 5};
    struct scene scene = {.method = "q_tuning",
                          .parameters = "{}",
                          .budget = {BUDGET_RECORDS, 2},
                          .records = {.count = 4, .losses = losses, .entropies = entropies}};
    ASSERT_ORDER(&scene, 1, 2);
    assert_int_equal(detail(&scene, "sure_and_wrong"), 1);
    assert_int_equal(detail(&scene, "unsure_and_right"), 1);
    OWNED(selection) plain = choose(&scene, 1);
    assert_null(plain->is_token_pruned);
    scene.parameters = "{\"token_ratio\": 0.5}";
    OWNED(selection) masked = choose(&scene, 1);
    for (size_t i = 0; i < 4; i++) { /* the one that is sure and wrong */
        assert_int_equal(masked->is_token_pruned[i], i == 1);
    }
    scene.budget.limit = 3;
    ASSERT_ORDER(&scene, 1, 2, 0);
}

static void strata_cover_the_range_and_leave_the_worst(void **state)
{
    (void)state;
    const double damages[] = {9, 0, 1, 2, 3, 4, 5, 6, 7, 8};
    struct scene scene = {.method = "strata",
                          .parameters = "{\"bins\": 3}",
                          .budget = {BUDGET_RECORDS, 3},
                          .records = {.count = 10, .damages = damages}};
    for (uint64_t seed = 0; seed < 10; seed++) {
        bool has_bin[3] = {false};
        OWNED(selection) selection = choose(&scene, seed);
        for (size_t i = 0; i < 3; i++) {
            double damage = damages[selection->order[i]];
            assert_true(damage < 9);
            has_bin[damage <= 8.0 / 3 ? 0 : damage <= 16.0 / 3 ? 1 : 2] = true;
        }
        assert_true(has_bin[0] && has_bin[1] && has_bin[2]);
    }
    scene.budget = (struct budget){BUDGET_TOKENS, 47}; /* nine records, and the tenth is noise */
    OWNED(selection) nearly = choose(&scene, 1);
    assert_int_equal(nearly->chosen_count, 9);
    assert_int_equal(nearly->reasons[0], SELECT_FILTERED);
    scene.budget = (struct budget){BUDGET_RECORDS, 10};
    OWNED(selection) all = choose(&scene, 1);
    assert_int_equal(all->chosen_count, 10);
}

/* 1 is nearest the mean. By tokens as many centres are looked at as it takes to spend the budget. */
static void k_center_covers_and_spends_tokens(void **state)
{
    (void)state;
    const float rows[] = {0, 1, 10, 4};
    const uint32_t tokens[] = {5, 1, 100, 7};
    struct scene scene = {
        .method = "k_center",
        .parameters = "{}",
        .budget = {BUDGET_RECORDS, 3},
        .records = {.count = 4, .embeddings = rows, .embedding_size = 1, .total_tokens = tokens}};
    ASSERT_ORDER(&scene, 3, 2, 0);
    scene.budget = (struct budget){BUDGET_TOKENS, 13};
    ASSERT_ORDER(&scene, 3, 0, 1);
    assert_int_equal(detail(&scene, "ranked"), 4);
}

/* Nothing but chance, and every cluster alike. */
static void uniform_per_cluster_is_even_and_random(void **state)
{
    (void)state;
    enum { COUNT = 16 };
    float rows[COUNT * 4] = {0};
    for (size_t i = 0; i < COUNT; i++) { /* ten of one direction, and two of each other */
        rows[i * 4 + (i < 10 ? 0 : (i - 10) / 2 + 1)] = 1;
    }
    const struct scene scene = {.method = "uniform_per_cluster",
                                .parameters = "{\"neighbours\": 2, \"clusters\": 4}",
                                .budget = {BUDGET_RECORDS, 8},
                                .records = {.count = COUNT, .embeddings = rows, .embedding_size = 4}};
    bool has_differed = false;
    OWNED(selection) first = choose(&scene, 0);
    for (uint64_t seed = 0; seed < 8; seed++) {
        size_t taken[4] = {0};
        OWNED(selection) selection = choose(&scene, seed);
        assert_int_equal(selection->chosen_count, 8);
        for (size_t i = 0; i < 8; i++) {
            taken[selection->labels[selection->order[i]]]++;
        }
        assert_int_equal(selection->cluster_count, 4);
        for (size_t k = 0; k < 4; k++) {
            assert_int_equal(taken[k], 2);
        }
        has_differed =
            has_differed || memcmp(first->reasons, selection->reasons, COUNT * sizeof *first->reasons) != 0;
    }
    assert_true(has_differed);
}

static void parameters_that_contradict_each_other_are_named(void **state)
{
    (void)state;
    const struct {
        const char *method, *parameters, *field;
    } cases[] = {
        {"perplexity", "{\"low_ratio\": 0.5, \"high_ratio\": 0.5}", "/high_ratio"},
        {"instruction_mining", "{\"columns\": [\"a\"], \"coefficients\": [1, 2]}", "/coefficients"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const struct select_method *method = select_method_find(cases[i].method);
        JSON_OWNED parameters = parameters_resolve(method, cases[i].parameters);
        struct error error = {0};
        assert_false(method->check(parameters, &error));
        assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
        assert_string_equal(error.field, cases[i].field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(perplexity_takes_the_band_and_nothing_else),
        cmocka_unit_test(the_two_ratios_order_otherwise),
        cmocka_unit_test(el2n_leaves_out_the_very_top),
        cmocka_unit_test(nuggets_rank_by_the_share_of_anchors_that_were_asked),
        cmocka_unit_test(prototypes_are_near_the_middle_of_their_fan),
        cmocka_unit_test(targets_take_turns_in_choosing_what_is_like_them),
        cmocka_unit_test(transport_goes_towards_the_target_or_away),
        cmocka_unit_test(deita_passes_over_what_is_near_a_better_one),
        cmocka_unit_test(deita_leaves_out_what_says_no_number),
        cmocka_unit_test(instruction_mining_takes_the_least_promised_loss),
        cmocka_unit_test(q_tuning_keeps_the_two_corners),
        cmocka_unit_test(strata_cover_the_range_and_leave_the_worst),
        cmocka_unit_test(k_center_covers_and_spends_tokens),
        cmocka_unit_test(uniform_per_cluster_is_even_and_random),
        cmocka_unit_test(parameters_that_contradict_each_other_are_named),
    };
    return cmocka_run_group_tests(tests, plain_open, plain_close);
}
