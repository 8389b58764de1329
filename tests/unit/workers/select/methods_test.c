/*
 * What every selector of methods.def promises, on made-up records: it needs no array but those it names, spends the budget as far as it ranks
 * records, takes none twice, gives the same order again, and says why each record is where it is; with few records, with none, with records that
 * are all alike, with budgets of nothing and of more than there is, and with every value of its parameters that are a choice.
 */
#include "tests/unit/workers/select/parameters.h"

enum { SIZE = 16, TARGETS = 12, COLUMNS = 2, ANCHORS = 7 };

/* Everything a selector could ask for; owned. */
struct data {
    size_t count;
    uint32_t *prompts, *responses, *totals, *sources;
    struct instruction_record *texts;
    const struct instruction_record **pointers;
    char (*responses_text)[48];
    float *embeddings;
    double *columns
        [7]; /* damages, entropies, losses, alone losses, el2n, columns (twice as long), one-shot (ANCHORS) */
};

static float *unit_rows(size_t count, size_t topics, uint64_t seed)
{
    float *rows = plain_rows(count * SIZE, seed);
    for (size_t i = 0; i < count; i++) {
        rows[i * SIZE + i % topics] += 3;
        double square = plain_square(rows + i * SIZE, (float[SIZE]){0}, SIZE);
        for (size_t c = 0; c < SIZE; c++) {
            rows[i * SIZE + c] = (float)((double)rows[i * SIZE + c] / sqrt(square));
        }
    }
    return rows;
}

static void data_make(struct data *data, size_t count, bool is_alike)
{
    const struct rng rng = {.seed = 11, .stream = 4};
    *data = (struct data){.count = count,
                          .prompts = memory_create(count, sizeof(uint32_t)),
                          .responses = memory_create(count, sizeof(uint32_t)),
                          .totals = memory_create(count, sizeof(uint32_t)),
                          .sources = memory_create(count, sizeof(uint32_t)),
                          .texts = memory_create(count, sizeof *data->texts),
                          .pointers = memory_create(count, sizeof *data->pointers),
                          .responses_text = memory_create(count, sizeof *data->responses_text),
                          .embeddings = unit_rows(count, 5, 9)};
    for (size_t c = 0; c < 7; c++) {
        data->columns[c] = memory_create(count * (c == 5 ? COLUMNS : c == 6 ? ANCHORS : 1), sizeof(double));
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t at = is_alike ? 0 : 32 * (uint64_t)i;
        data->prompts[i] = 1 + (uint32_t)rng_below(&rng, at++, 20);
        data->responses[i] = 1 + (uint32_t)rng_below(&rng, at++, 40);
        data->totals[i] = data->prompts[i] + data->responses[i];
        data->sources[i] = (uint32_t)(i % 2);
        for (size_t c = 0; c < 5; c++) {
            data->columns[c][i] = rng_unit(&rng, at++);
        }
        for (size_t c = 0; c < COLUMNS; c++) {
            data->columns[5][i * COLUMNS + c] = rng_unit(&rng, at++);
        }
        uint64_t asked = 1 + rng_below(&rng, at++, ANCHORS);
        for (size_t j = 0; j < ANCHORS; j++) {
            data->columns[6][i * ANCHORS + j] = j < asked ? -rng_unit(&rng, at++) : (double)NAN;
        }
        uint64_t first = rng_below(&rng, at++, 60), second = rng_below(&rng, at++, 60);
        assert_true(snprintf(data->responses_text[i], sizeof data->responses_text[i], "thing%u, part%u",
                             (unsigned)first, (unsigned)second) > 0);
        data->texts[i] =
            (struct instruction_record){.instruction = "", .input = "", .response = data->responses_text[i]};
        data->pointers[i] = &data->texts[i];
        if (is_alike && i > 0) {
            memcpy(data->embeddings + i * SIZE, data->embeddings, SIZE * sizeof(float));
        }
        if (i % 9 == 8) {
            memset(data->embeddings + i * SIZE, 0, SIZE * sizeof(float));
        }
    }
}

static void data_finish(struct data *data)
{
    free(data->prompts);
    free(data->responses);
    free(data->totals);
    free(data->sources);
    free(data->texts);
    free(data->pointers);
    free(data->responses_text);
    free(data->embeddings);
    for (size_t c = 0; c < COUNT_OF(data->columns); c++) {
        free(data->columns[c]);
    }
}

static const double zero_shot[ANCHORS] = {-0.5, -0.2, -0.9, -0.5, -0.5, -0.7, -0.1};

