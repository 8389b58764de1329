/*
 * workers/export/layout.c: what becomes of every tensor.
 *
 * uniform, padded, heterogeneous: surviving sublayers are packed into blocks and renumbered; a block's attention and FFN may come
 * from different layers. uniform needs both in every block and the same widths in all, and then a stock config expresses it.
 * padded: as uniform, where narrower sublayers are filled up with zeros to the widest (padding.h).
 * heterogeneous: blocks may lack either, and have widths of their own.
 * identity: nothing moves; the output projections (and their bias) of a removed sublayer become zero, so the sublayer adds
 * nothing. A norm after it (Gemma) makes zero of zero. Narrower sublayers are filled up to the source's own widths.
 *
 * An encoder that normalises after the sum cannot be pruned by sublayers: one that adds nothing still changes its input.
 */
#include "workers/export/layout_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/export/gguf.h"
#include "workers/export/padding.h"
#include "workers/model/architecture.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const layout_names[EXPORT_LAYOUT_COUNT] = {
    [EXPORT_AUTO] = "auto",
    [EXPORT_UNIFORM] = "uniform",
    [EXPORT_PADDED] = "padded",
    [EXPORT_IDENTITY] = "identity",
    [EXPORT_HETEROGENEOUS] = "heterogeneous",
    [EXPORT_DECILM] = "decilm",
};

bool export_layout_parse(const char *text, enum export_layout *ret_layout)
{
    for (size_t i = 0; i < EXPORT_LAYOUT_COUNT; i++) {
        if (strcmp(text, layout_names[i]) == 0) {
            *ret_layout = (enum export_layout)i;
            return true;
        }
    }
    return false;
}

const char *export_layout_name(enum export_layout layout)
{
    return layout_names[layout];
}

bool export_is_remote(enum export_layout layout)
{
    return layout == EXPORT_HETEROGENEOUS || layout == EXPORT_DECILM;
}

bool export_dtype_parse(const char *text, bool *ret_keep, enum dtype *ret_dtype)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    *ret_keep = strcmp(text, "keep") == 0;
    *ret_dtype = DTYPE_F32;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0] && !*ret_keep; i++) {
        if (strcmp(text, layout_dtype_name(dtypes[i])) == 0) {
            *ret_dtype = dtypes[i];
            return true;
        }
    }
    return *ret_keep;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------------- */

/* The block that a surviving sublayer goes to. */
static size_t find_block(const struct layout *layout, size_t sublayer)
{
    for (size_t i = 0; i < layout->block_count; i++) {
        if (layout->blocks[i].attention == (long)sublayer || layout->blocks[i].ffn == (long)sublayer) {
            return i;
        }
    }
    CHECK(!"a surviving sublayer is in a block");
    return 0;
}

static bool is_output_projection(const struct model_config *config, const char *suffix)
{
    enum weight_role role = WEIGHT_EMBEDDING;
    size_t expert = 0;
    return architecture_find_role(config, suffix, &role, &expert) && architecture_role_is_output(role);
}

static void draft_tensor(struct export_draft *draft, const struct layout *layout, const struct plan *plan,
                         const struct inventory *inventory, size_t index,
                         const struct export_options *options)
{
    const struct inventory_tensor *source = &inventory->tensors[index];
    struct export_tensor tensor = {.source = index, .element_count = 1, .rank = source->rank};
    struct tensor_owner owner;
    memcpy(tensor.shape, source->shape, sizeof tensor.shape);
    bool is_owned = plan_find_owner(&inventory->config, source->name, &owner);
    bool is_removed = is_owned && plan->removed[owner.sublayer];
    if (draft->layout == EXPORT_IDENTITY || !is_owned) {
        tensor.is_zero = is_removed && is_output_projection(&inventory->config, owner.suffix);
        tensor.name = memory_copy_text(source->name);
    } else if (is_removed) {
        return;
    } else {
        struct text name = {0};
        text_append_format(&name, "%s%s%zu.%s", inventory->config.prefix,
                           architecture_of(&inventory->config)->layers, find_block(layout, owner.sublayer),
                           owner.suffix);
        tensor.name = text_take(&name);
        text_finish(&name);
    }
    if (is_owned && (draft->layout == EXPORT_IDENTITY || draft->layout == EXPORT_PADDED)) {
        padding_make(layout, source, &tensor);
    }
    for (size_t i = 0; i < tensor.rank; i++) {
        tensor.element_count *= tensor.shape[i];
    }
    tensor.dtype = options->is_dtype_kept ? inventory_kept_dtype(source) : options->dtype;
    tensor.bytes = tensor.element_count * dtype_bytes(tensor.dtype);
    draft->weight_bytes += tensor.bytes;
    draft->parameter_count += plan_is_counted(&inventory->config, source) ? tensor.element_count : 0;
    draft->tensors[draft->tensor_count++] = tensor;
}

