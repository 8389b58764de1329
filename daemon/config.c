/*
 * daemon/config.c: the table, its four layers and the checks. See config.h.
 *
 * Each layer only writes (text, origin) into the slot of a key; a later layer overwrites an earlier one. What
 * a text means is decided once, at the end, by the type in the table: so a bad value in the file that a flag
 * overrides does no harm, and every fault names the layer that won.
 */
#include "daemon/config.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#define CONFIG_FILE_LIMIT (1u << 20)

enum config_type { CONFIG_TEXT, CONFIG_PATH, CONFIG_LIST, CONFIG_INTEGER, CONFIG_BYTES, CONFIG_ENUM };

struct config_key {
    const char *section, *key, *flag; /* flag NULL: none; "--threads" and so on without the dashes */
    enum config_type type;
    uint64_t min, max;         /* INTEGER, BYTES */
    const char *const *values; /* ENUM */
    const char *value;         /* default; NULL: computed by config_default */
    const char *help;
};

static const char *const level_values[] = {"debug", "info", "warning", "error", NULL};
static const char *const format_values[] = {"json", "text", NULL};

#define TIB (1024ull << 30)
static const struct config_key keys[CONFIG_COUNT] = {
    [CONFIG_SERVER_LISTEN] = {"server", "listen", "listen", CONFIG_TEXT, 0, 0, NULL, "127.0.0.1:8765",
                              "address:port to listen on; port 0 takes a free one"},
    [CONFIG_SERVER_HOSTS] = {"server", "hosts", "host", CONFIG_LIST, 0, 0, NULL, "",
                             "further names a request may carry as its Host; * allows all"},
    [CONFIG_SERVER_TOKEN_FILE] = {"server", "token_file", "token-file", CONFIG_PATH, 0, 0, NULL, NULL,
                                  "file with the bearer token that /v1 asks for; empty: none"},
    [CONFIG_SERVER_PORT_FILE] = {"server", "port_file", "port-file", CONFIG_PATH, 0, 0, NULL, "",
                                 "file that receives the port number once the service is ready"},
    [CONFIG_SERVER_MAX_UPLOAD_BYTES] = {"server", "max_upload_bytes", "max-upload-bytes", CONFIG_BYTES, 1,
                                        16 * TIB, NULL, "64G", "largest uploaded blob"},
    [CONFIG_STORAGE_STATE] = {"storage", "state", "state", CONFIG_PATH, 0, 0, NULL, NULL,
                              "folder of the database and the artifacts"},
    [CONFIG_STORAGE_RESERVE_BYTES] = {"storage", "reserve_bytes", "reserve-bytes", CONFIG_BYTES, 1,
                                      1024 * TIB, NULL, "256M",
                                      "new work is refused below this much free disk"},
    [CONFIG_STORAGE_DATABASE_QUOTA_BYTES] = {"storage", "database_quota_bytes", "database-quota-bytes",
                                             CONFIG_BYTES, 0, 16 * TIB, NULL, "0",
                                             "largest size of the database; 0: none"},
    [CONFIG_STORAGE_SCORE_CACHE_BYTES] = {"storage", "score_cache_bytes", "score-cache-bytes", CONFIG_BYTES,
                                          0, 16 * TIB, NULL, "8G",
                                          "scores kept for later jobs on the same data; 0: none"},
    [CONFIG_MODELS_ROOTS] = {"models", "roots", "root", CONFIG_LIST, 0, 0, NULL, "",
                             "folders that models and texts may be read from"},
    [CONFIG_WORKERS_SLOTS] = {"workers", "slots", "slots", CONFIG_INTEGER, 1, 64, NULL, "1",
                              "jobs that run at the same time"},
    [CONFIG_WORKERS_THREADS] = {"workers", "threads", "threads", CONFIG_INTEGER, 1, 1024, NULL, NULL,
                                "compute threads of each worker"},
    [CONFIG_WORKERS_MEMORY_BYTES] = {"workers", "memory_bytes", "memory-bytes", CONFIG_BYTES, 1u << 20,
                                     64 * TIB, NULL, NULL, "memory that running jobs may reserve together"},
    [CONFIG_WORKERS_PROGRAM] = {"workers", "program", "worker", CONFIG_PATH, 0, 0, NULL, NULL,
                                "the worker program"},
    [CONFIG_WORKERS_LEASE_MS] = {"workers", "lease_ms", "lease-ms", CONFIG_INTEGER, 200, 3600000, NULL,
                                 "30000", "a worker silent for this long is killed"},
    [CONFIG_WORKERS_DRAIN_MS] = {"workers", "drain_ms", "drain-ms", CONFIG_INTEGER, 0, 3600000, NULL, "45000",
                                 "how long a stop waits for workers to reach a resume point"},
    [CONFIG_LOG_LEVEL] = {"log", "level", "log-level", CONFIG_ENUM, 0, 0, level_values, "info",
                          "least level"},
    [CONFIG_LOG_FORMAT] = {"log", "format", "log-format", CONFIG_ENUM, 0, 0, format_values, "json",
                           "json for machines, text for people"},
};

