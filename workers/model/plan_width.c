/* workers/model/plan_width.c: what stays of the sublayers that stay; its place in plan.json. Lists are written as runs: [first, count, first,
 * count, ...]. */
#include "workers/model/plan_internal.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/architecture.h"
#include "workers/model/patch.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t *copy_list(const uint32_t *list, size_t count)
{
    uint32_t *copy = memory_create(count > 0 ? count : 1, sizeof *copy);
    memcpy(copy, list, count * sizeof *copy);
    return copy;
}

static void set_list(uint32_t **place, size_t *place_count, const uint32_t *list, size_t lists, size_t count,
                     bool is_all)
{
    free(*place);
    *place = is_all ? NULL : copy_list(list, lists * count);
    *place_count = is_all ? 0 : count;
}

void plan_keep_heads(struct plan *plan, size_t sublayer, const uint32_t *heads, size_t count, size_t of)
{
    struct plan_width *width = &plan->widths[sublayer];
    set_list(&width->heads, &width->head_count, heads, 1, count, count == of);
}

void plan_keep_channels(struct plan *plan, size_t sublayer, const uint32_t *channels, size_t count, size_t of)
{
    plan_keep_expert_channels(plan, sublayer, channels, 1, count, of);
}

void plan_keep_experts(struct plan *plan, size_t sublayer, const uint32_t *experts, size_t count, size_t of)
{
    struct plan_width *width = &plan->widths[sublayer];
    set_list(&width->experts, &width->expert_count, experts, 1, count, count == of);
}

void plan_keep_expert_channels(struct plan *plan, size_t sublayer, const uint32_t *channels, size_t experts,
                               size_t count, size_t of)
{
    struct plan_width *width = &plan->widths[sublayer];
    set_list(&width->channels, &width->channel_count, channels, experts, count, count == of);
    width->channel_lists = width->channels != NULL ? experts : 0;
}

void plan_keep_hidden(struct plan *plan, const uint32_t *channels, size_t count, size_t of)
{
    set_list(&plan->hidden, &plan->hidden_count, channels, 1, count, count == of);
}

void plan_clear_widths(struct plan *plan)
{
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        free(plan->widths[i].heads);
        free(plan->widths[i].experts);
        free(plan->widths[i].channels);
        plan->widths[i] = (struct plan_width){0};
    }
    free(plan->hidden);
    plan->hidden = NULL;
    plan->hidden_count = 0;
    plan->is_rotated = plan->adds_attention_bias = plan->adds_ffn_bias = false;
    patch_destroy(plan->patch);
    plan->patch = NULL;
}

bool plan_has_widths(const struct plan *plan)
{
    bool has_lists =
        plan->hidden_count > 0 || plan->patch != NULL || plan->adds_attention_bias || plan->adds_ffn_bias;
    for (size_t i = 0; i < plan->sublayer_count && !has_lists; i++) {
        const struct plan_width *width = &plan->widths[i];
        has_lists = width->heads != NULL || width->experts != NULL || width->channels != NULL;
    }
    return has_lists;
}

bool plan_is_empty(const struct plan *plan)
{
    return plan->removed_count == 0 && !plan_has_widths(plan);
}

static size_t count_experts_left(const struct plan_width *width, const struct model_layer *layer)
{
    size_t experts = width->experts != NULL ? width->expert_count : layer->expert_count;
    return experts > 0 ? experts : 1;
}

