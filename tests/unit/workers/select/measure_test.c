/*
 * tests/unit/workers/select/measure_test.c: what models say of records, against plain arithmetic in double over all logits of one record at a
 * time; the same bytes with any batches, threads, backends' tiles and stops; and what is no number is named.
 */
#include "tests/unit/workers/model/fixture.h"
#include "tests/unit/workers/select/passes.h"
#include "workers/select/embed.h"

#include "base/json.h"

enum { VOCAB = 101 };

static const struct fixture_spec deep = {
    .layers = 3, .hidden = 24, .heads = 4, .kv_heads = 2, .head_size = 6, .ffn = 40, .vocab = VOCAB};
/* Its layers are the first of the other's, its head is not. */
static const struct fixture_spec shallow = {
    .layers = 2, .hidden = 24, .heads = 4, .kv_heads = 2, .head_size = 6, .ffn = 40, .vocab = VOCAB};
static const struct fixture_spec narrow = {
    .layers = 2, .hidden = 18, .heads = 3, .kv_heads = 3, .head_size = 6, .ffn = 20, .vocab = VOCAB - 11};

/* ---- plain arithmetic -------------------------------------------------------------------------------------------- */

/* log p of every token of a response after `before` tokens, double [response_count, vocab]; of the first `vocab` ids, made whole over them. */
static double *take_logs(struct model *model, const int32_t *tokens, size_t before, size_t response_count,
                         size_t vocab)
{
    size_t all = model_get_config(model)->vocab_size;
    OWNED(hidden) hidden = run_alone(model, tokens, before + response_count - 1);
    OWNED_MEMORY float *logits = memory_create(response_count * all, sizeof *logits);
    double *logs = memory_create(response_count * vocab, sizeof *logs);
    assert_true(model_logits(model, hidden, 0, before - 1, response_count, logits, NULL));
    for (size_t t = 0; t < response_count; t++) {
        double sum = 0;
        for (size_t v = 0; v < vocab; v++) {
            sum += exp((double)logits[t * all + v]);
        }
        for (size_t v = 0; v < vocab; v++) {
            logs[t * vocab + v] = (double)logits[t * all + v] - log(sum);
        }
    }
    return logs;
}

static double plain_loss(const double *logs, const int32_t *targets, size_t count, size_t vocab)
{
    double sum = 0;
    for (size_t t = 0; t < count; t++) {
        sum -= logs[t * vocab + (size_t)targets[t]];
    }
    return sum / (double)count;
}

static double plain_el2n(const double *logs, const int32_t *targets, size_t count, size_t vocab)
{
    double sum = 0;
    for (size_t t = 0; t < count; t++) {
        double square = 0;
        for (size_t v = 0; v < vocab; v++) {
            double far = exp(logs[t * vocab + v]) - (v == (size_t)targets[t] ? 1 : 0);
            square += far * far;
        }
        sum += sqrt(square);
    }
    return sum / (double)count;
}

static double plain_entropy(const double *logs, size_t count, size_t vocab)
{
    double sum = 0;
    for (size_t i = 0; i < count * vocab; i++) {
        sum -= exp(logs[i]) * logs[i];
    }
    return sum / (double)count;
}

