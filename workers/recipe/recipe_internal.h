/*
 * workers/recipe/recipe_internal.h: one running job, shared by the files of this folder.
 *
 *     recipe.c        the door: stages in order, result, clean-up
 *     search.c        the evaluator of greedy searches: objective, memory, screening
 *     stages.c        inspect, calibrate, score, rewrite, export
 *     points.c        search; one job's several targets
 *     gate*.c         whether what was found is good enough
 *     layers.c        what the request says of single layers
 *     scores.c        scores that are kept for other jobs
 *     curve.c         the results of several targets side by side
 *     width.c         what narrowing needs besides: statistics, compensation, the pruned model's inventory
 *     measure*.c      evaluate: the models before and after (measure.h)
 *     progress.c      how far the whole job is, how fast, how long still
 *     checkpoint.c    what is finished, on disk
 *     work_plan.c     recipe_plan: what the job will cost, before it runs
 *     memory_plan.c   what it may hold
 *     report.c        report.json, plan.json, request.json
 *     page*.c         report.html
 *     selection*.c    a selection job: another recipe of the same parts (selection.h)
 *     machine.c       what the arithmetic depends on
 *     catalogue.c     what can be asked for
 */
#ifndef WORKERS_RECIPE_RECIPE_INTERNAL_H
#define WORKERS_RECIPE_RECIPE_INTERNAL_H

#include "base/clock.h"
#include "workers/data/corpus.h"
#include "workers/data/task_set.h"
#include "workers/data/windows.h"
#include "workers/export/export.h"
#include "workers/model/inventory.h"
#include "workers/model/model.h"
#include "workers/model/plan.h"
#include "workers/model/tokenizer.h"
#include "workers/prune/prefix.h"
#include "workers/prune/prune.h"
#include "workers/recipe/checkpoint.h"
#include "workers/recipe/recipe.h"
#include "workers/tensor/pool.h"

#define RECIPE_TASKS_MAX        64
#define RECIPE_POINTS_MAX       17 /* a target and a sweep */
#define RECIPE_PLAN_LIMIT_BYTES (16u << 20)
#define RECIPE_SAVE_SECONDS     10.0 /* between saves inside a search */
#define RECIPE_CHECK_TOKENS     128  /* whose logits are compared after the export */
#define RECIPE_CHECK_TOLERANCE  1e-4

/* ---- memory_plan.c ----------------------------------------------------------------------------------------------- */
struct recipe_compute {
    const char *backend; /* NULL: the best there is for dtype; borrowed from the spec */
    enum dtype dtype;
    const char *dtype_name;
};
void recipe_read_compute(const json_t *spec, struct recipe_compute *ret_compute);

enum memory_phase { MEMORY_SCORE, MEMORY_SEARCH, MEMORY_REPAIR, MEMORY_CHECK, MEMORY_MEASURE, MEMORY_PHASES };
struct memory_plan {
    uint64_t limit_bytes;   /* that the peak must keep; 0: none */
    uint64_t planned_bytes; /* the expected peak, at most the limit where the job fits */
    uint64_t least_bytes;   /* the least limit that works */
    bool fits, is_streamed, is_spilled;
    uint64_t weights_bytes[MEMORY_PHASES]; /* budget of weights; 0: all are held */
    uint64_t evaluator_bytes;              /* of the prefix cache, with what it compares to */
    uint64_t screen_bytes;                 /* of that: the model that screens candidates; 0: nobody screens */
    uint64_t sweep_bytes;                  /* of the states of a sweep */
    uint64_t angle_bytes;                  /* of the states of all layers that angles are made of */
    size_t chunk_rows, batch_tokens;       /* of a sweep; of an evaluation */
    uint64_t gram_bytes; /* of a compensation's sums, where a sublayer has many experts; 0: no limit */
    uint64_t gate_rows;  /* of one pass of the quality gate */
};
/* Measured: a worker that has done nothing yet, with its libraries; what each compute thread adds (stack, arena). */
#define PROCESS_BYTES ((uint64_t)20 << 20)
#define THREAD_BYTES  ((uint64_t)1 << 20)
/* What nobody counts: the heap's holes, reports, JSON; and that much of the whole. */
#define SLACK_BYTES   ((uint64_t)12 << 20)
#define SLACK_SHARE   64
#define COMFORT       0.8
/* text_bytes: of all sources together. Arithmetic; without a limit the machine's free memory decides too. */
void memory_plan_make(const struct inventory *inventory, const json_t *spec, size_t threads,
                      uint64_t text_bytes, uint64_t limit_bytes, struct memory_plan *ret_plan);
