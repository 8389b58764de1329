/*
 * workers/export/gguf.c: the file: magic, counts, pairs, tensor list, then the tensors one after another at multiples of 32.
 * Where every tensor lies follows from shapes, so the header is written first and the weights stream behind it.
 */
#include "workers/export/gguf.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/export/gguf_internal.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT    32u
#define WINDOW_BYTES ((size_t)1 << 20)
#define BYTES_MAX    (UINT64_C(1) << 48)

/* One tensor of the file. */
struct item {
    struct gguf_place place;
    char *name; /* owned */
    enum dtype dtype;
    enum tensor_layout layout;
    size_t heads;
    size_t rank;       /* of one expert, or of the tensor */
    uint64_t shape[2]; /* as stored, slowest first, of the same */
    size_t part_count; /* experts; 1 for everything else */
    size_t *sources;   /* [part_count]: index into the caller's tensors; owned */
    const float *made; /* instead of a source: borrowed from the metadata */
    bool is_zero;      /* zeros instead of a source */
    uint64_t bytes, offset_bytes;
};
struct plan {
    const struct gguf_export *model;
    struct gguf_metadata metadata;
    struct gguf_pairs pairs;
    struct item *items; /* owned, [count] */
    size_t count, capacity;
    uint64_t bytes; /* of all tensors, padded */
    struct error *error;
};

/* ---- pairs ----------------------------------------------------------------------------------------------- */

void gguf_append_integer(struct text *text, uint64_t value, size_t byte_count)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < byte_count; i++) {
        bytes[i] = (unsigned char)(value >> (8 * i));
    }
    text_append_bytes(text, bytes, byte_count);
}

void gguf_append_f32(struct text *text, float value)
{
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    gguf_append_integer(text, bits, 4);
}

void gguf_append_text(struct text *text, const char *bytes, size_t length)
{
    gguf_append_integer(text, length, 8);
    text_append_bytes(text, bytes, length);
}

static void begin_pair(struct gguf_pairs *pairs, const char *key, enum gguf_type type)
{
    FINISHED(text) name = {0};
    text_append(&name, key[0] == '.' ? pairs->architecture : "");
    text_append(&name, key);
    gguf_append_text(&pairs->bytes, name.bytes, name.length);
    gguf_append_integer(&pairs->bytes, type, 4);
    pairs->count++;
}

void gguf_pairs_put_u32(struct gguf_pairs *pairs, const char *key, uint64_t value)
{
    CHECK(value <= UINT32_MAX);
    begin_pair(pairs, key, GGUF_U32);
    gguf_append_integer(&pairs->bytes, value, 4);
}

void gguf_pairs_put_f32(struct gguf_pairs *pairs, const char *key, double value)
{
    begin_pair(pairs, key, GGUF_F32);
    gguf_append_f32(&pairs->bytes, (float)value);
}

void gguf_pairs_put_bool(struct gguf_pairs *pairs, const char *key, bool value)
{
    begin_pair(pairs, key, GGUF_BOOL);
    gguf_append_integer(&pairs->bytes, value ? 1 : 0, 1);
}

void gguf_pairs_put_text(struct gguf_pairs *pairs, const char *key, const char *value)
{
    begin_pair(pairs, key, GGUF_TEXT);
    gguf_append_text(&pairs->bytes, value, strlen(value));
}

void gguf_pairs_begin_list(struct gguf_pairs *pairs, const char *key, enum gguf_type type, uint64_t count)
{
    begin_pair(pairs, key, GGUF_ARRAY);
    gguf_append_integer(&pairs->bytes, type, 4);
    gguf_append_integer(&pairs->bytes, count, 8);
}

/* ---- element types --------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum dtype dtype;
    uint32_t number;    /* GGML's of the type */
    uint32_t file_type; /* general.file_type of a file that is mostly this */
} types[] = {{"f32", DTYPE_F32, 0, 0},
             {"f16", DTYPE_F16, 1, 1},
             {"bf16", DTYPE_BF16, 30, 32},
             {"q8_0", DTYPE_Q8_0, 8, 7}};
