/*
 * tests/unit/workers/export/export_widths_test.c: narrower sublayers, written in every layout and read back. What is written must
 * compute what the pruned model does: to the bit where nothing is added, and to rounding where zeros are summed along.
 */
#include "tests/unit/workers/export/families.h"

#include "workers/model/architecture.h"
#include <math.h>

/* All layers in one width, each in its own, or all without one KV group. */
enum shape { ALIKE, DIFFERENT, THREE_HEADS };

struct list {
    uint32_t items[512];
    size_t count;
};

/* Query heads of the groups that stay: all but the first `groups` of them. */
static struct list heads_without(const struct model_layer *layer, size_t groups)
{
    struct list list = {.count = 0};
    size_t each = layer->head_count / layer->kv_head_count;
    for (size_t h = groups * each; h < layer->head_count; h++) {
        list.items[list.count++] = (uint32_t)h;
    }
    return list;
}

/* Every third channel goes, and `more` others. */
static struct list channels_without(size_t of, size_t more)
{
    struct list list = {.count = 0};
    for (size_t c = more; c < of; c++) {
        if (c % 3 != 0) {
            list.items[list.count++] = (uint32_t)c;
        }
    }
    return list;
}

static void narrow(struct plan *plan, const struct model_config *config, enum shape shape, bool has_heads)
{
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(config, &sublayers);
    for (size_t i = 0; i < count; i++) {
        const struct model_layer *layer = &config->layers[sublayers[i].layer];
        size_t less = shape == DIFFERENT ? sublayers[i].layer : 1;
        if (sublayers[i].is_attention && has_heads) {
            size_t groups =
                shape == ALIKE ? layer->kv_head_count / 2 : less; /* transformers wants divisors */
            struct list heads =
                heads_without(layer, groups < layer->kv_head_count ? groups : layer->kv_head_count - 1);
            plan_keep_heads(plan, i, heads.items, heads.count, layer->head_count);
        } else if (!sublayers[i].is_attention && layer->expert_count == 0) {
            struct list channels = channels_without(layer->intermediate_size, 3 * less);
            plan_keep_channels(plan, i, channels.items, channels.count, layer->intermediate_size);
        } else if (!sublayers[i].is_attention && layer->expert_count - 1 >= layer->active_expert_count &&
                   (shape == ALIKE || sublayers[i].layer > 0)) {
            struct list experts = {.count = 0};
            for (uint32_t e = 0; e < layer->expert_count; e++) {
                if (e != 1) {
                    experts.items[experts.count++] = e;
                }
            }
            plan_keep_experts(plan, i, experts.items, experts.count, layer->expert_count);
        }
    }
    free(sublayers);
}

/* What the plan leaves, written and read back. NULL: refused, with *ret_error. */
static struct inventory *write_plan(const struct source *source, const struct inventory *derived,
                                    const struct plan *plan, enum export_layout layout, char **ret_folder,
                                    struct export_draft *ret_draft, struct error *error)
{
    struct export_options options = {.layout = layout, .is_dtype_kept = true, .max_shard_bytes = 1u << 30};
    FINISHED(error_list) faults = {0};
    *ret_folder = NULL;
    if (!export_draft_make(plan, derived, &options, ret_draft, error)) {
        return NULL;
    }
    char *folder = make_folder();
    struct error fault = {0};
    if (!export_write(ret_draft, derived, source->folder, folder, &options, &fault)) {
        fail_msg("%s", fault.message);
    }
    struct inventory *written = inventory_inspect(folder, false, NULL, &faults);
    if (written == NULL) {
        fail_msg("%s: %s: %s", source->folder, faults.items[0].field, faults.items[0].message);
    }
    assert_int_equal(ret_draft->weight_bytes, written->weight_bytes);
    assert_int_equal(ret_draft->parameter_count, written->parameter_count);
    *ret_folder = folder;
    return written;
}

static void close_written(struct inventory *written, char *folder)
{
    inventory_destroy(written);
    if (folder != NULL) {
        assert_true(file_remove_tree(folder, NULL));
    }
    free(folder);
}

static void expect_states(const float *should, const float *is, size_t count, double tolerance,
                          const char *name)
{
    double largest = 0.0, worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs((double)should[i]));
        worst = fmax(worst, fabs((double)should[i] - (double)is[i]));
    }
    if (!(worst <= tolerance * largest) || !(largest > 0.0)) {
        fail_msg("%s: differs by %g of %g", name, worst, largest);
    }
}

static const char *const names[] = {
    "llama",        "llama_bias", "llama_headdim", "llama3",  "mistral",         "qwen2",
    "qwen2_window", "qwen3",      "gemma2",        "phi3",    "gemma3_text",     "gpt2",
    "gpt2_old",     "opt",        "gpt_neox",      "mixtral", "gpt_neox_serial", "qwen3_moe"};