uint64_t machine_available_bytes(void); /* 0: unknown */

/* ---- search.c: what candidates of a greedy search are judged by --------------------------------------------------- */
struct recipe_search {
    struct model *screen; /* owned; NULL: no screening */
    struct prefix_evaluator *evaluator;
};
struct recipe;
/* Whether the method's parameters ask for screening in bf16 and the job computes in fp32. */
bool recipe_screens(const json_t *spec, const struct prune_method *method);
/* The source is open. Zeroed before; recipe_search_finish after, also where this fails. */
bool recipe_open_search(struct recipe *recipe, struct recipe_search *search, struct error *error) MUST_USE;
void recipe_search_finish(struct recipe_search *search);

/* ---- machine.c: what the bits of results depend on ---- */
struct machine {
    char backend[32];
    char identity[256]; /* ISA, backend, dtype, library and core type: what the bits of results depend on */
};
bool machine_describe(const struct recipe_compute *compute, struct pool *pool, struct machine *ret_machine,
                      struct error *error) MUST_USE;

/* ---- one running job ---- */
enum recipe_stage {
    STAGE_INSPECT,
    STAGE_READ,
    STAGE_CALIBRATE,
    STAGE_EMBED,
    STAGE_SCORE,
    STAGE_SEARCH,
    STAGE_SELECT,
    STAGE_REWRITE,
    STAGE_EXPORT,
    STAGE_EVALUATE,
    STAGE_COUNT,
};
extern const char *const recipe_stage_names[STAGE_COUNT];

struct progress {
    double weights[STAGE_COUNT]; /* expected share of the work, any unit */
    enum recipe_stage stage;
    double scope_start, scope_end; /* of the stage, 0..1: what parts are parts of */
    double part_start, part_end;   /* of the scope, 0..1: what the current call covers */
    double ratio, first_ratio;     /* of the whole job; at the start of this attempt */
    bool has_first_ratio;
    int64_t start_ns, stage_entered_ns, stage_start_ns,
        emitted_ns; /* stage_start_ns: of the part, for the rate */
    uint64_t stage_first_step;
    bool has_stage_first_step;
    double stage_seconds[STAGE_COUNT];
};

/* ---- points.c: one target of the job ---- */
struct recipe_point {
    char name[48];     /* "sparsity-0.2"; its folder, unless it is at top level */
    char pointer[48];  /* where it stands in the request */
    json_t *requested; /* owned: {"sparsity": 0.2, "require_packable": false} */
    struct prune_target target;
    struct prune_target
        plan_target; /* what the plan was made for: `target`, or less where the gate says so */
    bool is_backed_off;
    /* Of a point that is not the current one; the current one's are the recipe's own. */
    struct plan *plan;
    struct export_draft draft;
};
struct recipe_points {
    struct recipe_point items[RECIPE_POINTS_MAX];
    size_t count, head, current; /* head: the one at top level */
    bool has_target;             /* the first is `target`, the others are of `sweep` */
};

/* ---- scores.c ---- */
struct scores {
    json_t *key;     /* owned; NULL: scores are not kept */
    char sha256[65]; /* of the key */
    json_t *before;  /* owned: the checkpoint before scoring, shallow */
    json_t *members; /* owned: what of the checkpoint is kept */
    size_t kept_points;
    bool has_members, is_file_found, is_written; /* is_file_found: the statistics were there */
};

