/* workers/recipe/catalogue_pruning.c: what a pruning job says of how much goes, where, and how good the result must be. */
#include "workers/recipe/catalogue.h"

#include "workers/prune/width.h"

#define COUNT_OF(array)      (sizeof(array) / sizeof((array)[0]))
#define TEXT_OF(value)       #value
#define DEFAULT_OF(constant) TEXT_OF(constant)
#define MOST_INTEGER         9007199254740991.0
#define SWEEP_MAX            16

static const char *const gate_metrics[] = {"perplexity", "kl", NULL};
static const char *const gate_ends[] = {"fail", "back_off", NULL};
static const char *const allocation_types[] = {"auto",  "uniform",  "per_layer",    "global", "cfsp",
                                               "adapt", "knapsack", "evolutionary", NULL};
static const char *const allocation_costs[] = {"parameters", "bytes", "flops", "milliseconds", NULL};
static const char *const compensation_types[] = {"none", "bias", "ls", "ls_bias", "auto", NULL};

/* ---- how small --------------------------------------------------------------------------------------------------- */

#define MEASURE_SPARSITY .type = PARAM_NUMBER, .flags = PARAM_OPEN_MAX, .min = 0, .max = 1
#define MEASURE_PARAMS   .type = PARAM_INTEGER, .min = 1, .max = MOST_INTEGER, .unit = "parameters"
#define MEASURE_BYTES    .type = PARAM_INTEGER, .min = 1, .max = MOST_INTEGER, .unit = "bytes"
#define MEASURE_LAYERS   .type = PARAM_INTEGER, .min = 1, .max = 1024, .unit = "blocks"
#define MEASURE_REMOVED  .type = PARAM_INTEGER, .min = 0, .max = 2047, .unit = "sublayers"
#define REQUIRE_PACKABLE                                                                                     \
    {                                                                                                        \
        .name = "require_packable", .type = PARAM_BOOL, .flags = PARAM_BESIDE, .default_json = "false",      \
        .help =                                                                                              \
            "Only accept results whose blocks all keep attention and FFN, which any stock runtime loads."    \
    }

static const struct param_spec target_members[] = {
    {.name = "sparsity",
     MEASURE_SPARSITY,
     .help = "Share of the attention and FFN weights inside blocks to remove."},
    {.name = "params", MEASURE_PARAMS, .help = "Total parameters left, at most."},
    {.name = "memory_bytes", MEASURE_BYTES, .help = "Bytes of the exported weights, at most."},
    {.name = "num_layers", MEASURE_LAYERS, .help = "Blocks left after packing, at most."},
    {.name = "sublayers_removed",
     MEASURE_REMOVED,
     .help = "Attention and FFN sublayers to remove, counted before packing."},
    REQUIRE_PACKABLE,
};

static const struct param_spec sparsity_item = {MEASURE_SPARSITY, .help = "One target."};
static const struct param_spec params_item = {MEASURE_PARAMS, .help = "One target."};
static const struct param_spec bytes_item = {MEASURE_BYTES, .help = "One target."};
static const struct param_spec layers_item = {MEASURE_LAYERS, .help = "One target."};
static const struct param_spec removed_item = {MEASURE_REMOVED, .help = "One target."};
#define TARGETS(measure, item, text)                                                                         \
    {                                                                                                        \
        .name = measure, .type = PARAM_ARRAY, .min = 1, .max = SWEEP_MAX, .members = item,                   \
        .member_count = 1, .help = text                                                                      \
    }
static const struct param_spec sweep_members[] = {
    TARGETS("sparsity", &sparsity_item, "Several targets in the measure of target.sparsity."),
    TARGETS("params", &params_item, "Several targets in the measure of target.params."),
    TARGETS("memory_bytes", &bytes_item, "Several targets in the measure of target.memory_bytes."),
    TARGETS("num_layers", &layers_item, "Several targets in the measure of target.num_layers."),
    TARGETS("sublayers_removed", &removed_item,
            "Several targets in the measure of target.sublayers_removed."),
    REQUIRE_PACKABLE,
};

/* ---- how good ---------------------------------------------------------------------------------------------------- */

static const struct param_spec gate_members[] = {
    {.name = "metric",
     .type = PARAM_ENUM,
     .values = gate_metrics,
     .default_json = "\"perplexity\"",
     .help =
         "perplexity: its ratio to the original model's; kl: the divergence of the next token's distribution "
         "from the original's, in nats per token."},
    {.name = "max_ratio",
     .type = PARAM_NUMBER,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 1e6,
     .help = "metric perplexity: at most this many times the original's."},
    {.name = "max",
     .type = PARAM_NUMBER,
     .flags = PARAM_NULLABLE | PARAM_OPEN_MIN,
     .min = 0,
     .max = 1e6,
     .unit = "nats per token",
     .help = "metric kl: at most this."},
    {.name = "text",
     .type = PARAM_OBJECT,
     .flags = PARAM_REQUIRED,
     .members = catalogue_text_members,
     .member_count = CATALOGUE_TEXT_MEMBERS,
     .help = "What the gate reads."},
    {.name = "window_tokens",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 2,
     .max = 131072,
     .unit = "tokens",
     .help = "Length of a window; the model's context, at most 2048, unless given."},
    {.name = "num_windows",
     .type = PARAM_INTEGER,
     .min = 1,
     .max = 65536,
     .default_json = "16",
     .unit = "windows",
     .help = "The first windows of the text are read, so many."},
    {.name = "on_fail",
     .type = PARAM_ENUM,
     .values = gate_ends,
     .default_json = "\"fail\"",
     .help =
         "fail: the job ends as failed; back_off: the largest step towards the target that passes is taken."},
};

