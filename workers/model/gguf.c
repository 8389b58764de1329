/*
 * workers/model/gguf.c: the scanner of GGUF headers. See the header for what is refused and why.
 *
 * The scanner is a cursor over bytes [count]. The length of a header is known only when it was read, so a file is
 * tried with its first megabytes and, where they end too early, with more of them. A scan that runs out of bytes
 * says so in is_short; whether that is a fault depends on whether the file has more.
 */
#include "workers/model/gguf.h"

#include "base/arena.h"
#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX_BYTES    65535u
#define NAME_MAX_BYTES   255u
#define DIMENSION_MAX    (UINT64_C(1) << 48)
#define ALIGNMENT_MAX    65536u
#define FIRST_READ       ((size_t)4 << 20)
#define PAIR_MIN_BYTES   13u /* key length, type, one byte */
#define TENSOR_MIN_BYTES 33u /* name length, one byte, rank, one dimension, type, offset */

struct scanner {
    struct gguf *gguf;
    const unsigned char *bytes;
    size_t count, at;
    uint64_t file_bytes;
    size_t text_count; /* in arrays, so far */
    bool is_short;
    struct error *error;
};

static bool refuse(const struct scanner *scanner, const char *what)
{
    return error_set(scanner->error, ERROR_CORRUPT_FILE, "GGUF header: %s at byte %zu", what, scanner->at);
}

static bool refuse_item(const struct scanner *scanner, const char *name, const char *what)
{
    return error_set_field(scanner->error, ERROR_CORRUPT_FILE, name, "GGUF file: %.120s: %s", name, what);
}

/* The next `count` bytes, or NULL. */
static const unsigned char *take(struct scanner *scanner, uint64_t count)
{
    if (count > scanner->count - scanner->at) {
        scanner->is_short = true;
        (void)error_set(scanner->error, ERROR_CORRUPT_FILE,
                        "GGUF header: the file ends inside it, at byte %zu", scanner->count);
        return NULL;
    }
    const unsigned char *bytes = scanner->bytes + scanner->at;
    scanner->at += (size_t)count;
    return bytes;
}

static uint64_t little_endian(const unsigned char *bytes, size_t count)
{
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++) {
        value |= (uint64_t)bytes[i] << (8 * i);
    }
    return value;
}

static bool take_u32(struct scanner *scanner, uint32_t *ret_value)
{
    const unsigned char *bytes = take(scanner, 4);
    *ret_value = bytes != NULL ? (uint32_t)little_endian(bytes, 4) : 0;
    return bytes != NULL;
}

static bool take_u64(struct scanner *scanner, uint64_t *ret_value)
{
    const unsigned char *bytes = take(scanner, 8);
    *ret_value = bytes != NULL ? little_endian(bytes, 8) : 0;
    return bytes != NULL;
}

static bool take_text(struct scanner *scanner, struct gguf_text *ret_text)
{
    uint64_t length = 0;
    if (!take_u64(scanner, &length)) {
        return false;
    }
    const unsigned char *bytes = take(scanner, length);
    *ret_text = (struct gguf_text){(const char *)bytes, (size_t)length};
    return bytes != NULL;
}

/* A key or a tensor's name: 1..limit bytes of UTF-8 without control characters. */
static const char *take_name(struct scanner *scanner, size_t limit, const char *what)
{
    struct gguf_text text;
    if (!take_text(scanner, &text)) {
        return NULL;
    }
    bool is_good = text.length > 0 && text.length <= limit && text_is_utf8(text.bytes, text.length);
    for (size_t i = 0; is_good && i < text.length; i++) {
        is_good = (unsigned char)text.bytes[i] > 32 && text.bytes[i] != 127;
    }
    if (!is_good) {
        (void)refuse(scanner, what);
        return NULL;
    }
    return arena_copy_text(scanner->gguf->arena, text.bytes, text.length);
}

/* ---- pairs ----------------------------------------------------------------------------------------------- */

static size_t type_bytes(enum gguf_type type)
{
    static const unsigned char sizes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
        [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8, [GGUF_TYPE_COUNT] = 0};
    return sizes[type];
}

