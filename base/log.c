/*
 * base/log.c: one line, one write(2), so that lines of several threads and processes never mix. A log that
 * cannot be written is no reason to stop: the result of the write is not looked at.
 */
#include "base/log.h"
#include "base/clock.h"
#include "base/text.h"

#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *log_program = "pruned";
static enum log_level log_least = LOG_INFO;
static enum log_format log_shape = LOG_FORMAT_JSON;

void log_start(const char *program, enum log_level least, enum log_format format)
{
    log_program = program;
    log_least = least;
    log_shape = format;
}

static const char *log_level_name(enum log_level level)
{
    switch (level) {
    case LOG_DEBUG:
        return "debug";
    case LOG_INFO:
        return "info";
    case LOG_WARNING:
        return "warning";
    case LOG_ERROR:
        break;
    }
    return "error";
}

static void log_append_string(struct text *line, const char *string)
{
    if (string == NULL) {
        text_append(line, "null");
    } else {
        text_append_json(line, string, strlen(string));
    }
}

static void log_append_value(struct text *line, const struct log_field *field)
{
    switch (field->type) {
    case LOG_FIELD_TEXT:
        log_append_string(line, field->text);
        break;
    case LOG_FIELD_I64:
        text_append_format(line, "%lld", (long long)field->integer);
        break;
    case LOG_FIELD_DOUBLE:
        if (isfinite(field->number)) {
            text_append_format(line, "%.9g", field->number);
        } else {
            text_append(line, "null");
        }
        break;
    case LOG_FIELD_END:
        break;
    }
}

static void log_append_json_line(struct text *line, enum log_level level, const char *message,
                                 const struct log_field *fields)
{
    int64_t now_ms = clock_wall_ms(&clock_system);
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm utc;
    char stamp[32] = "";
    if (gmtime_r(&seconds, &utc) != NULL) {
        (void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    }
    text_append_format(line, "{\"ts\":\"%s.%03dZ\",\"level\":\"%s\",\"program\":", stamp,
                       (int)(now_ms % 1000), log_level_name(level));
    log_append_string(line, log_program);
    text_append(line, ",\"msg\":");
    log_append_string(line, message);
    for (; fields->type != LOG_FIELD_END; fields++) {
        text_append(line, ",");
        log_append_string(line, fields->name);
        text_append(line, ":");
        log_append_value(line, fields);
    }
    text_append(line, "}\n");
}

static void log_append_text_line(struct text *line, enum log_level level, const char *message,
                                 const struct log_field *fields)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
    text_append_format(line, "%s ", names[level]);
    text_append_utf8(line, message, strlen(message));
    for (; fields->type != LOG_FIELD_END; fields++) {
        text_append_format(line, " %s=", fields->name);
        log_append_value(line, fields);
    }
    text_append(line, "\n");
}

void log_write(enum log_level level, const char *message, const struct log_field *fields)
{
    if (level < log_least) {
        return;
    }
    struct text line = {0};
    if (log_shape == LOG_FORMAT_JSON) {
        log_append_json_line(&line, level, message, fields);
    } else {
        log_append_text_line(&line, level, message, fields);
    }
    ssize_t written = write(STDERR_FILENO, line.bytes, line.length);
    (void)written;
    text_finish(&line);
}
