/* workers/model/tokenizer_spec.h: reading parts of tokenizer.json, for tokenizer_spec.c and tokenizer_spec_steps.c only. All return
 * false with the error set, its field naming the part by its JSON pointer. */
#ifndef WORKERS_MODEL_TOKENIZER_SPEC_H
#define WORKERS_MODEL_TOKENIZER_SPEC_H

#include "workers/model/tokenizer_internal.h"

struct spec_reader {
    struct tokenizer *tokenizer;
    struct error *error;
};

/* value: quoted at the end, or NULL. */
bool spec_fail(struct spec_reader *reader, enum error_code code, const char *pointer, const char *what,
               const char *value);
bool spec_unsupported(struct spec_reader *reader, const char *pointer, const char *what, const char *value);
/* json_find_* and json_get_* with our field and a readable message. */
bool spec_find_bool(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                    bool *value) MUST_USE;
bool spec_find_text(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                    const char **text) MUST_USE;
bool spec_get_text(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                   const char **text) MUST_USE;
bool spec_get_integer(struct spec_reader *reader, const json_t *object, const char *pointer, const char *name,
                      int64_t max, int64_t *value) MUST_USE;

/* tokenizer_spec_steps.c: one normalizer or pre-tokenizer joins the tokenizer's list. */
bool spec_read_normalizer(struct spec_reader *reader, const json_t *object, const char *type,
                          const char *pointer) MUST_USE;
bool spec_read_pre_tokenizer(struct spec_reader *reader, const json_t *object, const char *type,
                             const char *pointer) MUST_USE;
/* A non-empty {"pattern": {"String": "x"}}. */
bool spec_read_string_pattern(struct spec_reader *reader, const json_t *object, const char *pointer,
                              const char **ret_text) MUST_USE;
/* Pre-tokenizer and decoder have the same form. */
bool spec_read_metaspace(struct spec_reader *reader, const json_t *object, const char *pointer,
                         struct split_step *step) MUST_USE;

#endif
