/*
 * workers/model/rope.c: see rope.h. Scaling of context: "linear" divides every frequency by the factor;
 * "llama3" (Llama 3.1) divides the low ones, keeps the high ones, and goes over smoothly between wavelengths
 * of original_context / low_freq_factor and original_context / high_freq_factor.
 */
#include "workers/model/rope.h"

#include "base/memory.h"
#include <math.h>
#include <string.h>

static double scale_llama3(const struct rope_scaling *scaling, double inverse)
{
    double original = (double)scaling->original_context_tokens;
    double wavelength = 2.0 * 3.14159265358979323846 / inverse;
    if (wavelength > original / scaling->low_freq_factor) {
        return inverse / scaling->factor;
    }
    if (wavelength < original / scaling->high_freq_factor) {
        return inverse;
    }
    double smooth = (original / wavelength - scaling->low_freq_factor) /
                    (scaling->high_freq_factor - scaling->low_freq_factor);
    return (1.0 - smooth) * inverse / scaling->factor + smooth * inverse;
}

void rope_init(struct rope *rope, const struct model_config *config)
{
    const struct rope_scaling *scaling = &config->rope_scaling;
    *rope = (struct rope){.half = config->head_size / 2};
    rope->inverse = memory_create(rope->half, sizeof *rope->inverse);
    for (size_t i = 0; i < rope->half; i++) {
        float power = (float)pow((double)(float)config->rope_base,
                                 (double)(float)((double)(2 * i) / (double)config->head_size));
        float inverse = 1.0f / power;
        if (scaling->kind != NULL && strcmp(scaling->kind, "linear") == 0) {
            inverse = (float)((double)inverse / scaling->factor);
        } else if (scaling->kind != NULL) {
            inverse = (float)scale_llama3(scaling, (double)inverse);
        }
        rope->inverse[i] = inverse;
    }
}

bool rope_extend(struct rope *rope, size_t count, struct error *error)
{
    if (count <= rope->count) {
        return true;
    }
    count = count < 256 ? 256 : count + count / 4;
    float *cosines = memory_try_array(count * rope->half, sizeof *cosines, "position tables", error);
    float *sines = memory_try_array(count * rope->half, sizeof *sines, "position tables", error);
    if (cosines == NULL || sines == NULL) {
        free(cosines);
        free(sines);
        return false;
    }
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 0; i < rope->half; i++) {
            float angle = (float)t * rope->inverse[i];
            cosines[t * rope->half + i] = (float)cos((double)angle);
            sines[t * rope->half + i] = (float)sin((double)angle);
        }
    }
    free(rope->cosines);
    free(rope->sines);
    rope->cosines = cosines;
    rope->sines = sines;
    rope->count = count;
    return true;
}

void rope_finish(struct rope *rope)
{
    free(rope->inverse);
    free(rope->cosines);
    free(rope->sines);
    *rope = (struct rope){0};
}
