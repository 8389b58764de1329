/*
 * tests/unit/workers/data/candidates_test.c: records as tokens, and which of them can be chosen. The tokenizer is one of bytes (256 is BOS, and what
 * ends a text), so that every token can be counted by eye.
 */
#include "tests/unit/workers/data/fixture.h"
#include "workers/data/candidates.h"

#include "base/rng.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
enum { BOS = 256 };

/* Sets from JSONL texts, and the options for them. */
struct world {
    struct instructions *sets[4];
    struct tokenizer *tokenizer;
    struct model_config *config;
    struct pool *pool;
    struct candidates_options options;
};

static struct world open_world(const char *const *texts, size_t count, bool with_bos, size_t threads)
{
    static const char *const names[] = {"a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"};
    struct world world = {.tokenizer = fixture_byte_tokenizer(with_bos),
                          .config = memory_create(1, sizeof *world.config),
                          .pool = pool_create(threads, NULL)};
    for (size_t i = 0; i < count; i++) {
        struct error error = {0};
        const struct instructions_options options = {.path = fixture_text(names[i], texts[i])};
        world.sets[i] = instructions_load(&options, &error);
        if (world.sets[i] == NULL) {
            fail_msg("%s", error.message);
        }
    }
    world.config->vocab_size = 257;
    world.config->eos_tokens[0] = BOS;
    world.config->eos_token_count = 1;
    world.options = (struct candidates_options){.set_count = count,
                                                .form = instruction_template_find("plain"),
                                                .tokenizer = world.tokenizer,
                                                .config = world.config,
                                                .max_tokens = 64,
                                                .pool = world.pool};
    return world;
}

static void close_world(struct world *world)
{
    for (size_t i = 0; i < COUNT_OF(world->sets); i++) {
        instructions_destroy(world->sets[i]);
    }
    tokenizer_destroy(world->tokenizer);
    free(world->config);
    pool_destroy(world->pool);
}

static struct candidates *create(struct world *world)
{
    struct error error = {0};
    world->options.sets = world->sets;
    struct candidates *candidates = candidates_create(&world->options, &error);
    if (candidates == NULL) {
        fail_msg("%s", error.message);
    }
    return candidates;
}

static void refuse(struct world *world, enum error_code code, const char *message)
{
    struct error error = {0};
    world->options.sets = world->sets;
    assert_null(candidates_create(&world->options, &error));
    assert_int_equal(error.code, code);
    if (strstr(error.message, message) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", message, error.message);
    }
    assert_null(candidates_create(&world->options, NULL));
}

/* tokens are the bytes of `text` from `first` on. */
static void assert_bytes(const struct candidate *item, size_t first, const char *text)
{
    assert_int_equal((size_t)item->prompt_count + item->response_count, first + strlen(text));
    for (size_t i = 0; text[i] != '\0'; i++) {
        assert_int_equal(item->tokens[first + i], (unsigned char)text[i]);
    }
}

