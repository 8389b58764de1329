#include "tests/unit/workers/prune/small_model.h"

#include "base/file.h"
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

static struct model *open_model(const struct small_model *small, const struct inventory *inventory)
{
    struct error error = {0};
    struct model_options options = {.pool = small->pool};
    struct model *model = model_open(inventory, small->folder, &options, &error);
    if (model == NULL) {
        fail_msg("%s: %s", small->folder, error.message);
    }
    return model;
}

static void make_tokens(struct small_model *small)
{
    uint64_t state = 88172645463325252u;
    for (size_t s = 0; s < SMALL_SEQUENCES; s++) {
        for (size_t t = 0; t < SMALL_TOKENS; t++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            small->tokens[s][t] = (int32_t)(state % small->inventory->config.vocab_size);
        }
        small->sequences[s] = (struct token_sequence){small->tokens[s], SMALL_TOKENS - s};
        small->row_count += SMALL_TOKENS - s;
    }
    small->batch = (struct token_batch){small->sequences, SMALL_SEQUENCES};
}

void small_model_open(struct small_model *small, const char *name)
{
    *small = (struct small_model){0};
    (void)snprintf(small->folder, sizeof small->folder, "%s/%s%s", PROJECT_ROOT,
                   strchr(name, '/') == NULL ? "tests/golden/families/" : "", name);
    (void)snprintf(small->work, sizeof small->work, "/tmp/pruned-small-XXXXXX");
    assert_non_null(mkdtemp(small->work));
    FINISHED(error_list) faults = {0};
    struct error error = {0};
    small->inventory = inventory_inspect(small->folder, false, NULL, &faults);
    assert_non_null(small->inventory);
    small->source = source_open(small->inventory, small->folder, &error);
    small->pool = pool_create(2, &error);
    assert_true(small->source != NULL && small->pool != NULL);
    small->model = open_model(small, small->inventory);
    make_tokens(small);
    small->size = small->inventory->config.hidden_size;
    small->sublayer_count = model_sublayer_count(small->model);
    small->sublayers = memory_create(small->sublayer_count, sizeof *small->sublayers);
    for (size_t i = 0; i < small->sublayer_count; i++) {
        small->sublayers[i] = *model_sublayer(small->model, i);
    }
    size_t layers = small->inventory->config.layer_count;
    small->span_angles = memory_create(prune_span_count(layers), sizeof(double));
    small->run = (struct prune_run){.inventory = small->inventory,
                                    .sublayers = small->sublayers,
                                    .sublayer_count = small->sublayer_count,
                                    .span_angles = small->span_angles,
                                    .weights = small->source,
                                    .pool = small->pool,
                                    .work_folder = small->work,
                                    .model = small->model,
                                    .batch = &small->batch};
}

void small_model_finish(struct small_model *small)
{
    assert_true(file_remove_tree(small->work, NULL));
    json_decref(small->parameters);
    free(small->sublayers);
    free(small->span_angles);
    model_destroy(small->model);
    pool_destroy(small->pool);
    source_destroy(small->source);
    inventory_destroy(small->inventory);
}

static void resolve(struct small_model *small, const struct prune_method *method, const char *text)
{
    struct param_spec spec = {.name = method->name,
                              .type = PARAM_OBJECT,
                              .members = method->params,
                              .member_count = method->param_count};
    JSON_OWNED given = json_loads(text, 0, NULL);
    assert_non_null(given);
    FINISHED(error_list) faults = {0};
    assert_true(param_validate(&spec, given, "", &faults));
    json_decref(small->parameters);
    small->parameters = param_resolve(&spec, given);
    small->run.parameters = small->parameters;
}

bool small_model_decide(struct small_model *small, const char *method_name, const char *parameters,
                        const struct prune_target *target, struct plan *plan, struct error *error)
{
    const struct prune_method *method = prune_method_find(method_name);
    assert_non_null(method);
    resolve(small, method, parameters);
    if ((method->needs & PRUNE_NEED_SPAN_ANGLES) != 0) {
        struct prune_turn_options options = {.angles_of_all_tokens =
                                                 prune_angles_of_all_tokens(small->parameters)};
        struct prune_turns turns = {.span_angles = small->span_angles};
        assert_true(prune_gather_turns(small->model, &small->batch, &options, NULL, &turns, error));
    }
    return method->decide(&small->run, target, plan, error);
}

struct model *small_model_apply(const struct small_model *small, const struct plan *plan,
                                struct inventory **ret_derived)
{
    struct error error = {0};
    *ret_derived = plan_apply(plan, small->inventory, &error);
    if (*ret_derived == NULL) {
        fail_msg("%s", error.message);
    }
    return open_model(small, *ret_derived);
}

static struct hidden *run_to(const struct small_model *small, struct model *model, const struct plan *plan,
                             size_t end)
{
    struct error error = {0};
    struct hidden *hidden = hidden_create(model, &small->batch, &error);
    assert_true(hidden != NULL && model_embed(model, &small->batch, hidden, &error));
    for (size_t i = 0; i < end; i++) {
        if (plan == NULL || !plan->removed[i]) {
            assert_true(model_run_sublayer(model, i, hidden, &error));
        }
    }
    return hidden;
}

float *small_model_stream(const struct small_model *small, struct model *model, const struct plan *plan,
                          size_t end)
{
    struct error error = {0};
    OWNED(hidden) hidden = run_to(small, model, plan, end);
    float *rows = memory_create(small->row_count * hidden->hidden_size, sizeof *rows);
    assert_true(hidden_read(hidden, 0, small->row_count, rows, &error));
    return rows;
}

double small_model_difference(const struct small_model *small, struct model *model, const struct plan *plan,
                              struct model *other, const struct plan *other_plan, double *ret_largest)
{
    struct error error = {0};
    size_t vocabulary = small->inventory->config.vocab_size;
    OWNED(hidden) a = run_to(small, model, plan, small->sublayer_count);
    OWNED(hidden) b = run_to(small, other, other_plan, small->sublayer_count);
    OWNED_MEMORY float *x = memory_create(SMALL_TOKENS * vocabulary, sizeof *x);
    OWNED_MEMORY float *y = memory_create(SMALL_TOKENS * vocabulary, sizeof *y);
    double most = 0;
    double largest = 0;
    for (size_t s = 0; s < SMALL_SEQUENCES; s++) {
        size_t count = small->sequences[s].count;
        assert_true(model_logits(model, a, s, 0, count, x, &error));
        assert_true(model_logits(other, b, s, 0, count, y, &error));
        for (size_t i = 0; i < count * vocabulary; i++) {
            most = fmax(most, fabs((double)x[i] - (double)y[i]));
            largest = fmax(largest, fabs((double)x[i]));
        }
    }
    if (ret_largest != NULL) {
        *ret_largest = largest;
    }
    return most;
}
