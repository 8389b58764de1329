/*
 * workers/select/measure.h: what models say of records. One pass of one model over all candidates, batched by length; each record goes
 * through once. What is measured goes to a file, so that a pass can be gone on with, and so that of the original model the states that a
 * later comparison needs can wait for it, however many pruned models come (data_selection 1.6b).
 *
 *     pools      mean of the last states over the prompt's tokens, without those with which all prompts begin: an embedding where there is
 *                no encoder. Float [valid, hidden_size], as they come; embed_vectors makes vectors of length 1 of them
 *     losses     -log p, mean over the response's tokens, after the prompt: nats
 *     token_losses  the same, each by itself: double [rows], records in the order of the pass; beside losses
 *     alone      the same after `lone_prompt` instead of the prompt
 *     el2n       token_measure.h
 *     efforts    effort.h
 *     states     before the head, of the tokens that predict the response, float [rows, hidden_size], records in the order of the pass: the
 *                original's head makes the same logits of them again, bit by bit
 *     damages    mean over the response's tokens of the divergence of this model's predictions from the original's (whose states are
 *                read from its file, and of which only the head is needed)
 *     entropies  mean over the response's tokens of the entropy of the original's predictions; without damages, of this model's
 *
 * Everything else is double [valid]. A record's figures depend on its own tokens alone, not on batches, threads or what was measured beside
 * them.
 *
 * Threads: one drives a model. Errors: NUMERIC naming file and record, CANCELLED, DRAINED, OUT_OF_MEMORY, STORAGE_FULL, IO.
 */
#ifndef WORKERS_SELECT_MEASURE_H
#define WORKERS_SELECT_MEASURE_H

#include "base/cleanup.h"
#include "base/json.h"
#include "workers/data/candidates.h"
#include "workers/model/model.h"
#include "workers/tensor/dense.h"

enum measure_damage { MEASURE_NO_DAMAGE, MEASURE_JSD, MEASURE_KL, MEASURE_DELTA_NLL };
/* The parameter `damage` of selectors that need it; delta_nll is the difference of two models' losses. */
#define MEASURE_DAMAGE_PARAM                                                                                 \
    {                                                                                                        \
        .name = "damage", .type = PARAM_ENUM, .values = measure_damage_names, .default_json = "\"jsd\"",     \
        .help = "What pruning did to a record, mean over its response's tokens: Jensen-Shannon divergence, " \
                "rise of the loss, or KL divergence."                                                        \
    }
extern const char *const measure_damage_names[];
enum measure_damage measure_damage_parse(const char *name); /* NULL: MEASURE_NO_DAMAGE */

/* In what order records are measured: the longest first, ties by number. */
struct measure_order {
    const struct candidates *candidates; /* borrowed */
    uint32_t *order;                     /* owned, [valid_count]: places in candidates->valid */
    uint64_t *first_rows;                /* owned, [valid_count + 1], by place in this order: of `states` */
};
bool measure_order_make(const struct candidates *candidates, struct measure_order *ret_order,
                        struct error *error) MUST_USE;
void measure_order_finish(struct measure_order *order);

struct measure_request {
    bool pools, losses, token_losses, alone, el2n, entropies, efforts, states;
    enum measure_damage damage; /* JSD, KL: damages and entropies are measured */
};
bool measure_wants(const struct measure_request *request); /* anything at all */
/* Where in the file each begins; UINT64_MAX: not there. */
struct measure_layout {
    uint64_t pools, losses, token_losses, alone, el2n, damages, entropies, efforts, states, bytes;
};
void measure_lay_out(const struct measure_request *request, const struct measure_order *order,
                     size_t hidden_size, struct measure_layout *ret_layout);

struct measure_pass {
    struct model *model;
    const struct measure_order *order;
    struct measure_request request;
    int fd; /* read and write, of the layout's size or less */
    /* damage: */
    struct model *original; /* its head is used, nothing else is read */
    int original_fd;
    uint64_t original_states;   /* where they begin in that file */
    const int32_t *lone_prompt; /* [lone_count], lone_count >= 1; alone */
    size_t lone_count;
    size_t batch_tokens;
    const struct cancel *cancel;
    void *context;
    /* After each batch, its figures in the file but not synced: records done of all. False stops with its error. */
    bool (*advanced)(void *context, size_t done, size_t total, struct error *error);
};
/* From record number `done` of the order on. */
bool measure_run(const struct measure_pass *pass, size_t done, struct error *error) MUST_USE;
/* Bytes beside weights and the forward pass's own that a pass takes, for records of up to longest_tokens. original: where two models are
 * compared, the one whose states are kept; else not read. */
uint64_t measure_bytes(const struct model_config *config, const struct model_config *original,
                       const struct measure_request *request, size_t batch_tokens, size_t longest_tokens);

/* A column of doubles, or NULL with an error. Owned. */
double *measure_read_column(int fd, uint64_t offset, size_t count, struct error *error) MUST_USE;

#endif
