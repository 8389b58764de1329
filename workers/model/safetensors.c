/*
 * workers/model/safetensors.c: the scanner of safetensors headers and of shard indices. See the header for
 * what is refused and why.
 *
 * The scanner is a cursor over [text, end). Every helper moves it past what it expects or sets the one error
 * and fails; strings are unescaped into the arena, whose limit follows from n.
 */
#include "workers/model/safetensors.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_MAX      (UINT64_C(1) << 48)
/* The shortest entry, "a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}, has 49 bytes. */
#define ENTRY_BYTES_MIN 48

static const struct {
    const char *slug;
    uint64_t bytes;
} dtypes[] = {
#define X(name, slug, bytes) [ST_##name] = {slug, bytes},
    ST_DTYPES(X)
#undef X
};

const char *st_dtype_slug(enum st_dtype dtype)
{
    return dtypes[dtype].slug;
}

bool st_dtype_to_dtype(enum st_dtype from, enum dtype *ret_dtype)
{
    static const enum dtype all[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (strcmp(dtype_slug(all[i]), dtypes[from].slug) == 0) {
            *ret_dtype = all[i];
            return true;
        }
    }
    return false;
}

/* ---- the cursor ------------------------------------------------------------------------------ */

struct scanner {
    const char *start, *at, *end;
    struct arena *arena;
    struct error *error;
};

static bool refuse(const struct scanner *scanner, const char *what)
{
    return error_set(scanner->error, ERROR_CORRUPT_FILE, "safetensors header: %s at byte %zu", what,
                     (size_t)(scanner->at - scanner->start));
}

static void skip_space(struct scanner *scanner)
{
    while (scanner->at < scanner->end &&
           (*scanner->at == ' ' || *scanner->at == '\n' || *scanner->at == '\r' || *scanner->at == '\t')) {
        scanner->at++;
    }
}

static bool next_is(struct scanner *scanner, char wanted)
{
    skip_space(scanner);
    return scanner->at < scanner->end && *scanner->at == wanted;
}

static bool expect(struct scanner *scanner, char wanted)
{
    if (!next_is(scanner, wanted)) {
        char what[] = "expected 'x'";
        what[sizeof what - 3] = wanted;
        return refuse(scanner, what);
    }
    scanner->at++;
    return true;
}

/* After an item: a comma and more, or the closing character. */
static bool expect_more(struct scanner *scanner, char closing, bool *ret_more)
{
    if (next_is(scanner, ',')) {
        scanner->at++;
        *ret_more = true;
        return true;
    }
    *ret_more = false;
    return expect(scanner, closing);
}

static bool scan_number(struct scanner *scanner, uint64_t *ret_value)
{
    skip_space(scanner);
    const char *first = scanner->at;
    uint64_t value = 0;
    while (scanner->at < scanner->end && *scanner->at >= '0' && *scanner->at <= '9') {
        value = value * 10 + (uint64_t)(*scanner->at - '0');
        if (value >= NUMBER_MAX) {
            return refuse(scanner, "a number of 2^48 or more");
        }
        scanner->at++;
    }
    size_t digits = (size_t)(scanner->at - first);
    if (digits == 0 || (digits > 1 && *first == '0')) {
        return refuse(scanner, "expected a plain decimal number");
    }
    *ret_value = value;
    return true;
}

