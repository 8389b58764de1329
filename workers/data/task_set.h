/*
 * workers/data/task_set.h: task records, one JSON object per line:
 *
 *     generate           {"prompt", "answer"}
 *     choice             {"query", "choices", "gold"}, or {"context_options", "continuation", "gold"}; one shape in a file
 *     language_modeling  {"context", "continuation"}
 *
 * Other members are ignored (sets carry ids and tiers). Faults name file and line. Immutable once loaded, but for the two options.
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

enum task_kind { TASK_GENERATE, TASK_CHOICE, TASK_LANGUAGE_MODELING };
struct task_record {
    const char *query;  /* the prompt, the query or the context; NULL where contexts are the choices */
    const char *answer; /* the answer, or the continuation */
    const char *const *choices; /* TASK_CHOICE, [choice_count]: choices, or contexts */
    size_t choice_count, gold;  /* 1 choice, number 0, where there are none */
};
struct task_set {
    struct arena *arena;
    const char *name; /* of the task */
    enum task_kind kind;
    bool has_contexts;                /* TASK_CHOICE: the choices are contexts of one continuation */
    struct task_record *records;      /* [record_count], at least one */
    size_t record_count, total_count; /* total: in the file */
    uint64_t file_bytes;
    char sha256[65];
    const char *delimiter; /* between context and continuation; NULL: a space where none is there */
};
/* source_name: for errors and reports; NULL: the path's last segment. CORRUPT_FILE with file and line;
 * TEXT_TOO_SHORT when there is no record. */
struct task_set *task_set_load(const char *name, enum task_kind kind, const char *path,
                               const char *source_name, const struct cancel *cancel,
                               struct error *error) MUST_USE;
void task_set_destroy(struct task_set *set);
OWNED_DEFINE(task_set)

/* Only the first `limit` records count; 0: all. */
void task_set_limit(struct task_set *set, size_t limit);
void task_set_delimit(struct task_set *set, const char *delimiter); /* copied; NULL: the default */

bool task_kind_parse(const char *text,
                     enum task_kind *ret_kind); /* "generate", "choice", "language_modeling" */
const char *task_kind_name(enum task_kind kind);

#endif
