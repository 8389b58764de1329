/*
 * workers/select/concepts.h: what a record is about, as a set of phrases, and the graph of phrases that PASER (arXiv 2502.12594) admits
 * records by (data_selection 1.2 g, 1.6).
 *
 * Concepts of a text are RAKE's candidate phrases without their scores: the longest runs of words that no stop word
 * (a fixed English list in concepts.c) and no sentence mark interrupts. In canonical form, so that spellings of one concept meet:
 *
 *     letters     lower case, of all scripts; what is no UTF-8 ends a phrase
 *     marks       gone. All of them end a phrase, and so does a line break (lists and titles are more common in instructions than wrapped
 *                 lines). A hyphen or apostrophe inside a word only separates words, but 's, 't, 'll, 're, 've, 'd, 'm go with it;
 *                 a point or comma between digits belongs to the number
 *     plurals     cut lightly from every word of four letters or more: -ies to -y; -sses, -shes, -ches, -xes lose -es; else -s goes,
 *                 but not from -ss, -us, -is
 *
 * Text without spaces between words (Chinese, Thai) gives one concept for each stretch between two marks.
 *
 * Concepts become numbers in the order they are first met, so numbers depend on the order of records and on nothing else.
 *
 * concepts_limit then keeps what the graph can use. (1) A concept that only one record has goes: no other record can ask for it, so no answer
 * of the graph depends on it, and such are most of its vertices and edges. (2) A concept that more than a share of all records have is
 * generic ("example") and would reject nearly everything: out. Two records may always share one: of few records a small share is less
 * than two, and nothing would be left. (3) Of what is left, the rarest per_record concepts of a record stay, ties to the smaller number.
 *
 * The graph: V, the concepts of the records admitted so far; E, the pairs that occurred together in one of them. A record is consistent
 * unless two of its concepts are both in V and are no edge. Which records are admitted depends on their order. That two concepts have not
 * occurred together is no contradiction, so callers report how many records were rejected.
 *
 * Memory: the dictionary holds each concept's text once (about 30 bytes beside it), and 4 bytes for each concept of a record; concepts_limit
 * gives most of it back. The graph never holds more than the limit it is given: see concepts_graph_create.
 *
 * Threads: one changes a set or a graph; while nobody does, any may read it.
 */
#ifndef WORKERS_SELECT_CONCEPTS_H
#define WORKERS_SELECT_CONCEPTS_H

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONCEPTS_PER_RECORD   32
#define CONCEPTS_COMMON_RATIO 0.01

/* Appends the concepts of a text in order, repeated as they occur, one a line: "deep learning\nmethod\n". */
void concepts_extract(const char *bytes, size_t length, struct text *text);

/* The sets of all records. */
struct concepts;
struct concepts *concepts_create(void) MUST_USE;
void concepts_destroy(struct concepts *concepts);
OWNED_DEFINE(concepts)
/* The next record, numbered from 0. Parts of a record (instruction, input, answer) are joined with a line break. OUT_OF_MEMORY;
 * TOO_LARGE: more than 2^31 - 1 concepts or records. After a failure there is only concepts_destroy. */
bool concepts_add(struct concepts *concepts, const char *bytes, size_t length, struct error *error) MUST_USE;
/* Once, after the last record. common_ratio: a concept stays up to this share of all records (0..1, quantile.h), or in two.
 * OUT_OF_MEMORY. */
bool concepts_limit(struct concepts *concepts, size_t per_record, double common_ratio,
                    struct error *error) MUST_USE;
/* A record's concepts, ascending, each once: all of them, or what concepts_limit left. Borrowed until the next change. */
const int32_t *concepts_of(const struct concepts *concepts, size_t record, size_t *ret_count);

struct concepts_counts {
    size_t records, concepts;   /* concepts: different ones, before any limit */
    size_t common, records_cut; /* concepts over the share; records that had more than per_record left */
    size_t single;              /* concepts of one record */
};
struct concepts_counts concepts_counts(const struct concepts *concepts);

struct concepts_graph;
/* For concepts 0 ... concept_count - 1. limit_bytes bounds all it ever holds: a bit for each concept and a table of edges, which doubles, the
 * old one and the new one while it is copied. When the next doubling would pass the limit the graph stops growing for good: records that are
 * admitted from then on are counted as unrecorded, and questions are answered from what it holds. OUT_OF_RANGE: not even an empty
 * graph fits; OUT_OF_MEMORY. */
struct concepts_graph *concepts_graph_create(size_t concept_count, uint64_t limit_bytes,
                                             struct error *error) MUST_USE;
void concepts_graph_destroy(struct concepts_graph *graph);
OWNED_DEFINE(concepts_graph)
/* Whether a record of these concepts may be admitted (repeated ones count once; none: yes). O(count^2). */
bool concepts_graph_is_consistent(const struct concepts_graph *graph, const int32_t *concepts,
                                  size_t count) MUST_USE;
/* Adds the record's concepts and all their pairs, consistent or not. OUT_OF_MEMORY: nothing was added. */
bool concepts_graph_admit(struct concepts_graph *graph, const int32_t *concepts, size_t count,
                          struct error *error) MUST_USE;

struct concepts_graph_counts {
    size_t vertices, edges;
    size_t unrecorded; /* records admitted after the graph had stopped growing */
    uint64_t bytes;    /* held now */
};
struct concepts_graph_counts concepts_graph_counts(const struct concepts_graph *graph);

#endif
