/* workers/export/certificate.c: see certificate.h. The rules: structured_pruning 15 and ecosystem 3.4, with what tests found. */
#include "workers/export/certificate.h"

#include "base/check.h"
#include "base/text.h"
#include "workers/model/architecture.h"
#include <string.h>

static const char *const verdict_names[] = {"loads", "loads_and_computes_something_else", "refuses"};

const char *certificate_verdict_name(enum certificate_verdict verdict)
{
    return verdict_names[verdict];
}

/* ---- conditions ------------------------------------------------------------------------------------------------------- */

static bool always(const struct certificate_subject *subject)
{
    (void)subject;
    return true;
}

static bool is_remote(const struct certificate_subject *subject)
{
    return export_is_remote(subject->layout);
}

static bool is_encoder(const struct certificate_subject *subject)
{
    return subject->is_encoder;
}

static bool has_shifted_windows(const struct certificate_subject *subject)
{
    return subject->lists_windows && !is_remote(subject) && subject->layout != EXPORT_IDENTITY;
}

static bool is_narrow_qwen2(const struct certificate_subject *subject)
{
    return subject->is_narrow && !is_remote(subject) && strcmp(subject->family, "qwen2") == 0;
}

static bool has_no_gguf(const struct certificate_subject *subject)
{
    return !subject->has_gguf;
}

static bool is_decilm(const struct certificate_subject *subject)
{
    return subject->layout == EXPORT_DECILM;
}

static bool is_decilm_without_ffn(const struct certificate_subject *subject)
{
    return is_decilm(subject) && subject->lacks_ffn;
}

static bool is_deci_with_zeros(const struct certificate_subject *subject)
{
    return subject->is_deci && (subject->lacks_ffn || subject->starts_without_attention);
}

static bool is_deci(const struct certificate_subject *subject)
{
    return subject->is_deci;
}

static bool is_llama(const struct certificate_subject *subject)
{
    return strcmp(subject->family, "llama") == 0;
}

/* ---- the table -------------------------------------------------------------------------------------------------------- */

#define PLAIN_LINE  "AutoModelForCausalLM.from_pretrained(folder)"
#define REMOTE_LINE "AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)"
#define GGUF_LINE   "llama-cli -m FOLDER/FILE.gguf"

static const struct rule {
    const char *runtime;
    bool (*applies)(const struct certificate_subject *subject);
    enum certificate_verdict verdict;
    bool is_verified;
    const char *reason, *line; /* reason NULL: nothing is said of this runtime */
} rules[] = {
    {"transformers", is_remote, CERTIFICATE_REFUSES, true,
     "blocks that differ are no stock config; the modelling file beside it knows them", NULL},
    {"transformers", is_encoder, CERTIFICATE_LOADS, true, "a stock config and class",
     "AutoModel.from_pretrained(folder)"},
    {"transformers", always, CERTIFICATE_LOADS, true, "a stock config and class (run in transformers 5.23)",
     PLAIN_LINE},

    {"transformers (trust_remote_code)", is_decilm, CERTIFICATE_LOADS, false,
     "with its modelling files; by rule", REMOTE_LINE},
    {"transformers (trust_remote_code)", is_remote, CERTIFICATE_LOADS, true,
     "with its modelling file (run in transformers 5.23)", REMOTE_LINE},
    {"transformers (trust_remote_code)", always, CERTIFICATE_LOADS, true, NULL, NULL},

    {"transformers before 4.53", has_shifted_windows, CERTIFICATE_LOADS_OTHERWISE, false,
     "it knows no layer_types and takes each layer's window from the layer's number, which has changed",
     NULL},
    {"transformers before 4.53", always, CERTIFICATE_LOADS, false, NULL, NULL},

    {"vllm", is_decilm, CERTIFICATE_LOADS, false,
     "DeciLM with the configuration file beside it; by rule, vLLM was not run",
     "vllm serve FOLDER --trust-remote-code"},
    {"vllm", is_remote, CERTIFICATE_REFUSES, false,
     "it has no class for models of our own; ask for layout uniform, padded or identity", NULL},
    {"vllm", is_encoder, CERTIFICATE_LOADS, false, NULL, NULL},
    {"vllm", is_narrow_qwen2, CERTIFICATE_REFUSES, false,
     "its Qwen2 takes the size of a head from the hidden size, not from head_dim", NULL},
    {"vllm", always, CERTIFICATE_LOADS, false, "a stock config and class; by rule, vLLM was not run",
     "vllm serve FOLDER"},

    {"llama.cpp", has_no_gguf, CERTIFICATE_REFUSES, true,
     "it reads GGUF, which output.formats did not ask for", NULL},
    {"llama.cpp", is_deci_with_zeros, CERTIFICATE_LOADS, true,
     "architecture deci, with zeros for an FFN or a first attention that is absent, of which llama.cpp would lose what stays (run "
     "in llama-cpp-python 0.3.36)",
     GGUF_LINE},
    {"llama.cpp", is_deci, CERTIFICATE_LOADS, true, "architecture deci (run in llama-cpp-python 0.3.36)",
     GGUF_LINE},
    {"llama.cpp", is_llama, CERTIFICATE_LOADS, true, "architecture llama (run in llama-cpp-python 0.3.36)",
     GGUF_LINE},
    {"llama.cpp", always, CERTIFICATE_LOADS, false, "the family's architecture, with the keys that it reads",
     GGUF_LINE},

    {"llama.cpp (convert_hf_to_gguf.py)", is_decilm_without_ffn, CERTIFICATE_LOADS_OTHERWISE, false,
     "its deci graph loses what attention adds in a block without FFN; the GGUF files of output.formats do not",
     NULL},
    {"llama.cpp (convert_hf_to_gguf.py)", always, CERTIFICATE_LOADS, false, NULL, NULL},

    {"pruned", always, CERTIFICATE_LOADS, true, "this result was opened again and its logits compared",
     "{\"type\": \"evaluation\", \"model\": \"FOLDER\", \"evaluation\": {...}}"},
};

