/*
 * workers/model/tokenizer_unicode.h: what the `tokenizers` library knows about single characters: which ones its
 * normalizers drop, cut at or change. Tables: tokenizer_unicode_tables.inc, asked from the library itself by the script
 * beside it, because its parts come from several Unicode versions.
 */
#ifndef WORKERS_MODEL_TOKENIZER_UNICODE_H
#define WORKERS_MODEL_TOKENIZER_UNICODE_H

#include "base/text.h"

/* BertNormalizer's clean_text drops it: control and format characters, private use, NUL and U+FFFD. */
bool unicode_is_dropped(uint32_t code);
bool unicode_is_chinese(uint32_t code);     /* BertNormalizer puts spaces around it */
bool unicode_is_accent(uint32_t code);      /* BertNormalizer's strip_accents drops it */
bool unicode_is_mark(uint32_t code);        /* the normalizer StripAccents drops it */
bool unicode_is_punctuation(uint32_t code); /* BertPreTokenizer makes a word of it */
/* Bytes of the extended grapheme cluster (UAX 29) that starts at bytes[at], at < length. The rule for Indic conjuncts (GB9c) is left
 * out: it joins clusters of more than five bytes each, and who asks here cares for shorter ones. */
size_t unicode_cluster_length(const char *bytes, size_t length, size_t at);
/* Appends the small letters of [bytes, length), valid UTF-8, character by character (no final sigma). */
void unicode_lowercase_append(struct text *text, const char *bytes, size_t length);

#endif
