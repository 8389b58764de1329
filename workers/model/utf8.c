/*
 * workers/model/utf8.c: one strict decoder step serves validation and lossy decoding. It follows table 3-7 of
 * the Unicode standard: the second byte's range depends on the first, which excludes overlong forms and
 * surrogates.
 */
#include "workers/model/utf8.h"
#include "base/text.h"

/* Length of the valid character at bytes[0], or 0 with *ret_bad = length of the maximal invalid part (at
 * least 1). */
static size_t utf8_step(const unsigned char *bytes, size_t count, size_t *ret_bad)
{
    unsigned first = bytes[0];
    *ret_bad = 1;
    if (first < 0x80) {
        return 1;
    }
    if (first < 0xc2 || first > 0xf4) {
        return 0;
    }
    size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    unsigned low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < length; i++) {
        if (i >= count || bytes[i] < low || bytes[i] > high) {
            *ret_bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

size_t utf8_valid_prefix(const char *bytes, size_t count)
{
    const unsigned char *at = (const unsigned char *)bytes;
    size_t done = 0, bad = 0;
    while (done < count) {
        size_t length = at[done] < 0x80 ? 1 : utf8_step(at + done, count - done, &bad);
        if (length == 0) {
            break;
        }
        done += length;
    }
    return done;
}

uint32_t utf8_decode(const char *bytes)
{
    const unsigned char *at = (const unsigned char *)bytes;
    switch (utf8_length(bytes)) {
    case 1:
        return at[0];
    case 2:
        return (uint32_t)(at[0] & 0x1f) << 6 | (at[1] & 0x3f);
    case 3:
        return (uint32_t)(at[0] & 0x0f) << 12 | (uint32_t)(at[1] & 0x3f) << 6 | (at[2] & 0x3f);
    default:
        return (uint32_t)(at[0] & 0x07) << 18 | (uint32_t)(at[1] & 0x3f) << 12 |
               (uint32_t)(at[2] & 0x3f) << 6 | (at[3] & 0x3f);
    }
}

size_t utf8_encode(uint32_t code_point, char ret_bytes[4])
{
    unsigned char *out = (unsigned char *)ret_bytes;
    if (code_point < 0x80) {
        out[0] = (unsigned char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (unsigned char)(0xc0 | code_point >> 6);
        out[1] = (unsigned char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (unsigned char)(0xe0 | code_point >> 12);
        out[1] = (unsigned char)(0x80 | (code_point >> 6 & 0x3f));
        out[2] = (unsigned char)(0x80 | (code_point & 0x3f));
        return 3;
    }
    out[0] = (unsigned char)(0xf0 | code_point >> 18);
    out[1] = (unsigned char)(0x80 | (code_point >> 12 & 0x3f));
    out[2] = (unsigned char)(0x80 | (code_point >> 6 & 0x3f));
    out[3] = (unsigned char)(0x80 | (code_point & 0x3f));
    return 4;
}

bool utf8_is_space(uint32_t code_point)
{
    return (code_point >= 0x09 && code_point <= 0x0d) || code_point == 0x20 || code_point == 0x85 ||
           code_point == 0xa0 || code_point == 0x1680 || (code_point >= 0x2000 && code_point <= 0x200a) ||
           code_point == 0x2028 || code_point == 0x2029 || code_point == 0x202f || code_point == 0x205f ||
           code_point == 0x3000;
}

void utf8_append_lossy(struct text *text, const char *bytes, size_t count)
{
    size_t done = 0;
    while (done < count) {
        size_t valid = utf8_valid_prefix(bytes + done, count - done);
        text_append_bytes(text, bytes + done, valid);
        done += valid;
        if (done < count) {
            size_t bad = 1;
            (void)utf8_step((const unsigned char *)bytes + done, count - done, &bad);
            text_append(text, "\xef\xbf\xbd");
            done += bad;
        }
    }
}
