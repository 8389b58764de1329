/*
 * workers/recipe/selection_measure.c: what the models say of the records, in files of the work folder: `vectors` (an encoder's),
 * `original.pass` and `pruned.pass` (measure.h). Each pass is gone on with after its last saved batch.
 *
 * What was measured of the original is kept in the job's cache under the hash of all that it depends on, for other pruned models: the
 * file, and a foot of FOOT_BYTES that says its hash. One that is not whole is passed over and written anew.
 */
#include "workers/recipe/selection.h"

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/evaluate/score.h"
#include "workers/select/embed.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOOT_BYTES      128
#define FOOT_MAGIC      "PRUNEDMO"
#define COPY_BYTES      ((size_t)4 << 20)
#define ONE_SHOT_BORDER 0.02 /* one pass, then one for each anchor */

/* ---- a pass that goes on ----------------------------------------------------------------------------------------- */

/* Figures are durable before the checkpoint says so. */
static bool save_place(struct selection_going *going, size_t done, struct error *error)
{
    if (!file_sync(going->fd, error)) {
        return false;
    }
    json_put_i64(going->recipe->done, going->member, (int64_t)done);
    return recipe_save(going->recipe, error);
}

bool selection_advance(void *context, size_t done, size_t total, struct error *error)
{
    struct selection_going *going = context;
    struct recipe *recipe = going->recipe;
    progress_step(recipe, done, total, "records");
    double seconds = (double)(clock_boot_ns(&clock_system) - recipe->saved_ns) / 1e9;
    bool must = !cancel_check(recipe->job->cancel, NULL) || done == total;
    if ((must || seconds >= RECIPE_SAVE_SECONDS) && !save_place(going, done, error)) {
        return false;
    }
    return recipe_check(recipe, error);
}

size_t selection_done_before(const struct recipe *recipe, const char *member)
{
    return (size_t)json_integer_value(json_object_get(recipe->done, member));
}

int selection_open_file(const struct recipe *recipe, const char *name, uint64_t bytes, struct error *error)
{
    OWNED_MEMORY char *path = file_join(recipe->job->work_folder, name);
    OWNED_FD int fd = file_system->open(AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    uint64_t free_bytes = 0, total_bytes = 0, held = 0;
    if (fd < 0) {
        error_set_errno(error, errno, "creating %s", path);
        return -1;
    }
    if (!file_size(fd, &held, error) ||
        !file_free_bytes(recipe->job->work_folder, &free_bytes, &total_bytes, error)) {
        return -1;
    }
    if (held < bytes && free_bytes < bytes - held) {
        error_set(error, ERROR_STORAGE_FULL, "what is measured needs %llu bytes on disk, %llu are free",
                  (unsigned long long)bytes, (unsigned long long)free_bytes);
        return -1;
    }
    if (held != bytes && file_system->ftruncate(fd, (off_t)bytes) != 0) {
        error_set_errno(error, errno, "growing %s", path);
        return -1;
    }
    int taken = fd;
    fd = -1;
    return taken;
}

/* ---- embed ------------------------------------------------------------------------------------------------------- */

/* What is asked, as an encoder reads it: the last token of a cut text is the one that closes it. */
static bool encode_question(const struct selection_job *selection, const struct instruction_record *record,
                            size_t limit, struct tokens *tokens, struct error *error)
{
    FINISHED(text) question = {0};
    text_append(&question, record->instruction);
    if (record->input[0] != '\0') {
        text_append(&question, "\n");
        text_append(&question, record->input);
    }
    if (!tokenizer_encode(selection->encoder_tokenizer, question.bytes, question.length, true, tokens,
                          error)) {
        return false;
    }
    if (tokens->count > limit) {
        tokens->ids[limit - 1] = tokens->ids[tokens->count - 1];
        tokens->count = limit;
    }
    size_t vocab = selection->encoder.inventory->config.vocab_size;
    for (size_t i = 0; i < tokens->count; i++) {
        if (tokens->ids[i] < 0 || (size_t)tokens->ids[i] >= vocab) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, "/embedding_model",
                                   "token %d of its tokenizer is outside its vocabulary of %zu",
                                   tokens->ids[i], vocab);
        }
    }
    return tokens->count > 0 || error_set_field(error, ERROR_INVALID_ARGUMENT, "/embedding_model",
                                                "its tokenizer makes no token of an empty text");
}

