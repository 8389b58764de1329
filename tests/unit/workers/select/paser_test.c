/* PASER as a whole: on blobs that pruning hurt differently it gives each what its damage asks for, in any order of the records. */
#include "tests/unit/workers/select/blobs.h"
#include "tests/unit/workers/select/parameters.h"
#include "workers/select/share.h"

enum { SIZE = 8, COUNT = 300, BLOBS = 5 };

struct data {
    float rows[COUNT * SIZE];
    double damages[COUNT], entropies[COUNT];
    uint32_t prompts[COUNT], responses[COUNT], totals[COUNT], sources[COUNT];
    char texts[COUNT][48];
    struct instruction_record records[COUNT];
    const struct instruction_record *pointers[COUNT];
};

/* Record i is of blob i % BLOBS, its source, and blob b was damaged by about (b + 1) / 10. */
static void data_make(struct data *data)
{
    OWNED_MEMORY float *points = blobs_points(COUNT, SIZE, BLOBS, 0.1);
    const struct rng rng = {.seed = 3};
    for (size_t i = 0; i < COUNT; i++) {
        double square = plain_square(points + i * SIZE, (float[SIZE]){0}, SIZE);
        for (size_t c = 0; c < SIZE; c++) {
            data->rows[i * SIZE + c] = (float)((double)points[i * SIZE + c] / sqrt(square));
        }
        data->damages[i] = (double)(i % BLOBS + 1) / 10 + 0.02 * rng_unit(&rng, 4 * i);
        data->entropies[i] = rng_unit(&rng, 4 * i + 1);
        data->prompts[i] = 5;
        data->responses[i] = 10 + (uint32_t)rng_below(&rng, 4 * i + 2, 20);
        data->totals[i] = data->prompts[i] + data->responses[i];
        data->sources[i] = (uint32_t)(i % BLOBS);
        uint64_t draw = rng_u64(&rng, 4 * i + 3); /* concepts, of which some meet again with others */
        assert_true(snprintf(data->texts[i], sizeof data->texts[i], "thing%u, part%u", (unsigned)(draw % 200),
                             (unsigned)(draw / 200 % 200)) > 0);
    }
}

static void data_point(struct data *data)
{
    for (size_t i = 0; i < COUNT; i++) {
        data->records[i] =
            (struct instruction_record){.instruction = "", .input = "", .response = data->texts[i]};
        data->pointers[i] = &data->records[i];
    }
}

static struct selection *choose(const struct data *data, const char *parameters, struct budget budget,
                                struct error *error)
{
    const struct select_method *method = select_method_find("paser");
    JSON_OWNED resolved = parameters_resolve(method, parameters);
    const struct select_records records = {.count = COUNT,
                                           .prompt_tokens = data->prompts,
                                           .response_tokens = data->responses,
                                           .total_tokens = data->totals,
                                           .texts = data->pointers,
                                           .sources = data->sources,
                                           .source_count = BLOBS,
                                           .embeddings = data->rows,
                                           .embedding_size = SIZE,
                                           .damages = data->damages,
                                           .entropies = data->entropies};
    const struct select_run run = {
        .records = &records, .parameters = resolved, .budget = budget, .seed = 1, .threads = &plain_threads};
    OWNED(selection) selection = selection_create(COUNT, NULL);
    return method->select(&run, selection, error) ? TAKE(selection) : NULL;
}

static const json_t *at(const json_t *json, const char *first, const char *second)
{
    return json_object_get(json_object_get(json, first), second);
}

static int64_t number_of(const struct selection *selection, size_t cluster, const char *name)
{
    return json_integer_value(json_object_get(json_array_get(selection->clusters, cluster), name));
}

static struct data data, mixed;

