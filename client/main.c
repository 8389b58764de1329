/* client/main.c: the command line of prunectl. See client.h. */
#include "base/cleanup.h"
#include "base/memory.h"
#include "client/client.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum client_exit usage(FILE *stream)
{
    (void)fprintf(stream, "usage: prunectl [--host URL] [--token T] [--json] [-q] COMMAND\n\n");
    for (const struct client_command *command = client_commands; command->name != NULL; command++) {
        (void)fprintf(stream, "  %-9s %-30s %s\n", command->name, command->usage, command->help);
    }
    (void)fprintf(
        stream, "\nPRUNED_HOST (http://127.0.0.1:8765) and PRUNED_TOKEN are used when the flags are absent.\n"
                "exit: 0 done or succeeded, 1 failed, 2 usage, 3 cancelled, 4 unreachable\n");
    return stream == stdout ? CLIENT_OK : CLIENT_USAGE;
}

struct settings {
    const char *host, *token;
};

/* Takes one option; returns how many words it used, 0 if it is none, -1 if its value is missing. */
static int take_option(struct client *client, struct settings *settings, char **words, int count)
{
    const struct {
        const char *name, *other;
        bool *flag;
        const char **value;
    } options[] = {
        {"--host", "-H", NULL, &settings->host},      {"--token", "", NULL, &settings->token},
        {"--json", "", &client->is_json, NULL},       {"--quiet", "-q", &client->is_quiet, NULL},
        {"--file", "-f", NULL, &client->file},        {"--wait", "", &client->is_wait, NULL},
        {"--dry-run", "", &client->is_dry_run, NULL}, {"--status", "", NULL, &client->status},
        {"--limit", "-n", NULL, &client->limit},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (strcmp(*words, options[i].name) != 0 &&
            (*options[i].other == '\0' || strcmp(*words, options[i].other) != 0)) {
            continue;
        }
        if (options[i].flag != NULL) {
            *options[i].flag = true;
            return 1;
        }
        if (count < 2) {
            return -1;
        }
        *options[i].value = words[1];
        return 2;
    }
    return 0;
}

static const struct client_command *find_command(const char *name)
{
    for (const struct client_command *command = client_commands; command->name != NULL; command++) {
        if (strcmp(command->name, name) == 0) {
            return command;
        }
    }
    return NULL;
}

static enum client_exit run(struct client *client, const struct settings *settings)
{
    const struct client_command *command =
        client->argument_count > 0 ? find_command(client->arguments[0]) : NULL;
    if (command == NULL) {
        return usage(stderr);
    }
    client->arguments++;
    client->argument_count--;
    if (client->argument_count < command->least || client->argument_count > command->most) {
        (void)fprintf(stderr, "usage: prunectl %s %s\n", command->name, command->usage);
        return CLIENT_USAGE;
    }
    struct error error;
    if (!http_open(&client->http, settings->host, settings->token, &error)) {
        (void)fprintf(stderr, "prunectl: %s\n", error.message);
        return CLIENT_FAILED;
    }
    enum client_exit outcome = command->run(client);
    http_close(&client->http);
    return outcome;
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    json_start();
    struct settings settings = {getenv("PRUNED_HOST"), getenv("PRUNED_TOKEN")};
    struct client client = {0};
    char **words = memory_create((size_t)argc + 1, sizeof *words);
    client.arguments = words;
    for (int i = 1; i < argc;) {
        int used = take_option(&client, &settings, argv + i, argc - i);
        if (strcmp(argv[i], "--help") == 0) {
            free(words);
            return (int)usage(stdout);
        }
        if (used < 0 || (used == 0 && *argv[i] == '-' && argv[i][1] != '\0')) {
            (void)fprintf(stderr, "prunectl: %s %s\n", argv[i], used < 0 ? "needs a value" : "is no option");
            free(words);
            return CLIENT_USAGE;
        }
        if (used == 0) {
            words[client.argument_count++] = argv[i];
            used = 1;
        }
        i += used;
    }
    if (settings.host == NULL || *settings.host == '\0') {
        settings.host = "http://127.0.0.1:8765";
    }
    enum client_exit outcome = run(&client, &settings);
    free(words);
    return (int)outcome;
}
