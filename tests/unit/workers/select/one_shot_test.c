/*
 * Answers behind an example, on small random models: every pair against a forward pass of its own, whole; what an early stop asks against the
 * decisions of nuggets.h on the whole table; the same bits whatever the batch and wherever it stops; leaks, examples cut short, no room.
 */
#include "base/file.h"
#include "base/json.h"
#include "tests/unit/workers/model/fixture.h"
#include "tests/unit/workers/select/plain.h"
#include "workers/select/nuggets.h"
#include "workers/select/one_shot.h"

#include <stdio.h>
#include <unistd.h>

enum { RECORDS = 29, ANCHORS = 41, OWN = 11, LONGEST = 32, VOCAB = 101, CONTEXT = 512 };

/* Candidates, of which one is not valid; anchors: OWN of them, the others of a second set, whose first is a candidate's copy. */
struct scene {
    struct instructions files[2], *lists[2];
    int32_t tokens[RECORDS + ANCHORS][LONGEST], follow[ANCHORS][LONGEST];
    struct candidate items[RECORDS], others[ANCHORS];
    uint32_t valid[RECORDS];
    struct candidates records, targets;
    struct one_shot_anchor anchors[ANCHORS];
};

static void make_record(struct scene *scene, size_t number, struct candidate *item)
{
    const struct rng rng = {.seed = 3, .stream = 8, .step = (uint32_t)number};
    uint32_t prompt = 1 + (uint32_t)rng_below(&rng, 0, 12), response = 1 + (uint32_t)rng_below(&rng, 1, 15);
    for (size_t t = 0; t < prompt + response; t++) {
        scene->tokens[number][t] = (int32_t)rng_below(&rng, 2 + t, VOCAB - 1);
    }
    *item = (struct candidate){.record = (uint32_t)number,
                               .tokens = scene->tokens[number],
                               .prompt_count = prompt,
                               .response_count = response};
}

static void scene_make(struct scene *scene)
{
    *scene = (struct scene){.files = {{.name = "first.jsonl"}, {.name = "second.jsonl"}}};
    scene->lists[0] = &scene->files[0];
    scene->lists[1] = &scene->files[1];
    scene->records = (struct candidates){.sets = scene->lists, .items = scene->items, .valid = scene->valid};
    scene->targets = (struct candidates){.sets = scene->lists + 1, .items = scene->others};
    for (size_t i = 0; i < RECORDS; i++) {
        make_record(scene, i, &scene->items[i]);
        if (i != 6) {
            scene->valid[scene->records.valid_count++] = (uint32_t)i;
        }
    }
    for (size_t j = 0; j < ANCHORS; j++) {
        bool is_own = j % 4 == 0;
        make_record(scene, RECORDS + j, &scene->others[j]);
        const struct candidate *item = is_own ? &scene->items[2 * j / 4 + 1] : &scene->others[j];
        if (j == 1) {
            scene->others[j] = scene->items[9];
            scene->others[j].record = 1;
        }
        size_t count = 1 + item->prompt_count;
        scene->follow[j][0] = 5;
        memcpy(scene->follow[j] + 1, item->tokens, item->prompt_count * sizeof(int32_t));
        scene->anchors[j] = (struct one_shot_anchor){.set = is_own ? &scene->records : &scene->targets,
                                                     .item = item,
                                                     .follow = scene->follow[j],
                                                     .follow_count = count};
    }
}

static const struct candidate *item_of(const struct scene *scene, size_t index)
{
    return &scene->items[scene->valid[index]];
}

/* ---- passes -------------------------------------------------------------------------------------- */

struct setting {
    double threshold, delta;
    size_t context, batch_tokens;
    bool is_stopping; /* after every batch */
};
struct table {
    double zero_shot[ANCHORS], one_shot[RECORDS * ANCHORS];
    struct one_shot_counts counts;
    size_t batches;
};
struct stops {
    bool is_stopping;
    size_t done, batches;
};

