/* What assembly.h and admission.h promise: the walk against a plain one that looks at all records for every step, T3 and T8 of the reference. */
#include "tests/unit/workers/select/plain.h"
#include "workers/select/assembly.h"
#include "workers/select/damage.h"
#include "workers/select/share.h"

enum { MOST = 60, MOST_CLUSTERS = 7, WORDS = 50, MOST_WORDS = 4 };

/* A made-up data set. A record's concepts are words[], of which only those that exactly two records have are left by concepts_limit. */
struct pool_of_records {
    size_t count, clusters;
    uint32_t labels[MOST], tokens[MOST];
    double damages[MOST_CLUSTERS], scores[MOST];
    size_t words[MOST][MOST_WORDS], word_counts[MOST];
    char texts[MOST][64];
    struct instruction_record records[MOST];
    const struct instruction_record *pointers[MOST];
    struct budget budget;
};

static void make_records(struct pool_of_records *pool, uint64_t seed)
{
    const struct rng rng = {.seed = seed, .stream = 3};
    uint64_t at = 0;
    pool->count = (size_t)rng_below(&rng, at++, MOST + 1);
    pool->clusters = 1 + (size_t)rng_below(&rng, at++, MOST_CLUSTERS);
    for (size_t k = 0; k < pool->clusters; k++) { /* a few that are not damaged, or gained */
        pool->damages[k] = (double)rng_below(&rng, at++, 6) - 1;
    }
    for (size_t i = 0; i < pool->count; i++) {
        pool->labels[i] = (uint32_t)rng_below(&rng, at++, pool->clusters);
        pool->tokens[i] = 1 + (uint32_t)rng_below(&rng, at++, 30);
        pool->scores[i] = (double)rng_below(&rng, at++, 20); /* with ties */
        size_t words = (size_t)rng_below(&rng, at++, MOST_WORDS + 1);
        pool->word_counts[i] = 0;
        pool->texts[i][0] = '\0';
        for (size_t w = 0; w < words; w++) {
            size_t word = (size_t)rng_below(&rng, at++, WORDS);
            pool->words[i][pool->word_counts[i]++] = word;
            size_t length = strlen(pool->texts[i]);
            assert_true(snprintf(pool->texts[i] + length, sizeof pool->texts[i] - length, "w%zu, ", word) >
                        0);
        }
        pool->records[i] =
            (struct instruction_record){.instruction = "", .input = "", .response = pool->texts[i]};
        pool->pointers[i] = &pool->records[i];
    }
    bool is_tokens = rng_below(&rng, at++, 2) == 1;
    pool->budget = (struct budget){is_tokens ? BUDGET_TOKENS : BUDGET_RECORDS,
                                   rng_below(&rng, at, (is_tokens ? 15 : 1) * (pool->count + 5))};
}

/* ---- the plain walk ------------------------------------------------------------------------------ */

struct plain_walk {
    const struct pool_of_records *pool;
    bool has_graph, vertices[WORDS], edges[WORDS][WORDS];
    size_t frequencies[WORDS];
    enum select_reason reasons[MOST];
    size_t order[MOST], taken;
    uint64_t left;
};

static bool has_word(const struct pool_of_records *pool, size_t i, size_t word)
{
    for (size_t w = 0; w < pool->word_counts[i]; w++) {
        if (pool->words[i][w] == word) {
            return true;
        }
    }
    return false;
}

static bool is_consistent(const struct plain_walk *walk, size_t i)
{
    for (size_t a = 0; a < WORDS && walk->has_graph; a++) {
        for (size_t b = 0; b < a; b++) {
            if (walk->frequencies[a] == 2 && walk->frequencies[b] == 2 && has_word(walk->pool, i, a) &&
                has_word(walk->pool, i, b) && walk->vertices[a] && walk->vertices[b] && !walk->edges[a][b]) {
                return false;
            }
        }
    }
    return true;
}

static void plain_take(struct plain_walk *walk, size_t i, enum select_reason reason)
{
    walk->reasons[i] = reason;
    walk->order[walk->taken++] = i;
    walk->left -= walk->pool->budget.unit == BUDGET_RECORDS ? 1 : walk->pool->tokens[i];
    for (size_t a = 0; a < WORDS && reason != SELECT_DESPITE; a++) {
        walk->vertices[a] = walk->vertices[a] || has_word(walk->pool, i, a);
        for (size_t b = 0; b < a; b++) {
            walk->edges[a][b] =
                walk->edges[a][b] || (has_word(walk->pool, i, a) && has_word(walk->pool, i, b));
        }
    }
}

