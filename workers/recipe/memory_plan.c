/*
 * workers/recipe/memory_plan.c: what a job may hold, so that the worker's peak (VmHWM) stays at or under the limit.
 *
 * A job's peak is that of its dearest phase: scoring, searching, checking the export, measuring. Each holds weights and states;
 * beside them stand the process, its texts and tokenizer, and the scratch of the forward pass. Four ways are tried, the first that
 * fits is taken:
 *
 *     all weights held,  all states held
 *     all weights held,  states spilled, small batches
 *     weights streamed,  all states held
 *     weights streamed,  states spilled, small batches
 *
 * Streamed weights get what the limit leaves, so that some units stay. Without a limit weights are held where that takes at most
 * COMFORT of the memory that the machine has to give, else as if that were the limit.
 */
#include "workers/recipe/recipe_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/evaluate/divergence.h"
#include "workers/model/sweep.h"
#include "workers/model/weights.h"
#include "workers/prune/compensation.h"
#include "workers/prune/prefix.h"
#include "workers/prune/width.h"
#include "workers/recipe/combined.h"
#include <string.h>

#define HELD_TOKENS        4096 /* of one batch of an evaluation, weights held */
#define STREAMED_TOKENS    8192 /* weights streamed: more work for each reading */
#define LEAST_TOKENS       512
/* Of the states of all layers, where the batch has more: with less, streamed weights are read more often. */
#define ANGLE_BYTES        ((uint64_t)512 << 20)
#define LITTLE_ANGLE_BYTES ((uint64_t)64 << 20)
#define LITTLE_GRAM_BYTES  ((uint64_t)256 << 20) /* of one pass, where a sublayer has many experts */

struct needs {
    const struct inventory *inventory;
    const json_t *spec;
    struct recipe_method found;
    const struct prune_method *method; /* NULL: an evaluation; else of `found` */
    const json_t *gate;                /* NULL: none */
    size_t calibration_rows, calibration_window, longest_tokens;
    bool has_generation, has_choices, has_divergence;
    uint64_t fixed_bytes;
    struct weights_size weights;
    uint64_t screen_bytes; /* of a second model that screens candidates; 0: none is asked for */
};

