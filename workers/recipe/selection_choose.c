/* workers/recipe/selection_choose.c: the selector, on arrays. It is quick beside the passes, and an attempt that was stopped here does it
 * again: the same arrays give the same selection. */
#include "workers/recipe/selection.h"

#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

struct arrays {
    uint32_t *prompts, *responses, *totals, *sources;
    const struct instruction_record **texts;
};

static bool fill_arrays(const struct candidates *candidates, struct arrays *arrays, struct error *error)
{
    size_t count = candidates->valid_count;
    const char *what = "the list of records";
    arrays->prompts = memory_try_array(count, sizeof *arrays->prompts, what, error);
    arrays->responses = memory_try_array(count, sizeof *arrays->responses, what, error);
    arrays->totals = memory_try_array(count, sizeof *arrays->totals, what, error);
    arrays->sources = memory_try_array(count, sizeof *arrays->sources, what, error);
    arrays->texts = memory_try_array(count, sizeof *arrays->texts, what, error);
    if (arrays->prompts == NULL || arrays->responses == NULL || arrays->totals == NULL ||
        arrays->sources == NULL || arrays->texts == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const struct candidate *item = &candidates->items[candidates->valid[i]];
        arrays->prompts[i] = item->prompt_count;
        arrays->responses[i] = item->response_count;
        arrays->totals[i] = item->prompt_count + item->response_count;
        arrays->sources[i] = item->source;
        arrays->texts[i] = candidates_record(candidates, candidates->valid[i]);
    }
    return true;
}

/* Targets have a group each and an embedding. */
static bool fill_targets(const struct selection_job *selection, uint32_t **ret_sources,
                         struct select_records *ret_targets, struct error *error)
{
    const struct candidates *candidates = selection->targets.candidates;
    if (candidates == NULL) {
        return true;
    }
    *ret_sources = memory_try_array(candidates->valid_count, sizeof **ret_sources, "targets", error);
    for (size_t i = 0; i < candidates->valid_count && *ret_sources != NULL; i++) {
        (*ret_sources)[i] = candidates->items[candidates->valid[i]].source;
    }
    *ret_targets = (struct select_records){.count = candidates->valid_count,
                                           .sources = *ret_sources,
                                           .source_count = selection->targets.count,
                                           .embeddings = selection->targets.embeddings,
                                           .embedding_size = selection->embedding_size};
    return *ret_sources != NULL;
}

static void free_arrays(struct arrays *arrays)
{
    free(arrays->prompts);
    free(arrays->responses);
    free(arrays->totals);
    free(arrays->sources);
    free(arrays->texts);
}

static void tell_progress(void *context, const char *what, uint64_t step, uint64_t steps)
{
    (void)what;
    progress_step(context, step, steps, "steps");
}

bool selection_choose(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    struct arrays arrays = {0};
    size_t count = selection->dataset.candidates->valid_count;
    selection->selection = selection_create(count, error);
    if (selection->selection == NULL) {
        return false;
    }
    struct select_records targets = {0};
    OWNED_MEMORY uint32_t *target_sources = NULL;
    bool is_good = fill_arrays(selection->dataset.candidates, &arrays, error) &&
                   fill_targets(selection, &target_sources, &targets, error);
    const struct select_records records = {.count = count,
                                           .prompt_tokens = arrays.prompts,
                                           .response_tokens = arrays.responses,
                                           .total_tokens = arrays.totals,
                                           .texts = arrays.texts,
                                           .sources = arrays.sources,
                                           .source_count = selection->dataset.count,
                                           .embeddings = selection->dataset.embeddings,
                                           .embedding_size = selection->embedding_size,
                                           .damages = selection->damages,
                                           .entropies = selection->entropies,
                                           .losses = selection->losses,
                                           .alone_losses = selection->alone_losses,
                                           .el2n = selection->el2n,
                                           .efforts = selection->efforts,
                                           .columns = selection->columns,
                                           .column_count = selection->column_count,
                                           .zero_shot = selection->zero_shot,
                                           .one_shot = selection->one_shot,
                                           .anchor_count = selection->anchor_count};
    const struct dense_threads threads = {recipe->pool, recipe->job->cancel};
    const struct select_run run = {.records = &records,
                                   .targets = selection->targets.candidates != NULL ? &targets : NULL,
                                   .parameters = selection->parameters,
                                   .budget = selection->budget,
                                   .seed = recipe->seed,
                                   .threads = &threads,
                                   .context = recipe,
                                   .progress = tell_progress};
    is_good = is_good && selection->method->select(&run, selection->selection, error);
    if (selection->anchor_count > 0) {
        json_t *details = selection->selection->details;
        json_put_i64(details, "examples_cut", (int64_t)selection->one_shot_counts.cut);
        json_put_i64(details, "pairs_of_the_same", (int64_t)selection->one_shot_counts.leaks);
        json_put_i64(details, "pairs_without_room", (int64_t)selection->one_shot_counts.no_room);
    }
    free_arrays(&arrays);
    return is_good && recipe_check(recipe, error);
}