static uint64_t plain_cost(const struct plain_walk *walk, size_t i)
{
    return walk->pool->budget.unit == BUDGET_RECORDS ? 1 : walk->pool->tokens[i];
}

/* The record of highest score in this state, in this cluster (or any), of cost up to `most`, not marked; SIZE_MAX: none. */
static size_t plain_best(const struct plain_walk *walk, enum select_reason state, size_t cluster,
                         uint64_t most, const bool *is_marked)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < walk->pool->count; i++) {
        bool is_one = walk->reasons[i] == state &&
                      (cluster == SIZE_MAX || walk->pool->labels[i] == cluster) &&
                      plain_cost(walk, i) <= most && !is_marked[i];
        if (is_one && (best == SIZE_MAX || walk->pool->scores[i] > walk->pool->scores[best])) {
            best = i;
        }
    }
    return best;
}

/* One walk over what waits in a cluster (or in all), in order of score, with so much to spend. What is too dear when its turn comes is marked: what
 * is left only shrinks, so that asking for what fits does the same. */
static bool plain_visit(struct plain_walk *walk, size_t cluster, uint64_t most, enum select_reason state,
                        enum select_reason reason)
{
    bool is_marked[MOST] = {false}, has_moved = false;
    while (most > 0) {
        size_t i = plain_best(walk, state, cluster, most, is_marked);
        if (i == SIZE_MAX) {
            break;
        }
        /* Those before it in the order that did not fit are passed. */
        for (size_t j = 0; j < walk->pool->count; j++) {
            bool is_before = walk->pool->scores[j] > walk->pool->scores[i] ||
                             (walk->pool->scores[j] >= walk->pool->scores[i] && j < i);
            is_marked[j] = is_marked[j] || is_before;
        }
        is_marked[i] = true;
        has_moved = true;
        if (reason == SELECT_DESPITE || is_consistent(walk, i)) {
            most -= plain_cost(walk, i);
            plain_take(walk, i, reason);
        } else {
            walk->reasons[i] = SELECT_REJECTED;
        }
    }
    return has_moved;
}

static bool plain_round(struct plain_walk *walk, enum select_reason reason)
{
    const struct pool_of_records *pool = walk->pool;
    double weights[MOST_CLUSTERS];
    size_t caps[MOST_CLUSTERS] = {0}, shares[MOST_CLUSTERS];
    bool has_moved = false, is_visited[MOST_CLUSTERS] = {false};
    for (size_t k = 0; k < pool->clusters; k++) {
        weights[k] = fmax(0, pool->damages[k]);
    }
    for (size_t i = 0; i < pool->count; i++) {
        caps[pool->labels[i]] += walk->reasons[i] == SELECT_NOT_CHOSEN ? plain_cost(walk, i) : 0;
    }
    assert_true(share_allocate(weights, caps, pool->clusters, walk->left, shares, NULL));
    for (size_t turn = 0; turn < pool->clusters; turn++) {
        size_t next = SIZE_MAX;
        for (size_t k = 0; k < pool->clusters; k++) {
            if (!is_visited[k] && (next == SIZE_MAX || pool->damages[k] > pool->damages[next])) {
                next = k;
            }
        }
        is_visited[next] = true;
        has_moved = plain_visit(walk, next, shares[next], SELECT_NOT_CHOSEN, reason) || has_moved;
    }
    return has_moved;
}

static void plain_assemble(struct plain_walk *walk)
{
    walk->left = walk->pool->budget.limit;
    for (size_t i = 0; i < walk->pool->count; i++) {
        for (size_t word = 0; word < WORDS; word++) {
            walk->frequencies[word] += has_word(walk->pool, i, word) ? 1 : 0;
        }
    }
    if (plain_round(walk, SELECT_CHOSEN)) {
        while (plain_round(walk, SELECT_REFILLED)) {
        }
    }
    (void)plain_visit(walk, SIZE_MAX, walk->left, SELECT_NOT_CHOSEN, SELECT_REFILLED);
    (void)plain_visit(walk, SIZE_MAX, walk->left, SELECT_REJECTED, SELECT_DESPITE);
}

/* ---- tests --------------------------------------------------------------------------------------- */

