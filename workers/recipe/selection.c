/* workers/recipe/selection.c: what a selection job asks for, its models and its records. See selection.h. */
#include "workers/recipe/selection.h"

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "workers/select/ranking.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the request ------------------------------------------------------------------------------------------------- */

const struct select_method *selection_method(const json_t *spec, const json_t **ret_parameters)
{
    const json_t *method = json_object_get(spec, "method");
    const char *name = json_string_value(json_object_get(method, "type"));
    const struct select_method *found = select_method_find(name);
    CHECK(found != NULL);
    *ret_parameters = json_object_get(method, name);
    return found;
}

void selection_requests(const json_t *spec, const struct select_method *method,
                        struct measure_request *ret_original, struct measure_request *ret_pruned)
{
    const json_t *parameters = json_object_get(json_object_get(spec, "method"), method->name);
    struct measure_request original = {0}, pruned = {0};
    struct measure_request *scorer = method->is_loss_of_pruned ? &pruned : &original;
    scorer->losses = (method->needs & SELECT_NEED_LOSSES) != 0;
    scorer->alone = (method->needs & SELECT_NEED_ALONE) != 0;
    scorer->el2n = (method->needs & SELECT_NEED_EL2N) != 0;
    scorer->token_losses = scorer->losses && json_is_number(json_object_get(parameters, "token_ratio"));
    scorer->efforts = (method->needs & SELECT_NEED_EFFORTS) != 0;
    scorer->entropies = (method->needs & SELECT_NEED_ENTROPIES) != 0;
    original.pools = (method->needs & SELECT_NEED_EMBEDDINGS) != 0 &&
                     !json_is_string(json_object_get(spec, "embedding_model"));
    if ((method->needs & SELECT_NEED_DAMAGE) != 0) {
        enum measure_damage damage =
            measure_damage_parse(json_string_value(json_object_get(parameters, "damage")));
        /* The entropy of the original comes with a divergence, whichever is asked for. */
        pruned.damage = damage == MEASURE_DELTA_NLL ? MEASURE_JSD : damage;
        /* A pool is little beside the states: methods with embeddings and without share one file. */
        original.states = original.pools = true;
        original.losses = original.losses || damage == MEASURE_DELTA_NLL;
        pruned.losses = pruned.losses || damage == MEASURE_DELTA_NLL;
    }
    *ret_original = original;
    *ret_pruned = pruned;
}

void selection_read_spec(struct recipe *recipe)
{
    struct selection_job *selection = memory_create(1, sizeof *selection);
    const json_t *dataset = json_object_get(recipe->spec, "dataset");
    const char *form = json_string_value(json_object_get(dataset, "template"));
    recipe->selection = selection;
    selection->original.fd = selection->damaged.fd = selection->asking.fd = -1;
    selection->method = selection_method(recipe->spec, &selection->parameters);
    recipe->method_name = selection->method->name;
    selection->max_tokens = (size_t)json_integer_value(json_object_get(dataset, "max_tokens"));
    selection_requests(recipe->spec, selection->method, &selection->original.request,
                       &selection->damaged.request);
    selection->form = strcmp(form, "custom") != 0
                          ? *instruction_template_find(form)
                          : (struct instruction_template){
                                "custom", json_string_value(json_object_get(dataset, "template_full")),
                                json_string_value(json_object_get(dataset, "template_lone")), false};
}

static void close_pass(struct selection_pass *pass)
{
    if (pass->fd >= 0) {
        (void)close(pass->fd);
    }
    pass->fd = -1;
}

static void finish_sets(struct selection_sets *sets)
{
    candidates_destroy(sets->candidates);
    measure_order_finish(&sets->order);
    for (size_t i = 0; i < sets->count; i++) {
        instructions_destroy(sets->sets[i]);
    }
    free(sets->embeddings);
}

void selection_finish(struct selection_job *selection)
{
    if (selection == NULL) {
        return;
    }
    selection_destroy(selection->selection);
    finish_sets(&selection->dataset);
    finish_sets(&selection->targets);
    tokenizer_destroy(selection->encoder_tokenizer);
    inventory_destroy(selection->pruned.inventory);
    inventory_destroy(selection->encoder.inventory);
    close_pass(&selection->original);
    close_pass(&selection->damaged);
    close_pass(&selection->asking);
    for (size_t j = 0; j < selection->anchor_count; j++) {
        tokens_finish(&selection->follows[j]);
    }
    free(selection->follows);
    free(selection->anchors);
    free(selection->zero_shot);
    free(selection->one_shot);
    free(selection->damages);
    free(selection->entropies);
    free(selection->losses);
    free(selection->alone_losses);
    free(selection->el2n);
    free(selection->efforts);
    free(selection->columns);
    free(selection);
}