struct plan *plan_copy(const struct plan *plan)
{
    struct plan *copy = plan_create(plan->sublayer_count);
    memcpy(copy->removed, plan->removed, plan->sublayer_count * sizeof *copy->removed);
    memcpy(copy->points, plan->points, plan->point_count * sizeof *copy->points);
    copy->point_count = plan->point_count;
    copy->removed_count = plan->removed_count;
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        const struct plan_width *from = &plan->widths[i];
        struct plan_width *to = &copy->widths[i];
        *to = *from;
        to->heads = from->heads != NULL ? copy_list(from->heads, from->head_count) : NULL;
        to->experts = from->experts != NULL ? copy_list(from->experts, from->expert_count) : NULL;
        to->channels = from->channels != NULL
                           ? copy_list(from->channels, from->channel_lists * from->channel_count)
                           : NULL;
    }
    copy->hidden = plan->hidden != NULL ? copy_list(plan->hidden, plan->hidden_count) : NULL;
    copy->hidden_count = plan->hidden_count;
    copy->is_rotated = plan->is_rotated;
    copy->adds_attention_bias = plan->adds_attention_bias;
    copy->adds_ffn_bias = plan->adds_ffn_bias;
    return copy;
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static bool check_list(const uint32_t *list, size_t count, size_t of, const char *what, size_t sublayer,
                       struct error *error)
{
    if (list != NULL && (count == 0 || count > of)) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "sublayer %zu keeps %zu of %zu %s", sublayer, count,
                         of, what);
    }
    for (size_t i = 0; list != NULL && i < count; i++) {
        if (list[i] >= of || (i > 0 && list[i] <= list[i - 1])) {
            return error_set(error, ERROR_INVALID_ARGUMENT,
                             "sublayer %zu: the list of %s kept does not ascend below %zu", sublayer, what,
                             of);
        }
    }
    return true;
}

static bool check_groups(const struct plan_width *width, const struct model_layer *layer, size_t sublayer,
                         struct error *error)
{
    size_t size = layer->head_count / layer->kv_head_count, kept = 0, each = 0;
    for (size_t group = 0; group < layer->kv_head_count && width->heads != NULL; group++) {
        size_t in_group = 0;
        for (size_t i = 0; i < width->head_count; i++) {
            in_group += width->heads[i] / size == group ? 1 : 0;
        }
        if (in_group > 0 && kept > 0 && in_group != each) {
            return error_set(error, ERROR_INVALID_ARGUMENT,
                             "sublayer %zu keeps %zu query heads of one KV group and %zu of another",
                             sublayer, each, in_group);
        }
        each = in_group > 0 ? in_group : each;
        kept += in_group > 0 ? 1 : 0;
    }
    return true;
}

static bool check_width(const struct plan_width *width, const struct model_layer *layer, bool is_attention,
                        size_t sublayer, struct error *error)
{
    bool is_other = is_attention ? width->channels != NULL || width->experts != NULL : width->heads != NULL;
    size_t lists = count_experts_left(width, layer);
    if (is_other || (width->experts != NULL && layer->expert_count == 0) ||
        (width->channels != NULL && width->channel_lists != lists)) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "sublayer %zu (%s) has lists that it cannot have",
                         sublayer, is_attention ? "attention" : "ffn");
    }
    if (width->experts != NULL && width->expert_count < layer->active_expert_count) {
        return error_set(error, ERROR_INVALID_ARGUMENT,
                         "sublayer %zu keeps %zu experts; each token is sent to %zu", sublayer,
                         width->expert_count, layer->active_expert_count);
    }
    bool is_good =
        check_list(width->heads, width->head_count, layer->head_count, "query heads", sublayer, error) &&
        check_list(width->experts, width->expert_count, layer->expert_count, "experts", sublayer, error) &&
        check_groups(width, layer, sublayer, error);
    for (size_t e = 0; e < lists && width->channels != NULL && is_good; e++) {
        is_good = check_list(width->channels + e * width->channel_count, width->channel_count,
                             layer->intermediate_size, "channels", sublayer, error);
    }
    return is_good;
}

/* A norm that subtracts the mean, or a scale of embeddings that follows from their width, would compute something else. */
static bool check_hidden(const struct plan *plan, const struct model_config *config, struct error *error)
{
    if (plan->hidden_count == 0) {
        return true;
    }
    if (!plan->is_rotated && plan->hidden == NULL) {
        return error_set(error, ERROR_INVALID_ARGUMENT, "%zu residual channels stay, and nothing says which",
                         plan->hidden_count);
    }
    const struct architecture *row = architecture_of(config);
    bool is_scaled = fabs(config->embedding_scale - 1.0) > 0;
    if (row->norm != NORM_RMS || row->norm_placement == NORM_AFTER || (is_scaled && !plan->is_rotated)) {
        return error_set(error, ERROR_UNSUPPORTED, "models of type %s cannot lose residual channels: %s",
                         config->model_type,
                         is_scaled ? "their embeddings are scaled by their width"
                                   : "their norms subtract the mean of all channels");
    }
    if (plan->is_rotated) {
        return plan->hidden_count <= config->hidden_size ||
               error_set(error, ERROR_INVALID_ARGUMENT, "%zu residual channels of %zu", plan->hidden_count,
                         config->hidden_size);
    }
    return check_list(plan->hidden, plan->hidden_count, config->hidden_size, "residual channels", 0, error);
}