static bool scan_texts(struct scanner *scanner, struct gguf_pair *pair)
{
    /* Each has 8 bytes of length at least, so a count that cannot be there costs no memory. */
    if (pair->count > (scanner->count - scanner->at) / 8) {
        return take(scanner, UINT64_MAX) != NULL;
    }
    if (pair->count > GGUF_TEXTS_MAX - scanner->text_count) {
        return refuse_item(scanner, pair->key, "too many texts");
    }
    scanner->text_count += pair->count;
    struct gguf_text *texts = arena_allocate(scanner->gguf->arena, pair->count + 1, sizeof *texts);
    for (size_t i = 0; i < pair->count; i++) {
        if (!take_text(scanner, &texts[i])) {
            return false;
        }
    }
    if (!pair->is_array) {
        texts[0].bytes = arena_copy_text(scanner->gguf->arena, texts[0].bytes, texts[0].length);
    }
    pair->texts = texts;
    return true;
}

static bool scan_numbers(struct scanner *scanner, struct gguf_pair *pair)
{
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(pair->count, type_bytes(pair->type), &bytes)) {
        return refuse_item(scanner, pair->key, "an array longer than any file");
    }
    pair->bytes = take(scanner, bytes);
    if (pair->bytes == NULL) {
        return false;
    }
    for (size_t i = 0; pair->type == GGUF_BOOL && i < pair->count; i++) {
        if (pair->bytes[i] > 1) {
            return refuse_item(scanner, pair->key, "a bool that is neither 0 nor 1");
        }
    }
    return true;
}

static bool scan_pair(struct scanner *scanner, struct gguf_pair *pair)
{
    uint32_t type = 0;
    uint64_t count = 1;
    pair->key = take_name(scanner, KEY_MAX_BYTES, "a key that is empty, too long or not printable");
    if (pair->key == NULL || !take_u32(scanner, &type)) {
        return false;
    }
    pair->is_array = type == GGUF_ARRAY;
    if (pair->is_array && (!take_u32(scanner, &type) || !take_u64(scanner, &count))) {
        return false;
    }
    if (type >= GGUF_TYPE_COUNT) {
        return refuse_item(scanner, pair->key, "an unknown type of value");
    }
    if (type == GGUF_ARRAY) {
        return refuse_item(scanner, pair->key, "an array of arrays");
    }
    pair->type = (enum gguf_type)type;
    pair->count = (size_t)count;
    return type == GGUF_TEXT ? scan_texts(scanner, pair) : scan_numbers(scanner, pair);
}

static int compare_pairs(const void *left, const void *right)
{
    return strcmp(((const struct gguf_pair *)left)->key, ((const struct gguf_pair *)right)->key);
}

static bool scan_pairs(struct scanner *scanner, uint64_t count)
{
    struct gguf *gguf = scanner->gguf;
    gguf->pairs = arena_allocate(gguf->arena, (size_t)count + 1, sizeof *gguf->pairs);
    for (; gguf->pair_count < count; gguf->pair_count++) {
        if (!scan_pair(scanner, &gguf->pairs[gguf->pair_count])) {
            return false;
        }
    }
    qsort(gguf->pairs, gguf->pair_count, sizeof *gguf->pairs, compare_pairs);
    for (size_t i = 1; i < gguf->pair_count; i++) {
        if (strcmp(gguf->pairs[i].key, gguf->pairs[i - 1].key) == 0) {
            return refuse_item(scanner, gguf->pairs[i].key, "the key is there twice");
        }
    }
    return true;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

/* GGML's numbers of the types that we read. */
static const struct {
    uint32_t number;
    enum dtype dtype;
} tensor_types[] = {{0, DTYPE_F32},   {1, DTYPE_F16},   {2, DTYPE_Q4_0}, {3, DTYPE_Q4_1},
                    {6, DTYPE_Q5_0},  {7, DTYPE_Q5_1},  {8, DTYPE_Q8_0}, {12, DTYPE_Q4_K},
                    {13, DTYPE_Q5_K}, {14, DTYPE_Q6_K}, {30, DTYPE_BF16}};

static bool find_type(const struct scanner *scanner, const char *name, uint32_t number, enum dtype *ret_dtype)
{
    for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++) {
        if (tensor_types[i].number == number) {
            *ret_dtype = tensor_types[i].dtype;
            return true;
        }
    }
    return error_set_field(
        scanner->error, ERROR_UNSUPPORTED, name,
        "tensor %.120s has GGML type %u; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, "
        "Q5_K and Q6_K are read",
        name, number);
}