void selection_identify(const struct recipe *recipe, struct sha256 *hash)
{
    const struct selection_job *selection = recipe->selection;
    sha256_update(hash, selection->pruned.sha256, sizeof selection->pruned.sha256);
    sha256_update(hash, selection->encoder.sha256, sizeof selection->encoder.sha256);
    for (size_t i = 0; i < selection->dataset.count; i++) {
        sha256_update(hash, selection->dataset.sets[i]->sha256, 64);
    }
    for (size_t i = 0; i < selection->targets.count; i++) {
        sha256_update(hash, selection->targets.sets[i]->sha256, 64);
    }
}

/* ---- inspect ----------------------------------------------------------------------------------------------------- */

struct inventory *selection_find_model(const struct recipe_job *job, const json_t *spec, const char *member,
                                       const char **ret_folder, struct error_list *faults)
{
    char pointer[64];
    (void)snprintf(pointer, sizeof pointer, "/%s", member);
    const char *uri = json_string_value(json_object_get(spec, member));
    const json_t *given = uri != NULL ? json_object_get(job->models, uri) : NULL;
    const char *folder = json_string_value(json_object_get(given, "folder"));
    const json_t *known = json_object_get(given, "inventory");
    if (uri == NULL) {
        return NULL;
    }
    if (folder == NULL) {
        error_list_add(faults, ERROR_NOT_FOUND, pointer, "model \"%s\" was not found", uri);
        return NULL;
    }
    *ret_folder = folder;
    FINISHED(error_list) own = {0};
    struct error error = {0};
    struct inventory *inventory = NULL;
    if (json_is_object(known)) {
        inventory = inventory_parse(known, &error);
        if (inventory != NULL && !inventory_verify(inventory, folder, &error)) {
            inventory_destroy(inventory);
            inventory = NULL;
        }
        if (inventory == NULL) {
            error_list_add(faults, error.code, pointer, "%s", error.message);
        }
        return inventory;
    }
    inventory = inventory_inspect(folder, true, job->cancel, &own);
    for (size_t i = 0; i < own.stored; i++) {
        const char *where = own.items[i].field;
        error_list_add(faults, own.items[i].code, pointer, "%s%s%s", where, where[0] != '\0' ? ": " : "",
                       own.items[i].message);
    }
    return inventory;
}

static bool open_model(struct recipe *recipe, const char *member, struct selection_model *model,
                       struct error *error)
{
    FINISHED(error_list) faults = {0};
    model->inventory = selection_find_model(recipe->job, recipe->spec, member, &model->folder, &faults);
    if (faults.stored > 0) {
        *error = faults.items[0];
        return false;
    }
    if (model->inventory != NULL) {
        model->name = recipe_source_name(json_string_value(json_object_get(recipe->spec, member)));
        inventory_model_sha256(model->inventory, model->sha256);
        recipe_touch();
    }
    return true;
}

/* Records are encoded once, by the original's tokenizer: the pruned model's has to be the same. */
static bool check_tokenizer(struct recipe *recipe, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    const struct inventory *pruned = selection->pruned.inventory;
    if (pruned == NULL) {
        return true;
    }
    struct error none = {0};
    OWNED(tokenizer) tokenizer = inventory_load_tokenizer(pruned, selection->pruned.folder, &none);
    if (tokenizer == NULL) {
        recipe_warn(recipe, "the pruned model has no tokenizer of its own; the original's is used");
    } else if (tokenizer_vocab_size(tokenizer) != tokenizer_vocab_size(recipe->tokenizer)) {
        return error_set_field(
            error, ERROR_INVALID_ARGUMENT, "/pruned_model",
            "its tokenizer has %zu tokens, the original's %zu: it is no pruned form of the "
            "original",
            tokenizer_vocab_size(tokenizer), tokenizer_vocab_size(recipe->tokenizer));
    } else if (strcmp(tokenizer_sha256(tokenizer), tokenizer_sha256(recipe->tokenizer)) != 0) {
        recipe_warn(recipe, "the pruned model's tokenizer file differs from the original's, which is used");
    }
    return true;
}

