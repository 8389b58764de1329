/* tests/unit/workers/model/fixture.c: see fixture.h. */
#include "tests/unit/workers/model/fixture.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/text.h"
#include "workers/model/architecture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct fixture_spec fixture_small = {.layers = 3,
                                           .hidden = 24,
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_size = 6,
                                           .ffn = 40,
                                           .vocab = 101,
                                           .is_tied = true};

struct file {
    struct text header, data;
};
struct writing {
    const struct fixture_spec *spec;
    struct file *files; /* [shard_count] */
    size_t shard_count;
    size_t tensor_count;
    struct text map;
};

static void append_tensor(enum weight_role role, size_t layer, const struct weight_shape *shape,
                          void *context)
{
    (void)role;
    (void)layer;
    struct writing *writing = context;
    size_t shard = writing->tensor_count % writing->shard_count, count = (size_t)shape->count;
    struct file *file = &writing->files[shard];
    struct rng rng = {.seed = 3, .stream = (uint32_t)writing->tensor_count};
    OWNED_MEMORY float *values = memory_create(count + 1, sizeof *values);
    OWNED_MEMORY unsigned char *bytes = memory_create(count + 1, dtype_bytes(writing->spec->dtype));
    double scale = shape->rank == 2 ? 2.0 / sqrt((double)shape->shape[1]) : 0.2;
    for (size_t i = 0; i < count; i++) {
        values[i] = (float)(scale * (2.0 * rng_unit(&rng, i) - 1.0) + (shape->is_norm ? 1.0 : 0.0));
    }
    dtype_from_f32(writing->spec->dtype, values, count, bytes);
    size_t size = count * dtype_bytes(writing->spec->dtype);
    text_append_format(&file->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu",
                       file->header.length > 0 ? "," : "{", shape->name, dtype_slug(writing->spec->dtype),
                       (unsigned long long)shape->shape[0]);
    if (shape->rank == 2) {
        text_append_format(&file->header, ",%llu", (unsigned long long)shape->shape[1]);
    }
    text_append_format(&file->header, "],\"data_offsets\":[%zu,%zu]}", file->data.length,
                       file->data.length + size);
    text_append_bytes(&file->data, bytes, size);
    text_append_format(&writing->map, "%s\"%s\":\"part-%zu.safetensors\"", writing->map.length > 0 ? "," : "",
                       shape->name, shard);
    writing->tensor_count++;
}

void fixture_write(const char *folder, const char *name, const void *bytes, size_t count)
{
    OWNED_MEMORY char *path = file_join(folder, name);
    FILE *out = fopen(path, "wbe");
    CHECK(out != NULL && fwrite(bytes, 1, count, out) == count && fclose(out) == 0);
}

static void write_files(struct writing *writing, const char *folder)
{
    for (size_t i = 0; i < writing->shard_count; i++) {
        struct file *file = &writing->files[i];
        FINISHED(text) all = {0};
        char name[64] = "model.safetensors";
        text_append(&file->header, "}");
        for (size_t b = 0; b < 8; b++) {
            unsigned char byte = (unsigned char)((uint64_t)file->header.length >> (8 * b));
            text_append_bytes(&all, &byte, 1);
        }
        text_append_bytes(&all, file->header.bytes, file->header.length);
        text_append_bytes(&all, file->data.bytes, file->data.length);
        if (writing->shard_count > 1) {
            (void)snprintf(name, sizeof name, "part-%zu.safetensors", i);
        }
        fixture_write(folder, name, all.bytes, all.length);
        text_finish(&file->header);
        text_finish(&file->data);
    }
    if (writing->shard_count > 1) {
        FINISHED(text) index = {0};
        text_append_format(&index, "{\"metadata\":{},\"weight_map\":{%s}}", writing->map.bytes);
        fixture_write(folder, "model.safetensors.index.json", index.bytes, index.length);
    }
}