static void clusters_get_what_their_damage_asks_for(void **state)
{
    (void)state;
    struct error error = {0};
    for (size_t form = 0; form < 2; form++) {
        const struct budget budget =
            form == 0 ? (struct budget){BUDGET_RECORDS, 90} : (struct budget){BUDGET_TOKENS, 2000};
        OWNED(selection) selection = choose(&data, "{\"conflict\": \"none\"}", budget, &error);
        assert_non_null(selection);
        assert_int_equal(selection->cluster_count, BLOBS);
        double weights[BLOBS];
        size_t caps[BLOBS], shares[BLOBS], taken[BLOBS] = {0};
        for (size_t i = 0; i < COUNT; i++) {
            size_t k = selection->labels[i];
            assert_int_equal(selection->labels[i % BLOBS], k);
            weights[k] = json_number_value(json_object_get(json_array_get(selection->clusters, k), "weight"));
            assert_close(weights[k], (double)(i % BLOBS + 1) / 10 + 0.01, 0.003);
            caps[k] = SIZE_MAX;
            taken[k] += selection->reasons[i] == SELECT_CHOSEN ? 1 : 0;
        }
        assert_true(share_allocate(weights, caps, BLOBS, budget.limit, shares, NULL));
        for (size_t k = 0; k < BLOBS; k++) {
            assert_int_equal(number_of(selection, k, "share"), shares[k]);
            assert_int_equal(number_of(selection, k, "chosen"), taken[k]);
            assert_true(form == 1 || taken[k] == shares[k]);
            assert_int_equal(number_of(selection, k, "records"), COUNT / BLOBS);
        }
        /* The most damaged cluster first, and in it the most efficient. */
        for (size_t i = 1; i < selection->chosen_count; i++) {
            size_t a = selection->order[i - 1], b = selection->order[i];
            bool is_next = weights[selection->labels[a]] > weights[selection->labels[b]];
            bool is_worse =
                selection->labels[a] == selection->labels[b] && selection->scores[a] >= selection->scores[b];
            assert_true(selection->reasons[b] != SELECT_CHOSEN || is_next || is_worse);
        }
    }
}

static void parameters_reach_what_they_are_of(void **state)
{
    (void)state;
    struct error error = {0};
    const struct budget budget = {BUDGET_RECORDS, 90};
    const struct {
        const char *parameters, *weight, *labels, *solver;
        size_t clusters;
    } cases[] = {
        {"{\"clusters\": 7}", "damage_shrunk", "qr", "dense", 7},
        {"{\"clusters\": 7, \"shrinks\": false}", "damage", "qr", "dense", 7},
        {"{\"labels\": \"kmeans\", \"spectrum\": \"landmarks\"}", "damage_shrunk", "kmeans", "landmarks",
         BLOBS},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        OWNED(selection) selection = choose(&data, cases[i].parameters, budget, &error);
        assert_non_null(selection);
        const json_t *clustering = json_object_get(selection->details, "clustering");
        assert_string_equal(json_string_value(at(clustering, "clusters", "labels")), cases[i].labels);
        assert_string_equal(json_string_value(at(clustering, "spectrum", "solver")), cases[i].solver);
        assert_int_equal(selection->cluster_count, cases[i].clusters);
        for (size_t k = 0; k < selection->cluster_count; k++) {
            const json_t *cluster = json_array_get(selection->clusters, k);
            assert_close(json_number_value(json_object_get(cluster, "weight")),
                         json_number_value(json_object_get(cluster, cases[i].weight)), 0);
            assert_true(fabs(json_number_value(json_object_get(cluster, "damage")) -
                             json_number_value(json_object_get(cluster, "damage_shrunk"))) > 0);
        }
    }
    OWNED(selection) plain = choose(&data, "{\"shrinks\": false, \"trim_ratio\": 0}", budget, &error);
    OWNED(selection) trimmed = choose(&data, "{\"shrinks\": false, \"trim_ratio\": 0.3}", budget, &error);
    double mean = 0;
    for (size_t i = 0; i < COUNT; i++) {
        mean += plain->labels[i] == 0 ? data.damages[i] / (COUNT / BLOBS) : 0;
    }
    const json_t *first = json_array_get(plain->clusters, 0), *other = json_array_get(trimmed->clusters, 0);
    assert_close(json_number_value(json_object_get(first, "damage")), mean, 1e-12);
    assert_true(fabs(json_number_value(json_object_get(other, "damage")) - mean) > 1e-9);
}

