/*
 * workers/model/rope.c: see rope.h. Scaling of context, by kind:
 *
 *   linear    every frequency divided by the factor
 *   llama3    (Llama 3.1) low frequencies divided, high ones kept, and a smooth passage between wavelengths of
 *             original_context / low_freq_factor and original_context / high_freq_factor
 *   yarn      (2309.00071, eq. 23) the same with a ramp over the number of turns that a pair makes within the original
 *             context, from beta_slow to beta_fast
 *   longrope  (2402.13753) every frequency divided by a factor of its own; one list up to the original context, one beyond
 *
 * yarn and longrope also multiply cosines and sines by attention_factor.
 */
#include "workers/model/rope.h"

#include "base/memory.h"
#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

static double scale_llama3(const struct rope_scaling *scaling, double inverse)
{
    double original = (double)scaling->original_context_tokens;
    double wavelength = 2.0 * PI / inverse;
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

/* The pair that makes `turns` turns within the original context. */
static double yarn_pair(const struct rope_config *rope, size_t rotary_size, double turns)
{
    double original = (double)rope->scaling.original_context_tokens;
    return (double)rotary_size * log(original / (turns * 2.0 * PI)) / (2.0 * log(rope->base));
}

static double scale_yarn(const struct rope_config *rope, size_t rotary_size, size_t pair, double inverse)
{
    const struct rope_scaling *scaling = &rope->scaling;
    double low = fmax(floor(yarn_pair(rope, rotary_size, scaling->beta_fast)), 0.0);
    double high = fmin(ceil(yarn_pair(rope, rotary_size, scaling->beta_slow)), (double)rotary_size - 1.0);
    high = high > low ? high : low + 0.001;
    double ramp = fmin(fmax(((double)pair - low) / (high - low), 0.0), 1.0);
    return inverse / scaling->factor * ramp + inverse * (1.0 - ramp);
}

static float scale(const struct rope_config *rope, size_t rotary_size, size_t pair, bool is_long, float power)
{
    const struct rope_scaling *scaling = &rope->scaling;
    float inverse = 1.0f / power;
    if (scaling->kind == NULL) {
        return inverse;
    }
    if (strcmp(scaling->kind, "linear") == 0) {
        return (float)((double)inverse / scaling->factor);
    }
    if (strcmp(scaling->kind, "yarn") == 0) {
        return (float)scale_yarn(rope, rotary_size, pair, (double)inverse);
    }
    if (strcmp(scaling->kind, "longrope") == 0) {
        float factor = (float)(is_long ? scaling->long_factors : scaling->short_factors)[pair];
        return 1.0f / (factor * power);
    }
    return (float)scale_llama3(scaling, (double)inverse);
}

void rope_init(struct rope_table *table, struct device *device, const struct model_config *config,
               size_t rope, bool is_long)
{
    const struct rope_config *from = &config->ropes[rope];
    *table = (struct rope_table){.device = device, .half = config->rotary_size / 2, .factor = 1.0};
    table->inverse = memory_create(table->half + 1, sizeof *table->inverse);
    if (from->scaling.kind != NULL && from->scaling.attention_factor > 0.0) {
        table->factor = from->scaling.attention_factor;
    }
    for (size_t i = 0; i < table->half; i++) {
        float power = (float)pow((double)(float)from->base,
                                 (double)(float)((double)(2 * i) / (double)config->rotary_size));
        table->inverse[i] = scale(from, config->rotary_size, i, is_long, power);
    }
}

static void fill(const struct rope_table *table, size_t count, float *cosines, float *sines)
{
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 0; i < table->half; i++) {
            float angle = (float)t * table->inverse[i];
            cosines[t * table->half + i] = (float)((double)(float)cos((double)angle) * table->factor);
            sines[t * table->half + i] = (float)((double)(float)sin((double)angle) * table->factor);
        }
    }
}

bool rope_extend(struct rope_table *table, size_t count, struct error *error)
{
    if (count <= table->count || table->half == 0) {
        return true;
    }
    count = count < 256 ? 256 : count + count / 4;
    size_t elements = count * table->half, bytes = elements * sizeof(float);
    const struct backend *backend = device_get_backend(table->device);
    OWNED_MEMORY float *host = memory_try_array(2 * elements, sizeof *host, "position tables", error);
    float *cosines =
        host != NULL ? backend->memory_create(table->device, 2 * bytes, "position tables", error) : NULL;
    if (cosines == NULL) {
        return false;
    }
    fill(table, count, host, host + elements);
    if (!backend->memory_write(table->device, cosines, host, 2 * bytes, error)) {
        backend->memory_destroy(table->device, cosines);
        return false;
    }
    backend->memory_destroy(table->device, table->cosines);
    table->cosines = cosines;
    table->sines = cosines + elements;
    table->count = count;
    return true;
}

void rope_finish(struct rope_table *table)
{
    if (table->device != NULL) {
        device_get_backend(table->device)->memory_destroy(table->device, table->cosines);
    }
    free(table->inverse);
    *table = (struct rope_table){0};
}
