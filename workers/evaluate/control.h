/* workers/evaluate/control.h: what every measurement takes beside its own options: which sublayers to skip,
 * how much to do at once, when to stop, whom to tell. Zero-initialised means: all sublayers, default batch,
 * never, nobody. Results never depend on the batch size. */
#ifndef WORKERS_EVALUATE_CONTROL_H
#define WORKERS_EVALUATE_CONTROL_H

#include "base/cancel.h"
#include "base/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EVALUATE_BATCH_TOKENS 4096

struct evaluate_control {
    const bool *removed;         /* [sublayer_count], sublayers to skip; NULL: none */
    size_t batch_tokens;         /* tokens per forward pass, about; 0: EVALUATE_BATCH_TOKENS */
    const struct cancel *cancel; /* cancel_check_now between batches; may be NULL */
    /* Where one measurement (one protocol or task) keeps its place, or NULL: an object, borrowed, empty at first. It is up to date whenever progress is
     * called; handed in again with the same inputs, the measurement goes on from there to the same digits. */
    json_t *resume;
    void *context;
    /* After each batch, from the caller's thread. May be NULL. done of total, in `unit` ("windows",
     * "records", "runs"). */
    void (*progress)(void *context, const char *what, uint64_t done, uint64_t total, const char *unit);
};

#endif
