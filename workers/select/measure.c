/* workers/select/measure.c: see measure.h. */
#include "workers/select/measure.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/select/effort.h"
#include "workers/select/ranking.h"
#include "workers/select/token_measure.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOGITS_TOGETHER ((size_t)4 << 20)  /* on the host, for el2n: 16 MB */
#define ERRORS_TOGETHER ((size_t)16 << 20) /* for efforts, twice: 64 MB */

const char *const measure_damage_names[] = {"jsd", "delta_nll", "kl", NULL};

enum measure_damage measure_damage_parse(const char *name)
{
    return name == NULL                     ? MEASURE_NO_DAMAGE
           : strcmp(name, "jsd") == 0       ? MEASURE_JSD
           : strcmp(name, "delta_nll") == 0 ? MEASURE_DELTA_NLL
                                            : MEASURE_KL;
}

/* ---- order and layout -------------------------------------------------------------------------------------------- */

static const struct candidate *item_at(const struct measure_order *order, size_t at)
{
    return &order->candidates->items[order->candidates->valid[order->order[at]]];
}

bool measure_order_make(const struct candidates *candidates, struct measure_order *ret_order,
                        struct error *error)
{
    size_t count = candidates->valid_count, ranked = 0;
    const char *what = "the order of records";
    OWNED_MEMORY double *lengths = memory_try_array(count, sizeof *lengths, what, error);
    OWNED_MEMORY size_t *places = memory_try_array(count, sizeof *places, what, error);
    struct measure_order order = {.candidates = candidates,
                                  .order = memory_try_array(count, sizeof *order.order, what, error),
                                  .first_rows =
                                      memory_try_array(count + 1, sizeof *order.first_rows, what, error)};
    for (size_t v = 0; lengths != NULL && v < count; v++) {
        const struct candidate *item = &candidates->items[candidates->valid[v]];
        lengths[v] = (double)item->prompt_count + (double)item->response_count;
    }
    if (lengths == NULL || places == NULL || order.order == NULL || order.first_rows == NULL ||
        !ranking_order(lengths, count, RANKING_FALLING, RANKING_NAN_ERROR, count, places, &ranked, error)) {
        measure_order_finish(&order);
        return false;
    }
    for (size_t at = 0; at < count; at++) {
        order.order[at] = (uint32_t)places[at];
        order.first_rows[at + 1] = order.first_rows[at] + item_at(&order, at)->response_count;
    }
    *ret_order = order;
    return true;
}

void measure_order_finish(struct measure_order *order)
{
    free(order->order);
    free(order->first_rows);
    *order = (struct measure_order){0};
}

static bool compares(const struct measure_request *request)
{
    return request->damage == MEASURE_JSD || request->damage == MEASURE_KL;
}

bool measure_wants(const struct measure_request *request)
{
    return request->pools || request->losses || request->token_losses || request->alone || request->el2n ||
           request->entropies || request->efforts || request->states || compares(request);
}

void measure_lay_out(const struct measure_request *request, const struct measure_order *order,
                     size_t hidden_size, struct measure_layout *ret_layout)
{
    uint64_t count = order->candidates->valid_count, column = count * sizeof(double), at = 0;
    const struct {
        bool is_there;
        uint64_t bytes, *offset;
    } parts[] = {
        {request->losses, column, &ret_layout->losses},
        {request->token_losses, order->first_rows[count] * sizeof(double), &ret_layout->token_losses},
        {request->alone, column, &ret_layout->alone},
        {request->el2n, column, &ret_layout->el2n},
        {compares(request), column, &ret_layout->damages},
        {compares(request) || request->entropies, column, &ret_layout->entropies},
        {request->efforts, column, &ret_layout->efforts},
        {request->pools, count * hidden_size * sizeof(float), &ret_layout->pools},
        {request->states, order->first_rows[count] * hidden_size * sizeof(float), &ret_layout->states},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        *parts[i].offset = parts[i].is_there ? at : UINT64_MAX;
        at += parts[i].is_there ? parts[i].bytes : 0;
    }
    ret_layout->bytes = at;
}

