/*
 * workers/export/certificate.h: what each runtime will do with a result, decided by rules over what was written: one table, first
 * match by runtime. A verdict is `verified` where tests/long run it in that runtime (for `pruned`: where this very result was
 * opened again and its logits compared), else `by_rule`: it follows from what is known of the runtime's code.
 */
#ifndef WORKERS_EXPORT_CERTIFICATE_H
#define WORKERS_EXPORT_CERTIFICATE_H

#include "workers/export/export.h"

enum certificate_verdict { CERTIFICATE_LOADS, CERTIFICATE_LOADS_OTHERWISE, CERTIFICATE_REFUSES };
/* "loads", "loads_and_computes_something_else", "refuses" */
const char *certificate_verdict_name(enum certificate_verdict verdict);

/* What the rules ask about. */
struct certificate_subject {
    enum export_layout layout;
    const char *family; /* stock model_type; borrowed from the config */
    bool is_encoder;
    bool lists_windows; /* layer_types say what an older rule would take from layers' numbers */
    bool is_narrow;     /* heads times head_dim are not hidden_size */
    bool lacks_ffn;     /* a block is attention alone */
    bool starts_without_attention;
    bool has_gguf, is_deci;
};
void certificate_describe(const struct export_draft *draft, const json_t *formats,
                          struct certificate_subject *ret_subject);

struct certificate_entry {
    const char *runtime;
    enum certificate_verdict verdict;
    bool is_verified;
    const char *reason, *line; /* line: how to open it; NULL where it does not */
};
#define CERTIFICATE_MAX 8
/* One entry for each runtime that there is something to say about, in the order of the table. */
size_t certificate_make(const struct certificate_subject *subject,
                        struct certificate_entry ret_entries[CERTIFICATE_MAX]);

#endif
