/*
 * workers/data/instructions.h: instruction records, as JSONL or as one JSON array of objects. A record is what is asked (an instruction,
 * and perhaps an input) and the response. Of a conversation the last message is the response and the assistant's, the one before it the
 * instruction and a user's, and what came earlier the input.
 *
 * Which members these are is said, or read off the first record: the first row whose members (but for the input) are all there.
 *
 *     messages                        [{"role": "system" | "user" | "assistant", "content"}, ...]
 *     conversations                   [{"from": "system" | "human" | "gpt", "value"}, ...]
 *     instruction, input, output      and with response for output
 *     instruction, /instances/0/...   input, output (Self-Instruct)
 *     prompt, -, completion           and with response for completion
 *     question, -, answer
 *     query, -, response
 *
 * A name that starts with "/" is a JSON pointer into the record. Every record keeps where it stands in the file, so that those who are
 * chosen can be written in their own words.
 *
 * Threads: one loads and destroys; in between the set is immutable, and any may read it.
 */
#ifndef WORKERS_DATA_INSTRUCTIONS_H
#define WORKERS_DATA_INSTRUCTIONS_H

#include "base/arena.h"
#include "base/cancel.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include <stddef.h>
#include <stdint.h>

#define INSTRUCTIONS_LIMIT_BYTES (2048u << 20)

/* NULL: not said. Nothing, or messages alone, or instruction and response and perhaps input. */
struct instruction_fields {
    const char *messages, *instruction, *input, *response;
};
enum instruction_role { INSTRUCTION_SYSTEM, INSTRUCTION_USER, INSTRUCTION_ASSISTANT };
struct instruction_turn {
    enum instruction_role role;
    const char *text;
};
/* Texts are UTF-8 without NUL; "" where the record has none. */
struct instruction_record {
    const char *instruction, *input, *response;
    const struct instruction_turn *turns; /* [turn_count], before the response; NULL: no conversation */
    size_t turn_count;
    uint64_t first_byte, byte_count; /* the record's JSON in the file */
};
struct instructions {
    struct arena *arena;                /* owned: every text and name here */
    const char *name;                   /* of the file, for errors and reports */
    struct instruction_record *records; /* owned, [record_count], at least one */
    size_t record_count;
    struct instruction_fields fields; /* as found */
    char *bytes;                      /* owned: the file */
    uint64_t file_bytes;
    char sha256[65];
};
struct instructions_options {
    const char *path, *name; /* name: NULL: the path's last segment */
    struct instruction_fields fields;
    const struct cancel *cancel; /* may be NULL */
};
/* Owned, instructions_destroy; the options are borrowed for the call. CORRUPT_FILE with the file and the line (JSONL) or the record (array,
 * from 1): not JSON, a member that is absent or no text, a conversation that does not end with a user's message and its answer.
 * INVALID_ARGUMENT: fields said in part or in both ways; none said, and the first record has none that are known. TEXT_TOO_SHORT: no
 * record. TOO_LARGE, NOT_FOUND, IO, CANCELLED. */
struct instructions *instructions_load(const struct instructions_options *options,
                                       struct error *error) MUST_USE;
void instructions_destroy(struct instructions *instructions);
OWNED_DEFINE(instructions)
/* The numbers at members (or JSON pointers) of a record's JSON; NaN where there is none. ret_numbers [count]. */
void instructions_read_numbers(const struct instructions *instructions, size_t record,
                               const char *const *names, size_t count, double *ret_numbers);

/* What a model is given before the response. {instruction} and {input} stand for the record's; `lone` is for records without an input.
 * is_chat: every turn between <|im_start|>ROLE and <|im_end|> instead (ChatML), an input below its instruction. */
struct instruction_template {
    const char *name, *full, *lone;
    bool is_chat;
};
/* "plain", "alpaca", "chatml"; NULL: none of that name. Static. */
const struct instruction_template *instruction_template_find(const char *name);
/* INVALID_ARGUMENT unless `full` has both placeholders, `lone` has {instruction} and not {input}, and neither has another: any word of
 * [A-Za-z0-9_] in braces. A chat has none to check. */
bool instruction_template_check(const struct instruction_template *form, struct error *error) MUST_USE;
/* Appends; form: one that was checked. */
void instruction_format_prompt(const struct instruction_template *form,
                               const struct instruction_record *record, struct text *prompt);

#endif