static bool load_sets(struct recipe *recipe, const json_t *sources, const char *pointer,
                      struct selection_sets *ret_sets, struct error *error)
{
    CHECK(json_array_size(sources) <= SELECTION_SOURCES_MAX);
    for (size_t i = 0; i < json_array_size(sources); i++) {
        const json_t *item = json_array_get(sources, i);
        const char *source = json_string_value(json_object_get(item, "source"));
        const char *name = json_string_value(json_object_get(item, "name"));
        char place[128];
        (void)snprintf(place, sizeof place, "%s/%zu/source", pointer, i);
        const char *path = recipe_find_input(recipe, source, place, error);
        if (path == NULL) {
            return false;
        }
        struct instructions_options options = {
            .path = path,
            .name = name != NULL ? name : recipe_source_name(source),
            .fields = {json_string_value(json_object_get(item, "messages")),
                       json_string_value(json_object_get(item, "instruction")),
                       json_string_value(json_object_get(item, "input")),
                       json_string_value(json_object_get(item, "response"))},
            .cancel = recipe->job->cancel,
        };
        ret_sets->sets[i] = instructions_load(&options, error);
        if (ret_sets->sets[i] == NULL) {
            if (error != NULL && error->field[0] == '\0') {
                (void)snprintf(error->field, sizeof error->field, "%s", place);
            }
            return false;
        }
        ret_sets->limits[i] = (size_t)json_integer_value(json_object_get(item, "limit"));
        ret_sets->count = i + 1;
        recipe_touch();
    }
    return true;
}

/* Where the method takes targets at all, and they are given. */
static bool has_targets(const struct selection_job *selection)
{
    return json_array_size(json_object_get(selection->parameters, "targets")) > 0;
}

static bool load_all_sets(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    const json_t *sources = json_object_get(json_object_get(recipe->spec, "dataset"), "sources");
    char pointer[80];
    (void)snprintf(pointer, sizeof pointer, "/method/%s/targets", selection->method->name);
    return load_sets(recipe, sources, "/dataset/sources", &selection->dataset, error) &&
           (!has_targets(selection) || load_sets(recipe, json_object_get(selection->parameters, "targets"),
                                                 pointer, &selection->targets, error));
}

/* What was checked before the job started; of a job handed to the worker as it is the first fault is told here. */
static bool check_request(const struct recipe *recipe, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    FINISHED(error_list) faults = {0};
    selection_check(recipe->spec, recipe->inventory, selection->pruned.inventory, &faults);
    if (faults.stored > 0) {
        *error = faults.items[0];
    }
    return faults.stored == 0;
}

bool selection_inspect(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    if (!open_model(recipe, "pruned_model", &selection->pruned, error) ||
        !open_model(recipe, "embedding_model", &selection->encoder, error) || !check_request(recipe, error)) {
        return false;
    }
    recipe->tokenizer = inventory_load_tokenizer(recipe->inventory, recipe->job->model_folder, error);
    if (recipe->tokenizer == NULL || !check_tokenizer(recipe, error)) {
        return false;
    }
    if (selection->encoder.inventory != NULL && (selection->method->needs & SELECT_NEED_EMBEDDINGS) != 0) {
        selection->encoder_tokenizer =
            inventory_load_tokenizer(selection->encoder.inventory, selection->encoder.folder, error);
        if (selection->encoder_tokenizer == NULL) {
            if (error != NULL) {
                (void)snprintf(error->field, sizeof error->field, "/embedding_model");
            }
            return false;
        }
    }
    return load_all_sets(recipe, error);
}

/* ---- read -------------------------------------------------------------------------------------------------------- */

static void read_budget(struct recipe *recipe)
{
    struct selection_job *selection = recipe->selection;
    const json_t *budget = json_object_get(recipe->spec, "budget");
    const json_t *tokens = json_object_get(budget, "tokens");
    const json_t *fraction = json_object_get(budget, "fraction");
    selection->budget =
        (struct budget){BUDGET_RECORDS, (uint64_t)json_integer_value(json_object_get(budget, "samples"))};
    if (json_is_integer(tokens)) {
        selection->budget = (struct budget){BUDGET_TOKENS, (uint64_t)json_integer_value(tokens)};
    } else if (json_is_number(fraction)) {
        /* 0.29 of 100 are 29, whatever rounding made of the product. */
        double share = json_number_value(fraction) * (double)selection->dataset.candidates->valid_count;
        selection->budget.limit = (uint64_t)floor(share + 1e-9 * fmax(1.0, share));
    }
}