/* How many of a record's tokens have their errors in memory at once. */
static size_t errors_together(size_t vocab, size_t tokens)
{
    size_t together = ERRORS_TOGETHER / vocab > 0 ? ERRORS_TOGETHER / vocab : 1;
    return together < tokens ? together : tokens;
}

static uint64_t effort_bytes(const struct model_config *config, size_t longest_tokens)
{
    size_t rows = errors_together(config->vocab_size, longest_tokens);
    uint64_t parts = rows < longest_tokens ? 2 : 1;
    return parts * rows * config->vocab_size * sizeof(float) +
           (uint64_t)longest_tokens * config->hidden_size * sizeof(float);
}

/* Of a row of struct hidden. */
static uint64_t state_bytes(const struct model_config *config)
{
    return (uint64_t)config->hidden_size * sizeof(float) * (config->is_parallel ? 2 : 1);
}

uint64_t measure_bytes(const struct model_config *config, const struct model_config *original,
                       const struct measure_request *request, size_t batch_tokens, size_t longest_tokens)
{
    uint64_t rows = batch_tokens > longest_tokens ? batch_tokens : longest_tokens,
             states = state_bytes(config);
    /* Whole sequences with a part of theirs; then responses with what is written or read of the original's. */
    uint64_t taken = rows * states + (request->pools ? longest_tokens * states : 0);
    uint64_t beside =
        rows * (compares(request) ? state_bytes(original) + original->hidden_size * sizeof(float)
                                  : config->hidden_size * sizeof(float));
    return rows * states + (taken > beside ? taken : beside) + 64 * rows +
           (request->el2n || request->entropies ? LOGITS_TOGETHER * sizeof(float) : 0) +
           (request->efforts ? effort_bytes(config, longest_tokens) : 0) +
           (compares(request) ? 4 * (uint64_t)config->vocab_size * sizeof(float) : 0);
}

double *measure_read_column(int fd, uint64_t offset, size_t count, struct error *error)
{
    OWNED_MEMORY double *values = memory_try_array(count, sizeof *values, "figures of records", error);
    if (values == NULL ||
        !file_read_at(fd, values, count * sizeof *values, offset, "what was measured", error)) {
        return NULL;
    }
    return TAKE(values);
}

/* ---- one batch --------------------------------------------------------------------------------------------------- */

struct batch {
    const struct measure_pass *pass;
    struct measure_layout layout;
    size_t first, count; /* records of the order */
};

/* States of `count` sequences of the lengths given, without tokens. */
static struct hidden *create_rows(struct model *model, const struct batch *batch,
                                  size_t (*length)(const struct batch *batch, size_t index),
                                  struct error *error)
{
    OWNED_MEMORY struct token_sequence *sequences = memory_create(batch->count, sizeof *sequences);
    for (size_t i = 0; i < batch->count; i++) {
        sequences[i].count = length(batch, i);
    }
    struct token_batch shape = {sequences, batch->count};
    return hidden_create(model, &shape, error);
}

static size_t response_length(const struct batch *batch, size_t index)
{
    return item_at(batch->pass->order, batch->first + index)->response_count;
}

/* Of the prompt what is its own; all of it where that is nothing. */
static size_t own_prompt_start(const struct batch *batch, size_t index)
{
    size_t common = batch->pass->order->candidates->common_prompt_tokens;
    return common < item_at(batch->pass->order, batch->first + index)->prompt_count ? common : 0;
}

static size_t own_prompt_length(const struct batch *batch, size_t index)
{
    return item_at(batch->pass->order, batch->first + index)->prompt_count - own_prompt_start(batch, index);
}

static bool write_value(const struct batch *batch, uint64_t column, size_t index, double value,
                        struct error *error)
{
    uint64_t place = batch->pass->order->order[batch->first + index];
    return file_write_at(batch->pass->fd, &value, sizeof value, column + place * sizeof value, error);
}

