/*
 * tests/unit/workers/model/families_test.c: every family against transformers. Each folder of tests/golden/families holds a small
 * random model with all that is peculiar to its family and the logits that transformers makes of four sequences (an encoder's last
 * states and embeddings); origin.md there says how, and why 2e-5 of the largest logit is the tolerance.
 *
 * A new family joins by its folder alone. What is tried: every CPU backend, weights resident and streamed under the least
 * budget, one sequence at a time and all in a batch, decoding token by token with the cache, and sequences that share a beginning.
 */
#include "tests/unit/workers/model/golden.h"

#include "base/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOLERANCE 2e-5
static void compare(const struct golden *golden, const char *what, size_t sequence, const float *values)
{
    size_t first = 0, count = golden->sequences[sequence].count * golden->width;
    for (size_t s = 0; s < sequence; s++) {
        first += golden->sequences[s].count * golden->width;
    }
    double largest = 0.0, worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double should = (double)golden->values[first + i], off = fabs((double)values[i] - should);
        largest = fmax(largest, fabs(should));
        worst = off > worst || isnan(off) ? off : worst;
    }
    if (!(worst <= TOLERANCE * largest)) {
        fail_msg("%s, %s, sequence %zu: off by %g, the largest is %g", golden->source, what, sequence, worst,
                 largest);
    }
}

static void compare_embedding(const struct golden *golden, const struct hidden *hidden, size_t sequence)
{
    size_t size = hidden->hidden_size;
    OWNED_MEMORY float *embedding = memory_create(size, sizeof *embedding);
    assert_true(model_mean_pool(hidden, sequence, true, embedding, NULL));
    for (size_t i = 0; i < size; i++) {
        assert_true(fabsf(embedding[i] - golden->embeddings[sequence * size + i]) < 1e-6f);
    }
}

/* All sequences in a batch; then each alone, whose bits must be those of the batch. */
static void compare_forward(const struct golden *golden, struct model *model, const char *what)
{
    OWNED(hidden) together = golden_run(model, &golden->batch);
    for (size_t s = 0; s < golden->batch.sequence_count; s++) {
        OWNED_MEMORY float *values = golden_take_values(golden, model, together, s);
        compare(golden, what, s, values);
        struct token_batch one = {golden->batch.sequences + s, 1};
        OWNED(hidden) single = golden_run(model, &one);
        OWNED_MEMORY float *alone = golden_take_values(golden, model, single, 0);
        assert_memory_equal(alone, values, golden->sequences[s].count * golden->width * sizeof *alone);
        if (golden->embeddings != NULL) {
            compare_embedding(golden, together, s);
        }
    }
}

/* Continues the first half of each sequence token by token: what is chosen must be the argmax (or as good, to the tolerance) of
 * a forward pass over prompt and continuation. */
static void compare_decoding(const struct golden *golden, struct model *model)
{
    enum { NEW_TOKENS = 6 };
    size_t count = golden->batch.sequence_count, vocab = golden->width;
    struct generation generations[GOLDEN_SEQUENCES_MAX];
    int32_t chosen[GOLDEN_SEQUENCES_MAX][NEW_TOKENS];
    struct error error = {0};
    for (size_t s = 0; s < count; s++) {
        generations[s] = (struct generation){.prompt = golden->sequences[s].tokens,
                                             .prompt_count = (golden->sequences[s].count + 1) / 2,
                                             .tokens = chosen[s],
                                             .max_tokens = NEW_TOKENS};
    }
    if (!model_generate(model, NULL, generations, count, NULL, 0, &error)) {
        fail_msg("%s", error.message);
    }
    for (size_t s = 0; s < count; s++) {
        size_t prompt = generations[s].prompt_count, length = prompt + NEW_TOKENS;
        assert_int_equal(generations[s].token_count, NEW_TOKENS);
        OWNED_MEMORY int32_t *tokens = memory_create(length, sizeof *tokens);
        memcpy(tokens, generations[s].prompt, prompt * sizeof *tokens);
        memcpy(tokens + prompt, chosen[s], sizeof chosen[s]);
        struct token_sequence sequence = {tokens, length};
        struct token_batch batch = {&sequence, 1};
        OWNED(hidden) hidden = golden_run(model, &batch);
        OWNED_MEMORY float *logits = golden_take_values(golden, model, hidden, 0);
        for (size_t t = 0; t < NEW_TOKENS; t++) {
            const float *row = logits + (prompt - 1 + t) * vocab;
            float best = row[0];
            for (size_t v = 1; v < vocab; v++) {
                best = fmaxf(best, row[v]);
            }
            if (!(row[chosen[s][t]] >= best - 1e-4f)) {
                fail_msg("%s: sequence %zu, token %zu: chose %d", golden->source, s, t, chosen[s][t]);
            }
        }
    }
}

