/*
 * client/client.h: prunectl, a thin client for people and pipelines.
 *
 *     prunectl submit -f job.json [--wait]     wait: exit 0 succeeded, 1 failed, 3 cancelled
 *     prunectl ls | get ID | wait ID | cancel ID | retry ID | download ID DIR | methods | models
 *
 * Files: http (libcurl), display (bar and tables), commands (one function a verb), main (options). Results go
 * to stdout, progress and complaints to stderr, so that output can be piped. PRUNED_HOST and PRUNED_TOKEN say
 * where.
 */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include "base/json.h"
#include "client/http.h"
#include <stdbool.h>
#include <stddef.h>

enum client_exit {
    CLIENT_OK = 0,
    CLIENT_FAILED = 1,
    CLIENT_USAGE = 2,
    CLIENT_CANCELLED = 3,
    CLIENT_UNREACHABLE = 4,
};

struct client {
    struct http http;
    bool is_json, is_quiet;
    /* of submit */
    const char *file;
    bool is_wait, is_dry_run;
    /* of ls */
    const char *status, *limit;
    /* what is left of the command line */
    char **arguments;
    int argument_count;
};

struct client_command {
    const char *name, *usage, *help;
    int least, most; /* arguments */
    enum client_exit (*run)(struct client *client);
};
extern const struct client_command client_commands[]; /* ends with a NULL name */

/* display.c. All of it on stderr; plain lines unless it is a terminal. */
struct display {
    bool is_terminal, is_open;
    char last[128]; /* of a plain stream: what was said last */
};
void display_init(struct display *display);
void display_job(struct display *display, const json_t *job);
void display_bytes(struct display *display, const char *what, double done_bytes, double all_bytes);
void display_end(struct display *display);
/* "5m 30s"; into text, returns it. */
const char *display_seconds(double seconds, char text[32]);
/* A bar of `width` cells: "[####----]". ratio is clamped to 0..1. */
const char *display_bar(double ratio, char text[64]);
/* The exit code that a job's status means; CLIENT_OK for one that still runs. */
enum client_exit client_exit_of(const char *status, bool *ret_is_terminal);

#endif
