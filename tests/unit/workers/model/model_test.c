/*
 * tests/unit/workers/model/model_test.c: the forward pass on small random models. A row's bits are its own sequence's, whatever
 * the batch, the order and the threads; backends agree; distances equal their definition on whole logits; decoding agrees
 * with the forward pass.
 */
#include "tests/unit/workers/model/fixture.h"

#include "base/memory.h"
#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEQUENCES 6
static const size_t lengths[SEQUENCES] = {1, 5, 64, 65, 130, 17};

static void make_batch(size_t vocab, struct token_batch *ret_batch)
{
    struct rng rng = {.seed = 11};
    ret_batch->sequence_count = SEQUENCES;
    ret_batch->sequences = memory_create(SEQUENCES, sizeof *ret_batch->sequences);
    for (size_t s = 0; s < SEQUENCES; s++) {
        int32_t *tokens = memory_create(lengths[s], sizeof *tokens);
        rng.stream = (uint32_t)s;
        for (size_t t = 0; t < lengths[s]; t++) {
            tokens[t] = (int32_t)rng_below(&rng, t, vocab);
        }
        ret_batch->sequences[s] = (struct token_sequence){tokens, lengths[s]};
    }
}

static void free_batch(struct token_batch *batch)
{
    for (size_t s = 0; s < batch->sequence_count; s++) {
        free((void *)(uintptr_t)batch->sequences[s].tokens);
    }
    free(batch->sequences);
}

static struct hidden *run(struct model *model, const struct token_batch *batch, const bool *removed)
{
    struct error error = {0};
    struct hidden *hidden = hidden_create(model, batch, &error);
    assert_non_null(hidden);
    if (!model_embed(model, batch, hidden, &error) || !model_run_from(model, 0, removed, hidden, &error)) {
        fail_msg("%s", error.message);
    }
    return hidden;
}

static const struct fixture_spec specs[] = {
    {.layers = 3,
     .hidden = 24,
     .heads = 4,
     .kv_heads = 2,
     .head_size = 6,
     .ffn = 40,
     .vocab = 101,
     .is_tied = true},
    {.layers = 2,
     .hidden = 64,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 16,
     .ffn = 700,
     .vocab = 600,
     .has_attention_bias = true,
     .has_mlp_bias = true,
     .dtype = DTYPE_BF16,
     .shard_count = 3},
    {.layers = 2,
     .hidden = 20,
     .heads = 6,
     .kv_heads = 1,
     .head_size = 8,
     .ffn = 33,
     .vocab = 50,
     .model_type = "qwen2",
     .dtype = DTYPE_F16},
    {.layers = 3,
     .hidden = 24,
     .heads = 4,
     .kv_heads = 4,
     .head_size = 6,
     .ffn = 40,
     .vocab = 9001,
     .model_type = "pruned_llama",
     .more =
         ", \"pruning\": {\"layers\": [{\"attention\": true, \"ffn\": false}, {\"attention\": false, \"ffn\": false}, "
         "{\"attention\": false, \"ffn\": true}]}"},
};
#define SPEC_COUNT (sizeof specs / sizeof specs[0])

static void a_sequence_has_the_same_bits_alone_and_in_a_batch_on_any_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < SPEC_COUNT; i++) {
        FINISHED(fixture) fixture = {0};
        struct token_batch batch;
        fixture_open(&specs[i], NULL, 1, &fixture);
        make_batch(specs[i].vocab, &batch);
        OWNED(hidden) together = run(fixture.model, &batch, NULL);
        for (size_t threads = 1; threads <= 7;
             threads += 3) { /* more threads than sequences: operations are split */
            OWNED(pool) pool = pool_create(threads, NULL);
            struct model_options options = {.pool = pool};
            OWNED(model) model = model_open(fixture.inventory, fixture.folder, &options, NULL);
            OWNED(hidden) again = run(model, &batch, NULL);
            assert_memory_equal(again->rows, together->rows,
                                together->row_count * together->hidden_size * sizeof(float));
            for (size_t s = 0; s < SEQUENCES; s++) {
                struct token_batch one = {&batch.sequences[s], 1};
                OWNED(hidden) alone = run(model, &one, NULL);
                assert_memory_equal(alone->rows,
                                    together->rows + together->segments[s].first_row * together->hidden_size,
                                    lengths[s] * together->hidden_size * sizeof(float));
            }
        }
        free_batch(&batch);
    }
}

