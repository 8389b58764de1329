/*
 * Layouts on the model of tests/skills: what becomes of every tensor, what the config says, what is refused; and the written files,
 * read back by the inventory.
 */
#include "base/file.h"
#include "base/memory.h"
#include "workers/export/export.h"
#include "workers/model/source.h"
#include "workers/model/tokenizer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL PROJECT_ROOT "/tests/skills/model"

static struct inventory *open_inventory(const char *folder)
{
    FINISHED(error_list) faults = {0};
    struct inventory *inventory = inventory_inspect(folder, false, NULL, &faults);
    if (inventory == NULL) {
        fail_msg("%s: %s", faults.items[0].field, faults.items[0].message);
    }
    return inventory;
}

static struct plan *remove_sublayers(const struct inventory *inventory, const size_t *removed, size_t count)
{
    struct plan *plan = plan_create(2 * inventory->config.layer_count);
    for (size_t i = 0; i < count; i++) {
        plan_add_point(plan, removed[i], 0.25, true);
    }
    plan_cut(plan, count);
    return plan;
}

static const struct export_tensor *find_tensor(const struct export_draft *draft, const char *name)
{
    for (size_t i = 0; i < draft->tensor_count; i++) {
        if (strcmp(draft->tensors[i].name, name) == 0) {
            return &draft->tensors[i];
        }
    }
    return NULL;
}

