/* api/problem.c: see problem.h. */
#include "api/problem.h"
#include "base/check.h"
#include "base/text.h"
#include <stdio.h>
#include <string.h>

/* One row per code: status and title. The switch has no default on purpose (-Wswitch-enum). */
struct problem_row {
    unsigned status;
    const char *title;
};

static struct problem_row find_row(enum error_code code)
{
    switch (code) {
    case ERROR_NONE:
        break;
    case ERROR_INVALID_ARGUMENT:
        return (struct problem_row){422, "Invalid argument"};
    case ERROR_MALFORMED_JSON:
        return (struct problem_row){400, "Malformed JSON"};
    case ERROR_DUPLICATE_KEY:
        return (struct problem_row){400, "Duplicate key"};
    case ERROR_WRONG_TYPE:
        return (struct problem_row){422, "Wrong type"};
    case ERROR_OUT_OF_RANGE:
        return (struct problem_row){422, "Out of range"};
    case ERROR_MISSING_FIELD:
        return (struct problem_row){422, "Missing field"};
    case ERROR_UNKNOWN_FIELD:
        return (struct problem_row){422, "Unknown field"};
    case ERROR_UNKNOWN_VALUE:
        return (struct problem_row){422, "Unknown value"};
    case ERROR_NOT_FOUND:
        return (struct problem_row){404, "Not found"};
    case ERROR_CONFLICT:
        return (struct problem_row){409, "Conflict"};
    case ERROR_IDEMPOTENCY_MISMATCH:
        return (struct problem_row){422, "Idempotency key reused with another request"};
    case ERROR_PRECONDITION_FAILED:
        return (struct problem_row){412, "Precondition failed"};
    case ERROR_TOO_LARGE:
        return (struct problem_row){413, "Too large"};
    case ERROR_METHOD_NOT_ALLOWED:
        return (struct problem_row){405, "Method not allowed"};
    case ERROR_UNSUPPORTED_MEDIA_TYPE:
        return (struct problem_row){415, "Unsupported media type"};
    case ERROR_RANGE_NOT_SATISFIABLE:
        return (struct problem_row){416, "Range not satisfiable"};
    case ERROR_UNAUTHORIZED:
        return (struct problem_row){401, "Unauthorized"};
    case ERROR_FORBIDDEN:
        return (struct problem_row){403, "Forbidden"};
    case ERROR_UNAVAILABLE:
        return (struct problem_row){503, "Unavailable"};
    case ERROR_CANCELLED:
        return (struct problem_row){409, "Cancelled"};
    case ERROR_DRAINED:
        return (struct problem_row){503, "Draining"};
    case ERROR_FENCED:
        return (struct problem_row){409, "Fenced"};
    case ERROR_OUT_OF_MEMORY:
        return (struct problem_row){503, "Out of memory"};
    case ERROR_UNSUPPORTED:
        return (struct problem_row){422, "Unsupported"};
    case ERROR_NUMERIC:
        return (struct problem_row){422, "Not a finite number"};
    case ERROR_UNREACHABLE:
        return (struct problem_row){422, "Target out of reach"};
    case ERROR_QUALITY_GATE_FAILED:
        return (struct problem_row){422, "Quality gate failed"};
    case ERROR_CORRUPT_FILE:
        return (struct problem_row){422, "Corrupt file"};
    case ERROR_CONFIG_MISMATCH:
        return (struct problem_row){422, "Configuration contradicts the tensors"};
    case ERROR_TOKENIZER_MISMATCH:
        return (struct problem_row){422, "Tokenizer does not fit the model"};
    case ERROR_CHECKSUM_MISMATCH:
        return (struct problem_row){422, "Checksum mismatch"};
    case ERROR_INPUT_CHANGED:
        return (struct problem_row){409, "Input changed"};
    case ERROR_PARENT_FAILED:
        return (struct problem_row){409, "A job that this one needs has no result"};
    case ERROR_TEXT_TOO_SHORT:
        return (struct problem_row){422, "Text too short"};
    case ERROR_TEXT_OVERLAP:
        return (struct problem_row){422, "Calibration and evaluation text overlap"};
    case ERROR_WORKER_CRASH:
        return (struct problem_row){500, "Worker crash"};
    case ERROR_WORKER_HUNG:
        return (struct problem_row){500, "Worker hung"};
    case ERROR_TIME_LIMIT:
        return (struct problem_row){504, "Time limit reached"};
    case ERROR_STORAGE_FULL:
        return (struct problem_row){507, "Storage full"};
    case ERROR_IO:
        return (struct problem_row){500, "Input or output failed"};
    case ERROR_INTERNAL:
        break;
    }
    return (struct problem_row){500, "Internal error"};
}

