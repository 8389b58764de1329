/*
 * base/param.c: validation. One walk over spec and value together; a fault is added and the walk goes on, so
 * that the user sees everything at once. Suggestions come from the edit distance with transpositions
 * (Damerau's, the restricted form): one typing mistake in four letters, rounded up, is forgiven.
 */
#include "base/param.h"
#include "base/json_internal.h"
#include "base/param_internal.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PARAM_EXCERPT_BYTES 40

bool param_is_absent(const struct param_spec *spec, const json_t *value)
{
    return value == NULL || (json_is_null(value) && (spec->flags & PARAM_NULLABLE) != 0);
}

bool param_is_bounded(const struct param_spec *spec)
{
    return spec->min < 0 || spec->min > 0 || spec->max < 0 || spec->max > 0;
}

const struct param_spec *param_find_member(const struct param_spec *spec, const char *name)
{
    for (size_t i = 0; i < spec->member_count; i++) {
        if (strcmp(spec->members[i].name, name) == 0) {
            return &spec->members[i];
        }
    }
    return NULL;
}

/* Edits (insert, delete, replace, swap neighbours) between two names of at most PARAM_MAP_KEY_BYTES bytes. */
static size_t param_distance(const char *left, const char *right)
{
    size_t rows[3][PARAM_MAP_KEY_BYTES + 1];
    size_t left_length = strlen(left), right_length = strlen(right);
    if (left_length > PARAM_MAP_KEY_BYTES || right_length > PARAM_MAP_KEY_BYTES) {
        return SIZE_MAX;
    }
    for (size_t j = 0; j <= right_length; j++) {
        rows[0][j] = j;
    }
    for (size_t i = 1; i <= left_length; i++) {
        size_t *now = rows[i % 3];
        const size_t *before = rows[(i + 2) % 3], *earlier = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= right_length; j++) {
            size_t best = before[j - 1] + (left[i - 1] != right[j - 1]);
            best = before[j] + 1 < best ? before[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] &&
                earlier[j - 2] + 1 < best) {
                best = earlier[j - 2] + 1;
            }
            now[j] = best;
        }
    }
    return rows[left_length % 3][right_length];
}

/* Collects known names one by one and keeps the nearest to what was written. */
struct param_guess {
    const char *written, *nearest;
    size_t distance;
    struct text known; /* "a, b, c" */
};

static void param_guess_offer(struct param_guess *guess, const char *name)
{
    size_t limit = (strlen(name) + 3) / 4;
    size_t distance = param_distance(guess->written, name);
    if (distance <= limit && (guess->nearest == NULL || distance < guess->distance)) {
        guess->nearest = name;
        guess->distance = distance;
    }
    text_append(&guess->known, guess->known.length > 0 ? ", " : "");
    text_append(&guess->known, name);
}

/* Adds `code`: "<what> "written"; did you mean "nearest"?" or the list of what is known. */
static void param_guess_fail(struct param_guess *guess, enum error_code code, const char *pointer,
                             const char *what, struct error_list *faults)
{
    if (guess->nearest != NULL) {
        (void)error_list_add(faults, code, pointer, "%s \"%.*s\"; did you mean \"%s\"?", what,
                             PARAM_EXCERPT_BYTES, guess->written, guess->nearest);
    } else {
        (void)error_list_add(faults, code, pointer, "%s \"%.*s\"; known: %s", what, PARAM_EXCERPT_BYTES,
                             guess->written, guess->known.length > 0 ? guess->known.bytes : "none");
    }
    text_finish(&guess->known);
}

static void param_fail_type(const char *pointer, const char *wanted, const json_t *value,
                            struct error_list *faults)
{
    (void)error_list_add(faults, ERROR_WRONG_TYPE, pointer, "must be %s, is %s", wanted,
                         json_type_name(value));
}

