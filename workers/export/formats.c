/*
 * workers/export/formats.c: what a result is written as beside the Hugging Face folder: GGUF files, by the same draft. The
 * tokenizer is the one that lies in the folder, so that both forms of a result have the same.
 */
#include "workers/export/export.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/export/gguf.h"
#include "workers/export/padding.h"
#include "workers/model/gguf.h"
#include "workers/model/source.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENIZER_LIMIT_BYTES ((size_t)64 << 20)
#define CONFIG_LIMIT_BYTES    ((size_t)1 << 20)
#define GGUF_PREFIX           "gguf:"

const char *const export_formats[] = {"hf", "gguf:f32", "gguf:f16", "gguf:bf16", "gguf:q8_0", NULL};

/* The element type of a GGUF format; false: not one. */
static bool parse_format(const json_t *format, enum dtype *ret_dtype)
{
    const char *name = json_string_value(format);
    return name != NULL && text_starts_with(name, GGUF_PREFIX) &&
           gguf_export_dtype_parse(name + strlen(GGUF_PREFIX), ret_dtype);
}

bool export_formats_have_gguf(const json_t *formats)
{
    const json_t *format = NULL;
    size_t index = 0;
    enum dtype dtype = DTYPE_F32;
    json_array_foreach(formats, index, format)
    {
        if (parse_format(format, &dtype)) {
            return true;
        }
    }
    return false;
}

/* "model-Q8_0.gguf": llama.cpp chooses a file of a repository by the type in its name. Owned. */
static char *file_name(enum dtype dtype)
{
    struct text name = {0};
    text_append_format(&name, "model-%s.gguf", dtype_slug(dtype));
    return text_take(&name);
}

/* ---- rows of the draft ------------------------------------------------------------------------------------------- */

struct feed {
    const struct export_draft *draft; /* NULL: the model as it is */
    const struct inventory *inventory;
    const struct export_options *options;
    struct gguf_export_tensor *tensors; /* [count]; owned */
    struct export_tensor *wanted;       /* [count], their parts borrowed from the draft; owned */
    size_t count;
    struct padded_reader reader;
};

static void add_tensor(struct feed *feed, const struct export_tensor *tensor)
{
    if (feed->inventory->tensors[tensor->source].is_extra) {
        return; /* llama.cpp refuses what it does not know */
    }
    struct gguf_export_tensor *added = &feed->tensors[feed->count];
    *added = (struct gguf_export_tensor){.name = tensor->name, .rank = tensor->rank};
    memcpy(added->shape, tensor->shape, (tensor->rank < 2 ? tensor->rank : 2) * sizeof added->shape[0]);
    feed->wanted[feed->count++] = *tensor;
}

/* As it lies in the inventory. */
static struct export_tensor whole_tensor(const struct inventory *inventory, size_t index)
{
    const struct inventory_tensor *source = &inventory->tensors[index];
    struct export_tensor tensor = {.source = index, .rank = source->rank};
    union {
        const char *from;
        char *to;
    } name = {source->name};
    tensor.name = name.to;
    memcpy(tensor.shape, source->shape, sizeof tensor.shape);
    return tensor;
}

static void feed_open(const struct export_draft *draft, const struct inventory *inventory,
                      struct feed *ret_feed)
{
    size_t count = draft != NULL ? draft->tensor_count : inventory->tensor_count;
    struct feed feed = {.draft = draft, .inventory = inventory, .reader = {.inventory = inventory}};
    feed.tensors = memory_create(count + 1, sizeof *feed.tensors);
    feed.wanted = memory_create(count + 1, sizeof *feed.wanted);
    for (size_t i = 0; i < count; i++) {
        struct export_tensor tensor = draft != NULL ? draft->tensors[i] : whole_tensor(inventory, i);
        add_tensor(&feed, &tensor);
    }
    *ret_feed = feed;
}

static void feed_finish(struct feed *feed)
{
    free(feed->tensors);
    free(feed->wanted);
    padded_reader_finish(&feed->reader);
}

static bool read_rows(void *context, size_t tensor, uint64_t first, uint64_t count, float *ret_values,
                      struct error *error)
{
    struct feed *feed = context;
    return padded_reader_read(&feed->reader, &feed->wanted[tensor], first, count, ret_values, error);
}

static void report_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
    const struct feed *feed = context;
    if (feed->options->progress != NULL) {
        feed->options->progress(feed->options->context, done_bytes, total_bytes);
    }
}

