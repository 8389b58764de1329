/*
 * tests/unit/workers/data/tokenizer_golden_test.c: tokenizers give the library's ids: small ones of every kind over awkward strings
 * (tests/golden/tokenizer/cases.json), real ones over real texts as hashes over whole files (ids.json there), and llama.cpp's 47 cases.
 * Skips what is not there.
 */
#include "base/hash.h"
#include "base/json.h"
#include "tests/unit/workers/data/fixture.h"
#include "workers/data/corpus.h"

static char *data_path(const char *folder, const char *name)
{
    const char *root = getenv("PRUNED_TEST_DATA");
    OWNED_MEMORY char *inner = file_join(root != NULL ? root : "../shared/data", folder);
    return file_join(inner, name);
}

/* Nothing beyond the model floor may look inside. */
static void hash_ids(struct sha256 *hash, const struct tokens *tokens)
{
    for (size_t i = 0; i <= tokens->count; i++) {
        uint32_t id = i < tokens->count ? (uint32_t)tokens->ids[i] : UINT32_MAX;
        unsigned char bytes[4] = {(unsigned char)id, (unsigned char)(id >> 8), (unsigned char)(id >> 16),
                                  (unsigned char)(id >> 24)};
        sha256_update(hash, bytes, 4);
    }
}

static void check_file(const json_t *golden, const struct tokenizer *tokenizer, const char *path)
{
    struct error error = {0};
    struct corpus_options options = {.path = path};
    OWNED(corpus) corpus = corpus_load(&options, &error);
    assert_non_null(corpus);
    assert_int_equal(corpus->document_count, json_integer_value(json_object_get(golden, "documents")));
    struct sha256 hash;
    sha256_start(&hash);
    size_t count = 0;
    for (size_t i = 0; i < corpus->document_count; i++) {
        struct tokens tokens = {0};
        assert_true(tokenizer_encode(tokenizer, corpus->documents[i].bytes, corpus->documents[i].length,
                                     false, &tokens, &error));
        hash_ids(&hash, &tokens);
        count += tokens.count;
        tokens_finish(&tokens);
    }
    char hex[SHA256_HEX];
    sha256_end_hex(&hash, hex);
    assert_int_equal(count, json_integer_value(json_object_get(golden, "ids")));
    assert_string_equal(hex, json_string_value(json_object_get(golden, "sha256")));
}

static void whole_files_give_the_librarys_ids(void **state)
{
    (void)state;
    const char *source = getenv("PRUNED_TEST_SOURCE");
    OWNED_MEMORY char *golden_path =
        file_join(source != NULL ? source : ".", "tests/golden/tokenizer/ids.json");
    struct error error = {0};
    JSON_OWNED goldens = json_load(golden_path, 1u << 20, &error);
    assert_non_null(goldens);
    size_t done = 0;
    OWNED_MEMORY char *last = NULL;
    struct tokenizer *tokenizer = NULL;
    for (size_t i = 0; i < json_array_size(goldens); i++) {
        const json_t *golden = json_array_get(goldens, i);
        OWNED_MEMORY char *folder = data_path("", json_string_value(json_object_get(golden, "tokenizer")));
        OWNED_MEMORY char *text = data_path("text", json_string_value(json_object_get(golden, "text")));
        if (!file_is_folder(folder) || !file_exists(text)) {
            continue;
        }
        if (last == NULL || strcmp(last, folder) != 0) {
            tokenizer_destroy(tokenizer);
            tokenizer = tokenizer_load(folder, &error);
            free(last);
            last = memory_copy_text(folder);
        }
        assert_non_null(tokenizer);
        check_file(golden, tokenizer, text);
        done++;
    }
    tokenizer_destroy(tokenizer);
    if (done == 0) {
        print_message("no tokenizers and texts under PRUNED_TEST_DATA: nothing compared\n");
        skip();
    }
}

static void check_case(const struct tokenizer *tokenizer, const char *kind, const json_t *golden)
{
    const char *text = json_string_value(json_array_get(golden, 0));
    const json_t *ids = json_array_get(golden, 1);
    struct tokens tokens = {0};
    struct text decoded = {0};
    struct error error = {0};
    assert_true(tokenizer_encode(tokenizer, text, strlen(text), true, &tokens, &error));
    for (size_t i = 0; i < json_array_size(ids) || i < tokens.count; i++) {
        if (i >= tokens.count || i >= json_array_size(ids) ||
            tokens.ids[i] != json_integer_value(json_array_get(ids, i))) {
            fail_msg("%s, \"%s\": id %zu of %zu differs (%zu wanted)", kind, text, i, tokens.count,
                     json_array_size(ids));
        }
    }
    tokenizer_decode(tokenizer, tokens.ids, tokens.count, true, &decoded);
    assert_string_equal(decoded.bytes != NULL ? decoded.bytes : "",
                        json_string_value(json_array_get(golden, 2)));
    tokens_finish(&tokens);
    text_finish(&decoded);
}