static void assert_statuses(const struct candidates *candidates, const enum candidate_status *statuses,
                            size_t count)
{
    size_t counts[CANDIDATE_STATUS_COUNT] = {0}, valid = 0;
    uint64_t tokens = 0;
    assert_int_equal(candidates->item_count, count);
    for (size_t i = 0; i < count; i++) {
        const struct candidate *item = &candidates->items[i];
        if (item->status != statuses[i]) {
            fail_msg("record %zu is %s", i, candidate_status_names[item->status]);
        }
        counts[statuses[i]]++;
        assert_true((item->tokens != NULL) == (statuses[i] == CANDIDATE_VALID));
        if (statuses[i] == CANDIDATE_VALID) {
            assert_int_equal(candidates->valid[valid++], i);
            assert_true(item->prompt_count >= 1 && item->response_count >= 1);
            tokens += item->prompt_count + item->response_count;
        }
    }
    assert_int_equal(candidates->valid_count, valid);
    assert_int_equal(candidates->valid_tokens, tokens);
    assert_memory_equal(candidates->status_counts, counts, sizeof counts);
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

static void prompt_and_response_are_encoded_by_themselves(void **state)
{
    (void)state;
    const char *const text = "{\"instruction\":\"add\",\"input\":\"1 2\",\"output\":\"3\"}\n"
                             "{\"instruction\":\"say\",\"output\":\"\xc3\xa9t\xc3\xa9\"}";
    for (size_t bos = 0; bos < 2; bos++) {
        struct world world = open_world(&text, 1, bos == 1, 2);
        OWNED(candidates) candidates = create(&world);
        assert_statuses(candidates, (enum candidate_status[]){CANDIDATE_VALID, CANDIDATE_VALID}, 2);
        const struct candidate *items = candidates->items;
        assert_int_equal(items[0].prompt_count, bos + 8); /* "add\n1 2\n" */
        assert_int_equal(items[0].response_count, 1);
        assert_int_equal(items[1].prompt_count, bos + 4);
        assert_int_equal(items[1].response_count, 5); /* BOS stands before the prompt alone */
        assert_true(bos == 0 || (items[0].tokens[0] == BOS && items[1].tokens[0] == BOS));
        assert_bytes(&items[0], bos, "add\n1 2\n3");
        assert_bytes(&items[1], bos, "say\n\xc3\xa9t\xc3\xa9");
        assert_string_equal(candidates_record(candidates, 1)->instruction, "say");
        assert_int_equal(candidates->common_prompt_tokens, bos);
        assert_int_equal(candidates->truncated_count, 0);
        close_world(&world);
    }
}

static void a_long_record_loses_the_end_of_its_response(void **state)
{
    (void)state;
    const char *const text = "{\"instruction\":\"abc\",\"output\":\"0123456\"}\n"  /* 4 + 7 */
                             "{\"instruction\":\"abcd\",\"output\":\"0123456\"}\n" /* 5 + 7 */
                             "{\"instruction\":\"abcdefghi\",\"output\":\"0123456\"}\n"
                             "{\"instruction\":\"abcdefghij\",\"output\":\"0\"}\n" /* 11 */
                             "{\"instruction\":\"abcdefghijklmnop\",\"output\":\"0\"}";
    struct world world = open_world(&text, 1, false, 1);
    world.options.max_tokens = 11;
    OWNED(candidates) candidates = create(&world);
    static const enum candidate_status statuses[] = {CANDIDATE_VALID, CANDIDATE_VALID, CANDIDATE_VALID,
                                                     CANDIDATE_LONG_PROMPT, CANDIDATE_LONG_PROMPT};
    assert_statuses(candidates, statuses, COUNT_OF(statuses));
    const struct candidate *items = candidates->items;
    assert_false(items[0].is_truncated);
    assert_true(items[1].is_truncated && items[2].is_truncated);
    assert_bytes(&items[0], 0, "abc\n0123456");
    assert_bytes(&items[1], 0, "abcd\n012345");
    assert_bytes(&items[2], 0, "abcdefghi\n0");
    assert_int_equal(items[2].response_count, 1);
    assert_int_equal(candidates->truncated_count, 2);
    assert_int_equal(items[4].prompt_count, 17); /* what is left out says how long it was */
    close_world(&world);
}

static void an_end_of_text_is_no_response(void **state)
{
    (void)state;
    const char *const text = "{\"instruction\":\"a\",\"output\":\"\"}\n"
                             "{\"instruction\":\"b\",\"output\":\"<s>\"}\n"
                             "{\"instruction\":\"c\",\"output\":\"<s><s>\"}\n"
                             "{\"instruction\":\"d\",\"output\":\"x<s><s>\"}\n"
                             "{\"instruction\":\"e\",\"output\":\"<s>x\"}\n"
                             "{\"instruction\":\"f<s>\",\"output\":\"\"}\n"
                             "{\"instruction\":\"abcdefgh\",\"output\":\"<s>\"}";
    struct world world = open_world(&text, 1, true, 2);
    world.options.max_tokens = 8;
    OWNED(candidates) candidates = create(&world);
    static const enum candidate_status statuses[] = {
        CANDIDATE_EMPTY_RESPONSE, CANDIDATE_EMPTY_RESPONSE, CANDIDATE_EMPTY_RESPONSE, CANDIDATE_VALID,
        CANDIDATE_VALID,          CANDIDATE_EMPTY_RESPONSE, CANDIDATE_EMPTY_RESPONSE};
    assert_statuses(candidates, statuses, COUNT_OF(statuses));
    assert_int_equal(candidates->items[3].response_count, 1);
    assert_int_equal(candidates->items[4].response_count, 2); /* inside, it is a token like others */
    assert_int_equal(candidates->items[5].prompt_count, 4);   /* the prompt keeps its own: BOS f BOS \n */
    /* Without such tokens in the config it is a response. */
    world.config->eos_token_count = 0;
    OWNED(candidates) others = create(&world);
    assert_int_equal(others->items[1].status, CANDIDATE_VALID);
    assert_int_equal(others->items[2].response_count, 2);
    close_world(&world);
}

/* What is at the end of a text is off before the text is cut. */
static void the_end_of_text_does_not_count_as_length(void **state)
{
    (void)state;
    const char *const text = "{\"instruction\":\"abc\",\"output\":\"0123<s>\"}";
    struct world world = open_world(&text, 1, false, 1);
    world.options.max_tokens = 8;
    OWNED(candidates) candidates = create(&world);
    assert_int_equal(candidates->items[0].response_count, 4);
    assert_false(candidates->items[0].is_truncated);
    close_world(&world);
}

static void of_copies_the_first_stays(void **state)
{
    (void)state;
    const char *const texts[] = {
        "{\"instruction\":\"a\",\"output\":\"x\"}\n{\"instruction\":\"a\",\"output\":\"\"}\n"
        "{\"output\":\"x\",\"more\":1,\"instruction\":\"a\"}\n{\"instruction\":\"a\",\"output\":\"y\"}\n"
        "{\"instruction\":\"a\",\"output\":\"\"}",
        "{\"question\":\"b\",\"answer\":\"x\"}\n{\"question\":\"a\",\"answer\":\"x\"}\n"
        "{\"question\":\"a\",\"answer\":\"x \"}",
        "{\"instruction\":\"b\",\"input\":\"\",\"output\":\"x\"}\n{\"instruction\":\"a\",\"output\":\"y\"}\n"
        "{\"instruction\":\"a\\nx\",\"output\":\"y\"}\n{\"instruction\":\"a\",\"input\":\"x\",\"output\":\"y\"}"};
    struct world world = open_world(texts, 3, true, 2);
    OWNED(candidates) candidates = create(&world);
    static const enum candidate_status
        statuses[] = {CANDIDATE_VALID,     CANDIDATE_EMPTY_RESPONSE, CANDIDATE_DUPLICATE,
                      CANDIDATE_VALID,     CANDIDATE_EMPTY_RESPONSE, /* what is empty is no copy */
                      CANDIDATE_VALID,     CANDIDATE_DUPLICATE,      CANDIDATE_VALID,
                      CANDIDATE_DUPLICATE, CANDIDATE_DUPLICATE,      CANDIDATE_VALID,
                      CANDIDATE_DUPLICATE /* the same prompt by another way */};
    assert_statuses(candidates, statuses, COUNT_OF(statuses));
    assert_int_equal(candidates->items[2].copy_of, 0);
    assert_int_equal(candidates->items[6].copy_of, 0);
    assert_int_equal(candidates->items[8].copy_of, 5);
    assert_int_equal(candidates->items[9].copy_of, 3);
    assert_int_equal(candidates->items[11].copy_of, 10);
    assert_int_equal(candidates->items[6].source, 1);
    assert_int_equal(candidates->items[6].record, 1);
    close_world(&world);
}

static void limits_take_the_first_of_each_set(void **state)
{
    (void)state;
    const char *const texts[] = {
        "{\"instruction\":\"a\",\"output\":\"1\"}\n{\"instruction\":\"b\",\"output\":\"1\"}\n"
        "{\"instruction\":\"c\",\"output\":\"1\"}",
        "{\"instruction\":\"c\",\"output\":\"1\"}\n{\"instruction\":\"a\",\"output\":\"1\"}"};
    struct world world = open_world(texts, 2, false, 1);
    static const struct {
        size_t limits[2], items, valid;
    } cases[] = {{{0, 0}, 5, 3}, {{1, 0}, 3, 2}, {{2, 1}, 3, 3}, {{3, 2}, 5, 3}, {{100, 1}, 4, 3}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        world.options.limits = cases[i].limits;
        OWNED(candidates) candidates = create(&world);
        assert_int_equal(candidates->item_count, cases[i].items);
        assert_int_equal(candidates->valid_count, cases[i].valid);
    }
    close_world(&world);
}

static void prompts_that_begin_alike_say_how_far(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t common;
    } cases[] = {
        {"{\"instruction\":\"ab\",\"output\":\"1\"}", 0}, /* one has nothing in common with others */
        {"{\"instruction\":\"abx\",\"output\":\"1\"}\n{\"instruction\":\"aby\",\"output\":\"1\"}", 3},
        {"{\"instruction\":\"x\",\"output\":\"1\"}\n{\"instruction\":\"y\",\"output\":\"1\"}", 1},
        {"{\"instruction\":\"ab\",\"output\":\"1\"}\n{\"instruction\":\"ab\\nc\",\"output\":\"1\"}", 4},
        {"{\"instruction\":\"ab\",\"output\":\"1\"}\n{\"instruction\":\"ab\",\"output\":\"2\"}", 4},
        /* Those that are left out do not count. */
        {"{\"instruction\":\"ab\",\"output\":\"1\"}\n{\"instruction\":\"x\",\"output\":\"\"}\n"
         "{\"instruction\":\"abc\",\"output\":\"1\"}",
         3},
        {"{\"instruction\":\"x\",\"output\":\"\"}", 0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct world world = open_world(&cases[i].text, 1, true, 1);
        OWNED(candidates) candidates = create(&world);
        assert_int_equal(candidates->common_prompt_tokens, cases[i].common);
        close_world(&world);
    }
}

static void the_hash_is_of_the_tokens_alone(void **state)
{
    (void)state;
    const char *const plain =
        "{\"instruction\":\"a\",\"output\":\"x\"}\n{\"instruction\":\"b\",\"output\":\"y\"}";
    const char *const split[] = {
        "{\"prompt\":\"a\",\"completion\":\"x\"}\n{\"prompt\":\"q\",\"completion\":\"\"}",
        "{\"id\":1,\"instruction\":\"a\",\"output\":\"x\"}\n"
        "{\"instruction\":\"b\",\"output\":\"y<s>\"}"};
    const char *const others[] = {
        "{\"instruction\":\"b\",\"output\":\"y\"}\n{\"instruction\":\"a\",\"output\":\"x\"}",
        "{\"instruction\":\"a\",\"output\":\"x\"}\n{\"instruction\":\"b\",\"output\":\"z\"}",
        "{\"instruction\":\"a\",\"output\":\"x\"}", "{\"instruction\":\"q\",\"output\":\"\"}",
        /* Another border between prompt and response. */
        "{\"instruction\":\"a\",\"output\":\"x\"}\n{\"instruction\":\"b\\ny\",\"output\":\"\\n\"}",
        "{\"instruction\":\"a\",\"output\":\"x\"}\n{\"instruction\":\"b\",\"output\":\"y\\n\\n\"}"};
    struct world world = open_world(&plain, 1, false, 1), same = open_world(split, 2, false, 7);
    OWNED(candidates) first = create(&world);
    OWNED(candidates) second = create(&same);
    assert_string_equal(first->sha256, second->sha256);
    char seen[COUNT_OF(others) + 1][65];
    memcpy(seen[0], first->sha256, sizeof seen[0]);
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        struct world other = open_world(&others[i], 1, false, 1);
        OWNED(candidates) third = create(&other);
        memcpy(seen[i + 1], third->sha256, sizeof seen[0]);
        for (size_t j = 0; j <= i; j++) {
            assert_string_not_equal(seen[i + 1], seen[j]);
        }
        close_world(&other);
    }
    close_world(&world);
    close_world(&same);
}

