/*
 * workers/prune/wave.c: see wave.h.
 *
 * Positions: state j is the residual before sublayer j. State j of the cache is what the sublayers below j that are left make; only
 * those of sublayers that are left are kept. After a commit the states above it are out of date until the next sweep wants them.
 *
 * Parallel layers: a candidate without a layer's attention has no branch for its FFN, which then reads the rows themselves. Others
 * beside it have one, so when it joins them its branch is made: its own rows.
 */
#include "workers/prune/wave.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"
#include "workers/model/weights.h"
#include <stdlib.h>
#include <string.h>

#define AREA_ROWS 16384 /* of a sweep, where memory is no concern */

struct wave_engine {
    struct model *model;
    struct objective_text text;
    struct objective_options objective_options;
    struct objective *objective; /* NULL until the first restart */
    struct wave_options options;
    size_t sublayer_count;
    size_t row_count, longest_rows; /* of all items; of the longest */
    size_t *first_rows;             /* [sequence_count + 1] */
    bool *removed;                  /* [sublayer_count], of the current model */
    size_t first;                   /* lowest position that a candidate may begin at */
    size_t stale_from;              /* states of the cache from here on are out of date; SIZE_MAX: none */
    bool is_cached, is_recording;
    struct hidden **cache;    /* [sublayer_count + 1]; cache[first] always */
    struct hidden **recorded; /* [sublayer_count + 1], of recorded_unit */
    bool has_recorded;
    struct prune_unit recorded_unit;
    struct hidden *area; /* candidates of a sweep; made when it is wanted */
    struct hidden *base; /* the current model's rows in a sweep without a cache */
    size_t area_rows;
    struct segment *segments, *base_segments;
};

/* ---- states ------------------------------------------------------------------------------------------------------ */

static struct hidden *create_rows(const struct wave_engine *engine, size_t rows, struct error *error)
{
    struct token_sequence sequence = {.count = rows};
    struct token_batch batch = {&sequence, 1};
    return hidden_create(engine->model, &batch, error);
}

static void drop_states(struct hidden **states, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        hidden_destroy(states[i]);
        states[i] = NULL;
    }
}

static void drop_area(struct wave_engine *engine)
{
    hidden_destroy(engine->area);
    hidden_destroy(engine->base);
    free(engine->segments);
    free(engine->base_segments);
    engine->area = NULL;
    engine->base = NULL;
    engine->segments = NULL;
    engine->base_segments = NULL;
}

/* Sequences have a row each, at least. */
static bool make_area(struct wave_engine *engine, struct error *error)
{
    if (engine->area != NULL) {
        return true;
    }
    size_t most = engine->row_count < engine->area_rows ? engine->row_count : engine->area_rows;
    engine->area = create_rows(engine, engine->area_rows, error);
    engine->segments = memory_create(engine->area_rows + 1, sizeof *engine->segments);
    engine->base_segments = memory_create(most + 1, sizeof *engine->base_segments);
    if (!engine->is_cached) {
        engine->base = create_rows(engine, most, error);
    }
    return engine->area != NULL && (engine->is_cached || engine->base != NULL);
}

static size_t put_segments(const struct wave_engine *engine, size_t first_sequence, size_t count, size_t row,
                           struct segment *segments)
{
    for (size_t s = 0; s < count; s++) {
        size_t rows = engine->text.batch.sequences[first_sequence + s].count;
        segments[s] = (struct segment){.first_row = row, .count = rows};
        row += rows;
    }
    return row;
}

/* All sequences, in the area's memory or that of a state. */
static struct hidden whole_view(struct wave_engine *engine)
{
    struct hidden view = *engine->area;
    size_t count = engine->text.batch.sequence_count;
    view.segments = engine->segments;
    view.sequence_count = count;
    view.row_count = put_segments(engine, 0, count, 0, engine->segments);
    view.branch_layer = SIZE_MAX;
    return view;
}