static bool advance(void *context, size_t done, size_t total, struct error *error)
{
    struct stops *stops = context;
    assert_true(done > stops->done && done <= total);
    stops->done = done;
    stops->batches++;
    return !stops->is_stopping || error_set(error, ERROR_DRAINED, "stopped");
}

static void run_table(const struct scene *scene, struct model *model, struct setting setting,
                      struct table *ret_table)
{
    FILE *file = tmpfile();
    struct stops stops = {.is_stopping = setting.is_stopping};
    struct one_shot pass = {.model = model,
                            .candidates = &scene->records,
                            .anchors = scene->anchors,
                            .anchor_count = ANCHORS,
                            .threshold = setting.threshold,
                            .delta = setting.delta,
                            .context_tokens = setting.context,
                            .batch_tokens = setting.batch_tokens,
                            .fd = fileno(file),
                            .context = &stops,
                            .advanced = advance};
    size_t count = scene->records.valid_count, steps = one_shot_steps(count, ANCHORS);
    assert_int_equal(ftruncate(pass.fd, (off_t)one_shot_file_bytes(count, ANCHORS)), 0);
    assert_int_equal(steps, ANCHORS + 3 * count);
    while (stops.done < steps) {
        struct error error = {0};
        bool is_good = one_shot_run(&pass, stops.done, &error);
        assert_true(is_good || (setting.is_stopping && error.code == ERROR_DRAINED));
    }
    assert_true(one_shot_read(&pass, ret_table->zero_shot, ret_table->one_shot, &ret_table->counts, NULL));
    ret_table->batches = stops.batches;
    assert_int_equal(fclose(file), 0);
}

/* By one forward pass over all of its tokens. */
static double plain_sum(struct model *model, const int32_t *tokens, size_t count, size_t answer_count)
{
    struct token_sequence sequence = {tokens, count - 1};
    struct token_batch batch = {&sequence, 1};
    OWNED(hidden) hidden = hidden_create(model, &batch, NULL);
    OWNED_MEMORY int32_t *targets = memory_create(count, sizeof *targets);
    OWNED_MEMORY double *losses = memory_create(count, sizeof *losses);
    assert_true(model_embed(model, &batch, hidden, NULL) && model_run_from(model, 0, NULL, hidden, NULL));
    for (size_t t = 0; t + 1 < count; t++) {
        targets[t] = t + 1 >= count - answer_count ? tokens[t + 1] : -1;
    }
    struct target_sequence wanted = {.targets = targets, .nll = losses};
    assert_true(model_nll(model, hidden, &wanted, NULL));
    double sum = 0;
    for (size_t t = 0; t + 1 < count; t++) {
        sum -= losses[t];
    }
    return sum;
}

static double plain_pair(const struct scene *scene, struct model *model, size_t index, size_t j,
                         size_t prefix)
{
    int32_t tokens[4 * LONGEST];
    const struct candidate *item = item_of(scene, index), *answer = scene->anchors[j].item;
    size_t count = prefix + scene->anchors[j].follow_count;
    memcpy(tokens, item->tokens, prefix * sizeof *tokens);
    memcpy(tokens + prefix, scene->anchors[j].follow, scene->anchors[j].follow_count * sizeof *tokens);
    memcpy(tokens + count, answer->tokens + answer->prompt_count, answer->response_count * sizeof *tokens);
    return plain_sum(model, tokens, count + answer->response_count, answer->response_count);
}

static bool is_leak(const struct scene *scene, size_t index, size_t j)
{
    return scene->anchors[j].item->tokens == item_of(scene, index)->tokens;
}

static void assert_same(const struct table *a, const struct table *b)
{
    assert_memory_equal(a->zero_shot, b->zero_shot, sizeof a->zero_shot);
    for (size_t i = 0; i < RECORDS * ANCHORS; i++) {
        assert_true(a->one_shot[i] == b->one_shot[i] || (isnan(a->one_shot[i]) && isnan(b->one_shot[i])));
    }
    assert_memory_equal(&a->counts, &b->counts, sizeof a->counts);
}