static void param_check_number(const struct param_spec *spec, const json_t *value, const char *pointer,
                               struct error_list *faults)
{
    double number = json_number_value(value);
    bool open_min = (spec->flags & PARAM_OPEN_MIN) != 0, open_max = (spec->flags & PARAM_OPEN_MAX) != 0;
    const char *unit = spec->unit != NULL ? " " : "", *unit_name = spec->unit != NULL ? spec->unit : "";
    if (spec->type == PARAM_INTEGER && fabs(number) > PARAM_INTEGER_LIMIT) {
        (void)error_list_add(faults, ERROR_OUT_OF_RANGE, pointer, "must be between -2^53 and 2^53, is %.17g",
                             number);
        return;
    }
    if (!param_is_bounded(spec)) {
        return;
    }
    if (number < spec->min || (open_min && number <= spec->min)) {
        (void)error_list_add(faults, ERROR_OUT_OF_RANGE, pointer, "must be %s %.15g%s%s, is %.15g",
                             open_min ? "greater than" : "at least", spec->min, unit, unit_name, number);
    } else if (number > spec->max || (open_max && number >= spec->max)) {
        (void)error_list_add(faults, ERROR_OUT_OF_RANGE, pointer, "must be %s %.15g%s%s, is %.15g",
                             open_max ? "less than" : "at most", spec->max, unit, unit_name, number);
    }
}

static void param_check_text(const struct param_spec *spec, const json_t *value, const char *pointer,
                             struct error_list *faults)
{
    const char *text = json_string_value(value);
    size_t length = json_string_length(value);
    if (param_is_bounded(spec) && ((double)length < spec->min || (double)length > spec->max)) {
        (void)error_list_add(faults, ERROR_OUT_OF_RANGE, pointer, "must have %.0f to %.0f bytes, has %zu",
                             spec->min, spec->max, length);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        if ((byte < 0x20 && byte != '\t' && byte != '\n') || byte == 0x7F) {
            (void)error_list_add(faults, ERROR_INVALID_ARGUMENT, pointer,
                                 "holds the control character 0x%02x at byte %zu", byte, i);
            return;
        }
    }
}

static void param_check_enum(const struct param_spec *spec, const json_t *value, const char *pointer,
                             struct error_list *faults)
{
    struct param_guess guess = {.written = json_string_value(value)};
    for (const char *const *known = spec->values; known != NULL && *known != NULL; known++) {
        if (strcmp(*known, guess.written) == 0) {
            text_finish(&guess.known);
            return;
        }
        param_guess_offer(&guess, *known);
    }
    param_guess_fail(&guess, ERROR_UNKNOWN_VALUE, pointer, "unknown value", faults);
}

static void param_check(const struct param_spec *spec, const json_t *value, struct text *pointer,
                        struct error_list *faults);

/* Runs `check` with the pointer lengthened by one name for the time of the call. */
static void param_check_below(const struct param_spec *spec, const json_t *value, const char *name,
                              struct text *pointer, struct error_list *faults)
{
    size_t length = pointer->length;
    json_pointer_append(pointer, name);
    param_check(spec, value, pointer, faults);
    pointer->length = length;
    pointer->bytes[length] = '\0';
}

static void param_fail_member(enum error_code code, const char *name, const char *message,
                              struct text *pointer, struct error_list *faults)
{
    size_t length = pointer->length;
    json_pointer_append(pointer, name);
    (void)error_list_add(faults, code, pointer->bytes, "%s", message);
    pointer->length = length;
    pointer->bytes[length] = '\0';
}

static void param_fail_unknown(const struct param_spec *spec, const char *key, struct text *pointer,
                               struct error_list *faults)
{
    struct param_guess guess = {.written = key};
    size_t length = pointer->length;
    for (size_t i = 0; i < spec->member_count; i++) {
        param_guess_offer(&guess, spec->members[i].name);
    }
    json_pointer_append(pointer, key);
    param_guess_fail(&guess, ERROR_UNKNOWN_FIELD, pointer->bytes, "unknown parameter", faults);
    pointer->length = length;
    pointer->bytes[length] = '\0';
}

static void param_check_exactly_one(const struct param_spec *spec, const json_t *value, struct text *pointer,
                                    struct error_list *faults)
{
    struct text known = {0};
    size_t present = 0;
    for (size_t i = 0; i < spec->member_count; i++) {
        if ((spec->members[i].flags & PARAM_BESIDE) != 0) {
            continue;
        }
        text_append(&known, known.length > 0 ? ", " : "");
        text_append(&known, spec->members[i].name);
        present += !param_is_absent(&spec->members[i], json_object_get(value, spec->members[i].name));
    }
    if (present != 1) {
        (void)error_list_add(faults, present == 0 ? ERROR_MISSING_FIELD : ERROR_INVALID_ARGUMENT,
                             pointer->bytes, "exactly one of %s is required, %zu are given", known.bytes,
                             present);
    }
    text_finish(&known);
}