static bool run_encoder(struct recipe *recipe, const struct candidates *candidates, int fd,
                        const char *member, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    size_t count = candidates->valid_count;
    size_t context = selection->encoder.inventory->config.context_tokens;
    size_t limit = context < SELECTION_ENCODER_TOKENS ? context : SELECTION_ENCODER_TOKENS;
    OWNED_MEMORY struct token_sequence *sequences =
        memory_try_array(count, sizeof *sequences, "the tokens of records", error);
    OWNED_MEMORY struct tokens *tokens =
        memory_try_array(count, sizeof *tokens, "the tokens of records", error);
    bool is_good = sequences != NULL && tokens != NULL;
    for (size_t i = 0; i < count && is_good; i++) {
        is_good = encode_question(selection, candidates_record(candidates, candidates->valid[i]), limit,
                                  &tokens[i], error);
        sequences[i] = (struct token_sequence){tokens[i].ids, tokens[i].count};
    }
    struct model *encoder = is_good ? recipe_open_model(recipe, selection->encoder.inventory,
                                                        selection->encoder.folder, MEMORY_SCORE, error)
                                    : NULL;
    struct selection_going going = {recipe, member, fd};
    const struct embed_pass encoding = {.encoder = encoder,
                                        .candidates = candidates,
                                        .sequences = sequences,
                                        .count = count,
                                        .batch_tokens = recipe->memory.batch_tokens,
                                        .fd = fd,
                                        .cancel = recipe->job->cancel,
                                        .context = &going,
                                        .advanced = selection_advance};
    is_good = encoder != NULL && embed_sequences(&encoding, selection_done_before(recipe, member), error);
    recipe_close_model(recipe, encoder);
    for (size_t i = 0; i < count && tokens != NULL; i++) {
        tokens_finish(&tokens[i]);
    }
    return is_good;
}

static bool read_vectors(int fd, uint64_t offset, size_t size, struct selection_sets *sets,
                         struct error *error)
{
    size_t count = sets->candidates->valid_count;
    sets->embeddings = memory_try_array(count * size, sizeof(float), "embeddings", error);
    return sets->embeddings != NULL &&
           file_read_at(fd, sets->embeddings, count * size * sizeof(float), offset, "embeddings", error);
}

static bool embed_sets(struct recipe *recipe, struct selection_sets *sets, const char *file,
                       const char *member, struct error *error)
{
    size_t size = recipe->selection->encoder.inventory->config.hidden_size;
    size_t count = sets->candidates != NULL ? sets->candidates->valid_count : 0;
    if (count == 0) {
        return true;
    }
    OWNED_FD int fd = selection_open_file(recipe, file, count * size * sizeof(float), error);
    if (fd < 0 ||
        (selection_done_before(recipe, member) < count &&
         !run_encoder(recipe, sets->candidates, fd, member, error)) ||
        !read_vectors(fd, 0, size, sets, error)) {
        return false;
    }
    embed_vectors(sets->embeddings, count, size, NULL);
    recipe->selection->embedding_size = size;
    return true;
}

bool selection_embed(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    if ((selection->method->needs & SELECT_NEED_EMBEDDINGS) == 0 || selection->encoder.inventory == NULL) {
        return true;
    }
    return embed_sets(recipe, &selection->dataset, "vectors", "vectors_done", error) &&
           embed_sets(recipe, &selection->targets, "target_vectors", "target_vectors_done", error);
}

/* ---- what is kept of the original -------------------------------------------------------------------------------- */

/* What comes before a response that stands alone: the template's end, or what begins a text. */
static bool make_lone_prompt(const struct recipe *recipe, const struct model *model, struct tokens *tokens,
                             struct error *error)
{
    const struct instruction_template *form = &recipe->selection->form;
    const char *tail = form->is_chat ? "<|im_start|>assistant\n" : strrchr(form->full, '}') + 1;
    tail += form->is_chat ? 0 : strspn(tail, "\n ");
    if (*tail != '\0') {
        return tokenizer_encode(recipe->tokenizer, tail, strlen(tail), true, tokens, error);
    }
    int32_t first = score_prefix_token(model, recipe->tokenizer);
    if (first < 0) {
        return tokenizer_encode(recipe->tokenizer, "\n", 1, true, tokens, error);
    }
    tokens_append(tokens, first);
    return true;
}