struct recipe {
    const struct recipe_job *job;
    json_t *spec; /* owned: resolved, without "_" members */
    bool is_pruning;
    struct selection_job *selection; /* owned: of a selection job (selection.h); NULL: another one */
    const char *method_name;
    const struct prune_method *method;
    const json_t *parameters; /* of the method; borrowed from spec */
    /* Of a combination (combined.h) the method above is the width's; this one comes first. NULL: no combination. */
    const struct prune_method *depth;
    const json_t *depth_parameters;
    double depth_ratio;
    struct prune_method merged;
    uint64_t seed;
    const char *model_name; /* owned */
    char *out_folder;       /* owned */

    struct inventory *inventory;
    struct tokenizer *tokenizer; /* NULL: the folder has none and nothing needs it */
    struct pool *pool;
    struct corpus *calibration, *evaluation;
    struct windows *windows;
    struct windows *divergence_windows; /* of the evaluation text; NULL: not made yet */
    struct windows_options windows_options;
    json_t *calibration_json, *overlap_json;
    struct task_set *tasks[RECIPE_TASKS_MAX];
    size_t task_count;

    struct plan *given;  /* PRUNE_NEED_PLAN */
    struct model *model; /* the source, where it is open; while its export is checked, the pruned model */
    struct recipe_points points;
    struct scores scores;
    struct prune_layers *layers; /* owned; pruning jobs */
    struct corpus *gate_corpus;
    struct windows *gate_windows; /* NULL: no quality gate */
    json_t *gate_text_json;
    struct prune_target target; /* of the current point, as are plan, draft and out_folder */
    struct plan *plan;
    struct width_statistics *statistics; /* of methods that narrow */
    struct inventory *derived;           /* of the pruned model, where the plan has widths */
    struct export_options export_options;
    struct export_draft draft;
    uint64_t disk_bytes; /* of the points that were drafted */
    char model_sha256[65];

    struct checkpoint_identity identity;
    json_t *done; /* owned: the checkpoint's payload */
    int64_t saved_ns;
    uint64_t save_count;
    bool is_resumed;
    struct progress progress;
    int64_t deadline_ns; /* 0: none */
    bool is_timed_out;
    struct error save_error;    /* of a save inside a measurement */
    struct cancel local_cancel; /* what the measurements poll: the job's, or the deadline */
    json_t *warnings;
    struct model_work work; /* of the search, this attempt */
    struct recipe_compute compute;
    struct machine machine;
    struct memory_plan memory;
    bool is_streamed;           /* of the source's weights, or the result's */
    uint64_t weight_bytes_read; /* from files, this attempt */
    uint64_t peak_rss_bytes;    /* highest of the phases before the last reset */
};

/* output.formats of the spec; borrowed. */
static inline const json_t *recipe_formats(const struct recipe *recipe)
{
    return json_object_get(json_object_get(recipe->spec, "output"), "formats");
}

/* ---- progress.c -------------------------------------------------------------------------------------------------- */
void progress_enter(struct recipe *recipe, enum recipe_stage stage);
/* What follows covers this much of the stage. */
void progress_scope(struct recipe *recipe, double start, double end);
/* The next steps cover this part of the scope. */
void progress_part(struct recipe *recipe, double start, double end);
void progress_step(struct recipe *recipe, uint64_t step, uint64_t steps, const char *unit);
void progress_finish(struct recipe *recipe);
/* Counts as life for recipe_activity; any thread. */
void recipe_touch(void);
void recipe_watch_pool(const struct pool *pool); /* NULL: none any more */
/* False with CANCELLED, DRAINED or TIME_LIMIT. */
bool recipe_check(struct recipe *recipe, struct error *error) MUST_USE;
void recipe_warn(struct recipe *recipe, const char *format, ...) PRINTF(2, 3);

/* ---- checkpoints: members of recipe->done ------------------------------------------------------------------------- */
bool recipe_save(struct recipe *recipe, struct error *error) MUST_USE;

