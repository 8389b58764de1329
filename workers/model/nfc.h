/* workers/model/nfc.h: Unicode normalization forms (UAX 15), which some tokenizers ask for. */
#ifndef WORKERS_MODEL_NFC_H
#define WORKERS_MODEL_NFC_H

#include "base/text.h"

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };
/* Appends [bytes, length), which must be valid UTF-8, in the form. */
void unicode_form_append(struct text *text, enum unicode_form form, const char *bytes, size_t length);

#endif
