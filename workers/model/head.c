/*
 * workers/model/head.c: final norm, vocabulary projection, and what is read off the logits. A row of logits
 * is never whole in memory here: it is made panel by panel and folded into a running log-sum-exp and argmax.
 *
 * The vocabulary is cut into segments of SEGMENT_COLUMNS. A task is one tile times one segment, so that a
 * single short sequence over a large vocabulary keeps all threads busy; partial scans are merged in order of
 * the segments, always.
 */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <string.h>

#define SEGMENT_COLUMNS ((size_t)16 * PANEL_COLUMNS)

static void panel_matmul(const struct model *model, const float *normed, size_t rows, size_t column,
                         size_t end, float *out, size_t out_stride)
{
    size_t size = model->config->hidden_size;
    struct matmul piece = {.rows = rows,
                           .n = end - column < PANEL_COLUMNS ? end - column : PANEL_COLUMNS,
                           .k = size,
                           .x = normed,
                           .w = weights_head(model->weights) + column * size,
                           .out = out,
                           .x_stride = size,
                           .w_stride = size,
                           .out_stride = out_stride};
    model->backend->matmul(&piece);
}

void logits_tile(const struct model *model, const float *normed, size_t rows, float *out)
{
    size_t vocab = model->config->vocab_size;
    for (size_t column = 0; column < vocab; column += PANEL_COLUMNS) {
        panel_matmul(model, normed, rows, column, vocab, out + column, vocab);
    }
}

/* ---- logits ---------------------------------------------------------------------------------- */

struct logits_run {
    struct model *model;
    const struct hidden *hidden;
    const struct hidden_tile *tiles; /* of the sequence */
    size_t first, count, segment_count;
    float *logits;
};

/* [first, end) of the rows of a tile that are asked for. */
static bool wanted_rows(const struct logits_run *run, const struct hidden_tile *tile, size_t *ret_first,
                        size_t *ret_end)
{
    size_t start = tile->index * TILE_ROWS, end = run->first + run->count;
    *ret_first = run->first > start ? run->first - start : 0;
    *ret_end = end > start ? (end - start < tile->rows ? end - start : tile->rows) : 0;
    return *ret_first < *ret_end;
}

static void logits_task(void *context, size_t index, size_t thread)
{
    const struct logits_run *run = context;
    const struct hidden_tile *tile = &run->tiles[index / run->segment_count];
    size_t size = run->hidden->hidden_size, vocab = run->model->config->vocab_size, first = 0, end = 0;
    if (!wanted_rows(run, tile, &first, &end)) {
        return;
    }
    float *normed = run->model->scratch[thread].values, *logits = normed + TILE_ROWS * size;
    size_t column = index % run->segment_count * SEGMENT_COLUMNS;
    size_t last = column + SEGMENT_COLUMNS < vocab ? column + SEGMENT_COLUMNS : vocab;
    norm_tile(run->model, run->hidden, tile, weights_final_norm(run->model->weights), normed);
    for (; column < last; column += PANEL_COLUMNS) {
        size_t width = last - column < PANEL_COLUMNS ? last - column : PANEL_COLUMNS;
        panel_matmul(run->model, normed, tile->rows, column, last, logits, PANEL_COLUMNS);
        for (size_t r = first; r < end; r++) {
            size_t row = tile->index * TILE_ROWS + r - run->first;
            memcpy(run->logits + row * vocab + column, logits + r * PANEL_COLUMNS, width * sizeof *logits);
        }
    }
}

bool model_logits(struct model *model, const struct hidden *hidden, size_t sequence, size_t first,
                  size_t count, float *ret_logits, struct error *error)
{
    CHECK(sequence < hidden->sequence_count && first + count <= hidden->token_counts[sequence]);
    struct logits_run run = {.model = model,
                             .hidden = hidden,
                             .first = first,
                             .count = count,
                             .segment_count =
                                 (model->config->vocab_size + SEGMENT_COLUMNS - 1) / SEGMENT_COLUMNS,
                             .logits = ret_logits};
    size_t tile_count = (hidden->token_counts[sequence] + TILE_ROWS - 1) / TILE_ROWS, tile = 0;
    while (tile < hidden->tile_count && hidden->tiles[tile].sequence != sequence) {
        tile++;
    }
    run.tiles = hidden->tiles + tile;
    model->work.token_heads += count;
    return scratch_reserve_threads(model, (size_t)TILE_ROWS * (hidden->hidden_size + PANEL_COLUMNS), error) &&
           pool_run(model->pool, tile_count * run.segment_count, logits_task, &run, model->cancel, error);
}

/* ---- negative log-likelihood ----------------------------------------------------------------- */

struct nll_run {
    struct model *model;
    const struct hidden *hidden;
    const struct target_sequence *targets;
    size_t *tiles; /* [tile_count]: those with something to score */
    size_t tile_count, segment_count;
    struct head_scan *scans; /* [tile_count, segment_count, TILE_ROWS] */
    float *target_logits;    /* [tile_count, TILE_ROWS] */
};

static int32_t target_of(const struct nll_run *run, const struct hidden_tile *tile, size_t row)
{
    return run->targets[tile->sequence].targets[tile->index * TILE_ROWS + row];
}