static void assert_invariants(const struct pool_of_records *pool, const size_t *order,
                              const enum select_reason *reasons, const struct assembly_cluster *clusters,
                              const struct budget_use *use)
{
    bool is_taken[MOST] = {false};
    uint64_t tokens = 0;
    for (size_t i = 0; i < use->records; i++) {
        assert_false(is_taken[order[i]]);
        is_taken[order[i]] = true;
        tokens += pool->tokens[order[i]];
        assert_true(reasons[order[i]] >= SELECT_CHOSEN && reasons[order[i]] <= SELECT_DESPITE);
        assert_true(i == 0 || reasons[order[i]] >= reasons[order[i - 1]]);
    }
    assert_int_equal(tokens, use->tokens);
    for (size_t i = 0; i < pool->count; i++) {
        assert_true(is_taken[i] == (reasons[i] >= SELECT_CHOSEN && reasons[i] <= SELECT_DESPITE));
        assert_true(pool->budget.unit == BUDGET_RECORDS || is_taken[i] ||
                    tokens + pool->tokens[i] > pool->budget.limit);
    }
    if (pool->budget.unit == BUDGET_RECORDS) {
        assert_int_equal(use->records, pool->budget.limit < pool->count ? pool->budget.limit : pool->count);
    } else {
        assert_true(tokens <= pool->budget.limit);
    }
    size_t records = 0, taken = 0;
    uint64_t taken_tokens = 0;
    for (size_t k = 0; k < pool->clusters; k++) {
        const struct assembly_cluster *cluster = &clusters[k];
        records += cluster->records;
        taken += cluster->chosen + cluster->refilled + cluster->despite;
        taken_tokens += cluster->taken_tokens;
        assert_true(cluster->asked >= cluster->rejected && cluster->rejected >= cluster->despite);
        assert_int_equal(cluster->example_count,
                         cluster->records < ASSEMBLY_EXAMPLES ? cluster->records : ASSEMBLY_EXAMPLES);
        for (size_t i = 0; i < cluster->example_count; i++) {
            assert_int_equal(pool->labels[cluster->examples[i]], k);
            assert_true(i == 0 ||
                        pool->scores[cluster->examples[i - 1]] >= pool->scores[cluster->examples[i]]);
        }
    }
    assert_int_equal(records, pool->count);
    assert_int_equal(taken, use->records);
    assert_int_equal(taken_tokens, tokens);
}

static void the_walk_is_the_plain_one_and_spends_the_budget(void **state)
{
    (void)state;
    static struct pool_of_records pool;
    size_t rejected = 0, refilled = 0, despite = 0;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        make_records(&pool, seed);
        enum admission_conflict conflict = seed % 3 == 0 ? ADMISSION_NONE : ADMISSION_GRAPH;
        OWNED(admission) admission = admission_create(conflict, pool.count, pool.pointers, NULL, NULL, NULL);
        assert_non_null(admission);
        const struct assembly_request request = {.count = pool.count,
                                                 .cluster_count = pool.clusters,
                                                 .labels = pool.labels,
                                                 .damages = pool.damages,
                                                 .scores = pool.scores,
                                                 .tokens = pool.tokens,
                                                 .budget = pool.budget,
                                                 .admission = admission};
        struct plain_walk plain = {.pool = &pool, .has_graph = conflict == ADMISSION_GRAPH};
        plain_assemble(&plain);
        size_t order[MOST + 1];
        enum select_reason reasons[MOST + 1];
        struct assembly_cluster clusters[MOST_CLUSTERS];
        struct budget_use use;
        struct error error = {0};
        if (!assembly_walk(&request, order, reasons, clusters, &use, &error)) {
            print_error("%s\n", error.message);
            fail();
        }
        assert_int_equal(use.records, plain.taken);
        assert_memory_equal(order, plain.order, use.records * sizeof *order);
        for (size_t i = 0; i < pool.count; i++) {
            assert_int_equal(reasons[i], plain.reasons[i]);
            rejected += reasons[i] == SELECT_REJECTED ? 1 : 0;
            refilled += reasons[i] == SELECT_REFILLED ? 1 : 0;
            despite += reasons[i] == SELECT_DESPITE ? 1 : 0;
        }
        assert_invariants(&pool, order, reasons, clusters, &use);
    }
    assert_true(rejected > 100 && refilled > 100 && despite > 100);
}

