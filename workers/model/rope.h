/*
 * workers/model/rope.h: rotary position embedding as tables of cosines and sines, [positions, head_size / 2],
 * grown on demand. Angles are rounded to fp32 where transformers rounds them (inverse frequency, then
 * position times it): other roundings are no better and give other logits.
 */
#ifndef WORKERS_MODEL_ROPE_H
#define WORKERS_MODEL_ROPE_H

#include "base/error.h"
#include "workers/model/config.h"

struct rope {
    size_t half;            /* head_size / 2 */
    size_t count;           /* positions there are */
    float *inverse;         /* [half], scaled */
    float *cosines, *sines; /* [count, half] */
};
void rope_init(struct rope *rope, const struct model_config *config);
/* Not while another thread reads. */
bool rope_extend(struct rope *rope, size_t count, struct error *error) MUST_USE;
void rope_finish(struct rope *rope);

#endif