static float *all_logits(struct model *model, const struct hidden *hidden, size_t sequence)
{
    size_t vocab = model_get_config(model)->vocab_size, count = hidden->segments[sequence].count;
    float *logits = memory_create(count * vocab + 1, sizeof *logits);
    assert_true(model_logits(model, hidden, sequence, 0, count, logits, NULL));
    return logits;
}

static void backends_agree_on_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < SPEC_COUNT; i++) {
        FINISHED(fixture) truth = {0};
        struct token_batch batch;
        make_batch(specs[i].vocab, &batch);
        fixture_open(&specs[i], "reference", 1, &truth);
        OWNED(hidden) b = run(truth.model, &batch, NULL);
        for (const char *const *name = backend_names(); *name != NULL; name++) {
            struct model_options options = {.backend = *name, .pool = truth.pool};
            OWNED(model) model = model_open(truth.inventory, truth.folder, &options, NULL);
            if (model == NULL) {
                continue; /* not on this machine; tests/unit/workers/tensor says why */
            }
            OWNED(hidden) a = run(model, &batch, NULL);
            for (size_t s = 0; s < SEQUENCES; s++) {
                OWNED_MEMORY float *is = all_logits(model, a, s);
                OWNED_MEMORY float *should = all_logits(truth.model, b, s);
                for (size_t t = 0; t < lengths[s] * specs[i].vocab; t++) {
                    assert_true(fabsf(is[t] - should[t]) < 2e-5f);
                }
            }
        }
        free_batch(&batch);
    }
}

static void a_part_of_the_logits_has_the_bits_of_the_whole(void **state)
{
    (void)state;
    FINISHED(fixture) fixture = {0};
    struct token_batch batch;
    fixture_open(&specs[3], NULL, 2, &fixture);
    make_batch(specs[3].vocab, &batch);
    OWNED(hidden) hidden = run(fixture.model, &batch, NULL);
    OWNED_MEMORY float *whole = all_logits(fixture.model, hidden, 4);
    OWNED_MEMORY float *part = memory_create(70 * specs[3].vocab, sizeof *part);
    assert_true(model_logits(fixture.model, hidden, 4, 50, 70, part, NULL));
    assert_memory_equal(part, whole + 50 * specs[3].vocab, 70 * specs[3].vocab * sizeof *part);
    free_batch(&batch);
}

static void nll_is_logsumexp_less_the_target_and_greedy_is_the_argmax(void **state)
{
    (void)state;
    for (size_t i = 0; i < SPEC_COUNT; i++) {
        FINISHED(fixture) fixture = {0};
        struct token_batch batch;
        size_t vocab = specs[i].vocab;
        fixture_open(&specs[i], NULL, 2, &fixture);
        make_batch(vocab, &batch);
        OWNED(hidden) hidden = run(fixture.model, &batch, NULL);
        struct target_sequence targets[SEQUENCES];
        for (size_t s = 0; s < SEQUENCES; s++) {
            OWNED_MEMORY float *logits = all_logits(fixture.model, hidden, s);
            targets[s] = (struct target_sequence){memory_create(lengths[s], sizeof(int32_t)),
                                                  memory_create(lengths[s], sizeof(double)),
                                                  memory_create(lengths[s], sizeof(bool))};
            int32_t *wanted = (int32_t *)(uintptr_t)targets[s].targets;
            for (size_t t = 0; t < lengths[s]; t++) { /* the argmax, something else, and nothing, in turn */
                size_t best = 0;
                for (size_t v = 1; v < vocab; v++) {
                    best = logits[t * vocab + v] > logits[t * vocab + best] ? v : best;
                }
                wanted[t] = t % 3 == 0 ? (int32_t)best : t % 3 == 1 ? (int32_t)((best + 1) % vocab) : -1;
            }
        }
        assert_true(model_nll(fixture.model, hidden, targets, NULL));
        for (size_t s = 0; s < SEQUENCES; s++) {
            OWNED_MEMORY float *logits = all_logits(fixture.model, hidden, s);
            for (size_t t = 0; t < lengths[s]; t++) {
                int32_t target = targets[s].targets[t];
                double sum = 0.0;
                for (size_t v = 0; v < vocab; v++) {
                    sum += exp((double)logits[t * vocab + v]);
                }
                double should = target < 0 ? 0.0 : log(sum) - (double)logits[t * vocab + (size_t)target];
                assert_true(fabs(targets[s].nll[t] - should) < 1e-6);
                assert_int_equal(targets[s].is_greedy[t], t % 3 == 0);
            }
            free((void *)(uintptr_t)targets[s].targets);
            free(targets[s].nll);
            free(targets[s].is_greedy);
        }
        free_batch(&batch);
    }
}