static bool check_vocabulary(const struct recipe *recipe, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    if (selection->pruned.inventory == NULL) {
        return true;
    }
    size_t vocab = selection->pruned.inventory->config.vocab_size;
    for (size_t i = 0; i < selection->dataset.candidates->valid_count; i++) {
        const struct candidate *item =
            &selection->dataset.candidates->items[selection->dataset.candidates->valid[i]];
        for (size_t t = 0; t < (size_t)item->prompt_count + item->response_count; t++) {
            if ((size_t)item->tokens[t] >= vocab) {
                return error_set_field(
                    error, ERROR_INVALID_ARGUMENT, "/pruned_model",
                    "%s, record %u has token %d; the pruned model's vocabulary ends at %zu",
                    selection->dataset.sets[item->source]->name, item->record + 1, item->tokens[t], vocab);
            }
        }
    }
    return true;
}

static bool encode_sets(struct recipe *recipe, struct selection_sets *sets, struct error *error)
{
    const struct selection_job *selection = recipe->selection;
    const struct candidates_options options = {.sets = sets->sets,
                                               .set_count = sets->count,
                                               .limits = sets->limits,
                                               .form = &selection->form,
                                               .tokenizer = recipe->tokenizer,
                                               .config = &recipe->inventory->config,
                                               .max_tokens = selection->max_tokens,
                                               .pool = recipe->pool,
                                               .cancel = recipe->job->cancel};
    sets->candidates = candidates_create(&options, error);
    return sets->candidates != NULL && measure_order_make(sets->candidates, &sets->order, error);
}

/* A group of targets without a record would be like nothing. */
static bool read_targets(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    struct selection_sets *targets = &selection->targets;
    bool is_there[SELECTION_SOURCES_MAX] = {false};
    if (!has_targets(selection)) {
        return true;
    }
    if (!encode_sets(recipe, targets, error)) {
        return false;
    }
    for (size_t v = 0; v < targets->candidates->valid_count; v++) {
        is_there[targets->candidates->items[targets->candidates->valid[v]].source] = true;
    }
    for (size_t i = 0; i < targets->count; i++) {
        if (!is_there[i]) {
            char pointer[96];
            (void)snprintf(pointer, sizeof pointer, "/method/%s/targets/%zu", selection->method->name, i);
            return error_set_field(error, ERROR_TEXT_TOO_SHORT, pointer,
                                   "%s has no record that could be a target", targets->sets[i]->name);
        }
    }
    /* Pools leave out the same tokens as those of the data set. */
    targets->candidates->common_prompt_tokens = selection->dataset.candidates->common_prompt_tokens;
    return true;
}

static bool read_numbers(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    const json_t *columns = json_object_get(selection->parameters, "columns");
    const struct candidates *candidates = selection->dataset.candidates;
    size_t count = json_array_size(columns);
    if ((selection->method->needs & SELECT_NEED_FIELDS) == 0) {
        return true;
    }
    OWNED_MEMORY const char **names = memory_create(count, sizeof *names);
    selection->column_count = count;
    selection->columns = memory_try_array(candidates->valid_count * count, sizeof *selection->columns,
                                          "numbers of records", error);
    if (selection->columns == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        names[i] = json_string_value(json_array_get(columns, i));
    }
    for (size_t v = 0; v < candidates->valid_count; v++) {
        const struct candidate *item = &candidates->items[candidates->valid[v]];
        instructions_read_numbers(selection->dataset.sets[item->source], item->record, names, count,
                                  selection->columns + v * count);
    }
    return true;
}

bool selection_read(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    if (!encode_sets(recipe, &selection->dataset, error) || !check_vocabulary(recipe, error) ||
        !read_targets(recipe, error) || !read_numbers(recipe, error)) {
        return false;
    }
    read_budget(recipe);
    size_t count = selection->dataset.candidates->valid_count;
    if (count == 0) {
        recipe_warn(recipe, "no record can be chosen: all are empty, copies or too long");
    } else if (selection->budget.limit > (selection->budget.unit == BUDGET_RECORDS
                                              ? count
                                              : selection->dataset.candidates->valid_tokens)) {
        recipe_warn(recipe, "the budget pays for all %zu records that can be chosen", count);
    }
    measure_lay_out(&selection->original.request, &selection->dataset.order,
                    recipe->inventory->config.hidden_size, &selection->original.layout);
    measure_lay_out(&selection->damaged.request, &selection->dataset.order,
                    selection->pruned.inventory != NULL ? selection->pruned.inventory->config.hidden_size : 0,
                    &selection->damaged.layout);
    recipe_touch();
    return true;
}
