/*
 * What may take long can be cancelled at any time: it is, by another thread, later and later until it gets to its end. Whenever that is, the error
 * is CANCELLED, and nothing is left behind (under ASan).
 */
#include "tests/unit/workers/data/fixture.h"
#include "tests/unit/workers/select/blobs.h"
#include "workers/data/candidates.h"
#include "workers/select/clustering.h"
#include "workers/select/deita.h"
#include "workers/select/effort.h"
#include "workers/select/k_center.h"
#include "workers/select/kmeans.h"
#include "workers/select/landmarks.h"
#include "workers/select/nuggets.h"
#include "workers/select/rds.h"
#include "workers/select/sinkhorn.h"

#include <pthread.h>
#include <time.h>

enum { COUNT = 2600, SIZE = 12, TARGETS = 40 };
static float *rows; /* of length 1 */

static int open_rows(void **state)
{
    rows = plain_rows((size_t)COUNT * SIZE, 3);
    for (size_t i = 0; i < COUNT; i++) {
        double square = 0;
        for (size_t c = 0; c < SIZE; c++) {
            square += (double)rows[i * SIZE + c] * (double)rows[i * SIZE + c];
        }
        for (size_t c = 0; c < SIZE; c++) {
            rows[i * SIZE + c] = (float)((double)rows[i * SIZE + c] / sqrt(square));
        }
    }
    return plain_open(state);
}

static int close_rows(void **state)
{
    free(rows);
    return plain_close(state);
}

struct later {
    struct cancel cancel;
    long delay_ns;
};

static void *cancel_later(void *context)
{
    struct later *later = context;
    (void)nanosleep(&(struct timespec){later->delay_ns / 1000000000, later->delay_ns % 1000000000}, NULL);
    cancel_request(&later->cancel, CANCEL_NOW);
    return NULL;
}

/* That a try is over before it is cancelled may happen, but not each time. */
static void cancel_often(bool (*work)(const struct dense_threads *threads, struct error *error))
{
    bool is_done = false;
    size_t cancelled = 0;
    for (long delay_ns = 20000, tries = 0; !is_done || (cancelled == 0 && tries < 200); tries++) {
        struct later later = {.delay_ns = delay_ns};
        pthread_t thread;
        struct error error = {0};
        assert_int_equal(pthread_create(&thread, NULL, cancel_later, &later), 0);
        is_done = work(&(struct dense_threads){plain_threads.pool, &later.cancel}, &error);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(is_done || error.code == ERROR_CANCELLED);
        cancelled += is_done ? 0 : 1;
        delay_ns += is_done ? 0 : delay_ns / 2;
    }
    assert_true(cancelled > 0);
}

static bool search(const struct dense_threads *threads, struct error *error)
{
    OWNED(neighbours) lists = neighbours_find_exact(threads, rows, COUNT, SIZE, 8, error);
    return lists != NULL;
}

static bool cluster(const struct dense_threads *threads, struct error *error)
{
    const struct clustering_request request = {.rows = rows,
                                               .count = COUNT,
                                               .size = SIZE,
                                               .neighbour_count = 8,
                                               .exact_limit = COUNT,
                                               .alpha = 1,
                                               .form = CLUSTERING_KMEANS,
                                               .diffusion_time = 1,
                                               .most_products = SPECTRUM_MOST_PRODUCTS};
    OWNED(clustering) clustering = clustering_create(threads, &request, error);
    return clustering != NULL;
}

static bool search_cells(const struct dense_threads *threads, struct error *error)
{
    const struct neighbours_cells_request request = {.k = 8, .recall = 0.9, .probe_limit = 40};
    struct neighbours_cells_report report;
    OWNED(neighbours)
    lists = neighbours_find_by_cells(threads, rows, COUNT, SIZE, &request, &report, error);
    return lists != NULL;
}

static bool fit(const struct dense_threads *threads, struct error *error)
{
    const struct kmeans_request request = {
        .centroid_count = 30, .iteration_limit = 20, .restart_count = 2, .sample_count = COUNT - 100};
    OWNED(kmeans) kmeans = kmeans_fit(threads, rows, COUNT, SIZE, &request, error);
    return kmeans != NULL;
}

static bool choose_centres(const struct dense_threads *threads, struct error *error)
{
    uint32_t order[300];
    double radius = 0;
    return k_center_select(threads, rows, COUNT, SIZE, 300, order, &radius, error);
}

static bool cut_graph(const struct dense_threads *threads, struct error *error)
{
    OWNED(neighbours) lists = neighbours_find_exact(&plain_threads, rows, COUNT, SIZE, 3, NULL);
    OWNED(graph) graph = graph_create(threads, lists, GRAPH_SCALE_RANK, error);
    const struct spectrum_request request = {3, 0, 1e-3, 400, 1};
    FINISHED(spectrum) spectrum = {0};
    size_t linked = 0;
    return graph != NULL && graph_link(graph, threads, rows, SIZE, 20, &linked, error) &&
           graph_normalise(graph, threads, 1, error) &&
           spectrum_find(graph, threads, &request, &spectrum, error);
}

