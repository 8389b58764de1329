/* workers/model/nfc.h: Unicode normalization form C (UAX 15), which some tokenizers ask for. */
#ifndef WORKERS_MODEL_NFC_H
#define WORKERS_MODEL_NFC_H

#include "base/text.h"

/* Appends [bytes, length), which must be valid UTF-8, in NFC. */
void nfc_append(struct text *text, const char *bytes, size_t length);

#endif
