/* workers/model/hidden.c: the residual stream of a batch, laid out in tiles. */
#include "workers/model/model_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <string.h>

static void lay_out_tiles(struct hidden *hidden)
{
    size_t tile = 0;
    for (size_t s = 0; s < hidden->sequence_count; s++) {
        for (size_t done = 0; done < hidden->token_counts[s]; done += TILE_ROWS) {
            size_t left = hidden->token_counts[s] - done;
            hidden->tiles[tile++] = (struct hidden_tile){.sequence = s,
                                                         .index = done / TILE_ROWS,
                                                         .first_row = hidden->first_rows[s] + done,
                                                         .rows = left < TILE_ROWS ? left : TILE_ROWS};
        }
    }
    CHECK(tile == hidden->tile_count);
}

struct hidden *hidden_create(const struct model *model, const struct token_batch *batch, struct error *error)
{
    OWNED(hidden) hidden = memory_create(1, sizeof *hidden);
    hidden->hidden_size = model->config->hidden_size;
    hidden->sequence_count = batch->sequence_count;
    hidden->token_counts = memory_create(batch->sequence_count + 1, sizeof *hidden->token_counts);
    hidden->first_rows = memory_create(batch->sequence_count + 1, sizeof *hidden->first_rows);
    for (size_t s = 0; s < batch->sequence_count; s++) {
        size_t tiles = (batch->sequences[s].count + TILE_ROWS - 1) / TILE_ROWS;
        hidden->token_counts[s] = batch->sequences[s].count;
        hidden->first_rows[s] = hidden->row_count;
        hidden->row_count += tiles * TILE_ROWS;
        hidden->tile_count += tiles;
    }
    hidden->tiles = memory_create(hidden->tile_count + 1, sizeof *hidden->tiles);
    lay_out_tiles(hidden);
    hidden->rows = memory_try_array(hidden->row_count * hidden->hidden_size + 1, sizeof *hidden->rows,
                                    "hidden states", error);
    if (hidden->rows == NULL) {
        return NULL;
    }
    return TAKE(hidden);
}

void hidden_copy(struct hidden *to, const struct hidden *from)
{
    CHECK(to->row_count == from->row_count && to->hidden_size == from->hidden_size);
    memcpy(to->rows, from->rows, from->row_count * from->hidden_size * sizeof *from->rows);
}

void hidden_destroy(struct hidden *hidden)
{
    if (hidden == NULL) {
        return;
    }
    free(hidden->token_counts);
    free(hidden->first_rows);
    free(hidden->tiles);
    free(hidden->rows);
    free(hidden);
}

uint64_t hidden_bytes(const struct hidden *hidden)
{
    return sizeof *hidden + hidden->row_count * hidden->hidden_size * sizeof *hidden->rows +
           hidden->sequence_count * 2 * sizeof *hidden->token_counts +
           hidden->tile_count * sizeof *hidden->tiles;
}
