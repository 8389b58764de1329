/* workers/prune/race_memory.c: see race_memory.h. */
#include "workers/prune/race_memory.h"

#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

void race_memory_start(struct race_memory *memory, size_t sublayer_count)
{
    *memory = (struct race_memory){.sublayer_count = sublayer_count};
    memory->known = memory_create(sublayer_count, sizeof *memory->known);
}

void race_memory_finish(struct race_memory *memory)
{
    race_memory_forget(memory);
    free(memory->known);
    *memory = (struct race_memory){0};
}

bool race_memory_keep(struct race_memory *memory, const struct prune_unit *unit, const double *values,
                      size_t count, struct error *error)
{
    double **known = &memory->known[unit->first];
    if (*known == NULL) {
        *known = memory_try_array(count, sizeof **known, "distances", error);
    }
    if (*known != NULL) {
        memcpy(*known, values, count * sizeof **known);
    }
    return *known != NULL;
}

void race_memory_forget(struct race_memory *memory)
{
    for (size_t i = 0; i < memory->sublayer_count; i++) {
        free(memory->known[i]);
        memory->known[i] = NULL;
    }
    free(memory->current);
    memory->current = NULL;
}

void race_memory_commit(struct race_memory *memory, const struct prune_unit *unit)
{
    free(memory->current);
    memory->current = memory->known[unit->first];
    memory->known[unit->first] = NULL;
}