/* T8: damages (.5, .16667) share 4 records as 3 and 1; the tie of records 3 and 4 goes to 3. */
static void the_reference_example_is_assembled(void **state)
{
    (void)state;
    const uint32_t labels[] = {0, 0, 0, 1, 1, 1}, tokens[] = {9, 9, 9, 9, 9, 9},
                   responses[] = {5, 5, 5, 5, 5, 5};
    const double divergences[] = {.6, .5, .4, .2, .2, .1};
    const struct damage_records records = {
        .count = 6, .divergences = divergences, .response_tokens = responses, .total_tokens = tokens};
    struct damage_cluster damage[2];
    struct damage_summary summary;
    double damages[2], scores[6];
    assert_true(damage_clusters(&records, labels, 2, 0.01, damage, &summary, NULL));
    assert_true(damage_efficiencies(&records, scores, NULL));
    damages[0] = damage[0].mean;
    damages[1] = damage[1].mean;
    assert_close(damages[0], 0.5, 1e-15);
    assert_close(damages[1], 0.5 / 3, 1e-15);
    struct assembly_request request = {.count = 6,
                                       .cluster_count = 2,
                                       .labels = labels,
                                       .damages = damages,
                                       .scores = scores,
                                       .tokens = tokens,
                                       .budget = {BUDGET_RECORDS, 4}};
    size_t order[6], shares[2];
    enum select_reason reasons[6];
    struct assembly_cluster clusters[2];
    struct budget_use use;
    assert_true(assembly_share(&request, shares, NULL));
    assert_true(assembly_walk(&request, order, reasons, clusters, &use, NULL));
    assert_int_equal(shares[0], 3);
    assert_int_equal(shares[1], 1);
    assert_int_equal(use.records, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(order[i], i);
        assert_int_equal(reasons[i], SELECT_CHOSEN);
    }
    request.budget =
        (struct budget){BUDGET_TOKENS, 44}; /* 33 and 11: three records and one, and 8 are left over */
    assert_true(assembly_walk(&request, order, reasons, clusters, &use, NULL));
    assert_int_equal(use.records, 4);
    assert_int_equal(use.tokens, 36);
    assert_int_equal(order[3], 3);
    const double none[2] = {0, -1}; /* nobody is damaged: all count alike */
    request.damages = none;
    request.budget = (struct budget){BUDGET_RECORDS, 4};
    assert_true(assembly_walk(&request, order, reasons, clusters, &use, NULL));
    assert_int_equal(clusters[0].chosen, 2);
    assert_int_equal(clusters[1].chosen, 2);
}

/* The published walk: int() shares, clusters by number, nothing refilled. */
static void the_published_walk_loses_fractions_and_refills_nothing(void **state)
{
    (void)state;
    enum { COUNT = 12 };
    uint32_t labels[COUNT], tokens[COUNT];
    double scores[COUNT];
    const double damages[] = {.1, .2, .3};
    for (size_t i = 0; i < COUNT; i++) {
        labels[i] = i < 2 ? 2 : i < 7 ? 1 : 0;
        tokens[i] = 1;
        scores[i] = (double)i;
    }
    const struct assembly_request request = {.count = COUNT,
                                             .cluster_count = 3,
                                             .labels = labels,
                                             .damages = damages,
                                             .scores = scores,
                                             .tokens = tokens,
                                             .budget = {BUDGET_RECORDS, 10},
                                             .is_published = true};
    size_t order[COUNT];
    enum select_reason reasons[COUNT];
    struct assembly_cluster clusters[3];
    struct budget_use use;
    assert_true(assembly_walk(&request, order, reasons, clusters, &use, NULL));
    const size_t expected[] = {11, 6, 5, 4, 1, 0}; /* shares 1, 3, 4, of which the last has two records */
    assert_int_equal(use.records, COUNT_OF(expected));
    assert_memory_equal(order, expected, sizeof expected);
    assert_int_equal(clusters[0].share, 1);
    assert_int_equal(clusters[1].share, 3);
    assert_int_equal(clusters[2].share, 4);
}

