/*
 * tests/unit/workers/select/measure_families_test.c: passes over a small random model of every family: what is measured in batches is what the
 * record gives by itself, and the original's states, kept, make the same predictions again. Encoders give the mean of their states.
 */
#include "tests/unit/workers/model/golden.h"
#include "tests/unit/workers/select/passes.h"
#include "workers/select/embed.h"

static const char *const backends[] = {"reference", "openblas", "native"};

/* ---- encoders ---------------------------------------------------------------------------------------------------- */

struct encoding {
    float *vectors; /* owned, [count, size] */
    size_t batches;
};

static struct encoding encode(struct model *model, const struct token_sequence *sequences, size_t count,
                              struct setting setting)
{
    size_t size = model_get_config(model)->hidden_size;
    OWNED_FD int fd = open_file();
    struct stops stops = {.is_stopping = setting.is_stopping};
    const struct embed_pass run = {.encoder = model,
                                   .sequences = sequences,
                                   .count = count,
                                   .batch_tokens = setting.batch_tokens,
                                   .fd = fd,
                                   .context = &stops,
                                   .advanced = advance};
    while (stops.done < count) {
        struct error error = {0};
        assert_true(embed_sequences(&run, stops.done, &error) || error.code == ERROR_DRAINED);
    }
    struct encoding encoding = {memory_create(count * size + 1, sizeof(float)), stops.batches};
    assert_true(file_read_at(fd, encoding.vectors, count * size * sizeof(float), 0, "vectors", NULL));
    return encoding;
}

static void check_encoder(const struct golden *golden)
{
    static const struct setting settings[] = {{64, false}, {1, false}, {ALL, false}, {1, true}, {30, true}};
    for (size_t b = 0; b < COUNT_OF(backends); b++) {
        OWNED_MEMORY float *first = NULL;
        for (size_t threads = 1; threads <= 7; threads += 6) {
            struct pool *pool = pool_create(threads, NULL);
            struct model *model = golden_open_model(golden, pool, backends[b], 0);
            if (model == NULL) {
                pool_destroy(pool);
                continue;
            }
            size_t size = model_get_config(model)->hidden_size, count = golden->batch.sequence_count;
            for (size_t s = 0; s < COUNT_OF(settings); s++) {
                struct encoding encoding = encode(model, golden->sequences, count, settings[s]);
                assert_true(settings[s].batch_tokens != 1 || encoding.batches == count);
                if (first == NULL) {
                    first = encoding.vectors;
                    continue;
                }
                assert_memory_equal(encoding.vectors, first, count * size * sizeof *first);
                free(encoding.vectors);
            }
            OWNED_MEMORY float *alone = memory_create(size, sizeof *alone);
            for (size_t i = 0; i < count; i++) {
                OWNED(hidden)
                hidden = run_alone(model, golden->sequences[i].tokens, golden->sequences[i].count);
                assert_true(model_mean_pool(hidden, 0, true, alone, NULL));
                assert_memory_equal(alone, first + i * size, size * sizeof *alone);
            }
            model_destroy(model);
            pool_destroy(pool);
        }
    }
}

/* ---- decoders ---------------------------------------------------------------------------------------------------- */

static void check_losses(const struct records *records, struct model *model, const double *losses)
{
    for (size_t v = 0; v < records->candidates.valid_count; v++) {
        const struct candidate *item = valid_item(records, v);
        size_t count = item->prompt_count + item->response_count - 1;
        int32_t targets[LONGEST];
        double nll[LONGEST], sum = 0;
        for (size_t t = 0; t < count; t++) {
            targets[t] = t + 1 < item->prompt_count ? -1 : item->tokens[t + 1];
        }
        struct target_sequence target = {.targets = targets, .nll = nll};
        OWNED(hidden) hidden = run_alone(model, item->tokens, count);
        assert_true(model_nll(model, hidden, &target, NULL));
        for (size_t t = item->prompt_count - 1; t < count; t++) {
            sum += nll[t];
        }
        assert_close(losses[v], sum / item->response_count, 1e-12);
    }
}

/* Compared with its twin: nothing differs, so what was kept of it is what it says in another pass. */
static void check_decoder(const struct golden *golden, const char *backend)
{
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    struct pool *pool = pool_create(2, NULL);
    struct model *model = golden_open_model(golden, pool, backend, 0);
    struct pass one, many, again;
    if (model == NULL) {
        pool_destroy(pool);
        return;
    }
    struct model *twin = golden_open_model(golden, pool, backend, 0);
    struct measure_request compare = all_of_one;
    compare.damage = MEASURE_JSD;
    make_records(records, golden->width);
    run_pass(records, model, &all_of_one, (struct setting){1, true}, NULL, NULL, &one);
    run_pass(records, model, &all_of_one, (struct setting){100, false}, NULL, NULL, &many);
    run_pass(records, model, &compare, (struct setting){70, true}, twin, &one, &again);
    OWNED_MEMORY char *first = read_bytes(&one);
    OWNED_MEMORY char *second = read_bytes(&many);
    assert_memory_equal(first, second, one.layout.bytes);
    size_t count = records->candidates.valid_count;
    OWNED_MEMORY double *losses = read_column(&one, one.layout.losses, count);
    OWNED_MEMORY double *damages = read_column(&again, again.layout.damages, count);
    check_losses(records, model, losses);
    for (size_t v = 0; v < count; v++) {
        assert_true(damages[v] == 0.0);
    }
    close_pass(&one);
    close_pass(&many);
    close_pass(&again);
    measure_order_finish(&records->order);
    model_destroy(twin);
    model_destroy(model);
    pool_destroy(pool);
}

static void a_family_is_measured_in_batches_as_by_itself(void **state)
{
    const struct golden *golden = *state;
    if (golden->is_encoder) {
        check_encoder(golden);
        return;
    }
    for (size_t b = 0; b < COUNT_OF(backends); b++) {
        check_decoder(golden, backends[b]);
    }
}

int main(void)
{
    return golden_test_all("workers/select/measure_families", a_family_is_measured_in_batches_as_by_itself);
}