/* ---- tests --------------------------------------------------------------------------------------- */

static const char longrope[] =
    ", \"rope_scaling\": {\"rope_type\": \"longrope\", \"original_max_position_embeddings\": 30, \"factor\": 4, "
    "\"short_factor\": [1, 1.1, 1.3], \"long_factor\": [1.2, 2, 3.5]}";

/* Of `context`: every pair that is no leak and has room. */
static void check_whole_table(const struct scene *scene, struct model *model, const struct table *table,
                              size_t context)
{
    struct one_shot_counts counts = {0};
    for (size_t j = 0; j < ANCHORS; j++) {
        const struct candidate *item = scene->anchors[j].item;
        double expected = plain_sum(model, item->tokens, (size_t)item->prompt_count + item->response_count,
                                    item->response_count);
        assert_close(table->zero_shot[j], expected, 1e-4);
    }
    for (size_t i = 0; i < scene->records.valid_count; i++) {
        for (size_t j = 0; j < ANCHORS; j++) {
            const struct candidate *item = item_of(scene, i);
            const struct one_shot_anchor *anchor = &scene->anchors[j];
            double value = table->one_shot[i * ANCHORS + j];
            size_t whole = (size_t)item->prompt_count + item->response_count;
            size_t behind = anchor->follow_count + anchor->item->response_count;
            size_t prefix = whole + behind <= context ? whole : context - behind;
            bool has_room = prefix > item->prompt_count;
            counts.leaks += is_leak(scene, i, j);
            counts.no_room += !is_leak(scene, i, j) && !has_room;
            if (is_leak(scene, i, j) || !has_room) {
                assert_true(isnan(value));
                continue;
            }
            counts.evaluations++;
            counts.cut += prefix < whole;
            assert_close(value, plain_pair(scene, model, i, j, prefix), 1e-4);
        }
    }
    assert_memory_equal(&counts, &table->counts, sizeof counts);
}

static void every_pair_is_what_it_is_by_itself(void **state)
{
    (void)state;
    static struct scene scene;
    static struct table table;
    scene_make(&scene);
    const char *const more[] = {NULL, longrope};
    for (size_t m = 0; m < COUNT_OF(more); m++) {
        struct fixture fixture;
        struct fixture_spec spec = fixture_small;
        spec.more = more[m];
        fixture_open(&spec, "native", 2, &fixture);
        assert_true(model_can_share(fixture.model) == (more[m] == NULL));
        run_table(&scene, fixture.model, (struct setting){.context = CONTEXT, .batch_tokens = 500}, &table);
        check_whole_table(&scene, fixture.model, &table, CONTEXT);
        assert_int_equal(table.counts.leaks, 12);
        assert_true(table.counts.no_room == 0 && table.counts.cut == 0);
        fixture_finish(&fixture);
    }
}

static void examples_are_cut_and_anchors_never(void **state)
{
    (void)state;
    static struct scene scene;
    static struct table table;
    struct fixture fixture;
    scene_make(&scene);
    fixture_open(&fixture_small, "native", 2, &fixture);
    run_table(&scene, fixture.model, (struct setting){.context = 32, .batch_tokens = 500}, &table);
    check_whole_table(&scene, fixture.model, &table, 32);
    assert_true(table.counts.cut > 20 && table.counts.no_room > 20 && table.counts.evaluations > 500);
    fixture_finish(&fixture);
}

static void bits_do_not_depend_on_batches_and_stops(void **state)
{
    (void)state;
    static struct scene scene;
    static struct table first, second;
    struct fixture fixture;
    scene_make(&scene);
    fixture_open(&fixture_small, "native", 2, &fixture);
    const struct setting settings[] = {{0.5, 0, 40, 4000, false}, {0.5, 0, 40, 1, true},
                                       {0.5, 0, 40, 700, true},   {0.5, 0.4, 40, 4000, false},
                                       {0.5, 0.4, 40, 1, true},   {0.5, 0.4, 40, 700, true}};
    for (size_t s = 0; s < COUNT_OF(settings); s++) {
        struct table *to = s % 3 == 0 ? &first : &second;
        run_table(&scene, fixture.model, settings[s], to);
        assert_true(s % 3 == 0 || to->batches > 3);
        if (s % 3 != 0) {
            assert_same(&first, &second);
        }
    }
    fixture_finish(&fixture);
}