/* ---- defaults that depend on the machine --------------------------------------------------------------- */

static uint64_t cgroup_memory_limit(void)
{
    uint64_t limit = UINT64_MAX;
    size_t count;
    OWNED_MEMORY char *text = file_load("/sys/fs/cgroup/memory.max", 64, &count, NULL);
    if (text != NULL) {
        (void)text_parse_u64(text, strcspn(text, "\n"), &limit); /* "max" stays unlimited */
    }
    return limit;
}

static uint64_t machine_memory_bytes(void)
{
    struct sysinfo info;
    uint64_t total = sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 1ull << 30;
    uint64_t limit = cgroup_memory_limit();
    return (limit < total ? limit : total) / 10 * 8;
}

static char *beside_program(const char *name)
{
    char path[PATH_MAX];
    ssize_t count = readlink("/proc/self/exe", path, sizeof path - 1);
    if (count <= 0) {
        return memory_copy_text(name);
    }
    path[count] = '\0';
    char *slash = strrchr(path, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    return file_join(path, name);
}

static char *format_u64(uint64_t number)
{
    char digits[24];
    (void)snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    return memory_copy_text(digits);
}

/* Under systemd the folders come by environment; that is part of the default, not of our own variables. */
static char *config_default(enum config_index index)
{
    const char *folder;
    if (keys[index].value != NULL) {
        return memory_copy_text(keys[index].value);
    }
    switch ((int)index) {
    case CONFIG_SERVER_TOKEN_FILE:
        folder = getenv("CREDENTIALS_DIRECTORY");
        if (folder != NULL) {
            char *path = file_join(folder, "token");
            if (file_exists(path)) {
                return path;
            }
            free(path);
        }
        return memory_copy_text("");
    case CONFIG_STORAGE_STATE:
        folder = getenv("STATE_DIRECTORY");
        return memory_copy_text(folder != NULL && *folder != '\0' ? folder : "./pruned-state");
    case CONFIG_WORKERS_THREADS: {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        return format_u64(cores > 0 ? (uint64_t)cores : 1);
    }
    case CONFIG_WORKERS_MEMORY_BYTES:
        return format_u64(machine_memory_bytes());
    case CONFIG_WORKERS_PROGRAM:
        return beside_program("pruned-worker");
    default:
        return memory_copy_text("");
    }
}

/* ---- layers -------------------------------------------------------------------------------------------- */

static void config_set(struct config *config, size_t index, const char *value, const char *origin)
{
    free(config->values[index]);
    free(config->origins[index]);
    config->values[index] = memory_copy_text(value);
    config->origins[index] = memory_copy_text(origin);
}

static size_t find_key(const char *section, size_t section_length, const char *key, size_t key_length)
{
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        if (strlen(keys[i].section) == section_length &&
            strncmp(keys[i].section, section, section_length) == 0 && strlen(keys[i].key) == key_length &&
            strncmp(keys[i].key, key, key_length) == 0) {
            return i;
        }
    }
    return CONFIG_COUNT;
}

