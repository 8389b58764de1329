/* tests/unit/workers/model/logits_golden_test.c: logits of two real models as transformers computed them
 * (tests/golden/logits/origin.md). Skips where the models are not there. */
#include "workers/model/model.h"

#include "base/file.h"
#include "base/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOKEN_COUNT 72
static const size_t rows[] = {0, 1, 2, 3, 31, 62, 63, 64, 65, 70, 71};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

static void compare(const char *name, size_t vocab, size_t step, const char *backend)
{
    const char *data = getenv("PRUNED_TEST_DATA"), *source = getenv("PRUNED_TEST_SOURCE");
    char folder[512], golden_path[512];
    (void)snprintf(folder, sizeof folder, "%s/models/%s", data != NULL ? data : "../shared/data", name);
    (void)snprintf(golden_path, sizeof golden_path, "%s/tests/golden/logits/%s.f32",
                   source != NULL ? source : ".", name);
    if (!file_is_folder(folder)) {
        skip();
    }
    size_t bytes = 0, columns = (vocab + step - 1) / step;
    OWNED_MEMORY char *golden_bytes = file_load(golden_path, (size_t)1 << 20, &bytes, NULL);
    assert_non_null(golden_bytes);
    assert_int_equal(bytes, ROW_COUNT * columns * sizeof(float));
    OWNED_MEMORY float *golden = memory_create(ROW_COUNT * columns, sizeof *golden);
    memcpy(golden, golden_bytes, bytes);

    FINISHED(error_list) faults = {0};
    OWNED(pool) pool = pool_create(2, NULL);
    OWNED(inventory) inventory = inventory_inspect(folder, false, NULL, &faults);
    assert_non_null(inventory);
    struct model_options options = {.backend = backend, .pool = pool};
    OWNED(model) model = model_open(inventory, folder, &options, NULL);
    assert_non_null(model);
    int32_t tokens[TOKEN_COUNT] = {1};
    for (int32_t t = 1; t < TOKEN_COUNT; t++) {
        tokens[t] = (37 * t * t + 11 * t + 5) % 500 + 3;
    }
    struct token_sequence sequence = {tokens, TOKEN_COUNT};
    struct token_batch batch = {&sequence, 1};
    OWNED(hidden) hidden = hidden_create(model, &batch, NULL);
    OWNED_MEMORY float *logits = memory_create(TOKEN_COUNT * vocab, sizeof *logits);
    assert_true(model_embed(model, &batch, hidden, NULL));
    assert_true(model_run_from(model, 0, NULL, hidden, NULL));
    assert_true(model_logits(model, hidden, 0, 0, TOKEN_COUNT, logits, NULL));

    float largest = 0.0f, worst = 0.0f;
    for (size_t r = 0; r < ROW_COUNT; r++) {
        for (size_t c = 0; c < columns; c++) {
            float should = golden[r * columns + c];
            largest = fmaxf(largest, fabsf(should));
            worst = fmaxf(worst, fabsf(logits[rows[r] * vocab + c * step] - should));
        }
    }
    if (!(worst <= 2e-5f * largest)) {
        fail_msg("%s on %s: off by %g, the largest logit is %g", name,
                 backend != NULL ? backend : "the default", (double)worst, (double)largest);
    }
}

static void stories260k_has_the_logits_of_transformers(void **state)
{
    (void)state;
    compare("stories260K", 512, 1, NULL);
}

static void stories260k_has_them_on_the_reference_backend_too(void **state)
{
    (void)state;
    compare("stories260K", 512, 1, "reference");
}

static void stories15m_has_the_logits_of_transformers(void **state)
{
    (void)state;
    compare("stories15M", 32000, 64, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories260k_has_the_logits_of_transformers),
        cmocka_unit_test(stories260k_has_them_on_the_reference_backend_too),
        cmocka_unit_test(stories15m_has_the_logits_of_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
