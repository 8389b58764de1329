/*
 * workers/recipe/catalogue.c: the bodies of jobs (docs/catalogue.md, ecosystem 1.4) and everything else
 * `pruned-worker --describe` prints. Methods join by their own tables (workers/prune/methods.def).
 */
#include "workers/recipe/catalogue.h"

#include "base/check.h"
#include "base/memory.h"
#include "workers/prune/prune.h"
#include "workers/recipe/combined.h"
#include "workers/recipe/recipe_internal.h"
#include "workers/recipe/selection.h"
#include "workers/tensor/backend.h"
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define SHAPING_MAX     16

static const char *const halves[] = {"first", "second", NULL};
static const char *const samplings[] = {"first", "random", NULL};
static const char *const protocols[] = {"gptq", "rolling", NULL};
static const char *const task_kinds[] = {"generate", "choice", "language_modeling", NULL};
static const char *const layouts[] = {"auto",          "uniform", "padded", "identity",
                                      "heterogeneous", "decilm",  NULL};
static const char *const dtypes[] = {"keep", "float32", "bfloat16", "float16", NULL};
static const char *const devices[] = {"auto", "cpu", NULL};
static const char *const compute_dtypes[] = {"float32", "bfloat16", NULL};

static const struct param_spec calibration_members[] = {
    {.name = "source",
     .type = PARAM_TEXT,
     .min = 1,
     .max = 4096,
     .help = "Text that the method scores on: a path, an uploaded blob or a registered source. Needed by "
             "methods that read data."},
    {.name = "text_field",
     .type = PARAM_TEXT,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 64,
     .help = "Record member that holds the text of a JSONL file (\"text\" unless given)."},
    {.name = "half",
     .type = PARAM_ENUM,
     .flags = PARAM_NULLABLE,
     .values = halves,
     .help = "Take only this half of the file, cut at a blank line."},
    {.name = "num_samples",
     .type = PARAM_INTEGER,
     .min = 1,
     .max = 65536,
     .default_json = "10",
     .unit = "windows",
     .help = "Windows of text to score on."},
    {.name = "window_tokens",
     .type = PARAM_INTEGER,
     .min = 2,
     .max = 131072,
     .default_json = "256",
     .unit = "tokens",
     .help = "Length of a window; at most the model's context."},
    {.name = "sampling",
     .type = PARAM_ENUM,
     .values = samplings,
     .default_json = "\"first\"",
     .help = "Which windows: the first ones, or random ones drawn from the seed."},
};

const struct param_spec catalogue_text_members[CATALOGUE_TEXT_MEMBERS] = {
    {.name = "source",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 4096,
     .help =
         "Text to measure on: neither the calibration's nor, for a quality gate, the one that is reported."},
    {.name = "text_field",
     .type = PARAM_TEXT,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 64,
     .help = "Record member that holds the text of a JSONL file (\"text\" unless given)."},
    {.name = "half",
     .type = PARAM_ENUM,
     .flags = PARAM_NULLABLE,
     .values = halves,
     .help = "Take only this half of the file, cut at a blank line."},
};
static const struct param_spec protocol_item = {
    .type = PARAM_ENUM,
    .values = protocols,
    .help = "gptq: joined windows, tail dropped; rolling: every token scored once."};
static const struct param_spec task_members[] = {
    {.name = "name",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 64,
     .help = "Name in the report."},
    {.name = "source",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 4096,
     .help = "JSONL file of records."},
    {.name = "kind",
     .type = PARAM_ENUM,
     .flags = PARAM_REQUIRED,
     .values = task_kinds,
     .help =
         "generate: {prompt, answer}, greedy exact match; choice: {query, choices, gold} or {context_options, "
         "continuation, gold}, highest log-likelihood; language_modeling: {context, continuation}, greedy match and "
         "perplexity."},
    {.name = "limit",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 9007199254740991.0,
     .unit = "records",
     .help = "Only the first records of the file; all unless given."},
    {.name = "delimiter",
     .type = PARAM_TEXT,
     .flags = PARAM_NULLABLE,
     .min = 0,
     .max = 64,
     .help =
         "Between query or context and what follows (\"\\nAnswer: \"); one space unless given, none where white "
         "space is there already. Not for generate."},
};
static const struct param_spec task_item = {.type = PARAM_OBJECT,
                                            .members = task_members,
                                            .member_count = COUNT_OF(task_members),
                                            .help = "One task."};
