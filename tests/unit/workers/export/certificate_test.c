/* tests/unit/workers/export/certificate_test.c: each rule of the loader certificate, and what is read off a draft. */
#include "workers/export/certificate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct certificate_entry *find(const struct certificate_entry *entries, size_t count,
                                            const char *runtime)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(entries[i].runtime, runtime) == 0) {
            return &entries[i];
        }
    }
    return NULL;
}

/* verdict: '-' nothing is said, 'l' loads, 'o' loads and computes something else, 'r' refuses; upper case: verified. */
static const struct {
    const char *config;
    enum export_layout layout;
    const char *format, *runtime;
    char verdict;
    const char *reason; /* part of it */
} cases[] = {
    {"{\"model_type\": \"llama\"}", EXPORT_UNIFORM, NULL, "transformers", 'L', "stock"},
    {"{\"model_type\": \"llama\"}", EXPORT_PADDED, NULL, "transformers", 'L', "stock"},
    {"{\"model_type\": \"llama\"}", EXPORT_IDENTITY, NULL, "vllm", 'l', "by rule"},
    {"{\"model_type\": \"llama\"}", EXPORT_UNIFORM, NULL, "transformers (trust_remote_code)", '-', NULL},
    {"{\"model_type\": \"pruned_qwen3\"}", EXPORT_HETEROGENEOUS, NULL, "transformers", 'R',
     "no stock config"},
    {"{\"model_type\": \"pruned_qwen3\"}", EXPORT_HETEROGENEOUS, NULL, "transformers (trust_remote_code)",
     'L', "modelling file"},
    {"{\"model_type\": \"pruned_qwen3\"}", EXPORT_HETEROGENEOUS, NULL, "vllm", 'r', "no class"},
    {"{\"model_type\": \"pruned_qwen3\"}", EXPORT_HETEROGENEOUS, NULL, "llama.cpp", 'R', "did not ask"},
    {"{\"model_type\": \"bert\"}", EXPORT_UNIFORM, NULL, "transformers", 'L', "stock"},
    {"{\"model_type\": \"bert\"}", EXPORT_UNIFORM, NULL, "vllm", '-', NULL},
    {"{\"model_type\": \"gemma2\", \"layer_types\": [\"full_attention\", \"sliding_attention\"]}",
     EXPORT_UNIFORM, NULL, "transformers before 4.53", 'o', "layer's number"},
    {"{\"model_type\": \"gemma2\", \"layer_types\": [\"sliding_attention\", \"full_attention\"]}",
     EXPORT_IDENTITY, NULL, "transformers before 4.53", '-', NULL},
    {"{\"model_type\": \"qwen2\", \"layer_types\": [\"full_attention\"]}", EXPORT_UNIFORM, NULL,
     "transformers before 4.53", '-', NULL},
    {"{\"model_type\": \"qwen2\", \"num_attention_heads\": 6, \"head_dim\": 64, \"hidden_size\": 512}",
     EXPORT_UNIFORM, NULL, "vllm", 'r', "not from head_dim"},
    {"{\"model_type\": \"qwen2\", \"num_attention_heads\": 8, \"head_dim\": 64, \"hidden_size\": 512}",
     EXPORT_UNIFORM, NULL, "vllm", 'l', "stock"},
    {"{\"model_type\": \"llama\", \"num_attention_heads\": 6, \"head_dim\": 64, \"hidden_size\": 512}",
     EXPORT_UNIFORM, NULL, "vllm", 'l', "stock"},
    {"{\"model_type\": \"llama\"}", EXPORT_UNIFORM, "gguf:f32", "llama.cpp", 'L', "architecture llama"},
    {"{\"model_type\": \"qwen3\"}", EXPORT_UNIFORM, "gguf:q8_0", "llama.cpp", 'l', "family's architecture"},
    {"{\"model_type\": \"llama\"}", EXPORT_UNIFORM, "hf", "llama.cpp", 'R', "did not ask"},
    {"{\"model_type\": \"pruned_llama\", \"pruning\": {\"layers\": [{\"attention\": {}, \"ffn\": {}}, {\"attention\": false, "
     "\"ffn\": {}}]}}",
     EXPORT_HETEROGENEOUS, "gguf:f16", "llama.cpp", 'L', "architecture deci (run"},
    {"{\"model_type\": \"pruned_llama\", \"pruning\": {\"layers\": [{\"attention\": {}, \"ffn\": {}}, {\"attention\": {}, "
     "\"ffn\": false}]}}",
     EXPORT_HETEROGENEOUS, "gguf:f16", "llama.cpp", 'L', "with zeros"},
    {"{\"model_type\": \"pruned_llama\", \"pruning\": {\"layers\": [{\"attention\": false, \"ffn\": {}}]}}",
     EXPORT_HETEROGENEOUS, "gguf:f16", "llama.cpp", 'L', "with zeros"},
    {"{\"model_type\": \"nemotron-nas\"}", EXPORT_DECILM, NULL, "transformers", 'R', "no stock config"},
    {"{\"model_type\": \"nemotron-nas\"}", EXPORT_DECILM, NULL, "vllm", 'l', "by rule"},
    {"{\"model_type\": \"nemotron-nas\"}", EXPORT_DECILM, NULL, "llama.cpp (convert_hf_to_gguf.py)", '-',
     NULL},
    {"{\"model_type\": \"nemotron-nas\", \"pruning\": {\"layers\": [{\"attention\": {}, \"ffn\": false}]}}",
     EXPORT_DECILM, NULL, "llama.cpp (convert_hf_to_gguf.py)", 'o', "loses what attention adds"},
    {"{\"model_type\": \"opt\"}", EXPORT_UNIFORM, NULL, "pruned", 'L', "opened again"},
};