unsigned problem_status(enum error_code code)
{
    return find_row(code).status;
}

unsigned problem_status_in_body(const struct error *error)
{
    if (error->code == ERROR_OUT_OF_MEMORY) {
        return 422; /* what was asked for does not fit into this machine, now or later */
    }
    unsigned status = problem_status(error->code);
    bool is_in_file = error->field[0] != '\0' && error->field[0] != '/';
    bool is_about_body = (status == 400 || status == 413) && !is_in_file;
    return status >= 400 && status < 500 && !is_about_body ? 422 : status;
}

const char *problem_title(enum error_code code)
{
    return find_row(code).title;
}

const char *problem_class(unsigned status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 409:
        return "conflict_error";
    case 429:
        return "rate_limit_error";
    case 507:
        return "insufficient_storage_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void problem_param(const char *field, char *ret_param, size_t capacity)
{
    CHECK(capacity > 0);
    bool is_pointer = field[0] == '/';
    size_t length = 0;
    for (const char *byte = is_pointer ? field + 1 : field; *byte != '\0' && length + 1 < capacity; byte++) {
        char out = *byte;
        if (is_pointer && out == '/') {
            out = '.';
        } else if (is_pointer && out == '~' && (byte[1] == '0' || byte[1] == '1')) {
            out = byte[1] == '0' ? '~' : '/';
            byte++;
        }
        ret_param[length++] = out;
    }
    ret_param[length] = '\0';
}

static const char *public_message(const struct error *error)
{
    bool is_hidden = error->code == ERROR_INTERNAL || error->code == ERROR_IO || error->code == ERROR_NONE;
    return is_hidden ? "something failed inside the service; the log has the details under this request id"
                     : error->message;
}

/* For a reader who sees one line only: "target.sparsity: must be below 1". */
static void format_detail(const struct error *error, struct text *out)
{
    if (error->field[0] == '/') {
        char param[sizeof error->field];
        problem_param(error->field, param, sizeof param);
        text_append_format(out, "%s: ", param);
    }
    text_append(out, public_message(error));
}

static json_t *fault_item(const struct error *error)
{
    json_t *item = json_object();
    if (error->field[0] == '/') {
        char pointer[sizeof error->field + 2];
        (void)snprintf(pointer, sizeof pointer, "#%s", error->field);
        json_put_text(item, "pointer", pointer);
    } else if (error->field[0] != '\0') {
        json_put_text(item, "field", error->field);
    }
    json_put_text(item, "code", error_code_slug(error->code));
    json_put_text(item, "message", public_message(error));
    return item;
}

json_t *problem_body(unsigned status, const struct error *items, size_t count, size_t total,
                     const char *instance, const char *request_id)
{
    CHECK(count > 0);
    const struct error *first = &items[0];
    char type[96];
    (void)snprintf(type, sizeof type, "/docs/problems/%s", error_code_slug(first->code));
    for (char *byte = type; *byte != '\0'; byte++) {
        *byte = (char)(*byte == '_' ? '-' : *byte);
    }
    json_t *body = json_object();
    json_put_text(body, "type", type);
    json_put_text(body, "title", problem_title(first->code));
    json_put_i64(body, "status", (int64_t)status);
    struct text detail = {0};
    format_detail(first, &detail);
    json_put_text(body, "detail", detail.bytes);
    json_put_text(body, "instance", instance);
    json_put_text(body, "request_id", request_id);
    json_t *error = json_object();
    json_put_text(error, "message", detail.bytes);
    text_finish(&detail);
    json_put_text(error, "type", problem_class(status));
    if (first->field[0] != '\0') {
        char param[sizeof first->field];
        problem_param(first->field, param, sizeof param);
        json_put_text(error, "param", param);
    } else {
        json_put_text(error, "param", NULL);
    }
    json_put_text(error, "code", error_code_slug(first->code));
    json_put(body, "error", error);
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        (void)json_array_append_new(list, fault_item(&items[i]));
    }
    json_put(body, "errors", list);
    if (total > count) {
        json_put_i64(body, "errors_total", (int64_t)total);
    }
    return body;
}