static struct gguf_export export_of(struct feed *feed, enum dtype dtype)
{
    return (struct gguf_export){
        .config = feed->draft != NULL ? feed->draft->config : feed->inventory->config_json,
        .dtype = dtype,
        .tensors = feed->tensors,
        .tensor_count = feed->count,
        .context = feed,
        .read_rows = read_rows,
        .progress = report_progress,
    };
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static bool check_once(const json_t *formats, struct error *error)
{
    for (size_t i = 0; i < json_array_size(formats); i++) {
        for (size_t before = 0; before < i; before++) {
            if (json_equal(json_array_get(formats, before), json_array_get(formats, i))) {
                char field[64];
                (void)snprintf(field, sizeof field, "/output/formats/%zu", i);
                return error_set_field(error, ERROR_INVALID_ARGUMENT, field, "format %.20s is named twice",
                                       json_string_value(json_array_get(formats, i)));
            }
        }
    }
    return true;
}

/* Said before there is a plan. */
static bool check_heterogeneous(const struct inventory *inventory, const json_t *formats,
                                const struct export_options *options, struct error *error)
{
    const json_t *format = NULL;
    size_t index = 0;
    enum dtype dtype = DTYPE_F32;
    json_array_foreach(formats, index, format)
    {
        if (options->layout == EXPORT_HETEROGENEOUS && parse_format(format, &dtype) &&
            !gguf_can_differ(inventory->config.model_type)) {
            char field[64];
            (void)snprintf(field, sizeof field, "/output/formats/%zu", index);
            return error_set_field(
                error, ERROR_UNSUPPORTED, field,
                "format %.20s: GGUF has layers that differ in its architecture deci alone, which "
                "computes as Llama does; models of type %s do not. Ask for layout uniform, padded, "
                "identity or auto",
                json_string_value(format), inventory->config.model_type);
        }
    }
    return true;
}

bool export_check_formats(const struct export_draft *draft, const struct inventory *inventory,
                          const json_t *formats, const struct export_options *options, uint64_t *ret_bytes,
                          struct error *error)
{
    const json_t *format = NULL;
    size_t index = 0;
    uint64_t bytes = 0;
    struct feed feed;
    if (!check_once(formats, error) || !check_heterogeneous(inventory, formats, options, error)) {
        return false;
    }
    feed_open(draft, inventory, &feed);
    bool is_good = true;
    json_array_foreach(formats, index, format)
    {
        enum dtype dtype = DTYPE_F32;
        uint64_t more = 0;
        struct error cause = {0};
        if (!parse_format(format, &dtype)) {
            continue;
        }
        struct gguf_export model = export_of(&feed, dtype);
        is_good = gguf_export_plan(&model, &more, &cause);
        bytes += more;
        if (!is_good) {
            char field[64];
            (void)snprintf(field, sizeof field, "/output/formats/%zu", index);
            is_good =
                error_set_field(error, cause.code == ERROR_CONFIG_MISMATCH ? ERROR_UNSUPPORTED : cause.code,
                                field, "format %.20s: %s", json_string_value(format), cause.message);
            break;
        }
    }
    feed_finish(&feed);
    *ret_bytes = is_good ? bytes : *ret_bytes;
    return is_good;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* A member of a JSON file in the folder; NULL: there is none. Owned. */
static char *load_member(const char *folder, const char *file, const char *name)
{
    OWNED_MEMORY char *path = file_join(folder, file);
    struct error error = {0};
    JSON_OWNED json = file_exists(path) ? json_load(path, CONFIG_LIMIT_BYTES, &error) : NULL;
    return memory_copy_text(json_string_value(json_object_get(json, name)));
}

/* That of a model which lies in a GGUF file itself; NULL: none. Owned. */
static char *load_source_template(const struct inventory *inventory, const char *source_path)
{
    const char *name = inventory_gguf_name(inventory), *text = NULL;
    if (name == NULL) {
        return NULL;
    }
    struct error error = {0};
    OWNED_MEMORY char *folder = inventory_folder(source_path);
    OWNED_MEMORY char *path = file_join(folder, name);
    OWNED_FD int fd = file_open_read(path, &error);
    OWNED(gguf) gguf = fd >= 0 ? gguf_read(fd, &error) : NULL;
    bool is_found = gguf != NULL && gguf_find_string(gguf, "tokenizer.chat_template", &text, &error);
    return is_found ? memory_copy_text(text) : NULL;
}

/* chat_template.jinja, or as tokenizer_config.json has it. NULL: none. Owned. */
static char *load_chat_template(const char *folder)
{
    OWNED_MEMORY char *path = file_join(folder, "chat_template.jinja");
    struct error error = {0};
    size_t count = 0;
    char *text = file_exists(path) ? file_load(path, CONFIG_LIMIT_BYTES, &count, &error) : NULL;
    return text != NULL ? text : load_member(folder, "tokenizer_config.json", "chat_template");
}

static bool write_gguf(struct feed *feed, enum dtype dtype, const char *source_path, const char *out_folder,
                       struct error *error)
{
    OWNED_MEMORY char *tokenizer_path = file_join(out_folder, "tokenizer.json");
    OWNED_MEMORY char *template = load_chat_template(out_folder);
    template = template != NULL ? template : load_source_template(feed->inventory, source_path);
    OWNED_MEMORY char *tokenizer = NULL;
    size_t tokenizer_count = 0;
    if (file_exists(tokenizer_path)) {
        tokenizer = file_load(tokenizer_path, TOKENIZER_LIMIT_BYTES, &tokenizer_count, error);
        if (tokenizer == NULL) {
            return false;
        }
    }
    struct gguf_export model = export_of(feed, dtype);
    model.tokenizer_json = tokenizer;
    model.tokenizer_count = tokenizer_count;
    model.chat_template = template;
    model.cancel = feed->options->cancel;
    OWNED_MEMORY char *name = file_name(dtype);
    OWNED_MEMORY char *path = file_join(out_folder, name);
    return gguf_export_write(&model, path, error) || error_prefix(error, "%s: ", name);
}

bool export_write_formats(const struct export_draft *draft, const struct inventory *inventory,
                          const char *source_path, const char *out_folder, const json_t *formats,
                          const struct export_options *options, struct error *error)
{
    const json_t *format = NULL;
    size_t index = 0;
    bool is_good = true;
    json_array_foreach(formats, index, format)
    {
        enum dtype dtype = DTYPE_F32;
        if (!is_good || !parse_format(format, &dtype)) {
            continue;
        }
        OWNED(source) source = source_open(inventory, source_path, error);
        struct feed feed;
        feed_open(draft, inventory, &feed);
        feed.reader.source = source;
        feed.options = options;
        is_good = source != NULL && write_gguf(&feed, dtype, source_path, out_folder, error);
        feed_finish(&feed);
    }
    return is_good && file_sync_folder(out_folder, error);
}
