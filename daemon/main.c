/*
 * daemon/main.c: the command line of `pruned`.
 *
 *     pruned serve [flags]            the service
 *     pruned check-config [flags]     every setting and where it comes from; exit 2 on a fault
 *     pruned run SPEC.json --out DIR [--threads N] [--resume] [--cache DIR [--cache-bytes N]]
 *                                     one job in the foreground, by pruned-worker
 */
#include "base/cleanup.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 2

static int usage(FILE *stream)
{
    FINISHED(text) flags = {0};
    config_print_flags(&flags);
    (void)fprintf(stream,
                  "usage: pruned serve [flags]\n"
                  "       pruned check-config [flags]\n"
                  "       pruned run SPEC.json --out DIR [--threads N] [--resume]\n"
                  "                  [--cache DIR [--cache-bytes N]]\n"
                  "       pruned version\n\n"
                  "flags of serve and check-config (default < file < PRUNED_SECTION_KEY < flag):\n%s",
                  flags.bytes);
    return stream == stdout ? 0 : EXIT_USAGE;
}

static void print_faults(const struct error_list *faults)
{
    for (size_t i = 0; i < faults->stored; i++) {
        (void)fprintf(stderr, "%s: %s (%s)\n", faults->items[i].field, faults->items[i].message,
                      error_code_slug(faults->items[i].code));
    }
}

static int check_config(int argc, char *const *argv)
{
    FINISHED(error_list) faults = {0};
    FINISHED(config) config = {0};
    bool is_fine = config_load(argc, argv, &config, &faults);
    FINISHED(text) text = {0};
    config_print(&config, &text);
    (void)fputs(text.bytes, stdout);
    print_faults(&faults);
    return is_fine ? 0 : EXIT_USAGE;
}

static int serve(int argc, char *const *argv)
{
    FINISHED(error_list) faults = {0};
    FINISHED(config) config = {0};
    if (!config_load(argc, argv, &config, &faults)) {
        print_faults(&faults);
        return EXIT_USAGE;
    }
    return daemon_serve(&config);
}

/* The worker does it all; we only find it beside us. */
static int run(int argc, char **argv)
{
    char path[PATH_MAX];
    ssize_t count = readlink("/proc/self/exe", path, sizeof path - sizeof "-worker");
    if (count <= 0) {
        perror("pruned: cannot find pruned-worker beside this program");
        return 1;
    }
    memcpy(path + count, "-worker", sizeof "-worker");
    const char *program = getenv("PRUNED_WORKERS_PROGRAM");
    char name[] = "pruned-worker";
    char verb[] = "--run";
    char *arguments[16] = {name, verb};
    if (argc < 1 || argc > 12) {
        return usage(stderr);
    }
    for (int i = 0; i < argc; i++) {
        arguments[2 + i] = argv[i];
    }
    (void)execv(program != NULL ? program : path, arguments);
    (void)fprintf(stderr, "pruned: cannot run %s: %s\n", program != NULL ? program : path, strerror(errno));
    return 1;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            return usage(stdout);
        }
    }
    if (strcmp(verb, "serve") == 0) {
        return serve(argc - 2, argv + 2);
    }
    if (strcmp(verb, "check-config") == 0) {
        return check_config(argc - 2, argv + 2);
    }
    if (strcmp(verb, "run") == 0) {
        return run(argc - 2, argv + 2);
    }
    if (strcmp(verb, "version") == 0 || strcmp(verb, "--version") == 0) {
        (void)puts("pruned " PRUNED_VERSION);
        return 0;
    }
    return usage(strcmp(verb, "--help") == 0 || strcmp(verb, "help") == 0 ? stdout : stderr);
}
