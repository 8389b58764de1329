/*
 * tests/unit/workers/export/export_families_test.c: every family's small model, pruned, written and read back. What is written
 * must compute what the source computes without the removed sublayers, bit for bit, and a stock config.json must say it.
 */
#include "tests/unit/workers/export/families.h"

/* Writes the plan, reads it back: the inventory of what was written. */
static struct inventory *round_trip(const struct source *source, const struct plan *plan,
                                    enum export_layout layout, enum export_layout expected, char **ret_folder)
{
    struct export_options options = {.layout = layout, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
    FINISHED(export_draft) draft = {0};
    FINISHED(error_list) faults = {0};
    struct error error = {0};
    char *folder = make_folder();
    if (!export_draft_make(plan, source->inventory, &options, &draft, &error) ||
        !export_write(&draft, source->inventory, source->folder, folder, &options, &error)) {
        fail_msg("%s", error.message);
    }
    assert_int_equal(draft.layout, expected);
    struct inventory *written = inventory_inspect(folder, false, NULL, &faults);
    if (written == NULL) {
        fail_msg("%s: %s", faults.items[0].field, faults.items[0].message);
    }
    struct plan_size size;
    plan_measure(plan, source->inventory, 0, &size);
    assert_int_equal(draft.weight_bytes, written->weight_bytes);
    assert_int_equal(draft.parameter_count, written->parameter_count);
    if (layout != EXPORT_IDENTITY && expected != EXPORT_IDENTITY) {
        assert_int_equal(size.parameter_count, written->parameter_count);
        assert_int_equal(size.weight_bytes, written->weight_bytes);
        assert_int_equal(size.prunable_count, written->prunable_count);
    }
    *ret_folder = folder;
    return written;
}

static void expect_the_same_states(const struct source *source, const struct plan *plan,
                                   const struct inventory *written, const char *folder, const char *name)
{
    OWNED_MEMORY float *should = run(source->inventory, source->folder, plan->removed);
    OWNED_MEMORY float *is = run(written, folder, NULL);
    for (size_t i = 0; i < TOKENS * source->inventory->config.hidden_size; i++) {
        if (!(is[i] <= should[i] && is[i] >= should[i])) {
            fail_msg("%s: element %zu is %g and was %g", name, i, (double)is[i], (double)should[i]);
        }
    }
}

static const struct {
    const char *name;
    int removed[5];
    size_t windows[3], experts[3]; /* of the blocks that are left */
} packed[] = {
    {"llama", {1, 2, -1}, {0}, {0}}, /* A0 meets F1 */
    {"llama3_old", {1, 2, -1}, {0}, {0}},
    {"llama_bias", {0, 1, -1}, {0}, {0}},
    {"mistral_old", {1, 2, -1}, {24}, {0}},
    {"qwen2_window", {0, 1, -1}, {24}, {0}},
    {"qwen2_window_old", {0, 1, -1}, {24}, {0}},
    {"qwen2_window_old", {2, 3, -1}, {0}, {0}},
    {"qwen3", {1, 2, -1}, {0}, {0}},
    {"gemma2", {1, 2, -1}, {24, 24}, {0}}, /* attention of layers 0 and 2 */
    {"gemma2_old", {0, 1, -1}, {0, 24}, {0}},
    {"gemma2_old", {2, 3, -1}, {24, 24}, {0}},
    {"gemma3_text", {0, 1, -1}, {24, 0, 24}, {0}},
    {"gemma3_text_old", {5, 6, -1}, {24, 24, 0}, {0}},
    {"phi3", {1, 2, -1}, {24}, {0}},
    {"phi3_longrope_old", {0, 1, -1}, {0}, {0}},
    {"gpt2", {1, 2, -1}, {0}, {0}},
    {"gpt2_old", {0, 1, -1}, {0}, {0}},
    {"opt", {1, 2, -1}, {0}, {0}},
    {"opt_old", {2, 3, -1}, {0}, {0}},
    {"gpt_neox", {0, 1, -1}, {0}, {0}},
    {"gpt_neox_old", {2, 3, -1}, {0}, {0}},
    {"gpt_neox_serial", {1, 2, -1}, {0}, {0}},
    {"mixtral", {1, 2, -1}, {0}, {4}},
    {"qwen3_moe", {1, 2, -1}, {0}, {0, 5}}, /* A0 meets the plain F1 */
    {"qwen3_moe_old", {2, 3, -1}, {0}, {5, 5}},
};

static void uniform_says_in_a_stock_config_what_is_left(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof packed / sizeof packed[0]; i++) {
        struct source source = open_source(packed[i].name);
        OWNED(plan) plan = make_plan(source.inventory, packed[i].removed);
        char *folder = NULL;
        OWNED(inventory) written = round_trip(&source, plan, EXPORT_AUTO, EXPORT_UNIFORM, &folder);
        assert_int_equal(written->config.layer_count, source.inventory->config.layer_count - 1);
        assert_string_equal(written->config.model_type, source.inventory->config.model_type);
        for (size_t b = 0; b < written->config.layer_count; b++) {
            if (written->config.layers[b].window_tokens != packed[i].windows[b] ||
                written->config.layers[b].expert_count != packed[i].experts[b]) {
                fail_msg("%s: block %zu has window %zu and %zu experts", packed[i].name, b,
                         written->config.layers[b].window_tokens, written->config.layers[b].expert_count);
            }
        }
        expect_the_same_states(&source, plan, written, folder, packed[i].name);
        assert_true(file_remove_tree(folder, NULL));
        free(folder);
        close_source(&source);
    }
}