static int compare_tensors(const void *left, const void *right)
{
    return strcmp(((const struct export_tensor *)left)->name, ((const struct export_tensor *)right)->name);
}

/* ---- widths ----------------------------------------------------------------------------------------------------------- */

static size_t greater(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The widest of all blocks, and whether all are so wide. */
static struct export_widths widest(const struct layout *layout, bool *ret_is_equal, bool *ret_experts_differ)
{
    struct export_widths widths = {0};
    size_t group = 0;
    *ret_is_equal = true;
    *ret_experts_differ = false;
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < layout->block_count; i++) {
            const struct model_layer *attention = layout_attention(layout, i), *ffn = layout_ffn(layout, i);
            if (attention != NULL && pass == 0) {
                widths.kv_head_count = greater(widths.kv_head_count, attention->kv_head_count);
                group = greater(group, attention->head_count / attention->kv_head_count);
            } else if (attention != NULL) {
                *ret_is_equal = *ret_is_equal && attention->kv_head_count == widths.kv_head_count &&
                                attention->head_count == widths.head_count;
            }
            struct model_layer *wide = ffn != NULL && ffn->expert_count > 0 ? &widths.experts : &widths.ffn;
            if (ffn != NULL && pass == 0) {
                wide->intermediate_size = greater(wide->intermediate_size, ffn->intermediate_size);
                wide->expert_count = greater(wide->expert_count, ffn->expert_count);
                wide->active_expert_count = greater(wide->active_expert_count, ffn->active_expert_count);
            } else if (ffn != NULL) {
                bool is_equal = wide->intermediate_size == ffn->intermediate_size &&
                                wide->expert_count == ffn->expert_count &&
                                wide->active_expert_count == ffn->active_expert_count;
                *ret_is_equal = *ret_is_equal && is_equal;
                *ret_experts_differ = *ret_experts_differ || (!is_equal && ffn->expert_count > 0);
            }
        }
        widths.head_count = group * widths.kv_head_count;
    }
    return widths;
}

/* Those of the source, which every layer of it has. */
static struct export_widths source_widths(const struct model_config *said)
{
    struct export_widths widths = {.head_count = said->head_count, .kv_head_count = said->kv_head_count};
    for (size_t i = 0; i < said->layer_count; i++) {
        *(said->layers[i].expert_count > 0 ? &widths.experts : &widths.ffn) = said->layers[i];
    }
    return widths;
}

/* ---- which layout ----------------------------------------------------------------------------------------------------- */

static bool refuse(struct error *error, enum export_layout layout, const char *why)
{
    return error_set_field(error, ERROR_UNSUPPORTED, "/output/layout",
                           "layout %s cannot express this plan: %s", export_layout_name(layout), why);
}

/* What a stock config of the family cannot say of these sizes. */
static bool check_stock(const struct layout *layout, struct error *error)
{
    const struct model_config *config = layout->config;
    struct model_config_keys keys;
    char why[200];
    model_config_find_keys(config, &keys);
    size_t heads = layout->widths.head_count;
    if (keys.head_size == NULL && heads > 0 && heads * config->head_size != config->hidden_size) {
        (void)snprintf(
            why, sizeof why,
            "models of type %s have no head_dim, and %zu heads of %zu are not their hidden size %zu; "
            "ask for heterogeneous",
            config->model_type, heads, config->head_size, config->hidden_size);
        return refuse(error, layout->kind, why);
    }
    if (layout_must_divide(config) && heads > 0 && config->hidden_size % heads != 0) {
        (void)snprintf(
            why, sizeof why,
            "transformers refuses a config of type %s whose %zu heads do not divide the hidden size %zu, "
            "whatever head_dim says; ask for heterogeneous",
            config->model_type, heads, config->hidden_size);
        return refuse(error, layout->kind, why);
    }
    const char *scaling = config->ropes[0].scaling.kind;
    if (scaling != NULL && strcmp(scaling, "longrope") == 0 && heads > 0 &&
        heads * config->head_size != config->hidden_size) {
        return refuse(error, layout->kind,
                      "transformers measures longrope's factors by the hidden size over the heads, whatever "
                      "head_dim says; ask for heterogeneous");
    }
    bool is_scaled = config->embedding_scale > 1.0 || config->embedding_scale < 1.0;
    double scale = (double)(float)sqrt((double)config->hidden_size);
    if (is_scaled && fabs(config->embedding_scale - scale) > 1e-6 * scale) {
        (void)snprintf(
            why, sizeof why,
            "models of type %s scale embeddings by the square root of their hidden size, which has "
            "changed",
            config->model_type);
        return refuse(error, layout->kind, why);
    }
    bool adds_attention_bias = config->has_o_bias && !layout->said->has_o_bias && keys.attention_bias == NULL;
    bool adds_ffn_bias = config->has_ffn_bias && !layout->said->has_ffn_bias && keys.ffn_bias == NULL;
    if (adds_attention_bias || adds_ffn_bias) {
        (void)snprintf(why, sizeof why,
                       "models of type %s have no bias at the output of %s; ask for heterogeneous",
                       config->model_type, adds_attention_bias ? "attention" : "an FFN");
        return refuse(error, layout->kind, why);
    }
    return true;
}

