/* workers/prune/width.c: see width.h. */
#include "workers/prune/width.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/prune/prune.h"
#include <stdlib.h>
#include <string.h>

static void add_group(const struct prune_run *run, struct width_groups *groups, enum width_kind kind,
                      size_t sublayer, size_t rows, size_t count)
{
    bool is_hidden = kind == WIDTH_HIDDEN;
    groups->items = memory_resize(groups->items, groups->count + 1, sizeof *groups->items);
    groups->items[groups->count++] =
        (struct width_group){.kind = kind,
                             .sublayer = is_hidden ? SIZE_MAX : sublayer,
                             .layer = is_hidden ? SIZE_MAX : run->sublayers[sublayer].layer,
                             .count = count,
                             .rows = rows,
                             .scores = memory_create(rows * count + 1, sizeof(double))};
}

void width_list_groups(const struct prune_run *run, unsigned kinds, struct width_groups *ret_groups)
{
    const struct model_config *config = &run->inventory->config;
    struct width_groups groups = {0};
    for (size_t i = 0; i < run->sublayer_count; i++) {
        const struct model_layer *layer = &config->layers[run->sublayers[i].layer];
        if (run->sublayers[i].kind == SUBLAYER_ATTENTION) {
            if ((kinds & WIDTH_KIND(WIDTH_HEADS)) != 0) {
                add_group(run, &groups, WIDTH_HEADS, i, 1, layer->head_count);
            }
            continue;
        }
        if (layer->expert_count == 0 && (kinds & WIDTH_KIND(WIDTH_CHANNELS)) != 0) {
            add_group(run, &groups, WIDTH_CHANNELS, i, 1, layer->intermediate_size);
        }
        if (layer->expert_count > 0 && (kinds & WIDTH_KIND(WIDTH_EXPERTS)) != 0) {
            add_group(run, &groups, WIDTH_EXPERTS, i, 1, layer->expert_count);
        }
        if (layer->expert_count > 0 && (kinds & WIDTH_KIND(WIDTH_EXPERT_CHANNELS)) != 0) {
            add_group(run, &groups, WIDTH_EXPERT_CHANNELS, i, layer->expert_count, layer->intermediate_size);
        }
    }
    if ((kinds & WIDTH_KIND(WIDTH_HIDDEN)) != 0) {
        add_group(run, &groups, WIDTH_HIDDEN, 0, 1, config->hidden_size);
    }
    *ret_groups = groups;
}

void width_groups_finish(struct width_groups *groups)
{
    for (size_t i = 0; i < groups->count; i++) {
        free(groups->items[i].scores);
    }
    free(groups->items);
    *groups = (struct width_groups){0};
}

/* Lists of experts that go are left out of the lists of channels. */
static void keep_expert_channels(struct plan *plan, const struct width_group *group, const uint32_t *kept,
                                 size_t kept_count)
{
    const struct plan_width *width = &plan->widths[group->sublayer];
    size_t left = width->experts != NULL ? width->expert_count : group->rows;
    OWNED_MEMORY uint32_t *lists = memory_create(left * kept_count + 1, sizeof *lists);
    for (size_t e = 0; e < left; e++) {
        size_t expert = width->experts != NULL ? width->experts[e] : e;
        memcpy(lists + e * kept_count, kept + expert * kept_count, kept_count * sizeof *lists);
    }
    plan_keep_expert_channels(plan, group->sublayer, lists, left, kept_count, group->count);
}

void width_keep(struct plan *plan, const struct width_group *group, const uint32_t *kept, size_t kept_count)
{
    switch (group->kind) {
    case WIDTH_HEADS:
        plan_keep_heads(plan, group->sublayer, kept, kept_count, group->count);
        break;
    case WIDTH_CHANNELS:
        plan_keep_channels(plan, group->sublayer, kept, kept_count, group->count);
        break;
    case WIDTH_EXPERTS:
        plan_keep_experts(plan, group->sublayer, kept, kept_count, group->count);
        break;
    case WIDTH_EXPERT_CHANNELS:
        keep_expert_channels(plan, group, kept, kept_count);
        break;
    case WIDTH_HIDDEN:
        plan_keep_hidden(plan, kept, kept_count, group->count);
        break;
    }
}