static double plain_divergence(const double *p, const double *q, size_t count, size_t vocab, bool is_kl)
{
    double sum = 0;
    for (size_t i = 0; i < count * vocab; i++) {
        double middle = log((exp(p[i]) + exp(q[i])) / 2);
        sum += is_kl ? exp(p[i]) * (p[i] - q[i])
                     : 0.5 * exp(p[i]) * (p[i] - middle) + 0.5 * exp(q[i]) * (q[i] - middle);
    }
    return sum / (double)count;
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

static const char *const backends[] = {"reference", "openblas", "native"};

static void check_pool(const struct records *records, size_t v, const struct hidden *hidden,
                       const float *pool)
{
    const struct candidate *item = valid_item(records, v);
    size_t size = hidden->hidden_size, first = item->prompt_count > COMMON ? COMMON : 0;
    OWNED_MEMORY float *rows = memory_create(item->prompt_count * size, sizeof *rows);
    assert_true(hidden_read(hidden, 0, item->prompt_count, rows, NULL));
    for (size_t c = 0; c < size; c++) {
        double sum = 0;
        for (size_t t = first; t < item->prompt_count; t++) {
            sum += (double)rows[t * size + c];
        }
        assert_close((double)pool[c], sum / (double)(item->prompt_count - first), 1e-6);
    }
}

/* The pass's states are those of the record by itself, bit by bit. */
static void check_states(const struct records *records, size_t at, const struct hidden *hidden,
                         const float *states)
{
    const struct candidate *item = valid_item(records, records->order.order[at]);
    size_t size = hidden->hidden_size;
    OWNED_MEMORY float *rows = memory_create(item->response_count * size, sizeof *rows);
    assert_true(hidden_read(hidden, item->prompt_count - 1, item->response_count, rows, NULL));
    assert_memory_equal(states + records->order.first_rows[at] * size, rows,
                        item->response_count * size * sizeof *rows);
}

static void check_of_one(const char *backend)
{
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    struct fixture fixture;
    struct pass pass;
    make_records(records, VOCAB);
    fixture_open(&deep, backend, 2, &fixture);
    run_pass(records, fixture.model, &all_of_one, (struct setting){64, false}, NULL, NULL, &pass);
    assert_true(pass.batches > 3);
    size_t count = records->candidates.valid_count;
    OWNED_MEMORY char *bytes = read_bytes(&pass);
    OWNED_MEMORY double *losses = read_column(&pass, pass.layout.losses, count);
    OWNED_MEMORY double *alone = read_column(&pass, pass.layout.alone, count);
    OWNED_MEMORY double *el2n = read_column(&pass, pass.layout.el2n, count);
    OWNED_MEMORY double *entropies = read_column(&pass, pass.layout.entropies, count);
    const float *pools = (const float *)(const void *)(bytes + pass.layout.pools);
    const float *states = (const float *)(const void *)(bytes + pass.layout.states);
    for (size_t at = 0; at < count; at++) {
        size_t v = records->order.order[at];
        const struct candidate *item = valid_item(records, v);
        const int32_t *response = item->tokens + item->prompt_count;
        OWNED_MEMORY double *logs =
            take_logs(fixture.model, item->tokens, item->prompt_count, item->response_count, VOCAB);
        assert_close(losses[v], plain_loss(logs, response, item->response_count, VOCAB), 1e-5);
        assert_close(el2n[v], plain_el2n(logs, response, item->response_count, VOCAB), 1e-5);
        assert_close(entropies[v], plain_entropy(logs, item->response_count, VOCAB), 1e-5);
        int32_t after_lone[LONGEST + COUNT_OF(lone)] = {lone[0], lone[1]};
        memcpy(after_lone + COUNT_OF(lone), response, item->response_count * sizeof *response);
        OWNED_MEMORY double *lone_logs =
            take_logs(fixture.model, after_lone, COUNT_OF(lone), item->response_count, VOCAB);
        assert_close(alone[v], plain_loss(lone_logs, response, item->response_count, VOCAB), 1e-5);
        OWNED(hidden)
        hidden = run_alone(fixture.model, item->tokens, item->prompt_count + item->response_count - 1);
        check_pool(records, v, hidden, pools + v * deep.hidden);
        check_states(records, at, hidden, states);
    }
    close_pass(&pass);
    measure_order_finish(&records->order);
    fixture_finish(&fixture);
}

static void one_model_is_measured_as_by_hand(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT_OF(backends); b++) {
        check_of_one(backends[b]);
    }
}

