/* tests/fuzz/tokenizer_fuzz.c: a tokenizer.json of any bytes is refused or loaded; what was loaded encodes and decodes a text, and the
 * ids stay inside its vocabulary. The text is what follows the first NUL, which no JSON has; without one a fixed text. */
#include "base/check.h"
#include "tests/fuzz/fuzz.h"
#include "workers/model/tokenizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const char fixed[] =
        "Hello  world, it's 2026!\n\tna\xc3\xafve <s> caf\x65\xcc\x81 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80"
        /* ligature, halfwidth, Hangul in parts, family, flag, prepended number sign, zero width, control, CR LF */
        "\xef\xac\x81 \xef\xbd\xb6 \xe1\x84\x92\xe1\x85\xa1 \xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9 "
        "\xf0\x9f\x87\xa9\xf0\x9f\x87\xaa\xd8\x80"
        "1\xe2\x80\x8b\x01\r\n[SEP]\xe2\x96\x81 \xc4\xb0";
    struct error error = {0};
    const char *at = (const char *)bytes, *end = count > 0 ? memchr(bytes, '\0', count) : NULL;
    size_t file_count = end != NULL ? (size_t)(end - at) : count;
    const char *text = end != NULL ? end + 1 : fixed;
    size_t length = end != NULL ? count - file_count - 1 : strlen(fixed);
    OWNED(tokenizer) tokenizer = tokenizer_parse(at, file_count, &error);
    if (tokenizer == NULL) {
        CHECK(error.code != ERROR_NONE && error.message[0] != '\0');
        return 0;
    }
    struct tokens tokens = {0};
    struct text decoded = {0};
    if (tokenizer_encode(tokenizer, text, length, true, &tokens, &error)) {
        for (size_t i = 0; i < tokens.count; i++) {
            CHECK(tokens.ids[i] >= 0 && (size_t)tokens.ids[i] < tokenizer_vocab_size(tokenizer));
        }
        tokenizer_decode(tokenizer, tokens.ids, tokens.count, false, &decoded);
    }
    tokens_finish(&tokens);
    text_finish(&decoded);
    return 0;
}