/* Of the whole table: which anchors are asked before nuggets_decide has its mind made up, looked at after each round. */
static void what_is_decided_is_asked_no_further(void **state)
{
    (void)state;
    static struct scene scene;
    static struct table whole, early;
    struct fixture fixture;
    size_t stopped = 0, went_on = 0;
    const struct setting setting = {0.6, 0.4, CONTEXT, 900, false};
    scene_make(&scene);
    fixture_open(&fixture_small, "native", 2, &fixture);
    run_table(&scene, fixture.model, (struct setting){0.6, 0, CONTEXT, 900, false}, &whole);
    run_table(&scene, fixture.model, setting, &early);
    for (size_t i = 0; i < scene.records.valid_count; i++) {
        struct nuggets_tally tally = {0};
        bool is_open = true;
        for (size_t j = 0; j < ANCHORS; j++) {
            size_t left = 0;
            for (size_t l = j; l < ANCHORS; l++) {
                left += is_leak(&scene, i, l) ? 0 : 1;
            }
            if (j > 0 && j % ONE_SHOT_ROUND == 0 && is_open) {
                is_open =
                    nuggets_decide(&tally, left, setting.threshold, setting.delta / 2) == NUGGETS_UNDECIDED;
                stopped += is_open ? 0 : 1;
                went_on += is_open ? 1 : 0;
            }
            double value = whole.one_shot[i * ANCHORS + j];
            if (is_open && !is_leak(&scene, i, j)) {
                assert_true(early.one_shot[i * ANCHORS + j] == value);
                tally.anchors++;
                tally.wins += value > whole.zero_shot[j] ? 1 : 0;
            } else {
                assert_true(isnan(early.one_shot[i * ANCHORS + j]));
            }
        }
    }
    assert_true(stopped > 3 && went_on > 3 && early.counts.evaluations < whole.counts.evaluations);
    fixture_finish(&fixture);
}

/* Token VOCAB - 1, which nobody has, becomes no number. */
static void open_spoilt(struct fixture *fixture)
{
    struct fixture_spec spec = fixture_small;
    spec.is_tied = false;
    *fixture = (struct fixture){.folder = fixture_create(&spec), .pool = pool_create(2, NULL)};
    OWNED_MEMORY char *path = file_join(fixture->folder, "model.safetensors");
    size_t count = 0;
    uint64_t header = 0;
    OWNED_MEMORY char *bytes = file_load(path, (size_t)64 << 20, &count, NULL);
    assert_non_null(bytes);
    memcpy(&header, bytes, sizeof header);
    JSON_OWNED json = json_parse(bytes + 8, header, header, NULL);
    const json_t *offsets =
        json_object_get(json_object_get(json, "model.embed_tokens.weight"), "data_offsets");
    size_t row = spec.hidden * sizeof(float);
    size_t at = 8 + header + (size_t)json_integer_value(json_array_get(offsets, 0)) + (VOCAB - 1) * row;
    memset(bytes + at, 0xff, row);
    fixture_write(fixture->folder, "model.safetensors", bytes, count);
    FINISHED(error_list) faults = {0};
    fixture->inventory = inventory_inspect(fixture->folder, false, NULL, &faults);
    const struct model_options options = {.backend = "native", .pool = fixture->pool};
    fixture->model = model_open(fixture->inventory, fixture->folder, &options, NULL);
    assert_non_null(fixture->model);
}