/* The mean of each record's rows, in the order of the tokens. */
static bool write_means(const struct batch *batch, uint64_t column, const struct hidden *responses,
                        const double *values, struct error *error)
{
    for (size_t i = 0; i < batch->count; i++) {
        const struct segment *segment = &responses->segments[i];
        if (!write_value(batch, column, i, token_measure_mean(values + segment->first_row, segment->count),
                         error)) {
            return false;
        }
    }
    return true;
}

static bool measure_pools(const struct batch *batch, const struct hidden *hidden, struct error *error)
{
    size_t size = hidden->hidden_size;
    OWNED(hidden) prompts = create_rows(batch->pass->model, batch, own_prompt_length, error);
    OWNED_MEMORY float *pool = memory_create(size, sizeof *pool);
    if (prompts == NULL) {
        return false;
    }
    for (size_t i = 0; i < batch->count; i++) {
        const struct segment *to = &prompts->segments[i];
        uint64_t place = batch->pass->order->order[batch->first + i];
        if (!hidden_place(prompts, to->first_row, hidden,
                          hidden->segments[i].first_row + own_prompt_start(batch, i), to->count, error) ||
            !model_mean_pool(prompts, i, false, pool, error) ||
            !file_write_at(batch->pass->fd, pool, size * sizeof *pool,
                           batch->layout.pools + place * size * sizeof *pool, error)) {
            return false;
        }
    }
    return true;
}

static struct hidden *take_responses(const struct batch *batch, const struct hidden *hidden,
                                     bool is_after_prompt, struct error *error)
{
    OWNED(hidden) responses = create_rows(batch->pass->model, batch, response_length, error);
    if (responses == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < batch->count; i++) {
        const struct segment *to = &responses->segments[i];
        size_t before = is_after_prompt ? item_at(batch->pass->order, batch->first + i)->prompt_count
                                        : batch->pass->lone_count;
        if (!hidden_place(responses, to->first_row, hidden, hidden->segments[i].first_row + before - 1,
                          to->count, error)) {
            return NULL;
        }
    }
    return TAKE(responses);
}

static bool measure_losses(const struct batch *batch, const struct hidden *responses, uint64_t column,
                           struct error *error)
{
    OWNED_MEMORY struct target_sequence *targets = memory_create(batch->count, sizeof *targets);
    OWNED_MEMORY double *losses = memory_try_array(responses->row_count, sizeof *losses, "losses", error);
    if (losses == NULL) {
        return false;
    }
    for (size_t i = 0; i < batch->count; i++) {
        const struct candidate *item = item_at(batch->pass->order, batch->first + i);
        targets[i] = (struct target_sequence){.targets = item->tokens + item->prompt_count,
                                              .nll = losses + responses->segments[i].first_row};
    }
    bool keeps_tokens = column == batch->layout.losses && batch->pass->request.token_losses;
    uint64_t place = batch->pass->order->first_rows[batch->first] * sizeof *losses;
    return model_nll(batch->pass->model, responses, targets, error) &&
           (!keeps_tokens || file_write_at(batch->pass->fd, losses, responses->row_count * sizeof *losses,
                                           batch->layout.token_losses + place, error)) &&
           write_means(batch, column, responses, losses, error);
}

static bool write_states(const struct batch *batch, const struct hidden *responses, struct error *error)
{
    size_t row_bytes = responses->hidden_size * sizeof(float);
    OWNED_MEMORY float *rows = memory_try_array(responses->row_count * responses->hidden_size, sizeof *rows,
                                                "the original's states", error);
    return rows != NULL && hidden_read(responses, 0, responses->row_count, rows, error) &&
           file_write_at(batch->pass->fd, rows, responses->row_count * row_bytes,
                         batch->layout.states + batch->pass->order->first_rows[batch->first] * row_bytes,
                         error);
}

