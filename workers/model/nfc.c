/*
 * workers/model/nfc.c: decompose fully, sort combining marks by class, compose again for the C forms (UAX 15, section 1.3).
 *
 * Characters below a bound (U+0300 for NFC) never change and never combine with one another, so text is handled in stretches: what lies
 * between two such characters is normalized together with the one before it, which may take marks on. Plain text is only copied.
 * The sort is O(n log n), because a hostile text may hold a million marks on one letter.
 */
#include "workers/model/nfc.h"
#include "base/memory.h"
#include "workers/model/utf8.h"

#include <stdlib.h>

struct decomposition {
    uint32_t code, first, second; /* second 0: a single character */
};
struct combining_run {
    uint32_t first, last;
    uint8_t combining; /* class */
};
struct compatibility {
    uint32_t code;
    uint16_t offset;
    uint8_t count;
};
#include "workers/model/nfc_tables.inc"

/* Characters below change in no text. */
static const uint32_t stable_below[] = {
    [UNICODE_NFC] = 0x300, [UNICODE_NFD] = 0xc0, [UNICODE_NFKC] = 0xa0, [UNICODE_NFKD] = 0xa0};
#define COUNT_OF(table) (sizeof(table) / sizeof(table)[0])

enum {
    S_BASE = 0xac00,
    L_BASE = 0x1100,
    V_BASE = 0x1161,
    T_BASE = 0x11a7,
    L_COUNT = 19,
    V_COUNT = 21,
    T_COUNT = 28
};
#define S_COUNT ((uint32_t)(L_COUNT * V_COUNT * T_COUNT))

struct mark {
    uint32_t code;
    uint32_t combining;
    size_t order; /* makes the sort stable */
};
struct marks {
    struct mark *items;
    size_t count, capacity;
};

