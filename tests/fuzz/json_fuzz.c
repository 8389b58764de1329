/* tests/fuzz/json_fuzz.c: what json_parse accepts must print, read back as the same value, and print the same. */
#include "base/check.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct error error = {0};
    JSON_OWNED json = json_parse((const char *)bytes, count, JSON_LIMIT_BYTES, &error);
    if (json == NULL) {
        CHECK(error.code == ERROR_MALFORMED_JSON || error.code == ERROR_DUPLICATE_KEY ||
              error.code == ERROR_TOO_LARGE);
        CHECK(error.message[0] != '\0');
        return 0;
    }
    char *compact = json_format(json, false), *indented = json_format(json, true);
    JSON_OWNED again = json_parse(compact, strlen(compact), SIZE_MAX, &error);
    JSON_OWNED from_indented = json_parse(indented, strlen(indented), SIZE_MAX, &error);
    CHECK(json_equal(json, again));
    CHECK(json_equal(json, from_indented));
    char *twice = json_format(again, false);
    CHECK(strcmp(compact, twice) == 0);
    free(compact);
    free(indented);
    free(twice);
    return 0;
}
