/* The gradient of a head, without a backward pass: against the reference's vector, against the gradient written out, and against what a change of
 * the head does to the loss; and a pass over a model's records. */
#include "tests/unit/workers/model/fixture.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/effort.h"
#include "workers/select/measure.h"
#include "workers/select/token_measure.h"

#include <stdio.h>
#include <unistd.h>

enum { TOKENS = 9, VOCAB = 13, STATES = 5 };

struct scene {
    size_t count, vocab, size;
    float errors[TOKENS * 128];
    size_t loads;
};

static bool load(void *context, size_t first, size_t count, float *ret_errors, struct error *error)
{
    (void)error;
    struct scene *scene = context;
    assert_true(count > 0 && first + count <= scene->count);
    memcpy(ret_errors, scene->errors + first * scene->vocab, count * scene->vocab * sizeof(float));
    scene->loads++;
    return true;
}

static double effort_in_parts(struct scene *scene, const float *states, size_t together)
{
    const struct effort_record record = {.count = scene->count,
                                         .vocab_size = scene->vocab,
                                         .state_size = scene->size,
                                         .together = together,
                                         .states = states,
                                         .context = scene,
                                         .load = load};
    double effort = -1;
    scene->loads = 0;
    assert_true(effort_of(&plain_threads, &record, &effort, NULL));
    return effort;
}

/* |1/T sum_t e_t a_t^T|, each number of it. */
static double plain_effort(const float *errors, const float *states, size_t count, size_t vocab, size_t size)
{
    double square = 0;
    for (size_t v = 0; v < vocab; v++) {
        for (size_t c = 0; c < size; c++) {
            double sum = 0;
            for (size_t t = 0; t < count; t++) {
                sum += (double)errors[t * vocab + v] * (double)states[t * size + c] / (double)count;
            }
            square += sum * sum;
        }
    }
    return sqrt(square);
}

static void the_vector_of_the_reference(void **state)
{
    (void)state;
    struct scene scene = {.count = 1, .vocab = 2, .size = 2};
    const int32_t target = 0;
    const float states[] = {3, 4};
    assert_true(effort_errors(&plain_threads, scene.errors, &target, 0, 1, 2, 0, NULL));
    assert_close((double)scene.errors[0], -0.5, 0);
    assert_close((double)scene.errors[1], 0.5, 0);
    assert_close(effort_in_parts(&scene, states, 1), 3.5355339059, 1e-9);
}

static double loss_of(const double *head, const float *states, const int32_t *targets, double cap)
{
    double loss = 0;
    for (size_t t = 0; t < TOKENS; t++) {
        double logits[VOCAB], sum = 0;
        for (size_t v = 0; v < VOCAB; v++) {
            logits[v] = 0;
            for (size_t c = 0; c < STATES; c++) {
                logits[v] += head[v * STATES + c] * (double)states[t * STATES + c];
            }
            logits[v] = cap > 0 ? cap * tanh(logits[v] / cap) : logits[v];
            sum += exp(logits[v]);
        }
        loss += (log(sum) - logits[targets[t]]) / TOKENS;
    }
    return loss;
}

static void it_is_what_a_change_of_the_head_does_to_the_loss(void **state)
{
    (void)state;
    const double caps[] = {0, 1.5};
    for (size_t k = 0; k < COUNT_OF(caps); k++) {
        struct scene scene = {.count = TOKENS, .vocab = VOCAB, .size = STATES};
        OWNED_MEMORY float *states = plain_rows(TOKENS * STATES, 4), *weights = plain_rows(VOCAB * STATES, 5);
        double head[VOCAB * STATES], square = 0;
        int32_t targets[TOKENS];
        for (size_t i = 0; i < VOCAB * STATES; i++) {
            head[i] = 4 * (double)weights[i];
        }
        for (size_t t = 0; t < TOKENS; t++) {
            targets[t] = (int32_t)(7 * t % VOCAB);
            for (size_t v = 0; v < VOCAB; v++) {
                double logit = 0;
                for (size_t c = 0; c < STATES; c++) {
                    logit += head[v * STATES + c] * (double)states[t * STATES + c];
                }
                scene.errors[t * VOCAB + v] = (float)(caps[k] > 0 ? caps[k] * tanh(logit / caps[k]) : logit);
            }
        }
        assert_true(effort_errors(&plain_threads, scene.errors, targets, 0, TOKENS, VOCAB, caps[k], NULL));
        for (size_t i = 0; i < VOCAB * STATES; i++) {
            const double step = 1e-5, before = head[i];
            head[i] = before + step;
            double above = loss_of(head, states, targets, caps[k]);
            head[i] = before - step;
            double slope = (above - loss_of(head, states, targets, caps[k])) / (2 * step);
            head[i] = before;
            square += slope * slope;
        }
        double whole = effort_in_parts(&scene, states, TOKENS);
        assert_int_equal(scene.loads, 1);
        assert_close(whole, sqrt(square), 1e-6 * sqrt(square));
        assert_close(whole, plain_effort(scene.errors, states, TOKENS, VOCAB, STATES), 1e-7);
        for (size_t together = 1; together < TOKENS; together++) {
            size_t parts = (TOKENS + together - 1) / together;
            assert_close(effort_in_parts(&scene, states, together), whole, 1e-12 * whole);
            assert_int_equal(scene.loads, parts * (parts + 1) / 2);
        }
    }
}