bool export_check_layout(const struct model_config *config, enum export_layout layout, struct error *error)
{
    const struct architecture *row = architecture_of(config);
    if (layout == EXPORT_HETEROGENEOUS && (row->is_encoder || row->norm_placement == NORM_AFTER)) {
        return error_set_field(error, ERROR_UNSUPPORTED, "/output/layout",
                               "layout heterogeneous is for decoders; this model is %s", config->model_type);
    }
    if (layout == EXPORT_DECILM && strcmp(config->model_type, "llama") != 0) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "/output/layout",
            "layout decilm computes as Llama does; this model is %s; ask for heterogeneous",
            config->model_type);
    }
    return true;
}

struct judgement {
    bool is_complete;    /* every block has attention and FFN */
    bool is_equal;       /* in one width */
    bool experts_differ; /* in number or size, which zeros cannot mend */
    size_t incomplete;   /* blocks */
};

static bool check_choice(const struct layout *layout, const struct judgement *judgement,
                         const struct plan *plan, struct error *error)
{
    char why[200];
    bool is_packed = layout->kind == EXPORT_UNIFORM || layout->kind == EXPORT_PADDED;
    if (is_packed && !judgement->is_complete) {
        (void)snprintf(
            why, sizeof why,
            "%zu of %zu blocks lack attention or FFN; ask for heterogeneous, identity or auto, or set "
            "target.require_packable",
            judgement->incomplete, layout->block_count);
        return refuse(error, layout->kind, why);
    }
    if (layout->kind == EXPORT_UNIFORM && !judgement->is_equal) {
        return refuse(
            error, layout->kind,
            judgement->experts_differ
                ? "its layers have experts in different numbers or sizes; ask for heterogeneous"
                : "its layers have different widths; ask for heterogeneous, padded or auto, or for an "
                  "allocation that is uniform");
    }
    if (layout->kind == EXPORT_PADDED && judgement->experts_differ) {
        return refuse(
            error, layout->kind,
            "its layers have experts in different numbers or sizes, and an expert of zeros would be "
            "chosen like any other; ask for heterogeneous");
    }
    if (layout->kind == EXPORT_IDENTITY && plan->sublayer_count != 2 * layout->config->layer_count) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "/output/layout",
            "layout identity needs a source whose layers all have attention and FFN; this one has %zu "
            "sublayers in %zu layers",
            plan->sublayer_count, layout->config->layer_count);
    }
    if (layout->kind == EXPORT_IDENTITY && layout->config->is_heterogeneous) {
        return refuse(error, layout->kind, "the source itself has different widths; ask for heterogeneous");
    }
    if (layout->kind == EXPORT_IDENTITY && (layout->config->hidden_size != layout->said->hidden_size)) {
        return refuse(error, layout->kind, "a norm over hidden channels of zero is another norm");
    }
    return layout->kind == EXPORT_HETEROGENEOUS || layout->kind == EXPORT_DECILM ||
           check_stock(layout, error);
}

/* Every layer is a block. */
static struct plan_block *list_layers(const struct model_config *config)
{
    struct plan_block *blocks = memory_create(config->layer_count + 1, sizeof *blocks);
    long next = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        blocks[i].attention = config->layers[i].has_attention ? next++ : -1;
        blocks[i].ffn = config->layers[i].has_ffn ? next++ : -1;
    }
    return blocks;
}

/* The sizes that the experts of all layers have cannot be filled up: they must be the source's. */
static bool check_identity(const struct layout *layout, struct error *error)
{
    for (size_t i = 0; i < layout->config->layer_count; i++) {
        const struct model_layer *is = &layout->config->layers[i], *was = &layout->said->layers[i];
        if (is->expert_count != was->expert_count ||
            (is->expert_count > 0 && is->intermediate_size != was->intermediate_size)) {
            return refuse(
                error, EXPORT_IDENTITY,
                "experts are gone or narrower, and an expert of zeros would be chosen like any other; "
                "ask for heterogeneous");
        }
    }
    return true;
}