static bool scan_hex4(struct scanner *scanner, uint32_t *ret_unit)
{
    uint32_t unit = 0;
    for (size_t i = 0; i < 4; i++) {
        if (scanner->at >= scanner->end || !isxdigit((unsigned char)*scanner->at)) {
            return refuse(scanner, "expected four hexadecimal digits");
        }
        char c = *scanner->at++;
        unit = unit * 16 + (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    *ret_unit = unit;
    return true;
}

static size_t put_utf8(uint32_t point, char *to)
{
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xc0 | (point >> 6));
        to[1] = (char)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xe0 | (point >> 12));
        to[1] = (char)(0x80 | ((point >> 6) & 0x3f));
        to[2] = (char)(0x80 | (point & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | (point >> 18));
    to[1] = (char)(0x80 | ((point >> 12) & 0x3f));
    to[2] = (char)(0x80 | ((point >> 6) & 0x3f));
    to[3] = (char)(0x80 | (point & 0x3f));
    return 4;
}

/* The cursor is behind "\u". A surrogate must come as a pair. */
static bool scan_unicode_escape(struct scanner *scanner, uint32_t *ret_point)
{
    uint32_t high = 0, low = 0;
    if (!scan_hex4(scanner, &high)) {
        return false;
    }
    if (high < 0xd800 || high > 0xdfff) {
        *ret_point = high;
        return true;
    }
    if (high > 0xdbff || scanner->end - scanner->at < 2 || scanner->at[0] != '\\' || scanner->at[1] != 'u') {
        return refuse(scanner, "a lone surrogate");
    }
    scanner->at += 2;
    if (!scan_hex4(scanner, &low)) {
        return false;
    }
    if (low < 0xdc00 || low > 0xdfff) {
        return refuse(scanner, "a lone surrogate");
    }
    *ret_point = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    return true;
}

static bool scan_escape(struct scanner *scanner, uint32_t *ret_point)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (scanner->at >= scanner->end) {
        return refuse(scanner, "an unfinished string");
    }
    char letter = *scanner->at++;
    if (letter == 'u') {
        return scan_unicode_escape(scanner, ret_point);
    }
    const char *found = letter != '\0' ? strchr(letters, letter) : NULL;
    if (found == NULL) {
        return refuse(scanner, "an unknown escape");
    }
    *ret_point = (uint32_t)values[found - letters];
    return true;
}

/* Into a buffer of `limit` bytes and a NUL. may_control: "\n" and friends are content (metadata), not an
 * attack on logs. */
static bool scan_string(struct scanner *scanner, char *buffer, size_t limit, bool may_control,
                        size_t *ret_length)
{
    if (!expect(scanner, '"')) {
        return false;
    }
    size_t length = 0;
    for (;;) {
        if (scanner->at >= scanner->end) {
            return refuse(scanner, "an unfinished string");
        }
        char c = *scanner->at++;
        if (c == '"') {
            break;
        }
        char encoded[4] = {c};
        size_t size = 1;
        uint32_t point = (unsigned char)c;
        if (c == '\\') {
            if (!scan_escape(scanner, &point)) {
                return false;
            }
            size = put_utf8(point, encoded);
        } else if (point < 0x20) {
            return refuse(scanner, "a bare control character");
        }
        if (!may_control && (point < 0x20 || point == 0x7f)) {
            return refuse(scanner, "a control character in a name");
        }
        if (buffer == NULL) { /* content that is not kept */
            continue;
        }
        if (length + size > limit) {
            return refuse(scanner, "a name that is too long");
        }
        memcpy(buffer + length, encoded, size);
        length += size;
    }
    if (buffer != NULL) {
        buffer[length] = '\0';
        *ret_length = length;
    }
    return true;
}

/* ---- the header ------------------------------------------------------------------------------ */

static bool scan_metadata(struct scanner *scanner)
{
    bool more = true;
    if (!expect(scanner, '{')) {
        return false;
    }
    if (next_is(scanner, '}')) {
        scanner->at++;
        return true;
    }
    while (more) {
        if (!scan_string(scanner, NULL, 0, true, NULL) || !expect(scanner, ':') ||
            !scan_string(scanner, NULL, 0, true, NULL) || !expect_more(scanner, '}', &more)) {
            return false;
        }
    }
    return true;
}

static bool scan_dtype(struct scanner *scanner, enum st_dtype *ret_dtype)
{
    char slug[17];
    size_t length = 0;
    if (!scan_string(scanner, slug, sizeof slug - 1, false, &length)) {
        return false;
    }
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(slug, dtypes[i].slug) == 0) {
            *ret_dtype = (enum st_dtype)i;
            return true;
        }
    }
    return refuse(scanner, "an unknown dtype");
}

static bool scan_numbers(struct scanner *scanner, uint64_t *values, size_t limit, size_t *ret_count)
{
    size_t count = 0;
    bool more = true;
    if (!expect(scanner, '[')) {
        return false;
    }
    if (next_is(scanner, ']')) {
        scanner->at++;
        *ret_count = 0;
        return true;
    }
    while (more) {
        if (count == limit) {
            return refuse(scanner, "too many dimensions or offsets");
        }
        if (!scan_number(scanner, &values[count]) || !expect_more(scanner, ']', &more)) {
            return false;
        }
        count++;
    }
    *ret_count = count;
    return true;
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]} in any order, each exactly once. offset_bytes:
 * from the data's start. */