static void what_is_not_finite_is_named(void **state)
{
    (void)state;
    const float wrong[] = {NAN, INFINITY, -INFINITY};
    const int32_t targets[3] = {0, 1, 0};
    for (size_t w = 0; w < COUNT_OF(wrong); w++) {
        float logits[] = {0, 1, 2, wrong[w], 4, 5};
        struct error error = {0};
        assert_false(effort_errors(&plain_threads, logits, targets, 40, 3, 2, 0, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, "token 41 "));
    }
}

static bool go_on(void *context, size_t done, size_t total, struct error *error)
{
    (void)context;
    (void)error;
    return done <= total;
}

/* Of a model: from its logits and what its head reads, record by record, whatever the batch. */
static void a_pass_measures_the_head_of_the_model(void **state)
{
    (void)state;
    enum { RECORDS = 6, LENGTH = 14 };
    struct fixture fixture;
    int32_t tokens[RECORDS][LENGTH];
    struct candidate items[RECORDS] = {0};
    uint32_t valid[RECORDS];
    struct candidates candidates = {
        .items = items, .item_count = RECORDS, .valid = valid, .valid_count = RECORDS};
    struct measure_order order;
    struct measure_layout layout;
    const struct measure_request request = {.losses = true, .token_losses = true, .efforts = true};
    fixture_open(&fixture_small, "native", 2, &fixture);
    size_t vocab = fixture_small.vocab, size = fixture_small.hidden;
    for (uint32_t i = 0; i < RECORDS; i++) {
        for (uint32_t t = 0; t < LENGTH; t++) {
            tokens[i][t] = (int32_t)rng_below(&(struct rng){.seed = 9, .step = i}, t, vocab);
        }
        items[i] = (struct candidate){
            .tokens = tokens[i], .prompt_count = 1 + i, .response_count = LENGTH - 6 - i % 3};
        valid[i] = i;
    }
    assert_true(measure_order_make(&candidates, &order, NULL));
    measure_lay_out(&request, &order, size, &layout);
    OWNED_MEMORY double *first = NULL;
    const size_t batches[] = {1, 30, 4000};
    for (size_t b = 0; b < COUNT_OF(batches); b++) {
        FILE *file = tmpfile();
        const struct measure_pass pass = {.model = fixture.model,
                                          .order = &order,
                                          .request = request,
                                          .fd = fileno(file),
                                          .batch_tokens = batches[b],
                                          .advanced = go_on};
        assert_true(measure_run(&pass, 0, NULL));
        OWNED_MEMORY double *efforts = measure_read_column(fileno(file), layout.efforts, RECORDS, NULL);
        assert_non_null(efforts);
        for (uint32_t i = 0; i < RECORDS && b == 0; i++) {
            size_t count = items[i].response_count, start = items[i].prompt_count - 1;
            struct token_sequence sequence = {tokens[i], start + count};
            struct token_batch batch = {&sequence, 1};
            OWNED(hidden) hidden = hidden_create(fixture.model, &batch, NULL);
            OWNED_MEMORY float *logits = memory_create(count * vocab, sizeof *logits);
            OWNED_MEMORY float *states = memory_create(count * size, sizeof *states);
            assert_true(model_embed(fixture.model, &batch, hidden, NULL) &&
                        model_run_from(fixture.model, 0, NULL, hidden, NULL) &&
                        model_logits(fixture.model, hidden, 0, start, count, logits, NULL) &&
                        model_head_inputs(fixture.model, hidden, 0, start, count, states, NULL));
            for (size_t t = 0; t < count; t++) { /* a root mean square norm leaves lengths alike */
                double square = plain_square(states + t * size, (float[64]){0}, size);
                assert_true(square > 0.01 * (double)size && square < 100 * (double)size);
            }
            assert_true(
                effort_errors(&plain_threads, logits, tokens[i] + start + 1, 0, count, vocab, 0, NULL));
            assert_close(efforts[i], plain_effort(logits, states, count, vocab, size), 1e-6);
            assert_true(efforts[i] > 0.01);
        }
        OWNED_MEMORY double *losses = measure_read_column(fileno(file), layout.losses, RECORDS, NULL);
        OWNED_MEMORY double *token_losses =
            measure_read_column(fileno(file), layout.token_losses, (size_t)order.first_rows[RECORDS], NULL);
        for (size_t at = 0; at < RECORDS; at++) { /* and the losses of tokens lie in the order of the pass */
            double mean = token_measure_mean(token_losses + order.first_rows[at],
                                             (size_t)(order.first_rows[at + 1] - order.first_rows[at]));
            assert_true(mean == losses[order.order[at]] && mean > 0);
        }
        assert_true(first == NULL || memcmp(first, efforts, RECORDS * sizeof *first) == 0);
        if (first == NULL) {
            first = efforts;
            efforts = NULL;
        }
        assert_int_equal(fclose(file), 0);
    }
    measure_order_finish(&order);
    fixture_finish(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vector_of_the_reference),
        cmocka_unit_test(it_is_what_a_change_of_the_head_does_to_the_loss),
        cmocka_unit_test(what_is_not_finite_is_named),
        cmocka_unit_test(a_pass_measures_the_head_of_the_model),
    };
    return cmocka_run_group_tests(tests, plain_open, plain_close);
}