static bool is_section(const char *name, size_t length)
{
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        if (strlen(keys[i].section) == length && strncmp(keys[i].section, name, length) == 0) {
            return true;
        }
    }
    return false;
}

/* Cuts blanks from both ends, in place. */
static char *trimmed(char *text)
{
    while (isspace((unsigned char)*text)) {
        text++;
    }
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1])) {
        text[--length] = '\0';
    }
    return text;
}

static void load_line(struct config *config, char *line, const char *origin, char *section,
                      size_t section_size, struct error_list *faults)
{
    line = trimmed(line);
    size_t length = strlen(line);
    if (length == 0 || *line == '#' || *line == ';') {
        return;
    }
    if (*line == '[') {
        if (line[length - 1] != ']' || !is_section(line + 1, length - 2)) {
            error_list_add(faults, ERROR_UNKNOWN_FIELD, origin, "%.80s is no section here", line);
            *section = '\0';
        } else {
            (void)snprintf(section, section_size, "%.*s", (int)(length - 2), line + 1);
        }
        return;
    }
    char *equals = strchr(line, '=');
    if (equals == NULL) {
        error_list_add(faults, ERROR_INVALID_ARGUMENT, origin, "expected key = value, found \"%.80s\"", line);
        return;
    }
    *equals = '\0';
    const char *key = trimmed(line);
    char *value = trimmed(equals + 1);
    size_t value_length = strlen(value);
    if (value_length >= 2 && *value == '"' && value[value_length - 1] == '"') {
        value[value_length - 1] = '\0';
        value++;
    }
    size_t index = find_key(section, strlen(section), key, strlen(key));
    if (index == CONFIG_COUNT) {
        error_list_add(faults, ERROR_UNKNOWN_FIELD, origin, "there is no setting %s.%.80s",
                       *section == '\0' ? "(no section)" : section, key);
        return;
    }
    config_set(config, index, value, origin);
}

static void load_file(struct config *config, const char *path, struct error_list *faults)
{
    struct error error;
    size_t count = 0;
    OWNED_MEMORY char *content = file_load(path, CONFIG_FILE_LIMIT, &count, &error);
    if (content == NULL) {
        error_list_add_error(faults, &error);
        return;
    }
    char section[32] = "";
    unsigned number = 0;
    char *rest = content;
    while (rest != NULL) {
        char *line = strsep(&rest, "\n");
        char origin[PATH_MAX + 16];
        (void)snprintf(origin, sizeof origin, "%s:%u", path, ++number);
        load_line(config, line, origin, section, sizeof section, faults);
    }
}

/* Variables that begin with a section of ours must name a key; PRUNED_HOST and PRUNED_TOKEN are prunectl's.
 */
static void load_environment(struct config *config, struct error_list *faults)
{
    for (char **entry = environ; *entry != NULL; entry++) {
        if (!text_starts_with(*entry, "PRUNED_")) {
            continue;
        }
        char name[128];
        size_t length = strcspn(*entry, "=");
        if (length >= sizeof name) {
            continue;
        }
        for (size_t i = 0; i < length; i++) {
            name[i] = (char)tolower((unsigned char)(*entry)[i]);
        }
        name[length] = '\0';
        const char *section = name + strlen("PRUNED_");
        size_t section_length = strcspn(section, "_");
        if (section[section_length] != '_' || !is_section(section, section_length)) {
            continue;
        }
        const char *key = section + section_length + 1;
        char origin[128];
        (void)snprintf(origin, sizeof origin, "%.*s", (int)length, *entry);
        size_t index = find_key(section, section_length, key, strlen(key));
        if (index == CONFIG_COUNT) {
            error_list_add(faults, ERROR_UNKNOWN_FIELD, origin, "there is no setting %.*s.%s",
                           (int)section_length, section, key);
        } else if ((*entry)[length] == '=') {
            config_set(config, index, *entry + length + 1, origin);
        }
    }
}