static bool scan_entry(struct scanner *scanner, struct st_tensor *tensor)
{
    uint64_t offsets[2] = {0, 0};
    unsigned seen = 0;
    bool more = true;
    if (!expect(scanner, '{')) {
        return false;
    }
    while (more) {
        char key[16];
        size_t length = 0, count = 0;
        if (!scan_string(scanner, key, sizeof key - 1, false, &length) || !expect(scanner, ':')) {
            return false;
        }
        unsigned bit = strcmp(key, "dtype") == 0          ? 1
                       : strcmp(key, "shape") == 0        ? 2
                       : strcmp(key, "data_offsets") == 0 ? 4
                                                          : 0;
        if (bit == 0 || (seen & bit) != 0) {
            return refuse(scanner,
                          bit == 0 ? "an unknown member of a tensor" : "a doubled member of a tensor");
        }
        seen |= bit;
        bool is_read = bit == 1   ? scan_dtype(scanner, &tensor->dtype)
                       : bit == 2 ? scan_numbers(scanner, tensor->shape, ST_RANK_MAX, &tensor->rank)
                                  : scan_numbers(scanner, offsets, 2, &count);
        if (!is_read) {
            return false;
        }
        if (bit == 4 && (count != 2 || offsets[1] < offsets[0])) {
            return refuse(scanner, "data_offsets that are not [begin, end]");
        }
        if (!expect_more(scanner, '}', &more)) {
            return false;
        }
    }
    if (seen != 7) {
        return refuse(scanner, "a tensor without dtype, shape or data_offsets");
    }
    tensor->offset_bytes = offsets[0];
    tensor->bytes = offsets[1] - offsets[0];
    return true;
}

static bool check_size(const struct st_tensor *tensor, struct error *error)
{
    uint64_t bytes = dtypes[tensor->dtype].bytes;
    for (size_t i = 0; i < tensor->rank; i++) {
        if (__builtin_mul_overflow(bytes, tensor->shape[i], &bytes)) {
            return error_set_field(error, ERROR_CORRUPT_FILE, tensor->name,
                                   "tensor %.100s: its shape overflows", tensor->name);
        }
    }
    if (bytes != tensor->bytes) {
        return error_set_field(error, ERROR_CORRUPT_FILE, tensor->name,
                               "tensor %.100s: shape and dtype make %llu bytes, data_offsets %llu",
                               tensor->name, (unsigned long long)bytes, (unsigned long long)tensor->bytes);
    }
    return true;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct st_tensor *left = a, *right = b;
    if (left->offset_bytes != right->offset_bytes) {
        return left->offset_bytes < right->offset_bytes ? -1 : 1;
    }
    return left->bytes < right->bytes ? -1 : left->bytes > right->bytes;
}