static void each_rule_decides(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        JSON_OWNED config = json_loads(cases[i].config, 0, NULL);
        JSON_OWNED formats = json_array();
        if (cases[i].format != NULL) {
            assert_int_equal(json_array_append_new(formats, json_string(cases[i].format)), 0);
        }
        struct export_draft draft = {.layout = cases[i].layout, .config = config};
        struct certificate_subject subject;
        struct certificate_entry entries[CERTIFICATE_MAX];
        certificate_describe(&draft, formats, &subject);
        size_t count = certificate_make(&subject, entries);
        const struct certificate_entry *entry = find(entries, count, cases[i].runtime);
        char is = entry == NULL ? '-' : (entry->is_verified ? "LOR" : "lor")[entry->verdict];
        if (is != cases[i].verdict || (entry != NULL && strstr(entry->reason, cases[i].reason) == NULL)) {
            fail_msg("case %zu: %c, %s", i, is, entry != NULL ? entry->reason : "nothing");
        }
        assert_true(entry == NULL || (entry->line != NULL) == (entry->verdict == CERTIFICATE_LOADS));
    }
}

/* Nothing of vLLM is claimed to have been run. */
static void vllm_is_by_rule(void **state)
{
    (void)state;
    static const enum export_layout layouts[] = {EXPORT_UNIFORM, EXPORT_PADDED, EXPORT_IDENTITY,
                                                 EXPORT_HETEROGENEOUS};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        JSON_OWNED config = json_pack("{s: s}", "model_type", "llama");
        struct export_draft draft = {.layout = layouts[i], .config = config};
        JSON_OWNED loaders = export_loaders(&draft, NULL);
        const json_t *loader = NULL;
        size_t index = 0, seen = 0;
        json_array_foreach(loaders, index, loader)
        {
            if (strcmp(json_string_value(json_object_get(loader, "loader")), "vllm") == 0) {
                assert_string_equal(json_string_value(json_object_get(loader, "basis")), "by_rule");
                seen++;
            }
        }
        assert_int_equal(seen, 1);
    }
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_decides),
        cmocka_unit_test(vllm_is_by_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