static bool measure_tensor(const struct scanner *scanner, struct gguf_tensor *tensor)
{
    uint64_t count = 1, bytes = 0;
    for (size_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] == 0 || tensor->shape[i] >= DIMENSION_MAX ||
            __builtin_mul_overflow(count, tensor->shape[i], &count)) {
            return refuse_item(scanner, tensor->name, "a dimension out of range");
        }
    }
    if (tensor->shape[tensor->rank - 1] % dtype_block_count(tensor->dtype) != 0) {
        return refuse_item(scanner, tensor->name, "rows that are no whole blocks of its type");
    }
    if (__builtin_mul_overflow(count, UINT64_C(4), &bytes)) { /* no type has more than 4 bytes an element */
        return refuse_item(scanner, tensor->name, "more bytes than can be counted");
    }
    tensor->bytes = dtype_size_bytes(tensor->dtype, count);
    return true;
}

static bool scan_tensor(struct scanner *scanner, struct gguf_tensor *tensor, uint64_t alignment)
{
    uint32_t rank = 0, type = 0;
    tensor->name =
        take_name(scanner, NAME_MAX_BYTES, "a tensor name that is empty, too long or not printable");
    if (tensor->name == NULL || !take_u32(scanner, &rank)) {
        return false;
    }
    if (rank < 1 || rank > 4) {
        return refuse_item(scanner, tensor->name, "a rank that is not 1..4");
    }
    tensor->rank = rank;
    for (size_t i = 0; i < rank; i++) {
        if (!take_u64(scanner, &tensor->shape[rank - 1 - i])) {
            return false;
        }
    }
    if (!take_u32(scanner, &type) || !take_u64(scanner, &tensor->offset_bytes)) {
        return false;
    }
    if (tensor->offset_bytes % alignment != 0) {
        return refuse_item(scanner, tensor->name, "an offset that is no multiple of the alignment");
    }
    return find_type(scanner, tensor->name, type, &tensor->dtype) && measure_tensor(scanner, tensor);
}

static int compare_offsets(const void *left, const void *right)
{
    const struct gguf_tensor *a = left, *b = right;
    return (a->offset_bytes > b->offset_bytes) - (a->offset_bytes < b->offset_bytes);
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(((const struct gguf_tensor *)left)->name, ((const struct gguf_tensor *)right)->name);
}

static uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1); /* values stay below 2^63: they were in a file */
}

/* In order of offset each tensor begins where the one before ends, padded. */
static bool check_places(struct scanner *scanner, uint64_t alignment)
{
    struct gguf *gguf = scanner->gguf;
    uint64_t data = align_up(scanner->at, alignment), next = 0, end = scanner->at;
    qsort(gguf->tensors, gguf->tensor_count, sizeof *gguf->tensors, compare_offsets);
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        struct gguf_tensor *tensor = &gguf->tensors[i];
        if (tensor->offset_bytes != next) {
            return refuse_item(scanner, tensor->name,
                               tensor->offset_bytes < next ? "overlaps the tensor before it"
                                                           : "a hole before it that no tensor fills");
        }
        if (scanner->file_bytes < data || tensor->offset_bytes > scanner->file_bytes - data ||
            tensor->bytes > scanner->file_bytes - data - tensor->offset_bytes) {
            return refuse_item(scanner, tensor->name, "the file ends before it does");
        }
        tensor->offset_bytes += data;
        end = tensor->offset_bytes + tensor->bytes;
        next = align_up(end - data, alignment);
    }
    if (scanner->file_bytes > align_up(end, alignment)) {
        return error_set(scanner->error, ERROR_CORRUPT_FILE,
                         "GGUF file: %llu bytes after the last tensor belong to none",
                         (unsigned long long)(scanner->file_bytes - end));
    }
    return true;
}