static struct hidden *load_original(const struct batch *batch, struct error *error)
{
    const struct measure_pass *pass = batch->pass;
    OWNED(hidden) kept = create_rows(pass->original, batch, response_length, error);
    if (kept == NULL) {
        return NULL;
    }
    size_t row_bytes = kept->hidden_size * sizeof(float);
    OWNED_MEMORY float *rows =
        memory_try_array(kept->row_count * kept->hidden_size, sizeof *rows, "the original's states", error);
    if (rows == NULL ||
        !file_read_at(pass->original_fd, rows, kept->row_count * row_bytes,
                      pass->original_states + pass->order->first_rows[batch->first] * row_bytes,
                      "the original's states", error) ||
        !hidden_write(kept, 0, kept->row_count, rows, error)) {
        return NULL;
    }
    return TAKE(kept);
}

static bool measure_damages(const struct batch *batch, const struct hidden *responses, struct error *error)
{
    OWNED(hidden) kept = load_original(batch, error);
    OWNED_MEMORY double *damages =
        memory_try_array(responses->row_count, sizeof *damages, "divergences", error);
    OWNED_MEMORY double *entropies =
        memory_try_array(responses->row_count, sizeof *entropies, "entropies", error);
    if (kept == NULL || damages == NULL || entropies == NULL) {
        return false;
    }
    const struct head_pair pair = {
        .original = batch->pass->original,
        .pruned = batch->pass->model,
        .original_hidden = kept,
        .pruned_hidden = responses,
        .metric = batch->pass->request.damage == MEASURE_KL ? HEAD_METRIC_KL : HEAD_METRIC_JS_TEXTBOOK,
        .divergences = damages,
        .entropies = entropies,
    };
    return head_compare_pair(&pair, error) &&
           write_means(batch, batch->layout.damages, responses, damages, error) &&
           write_means(batch, batch->layout.entropies, responses, entropies, error);
}

/* ---- el2n and entropies: logits on the host, a few rows at a time ------------------------------------------------ */

struct token_run {
    const float *logits;
    const int32_t *targets;
    size_t vocab_size;
    double *errors, *entropies; /* NaN where it fails */
};

static bool measure_token(const struct token_run *run, size_t index, struct token_measures *ret_measures,
                          struct error *error)
{
    return token_measure(run->logits + index * run->vocab_size, run->vocab_size, (size_t)run->targets[index],
                         ret_measures, error);
}

static void token_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct token_run *run = context;
    struct token_measures measures = {(double)NAN, (double)NAN};
    (void)!measure_token(run, index, &measures, NULL);
    run->errors[index] = measures.el2n;
    run->entropies[index] = measures.entropy;
}

static bool run_tokens(const struct batch *batch, struct token_run *run, size_t count, struct error *error)
{
    if (!pool_run(model_get_pool(batch->pass->model), count, token_task, run, batch->pass->cancel, error)) {
        return false;
    }
    for (size_t t = 0; t < count; t++) {
        struct token_measures again;
        if (isnan(run->errors[t])) {
            return measure_token(run, t, &again, error);
        }
    }
    return true;
}