static char *cache_path(const struct recipe *recipe)
{
    const struct selection_job *selection = recipe->selection;
    const struct measure_request *request = &selection->original.request;
    JSON_OWNED key = json_object();
    json_put_i64(key, "version", SELECTION_VERSION);
    json_put_text(key, "model", recipe->model_sha256);
    json_put_text(key, "records", selection->dataset.candidates->sha256);
    json_put_text(key, "machine", recipe->machine.identity);
    json_put(key, "losses", json_boolean(request->losses));
    json_put_text(key, "alone", request->alone ? selection->form.full : NULL);
    json_put(key, "alone_chat", json_boolean(request->alone && selection->form.is_chat));
    json_put(key, "el2n", json_boolean(request->el2n));
    json_put(key, "token_losses", json_boolean(request->token_losses));
    json_put(key, "efforts", json_boolean(request->efforts));
    json_put(key, "entropies", json_boolean(request->entropies));
    json_put(key, "pools", json_boolean(request->pools));
    json_put(key, "states", json_boolean(request->states));
    OWNED_MEMORY char *text = json_format(key, false);
    char sha256[65];
    sha256_hex_of(text, strlen(text), sha256);
    FINISHED(text) name = {0};
    text_append_format(&name, "%s.original", sha256);
    return file_join(recipe->job->cache_folder, name.bytes);
}

static bool hash_payload(int fd, uint64_t bytes, int copy_fd, char ret_hex[SHA256_HEX], struct error *error)
{
    OWNED_MEMORY unsigned char *block = memory_create(COPY_BYTES, 1);
    struct sha256 hash;
    sha256_start(&hash);
    for (uint64_t at = 0; at < bytes; at += COPY_BYTES) {
        size_t count = bytes - at < COPY_BYTES ? (size_t)(bytes - at) : COPY_BYTES;
        if (!file_read_at(fd, block, count, at, "what was measured", error) ||
            (copy_fd >= 0 && !file_write_at(copy_fd, block, count, at, error))) {
            return false;
        }
        sha256_update(&hash, block, count);
        recipe_touch();
    }
    sha256_end_hex(&hash, ret_hex);
    return true;
}

/* -1 for what is absent or not whole. */
static int open_kept(const struct recipe *recipe, const char *path)
{
    uint64_t bytes = recipe->selection->original.layout.bytes, held = 0;
    char foot[FOOT_BYTES + 1] = "", expected[SHA256_HEX] = "", found[SHA256_HEX] = "";
    OWNED_FD int fd = file_open_read(path, NULL);
    if (fd < 0 || !file_size(fd, &held, NULL) || held != bytes + FOOT_BYTES ||
        !file_read_at(fd, foot, FOOT_BYTES, bytes, path, NULL) ||
        sscanf(foot, FOOT_MAGIC " %64s", expected) != 1 || !hash_payload(fd, bytes, -1, found, NULL) ||
        strcmp(found, expected) != 0) {
        return -1;
    }
    (void)file_system->touch(path); /* what is used stays longest */
    int taken = fd;
    fd = -1;
    return taken;
}

static bool write_kept(const struct recipe *recipe, const char *path, struct error *error)
{
    const struct selection_pass *pass = &recipe->selection->original;
    char sha256[SHA256_HEX], foot[FOOT_BYTES + 1];
    FINISHED(text) temporary = {0};
    uint64_t free_bytes = 0, total_bytes = 0;
    if (!file_make_folders((char *)(uintptr_t)recipe->job->cache_folder, 0777, error) ||
        !file_free_bytes(recipe->job->cache_folder, &free_bytes, &total_bytes, error)) {
        return false;
    }
    if (free_bytes / 2 < pass->layout.bytes) {
        return error_set(error, ERROR_STORAGE_FULL, "it has %llu bytes, %llu are free",
                         (unsigned long long)pass->layout.bytes, (unsigned long long)free_bytes);
    }
    text_append_format(&temporary, "%s.%ld.tmp", path, (long)getpid());
    (void)file_system->unlink(temporary.bytes);
    OWNED_FD int fd = file_create(temporary.bytes, 0644, error);
    bool is_good = fd >= 0 && hash_payload(pass->fd, pass->layout.bytes, fd, sha256, error);
    if (is_good) {
        int length = snprintf(foot, sizeof foot, FOOT_MAGIC " %s", sha256);
        memset(foot + length, ' ', (size_t)(FOOT_BYTES - 1 - length));
        foot[FOOT_BYTES - 1] = '\n';
        is_good = file_write_at(fd, foot, FOOT_BYTES, pass->layout.bytes, error) && file_sync(fd, error) &&
                  (file_system->rename(temporary.bytes, path) == 0 ||
                   error_set_errno(error, errno, "keeping %s", path));
    }
    if (!is_good && fd >= 0) {
        (void)file_system->unlink(temporary.bytes);
    }
    return is_good;
}