/* What is of no record is NULL, as in a job. */
static struct select_records records_of(const struct data *data, unsigned needs)
{
    needs = data->count > 0 ? needs : 0;
    const double *const *columns = (const double *const *)data->columns;
    bool has_entropies = (needs & (SELECT_NEED_DAMAGE | SELECT_NEED_ENTROPIES)) != 0;
    return (struct select_records){.count = data->count,
                                   .prompt_tokens = data->prompts,
                                   .response_tokens = data->responses,
                                   .total_tokens = data->totals,
                                   .texts = data->pointers,
                                   .sources = data->sources,
                                   .source_count = 2,
                                   .embeddings = needs & SELECT_NEED_EMBEDDINGS ? data->embeddings : NULL,
                                   .embedding_size = needs & SELECT_NEED_EMBEDDINGS ? SIZE : 0,
                                   .damages = needs & SELECT_NEED_DAMAGE ? columns[0] : NULL,
                                   .entropies = has_entropies ? columns[1] : NULL,
                                   .losses = needs & SELECT_NEED_LOSSES ? columns[2] : NULL,
                                   .alone_losses = needs & SELECT_NEED_ALONE ? columns[3] : NULL,
                                   .el2n = needs & SELECT_NEED_EL2N ? columns[4] : NULL,
                                   .efforts = needs & SELECT_NEED_EFFORTS ? columns[4] : NULL,
                                   .columns = needs & SELECT_NEED_FIELDS ? columns[5] : NULL,
                                   .column_count = needs & SELECT_NEED_FIELDS ? COLUMNS : 0,
                                   .zero_shot = needs & SELECT_NEED_ONE_SHOT ? zero_shot : NULL,
                                   .one_shot = needs & SELECT_NEED_ONE_SHOT ? columns[6] : NULL,
                                   .anchor_count = needs & SELECT_NEED_ONE_SHOT ? ANCHORS : 0};
}

/* What has no default. */
static const char *required_parameters(const char *name)
{
    static const struct {
        const char *name, *json;
    } rows[] = {
        {"rds", "{\"targets\": [{\"source\": \"a.jsonl\"}, {\"source\": \"b.jsonl\"}]}"},
        {"gotd", "{\"targets\": [{\"source\": \"a.jsonl\"}]}"},
        {"instruction_mining", "{\"columns\": [\"a\", \"b\"], \"coefficients\": [1, -0.5]}"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return rows[i].json;
        }
    }
    return "{}";
}

/* Owned: the defaults. */
static json_t *parameters_of(const struct select_method *method)
{
    return parameters_resolve(method, required_parameters(method->name));
}

/* ---- one selection ------------------------------------------------------------------------------- */

static bool is_taken(enum select_reason reason)
{
    return reason == SELECT_CHOSEN || reason == SELECT_REFILLED || reason == SELECT_DESPITE;
}

/* Whether it may leave budget unspent that its records could take: by its nature, or by a parameter. */
static bool may_fall_short(const struct select_method *method, const json_t *parameters)
{
    const char *compat = json_string_value(json_object_get(parameters, "compat"));
    return strcmp(method->name, "deita") == 0 || (compat != NULL && strcmp(compat, "published") == 0);
}

static void assert_selection(const struct select_method *method, const struct select_run *run,
                             const struct selection *selection)
{
    const struct select_records *records = run->records;
    OWNED_MEMORY bool *is_met = memory_create(records->count + 1, sizeof *is_met);
    uint64_t tokens = 0;
    bool has_scores = strcmp(selection->score_name, "none") != 0;
    assert_true(selection->chosen_count <= records->count);
    for (size_t i = 0; i < selection->chosen_count; i++) {
        size_t record = selection->order[i];
        assert_true(record < records->count && !is_met[record]);
        is_met[record] = true;
        tokens += records->total_tokens[record];
        assert_true(!has_scores || !isnan(selection->scores[record]));
    }
    size_t rankable = 0;
    uint64_t left = run->budget.unit == BUDGET_TOKENS ? run->budget.limit - tokens : 0;
    assert_true(run->budget.unit == BUDGET_RECORDS ? selection->chosen_count <= run->budget.limit
                                                   : tokens <= run->budget.limit);
    for (size_t i = 0; i < records->count; i++) {
        assert_true(is_met[i] == is_taken(selection->reasons[i]));
        bool is_rankable = selection->reasons[i] != SELECT_FILTERED;
        rankable += is_rankable ? 1 : 0;
        if (run->budget.unit == BUDGET_TOKENS && is_rankable && !is_met[i] &&
            !may_fall_short(method, run->parameters)) {
            assert_true(records->total_tokens[i] > left);
        }
    }
    if (run->budget.unit == BUDGET_RECORDS && !may_fall_short(method, run->parameters)) {
        assert_int_equal(selection->chosen_count,
                         run->budget.limit < rankable ? run->budget.limit : rankable);
    }
    assert_true(json_is_object(selection->details));
    assert_true(selection->clusters == NULL || selection->labels != NULL);
    for (size_t i = 0; selection->labels != NULL && i < records->count; i++) {
        assert_true(selection->labels[i] < selection->cluster_count);
    }
    if (selection->clusters != NULL) {
        assert_int_equal(json_array_size(selection->clusters), selection->cluster_count);
    }
    for (size_t i = 0; selection->map != NULL && i < 2 * records->count; i++) {
        assert_true(isfinite((double)selection->map[i]));
    }
}