static bool measure_tokens(const struct batch *batch, const struct hidden *responses, struct error *error)
{
    struct model *model = batch->pass->model;
    size_t vocab = model_get_config(model)->vocab_size;
    size_t together = LOGITS_TOGETHER / vocab > 0 ? LOGITS_TOGETHER / vocab : 1;
    OWNED_MEMORY float *logits = memory_try_array(together * vocab, sizeof *logits, "logits", error);
    OWNED_MEMORY double *errors = memory_try_array(responses->row_count, sizeof *errors, "errors", error);
    OWNED_MEMORY double *entropies =
        memory_try_array(responses->row_count, sizeof *entropies, "entropies", error);
    if (logits == NULL || errors == NULL || entropies == NULL) {
        return false;
    }
    for (size_t i = 0; i < batch->count; i++) {
        const struct candidate *item = item_at(batch->pass->order, batch->first + i);
        for (size_t done = 0; done < item->response_count; done += together) {
            size_t left = item->response_count - done, count = left < together ? left : together;
            struct token_run run = {.logits = logits,
                                    .targets = item->tokens + item->prompt_count + done,
                                    .vocab_size = vocab,
                                    .errors = errors + responses->segments[i].first_row + done,
                                    .entropies = entropies + responses->segments[i].first_row + done};
            if (!model_logits(model, responses, i, done, count, logits, error) ||
                !run_tokens(batch, &run, count, error)) {
                return false;
            }
        }
    }
    const struct measure_request *request = &batch->pass->request;
    return (!request->el2n || write_means(batch, batch->layout.el2n, responses, errors, error)) &&
           (!request->entropies || compares(request) ||
            write_means(batch, batch->layout.entropies, responses, entropies, error));
}

/* ---- efforts: errors of a record's tokens, part by part ---------------------------------------------------------- */

struct effort_run {
    const struct batch *batch;
    const struct hidden *responses;
    size_t index; /* in the batch */
};

static bool load_errors(void *context, size_t first, size_t count, float *ret_errors, struct error *error)
{
    const struct effort_run *run = context;
    const struct measure_pass *pass = run->batch->pass;
    const struct model_config *config = model_get_config(pass->model);
    const struct dense_threads threads = {model_get_pool(pass->model), pass->cancel};
    const struct candidate *item = item_at(pass->order, run->batch->first + run->index);
    return model_logits(pass->model, run->responses, run->index, first, count, ret_errors, error) &&
           effort_errors(&threads, ret_errors, item->tokens + item->prompt_count + first, first, count,
                         config->vocab_size, config->final_softcap, error);
}

static bool measure_efforts(const struct batch *batch, const struct hidden *responses, struct error *error)
{
    struct model *model = batch->pass->model;
    const struct model_config *config = model_get_config(model);
    const struct dense_threads threads = {model_get_pool(model), batch->pass->cancel};
    for (size_t i = 0; i < batch->count; i++) {
        struct effort_run run = {batch, responses, i};
        size_t count = response_length(batch, i);
        double effort = 0;
        OWNED_MEMORY float *states =
            memory_try_array(count * config->hidden_size, sizeof *states, "states", error);
        const struct effort_record record = {.count = count,
                                             .vocab_size = config->vocab_size,
                                             .state_size = config->hidden_size,
                                             .together = errors_together(config->vocab_size, count),
                                             .states = states,
                                             .context = &run,
                                             .load = load_errors};
        if (states == NULL || !model_head_inputs(model, responses, i, 0, count, states, error) ||
            !effort_of(&threads, &record, &effort, error) ||
            !write_value(batch, batch->layout.efforts, i, effort, error)) {
            return false;
        }
    }
    return true;
}

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

static bool measure_alone(const struct batch *batch, struct error *error)
{
    const struct measure_pass *pass = batch->pass;
    size_t total = 0, lone = pass->lone_count;
    for (size_t i = 0; i < batch->count; i++) {
        total += lone + response_length(batch, i) - 1;
    }
    OWNED_MEMORY struct token_sequence *sequences = memory_create(batch->count, sizeof *sequences);
    OWNED_MEMORY int32_t *tokens = memory_try_array(total, sizeof *tokens, "responses", error);
    if (tokens == NULL) {
        return false;
    }
    for (size_t i = 0, at = 0; i < batch->count; i++) {
        const struct candidate *item = item_at(pass->order, batch->first + i);
        sequences[i] = (struct token_sequence){tokens + at, lone + item->response_count - 1};
        memcpy(tokens + at, pass->lone_prompt, lone * sizeof *tokens);
        memcpy(tokens + at + lone, item->tokens + item->prompt_count,
               (item->response_count - 1) * sizeof *tokens);
        at += sequences[i].count;
    }
    struct token_batch wholes = {sequences, batch->count};
    OWNED(hidden) hidden = model_run_batch(pass->model, &wholes, NULL, error);
    OWNED(hidden) responses = hidden != NULL ? take_responses(batch, hidden, false, error) : NULL;
    return responses != NULL && measure_losses(batch, responses, batch->layout.alone, error);
}

