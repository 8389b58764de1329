/* workers/data/task_set.c: task records from JSONL, all strings in one arena. */
#include "workers/data/task_set.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/data/lines.h"
#include "workers/model/utf8.h"

#include <stdio.h>
#include <string.h>

#define CANCEL_EVERY_LINES 256

bool task_kind_parse(const char *text, enum task_kind *ret_kind)
{
    if (strcmp(text, "generate") == 0) {
        *ret_kind = TASK_GENERATE;
    } else if (strcmp(text, "choice") == 0) {
        *ret_kind = TASK_CHOICE;
    } else {
        return false;
    }
    return true;
}

const char *task_kind_name(enum task_kind kind)
{
    return kind == TASK_CHOICE ? "choice" : "generate";
}

static bool read_choices(struct arena *arena, const json_t *json, struct task_record *record,
                         struct error *error)
{
    json_t *choices = NULL;
    int64_t gold = 0;
    if (!json_get_array(json, "", "choices", &choices, error)) {
        return false;
    }
    record->choice_count = json_array_size(choices);
    if (record->choice_count < 2 || record->choice_count > TASK_CHOICES_MAX) {
        return error_set_field(error, ERROR_OUT_OF_RANGE, "/choices", "%zu choices; 2 to %d are accepted",
                               record->choice_count, TASK_CHOICES_MAX);
    }
    if (!json_get_i64(json, "", "gold", 0, (int64_t)record->choice_count - 1, &gold, error)) {
        return false;
    }
    const char **texts = arena_allocate(arena, record->choice_count, sizeof *texts);
    for (size_t i = 0; i < record->choice_count; i++) {
        const json_t *choice = json_array_get(choices, i);
        if (!json_is_string(choice) || json_string_length(choice) == 0) {
            return error_set_field(error, ERROR_WRONG_TYPE, "/choices", "choice %zu is no text, or empty", i);
        }
        texts[i] = arena_copy_text(arena, json_string_value(choice), json_string_length(choice));
    }
    record->choices = texts;
    record->gold = (size_t)gold;
    return true;
}

static bool read_task_record(struct arena *arena, enum task_kind kind, const char *line, size_t length,
                             struct task_record *record, struct error *error)
{
    JSON_OWNED json = json_parse(line, length, TASK_SET_LIMIT_BYTES, error);
    const char *query = NULL, *answer = NULL;
    if (json == NULL || !json_get_text(json, "", kind == TASK_CHOICE ? "query" : "prompt", &query, error)) {
        return false;
    }
    record->query = arena_copy_text(arena, query, strlen(query));
    if (kind == TASK_CHOICE) {
        return read_choices(arena, json, record, error);
    }
    if (!json_get_text(json, "", "answer", &answer, error)) {
        return false;
    }
    record->answer = arena_copy_text(arena, answer, strlen(answer));
    return true;
}

static bool read_lines(struct task_set *set, const char *bytes, size_t count, const char *source,
                       const struct cancel *cancel, struct error *error)
{
    size_t capacity = 0, number = 0;
    for (size_t start = 0, end = 0; start < count; start = end) {
        end = lines_end(bytes, count, start);
        number++;
        if (number % CANCEL_EVERY_LINES == 0 && !cancel_check_now(cancel, error)) {
            return false;
        }
        if (lines_is_blank(bytes + start, end - start)) {
            continue;
        }
        if (set->record_count == capacity) {
            capacity = capacity == 0 ? 256 : capacity * 2;
            set->records = memory_resize(set->records, capacity, sizeof *set->records);
        }
        struct error cause = {0};
        struct task_record record = {0};
        if (!read_task_record(set->arena, set->kind, bytes + start, end - start, &record, &cause)) {
            return error_set_field(error, ERROR_CORRUPT_FILE, source, "%s, line %zu: %s", source, number,
                                   cause.message);
        }
        set->records[set->record_count++] = record;
    }
    return true;
}

struct task_set *task_set_load(const char *name, enum task_kind kind, const char *path,
                               const char *source_name, const struct cancel *cancel, struct error *error)
{
    const char *slash = strrchr(path, '/');
    const char *source = source_name != NULL ? source_name : slash != NULL ? slash + 1 : path;
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(path, TASK_SET_LIMIT_BYTES, &count, error);
    if (bytes == NULL) {
        if (error != NULL) {
            struct error cause = *error;
            (void)error_set_field(error, cause.code, source, "%s", cause.message);
        }
        return NULL;
    }
    size_t valid = utf8_valid_prefix(bytes, count);
    if (valid != count) {
        (void)error_set_field(error, ERROR_CORRUPT_FILE, source, "%s: not UTF-8 at byte %zu", source, valid);
        return NULL;
    }
    OWNED(task_set) set = memory_create(1, sizeof *set);
    set->arena = arena_create(0);
    set->name = arena_copy_text(set->arena, name, strlen(name));
    set->kind = kind;
    set->file_bytes = count;
    sha256_hex_of(bytes, count, set->sha256);
    if (!read_lines(set, bytes, count, source, cancel, error)) {
        return NULL;
    }
    if (set->record_count == 0) {
        (void)error_set_field(error, ERROR_TEXT_TOO_SHORT, source, "%s: no task record", source);
        return NULL;
    }
    return TAKE(set);
}

void task_set_destroy(struct task_set *set)
{
    if (set != NULL) {
        free(set->records);
        arena_destroy(set->arena);
        free(set);
    }
}
