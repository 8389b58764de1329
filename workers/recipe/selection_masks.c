/* workers/recipe/selection_masks.c: which tokens of chosen records are to be learnt (q_tuning.h), from the losses that the pass kept. */
#include "workers/recipe/selection.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/select/q_tuning.h"

static json_t *format_runs(const bool *is_kept, size_t count, size_t *kept)
{
    json_t *runs = json_array();
    for (size_t t = 0; t < count;) {
        size_t length = 0;
        while (t + length < count && is_kept[t + length]) {
            length++;
        }
        if (length > 0) {
            json_t *run = json_array();
            CHECK(json_array_append_new(run, json_integer((json_int_t)t)) == 0 &&
                  json_array_append_new(run, json_integer((json_int_t)length)) == 0 &&
                  json_array_append_new(runs, run) == 0);
        }
        *kept += length;
        t += length > 0 ? length : 1;
    }
    return runs;
}

/* losses, is_kept: room for the response. */
static bool append_mask(const struct selection_job *selection, size_t at, double *losses, bool *is_kept,
                        struct text *lines, size_t *kept, struct error *error)
{
    const struct measure_order *order = &selection->dataset.order;
    const struct selection_pass *pass =
        selection->method->is_loss_of_pruned ? &selection->damaged : &selection->original;
    const struct candidates *candidates = selection->dataset.candidates;
    const struct candidate *item = &candidates->items[candidates->valid[order->order[at]]];
    const struct q_tuning_rules rules = {
        .token_ratio = json_number_value(json_object_get(selection->parameters, "token_ratio")),
        .neighbour_weight = json_number_value(json_object_get(selection->parameters, "neighbour_weight"))};
    if (!file_read_at(pass->fd, losses, item->response_count * sizeof *losses,
                      pass->layout.token_losses + order->first_rows[at] * sizeof *losses, "losses of tokens",
                      error) ||
        !q_tuning_select_tokens(losses, item->response_count, &rules, is_kept, error)) {
        return false;
    }
    JSON_OWNED line = json_object();
    json_put_text(line, "source", candidates->sets[item->source]->name);
    json_put_i64(line, "record", (int64_t)item->record + 1);
    json_put_i64(line, "response_tokens", item->response_count);
    json_put(line, "kept", format_runs(is_kept, item->response_count, kept));
    OWNED_MEMORY char *text = json_format(line, false);
    text_append(lines, text);
    text_append(lines, "\n");
    return true;
}

bool selection_format_masks(const struct selection_job *selection, struct text *lines, json_t *ret_counts,
                            struct error *error)
{
    const struct selection *chosen = selection->selection;
    const struct measure_order *order = &selection->dataset.order;
    size_t records = 0, tokens = 0, kept = 0;
    OWNED_MEMORY size_t *places = memory_try_array(chosen->count, sizeof *places, "places of records", error);
    OWNED_MEMORY double *losses =
        memory_try_array(selection->max_tokens, sizeof *losses, "losses of tokens", error);
    OWNED_MEMORY bool *is_kept =
        memory_try_array(selection->max_tokens, sizeof *is_kept, "tokens to learn", error);
    if (places == NULL || losses == NULL || is_kept == NULL) {
        return false;
    }
    for (size_t at = 0; at < chosen->count; at++) {
        places[order->order[at]] = at;
    }
    for (size_t i = 0; i < chosen->chosen_count; i++) {
        size_t record = chosen->order[i], at = places[record];
        if (!chosen->is_token_pruned[record]) {
            continue;
        }
        if (!append_mask(selection, at, losses, is_kept, lines, &kept, error)) {
            return false;
        }
        records++;
        tokens += (size_t)(order->first_rows[at + 1] - order->first_rows[at]);
    }
    json_put_i64(ret_counts, "records", (int64_t)records);
    json_put_i64(ret_counts, "tokens", (int64_t)tokens);
    json_put_i64(ret_counts, "tokens_kept", (int64_t)kept);
    return true;
}
