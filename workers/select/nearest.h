/* workers/select/nearest.h: the nearest few of what passes by, as a short sorted list. */
#ifndef WORKERS_SELECT_NEAREST_H
#define WORKERS_SELECT_NEAREST_H

#include <stddef.h>
#include <stdint.h>

/* Puts (index, value) into a rising list of `kept` of at most `most` >= 1; what is equal stays before it, so that of things that pass by in
 * their order the smaller index wins. Returns how many are kept. */
static inline size_t nearest_insert(uint32_t *indices, double *values, size_t kept, size_t most,
                                    uint32_t index, double value)
{
    if (kept == most && !(value < values[kept - 1])) {
        return kept;
    }
    size_t at = kept < most ? kept : most - 1;
    for (; at > 0 && values[at - 1] > value; at--) {
        indices[at] = indices[at - 1];
        values[at] = values[at - 1];
    }
    indices[at] = index;
    values[at] = value;
    return kept < most ? kept + 1 : most;
}

#endif