#define TYPE_COUNT (sizeof types / sizeof types[0])

bool gguf_export_dtype_parse(const char *text, enum dtype *ret_dtype)
{
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        if (strcmp(text, types[i].name) == 0) {
            *ret_dtype = types[i].dtype;
            return true;
        }
    }
    return false;
}

static size_t find_type(enum dtype dtype)
{
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        if (types[i].dtype == dtype) {
            return i;
        }
    }
    CHECK(!"a type that is written");
    return 0;
}

/* As llama.cpp's converter chooses; it asserts some of these when it loads. */
static enum dtype choose_dtype(const struct item *item, enum dtype wanted)
{
    static const char *const exact[] = {"ffn_gate_inp", "position_embd", "token_types"};
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
        if (strcmp(item->place.row->gguf, exact[i]) == 0) {
            return DTYPE_F32;
        }
    }
    if (item->rank == 1) {
        return DTYPE_F32;
    }
    return wanted == DTYPE_Q8_0 && item->shape[1] % dtype_block_count(DTYPE_Q8_0) != 0 ? DTYPE_F16 : wanted;
}

/* ---- planning -------------------------------------------------------------------------------------------- */

static struct item *add_item(struct plan *plan)
{
    if (plan->count == plan->capacity) {
        plan->capacity = plan->capacity > 0 ? 2 * plan->capacity : 64;
        plan->items = memory_resize(plan->items, plan->capacity, sizeof *plan->items);
    }
    plan->items[plan->count] = (struct item){.part_count = 1};
    return &plan->items[plan->count++];
}

static bool mismatch(const struct plan *plan, const char *name, const char *what)
{
    return error_set_field(plan->error, ERROR_CONFIG_MISMATCH, name, "tensor %.120s %s", name, what);
}

static bool describe(struct plan *plan, struct item *item, const struct gguf_export_tensor *tensor)
{
    bool is_kv = item->place.row->is_kv;
    item->layout = gguf_place_layout(&item->place);
    item->heads = (size_t)(is_kv ? plan->metadata.kv_head_count : plan->metadata.head_count);
    if (plan->metadata.layers != NULL && item->place.layer < plan->metadata.layer_count) {
        const struct gguf_layer *layer = &plan->metadata.layers[item->place.layer];
        item->heads = (size_t)(is_kv ? layer->kv_head_count : layer->head_count);
    }
    item->rank = tensor->rank;
    bool is_swapped = item->layout == LAYOUT_TRANSPOSED;
    if (tensor->rank < 1 || tensor->rank > 2 || (is_swapped && tensor->rank != 2)) {
        return mismatch(plan, tensor->name, "is neither a vector nor a matrix");
    }
    uint64_t count = 1;
    for (size_t i = 0; i < tensor->rank; i++) {
        item->shape[i] = tensor->shape[is_swapped ? 1 - i : i];
        if (item->shape[i] == 0 || __builtin_mul_overflow(count, item->shape[i], &count) ||
            count > BYTES_MAX / 4) {
            return mismatch(plan, tensor->name, "has an impossible shape");
        }
    }
    if (!layout_fits(item->layout, item->heads, (size_t)item->shape[0])) {
        return mismatch(plan, tensor->name, "has rows that its heads do not divide");
    }
    item->dtype = choose_dtype(item, plan->model->dtype);
    item->bytes = dtype_size_bytes(item->dtype, (size_t)count);
    return true;
}

