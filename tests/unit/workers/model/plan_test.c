/* Plans: packing (structured_pruning 15.5), measuring, and JSON there and back. */
#include "workers/model/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 6, SUBLAYERS = 12 };

static void start_inventory(struct inventory *inventory)
{
    *inventory = (struct inventory){.config = {.model_type = "llama", .prefix = "model."}};
    inventory->config.layer_count = LAYERS;
    for (size_t i = 0; i < LAYERS; i++) {
        inventory->config.layers[i] = (struct model_layer){.has_attention = true, .has_ffn = true};
    }
}

static struct plan *keep_only(const size_t *kept, size_t count)
{
    struct plan *plan = plan_create(SUBLAYERS);
    for (size_t i = 0; i < SUBLAYERS; i++) {
        bool is_kept = false;
        for (size_t k = 0; k < count; k++) {
            is_kept = is_kept || kept[k] == i;
        }
        if (!is_kept) {
            plan_add_point(plan, i, 0.5, true);
        }
    }
    plan_cut(plan, plan->point_count);
    return plan;
}

static void surviving_sublayers_pack_in_residual_order(void **state)
{
    (void)state;
    struct inventory inventory;
    start_inventory(&inventory);
    /* A0 F0 A1 F3 F4 A5 => (A0,F0) (A1,F3) (-,F4) (A5,-) */
    static const size_t kept[] = {0, 1, 2, 7, 9, 10};
    OWNED(plan) plan = keep_only(kept, 6);
    FINISHED(plan_blocks) blocks = {0};
    plan_pack(plan, &inventory, &blocks);
    static const struct plan_block expected[] = {{0, 1}, {2, 7}, {-1, 9}, {10, -1}};
    assert_int_equal(blocks.count, 4);
    assert_false(blocks.is_uniform);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(blocks.blocks[i].attention, expected[i].attention);
        assert_int_equal(blocks.blocks[i].ffn, expected[i].ffn);
    }
}

static void a_plan_of_whole_pairs_is_uniform(void **state)
{
    (void)state;
    struct inventory inventory;
    start_inventory(&inventory);
    static const size_t kept[] = {0, 1, 2, 7, 10, 11}; /* F1 A2 F2 A3 gone: A1 meets F3 */
    OWNED(plan) plan = keep_only(kept, 6);
    FINISHED(plan_blocks) blocks = {0};
    plan_pack(plan, &inventory, &blocks);
    assert_true(blocks.is_uniform);
    assert_int_equal(blocks.count, 3);
}

static void absent_sublayers_of_the_source_are_not_counted(void **state)
{
    (void)state;
    struct inventory inventory;
    start_inventory(&inventory);
    inventory.config.layers[1].has_attention = false;
    inventory.config.layers[3].has_ffn = false;
    struct plan_sublayer *sublayers = NULL;
    assert_int_equal(plan_list_sublayers(&inventory.config, &sublayers), SUBLAYERS - 2);
    assert_int_equal(sublayers[2].layer, 1);
    assert_false(sublayers[2].is_attention);
    free(sublayers);
    struct tensor_owner owner;
    assert_true(plan_find_owner(&inventory.config, "model.layers.3.self_attn.q_proj.weight", &owner));
    assert_int_equal(owner.sublayer, 5);
    assert_false(plan_find_owner(&inventory.config, "model.layers.1.self_attn.q_proj.weight", &owner));
    assert_false(plan_find_owner(&inventory.config, "model.layers.6.mlp.up_proj.weight", &owner));
    assert_false(plan_find_owner(&inventory.config, "model.norm.weight", &owner));
    assert_false(plan_find_owner(&inventory.config, "model.layers.x.mlp.up_proj.weight", &owner));
    assert_true(plan_find_owner(&inventory.config, "model.layers.2.post_attention_layernorm.weight", &owner));
    assert_int_equal(owner.role, TENSOR_ROLE_NORM);
    assert_false(owner.is_attention);
}