/* The definitions of structured_pruning 1.2 on whole rows of logits, in double. */
static double term_by_definition(enum head_metric metric, const float *z0, const float *z, size_t vocab)
{
    double s0 = 0.0, s1 = 0.0, dot = 0.0, square0 = 0.0, square1 = 0.0, difference = 0.0, sum = 0.0;
    for (size_t v = 0; v < vocab; v++) {
        double a = (double)z0[v], b = (double)z[v];
        s0 += exp(a);
        s1 += exp(b);
        dot += a * b;
        square0 += a * a;
        square1 += b * b;
        difference += (a - b) * (a - b);
    }
    if (metric == HEAD_METRIC_NORM) {
        return difference;
    }
    if (metric == HEAD_METRIC_ANGULAR) {
        return acos(fmax(0.0, fmin(1.0, dot / sqrt(square0 * square1))));
    }
    for (size_t v = 0; v < vocab; v++) {
        double p = exp((double)z0[v]) / s0, q = exp((double)z[v]) / s1, m = 0.5 * (p + q);
        sum += metric == HEAD_METRIC_KL   ? p * log(p / q)
               : metric == HEAD_METRIC_JS ? 0.5 * (m * log(m / p) + m * log(m / q))
                                          : 0.5 * (p * log(p / m) + q * log(q / m));
    }
    return sum / (double)vocab;
}

static void distances_equal_their_definition(void **state)
{
    (void)state;
    static const enum head_metric metrics[] = {HEAD_METRIC_NORM, HEAD_METRIC_ANGULAR, HEAD_METRIC_KL,
                                               HEAD_METRIC_JS, HEAD_METRIC_JS_TEXTBOOK};
    FINISHED(fixture) fixture = {0};
    struct token_batch batch;
    size_t vocab = specs[0].vocab;
    fixture_open(&specs[0], NULL, 2, &fixture);
    make_batch(vocab, &batch);
    bool removed[6] = {false, false, true, false, false, false};
    OWNED(hidden) original = run(fixture.model, &batch, NULL);
    OWNED(hidden) candidate = run(fixture.model, &batch, removed);
    for (size_t m = 0; m < 10; m++) { /* by the Gram matrix where it can be, and by logits */
        OWNED(head_reference)
        reference = (m % 2 == 0 ? head_reference_create
                                : head_reference_create_plain)(fixture.model, original, metrics[m / 2], NULL);
        double terms[SEQUENCES], alone[1], total = 0.0, tokens = 0.0;
        assert_true(head_distance(fixture.model, reference, candidate, 0, SEQUENCES, terms, NULL));
        for (size_t s = 0; s < SEQUENCES; s++) {
            OWNED_MEMORY float *z0 = all_logits(fixture.model, original, s);
            OWNED_MEMORY float *z = all_logits(fixture.model, candidate, s);
            double should = 0.0;
            for (size_t t = 0; t < lengths[s]; t++) {
                should += term_by_definition(metrics[m / 2], z0 + t * vocab, z + t * vocab, vocab);
            }
            should = metrics[m / 2] == HEAD_METRIC_NORM ? sqrt(should) : should;
            assert_true(fabs(terms[s] - should) <= 2e-5 * should);
            /* A part of the sequences, from the whole batch and from a batch of just them: the same bits. */
            assert_true(head_distance(fixture.model, reference, candidate, s, 1, alone, NULL));
            assert_memory_equal(alone, &terms[s], sizeof alone);
            struct token_batch one = {&batch.sequences[s], 1};
            OWNED(hidden) single = run(fixture.model, &one, removed);
            assert_true(head_distance(fixture.model, reference, single, s, 1, alone, NULL));
            assert_memory_equal(alone, &terms[s], sizeof alone);
            total += terms[s];
            tokens += (double)lengths[s];
        }
        double parts = metrics[m / 2] == HEAD_METRIC_NORM ? SEQUENCES : tokens;
        assert_true(fabs(head_distance_total(reference, terms) - total / parts) <= 1e-12 * total);
        assert_true(head_distance(fixture.model, reference, original, 0, SEQUENCES, terms, NULL));
        if (head_distance_total(reference, terms) != 0.0) {
            fail_msg("metric %zu: %g between the original and itself", m,
                     head_distance_total(reference, terms));
        }
    }
    free_batch(&batch);
}