/* The fault stands at the first of the members of which one is required. */
static void param_check_either(const struct param_spec *spec, const json_t *value, struct text *pointer,
                               struct error_list *faults)
{
    const struct param_spec *first = NULL;
    struct text known = {0};
    size_t present = 0;
    for (size_t i = 0; i < spec->member_count; i++) {
        const struct param_spec *member = &spec->members[i];
        if ((member->flags & PARAM_EITHER) != 0) {
            first = first == NULL ? member : first;
            text_append(&known, known.length > 0 ? ", " : "at least one of ");
            text_append(&known, member->name);
            present += !param_is_absent(member, json_object_get(value, member->name));
        }
    }
    if (first != NULL && present == 0) {
        text_append(&known, " is required");
        param_fail_member(ERROR_MISSING_FIELD, first->name, known.bytes, pointer, faults);
    }
    text_finish(&known);
}

static void param_check_object(const struct param_spec *spec, const json_t *value, struct text *pointer,
                               struct error_list *faults)
{
    json_t *open = json_iterable(value);
    for (void *at = json_object_iter(open); at != NULL; at = json_object_iter_next(open, at)) {
        if (param_find_member(spec, json_object_iter_key(at)) == NULL) {
            param_fail_unknown(spec, json_object_iter_key(at), pointer, faults);
        }
    }
    if ((spec->flags & PARAM_EXACTLY_ONE) != 0) {
        param_check_exactly_one(spec, value, pointer, faults);
    }
    param_check_either(spec, value, pointer, faults);
    for (size_t i = 0; i < spec->member_count; i++) {
        const struct param_spec *member = &spec->members[i];
        const json_t *given = json_object_get(value, member->name);
        if (!param_is_absent(member, given)) {
            param_check_below(member, given, member->name, pointer, faults);
        } else if ((member->flags & PARAM_REQUIRED) != 0 && member->default_json == NULL) {
            param_fail_member(ERROR_MISSING_FIELD, member->name, "is required", pointer, faults);
        }
    }
}

static void param_check_union(const struct param_spec *spec, const json_t *value, struct text *pointer,
                              struct error_list *faults)
{
    const json_t *type = json_object_get(value, "type");
    const struct param_spec *chosen = NULL;
    if (type == NULL) {
        param_fail_member(ERROR_MISSING_FIELD, "type", "is required", pointer, faults);
    } else if (!json_is_string(type)) {
        param_fail_member(ERROR_WRONG_TYPE, "type", "must be a string", pointer, faults);
    } else {
        struct param_guess guess = {.written = json_string_value(type)};
        size_t length = pointer->length;
        chosen = param_find_member(spec, guess.written);
        for (size_t i = 0; i < spec->member_count; i++) {
            param_guess_offer(&guess, spec->members[i].name);
        }
        json_pointer_append(pointer, "type");
        if (chosen == NULL) {
            param_guess_fail(&guess, ERROR_UNKNOWN_VALUE, pointer->bytes, "unknown value", faults);
        }
        text_finish(&guess.known);
        pointer->length = length;
        pointer->bytes[length] = '\0';
    }
    json_t *open = json_iterable(value);
    for (void *at = json_object_iter(open); at != NULL; at = json_object_iter_next(open, at)) {
        const char *key = json_object_iter_key(at);
        bool known = param_find_member(spec, key) != NULL;
        if (strcmp(key, "type") == 0 || (chosen != NULL && strcmp(key, chosen->name) == 0)) {
            continue;
        }
        if (known && chosen != NULL) {
            param_fail_member(ERROR_UNKNOWN_FIELD, key, "does not belong to the chosen type", pointer,
                              faults);
        } else if (!known) {
            param_fail_unknown(spec, key, pointer, faults);
        }
    }
    if (chosen != NULL) {
        const json_t *given = json_object_get(value, chosen->name);
        json_t *empty = param_is_absent(chosen, given) ? json_object() : NULL;
        param_check_below(chosen, empty != NULL ? empty : given, chosen->name, pointer, faults);
        json_decref(empty);
    }
}

