/*
 * tests/tools/dump_page.c: the report's page without a job.
 *
 *     dump_page REPORT.json > report.html
 */
#include "base/cleanup.h"
#include "base/json.h"
#include "workers/recipe/page.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    struct error error = {0};
    json_start();
    JSON_OWNED report = argc == 2 ? json_load(argv[1], (size_t)64 << 20, &error) : NULL;
    if (report == NULL) {
        (void)fprintf(stderr, "usage: dump_page REPORT.json\n%s\n", error.message);
        return 1;
    }
    OWNED_MEMORY char *page = page_format(report);
    (void)fputs(page, stdout);
    return 0;
}
