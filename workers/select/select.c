/* workers/select/select.c: see select.h. */
#include "workers/select/select.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct select_method *const *select_methods(void)
{
    static const struct select_method *const methods[] = {
#define SELECT_METHOD(id) &select_method_##id,
#include "workers/select/methods.def"
#undef SELECT_METHOD
        NULL};
    return methods;
}

#define FIELD(id, text)                                                                                      \
    {                                                                                                        \
        .name = id, .type = PARAM_TEXT, .flags = PARAM_NULLABLE, .min = 1, .max = 256, .help = text          \
    }
static const struct param_spec source_members[] = {
    {.name = "source",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 4096,
     .help = "Instruction records: JSONL, or one JSON array of objects."},
    {.name = "name",
     .type = PARAM_TEXT,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 128,
     .help = "Name in the report; the file's unless given."},
    FIELD("messages", "Record member that holds a conversation; alone, without the three below."),
    FIELD(
        "instruction",
        "Record member (or JSON pointer) that holds what is asked; found out from the first record unless given."),
    FIELD("input", "Record member that holds what it is asked of."),
    FIELD("response", "Record member that holds the answer."),
    {.name = "limit",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 4294967294.0,
     .unit = "records",
     .help = "Only the first records of the file; all unless given."},
};
const struct param_spec select_source_item = {.type = PARAM_OBJECT,
                                              .members = source_members,
                                              .member_count =
                                                  sizeof source_members / sizeof source_members[0],
                                              .help = "One data set."};
const struct param_spec select_column_item = {
    .type = PARAM_TEXT, .min = 1, .max = 256, .help = "Record member (or JSON pointer) that holds a number."};

const struct select_method *select_method_find(const char *name)
{
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        if (strcmp((*method)->name, name) == 0) {
            return *method;
        }
    }
    return NULL;
}

bool select_needs_pruned(const struct select_method *method)
{
    return (method->needs & SELECT_NEED_DAMAGE) != 0 || method->is_loss_of_pruned;
}

struct selection *selection_create(size_t count, struct error *error)
{
    OWNED(selection) selection = memory_create(1, sizeof *selection);
    const char *what = "the selection";
    selection->count = count;
    selection->order = memory_try_array(count, sizeof *selection->order, what, error);
    selection->scores = memory_try_array(count, sizeof *selection->scores, what, error);
    selection->reasons = memory_try_array(count, sizeof *selection->reasons, what, error);
    if (selection->order == NULL || selection->scores == NULL || selection->reasons == NULL) {
        return NULL;
    }
    selection->details = json_object();
    for (size_t i = 0; i < count; i++) {
        selection->scores[i] = (double)NAN;
    }
    return TAKE(selection);
}

void selection_destroy(struct selection *selection)
{
    if (selection == NULL) {
        return;
    }
    free(selection->order);
    free(selection->scores);
    free(selection->reasons);
    free(selection->labels);
    free(selection->is_token_pruned);
    free(selection->map);
    json_decref(selection->clusters);
    json_decref(selection->details);
    free(selection);
}

void selection_take(struct selection *selection, const struct select_run *run, const size_t *order,
                    size_t ranked)
{
    struct budget_use use =
        ranking_fill(&run->budget, order, ranked, run->records->total_tokens, selection->order);
    selection->chosen_count = use.records;
    for (size_t i = 0; i < use.records; i++) {
        selection->reasons[selection->order[i]] = SELECT_CHOSEN;
    }
}

bool selection_take_best(struct selection *selection, const struct select_run *run,
                         enum ranking_direction direction, struct error *error)
{
    size_t ranked = 0;
    OWNED_MEMORY size_t *order =
        memory_try_array(selection->count, sizeof *order, "the order of records", error);
    if (order == NULL || !ranking_order(selection->scores, selection->count, direction, RANKING_NAN_DROP,
                                        selection->count, order, &ranked, error)) {
        return false;
    }
    for (size_t i = 0; i < selection->count; i++) {
        if (isnan(selection->scores[i])) {
            selection->reasons[i] = SELECT_FILTERED;
        }
    }
    selection_take(selection, run, order, ranked);
    return true;
}

size_t selection_wanted(const struct select_run *run)
{
    size_t count = run->records->count;
    double limit = (double)run->budget.limit, tokens = 0;
    for (size_t i = 0; i < count && run->budget.unit == BUDGET_TOKENS; i++) {
        tokens += run->records->total_tokens[i];
    }
    double wanted = tokens > 0 ? floor(limit * (double)count / tokens) : limit;
    return wanted < (double)count ? (size_t)wanted : count;
}

static const json_t *parameter(const struct select_run *run, const char *name)
{
    const json_t *value = json_object_get(run->parameters, name);
    CHECK(value != NULL);
    return value;
}

double select_number(const struct select_run *run, const char *name)
{
    return json_number_value(parameter(run, name));
}

size_t select_count(const struct select_run *run, const char *name)
{
    return (size_t)json_integer_value(parameter(run, name));
}

const char *select_text(const struct select_run *run, const char *name)
{
    return json_string_value(parameter(run, name));
}

bool select_flag(const struct select_run *run, const char *name)
{
    return json_is_true(parameter(run, name));
}

void select_progress(const struct select_run *run, const char *what, uint64_t step, uint64_t steps)
{
    if (run->progress != NULL) {
        run->progress(run->context, what, step, steps);
    }
}