static uint64_t get_integer(const json_t *object, const char *name, uint64_t otherwise)
{
    const json_t *value = json_object_get(object, name);
    return json_is_integer(value) ? (uint64_t)json_integer_value(value) : otherwise;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- what the job asks for ------------------------------------------------------------------------ */

void recipe_read_compute(const json_t *spec, struct recipe_compute *ret_compute)
{
    const json_t *compute = json_object_get(spec, "compute");
    const char *dtype = json_string_value(json_object_get(compute, "dtype"));
    *ret_compute = (struct recipe_compute){
        .backend = json_string_value(json_object_get(compute, "backend")),
        .dtype = dtype != NULL && strcmp(dtype, "bfloat16") == 0 ? DTYPE_BF16 : DTYPE_F32,
        .dtype_name = dtype != NULL ? dtype : "float32",
    };
}

/* Of tokenizer.json; where a GGUF file brings the tokenizer, of its header, which is little else. */
static uint64_t tokenizer_bytes(const struct inventory *inventory)
{
    uint64_t header_bytes = 0;
    for (size_t i = 0; i < inventory->file_count; i++) {
        if (strcmp(inventory->files[i].path, "tokenizer.json") == 0) {
            return inventory->files[i].bytes;
        }
    }
    for (size_t i = 0; inventory_gguf_name(inventory) != NULL && i < inventory->tensor_count; i++) {
        uint64_t offset = inventory->tensors[i].offset_bytes;
        header_bytes = i == 0 ? offset : smaller(header_bytes, offset);
    }
    return header_bytes;
}

static void read_needs(const struct inventory *inventory, const json_t *spec, size_t threads,
                       uint64_t text_bytes, struct needs *ret_needs)
{
    const struct model_config *config = &inventory->config;
    const json_t *calibration = json_object_get(spec, "calibration");
    const json_t *evaluation = json_object_get(spec, "evaluation");
    struct needs needs = {.inventory = inventory, .spec = spec};
    recipe_find_method(spec, &needs.found);
    needs.method = recipe_method_of(&needs.found);
    uint64_t context = config->context_tokens;
    uint64_t window = get_integer(evaluation, "window_tokens", smaller(context, 2048));
    bool has_text = json_is_object(json_object_get(evaluation, "text"));
    bool has_tasks = json_array_size(json_object_get(evaluation, "tasks")) > 0;
    needs.longest_tokens = (size_t)smaller(context, LEAST_TOKENS);
    if (has_text || has_tasks) {
        needs.longest_tokens = (size_t)larger(needs.longest_tokens, smaller(window, context));
    }
    if (needs.method != NULL && recipe_needs_calibration(needs.method, spec)) {
        needs.calibration_window = (size_t)smaller(get_integer(calibration, "window_tokens", 256), context);
        needs.calibration_rows =
            (size_t)get_integer(calibration, "num_samples", 10) * needs.calibration_window;
        needs.longest_tokens = (size_t)larger(needs.longest_tokens, needs.calibration_window);
    }
    needs.gate = json_object_get(spec, "quality_gate");
    if (needs.gate != NULL) {
        needs.longest_tokens =
            (size_t)larger(needs.longest_tokens, smaller(gate_window_tokens(needs.gate, context), context));
    }
    size_t index;
    const json_t *task;
    json_array_foreach(json_object_get(evaluation, "tasks"), index, task)
    {
        const char *kind = json_string_value(json_object_get(task, "kind"));
        needs.has_generation = needs.has_generation || (kind != NULL && strcmp(kind, "generate") == 0);
        needs.has_choices = needs.has_choices || (kind != NULL && strcmp(kind, "choice") == 0);
    }
    needs.has_generation =
        needs.has_generation || json_array_size(json_object_get(evaluation, "prompts")) > 0;
    needs.has_divergence =
        needs.method != NULL && has_text && get_integer(evaluation, "divergence_tokens", 0) > 0;
    struct recipe_compute compute;
    recipe_read_compute(spec, &compute);
    struct model_size model;
    model_measure(inventory, compute.backend, compute.dtype, threads, needs.longest_tokens, &model);
    weights_measure(inventory, compute.backend, compute.dtype, &needs.weights);
    if (recipe_screens(spec, needs.method)) {
        struct weights_size screen;
        struct model_size working;
        weights_measure(inventory, compute.backend, DTYPE_BF16, &screen);
        model_measure(inventory, compute.backend, DTYPE_BF16, threads, needs.longest_tokens, &working);
        needs.screen_bytes = screen.resident_bytes + working.working_bytes;
    }
    /* Text is held as bytes, tokens, and n-grams of the overlap check; a tokenizer as its JSON and its tables. */
    needs.fixed_bytes = PROCESS_BYTES + threads * (THREAD_BYTES + needs.weights.window_bytes) +
                        8 * text_bytes + 16 * tokenizer_bytes(inventory) + model.working_bytes;
    *ret_needs = needs;
    ret_needs->method = recipe_method_of(&ret_needs->found);
}

/* ---- phases ---------------------------------------------------------------------------------------- */

static uint64_t state_bytes(const struct needs *needs, uint64_t rows)
{
    const struct model_config *config = &needs->inventory->config;
    return rows * config->hidden_size * sizeof(float) * (config->is_parallel ? 2 : 1) + 4096;
}

static uint64_t kept_bytes_per_token(const struct model_config *config)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < config->layer_count; i++) {
        const struct model_layer *layer = &config->layers[i];
        bytes +=
            layer->has_attention ? 2 * (uint64_t)layer->kv_head_count * config->head_size * sizeof(float) : 0;
    }
    return bytes;
}

static uint64_t measure_bytes(const struct needs *needs, size_t batch_tokens)
{
    const struct model_config *config = &needs->inventory->config;
    uint64_t rows = larger(batch_tokens, needs->longest_tokens);
    uint64_t generated = needs->has_generation ? rows : 512; /* speed decodes a few tokens */
    uint64_t shared = needs->has_choices ? model_shared_bytes(config, rows) : 0;
    /* Of the original its head alone is there beside the pruned model (divergence.h). */
    uint64_t divergence =
        needs->has_divergence ? needs->weights.head_bytes + divergence_bytes(config, rows) : 0;
    return state_bytes(needs, rows) + 64 * rows + generated * kept_bytes_per_token(config) +
           larger(shared, divergence);
}

/* Two samples of logits, and what the writer holds. */
static uint64_t check_bytes(const struct needs *needs)
{
    const struct model_config *config = &needs->inventory->config;
    uint64_t rows = smaller(RECIPE_CHECK_TOKENS, ((uint64_t)1 << 23) / config->vocab_size + 1);
    return 2 * rows * config->vocab_size * sizeof(float) + state_bytes(needs, rows) + ((uint64_t)8 << 20);
}

