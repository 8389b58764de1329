/*
 * workers/process/main.c: the command line of pruned-worker.
 *
 * Started by the daemon without arguments and with its socket as descriptor 3; the other forms stand in
 * protocol.h.
 */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "workers/process/process_internal.h"
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* limits.max_memory_bytes is about what is resident, so what was freed must go back: large blocks are mappings of their own (glibc
 * would raise the threshold with the first one freed), and there are few arenas to keep holes in. */
static void bound_heap(void)
{
    enum { LARGE_BYTES = 256 << 10, TOP_BYTES = 1 << 20 };
    (void)mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, TOP_BYTES);
    (void)mallopt(M_ARENA_MAX, 2);
}

int main(int argc, char **argv)
{
    bound_heap();
    /* BLAS reads this before main in some builds; the daemon sets it too. Our own pool divides the work. */
    (void)setenv("OPENBLAS_NUM_THREADS", "1", 1);
    (void)signal(SIGPIPE, SIG_IGN);
    file_sync_failure_is_error = true; /* nothing here is durable until the daemon says so */
    json_start();
    log_start("pruned-worker", LOG_INFO, LOG_FORMAT_TEXT);
    const char *mode = argc > 1 ? argv[1] : "";
    if (argc == 1) {
        return service_main();
    }
    if (argc == 2 &&
        (strcmp(mode, "--describe") == 0 || strcmp(mode, "--inspect") == 0 || strcmp(mode, "--plan") == 0)) {
        return question_main(mode);
    }
    if (strcmp(mode, "--run") == 0) {
        return foreground_main(argc - 2, argv + 2);
    }
    (void)fprintf(stderr, "usage: pruned-worker --describe | --inspect | --plan\n"
                          "       pruned-worker --run SPEC.json --out DIR [--threads N] [--resume]\n"
                          "                            [--cache DIR [--cache-bytes N]]\n"
                          "without arguments it serves one job of the daemon on descriptor 3\n");
    return 2;
}