static bool has_head_size_key(const struct source *source)
{
    struct model_config_keys keys;
    model_config_find_keys(&source->inventory->config, &keys);
    return keys.head_size != NULL;
}

static bool has_experts(const struct source *source)
{
    bool is_any = false;
    for (size_t i = 0; i < source->inventory->config.layer_count; i++) {
        is_any = is_any || source->inventory->config.layers[i].expert_count > 0;
    }
    return is_any;
}

/* removed: -1, or a sublayer that goes besides. */
static void every_family_in(enum export_layout layout, enum shape shape, int removed, double tolerance,
                            bool (*is_tried)(const struct source *source))
{
    size_t tried = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct source source = open_source(names[i]);
        const struct model_config *config = &source.inventory->config;
        if (is_tried != NULL && !is_tried(&source)) {
            close_source(&source);
            continue;
        }
        const int list[] = {removed, -1};
        OWNED(plan) plan = make_plan(source.inventory, list);
        struct error error = {0};
        bool has_heads =
            layout == EXPORT_HETEROGENEOUS || has_head_size_key(&source) || layout == EXPORT_IDENTITY;
        narrow(plan, config, shape, has_heads);
        assert_true(plan_check_widths(plan, config, &error));
        OWNED(inventory) derived = plan_apply(plan, source.inventory, &error);
        assert_non_null(derived);
        FINISHED(export_draft) draft = {0};
        char *folder = NULL;
        struct inventory *written = write_plan(&source, derived, plan, layout, &folder, &draft, &error);
        if (written == NULL) {
            fail_msg("%s: %s", names[i], error.message);
        }
        assert_true(layout == EXPORT_AUTO || draft.layout == layout);
        OWNED_MEMORY float *should = run(derived, source.folder, plan->removed);
        OWNED_MEMORY float *is = run(written, folder, NULL);
        expect_states(should, is, TOKENS * config->hidden_size, tolerance, names[i]);
        assert_true(strncmp(names[i], written->config.model_type, 3) == 0);
        close_written(written, folder);
        close_source(&source);
        tried++;
    }
    assert_true(tried > 0);
}

static bool has_no_experts(const struct source *source)
{
    return !has_experts(source);
}

static void heterogeneous_has_widths_of_its_own_in_every_family(void **state)
{
    (void)state;
    every_family_in(EXPORT_HETEROGENEOUS, DIFFERENT, -1, 0.0, NULL);
    every_family_in(EXPORT_HETEROGENEOUS, DIFFERENT, 0, 0.0, NULL);
    every_family_in(EXPORT_HETEROGENEOUS, DIFFERENT, 3, 0.0, NULL);
    every_family_in(EXPORT_HETEROGENEOUS, ALIKE, 1, 0.0, NULL);
}

static bool is_all_alike(const struct source *source)
{
    /* Qwen3-MoE's plain layer beside those with experts. */
    return has_head_size_key(source) || has_no_experts(source);
}

static void uniform_says_one_width_for_all(void **state)
{
    (void)state;
    every_family_in(EXPORT_UNIFORM, ALIKE, -1, 0.0, is_all_alike);
}

static void padded_is_as_wide_as_the_widest(void **state)
{
    (void)state;
    every_family_in(EXPORT_PADDED, DIFFERENT, -1, 2e-6, has_no_experts);
    every_family_in(EXPORT_PADDED, ALIKE, -1, 0.0, NULL);
}

static void identity_is_as_wide_as_the_source(void **state)
{
    (void)state;
    every_family_in(EXPORT_IDENTITY, DIFFERENT, -1, 2e-6, has_no_experts);
    every_family_in(EXPORT_IDENTITY, DIFFERENT, 2, 2e-6, has_no_experts);
}

static void expect_refused(const char *name, enum export_layout layout, enum shape shape, const char *part)
{
    static const int none[] = {-1};
    struct source source = open_source(name);
    OWNED(plan) plan = make_plan(source.inventory, none);
    struct error error = {0};
    struct export_draft draft = {0};
    char *folder = NULL;
    narrow(plan, &source.inventory->config, shape, true);
    OWNED(inventory) derived = plan_apply(plan, source.inventory, &error);
    assert_null(write_plan(&source, derived, plan, layout, &folder, &draft, &error));
    assert_int_equal(error.code, ERROR_UNSUPPORTED);
    assert_string_equal(error.field, "/output/layout");
    if (strstr(error.message, part) == NULL) {
        fail_msg("%s: %s", name, error.message);
    }
    close_source(&source);
}