static const struct param_spec prompt_item = {
    .type = PARAM_TEXT, .min = 0, .max = 4096, .help = "A text to continue."};
static const struct param_spec evaluation_members[] = {
    {.name = "text",
     .type = PARAM_OBJECT,
     .flags = PARAM_NULLABLE,
     .members = catalogue_text_members,
     .member_count = CATALOGUE_TEXT_MEMBERS,
     .help = "Text for perplexity; left out: perplexity is not measured."},
    {.name = "protocols",
     .type = PARAM_ARRAY,
     .min = 1,
     .max = 2,
     .members = &protocol_item,
     .member_count = 1,
     .default_json = "[\"gptq\", \"rolling\"]",
     .help = "Perplexity protocols."},
    {.name = "window_tokens",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 2,
     .max = 131072,
     .unit = "tokens",
     .help = "Perplexity window; the model's context, at most 2048, unless given."},
    {.name = "tasks",
     .type = PARAM_ARRAY,
     .min = 0,
     .max = 64,
     .members = &task_item,
     .member_count = 1,
     .default_json = "[]",
     .help = "Tasks to measure accuracy on."},
    {.name = "divergence_tokens",
     .type = PARAM_INTEGER,
     .min = 0,
     .max = 9007199254740991.0,
     .default_json = "8192",
     .unit = "tokens",
     .help =
         "Of the text, how many to compare the result's predictions with the original's on (KL divergence, agreement of "
         "the likeliest tokens); 0: not compared. Pruning only."},
    {.name = "prompts",
     .type = PARAM_ARRAY,
     .flags = PARAM_NULLABLE,
     .min = 0,
     .max = 16,
     .members = &prompt_item,
     .member_count = 1,
     .help =
         "Texts that each model continues greedily in the report; three of ours unless given (none where weights are streamed), none "
         "for []."},
    {.name = "speed",
     .type = PARAM_BOOL,
     .default_json = "true",
     .help = "Measure tokens per second, and what the model takes in memory by itself."},
};

static const struct param_spec format_item = {
    .type = PARAM_ENUM,
    .values = export_formats,
    .help = "A format: hf, a Hugging Face folder (always written), or a GGUF file by its element type.",
};

static const struct param_spec output_members[] = {
    {.name = "formats",
     .type = PARAM_ARRAY,
     .min = 0,
     .max = 5,
     .members = &format_item,
     .member_count = 1,
     .default_json = "[\"hf\"]",
     .help = "What is written: the Hugging Face folder always, and GGUF files where asked for."},
    {.name = "layout",
     .type = PARAM_ENUM,
     .values = layouts,
     .default_json = "\"auto\"",
     .help = "How removed sublayers are written; auto: uniform where the plan packs, else heterogeneous."},
    {.name = "dtype",
     .type = PARAM_ENUM,
     .values = dtypes,
     .default_json = "\"keep\"",
     .help = "Element type of the exported weights; keep: as in the source."},
    {.name = "max_shard_bytes",
     .type = PARAM_INTEGER,
     .min = 65536,
     .max = 1099511627776.0,
     .default_json = "5000000000",
     .unit = "bytes",
     .help = "Size of one safetensors file, at most (a larger tensor gets a file of its own)."},
};