static void check_damages(const char *backend, const struct fixture_spec *pruned_spec,
                          enum measure_damage damage)
{
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    struct fixture original, pruned;
    struct pass kept, pass;
    size_t vocab = pruned_spec->vocab < VOCAB ? pruned_spec->vocab : VOCAB;
    const struct measure_request states = {.states = true}, compare = {.losses = true, .damage = damage};
    make_records(records, vocab);
    fixture_open(&deep, backend, 1, &original);
    fixture_open(pruned_spec, backend, 2, &pruned);
    run_pass(records, original.model, &states, (struct setting){50, false}, NULL, NULL, &kept);
    run_pass(records, pruned.model, &compare, (struct setting){90, false}, original.model, &kept, &pass);
    size_t count = records->candidates.valid_count;
    OWNED_MEMORY double *damages = read_column(&pass, pass.layout.damages, count);
    OWNED_MEMORY double *entropies = read_column(&pass, pass.layout.entropies, count);
    OWNED_MEMORY double *losses = read_column(&pass, pass.layout.losses, count);
    for (size_t v = 0; v < count; v++) {
        const struct candidate *item = valid_item(records, v);
        size_t before = item->prompt_count, rows = item->response_count;
        OWNED_MEMORY double *p = take_logs(original.model, item->tokens, before, rows, vocab);
        OWNED_MEMORY double *q = take_logs(pruned.model, item->tokens, before, rows, vocab);
        assert_true(damages[v] > 0);
        assert_close(damages[v], plain_divergence(p, q, rows, vocab, damage == MEASURE_KL), 1e-5);
        assert_close(entropies[v], plain_entropy(p, rows, vocab), 1e-5);
        OWNED_MEMORY double *own = take_logs(pruned.model, item->tokens, before, rows, pruned_spec->vocab);
        assert_close(losses[v], plain_loss(own, item->tokens + before, rows, pruned_spec->vocab), 1e-5);
    }
    close_pass(&kept);
    close_pass(&pass);
    measure_order_finish(&records->order);
    fixture_finish(&original);
    fixture_finish(&pruned);
}

static void two_models_are_compared_as_by_hand(void **state)
{
    (void)state;
    for (size_t b = 0; b < COUNT_OF(backends); b++) {
        check_damages(backends[b], &shallow, MEASURE_JSD);
        check_damages(backends[b], &shallow, MEASURE_KL);
    }
}

static void a_shorter_vocabulary_is_compared_over_what_both_have(void **state)
{
    (void)state;
    check_damages("native", &narrow, MEASURE_JSD);
    check_damages("openblas", &narrow, MEASURE_KL);
}

/* Threads 1 and 7; a token, 64 and everything in a batch; stopped after each batch: one file. */
static void batches_threads_and_stops_change_no_byte(void **state)
{
    (void)state;
    static const size_t threads[] = {1, 7};
    static const struct setting settings[] = {{64, false}, {1, false}, {ALL, false}, {64, true}, {1, true}};
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    make_records(records, VOCAB);
    for (size_t b = 0; b < COUNT_OF(backends); b++) {
        char *first[2] = {NULL, NULL};
        uint64_t bytes[2] = {0, 0};
        for (size_t t = 0; t < COUNT_OF(threads); t++) {
            struct fixture original, pruned;
            fixture_open(&deep, backends[b], threads[t], &original);
            fixture_open(&shallow, backends[b], threads[t], &pruned);
            for (size_t s = 0; s < COUNT_OF(settings); s++) {
                struct pass passes[2];
                struct measure_request compare = all_of_one;
                compare.damage = MEASURE_JSD;
                run_pass(records, original.model, &all_of_one, settings[s], NULL, NULL, &passes[0]);
                run_pass(records, pruned.model, &compare, settings[s], original.model, &passes[0],
                         &passes[1]);
                assert_int_equal(passes[0].batches, settings[s].batch_tokens == 1     ? RECORDS - 3
                                                    : settings[s].batch_tokens == ALL ? 1
                                                                                      : passes[1].batches);
                for (size_t p = 0; p < 2; p++) {
                    char *found = read_bytes(&passes[p]);
                    if (first[p] == NULL) {
                        first[p] = found;
                        bytes[p] = passes[p].layout.bytes;
                    } else {
                        assert_memory_equal(found, first[p], bytes[p]);
                        free(found);
                    }
                }
                close_pass(&passes[0]);
                close_pass(&passes[1]);
            }
            fixture_finish(&original);
            fixture_finish(&pruned);
        }
        free(first[0]);
        free(first[1]);
    }
    measure_order_finish(&records->order);
}

