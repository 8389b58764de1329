/* workers/model/utf8.h: code points of UTF-8 text. */
#ifndef WORKERS_MODEL_UTF8_H
#define WORKERS_MODEL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the longest valid prefix (no surrogates, no overlong forms); == count: all of it is UTF-8. */
size_t utf8_valid_prefix(const char *bytes, size_t count);
/* Bytes of the character that starts at bytes[0] of valid UTF-8. */
static inline size_t utf8_length(const char *bytes)
{
    unsigned char first = (unsigned char)bytes[0];
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}
/* The code point at bytes[0] of valid UTF-8. */
uint32_t utf8_decode(const char *bytes);
/* Writes 1 to 4 bytes, returns how many. */
size_t utf8_encode(uint32_t code_point, char ret_bytes[4]);
/* White_Space. */
bool utf8_is_space(uint32_t code_point);
/* Appends with invalid parts replaced by U+FFFD, one per maximal invalid part, as Unicode recommends. */
struct text;
void utf8_append_lossy(struct text *text, const char *bytes, size_t count);

#endif
