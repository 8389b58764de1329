/*
 * workers/recipe/recipe.h: one job from its spec to its files. The service's worker and `pruned run` call the
 * same function.
 *
 * Stages: inspect, calibrate, score, search, rewrite, export, evaluate. Each reports progress; finished steps
 * are saved under work_folder (two generations, header with version, job spec and input hashes, ISA and BLAS
 * core type), so that a later run with the same work_folder continues after the last finished step and writes
 * the same bytes. A checkpoint made on another ISA or core type is refused, not mixed.
 *
 * Everything the job leaves behind is under work_folder/out: model files, plan.json, request.json,
 * report.json, report.html, SHA256SUMS.
 */
#ifndef WORKERS_RECIPE_RECIPE_H
#define WORKERS_RECIPE_RECIPE_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/json.h"
#include <stddef.h>
#include <stdint.h>

/* Called from the thread that runs the recipe; each must be short. Members may be NULL. */
struct recipe_observer {
    void *context;
    void (*stage)(void *context, const char *stage);
    /* ratio: of the whole job, 0..1; rate and eta negative while unknown. */
    void (*progress)(void *context, const char *stage, uint64_t step, uint64_t steps, const char *unit,
                     double ratio, double rate_per_second, double eta_seconds);
    void (*step)(void *context, const char *stage, uint64_t step); /* a checkpoint is durable */
    /* data: borrowed, may be NULL */
    void (*message)(void *context, const char *level, const char *message, json_t *data);
};

struct recipe_job {
    const json_t *spec; /* validated, resolved body with its "type"; keys that start with "_" are ignored */
    const char *model_folder; /* absolute */
    const json_t *inventory;  /* NULL: inspect now */
    const json_t *models;    /* {"<uri>": {"folder", "inventory"}} of the models in the spec beside "model" */
    const json_t *inputs;    /* {"<uri>": "<absolute path>"} for every source in the spec */
    const char *work_folder; /* exists */
    const char *cache_folder; /* where scores are kept and found again; NULL: nowhere */
    size_t threads;
    uint64_t memory_limit_bytes; /* 0: none */
    const struct cancel *cancel;
    struct recipe_observer observer;
};
/* ret_files: owned [{path, bytes, sha256}] of everything in work_folder/out, sorted, synced. ret_result:
 * owned summary (what the job object shows as `result`). On failure *ret_stage (static text) names the stage.
 * DRAINED: stopped at a resume point. */
bool recipe_run(const struct recipe_job *job, json_t **ret_files, json_t **ret_result, const char **ret_stage,
                struct error *error) MUST_USE;

/* Any thread, while recipe_run runs: grows as the compute pool finishes work, so that a heartbeat can tell
 * life from a hang. */
uint64_t recipe_activity(void);

/* The folder that a model's files lie in; the model is that folder, or one GGUF file of it. Owned (free). */
char *recipe_model_folder(const char *model) MUST_USE;

/* The plan of the work: arithmetic over the inventory (NULL: the folder is inspected and *ret_inventory
 * filled, owned). All faults at once, with JSON pointers into the spec. Sources are opened (present, not
 * empty) but not read through. */
bool recipe_plan(const struct recipe_job *job, json_t **ret_plan, json_t **ret_inventory,
                 struct error_list *faults) MUST_USE;
/* Inventory with hashes. */
bool recipe_inspect(const char *folder, json_t **ret_inventory, struct error_list *faults) MUST_USE;
/* What pruned-worker --describe prints (docs/catalogue.md). Owned. */
json_t *recipe_catalogue(void) MUST_USE;

#endif
