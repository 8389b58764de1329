/* workers/evaluate/divergence.c: see divergence.h. Logits of a few predictions at a time, of both models, on the host; each is a task
 * of the pool, and sums are taken afterwards in the order of the text. */
#include "workers/evaluate/divergence.h"
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/evaluate/score.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>

#define LOGITS_TOGETHER ((size_t)8 << 20) /* of one model: 32 MB */
#define ROWS_MOST       128

const size_t divergence_ranks[DIVERGENCE_RANKS] = {1, 5, 10};

/* A window's last token has nothing to predict. */
static size_t window_rows(const struct windows *windows)
{
    return windows->window_tokens - 1;
}

static size_t rows_together(size_t vocab_size)
{
    size_t rows = LOGITS_TOGETHER / (vocab_size > 0 ? vocab_size : 1);
    return rows < 1 ? 1 : rows > ROWS_MOST ? ROWS_MOST : rows;
}

uint64_t divergence_bytes(const struct model_config *config, size_t batch_tokens)
{
    uint64_t rows = rows_together(config->vocab_size), width = config->hidden_size;
    uint64_t logits = 2 * rows * config->vocab_size; /* of both, on the host */
    uint64_t head = rows * (width + config->vocab_size);
    return sizeof(float) * (logits + head + 2 * (uint64_t)batch_tokens * width);
}

/* ---- windows in batches ------------------------------------------------------------------------------------------ */

struct window_batch {
    struct token_sequence *sequences; /* owned */
    size_t count;
};

static struct window_batch take_batch(const struct windows *windows, size_t first,
                                      const struct evaluate_control *control)
{
    size_t limit = control->batch_tokens > 0 ? control->batch_tokens : EVALUATE_BATCH_TOKENS;
    size_t count = limit / windows->window_tokens > 0 ? limit / windows->window_tokens : 1;
    count = count < windows->count - first ? count : windows->count - first;
    struct window_batch batch = {memory_create(count, sizeof *batch.sequences), count};
    for (size_t i = 0; i < count; i++) {
        batch.sequences[i] =
            (struct token_sequence){windows->sequences[first + i].tokens, window_rows(windows)};
    }
    return batch;
}

static struct hidden *run_batch(struct model *model, const struct window_batch *windows,
                                const struct evaluate_control *control, struct error *error)
{
    struct token_batch batch = {windows->sequences, windows->count};
    OWNED(hidden) hidden = hidden_create(model, &batch, error);
    if (hidden == NULL || !model_embed(model, &batch, hidden, error) ||
        !model_run_from(model, 0, control->removed, hidden, error)) {
        return NULL;
    }
    return TAKE(hidden);
}

static uint64_t row_offset(const struct windows *windows, size_t window, size_t hidden_size)
{
    return (uint64_t)window * window_rows(windows) * hidden_size * sizeof(float);
}

/* ---- the original ------------------------------------------------------------------------------------------------ */

static bool keep_states(const struct hidden *hidden, int fd, uint64_t offset, struct error *error)
{
    size_t count = hidden->row_count * hidden->hidden_size;
    OWNED_MEMORY float *rows = memory_try_array(count, sizeof *rows, "the original's states", error);
    return rows != NULL && hidden_read(hidden, 0, hidden->row_count, rows, error) &&
           file_write_at(fd, rows, count * sizeof *rows, offset, error) && file_sync(fd, error);
}

bool divergence_keep(struct model *original, const struct windows *windows,
                     const struct evaluate_control *control, const char *path, struct error *error)
{
    OWNED_FD int fd = file_system->open(AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_set_errno(error, errno, "creating %s", path);
    }
    size_t size = model_get_config(original)->hidden_size;
    size_t done = (size_t)score_resume_count(control, "done");
    while (done < windows->count) {
        struct window_batch batch = take_batch(windows, done, control);
        OWNED(hidden)
        hidden =
            cancel_check_now(control->cancel, error) ? run_batch(original, &batch, control, error) : NULL;
        free(batch.sequences);
        if (hidden == NULL || !keep_states(hidden, fd, row_offset(windows, done, size), error)) {
            return false;
        }
        done += batch.count;
        score_keep_count(control, "done", done);
        score_progress(control, "original", done, windows->count, "windows");
    }
    return true;
}

/* ---- one prediction ---------------------------------------------------------------------------------------------- */