static bool scan_tensors(struct scanner *scanner, uint64_t count, uint64_t alignment)
{
    struct gguf *gguf = scanner->gguf;
    gguf->tensors = arena_allocate(gguf->arena, (size_t)count + 1, sizeof *gguf->tensors);
    for (; gguf->tensor_count < count; gguf->tensor_count++) {
        if (!scan_tensor(scanner, &gguf->tensors[gguf->tensor_count], alignment)) {
            return false;
        }
    }
    if (!check_places(scanner, alignment)) {
        return false;
    }
    qsort(gguf->tensors, gguf->tensor_count, sizeof *gguf->tensors, compare_names);
    for (size_t i = 1; i < gguf->tensor_count; i++) {
        if (strcmp(gguf->tensors[i].name, gguf->tensors[i - 1].name) == 0) {
            return refuse_item(scanner, gguf->tensors[i].name, "the tensor is there twice");
        }
    }
    return true;
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

static bool scan_start(struct scanner *scanner, uint64_t *ret_tensors, uint64_t *ret_pairs)
{
    const unsigned char *magic = take(scanner, 4);
    uint32_t version = 0;
    if (magic == NULL) {
        return false;
    }
    if (memcmp(magic, "GGUF", 4) != 0) {
        return error_set(scanner->error, ERROR_CORRUPT_FILE, "no GGUF file: it does not begin with \"GGUF\"");
    }
    if (!take_u32(scanner, &version)) {
        return false;
    }
    if (version != 2 && version != 3) {
        bool is_swapped = (version & 0xffff) == 0 && version != 0;
        return error_set(scanner->error, ERROR_UNSUPPORTED,
                         "GGUF %s; versions 2 and 3, little endian, are read",
                         is_swapped ? "is big endian" : "has another version");
    }
    scanner->gguf->version = version;
    if (!take_u64(scanner, ret_tensors) || !take_u64(scanner, ret_pairs)) {
        return false;
    }
    return *ret_tensors <= GGUF_TENSORS_MAX && *ret_pairs <= GGUF_PAIRS_MAX
               ? true
               : refuse(scanner, "more tensors or key-value pairs than are read");
}

static bool scan(struct scanner *scanner)
{
    struct gguf *gguf = scanner->gguf;
    uint64_t tensor_count = 0, pair_count = 0, alignment = 32, split_count = 1;
    if (!scan_start(scanner, &tensor_count, &pair_count)) {
        return false;
    }
    /* What cannot be there costs no memory; the scan then runs out where it should. */
    size_t left = scanner->count - scanner->at;
    if (pair_count > left / PAIR_MIN_BYTES || tensor_count > left / TENSOR_MIN_BYTES) {
        return take(scanner, UINT64_MAX) != NULL;
    }
    if (!scan_pairs(scanner, pair_count) ||
        !gguf_find_u64(gguf, "general.alignment", 1, ALIGNMENT_MAX, &alignment, scanner->error) ||
        !gguf_find_u64(gguf, "split.count", 0, UINT64_MAX, &split_count, scanner->error) ||
        !gguf_find_string(gguf, "general.architecture", &gguf->architecture, scanner->error)) {
        return false;
    }
    if ((alignment & (alignment - 1)) != 0) {
        return refuse_item(scanner, "general.alignment", "no power of two");
    }
    if (split_count > 1) {
        return error_set_field(
            scanner->error, ERROR_UNSUPPORTED, "split.count",
            "the model is split over %llu GGUF files; join them first (llama-gguf-split --merge)",
            (unsigned long long)split_count);
    }
    return scan_tensors(scanner, tensor_count, alignment);
}

const char *const gguf_factor_names[] = {"rope_freqs.weight", "rope_factors_long.weight",
                                         "rope_factors_short.weight"};

/* From the descriptor, or from the header's own bytes where it is -1. */
static bool read_factors(struct gguf *gguf, int fd, size_t count, struct error *error)
{
    for (size_t i = 0; i < GGUF_FACTORS_COUNT; i++) {
        const struct gguf_tensor *tensor = gguf_find_tensor(gguf, gguf_factor_names[i]);
        if (tensor == NULL) {
            continue;
        }
        if (tensor->dtype != DTYPE_F32 || tensor->rank != 1 || tensor->shape[0] > GGUF_FACTORS_MAX ||
            (fd < 0 && (tensor->offset_bytes > count || tensor->bytes > count - tensor->offset_bytes))) {
            return error_set_field(error, ERROR_CORRUPT_FILE, tensor->name,
                                   "GGUF tensor %s must be a vector of at most %u F32 values", tensor->name,
                                   GGUF_FACTORS_MAX);
        }
        float *values = arena_allocate(gguf->arena, (size_t)tensor->shape[0], sizeof *values);
        if (fd < 0) {
            memcpy(values, gguf->bytes + tensor->offset_bytes, (size_t)tensor->bytes);
        } else if (!file_read_at(fd, values, (size_t)tensor->bytes, tensor->offset_bytes, tensor->name,
                                 error)) {
            return false;
        }
        gguf->factors[i] = (struct gguf_factors){values, (size_t)tensor->shape[0]};
    }
    return true;
}

/* Takes bytes. *ret_short: more bytes are needed, and the file has them. */
static struct gguf *parse_taken(unsigned char *bytes, size_t count, uint64_t file_bytes, int fd,
                                bool *ret_short, struct error *error)
{
    OWNED(gguf) gguf = memory_create(1, sizeof *gguf);
    gguf->arena = arena_create(0);
    gguf->bytes = bytes;
    gguf->architecture = "";
    struct scanner scanner = {
        .gguf = gguf, .bytes = bytes, .count = count, .file_bytes = file_bytes, .error = error};
    if (scan(&scanner)) {
        return read_factors(gguf, fd, count, error) ? TAKE(gguf) : NULL;
    }
    *ret_short = scanner.is_short && count < file_bytes;
    return NULL;
}

struct gguf *gguf_parse(const void *bytes, size_t count, uint64_t file_bytes, struct error *error)
{
    bool is_short = false;
    CHECK(count <= file_bytes);
    unsigned char *copy = memory_try_array(count + 1, 1, "a GGUF header", error);
    if (copy == NULL) {
        return NULL;
    }
    memcpy(copy, bytes, count);
    return parse_taken(copy, count, file_bytes, -1, &is_short, error);
}

struct gguf *gguf_read(int fd, struct error *error)
{
    uint64_t file_bytes = 0;
    if (!file_size(fd, &file_bytes, error)) {
        return NULL;
    }
    for (size_t limit = FIRST_READ;; limit *= 4) {
        bool is_short = false;
        size_t count = file_bytes < limit ? (size_t)file_bytes : limit;
        unsigned char *bytes = memory_try_array(count + 1, 1, "a GGUF header", error);
        if (bytes == NULL) {
            return NULL;
        }
        if (!file_read_at(fd, bytes, count, 0, "the GGUF header", error)) {
            free(bytes);
            return NULL;
        }
        struct gguf *gguf = parse_taken(bytes, count, file_bytes, fd, &is_short, error);
        if (gguf != NULL || !is_short) {
            return gguf;
        }
        if (limit >= GGUF_HEADER_LIMIT_BYTES) {
            (void)error_set(error, ERROR_TOO_LARGE, "the GGUF header has more than %zu bytes",
                            GGUF_HEADER_LIMIT_BYTES);
            return NULL;
        }
    }
}

void gguf_destroy(struct gguf *gguf)
{
    if (gguf == NULL) {
        return;
    }
    arena_destroy(gguf->arena);
    free(gguf->bytes);
    free(gguf);
}

/* ---- looking up ------------------------------------------------------------------------------------------ */

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name)
{
    struct gguf_tensor key = {.name = name};
    return gguf->tensor_count > 0
               ? bsearch(&key, gguf->tensors, gguf->tensor_count, sizeof *gguf->tensors, compare_names)
               : NULL;
}

