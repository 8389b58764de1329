/*
 * workers/prune/cfsp.c: CFSP (Wang et al., COLING 2025): coarse, a layer keeps by how far it turns the residual (allocation "cfsp", whose
 * divisor is mended: it no longer depends on the number of calibration tokens); fine, an FFN channel is worth what follows
 * (structured_pruning section 2). Attention stays as it is.
 *
 *     fine: three_w_one_wa  shares of |down| n^b, |up| and |gate|, averaged, times n^c. With axis row, as published, the shares of a column
 *                           sum to one, and the score is 3/hidden_size * n^c; with axis channel they do not
 *           one_wa          the down share alone
 *           one_a           n^c
 *           wanda_base      mean |down| * n
 *           mag_base        mean |down|
 */
#include "workers/prune/width_score.h"

#include <stdlib.h>

enum fine { FINE_THREE, FINE_ONE_WA, FINE_ONE_A, FINE_WANDA, FINE_MAGNITUDE };
static const char *const fines[] = {"three_w_one_wa", "one_wa", "one_a", "wanda_base", "mag_base", NULL};
static const char *const axes[] = {"row", "channel", NULL};
static const struct param_spec params[] = {
    {.name = "fine",
     .type = PARAM_ENUM,
     .values = fines,
     .default_json = "\"three_w_one_wa\"",
     .help =
         "The score of a channel: three_w_one_wa and one_wa of weights' shares and the norm of its input, one_a of "
         "the norm alone, wanda_base of mean weight times norm, mag_base of mean weight."},
    {.name = "axis",
     .type = PARAM_ENUM,
     .values = axes,
     .default_json = "\"row\"",
     .help =
         "What shares are taken over: row, as published, leaves nothing but the norm; channel compares weights "
         "between channels."},
    {.name = "inner_power",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 8,
     .default_json = "1",
     .help = "Power of the norm inside the down share (published as b); counts with axis channel."},
    {.name = "power",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 8,
     .default_json = "1",
     .help = "Power of the norm outside (published as c)."},
};

static void choose(const json_t *parameters, unsigned *ret_kinds, unsigned *ret_statistics)
{
    size_t fine = width_find_value(parameters, "fine", fines);
    *ret_kinds = WIDTH_KINDS_CHANNELS;
    *ret_statistics = WIDTH_MOMENTS | WIDTH_ANGLES;
    *ret_statistics |= fine == FINE_WANDA || fine == FINE_MAGNITUDE ? WIDTH_WEIGHTS : 0;
}

/* Reads the layer's weights: the only scores that sums of columns do not give. */
static bool score_channel_axis(const struct prune_run *run, const struct width_part *part, bool is_down_alone,
                               double *ret_scores, struct error *error)
{
    size_t layer = part->group->layer;
    bool has_experts = part->group->kind == WIDTH_EXPERT_CHANNELS;
    size_t rows = 0, columns = 0;
    OWNED_MEMORY float *up = NULL;
    OWNED_MEMORY float *gate = NULL;
    OWNED_MEMORY float *down = width_read_weight(run, has_experts ? WEIGHT_EXPERT_DOWN : WEIGHT_DOWN, layer,
                                                 part->part, &rows, &columns, error);
    return down != NULL && (is_down_alone || width_read_inputs(run, layer, part->part, &up, &gate, error)) &&
           score_cfsp_channels(width_part_moments(part), down, up, gate, rows,
                               width_find_number(run->parameters, "inner_power"),
                               width_find_number(run->parameters, "power"), ret_scores, error);
}

static bool score_part(const struct prune_run *run, const struct width_part *part, double *ret_scores,
                       struct error *error)
{
    size_t fine = width_find_value(run->parameters, "fine", fines);
    bool is_channel_axis = width_find_value(run->parameters, "axis", axes) == 1;
    size_t hidden = run->inventory->config.hidden_size;
    bool is_gated = architecture_of(&run->inventory->config)->is_gated;
    double power = width_find_number(run->parameters, "power");
    switch ((enum fine)fine) {
    case FINE_THREE:
    case FINE_ONE_WA:
        if (is_channel_axis) {
            return score_channel_axis(run, part, fine == FINE_ONE_WA, ret_scores, error);
        }
        score_cfsp(width_part_moments(part), hidden,
                   fine == FINE_ONE_WA ? 1
                   : is_gated          ? 3
                                       : 2,
                   power, ret_scores);
        break;
    case FINE_ONE_A:
        score_cfsp(width_part_moments(part), 1, 1, power, ret_scores);
        break;
    case FINE_WANDA:
        score_wanda_sp(width_part_moments(part), width_part_columns(part), ret_scores);
        break;
    case FINE_MAGNITUDE:
        score_mean_absolute(width_part_columns(part), ret_scores);
        break;
    }
    return true;
}

static bool cfsp_score(const struct prune_run *run, struct width_groups *groups, struct error *error)
{
    return width_score_columns(run, groups, score_part, SCORE_SUM, error);
}

const struct prune_method prune_method_cfsp = {
    .name = "cfsp",
    .summary =
        "Narrows FFNs: layers by how far they turn the residual, channels by the norm of their activation.",
    .reference =
        "Wang et al. 2024, CFSP, arXiv 2409.13199: angular importance, sigmoid allocation, three_w_one_wa",
    .needs = PRUNE_NEED_CALIBRATION | PRUNE_NEED_WIDTH,
    .traits = PRUNE_TRAIT_WIDTH,
    .params = params,
    .param_count = sizeof params / sizeof params[0],
    .decide = width_decide,
    .default_allocation = "cfsp",
    .default_compensation = "none",
    .choose = choose,
    .score = cfsp_score,
    .standardises = true,
};
