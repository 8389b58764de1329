/*
 * workers/select/forgetting.h: how often a model that learns forgets a record again (data_selection 7.3): the times it was right at one visit
 * (epoch, checkpoint) and wrong at the next. A record counts as wrong before its first visit.
 *
 * Threads: any; everything is in the caller's memory.
 */
#ifndef WORKERS_SELECT_FORGETTING_H
#define WORKERS_SELECT_FORGETTING_H

#include <stdbool.h>
#include <stdint.h>

/* A record's history, from zeros. */
struct forgetting {
    uint32_t events; /* right before, wrong now */
    bool is_right, was_ever_right;
};
void forgetting_add(struct forgetting *forgetting, bool is_right);
/* The number of events; infinite for a record that was never right, which is the hardest of all. */
double forgetting_score(const struct forgetting *forgetting);

#endif