static bool choose_layout(const struct plan *plan, const struct plan_blocks *packed,
                          const struct export_options *options, struct layout *layout,
                          struct plan_block **ret_layers, struct error *error)
{
    const struct architecture *row = architecture_of(layout->config);
    struct judgement judgement = {.is_complete = packed->is_uniform};
    if (plan->removed_count > 0 && row->norm_placement == NORM_AFTER) {
        return error_set_field(
            error, ERROR_UNSUPPORTED, "/output/layout",
            "no layout can express a pruned model of type %s, which normalises after each sublayer",
            row->model_type);
    }
    layout->kind = options->layout;
    layout->blocks = packed->blocks;
    layout->block_count = packed->count;
    layout->widths = widest(layout, &judgement.is_equal, &judgement.experts_differ);
    for (size_t i = 0; i < packed->count; i++) {
        judgement.incomplete += packed->blocks[i].attention < 0 || packed->blocks[i].ffn < 0 ? 1 : 0;
    }
    if (options->layout == EXPORT_AUTO) {
        bool has_modelling_file = export_check_layout(layout->config, EXPORT_HETEROGENEOUS, NULL);
        layout->kind = EXPORT_UNIFORM;
        if (!(judgement.is_complete && judgement.is_equal && check_stock(layout, NULL))) {
            bool has_loader = !options->is_stock || gguf_can_differ(layout->config->model_type);
            layout->kind = has_modelling_file && has_loader ? EXPORT_HETEROGENEOUS
                           : judgement.is_complete          ? EXPORT_PADDED
                                                            : EXPORT_IDENTITY;
        }
    }
    if (layout->kind == EXPORT_IDENTITY) {
        layout->blocks = *ret_layers = list_layers(layout->config);
        layout->block_count = layout->config->layer_count;
        layout->widths = source_widths(layout->said);
    }
    return export_check_layout(layout->config, layout->kind, error) &&
           check_choice(layout, &judgement, plan, error) &&
           (layout->kind != EXPORT_DECILM || layout_check_decilm(layout, error)) &&
           (layout->kind != EXPORT_IDENTITY || check_identity(layout, error));
}

static void draft_tensors(struct export_draft *draft, const struct layout *layout, const struct plan *plan,
                          const struct inventory *inventory, const struct export_options *options)
{
    draft->tensors = memory_create(inventory->tensor_count + 1, sizeof *draft->tensors);
    for (size_t i = 0; i < inventory->tensor_count; i++) {
        draft_tensor(draft, layout, plan, inventory, i, options);
    }
    qsort(draft->tensors, draft->tensor_count, sizeof *draft->tensors, compare_tensors);
}

bool export_draft_make(const struct plan *plan, const struct inventory *inventory,
                       const struct export_options *options, struct export_draft *ret_draft,
                       struct error *error)
{
    FINISHED(plan_blocks) packed = {0};
    FINISHED(error_list) faults = {0};
    OWNED_MEMORY struct model_config *said = memory_create(1, sizeof *said);
    OWNED_MEMORY struct plan_sublayer *sublayers = NULL;
    OWNED_MEMORY struct plan_block *layers = NULL;
    plan_pack(plan, inventory, &packed);
    (void)plan_list_sublayers(&inventory->config, &sublayers);
    if (!model_config_parse(inventory->config_json, said, &faults)) {
        return error_set_field(error, faults.items[0].code, faults.items[0].field, "%s",
                               faults.items[0].message);
    }
    struct layout layout = {.config = &inventory->config, .said = said, .sublayers = sublayers};
    struct export_draft draft = {0};
    if (!choose_layout(plan, &packed, options, &layout, &layers, error)) {
        return false;
    }
    draft.layout = layout.kind;
    draft.block_count = layout.block_count;
    draft_tensors(&draft, &layout, plan, inventory, options);
    draft.config = layout_draft_config(&layout, inventory, options);
    bool is_same = true;
    for (size_t i = 0; i < draft.tensor_count; i++) {
        const struct inventory_tensor *source = &inventory->tensors[draft.tensors[i].source];
        is_same = is_same && draft.tensors[i].padding == NULL && source->edit == NULL &&
                  draft.tensors[i].dtype == source->dtype;
    }
    draft.is_verbatim = plan_is_empty(plan) && is_same && inventory_gguf_name(inventory) == NULL;
    *ret_draft = draft;
    return true;
}

void export_draft_finish(struct export_draft *draft)
{
    for (size_t i = 0; i < draft->tensor_count; i++) {
        free(draft->tensors[i].name);
        padding_destroy(draft->tensors[i].padding);
    }
    free(draft->tensors);
    json_decref(draft->config);
    *draft = (struct export_draft){0};
}
