/* workers/recipe/selection_one_shot.c: anchors, and what records do for their answers (one_shot.h), in the file `one_shot.pass` of the work folder. */
#include "workers/recipe/selection.h"

#include "base/memory.h"
#include "base/rng.h"
#include "base/text.h"
#include "workers/select/nuggets.h"

#define ANCHOR_STREAM 0x414e4348

static const struct selection_sets *anchor_sets(const struct selection_job *selection)
{
    return selection->targets.candidates != NULL ? &selection->targets : &selection->dataset;
}

/* The anchor's prompt behind another record. */
static bool encode_follow(const struct recipe *recipe, const struct candidates *set, size_t number,
                          struct tokens *tokens, struct error *error)
{
    const struct instruction_template *form = &recipe->selection->form;
    const struct candidate *item = &set->items[number];
    FINISHED(text) prompt = {0};
    text_append(&prompt, form->is_chat ? "<|im_end|>\n" : "\n\n");
    instruction_format_prompt(form, candidates_record(set, number), &prompt);
    if (!tokenizer_encode(recipe->tokenizer, prompt.bytes, prompt.length, false, tokens, error)) {
        return false;
    }
    for (size_t t = 0; t < tokens->count; t++) {
        if (tokens->ids[t] < 0 || (size_t)tokens->ids[t] >= recipe->inventory->config.vocab_size) {
            return error_set(error, ERROR_INVALID_ARGUMENT,
                             "%s, record %u: its prompt behind another has token %d, which the model lacks",
                             set->sets[item->source]->name, item->record + 1, tokens->ids[t]);
        }
    }
    for (size_t t = 0; tokens->count == 0 && t < item->prompt_count; t++) {
        tokens_append(tokens, item->tokens[t]); /* of a tokenizer that makes nothing of it */
    }
    return true;
}

/* Chosen of the anchors' set, and in the random order in which they are asked. */
static bool choose_anchors(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    const struct selection_sets *sets = anchor_sets(selection);
    size_t count = sets->candidates->valid_count, found = 0;
    size_t wanted = (size_t)json_integer_value(json_object_get(selection->parameters, "anchors"));
    wanted = wanted < count ? wanted : count;
    const struct dense_threads threads = {recipe->pool, recipe->job->cancel};
    OWNED_MEMORY uint32_t *chosen = memory_try_array(wanted, sizeof *chosen, "anchors", error);
    OWNED_MEMORY size_t *order = memory_try_array(wanted, sizeof *order, "anchors", error);
    if (chosen == NULL || order == NULL ||
        !nuggets_choose_anchors(&threads, sets->embeddings, count, selection->embedding_size, wanted,
                                recipe->seed, chosen, &found, error)) {
        return false;
    }
    rng_permutation(&(struct rng){.seed = recipe->seed, .stream = ANCHOR_STREAM}, found, order);
    selection->anchors = memory_create(found, sizeof *selection->anchors);
    selection->follows = memory_create(found, sizeof *selection->follows);
    selection->anchor_count = found;
    for (size_t j = 0; j < found; j++) {
        uint32_t number = sets->candidates->valid[chosen[order[j]]];
        struct tokens *follow = &selection->follows[j];
        if (!encode_follow(recipe, sets->candidates, number, follow, error)) {
            return false;
        }
        selection->anchors[j] = (struct one_shot_anchor){.set = sets->candidates,
                                                         .item = &sets->candidates->items[number],
                                                         .follow = follow->ids,
                                                         .follow_count = follow->count};
    }
    return true;
}

static bool run_pass(struct recipe *recipe, struct one_shot *pass, struct selection_going *going,
                     struct error *error)
{
    size_t done = selection_done_before(recipe, going->member);
    int64_t start_ns = clock_boot_ns(&clock_system);
    if (done >= one_shot_steps(pass->candidates->valid_count, pass->anchor_count)) {
        return true;
    }
    pass->model =
        recipe_open_model(recipe, recipe->inventory, recipe->job->model_folder, MEMORY_SCORE, error);
    bool is_good = pass->model != NULL && one_shot_run(pass, done, error);
    recipe_close_model(recipe, pass->model);
    recipe->selection->asking.seconds = (double)(clock_boot_ns(&clock_system) - start_ns) / 1e9;
    return is_good;
}

bool selection_ask_one_shot(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    const struct candidates *candidates = selection->dataset.candidates;
    if (!choose_anchors(recipe, error)) {
        return false;
    }
    size_t anchors = selection->anchor_count, count = candidates->valid_count;
    selection->asking.layout.bytes = one_shot_file_bytes(count, anchors);
    selection->asking.fd =
        selection_open_file(recipe, "one_shot.pass", selection->asking.layout.bytes, error);
    selection->zero_shot = memory_try_array(anchors, sizeof(double), "golden scores", error);
    selection->one_shot = memory_try_array(count * anchors, sizeof(double), "golden scores", error);
    if (selection->asking.fd < 0 || selection->zero_shot == NULL || selection->one_shot == NULL) {
        return false;
    }
    struct selection_going going = {recipe, "one_shot_done", selection->asking.fd};
    struct one_shot pass = {.candidates = candidates,
                            .anchors = selection->anchors,
                            .anchor_count = anchors,
                            .threshold =
                                json_number_value(json_object_get(selection->parameters, "threshold")),
                            .delta = json_number_value(json_object_get(selection->parameters, "delta")),
                            .context_tokens = recipe->inventory->config.context_tokens,
                            .batch_tokens = recipe->memory.batch_tokens,
                            .fd = selection->asking.fd,
                            .cancel = recipe->job->cancel,
                            .context = &going,
                            .advanced = selection_advance};
    return run_pass(recipe, &pass, &going, error) &&
           one_shot_read(&pass, selection->zero_shot, selection->one_shot, &selection->one_shot_counts,
                         error);
}
