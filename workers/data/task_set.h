/*
 * workers/data/task_set.h: task records, one JSON object per line: {"prompt", "answer"} for `generate`,
 * {"query", "choices", "gold"} for `choice`. Other members are ignored (sets carry ids and tiers). Faults
 * name file and line. Immutable once loaded.
 */
#ifndef WORKERS_DATA_TASK_SET_H
#define WORKERS_DATA_TASK_SET_H

#include "base/arena.h"
#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TASK_SET_LIMIT_BYTES (256u << 20)
#define TASK_CHOICES_MAX     64

enum task_kind { TASK_GENERATE, TASK_CHOICE };
struct task_record {
    const char *query;          /* the prompt, or the query */
    const char *answer;         /* TASK_GENERATE */
    const char *const *choices; /* TASK_CHOICE, [choice_count] */
    size_t choice_count, gold;
};
struct task_set {
    struct arena *arena;
    const char *name; /* of the task */
    enum task_kind kind;
    struct task_record *records; /* [record_count], at least one */
    size_t record_count;
    uint64_t file_bytes;
    char sha256[65];
};
/* source_name: for errors and reports; NULL: the path's last segment. CORRUPT_FILE with file and line;
 * TEXT_TOO_SHORT when there is no record. */
struct task_set *task_set_load(const char *name, enum task_kind kind, const char *path,
                               const char *source_name, const struct cancel *cancel,
                               struct error *error) MUST_USE;
void task_set_destroy(struct task_set *set);
OWNED_DEFINE(task_set)

bool task_kind_parse(const char *text, enum task_kind *ret_kind); /* "generate", "choice" */
const char *task_kind_name(enum task_kind kind);

#endif