static void every_family_knows_its_own_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *family, *prefix, *name, *suffix;
        size_t sublayer;
        enum tensor_role role;
    } cases[] = {
        {"gemma2", "model.", "model.layers.1.post_attention_layernorm.weight",
         "post_attention_layernorm.weight", 2, TENSOR_ROLE_NORM},
        {"gemma2", "model.", "model.layers.1.pre_feedforward_layernorm.weight",
         "pre_feedforward_layernorm.weight", 3, TENSOR_ROLE_NORM},
        {"qwen3", "model.", "model.layers.2.self_attn.q_norm.weight", "self_attn.q_norm.weight", 4,
         TENSOR_ROLE_NORM},
        {"phi3", "model.", "model.layers.0.mlp.gate_up_proj.weight", "mlp.gate_up_proj.weight", 1,
         TENSOR_ROLE_WEIGHT},
        {"gpt2", "", "h.5.attn.c_proj.weight", "attn.c_proj.weight", 10, TENSOR_ROLE_WEIGHT},
        {"gpt2", "", "h.5.attn.bias", "attn.bias", 10, TENSOR_ROLE_OTHER},
        {"gpt2", "transformer.", "transformer.h.5.mlp.c_proj.bias", "mlp.c_proj.bias", 11,
         TENSOR_ROLE_WEIGHT},
        {"opt", "decoder.", "decoder.layers.1.final_layer_norm.weight", "final_layer_norm.weight", 3,
         TENSOR_ROLE_NORM},
        {"opt", "decoder.", "decoder.layers.1.self_attn_layer_norm.bias", "self_attn_layer_norm.bias", 2,
         TENSOR_ROLE_NORM},
        {"gpt_neox", "gpt_neox.", "gpt_neox.layers.4.attention.query_key_value.bias",
         "attention.query_key_value.bias", 8, TENSOR_ROLE_WEIGHT},
        {"mixtral", "model.", "model.layers.3.block_sparse_moe.experts.12.w2.weight",
         "block_sparse_moe.experts.12.w2.weight", 7, TENSOR_ROLE_WEIGHT},
        {"mixtral", "model.", "model.layers.3.block_sparse_moe.gate.weight", "block_sparse_moe.gate.weight",
         7, TENSOR_ROLE_WEIGHT},
        {"bert", "bert.", "bert.encoder.layer.2.attention.output.LayerNorm.weight",
         "attention.output.LayerNorm.weight", 4, TENSOR_ROLE_NORM},
        {"bert", "bert.", "bert.encoder.layer.2.output.dense.weight", "output.dense.weight", 5,
         TENSOR_ROLE_WEIGHT},
    };
    static const char *const unowned[] = {"bert.encoder.layer.6.output.dense.weight",
                                          "bert.pooler.dense.weight", "encoder.layer.2.output.dense.weight"};
    struct inventory inventory;
    start_inventory(&inventory);
    struct tensor_owner owner;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        inventory.config.model_type = cases[i].family;
        (void)snprintf(inventory.config.prefix, sizeof inventory.config.prefix, "%s", cases[i].prefix);
        assert_true(plan_find_owner(&inventory.config, cases[i].name, &owner));
        assert_string_equal(owner.suffix, cases[i].suffix);
        assert_int_equal(owner.sublayer, cases[i].sublayer);
        assert_int_equal(owner.role, cases[i].role);
        assert_int_equal(owner.is_attention, cases[i].sublayer % 2 == 0);
    }
    for (size_t i = 0; i < sizeof unowned / sizeof unowned[0]; i++) {
        assert_false(plan_find_owner(&inventory.config, unowned[i], &owner));
    }
}

static void parallel_layers_pack_with_their_own_partner(void **state)
{
    (void)state;
    struct inventory inventory;
    start_inventory(&inventory);
    static const size_t merged[] = {0, 1, 2, 7, 10, 11},
                        whole[] = {0, 1, 6, 7, 10, 11}; /* merged: A1 meets F3 */
    OWNED(plan) shifted = keep_only(merged, 6);
    OWNED(plan) plain = keep_only(whole, 6);
    FINISHED(plan_blocks) serial = {0};
    FINISHED(plan_blocks) apart = {0};
    FINISHED(plan_blocks) together = {0};
    plan_pack(shifted, &inventory, &serial);
    assert_true(serial.is_uniform && serial.count == 3);
    inventory.config.is_parallel = true;
    plan_pack(shifted, &inventory, &apart);
    assert_true(!apart.is_uniform && apart.count == 4);
    assert_true(apart.blocks[1].attention == 2 && apart.blocks[1].ffn == -1 && apart.blocks[2].ffn == 7);
    plan_pack(plain, &inventory, &together);
    assert_true(together.is_uniform && together.count == 3);
}