/* What is asked beside a figure does not change it. */
static void each_figure_by_itself_is_the_same(void **state)
{
    (void)state;
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    struct fixture fixture;
    struct pass whole;
    make_records(records, VOCAB);
    fixture_open(&deep, "native", 2, &fixture);
    run_pass(records, fixture.model, &all_of_one, (struct setting){64, false}, NULL, NULL, &whole);
    OWNED_MEMORY char *bytes = read_bytes(&whole);
    const struct measure_request requests[] = {
        {.pools = true},   {.losses = true}, {.losses = true, .token_losses = true},
        {.alone = true},   {.el2n = true},   {.entropies = true},
        {.efforts = true}, {.states = true}};
    /* Losses of tokens lie behind those of records. */
    const uint64_t offsets[] = {whole.layout.pools,   whole.layout.losses, whole.layout.losses,
                                whole.layout.alone,   whole.layout.el2n,   whole.layout.entropies,
                                whole.layout.efforts, whole.layout.states};
    for (size_t r = 0; r < COUNT_OF(requests); r++) {
        struct pass one;
        run_pass(records, fixture.model, &requests[r], (struct setting){64, false}, NULL, NULL, &one);
        OWNED_MEMORY char *found = read_bytes(&one);
        assert_memory_equal(found, bytes + offsets[r], one.layout.bytes);
        close_pass(&one);
    }
    close_pass(&whole);
    measure_order_finish(&records->order);
    fixture_finish(&fixture);
}

static void a_model_does_not_differ_from_itself(void **state)
{
    (void)state;
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    make_records(records, VOCAB);
    for (size_t b = 0; b < COUNT_OF(backends); b++) {
        for (enum measure_damage damage = MEASURE_JSD; damage <= MEASURE_KL; damage++) {
            struct fixture original, copy;
            struct pass kept, pass;
            const struct measure_request states = {.states = true}, compare = {.damage = damage};
            fixture_open(&deep, backends[b], 1, &original);
            fixture_open(&deep, backends[b], 7, &copy);
            run_pass(records, original.model, &states, (struct setting){ALL, false}, NULL, NULL, &kept);
            run_pass(records, copy.model, &compare, (struct setting){1, false}, original.model, &kept, &pass);
            OWNED_MEMORY double *damages =
                read_column(&pass, pass.layout.damages, records->candidates.valid_count);
            for (size_t v = 0; v < records->candidates.valid_count; v++) {
                assert_true(damages[v] == 0.0);
            }
            close_pass(&kept);
            close_pass(&pass);
            fixture_finish(&original);
            fixture_finish(&copy);
        }
    }
    measure_order_finish(&records->order);
}

/* ---- what is no number ------------------------------------------------------------------------------------------- */

/* Makes a row of the embeddings NaN in the file. */
static void spoil_embedding(const char *folder, int32_t token, size_t hidden)
{
    OWNED_MEMORY char *path = file_join(folder, "model.safetensors");
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(path, (size_t)64 << 20, &count, NULL);
    uint64_t header = 0;
    assert_non_null(bytes);
    memcpy(&header, bytes, sizeof header);
    JSON_OWNED json = json_parse(bytes + 8, header, header, NULL);
    const json_t *offsets =
        json_object_get(json_object_get(json, "model.embed_tokens.weight"), "data_offsets");
    assert_int_equal(json_array_size(offsets), 2);
    size_t at = 8 + header + (size_t)json_integer_value(json_array_get(offsets, 0)) +
                (size_t)token * hidden * sizeof(float);
    for (size_t c = 0; c < hidden; c++) {
        const float none = NAN;
        memcpy(bytes + at + c * sizeof none, &none, sizeof none);
    }
    fixture_write(folder, "model.safetensors", bytes, count);
}