static const struct param_spec limits_members[] = {
    {.name = "max_memory_bytes",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 16777216,
     .max = 9007199254740991.0,
     .unit = "bytes",
     .help =
         "The worker's peak memory keeps this; what does not fit is streamed or spilled, or the job is refused."},
    {.name = "max_seconds",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 31536000,
     .unit = "seconds",
     .help = "Wall time of one attempt."},
    {.name = "threads",
     .type = PARAM_INTEGER,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 1024,
     .help = "Compute threads; the service's choice unless given. Results do not depend on it."},
    {.name = "device",
     .type = PARAM_ENUM,
     .values = devices,
     .default_json = "\"auto\"",
     .help = "Where to compute."},
};

/* `values` of the backend is filled in by catalogue_body: the list is the engine's. */
static struct param_spec compute_members[] = {
    {.name = "backend",
     .type = PARAM_ENUM,
     .flags = PARAM_NULLABLE,
     .help = "Whose arithmetic; the best this machine has for the dtype unless given."},
    {.name = "dtype",
     .type = PARAM_ENUM,
     .values = compute_dtypes,
     .default_json = "\"float32\"",
     .help =
         "Operands of matrix products; sums are float32. Results differ between dtypes and backends, never between threads."},
};

#define COMMON_MEMBERS                                                                                       \
    {.name = "limits",                                                                                       \
     .type = PARAM_OBJECT,                                                                                   \
     .members = limits_members,                                                                              \
     .member_count = COUNT_OF(limits_members),                                                               \
     .help = "Bounds of one attempt."},                                                                      \
        {.name = "compute",                                                                                  \
         .type = PARAM_OBJECT,                                                                               \
         .members = compute_members,                                                                         \
         .member_count = COUNT_OF(compute_members),                                                          \
         .help = "How the model is computed."},                                                              \
        {.name = "seed",                                                                                     \
         .type = PARAM_INTEGER,                                                                              \
         .min = 0,                                                                                           \
         .max = 9007199254740991.0,                                                                          \
         .default_json = "42",                                                                               \
         .help = "Of everything random."},                                                                   \
        {.name = "name",                                                                                     \
         .type = PARAM_TEXT,                                                                                 \
         .flags = PARAM_NULLABLE,                                                                            \
         .min = 1,                                                                                           \
         .max = 128,                                                                                         \
         .help = "For people."},                                                                             \
        {.name = "metadata",                                                                                 \
         .type = PARAM_MAP,                                                                                  \
         .max = 16,                                                                                          \
         .item_max = 512,                                                                                    \
         .default_json = "{}",                                                                               \
         .help = "Up to 16 pairs of text, returned as they are."},                                           \
    {                                                                                                        \
        .name = "priority", .type = PARAM_INTEGER, .min = -100, .max = 100, .default_json = "0",             \
        .help = "Higher runs first."                                                                         \
    }

static const struct param_spec common_members[] = {COMMON_MEMBERS};

static const struct param_spec model_member = {
    .name = "model",
    .type = PARAM_TEXT,
    .flags = PARAM_REQUIRED,
    .min = 1,
    .max = 4096,
    .help = "A registered model, a folder, or the result of an earlier job."};

static const struct param_spec evaluation_body_members[] = {
    {.name = "model",
     .type = PARAM_TEXT,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = 4096,
     .help = "A registered model, a folder, or the result of an earlier job."},
    {.name = "evaluation",
     .type = PARAM_OBJECT,
     .flags = PARAM_REQUIRED,
     .members = evaluation_members,
     .member_count = COUNT_OF(evaluation_members),
     .help = "What to measure."},
    COMMON_MEMBERS,
};
static const struct param_spec evaluation_body = {.type = PARAM_OBJECT,
                                                  .members = evaluation_body_members,
                                                  .member_count = COUNT_OF(evaluation_body_members),
                                                  .help = "Measures a model: perplexity, tasks, speed."};

static const struct param_spec pruning_rest[] = {
    {.name = "calibration",
     .type = PARAM_OBJECT,
     .members = calibration_members,
     .member_count = COUNT_OF(calibration_members),
     .help = "Text that the method scores on."},
    {.name = "evaluation",
     .type = PARAM_OBJECT,
     .members = evaluation_members,
     .member_count = COUNT_OF(evaluation_members),
     .help = "What to measure before and after; never the calibration text."},
    {.name = "output",
     .type = PARAM_OBJECT,
     .members = output_members,
     .member_count = COUNT_OF(output_members),
     .help = "What to write."},
    COMMON_MEMBERS,
};