static void param_check_array(const struct param_spec *spec, const json_t *value, struct text *pointer,
                              struct error_list *faults)
{
    size_t count = json_array_size(value);
    if (param_is_bounded(spec) && ((double)count < spec->min || (double)count > spec->max)) {
        (void)error_list_add(faults, ERROR_OUT_OF_RANGE, pointer->bytes,
                             "must have %.0f to %.0f items, has %zu", spec->min, spec->max, count);
    }
    for (size_t i = 0; i < count && spec->member_count > 0; i++) {
        char index[24];
        (void)snprintf(index, sizeof index, "%zu", i);
        param_check_below(&spec->members[0], json_array_get(value, i), index, pointer, faults);
    }
}

static void param_check_map(const struct param_spec *spec, const json_t *value, struct text *pointer,
                            struct error_list *faults)
{
    const struct param_spec text = {.type = PARAM_TEXT, .max = spec->item_max};
    const struct param_spec *item = spec->member_count > 0 ? &spec->members[0] : &text;
    size_t count = json_object_size(value);
    if (param_is_bounded(spec) && ((double)count < spec->min || (double)count > spec->max)) {
        (void)error_list_add(faults, ERROR_OUT_OF_RANGE, pointer->bytes,
                             "must have %.0f to %.0f members, has %zu", spec->min, spec->max, count);
        return;
    }
    json_t *open = json_iterable(value);
    for (void *at = json_object_iter(open); at != NULL; at = json_object_iter_next(open, at)) {
        const char *key = json_object_iter_key(at);
        size_t length = strlen(key);
        if (length == 0 || length > PARAM_MAP_KEY_BYTES) {
            param_fail_member(ERROR_OUT_OF_RANGE, key, "a key must have 1 to 64 bytes", pointer, faults);
        }
        param_check_below(item, json_object_iter_value(at), key, pointer, faults);
    }
}

static void param_check(const struct param_spec *spec, const json_t *value, struct text *pointer,
                        struct error_list *faults)
{
    static const struct {
        const char *wanted;
        bool string, object;
    } shapes[] = {
        [PARAM_BOOL] = {"a boolean", false, false},  [PARAM_INTEGER] = {"an integer", false, false},
        [PARAM_NUMBER] = {"a number", false, false}, [PARAM_TEXT] = {"a string", true, false},
        [PARAM_ENUM] = {"a string", true, false},    [PARAM_OBJECT] = {"an object", false, true},
        [PARAM_UNION] = {"an object", false, true},  [PARAM_ARRAY] = {"an array", false, false},
        [PARAM_MAP] = {"an object", false, true},    [PARAM_ANY] = {"anything", false, false},
    };
    bool fits = (shapes[spec->type].string && json_is_string(value)) ||
                (shapes[spec->type].object && json_is_object(value)) ||
                (spec->type == PARAM_BOOL && json_is_boolean(value)) ||
                (spec->type == PARAM_INTEGER && json_is_integer(value)) ||
                (spec->type == PARAM_NUMBER && json_is_number(value)) ||
                (spec->type == PARAM_ARRAY && json_is_array(value)) || spec->type == PARAM_ANY;
    if (!fits) {
        param_fail_type(pointer->bytes, shapes[spec->type].wanted, value, faults);
        return;
    }
    switch (spec->type) {
    case PARAM_INTEGER:
    case PARAM_NUMBER:
        param_check_number(spec, value, pointer->bytes, faults);
        break;
    case PARAM_TEXT:
        param_check_text(spec, value, pointer->bytes, faults);
        break;
    case PARAM_ENUM:
        param_check_enum(spec, value, pointer->bytes, faults);
        break;
    case PARAM_OBJECT:
        param_check_object(spec, value, pointer, faults);
        break;
    case PARAM_UNION:
        param_check_union(spec, value, pointer, faults);
        break;
    case PARAM_ARRAY:
        param_check_array(spec, value, pointer, faults);
        break;
    case PARAM_MAP:
        param_check_map(spec, value, pointer, faults);
        break;
    case PARAM_BOOL:
    case PARAM_ANY:
        break;
    }
}

bool param_validate(const struct param_spec *spec, const json_t *value, const char *pointer,
                    struct error_list *faults)
{
    size_t before = faults->count;
    struct text path = {0};
    text_append(&path, pointer);
    if (!param_is_absent(spec, value)) {
        param_check(spec, value, &path, faults);
    } else if ((spec->flags & PARAM_REQUIRED) != 0 && spec->default_json == NULL) {
        (void)error_list_add(faults, ERROR_MISSING_FIELD, pointer, "is required");
    }
    text_finish(&path);
    return faults->count == before;
}