/* A pair's divergences over the ids that both models have, in double from whole logits. */
static void check_pair(const struct fixture *original, const struct fixture *pruned,
                       const struct token_batch *batch, const char *backend)
{
    struct model_options options = {.backend = backend, .pool = original->pool};
    OWNED(model) a = model_open(original->inventory, original->folder, &options, NULL);
    OWNED(model) b = model_open(pruned->inventory, pruned->folder, &options, NULL);
    if (a == NULL || b == NULL) {
        return; /* not on this machine */
    }
    OWNED(hidden) kept = run(a, batch, NULL);
    OWNED(hidden) hidden = run(b, batch, NULL);
    size_t vocab = model_get_config(a)->vocab_size, other = model_get_config(b)->vocab_size;
    size_t both = vocab < other ? vocab : other;
    OWNED_MEMORY double *values = memory_create(hidden->row_count, sizeof *values);
    OWNED_MEMORY double *entropies = memory_create(hidden->row_count, sizeof *entropies);
    struct head_pair pair = {.original = a,
                             .pruned = b,
                             .original_hidden = kept,
                             .pruned_hidden = hidden,
                             .divergences = values,
                             .entropies = entropies};
    for (int i = 0; i < 2; i++) {
        pair.metric = i == 0 ? HEAD_METRIC_JS_TEXTBOOK : HEAD_METRIC_KL;
        assert_true(head_compare_pair(&pair, NULL));
        for (size_t s = 0; s < SEQUENCES; s++) {
            OWNED_MEMORY float *z0 = all_logits(a, kept, s);
            OWNED_MEMORY float *z = all_logits(b, hidden, s);
            for (size_t t = 0; t < hidden->segments[s].count; t++) {
                const float *x = z0 + t * vocab;
                size_t row = hidden->segments[s].first_row + t;
                double should = term_by_definition(pair.metric, x, z + t * other, both) * (double)both;
                double sum = 0.0, weighted = 0.0;
                for (size_t v = 0; v < both; v++) {
                    sum += exp((double)x[v]);
                    weighted += exp((double)x[v]) * (double)x[v];
                }
                assert_true(fabs(values[row] - (should)) <= 2e-6 * (1.0 + should));
                assert_true(fabs(entropies[row] - (log(sum) - weighted / sum)) <= 1e-5);
            }
        }
    }
    pair.metric = HEAD_METRIC_JS_TEXTBOOK;
    OWNED_MEMORY double *alone = memory_create(hidden->row_count, sizeof *alone);
    for (size_t s = 0; s < SEQUENCES; s++) { /* a row's bits depend on its sequence alone */
        struct token_batch one = {&batch->sequences[s], 1};
        OWNED(hidden) one_kept = run(a, &one, NULL);
        OWNED(hidden) one_hidden = run(b, &one, NULL);
        assert_true(head_compare_pair(&pair, NULL));
        struct head_pair single = pair;
        single.original_hidden = one_kept;
        single.pruned_hidden = one_hidden;
        single.divergences = alone;
        single.entropies = NULL;
        assert_true(head_compare_pair(&single, NULL));
        assert_memory_equal(alone, values + hidden->segments[s].first_row,
                            hidden->segments[s].count * sizeof *alone);
    }
}