/* ---- stages.c ---------------------------------------------------------------------------------------------------- */
bool stage_inspect(struct recipe *recipe, struct error *error) MUST_USE;
bool stage_calibrate(struct recipe *recipe, struct error *error) MUST_USE;
bool stage_score(struct recipe *recipe, struct error *error) MUST_USE;
/* prune_observer.progress with the recipe as its context; how a sweep of the calibration batch holds its states. */
void recipe_tell_progress(void *context, uint64_t step, uint64_t steps, const char *unit);
struct sweep_options recipe_sweep_options(const struct recipe *recipe);
/* The method's plan for a target: owned. curve: where a search goes on; may be NULL. */
bool recipe_decide(struct recipe *recipe, const struct prune_target *target, const struct plan *curve,
                   struct plan **ret_plan, struct error *error) MUST_USE;
/* The same before it is repaired and kept; and that. A plan that was kept already stays as it is. */
bool recipe_choose(struct recipe *recipe, const struct prune_target *target, const struct plan *curve,
                   struct plan **ret_plan, struct error *error) MUST_USE;
bool recipe_finish_plan(struct recipe *recipe, const struct prune_target *target, struct plan *plan,
                        struct error *error) MUST_USE;
/* recipe->model is the source, with what the phase leaves for its weights. */
bool recipe_open_source(struct recipe *recipe, enum memory_phase phase, struct error *error) MUST_USE;
bool stage_rewrite(struct recipe *recipe, struct error *error) MUST_USE;
/* On disk: the weights as they are written, GGUF files, the plan's patch, which goes along, and what is small. */
#define RECIPE_BESIDE_BYTES ((uint64_t)16 << 20)
uint64_t recipe_point_bytes(uint64_t weight_bytes, uint64_t format_bytes, const struct plan *plan);
bool stage_export(struct recipe *recipe, struct error *error) MUST_USE;
/* The absolute path of a source of the spec: borrowed. NOT_FOUND with its pointer. */
const char *recipe_find_input(const struct recipe *recipe, const char *source, const char *pointer,
                              struct error *error);
struct corpus *recipe_load_corpus(const struct recipe *recipe, const json_t *object, const char *pointer,
                                  struct error *error) MUST_USE;
/* The plan.json that a method's `source` names: owned. */
struct plan *recipe_load_plan(const json_t *inputs, const struct inventory *inventory,
                              const char *method_name, const json_t *parameters,
                              struct error *error) MUST_USE;
/* Last segment of a source: what people call it. Borrowed. */
const char *recipe_source_name(const char *source);
size_t recipe_evaluation_window(const struct recipe *recipe);

/* ---- points.c ---------------------------------------------------------------------------------------------------- */
/* The targets of a resolved spec: the head is the first. */
void recipe_read_points(const json_t *spec, size_t element_bytes, struct recipe_points *points,
                        struct error_list *faults);
void recipe_points_finish(struct recipe_points *points);
/* The request that makes this point alone; the head's is the whole request. Owned. */
json_t *recipe_point_spec(const json_t *spec, const struct recipe_points *points, size_t index) MUST_USE;
bool stage_search(struct recipe *recipe, struct error *error) MUST_USE;
/* Makes a point the current one; plans must be there. */
void recipe_select_point(struct recipe *recipe, size_t index);
/* "check", "exported" or "after" of any point: borrowed, NULL where there is none. */
const json_t *recipe_point_member(const struct recipe *recipe, size_t index, const char *name);
/* Runs a stage for each point, the head first, which takes `share` of it; the head is current afterwards. */
bool recipe_for_points(struct recipe *recipe, bool (*run)(struct recipe *recipe, struct error *error),
                       double share, struct error *error) MUST_USE;

/* ---- layers.c ---------------------------------------------------------------------------------------------------- */
/* Owned (recipe_free_layers), with every fault in `faults`. */
struct prune_layers *recipe_read_layers(const json_t *spec, size_t layer_count,
                                        struct error_list *faults) MUST_USE;