/* ---- where ------------------------------------------------------------------------------------------------------- */

static const struct param_spec skip_item = {.type = PARAM_TEXT,
                                            .min = 1,
                                            .max = 32,
                                            .help =
                                                "A layer (\"3\"), a range (\"0-1\"), \"first\" or \"last\"."};
static const struct param_spec layer_members[] = {
    {.name = "sparsity",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MAX | PARAM_REQUIRED,
     .min = 0,
     .max = 1,
     .help = "Share of the layer's attention and FFN weights to remove."},
};
static const struct param_spec layer_item = {.type = PARAM_OBJECT,
                                             .members = layer_members,
                                             .member_count = COUNT_OF(layer_members),
                                             .help = "One layer, by its number in the source."};
static const struct param_spec layers_members[] = {
    {.name = "skip",
     .type = PARAM_ARRAY,
     .min = 0,
     .max = 1024,
     .members = &skip_item,
     .member_count = 1,
     .default_json = "[]",
     .help = "Layers of which nothing goes."},
    {.name = "per_layer",
     .type = PARAM_MAP,
     .min = 0,
     .max = 1024,
     .members = &layer_item,
     .member_count = 1,
     .default_json = "{}",
     .help = "Layers whose share is given, for methods that narrow layers."},
};

static const struct param_spec allocation_members[] = {
    {.name = "type",
     .type = PARAM_ENUM,
     .flags = PARAM_REQUIRED,
     .values = allocation_types,
     .help = "How much each layer gives; auto: the method's own."},
    {.name = "cost",
     .type = PARAM_ENUM,
     .flags = PARAM_NULLABLE,
     .values = allocation_costs,
     .help =
         "global: units are ranked by their score over this cost, by the score alone unless given; knapsack: what the "
         "alternatives cost, parameters unless given."},
    {.name = "align",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 0,
     .max = 4096,
     .unit = "channels",
     .help = "Channel counts are multiples of this; 0: of nothing; by the width unless given."},
    {.name = "generations",
     .type = PARAM_INTEGER,
     .min = 1,
     .max = 4096,
     .default_json = DEFAULT_OF(WIDTH_GENERATIONS),
     .help = "evolutionary: how often the best allocation is varied."},
    {.name = "offspring",
     .type = PARAM_INTEGER,
     .min = 1,
     .max = 256,
     .default_json = DEFAULT_OF(WIDTH_OFFSPRING),
     .help = "evolutionary: variations of a generation."},
    {.name = "levels",
     .type = PARAM_INTEGER,
     .min = 2,
     .max = 64,
     .default_json = DEFAULT_OF(WIDTH_LEVELS),
     .help = "knapsack: widths that are tried of each sublayer."},
    {.name = "sharpness",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MIN,
     .min = 0,
     .max = 1000,
     .default_json = DEFAULT_OF(WIDTH_SHARPNESS),
     .help = "cfsp: the sigmoid's factor: how far layers may differ."},
    {.name = "amplitude",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 1,
     .default_json = DEFAULT_OF(WIDTH_AMPLITUDE),
     .help = "adapt: how far a layer's importance moves its share in one step."},
    {.name = "increment",
     .type = PARAM_NUMBER,
     .flags = PARAM_OPEN_MIN,
     .min = 0,
     .max = 1,
     .default_json = DEFAULT_OF(WIDTH_INCREMENT),
     .help = "adapt: the share that goes of every layer in one step."},
};
static const struct param_spec compensation_members[] = {
    {.name = "type",
     .type = PARAM_ENUM,
     .flags = PARAM_REQUIRED,
     .values = compensation_types,
     .help = "How what remains of a layer is repaired; auto: by the error on held-out calibration text."},
};

static const struct param_spec shaping[] = {
    {.name = "target",
     .type = PARAM_OBJECT,
     .flags = PARAM_EXACTLY_ONE | PARAM_EITHER | PARAM_NULLABLE,
     .members = target_members,
     .member_count = COUNT_OF(target_members),
     .help = "How small; exactly one measure. The result is the first point at or past it."},
    {.name = "sweep",
     .type = PARAM_OBJECT,
     .flags = PARAM_EXACTLY_ONE | PARAM_EITHER | PARAM_NULLABLE,
     .members = sweep_members,
     .member_count = COUNT_OF(sweep_members),
     .help = "Several targets of one measure, from one set of scores: a result for each, and the curve."},
    {.name = "quality_gate",
     .type = PARAM_OBJECT,
     .flags = PARAM_NULLABLE,
     .members = gate_members,
     .member_count = COUNT_OF(gate_members),
     .help = "What the result must be worth."},
    {.name = "layers",
     .type = PARAM_OBJECT,
     .members = layers_members,
     .member_count = COUNT_OF(layers_members),
     .help = "What single layers may lose."},
    {.name = "allocation",
     .type = PARAM_OBJECT,
     .flags = PARAM_NULLABLE,
     .members = allocation_members,
     .member_count = COUNT_OF(allocation_members),
     .help = "How much each layer gives, for methods that narrow layers."},
    {.name = "compensation",
     .type = PARAM_OBJECT,
     .flags = PARAM_NULLABLE,
     .members = compensation_members,
     .member_count = COUNT_OF(compensation_members),
     .help = "How what remains is repaired, for methods that narrow layers."},
};

const struct param_spec *catalogue_shaping(size_t *ret_count)
{
    *ret_count = COUNT_OF(shaping);
    return shaping;
}
