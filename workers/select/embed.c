/* workers/select/embed.c: see embed.h. */
#include "workers/select/embed.h"

#include "base/file.h"
#include "base/memory.h"
#include "workers/select/ranking.h"
#include <math.h>
#include <string.h>

void embed_mean(const float *vectors, size_t count, size_t size, double *ret_mean)
{
    memset(ret_mean, 0, size * sizeof *ret_mean);
    for (size_t i = 0; i < count; i++) {
        for (size_t c = 0; c < size; c++) {
            ret_mean[c] += (double)vectors[i * size + c] / (double)count;
        }
    }
}

void embed_vectors(float *vectors, size_t count, size_t size, const double *mean)
{
    for (size_t i = 0; i < count; i++) {
        float *vector = vectors + i * size;
        double square = 0.0, before = 0.0;
        for (size_t c = 0; c < size; c++) {
            double value = (double)vector[c] - (mean != NULL ? mean[c] : 0.0);
            before += (double)vector[c] * (double)vector[c];
            square += value * value;
        }
        /* What rounding leaves of a vector that is the mean is no direction. */
        double factor = square > 1e-12 * before && square > 0.0 ? 1.0 / sqrt(square) : 0.0;
        for (size_t c = 0; c < size; c++) {
            vector[c] = (float)(((double)vector[c] - (mean != NULL ? mean[c] : 0.0)) * factor);
        }
    }
}

/* places: [count], of the pass's sequences. */
static bool embed_batch(const struct embed_pass *pass, const size_t *places, size_t count,
                        struct error *error)
{
    size_t size = model_get_config(pass->encoder)->hidden_size;
    OWNED_MEMORY struct token_sequence *sequences = memory_create(count, sizeof *sequences);
    OWNED_MEMORY float *vector = memory_create(size, sizeof *vector);
    for (size_t i = 0; i < count; i++) {
        sequences[i] = pass->sequences[places[i]];
    }
    const struct token_batch batch = {sequences, count};
    OWNED(hidden) hidden = model_run_batch(pass->encoder, &batch, NULL, error);
    for (size_t i = 0; i < count; i++) {
        if (hidden == NULL || !model_mean_pool(hidden, i, true, vector, error) ||
            !file_write_at(pass->fd, vector, size * sizeof *vector, places[i] * size * sizeof *vector,
                           error)) {
            return false;
        }
    }
    return true;
}

/* A record's bits do not depend on the batch: which gives no numbers is found by running each alone. */
static bool name_record(const struct embed_pass *pass, const size_t *places, size_t count,
                        struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        struct error found = {0};
        if (!embed_batch(pass, &places[i], 1, &found) && found.code == ERROR_NUMERIC) {
            const struct candidate *item = &pass->candidates->items[pass->candidates->valid[places[i]]];
            *error = found;
            error_prefix(error, "%s, record %u: ", pass->candidates->sets[item->source]->name,
                         item->record + 1);
            break;
        }
    }
    return false;
}

static bool rank_lengths(const struct embed_pass *pass, size_t *ret_places, struct error *error)
{
    size_t ranked = 0;
    OWNED_MEMORY double *lengths =
        memory_try_array(pass->count, sizeof *lengths, "the order of records", error);
    for (size_t i = 0; lengths != NULL && i < pass->count; i++) {
        lengths[i] = (double)pass->sequences[i].count;
    }
    return lengths != NULL && ranking_order(lengths, pass->count, RANKING_FALLING, RANKING_NAN_ERROR,
                                            pass->count, ret_places, &ranked, error);
}

bool embed_sequences(const struct embed_pass *pass, size_t done, struct error *error)
{
    struct error local = {0};
    error = error != NULL ? error : &local;
    OWNED_MEMORY size_t *places =
        memory_try_array(pass->count, sizeof *places, "the order of records", error);
    if (places == NULL || !rank_lengths(pass, places, error)) {
        return false;
    }
    while (done < pass->count) {
        size_t count = 0, tokens = 0;
        while (done + count < pass->count &&
               (count == 0 || tokens + pass->sequences[places[done + count]].count <= pass->batch_tokens)) {
            tokens += pass->sequences[places[done + count++]].count;
        }
        if (!cancel_check_now(pass->cancel, error)) {
            return false;
        }
        if (!embed_batch(pass, places + done, count, error)) {
            return error->code == ERROR_NUMERIC ? name_record(pass, places + done, count, error) : false;
        }
        done += count;
        if (!pass->advanced(pass->context, done, pass->count, error)) {
            return false;
        }
    }
    return true;
}
