/*
 * workers/prune/greedy_params.h: parameters that every greedy search over a model has, for the tables of its methods:
 *
 *     static const struct param_spec params[] = {..., GREEDY_SEARCH_PARAMS};
 *
 * They choose what is computed, not what comes out, but for `rank_by` and the two heuristics: `lazy`, and `screening`, which leaves out
 * whoever cannot win by measured errors (of bf16, and of what some tokens say of the others).
 */
#ifndef WORKERS_PRUNE_GREEDY_PARAMS_H
#define WORKERS_PRUNE_GREEDY_PARAMS_H

#include "base/param.h"

extern const char *const greedy_rank_values[];
extern const char *const greedy_curve_values[];
extern const char *const greedy_screening_values[];

#define GREEDY_SEARCH_PARAMS                                                                                 \
    {.name = "curve",                                                                                        \
     .type = PARAM_ENUM,                                                                                     \
     .values = greedy_curve_values,                                                                          \
     .default_json = "\"target\"",                                                                           \
     .help = "How far the search goes: to the target, or on to the last sublayer, so that any other target " \
             "can be cut later."},                                                                           \
        {.name = "rank_by",                                                                                  \
         .type = PARAM_ENUM,                                                                                 \
         .values = greedy_rank_values,                                                                       \
         .default_json = "\"score\"",                                                                        \
         .help = "What goes first: the lowest score, or the lowest score per prunable parameter or per "     \
                 "measured millisecond that it saves."},                                                     \
        {.name = "prefix_cache",                                                                             \
         .type = PARAM_BOOL,                                                                                 \
         .default_json = "true",                                                                             \
         .help = "Start candidates from the current model's states (exact)."},                               \
        {.name = "batch_candidates",                                                                         \
         .type = PARAM_BOOL,                                                                                 \
         .default_json = "true",                                                                             \
         .help = "Take the candidates of a round through the model together, so that weights are read once " \
                 "(exact)."},                                                                                \
        {.name = "early_abort",                                                                              \
         .type = PARAM_BOOL,                                                                                 \
         .default_json = "true",                                                                             \
         .help = "Give up candidates whose partial score exceeds the best one (exact); with screening also " \
                 "those that cannot win by what some tokens say of the others."},                            \
        {.name = "screening",                                                                                \
         .type = PARAM_ENUM,                                                                                 \
         .values = greedy_screening_values,                                                                  \
         .default_json = "\"none\"",                                                                         \
         .help =                                                                                             \
             "Judge candidates in bf16, most of them by some of the tokens, and in fp32 only those that "    \
             "may win by the measured errors; for jobs in fp32 with weights that fit into memory."},         \
        {.name = "lazy",                                                                                     \
         .type = PARAM_BOOL,                                                                                 \
         .default_json = "false",                                                                            \
         .help = "Leave out candidates that did much worse in earlier rounds (a heuristic); the last round " \
                 "is verified."},                                                                            \
    {                                                                                                        \
        .name = "lazy_epsilon", .type = PARAM_NUMBER, .flags = PARAM_OPEN_MIN | PARAM_OPEN_MAX, .min = 0,    \
        .max = 1, .default_json = "0.3",                                                                     \
        .help = "How much a score may fall from one round to the next without being missed; only for lazy."  \
    }

#endif