static float *target_rows;
static const uint32_t target_sources[TARGETS] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1};

static struct selection *choose(const struct select_method *method, const struct data *data,
                                const json_t *parameters, struct budget budget,
                                const struct dense_threads *threads, struct error *error)
{
    const struct select_records records = records_of(data, method->needs);
    const struct select_records targets = {.count = TARGETS,
                                           .sources = target_sources,
                                           .source_count = 2,
                                           .embeddings = target_rows,
                                           .embedding_size = SIZE};
    const struct select_run run = {.records = &records,
                                   .targets = method->needs & SELECT_NEED_TARGETS ? &targets : NULL,
                                   .parameters = parameters,
                                   .budget = budget,
                                   .seed = 5,
                                   .threads = threads};
    OWNED(selection) selection = selection_create(data->count, NULL);
    if (!method->select(&run, selection, error)) {
        return NULL;
    }
    assert_selection(method, &run, selection);
    return TAKE(selection);
}

/* The published code divides by zero where records coincide, and here that is an error. */
static bool may_fail(const struct error *error, const struct data *data, bool is_alike,
                     const json_t *parameters)
{
    const char *compat = json_string_value(json_object_get(parameters, "compat"));
    return compat != NULL && strcmp(compat, "published") == 0 && error->code == ERROR_NUMERIC &&
           (is_alike || data->count < 2);
}

static void assert_same(const struct selection *first, const struct selection *second, size_t count)
{
    assert_int_equal(first->chosen_count, second->chosen_count);
    assert_memory_equal(first->order, second->order, first->chosen_count * sizeof *first->order);
    assert_memory_equal(first->reasons, second->reasons, count * sizeof *first->reasons);
    assert_memory_equal(first->scores, second->scores, count * sizeof *first->scores);
    assert_true((first->labels == NULL) == (second->labels == NULL) &&
                (first->map == NULL) == (second->map == NULL));
    if (first->labels != NULL) {
        assert_int_equal(first->cluster_count, second->cluster_count);
        assert_memory_equal(first->labels, second->labels, count * sizeof *first->labels);
    }
    if (first->map != NULL) {
        assert_memory_equal(first->map, second->map, 2 * count * sizeof *first->map);
    }
    assert_true(json_equal(first->details, second->details));
    assert_true(first->clusters == second->clusters || json_equal(first->clusters, second->clusters));
}

/* ---- tests --------------------------------------------------------------------------------------- */

static void try_budgets(const struct select_method *method, const struct data *data, bool is_alike,
                        const json_t *parameters)
{
    uint64_t tokens = 0;
    for (size_t i = 0; i < data->count; i++) {
        tokens += data->totals[i];
    }
    const struct budget budgets[] = {
        {BUDGET_RECORDS, 0},
        {BUDGET_RECORDS, 1},
        {BUDGET_RECORDS, data->count / 3},
        {BUDGET_RECORDS, data->count},
        {BUDGET_RECORDS, data->count + 5},
        {BUDGET_TOKENS, 0},
        {BUDGET_TOKENS, 1},
        {BUDGET_TOKENS, tokens / 3},
        {BUDGET_TOKENS, tokens},
        {BUDGET_TOKENS, tokens + 1000},
    };
    for (size_t b = 0; b < COUNT_OF(budgets); b++) {
        struct error error = {0};
        OWNED(selection) selection = choose(method, data, parameters, budgets[b], &plain_threads, &error);
        if (selection == NULL) {
            if (!may_fail(&error, data, is_alike, parameters)) {
                print_error("%s, %zu records, budget %zu: %s\n", method->name, data->count, b, error.message);
                fail();
            }
            continue;
        }
        OWNED(selection) again = choose(method, data, parameters, budgets[b], &plain_threads, &error);
        assert_non_null(again);
        assert_same(selection, again, data->count);
    }
}

static void a_selection_of_too_many_records_is_refused(void **state)
{
    (void)state;
    struct error error = {0};
    assert_null(selection_create(SIZE_MAX / 8, &error));
    assert_int_equal(error.code, ERROR_OUT_OF_MEMORY);
}