static bool keep_state(struct wave_engine *engine, struct hidden **states, size_t position,
                       const struct hidden *from, struct error *error)
{
    if (states[position] == NULL) {
        states[position] = hidden_create(engine->model, &engine->text.batch, error);
    }
    return states[position] != NULL && hidden_copy(states[position], from, error);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How many rows of states fit decides what is kept (wave.h). Area of a cached sweep: never less than all tokens, which a
 * commit runs through it. */
static void choose_memory(struct wave_engine *engine)
{
    const struct model_config *config = model_get_config(engine->model);
    size_t kept = 0;
    for (size_t j = engine->first; j < engine->sublayer_count; j++) {
        kept += engine->removed[j] ? 0 : 1;
    }
    bool may_cache = !engine->options.is_uncached && model_is_resident(engine->model);
    size_t wanted = larger(engine->longest_rows * kept, 2 * engine->longest_rows);
    if (engine->options.memory_limit_bytes == 0) {
        engine->is_cached = may_cache;
        engine->is_recording = may_cache;
        engine->area_rows = larger(engine->row_count, smaller(wanted, AREA_ROWS));
        if (!model_is_resident(engine->model)) {
            engine->area_rows = engine->row_count * larger(kept, 1);
        }
        return;
    }
    uint64_t row_bytes = config->hidden_size * sizeof(float) * (config->is_parallel ? 2 : 1);
    uint64_t rows = engine->options.memory_limit_bytes / row_bytes;
    uint64_t all = engine->row_count;
    engine->is_cached = may_cache && rows / (kept + 2) >= all;
    if (engine->is_cached) {
        engine->is_recording = rows / (2 * kept + 2) >= all;
        uint64_t left = rows - (engine->is_recording ? 2 * kept : kept) * all;
        engine->area_rows = larger(engine->row_count, (size_t)(left < wanted ? left : wanted));
        engine->area_rows = smaller(engine->area_rows, larger(engine->row_count, AREA_ROWS));
        return;
    }
    engine->is_recording = false;
    /* One state, the current model's rows in the sweep, and the candidates'. */
    wanted = engine->row_count * larger(kept, 1);
    uint64_t left = rows > 2 * all ? rows - 2 * all : 0;
    engine->area_rows = larger(engine->longest_rows, (size_t)(left < wanted ? left : wanted));
    if (model_is_resident(engine->model)) {
        engine->area_rows = smaller(engine->area_rows, larger(engine->row_count, AREA_ROWS));
    }
}

size_t wave_state_count(const struct wave_engine *engine)
{
    size_t count = 0;
    for (size_t i = 0; i <= engine->sublayer_count; i++) {
        count += (engine->cache[i] != NULL ? 1u : 0u) + (engine->recorded[i] != NULL ? 1u : 0u);
    }
    return count;
}

/* ---- the cache --------------------------------------------------------------------------------------------------- */

/* The alive sublayers from `from` on, over all tokens in `view`; the states on the way into the cache. */
static bool fill_cache(struct wave_engine *engine, size_t from, struct hidden *view, struct error *error)
{
    size_t last = engine->sublayer_count;
    while (last > from && engine->removed[last - 1]) {
        last--;
    }
    for (size_t j = from; j < last; j++) {
        if (engine->removed[j]) {
            continue;
        }
        if ((j > from && !keep_state(engine, engine->cache, j, view, error)) ||
            (j + 1 < last && !model_run_sublayer(engine->model, j, view, error))) {
            return false;
        }
    }
    return true;
}

static bool refresh_cache(struct wave_engine *engine, struct error *error)
{
    size_t from = engine->stale_from;
    if (from == SIZE_MAX) {
        return true;
    }
    engine->stale_from = SIZE_MAX;
    if (!engine->is_cached) {
        return true;
    }
    /* `from` was removed itself; what was its input is up to date. */
    CHECK(engine->cache[from] != NULL);
    struct hidden view = whole_view(engine);
    return hidden_place(&view, 0, engine->cache[from], 0, engine->row_count, error) &&
           fill_cache(engine, from, &view, error);
}

/* states: of the whole batch before the final norm, of the model without anything removed; NULL: they are made here, and live no longer. */
static bool make_objective(struct wave_engine *engine, const struct hidden *states, struct error *error)
{
    OWNED(hidden) own = NULL;
    if (states == NULL && engine->objective_options.kind == OBJECTIVE_DISTANCE) {
        own = hidden_create(engine->model, &engine->text.batch, error);
        if (own == NULL || !model_embed(engine->model, &engine->text.batch, own, error) ||
            !model_run_from(engine->model, 0, NULL, own, error)) {
            return false;
        }
        states = own;
    }
    bool is_distance = engine->objective_options.kind == OBJECTIVE_DISTANCE;
    engine->objective = objective_create(engine->model, &engine->text, &engine->objective_options,
                                         is_distance ? states : NULL, error);
    return engine->objective != NULL;
}

static bool is_any_removed(const struct wave_engine *engine, const bool *removed)
{
    for (size_t i = 0; i < engine->sublayer_count; i++) {
        if (removed[i]) {
            return true;
        }
    }
    return false;
}

bool wave_restart(struct wave_engine *engine, const bool *removed, size_t first, struct error *error)
{
    CHECK(first < engine->sublayer_count);
    memmove(engine->removed, removed, engine->sublayer_count * sizeof *removed);
    if (engine->options.is_uncached) {
        first = 0;
    }
    if (first > 0 &&
        model_sublayer(engine->model, first)->layer == model_sublayer(engine->model, first - 1)->layer) {
        first--; /* a parallel layer's FFN needs its attention's branch */
    }
    drop_states(engine->cache, engine->sublayer_count + 1);
    drop_states(engine->recorded, engine->sublayer_count + 1);
    drop_area(engine);
    engine->first = first;
    engine->stale_from = SIZE_MAX;
    engine->has_recorded = false;
    choose_memory(engine);
    /* Filling the cache of the whole model makes the original's states as well. Otherwise they come before anything else is held. */
    bool is_original = engine->is_cached && !is_any_removed(engine, engine->removed);
    if (engine->objective == NULL && !is_original && !make_objective(engine, NULL, error)) {
        return false;
    }
    weights_set_removed(model_get_weights(engine->model), engine->removed);
    struct hidden *start = hidden_create(engine->model, &engine->text.batch, error);
    engine->cache[first] = start;
    if (start == NULL || !model_embed(engine->model, &engine->text.batch, start, error)) {
        return false;
    }
    for (size_t j = 0; j < first; j++) {
        if (!engine->removed[j] && !model_run_sublayer(engine->model, j, start, error)) {
            return false;
        }
    }
    start->branch_layer = SIZE_MAX;
    if (!make_area(engine, error)) {
        return false;
    }
    if (!engine->is_cached) {
        return true;
    }
    struct hidden view = whole_view(engine);
    if (!hidden_copy(&view, start, error) || !fill_cache(engine, first, &view, error)) {
        return false;
    }
    return engine->objective != NULL ||
           ((engine->objective_options.kind != OBJECTIVE_DISTANCE ||
             model_run_sublayer(engine->model, engine->sublayer_count - 1, &view, error)) &&
            make_objective(engine, &view, error));
}

bool wave_reach(struct wave_engine *engine, size_t first, struct error *error)
{
    return first >= engine->first || wave_restart(engine, engine->removed, first, error);
}

bool wave_commit(struct wave_engine *engine, const struct prune_unit *unit, struct error *error)
{
    (void)error;
    for (size_t i = 0; i < unit->count; i++) {
        engine->removed[unit->first + i] = true;
    }
    weights_set_removed(model_get_weights(engine->model), engine->removed);
    bool is_recorded = engine->has_recorded && engine->recorded_unit.first == unit->first;
    engine->has_recorded = false;
    if (!engine->is_cached) {
        return true;
    }
    for (size_t j = unit->first + 1; j < engine->sublayer_count; j++) {
        if (is_recorded) {
            struct hidden *swapped = engine->cache[j];
            engine->cache[j] = engine->recorded[j];
            engine->recorded[j] = swapped;
        }
    }
    if (!is_recorded) {
        engine->stale_from = smaller(engine->stale_from, unit->first);
    }
    return true;
}

/* ---- a sweep ----------------------------------------------------------------------------------------------------- */

struct sweep_run {
    struct wave_engine *engine;
    const struct prune_unit *units; /* [unit_count], ascending */
    size_t unit_count;
    size_t first_sequence, sequence_count, first_row, row_count;
    bool keeps;
    struct hidden view, base;
    size_t admitted, active; /* the last admitted unit is not active while the sweep is inside it */
};

static void show_active(struct sweep_run *run, size_t count)
{
    run->view.sequence_count = count * run->sequence_count;
    run->view.row_count = count * run->row_count;
}

static bool activate(struct sweep_run *run, struct error *error)
{
    run->active = run->admitted;
    show_active(run, run->active);
    if (run->view.branch_layer == SIZE_MAX) {
        return true;
    }
    struct hidden plain = run->view;
    plain.branch_layer = SIZE_MAX;
    size_t row = (run->active - 1) * run->row_count;
    return hidden_place(&run->view, row, &plain, row, run->row_count, error);
}

static bool admit(struct sweep_run *run, size_t position, struct error *error)
{
    struct wave_engine *engine = run->engine;
    CHECK(run->active == run->admitted); /* units do not overlap */
    size_t row = run->admitted * run->row_count;
    const struct hidden *from = engine->is_cached ? engine->cache[position] : &run->base;
    struct hidden to = run->view;
    to.row_count = row + run->row_count;
    to.branch_layer = SIZE_MAX; /* it gets one when it joins */
    CHECK(from != NULL);
    (void)put_segments(engine, run->first_sequence, run->sequence_count, row,
                       engine->segments + run->admitted * run->sequence_count);
    run->admitted++;
    return hidden_place(&to, row, from, engine->is_cached ? run->first_row : 0, run->row_count, error);
}

static bool step(struct sweep_run *run, size_t j, struct error *error)
{
    struct wave_engine *engine = run->engine;
    if (run->admitted < run->unit_count && run->units[run->admitted].first == j && !admit(run, j, error)) {
        return false;
    }
    if (run->keeps && run->active > 0 && !keep_state(engine, engine->recorded, j, &run->view, error)) {
        return false;
    }
    if (!engine->is_cached && run->admitted < run->unit_count &&
        !model_run_sublayer(engine->model, j, &run->base, error)) {
        return false;
    }
    return run->active == 0 || model_run_sublayer(engine->model, j, &run->view, error);
}

static bool start_base(struct sweep_run *run, struct error *error)
{
    struct wave_engine *engine = run->engine;
    if (engine->is_cached) {
        return true;
    }
    run->base = *engine->base;
    run->base.segments = engine->base_segments;
    run->base.sequence_count = run->sequence_count;
    run->base.row_count =
        put_segments(engine, run->first_sequence, run->sequence_count, 0, engine->base_segments);
    run->base.branch_layer = SIZE_MAX;
    return hidden_place(&run->base, 0, engine->cache[engine->first], run->first_row, run->row_count, error);
}

static bool sweep_up(struct sweep_run *run, struct error *error)
{
    struct wave_engine *engine = run->engine;
    run->view = *engine->area;
    run->view.segments = engine->segments;
    run->view.branch_layer = SIZE_MAX;
    show_active(run, 0);
    if (!start_base(run, error)) {
        return false;
    }
    size_t j = engine->is_cached ? run->units[0].first : engine->first;
    for (; j <= engine->sublayer_count; j++) {
        const struct prune_unit *last = run->admitted > 0 ? &run->units[run->admitted - 1] : NULL;
        if (run->active < run->admitted && last->first + last->count == j && !activate(run, error)) {
            return false;
        }
        if (j < engine->sublayer_count && !engine->removed[j] && !step(run, j, error)) {
            return false;
        }
    }
    CHECK(run->active == run->unit_count);
    return true;
}

static int by_position(const void *a, const void *b)
{
    const struct prune_unit *left = *(const struct prune_unit *const *)a;
    const struct prune_unit *right = *(const struct prune_unit *const *)b;
    return left->first < right->first ? -1 : left->first > right->first ? 1 : 0;
}

struct showing {
    bool (*visit)(void *context, const struct wave_view *view, struct error *error);
    void *context;
};

/* One sweep of units [first_unit, first_unit + unit_count). */
static bool run_sweep(struct wave_engine *engine, const struct prune_unit *units, size_t first_unit,
                      size_t unit_count, size_t first_item, size_t item_count, bool keeps,
                      const struct showing *showing, struct error *error)
{
    OWNED_MEMORY const struct prune_unit **order = memory_create(unit_count, sizeof *order);
    OWNED_MEMORY struct prune_unit *sorted = memory_create(unit_count, sizeof *sorted);
    OWNED_MEMORY size_t *indices = memory_create(unit_count, sizeof *indices);
    for (size_t i = 0; i < unit_count; i++) {
        order[i] = &units[first_unit + i];
    }
    qsort(order, unit_count, sizeof *order, by_position);
    for (size_t i = 0; i < unit_count; i++) {
        sorted[i] = *order[i];
        indices[i] = (size_t)(order[i] - units);
    }
    struct sweep_run run = {.engine = engine, .units = sorted, .unit_count = unit_count, .keeps = keeps};
    run.first_sequence = first_item;
    run.sequence_count = item_count;
    run.first_row = engine->first_rows[run.first_sequence];
    run.row_count = engine->first_rows[run.first_sequence + run.sequence_count] - run.first_row;
    struct wave_view view = {.hidden = &run.view,
                             .units = indices,
                             .unit_count = unit_count,
                             .first_item = first_item,
                             .item_count = item_count,
                             .first_row = run.first_row,
                             .row_count = run.row_count};
    return sweep_up(&run, error) && showing->visit(showing->context, &view, error);
}

size_t wave_rows_of(const struct wave_engine *engine, size_t first_item, size_t item_count)
{
    return engine->first_rows[first_item + item_count] - engine->first_rows[first_item];
}

size_t wave_unit_capacity(const struct wave_engine *engine)
{
    size_t fitting = engine->area_rows / larger(engine->row_count, 1);
    return engine->options.is_single ? 1 : larger(fitting, 1);
}

/* As many items as leave room for all units, and one at least. */
static size_t choose_items(const struct wave_engine *engine, size_t first_item, size_t item_count,
                           size_t unit_count)
{
    size_t count = 1;
    while (count < item_count &&
           wave_rows_of(engine, first_item, count + 1) * unit_count <= engine->area_rows) {
        count++;
    }
    return count;
}

bool wave_run(struct wave_engine *engine, const struct prune_unit *units, size_t unit_count,
              size_t first_item, size_t item_count, bool keeps,
              bool (*visit)(void *context, const struct wave_view *view, struct error *error), void *context,
              struct error *error)
{
    const struct showing showing = {visit, context};
    size_t each = engine->options.is_single ? 1 : unit_count;
    keeps = keeps && engine->is_recording && unit_count == 1 &&
            item_count == engine->text.batch.sequence_count && engine->area_rows >= engine->row_count;
    if (!refresh_cache(engine, error)) {
        return false;
    }
    for (size_t done = 0; done < item_count;) {
        size_t items = choose_items(engine, first_item + done, item_count - done, each);
        size_t rows = larger(wave_rows_of(engine, first_item + done, items), 1);
        size_t fitting = larger(smaller(each, engine->area_rows / rows), 1);
        for (size_t u = 0; u < unit_count; u += fitting) {
            if (!run_sweep(engine, units, u, smaller(fitting, unit_count - u), first_item + done, items,
                           keeps, &showing, error)) {
                return false;
            }
        }
        done += items;
    }
    if (keeps) {
        engine->has_recorded = true;
        engine->recorded_unit = units[0];
    }
    return true;
}

bool wave_time(struct wave_engine *engine, size_t sublayer, int64_t *ret_ns, struct error *error)
{
    OWNED(hidden) states = hidden_create(engine->model, &engine->text.batch, error);
    if (states == NULL || !model_embed(engine->model, &engine->text.batch, states, error)) {
        return false;
    }
    int64_t start_ns = clock_boot_ns(&clock_system);
    bool is_good = model_run_sublayer(engine->model, sublayer, states, error);
    *ret_ns = clock_boot_ns(&clock_system) - start_ns;
    return is_good;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

struct wave_engine *wave_engine_create(struct model *model, const struct objective_text *text,
                                       const struct objective_options *objective,
                                       const struct wave_options *options)
{
    struct wave_engine *engine = memory_create(1, sizeof *engine);
    engine->model = model;
    engine->text = *text;
    engine->objective_options = *objective;
    engine->options = *options;
    engine->stale_from = SIZE_MAX;
    engine->sublayer_count = model_sublayer_count(model);
    engine->removed = memory_create(engine->sublayer_count + 1, sizeof *engine->removed);
    engine->cache = memory_create(engine->sublayer_count + 1, sizeof(struct hidden *));
    engine->recorded = memory_create(engine->sublayer_count + 1, sizeof(struct hidden *));
    engine->first_rows = memory_create(text->batch.sequence_count + 1, sizeof(size_t));
    for (size_t s = 0; s < text->batch.sequence_count; s++) {
        engine->first_rows[s + 1] = engine->first_rows[s] + text->batch.sequences[s].count;
    }
    engine->row_count = engine->first_rows[text->batch.sequence_count];
    for (size_t i = 0; i < text->batch.sequence_count; i++) {
        engine->longest_rows = larger(engine->longest_rows, wave_rows_of(engine, i, 1));
    }
    return engine;
}

void wave_engine_destroy(struct wave_engine *engine)
{
    if (engine == NULL) {
        return;
    }
    if (engine->cache != NULL) {
        drop_states(engine->cache, engine->sublayer_count + 1);
    }
    if (engine->recorded != NULL) {
        drop_states(engine->recorded, engine->sublayer_count + 1);
    }
    drop_area(engine);
    objective_destroy(engine->objective);
    free(engine->cache);
    free(engine->recorded);
    free(engine->removed);
    free(engine->first_rows);
    free(engine);
}

struct objective *wave_engine_objective(struct wave_engine *engine)
{
    return engine->objective;
}