bool plan_check_widths(const struct plan *plan, const struct model_config *config, struct error *error)
{
    struct plan_sublayer *sublayers = NULL;
    size_t count = plan_list_sublayers(config, &sublayers);
    bool is_good =
        count == plan->sublayer_count ||
        error_set(error, ERROR_INVALID_ARGUMENT,
                  "the plan is of a model with %zu sublayers, this one has %zu", plan->sublayer_count, count);
    for (size_t i = 0; i < count && is_good; i++) {
        is_good = check_width(&plan->widths[i], &config->layers[sublayers[i].layer],
                              sublayers[i].is_attention, i, error);
    }
    free(sublayers);
    return is_good && check_hidden(plan, config, error);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static json_t *format_list(const uint32_t *list, size_t count)
{
    json_t *runs = json_array();
    for (size_t i = 0; i < count;) {
        size_t run = 1;
        while (i + run < count && list[i + run] == list[i] + run) {
            run++;
        }
        CHECK(json_array_append_new(runs, json_integer((json_int_t)list[i])) == 0);
        CHECK(json_array_append_new(runs, json_integer((json_int_t)run)) == 0);
        i += run;
    }
    return runs;
}

void plan_format_widths(const struct plan *plan, json_t *root)
{
    json_t *widths = json_array();
    for (size_t i = 0; i < plan->sublayer_count; i++) {
        const struct plan_width *width = &plan->widths[i];
        if (width->heads == NULL && width->experts == NULL && width->channels == NULL) {
            continue;
        }
        json_t *item = json_object();
        json_put_i64(item, "sublayer", (int64_t)i);
        if (width->heads != NULL) {
            json_put(item, "heads", format_list(width->heads, width->head_count));
        }
        if (width->experts != NULL) {
            json_put(item, "experts", format_list(width->experts, width->expert_count));
        }
        if (width->channels != NULL) {
            json_t *lists = json_array();
            for (size_t e = 0; e < width->channel_lists; e++) {
                json_t *list = format_list(width->channels + e * width->channel_count, width->channel_count);
                CHECK(json_array_append_new(lists, list) == 0);
            }
            json_put(item, "channels", lists);
        }
        CHECK(json_array_append_new(widths, item) == 0);
    }
    json_put(root, "widths", widths);
    if (plan->hidden_count > 0) {
        json_put_i64(root, "hidden_count", (int64_t)plan->hidden_count);
        json_put(root, "is_rotated", json_boolean(plan->is_rotated));
    }
    if (plan->hidden != NULL) {
        json_put(root, "hidden", format_list(plan->hidden, plan->hidden_count));
    }
    if (plan->adds_attention_bias || plan->adds_ffn_bias) {
        json_put(root, "adds_attention_bias", json_boolean(plan->adds_attention_bias));
        json_put(root, "adds_ffn_bias", json_boolean(plan->adds_ffn_bias));
    }
    if (plan->patch != NULL) {
        json_put(root, "patch", patch_format(plan->patch));
    }
}

#define LIST_MAX ((size_t)1 << 24)

/* Appends the runs' numbers to a list that grows. Order and range are plan_check_widths' to judge: here only that they are numbers. */
static bool parse_list(const json_t *runs, const char *pointer, uint32_t **list, size_t *count,
                       struct error *error)
{
    size_t size = json_array_size(runs), start = *count;
    if (!json_is_array(runs) || size == 0 || size % 2 != 0) {
        return error_set_field(error, ERROR_WRONG_TYPE, pointer,
                               "a list of runs [first, count, ...] is needed");
    }
    for (size_t i = 0; i < size; i += 2) {
        json_int_t first = json_integer_value(json_array_get(runs, i));
        json_int_t run = json_integer_value(json_array_get(runs, i + 1));
        if (first < 0 || run < 1 || first > (json_int_t)LIST_MAX || run > (json_int_t)(LIST_MAX - *count)) {
            return error_set_field(error, ERROR_OUT_OF_RANGE, pointer, "run %zu is of %lld from %lld on",
                                   i / 2, (long long)run, (long long)first);
        }
        *list = memory_resize(*list, *count + (size_t)run, sizeof **list);
        for (json_int_t k = 0; k < run; k++) {
            (*list)[(*count)++] = (uint32_t)(first + k);
        }
    }
    CHECK(*count > start);
    return true;
}

static bool parse_channels(const json_t *lists, const char *pointer, struct plan_width *width,
                           struct error *error)
{
    size_t total = 0;
    for (size_t e = 0; e < json_array_size(lists); e++) {
        size_t before = total;
        if (!parse_list(json_array_get(lists, e), pointer, &width->channels, &total, error)) {
            return false;
        }
        if (e > 0 && total - before != width->channel_count) {
            return error_set_field(error, ERROR_INVALID_ARGUMENT, pointer,
                                   "expert %zu keeps %zu channels, the one before %zu", e, total - before,
                                   width->channel_count);
        }
        width->channel_count = total - before;
    }
    width->channel_lists = json_array_size(lists);
    return true;
}

static bool parse_width(struct plan *plan, const json_t *item, size_t index, struct error *error)
{
    char pointer[64];
    (void)snprintf(pointer, sizeof pointer, "/widths/%zu", index);
    int64_t sublayer = 0;
    if (!json_get_i64(item, pointer, "sublayer", 0, (int64_t)plan->sublayer_count - 1, &sublayer, error)) {
        return false;
    }
    struct plan_width *width = &plan->widths[sublayer];
    const json_t *heads = json_object_get(item, "heads"), *experts = json_object_get(item, "experts"),
                 *channels = json_object_get(item, "channels");
    if (width->heads != NULL || width->experts != NULL || width->channels != NULL) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, pointer, "sublayer %lld has two widths",
                               (long long)sublayer);
    }
    return (heads == NULL || parse_list(heads, pointer, &width->heads, &width->head_count, error)) &&
           (experts == NULL || parse_list(experts, pointer, &width->experts, &width->expert_count, error)) &&
           (channels == NULL || parse_channels(channels, pointer, width, error));
}