static void every_selector_spends_budgets_of_any_size_on_any_number_of_records(void **state)
{
    (void)state;
    const size_t counts[] = {0, 1, 2, 5, 40, 203};
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        JSON_OWNED parameters = parameters_of(*method);
        for (size_t i = 0; i < 2 * COUNT_OF(counts); i++) {
            FINISHED(data) data;
            data_make(&data, counts[i / 2], i % 2 == 1);
            try_budgets(*method, &data, i % 2 == 1, parameters);
        }
    }
}

static void every_choice_of_a_parameter_works(void **state)
{
    (void)state;
    FINISHED(data) data;
    data_make(&data, 60, false);
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        for (size_t p = 0; p < (*method)->param_count; p++) {
            const struct param_spec *spec = &(*method)->params[p];
            JSON_OWNED parameters = parameters_of(*method);
            for (size_t v = 0; spec->type == PARAM_ENUM && spec->values[v] != NULL; v++) {
                json_put_text(parameters, spec->name, spec->values[v]);
                try_budgets(*method, &data, false, parameters);
            }
            for (size_t v = 0; spec->type == PARAM_BOOL && v < 2; v++) {
                json_put(parameters, spec->name, json_boolean(v));
                try_budgets(*method, &data, false, parameters);
            }
        }
    }
}

static void no_selector_depends_on_threads(void **state)
{
    (void)state;
    FINISHED(data) data;
    data_make(&data, 203, false);
    struct pool *one = pool_create(1, NULL);
    const struct dense_threads alone = {one, NULL};
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        JSON_OWNED parameters = parameters_of(*method);
        struct error error = {0};
        const struct budget budget = {BUDGET_RECORDS, 70};
        OWNED(selection) first = choose(*method, &data, parameters, budget, &plain_threads, &error);
        OWNED(selection) second = choose(*method, &data, parameters, budget, &alone, &error);
        assert_true(first != NULL && second != NULL);
        assert_same(first, second, data.count);
    }
    pool_destroy(one);
}

static void what_is_cancelled_says_so(void **state)
{
    (void)state;
    FINISHED(data) data;
    data_make(&data, 203, false);
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    const struct dense_threads threads = {plain_threads.pool, &cancel};
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        JSON_OWNED parameters = parameters_of(*method);
        struct error error = {0};
        OWNED(selection)
        selection = choose(*method, &data, parameters, (struct budget){BUDGET_RECORDS, 70}, &threads, &error);
        assert_true(selection != NULL || error.code == ERROR_CANCELLED);
        assert_true(selection == NULL || ((*method)->needs & SELECT_NEED_EMBEDDINGS) == 0);
    }
}

static bool is_snake_case(const char *name)
{
    return *name >= 'a' && *name <= 'z' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

static bool ends_a_sentence(const char *text)
{
    size_t length = strlen(text);
    return length > 1 && text[length - 1] == '.';
}

static void every_selector_describes_itself(void **state)
{
    (void)state;
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        assert_ptr_equal(select_method_find((*method)->name), *method);
        assert_true(is_snake_case((*method)->name));
        assert_true(ends_a_sentence((*method)->summary) && strlen((*method)->reference) > 0);
        JSON_OWNED parameters = parameters_of(*method);
        assert_true((*method)->check == NULL || (*method)->check(parameters, NULL));
        for (size_t p = 0; p < (*method)->param_count; p++) {
            const struct param_spec *spec = &(*method)->params[p];
            assert_true(is_snake_case(spec->name) && spec->help != NULL && ends_a_sentence(spec->help));
            assert_true(json_object_get(parameters, spec->name) != NULL || spec->flags & PARAM_NULLABLE);
            for (size_t other = 0; other < p; other++) {
                assert_string_not_equal(spec->name, (*method)->params[other].name);
            }
        }
        bool has_damage = json_object_get(parameters, "damage") != NULL;
        assert_true(has_damage == (((*method)->needs & SELECT_NEED_DAMAGE) != 0));
    }
    assert_null(select_method_find("nobody"));
}

static int open_targets(void **state)
{
    target_rows = unit_rows(TARGETS, 3, 21);
    return plain_open(state);
}

static int close_targets(void **state)
{
    free(target_rows);
    return plain_close(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_selector_describes_itself),
        cmocka_unit_test(a_selection_of_too_many_records_is_refused),
        cmocka_unit_test(every_selector_spends_budgets_of_any_size_on_any_number_of_records),
        cmocka_unit_test(every_choice_of_a_parameter_works),
        cmocka_unit_test(no_selector_depends_on_threads),
        cmocka_unit_test(what_is_cancelled_says_so),
    };
    return cmocka_run_group_tests(tests, open_targets, close_targets);
}