const struct gguf_pair *gguf_find(const struct gguf *gguf, const char *key)
{
    struct gguf_pair wanted = {.key = key};
    return gguf->pair_count > 0
               ? bsearch(&wanted, gguf->pairs, gguf->pair_count, sizeof *gguf->pairs, compare_pairs)
               : NULL;
}

bool gguf_number_at(const struct gguf_pair *pair, size_t index, double *ret_value)
{
    int64_t integer = 0;
    CHECK(index < pair->count);
    if (pair->type == GGUF_F32) {
        uint32_t bits = (uint32_t)little_endian(pair->bytes + 4 * index, 4);
        float value = 0.0f;
        memcpy(&value, &bits, sizeof value);
        *ret_value = (double)value;
        return true;
    }
    if (pair->type == GGUF_F64) {
        uint64_t bits = little_endian(pair->bytes + 8 * index, 8);
        memcpy(ret_value, &bits, sizeof bits);
        return true;
    }
    if (!gguf_integer_at(pair, index, &integer)) {
        return false;
    }
    *ret_value = (double)integer;
    return true;
}

bool gguf_integer_at(const struct gguf_pair *pair, size_t index, int64_t *ret_value)
{
    CHECK(index < pair->count);
    if (pair->type == GGUF_TEXT || pair->type == GGUF_F32 || pair->type == GGUF_F64) {
        return false;
    }
    size_t size = type_bytes(pair->type);
    uint64_t bits = little_endian(pair->bytes + size * index, size);
    bool is_signed =
        pair->type == GGUF_I8 || pair->type == GGUF_I16 || pair->type == GGUF_I32 || pair->type == GGUF_I64;
    if (!is_signed) {
        *ret_value = (int64_t)bits;
        return bits <= INT64_MAX;
    }
    uint64_t sign = UINT64_C(1) << (8 * size - 1);
    *ret_value = (int64_t)((bits ^ sign) - sign);
    return true;
}