static void load_flag(struct config *config, const char *flag, const char *value, struct error_list *faults)
{
    char origin[128];
    (void)snprintf(origin, sizeof origin, "--%s", flag);
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        if (strcmp(keys[i].flag, flag) != 0) {
            continue;
        }
        if (value == NULL) {
            error_list_add(faults, ERROR_MISSING_FIELD, origin, "needs a value: %s", keys[i].help);
        } else if (keys[i].type == CONFIG_LIST && strcmp(config->origins[i], origin) == 0) {
            FINISHED(text) joined = {0}; /* a repeated flag adds to its list */
            text_append_format(&joined, "%s:%s", config->values[i], value);
            config_set(config, i, joined.bytes, origin);
        } else {
            config_set(config, i, value, origin);
        }
        return;
    }
    error_list_add(faults, ERROR_UNKNOWN_FIELD, origin, "there is no such flag");
}

static void load_flags(struct config *config, int argc, char *const *argv, struct error_list *faults)
{
    for (int i = 0; i < argc; i++) {
        if (!text_starts_with(argv[i], "--")) {
            error_list_add(faults, ERROR_INVALID_ARGUMENT, argv[i], "\"%.80s\" is no flag", argv[i]);
            continue;
        }
        char flag[64];
        (void)snprintf(flag, sizeof flag, "%.*s", (int)strcspn(argv[i] + 2, "="), argv[i] + 2);
        const char *value = strchr(argv[i], '=');
        if (value != NULL) {
            value++;
        } else if (i + 1 < argc) {
            value = argv[++i];
        }
        if (strcmp(flag, "config") != 0) {
            load_flag(config, flag, value, faults);
        }
    }
}

static char *find_config_path(int argc, char *const *argv)
{
    for (int i = 0; i < argc; i++) {
        if (text_starts_with(argv[i], "--config=")) {
            return memory_copy_text(argv[i] + strlen("--config="));
        }
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
            return memory_copy_text(argv[i + 1]);
        }
    }
    const char *folder = getenv("CONFIGURATION_DIRECTORY");
    if (folder != NULL) {
        char *path = file_join(folder, "pruned.conf");
        if (file_exists(path)) {
            return path;
        }
        free(path);
    }
    return NULL;
}

/* ---- what the texts mean ------------------------------------------------------------------------------- */

static bool parse_bytes(const char *text, uint64_t *ret_bytes)
{
    size_t length = strlen(text);
    static const char suffixes[] = "kMGT";
    unsigned shift = 0;
    if (length > 0) {
        const char *suffix = strchr(suffixes, text[length - 1]);
        if (suffix != NULL && *suffix != '\0') {
            shift = 10u * (unsigned)(suffix - suffixes + 1);
            length--;
        }
    }
    uint64_t number;
    return text_parse_u64(text, length, &number) &&
           !__builtin_mul_overflow(number, (uint64_t)1 << shift, ret_bytes);
}

static uint64_t check_number(const struct config *config, size_t index, struct error_list *faults)
{
    const struct config_key *key = &keys[index];
    const char *text = config->values[index];
    uint64_t number = 0;
    bool parsed =
        key->type == CONFIG_BYTES ? parse_bytes(text, &number) : text_parse_u64(text, strlen(text), &number);
    if (!parsed) {
        error_list_add(faults, ERROR_WRONG_TYPE, config->origins[index], "%s.%s is \"%.60s\"; expected a %s",
                       key->section, key->key, text,
                       key->type == CONFIG_BYTES ? "number of bytes (4G, 512M)" : "whole number");
    } else if (number < key->min || number > key->max) {
        error_list_add(faults, ERROR_OUT_OF_RANGE, config->origins[index],
                       "%s.%s is %llu; allowed: %llu to %llu", key->section, key->key,
                       (unsigned long long)number, (unsigned long long)key->min,
                       (unsigned long long)key->max);
    }
    return number;
}