/* ---- score ------------------------------------------------------------------------------------------------------- */

static bool run_pass(struct recipe *recipe, struct selection_pass *pass, const struct measure_order *order,
                     struct model *model, struct model *original, const char *member, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    struct tokens lone = {0};
    struct selection_going going = {recipe, member, pass->fd};
    int64_t start_ns = clock_boot_ns(&clock_system);
    bool is_good = !pass->request.alone || make_lone_prompt(recipe, model, &lone, error);
    const struct measure_pass run = {.model = model,
                                     .order = order,
                                     .request = pass->request,
                                     .fd = pass->fd,
                                     .original = original,
                                     .original_fd = selection->original.fd,
                                     .original_states = selection->original.layout.states,
                                     .lone_prompt = lone.ids,
                                     .lone_count = lone.count,
                                     .batch_tokens = recipe->memory.batch_tokens,
                                     .cancel = recipe->job->cancel,
                                     .context = &going,
                                     .advanced = selection_advance};
    is_good = is_good && measure_run(&run, selection_done_before(recipe, member), error);
    tokens_finish(&lone);
    pass->seconds = (double)(clock_boot_ns(&clock_system) - start_ns) / 1e9;
    return is_good;
}

static bool measure_original(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    struct selection_pass *pass = &selection->original;
    size_t count = selection->dataset.candidates->valid_count;
    OWNED_MEMORY char *kept = recipe->job->cache_folder != NULL ? cache_path(recipe) : NULL;
    if (kept != NULL) {
        pass->fd = open_kept(recipe, kept);
    }
    if (pass->fd >= 0) {
        /* What an earlier attempt of this job kept is no earlier job's. */
        pass->is_from_cache = selection_done_before(recipe, "original_done") < count;
        return true;
    }
    pass->fd = selection_open_file(recipe, "original.pass", pass->layout.bytes, error);
    if (pass->fd < 0) {
        return false;
    }
    if (selection_done_before(recipe, "original_done") < count) {
        struct model *model =
            recipe_open_model(recipe, recipe->inventory, recipe->job->model_folder, MEMORY_SCORE, error);
        bool is_good = model != NULL &&
                       run_pass(recipe, pass, &selection->dataset.order, model, NULL, "original_done", error);
        recipe_close_model(recipe, model);
        if (!is_good) {
            return false;
        }
    }
    struct error failure = {0};
    if (kept != NULL && !write_kept(recipe, kept, &failure)) {
        recipe_warn(recipe, "what was measured of the original could not be kept: %s", failure.message);
    }
    return true;
}

static bool measure_pruned(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    struct selection_pass *pass = &selection->damaged;
    pass->fd = selection_open_file(recipe, "pruned.pass", pass->layout.bytes, error);
    if (pass->fd < 0) {
        return false;
    }
    if (selection_done_before(recipe, "pruned_done") >= selection->dataset.candidates->valid_count) {
        return true;
    }
    struct model *model =
        recipe_open_model(recipe, selection->pruned.inventory, selection->pruned.folder, MEMORY_SCORE, error);
    struct model *original =
        model != NULL && pass->request.damage != MEASURE_NO_DAMAGE
            ? recipe_open_model(recipe, recipe->inventory, recipe->job->model_folder, MEMORY_CHECK, error)
            : NULL;
    bool is_good = model != NULL && (original != NULL || pass->request.damage == MEASURE_NO_DAMAGE) &&
                   run_pass(recipe, pass, &selection->dataset.order, model, original, "pruned_done", error);
    recipe_close_model(recipe, original);
    recipe_close_model(recipe, model);
    return is_good;
}

/* Without an encoder: pools of the original, less the mean of the data set's. */
static bool measure_targets(struct recipe *recipe, const double *mean, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    struct selection_sets *targets = &selection->targets;
    size_t size = recipe->inventory->config.hidden_size, count = targets->candidates->valid_count;
    struct selection_pass pass = {.request = {.pools = true}};
    measure_lay_out(&pass.request, &targets->order, size, &pass.layout);
    OWNED_FD int fd = selection_open_file(recipe, "targets.pass", pass.layout.bytes, error);
    pass.fd = fd;
    if (fd < 0) {
        return false;
    }
    if (selection_done_before(recipe, "targets_done") < count) {
        struct model *model =
            recipe_open_model(recipe, recipe->inventory, recipe->job->model_folder, MEMORY_SCORE, error);
        bool is_good =
            model != NULL && run_pass(recipe, &pass, &targets->order, model, NULL, "targets_done", error);
        recipe_close_model(recipe, model);
        if (!is_good) {
            return false;
        }
    }
    if (!read_vectors(fd, pass.layout.pools, size, targets, error)) {
        return false;
    }
    embed_vectors(targets->embeddings, count, size, mean);
    return true;
}