static void two_models_are_compared_each_by_its_own_head(void **state)
{
    (void)state;
    /* Different widths, heads and vocabularies; and a model with itself, which is nowhere apart. */
    for (size_t i = 0; i < SPEC_COUNT; i++) {
        FINISHED(fixture) original = {0}, pruned = {0};
        struct token_batch batch;
        const struct fixture_spec *other = &specs[(i + 1) % SPEC_COUNT];
        make_batch(specs[i].vocab < other->vocab ? specs[i].vocab : other->vocab, &batch);
        fixture_open(&specs[i], NULL, 2, &original);
        fixture_open(other, NULL, 2, &pruned);
        for (const char *const *name = backend_names(); *name != NULL; name++) {
            check_pair(&original, &pruned, &batch, *name);
        }
        struct model_options options = {.pool = original.pool};
        OWNED(model) twin = model_open(original.inventory, original.folder, &options, NULL);
        OWNED(hidden) kept = run(original.model, &batch, NULL);
        OWNED(hidden) hidden = run(twin, &batch, NULL);
        OWNED_MEMORY double *values = memory_create(hidden->row_count, sizeof *values);
        struct head_pair pair = {original.model, twin, kept, hidden, HEAD_METRIC_JS_TEXTBOOK, values, NULL};
        assert_true(head_compare_pair(&pair, NULL));
        for (size_t r = 0; r < hidden->row_count; r++) {
            assert_true(values[r] == 0.0);
        }
        free_batch(&batch);
    }
}

static void decoding_continues_as_the_forward_pass_would(void **state)
{
    (void)state;
    for (size_t i = 0; i < SPEC_COUNT; i++) {
        FINISHED(fixture) fixture = {0};
        struct token_batch batch;
        size_t vocab = specs[i].vocab;
        bool removed[8] = {false, i == 0, false};
        fixture_open(&specs[i], NULL, 1, &fixture);
        make_batch(vocab, &batch);
        for (size_t s = 0; s < SEQUENCES; s++) {
            int32_t tokens[200];
            memcpy(tokens, batch.sequences[s].tokens, lengths[s] * sizeof *tokens);
            struct generation generation = {
                .prompt = tokens, .prompt_count = lengths[s], .tokens = tokens + lengths[s], .max_tokens = 5};
            assert_true(model_generate(fixture.model, removed, &generation, 1, NULL, 0, NULL));
            assert_int_equal(generation.token_count, 5);
            struct token_sequence longer = {tokens, lengths[s] + 5};
            struct token_batch one = {&longer, 1};
            OWNED(hidden) hidden = run(fixture.model, &one, removed);
            OWNED_MEMORY float *logits = all_logits(fixture.model, hidden, 0);
            for (size_t t = lengths[s] - 1; t + 1 < lengths[s] + 5; t++) {
                float chosen = logits[t * vocab + (size_t)tokens[t + 1]];
                for (size_t v = 0; v < vocab; v++) {
                    assert_true(logits[t * vocab + v] <= chosen + 1e-4f);
                }
            }
        }
        free_batch(&batch);
    }
}

static void generate_alone_and_together(const struct fixture_spec *spec)
{
    struct token_batch batch;
    int32_t alone[SEQUENCES][30];
    make_batch(spec->vocab, &batch);
    for (size_t threads = 1; threads <= 7; threads += 2) {
        FINISHED(fixture) fixture = {0};
        fixture_open(spec, NULL, threads, &fixture);
        struct generation all[SEQUENCES * 4];
        int32_t tokens[SEQUENCES * 4][30];
        for (size_t g = 0; g < SEQUENCES * 4; g++) {
            size_t s = g % SEQUENCES;
            all[g] = (struct generation){.prompt = batch.sequences[s].tokens,
                                         .prompt_count = lengths[s],
                                         .tokens = tokens[g],
                                         .max_tokens = 30};
        }
        if (threads == 1) {
            for (size_t s = 0; s < SEQUENCES; s++) {
                assert_true(model_generate(fixture.model, NULL, &all[s], 1, NULL, 0, NULL));
                memcpy(alone[s], tokens[s], sizeof alone[s]);
            }
        }
        for (size_t count = 1; count <= SEQUENCES * 4; count += 5) {
            assert_true(model_generate(fixture.model, NULL, all, count, NULL, 0, NULL));
            for (size_t g = 0; g < count; g++) {
                assert_int_equal(all[g].token_count, 30);
                assert_memory_equal(tokens[g], alone[g % SEQUENCES], sizeof alone[0]);
            }
        }
    }
    free_batch(&batch);
}