/* The method union is built from the registry, so a new method needs no line here. */
static const struct param_spec *pruning_body(void)
{
    static struct param_spec members[2 + SHAPING_MAX + COUNT_OF(pruning_rest)];
    static struct param_spec body;
    static struct param_spec methods[64];
    if (body.members != NULL) {
        return &body;
    }
    size_t method_count = 0;
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        CHECK(method_count < COUNT_OF(methods));
        methods[method_count++] = (struct param_spec){.name = (*method)->name,
                                                      .type = PARAM_OBJECT,
                                                      .members = (*method)->params,
                                                      .member_count = (*method)->param_count,
                                                      .help = (*method)->summary};
    }
    CHECK(method_count < COUNT_OF(methods));
    methods[method_count++] = *combined_spec();
    members[0] = model_member;
    members[1] = (struct param_spec){.name = "method",
                                     .type = PARAM_UNION,
                                     .flags = PARAM_REQUIRED,
                                     .members = methods,
                                     .member_count = method_count,
                                     .help = "What decides which parts go."};
    size_t shaping_count = 0;
    const struct param_spec *shaping = catalogue_shaping(&shaping_count);
    CHECK(shaping_count <= SHAPING_MAX);
    memcpy(members + 2, shaping, shaping_count * sizeof *shaping);
    memcpy(members + 2 + shaping_count, pruning_rest, sizeof pruning_rest);
    body = (struct param_spec){.type = PARAM_OBJECT,
                               .members = members,
                               .member_count = 2 + shaping_count + COUNT_OF(pruning_rest),
                               .help = "Makes a model smaller."};
    return &body;
}

const struct param_spec *catalogue_body(const char *job_type)
{
    compute_members[0].values = backend_names();
    if (strcmp(job_type, "pruning") == 0) {
        return pruning_body();
    }
    if (strcmp(job_type, "selection") == 0) {
        return catalogue_selection_body(common_members, COUNT_OF(common_members));
    }
    return strcmp(job_type, "evaluation") == 0 ? &evaluation_body : NULL;
}

static json_t *format_names(const char *const *names)
{
    json_t *array = json_array();
    for (; *names != NULL; names++) {
        CHECK(json_array_append_new(array, json_string(*names)) == 0);
    }
    return array;
}

static json_t *list_needs(unsigned needs, const char *const *names, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        if ((needs & 1u << i) != 0) {
            CHECK(json_array_append_new(array, json_string(names[i])) == 0);
        }
    }
    return array;
}

/* needs is taken over. */
static void append_method(json_t *array, const char *job_type, const char *reference, json_t *needs,
                          const struct param_spec *parameters)
{
    json_t *item = json_object();
    json_put_text(item, "name", parameters->name);
    json_put_text(item, "job_type", job_type);
    json_put_text(item, "summary", parameters->help);
    json_put_text(item, "reference", reference);
    json_put(item, "needs", needs);
    json_put(item, "parameters", param_format(parameters));
    CHECK(json_array_append_new(array, item) == 0);
}

