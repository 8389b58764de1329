/* workers/data/instructions.c: see instructions.h. All strings in one arena; the file stays, for its records' own words. */
#include "workers/data/instructions.h"

#include "base/json.h"
#include "base/memory.h"
#include "workers/data/lines.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct instruction_fields known_shapes[] = {
    {.messages = "messages"},
    {.messages = "conversations"},
    {.instruction = "instruction", .input = "input", .response = "output"},
    {.instruction = "instruction", .input = "input", .response = "response"},
    {.instruction = "instruction", .input = "/instances/0/input", .response = "/instances/0/output"},
    {.instruction = "prompt", .response = "completion"},
    {.instruction = "prompt", .response = "response"},
    {.instruction = "question", .response = "answer"},
    {.instruction = "query", .response = "response"},
};

/* ---- members ----------------------------------------------------------------------------------------------------- */

static bool is_index(const char *segment)
{
    return segment[0] != '\0' && strspn(segment, "0123456789") == strlen(segment) && strlen(segment) < 9;
}

/* Of a name, or of a JSON pointer (RFC 6901); NULL: it is not there. */
static const json_t *find_member(const json_t *record, const char *name)
{
    if (name[0] != '/') {
        return json_object_get(record, name);
    }
    const json_t *at = record;
    while (*name == '/' && at != NULL) {
        struct text segment = {0};
        text_append(&segment, "");
        for (name++; *name != '\0' && *name != '/'; name++) {
            bool is_escape = *name == '~' && (name[1] == '0' || name[1] == '1');
            char byte = is_escape ? (name[1] == '0' ? '~' : '/') : *name;
            text_append_bytes(&segment, &byte, 1);
            name += is_escape ? 1 : 0;
        }
        OWNED_MEMORY char *key = text_take(&segment);
        at = json_is_object(at)                   ? json_object_get(at, key)
             : json_is_array(at) && is_index(key) ? json_array_get(at, strtoul(key, NULL, 10))
                                                  : NULL;
    }
    return at;
}

static bool read_text(struct arena *arena, const json_t *record, const char *name, const char **ret_text,
                      struct error *error)
{
    const json_t *member = find_member(record, name);
    if (!json_is_string(member)) {
        return error_set(error, ERROR_WRONG_TYPE, "%s is %s, not a text", name, json_type_name(member));
    }
    *ret_text = arena_copy_text(arena, json_string_value(member), json_string_length(member));
    return true;
}

static bool fits(const struct instruction_fields *shape, const json_t *record)
{
    if (shape->messages != NULL) {
        return json_is_array(find_member(record, shape->messages));
    }
    return json_is_string(find_member(record, shape->instruction)) &&
           json_is_string(find_member(record, shape->response));
}

static const char *copy_name(struct arena *arena, const char *name)
{
    return name != NULL ? arena_copy_text(arena, name, strlen(name)) : NULL;
}

static bool take_said_fields(struct instructions *set, const struct instruction_fields *said,
                             struct error *error)
{
    bool is_pair = said->instruction != NULL && said->response != NULL;
    bool has_none_of_pair = said->instruction == NULL && said->input == NULL && said->response == NULL;
    if (said->messages != NULL ? !has_none_of_pair : !has_none_of_pair && !is_pair) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, set->name,
                               "%s: say which member holds the messages, or which ones the instruction and "
                               "the response (and perhaps the input); not a part of them, nor both",
                               set->name);
    }
    set->fields = (struct instruction_fields){
        .messages = copy_name(set->arena, said->messages),
        .instruction = copy_name(set->arena, said->instruction),
        .input = copy_name(set->arena, said->input),
        .response = copy_name(set->arena, said->response),
    };
    return true;
}

static bool knows_fields(const struct instructions *set)
{
    return set->fields.messages != NULL || set->fields.response != NULL;
}

static bool find_fields(struct instructions *set, const json_t *record, struct error *error)
{
    for (size_t i = 0; i < sizeof known_shapes / sizeof known_shapes[0]; i++) {
        if (fits(&known_shapes[i], record)) {
            set->fields = known_shapes[i];
            return true;
        }
    }
    struct text members = {0};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)record, key, value)
    {
        text_append_format(&members, "%s%s", members.length > 0 ? ", " : "", key);
    }
    OWNED_MEMORY char *list = text_take(&members);
    return error_set(error, ERROR_INVALID_ARGUMENT,
                     "say which members are the instruction and the response; the first record has: %.150s",
                     list);
}

/* ---- conversations ----------------------------------------------------------------------------------------------- */

static const char *const role_names[] = {
    [INSTRUCTION_SYSTEM] = "system", [INSTRUCTION_USER] = "user", [INSTRUCTION_ASSISTANT] = "assistant"};