static void the_report_says_what_the_selection_rests_on(void **state)
{
    (void)state;
    struct error error = {0};
    OWNED(selection) selection = choose(&data, "{}", (struct budget){BUDGET_RECORDS, 90}, &error);
    assert_non_null(selection);
    const json_t *details = selection->details;
    assert_close(json_number_value(json_object_get(details, "source_agreement")), 1, 0);
    assert_string_equal(
        json_string_value(at(json_object_get(details, "clustering"), "clusters", "chosen_by")), "eigengap");
    assert_int_equal(json_array_size(at(json_object_get(details, "clustering"), "spectrum", "eigenvalues")),
                     33);
    const json_t *sensitivity = json_object_get(details, "sensitivity");
    assert_int_equal(json_array_size(sensitivity), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *other = json_array_get(sensitivity, i), *shares = json_object_get(other, "shares");
        double agreement = json_number_value(json_object_get(other, "agreement"));
        double moved = json_number_value(json_object_get(other, "moved_ratio"));
        /* What a request for that many clusters would share out. */
        const char *const asked = i == 0 ? "{\"clusters\": 3}" : "{\"clusters\": 7}";
        OWNED(selection) asked_for = choose(&data, asked, (struct budget){BUDGET_RECORDS, 90}, &error);
        for (size_t k = 0; k < json_array_size(shares); k++) {
            assert_int_equal(json_integer_value(json_array_get(shares, k)), number_of(asked_for, k, "share"));
        }
        assert_int_equal(json_array_size(shares), i == 0 ? BLOBS - 2 : BLOBS + 2);
        assert_true(agreement > 0.2 && agreement < 1);
        assert_true(moved > 0 && moved < 0.5);
    }
    int64_t asked = 0, rejected = 0;
    for (size_t k = 0; k < selection->cluster_count; k++) {
        asked += number_of(selection, k, "asked");
        rejected += number_of(selection, k, "rejected");
    }
    assert_true(rejected > 0);
    assert_int_equal(json_integer_value(at(details, "conflicts", "asked")), asked);
    assert_int_equal(json_integer_value(at(details, "conflicts", "rejected")), rejected);
    assert_true(json_integer_value(at(details, "conflicts", "edges")) > 0);
    assert_true(json_is_number(json_object_get(at(details, "correlations", "entropy"), "spearman")));
    assert_true(selection->map != NULL && selection->chosen_count == 90);
}

static void records_in_another_order_are_the_same_selection(void **state)
{
    (void)state;
    size_t order[COUNT], places[COUNT];
    rng_permutation(&(struct rng){.seed = 8}, COUNT, order);
    for (size_t i = 0; i < COUNT; i++) {
        size_t from = order[i];
        places[from] = i;
        memcpy(mixed.rows + i * SIZE, data.rows + from * SIZE, SIZE * sizeof(float));
        memcpy(mixed.texts[i], data.texts[from], sizeof data.texts[from]);
        mixed.damages[i] = data.damages[from];
        mixed.entropies[i] = data.entropies[from];
        mixed.prompts[i] = data.prompts[from];
        mixed.responses[i] = data.responses[from];
        mixed.totals[i] = data.totals[from];
        mixed.sources[i] = data.sources[from];
    }
    data_point(&mixed);
    const struct budget budgets[] = {{BUDGET_RECORDS, 100}, {BUDGET_TOKENS, 1500}};
    for (size_t b = 0; b < COUNT_OF(budgets); b++) {
        struct error error = {0};
        OWNED(selection) first = choose(&data, "{}", budgets[b], &error);
        OWNED(selection) second = choose(&mixed, "{}", budgets[b], &error);
        assert_true(first != NULL && second != NULL);
        assert_int_equal(first->chosen_count, second->chosen_count);
        for (size_t i = 0; i < first->chosen_count; i++) {
            assert_int_equal(places[first->order[i]], second->order[i]);
        }
    }
}

/* Two models that do not differ: every cluster counts alike. */
static void without_damage_all_clusters_count_alike(void **state)
{
    (void)state;
    memcpy(&mixed, &data, sizeof mixed);
    data_point(&mixed);
    memset(mixed.damages, 0, sizeof mixed.damages);
    struct error error = {0};
    OWNED(selection)
    selection = choose(&mixed, "{\"conflict\": \"none\"}", (struct budget){BUDGET_RECORDS, 52}, &error);
    assert_non_null(selection);
    assert_int_equal(selection->chosen_count, 52);
    for (size_t k = 0; k < BLOBS; k++) {
        assert_int_equal(number_of(selection, k, "chosen"), k < 2 ? 11 : 10);
    }
}