static void a_generation_is_the_same_alone_and_in_a_batch_on_any_threads(void **state)
{
    (void)state;
    generate_alone_and_together(&specs[0]);
    generate_alone_and_together(&specs[3]); /* a vocabulary that is split over the threads */
}

static void generation_stops_before_a_stop_token(void **state)
{
    (void)state;
    FINISHED(fixture) fixture = {0};
    struct token_batch batch;
    fixture_open(&specs[0], NULL, 1, &fixture);
    make_batch(specs[0].vocab, &batch);
    int32_t tokens[30], first[30];
    struct generation generation = {
        .prompt = batch.sequences[1].tokens, .prompt_count = lengths[1], .tokens = tokens, .max_tokens = 30};
    assert_true(model_generate(fixture.model, NULL, &generation, 1, NULL, 0, NULL));
    memcpy(first, tokens, sizeof first);
    size_t stop = 0;
    for (size_t t = 0; t < 30 && first[stop] == first[0]; t++) {
        stop = t;
    }
    int32_t stops[] = {-5, first[stop]};
    assert_true(model_generate(fixture.model, NULL, &generation, 1, stops, 2, NULL));
    assert_int_equal(generation.token_count, first[stop] == first[0] ? 0 : stop);
    generation.max_tokens = 0;
    assert_true(model_generate(fixture.model, NULL, &generation, 1, stops, 2, NULL));
    assert_int_equal(generation.token_count, 0);
    assert_true(model_generate(fixture.model, NULL, &generation, 0, stops, 2, NULL));
    free_batch(&batch);
}

static void sublayers_are_listed_in_residual_order_with_their_sizes(void **state)
{
    (void)state;
    FINISHED(fixture) fixture = {0};
    fixture_open(&specs[3], NULL, 1, &fixture);
    assert_int_equal(model_sublayer_count(fixture.model), 2);
    const struct sublayer *attention = model_sublayer(fixture.model, 0),
                          *ffn = model_sublayer(fixture.model, 1);
    assert_true(attention->kind == SUBLAYER_ATTENTION && attention->layer == 0 &&
                attention->parameter_count == 4 * 24 * 24);
    assert_true(ffn->kind == SUBLAYER_FFN && ffn->layer == 2 && ffn->parameter_count == 3 * 24 * 40 &&
                ffn->norm_count == 24);
    assert_int_equal(fixture.inventory->prunable_count, attention->parameter_count + ffn->parameter_count);
    assert_int_equal(fixture.inventory->parameter_count,
                     fixture.inventory->prunable_count + 2 * 24 + 24 + 2 * 24 * 9001);
}

static void work_is_counted_in_tokens(void **state)
{
    (void)state;
    FINISHED(fixture) fixture = {0};
    struct token_batch batch;
    fixture_open(&specs[0], NULL, 2, &fixture);
    make_batch(specs[0].vocab, &batch);
    bool removed[6] = {true, false, false, false, false, false};
    OWNED(hidden) hidden = run(fixture.model, &batch, removed);
    OWNED(head_reference)
    reference = head_reference_create(fixture.model, hidden, HEAD_METRIC_JS, NULL);
    double terms[SEQUENCES];
    assert_true(head_distance(fixture.model, reference, hidden, 1, 2, terms, NULL));
    struct model_work work = model_get_work(fixture.model);
    size_t tokens = 1 + 5 + 64 + 65 + 130 + 17;
    assert_int_equal(work.token_sublayers, tokens * 5);
    assert_int_equal(work.token_heads, tokens + 5 + 64);
    free_batch(&batch);
}