/* The prefix cache at its smallest and at its best; twice where a second model screens, which streamed weights have no room for. */
static uint64_t search_bytes(const struct needs *needs, bool is_streamed, bool is_least)
{
    const struct model_config *config = &needs->inventory->config;
    bool has_screen = needs->screen_bytes > 0 && !is_streamed;
    uint64_t states = is_least ? 3 : 3 * (2 * (uint64_t)config->layer_count + 1) + 1;
    uint64_t bytes =
        states * state_bytes(needs, needs->calibration_rows) +
        head_reference_bytes(config, needs->calibration_rows) +
        prefix_evaluator_values_bytes(2 * config->layer_count, needs->calibration_rows, has_screen);
    return has_screen ? 2 * bytes + needs->screen_bytes : bytes;
}

/* One pass: states, targets and likelihoods; for a divergence the original's head is there as well. */
static uint64_t gate_bytes(const struct needs *needs, uint64_t rows)
{
    uint64_t beside = gate_is_kl(needs->gate)
                          ? needs->weights.head_bytes + divergence_bytes(&needs->inventory->config, rows)
                          : 64 * rows;
    return state_bytes(needs, rows) + beside;
}

struct way {
    bool is_streamed, is_spilled;
    uint64_t weights[MEMORY_PHASES], states[MEMORY_PHASES];
    size_t chunk_rows, batch_tokens;
    uint64_t sweep_bytes, gram_bytes, angle_bytes, gate_rows;
    uint64_t beside_bytes; /* of a search, beside the evaluator: judge, pass, statistics */
};

/* States of all layers: a copy of what a chunk was before for each cosine that is asked for; the rows that angles are made of. */
static uint64_t turn_bytes(const struct needs *needs, struct way *way)
{
    unsigned asked = needs->method->needs;
    uint64_t rows = smaller(larger(way->chunk_rows, needs->calibration_window), needs->calibration_rows);
    uint64_t copies = ((asked & PRUNE_NEED_BLOCK_COSINES) != 0 ? 1 : 0) +
                      ((asked & PRUNE_NEED_SUBLAYER_COSINES) != 0 ? 1 : 0);
    uint64_t best = 0;
    uint64_t least = 0;
    if ((asked & PRUNE_NEED_SPAN_ANGLES) != 0) {
        const struct recipe_method *found = &needs->found;
        const json_t *parameters = found->depth != NULL ? found->depth_parameters : found->parameters;
        size_t window = needs->calibration_window > 0 ? needs->calibration_window : 1;
        prune_measure_turns(&needs->inventory->config, needs->calibration_rows / window, window,
                            prune_angles_of_all_tokens(parameters), &best, &least);
        best = smaller(best, larger(least, way->is_spilled ? LITTLE_ANGLE_BYTES : ANGLE_BYTES));
    }
    way->angle_bytes = best;
    return copies * state_bytes(needs, rows) + 8 * rows + best;
}