static void the_published_form_takes_ten_clusters_and_rounds_down(void **state)
{
    (void)state;
    struct error error = {0};
    const char *const parameters = "{\"compat\": \"published\", \"conflict\": \"none\"}";
    OWNED(selection) selection = choose(&data, parameters, (struct budget){BUDGET_RECORDS, 97}, &error);
    assert_non_null(selection);
    assert_int_equal(selection->cluster_count, 10);
    int64_t shares = 0, taken = 0;
    double weights[10], sum = 0;
    for (size_t k = 0; k < 10; k++) {
        double damage = 0;
        size_t records = 0;
        for (size_t i = 0; i < COUNT; i++) {
            damage += selection->labels[i] == k ? data.damages[i] * data.responses[i] : 0;
            records += selection->labels[i] == k ? 1 : 0;
        }
        weights[k] = records > 0 ? damage / (double)records : 0;
        sum += weights[k];
        shares += number_of(selection, k, "share");
        taken += number_of(selection, k, "taken");
        assert_true(number_of(selection, k, "taken") <= number_of(selection, k, "share"));
    }
    for (size_t k = 0; k < 10; k++) {
        assert_true(fabs((double)number_of(selection, k, "share") - 97 * weights[k] / sum) < 1);
    }
    assert_true(shares < 97 && taken == (int64_t)selection->chosen_count);
    assert_close(selection->scores[4],
                 data.damages[4] * data.responses[4] / (2 * log(5 + (double)strlen(data.texts[4]))), 1e-12);
    assert_string_equal(selection->score_name, "published_key");
    assert_true(json_array_size(json_object_get(selection->details, "differences")) > 0);
    mixed = data;
    data_point(&mixed);
    memset(mixed.damages, 0, sizeof mixed.damages);
    assert_null(choose(&mixed, parameters, (struct budget){BUDGET_RECORDS, 97}, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
}

/* The two best records of one cluster ask the same, and answer with other words. */
static void near_duplicates_that_answer_otherwise_are_rejected_in_both_forms(void **state)
{
    (void)state;
    const char *const forms[] = {"{\"conflict\": \"near_duplicate\"}",
                                 "{\"conflict\": \"near_duplicate\", \"compat\": \"published\"}"};
    for (size_t form = 0; form < COUNT_OF(forms); form++) {
        struct error error = {0};
        memcpy(&mixed, &data, sizeof mixed);
        data_point(&mixed);
        memcpy(mixed.rows + BLOBS * SIZE, mixed.rows, SIZE * sizeof *mixed.rows);
        mixed.damages[0] = 0.69;
        mixed.damages[BLOBS] = 0.5;
        mixed.responses[0] = mixed.responses[BLOBS] = 20;
        mixed.totals[0] = mixed.totals[BLOBS] = 25;
        for (size_t i = 0; i < COUNT; i++) {
            (void)strcpy(mixed.texts[i], i == BLOBS ? "no" : "yes");
        }
        OWNED(selection) selection = choose(&mixed, forms[form], (struct budget){BUDGET_RECORDS, 90}, &error);
        assert_non_null(selection);
        assert_int_equal(selection->reasons[0], SELECT_CHOSEN);
        for (size_t i = 0; i < COUNT; i++) {
            assert_true((selection->reasons[i] == SELECT_REJECTED) == (i == BLOBS));
        }
        assert_true(json_integer_value(at(selection->details, "conflicts", "compared")) > 0);
        assert_int_equal(json_integer_value(at(selection->details, "conflicts", "rejected")), 1);
    }
}

static int open_data(void **state)
{
    data_make(&data);
    data_point(&data);
    return plain_open(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clusters_get_what_their_damage_asks_for),
        cmocka_unit_test(parameters_reach_what_they_are_of),
        cmocka_unit_test(the_report_says_what_the_selection_rests_on),
        cmocka_unit_test(records_in_another_order_are_the_same_selection),
        cmocka_unit_test(without_damage_all_clusters_count_alike),
        cmocka_unit_test(the_published_form_takes_ten_clusters_and_rounds_down),
        cmocka_unit_test(near_duplicates_that_answer_otherwise_are_rejected_in_both_forms),
    };
    return cmocka_run_group_tests(tests, open_data, plain_close);
}