/* Twice the same sequence, the second time without its last token, behind one common first half. */
static struct hidden *run_shared(const struct golden *golden, struct model *model, const size_t *sequences,
                                 size_t count)
{
    struct token_sequence prefixes[GOLDEN_SEQUENCES_MAX], wholes[2 * GOLDEN_SEQUENCES_MAX];
    size_t prefix_of[2 * GOLDEN_SEQUENCES_MAX];
    for (size_t i = 0; i < count; i++) {
        const struct token_sequence *sequence = &golden->sequences[sequences[i]];
        prefixes[i] = (struct token_sequence){sequence->tokens, sequence->count / 2};
        wholes[2 * i] = *sequence;
        wholes[2 * i + 1] = (struct token_sequence){sequence->tokens, sequence->count - 1};
        prefix_of[2 * i] = prefix_of[2 * i + 1] = i;
    }
    struct token_batch beginnings = {prefixes, count}, all = {wholes, 2 * count};
    struct hidden *rest = NULL;
    struct error error = {0};
    if (!model_run_shared(model, NULL, &beginnings, &all, prefix_of, &rest, &error)) {
        fail_msg("%s", error.message);
    }
    return rest;
}

/* Sequences with a common beginning: the same values, and bits that do not depend on who else is in the batch. */
static void compare_shared(const struct golden *golden, struct model *model, const char *what)
{
    size_t listed[GOLDEN_SEQUENCES_MAX] = {0}, count = 0, width = golden->width;
    for (size_t s = 0; s < golden->batch.sequence_count; s++) {
        listed[count] = s;
        count += golden->sequences[s].count >= 3 ? 1 : 0;
    }
    assert_true(count > 0);
    OWNED(hidden) together = run_shared(golden, model, listed, count);
    assert_int_equal(together->sequence_count, 2 * count);
    for (size_t i = 0; i < count; i++) {
        const struct token_sequence *sequence = &golden->sequences[listed[i]];
        size_t shared = sequence->count / 2, rest = sequence->count - shared;
        OWNED_MEMORY float *whole = memory_create(sequence->count * width, sizeof *whole);
        OWNED(hidden)
        plain = golden_run(model, &(struct token_batch){golden->batch.sequences + listed[i], 1});
        OWNED_MEMORY float *beginning = golden_take_values(golden, model, plain, 0);
        OWNED_MEMORY float *values = golden_take_values(golden, model, together, 2 * i);
        OWNED_MEMORY float *shorter = golden_take_values(golden, model, together, 2 * i + 1);
        memcpy(whole, beginning, shared * width * sizeof *whole);
        memcpy(whole + shared * width, values, rest * width * sizeof *whole);
        compare(golden, what, listed[i], whole);
        assert_memory_equal(values, shorter, (rest - 1) * width * sizeof *values);
        OWNED(hidden) alone = run_shared(golden, model, listed + i, 1);
        OWNED_MEMORY float *again = golden_take_values(golden, model, alone, 0);
        assert_memory_equal(values, again, rest * width * sizeof *values);
    }
}

static void a_family_has_the_values_of_transformers(void **state)
{
    const struct golden *golden = *state;
    OWNED(pool) pool = pool_create(2, NULL);
    for (const char *const *name = backend_names(); *name != NULL; name++) {
        OWNED(model) model = golden_open_model(golden, pool, *name, 0);
        if (model == NULL) {
            continue; /* not on this machine */
        }
        compare_forward(golden, model, *name);
        if (!golden->is_encoder) {
            compare_decoding(golden, model);
        }
        if (model_can_share(model)) {
            compare_shared(golden, model, *name);
        }
    }
    struct model_size size;
    model_measure(golden->inventory, NULL, DTYPE_F32, 2, 128, &size);
    OWNED(model) streamed = golden_open_model(golden, pool, NULL, size.weights_least_bytes);
    assert_non_null(streamed);
    compare_forward(golden, streamed, "streamed");
    if (model_can_share(streamed)) {
        compare_shared(golden, streamed, "streamed");
    }
}

int main(void)
{
    return golden_test_all("families", a_family_has_the_values_of_transformers);
}
