/*
 * workers/select/admission.h: whether a record may join those chosen before it (PASER's negative-effect filter, data_selection 1.2 g, 1.6,
 * 1.6b).
 *
 *     none             always
 *     graph            unless two of its concepts were both met, but never together (concepts.h). That two concepts were not met together is no
 *                      contradiction: reports say how many were refused
 *     near_duplicate   unless it asks what a record that has joined asks, and the responses differ: cosine of embeddings above
 *                      ADMISSION_COSINE, among the nearest neighbours of one of the two, and similarity of the responses below
 *                      ADMISSION_SIMILARITY. That is the Jaccard index of their sets of words (letters and digits in lower case, anything that is no
 *                      ASCII counts as a letter), by 64-bit hashes; 1 where both are empty
 *
 * Who is refused once stays refused, whoever joins later.
 *
 * Threads: one. Errors: CANCELLED, OUT_OF_MEMORY, and those of concepts.h.
 */
#ifndef WORKERS_SELECT_ADMISSION_H
#define WORKERS_SELECT_ADMISSION_H

#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "workers/data/instructions.h"
#include "workers/select/neighbours.h"
#include <stdbool.h>
#include <stddef.h>

#define ADMISSION_COSINE      0.95
#define ADMISSION_SIMILARITY  0.2
#define ADMISSION_GRAPH_BYTES ((uint64_t)512 << 20)

enum admission_conflict { ADMISSION_NONE, ADMISSION_GRAPH, ADMISSION_NEAR_DUPLICATE };
/* The parameter `conflict`, in this order. */
extern const char *const admission_conflict_names[];
enum admission_conflict admission_conflict_parse(const char *name);

struct admission;
/* texts [count] and neighbours (near_duplicate; NULL: there are fewer than two records) are borrowed as long as it lives. cancel, which may be
 * NULL, is polled at each record. */
struct admission *admission_create(enum admission_conflict conflict, size_t count,
                                   const struct instruction_record *const *texts,
                                   const struct neighbours *neighbours, const struct cancel *cancel,
                                   struct error *error) MUST_USE;
void admission_destroy(struct admission *admission);
OWNED_DEFINE(admission)
bool admission_may_join(struct admission *admission, size_t record, bool *ret_may,
                        struct error *error) MUST_USE;
bool admission_join(struct admission *admission, size_t record, struct error *error) MUST_USE;
/* Owned: what a report says. */
json_t *admission_report(const struct admission *admission) MUST_USE;

/* Of two texts, 0..1. */
bool admission_similarity(const char *first, const char *second, double *ret_similarity,
                          struct error *error) MUST_USE;

#endif
