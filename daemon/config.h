/*
 * daemon/config.h: the settings of `pruned serve`, one table for all of their ways in.
 *
 *     default  <  file ([section] key = value)  <  environment PRUNED_SECTION_KEY  <  flag --key
 *
 * The table in config.c names each setting once: section, key, type, bounds, default, help. From it come the
 * parser of the file, the names of the variables and flags, the check of every value, and what
 * `pruned check-config` prints. All faults are collected, each with where it stands ("pruned.conf:12",
 * "PRUNED_WORKERS_SLOTS", "--slots"). An unknown key is a fault, never ignored.
 *
 * A list (models.roots, server.hosts) is separated by colons or commas; its flag may be repeated.
 * Bytes take a suffix: k, M, G, T (powers of 1024).
 */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* section, key, C name of the index */
enum config_index {
    CONFIG_SERVER_LISTEN,
    CONFIG_SERVER_HOSTS,
    CONFIG_SERVER_TOKEN_FILE,
    CONFIG_SERVER_PORT_FILE,
    CONFIG_SERVER_MAX_UPLOAD_BYTES,
    CONFIG_STORAGE_STATE,
    CONFIG_STORAGE_RESERVE_BYTES,
    CONFIG_STORAGE_DATABASE_QUOTA_BYTES,
    CONFIG_STORAGE_SCORE_CACHE_BYTES,
    CONFIG_MODELS_ROOTS,
    CONFIG_WORKERS_SLOTS,
    CONFIG_WORKERS_THREADS,
    CONFIG_WORKERS_MEMORY_BYTES,
    CONFIG_WORKERS_PROGRAM,
    CONFIG_WORKERS_LEASE_MS,
    CONFIG_WORKERS_DRAIN_MS,
    CONFIG_LOG_LEVEL,
    CONFIG_LOG_FORMAT,
    CONFIG_COUNT
};

struct config {
    /* As written, with its origin; both owned. values[i] is never NULL once loaded. */
    char *values[CONFIG_COUNT];
    char *origins[CONFIG_COUNT];

    /* Checked and typed; owned, fixed after config_load. */
    char *address; /* of server.listen */
    uint16_t port;
    char **hosts;      /* NULL-terminated */
    char **roots;      /* NULL-terminated, absolute, links resolved */
    char *token;       /* NULL: none; content of the token file */
    char *port_file;   /* NULL: none */
    char *state;       /* folder */
    char *worker_path; /* absolute */
    uint64_t reserve_bytes, database_quota_bytes, max_upload_bytes, memory_bytes;
    uint64_t score_cache_bytes; /* 0: scores are not kept */
    size_t slots, threads;
    int64_t lease_ms, drain_ms;
    enum log_level log_level;
    enum log_format log_format;
};

/* Reads the command line after the program's verb (argv[0] is the first flag), the environment, the file
 * named by --config (or $CONFIGURATION_DIRECTORY/pruned.conf if it exists), and the defaults. Returns whether
 * `faults` stayed empty; `config` is filled in as far as possible either way, so that it can be printed. */
bool config_load(int argc, char *const *argv, struct config *ret_config, struct error_list *faults);
void config_finish(struct config *config);

/* One line per setting: "section.key = value   # origin". Secrets stand in files and so never appear. */
void config_print(const struct config *config, struct text *ret_text);
/* The flags with their help, for --help. */
void config_print_flags(struct text *ret_text);

#endif
