/* workers/model/chunks.c: the rows of a batch in pieces that are worked on at once. */
#include "base/memory.h"
#include "workers/model/model_internal.h"

struct cutter {
    struct chunk_list list;
    size_t segment_count, chunk_rows;
};

static void add_piece(struct cutter *cutter, const struct segment *from, size_t offset, size_t count)
{
    struct chunk_list *list = &cutter->list;
    bool fits = list->count > 0 && list->chunks[list->count - 1].row_count + count <= cutter->chunk_rows;
    if (!fits) {
        list->chunks[list->count++] = (struct chunk){.first_row = from->first_row + offset,
                                                     .segments = list->segments + cutter->segment_count};
    }
    struct chunk *chunk = &list->chunks[list->count - 1];
    list->segments[cutter->segment_count++] =
        (struct segment){.first_row = chunk->row_count, .count = count, .position = from->position + offset};
    chunk->segment_count++;
    chunk->row_count += count;
    list->most_rows = chunk->row_count > list->most_rows ? chunk->row_count : list->most_rows;
}

void chunk_list_create(const struct segment *segments, size_t segment_count, size_t cut_rows,
                       size_t chunk_rows, struct chunk_list *ret_list)
{
    size_t most = 0;
    for (size_t i = 0; i < segment_count; i++) {
        most += segments[i].count / cut_rows + 1;
    }
    struct cutter cutter = {.chunk_rows = chunk_rows};
    cutter.list.chunks = memory_create(most + 1, sizeof *cutter.list.chunks);
    cutter.list.segments = memory_create(most + 1, sizeof *cutter.list.segments);
    for (size_t i = 0; i < segment_count; i++) {
        for (size_t done = 0, left = segments[i].count; left > 0;) {
            size_t piece = left < cut_rows ? left : cut_rows;
            add_piece(&cutter, &segments[i], done, piece);
            done += piece;
            left -= piece;
        }
    }
    *ret_list = cutter.list;
}

void chunk_list_finish(struct chunk_list *list)
{
    free(list->chunks);
    free(list->segments);
    *list = (struct chunk_list){0};
}
