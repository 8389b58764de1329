/*
 * workers/recipe/selection_plan.c: what a selection job will cost, before it runs: memory, disk, and every fault that can be found
 * without reading a data set through.
 *
 * Memory: the dearest of three phases. Encoding or a pass: one model's weights, of the pruned model's with the original's head beside
 * them, and the states of a batch. Choosing: embeddings, neighbours, graph, spectrum. Beside all: the data sets as read, their tokens.
 */
#include "workers/recipe/selection.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/model/weights.h"
#include <stdlib.h>
#include <string.h>

/* Where nothing is known yet but the size of the files: short records, dense text. */
#define TEXT_BYTES_A_RECORD 100
#define TEXT_BYTES_A_TOKEN  3
#define BATCH_TOKENS        4096
#define LITTLE_BATCH_TOKENS 1024
#define TALLY_BYTES         ((uint64_t)32) /* of one that asks anchors */
#define JOINT_TOKENS        16
#define PAIRS_MANY          100000          /* of records and anchors */
#define RECORD_BYTES        ((uint64_t)256) /* of records, candidates, scores, lines of the result */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* What a model takes in a phase: weights as budgeted, and what it works with. */
struct share {
    uint64_t weights_held, weights_least, working;
};

/* Of a method that asks anchors: at most so many. */
static uint64_t anchors_of(const struct selection_size *size)
{
    const json_t *parameters = json_object_get(json_object_get(size->spec, "method"), size->method->name);
    return (size->method->needs & SELECT_NEED_ONE_SHOT) != 0
               ? (uint64_t)json_integer_value(json_object_get(parameters, "anchors"))
               : 0;
}

/* A record behind another, and what stands between them. */
static size_t longest_pair(const struct inventory *original, size_t longest)
{
    size_t context = original->config.context_tokens, pair = 2 * longest + JOINT_TOKENS;
    return pair < context ? pair : context;
}

static struct share measure_model(const struct selection_size *size, const struct recipe_compute *compute,
                                  const struct inventory *inventory, size_t longest)
{
    struct model_size model;
    model_measure(inventory, compute->backend, compute->dtype, size->threads, longest, &model);
    return (struct share){model.weights_resident_bytes, model.weights_least_bytes, model.working_bytes};
}

struct phases {
    uint64_t fixed, choose;
    uint64_t pass_held, pass_least; /* weights of the dearest pass */
    uint64_t head_bytes;            /* of the original beside the pruned model */
    uint64_t states[2];             /* of a batch: full, little */
};

static void measure_phases(const struct selection_size *size, struct phases *ret_phases)
{
    struct recipe_compute compute;
    struct measure_request original, pruned;
    const json_t *dataset = json_object_get(size->spec, "dataset");
    size_t longest = (size_t)json_integer_value(json_object_get(dataset, "max_tokens"));
    recipe_read_compute(size->spec, &compute);
    selection_requests(size->spec, size->method, &original, &pruned);
    struct phases phases = {.fixed = PROCESS_BYTES + size->threads * THREAD_BYTES + 4 * size->text_bytes +
                                     size->records * RECORD_BYTES + 4 * size->tokens};
    const struct measure_request nothing = {0};
    bool embeds = size->encoder != NULL && (size->method->needs & SELECT_NEED_EMBEDDINGS) != 0;
    const struct {
        const struct inventory *inventory;
        const struct measure_request *request;
        bool is_read;
    } models[] = {{size->original, &original, measure_wants(&original) || anchors_of(size) > 0},
                  {size->pruned, &pruned, measure_wants(&pruned)},
                  {size->encoder, &nothing, embeds}};
    uint64_t working = 0, head = 0;
    for (size_t i = 0; i < 3; i++) {
        const struct inventory *inventory = models[i].inventory;
        if (inventory == NULL || !models[i].is_read) {
            continue;
        }
        bool asks = i == 0 && anchors_of(size) > 0;
        size_t pair = longest_pair(inventory, longest);
        struct share share = measure_model(size, &compute, inventory, asks ? pair : longest);
        phases.pass_held = larger(phases.pass_held, share.weights_held);
        phases.pass_least = larger(phases.pass_least, share.weights_least);
        working = larger(working, share.working);
        const struct model_config *config = &inventory->config, *original_config = &size->original->config;
        const struct measure_request *request = models[i].request;
        phases.states[0] =
            larger(phases.states[0], measure_bytes(config, original_config, request, BATCH_TOKENS, longest));
        phases.states[1] = larger(
            phases.states[1], measure_bytes(config, original_config, request, LITTLE_BATCH_TOKENS, longest));
        if (asks) {
            phases.states[0] = larger(phases.states[0], one_shot_bytes(config, BATCH_TOKENS, pair));
            phases.states[1] = larger(phases.states[1], one_shot_bytes(config, LITTLE_BATCH_TOKENS, pair));
        }
    }
    if (pruned.damage != MEASURE_NO_DAMAGE) {
        struct weights_size weights;
        weights_measure(size->original, compute.backend, compute.dtype, &weights);
        head = weights.head_bytes + measure_model(size, &compute, size->original, 16).working;
    }
    phases.head_bytes = head;
    phases.fixed += working;
    if ((size->method->needs & SELECT_NEED_EMBEDDINGS) != 0) {
        const struct model_config *config = &(size->encoder != NULL ? size->encoder : size->original)->config;
        /* An encoder's are there before the passes. */
        phases.fixed += embeds ? size->records * (uint64_t)config->hidden_size * sizeof(float) : 0;
        phases.choose = size->records * 2 * (uint64_t)config->hidden_size * sizeof(float);
    }
    if (size->method->choose_bytes != NULL) {
        const json_t *parameters = json_object_get(json_object_get(size->spec, "method"), size->method->name);
        phases.choose += size->method->choose_bytes(parameters, size->records - size->targets, size->targets);
    }
    phases.fixed +=
        size->records * (anchors_of(size) * sizeof(double) + (anchors_of(size) > 0 ? TALLY_BYTES : 0));
    *ret_phases = phases;
}

