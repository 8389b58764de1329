/*
 * workers/model/rope.h: rotary position embedding as tables of cosines and sines in device memory,
 * [positions, rotary_size / 2], grown on demand. Angles are rounded to fp32 where transformers rounds them
 * (inverse frequency, then position times it): other roundings are no better and give other logits.
 */
#ifndef WORKERS_MODEL_ROPE_H
#define WORKERS_MODEL_ROPE_H

#include "base/error.h"
#include "workers/model/config.h"
#include "workers/tensor/backend.h"

struct rope_table {
    struct device *device;  /* borrowed */
    size_t half;            /* rotary_size / 2 */
    size_t count;           /* positions there are */
    double factor;          /* of cosines and sines */
    float *inverse;         /* [half], scaled; host */
    float *cosines, *sines; /* [count, half], device memory */
};
/* rope: of config->ropes. is_long: the frequencies of sequences longer than the original context (longrope). */
void rope_init(struct rope_table *table, struct device *device, const struct model_config *config,
               size_t rope, bool is_long);
/* Not while another thread reads. */
bool rope_extend(struct rope_table *table, size_t count, struct error *error) MUST_USE;
void rope_finish(struct rope_table *table);

#endif