static float largest(const float *values, size_t count, size_t *ret_index)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++) {
        best = values[i] > values[best] ? i : best;
    }
    *ret_index = best;
    return values[best];
}

/* With z and y the logits and p the original's softmax: KL = sum p (z - y) - logsumexp(z) + logsumexp(y). Both log-sum-exps are taken
 * about the maximum, and z - y about the difference of the maxima, so that a shift of all logits takes no digits away. */
bool divergence_of_logits(const float *original, const float *pruned, size_t vocab_size, double *ret_kl,
                          size_t *ret_rank)
{
    size_t likeliest = 0, other = 0, rank = 0;
    double top = (double)largest(original, vocab_size, &likeliest),
           pruned_top = (double)largest(pruned, vocab_size, &other);
    double sum = 0, pruned_sum = 0, weighted = 0;
    for (size_t v = 0; v < vocab_size; v++) {
        double z = (double)original[v] - top, y = (double)pruned[v] - pruned_top;
        double weight = exp(z);
        sum += weight;
        weighted += weight * (z - y);
        pruned_sum += exp(y);
        rank += pruned[v] > pruned[likeliest] || (v < likeliest && !(pruned[v] < pruned[likeliest])) ? 1 : 0;
    }
    double kl = weighted / sum - log(sum) + log(pruned_sum);
    *ret_kl = kl > 0 ? kl : kl < 0 ? 0 : kl; /* rounding goes below zero; NaN stays */
    *ret_rank = rank;
    return isfinite(kl);
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

struct divergence_run {
    struct model *original, *pruned;
    const struct windows *windows;
    const struct evaluate_control *control;
    struct pool *pool;
    int fd;
    size_t vocab_size, rows_most;
    float *logits, *pruned_logits; /* [rows_most, vocab_size] */
    double *divergences;           /* [rows_most] */
    size_t *ranks;                 /* [rows_most] */
    double kl_sum;
    uint64_t token_count, hits[DIVERGENCE_RANKS];
};

static void compare_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct divergence_run *run = context;
    size_t at = index * run->vocab_size;
    if (!divergence_of_logits(run->logits + at, run->pruned_logits + at, run->vocab_size,
                              &run->divergences[index], &run->ranks[index])) {
        run->divergences[index] = (double)NAN;
    }
}

static bool compare_rows(struct divergence_run *run, const struct hidden *kept, const struct hidden *hidden,
                         size_t sequence, size_t first, size_t count, struct error *error)
{
    if (!model_logits(run->original, kept, sequence, first, count, run->logits, error) ||
        !model_logits(run->pruned, hidden, sequence, first, count, run->pruned_logits, error) ||
        !pool_run(run->pool, count, compare_task, run, run->control->cancel, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(run->divergences[i])) {
            return error_set(error, ERROR_NUMERIC, "NaN or infinity in the logits of token %zu of a window",
                             first + i);
        }
        run->kl_sum += run->divergences[i];
        for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
            run->hits[k] += run->ranks[i] < divergence_ranks[k] ? 1 : 0;
        }
    }
    run->token_count += count;
    return true;
}

/* The kept states of a batch as the original's hidden. */
static struct hidden *load_states(struct divergence_run *run, const struct window_batch *windows,
                                  size_t first_window, struct error *error)
{
    struct token_batch batch = {windows->sequences, windows->count};
    OWNED(hidden) hidden = hidden_create(run->original, &batch, error);
    if (hidden == NULL) {
        return NULL;
    }
    size_t count = hidden->row_count * hidden->hidden_size;
    OWNED_MEMORY float *rows = memory_try_array(count, sizeof *rows, "the original's states", error);
    if (rows == NULL ||
        !file_read_at(run->fd, rows, count * sizeof *rows,
                      row_offset(run->windows, first_window, hidden->hidden_size), "the original's states",
                      error) ||
        !hidden_write(hidden, 0, hidden->row_count, rows, error)) {
        return NULL;
    }
    return TAKE(hidden);
}