/* true with *ret_pair NULL: absent. */
static bool find_scalar(const struct gguf *gguf, const char *key, const struct gguf_pair **ret_pair,
                        struct error *error)
{
    *ret_pair = gguf_find(gguf, key);
    return *ret_pair == NULL || !(*ret_pair)->is_array
               ? true
               : error_set_field(error, ERROR_WRONG_TYPE, key,
                                 "GGUF key %s: one value is needed, not an array", key);
}

static bool wrong_type(const char *key, const char *wanted, struct error *error)
{
    return error_set_field(error, ERROR_WRONG_TYPE, key, "GGUF key %s: %s is needed", key, wanted);
}

static bool missing(const char *key, struct error *error)
{
    return error_set_field(error, ERROR_MISSING_FIELD, key, "GGUF key %s is missing", key);
}

bool gguf_find_u64(const struct gguf *gguf, const char *key, uint64_t min, uint64_t max, uint64_t *ret_value,
                   struct error *error)
{
    const struct gguf_pair *pair = NULL;
    int64_t value = 0;
    if (!find_scalar(gguf, key, &pair, error)) {
        return false;
    }
    if (pair == NULL) {
        return true;
    }
    if (!gguf_integer_at(pair, 0, &value)) {
        return wrong_type(key, "an integer", error);
    }
    if (value < 0 || (uint64_t)value < min || (uint64_t)value > max) {
        return error_set_field(error, ERROR_OUT_OF_RANGE, key, "GGUF key %s is %lld; it must be %llu..%llu",
                               key, (long long)value, (unsigned long long)min, (unsigned long long)max);
    }
    *ret_value = (uint64_t)value;
    return true;
}

bool gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t min, uint64_t max, uint64_t *ret_value,
                  struct error *error)
{
    return gguf_find(gguf, key) != NULL ? gguf_find_u64(gguf, key, min, max, ret_value, error)
                                        : missing(key, error);
}

bool gguf_find_f64(const struct gguf *gguf, const char *key, double *ret_value, struct error *error)
{
    const struct gguf_pair *pair = NULL;
    if (!find_scalar(gguf, key, &pair, error)) {
        return false;
    }
    return pair == NULL || gguf_number_at(pair, 0, ret_value) ? true : wrong_type(key, "a number", error);
}

bool gguf_get_f64(const struct gguf *gguf, const char *key, double *ret_value, struct error *error)
{
    return gguf_find(gguf, key) != NULL ? gguf_find_f64(gguf, key, ret_value, error) : missing(key, error);
}

bool gguf_find_bool(const struct gguf *gguf, const char *key, bool *ret_value, struct error *error)
{
    const struct gguf_pair *pair = NULL;
    if (!find_scalar(gguf, key, &pair, error)) {
        return false;
    }
    if (pair != NULL && pair->type != GGUF_BOOL) {
        return wrong_type(key, "a bool", error);
    }
    *ret_value = pair != NULL ? pair->bytes[0] != 0 : *ret_value;
    return true;
}

bool gguf_find_string(const struct gguf *gguf, const char *key, const char **ret_text, struct error *error)
{
    const struct gguf_pair *pair = NULL;
    if (!find_scalar(gguf, key, &pair, error)) {
        return false;
    }
    if (pair == NULL) {
        return true;
    }
    if (pair->type != GGUF_TEXT) {
        return wrong_type(key, "a text", error);
    }
    const struct gguf_text *text = pair->texts;
    if (memchr(text->bytes, '\0', text->length) != NULL || !text_is_utf8(text->bytes, text->length)) {
        return error_set_field(error, ERROR_CORRUPT_FILE, key, "GGUF key %s: the text is no UTF-8", key);
    }
    *ret_text = text->bytes;
    return true;
}