void recipe_free_layers(struct prune_layers *layers);
/* What the request asks for and the method cannot. */
void recipe_check_traits(const json_t *spec, const struct prune_method *method, struct error_list *faults);

/* ---- gate.c, gate_choose.c: `gate` is the spec's quality_gate --------------------------------------------------------------------- */
bool gate_is_kl(const json_t *gate);
size_t gate_window_tokens(const json_t *gate, size_t context_tokens);
uint64_t gate_rows(const json_t *gate, size_t context_tokens, bool is_least);
void gate_check(const json_t *gate, size_t context_tokens, struct error_list *faults);
bool gate_load(struct recipe *recipe, struct error *error) MUST_USE;        /* the text */
bool gate_cut_windows(struct recipe *recipe, struct error *error) MUST_USE; /* TEXT_OVERLAP */
double gate_search_share(const struct recipe *recipe); /* of the search stage: what is no judging */
/* Judges the plans of the points: which is the head, and how far its plan goes. QUALITY_GATE_FAILED. */
bool gate_choose(struct recipe *recipe, struct error *error) MUST_USE;

/* ---- scores.c: nothing happens without job->cache_folder ----------------------------------------------------------- */
/* Before scoring: what is known enters the checkpoint. */
bool scores_take(struct recipe *recipe, struct error *error) MUST_USE;
/* After scoring and after the search: what is new is kept. A failure is a warning. */
void scores_keep_members(struct recipe *recipe);
void scores_keep_curve(struct recipe *recipe, const struct plan *curve);
/* Statistics of width methods are a file that guards itself, shared by all that want the same: where it is kept. Owned; NULL: nowhere. */
char *scores_statistics_path(const struct recipe *recipe, unsigned wanted) MUST_USE;
/* The same for what a method's own passes find (prune_run.kept_path); in the work folder where nothing is kept. Owned. */
char *scores_pass_path(const struct recipe *recipe) MUST_USE;
/* {"cache": "off", "miss", "hit" or "extended", "key", "seconds"}. Owned. */
json_t *scores_format(const struct recipe *recipe) MUST_USE;
void scores_finish(struct scores *scores);

/* ---- curve.c ----------------------------------------------------------------------------------------------------- */
/* report.json's "curve": [{name, path, requested, achieved, perplexity, ...}], least removed first; NULL without a sweep. Owned. */
json_t *curve_format(const struct recipe *recipe) MUST_USE;

/* ---- width.c ----------------------------------------------------------------------------------------------------- */
/* The compensation of a resolved spec: its own, or the method's default. */
const char *recipe_compensation(const struct prune_method *method, const json_t *spec);
unsigned recipe_width_wanted(const struct prune_method *method,
                             const json_t *spec); /* bits of width_statistic */
/* What of a job reads calibration text: "method flap", "allocation knapsack", "compensation ls"; false: nothing does. */
bool recipe_find_reader(const struct prune_method *method, const json_t *spec, char ret_reader[80]);
bool recipe_needs_calibration(const struct prune_method *method, const json_t *spec);
/* Whether it makes tokens of any text. method: NULL without pruning. */
bool recipe_needs_tokenizer(const struct prune_method *method, const json_t *spec);
double
recipe_leverage_ratio(const struct recipe *recipe); /* lambda of the ridge leverage, of the mean diagonal */
bool recipe_gather_widths(struct recipe *recipe, struct error *error) MUST_USE;
/* What a run of a width method needs; nothing for others. */
struct recipe_width_run {
    struct source *weights;
    struct width_judge *judge;
    double *milliseconds;
    char *folder;
};
bool recipe_open_widths(struct recipe *recipe, const struct prune_target *target,
                        struct recipe_width_run *width, struct prune_run *run, struct error *error) MUST_USE;
