/*
 * tests/unit/workers/select/passes.h: what tests of workers/select/measure.h share: random records as candidates, and passes over them into
 * files, with any batches and stops.
 */
#ifndef TESTS_UNIT_WORKERS_SELECT_PASSES_H
#define TESTS_UNIT_WORKERS_SELECT_PASSES_H

#include "tests/unit/workers/select/plain.h"
#include "workers/select/measure.h"

#include "base/file.h"

#include <stdio.h>
#include <unistd.h>

enum { RECORDS = 23, LONGEST = 40, COMMON = 3, ALL = 1000000 };
static const struct measure_request all_of_one = {.pools = true,
                                                  .losses = true,
                                                  .token_losses = true,
                                                  .alone = true,
                                                  .el2n = true,
                                                  .entropies = true,
                                                  .efforts = true,
                                                  .states = true};

/* ---- records ----------------------------------------------------------------------------------------------------- */

/* Random tokens below `vocab` that all begin alike; one prompt is nothing else, one response is one token, and some records are not valid. */
struct records {
    int32_t tokens[RECORDS][LONGEST];
    struct candidate items[RECORDS];
    uint32_t valid[RECORDS];
    struct instructions sets[2];
    struct instructions *set_list[2];
    struct candidates candidates;
    struct measure_order order;
};

static inline void make_records(struct records *records, size_t vocab)
{
    const struct rng rng = {.seed = 77, .stream = 5};
    *records = (struct records){.sets = {{.name = "first.jsonl"}, {.name = "second.jsonl"}},
                                .candidates = {.items = records->items,
                                               .item_count = RECORDS,
                                               .valid = records->valid,
                                               .set_count = 2,
                                               .common_prompt_tokens = COMMON}};
    records->set_list[0] = &records->sets[0];
    records->set_list[1] = &records->sets[1];
    records->candidates.sets = records->set_list;
    for (uint32_t i = 0; i < RECORDS; i++) {
        uint32_t prompt = i == 4 ? COMMON : COMMON + 1 + (uint32_t)(rng_unit(&rng, 2 * i) * 15);
        uint32_t response = i == 5 ? 1 : 1 + (uint32_t)(rng_unit(&rng, 2 * i + 1) * 20);
        for (uint32_t t = 0; t < prompt + response; t++) {
            double unit = rng_unit(&rng, t < COMMON ? 900000 + t : 1000 * (i + 1) + t);
            records->tokens[i][t] = (int32_t)(unit * (double)vocab);
        }
        records->items[i] = (struct candidate){.source = i >= 15,
                                               .record = i >= 15 ? i - 15 : i,
                                               .status = i % 7 == 3 ? CANDIDATE_DUPLICATE : CANDIDATE_VALID,
                                               .tokens = records->tokens[i],
                                               .prompt_count = prompt,
                                               .response_count = response};
        if (records->items[i].status == CANDIDATE_VALID) {
            records->valid[records->candidates.valid_count++] = i;
            records->candidates.valid_tokens += prompt + response;
        }
    }
    assert_true(measure_order_make(&records->candidates, &records->order, NULL));
}

static inline const struct candidate *valid_item(const struct records *records, size_t v)
{
    return &records->items[records->valid[v]];
}

/* ---- files and passes -------------------------------------------------------------------------------------------- */

static inline int open_file(void)
{
    char path[] = "/tmp/pruned-measure-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && unlink(path) == 0);
    return fd;
}

/* Stops after every batch where is_stopping. */
struct stops {
    bool is_stopping;
    size_t done, batches;
};

static inline bool advance(void *context, size_t done, size_t total, struct error *error)
{
    struct stops *stops = context;
    assert_true(done > stops->done && done <= total);
    stops->done = done;
    stops->batches++;
    return !stops->is_stopping || error_set(error, ERROR_DRAINED, "stopped");
}

struct pass {
    struct measure_request request;
    struct measure_layout layout;
    int fd;
    size_t batches;
};

struct setting {
    size_t batch_tokens;
    bool is_stopping;
};
static const int32_t lone[] = {7, 9};

static inline void run_pass(const struct records *records, struct model *model,
                            const struct measure_request *request, struct setting setting,
                            struct model *original, const struct pass *kept, struct pass *ret_pass)
{
    struct pass pass = {.request = *request, .fd = open_file()};
    measure_lay_out(request, &records->order, model_get_config(model)->hidden_size, &pass.layout);
    struct stops stops = {.is_stopping = setting.is_stopping};
    struct measure_pass run = {.model = model,
                               .order = &records->order,
                               .request = *request,
                               .fd = pass.fd,
                               .original = original,
                               .original_fd = kept != NULL ? kept->fd : -1,
                               .original_states = kept != NULL ? kept->layout.states : 0,
                               .lone_prompt = lone,
                               .lone_count = COUNT_OF(lone),
                               .batch_tokens = setting.batch_tokens,
                               .context = &stops,
                               .advanced = advance};
    while (stops.done < records->candidates.valid_count) {
        struct error error = {0};
        size_t before = stops.done;
        bool is_good = measure_run(&run, stops.done, &error);
        if (!is_good && error.code != ERROR_DRAINED) {
            fail_msg("%s", error.message);
        }
        assert_true(is_good || (setting.is_stopping && stops.done > before));
    }
    pass.batches = stops.batches;
    *ret_pass = pass;
}

static inline void *read_bytes(const struct pass *pass)
{
    uint64_t bytes = 0;
    void *content = memory_create(pass->layout.bytes + 1, 1);
    assert_true(file_size(pass->fd, &bytes, NULL));
    assert_int_equal(bytes, pass->layout.bytes);
    assert_true(file_read_at(pass->fd, content, pass->layout.bytes, 0, "a pass", NULL));
    return content;
}

static inline void close_pass(struct pass *pass)
{
    assert_int_equal(close(pass->fd), 0);
}

static inline double *read_column(const struct pass *pass, uint64_t offset, size_t count)
{
    double *column = measure_read_column(pass->fd, offset, count, NULL);
    assert_non_null(column);
    return column;
}

/* States of one sequence by itself. */
static inline struct hidden *run_alone(struct model *model, const int32_t *tokens, size_t count)
{
    struct token_sequence sequence = {tokens, count};
    struct token_batch batch = {&sequence, 1};
    struct hidden *hidden = hidden_create(model, &batch, NULL);
    assert_true(hidden != NULL && model_embed(model, &batch, hidden, NULL) &&
                model_run_from(model, 0, NULL, hidden, NULL));
    return hidden;
}

#endif