static void nll_task(void *context, size_t index, size_t thread)
{
    const struct nll_run *run = context;
    size_t slot = index / run->segment_count, size = run->hidden->hidden_size,
           vocab = run->model->config->vocab_size;
    const struct hidden_tile *tile = &run->hidden->tiles[run->tiles[slot]];
    float *normed = run->model->scratch[thread].values, *logits = normed + TILE_ROWS * size;
    struct head_scan *scans = run->scans + index * TILE_ROWS;
    size_t column = index % run->segment_count * SEGMENT_COLUMNS;
    size_t last = column + SEGMENT_COLUMNS < vocab ? column + SEGMENT_COLUMNS : vocab;
    norm_tile(run->model, run->hidden, tile, weights_final_norm(run->model->weights), normed);
    for (size_t r = 0; r < tile->rows; r++) {
        head_scan_start(&scans[r]);
    }
    for (; column < last; column += PANEL_COLUMNS) {
        size_t width = last - column < PANEL_COLUMNS ? last - column : PANEL_COLUMNS;
        panel_matmul(run->model, normed, tile->rows, column, last, logits, PANEL_COLUMNS);
        for (size_t r = 0; r < tile->rows; r++) {
            int32_t target = target_of(run, tile, r);
            if (target < 0) {
                continue;
            }
            run->model->backend->scan(width, logits + r * PANEL_COLUMNS, column, &scans[r]);
            if ((size_t)target >= column && (size_t)target < column + width) {
                run->target_logits[slot * TILE_ROWS + r] =
                    logits[r * PANEL_COLUMNS + (size_t)target - column];
            }
        }
    }
}

/* Lists the tiles with targets; zeroes what is not scored. */
static void list_scored_tiles(struct nll_run *run)
{
    for (size_t i = 0; i < run->hidden->tile_count; i++) {
        const struct hidden_tile *tile = &run->hidden->tiles[i];
        const struct target_sequence *sequence = &run->targets[tile->sequence];
        bool is_scored = false;
        for (size_t r = 0; r < tile->rows; r++) {
            size_t position = tile->index * TILE_ROWS + r;
            int32_t target = sequence->targets[position];
            CHECK(target < 0 || (size_t)target < run->model->config->vocab_size);
            sequence->nll[position] = 0.0;
            if (sequence->is_greedy != NULL) {
                sequence->is_greedy[position] = false;
            }
            run->model->work.token_heads += target >= 0;
            is_scored = is_scored || target >= 0;
        }
        if (is_scored) {
            run->tiles[run->tile_count++] = i;
        }
    }
}

static bool finish_nll(const struct nll_run *run, struct error *error)
{
    for (size_t slot = 0; slot < run->tile_count; slot++) {
        const struct hidden_tile *tile = &run->hidden->tiles[run->tiles[slot]];
        const struct target_sequence *sequence = &run->targets[tile->sequence];
        for (size_t r = 0; r < tile->rows; r++) {
            size_t position = tile->index * TILE_ROWS + r;
            int32_t target = sequence->targets[position];
            if (target < 0) {
                continue;
            }
            struct head_scan scan;
            head_scan_start(&scan);
            for (size_t s = 0; s < run->segment_count; s++) {
                head_scan_merge(&scan, &run->scans[(slot * run->segment_count + s) * TILE_ROWS + r]);
            }
            double nll = head_scan_logsumexp(&scan) - (double)run->target_logits[slot * TILE_ROWS + r];
            if (!isfinite(nll)) {
                return error_set(error, ERROR_NUMERIC,
                                 "NaN or infinity in the logits of sequence %zu, token %zu", tile->sequence,
                                 position);
            }
            sequence->nll[position] = nll;
            if (sequence->is_greedy != NULL) {
                sequence->is_greedy[position] = scan.index == (size_t)target;
            }
        }
    }
    return true;
}

bool model_nll(struct model *model, const struct hidden *hidden, struct target_sequence *targets,
               struct error *error)
{
    struct nll_run run = {.model = model, .hidden = hidden, .targets = targets};
    OWNED_MEMORY size_t *tiles = memory_create(hidden->tile_count + 1, sizeof *tiles);
    run.tiles = tiles;
    run.segment_count = (model->config->vocab_size + SEGMENT_COLUMNS - 1) / SEGMENT_COLUMNS;
    list_scored_tiles(&run);
    size_t rows = run.tile_count * TILE_ROWS;
    OWNED_MEMORY struct head_scan *scans =
        memory_try_array(rows * run.segment_count + 1, sizeof *scans, "scans of the head", error);
    OWNED_MEMORY float *target_logits =
        memory_try_array(rows + 1, sizeof *target_logits, "target logits", error);
    run.scans = scans;
    run.target_logits = target_logits;
    return scans != NULL && target_logits != NULL &&
           scratch_reserve_threads(model, (size_t)TILE_ROWS * (hidden->hidden_size + PANEL_COLUMNS), error) &&
           pool_run(model->pool, run.tile_count * run.segment_count, nll_task, &run, model->cancel, error) &&
           finish_nll(&run, error);
}
