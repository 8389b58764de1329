/* workers/tensor/dtype.h: element types and their conversion to fp32. bf16 is the upper half of an fp32;
 * rounding back is to nearest even, NaN stays NaN. */
#ifndef WORKERS_TENSOR_DTYPE_H
#define WORKERS_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#define DTYPES(X) X(F32, "F32", 4) X(F16, "F16", 2) X(BF16, "BF16", 2)
enum dtype {
#define X(name, slug, bytes) DTYPE_##name,
    DTYPES(X)
#undef X
};
const char *dtype_slug(enum dtype dtype); /* as safetensors spells it */
size_t dtype_bytes(enum dtype dtype);
/* count elements; source may be unaligned. */
void dtype_to_f32(enum dtype dtype, const void *source, size_t count, float *ret_values);
void dtype_from_f32(enum dtype dtype, const float *values, size_t count, void *ret_bytes);

#endif