static size_t check_enum(const struct config *config, size_t index, struct error_list *faults)
{
    const struct config_key *key = &keys[index];
    FINISHED(text) known = {0};
    for (size_t i = 0; key->values[i] != NULL; i++) {
        if (strcmp(config->values[index], key->values[i]) == 0) {
            return i;
        }
        text_append_format(&known, "%s%s", i == 0 ? "" : ", ", key->values[i]);
    }
    error_list_add(faults, ERROR_UNKNOWN_VALUE, config->origins[index], "%s.%s is \"%.60s\"; known: %s",
                   key->section, key->key, config->values[index], known.bytes);
    return 0;
}

static char **split_list(const char *value)
{
    size_t count = 1;
    for (const char *at = value; *at != '\0'; at++) {
        count += *at == ':' || *at == ',';
    }
    char **items = memory_create(count + 1, sizeof *items);
    size_t filled = 0;
    for (const char *at = value; *at != '\0';) {
        size_t length = strcspn(at, ":,");
        if (length > 0) {
            items[filled++] = strndup(at, length);
        }
        at += length + (at[length] != '\0');
    }
    return items;
}

static void check_roots(struct config *config, struct error_list *faults)
{
    config->roots = split_list(config->values[CONFIG_MODELS_ROOTS]);
    for (size_t i = 0; config->roots[i] != NULL; i++) {
        char *resolved = realpath(config->roots[i], NULL);
        if (resolved == NULL || !file_is_folder(resolved)) {
            error_list_add(faults, ERROR_NOT_FOUND, config->origins[CONFIG_MODELS_ROOTS],
                           "models.roots: %.200s is no folder that can be opened", config->roots[i]);
            free(resolved);
            continue;
        }
        free(config->roots[i]);
        config->roots[i] = resolved;
    }
}

static void check_listen(struct config *config, struct error_list *faults)
{
    const char *value = config->values[CONFIG_SERVER_LISTEN];
    const char *colon = strrchr(value, ':');
    uint64_t port;
    if (colon == NULL || colon == value || !text_parse_u64(colon + 1, strlen(colon + 1), &port) ||
        port > 65535) {
        error_list_add(faults, ERROR_INVALID_ARGUMENT, config->origins[CONFIG_SERVER_LISTEN],
                       "server.listen is \"%.100s\"; expected address:port, like 127.0.0.1:8765", value);
        return;
    }
    size_t length = (size_t)(colon - value);
    if (*value == '[' && length > 2 && value[length - 1] == ']') {
        value++;
        length -= 2;
    }
    config->address = strndup(value, length);
    config->port = (uint16_t)port;
}

static void check_token(struct config *config, struct error_list *faults)
{
    const char *path = config->values[CONFIG_SERVER_TOKEN_FILE];
    if (*path == '\0') {
        return;
    }
    struct error error;
    size_t count = 0;
    char *content = file_load(path, 4096, &count, &error);
    if (content == NULL) {
        error_list_add(faults, error.code, config->origins[CONFIG_SERVER_TOKEN_FILE], "server.token_file: %s",
                       error.message);
        return;
    }
    char *token = trimmed(content);
    if (strlen(token) < 16) {
        error_list_add(faults, ERROR_OUT_OF_RANGE, config->origins[CONFIG_SERVER_TOKEN_FILE],
                       "server.token_file: the token in %.200s has %zu characters; at least 16 are needed",
                       path, strlen(token));
    } else {
        config->token = memory_copy_text(token);
    }
    free(content);
}

static void check_worker(struct config *config, struct error_list *faults)
{
    char *resolved = realpath(config->values[CONFIG_WORKERS_PROGRAM], NULL);
    if (resolved == NULL || access(resolved, X_OK) != 0) {
        error_list_add(faults, ERROR_NOT_FOUND, config->origins[CONFIG_WORKERS_PROGRAM],
                       "workers.program: %.200s cannot be run: %s", config->values[CONFIG_WORKERS_PROGRAM],
                       strerror(errno));
        free(resolved);
        return;
    }
    config->worker_path = resolved;
}