/* Only records->items[18] (record 4 of second.jsonl) has this token, in its prompt and in its response. */
static int32_t mark_record(struct records *records)
{
    const int32_t token = VOCAB - 1;
    for (size_t i = 0; i < RECORDS; i++) {
        for (size_t t = 0; t < LONGEST; t++) {
            records->tokens[i][t] -= records->tokens[i][t] == token ? 1 : 0;
        }
    }
    assert_int_equal(records->items[18].status, CANDIDATE_VALID);
    assert_true(records->items[18].prompt_count > COMMON && records->items[18].response_count > 1);
    records->tokens[18][COMMON] = records->tokens[18][records->items[18].prompt_count] = token;
    return token;
}

/* `token` is no number to it. */
static void open_broken(int32_t token, struct fixture *ret_broken)
{
    struct fixture broken;
    FINISHED(error_list) faults = {0};
    fixture_open(&shallow, "native", 2, &broken);
    spoil_embedding(broken.folder, token, shallow.hidden);
    model_destroy(broken.model);
    inventory_destroy(broken.inventory);
    broken.inventory = inventory_inspect(broken.folder, false, NULL, &faults);
    assert_non_null(broken.inventory);
    const struct model_options options = {.backend = "native", .pool = broken.pool};
    broken.model = model_open(broken.inventory, broken.folder, &options, NULL);
    assert_non_null(broken.model);
    *ret_broken = broken;
}

static void a_record_that_gives_no_numbers_is_named(void **state)
{
    (void)state;
    const struct measure_request requests[] = {
        {.losses = true}, {.el2n = true},    {.entropies = true},     {.alone = true},
        {.pools = true},  {.efforts = true}, {.damage = MEASURE_JSD}, {.damage = MEASURE_KL}};
    static const size_t batches[] = {1, 64, ALL};
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    make_records(records, VOCAB);
    struct fixture original, broken;
    struct pass kept;
    fixture_open(&deep, "native", 2, &original);
    open_broken(mark_record(records), &broken);
    run_pass(records, original.model, &(struct measure_request){.states = true}, (struct setting){64, false},
             NULL, NULL, &kept);
    for (size_t r = 0; r < COUNT_OF(requests); r++) {
        for (size_t b = 0; b < COUNT_OF(batches); b++) {
            struct stops stops = {0};
            struct error error = {0};
            OWNED_FD int fd = open_file();
            const struct measure_pass run = {.model = broken.model,
                                             .order = &records->order,
                                             .request = requests[r],
                                             .fd = fd,
                                             .original = original.model,
                                             .original_fd = kept.fd,
                                             .original_states = kept.layout.states,
                                             .lone_prompt = lone,
                                             .lone_count = COUNT_OF(lone),
                                             .batch_tokens = batches[b],
                                             .context = &stops,
                                             .advanced = advance};
            assert_false(measure_run(&run, 0, &error));
            assert_int_equal(error.code, ERROR_NUMERIC);
            assert_non_null(strstr(error.message, "second.jsonl, record 4: "));
            assert_false(measure_run(&run, stops.done, NULL)); /* and nothing is written where nobody asks */
        }
    }
    close_pass(&kept);
    measure_order_finish(&records->order);
    fixture_finish(&original);
    fixture_finish(&broken);
}

static void a_record_that_an_encoder_gives_no_numbers_is_named(void **state)
{
    (void)state;
    static const size_t batches[] = {1, 64, ALL};
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    struct token_sequence sequences[RECORDS];
    struct fixture broken;
    make_records(records, VOCAB);
    open_broken(mark_record(records), &broken);
    for (size_t v = 0; v < records->candidates.valid_count; v++) {
        const struct candidate *item = valid_item(records, v);
        sequences[v] = (struct token_sequence){item->tokens, item->prompt_count};
    }
    for (size_t b = 0; b < COUNT_OF(batches); b++) {
        struct stops stops = {0};
        struct error error = {0};
        OWNED_FD int fd = open_file();
        const struct embed_pass run = {.encoder = broken.model,
                                       .candidates = &records->candidates,
                                       .sequences = sequences,
                                       .count = records->candidates.valid_count,
                                       .batch_tokens = batches[b],
                                       .fd = fd,
                                       .context = &stops,
                                       .advanced = advance};
        assert_false(embed_sequences(&run, 0, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, "second.jsonl, record 4: "));
        assert_false(embed_sequences(&run, stops.done, NULL));
    }
    measure_order_finish(&records->order);
    fixture_finish(&broken);
}