static void take_way(const struct needs *needs, bool is_streamed, bool is_spilled, struct way *ret_way)
{
    struct way way = {.is_streamed = is_streamed, .is_spilled = is_spilled};
    unsigned asked = needs->method != NULL ? needs->method->needs : 0;
    uint64_t held = 0;
    uint64_t least = 0;
    way.chunk_rows = is_spilled ? needs->calibration_window : SWEEP_CHUNK_ROWS;
    way.batch_tokens = is_spilled ? needs->longest_tokens : is_streamed ? STREAMED_TOKENS : HELD_TOKENS;
    unsigned wanted = needs->method != NULL ? recipe_width_wanted(needs->method, needs->spec) : 0;
    bool has_score = (asked & PRUNE_NEEDS_TURNS) != 0 || (wanted & WIDTH_NEEDS_DATA) != 0;
    bool has_pass = (asked & PRUNE_NEED_MODEL) != 0; /* the method's own, while it searches */
    bool has_search = (asked & PRUNE_NEED_EVALUATOR) != 0;
    if (has_score || has_pass) {
        sweep_measure(&needs->inventory->config, needs->calibration_rows, needs->calibration_window,
                      way.chunk_rows, &held, &least);
        way.sweep_bytes = is_spilled ? least : held;
    }
    if (has_score) {
        way.states[MEMORY_SCORE] = way.sweep_bytes + turn_bytes(needs, &way);
        if ((wanted & WIDTH_ANGLES) != 0) {
            way.states[MEMORY_SCORE] += state_bytes(needs, larger(way.chunk_rows, needs->calibration_window));
        }
    }
    way.states[MEMORY_SCORE] += width_gather_bytes(&needs->inventory->config, wanted);
    way.states[MEMORY_SEARCH] = has_search ? search_bytes(needs, is_streamed, true) : 0;
    if (needs->method != NULL && (needs->method->needs & PRUNE_NEED_WIDTH) != 0 &&
        width_needs_judge(needs->method, json_object_get(needs->spec, "allocation"))) {
        has_search = true;
        way.beside_bytes += width_judge_bytes(&needs->inventory->config, needs->calibration_rows);
    }
    bool has_repair =
        needs->method != NULL && strcmp(recipe_compensation(needs->method, needs->spec), "none") != 0;
    if (has_repair) {
        sweep_measure(&needs->inventory->config, needs->calibration_rows, needs->calibration_window,
                      way.chunk_rows, &held, &least);
        way.sweep_bytes = is_spilled ? least : held;
        way.gram_bytes = is_spilled ? LITTLE_GRAM_BYTES : 0;
        way.states[MEMORY_REPAIR] =
            2 * way.sweep_bytes +
            prune_compensation_bytes(&needs->inventory->config,
                                     (size_t)larger(way.chunk_rows, needs->calibration_window),
                                     way.gram_bytes);
    }
    if (has_pass) {
        struct prune_pass pass = {needs->calibration_rows, larger(way.chunk_rows, needs->calibration_window),
                                  is_spilled};
        way.beside_bytes += way.sweep_bytes + needs->method->pass_bytes(needs->inventory, &pass);
    }
    uint64_t statistics = width_statistics_bytes(&needs->inventory->config, wanted);
    way.beside_bytes += statistics;
    way.states[MEMORY_SEARCH] += way.beside_bytes;
    way.states[MEMORY_REPAIR] += has_repair ? statistics : 0;
    way.states[MEMORY_CHECK] = needs->method != NULL ? check_bytes(needs) : 0;
    way.states[MEMORY_MEASURE] = measure_bytes(needs, way.batch_tokens);
    if (needs->gate != NULL) {
        way.gate_rows = gate_rows(needs->gate, needs->inventory->config.context_tokens, is_spilled);
        way.states[MEMORY_MEASURE] =
            larger(way.states[MEMORY_MEASURE], statistics + gate_bytes(needs, way.gate_rows));
    }
    for (size_t i = 0; i < MEMORY_PHASES; i++) {
        way.weights[i] = !is_streamed                              ? needs->weights.resident_bytes
                         : i == MEMORY_SCORE || i == MEMORY_REPAIR ? needs->weights.least_headless_bytes
                                                                   : needs->weights.least_bytes;
    }
    way.weights[MEMORY_SCORE] = has_score ? way.weights[MEMORY_SCORE] : 0;
    way.weights[MEMORY_REPAIR] = has_repair ? 2 * way.weights[MEMORY_REPAIR] : 0; /* of two models */
    way.weights[MEMORY_SEARCH] = has_search || has_pass ? way.weights[MEMORY_SEARCH] : 0;
    way.weights[MEMORY_CHECK] = needs->method != NULL ? way.weights[MEMORY_CHECK] : 0;
    *ret_way = way;
}

/* What the process needs at its peak, with room for what nobody counts. */
static uint64_t way_total(const struct needs *needs, const struct way *way)
{
    uint64_t most = 0;
    for (size_t i = 0; i < MEMORY_PHASES; i++) {
        most = larger(most, way->weights[i] + way->states[i]);
    }
    uint64_t counted = needs->fixed_bytes + most + SLACK_BYTES;
    return counted + counted / SLACK_SHARE;
}

/* ---- the machine ----------------------------------------------------------------------------------- */

static uint64_t read_number(const char *path, const char *label)
{
    OWNED_FD int fd = file_open_read(path, NULL);
    char text[4096] = "";
    ssize_t count = fd >= 0 ? file_system->pread(fd, text, sizeof text - 1, 0) : 0;
    text[count > 0 ? count : 0] = '\0';
    const char *at = strstr(text, label);
    uint64_t value = 0;
    if (count <= 0 || at == NULL) {
        return 0;
    }
    at += strlen(label);
    at += strspn(at, " \t");
    return text_parse_u64(at, strspn(at, "0123456789"), &value) ? value : 0;
}

