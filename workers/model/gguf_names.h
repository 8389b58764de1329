/*
 * workers/model/gguf_names.h: what tensors are called in a GGUF file and in a Hugging Face checkpoint, both ways, and
 * how the rows of one lie in the other. One row per family and tensor; the reader and the exporter share it.
 *
 * A GGUF name is "<base>.<ending>" or "blk.<layer>.<base>.<ending>", ending being weight or bias. A row gives the base and
 * what stands for it in the checkpoint, behind "<prefix>" or "<prefix><layers><layer>.". Experts are one tensor
 * [experts, out, in] in the file and one each in the checkpoint; there "%zu" in the row stands for the expert.
 */
#ifndef WORKERS_MODEL_GGUF_NAMES_H
#define WORKERS_MODEL_GGUF_NAMES_H

#include "base/text.h"
#include "workers/model/layout.h"
#include <stdbool.h>
#include <stddef.h>

struct gguf_name {
    const char *gguf, *hf;
    enum tensor_layout layout; /* of the stored tensor; TRANSPOSED: of its weight only, not of its bias */
    bool is_kv;                /* ROPE_PAIRS with the number of key-value heads, else of query heads */
    bool is_expert;
    bool is_outside; /* of the model: no prefix in the checkpoint (the head) */
};
struct gguf_family {
    const char *architecture; /* of GGUF */
    const char *model_type;   /* of config.json; what reading gives */
    const char *class_name;   /* of transformers */
    const char *prefix;       /* "model." */
    const char *layers;       /* "layers." */
    bool has_experts;
    bool has_layers;                  /* layers differ: gguf_layers.c */
    const struct gguf_name *model;    /* ends with a row of NULLs, as do the next */
    const struct gguf_name *layer[3]; /* lists one after another; NULL: none */
};
/* NULL: none. has_experts tells Mixtral from Llama. */
const struct gguf_family *gguf_family_find(const char *architecture, bool has_experts);
/* By config.json's model_type; mistral is llama's. NULL: GGUF has no such family, or we do not write it. */
const struct gguf_family *gguf_family_of(const char *model_type);

struct gguf_place { /* one tensor of a family */
    const struct gguf_name *row;
    size_t layer;  /* SIZE_MAX: of the model */
    size_t expert; /* of expert rows */
    bool is_bias;
};
/* By its name in a GGUF file (expert: 0), or in a checkpoint (with or without the prefix). False: no such tensor. */
bool gguf_place_parse(const struct gguf_family *family, const char *name, struct gguf_place *ret_place);
bool gguf_place_parse_hf(const struct gguf_family *family, const char *name, struct gguf_place *ret_place);
/* Appends the name. */
void gguf_place_format(const struct gguf_place *place, struct text *name);
void gguf_place_format_hf(const struct gguf_family *family, const struct gguf_place *place,
                          struct text *name);
/* The layout of this tensor: TRANSPOSED does not apply to a bias. */
enum tensor_layout gguf_place_layout(const struct gguf_place *place);

/* A pre-tokenizer of byte-level BPE: GGUF names it, tokenizer.json spells it out. */
struct gguf_pre {
    const char *name;
    const char *pattern; /* of a Split before ByteLevel; NULL: ByteLevel's own */
    bool splits_digits;  /* Digits, each by itself, before it */
    bool is_nfc;         /* texts are normalised first */
    bool ignores_merges; /* a word that is a token is not merged */
    bool adds_bos;       /* where the file does not say */
};
extern const struct gguf_pre gguf_pres[]; /* ends with a row of NULLs */

#endif