static void a_cancelled_forward_stops(void **state)
{
    (void)state;
    FINISHED(fixture) fixture = {0};
    struct token_batch batch;
    fixture_open(&specs[0], NULL, 2, &fixture);
    make_batch(specs[0].vocab, &batch);
    struct cancel cancel = {0};
    struct model_options options = {.pool = fixture.pool, .cancel = &cancel};
    OWNED(model) model = model_open(fixture.inventory, fixture.folder, &options, NULL);
    OWNED(hidden) hidden = hidden_create(model, &batch, NULL);
    struct error error = {0};
    assert_true(model_embed(model, &batch, hidden, NULL));
    cancel_request(&cancel, CANCEL_NOW);
    assert_false(model_run_from(model, 0, NULL, hidden, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    int32_t token = 0;
    struct generation generation = {
        .prompt = batch.sequences[1].tokens, .prompt_count = 5, .tokens = &token, .max_tokens = 1};
    memset(&error, 0, sizeof error);
    assert_false(model_generate(model, NULL, &generation, 1, NULL, 0, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    free_batch(&batch);
}

/* Opens the model and runs the batch: weights are read when they are first needed. */
static bool open_and_run(const struct fixture *fixture, const struct token_batch *batch, struct error *error)
{
    struct model_options options = {.pool = fixture->pool};
    OWNED(model) model = model_open(fixture->inventory, fixture->folder, &options, error);
    OWNED(hidden) hidden = model != NULL ? hidden_create(model, batch, error) : NULL;
    return hidden != NULL && model_embed(model, batch, hidden, error) &&
           model_run_from(model, 0, NULL, hidden, error);
}

static void a_nan_among_the_weights_is_named(void **state)
{
    (void)state;
    FINISHED(fixture) fixture = {0};
    struct token_batch batch;
    fixture_open(&specs[0], NULL, 1, &fixture);
    make_batch(specs[0].vocab, &batch);
    const struct inventory_tensor *tensor =
        inventory_find(fixture.inventory, "model.layers.1.mlp.up_proj.weight");
    char path[512];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", fixture.folder);
    FILE *file = fopen(path, "r+be");
    static const float bad[] = {NAN, -INFINITY};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(fseek(file, (long)tensor->offset_bytes + 4 * 7, SEEK_SET), 0);
        assert_int_equal(fwrite(&bad[i], sizeof bad[i], 1, file), 1);
        assert_int_equal(fflush(file), 0);
        struct error error = {0};
        assert_false(open_and_run(&fixture, &batch, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_string_equal(error.field, "model.layers.1.mlp.up_proj.weight");
        assert_non_null(strstr(error.message, i == 0 ? "NaN at element 7" : "infinity at element 7"));
    }
    /* Finite weights whose product is not: the sublayer is named. */
    float huge[24 * 40];
    for (size_t i = 0; i < 24 * 40; i++) {
        huge[i] = 3e38f;
    }
    assert_int_equal(fseek(file, (long)tensor->offset_bytes, SEEK_SET), 0);
    assert_int_equal(fwrite(huge, sizeof huge, 1, file), 1);
    assert_int_equal(fclose(file), 0);
    struct error error = {0};
    assert_false(open_and_run(&fixture, &batch, &error));
    assert_int_equal(error.code, ERROR_NUMERIC);
    assert_non_null(strstr(error.message, "ffn of layer 1"));
    free_batch(&batch);
}

static void a_file_truncated_after_inspection_is_input_changed(void **state)
{
    (void)state;
    FINISHED(fixture) fixture = {0};
    fixture_open(&specs[0], NULL, 1, &fixture);
    char path[512];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", fixture.folder);
    assert_int_equal(truncate(path, 5000), 0);
    struct token_batch batch;
    struct error error = {0};
    make_batch(specs[0].vocab, &batch);
    assert_false(open_and_run(&fixture, &batch, &error));
    assert_int_equal(error.code, ERROR_INPUT_CHANGED);
    free_batch(&batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sequence_has_the_same_bits_alone_and_in_a_batch_on_any_threads),
        cmocka_unit_test(backends_agree_on_logits),
        cmocka_unit_test(a_part_of_the_logits_has_the_bits_of_the_whole),
        cmocka_unit_test(nll_is_logsumexp_less_the_target_and_greedy_is_the_argmax),
        cmocka_unit_test(distances_equal_their_definition),
        cmocka_unit_test(two_models_are_compared_each_by_its_own_head),
        cmocka_unit_test(decoding_continues_as_the_forward_pass_would),
        cmocka_unit_test(a_generation_is_the_same_alone_and_in_a_batch_on_any_threads),
        cmocka_unit_test(generation_stops_before_a_stop_token),
        cmocka_unit_test(sublayers_are_listed_in_residual_order_with_their_sizes),
        cmocka_unit_test(work_is_counted_in_tokens),
        cmocka_unit_test(a_cancelled_forward_stops),
        cmocka_unit_test(a_nan_among_the_weights_is_named),
        cmocka_unit_test(a_file_truncated_after_inspection_is_input_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
