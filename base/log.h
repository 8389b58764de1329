/*
 * base/log.h: one JSON object per line on stderr: ts (RFC 3339, ms), level, msg, then the fields given. Each
 * failure is logged once, by the floor that decides what to do about it. The engine does not log.
 *
 *     log_info("job started", LOG_TEXT("job_id", id), LOG_I64("epoch", epoch));
 *
 * One write(2) per line; any thread. LOG_FORMAT_TEXT prints "LEVEL msg key=value ..." for people.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_FORMAT_JSON, LOG_FORMAT_TEXT };
enum log_field_type { LOG_FIELD_END, LOG_FIELD_TEXT, LOG_FIELD_I64, LOG_FIELD_DOUBLE };
struct log_field {
    enum log_field_type type;
    const char *name;
    const char *text;
    int64_t integer;
    double number;
};
#define LOG_TEXT(field_name, value)   ((struct log_field){LOG_FIELD_TEXT, field_name, value, 0, 0})
#define LOG_I64(field_name, value)    ((struct log_field){LOG_FIELD_I64, field_name, 0, (int64_t)(value), 0})
#define LOG_DOUBLE(field_name, value) ((struct log_field){LOG_FIELD_DOUBLE, field_name, 0, 0, value})

/* Process-wide; call before threads. program: the "program" field of each line. */
void log_start(const char *program, enum log_level least, enum log_format format);
void log_write(enum log_level level, const char *message, const struct log_field *fields);
/* The end mark goes in here, so that a call without fields still has an argument after the message. */
#define LOG_END                       ((struct log_field){LOG_FIELD_END, 0, 0, 0, 0})
#define LOG_CALL(level, message, ...) log_write(level, message, (const struct log_field[]){__VA_ARGS__})
#define log_debug(...)                LOG_CALL(LOG_DEBUG, __VA_ARGS__, LOG_END)
#define log_info(...)                 LOG_CALL(LOG_INFO, __VA_ARGS__, LOG_END)
#define log_warning(...)              LOG_CALL(LOG_WARNING, __VA_ARGS__, LOG_END)
#define log_error(...)                LOG_CALL(LOG_ERROR, __VA_ARGS__, LOG_END)

#endif