static void what_a_stock_config_cannot_say_is_refused(void **state)
{
    (void)state;
    expect_refused("llama", EXPORT_UNIFORM, DIFFERENT, "different widths");
    expect_refused("gpt2", EXPORT_UNIFORM, ALIKE, "have no head_dim");
    expect_refused("gpt_neox", EXPORT_PADDED, ALIKE, "have no head_dim");
    expect_refused("opt", EXPORT_UNIFORM, ALIKE, "have no head_dim");
    expect_refused("phi3_longrope", EXPORT_UNIFORM, ALIKE, "longrope's factors");
    expect_refused("llama", EXPORT_PADDED, THREE_HEADS, "whose 3 heads do not divide the hidden size 32");
    expect_refused("mixtral", EXPORT_UNIFORM, DIFFERENT, "experts in different numbers");
    expect_refused("mixtral", EXPORT_PADDED, DIFFERENT, "an expert of zeros");
    expect_refused("mixtral", EXPORT_IDENTITY, DIFFERENT, "an expert of zeros");
}

static void auto_takes_the_smallest_that_opens_as_asked(void **state)
{
    (void)state;
    static const int none[] = {-1};
    static const struct {
        const char *name;
        enum shape shape;
        bool is_stock;
        enum export_layout layout;
    } cases[] = {
        {"llama", ALIKE, false, EXPORT_UNIFORM},          {"llama", DIFFERENT, false, EXPORT_HETEROGENEOUS},
        {"llama", DIFFERENT, true, EXPORT_HETEROGENEOUS}, /* GGUF: deci */
        {"qwen2", DIFFERENT, true, EXPORT_PADDED},        {"gpt2", ALIKE, false, EXPORT_HETEROGENEOUS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct source source = open_source(cases[i].name);
        OWNED(plan) plan = make_plan(source.inventory, none);
        struct error error = {0};
        struct export_options options = {.is_stock = cases[i].is_stock, .is_dtype_kept = true};
        FINISHED(export_draft) draft = {0};
        narrow(plan, &source.inventory->config, cases[i].shape, true);
        OWNED(inventory) derived = plan_apply(plan, source.inventory, &error);
        assert_true(export_draft_make(plan, derived, &options, &draft, &error));
        if (draft.layout != cases[i].layout) {
            fail_msg("%s (%zu): %s", cases[i].name, i, export_layout_name(draft.layout));
        }
        close_source(&source);
    }
}

/* Narrowed twice: the second plan starts from a folder whose layers already differ. */
static void a_heterogeneous_result_is_pruned_again(void **state)
{
    (void)state;
    static const int none[] = {-1};
    static const char *const twice[] = {"llama", "qwen3", "gpt2", "phi3"};
    for (size_t i = 0; i < sizeof twice / sizeof twice[0]; i++) {
        struct source source = open_source(twice[i]);
        OWNED(plan) plan = make_plan(source.inventory, none);
        struct error error = {0};
        FINISHED(export_draft) draft = {0};
        FINISHED(export_draft) again = {0};
        char *folder = NULL, *second_folder = NULL;
        narrow(plan, &source.inventory->config, DIFFERENT, true);
        OWNED(inventory) derived = plan_apply(plan, source.inventory, &error);
        struct source second = {0};
        second.inventory = write_plan(&source, derived, plan, EXPORT_HETEROGENEOUS, &folder, &draft, &error);
        second.folder = folder;
        assert_non_null(second.inventory);
        OWNED(plan) more = make_plan(second.inventory, none);
        struct list channels = channels_without(second.inventory->config.layers[1].intermediate_size, 1);
        plan_keep_channels(more, 3, channels.items, channels.count,
                           second.inventory->config.layers[1].intermediate_size);
        OWNED(inventory) narrower = plan_apply(more, second.inventory, &error);
        assert_non_null(narrower);
        struct inventory *written =
            write_plan(&second, narrower, more, EXPORT_HETEROGENEOUS, &second_folder, &again, &error);
        assert_non_null(written);
        assert_int_equal(written->config.layers[1].intermediate_size, channels.count);
        OWNED_MEMORY float *should = run(narrower, folder, NULL);
        OWNED_MEMORY float *is = run(written, second_folder, NULL);
        expect_states(should, is, TOKENS * source.inventory->config.hidden_size, 0.0, twice[i]);
        close_written(written, second_folder);
        close_written(second.inventory, folder);
        close_source(&source);
    }
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heterogeneous_has_widths_of_its_own_in_every_family),
        cmocka_unit_test(uniform_says_one_width_for_all),
        cmocka_unit_test(padded_is_as_wide_as_the_widest),
        cmocka_unit_test(identity_is_as_wide_as_the_source),
        cmocka_unit_test(what_a_stock_config_cannot_say_is_refused),
        cmocka_unit_test(auto_takes_the_smallest_that_opens_as_asked),
        cmocka_unit_test(a_heterogeneous_result_is_pruned_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