void recipe_width_run_finish(struct recipe_width_run *width);
/* Repairs what stays of a plan's widths, as the request asks for: its patch. */
bool recipe_repair(struct recipe *recipe, const struct prune_target *target, struct plan *plan,
                   struct error *error) MUST_USE;
const json_t *
recipe_repair_report(const struct recipe *recipe); /* of the current point; borrowed, NULL: none */
/* Plans that took long to make stand in the checkpoint as soon as they are made; *ret_plan NULL: this one does not. */
bool recipe_keep_plan(struct recipe *recipe, const struct prune_target *target, const struct plan *plan,
                      struct error *error) MUST_USE;
bool recipe_find_plan(const struct recipe *recipe, const struct prune_target *target, struct plan **ret_plan,
                      struct error *error) MUST_USE;
/* Where the patch of a target's plan lies: owned (free). */
char *recipe_plan_folder(const struct recipe *recipe, const struct prune_target *target) MUST_USE;
/* Of a plan that the checkpoint had. */
bool recipe_reopen_patch(const struct recipe *recipe, const struct prune_target *target, const json_t *saved,
                         struct plan *plan, struct error *error) MUST_USE;
/* recipe->derived for recipe->plan. */
void recipe_derive(struct recipe *recipe);
/* The pruned model's inventory, but for sublayers that are removed: the source's where nothing is narrower. */
const struct inventory *recipe_pruned(const struct recipe *recipe);
/* Kinds, layers and parameters of all sublayers: owned (free). work_plan.c */
struct sublayer *recipe_list_sublayers(const struct inventory *inventory, size_t *ret_count);
/* report.json's "layers": [{layer, attention: {heads, kv_heads, kept_heads, kept_kv_heads}, ffn: {of, kept, experts?, kept_experts?}}]. */
json_t *recipe_format_widths(const struct recipe *recipe) MUST_USE;
/* plan.weights into the output folder, where the plan has a patch. */
bool recipe_write_patch(const struct recipe *recipe, struct error *error) MUST_USE;

/* ---- measure.c --------------------------------------------------------------------------------------------------- */
bool stage_evaluate(struct recipe *recipe, struct error *error) MUST_USE;
/* Largest difference between the logits of the source without the removed sublayers and of the exported folder. Two halves, so that
 * one model is open at a time: the first fills ret_logits (owned). */
struct logit_sample {
    int32_t *tokens;
    float *logits; /* [count, vocab_size] */
    size_t count, vocab_size;
};
bool measure_masked_logits(struct recipe *recipe, struct logit_sample *ret_sample,
                           struct error *error) MUST_USE;
bool measure_exported_logits(struct recipe *recipe, const struct logit_sample *sample, double *ret_difference,
                             struct error *error) MUST_USE;
void logit_sample_finish(struct logit_sample *sample);
double logit_sample_magnitude(const struct logit_sample *sample); /* the largest absolute logit */
/* Opens a model with the job's pool, threads and cancel flag, and what the plan of memory gives it in a phase. */
struct model *recipe_open_model(struct recipe *recipe, const struct inventory *inventory, const char *folder,
                                enum memory_phase phase, struct error *error) MUST_USE;
/* The model goes, and what it did is noted for the report. */
void recipe_close_model(struct recipe *recipe, struct model *model);

/* ---- report.c, page.c -------------------------------------------------------------------------------------------- */
bool report_write(struct recipe *recipe, json_t **ret_result, struct error *error) MUST_USE;
/* plan.json, request.json and README.md of the current point. */
bool report_write_point(struct recipe *recipe, struct error *error) MUST_USE;
/* {"before": {parameters, weight_bytes, blocks, sublayers}, "after": ...}: the same in every run. Owned. */
json_t *report_size_summary(const struct recipe *recipe) MUST_USE;

/* ---- machine.c --------------------------------------------------------------------------------------------------- */
const char *machine_instruction_set(void); /* static */
/* Lets the peak of resident memory start anew; false where the system does not allow it. */
bool machine_reset_peak(void);

#endif