bool plan_parse_widths(const json_t *root, struct plan *plan, struct error *error)
{
    const json_t *widths = json_object_get(root, "widths"), *hidden = json_object_get(root, "hidden");
    for (size_t i = 0; i < json_array_size(widths); i++) {
        if (!parse_width(plan, json_array_get(widths, i), i, error)) {
            return false;
        }
    }
    int64_t hidden_count = 0;
    if (!json_find_i64(root, "", "hidden_count", 0, INT32_MAX, &hidden_count, error) ||
        !json_find_bool(root, "", "is_rotated", &plan->is_rotated, error) ||
        !json_find_bool(root, "", "adds_attention_bias", &plan->adds_attention_bias, error) ||
        !json_find_bool(root, "", "adds_ffn_bias", &plan->adds_ffn_bias, error)) {
        return false;
    }
    size_t listed = 0;
    if (hidden != NULL && !parse_list(hidden, "/hidden", &plan->hidden, &listed, error)) {
        return false;
    }
    plan->hidden_count = (size_t)hidden_count;
    return hidden == NULL || listed == plan->hidden_count ||
           error_set_field(error, ERROR_INVALID_ARGUMENT, "/hidden", "%zu channels are listed, not %zu",
                           listed, plan->hidden_count);
}

bool plan_open_patch(struct plan *plan, const json_t *json, const char *folder, struct error *error)
{
    const json_t *index = json_object_get(json, "patch");
    if (index == NULL) {
        return true;
    }
    OWNED_MEMORY char *path = file_join(folder, PATCH_FILE);
    patch_destroy(plan->patch);
    plan->patch = patch_open(path, index, error);
    return plan->patch != NULL;
}