static bool add_tensor(struct plan *plan, size_t index)
{
    const struct gguf_export_tensor *tensor = &plan->model->tensors[index];
    struct gguf_place place;
    if (!gguf_place_parse_hf(plan->metadata.family, tensor->name, &place)) {
        return error_set_field(plan->error, ERROR_UNSUPPORTED, tensor->name,
                               "tensor %.120s has no name in a GGUF file of architecture %s", tensor->name,
                               plan->metadata.family->architecture);
    }
    if (place.row->is_outside && plan->metadata.has_tied_head) {
        return true;
    }
    struct item *item = add_item(plan);
    FINISHED(text) name = {0};
    item->place = place;
    gguf_place_format(&place, &name);
    item->name = text_take(&name);
    item->sources = memory_create(1, sizeof *item->sources);
    item->sources[0] = index;
    return describe(plan, item, tensor);
}

/* Of tensors that are made here. */
static const struct gguf_name made_row = {.gguf = ""};

static void add_zeros_and_ones(struct plan *plan)
{
    for (size_t i = 0; plan->metadata.layers != NULL && i < plan->metadata.layer_count; i++) {
        struct gguf_added added[GGUF_ADDED_MAX];
        size_t count = gguf_layers_list_added(&plan->metadata, i, added);
        for (size_t a = 0; a < count; a++) {
            struct item *item = add_item(plan);
            FINISHED(text) name = {0};
            text_append_format(&name, "blk.%zu.%s.weight", i, added[a].name);
            item->place = (struct gguf_place){.row = &made_row, .layer = i};
            item->name = text_take(&name);
            item->made = added[a].ones;
            item->is_zero = added[a].ones == NULL;
            item->rank = item->is_zero ? 2 : 1;
            memcpy(item->shape, added[a].shape, sizeof item->shape);
            item->dtype = choose_dtype(item, plan->model->dtype);
            item->bytes = dtype_size_bytes(item->dtype,
                                           (size_t)(item->shape[0] * (item->is_zero ? item->shape[1] : 1)));
        }
    }
}

static void add_factors(struct plan *plan)
{
    for (size_t i = 0; i < GGUF_FACTORS_COUNT; i++) {
        if (plan->metadata.factors[i] == NULL) {
            continue;
        }
        struct item *item = add_item(plan);
        item->place = (struct gguf_place){.row = &made_row, .layer = SIZE_MAX};
        item->name = memory_copy_text(gguf_factor_names[i]);
        item->made = plan->metadata.factors[i];
        item->rank = 1;
        item->shape[0] = plan->metadata.factor_count;
        item->bytes = plan->metadata.factor_count * sizeof(float);
    }
}

/* The model's own first, then layer by layer; by name, then by expert. */
static int compare_items(const void *left, const void *right)
{
    const struct item *a = left, *b = right;
    size_t a_layer = a->place.layer + 1, b_layer = b->place.layer + 1; /* SIZE_MAX becomes 0 */
    if (a_layer != b_layer) {
        return a_layer < b_layer ? -1 : 1;
    }
    int order = strcmp(a->name, b->name);
    return order != 0 ? order : (a->place.expert > b->place.expert) - (a->place.expert < b->place.expert);
}

static void finish_item(struct item *item)
{
    free(item->name);
    free(item->sources);
    *item = (struct item){0};
}

/* Puts the experts of one name together: the first item takes the others' sources. */
static bool stack_experts(struct plan *plan, size_t first, size_t count)
{
    struct item *item = &plan->items[first];
    if (item->made != NULL || item->is_zero) {
        return count == 1 ? true : mismatch(plan, item->name, "is there, and absent");
    }
    size_t wanted = item->place.row->is_expert ? (size_t)plan->metadata.expert_count : 1;
    if (count != wanted) {
        return mismatch(plan, item->name,
                        item->place.row->is_expert ? "has not as many experts as the config"
                                                   : "is there twice");
    }
    item->sources = memory_resize(item->sources, count, sizeof *item->sources);
    for (size_t i = 0; i < count; i++) {
        const struct item *part = &plan->items[first + i];
        if (part->place.expert != i || part->rank != item->rank ||
            memcmp(part->shape, item->shape, sizeof item->shape) != 0) {
            return mismatch(plan, item->name, "has experts that are missing or differ in shape");
        }
        item->sources[i] = part->sources[0];
    }
    item->part_count = count;
    item->bytes *= count;
    return true;
}

