/*
 * tests/tools/dump_tokens.c: token ids for comparison with other programs.
 *
 *     dump_tokens [--special] [--decode] TOKENIZER_FOLDER < documents > ids
 *
 * Documents come as a 4-byte little-endian length and that many bytes, one after another; each is answered by a 4-byte count and that
 * many 4-byte ids. With --decode the same the other way round: counted ids come in, counted bytes go out. A refused document
 * ends the program with status 1 and the reason on stderr.
 */
#include "base/json.h"
#include "base/memory.h"
#include "workers/model/tokenizer.h"

#include <stdio.h>
#include <string.h>

/* One counted item of `item_bytes` each; *ret_items owned. False at the end of the input. */
static bool read_counted(size_t item_bytes, void **ret_items, uint32_t *ret_count)
{
    if (fread(ret_count, sizeof *ret_count, 1, stdin) != 1) {
        return false;
    }
    *ret_items = memory_create((size_t)*ret_count + 1, item_bytes);
    return fread(*ret_items, item_bytes, *ret_count, stdin) == *ret_count;
}

static void write_counted(size_t item_bytes, const void *items, size_t count)
{
    uint32_t written = (uint32_t)count;
    (void)fwrite(&written, sizeof written, 1, stdout);
    if (count > 0) {
        (void)fwrite(items, item_bytes, count, stdout);
    }
}

int main(int argc, char **argv)
{
    bool adds_special = false, decodes = false;
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++) {
        adds_special = adds_special || strcmp(argv[at], "--special") == 0;
        decodes = decodes || strcmp(argv[at], "--decode") == 0;
    }
    if (at + 1 != argc) {
        (void)fprintf(stderr, "usage: dump_tokens [--special] [--decode] TOKENIZER_FOLDER\n");
        return 2;
    }
    json_start();
    struct error error = {0};
    OWNED(tokenizer) tokenizer = tokenizer_load(argv[at], &error);
    void *items = NULL;
    uint32_t count = 0;
    while (tokenizer != NULL && error.code == ERROR_NONE && read_counted(decodes ? 4 : 1, &items, &count)) {
        struct tokens tokens = {0};
        struct text text = {0};
        if (decodes) {
            tokenizer_decode(tokenizer, items, count, adds_special, &text);
            write_counted(1, text.bytes, text.length);
        } else if (tokenizer_encode(tokenizer, items, count, adds_special, &tokens, &error)) {
            write_counted(4, tokens.ids, tokens.count);
        }
        tokens_finish(&tokens);
        text_finish(&text);
        free(items);
        items = NULL;
    }
    free(items);
    if (error.code != ERROR_NONE) {
        (void)fprintf(stderr, "%s: %s\n", error_code_slug(error.code), error.message);
        return 1;
    }
    return 0;
}
