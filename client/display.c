/* client/display.c: one line that redraws itself on a terminal, lines that differ elsewhere. See client.h. */
#include "client/client.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_CELLS 30

void display_init(struct display *display)
{
    *display = (struct display){.is_terminal = isatty(STDERR_FILENO) == 1};
}

const char *display_seconds(double seconds, char text[32])
{
    long whole = seconds < 0 ? 0 : seconds > 1e8 ? 100000000 : (long)(seconds + 0.5);
    if (whole >= 3600) {
        (void)snprintf(text, 32, "%ldh %02ldm", whole / 3600, whole / 60 % 60);
    } else if (whole >= 60) {
        (void)snprintf(text, 32, "%ldm %02lds", whole / 60, whole % 60);
    } else {
        (void)snprintf(text, 32, "%lds", whole);
    }
    return text;
}

const char *display_bar(double ratio, char text[64])
{
    double clamped = ratio > 1 ? 1 : ratio > 0 ? ratio : 0;
    int filled = (int)(clamped * BAR_CELLS);
    text[0] = '[';
    for (int i = 0; i < BAR_CELLS; i++) {
        text[1 + i] = i < filled ? '#' : '-';
    }
    text[1 + BAR_CELLS] = ']';
    text[2 + BAR_CELLS] = '\0';
    return text;
}

static void say(struct display *display, const char *key, const char *line)
{
    if (display->is_terminal) {
        (void)fprintf(stderr, "\r\033[K%s", line);
        (void)fflush(stderr);
        display->is_open = true;
    } else if (strcmp(display->last, key) != 0) {
        (void)fprintf(stderr, "%s\n", line);
        (void)snprintf(display->last, sizeof display->last, "%s", key);
    }
}

static double number_of(const json_t *object, const char *name, double missing)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : missing;
}

static const char *text_of(const json_t *object, const char *name, const char *missing)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : missing;
}

void display_job(struct display *display, const json_t *job)
{
    const json_t *progress = json_object_get(job, "progress");
    double percent = number_of(progress, "percent", 0);
    double eta = number_of(progress, "eta_seconds", -1);
    const char *status = text_of(job, "status", "?");
    const char *stage = text_of(job, "stage", "");
    char bar[64];
    char seconds[32];
    char left[64] = "";
    char line[320];
    char key[128];
    if (eta >= 0 && strcmp(status, "running") == 0) {
        (void)snprintf(left, sizeof left, "  %s left", display_seconds(eta, seconds));
    }
    (void)snprintf(line, sizeof line, "%s %3.0f %%  %s%s%s  %.0f/%.0f %s%s", display_bar(percent / 100, bar),
                   percent, status, *stage != '\0' ? " " : "", stage, number_of(progress, "step", 0),
                   number_of(progress, "steps", 0), text_of(progress, "unit", ""), left);
    /* A log wants a line a stage and a line every ten percent. */
    (void)snprintf(key, sizeof key, "%s %s %d", status, stage, (int)(percent / 10));
    say(display, key, line);
}

void display_bytes(struct display *display, const char *what, double done_bytes, double all_bytes)
{
    char bar[64];
    char line[320];
    char key[128];
    double ratio = all_bytes > 0 ? done_bytes / all_bytes : 1;
    (void)snprintf(line, sizeof line, "%s %3.0f %%  %.1f/%.1f MB  %.100s", display_bar(ratio, bar),
                   ratio * 100, done_bytes / 1e6, all_bytes / 1e6, what);
    (void)snprintf(key, sizeof key, "%.100s", what);
    say(display, key, line);
}

void display_end(struct display *display)
{
    if (display->is_open) {
        (void)fputc('\n', stderr);
        display->is_open = false;
    }
}

enum client_exit client_exit_of(const char *status, bool *ret_is_terminal)
{
    *ret_is_terminal = true;
    if (strcmp(status, "succeeded") == 0) {
        return CLIENT_OK;
    }
    if (strcmp(status, "failed") == 0) {
        return CLIENT_FAILED;
    }
    if (strcmp(status, "cancelled") == 0) {
        return CLIENT_CANCELLED;
    }
    *ret_is_terminal = false;
    return CLIENT_OK;
}