static bool weigh_landmarks(const struct dense_threads *threads, struct error *error)
{
    FINISHED(landmarks) landmarks = {0};
    FINISHED(spectrum) spectrum = {0};
    return landmarks_weigh(threads, rows, COUNT, SIZE, rows, TARGETS, LANDMARKS_NEAREST, &landmarks, error) &&
           landmarks_find_spectrum(&landmarks, threads, 4, &spectrum, error);
}

static bool score_targets(const struct dense_threads *threads, struct error *error)
{
    double scores[COUNT];
    const struct rds_targets targets = {.count = TARGETS, .size = SIZE, .rows = rows, .group_count = 1};
    return rds_score(threads, COUNT, rows, &targets, RDS_MAX, scores, error) &&
           rds_score(threads, COUNT, rows, &targets, RDS_MEAN, scores, error);
}

static bool walk_apart(const struct dense_threads *threads, struct error *error)
{
    double scores[COUNT] = {0};
    size_t order[COUNT];
    struct deita_use use;
    const struct deita_walk walk = {COUNT, SIZE, rows, scores, NULL, 0.05, {BUDGET_RECORDS, COUNT}};
    return deita_choose(threads, &walk, order, &use, error);
}

static bool transport(const struct dense_threads *threads, struct error *error)
{
    const struct sinkhorn_problem problem = {.n = COUNT,
                                             .m = TARGETS,
                                             .size = SIZE,
                                             .x = rows,
                                             .y = rows,
                                             .epsilon_ratio = 0.05,
                                             .tolerance = 1e-3,
                                             .iteration_limit = 20};
    FINISHED(sinkhorn_result) result = {0};
    return sinkhorn_solve(threads, &problem, &result, error);
}

static bool choose_anchors(const struct dense_threads *threads, struct error *error)
{
    uint32_t anchors[TARGETS];
    size_t count = 0;
    return nuggets_choose_anchors(threads, rows, COUNT, SIZE, TARGETS, 1, anchors, &count, error);
}

enum { VOCAB = 600 };
static bool load_errors(void *context, size_t first, size_t count, float *ret_errors, struct error *error)
{
    const struct dense_threads *threads = context;
    int32_t targets[TARGETS] = {0};
    memcpy(ret_errors, rows + first * 10, count * VOCAB * sizeof *ret_errors);
    return effort_errors(threads, ret_errors, targets, first, count, VOCAB, 0, error);
}

static bool weigh_effort(const struct dense_threads *threads, struct error *error)
{
    double effort = 0;
    const struct effort_record record = {.count = 300,
                                         .vocab_size = VOCAB,
                                         .state_size = SIZE,
                                         .together = TARGETS,
                                         .states = rows,
                                         .context = (void *)(uintptr_t)threads,
                                         .load = load_errors};
    return effort_of(threads, &record, &effort, error);
}

static bool encode_records(const struct dense_threads *threads, struct error *error)
{
    static struct instruction_record records[COUNT];
    struct instructions set = {.name = "a.jsonl", .records = records, .record_count = COUNT};
    struct instructions *sets[] = {&set};
    struct tokenizer *tokenizer = fixture_byte_tokenizer(true);
    const struct model_config config = {.vocab_size = 257};
    for (size_t i = 0; i < COUNT; i++) {
        records[i] = (struct instruction_record){
            .instruction = "what takes long", .input = "", .response = "can be cancelled at any time"};
    }
    const struct candidates_options options = {.sets = sets,
                                               .set_count = 1,
                                               .form = instruction_template_find("alpaca"),
                                               .tokenizer = tokenizer,
                                               .config = &config,
                                               .max_tokens = 512,
                                               .pool = threads->pool,
                                               .cancel = threads->cancel};
    OWNED(candidates) candidates = candidates_create(&options, error);
    tokenizer_destroy(tokenizer);
    return candidates != NULL;
}

static void all_can_be_cancelled_at_any_time(void **state)
{
    (void)state;
    cancel_often(search);
    cancel_often(search_cells);
    cancel_often(cluster);
    cancel_often(fit);
    cancel_often(choose_centres);
    cancel_often(cut_graph);
    cancel_often(weigh_landmarks);
    cancel_often(score_targets);
    cancel_often(walk_apart);
    cancel_often(transport);
    cancel_often(choose_anchors);
    cancel_often(weigh_effort);
    cancel_often(encode_records);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_can_be_cancelled_at_any_time),
    };
    return cmocka_run_group_tests(tests, open_rows, close_rows);
}