uint64_t machine_available_bytes(void)
{
    uint64_t available = read_number("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t group = read_number("/sys/fs/cgroup/memory.max", "");
    uint64_t used = read_number("/sys/fs/cgroup/memory.current", "");
    if (group > 0) {
        uint64_t left = group > used ? group - used : 0;
        available = available == 0 ? left : smaller(available, left);
    }
    return available;
}

/* ---- the plan -------------------------------------------------------------------------------------- */

static bool choose(const struct needs *needs, uint64_t limit, struct way *ret_way)
{
    for (unsigned i = 0; i < 4; i++) {
        take_way(needs, i >= 2, i % 2 == 1, ret_way);
        if (limit == 0 || way_total(needs, ret_way) <= limit) {
            return true;
        }
    }
    return false;
}

/* What the limit leaves goes to the prefix cache, three quarters of it where weights are streamed, and to the weights. */
static void share_rest(const struct needs *needs, const struct way *way, uint64_t limit,
                       struct memory_plan *plan)
{
    uint64_t counted = limit / (SLACK_SHARE + 1) * SLACK_SHARE;
    uint64_t taken = needs->fixed_bytes + SLACK_BYTES;
    uint64_t room = limit == 0        ? UINT64_MAX
                    : counted > taken ? counted - taken
                                      : 0; /* of weights and states */
    uint64_t states[MEMORY_PHASES];
    memcpy(states, way->states, sizeof states);
    bool has_search = needs->method != NULL && (needs->method->needs & PRUNE_NEED_EVALUATOR) != 0;
    if (has_search) {
        uint64_t least = states[MEMORY_SEARCH] + way->weights[MEMORY_SEARCH];
        uint64_t rest = room > least ? room - least : 0;
        uint64_t best = search_bytes(needs, way->is_streamed, false) + way->beside_bytes;
        uint64_t wanted = best > states[MEMORY_SEARCH] ? best - states[MEMORY_SEARCH] : 0;
        states[MEMORY_SEARCH] += smaller(wanted, way->is_streamed ? rest / 4 * 3 : rest);
    }
    plan->evaluator_bytes = states[MEMORY_SEARCH] - way->beside_bytes;
    plan->screen_bytes = way->is_streamed ? 0 : needs->screen_bytes;
    uint64_t peak = 0;
    for (size_t i = 0; i < MEMORY_PHASES; i++) {
        uint64_t weights = way->weights[i];
        if (way->is_streamed) {
            weights = room > states[i] ? room - states[i] : 0;
            weights = smaller(larger(weights, way->weights[i]),
                              (i == MEMORY_REPAIR ? 2 : 1) * needs->weights.resident_bytes);
            plan->weights_bytes[i] = weights > 0 ? weights : 1;
        }
        peak = larger(peak, weights + states[i]);
    }
    plan->planned_bytes = taken + peak + (taken + peak) / SLACK_SHARE;
}

void memory_plan_make(const struct inventory *inventory, const json_t *spec, size_t threads,
                      uint64_t text_bytes, uint64_t limit_bytes, struct memory_plan *ret_plan)
{
    struct needs needs;
    struct way way;
    struct way tightest;
    read_needs(inventory, spec, threads > 0 ? threads : 1, text_bytes, &needs);
    take_way(&needs, true, true, &tightest);
    struct memory_plan plan = {.limit_bytes = limit_bytes};
    uint64_t held_least = 0;
    plan.least_bytes = way_total(&needs, &tightest);
    take_way(&needs, false, true, &way);
    held_least = way_total(&needs, &way);
    plan.least_bytes =
        smaller(plan.least_bytes, held_least); /* a small model is smaller whole than in pieces */
    uint64_t limit = limit_bytes;
    if (limit == 0) {
        uint64_t comfortable = (uint64_t)((double)machine_available_bytes() * COMFORT);
        take_way(&needs, false, false, &way);
        bool is_held = comfortable == 0 || way_total(&needs, &way) <= comfortable;
        limit = is_held ? 0 : larger(comfortable, plan.least_bytes);
    }
    plan.fits = choose(&needs, limit, &way);
    plan.is_streamed = way.is_streamed;
    plan.is_spilled = way.is_spilled && way.sweep_bytes > 0;
    plan.chunk_rows = way.chunk_rows;
    plan.batch_tokens = way.batch_tokens;
    plan.sweep_bytes = way.sweep_bytes;
    plan.angle_bytes = way.angle_bytes;
    plan.gram_bytes = way.gram_bytes;
    plan.gate_rows = way.gate_rows;
    share_rest(&needs, &way, limit, &plan);
    *ret_plan = plan;
}
