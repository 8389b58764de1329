/*
 * workers/recipe/measure.h: what the files of the evaluate stage share.
 *
 *     measure.c        models, their parts in order, each a resume point; perplexity, tasks; the export's check
 *     measure_parts.c  speed and memory, divergence from the original, continuations
 */
#ifndef WORKERS_RECIPE_MEASURE_H
#define WORKERS_RECIPE_MEASURE_H

#include "workers/evaluate/evaluate.h"
#include "workers/recipe/recipe_internal.h"

struct side {         /* one model being measured */
    const char *name; /* "before", "after", "model" */
    const char *folder;
    struct model *model; /* open, but inside measure_speed */
    const struct inventory *inventory;
    json_t *result; /* borrowed from recipe->done */
};

/* What a measurement is handed. part_name: the place inside the part is kept and taken up again; NULL: it is not worth it. */
struct evaluate_control measure_control(struct recipe *recipe, struct side *side, const char *part_name,
                                        const bool *removed);
bool measure_is_finished(const struct side *side, const char *part_name);
/* Files a part's members into the side's result and saves. */
bool measure_finish_part(struct recipe *recipe, struct side *side, const json_t *part, const char *part_name,
                         struct error *error) MUST_USE;
/* Cancelled by the deadline is TIME_LIMIT, by a drain DRAINED. Returns false. */
bool measure_explain_stop(struct recipe *recipe, struct error *error);

/* Speed, and what the model takes when it is loaded and run alone: as a stock runtime loads the folder, and with sublayers skipped
 * whose projection is zero. Closes the side's model and opens it anew. */
bool measure_speed(struct recipe *recipe, struct side *side, struct error *error) MUST_USE;

/* Divergence: "before" keeps the original's states, "after" compares. False where there is nothing to compare on. */
bool measure_has_divergence(const struct recipe *recipe);
bool measure_divergence(struct recipe *recipe, struct side *side, struct error *error) MUST_USE;
/* Whether the states that "before" kept are there, or are not needed. */
bool measure_has_states(const struct recipe *recipe);

bool measure_has_continuations(const struct recipe *recipe);
bool measure_continuations(struct recipe *recipe, struct side *side, struct error *error) MUST_USE;

/* Lets VmHWM start anew, after taking the old one into the job's and the side's (may be NULL) peak. False where the system does not
 * allow it. */
bool measure_reset_peak(struct recipe *recipe, struct side *side);

#endif
