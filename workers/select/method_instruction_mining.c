/* workers/select/method_instruction_mining.c: the records that promise the least loss by a linear rule over indicators of theirs (instruction_mining.h). */
#include "workers/select/instruction_mining.h"
#include "workers/select/select.h"

#include "base/memory.h"
#include <string.h>

#define MOST_COLUMNS 64

static const struct param_spec coefficient = {.type = PARAM_NUMBER, .help = "Of the column at its place."};
static const struct param_spec params[] = {
    {.name = "columns",
     .type = PARAM_ARRAY,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = MOST_COLUMNS,
     .members = &select_column_item,
     .member_count = 1,
     .help = "Where a record holds its indicators: reward, naturalness, length."},
    {.name = "coefficients",
     .type = PARAM_ARRAY,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = MOST_COLUMNS,
     .members = &coefficient,
     .member_count = 1,
     .help = "The rule's slope for each column; published versions differ, so there is no default."},
    {.name = "intercept",
     .type = PARAM_NUMBER,
     .default_json = "0.0",
     .help = "The rule's constant: it moves scores, not their order."},
};

static bool instruction_mining_check(const json_t *parameters, struct error *error)
{
    size_t columns = json_array_size(json_object_get(parameters, "columns"));
    size_t coefficients = json_array_size(json_object_get(parameters, "coefficients"));
    return columns == coefficients ||
           error_set_field(error, ERROR_INVALID_ARGUMENT, "/coefficients", "%zu coefficients of %zu columns",
                           coefficients, columns);
}

static bool instruction_mining_select(const struct select_run *run, struct selection *ret_selection,
                                      struct error *error)
{
    const struct select_records *records = run->records;
    const json_t *given = json_object_get(run->parameters, "coefficients");
    double coefficients[MOST_COLUMNS];
    ret_selection->score_name = "log_loss";
    OWNED_MEMORY bool *is_filled = memory_try_array(records->count, sizeof *is_filled, "marks", error);
    if (is_filled == NULL || !instruction_mining_check(run->parameters, error)) {
        return false;
    }
    if (records->count == 0) {
        return true;
    }
    for (size_t c = 0; c < json_array_size(given); c++) {
        coefficients[c] = json_number_value(json_array_get(given, c));
    }
    const struct instruction_mining_rule rule = {.intercept = select_number(run, "intercept"),
                                                 .coefficients = coefficients,
                                                 .count = json_array_size(given)};
    size_t filled = 0;
    if (!instruction_mining_score(&rule, records->columns, records->count, ret_selection->scores, is_filled,
                                  error)) {
        return false;
    }
    for (size_t i = 0; i < records->count; i++) {
        filled += is_filled[i] ? 1 : 0;
    }
    json_put_i64(ret_selection->details, "records_with_gaps", (int64_t)filled);
    return selection_take_best(ret_selection, run, RANKING_RISING, error);
}

const struct select_method select_method_instruction_mining = {
    .name = "instruction_mining",
    .summary = "The records that promise the least loss by a linear rule over indicators of theirs.",
    .reference = "Instruction Mining, arXiv 2307.06290; the rule is the request's",
    .needs = SELECT_NEED_FIELDS,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .check = instruction_mining_check,
    .select = instruction_mining_select,
};