size_t certificate_make(const struct certificate_subject *subject,
                        struct certificate_entry ret_entries[CERTIFICATE_MAX])
{
    size_t count = 0;
    const char *decided = NULL;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct rule *rule = &rules[i];
        bool is_decided = decided != NULL && strcmp(decided, rule->runtime) == 0;
        if (is_decided || !rule->applies(subject)) {
            continue;
        }
        decided = rule->runtime;
        if (rule->reason != NULL) {
            CHECK(count < CERTIFICATE_MAX);
            ret_entries[count++] = (struct certificate_entry){rule->runtime, rule->verdict, rule->is_verified,
                                                              rule->reason, rule->line};
        }
    }
    return count;
}

/* ---- the subject ------------------------------------------------------------------------------------------------------ */

static bool lists_windows(const json_t *config)
{
    const json_t *type = NULL;
    size_t index = 0, sliding = 0;
    const json_t *types = json_object_get(config, "layer_types");
    json_array_foreach(types, index, type)
    {
        const char *name = json_string_value(type);
        sliding += name != NULL && strcmp(name, "sliding_attention") == 0 ? 1 : 0;
    }
    return sliding > 0;
}

static bool is_narrow(const json_t *config)
{
    const json_t *heads = json_object_get(config, "num_attention_heads"),
                 *size = json_object_get(config, "head_dim"),
                 *hidden = json_object_get(config, "hidden_size");
    return json_is_integer(size) &&
           json_integer_value(heads) * json_integer_value(size) != json_integer_value(hidden);
}

void certificate_describe(const struct export_draft *draft, const json_t *formats,
                          struct certificate_subject *ret_subject)
{
    struct certificate_subject subject = {.layout = draft->layout, .family = ""};
    const char *type = json_string_value(json_object_get(draft->config, "model_type"));
    if (type != NULL) {
        const char *stock = model_config_stock_type(type);
        subject.family = stock != NULL ? stock : type;
    }
    const struct architecture *row = architecture_find(subject.family);
    subject.is_encoder = row != NULL && row->is_encoder;
    subject.lists_windows = lists_windows(draft->config);
    subject.is_narrow = is_narrow(draft->config);
    const json_t *layers = json_object_get(json_object_get(draft->config, "pruning"), "layers"),
                 *layer = NULL;
    size_t index = 0;
    json_array_foreach(layers, index, layer)
    {
        subject.lacks_ffn = subject.lacks_ffn || json_is_false(json_object_get(layer, "ffn"));
        subject.starts_without_attention = subject.starts_without_attention ||
                                           (index == 0 && json_is_false(json_object_get(layer, "attention")));
    }
    subject.has_gguf = export_formats_have_gguf(formats);
    subject.is_deci = subject.has_gguf && export_is_remote(draft->layout);
    *ret_subject = subject;
}

/* ---- as JSON ---------------------------------------------------------------------------------------------------------- */

json_t *export_loaders(const struct export_draft *draft, const json_t *formats)
{
    struct certificate_subject subject;
    struct certificate_entry entries[CERTIFICATE_MAX];
    certificate_describe(draft, formats, &subject);
    size_t count = certificate_make(&subject, entries);
    json_t *loaders = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *item = json_object();
        json_put_text(item, "loader", entries[i].runtime);
        json_put_text(item, "verdict", certificate_verdict_name(entries[i].verdict));
        json_put_text(item, "basis", entries[i].is_verified ? "verified" : "by_rule");
        json_put_text(item, "reason", entries[i].reason);
        if (entries[i].line != NULL) {
            json_put_text(item, "line", entries[i].line);
        }
        CHECK(json_array_append_new(loaders, item) == 0);
    }
    return loaders;
}