static bool read_role(const json_t *message, enum instruction_role *ret_role, struct error *error)
{
    static const struct {
        const char *name;
        enum instruction_role role;
    } roles[] = {{"system", INSTRUCTION_SYSTEM},
                 {"user", INSTRUCTION_USER},
                 {"human", INSTRUCTION_USER},
                 {"assistant", INSTRUCTION_ASSISTANT},
                 {"gpt", INSTRUCTION_ASSISTANT}};
    const json_t *member = json_object_get(message, "role");
    member = member != NULL ? member : json_object_get(message, "from");
    for (size_t i = 0; json_is_string(member) && i < sizeof roles / sizeof roles[0]; i++) {
        if (strcmp(json_string_value(member), roles[i].name) == 0) {
            *ret_role = roles[i].role;
            return true;
        }
    }
    return error_set(error, ERROR_UNKNOWN_VALUE,
                     "role %.60s is not one of system, user (human), assistant (gpt)",
                     json_is_string(member) ? json_string_value(member) : json_type_name(member));
}

/* What came before the instruction, a line a turn. */
static const char *join_earlier(struct arena *arena, const struct instruction_turn *turns, size_t count)
{
    static const char *const names[] = {
        [INSTRUCTION_SYSTEM] = "System", [INSTRUCTION_USER] = "User", [INSTRUCTION_ASSISTANT] = "Assistant"};
    struct text joined = {0};
    for (size_t i = 0; i < count; i++) {
        text_append_format(&joined, "%s%s: ", i > 0 ? "\n" : "", names[turns[i].role]);
        text_append(&joined, turns[i].text);
    }
    const char *copy = arena_copy_text(arena, joined.bytes != NULL ? joined.bytes : "", joined.length);
    text_finish(&joined);
    return copy;
}

static bool read_conversation(struct arena *arena, const json_t *messages, struct instruction_record *record,
                              struct error *error)
{
    size_t count = json_array_size(messages);
    if (count < 2) {
        return error_set(error, ERROR_OUT_OF_RANGE, "a conversation of %zu messages; at least 2 are wanted",
                         count);
    }
    struct instruction_turn *turns = arena_allocate(arena, count, sizeof *turns);
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(messages, i);
        const char *name = json_object_get(message, "content") != NULL ? "content" : "value";
        if (!read_role(message, &turns[i].role, error) ||
            !read_text(arena, message, name, &turns[i].text, error)) {
            error_prefix(error, "message %zu: ", i);
            return false;
        }
    }
    if (turns[count - 2].role != INSTRUCTION_USER || turns[count - 1].role != INSTRUCTION_ASSISTANT) {
        return error_set(
            error, ERROR_INVALID_ARGUMENT,
            "a conversation ends with a user's message and the assistant's answer to it; the last "
            "two messages of this one are of %s and %s",
            role_names[turns[count - 2].role], role_names[turns[count - 1].role]);
    }
    record->turns = turns;
    record->turn_count = count - 1;
    record->instruction = turns[count - 2].text;
    record->response = turns[count - 1].text;
    record->input = join_earlier(arena, turns, count - 2);
    return true;
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

static bool read_record(struct instructions *set, const char *bytes, size_t count,
                        struct instruction_record *record, struct error *error)
{
    JSON_OWNED json = json_parse(bytes, count, INSTRUCTIONS_LIMIT_BYTES, error);
    if (json == NULL) {
        return false;
    }
    if (!json_is_object(json)) {
        return error_set(error, ERROR_WRONG_TYPE, "a record is %s, not an object", json_type_name(json));
    }
    if (!knows_fields(set) && !find_fields(set, json, error)) {
        return false;
    }
    const struct instruction_fields *fields = &set->fields;
    if (fields->messages != NULL) {
        const json_t *messages = find_member(json, fields->messages);
        if (!json_is_array(messages)) {
            return error_set(error, ERROR_WRONG_TYPE, "%s is %s, not a list of messages", fields->messages,
                             json_type_name(messages));
        }
        return read_conversation(set->arena, messages, record, error);
    }
    record->input = "";
    const json_t *input = fields->input != NULL ? find_member(json, fields->input) : NULL;
    return read_text(set->arena, json, fields->instruction, &record->instruction, error) &&
           read_text(set->arena, json, fields->response, &record->response, error) &&
           (input == NULL || json_is_null(input) ||
            read_text(set->arena, json, fields->input, &record->input, error));
}

struct reading {
    struct instructions *set;
    const struct instructions_options *options;
    size_t count, capacity;
};