static json_t *format_methods(void)
{
    static const char *const prune_needs[] = {
        "calibration",      "block_cosines", "evaluator",        "plan",
        "sublayer_cosines", "span_angles",   "width_statistics", "model"};
    static const char *const select_needs[] = {"embeddings", "damage",  "losses",  "alone_losses",
                                               "el2n",       "columns", "targets", "entropies",
                                               "one_shot",   "efforts"};
    _Static_assert(1u << (COUNT_OF(select_needs) - 1) == SELECT_NEED_EFFORTS, "a name for each need");
    json_t *array = json_array();
    for (const struct prune_method *const *method = prune_methods(); *method != NULL; method++) {
        struct param_spec spec = {.name = (*method)->name,
                                  .type = PARAM_OBJECT,
                                  .members = (*method)->params,
                                  .member_count = (*method)->param_count,
                                  .help = (*method)->summary};
        append_method(array, "pruning", (*method)->reference,
                      list_needs((*method)->needs, prune_needs, COUNT_OF(prune_needs)), &spec);
    }
    append_method(array, "pruning", "those of the two methods", json_array(), combined_spec());
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        struct param_spec spec = {.name = (*method)->name,
                                  .type = PARAM_OBJECT,
                                  .members = (*method)->params,
                                  .member_count = (*method)->param_count,
                                  .help = (*method)->summary};
        json_t *needs = list_needs((*method)->needs, select_needs, COUNT_OF(select_needs));
        if (select_needs_pruned(*method)) {
            CHECK(json_array_append_new(needs, json_string("pruned_model")) == 0);
        }
        append_method(array, "selection", (*method)->reference, needs, &spec);
    }
    return array;
}

static json_t *format_layouts(void)
{
    static const struct {
        const char *name, *summary, *loaders[6];
    } rows[] = {
        {"uniform",
         "A stock config with fewer blocks; only where every block keeps attention and FFN.",
         {"transformers", "vllm", "pruned", NULL}},
        {"padded",
         "A stock config as wide as the widest layer, the others filled up with zeros; needs attention and FFN in "
         "every block.",
         {"transformers", "vllm", "pruned", NULL}},
        {"identity",
         "Removed sublayers stay with a zero output projection: loads everywhere, not smaller.",
         {"transformers", "vllm", "pruned", NULL}},
        {"heterogeneous",
         "Blocks without attention or without FFN, and with widths of their own, with our modelling file.",
         {"transformers (trust_remote_code)", "pruned", NULL}},
        {"decilm",
         "As heterogeneous, for Llama-type models whose blocks keep to DeciLM's rules, with its block_configs.",
         {"transformers (trust_remote_code)", "vllm (--trust-remote-code)", "pruned", NULL}},
        {"auto", "uniform where the plan packs, else heterogeneous.", {NULL}},
    };
    json_t *array = json_array();
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        json_t *item = json_object();
        json_put_text(item, "name", rows[i].name);
        json_put_text(item, "summary", rows[i].summary);
        json_put(item, "loaders", format_names(rows[i].loaders));
        CHECK(json_array_append_new(array, item) == 0);
    }
    return array;
}

static json_t *format_engine(void)
{
    json_t *engine = json_object();
    json_put_text(engine, "version", PRUNED_VERSION);
    json_put(engine, "backends", format_names(backend_names()));
    OWNED(pool) pool = pool_create(1, NULL);
    json_t *bests = json_object();
    for (size_t i = 0; pool != NULL && compute_dtypes[i] != NULL; i++) {
        struct machine machine;
        struct recipe_compute compute = {.dtype = i == 0 ? DTYPE_F32 : DTYPE_BF16,
                                         .dtype_name = compute_dtypes[i]};
        if (machine_describe(&compute, pool, &machine, NULL)) {
            json_put_text(bests, compute_dtypes[i], machine.backend);
        }
    }
    json_put(engine, "best_backends", bests);
    json_put_text(engine, "isa", machine_instruction_set());
    return engine;
}

json_t *recipe_catalogue(void)
{
    static const char *const catalogue_devices[] = {"cpu", NULL};
    json_t *root = json_object();
    json_put_i64(root, "version", 1);
    json_put(root, "engine", format_engine());
    json_t *types = json_object();
    static const char *const names[] = {"pruning", "selection", "evaluation"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        json_t *type = json_object();
        json_put(type, "body", param_format(catalogue_body(names[i])));
        json_put(types, names[i], type);
    }
    json_put(root, "job_types", types);
    json_put(root, "methods", format_methods());
    json_put(root, "layouts", format_layouts());
    json_put(root, "architectures", format_names(model_config_architectures()));
    json_put(root, "formats", format_names(export_formats));
    json_put(root, "devices", format_names(catalogue_devices));
    return root;
}