static bool stack_all(struct plan *plan)
{
    size_t kept = 0;
    qsort(plan->items, plan->count, sizeof *plan->items, compare_items);
    for (size_t first = 0, end = 0; first < plan->count; first = end) {
        for (end = first + 1;
             end < plan->count && strcmp(plan->items[end].name, plan->items[first].name) == 0; end++) {
        }
        if (!stack_experts(plan, first, end - first)) {
            return false;
        }
        for (size_t i = first + 1; i < end; i++) {
            finish_item(&plan->items[i]);
        }
        if (kept != first) {
            plan->items[kept] = plan->items[first];
            plan->items[first] = (struct item){0};
        }
        kept++;
    }
    plan->count = kept;
    return true;
}

static bool place_all(struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        struct item *item = &plan->items[i];
        item->offset_bytes = plan->bytes;
        plan->bytes += (item->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        if (item->bytes > BYTES_MAX || plan->bytes > BYTES_MAX) {
            return mismatch(plan, item->name, "makes the file larger than any");
        }
    }
    return true;
}

static bool put_general(struct plan *plan)
{
    const struct item *embedding = NULL;
    for (size_t i = 0; i < plan->count; i++) {
        embedding = strcmp(plan->items[i].name, "token_embd.weight") == 0 ? &plan->items[i] : embedding;
    }
    if (embedding == NULL || embedding->shape[0] > UINT32_MAX >> 8) {
        return mismatch(plan, "token_embd.weight", "is missing or too large");
    }
    if (plan->model->name != NULL) {
        gguf_pairs_put_text(&plan->pairs, "general.name", plan->model->name);
    }
    gguf_pairs_put_u32(&plan->pairs, "general.file_type", types[find_type(plan->model->dtype)].file_type);
    gguf_pairs_put_u32(&plan->pairs, "general.quantization_version", 2);
    gguf_pairs_put_u32(&plan->pairs, ".vocab_size", embedding->shape[0]);
    return gguf_vocabulary_write(plan->model, embedding->shape[0], &plan->pairs, plan->error);
}

static bool make_plan(struct plan *plan)
{
    if (!gguf_metadata_write(plan->model->config, &plan->pairs, &plan->metadata, plan->error)) {
        return false;
    }
    for (size_t i = 0; i < plan->model->tensor_count; i++) {
        if (!add_tensor(plan, i)) {
            return false;
        }
    }
    add_factors(plan);
    add_zeros_and_ones(plan);
    return stack_all(plan) && place_all(plan) && put_general(plan);
}

static void finish_plan(struct plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        finish_item(&plan->items[i]);
    }
    free(plan->items);
    text_finish(&plan->pairs.bytes);
    gguf_metadata_finish(&plan->metadata);
}

/* ---- writing --------------------------------------------------------------------------------------------- */

struct writer {
    const struct plan *plan;
    int fd;
    uint64_t done_bytes;
    struct error *error;
};

static void format_header(const struct plan *plan, struct text *header)
{
    text_append(header, "GGUF");
    gguf_append_integer(header, 3, 4);
    gguf_append_integer(header, plan->count, 8);
    gguf_append_integer(header, plan->pairs.count, 8);
    text_append_bytes(header, plan->pairs.bytes.bytes, plan->pairs.bytes.length);
    for (size_t i = 0; i < plan->count; i++) {
        const struct item *item = &plan->items[i];
        bool is_stacked = item->place.row->is_expert;
        gguf_append_text(header, item->name, strlen(item->name));
        gguf_append_integer(header, item->rank + (is_stacked ? 1 : 0), 4);
        for (size_t d = item->rank; d-- > 0;) {
            gguf_append_integer(header, item->shape[d], 8);
        }
        if (is_stacked) {
            gguf_append_integer(header, item->part_count, 8);
        }
        gguf_append_integer(header, types[find_type(item->dtype)].number, 4);
        gguf_append_integer(header, item->offset_bytes, 8);
    }
    while (header->length % ALIGNMENT != 0) {
        text_append_bytes(header, "", 1);
    }
}