/* `place`: what the number counts. */
static bool add_record(struct reading *reading, size_t first, size_t end, const char *place, size_t number,
                       struct error *error)
{
    struct instructions *set = reading->set;
    if (set->record_count == reading->capacity) {
        reading->capacity = reading->capacity == 0 ? 256 : reading->capacity * 2;
        set->records = memory_resize(set->records, reading->capacity, sizeof *set->records);
    }
    if (!cancel_check_now(reading->options->cancel, error)) {
        return false;
    }
    struct error cause = {0};
    struct instruction_record record = {.first_byte = first, .byte_count = end - first};
    if (!read_record(set, set->bytes + first, end - first, &record, &cause)) {
        enum error_code code = cause.code == ERROR_INVALID_ARGUMENT && !knows_fields(set)
                                   ? ERROR_INVALID_ARGUMENT
                                   : ERROR_CORRUPT_FILE;
        return error_set_field(error, code, set->name, "%s, %s %zu: %s", set->name, place, number,
                               cause.message);
    }
    set->records[set->record_count++] = record;
    return true;
}

static bool read_lines(struct reading *reading, struct error *error)
{
    struct lines lines = {.bytes = reading->set->bytes, .count = reading->count};
    while (lines_next(&lines)) {
        if (!add_record(reading, lines.first, lines.after, "line", lines.number, error)) {
            return false;
        }
    }
    return true;
}

static size_t skip_blank(const char *bytes, size_t count, size_t at)
{
    while (at < count && (bytes[at] == ' ' || bytes[at] == '\t' || bytes[at] == '\r' || bytes[at] == '\n')) {
        at++;
    }
    return at;
}

/* Where the value that starts at `at` ends: brackets are counted outside strings. What is inside is the parser's to judge. */
static size_t value_end(const char *bytes, size_t count, size_t at)
{
    size_t depth = 0;
    bool is_string = false;
    for (; at < count; at++) {
        char byte = bytes[at];
        if (is_string) {
            at += byte == '\\' ? 1 : 0;
            is_string = byte != '"';
        } else if (byte == '"') {
            is_string = true;
        } else if (byte == '{' || byte == '[') {
            depth++;
        } else if (byte == '}' || byte == ']' || byte == ',') {
            if (depth == 0) {
                return at;
            }
            depth -= byte != ',' ? 1 : 0;
            if (depth == 0 && byte != ',') {
                return at + 1;
            }
        }
    }
    return count;
}

static bool read_array(struct reading *reading, size_t at, struct error *error)
{
    const char *bytes = reading->set->bytes;
    const char *name = reading->set->name;
    size_t count = reading->count;
    size_t number = 0;
    at = skip_blank(bytes, count, at + 1);
    while (at < count && bytes[at] != ']') {
        size_t end = value_end(bytes, count, at);
        if (!add_record(reading, at, end, "record", ++number, error)) {
            return false;
        }
        at = skip_blank(bytes, count, end);
        if (at < count && bytes[at] == ',') {
            at = skip_blank(bytes, count, at + 1);
            if (at < count && bytes[at] == ']') {
                return error_set_field(error, ERROR_CORRUPT_FILE, name,
                                       "%s: a comma after the last record, %zu", name, number);
            }
        } else if (at < count && bytes[at] != ']') {
            return error_set_field(error, ERROR_CORRUPT_FILE, name,
                                   "%s: no comma after record %zu, at byte %zu", name, number, at);
        }
    }
    if (at >= count || skip_blank(bytes, count, at + 1) != count) {
        return error_set_field(
            error, ERROR_CORRUPT_FILE, name,
            at >= count ? "%s: the array of records does not end" : "%s: text after the array", name);
    }
    return true;
}

struct instructions *instructions_load(const struct instructions_options *options, struct error *error)
{
    const char *name = lines_file_name(options->name, options->path);
    OWNED(instructions) set = memory_create(1, sizeof *set);
    set->arena = arena_create(0);
    set->name = arena_copy_text(set->arena, name, strlen(name));
    if (!take_said_fields(set, &options->fields, error)) {
        return NULL;
    }
    size_t count = 0;
    set->bytes = lines_load_file(options->path, name, INSTRUCTIONS_LIMIT_BYTES, &count, set->sha256, error);
    if (set->bytes == NULL) {
        return NULL;
    }
    set->file_bytes = count;
    struct reading reading = {.set = set, .options = options, .count = count};
    size_t first = skip_blank(set->bytes, count, 0);
    bool is_array = first < count && set->bytes[first] == '[';
    if (!(is_array ? read_array(&reading, first, error) : read_lines(&reading, error))) {
        return NULL;
    }
    if (set->record_count == 0) {
        (void)error_set_field(error, ERROR_TEXT_TOO_SHORT, name, "%s: no record", name);
        return NULL;
    }
    return TAKE(set);
}

void instructions_destroy(struct instructions *instructions)
{
    if (instructions != NULL) {
        free(instructions->records);
        free(instructions->bytes);
        arena_destroy(instructions->arena);
        free(instructions);
    }
}