static struct export_options options_for(enum export_layout layout)
{
    return (struct export_options){.layout = layout, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
}

static void heterogeneous_renumbers_what_survives(void **state)
{
    (void)state;
    OWNED(inventory) inventory = open_inventory(MODEL);
    static const size_t removed[] = {1, 2, 6}; /* F0 A1 A3: A0 meets F1, F3 stands alone */
    OWNED(plan) plan = remove_sublayers(inventory, removed, 3);
    struct export_options options = options_for(EXPORT_AUTO);
    FINISHED(export_draft) draft = {0};
    struct error error = {0};
    assert_true(export_draft_make(plan, inventory, &options, &draft, &error));
    assert_int_equal(draft.layout, EXPORT_HETEROGENEOUS);
    assert_int_equal(draft.block_count, inventory->config.layer_count - 1);
    const struct export_tensor *merged = find_tensor(&draft, "model.layers.0.mlp.up_proj.weight");
    assert_string_equal(inventory->tensors[merged->source].name, "model.layers.1.mlp.up_proj.weight");
    assert_non_null(find_tensor(&draft, "model.layers.2.mlp.down_proj.weight"));
    assert_null(find_tensor(&draft, "model.layers.2.self_attn.q_proj.weight"));
    assert_null(find_tensor(&draft, "model.layers.2.input_layernorm.weight"));
    const json_t *layers = json_object_get(json_object_get(draft.config, "pruning"), "layers");
    assert_int_equal(json_array_size(layers), draft.block_count);
    assert_true(json_is_false(json_object_get(json_array_get(layers, 2), "attention")));
    struct plan_size size;
    plan_measure(plan, inventory, 0, &size);
    assert_int_equal(size.parameter_count, draft.parameter_count);
    assert_int_equal(size.weight_bytes, draft.weight_bytes);
}

static void identity_zeroes_only_output_projections(void **state)
{
    (void)state;
    OWNED(inventory) inventory = open_inventory(MODEL);
    static const size_t removed[] = {2, 5};
    OWNED(plan) plan = remove_sublayers(inventory, removed, 2);
    struct export_options options = options_for(EXPORT_IDENTITY);
    FINISHED(export_draft) draft = {0};
    assert_true(export_draft_make(plan, inventory, &options, &draft, NULL));
    assert_int_equal(draft.tensor_count, inventory->tensor_count);
    size_t zeroes = 0;
    for (size_t i = 0; i < draft.tensor_count; i++) {
        zeroes += draft.tensors[i].is_zero ? 1 : 0;
    }
    assert_int_equal(zeroes, 2);
    assert_true(find_tensor(&draft, "model.layers.1.self_attn.o_proj.weight")->is_zero);
    assert_true(find_tensor(&draft, "model.layers.2.mlp.down_proj.weight")->is_zero);
    assert_string_equal(json_string_value(json_object_get(draft.config, "model_type")), "llama");
}

static void a_layout_that_cannot_hold_the_plan_is_refused(void **state)
{
    (void)state;
    OWNED(inventory) inventory = open_inventory(MODEL);
    static const size_t removed[] = {3};
    OWNED(plan) plan = remove_sublayers(inventory, removed, 1);
    struct export_options options = options_for(EXPORT_UNIFORM);
    struct export_draft draft = {0};
    struct error error = {0};
    assert_false(export_draft_make(plan, inventory, &options, &draft, &error));
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
    assert_string_equal(error.field, "/output/layout");
    options.layout = EXPORT_AUTO; /* falls back to what every loader opens */
    options.is_stock = true;
    inventory->config.model_type = "qwen2"; /* GGUF has no such model whose layers differ */
    assert_true(export_draft_make(plan, inventory, &options, &draft, &error));
    assert_int_equal(draft.layout, EXPORT_IDENTITY);
    export_draft_finish(&draft);
}

static char *make_folder(void)
{
    char *folder = memory_copy_text("/tmp/pruned-export-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

/* Blocks as DeciLM says them, and every rule that a plan breaks. */
static void decilm_keeps_to_its_rules(void **state)
{
    (void)state;
    OWNED(inventory) inventory = open_inventory(MODEL);
    static const size_t kept[] = {3, 4}, first[] = {0};
    struct export_options options = options_for(EXPORT_DECILM);
    struct error error = {0};
    OWNED(plan) plan = remove_sublayers(inventory, kept, 1);
    FINISHED(export_draft) draft = {0};
    if (!export_draft_make(plan, inventory, &options, &draft, &error)) {
        fail_msg("%s", error.message);
    }
    const json_t *blocks = json_object_get(draft.config, "block_configs");
    const json_t *attention = json_object_get(json_array_get(blocks, 1), "attention"),
                 *ffn = json_object_get(json_array_get(blocks, 1), "ffn"),
                 *whole = json_object_get(json_array_get(blocks, 0), "ffn");
    assert_int_equal(json_array_size(blocks), draft.block_count);
    assert_int_equal(json_integer_value(json_object_get(attention, "n_heads_in_group")), 2);
    assert_true(json_is_true(json_object_get(ffn, "no_op")) &&
                json_is_null(json_object_get(ffn, "ffn_mult")));
    assert_true(json_real_value(json_object_get(whole, "ffn_mult")) > 2.999999 &&
                json_real_value(json_object_get(whole, "ffn_mult")) < 3.000001);
    assert_string_equal(json_string_value(json_object_get(draft.config, "model_type")), "nemotron-nas");
    OWNED_MEMORY char *folder = make_folder();
    if (!export_write(&draft, inventory, MODEL, folder, &options, &error)) {
        fail_msg("%s", error.message);
    }
    OWNED(inventory) written = open_inventory(folder);
    assert_true(written->config.is_heterogeneous && !written->config.layers[1].has_ffn);
    assert_int_equal(written->parameter_count, draft.parameter_count);
    assert_true(file_remove_tree(folder, NULL));
    OWNED(plan) headless = remove_sublayers(inventory, first, 1);
    struct export_draft other = {0};
    inventory->config.layers[2].intermediate_size = 200;
    inventory->config.layers[3].head_count = 2;
    inventory->config.layers[3].kv_head_count = 1;
    assert_false(export_draft_make(headless, inventory, &options, &other, &error));
    assert_string_equal(error.field, "/output/layout");
    assert_non_null(strstr(error.message, "first block has no attention"));
    assert_non_null(strstr(error.message, "200 channels"));
    assert_non_null(strstr(error.message, "2 query heads"));
    inventory->config.model_type = "qwen3";
    assert_false(export_draft_make(plan, inventory, &options, &other, &error));
    assert_non_null(strstr(error.message, "computes as Llama does"));
}

/* The bytes of one tensor of a folder: owned. */
static unsigned char *read_tensor(const struct inventory *inventory, const char *folder, const char *name,
                                  uint64_t *ret_bytes)
{
    const struct inventory_tensor *tensor = inventory_find(inventory, name);
    assert_non_null(tensor);
    OWNED_MEMORY char *path = file_join(folder, inventory->files[tensor->file].path);
    OWNED_FD int fd = file_open_read(path, NULL);
    unsigned char *bytes = memory_create((size_t)tensor->bytes, 1);
    assert_true(file_read_at(fd, bytes, (size_t)tensor->bytes, tensor->offset_bytes, name, NULL));
    *ret_bytes = tensor->bytes;
    return bytes;
}

static void written_tensors_are_the_sources_bytes(void **state)
{
    (void)state;
    OWNED(inventory) inventory = open_inventory(MODEL);
    static const size_t removed[] = {1, 2, 6};
    OWNED(plan) plan = remove_sublayers(inventory, removed, 3);
    static const uint64_t shard_bytes[] = {1u << 30, 300000};
    for (size_t s = 0; s < 2; s++) {
        struct export_options options = options_for(EXPORT_HETEROGENEOUS);
        options.max_shard_bytes = shard_bytes[s];
        FINISHED(export_draft) draft = {0};
        struct error error = {0};
        assert_true(export_draft_make(plan, inventory, &options, &draft, &error));
        OWNED_MEMORY char *folder = make_folder();
        if (!export_write(&draft, inventory, MODEL, folder, &options, &error)) {
            fail_msg("%s", error.message);
        }
        OWNED(inventory) written = open_inventory(folder);
        assert_int_equal(written->tensor_count, draft.tensor_count);
        for (size_t i = 0; i < draft.tensor_count; i++) {
            uint64_t one = 0;
            uint64_t two = 0;
            OWNED_MEMORY unsigned char *from =
                read_tensor(inventory, MODEL, inventory->tensors[draft.tensors[i].source].name, &one);
            OWNED_MEMORY unsigned char *to = read_tensor(written, folder, draft.tensors[i].name, &two);
            assert_int_equal(one, two);
            assert_memory_equal(from, to, one);
        }
        assert_true(file_remove_tree(folder, NULL));
    }
}

/* Rows of a tensor, whatever file they lie in. Owned. */
static float *read_values(const struct inventory *inventory, const char *path, const char *name,
                          size_t *ret_count)
{
    struct error error = {0};
    struct source_view view;
    const struct inventory_tensor *tensor = inventory_find(inventory, name);
    assert_non_null(tensor);
    OWNED(source) source = source_open(inventory, path, &error);
    assert_non_null(source);
    source_view_canonical(tensor, &view);
    OWNED_MEMORY void *window = memory_create(source_window_bytes(&view, view.rows), 1);
    float *values = memory_create((size_t)(view.rows * view.columns), sizeof *values);
    assert_true(source_read_rows(source, &view, 0, view.rows, window, values, &error));
    *ret_count = (size_t)(view.rows * view.columns);
    return values;
}

/* A plan that leaves no whole blocks goes into GGUF as deci, one that does as llama; both forms of the result hold the
 * same numbers and give the same tokens. deci has zeros besides, for the FFN that block 2 lacks. */
static void a_gguf_file_beside_the_folder_holds_the_same_model(void **state)
{
    (void)state;
    static const size_t removed[][2] = {{2, 5}, {2, 3}};
    static const enum export_layout layouts[] = {EXPORT_HETEROGENEOUS, EXPORT_UNIFORM};
    OWNED(inventory) inventory = open_inventory(MODEL);
    JSON_OWNED formats = json_pack("[s, s]", "hf", "gguf:f32");
    for (size_t pass = 0; pass < 2; pass++) {
        OWNED(plan) plan = remove_sublayers(inventory, removed[pass], 2);
        struct export_options options = options_for(EXPORT_AUTO);
        FINISHED(export_draft) draft = {0};
        struct error error = {0};
        uint64_t bytes = 0;
        options.is_stock = export_formats_have_gguf(formats);
        assert_true(options.is_stock);
        assert_true(export_draft_make(plan, inventory, &options, &draft, &error));
        assert_int_equal(draft.layout, layouts[pass]);
        assert_true(export_check_formats(&draft, inventory, formats, &options, &bytes, &error));
        OWNED_MEMORY char *folder = make_folder();
        if (!export_write(&draft, inventory, MODEL, folder, &options, &error) ||
            !export_write_formats(&draft, inventory, MODEL, folder, formats, &options, &error)) {
            fail_msg("%s", error.message);
        }
        OWNED_MEMORY char *path = file_join(folder, "model-F32.gguf");
        OWNED(inventory) written = open_inventory(folder);
        OWNED(inventory) gguf = open_inventory(path);
        assert_int_equal(gguf->config.layer_count, written->config.layer_count);
        assert_int_equal(gguf->tensor_count, written->tensor_count + (pass == 0 ? 4 : 0));
        for (size_t i = 0; i < written->tensor_count; i++) {
            const char *name = written->tensors[i].name;
            size_t one = 0, two = 0;
            OWNED_MEMORY float *should = read_values(written, folder, name, &one);
            OWNED_MEMORY float *is = read_values(gguf, path, name, &two);
            assert_int_equal(one, two);
            assert_memory_equal(should, is, one * sizeof *is);
        }
        OWNED(tokenizer) original = inventory_load_tokenizer(written, folder, &error);
        OWNED(tokenizer) back = inventory_load_tokenizer(gguf, path, &error);
        assert_non_null(original);
        assert_non_null(back);
        struct tokens should = {0}, is = {0};
        static const char text[] = "a red fox: 7 + 12 = 19\n";
        assert_true(tokenizer_encode(original, text, strlen(text), true, &should, &error));
        assert_true(tokenizer_encode(back, text, strlen(text), true, &is, &error));
        assert_true(is.count > 0 && is.count == should.count);
        assert_memory_equal(is.ids, should.ids, is.count * sizeof *is.ids);
        tokens_finish(&should);
        tokens_finish(&is);
        assert_true(file_remove_tree(folder, NULL));
    }
}

static void gguf_refuses_what_it_cannot_hold_before_anything_is_written(void **state)
{
    (void)state;
    OWNED(inventory) inventory = open_inventory(MODEL);
    JSON_OWNED formats = json_pack("[s]", "gguf:q8_0");
    struct export_options options = options_for(EXPORT_HETEROGENEOUS);
    struct error error = {0};
    uint64_t bytes = 0;
    inventory->config.model_type = "qwen3";
    assert_false(export_check_formats(NULL, inventory, formats, &options, &bytes, &error));
    assert_true(error.code == ERROR_UNSUPPORTED && strcmp(error.field, "/output/formats/0") == 0);
    assert_non_null(strstr(error.message, "deci alone"));
    inventory->config.model_type = "llama";
    assert_true(export_check_formats(NULL, inventory, formats, &options, &bytes, &error));
    options.layout = EXPORT_AUTO;
    assert_true(export_check_formats(NULL, inventory, formats, &options, &bytes, &error));
    assert_true(bytes > 0 && bytes < inventory->parameter_count * 2);
    json_put_text(inventory->config_json, "hidden_act", "relu");
    assert_false(export_check_formats(NULL, inventory, formats, &options, &bytes, &error));
    assert_true(error.code == ERROR_UNSUPPORTED && strcmp(error.field, "/output/formats/0") == 0);
    assert_non_null(strstr(error.message, "hidden_act"));
}

/* ---- a disk that is full after n writes ------------------------------------------------------------------------------ */

static int writes_left;

static ssize_t failing_write(int fd, const void *bytes, size_t count)
{
    if (writes_left-- <= 0) {
        errno = ENOSPC;
        return -1;
    }
    return file_system_real.write(fd, bytes, count);
}

static void a_full_disk_is_storage_full_and_a_cancel_is_cancelled(void **state)
{
    (void)state;
    OWNED(inventory) inventory = open_inventory(MODEL);
    OWNED(plan) plan = remove_sublayers(inventory, NULL, 0);
    struct export_options options = options_for(EXPORT_AUTO);
    options.is_dtype_kept = false;
    options.dtype = DTYPE_F32;
    FINISHED(export_draft) draft = {0};
    struct error error = {0};
    assert_true(export_draft_make(plan, inventory, &options, &draft, &error));
    assert_false(draft.is_verbatim);
    struct file_system failing = file_system_real;
    failing.write = failing_write;
    for (int n = 0; n < 60; n += 7) {
        OWNED_MEMORY char *folder = make_folder();
        writes_left = n;
        file_system = &failing;
        bool is_written = export_write(&draft, inventory, MODEL, folder, &options, &error);
        file_system = &file_system_real;
        assert_false(is_written);
        assert_int_equal(error.code, ERROR_STORAGE_FULL);
        assert_true(file_remove_tree(folder, NULL));
    }
    struct cancel cancel = {0};
    cancel_request(&cancel, CANCEL_NOW);
    options.cancel = &cancel;
    OWNED_MEMORY char *folder = make_folder();
    assert_false(export_write(&draft, inventory, MODEL, folder, &options, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    assert_true(file_remove_tree(folder, NULL));
}

static void sums_leave_the_report_out(void **state)
{
    (void)state;
    OWNED_MEMORY char *folder = make_folder();
    static const char *const names[] = {"a.txt", "report.json", "report.html", "z.txt"};
    for (size_t i = 0; i < 4; i++) {
        OWNED_MEMORY char *path = file_join(folder, names[i]);
        assert_true(file_save(path, "x", 1, 0644, NULL));
    }
    json_t *files = NULL;
    struct error error = {0};
    assert_true(export_write_sums(folder, &files, &error));
    assert_int_equal(json_array_size(files), 5);
    assert_string_equal(json_string_value(json_object_get(json_array_get(files, 0), "path")), "SHA256SUMS");
    OWNED_MEMORY char *path = file_join(folder, "SHA256SUMS");
    size_t count = 0;
    OWNED_MEMORY char *text = file_load(path, 1 << 16, &count, NULL);
    static const char sum[] = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"; /* of "x" */
    char expected[256];
    (void)snprintf(expected, sizeof expected, "%s  a.txt\n%s  z.txt\n", sum, sum);
    assert_string_equal(text, expected);
    json_decref(files);
    assert_true(file_remove_tree(folder, NULL));
}

static void a_license_is_read_from_the_front_matter(void **state)
{
    (void)state;
    OWNED_MEMORY char *folder = make_folder();
    OWNED_MEMORY char *none = export_read_license(folder);
    assert_null(none);
    OWNED_MEMORY char *path = file_join(folder, "README.md");
    static const char text[] = "---\ntags:\n- x\nlicense: apache-2.0\n---\n# A model\nlicense: other\n";
    assert_true(file_save(path, text, strlen(text), 0644, NULL));
    OWNED_MEMORY char *license = export_read_license(folder);
    assert_string_equal(license, "apache-2.0");
    assert_true(file_remove_tree(folder, NULL));
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heterogeneous_renumbers_what_survives),
        cmocka_unit_test(identity_zeroes_only_output_projections),
        cmocka_unit_test(a_layout_that_cannot_hold_the_plan_is_refused),
        cmocka_unit_test(decilm_keeps_to_its_rules),
        cmocka_unit_test(written_tensors_are_the_sources_bytes),
        cmocka_unit_test(a_gguf_file_beside_the_folder_holds_the_same_model),
        cmocka_unit_test(gguf_refuses_what_it_cannot_hold_before_anything_is_written),
        cmocka_unit_test(a_full_disk_is_storage_full_and_a_cancel_is_cancelled),
        cmocka_unit_test(sums_leave_the_report_out),
        cmocka_unit_test(a_license_is_read_from_the_front_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