static uint32_t combining_of(uint32_t code)
{
    size_t low = 0, high = COUNT_OF(combining_runs);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > combining_runs[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < COUNT_OF(combining_runs) && code >= combining_runs[low].first ? combining_runs[low].combining
                                                                               : 0;
}

static const struct decomposition *find_decomposition(uint32_t code)
{
    size_t low = 0, high = COUNT_OF(decompositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > decompositions[middle].code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < COUNT_OF(decompositions) && decompositions[low].code == code ? &decompositions[low] : NULL;
}

/* The character that two compose to, 0 if none. */
static uint32_t compose(uint32_t first, uint32_t second)
{
    if (first - L_BASE < L_COUNT && second - V_BASE < V_COUNT) {
        return S_BASE + ((first - L_BASE) * V_COUNT + (second - V_BASE)) * T_COUNT;
    }
    if (first - S_BASE < S_COUNT && (first - S_BASE) % T_COUNT == 0 && second > T_BASE &&
        second < T_BASE + T_COUNT) {
        return first + (second - T_BASE);
    }
    size_t low = 0, high = COUNT_OF(compositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct decomposition *row = &decompositions[compositions[middle]];
        if (row->first < first || (row->first == first && row->second < second)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == COUNT_OF(compositions)) {
        return 0;
    }
    const struct decomposition *found = &decompositions[compositions[low]];
    return found->first == first && found->second == second ? found->code : 0;
}

static void add_mark(struct marks *marks, uint32_t code)
{
    if (marks->count == marks->capacity) {
        marks->capacity = marks->capacity == 0 ? 64 : marks->capacity * 2;
        marks->items = memory_resize(marks->items, marks->capacity, sizeof *marks->items);
    }
    marks->items[marks->count] =
        (struct mark){.code = code, .combining = combining_of(code), .order = marks->count};
    marks->count++;
}

static const struct compatibility *find_compatibility(uint32_t code)
{
    size_t low = 0, high = COUNT_OF(compatibilities);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > compatibilities[middle].code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < COUNT_OF(compatibilities) && compatibilities[low].code == code ? &compatibilities[low]
                                                                                : NULL;
}

/* is_compatible: the K forms. */
static void decompose(struct marks *marks, uint32_t code, bool is_compatible)
{
    if (code - S_BASE < S_COUNT) {
        uint32_t index = code - S_BASE;
        add_mark(marks, L_BASE + index / (V_COUNT * T_COUNT));
        add_mark(marks, V_BASE + index % (V_COUNT * T_COUNT) / T_COUNT);
        if (index % T_COUNT != 0) {
            add_mark(marks, T_BASE + index % T_COUNT);
        }
        return;
    }
    const struct compatibility *flat = is_compatible ? find_compatibility(code) : NULL;
    for (size_t i = 0; flat != NULL && i < flat->count; i++) {
        add_mark(marks, compatibility_pool[flat->offset + i]);
    }
    if (flat != NULL) {
        return;
    }
    const struct decomposition *row = find_decomposition(code);
    if (row == NULL) {
        add_mark(marks, code);
        return;
    }
    decompose(marks, row->first, is_compatible); /* at most four deep in any Unicode version */
    if (row->second != 0) {
        decompose(marks, row->second, is_compatible);
    }
}

static int compare_marks(const void *left_item, const void *right_item)
{
    const struct mark *left = left_item, *right = right_item;
    if (left->combining != right->combining) {
        return left->combining < right->combining ? -1 : 1;
    }
    return left->order < right->order ? -1 : left->order > right->order;
}

/* Runs of marks (class above 0) in the order of their classes. */
static void sort_marks(struct marks *marks)
{
    for (size_t start = 0; start < marks->count;) {
        size_t end = start;
        while (end < marks->count && marks->items[end].combining != 0) {
            end++;
        }
        if (end > start + 1) {
            qsort(marks->items + start, end - start, sizeof *marks->items, compare_marks);
        }
        start = end > start ? end : start + 1;
    }
}

/* A mark joins the last starter unless a mark of the same or a higher class, or another starter, stands between. */
static void compose_marks(struct marks *marks)
{
    size_t kept = 0, starter = SIZE_MAX;
    uint32_t last_class = 0;
    for (size_t i = 0; i < marks->count; i++) {
        struct mark mark = marks->items[i];
        bool is_adjacent = starter != SIZE_MAX && starter + 1 == kept;
        bool is_free =
            starter != SIZE_MAX && (is_adjacent || (last_class < mark.combining && last_class != 0));
        uint32_t joined = is_free ? compose(marks->items[starter].code, mark.code) : 0;
        if (joined != 0) {
            marks->items[starter].code = joined;
            continue;
        }
        if (mark.combining == 0) {
            starter = kept;
        }
        last_class = mark.combining;
        marks->items[kept++] = mark;
    }
    marks->count = kept;
}

static void append_stretch(struct text *text, struct marks *marks, enum unicode_form form, const char *bytes,
                           size_t length)
{
    marks->count = 0;
    for (size_t at = 0; at < length; at += utf8_length(bytes + at)) {
        decompose(marks, utf8_decode(bytes + at), form == UNICODE_NFKC || form == UNICODE_NFKD);
    }
    sort_marks(marks);
    if (form == UNICODE_NFC || form == UNICODE_NFKC) {
        compose_marks(marks);
    }
    for (size_t i = 0; i < marks->count; i++) {
        char encoded[4];
        size_t count = utf8_encode(marks->items[i].code, encoded);
        text_append_bytes(text, encoded, count);
    }
}

void unicode_form_append(struct text *text, enum unicode_form form, const char *bytes, size_t length)
{
    struct marks marks = {0};
    uint32_t stable = stable_below[form];
    size_t done = 0, last = 0; /* last: where the latest stable character starts */
    for (size_t at = 0; at < length;) {
        size_t width = utf8_length(bytes + at);
        if (utf8_decode(bytes + at) < stable) {
            last = at;
            at += width;
            continue;
        }
        size_t start = last >= done && last < at ? last : at, end = at;
        while (end < length && utf8_decode(bytes + end) >= stable) {
            end += utf8_length(bytes + end);
        }
        text_append_bytes(text, bytes + done, start - done);
        append_stretch(text, &marks, form, bytes + start, end - start);
        done = at = end;
    }
    text_append_bytes(text, bytes + done, length - done);
    free(marks.items);
}
