/*
 * storage/projection.h: the jobs that are read from memory: every live one and the last N finished ones.
 *
 * Only the DB thread changes it, after a commit; any thread reads. What is published is an immutable snapshot
 * with a reference count, so a reader holds the lock only to find it. Reports of progress wait at their job's
 * entry until the DB thread turns the newest one into a snapshot, at most four times a second.
 *
 * Finished jobs leave in the order they finished, when there are more than N of them or their documents weigh too much;
 * one whose result a live job's spec names stays until that job has ended. `left_out_row` is the highest row that ever
 * left (or was never loaded): above it the projection is complete, whatever is asked.
 */
#ifndef STORAGE_PROJECTION_H
#define STORAGE_PROJECTION_H

#include "storage/database.h"

#define PROJECTION_FINISHED_BYTES     (INT64_C(256) << 20) /* of finished jobs, roughly */
#define PROJECTION_REPORT_INTERVAL_NS 250000000            /* four a second */

struct projection;
struct projection *projection_create(size_t finished_limit, int64_t finished_bytes_limit) MUST_USE;
void projection_destroy(struct projection *projection); /* NULL is fine */

/* DB thread (or before it starts). Inserts or replaces; keeps a reference of its own. previous: what the job
 * was, NULL if it is new; it matters to the counts when the job had left and comes back. */
void projection_put(struct projection *projection, struct job *job, const struct job *previous);
void projection_remove(struct projection *projection, const struct job *job);
void projection_note_left_out(struct projection *projection, int64_t row);
/* Counts of all jobs, those included that are not held: set once at the start, then kept by put and remove. */
void projection_set_counts(struct projection *projection, const uint64_t by_state[8]);

/* Any thread. Acquired; NULL if it is not here. tenant_id NULL: any. */
struct job *projection_find(struct projection *projection, const char *tenant_id,
                            const char *job_id) MUST_USE;
/* True: the list is what the database would say, in filter order, `limit` at most. False: ask the database. */
bool projection_list(struct projection *projection, const struct job_filter *filter, size_t limit,
                     struct job_list *list) MUST_USE;
void projection_get_counts(struct projection *projection, int64_t now_ms, struct storage_counts *ret_counts);

/* Any thread. False: dropped (unknown, finished, or another epoch). */
bool projection_report(struct projection *projection, const char *job_id, uint64_t epoch,
                       const struct job_progress *progress) MUST_USE;
/* DB thread. Publishes one report that is due and returns the new snapshot, acquired; NULL: none is.
 * *ret_next_ns: when the next one will be, 0: nothing waits. */
struct job *projection_take_report(struct projection *projection, int64_t boot_ns,
                                   int64_t *ret_next_ns) MUST_USE;

#endif
