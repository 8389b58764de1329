/* workers/data/task_set.c: task records from JSONL, all strings in one arena. */
#include "workers/data/task_set.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/data/lines.h"

#include <stdio.h>
#include <string.h>

static const char *const kind_names[] = {"generate", "choice", "language_modeling"};

bool task_kind_parse(const char *text, enum task_kind *ret_kind)
{
    for (size_t i = 0; i < sizeof kind_names / sizeof kind_names[0]; i++) {
        if (strcmp(text, kind_names[i]) == 0) {
            *ret_kind = (enum task_kind)i;
            return true;
        }
    }
    return false;
}

const char *task_kind_name(enum task_kind kind)
{
    return kind_names[kind];
}

static bool read_text(struct arena *arena, const json_t *json, const char *name, bool may_be_empty,
                      const char **ret_text, struct error *error)
{
    const char *text = NULL;
    if (!json_get_text(json, "", name, &text, error)) {
        return false;
    }
    if (text[0] == '\0' && !may_be_empty) {
        return error_set(error, ERROR_WRONG_TYPE, "%s is empty", name);
    }
    *ret_text = arena_copy_text(arena, text, strlen(text));
    return true;
}

/* may_be_empty: contexts may, continuations may not. */
static bool read_choices(struct arena *arena, const json_t *json, const char *name, bool may_be_empty,
                         struct task_record *record, struct error *error)
{
    json_t *choices = NULL;
    int64_t gold = 0;
    if (!json_get_array(json, "", name, &choices, error)) {
        return false;
    }
    record->choice_count = json_array_size(choices);
    if (record->choice_count < 2 || record->choice_count > TASK_CHOICES_MAX) {
        return error_set(error, ERROR_OUT_OF_RANGE, "%zu %s; 2 to %d are accepted", record->choice_count,
                         name, TASK_CHOICES_MAX);
    }
    if (!json_get_i64(json, "", "gold", 0, (int64_t)record->choice_count - 1, &gold, error)) {
        return false;
    }
    const char **texts = arena_allocate(arena, record->choice_count, sizeof *texts);
    for (size_t i = 0; i < record->choice_count; i++) {
        const json_t *choice = json_array_get(choices, i);
        if (!json_is_string(choice) || (json_string_length(choice) == 0 && !may_be_empty)) {
            return error_set(error, ERROR_WRONG_TYPE, "choice %zu of %s is no text, or empty", i, name);
        }
        texts[i] = arena_copy_text(arena, json_string_value(choice), json_string_length(choice));
    }
    record->choices = texts;
    record->gold = (size_t)gold;
    return true;
}

static bool read_choice_record(struct task_set *set, const json_t *json, struct task_record *record,
                               struct error *error)
{
    bool has_contexts = json_object_get(json, "context_options") != NULL;
    if (set->record_count == 0) {
        set->has_contexts = has_contexts;
    }
    if (has_contexts != set->has_contexts) {
        return error_set(error, ERROR_WRONG_TYPE, "a record %s context_options in a file whose first has %s",
                         has_contexts ? "with" : "without", has_contexts ? "none" : "them");
    }
    if (has_contexts) {
        return read_text(set->arena, json, "continuation", false, &record->answer, error) &&
               read_choices(set->arena, json, "context_options", true, record, error);
    }
    return read_text(set->arena, json, "query", true, &record->query, error) &&
           read_choices(set->arena, json, "choices", false, record, error);
}

static bool read_task_record(struct task_set *set, const char *line, size_t length,
                             struct task_record *record, struct error *error)
{
    JSON_OWNED json = json_parse(line, length, TASK_SET_LIMIT_BYTES, error);
    if (json == NULL) {
        return false;
    }
    if (set->kind == TASK_CHOICE) {
        return read_choice_record(set, json, record, error);
    }
    bool is_modeling = set->kind == TASK_LANGUAGE_MODELING;
    record->choice_count = 1;
    return read_text(set->arena, json, is_modeling ? "context" : "prompt", true, &record->query, error) &&
           read_text(set->arena, json, is_modeling ? "continuation" : "answer", !is_modeling, &record->answer,
                     error);
}

static bool read_lines(struct task_set *set, const char *bytes, size_t count, const char *source,
                       const struct cancel *cancel, struct error *error)
{
    size_t capacity = 0;
    struct lines lines = {.bytes = bytes, .count = count};
    while (lines_next(&lines)) {
        if (!cancel_check_now(cancel, error)) {
            return false;
        }
        if (set->record_count == capacity) {
            capacity = capacity == 0 ? 256 : capacity * 2;
            set->records = memory_resize(set->records, capacity, sizeof *set->records);
        }
        struct error cause = {0};
        struct task_record record = {0};
        if (!read_task_record(set, bytes + lines.first, lines.after - lines.first, &record, &cause)) {
            return error_set_field(error, ERROR_CORRUPT_FILE, source, "%s, line %zu: %s", source,
                                   lines.number, cause.message);
        }
        set->records[set->record_count++] = record;
    }
    return true;
}

struct task_set *task_set_load(const char *name, enum task_kind kind, const char *path,
                               const char *source_name, const struct cancel *cancel, struct error *error)
{
    const char *source = lines_file_name(source_name, path);
    size_t count = 0;
    OWNED(task_set) set = memory_create(1, sizeof *set);
    OWNED_MEMORY char *bytes =
        lines_load_file(path, source, TASK_SET_LIMIT_BYTES, &count, set->sha256, error);
    if (bytes == NULL) {
        return NULL;
    }
    set->arena = arena_create(0);
    set->name = arena_copy_text(set->arena, name, strlen(name));
    set->kind = kind;
    set->file_bytes = count;
    if (!read_lines(set, bytes, count, source, cancel, error)) {
        return NULL;
    }
    if (set->record_count == 0) {
        (void)error_set_field(error, ERROR_TEXT_TOO_SHORT, source, "%s: no task record", source);
        return NULL;
    }
    set->total_count = set->record_count;
    return TAKE(set);
}

void task_set_limit(struct task_set *set, size_t limit)
{
    set->record_count = limit > 0 && limit < set->total_count ? limit : set->total_count;
}

void task_set_delimit(struct task_set *set, const char *delimiter)
{
    set->delimiter = delimiter != NULL ? arena_copy_text(set->arena, delimiter, strlen(delimiter)) : NULL;
}

void task_set_destroy(struct task_set *set)
{
    if (set != NULL) {
        free(set->records);
        arena_destroy(set->arena);
        free(set);
    }
}