static void what_gives_no_numbers_is_named(void **state)
{
    (void)state;
    static struct scene scene;
    static const char *const names[] = {"first.jsonl, record 13 before ", "first.jsonl, record 6: "};
    static const size_t batches[] = {1, 500, 4000};
    struct fixture fixture;
    open_spoilt(&fixture);
    for (size_t i = 0; i < 2 * COUNT_OF(batches); i++) {
        struct error error = {0};
        struct stops stops = {0};
        FILE *file = tmpfile();
        scene_make(&scene);
        scene.tokens[i % 2 == 0 ? 12 : 5][0] = VOCAB - 1; /* a candidate that is no anchor; one that is */
        const struct one_shot pass = {.model = fixture.model,
                                      .candidates = &scene.records,
                                      .anchors = scene.anchors,
                                      .anchor_count = ANCHORS,
                                      .context_tokens = CONTEXT,
                                      .batch_tokens = batches[i / 2],
                                      .fd = fileno(file),
                                      .context = &stops,
                                      .advanced = advance};
        assert_false(one_shot_run(&pass, 0, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, names[i % 2]));
        stops = (struct stops){0};
        assert_false(one_shot_run(&pass, 0, NULL));
        assert_int_equal(fclose(file), 0);
    }
    fixture_finish(&fixture);
}

struct cancelling {
    struct cancel cancel;
    size_t batches, done;
};

static bool cancel_after_a_batch(void *context, size_t done, size_t total, struct error *error)
{
    (void)error;
    struct cancelling *cancelling = context;
    assert_true(done > 0 && done <= total);
    cancelling->batches++;
    cancelling->done = done;
    cancel_request(&cancelling->cancel, CANCEL_NOW);
    return true;
}

/* Before the first batch, between two of anchors by themselves, and between two of pairs; and what was asked is not read then. */
static void a_pass_that_is_cancelled_says_so(void **state)
{
    (void)state;
    static struct scene scene;
    static struct table table;
    struct fixture fixture;
    FILE *file = tmpfile();
    scene_make(&scene);
    fixture_open(&fixture_small, "native", 2, &fixture);
    struct cancelling cancelling = {0};
    const struct one_shot pass = {.model = fixture.model,
                                  .candidates = &scene.records,
                                  .anchors = scene.anchors,
                                  .anchor_count = ANCHORS,
                                  .context_tokens = CONTEXT,
                                  .batch_tokens = 500,
                                  .fd = fileno(file),
                                  .cancel = &cancelling.cancel,
                                  .context = &cancelling,
                                  .advanced = cancel_after_a_batch};
    size_t count = scene.records.valid_count;
    assert_int_equal(ftruncate(pass.fd, (off_t)one_shot_file_bytes(count, ANCHORS)), 0);
    const struct {
        bool is_cancelled;
        size_t done, batches;
    } tries[] = {{true, 0, 0}, {false, 0, 1}, {false, ANCHORS, 1}, {true, one_shot_steps(count, ANCHORS), 0}};
    for (size_t t = 0; t < COUNT_OF(tries); t++) {
        struct error error = {0};
        cancelling = (struct cancelling){.done = tries[t].done};
        if (tries[t].is_cancelled) {
            cancel_request(&cancelling.cancel, CANCEL_NOW);
        }
        assert_false(one_shot_run(&pass, tries[t].done, &error));
        assert_int_equal(error.code, ERROR_CANCELLED);
        assert_int_equal(cancelling.batches, tries[t].batches);
        assert_true(tries[t].done > 0 || cancelling.done < ANCHORS);
        error = (struct error){0};
        assert_false(one_shot_read(&pass, table.zero_shot, table.one_shot, &table.counts, &error));
        assert_int_equal(error.code, ERROR_CANCELLED);
    }
    assert_int_equal(fclose(file), 0);
    fixture_finish(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_is_what_it_is_by_itself),
        cmocka_unit_test(examples_are_cut_and_anchors_never),
        cmocka_unit_test(bits_do_not_depend_on_batches_and_stops),
        cmocka_unit_test(what_is_decided_is_asked_no_further),
        cmocka_unit_test(what_gives_no_numbers_is_named),
        cmocka_unit_test(a_pass_that_is_cancelled_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
