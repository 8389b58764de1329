/*
 * tests/fuzz/replay.c: runs one fuzz target over the files of its corpus, as a normal test. The whole corpus is one
 * TAP result each; a fault ends the process, and the last name printed is the culprit.
 */
#include "base/cleanup.h"
#include "base/file.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>

#define REPLAY_LIMIT_BYTES ((size_t)16 << 20)

struct replay {
    const char *folder;
    int count;
};

static bool replay_file(const char *relative, const struct stat *status, void *context, struct error *error)
{
    struct replay *replay = context;
    if (!S_ISREG(status->st_mode)) {
        return true;
    }
    size_t count = 0;
    OWNED_MEMORY char *path = file_join(replay->folder, relative);
    OWNED_MEMORY char *bytes = file_load(path, REPLAY_LIMIT_BYTES, &count, error);
    if (bytes == NULL) {
        return false;
    }
    (void)printf("# %s\n", relative);
    (void)fflush(stdout);
    /* A copy of exactly `count` bytes, so that the address sanitizer sees a read past the end. */
    OWNED_MEMORY uint8_t *exact = malloc(count > 0 ? count : 1);
    if (exact == NULL) {
        return error_set(error, ERROR_OUT_OF_MEMORY, "%s", path);
    }
    for (size_t i = 0; i < count; i++) {
        exact[i] = (uint8_t)bytes[i];
    }
    (void)LLVMFuzzerTestOneInput(exact, count);
    (void)printf("ok %d - %s\n", ++replay->count, relative);
    return true;
}

int main(int argument_count, char **arguments)
{
    if (argument_count != 2) {
        (void)fprintf(stderr, "usage: %s CORPUS-FOLDER\n", arguments[0]);
        return 2;
    }
    struct error error = {0};
    struct replay replay = {.folder = arguments[1]};
    if (!file_walk(replay.folder, replay_file, &replay, &error)) {
        (void)printf("not ok %d - %s\n", replay.count + 1, error.message);
        return 1;
    }
    (void)printf("1..%d\n", replay.count);
    return replay.count > 0 ? 0 : 1; /* an empty corpus tests nothing */
}
