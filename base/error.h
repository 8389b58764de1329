/*
 * base/error.h: one error type for the whole tree.
 *
 * A fallible function returns bool (or an owned pointer) and takes `struct error *error` last. On failure
 * the error was filled once, where the cause is known, with names and numbers; callers may prefix it with
 * their own context, and outputs stay untouched. A caller who does not care passes NULL.
 *
 * Validation that can find several faults collects them in a `struct error_list`.
 *
 * The codes are the slugs of the wire (ecosystem contract, one spelling everywhere). HTTP is unknown here:
 * api/problem.c maps a code to a status by a switch without default.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#define PRINTF(format_index, first_index) __attribute__((format(printf, format_index, first_index)))
#define MUST_USE                          __attribute__((warn_unused_result))

#define ERROR_CODES(X)                                                                                       \
    X(INVALID_ARGUMENT, "invalid_argument") /* well typed, still senseless */                                \
    X(MALFORMED_JSON, "malformed_json")     /* not JSON, or beyond the limits of base/json.h */              \
    X(DUPLICATE_KEY, "duplicate_key")       /* one JSON object names a member twice */                       \
    X(WRONG_TYPE, "wrong_type")             /* a string where a number belongs */                            \
    X(OUT_OF_RANGE, "out_of_range")         /* a number or length outside its bounds */                      \
    X(MISSING_FIELD, "missing_field")       /* required and absent */                                        \
    X(UNKNOWN_FIELD, "unknown_field")       /* no such parameter */                                          \
    X(UNKNOWN_VALUE, "unknown_value")       /* not one of the listed values (method, metric) */              \
    X(NOT_FOUND, "not_found")                                                                                \
    X(CONFLICT, "conflict")                         /* the state forbids it (cancel a finished job) */       \
    X(IDEMPOTENCY_MISMATCH, "idempotency_mismatch") /* same key, another request */                          \
    X(PRECONDITION_FAILED, "precondition_failed")   /* If-Match */                                           \
    X(TOO_LARGE, "too_large")                       /* body or file over its limit */                        \
    X(METHOD_NOT_ALLOWED, "method_not_allowed")                                                              \
    X(UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")                                                      \
    X(RANGE_NOT_SATISFIABLE, "range_not_satisfiable")                                                        \
    X(UNAUTHORIZED, "unauthorized") /* no token, or a wrong one */                                           \
    X(FORBIDDEN, "forbidden")       /* a path outside the configured roots */                                \
    X(UNAVAILABLE, "unavailable")   /* draining, or no capacity; try again */                                \
    X(CANCELLED, "cancelled")                                                                                \
    X(DRAINED, "drained") /* stopped at a checkpoint because asked to */                                     \
    X(FENCED, "fenced")   /* an older epoch tried to write */                                                \
    X(OUT_OF_MEMORY, "out_of_memory")                                                                        \
    X(UNSUPPORTED, "unsupported")                 /* understood, and not something we can do */              \
    X(NUMERIC, "numeric")                         /* NaN or infinity, named */                               \
    X(UNREACHABLE, "unreachable")                 /* the target lies beyond what can be removed */           \
    X(QUALITY_GATE_FAILED, "quality_gate_failed") /* the pruned model is worse than the request allows */    \
    X(CORRUPT_FILE, "corrupt_file")               /* a file breaks its format */                             \
    X(CONFIG_MISMATCH, "config_mismatch")         /* config.json contradicts the tensors */                  \
    X(TOKENIZER_MISMATCH, "tokenizer_mismatch")   /* tokenizer does not fit the vocabulary */                \
    X(CHECKSUM_MISMATCH, "checksum_mismatch")     /* content is not what its name promises */                \
    X(INPUT_CHANGED, "input_changed")             /* a referenced file differs from its inventory */         \
    X(PARENT_FAILED, "parent_failed")   /* a job whose result is needed failed, was cancelled or deleted */  \
    X(TEXT_TOO_SHORT, "text_too_short") /* fewer tokens than one window, or no text */                       \
    X(TEXT_OVERLAP, "text_overlap")     /* calibration and evaluation text share windows */                  \
    X(WORKER_CRASH, "worker_crash")     /* the process died; see design section 5 */                         \
    X(WORKER_HUNG, "worker_hung")       /* no heartbeat within the lease */                                  \
    X(TIME_LIMIT, "time_limit")         /* limits.max_seconds passed */                                      \
    X(STORAGE_FULL, "storage_full")     /* disk or quota; nothing was kept */                                \
    X(IO, "io")                                                                                              \
    X(INTERNAL, "internal")

enum error_code {
    ERROR_NONE = 0,
#define X(name, slug) ERROR_##name,
    ERROR_CODES(X)
#undef X
};

/* field: a JSON pointer ("/target/sparsity"), a file or a tensor name; may be empty.
 * message: one sentence for a person; an excerpt when the whole would not fit. */
struct error {
    enum error_code code;
    char field[128];
    char message[384];
};

/* Returns the slug ("out_of_range"); "none" for ERROR_NONE. */
const char *error_code_slug(enum error_code code);
/* Finds the code of a slug; ERROR_INTERNAL if there is none (a newer worker's code, say). */
enum error_code error_code_parse(const char *slug);

/* Always return false, so that `return error_set(...)` reads well. NULL error: only the false. */
bool error_set(struct error *error, enum error_code code, const char *format, ...) PRINTF(3, 4);
bool error_set_field(struct error *error, enum error_code code, const char *field, const char *format, ...)
    PRINTF(4, 5);
/* From errno: ENOSPC and EDQUOT become STORAGE_FULL, ENOENT NOT_FOUND, ENOMEM OUT_OF_MEMORY, the rest IO.
 * Appends ": <strerror>". Saves and restores errno. */
bool error_set_errno(struct error *error, int error_number, const char *format, ...) PRINTF(3, 4);
/* Puts context before the message: "layer 3: " + message. No effect on code and field. Returns false. */
bool error_prefix(struct error *error, const char *format, ...) PRINTF(2, 3);

/* Many faults. Zero-initialise; error_list_finish frees. At most ERROR_LIST_LIMIT are kept (the count goes
 * on). */
#define ERROR_LIST_LIMIT 64
struct error_list {
    struct error *items; /* owned, [stored] */
    size_t stored, count;
};
bool error_list_add(struct error_list *list, enum error_code code, const char *field, const char *format, ...)
    PRINTF(4, 5);                                                              /* returns false */
bool error_list_add_error(struct error_list *list, const struct error *error); /* returns false */
/* For a place that shows one: the first, whose message says how many more there are. The list is not empty. */
void error_list_sum_up(const struct error_list *list, struct error *ret_error);
void error_list_finish(struct error_list *list);

#endif