void instructions_read_numbers(const struct instructions *instructions, size_t record,
                               const char *const *names, size_t count, double *ret_numbers)
{
    const struct instruction_record *place = &instructions->records[record];
    JSON_OWNED json = json_parse(instructions->bytes + place->first_byte, (size_t)place->byte_count,
                                 (size_t)place->byte_count, NULL);
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json != NULL ? find_member(json, names[i]) : NULL;
        ret_numbers[i] = json_is_number(value) ? json_number_value(value) : (double)NAN;
    }
}

/* ---- templates --------------------------------------------------------------------------------------------------- */

static const struct instruction_template templates[] = {
    {.name = "plain", .full = "{instruction}\n{input}\n", .lone = "{instruction}\n"},
    {.name = "alpaca",
     .full =
         "Below is an instruction that describes a task, paired with an input that provides further context. Write "
         "a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### "
         "Input:\n{input}\n\n### Response:\n",
     .lone =
         "Below is an instruction that describes a task. Write a response that appropriately completes the "
         "request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"},
    {.name = "chatml", .is_chat = true},
};

const struct instruction_template *instruction_template_find(const char *name)
{
    for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++) {
        if (strcmp(templates[i].name, name) == 0) {
            return &templates[i];
        }
    }
    return NULL;
}

/* Where a placeholder starts: its value, and its length; NULL: none starts here. */
static const char *find_value(const char *at, const struct instruction_record *record, size_t *ret_length)
{
    static const char *const names[] = {"{instruction}", "{input}"};
    const char *const values[] = {record->instruction, record->input};
    for (size_t i = 0; i < 2; i++) {
        if (strncmp(at, names[i], strlen(names[i])) == 0) {
            *ret_length = strlen(names[i]);
            return values[i];
        }
    }
    return NULL;
}

static bool is_word_byte(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           byte == '_';
}

static bool check_placeholders(const char *text, struct error *error)
{
    static const struct instruction_record any = {.instruction = "", .input = ""};
    for (const char *at = strchr(text, '{'); at != NULL; at = strchr(at + 1, '{')) {
        const char *end = at + 1;
        while (is_word_byte(*end)) {
            end++;
        }
        size_t length = 0;
        if (end > at + 1 && *end == '}' && find_value(at, &any, &length) == NULL) {
            return error_set(error, ERROR_INVALID_ARGUMENT,
                             "the template has %.*s; {instruction} and {input} are known",
                             (int)(end - at + 1 > 60 ? 60 : end - at + 1), at);
        }
    }
    return true;
}

bool instruction_template_check(const struct instruction_template *form, struct error *error)
{
    if (form->is_chat) {
        return true;
    }
    if (form->full == NULL || form->lone == NULL) {
        return error_set(error, ERROR_INVALID_ARGUMENT,
                         "the template has no text for records with%s an input",
                         form->full == NULL ? "" : "out");
    }
    if (strstr(form->full, "{instruction}") == NULL || strstr(form->lone, "{instruction}") == NULL) {
        return error_set(error, ERROR_INVALID_ARGUMENT,
                         "the template for records with%s an input has no {instruction}",
                         strstr(form->full, "{instruction}") == NULL ? "" : "out");
    }
    bool has_input = strstr(form->full, "{input}") != NULL;
    if (!has_input || strstr(form->lone, "{input}") != NULL) {
        return error_set(error, ERROR_INVALID_ARGUMENT,
                         has_input ? "the template for records without an input has {input}"
                                   : "the template for records with an input has no {input}");
    }
    return check_placeholders(form->full, error) && check_placeholders(form->lone, error);
}

static void format_chat(const struct instruction_record *record, struct text *prompt)
{
    for (size_t i = 0; i < record->turn_count; i++) {
        text_append_format(prompt, "<|im_start|>%s\n", role_names[record->turns[i].role]);
        text_append(prompt, record->turns[i].text);
        text_append(prompt, "<|im_end|>\n");
    }
    if (record->turn_count == 0) {
        text_append(prompt, "<|im_start|>user\n");
        text_append(prompt, record->instruction);
        text_append(prompt, record->input[0] != '\0' ? "\n\n" : "");
        text_append(prompt, record->input);
        text_append(prompt, "<|im_end|>\n");
    }
    text_append(prompt, "<|im_start|>assistant\n");
}

void instruction_format_prompt(const struct instruction_template *form,
                               const struct instruction_record *record, struct text *prompt)
{
    if (form->is_chat) {
        format_chat(record, prompt);
        return;
    }
    const char *at = record->input[0] != '\0' ? form->full : form->lone;
    while (*at != '\0') {
        size_t length = strcspn(at, "{");
        text_append_bytes(prompt, at, length);
        at += length;
        const char *value = *at != '\0' ? find_value(at, record, &length) : NULL;
        if (value != NULL) {
            text_append(prompt, value);
            at += length;
        } else if (*at != '\0') {
            text_append_bytes(prompt, at++, 1);
        }
    }
}
