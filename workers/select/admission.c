/* workers/select/admission.c: see admission.h. */
#include "workers/select/admission.h"

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/select/concepts.h"
#include <string.h>

const char *const admission_conflict_names[] = {"none", "graph", "near_duplicate", NULL};

struct admission {
    enum admission_conflict conflict;
    const struct instruction_record *const *texts; /* borrowed */
    const struct neighbours *neighbours;           /* borrowed */
    struct concepts *concepts;                     /* graph */
    struct concepts_graph *graph;
    bool *has_joined, *is_refused; /* [count], near_duplicate */
    size_t compared;               /* pairs whose responses were */
};

enum admission_conflict admission_conflict_parse(const char *name)
{
    size_t conflict = 0;
    while (strcmp(admission_conflict_names[conflict], name) != 0) {
        conflict++;
        CHECK(admission_conflict_names[conflict] != NULL);
    }
    return (enum admission_conflict)conflict;
}

void admission_destroy(struct admission *admission)
{
    if (admission == NULL) {
        return;
    }
    concepts_destroy(admission->concepts);
    concepts_graph_destroy(admission->graph);
    free(admission->has_joined);
    free(admission->is_refused);
    free(admission);
}

static bool read_concepts(struct admission *admission, size_t count, const struct cancel *cancel,
                          struct error *error)
{
    admission->concepts = concepts_create();
    FINISHED(text) text = {0};
    for (size_t i = 0; i < count; i++) {
        const struct instruction_record *record = admission->texts[i];
        text_clear(&text);
        text_append(&text, record->instruction);
        text_append(&text, "\n");
        text_append(&text, record->input);
        text_append(&text, "\n");
        text_append(&text, record->response);
        if (!cancel_check_now(cancel, error) ||
            !concepts_add(admission->concepts, text.bytes, text.length, error)) {
            return false;
        }
    }
    if (!concepts_limit(admission->concepts, CONCEPTS_PER_RECORD, CONCEPTS_COMMON_RATIO, error)) {
        return false;
    }
    admission->graph =
        concepts_graph_create(concepts_counts(admission->concepts).concepts, ADMISSION_GRAPH_BYTES, error);
    return admission->graph != NULL;
}

struct admission *admission_create(enum admission_conflict conflict, size_t count,
                                   const struct instruction_record *const *texts,
                                   const struct neighbours *neighbours, const struct cancel *cancel,
                                   struct error *error)
{
    CHECK(conflict != ADMISSION_NEAR_DUPLICATE || neighbours != NULL || count < 2);
    OWNED(admission) admission = memory_create(1, sizeof *admission);
    admission->conflict = conflict;
    admission->texts = texts;
    admission->neighbours = neighbours;
    if (conflict == ADMISSION_GRAPH && !read_concepts(admission, count, cancel, error)) {
        return NULL;
    }
    if (conflict == ADMISSION_NEAR_DUPLICATE) {
        admission->has_joined = memory_try_array(count, sizeof(bool), "who has joined", error);
        admission->is_refused = memory_try_array(count, sizeof(bool), "who is refused", error);
        if (admission->has_joined == NULL || admission->is_refused == NULL) {
            return NULL;
        }
    }
    return TAKE(admission);
}

/* ---- similarity of responses --------------------------------------------------------------------- */