static int compare_names(const void *a, const void *b)
{
    const struct st_tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

/* Ranges start at 0, touch, and end with the file. */
static bool check_ranges(struct st_header *header, uint64_t data_bytes, struct error *error)
{
    qsort(header->tensors, header->tensor_count, sizeof *header->tensors, compare_offsets);
    uint64_t covered = 0;
    for (size_t i = 0; i < header->tensor_count; i++) {
        const struct st_tensor *tensor = &header->tensors[i];
        if (tensor->offset_bytes != covered) {
            return error_set_field(error, ERROR_CORRUPT_FILE, tensor->name,
                                   "tensor %.100s starts at byte %llu of the data, %s %llu", tensor->name,
                                   (unsigned long long)tensor->offset_bytes,
                                   tensor->offset_bytes < covered ? "overlapping one that ends at"
                                                                  : "leaving a hole from",
                                   (unsigned long long)covered);
        }
        covered += tensor->bytes; /* both below 2^48 */
    }
    if (covered != data_bytes) {
        return error_set(error, ERROR_CORRUPT_FILE, "the tensors take %llu bytes, the file holds %llu: %s",
                         (unsigned long long)covered, (unsigned long long)data_bytes,
                         covered > data_bytes ? "it is truncated" : "bytes belong to no tensor");
    }
    return true;
}

static bool check_names(struct st_header *header, struct error *error)
{
    qsort(header->tensors, header->tensor_count, sizeof *header->tensors, compare_names);
    for (size_t i = 1; i < header->tensor_count; i++) {
        const char *name = header->tensors[i].name;
        if (strcmp(name, header->tensors[i - 1].name) == 0) {
            return error_set_field(error, ERROR_CORRUPT_FILE, name, "tensor %.100s is there twice", name);
        }
    }
    return true;
}

static bool scan_tensor(struct scanner *scanner, const char *name, size_t length, struct st_header *header,
                        size_t capacity)
{
    if (length == 0) {
        return refuse(scanner, "an empty tensor name");
    }
    if (header->tensor_count == capacity) {
        return refuse(scanner, "too many tensors");
    }
    struct st_tensor *tensor = &header->tensors[header->tensor_count++];
    tensor->name = arena_copy_text(scanner->arena, name, length);
    if (tensor->name == NULL) {
        return error_set(scanner->error, ERROR_OUT_OF_MEMORY, "safetensors header: out of memory for names");
    }
    return scan_entry(scanner, tensor) && check_size(tensor, scanner->error);
}

static bool scan_header(struct scanner *scanner, struct st_header *header, size_t capacity)
{
    bool more = true, has_metadata = false;
    scanner->at++; /* the `{` was checked */
    if (next_is(scanner, '}')) {
        scanner->at++;
        more = false;
    }
    while (more) {
        char name[ST_NAME_MAX + 1];
        size_t length = 0;
        if (!scan_string(scanner, name, ST_NAME_MAX, false, &length) || !expect(scanner, ':')) {
            return false;
        }
        bool is_metadata = strcmp(name, "__metadata__") == 0;
        if (is_metadata && has_metadata) {
            return refuse(scanner, "a second __metadata__");
        }
        has_metadata = has_metadata || is_metadata;
        if (!(is_metadata ? scan_metadata(scanner) : scan_tensor(scanner, name, length, header, capacity)) ||
            !expect_more(scanner, '}', &more)) {
            return false;
        }
    }
    while (scanner->at < scanner->end) {
        if (*scanner->at != ' ') {
            return refuse(scanner, "something behind the closing brace");
        }
        scanner->at++;
    }
    return true;
}

bool st_header_parse(const char *text, size_t n, uint64_t data_bytes, struct arena *arena,
                     struct st_header *ret_header, struct error *error)
{
    struct scanner scanner = {text, text, text + n, arena, error};
    if (n == 0 || text[0] != '{') {
        return refuse(&scanner, "expected '{'");
    }
    if (!text_is_utf8(text, n)) {
        return refuse(&scanner, "bytes that are not UTF-8");
    }
    size_t capacity = n / ENTRY_BYTES_MIN + 1 < ST_TENSORS_MAX ? n / ENTRY_BYTES_MIN + 1 : ST_TENSORS_MAX;
    struct st_header header = {arena_allocate(arena, capacity, sizeof *header.tensors), 0};
    if (header.tensors == NULL) {
        return error_set(error, ERROR_OUT_OF_MEMORY, "safetensors header: out of memory for %zu tensors",
                         capacity);
    }
    if (!scan_header(&scanner, &header, capacity) || !check_ranges(&header, data_bytes, error) ||
        !check_names(&header, error)) {
        return false;
    }
    for (size_t i = 0; i < header.tensor_count; i++) {
        header.tensors[i].offset_bytes += 8 + n;
    }
    *ret_header = header;
    return true;
}

bool st_header_read(int fd, const char *name, struct arena *arena, struct st_header *ret_header,
                    struct error *error)
{
    uint64_t size = 0, n = 0;
    unsigned char prefix[8];
    if (!file_size(fd, &size, error)) {
        return error_prefix(error, "%s: ", name);
    }
    if (size < sizeof prefix) {
        return error_set_field(error, ERROR_CORRUPT_FILE, name, "%s has %llu bytes: not a safetensors file",
                               name, (unsigned long long)size);
    }
    if (!file_read_at(fd, prefix, sizeof prefix, 0, name, error)) {
        return false;
    }
    for (size_t i = 0; i < sizeof prefix; i++) {
        n |= (uint64_t)prefix[i] << (8 * i);
    }
    if (n > size - sizeof prefix) {
        return error_set_field(
            error, ERROR_CORRUPT_FILE, name,
            "%s: the header claims %llu bytes, the file has %llu: truncated or not safetensors", name,
            (unsigned long long)n, (unsigned long long)size);
    }
    if (n > ST_HEADER_LIMIT_BYTES) {
        return error_set_field(error, ERROR_TOO_LARGE, name,
                               "%s: a header of %llu bytes; at most %u are read", name, (unsigned long long)n,
                               ST_HEADER_LIMIT_BYTES);
    }
    OWNED_MEMORY char *text = memory_try_array((size_t)n + 1, 1, "a safetensors header", error);
    if (text == NULL || !file_read_at(fd, text, (size_t)n, sizeof prefix, name, error)) {
        return false;
    }
    if (!st_header_parse(text, (size_t)n, size - sizeof prefix - n, arena, ret_header, error)) {
        if (error != NULL && error->field[0] == '\0') {
            (void)snprintf(error->field, sizeof error->field, "%s", name);
        }
        return error_prefix(error, "%s: ", name);
    }
    return true;
}

/* ---- the shard index ------------------------------------------------------------------------- */

static bool shard_name_is_safe(const char *name)
{
    size_t length = strlen(name);
    return length <= 255 && name[0] != '.' && strchr(name, '/') == NULL && file_name_is_safe(name) &&
           text_ends_with(name, ".safetensors");
}

static int compare_entries(const void *a, const void *b)
{
    const struct st_index_entry *left = a, *right = b;
    return strcmp(left->tensor, right->tensor);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool collect_entries(json_t *map, struct arena *arena, struct st_index *index, const char **shard_of,
                            struct error *error)
{
    const char *tensor = NULL;
    json_t *value = NULL;
    json_object_foreach(map, tensor, value)
    {
        const char *shard = json_string_value(value);
        if (shard == NULL || !shard_name_is_safe(shard)) {
            return error_set_field(
                error, ERROR_CORRUPT_FILE, "model.safetensors.index.json",
                "the index sends tensor %.100s to \"%.100s\", which is not the plain name of a .safetensors file",
                tensor, shard != NULL ? shard : "(not a string)");
        }
        shard_of[index->entry_count] = arena_copy_text(arena, shard, strlen(shard));
        index->entries[index->entry_count].tensor = arena_copy_text(arena, tensor, strlen(tensor));
        index->entries[index->entry_count].shard = shard_of[index->entry_count];
        index->entry_count++;
    }
    qsort(index->entries, index->entry_count, sizeof *index->entries, compare_entries);
    return true;
}

bool st_index_parse(const char *text, size_t count, struct arena *arena, struct st_index *ret_index,
                    struct error *error)
{
    JSON_OWNED json = json_parse(text, count, ST_INDEX_LIMIT_BYTES, error);
    json_t *map = NULL;
    if (json == NULL || !json_get_object(json, "", "weight_map", &map, error)) {
        return error_prefix(error, "model.safetensors.index.json: ");
    }
    size_t size = json_object_size(map);
    if (size == 0 || size > ST_TENSORS_MAX) {
        return error_set_field(error, ERROR_CORRUPT_FILE, "model.safetensors.index.json",
                               "the shard index names %zu tensors; 1 to %d are possible", size,
                               ST_TENSORS_MAX);
    }
    struct st_index index = {.entries = arena_allocate(arena, size, sizeof *index.entries)};
    index.shards = arena_allocate(arena, size, sizeof *index.shards);
    if (index.entries == NULL || index.shards == NULL) {
        return error_set(error, ERROR_OUT_OF_MEMORY, "out of memory for a shard index of %zu tensors", size);
    }
    if (!collect_entries(map, arena, &index, index.shards, error)) {
        return false;
    }
    qsort(index.shards, size, sizeof *index.shards, compare_texts);
    for (size_t i = 0; i < size; i++) {
        if (index.shard_count == 0 || strcmp(index.shards[index.shard_count - 1], index.shards[i]) != 0) {
            index.shards[index.shard_count++] = index.shards[i];
        }
    }
    if (index.shard_count > ST_SHARDS_MAX) {
        return error_set_field(error, ERROR_CORRUPT_FILE, "model.safetensors.index.json",
                               "the index names %zu shards; at most %d", index.shard_count, ST_SHARDS_MAX);
    }
    *ret_index = index;
    return true;
}