/* Finite, and within what the type can hold: fp16, or an fp16 scale times 127. */
static bool check_values(const struct writer *writer, const struct item *item, const float *values,
                         size_t count)
{
    float limit = item->dtype == DTYPE_F16    ? 65504.0f
                  : item->dtype == DTYPE_Q8_0 ? 65504.0f * 127.0f
                                              : 3.402823e38f;
    float largest = 0.0f;
    bool is_finite = true;
    for (size_t i = 0; i < count; i++) {
        float magnitude = fabsf(values[i]);
        is_finite = is_finite && magnitude <= 3.40282347e38f;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (!is_finite) {
        return error_set_field(writer->error, ERROR_NUMERIC, item->name,
                               "tensor %.120s holds NaN or infinity", item->name);
    }
    return largest <= limit ? true
                            : error_set_field(writer->error, ERROR_NUMERIC, item->name,
                                              "tensor %.120s holds %g, which %s cannot", item->name,
                                              (double)largest, dtype_slug(item->dtype));
}

static bool append_values(struct writer *writer, const struct item *item, float *values, size_t count,
                          unsigned char *bytes)
{
    if (item->layout == LAYOUT_NORM_PLUS_ONE) {
        for (size_t i = 0; i < count; i++) {
            values[i] += 1.0f;
        }
    }
    if (!check_values(writer, item, values, count)) {
        return false;
    }
    size_t size = dtype_size_bytes(item->dtype, count);
    dtype_from_f32(item->dtype, values, count, bytes);
    if (!file_append(writer->fd, bytes, size, writer->error)) {
        return false;
    }
    writer->done_bytes += size;
    if (writer->plan->model->progress != NULL) {
        writer->plan->model->progress(writer->plan->model->context, writer->done_bytes, writer->plan->bytes);
    }
    return cancel_check_now(writer->plan->model->cancel, writer->error);
}

/* Stored rows [first, first + count) from the canonical ones, in runs that lie together. */
static bool read_stored(const struct writer *writer, const struct item *item, size_t source, uint64_t first,
                        uint64_t count, uint64_t columns, float *values)
{
    const struct gguf_export *model = writer->plan->model;
    size_t rows = (size_t)item->shape[0];
    for (uint64_t done = 0, run = 0; done < count; done += run) {
        size_t start = layout_canonical_row(item->layout, item->heads, rows, (size_t)(first + done));
        for (run = 1; done + run < count && layout_canonical_row(item->layout, item->heads, rows,
                                                                 (size_t)(first + done + run)) == start + run;
             run++) {
        }
        if (!model->read_rows(model->context, source, start, run, values + done * columns, writer->error)) {
            return false;
        }
    }
    return true;
}

/* The whole canonical matrix [in, out] is held, and its columns are the stored rows. */
static bool write_transposed(struct writer *writer, const struct item *item, size_t source, uint64_t window,
                             float *values, unsigned char *bytes)
{
    const struct gguf_export *model = writer->plan->model;
    size_t rows = (size_t)item->shape[0], columns = (size_t)item->shape[1];
    OWNED_MEMORY float *whole = memory_try_array(rows * columns, sizeof *whole, item->name, writer->error);
    if (whole == NULL || !model->read_rows(model->context, source, 0, columns, whole, writer->error)) {
        return false;
    }
    for (size_t first = 0; first < rows; first += window) {
        size_t count = rows - first < window ? rows - first : (size_t)window;
        for (size_t row = 0; row < count; row++) {
            for (size_t column = 0; column < columns; column++) {
                values[row * columns + column] = whole[column * rows + first + row];
            }
        }
        if (!append_values(writer, item, values, count * columns, bytes)) {
            return false;
        }
    }
    return true;
}

static bool write_part(struct writer *writer, const struct item *item, size_t source)
{
    uint64_t rows = item->shape[0], columns = item->rank == 2 ? item->shape[1] : 1;
    uint64_t window = WINDOW_BYTES / sizeof(float) / columns;
    window = window == 0 ? 1 : window > rows ? rows : window;
    OWNED_MEMORY float *values =
        memory_try_array((size_t)(window * columns), sizeof *values, item->name, writer->error);
    OWNED_MEMORY unsigned char *bytes =
        memory_try_array((size_t)(window * columns), sizeof(float), item->name, writer->error);
    if (values == NULL || bytes == NULL) {
        return false;
    }
    if (item->layout == LAYOUT_TRANSPOSED) {
        return write_transposed(writer, item, source, window, values, bytes);
    }
    for (uint64_t first = 0; first < rows; first += window) {
        uint64_t count = rows - first < window ? rows - first : window;
        if (!read_stored(writer, item, source, first, count, columns, values) ||
            !append_values(writer, item, values, (size_t)(count * columns), bytes)) {
            return false;
        }
    }
    return true;
}

/* Zero bits are zeros in every type that is written. */
static bool write_zeros(struct writer *writer, const struct item *item)
{
    OWNED_MEMORY unsigned char *zeros = memory_create(WINDOW_BYTES, 1);
    for (uint64_t done = 0; done < item->bytes; done += WINDOW_BYTES) {
        size_t count = item->bytes - done < WINDOW_BYTES ? (size_t)(item->bytes - done) : WINDOW_BYTES;
        if (!file_append(writer->fd, zeros, count, writer->error)) {
            return false;
        }
        writer->done_bytes += count;
    }
    return cancel_check_now(writer->plan->model->cancel, writer->error);
}

static bool write_item(struct writer *writer, const struct item *item)
{
    static const unsigned char zeros[ALIGNMENT];
    size_t padding = (size_t)((ALIGNMENT - item->bytes % ALIGNMENT) % ALIGNMENT);
    if (item->made != NULL) {
        if (!file_append(writer->fd, item->made, (size_t)item->bytes, writer->error)) {
            return false;
        }
        writer->done_bytes += item->bytes;
    }
    if (item->is_zero && !write_zeros(writer, item)) {
        return false;
    }
    for (size_t i = 0; item->made == NULL && !item->is_zero && i < item->part_count; i++) {
        if (!write_part(writer, item, item->sources[i])) {
            return false;
        }
    }
    writer->done_bytes += padding;
    return padding == 0 || file_append(writer->fd, zeros, padding, writer->error);
}

bool gguf_export_plan(const struct gguf_export *model, uint64_t *ret_bytes, struct error *error)
{
    struct plan plan = {.model = model, .error = error};
    bool is_good = make_plan(&plan);
    if (is_good) {
        *ret_bytes = plan.bytes;
    }
    finish_plan(&plan);
    return is_good;
}

bool gguf_export_write(const struct gguf_export *model, const char *path, struct error *error)
{
    struct plan plan = {.model = model, .error = error};
    FINISHED(text) header = {0};
    bool is_good = make_plan(&plan);
    OWNED_FD int fd = is_good ? file_create(path, 0644, error) : -1;
    is_good = is_good && fd >= 0;
    if (is_good) {
        format_header(&plan, &header);
        is_good = file_append(fd, header.bytes, header.length, error);
    }
    struct writer writer = {.plan = &plan, .fd = fd, .error = error};
    for (size_t i = 0; is_good && i < plan.count; i++) {
        is_good = write_item(&writer, &plan.items[i]);
    }
    CHECK(!is_good || writer.done_bytes == plan.bytes);
    is_good = is_good && file_sync(fd, error);
    finish_plan(&plan);
    return is_good;
}