/* All but the losses of responses that stand alone. The last token of a response predicts nothing and is not fed. */
static bool measure_wholes(const struct batch *batch, struct error *error)
{
    const struct measure_pass *pass = batch->pass;
    const struct measure_request *request = &pass->request;
    bool wants_tokens = request->el2n || (request->entropies && !compares(request));
    OWNED_MEMORY struct token_sequence *sequences = memory_create(batch->count, sizeof *sequences);
    for (size_t i = 0; i < batch->count; i++) {
        const struct candidate *item = item_at(pass->order, batch->first + i);
        sequences[i] =
            (struct token_sequence){item->tokens, (size_t)item->prompt_count + item->response_count - 1};
    }
    struct token_batch wholes = {sequences, batch->count};
    OWNED(hidden) hidden = model_run_batch(pass->model, &wholes, NULL, error);
    if (hidden == NULL || (request->pools && !measure_pools(batch, hidden, error))) {
        return false;
    }
    if (!(request->losses || wants_tokens || request->efforts || request->states || compares(request))) {
        return true;
    }
    OWNED(hidden) responses = take_responses(batch, hidden, true, error);
    hidden_destroy(hidden);
    hidden = NULL;
    return responses != NULL && (!request->states || write_states(batch, responses, error)) &&
           (!request->losses || measure_losses(batch, responses, batch->layout.losses, error)) &&
           (!wants_tokens || measure_tokens(batch, responses, error)) &&
           (!request->efforts || measure_efforts(batch, responses, error)) &&
           (!compares(request) || measure_damages(batch, responses, error));
}

static bool measure_batch(const struct batch *batch, struct error *error)
{
    return measure_wholes(batch, error) && (!batch->pass->request.alone || measure_alone(batch, error));
}

/* A record's bits do not depend on the batch: whose logits are no numbers is found by running each alone. */
static bool name_record(const struct batch *batch, struct error *error)
{
    const struct candidates *candidates = batch->pass->order->candidates;
    for (size_t i = 0; i < batch->count; i++) {
        struct batch one = *batch;
        struct error found = {0};
        one.first = batch->first + i;
        one.count = 1;
        if (!measure_batch(&one, &found) && found.code == ERROR_NUMERIC) {
            const struct candidate *item = item_at(batch->pass->order, one.first);
            *error = found;
            error_prefix(error, "%s, record %u: ", candidates->sets[item->source]->name, item->record + 1);
            return false;
        }
    }
    return false;
}

bool measure_run(const struct measure_pass *pass, size_t done, struct error *error)
{
    size_t total = pass->order->candidates->valid_count;
    struct error local = {0};
    error = error != NULL ? error : &local;
    struct batch batch = {.pass = pass};
    measure_lay_out(&pass->request, pass->order, model_get_config(pass->model)->hidden_size, &batch.layout);
    while (done < total) {
        size_t tokens = 0;
        batch.first = done;
        batch.count = 0;
        while (done + batch.count < total) {
            const struct candidate *item = item_at(pass->order, done + batch.count);
            size_t count = (size_t)item->prompt_count + item->response_count;
            if (batch.count > 0 && tokens + count > pass->batch_tokens) {
                break;
            }
            tokens += count;
            batch.count++;
        }
        if (!cancel_check_now(pass->cancel, error)) {
            return false;
        }
        if (!measure_batch(&batch, error)) {
            return error->code == ERROR_NUMERIC ? name_record(&batch, error) : false;
        }
        done += batch.count;
        if (!pass->advanced(pass->context, done, total, error)) {
            return false;
        }
    }
    return true;
}