static char *format_config(const struct fixture_spec *spec)
{
    struct text text = {0};
    text_append_format(
        &text,
        "{\"model_type\": \"%s\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": %zu, "
        "\"intermediate_size\": %zu, \"num_hidden_layers\": %zu, \"num_attention_heads\": %zu, "
        "\"num_key_value_heads\": %zu, \"head_dim\": %zu, \"vocab_size\": %zu, \"max_position_embeddings\": 512, "
        "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"attention_bias\": %s, "
        "\"mlp_bias\": %s, \"tie_word_embeddings\": %s, \"bos_token_id\": 1, \"eos_token_id\": 2%s}",
        spec->model_type != NULL ? spec->model_type : "llama", spec->hidden, spec->ffn, spec->layers,
        spec->heads, spec->kv_heads, spec->head_size, spec->vocab,
        spec->has_attention_bias ? "true" : "false", spec->has_mlp_bias ? "true" : "false",
        spec->is_tied ? "true" : "false", spec->more != NULL ? spec->more : "");
    return text_take(&text);
}

char *fixture_create_folder(void)
{
    const char *temporary = getenv("TMPDIR");
    struct text path = {0};
    text_append_format(&path, "%s/pruned_fixture_XXXXXX", temporary != NULL ? temporary : "/tmp");
    char *folder = text_take(&path);
    CHECK(mkdtemp(folder) != NULL);
    return folder;
}

char *fixture_create(const struct fixture_spec *spec)
{
    char *folder = fixture_create_folder();
    OWNED_MEMORY char *config_text = format_config(spec);
    fixture_write(folder, "config.json", config_text, strlen(config_text));
    OWNED_MEMORY struct model_config *config = memory_create(1, sizeof *config);
    FINISHED(error_list) faults = {0};
    JSON_OWNED json = json_parse(config_text, strlen(config_text), JSON_LIMIT_BYTES, NULL);
    if (!model_config_parse(json, config, &faults)) {
        (void)fprintf(stderr, "fixture: %s\n", faults.stored > 0 ? faults.items[0].message : "no config");
        CHECK(false);
    }
    struct writing writing = {.spec = spec, .shard_count = spec->shard_count > 1 ? spec->shard_count : 1};
    writing.files = memory_create(writing.shard_count, sizeof *writing.files);
    architecture_visit(config, append_tensor, &writing);
    write_files(&writing, folder);
    text_finish(&writing.map);
    free(writing.files);
    return folder;
}

void fixture_destroy(char *folder)
{
    CHECK(file_remove_tree(folder, NULL));
    free(folder);
}

void fixture_edit(const char *folder, const char *name, const char *from, const char *to)
{
    OWNED_MEMORY char *path = file_join(folder, name);
    size_t count = 0;
    OWNED_MEMORY char *text = file_load(path, (size_t)64 << 20, &count, NULL);
    CHECK(text != NULL);
    const char *found = memmem(text, count, from, strlen(from));
    CHECK(found != NULL);
    FINISHED(text) edited = {0};
    size_t before = (size_t)(found - text);
    text_append_bytes(&edited, text, before);
    text_append(&edited, to);
    text_append_bytes(&edited, found + strlen(from), count - before - strlen(from));
    fixture_write(folder, name, edited.bytes, edited.length);
}

void fixture_open(const struct fixture_spec *spec, const char *backend, size_t threads,
                  struct fixture *ret_fixture)
{
    FINISHED(error_list) faults = {0};
    struct error error = {0};
    struct fixture fixture = {.folder = fixture_create(spec), .pool = pool_create(threads, NULL)};
    fixture.inventory = inventory_inspect(fixture.folder, false, NULL, &faults);
    CHECK(fixture.inventory != NULL && fixture.pool != NULL);
    struct model_options options = {.backend = backend, .pool = fixture.pool};
    fixture.model = model_open(fixture.inventory, fixture.folder, &options, &error);
    CHECK(fixture.model != NULL);
    *ret_fixture = fixture;
}

void fixture_finish(struct fixture *fixture)
{
    model_destroy(fixture->model);
    inventory_destroy(fixture->inventory);
    pool_destroy(fixture->pool);
    fixture_destroy(fixture->folder);
}