static bool make_embeddings(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    size_t size = recipe->inventory->config.hidden_size;
    size_t count = selection->dataset.candidates->valid_count;
    if ((selection->method->needs & SELECT_NEED_EMBEDDINGS) == 0 || selection->encoder.inventory != NULL) {
        return true;
    }
    OWNED_MEMORY double *mean = memory_create(size, sizeof *mean);
    if (!read_vectors(selection->original.fd, selection->original.layout.pools, size, &selection->dataset,
                      error)) {
        return false;
    }
    embed_mean(selection->dataset.embeddings, count, size, mean);
    embed_vectors(selection->dataset.embeddings, count, size, mean);
    selection->embedding_size = size;
    return selection->targets.candidates == NULL || measure_targets(recipe, mean, error);
}

/* ---- columns ----------------------------------------------------------------------------------------------------- */

static bool read_column(const struct selection_pass *pass, uint64_t offset, size_t count, double **ret_column,
                        struct error *error)
{
    if (pass->fd < 0 || offset == UINT64_MAX || *ret_column != NULL) {
        return true;
    }
    *ret_column = measure_read_column(pass->fd, offset, count, error);
    return *ret_column != NULL;
}

/* delta_nll: by how much the loss rose. */
static bool make_rises(struct selection_job *selection, size_t count, struct error *error)
{
    OWNED_MEMORY double *before = NULL, *after = NULL;
    free(selection->damages);
    selection->damages = memory_try_array(count, sizeof *selection->damages, "rises of the loss", error);
    if (selection->damages == NULL ||
        !read_column(&selection->original, selection->original.layout.losses, count, &before, error) ||
        !read_column(&selection->damaged, selection->damaged.layout.losses, count, &after, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        selection->damages[i] = after[i] - before[i];
    }
    return true;
}

static bool read_columns(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    const struct selection_pass *scorer =
        selection->method->is_loss_of_pruned ? &selection->damaged : &selection->original;
    size_t count = selection->dataset.candidates->valid_count;
    const json_t *damage = json_object_get(selection->parameters, "damage");
    bool is_rise = (selection->method->needs & SELECT_NEED_DAMAGE) != 0 &&
                   measure_damage_parse(json_string_value(damage)) == MEASURE_DELTA_NLL;
    return read_column(&selection->damaged, selection->damaged.layout.damages, count, &selection->damages,
                       error) &&
           read_column(&selection->damaged, selection->damaged.layout.entropies, count, &selection->entropies,
                       error) &&
           read_column(scorer, scorer->layout.entropies, count, &selection->entropies, error) &&
           ((selection->method->needs & SELECT_NEED_LOSSES) == 0 ||
            read_column(scorer, scorer->layout.losses, count, &selection->losses, error)) &&
           read_column(scorer, scorer->layout.alone, count, &selection->alone_losses, error) &&
           read_column(scorer, scorer->layout.el2n, count, &selection->el2n, error) &&
           read_column(scorer, scorer->layout.efforts, count, &selection->efforts, error) &&
           (!is_rise || make_rises(selection, count, error));
}

bool selection_score(struct recipe *recipe, struct error *error)
{
    struct selection_job *selection = recipe->selection;
    bool has_original = selection->original.layout.bytes > 0;
    bool has_pruned = selection->damaged.layout.bytes > 0;
    if (selection->dataset.candidates->valid_count == 0) {
        return true;
    }
    bool asks = (selection->method->needs & SELECT_NEED_ONE_SHOT) != 0;
    double border = has_original && has_pruned ? 0.5 : has_original ? 1 : 0;
    border = asks && has_original ? ONE_SHOT_BORDER : border;
    progress_part(recipe, 0, border);
    if (has_original && !measure_original(recipe, error)) {
        return false;
    }
    progress_part(recipe, border, 1);
    return (!has_pruned || measure_pruned(recipe, error)) && read_columns(recipe, error) &&
           make_embeddings(recipe, error) && (!asks || selection_ask_one_shot(recipe, error));
}