static void small_tokenizers_of_every_kind_do_as_the_library(void **state)
{
    (void)state;
    const char *source = getenv("PRUNED_TEST_SOURCE");
    OWNED_MEMORY char *folder = file_join(source != NULL ? source : ".", "tests/golden/tokenizer");
    OWNED_MEMORY char *path = file_join(folder, "cases.json");
    struct error error = {0};
    JSON_OWNED kinds = json_load(path, 1u << 20, &error);
    assert_int_equal(json_object_size(kinds), 5);
    const char *kind = NULL;
    json_t *cases = NULL;
    json_object_foreach(kinds, kind, cases)
    {
        OWNED_MEMORY char *inner = file_join(folder, kind);
        OWNED(tokenizer) tokenizer = tokenizer_load(inner, &error);
        if (tokenizer == NULL) {
            fail_msg("%s: %s", kind, error.message);
        }
        assert_true(json_array_size(cases) >= 30);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            check_case(tokenizer, kind, json_array_get(cases, i));
        }
    }
}

/* inputs: cases between lines "__ggml_vocab_test__"; outputs: one line of ids per case. */
static size_t check_cases(const struct tokenizer *tokenizer, const char *input, const char *output)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    size_t passed = 0;
    for (bool more = true; more;) {
        const char *end = strstr(input, separator);
        size_t length = end != NULL ? (size_t)(end - input) : strlen(input);
        struct tokens tokens = {0};
        struct error error = {0};
        assert_true(tokenizer_encode(tokenizer, input, length, false, &tokens, &error));
        size_t i = 0;
        for (; *output != '\n' && *output != '\0'; i++) {
            char *next = NULL;
            long id = strtol(output, &next, 10);
            assert_true(i < tokens.count);
            assert_int_equal(tokens.ids[i], id);
            output = next + strspn(next, " ");
        }
        assert_int_equal(i, tokens.count);
        tokens_finish(&tokens);
        output += *output == '\n' ? 1 : 0;
        input += length + (end != NULL ? strlen(separator) : 0);
        more = end != NULL;
        passed++;
    }
    return passed;
}

static void all_47_cases_of_llama_cpp_hold(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"tokenizers/gpt2", "gpt-2"},
        {"tokenizers/llama2", "llama-spm"},
        {"tokenizers/llama3", "llama-bpe"},
        {"tokenizers/qwen2_5", "qwen2"},
        {"models/all-MiniLM-L6-v2", "bert-bge"}, /* BERT's own vocabulary in both */
    };
    size_t done = 0;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char name[64];
        OWNED_MEMORY char *folder = data_path("", pairs[i][0]);
        (void)snprintf(name, sizeof name, "ggml-vocab/ggml-vocab-%s.gguf.inp", pairs[i][1]);
        OWNED_MEMORY char *input_path = data_path("tokenizers", name);
        (void)snprintf(name, sizeof name, "ggml-vocab/ggml-vocab-%s.gguf.out", pairs[i][1]);
        OWNED_MEMORY char *output_path = data_path("tokenizers", name);
        if (!file_is_folder(folder) || !file_exists(input_path)) {
            continue;
        }
        struct error error = {0};
        size_t count = 0;
        OWNED(tokenizer) tokenizer = tokenizer_load(folder, &error);
        OWNED_MEMORY char *input = file_load(input_path, 1u << 20, &count, &error);
        OWNED_MEMORY char *output = file_load(output_path, 1u << 20, &count, &error);
        assert_non_null(tokenizer);
        assert_non_null(input);
        assert_non_null(output);
        assert_int_equal(check_cases(tokenizer, input, output), 47);
        done++;
    }
    if (done == 0) {
        print_message("no golden cases under PRUNED_TEST_DATA: nothing compared\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_tokenizers_of_every_kind_do_as_the_library),
        cmocka_unit_test(whole_files_give_the_librarys_ids),
        cmocka_unit_test(all_47_cases_of_llama_cpp_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