/* Layers refuse what is no number, but not the norm after the last one. */
static void a_mean_that_is_no_number_is_refused(void **state)
{
    (void)state;
    const float wrong[] = {NAN, INFINITY, -INFINITY};
    const int32_t tokens[] = {1, 2, 3, 4, 5};
    struct fixture fixture;
    fixture_open(&deep, "native", 1, &fixture);
    OWNED_MEMORY float *pool = memory_create(deep.hidden, sizeof *pool);
    OWNED_MEMORY float *row = memory_create(deep.hidden, sizeof *row);
    struct token_sequence sequences[] = {{tokens, 2}, {tokens + 2, 3}};
    const struct token_batch batch = {sequences, COUNT_OF(sequences)};
    for (size_t w = 0; w < COUNT_OF(wrong); w++) {
        for (size_t is_normalised = 0; is_normalised < 2; is_normalised++) {
            struct error error = {0};
            OWNED(hidden) hidden = model_run_batch(fixture.model, &batch, NULL, NULL);
            assert_non_null(hidden);
            assert_true(model_mean_pool(hidden, 1, is_normalised == 1, pool, NULL));
            row[7] = wrong[w];
            assert_true(hidden_write(hidden, 3, 1, row, NULL));
            assert_true(model_mean_pool(hidden, 0, is_normalised == 1, pool, NULL));
            assert_false(model_mean_pool(hidden, 1, is_normalised == 1, pool, &error));
            assert_int_equal(error.code, ERROR_NUMERIC);
            assert_non_null(strstr(error.message, "sequence 1"));
        }
    }
    fixture_finish(&fixture);
}

