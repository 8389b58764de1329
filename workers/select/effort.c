/* workers/select/effort.c: see effort.h. */
#include "workers/select/effort.h"

#include "base/memory.h"
#include "workers/select/rows.h"
#include <math.h>

struct error_run {
    float *logits;
    const int32_t *targets;
    size_t vocab_size;
    double cap;
    bool *is_wrong; /* [count] */
};

static void error_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct error_run *run = context;
    float *row = run->logits + index * run->vocab_size;
    double most = row[0], sum = 0, check = 0;
    for (size_t v = 0; v < run->vocab_size; v++) {
        most = (double)row[v] > most ? (double)row[v] : most;
        check += (double)row[v];
    }
    run->is_wrong[index] = !isfinite(check);
    for (size_t v = 0; v < run->vocab_size; v++) {
        sum += exp((double)row[v] - most);
    }
    for (size_t v = 0; v < run->vocab_size; v++) {
        double bent = run->cap > 0 ? (double)row[v] / run->cap : 0;
        double truth = v == (size_t)run->targets[index] ? 1 : 0;
        row[v] = (float)((exp((double)row[v] - most) / sum - truth) * (1 - bent * bent));
    }
}

bool effort_errors(const struct dense_threads *threads, float *logits, const int32_t *targets, size_t first,
                   size_t count, size_t vocab_size, double cap, struct error *error)
{
    OWNED_MEMORY bool *is_wrong = memory_try_array(count, sizeof *is_wrong, "errors of tokens", error);
    struct error_run run = {logits, targets, vocab_size, cap, is_wrong};
    if (is_wrong == NULL || !pool_run(threads->pool, count, error_task, &run, threads->cancel, error)) {
        return false;
    }
    for (size_t t = 0; t < count; t++) {
        if (is_wrong[t]) {
            return error_set(error, ERROR_NUMERIC, "a logit of token %zu is not finite", first + t);
        }
    }
    return true;
}

/* Rows of two parts of a record's tokens, or of one with itself. */
struct pair_run {
    const struct effort_record *record;
    const float *errors[2];
    size_t first[2], count[2];
    double *sums; /* [count[0]] */
};

static void pair_task(void *context, size_t index, size_t thread)
{
    (void)thread;
    struct pair_run *run = context;
    size_t vocab = run->record->vocab_size, size = run->record->state_size;
    const float *errors = run->errors[0] + index * vocab;
    const float *states = run->record->states + (run->first[0] + index) * size;
    bool is_same = run->first[0] == run->first[1];
    double sum = 0;
    for (size_t u = is_same ? index : 0; u < run->count[1]; u++) {
        double term = rows_dot(errors, run->errors[1] + u * vocab, vocab) *
                      rows_dot(states, run->record->states + (run->first[1] + u) * size, size);
        sum += is_same && u == index ? term : 2 * term;
    }
    run->sums[index] = sum;
}

static bool add_pairs(const struct dense_threads *threads, struct pair_run *run, double *square,
                      struct error *error)
{
    if (!pool_run(threads->pool, run->count[0], pair_task, run, threads->cancel, error)) {
        return false;
    }
    for (size_t t = 0; t < run->count[0]; t++) {
        *square += run->sums[t];
    }
    return true;
}

bool effort_of(const struct dense_threads *threads, const struct effort_record *record, double *ret_effort,
               struct error *error)
{
    size_t count = record->count, together = record->together < count ? record->together : count;
    size_t parts = together < count ? 2 : 1, room = together * record->vocab_size;
    OWNED_MEMORY double *sums = memory_try_array(together, sizeof *sums, "products of errors", error);
    OWNED_MEMORY float *errors = memory_try_array(parts * room, sizeof *errors, "errors of tokens", error);
    double square = 0;
    if (sums == NULL || errors == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i += together) {
        size_t rows = count - i < together ? count - i : together;
        struct pair_run run = {record, {errors, errors}, {i, i}, {rows, rows}, sums};
        if (!record->load(record->context, i, rows, errors, error) ||
            !add_pairs(threads, &run, &square, error)) {
            return false;
        }
        run.errors[1] = errors + room;
        for (size_t j = i + together; j < count; j += together) {
            run.first[1] = j;
            run.count[1] = count - j < together ? count - j : together;
            if (!record->load(record->context, j, run.count[1], errors + room, error) ||
                !add_pairs(threads, &run, &square, error)) {
                return false;
            }
        }
    }
    *ret_effort = square > 0 ? sqrt(square) / (double)count : 0;
    return isfinite(square) || error_set(error, ERROR_NUMERIC, "the gradient of the head is not finite");
}
