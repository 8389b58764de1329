/* storage/job_internal.h: how the folder makes and edits a snapshot before it is published. */
#ifndef STORAGE_JOB_INTERNAL_H
#define STORAGE_JOB_INTERNAL_H

#include "storage/job.h"

#define JOB_STATE_COUNT 8

/* Owned, one reference, no progress. The caller fills it and then changes it no more. */
struct job *job_create(void) MUST_USE;
struct job *job_copy(const struct job *job) MUST_USE; /* shares the documents */
/* Only on a snapshot nobody else has seen yet. */
void job_replace_document(json_t **document, json_t *taken);
void job_replace_text(char **text, const char *value);
void job_clear_progress(struct job *job);

#endif
