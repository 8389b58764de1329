/* tests/unit/workers/evaluate/bench.h: a small random model with a tokenizer of bytes, and log-likelihoods computed the slow way: all
 * logits of one sequence at a time, log-softmax in double. */
#ifndef TESTS_UNIT_WORKERS_EVALUATE_BENCH_H
#define TESTS_UNIT_WORKERS_EVALUATE_BENCH_H

#include "tests/unit/workers/data/fixture.h"
#include "tests/unit/workers/model/fixture.h"
#include "workers/evaluate/evaluate.h"

#include <math.h>

#define BENCH_VOCAB 259

struct bench {
    struct fixture fixture;
    struct model *model;
    struct tokenizer *tokenizer; /* BOS 256 */
};

static inline void bench_open(struct bench *bench, const char *backend, size_t threads, bool with_bos)
{
    static const struct fixture_spec spec = {.layers = 2,
                                             .hidden = 24,
                                             .heads = 4,
                                             .kv_heads = 2,
                                             .head_size = 6,
                                             .ffn = 40,
                                             .vocab = BENCH_VOCAB,
                                             .is_tied = true};
    fixture_open(&spec, backend, threads, &bench->fixture);
    bench->model = bench->fixture.model;
    bench->tokenizer = fixture_byte_tokenizer(with_bos);
}

static inline void bench_close(struct bench *bench)
{
    tokenizer_destroy(bench->tokenizer);
    fixture_finish(&bench->fixture);
}

/* Sum of -log p(tokens[t + 1] | tokens[0..t]) for t in [first, count - 1). */
static inline double bench_nll(struct bench *bench, const bool *removed, const int32_t *tokens, size_t count,
                               size_t first)
{
    struct error error = {0};
    struct token_sequence sequence = {tokens, count};
    struct token_batch batch = {&sequence, 1};
    OWNED(hidden) hidden = hidden_create(bench->model, &batch, &error);
    OWNED_MEMORY float *logits = memory_create(count * BENCH_VOCAB, sizeof *logits);
    assert_true(model_embed(bench->model, &batch, hidden, &error) &&
                model_run_from(bench->model, 0, removed, hidden, &error) &&
                model_logits(bench->model, hidden, 0, 0, count, logits, &error));
    double sum = 0;
    for (size_t t = first; t + 1 < count; t++) {
        double total = 0;
        for (size_t v = 0; v < BENCH_VOCAB; v++) {
            total += exp((double)logits[t * BENCH_VOCAB + v]);
        }
        sum += log(total) - (double)logits[t * BENCH_VOCAB + (size_t)tokens[t + 1]];
    }
    return sum;
}

#define ASSERT_NEAR(value, expected, tolerance)                                                              \
    do {                                                                                                     \
        double value_ = (value), expected_ = (expected);                                                     \
        if (!(fabs(value_ - expected_) <= (tolerance)*fabs(expected_))) {                                    \
            fail_msg("%s is %.12g, not %.12g", #value, value_, expected_);                                   \
        }                                                                                                    \
    } while (0)

#endif