/* T3, with texts whose concepts are disjoint but for the letters; each concept in at most two records of many. */
static void concepts_that_were_met_apart_do_not_meet(void **state)
{
    (void)state;
    enum { COUNT = 600 };
    const char *const first[] = {"apple, berry",         "berry, cherry", "apple, cherry",
                                 "apple, berry, cherry", "date, elder",   "apple"};
    const bool expected[] = {true, true, false, false, true, true};
    static char texts[COUNT][32];
    static struct instruction_record records[COUNT];
    static const struct instruction_record *pointers[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        assert_true(snprintf(texts[i], sizeof texts[i], "%s", i < COUNT_OF(first) ? first[i] : "") >= 0);
        records[i] = (struct instruction_record){.instruction = texts[i], .input = "", .response = ""};
        pointers[i] = &records[i];
    }
    OWNED(admission) admission = admission_create(ADMISSION_GRAPH, COUNT, pointers, NULL, NULL, NULL);
    for (size_t i = 0; i < COUNT_OF(first); i++) {
        bool may = false;
        assert_true(admission_may_join(admission, i, &may, NULL));
        assert_true(may == expected[i]);
        assert_true(!may || admission_join(admission, i, NULL));
    }
    struct cancel cancel = {0};
    struct error error = {0};
    cancel_request(&cancel, CANCEL_NOW);
    assert_null(admission_create(ADMISSION_GRAPH, COUNT, pointers, NULL, &cancel, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    JSON_OWNED report = admission_report(admission);
    assert_int_equal(json_integer_value(json_object_get(report, "vertices")),
                     3); /* date and elder are one record's */
    assert_int_equal(json_integer_value(json_object_get(report, "edges")), 2);
}

static void near_duplicates_with_other_responses_do_not_join(void **state)
{
    (void)state;
    enum { COUNT = 5, K = 2 };
    /* 0 and 1 ask the same and answer otherwise; 2 asks what 0 asks and answers alike; 3 is near 4, which lists it not; 4 answers otherwise. */
    const char *const responses[COUNT] = {"Yes it is", "no", "it is", "left", "right"};
    uint32_t indices[] = {
        1, 2, 0, NEIGHBOURS_NONE, 0, NEIGHBOURS_NONE, 4, NEIGHBOURS_NONE, 0, NEIGHBOURS_NONE};
    float distances[] = {0.02f, 0.05f, 0.02f, INFINITY, 0.05f, INFINITY, 0.0999f, INFINITY, 0.5f, INFINITY};
    const struct neighbours lists = {COUNT, K, indices, distances};
    struct instruction_record records[COUNT];
    const struct instruction_record *pointers[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        records[i] = (struct instruction_record){.instruction = "", .input = "", .response = responses[i]};
        pointers[i] = &records[i];
    }
    for (size_t turn = 0; turn < 2; turn++) {
        OWNED(admission)
        admission = admission_create(ADMISSION_NEAR_DUPLICATE, COUNT, pointers, &lists, NULL, NULL);
        for (size_t i = 0; i < COUNT; i++) {
            size_t record = turn == 0 ? i : COUNT - 1 - i;
            bool may = false;
            assert_true(admission_may_join(admission, record, &may, NULL));
            assert_true(may == (turn == 0 ? record != 1 && record != 4 : record != 0 && record != 3));
            assert_true(!may || admission_join(admission, record, NULL));
        }
    }
}

static void responses_are_compared_by_their_different_words(void **state)
{
    (void)state;
    const struct {
        const char *first, *second;
        double similarity;
    } cases[] = {
        {"", "", 1},
        {"...", "", 1},
        {"a", "", 0},
        {"The cat", "the CAT!", 1},
        {"a b c d", "c d e f", 1.0 / 3},
        {"no no no", "no", 1},
        {"über 12", "ÜBER 12", 1.0 / 3},
        {"one two", "three", 0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        double similarity = -1;
        assert_true(admission_similarity(cases[i].first, cases[i].second, &similarity, NULL));
        assert_close(similarity, cases[i].similarity, 1e-15);
        assert_true(admission_similarity(cases[i].second, cases[i].first, &similarity, NULL));
        assert_close(similarity, cases[i].similarity, 1e-15);
    }
}

static void what_is_no_number_is_named(void **state)
{
    (void)state;
    const uint32_t labels[] = {0, 1}, tokens[] = {1, 1};
    double damages[] = {1, 1}, scores[] = {1, (double)NAN};
    const struct assembly_request request = {.count = 2,
                                             .cluster_count = 2,
                                             .labels = labels,
                                             .damages = damages,
                                             .scores = scores,
                                             .tokens = tokens,
                                             .budget = {BUDGET_RECORDS, 1}};
    size_t order[2];
    enum select_reason reasons[2];
    struct assembly_cluster clusters[2];
    struct budget_use use;
    struct error error = {0};
    assert_false(assembly_walk(&request, order, reasons, clusters, &use, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "1"));
    scores[1] = 0;
    damages[1] = (double)INFINITY;
    assert_false(assembly_walk(&request, order, reasons, clusters, &use, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "cluster 1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_walk_is_the_plain_one_and_spends_the_budget),
        cmocka_unit_test(the_reference_example_is_assembled),
        cmocka_unit_test(the_published_walk_loses_fractions_and_refills_nothing),
        cmocka_unit_test(concepts_that_were_met_apart_do_not_meet),
        cmocka_unit_test(near_duplicates_with_other_responses_do_not_join),
        cmocka_unit_test(responses_are_compared_by_their_different_words),
        cmocka_unit_test(what_is_no_number_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
