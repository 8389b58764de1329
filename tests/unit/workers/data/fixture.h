/* tests/unit/workers/data/fixture.h: files in a temporary folder, and a tokenizer of bytes. */
#ifndef TESTS_UNIT_WORKERS_DATA_FIXTURE_H
#define TESTS_UNIT_WORKERS_DATA_FIXTURE_H

#include "base/file.h"
#include "base/memory.h"
#include "workers/model/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char fixture_folder[64];

static inline int fixture_start(void **state)
{
    (void)state;
    (void)snprintf(fixture_folder, sizeof fixture_folder, "/tmp/pruned-data-XXXXXX");
    return mkdtemp(fixture_folder) != NULL ? 0 : -1;
}

static inline int fixture_end(void **state)
{
    (void)state;
    return file_remove_tree(fixture_folder, NULL) ? 0 : -1;
}

/* Writes a file anew; the path, valid until the next call. */
static inline const char *fixture_file(const char *name, const char *bytes, size_t count)
{
    static char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", fixture_folder, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
    return path;
}

static inline const char *fixture_text(const char *name, const char *text)
{
    return fixture_file(name, text, strlen(text));
}

/* Ids are bytes; with_bos: 256 comes first. No merges, so that tokens can be counted by eye. */
static inline struct tokenizer *fixture_byte_tokenizer(bool with_bos)
{
    struct text json = {0};
    text_append(&json,
                "{\"added_tokens\":[{\"id\":256,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
                "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},");
    if (with_bos) {
        text_append(
            &json,
            "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
            "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[256]}}},");
    }
    text_append(&json,
                "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    unsigned next = 256;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        text_append_format(&json, "%s\"\\u%04x\":%u", byte > 0 ? "," : "", is_printable ? byte : next, byte);
        next += is_printable ? 0 : 1;
    }
    text_append(&json, "}}}");
    struct error error = {0};
    struct tokenizer *tokenizer = tokenizer_parse(json.bytes, json.length, &error);
    if (tokenizer == NULL) {
        fail_msg("%s", error.message);
    }
    text_finish(&json);
    return tokenizer;
}

#endif
