/* What report.html says of what went, from the members of report.json that say it. */
#include "base/cleanup.h"
#include "base/json.h"
#include "workers/recipe/page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Two layers of 8 heads and 48 channels; removed of their 4 sublayers, narrowed FFNs, and residual channels kept (0: all). */
static json_t *make_report(const char *method, size_t removed, size_t narrowed, size_t hidden)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(json_array_append_new(layers, json_pack("{s:i, s:{s:i, s:i}, s:{s:i, s:i}}", "layer",
                                                                 (int)i, "attention", "heads", 8,
                                                                 "kept_heads", i < removed ? 0 : 8, "ffn",
                                                                 "of", 48, "kept", i < narrowed ? 32 : 48)),
                         0);
    }
    json_t *plan = json_pack("{s:[b, b], s:[], s:i}", "kept", 1, 1, "points", "removed_count", (int)removed);
    if (hidden > 0) {
        json_put_i64(plan, "hidden_count", (int64_t)hidden);
    }
    return json_pack("{s:s, s:{s:s, s:i}, s:{s:s}, s:{s:s, s:f, s:f, s:i}, s:o, s:o, s:{s:{s:i}}}", "type",
                     "pruning", "model", "name", "tiny", "hidden_size", 32, "method", "name", method,
                     "target", "kind", "sparsity", "requested", 0.25, "achieved", 0.26, "sublayers_removed",
                     (int)removed, "plan", plan, "layers", layers, "size", "before", "sublayers", 4);
}

static void the_page_says_what_went_however_it_went(void **state)
{
    (void)state;
    static const struct {
        const char *method;
        size_t removed, narrowed, hidden;
        const char *sentence;
    } rows[] = {
        {"finercut", 2, 0, 0, "finercut removed 2 of 4 sublayers. Target sparsity: 0.25 asked for"},
        {"finercut", 0, 0, 0, "finercut removed 0 of 4 sublayers. Target"},
        {"flap", 0, 2, 0, "flap narrowed 2 of 4 sublayers. Target"},
        {"combined", 1, 2, 0, "combined removed 1 and narrowed 2 of 4 sublayers. Target"},
        {"slicegpt", 0, 0, 24, "slicegpt kept 24 of 32 residual channels. Target"},
        {"minitron", 0, 1, 24,
         "minitron kept 24 of 32 residual channels and narrowed 1 of 4 sublayers. Target"},
        {"minitron", 2, 0, 24,
         "minitron kept 24 of 32 residual channels and removed 2 of 4 sublayers. Target"},
        {"minitron", 2, 1, 24,
         "minitron kept 24 of 32 residual channels and removed 2 and narrowed 1 of 4 sublayers. Target"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        JSON_OWNED report = make_report(rows[i].method, rows[i].removed, rows[i].narrowed, rows[i].hidden);
        assert_non_null(report);
        OWNED_MEMORY char *page = page_format(report);
        if (strstr(page, rows[i].sentence) == NULL) {
            const char *lead = strstr(page, "<p class=\"lead\">");
            fail_msg("row %zu: %.160s", i, lead != NULL ? lead : "no lead");
        }
    }
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_says_what_went_however_it_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