static uint64_t with_slack(uint64_t bytes)
{
    return bytes + SLACK_BYTES + (bytes + SLACK_BYTES) / SLACK_SHARE;
}

void selection_plan_memory(const struct selection_size *size, struct memory_plan *ret_plan)
{
    struct phases phases;
    measure_phases(size, &phases);
    uint64_t limit = size->limit_bytes;
    uint64_t held[2], least[2];
    for (size_t i = 0; i < 2; i++) {
        held[i] = with_slack(phases.fixed +
                             larger(phases.choose, phases.pass_held + phases.head_bytes + phases.states[i]));
        least[i] = with_slack(
            phases.fixed + larger(phases.choose, phases.pass_least + phases.head_bytes + phases.states[i]));
    }
    struct memory_plan plan = {.limit_bytes = size->limit_bytes,
                               .least_bytes = least[1] < held[1] ? least[1] : held[1]};
    if (limit == 0) {
        uint64_t comfortable = (uint64_t)((double)machine_available_bytes() * COMFORT);
        limit = comfortable == 0 || held[0] <= comfortable ? 0 : larger(comfortable, plan.least_bytes);
    }
    bool is_little = limit > 0 && held[0] > limit && (held[1] <= limit || least[0] > limit);
    plan.is_streamed = limit > 0 && held[is_little] > limit;
    plan.batch_tokens = is_little ? LITTLE_BATCH_TOKENS : BATCH_TOKENS;
    plan.fits = limit == 0 || plan.least_bytes <= limit;
    plan.planned_bytes = plan.is_streamed ? larger(limit, plan.least_bytes) : held[is_little];
    if (plan.is_streamed) {
        /* What the limit leaves beside the other things of a pass. */
        uint64_t beside = with_slack(phases.fixed + phases.head_bytes + phases.states[is_little]);
        uint64_t rest = limit > beside ? limit - beside : 1;
        plan.weights_bytes[MEMORY_SCORE] = larger(rest, phases.pass_least);
        plan.weights_bytes[MEMORY_CHECK] = larger(phases.head_bytes, 1);
    }
    *ret_plan = plan;
}

/* ---- before the job ---------------------------------------------------------------------------------------------- */

/* Adds how many records they have at most. */
static uint64_t check_sources(const struct recipe_job *job, const json_t *sources, const char *where,
                              size_t *records, struct error_list *faults)
{
    uint64_t total = 0;
    for (size_t i = 0; i < json_array_size(sources); i++) {
        const json_t *item = json_array_get(sources, i);
        const char *source = json_string_value(json_object_get(item, "source"));
        const char *path = json_string_value(json_object_get(job->inputs, source));
        struct error error = {0};
        char pointer[128];
        uint64_t bytes = 0;
        (void)snprintf(pointer, sizeof pointer, "%s/%zu/source", where, i);
        if (path == NULL) {
            error_list_add(faults, ERROR_NOT_FOUND, pointer, "source \"%s\" was not found", source);
            continue;
        }
        OWNED_FD int fd = file_open_read(path, &error);
        if (fd < 0 || !file_size(fd, &bytes, &error)) {
            error_list_add(faults, error.code, pointer, "source \"%s\" cannot be read", source);
        } else if (bytes == 0) {
            error_list_add(faults, ERROR_TEXT_TOO_SHORT, pointer, "source \"%s\" is empty", source);
        }
        total += bytes;
        size_t limit = (size_t)json_integer_value(json_object_get(item, "limit"));
        size_t most = (size_t)(bytes / TEXT_BYTES_A_RECORD + 1);
        *records += limit > 0 && limit < most ? limit : most;
    }
    return total;
}

/* What the job goes through, whether or not its method has anything to do there. */
static json_t *list_stages(void)
{
    static const enum recipe_stage stages[] = {STAGE_INSPECT, STAGE_READ,   STAGE_EMBED,
                                               STAGE_SCORE,   STAGE_SELECT, STAGE_EXPORT};
    json_t *names = json_array();
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        CHECK(json_array_append_new(names, json_string(recipe_stage_names[stages[i]])) == 0);
    }
    return names;
}