static void no_valid_record_is_no_error(void **state)
{
    (void)state;
    const char *const text =
        "{\"instruction\":\"a\",\"output\":\"\"}\n{\"instruction\":\"b\",\"output\":\"\"}";
    struct world world = open_world(&text, 1, true, 7);
    OWNED(candidates) candidates = create(&world);
    assert_statuses(candidates, (enum candidate_status[]){CANDIDATE_EMPTY_RESPONSE, CANDIDATE_EMPTY_RESPONSE},
                    2);
    assert_int_equal(strlen(candidates->sha256), 64);
    close_world(&world);
}

static void what_cannot_be_encoded_names_file_and_record(void **state)
{
    (void)state;
    const char *const texts[] = {
        "{\"instruction\":\"a\",\"output\":\"x\"}",
        "{\"instruction\":\"a\",\"output\":\"y\"}\n{\"instruction\":\"b\",\"output\":\"<s>x\"}\n"
        "{\"instruction\":\"<s>\",\"output\":\"x\"}"};
    for (size_t threads = 1; threads <= 7; threads += 6) {
        struct world world = open_world(texts, 2, false, threads);
        world.config->vocab_size = 256; /* <s> is 256 */
        world.config->eos_token_count = 0;
        refuse(&world, ERROR_INVALID_ARGUMENT, "b.jsonl, record 2: token 256 ");
        world.options.limits = (const size_t[]){0, 1};
        OWNED(candidates) candidates = create(&world);
        assert_int_equal(candidates->valid_count, 2);
        close_world(&world);
    }
    /* Bytes that are no UTF-8 do not come as far as records; a record in memory may have them all the same. */
    struct world world = open_world(texts, 1, false, 2);
    const char *const whole = world.sets[0]->records[0].response;
    world.sets[0]->records[0].response = "caf\xe9";
    refuse(&world, ERROR_INVALID_ARGUMENT, "a.jsonl, record 1: ");
    world.sets[0]->records[0].response = whole;
    /* A template of nothing, and nothing asked: no token predicts the response's first. */
    const struct instruction_template bare = {"bare", "{instruction}{input}", "{instruction}", false};
    world.options.form = &bare;
    world.sets[0]->records[0].instruction = "";
    refuse(&world, ERROR_INVALID_ARGUMENT, "a.jsonl, record 1: the prompt has no tokens");
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    world.options.cancel = &cancel;
    refuse(&world, ERROR_CANCELLED, "");
    close_world(&world);
}