static void sizes_count_prunable_weights_and_norms_apart(void **state)
{
    (void)state;
    struct inventory inventory;
    start_inventory(&inventory);
    struct inventory_tensor tensors[] = {
        {.name = "model.embed_tokens.weight", .dtype = DTYPE_BF16, .rank = 2, .shape = {10, 4}, .bytes = 80},
        {.name = "model.layers.0.input_layernorm.weight",
         .dtype = DTYPE_BF16,
         .rank = 1,
         .shape = {4},
         .bytes = 8},
        {.name = "model.layers.0.self_attn.q_proj.weight",
         .dtype = DTYPE_BF16,
         .rank = 2,
         .shape = {4, 4},
         .bytes = 32},
        {.name = "model.layers.5.mlp.up_proj.weight",
         .dtype = DTYPE_F32,
         .rank = 2,
         .shape = {8, 4},
         .bytes = 128},
    };
    inventory.tensors = tensors;
    inventory.tensor_count = 4;
    OWNED(plan) plan = plan_create(SUBLAYERS);
    struct plan_size size;
    plan_measure(plan, &inventory, 0, &size);
    assert_int_equal(size.parameter_count, 92);
    assert_int_equal(size.prunable_count, 48);
    assert_int_equal(size.weight_bytes, 248);
    assert_int_equal(size.block_count, 6);
    plan_add_point(plan, 0, 0.1, true);
    plan_cut(plan, 1);
    plan_measure(plan, &inventory, 0, &size);
    assert_int_equal(size.parameter_count, 72);
    assert_int_equal(size.removed_prunable_count, 16);
    assert_int_equal(size.weight_bytes, 208);
    assert_true(fabs(size.sparsity_ratio - 16.0 / 48) < 1e-15);
    plan_measure(plan, &inventory, 4, &size);
    assert_int_equal(size.weight_bytes, 288);
}

static void a_plan_survives_json_bit_for_bit(void **state)
{
    (void)state;
    struct inventory inventory;
    start_inventory(&inventory);
    OWNED(plan) plan = plan_create(SUBLAYERS);
    plan_add_point(plan, 7, NAN, false);
    plan_add_point(plan, 6, 0.1 + 0.2, true);
    plan_add_point(plan, 11, 1e-300, true);
    plan_cut(plan, 2);
    JSON_OWNED json = plan_format(plan, &inventory);
    char *text = json_format(json, true);
    struct error error = {0};
    JSON_OWNED again = json_parse(text, strlen(text), 1 << 20, &error);
    OWNED(plan) copy = plan_parse(again, &error);
    free(text);
    assert_non_null(copy);
    assert_int_equal(copy->point_count, 3);
    assert_int_equal(copy->removed_count, 2);
    assert_memory_equal(copy->removed, plan->removed, SUBLAYERS * sizeof(bool));
    assert_true(isnan(copy->points[0].score) && !copy->points[0].is_cut);
    assert_memory_equal(&copy->points[1].score, &plan->points[1].score, sizeof(double));
    assert_memory_equal(&copy->points[2].score, &plan->points[2].score, sizeof(double));
}

static void broken_plans_are_refused_with_their_place(void **state)
{
    (void)state;
    static const struct {
        const char *json, *field;
    } rows[] = {
        {"{\"version\":2,\"sublayer_count\":4,\"removed_count\":0,\"points\":[]}", "/version"},
        {"{\"version\":1,\"sublayer_count\":4,\"removed_count\":5,\"points\":[]}", "/removed_count"},
        {"{\"version\":1,\"sublayer_count\":4,\"removed_count\":1,\"points\":[]}", "/points"},
        {"{\"version\":1,\"sublayer_count\":4,\"removed_count\":0,\"points\":[{\"sublayer\":4}]}",
         "/points/0/sublayer"},
        {"{\"version\":1,\"sublayer_count\":4,\"removed_count\":0,\"points\":[{\"sublayer\":1},{\"sublayer\":1}]}",
         "/points/1"},
        {"{\"version\":1,\"removed_count\":0,\"points\":[]}", "/sublayer_count"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct error error = {0};
        JSON_OWNED json = json_parse(rows[i].json, strlen(rows[i].json), 1 << 20, &error);
        assert_non_null(json);
        assert_null(plan_parse(json, &error));
        assert_string_equal(error.field, rows[i].field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(surviving_sublayers_pack_in_residual_order),
        cmocka_unit_test(a_plan_of_whole_pairs_is_uniform),
        cmocka_unit_test(absent_sublayers_of_the_source_are_not_counted),
        cmocka_unit_test(every_family_knows_its_own_tensors),
        cmocka_unit_test(parallel_layers_pack_with_their_own_partner),
        cmocka_unit_test(sizes_count_prunable_weights_and_norms_apart),
        cmocka_unit_test(a_plan_survives_json_bit_for_bit),
        cmocka_unit_test(broken_plans_are_refused_with_their_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
