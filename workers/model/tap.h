/*
 * workers/model/tap.h: what passes inside a sublayer, shown while it runs. Statistics are gathered with it (moments, Gram matrices), and
 * candidates are masked with it: a channel set to zero computes what the model without it computes.
 */
#ifndef WORKERS_MODEL_TAP_H
#define WORKERS_MODEL_TAP_H

#include "workers/model/model.h"

enum tap_point {
    TAP_ATTENTION_INPUT, /* normed rows, [hidden] */
    TAP_HEADS, /* mixed heads, what the output projection reads: [heads * head_size]; may be changed */
    TAP_ATTENTION_OUTPUT, /* of the output projection, with its bias, before a norm and the residual: [hidden] */
    TAP_FFN_INPUT,        /* normed rows, [hidden] */
    TAP_CHANNELS, /* act(gate) * up, what the down projection reads: [intermediate]; may be changed. Of each
                             expert apart where there are some */
    TAP_FFN_OUTPUT, /* of the down projection, with its bias: [hidden]. Of each expert apart, before its weight */
};
struct tap_rows {
    enum tap_point point;
    size_t sublayer, layer;
    size_t expert; /* 0 where there are none */
    size_t rows, size, stride;
    float *values;          /* host: row r at values + r * stride */
    size_t first_row;       /* of the hidden: row r is row first_row + r ... */
    const int32_t *numbers; /* ... or first_row + numbers[r], where not NULL (experts) */
    const float *weights;   /* experts: the router's weight of each row; NULL: none */
};
struct model_tap {
    void *context;
    unsigned points;  /* bit 1 << point: shown */
    unsigned changed; /* bit 1 << point: what visit leaves in values counts */
    bool (*visit)(void *context, const struct tap_rows *rows, struct error *error);
};
/* tap is borrowed until the next call; NULL: none. Rows come in ascending order within a chunk, chunks in order; how rows are cut into
 * visits is not promised. Decoding (model_generate) shows nothing. */
void model_set_tap(struct model *model, const struct model_tap *tap);

#endif