/* Many random records, of which many are copies, empty or long: one thread and seven. */
static void threads_change_nothing(void **state)
{
    (void)state;
    FINISHED(text) text = {0};
    const struct rng rng = {.seed = 12, .stream = 4};
    for (size_t i = 0; i < 600; i++) {
        text_append_format(&text, "{\"instruction\":\"%.*s\",\"output\":\"%.*s\"}\n",
                           (int)(rng_unit(&rng, 2 * i) * 30), "the quick brown fox jumps over it",
                           (int)(rng_unit(&rng, 2 * i + 1) * 12), "lazy dogs sleep");
    }
    const char *const texts[] = {text.bytes, text.bytes};
    struct world one = open_world(texts, 2, true, 1), many = open_world(texts, 2, true, 7);
    one.options.max_tokens = many.options.max_tokens = 28;
    OWNED(candidates) first = create(&one);
    OWNED(candidates) second = create(&many);
    assert_string_equal(first->sha256, second->sha256);
    assert_int_equal(first->item_count, 1200);
    assert_int_equal(first->valid_count, second->valid_count);
    assert_memory_equal(first->valid, second->valid, first->valid_count * sizeof *first->valid);
    assert_memory_equal(first->status_counts, second->status_counts, sizeof first->status_counts);
    for (size_t i = 0; i < CANDIDATE_STATUS_COUNT; i++) {
        assert_true(first->status_counts[i] > 0);
    }
    for (size_t i = 0; i < first->item_count; i++) {
        const struct candidate *a = &first->items[i], *b = &second->items[i];
        assert_true(a->status == b->status && a->copy_of == b->copy_of && a->is_truncated == b->is_truncated);
        assert_int_equal(a->prompt_count, b->prompt_count);
        assert_int_equal(a->response_count, b->response_count);
        if (a->status == CANDIDATE_VALID) {
            assert_memory_equal(a->tokens, b->tokens,
                                ((size_t)a->prompt_count + a->response_count) * sizeof *a->tokens);
        }
        if (i >= 600 && a->status != CANDIDATE_EMPTY_RESPONSE && a->status != CANDIDATE_LONG_PROMPT) {
            assert_true(a->status == CANDIDATE_DUPLICATE && a->copy_of < 600);
        }
    }
    close_world(&one);
    close_world(&many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompt_and_response_are_encoded_by_themselves),
        cmocka_unit_test(a_long_record_loses_the_end_of_its_response),
        cmocka_unit_test(an_end_of_text_is_no_response),
        cmocka_unit_test(the_end_of_text_does_not_count_as_length),
        cmocka_unit_test(of_copies_the_first_stays),
        cmocka_unit_test(limits_take_the_first_of_each_set),
        cmocka_unit_test(prompts_that_begin_alike_say_how_far),
        cmocka_unit_test(the_hash_is_of_the_tokens_alone),
        cmocka_unit_test(no_valid_record_is_no_error),
        cmocka_unit_test(what_cannot_be_encoded_names_file_and_record),
        cmocka_unit_test(threads_change_nothing),
    };
    return cmocka_run_group_tests_name("workers/data/candidates", tests, fixture_start, fixture_end);
}