static void check_values(struct config *config, struct error_list *faults)
{
    check_listen(config, faults);
    check_token(config, faults);
    check_roots(config, faults);
    check_worker(config, faults);
    config->hosts = split_list(config->values[CONFIG_SERVER_HOSTS]);
    if (*config->values[CONFIG_SERVER_PORT_FILE] != '\0') {
        config->port_file = memory_copy_text(config->values[CONFIG_SERVER_PORT_FILE]);
    }
    config->state = memory_copy_text(config->values[CONFIG_STORAGE_STATE]);
    if (*config->state == '\0') {
        error_list_add(faults, ERROR_MISSING_FIELD, config->origins[CONFIG_STORAGE_STATE],
                       "storage.state is empty");
    }
    config->max_upload_bytes = check_number(config, CONFIG_SERVER_MAX_UPLOAD_BYTES, faults);
    config->reserve_bytes = check_number(config, CONFIG_STORAGE_RESERVE_BYTES, faults);
    config->database_quota_bytes = check_number(config, CONFIG_STORAGE_DATABASE_QUOTA_BYTES, faults);
    config->score_cache_bytes = check_number(config, CONFIG_STORAGE_SCORE_CACHE_BYTES, faults);
    config->slots = (size_t)check_number(config, CONFIG_WORKERS_SLOTS, faults);
    config->threads = (size_t)check_number(config, CONFIG_WORKERS_THREADS, faults);
    config->memory_bytes = check_number(config, CONFIG_WORKERS_MEMORY_BYTES, faults);
    config->lease_ms = (int64_t)check_number(config, CONFIG_WORKERS_LEASE_MS, faults);
    config->drain_ms = (int64_t)check_number(config, CONFIG_WORKERS_DRAIN_MS, faults);
    config->log_level = (enum log_level)check_enum(config, CONFIG_LOG_LEVEL, faults);
    config->log_format = (enum log_format)check_enum(config, CONFIG_LOG_FORMAT, faults);
}

bool config_load(int argc, char *const *argv, struct config *ret_config, struct error_list *faults)
{
    memset(ret_config, 0, sizeof *ret_config);
    size_t before = faults->count;
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        OWNED_MEMORY char *value = config_default((enum config_index)i);
        config_set(ret_config, i, value, "default");
    }
    OWNED_MEMORY char *path = find_config_path(argc, argv);
    if (path != NULL) {
        load_file(ret_config, path, faults);
    }
    load_environment(ret_config, faults);
    load_flags(ret_config, argc, argv, faults);
    check_values(ret_config, faults);
    return faults->count == before;
}

static void list_finish(char **items)
{
    for (size_t i = 0; items != NULL && items[i] != NULL; i++) {
        free(items[i]);
    }
    free(items);
}

void config_finish(struct config *config)
{
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        free(config->values[i]);
        free(config->origins[i]);
    }
    list_finish(config->hosts);
    list_finish(config->roots);
    free(config->address);
    if (config->token != NULL) {
        explicit_bzero(config->token, strlen(config->token));
    }
    free(config->token);
    free(config->port_file);
    free(config->state);
    free(config->worker_path);
    memset(config, 0, sizeof *config);
}

void config_print(const struct config *config, struct text *ret_text)
{
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        text_append_format(ret_text, "%s.%s = %s  # %s\n", keys[i].section, keys[i].key, config->values[i],
                           config->origins[i]);
    }
}

void config_print_flags(struct text *ret_text)
{
    text_append_format(ret_text, "  --%-22s %s\n", "config FILE", "settings, [section] key = value");
    for (size_t i = 0; i < CONFIG_COUNT; i++) {
        text_append_format(ret_text, "  --%-22s %s (%s.%s%s%s)\n", keys[i].flag, keys[i].help,
                           keys[i].section, keys[i].key,
                           keys[i].value != NULL && *keys[i].value != '\0' ? ", default " : "",
                           keys[i].value != NULL ? keys[i].value : "");
    }
}