static bool compare_batch(struct divergence_run *run, const struct window_batch *batch, size_t first_window,
                          struct error *error)
{
    OWNED(hidden) hidden = run_batch(run->pruned, batch, run->control, error);
    OWNED(hidden) kept = hidden != NULL ? load_states(run, batch, first_window, error) : NULL;
    size_t rows = window_rows(run->windows);
    bool is_good = kept != NULL;
    for (size_t s = 0; s < batch->count && is_good; s++) {
        for (size_t first = 0; first < rows && is_good; first += run->rows_most) {
            size_t count = rows - first < run->rows_most ? rows - first : run->rows_most;
            is_good = cancel_check_now(run->control->cancel, error) &&
                      compare_rows(run, kept, hidden, s, first, count, error);
        }
    }
    return is_good;
}

static void resume(struct divergence_run *run, size_t *ret_done)
{
    const json_t *hits = json_object_get(run->control->resume, "hits");
    *ret_done = (size_t)score_resume_count(run->control, "done");
    run->token_count = score_resume_count(run->control, "tokens");
    run->kl_sum = json_number_value(json_object_get(run->control->resume, "kl_sum"));
    for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
        run->hits[k] = (uint64_t)json_integer_value(json_array_get(hits, k));
    }
}

static void keep_place(const struct divergence_run *run, size_t done)
{
    if (run->control->resume == NULL) {
        return;
    }
    json_t *hits = json_array();
    for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
        (void)json_array_append_new(hits, json_integer((json_int_t)run->hits[k]));
    }
    json_put(run->control->resume, "hits", hits);
    json_put_double(run->control->resume, "kl_sum", run->kl_sum);
    score_keep_count(run->control, "tokens", run->token_count);
    score_keep_count(run->control, "done", done);
}

static bool compare_windows(struct divergence_run *run, struct error *error)
{
    size_t done = 0;
    resume(run, &done);
    while (done < run->windows->count) {
        struct window_batch batch = take_batch(run->windows, done, run->control);
        bool is_good = compare_batch(run, &batch, done, error);
        free(batch.sequences);
        if (!is_good) {
            return false;
        }
        done += batch.count;
        keep_place(run, done);
        score_progress(run->control, "divergence", done, run->windows->count, "windows");
    }
    return true;
}

bool divergence_measure(struct model *original, struct model *pruned, const struct windows *windows,
                        const struct evaluate_control *control, const char *path, struct pool *pool,
                        struct divergence *ret_divergence, struct error *error)
{
    size_t vocab = model_get_config(original)->vocab_size, rows = rows_together(vocab);
    CHECK(model_get_config(pruned)->vocab_size == vocab);
    OWNED_FD int fd = file_open_read(path, error);
    OWNED_MEMORY float *logits = memory_try_array(rows * vocab, sizeof *logits, "logits", error);
    OWNED_MEMORY float *pruned_logits = memory_try_array(rows * vocab, sizeof *logits, "logits", error);
    OWNED_MEMORY double *divergences = memory_create(rows, sizeof *divergences);
    OWNED_MEMORY size_t *ranks = memory_create(rows, sizeof *ranks);
    struct divergence_run run = {.original = original,
                                 .pruned = pruned,
                                 .windows = windows,
                                 .control = control,
                                 .pool = pool,
                                 .fd = fd,
                                 .vocab_size = vocab,
                                 .rows_most = rows,
                                 .logits = logits,
                                 .pruned_logits = pruned_logits,
                                 .divergences = divergences,
                                 .ranks = ranks};
    if (fd < 0 || logits == NULL || pruned_logits == NULL || !compare_windows(&run, error)) {
        return false;
    }
    *ret_divergence = (struct divergence){.window_tokens = windows->window_tokens,
                                          .window_count = windows->count,
                                          .token_count = run.token_count,
                                          .kl_mean = run.kl_sum / (double)run.token_count};
    for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
        ret_divergence->agreement[k] = (double)run.hits[k] / (double)run.token_count;
    }
    return true;
}

json_t *divergence_format(const struct divergence *divergence)
{
    json_t *json = json_object(), *agreement = json_object();
    json_put_double(json, "kl_mean", divergence->kl_mean);
    for (size_t k = 0; k < DIVERGENCE_RANKS; k++) {
        char name[32];
        (void)snprintf(name, sizeof name, "top_%zu", divergence_ranks[k]);
        json_put_double(agreement, name, divergence->agreement[k]);
    }
    json_put(json, "agreement", agreement);
    json_put_i64(json, "tokens", (int64_t)divergence->token_count);
    json_put_i64(json, "windows", (int64_t)divergence->window_count);
    json_put_i64(json, "window_tokens", (int64_t)divergence->window_tokens);
    return json;
}
