/*
 * workers/model/layout.h: how the elements of a stored tensor stand to those of the canonical one, the tensor that
 * a Hugging Face checkpoint of the family holds. safetensors store every tensor plain; GGUF files of some families
 * store rows in another order or other values.
 *
 * With stored tensor S and canonical tensor C (rows are the first dimension; a bias has rows of one element):
 *
 *     PLAIN              C = S
 *     ROPE_PAIRS         Rows are `heads` heads of 2 * half rows each. Hugging Face's rotary embedding turns row i of a
 *                        head with row i + half; llama.cpp's turns neighbours, so its converter wrote
 *                        S[h][2 * i + part] = C[h][part * half + i], part = 0 or 1, i < half.
 *     NORM_PLUS_ONE      S = C + 1, rounded to fp32 (Gemma's norms, which multiply by 1 + weight): C = S - 1
 *     TRANSPOSED         S is [out, in]; C is [in, out] (GPT-2's Conv1D): C[j][i] = S[i][j]
 *     QKV_CONCATENATED   S is all rows of q, then of k, then of v, each `heads` heads of `size` rows; C has them head
 *                        by head (GPT-NeoX): C[h][part][i] = S[part][h][i], part = 0..2, i < size
 *
 * The orders of rows are given by a function both ways, so that whoever reads C row by row reads S row by row.
 */
#ifndef WORKERS_MODEL_LAYOUT_H
#define WORKERS_MODEL_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>

enum tensor_layout {
    LAYOUT_PLAIN,
    LAYOUT_ROPE_PAIRS,
    LAYOUT_NORM_PLUS_ONE,
    LAYOUT_TRANSPOSED,
    LAYOUT_QKV_CONCATENATED
};

/* Whether `rows` rows can be laid out so: heads divide them, and for ROPE_PAIRS each head's are even. */
static inline bool layout_fits(enum tensor_layout layout, size_t heads, size_t rows)
{
    size_t parts = layout == LAYOUT_ROPE_PAIRS ? 2 : layout == LAYOUT_QKV_CONCATENATED ? 3 : 1;
    return parts == 1 || (heads > 0 && rows % heads == 0 && rows / heads % parts == 0);
}

/* The row of S that holds row `canonical_row` of C; the same number for PLAIN and NORM_PLUS_ONE. Not for
 * TRANSPOSED. layout_fits. */
static inline size_t layout_source_row(enum tensor_layout layout, size_t heads, size_t rows,
                                       size_t canonical_row)
{
    if (layout == LAYOUT_ROPE_PAIRS) {
        size_t head_rows = rows / heads, half = head_rows / 2;
        size_t head = canonical_row / head_rows, within = canonical_row % head_rows;
        return head * head_rows + within % half * 2 + within / half;
    }
    if (layout == LAYOUT_QKV_CONCATENATED) {
        size_t head_rows = rows / heads, size = head_rows / 3;
        size_t head = canonical_row / head_rows, within = canonical_row % head_rows;
        return within / size * (rows / 3) + head * size + within % size;
    }
    return canonical_row;
}

/* The row of C that row `stored_row` of S holds: the inverse. */
static inline size_t layout_canonical_row(enum tensor_layout layout, size_t heads, size_t rows,
                                          size_t stored_row)
{
    if (layout == LAYOUT_ROPE_PAIRS) {
        size_t head_rows = rows / heads, half = head_rows / 2;
        size_t head = stored_row / head_rows, within = stored_row % head_rows;
        return head * head_rows + within % 2 * half + within / 2;
    }
    if (layout == LAYOUT_QKV_CONCATENATED) {
        size_t head_rows = rows / heads, size = head_rows / 3;
        size_t part = stored_row / (rows / 3), within = stored_row % (rows / 3);
        return within / size * head_rows + part * size + within % size;
    }
    return stored_row;
}

#endif