static void identity_computes_the_same_and_keeps_the_shape(void **state)
{
    (void)state;
    static const char *const names[] = {
        "mistral", "qwen2",    "qwen2_window_old", "qwen3",   "gemma2",   "gemma3_text_old",
        "phi3",    "gpt2",     "gpt2_old",         "opt_old", "gpt_neox", "gpt_neox_serial",
        "mixtral", "qwen3_moe"};
    static const int removed[] = {0, 3, -1};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct source source = open_source(names[i]);
        OWNED(plan) plan = make_plan(source.inventory, removed);
        char *folder = NULL;
        OWNED(inventory) written = round_trip(&source, plan, EXPORT_IDENTITY, EXPORT_IDENTITY, &folder);
        assert_int_equal(written->parameter_count, source.inventory->parameter_count);
        expect_the_same_states(&source, plan, written, folder, names[i]);
        assert_true(file_remove_tree(folder, NULL));
        free(folder);
        close_source(&source);
    }
}

static void all_experts_of_a_removed_sublayer_become_zero(void **state)
{
    (void)state;
    static const int removed[] = {1, -1};
    struct source source = open_source("mixtral");
    OWNED(plan) plan = make_plan(source.inventory, removed);
    struct export_options options = {
        .layout = EXPORT_IDENTITY, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
    FINISHED(export_draft) draft = {0};
    assert_true(export_draft_make(plan, source.inventory, &options, &draft, NULL));
    size_t zeroes = 0;
    for (size_t i = 0; i < draft.tensor_count; i++) {
        zeroes += draft.tensors[i].is_zero ? 1 : 0;
        assert_true(!draft.tensors[i].is_zero || strstr(draft.tensors[i].name, ".w2.weight") != NULL);
    }
    assert_int_equal(zeroes, 4);
    close_source(&source);
}

static void expect_refused(const char *name, const int *removed, enum export_layout layout, const char *part)
{
    struct source source = open_source(name);
    OWNED(plan) plan = make_plan(source.inventory, removed);
    struct export_options options = {.layout = layout, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
    struct export_draft draft = {0};
    struct error error = {0};
    assert_false(export_draft_make(plan, source.inventory, &options, &draft, &error));
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
    assert_string_equal(error.field, "/output/layout");
    if (strstr(error.message, part) == NULL) {
        fail_msg("%s: %s", name, error.message);
    }
    close_source(&source);
}

static void what_a_layout_cannot_say_is_refused(void **state)
{
    (void)state;
    static const int none[] = {-1}, one[] = {1, -1}, merged[] = {1, 2, -1}, whole[] = {0, 1, -1};
    expect_refused("gpt_neox", merged, EXPORT_UNIFORM,
                   "lack attention or FFN"); /* A0 and F1 are no partners */
    expect_refused("gemma2", one, EXPORT_UNIFORM, "ask for heterogeneous");
    expect_refused("gemma2", one, EXPORT_PADDED, "lack attention or FFN");
    expect_refused("bert", none, EXPORT_HETEROGENEOUS, "is for decoders");
    expect_refused("bert", whole, EXPORT_AUTO, "normalises after");
    expect_refused("bert", whole, EXPORT_IDENTITY, "normalises after");
    struct source source = open_source("bert_old");
    OWNED(plan) plan = make_plan(source.inventory, none);
    char *folder = NULL;
    OWNED(inventory) copy = round_trip(&source, plan, EXPORT_AUTO, EXPORT_UNIFORM, &folder);
    assert_int_equal(copy->tensor_count, source.inventory->tensor_count);
    assert_true(file_remove_tree(folder, NULL));
    free(folder);
    close_source(&source);
}

/* First and last blocks without attention, and without an FFN; written once more, nothing changes. */
static void heterogeneous_computes_the_same_in_every_family(void **state)
{
    (void)state;
    static const char *const names[] = {
        "llama",     "llama_bias",       "llama_headdim",   "llama3",   "mistral",
        "qwen2",     "qwen2_window_old", "qwen3",           "gemma2",   "gemma2_old",
        "phi3",      "phi3_longrope",    "gemma3_text_old", "gpt2",     "gpt2_old",
        "opt",       "opt_old",          "mixtral",         "gpt_neox", "gpt_neox_serial",
        "qwen3_moe", "gpt_neox_old"};
    static const int removed[][4] = {{0, 3, -1}, {1, -1}, {2, -1}, {0, 1, 2, -1}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (size_t r = 0; r < sizeof removed / sizeof removed[0]; r++) {
            struct source source = open_source(names[i]);
            OWNED(plan) plan = make_plan(source.inventory, removed[r]);
            char *folder = NULL, *again = NULL;
            OWNED(inventory)
            written = round_trip(&source, plan, EXPORT_HETEROGENEOUS, EXPORT_HETEROGENEOUS, &folder);
            assert_true(written->config.is_heterogeneous);
            assert_string_equal(written->config.model_type, source.inventory->config.model_type);
            expect_the_same_states(&source, plan, written, folder, names[i]);
            struct source second = {.folder = folder, .inventory = written};
            struct plan_sublayer *sublayers = NULL;
            OWNED(plan) nothing = plan_create(plan_list_sublayers(&written->config, &sublayers));
            free(sublayers);
            OWNED(inventory)
            copy = round_trip(&second, nothing, EXPORT_HETEROGENEOUS, EXPORT_HETEROGENEOUS, &again);
            assert_true(json_equal(json_object_get(written->config_json, "pruning"),
                                   json_object_get(copy->config_json, "pruning")));
            expect_the_same_states(&source, plan, copy, again, names[i]);
            assert_true(file_remove_tree(folder, NULL) && file_remove_tree(again, NULL));
            free(folder);
            free(again);
            close_source(&source);
        }
    }
}

/* What llama.cpp would lose is written round with zeros, which change no number: blocks without FFN, a first block without
 * attention. */
static void deci_computes_the_same(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "llama_headdim", "llama3", "llama_bf16"};
    static const struct {
        int removed[4];
        size_t heads[2], ffns[2];
    } cases[] = {{{0, 3, -1}, {1, 4}, {44, 32}}, {{1, -1}, {4, 4}, {32, 44}}, {{2, -1}, {4, 0}, {44, 44}}};
    JSON_OWNED formats = json_pack("[s]", "gguf:f32");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (size_t r = 0; r < sizeof cases / sizeof cases[0]; r++) {
            struct source source = open_source(names[i]);
            OWNED(plan) plan = make_plan(source.inventory, cases[r].removed);
            struct export_options options = {
                .layout = EXPORT_AUTO, .is_stock = true, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
            FINISHED(export_draft) draft = {0};
            FINISHED(error_list) faults = {0};
            struct error error = {0};
            uint64_t bytes = 0;
            OWNED_MEMORY char *folder = make_folder();
            OWNED_MEMORY char *path = file_join(folder, "model-F32.gguf");
            if (!export_draft_make(plan, source.inventory, &options, &draft, &error) ||
                !export_check_formats(&draft, source.inventory, formats, &options, &bytes, &error) ||
                !export_write(&draft, source.inventory, source.folder, folder, &options, &error) ||
                !export_write_formats(&draft, source.inventory, source.folder, folder, formats, &options,
                                      &error)) {
                fail_msg("%s: %s", names[i], error.message);
            }
            OWNED(inventory) written = inventory_inspect(path, false, NULL, &faults);
            if (written == NULL) {
                fail_msg("%s: %s", names[i], faults.items[0].message);
            }
            assert_int_equal(draft.layout, EXPORT_HETEROGENEOUS);
            assert_true(written->config.is_heterogeneous);
            for (size_t b = 0; i == 0 && b < 2; b++) {
                const struct model_layer *layer = &written->config.layers[b];
                assert_int_equal(layer->has_attention ? layer->head_count : 0, cases[r].heads[b]);
                assert_int_equal(layer->intermediate_size, cases[r].ffns[b]);
            }
            expect_the_same_states(&source, plan, written, path, names[i]);
            assert_true(file_remove_tree(folder, NULL));
            close_source(&source);
        }
    }
}

static void deci_refuses_what_its_biases_cannot_hold(void **state)
{
    (void)state;
    static const int removed[] = {1, -1};
    JSON_OWNED formats = json_pack("[s, s]", "hf", "gguf:f32");
    struct source source = open_source("llama_bias");
    OWNED(plan) plan = make_plan(source.inventory, removed);
    struct export_options options = {
        .layout = EXPORT_HETEROGENEOUS, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
    FINISHED(export_draft) draft = {0};
    struct error error = {0};
    uint64_t bytes = 0;
    assert_true(export_draft_make(plan, source.inventory, &options, &draft, &error));
    bool is_whole = source.inventory->config.head_count * source.inventory->config.head_size ==
                    source.inventory->config.hidden_size;
    assert_true(export_check_formats(&draft, source.inventory, formats, &options, &bytes, &error) ==
                is_whole);
    json_t *layer = json_array_get(json_object_get(json_object_get(draft.config, "pruning"), "layers"), 1);
    json_put_i64(json_object_get(layer, "attention"), "num_attention_heads", 2);
    assert_false(export_check_formats(&draft, source.inventory, formats, &options, &bytes, &error));
    assert_string_equal(error.field, "/output/formats/1");
    assert_non_null(strstr(error.message, "biases as long as the hidden size"));
    close_source(&source);
}

static void lists_by_layer_are_written_where_a_rule_would_shift(void **state)
{
    (void)state;
    static const int first[] = {0, 1, -1};
    static const struct {
        const char *name, *config;
    } cases[] = {
        {"gemma2_old",
         "{\"layer_types\": [\"full_attention\", \"sliding_attention\"], \"num_hidden_layers\": 2}"},
        {"qwen2_window_old",
         "{\"layer_types\": [\"sliding_attention\"], \"max_window_layers\": 0, \"num_hidden_layers\": 1}"},
        {"qwen3_moe", "{\"mlp_only_layers\": [0], \"decoder_sparse_step\": 1, \"num_hidden_layers\": 2}"},
        {"gpt2", "{\"n_layer\": 1}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct source source = open_source(cases[i].name);
        OWNED(plan) plan = make_plan(source.inventory, first);
        struct export_options options = {
            .layout = EXPORT_UNIFORM, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
        FINISHED(export_draft) draft = {0};
        assert_true(export_draft_make(plan, source.inventory, &options, &draft, NULL));
        JSON_OWNED should = json_loads(cases[i].config, 0, NULL);
        const char *key = NULL;
        json_t *value = NULL;
        json_object_foreach(should, key, value)
        {
            if (!json_equal(value, json_object_get(draft.config, key))) {
                fail_msg("%s: %s", cases[i].name, key);
            }
        }
        assert_true(strcmp(cases[i].name, "gpt2") != 0 ||
                    json_object_get(draft.config, "num_hidden_layers") == NULL);
        close_source(&source);
    }
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uniform_says_in_a_stock_config_what_is_left),
        cmocka_unit_test(identity_computes_the_same_and_keeps_the_shape),
        cmocka_unit_test(all_experts_of_a_removed_sublayer_become_zero),
        cmocka_unit_test(what_a_layout_cannot_say_is_refused),
        cmocka_unit_test(heterogeneous_computes_the_same_in_every_family),
        cmocka_unit_test(deci_computes_the_same),
        cmocka_unit_test(deci_refuses_what_its_biases_cannot_hold),
        cmocka_unit_test(lists_by_layer_are_written_where_a_rule_would_shift),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