/* A letter or digit in lower case; 0: between words. */
static unsigned char fold(unsigned char byte)
{
    if (byte >= 'A' && byte <= 'Z') {
        return (unsigned char)(byte - 'A' + 'a');
    }
    bool is_word = (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte >= 0x80;
    return is_word ? byte : 0;
}

static int compare_words(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Owned: the hashes (FNV-1a) of different words, rising. */
static uint64_t *words_of(const char *text, size_t *ret_count, struct error *error)
{
    size_t length = strlen(text), count = 0;
    uint64_t *words = memory_try_array(length / 2 + 1, sizeof *words, "words of a response", error);
    for (size_t at = 0; words != NULL && at < length;) {
        uint64_t hash = 0xCBF29CE484222325u;
        size_t first = at;
        for (; at < length && fold((unsigned char)text[at]) != 0; at++) {
            hash = (hash ^ fold((unsigned char)text[at])) * 0x100000001B3u;
        }
        if (at > first) {
            words[count++] = hash;
        }
        at += at < length ? 1 : 0;
    }
    *ret_count = 0;
    if (count > 0) {
        qsort(words, count, sizeof *words, compare_words);
    }
    for (size_t i = 0; i < count; i++) {
        if (*ret_count == 0 || words[i] != words[*ret_count - 1]) {
            words[(*ret_count)++] = words[i];
        }
    }
    return words;
}

bool admission_similarity(const char *first, const char *second, double *ret_similarity, struct error *error)
{
    size_t first_count = 0, second_count = 0, common = 0;
    OWNED_MEMORY uint64_t *first_words = words_of(first, &first_count, error);
    OWNED_MEMORY uint64_t *second_words = first_words == NULL ? NULL : words_of(second, &second_count, error);
    if (second_words == NULL) {
        return false;
    }
    for (size_t i = 0, j = 0; i < first_count && j < second_count;) {
        common += first_words[i] == second_words[j] ? 1 : 0;
        bool is_first_behind = first_words[i] <= second_words[j];
        j += second_words[j] <= first_words[i] ? 1 : 0;
        i += is_first_behind ? 1 : 0;
    }
    size_t all = first_count + second_count - common;
    *ret_similarity = all > 0 ? (double)common / (double)all : 1;
    return true;
}

/* ---- asking and joining -------------------------------------------------------------------------- */

/* Calls of one record against its near neighbours: with `joins`, it refuses those that have not joined; else it is refused by one that has. */
static bool compare_neighbours(struct admission *admission, size_t record, bool joins, bool *ret_is_refused,
                               struct error *error)
{
    const struct neighbours *lists = admission->neighbours;
    for (size_t at = 0; lists != NULL && at < lists->k; at++) {
        uint32_t other = lists->indices[record * lists->k + at];
        if (other == NEIGHBOURS_NONE ||
            1 - (double)lists->distances[record * lists->k + at] / 2 <= ADMISSION_COSINE) {
            return true;
        }
        if (admission->has_joined[other] == joins || (joins && admission->is_refused[other])) {
            continue;
        }
        double similarity = 0;
        if (!admission_similarity(admission->texts[record]->response, admission->texts[other]->response,
                                  &similarity, error)) {
            return false;
        }
        admission->compared++;
        if (similarity < ADMISSION_SIMILARITY) {
            *(joins ? &admission->is_refused[other] : ret_is_refused) = true;
        }
    }
    return true;
}

bool admission_may_join(struct admission *admission, size_t record, bool *ret_may, struct error *error)
{
    *ret_may = true;
    if (admission->conflict == ADMISSION_GRAPH) {
        size_t count = 0;
        const int32_t *concepts = concepts_of(admission->concepts, record, &count);
        *ret_may = concepts_graph_is_consistent(admission->graph, concepts, count);
    } else if (admission->conflict == ADMISSION_NEAR_DUPLICATE) {
        bool is_refused = admission->is_refused[record];
        if (!is_refused && !compare_neighbours(admission, record, false, &is_refused, error)) {
            return false;
        }
        *ret_may = !is_refused;
    }
    return true;
}

bool admission_join(struct admission *admission, size_t record, struct error *error)
{
    if (admission->conflict == ADMISSION_GRAPH) {
        size_t count = 0;
        const int32_t *concepts = concepts_of(admission->concepts, record, &count);
        return concepts_graph_admit(admission->graph, concepts, count, error);
    }
    if (admission->conflict == ADMISSION_NEAR_DUPLICATE) {
        admission->has_joined[record] = true;
        return compare_neighbours(admission, record, true, NULL, error);
    }
    return true;
}

json_t *admission_report(const struct admission *admission)
{
    json_t *report = json_object();
    json_put_text(report, "conflict", admission_conflict_names[admission->conflict]);
    if (admission->conflict == ADMISSION_GRAPH) {
        struct concepts_counts concepts = concepts_counts(admission->concepts);
        struct concepts_graph_counts graph = concepts_graph_counts(admission->graph);
        json_put_i64(report, "concepts", (int64_t)concepts.concepts);
        json_put_i64(report, "common_concepts", (int64_t)concepts.common);
        json_put_i64(report, "single_concepts", (int64_t)concepts.single);
        json_put_i64(report, "records_cut", (int64_t)concepts.records_cut);
        json_put_i64(report, "vertices", (int64_t)graph.vertices);
        json_put_i64(report, "edges", (int64_t)graph.edges);
        json_put_i64(report, "unrecorded", (int64_t)graph.unrecorded);
    } else if (admission->conflict == ADMISSION_NEAR_DUPLICATE) {
        json_put_double(report, "cosine", ADMISSION_COSINE);
        json_put_double(report, "similarity", ADMISSION_SIMILARITY);
        json_put_i64(report, "compared", (int64_t)admission->compared);
    }
    return report;
}