static void a_pass_can_be_cancelled(void **state)
{
    (void)state;
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    struct fixture fixture;
    struct cancel cancel = {0};
    struct stops stops = {0};
    struct error error = {0};
    make_records(records, VOCAB);
    fixture_open(&deep, "native", 1, &fixture);
    OWNED_FD int fd = open_file();
    const struct measure_pass run = {.model = fixture.model,
                                     .order = &records->order,
                                     .request = {.losses = true},
                                     .fd = fd,
                                     .batch_tokens = 64,
                                     .cancel = &cancel,
                                     .context = &stops,
                                     .advanced = advance};
    cancel_request(&cancel, CANCEL_DRAIN);
    assert_true(measure_run(&run, 0, &error)); /* who drains is asked after each batch */
    cancel_request(&cancel, CANCEL_NOW);
    stops = (struct stops){0};
    assert_false(measure_run(&run, 0, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    assert_int_equal(stops.done, 0);
    assert_true(measure_run(&run, records->candidates.valid_count, &error)); /* nothing is left to do */
    measure_order_finish(&records->order);
    fixture_finish(&fixture);
}

/* ---- order and layout -------------------------------------------------------------------------------------------- */

static void the_longest_come_first_and_parts_do_not_overlap(void **state)
{
    (void)state;
    OWNED_MEMORY struct records *records = memory_create(1, sizeof *records);
    struct measure_layout layout;
    make_records(records, VOCAB);
    const struct measure_order *order = &records->order;
    size_t count = records->candidates.valid_count, rows = 0;
    bool seen[RECORDS] = {false};
    for (size_t at = 0; at < count; at++) {
        const struct candidate *item = valid_item(records, order->order[at]);
        assert_false(seen[order->order[at]]);
        seen[order->order[at]] = true;
        assert_int_equal(order->first_rows[at], rows);
        rows += item->response_count;
        if (at > 0) {
            const struct candidate *before = valid_item(records, order->order[at - 1]);
            uint32_t longer = before->prompt_count + before->response_count;
            uint32_t shorter = item->prompt_count + item->response_count;
            assert_true(longer > shorter || (longer == shorter && order->order[at - 1] < order->order[at]));
        }
    }
    assert_int_equal(order->first_rows[count], rows);
    const struct measure_request some = {.losses = true, .states = true, .damage = MEASURE_DELTA_NLL};
    measure_lay_out(&some, order, 24, &layout);
    assert_true(layout.pools == UINT64_MAX && layout.alone == UINT64_MAX && layout.el2n == UINT64_MAX);
    assert_true(layout.damages == UINT64_MAX && layout.entropies == UINT64_MAX);
    assert_int_equal(layout.losses, 0);
    assert_int_equal(layout.states, count * sizeof(double));
    assert_int_equal(layout.bytes, count * sizeof(double) + rows * 24 * sizeof(float));
    measure_lay_out(&(struct measure_request){0}, order, 24, &layout);
    assert_int_equal(layout.bytes, 0);
    measure_order_finish(&records->order);
    struct candidates none = {0};
    struct measure_order empty;
    assert_true(measure_order_make(&none, &empty, NULL));
    measure_lay_out(&all_of_one, &empty, 24, &layout);
    assert_int_equal(layout.bytes, 0);
    measure_order_finish(&empty);
}

/* What is held of the original is as wide as the original. */
static void memory_is_counted_by_whose_states_they_are(void **state)
{
    (void)state;
    enum { BATCH = 1000, LONG = 100, ROW = 64 * sizeof(float) };
    const struct model_config config = {.hidden_size = 64, .vocab_size = 10};
    const struct model_config wide = {.hidden_size = 640, .vocab_size = 10};
    const struct model_config branched = {.hidden_size = 640, .vocab_size = 10, .is_parallel = true};
    const struct measure_request compare = {.losses = true, .damage = MEASURE_KL}, losses = {.losses = true};
    const struct measure_request more = {.losses = true, .states = true, .alone = true};
    uint64_t one = measure_bytes(&config, NULL, &losses, BATCH, LONG);
    assert_true(one >= 2 * BATCH * ROW); /* whole, and responses */
    assert_int_equal(measure_bytes(&config, NULL, &more, BATCH, LONG), one);
    assert_int_equal(measure_bytes(&config, NULL, &losses, LONG, BATCH), one);
    uint64_t same = measure_bytes(&config, &config, &compare, BATCH, LONG);
    assert_true(same >= 3 * BATCH * ROW);
    assert_int_equal(measure_bytes(&config, &wide, &compare, BATCH, LONG), same + BATCH * 2 * 9 * ROW);
    assert_int_equal(measure_bytes(&config, &branched, &compare, BATCH, LONG),
                     same + BATCH * (2 * 9 + 10) * ROW);
}

static void damages_have_names(void **state)
{
    (void)state;
    assert_int_equal(measure_damage_parse(NULL), MEASURE_NO_DAMAGE);
    assert_int_equal(measure_damage_parse("jsd"), MEASURE_JSD);
    assert_int_equal(measure_damage_parse("kl"), MEASURE_KL);
    assert_int_equal(measure_damage_parse("delta_nll"), MEASURE_DELTA_NLL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_model_is_measured_as_by_hand),
        cmocka_unit_test(two_models_are_compared_as_by_hand),
        cmocka_unit_test(a_shorter_vocabulary_is_compared_over_what_both_have),
        cmocka_unit_test(batches_threads_and_stops_change_no_byte),
        cmocka_unit_test(each_figure_by_itself_is_the_same),
        cmocka_unit_test(a_model_does_not_differ_from_itself),
        cmocka_unit_test(a_record_that_gives_no_numbers_is_named),
        cmocka_unit_test(a_record_that_an_encoder_gives_no_numbers_is_named),
        cmocka_unit_test(a_mean_that_is_no_number_is_refused),
        cmocka_unit_test(a_pass_can_be_cancelled),
        cmocka_unit_test(the_longest_come_first_and_parts_do_not_overlap),
        cmocka_unit_test(memory_is_counted_by_whose_states_they_are),
        cmocka_unit_test(damages_have_names),
    };
    return cmocka_run_group_tests_name("workers/select/measure", tests, NULL, NULL);
}
