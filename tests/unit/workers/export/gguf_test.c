/*
 * tests/unit/workers/export/gguf_test.c: what is written as GGUF reads back as it was. The models are those of
 * tests/golden/families, whose tensors all differ; the tokenizers those of the data folder.
 */
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "workers/export/gguf.h"
#include "workers/model/gguf.h"
#include "workers/model/safetensors.h"
#include "workers/model/tokenizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char folder[] = "/tmp/gguf_export_XXXXXX";

/* A safetensors file in memory. */
struct checkpoint {
    struct arena *arena;
    json_t *config;
    char *bytes;
    size_t count;
    struct st_header header;
    struct gguf_export_tensor *tensors; /* [tensor_count], without what no forward pass reads */
    size_t *sources;                    /* [tensor_count]: index into the header */
    size_t tensor_count;
};

/* Masks and rotary buffers, which old checkpoints carry. */
static bool is_buffer(const char *name)
{
    size_t length = strlen(name);
    static const char *const endings[] = {".attn.bias", ".attention.bias", "masked_bias", "inv_freq"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t ending = strlen(endings[i]);
        if (length >= ending && strcmp(name + length - ending, endings[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void checkpoint_open(const char *family, struct checkpoint *ret_checkpoint)
{
    struct error error = {0};
    struct checkpoint checkpoint = {.arena = arena_create(0)};
    char path[512];
    uint64_t n = 0;
    (void)snprintf(path, sizeof path, "%s/tests/golden/families/%s/config.json", PROJECT_ROOT, family);
    checkpoint.config = json_load(path, 1u << 20, &error);
    assert_non_null(checkpoint.config);
    (void)snprintf(path, sizeof path, "%s/tests/golden/families/%s/model.safetensors", PROJECT_ROOT, family);
    checkpoint.bytes = file_load(path, 1u << 24, &checkpoint.count, &error);
    assert_non_null(checkpoint.bytes);
    memcpy(&n, checkpoint.bytes, sizeof n);
    assert_true(st_header_parse(checkpoint.bytes + 8, (size_t)n, checkpoint.count - 8 - n, checkpoint.arena,
                                &checkpoint.header, &error));
    checkpoint.tensors = memory_create(checkpoint.header.tensor_count, sizeof *checkpoint.tensors);
    checkpoint.sources = memory_create(checkpoint.header.tensor_count, sizeof *checkpoint.sources);
    for (size_t i = 0; i < checkpoint.header.tensor_count; i++) {
        const struct st_tensor *from = &checkpoint.header.tensors[i];
        struct gguf_export_tensor *tensor = &checkpoint.tensors[checkpoint.tensor_count];
        if (is_buffer(from->name)) {
            continue;
        }
        *tensor = (struct gguf_export_tensor){.name = from->name, .rank = from->rank};
        memcpy(tensor->shape, from->shape, from->rank * sizeof from->shape[0]);
        checkpoint.sources[checkpoint.tensor_count++] = i;
    }
    *ret_checkpoint = checkpoint;
}

static void checkpoint_close(struct checkpoint *checkpoint)
{
    arena_destroy(checkpoint->arena);
    json_decref(checkpoint->config);
    free(checkpoint->bytes);
    free(checkpoint->tensors);
    free(checkpoint->sources);
}

static bool read_rows(void *context, size_t tensor, uint64_t first, uint64_t count, float *values,
                      struct error *error)
{
    (void)error;
    const struct checkpoint *checkpoint = context;
    const struct st_tensor *from = &checkpoint->header.tensors[checkpoint->sources[tensor]];
    size_t columns = from->rank == 2 ? (size_t)from->shape[1] : 1;
    enum dtype dtype = DTYPE_F32;
    assert_true(st_dtype_to_dtype(from->dtype, &dtype));
    assert_true(first + count <= from->shape[0]);
    const char *bytes =
        checkpoint->bytes + from->offset_bytes + dtype_size_bytes(dtype, (size_t)first * columns);
    dtype_to_f32(dtype, bytes, (size_t)count * columns, values);
    return true;
}

static struct gguf_export export_of(struct checkpoint *checkpoint, enum dtype dtype)
{
    return (struct gguf_export){.config = checkpoint->config,
                                .dtype = dtype,
                                .name = "a model",
                                .tensors = checkpoint->tensors,
                                .tensor_count = checkpoint->tensor_count,
                                .context = checkpoint,
                                .read_rows = read_rows};
}

static int fd_of_export(const struct gguf_export *model, const char *name)
{
    struct error error = {0};
    OWNED_MEMORY char *path = file_join(folder, name);
    (void)unlink(path);
    if (!gguf_export_write(model, path, &error)) {
        fail_msg("%s: %s", name, error.message);
    }
    int fd = file_open_read(path, &error);
    assert_true(fd >= 0);
    uint64_t size = 0, bytes = 0;
    assert_true(file_size(fd, &size, &error) && gguf_export_plan(model, &bytes, &error));
    assert_true(size > bytes);
    return fd;
}

static struct gguf *read_back(int fd)
{
    struct error error = {0};
    struct gguf *gguf = gguf_read(fd, &error);
    if (gguf == NULL) {
        fail_msg("%s", error.message);
    }
    return gguf;
}

/* The canonical tensor out of what lies in the file, by the definitions of layout.h. */
static float *undo(int fd, const struct gguf_tensor_map *tensor)
{
    struct error error = {0};
    size_t rows = (size_t)tensor->shape[0], columns = tensor->rank == 2 ? (size_t)tensor->shape[1] : 1;
    unsigned char *bytes = memory_create((size_t)tensor->bytes, 1);
    float *stored = memory_create(rows * columns, sizeof *stored),
          *values = memory_create(rows * columns, sizeof *values);
    assert_true(file_read_at(fd, bytes, (size_t)tensor->bytes, tensor->offset_bytes, tensor->name, &error));
    assert_int_equal(dtype_size_bytes(tensor->dtype, rows * columns), tensor->bytes);
    dtype_to_f32(tensor->dtype, bytes, rows * columns, stored);
    for (size_t row = 0; row < rows; row++) {
        for (size_t column = 0; column < columns; column++) {
            size_t from =
                tensor->layout == LAYOUT_TRANSPOSED
                    ? column * rows + row
                    : layout_source_row(tensor->layout, tensor->layout_heads, rows, row) * columns + column;
            values[row * columns + column] =
                stored[from] - (tensor->layout == LAYOUT_NORM_PLUS_ONE ? 1.0f : 0.0f);
        }
    }
    free(bytes);
    free(stored);
    return values;
}

static const struct gguf_tensor_map *find(const struct gguf_map *map, const char *name)
{
    for (size_t i = 0; i < map->count; i++) {
        if (strcmp(map->tensors[i].name, name) == 0) {
            return &map->tensors[i];
        }
    }
    fail_msg("%s is missing", name);
    return NULL;
}

/* Every tensor, bit for bit; a norm stored with one added to within the rounding of that. */
static void check_tensors(const struct checkpoint *checkpoint, int fd, const struct gguf *gguf,
                          double tolerance)
{
    struct gguf_map map;
    struct error error = {0};
    if (!gguf_map(gguf, &map, &error)) {
        fail_msg("%s", error.message);
    }
    assert_int_equal(map.count, checkpoint->tensor_count);
    for (size_t i = 0; i < map.count; i++) {
        const struct gguf_export_tensor *original = &checkpoint->tensors[i];
        const struct gguf_tensor_map *tensor = find(&map, original->name);
        assert_int_equal(tensor->rank, original->rank);
        assert_memory_equal(tensor->shape, original->shape, original->rank * sizeof original->shape[0]);
        size_t count = (size_t)(tensor->shape[0] * (tensor->rank == 2 ? tensor->shape[1] : 1));
        OWNED_MEMORY float *is = undo(fd, tensor);
        OWNED_MEMORY float *should = memory_create(count, sizeof *should);
        assert_true(read_rows((void *)(uintptr_t)checkpoint, i, 0, tensor->shape[0], should, &error));
        for (size_t e = 0; e < count; e++) {
            double slack = tolerance * (fabs((double)should[e]) + 0x1p-14) +
                           (tensor->layout == LAYOUT_NORM_PLUS_ONE ? 1.2e-7 : 0.0);
            if (!(fabs((double)is[e] - (double)should[e]) <= slack)) {
                fail_msg("%s[%zu] is %g, not %g", tensor->name, e, (double)is[e], (double)should[e]);
            }
        }
    }
    gguf_map_finish(&map);
}

/* What config.json says, in the two files' common words. */
static void check_config(const struct checkpoint *checkpoint, const struct gguf *gguf)
{
    static const char *const names[] = {"hidden_size",
                                        "intermediate_size",
                                        "num_hidden_layers",
                                        "num_attention_heads",
                                        "vocab_size",
                                        "n_embd",
                                        "n_head",
                                        "n_layer",
                                        "num_experts_per_tok",
                                        "num_local_experts",
                                        "tie_word_embeddings",
                                        "use_parallel_residual",
                                        "rms_norm_eps",
                                        "layer_norm_eps",
                                        "layer_norm_epsilon",
                                        "sliding_window_pattern"};
    struct error_list faults = {0};
    JSON_OWNED config = gguf_config(gguf, &faults);
    if (config == NULL) {
        fail_msg("%s", faults.items[0].message);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const json_t *is = json_object_get(config, names[i]),
                     *should = json_object_get(checkpoint->config, names[i]);
        if (is != NULL && should != NULL && !json_is_null(should) && !json_equal(is, should)) {
            fail_msg("%s is another", names[i]);
        }
    }
}

static void every_family_reads_back_bit_for_bit(void **state)
{
    (void)state;
    static const char *const families[] = {
        "llama",        "llama3",          "llama_linear", "llama_bias",     "llama_headdim", "llama_bf16",
        "mistral",      "mixtral",         "qwen2",        "qwen3",          "gemma2",        "gemma3_text",
        "phi3",         "phi3_longrope",   "phi3_partial", "gpt2",           "gpt2_old",      "gpt_neox",
        "gpt_neox_old", "gpt_neox_serial", "llama3_old",   "gemma3_text_old"};
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        struct checkpoint checkpoint;
        print_message("%s\n", families[i]);
        checkpoint_open(families[i], &checkpoint);
        bool is_gemma = strncmp(families[i], "gemma", 5) == 0;
        if (is_gemma) { /* the scale that llama.cpp assumes */
            json_put_i64(checkpoint.config, "query_pre_attn_scalar", 12);
        }
        struct gguf_export model = export_of(&checkpoint, DTYPE_F32);
        OWNED_FD int fd = fd_of_export(&model, families[i]);
        OWNED(gguf) gguf = read_back(fd);
        if (strcmp(families[i], "gpt2_old") == 0) { /* names without the prefix come back with it */
            assert_non_null(gguf_find_tensor(gguf, "blk.1.ffn_up.weight"));
        } else {
            check_tensors(&checkpoint, fd, gguf, 0.0);
        }
        check_config(&checkpoint, gguf);
        checkpoint_close(&checkpoint);
    }
}

static void rope_scalings_come_back(void **state)
{
    (void)state;
    static const struct {
        const char *family, *scaling;
    } cases[] = {
        {"llama3", "{\"factor\":8.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
                   "\"original_max_position_embeddings\":64,\"rope_type\":\"llama3\"}"},
        {"llama_linear", "{\"factor\":4.0,\"rope_type\":\"linear\"}"},
        {"phi3_longrope", "{\"long_factor\":[1.2,2.0,3.5,6.0],\"rope_type\":\"longrope\","
                          "\"short_factor\":[1.0,1.1,1.3,1.6]}"},
        {"gemma3_text", "{\"factor\":8.0,\"rope_type\":\"linear\"}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct checkpoint checkpoint;
        struct error_list faults = {0};
        checkpoint_open(cases[i].family, &checkpoint);
        json_put_i64(checkpoint.config, "query_pre_attn_scalar", 12);
        struct gguf_export model = export_of(&checkpoint, DTYPE_F32);
        OWNED_FD int fd = fd_of_export(&model, cases[i].family);
        OWNED(gguf) gguf = read_back(fd);
        JSON_OWNED config = gguf_config(gguf, &faults);
        assert_non_null(config);
        OWNED_MEMORY char *scaling = json_format(json_object_get(config, "rope_scaling"), false);
        assert_string_equal(scaling, cases[i].scaling);
        checkpoint_close(&checkpoint);
    }
}

static void smaller_types_hold_matrices_and_vectors_stay_whole(void **state)
{
    (void)state;
    static const struct {
        enum dtype dtype, down;
        double tolerance;
    } cases[] = {
        {DTYPE_F16, DTYPE_F16, 0x1p-11}, {DTYPE_BF16, DTYPE_BF16, 0x1p-8}, {DTYPE_Q8_0, DTYPE_F16, 0.0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct checkpoint checkpoint;
        checkpoint_open("llama", &checkpoint);
        struct gguf_export model = export_of(&checkpoint, cases[i].dtype);
        OWNED_FD int fd = fd_of_export(&model, "small");
        OWNED(gguf) gguf = read_back(fd);
        assert_int_equal(gguf_find_tensor(gguf, "blk.0.attn_norm.weight")->dtype, DTYPE_F32);
        assert_int_equal(gguf_find_tensor(gguf, "blk.0.attn_q.weight")->dtype, cases[i].dtype);
        /* Its rows of 44 are no whole blocks of 32. */
        assert_int_equal(gguf_find_tensor(gguf, "blk.0.ffn_down.weight")->dtype, cases[i].down);
        if (cases[i].dtype != DTYPE_Q8_0) {
            check_tensors(&checkpoint, fd, gguf, cases[i].tolerance);
        }
        checkpoint_close(&checkpoint);
    }
}

static void what_gguf_cannot_say_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *family, *member, *value, *field;
    } cases[] = {
        {"gemma2", NULL, NULL, "config.json/query_pre_attn_scalar"},
        {"llama", "hidden_act", "\"relu\"", "config.json/hidden_act"},
        {"llama", "rope_scaling", "{\"type\":\"dynamic\",\"factor\":2}", "config.json/rope_scaling"},
        {"llama", "model_type", "\"opt\"", "config.json/model_type"},
        {"qwen3_moe", NULL, NULL, "config.json/mlp_only_layers"},
        {"mixtral", "num_local_experts", "5", "blk.0.ffn_down_exps.weight"},
        {"gpt2", "scale_attn_by_inverse_layer_idx", "true", "config.json/scale_attn_weights"},
        {"llama", "num_attention_heads", "5", "model.layers.0.self_attn.q_proj.weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct checkpoint checkpoint;
        struct error error = {0};
        uint64_t bytes = 0;
        checkpoint_open(cases[i].family, &checkpoint);
        if (cases[i].member != NULL) {
            (void)json_object_del(checkpoint.config, "rope_parameters");
            json_put(checkpoint.config, cases[i].member, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        }
        struct gguf_export model = export_of(&checkpoint, DTYPE_F32);
        assert_false(gguf_export_plan(&model, &bytes, &error));
        assert_string_equal(error.field, cases[i].field);
        checkpoint_close(&checkpoint);
    }
}

static bool read_huge(void *context, size_t tensor, uint64_t first, uint64_t count, float *values,
                      struct error *error)
{
    bool is_read = read_rows(context, tensor, first, count, values, error);
    values[0] = 1e6f;
    return is_read;
}

static bool read_nan(void *context, size_t tensor, uint64_t first, uint64_t count, float *values,
                     struct error *error)
{
    bool is_read = read_rows(context, tensor, first, count, values, error);
    values[0] = NAN;
    return is_read;
}

static void values_that_do_not_fit_name_their_tensor(void **state)
{
    (void)state;
    struct checkpoint checkpoint;
    checkpoint_open("llama", &checkpoint);
    struct gguf_export model = export_of(&checkpoint, DTYPE_F16);
    for (int pass = 0; pass < 2; pass++) {
        struct error error = {0};
        OWNED_MEMORY char *path = file_join(folder, pass == 0 ? "huge" : "nan");
        model.read_rows = pass == 0 ? read_huge : read_nan;
        assert_false(gguf_export_write(&model, path, &error));
        assert_int_equal(error.code, ERROR_NUMERIC);
        assert_non_null(strstr(error.message, pass == 0 ? "1e+06, which F16 cannot" : "NaN or infinity"));
    }
    checkpoint_close(&checkpoint);
}

/* ---- tokenizers ------------------------------------------------------------------------------------------ */

static char *load_data(const char *relative, size_t *ret_count)
{
    const char *data = getenv("PRUNED_TEST_DATA");
    struct error error = {0};
    OWNED_MEMORY char *path = data != NULL ? file_join(data, relative) : NULL;
    return path != NULL ? file_load(path, (size_t)64 << 20, ret_count, &error) : NULL;
}

static bool read_zeros(void *context, size_t tensor, uint64_t first, uint64_t count, float *values,
                       struct error *error)
{
    (void)context;
    (void)tensor;
    (void)first;
    (void)error;
    memset(values, 0, (size_t)count * sizeof *values);
    return true;
}

/* tokenizer.json as it comes back from a model that has nothing but a vocabulary. */
static char *through_gguf(const char *json, size_t count, size_t vocab_size)
{
    static const char config_text[] =
        "{\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":1,\"num_attention_heads\":1,"
        "\"max_position_embeddings\":8,\"intermediate_size\":32,\"tie_word_embeddings\":true}";
    struct error error = {0};
    JSON_OWNED config = json_parse(config_text, strlen(config_text), 1000, &error);
    assert_non_null(config);
    struct gguf_export_tensor embedding = {"model.embed_tokens.weight", 2, {vocab_size, 1}};
    struct gguf_export model = {.config = config,
                                .tokenizer_json = json,
                                .tokenizer_count = count,
                                .chat_template = "{{ messages }}",
                                .tensors = &embedding,
                                .tensor_count = 1,
                                .read_rows = read_zeros};
    OWNED_FD int fd = fd_of_export(&model, "vocabulary");
    OWNED(gguf) gguf = read_back(fd);
    const char *template = NULL;
    assert_true(gguf_find_string(gguf, "tokenizer.chat_template", &template, &error));
    assert_string_equal(template, "{{ messages }}");
    assert_int_equal(gguf_find(gguf, "tokenizer.ggml.tokens")->count, vocab_size);
    char *back = gguf_tokenizer_json(gguf, &error);
    if (back == NULL) {
        fail_msg("%s", error.message);
    }
    return back;
}

static void same_ids(const struct tokenizer *original, const struct tokenizer *back, const char *text,
                     size_t length)
{
    struct tokens should = {0}, is = {0};
    struct error error = {0};
    assert_true(tokenizer_encode(original, text, length, true, &should, &error));
    assert_true(tokenizer_encode(back, text, length, true, &is, &error));
    assert_int_equal(is.count, should.count);
    assert_memory_equal(is.ids, should.ids, is.count * sizeof *is.ids);
    tokens_finish(&should);
    tokens_finish(&is);
}

/* On each text of llama.cpp's own tokenizer tests. */
static void tokenizers_come_back_with_the_same_ids(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizers/llama2/tokenizer.json",
                                        "tokenizers/llama3/tokenizer.json",
                                        "tokenizers/qwen2_5/tokenizer.json", "tokenizers/gpt2/tokenizer.json",
                                        "models/stories260K/tokenizer.json"};
    static const char between[] = "\n__ggml_vocab_test__\n";
    size_t text_count = 0, tried = 0;
    OWNED_MEMORY char *texts = load_data("tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf.inp", &text_count);
    for (size_t i = 0; texts != NULL && i < sizeof names / sizeof names[0]; i++) {
        size_t count = 0;
        struct error error = {0};
        OWNED_MEMORY char *json = load_data(names[i], &count);
        if (json == NULL) {
            continue;
        }
        OWNED(tokenizer) original = tokenizer_parse(json, count, &error);
        assert_non_null(original);
        /* Three rows more than tokens, as padded models have them. */
        OWNED_MEMORY char *text = through_gguf(json, count, tokenizer_vocab_size(original) + 3);
        OWNED(tokenizer) back = tokenizer_parse(text, strlen(text), &error);
        if (back == NULL) {
            fail_msg("%s: %s", names[i], error.message);
        }
        const char *at = texts;
        for (const char *end = strstr(at, between); end != NULL;
             at = end + strlen(between), end = strstr(at, between)) {
            same_ids(original, back, at, (size_t)(end - at));
        }
        tried++;
    }
    if (tried == 0) {
        print_message("the data folder has no tokenizers\n");
        skip();
    }
}

static void a_vocabulary_larger_than_the_model_is_refused(void **state)
{
    (void)state;
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}";
    static const char config_text[] = "{\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":1,"
                                      "\"num_attention_heads\":1,\"max_position_embeddings\":8}";
    struct error error = {0};
    uint64_t bytes = 0;
    JSON_OWNED config = json_parse(config_text, strlen(config_text), 1000, &error);
    struct gguf_export_tensor embedding = {"model.embed_tokens.weight", 2, {1, 1}};
    struct gguf_export model = {.config = config,
                                .tokenizer_json = json,
                                .tokenizer_count = strlen(json),
                                .tensors = &embedding,
                                .tensor_count = 1,
                                .read_rows = read_zeros};
    assert_false(gguf_export_plan(&model, &bytes, &error));
    assert_int_equal(error.code, ERROR_TOKENIZER_MISMATCH);
    embedding.shape[0] = 2;
    assert_true(gguf_export_plan(&model, &bytes, &error));
    assert_int_equal(bytes, 32);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    struct error error = {0};
    return file_remove_tree(folder, &error) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_reads_back_bit_for_bit),
        cmocka_unit_test(rope_scalings_come_back),
        cmocka_unit_test(smaller_types_hold_matrices_and_vectors_stay_whole),
        cmocka_unit_test(what_gguf_cannot_say_is_refused),
        cmocka_unit_test(values_that_do_not_fit_name_their_tensor),
        cmocka_unit_test(tokenizers_come_back_with_the_same_ids),
        cmocka_unit_test(a_vocabulary_larger_than_the_model_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