/* records: of the data set alone. */
static void put_resources(json_t *plan, const struct selection_size *size, size_t records,
                          struct error_list *faults)
{
    struct memory_plan memory;
    struct measure_request original, pruned;
    selection_plan_memory(size, &memory);
    selection_requests(size->spec, size->method, &original, &pruned);
    if (!memory.fits) {
        error_list_add(faults, ERROR_OUT_OF_MEMORY, "/limits/max_memory_bytes",
                       "the job needs at least %llu bytes of memory, %llu are allowed",
                       (unsigned long long)memory.least_bytes, (unsigned long long)memory.limit_bytes);
    }
    uint64_t row = size->original->config.hidden_size * sizeof(float);
    uint64_t disk = RECIPE_BESIDE_BYTES + 3 * size->text_bytes + 64 * size->records;
    disk += original.states ? 2 * size->tokens * row : 0; /* as measured, and as kept */
    disk += original.pools ? 2 * size->records * row : 0;
    disk += (original.token_losses ? 2 : 0) * size->tokens * sizeof(double);
    disk += pruned.token_losses ? size->tokens * sizeof(double) : 0;
    disk += size->encoder != NULL && (size->method->needs & SELECT_NEED_EMBEDDINGS) != 0
                ? size->records * size->encoder->config.hidden_size * sizeof(float)
                : 0;
    disk += size->records * anchors_of(size) * sizeof(double);
    json_put_i64(plan, "memory_bytes", (int64_t)memory.planned_bytes);
    json_put_i64(plan, "memory_bytes_least", (int64_t)memory.least_bytes);
    json_put(plan, "weights_streamed", json_boolean(memory.is_streamed));
    json_put_i64(plan, "disk_bytes", (int64_t)disk);
    json_put_i64(plan, "records_estimated", (int64_t)records);
}

static json_t *list_warnings(const struct selection_size *size, size_t records)
{
    json_t *warnings = json_array();
    uint64_t anchors = anchors_of(size);
    if (anchors > 0 && records * anchors > PAIRS_MANY) {
        FINISHED(text) warning = {0};
        text_append_format(
            &warning,
            "each of at most %zu records is asked up to %llu anchors: %llu passes of the original over two "
            "records; fewer anchors or a limit on the records make that less",
            records, (unsigned long long)anchors, (unsigned long long)(records * anchors));
        CHECK(json_array_append_new(warnings, json_string(warning.bytes)) == 0);
    }
    return warnings;
}

json_t *selection_plan(const struct recipe_job *job, const json_t *spec, const struct inventory *inventory,
                       struct error_list *faults)
{
    const json_t *parameters = NULL;
    const char *folder = NULL, *encoder_folder = NULL;
    struct recipe_compute compute;
    struct machine machine;
    struct error error = {0};
    const struct select_method *method = selection_method(spec, &parameters);
    const json_t *sources = json_object_get(json_object_get(spec, "dataset"), "sources");
    char targets[80];
    (void)snprintf(targets, sizeof targets, "/method/%s/targets", method->name);
    size_t asked = 0;
    uint64_t text_bytes = check_sources(job, sources, "/dataset/sources", &asked, faults);
    size_t records = asked;
    text_bytes += check_sources(job, json_object_get(parameters, "targets"), targets, &records, faults);
    OWNED(inventory) pruned = selection_find_model(job, spec, "pruned_model", &folder, faults);
    OWNED(inventory) encoder = selection_find_model(job, spec, "embedding_model", &encoder_folder, faults);
    selection_check(spec, inventory, pruned, faults);
    recipe_read_compute(spec, &compute);
    OWNED(pool) pool = pool_create(1, &error);
    if (pool == NULL || !machine_describe(&compute, pool, &machine, &error)) {
        (void)snprintf(error.field, sizeof error.field, "/compute/backend");
        error_list_add_error(faults, &error);
    }
    uint64_t limit =
        (uint64_t)json_integer_value(json_object_get(json_object_get(spec, "limits"), "max_memory_bytes"));
    if (job->memory_limit_bytes > 0 && (limit == 0 || job->memory_limit_bytes < limit)) {
        limit = job->memory_limit_bytes;
    }
    const struct selection_size size = {.original = inventory,
                                        .pruned = pruned,
                                        .encoder = encoder,
                                        .spec = spec,
                                        .method = method,
                                        .threads = job->threads > 0 ? job->threads : 1,
                                        .records = records,
                                        .targets = records - asked,
                                        .tokens = text_bytes / TEXT_BYTES_A_TOKEN + 1,
                                        .text_bytes = text_bytes,
                                        .limit_bytes = limit};
    json_t *plan = json_object();
    put_resources(plan, &size, asked, faults);
    json_put(plan, "stages", list_stages());
    json_put(plan, "warnings", list_warnings(&size, asked));
    return plan;
}
