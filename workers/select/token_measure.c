/* workers/select/token_measure.c: see token_measure.h. */
#include "workers/select/token_measure.h"

#include <math.h>

bool token_measure(const float *logits, size_t vocab_size, size_t target, struct token_measures *ret_measures,
                   struct error *error)
{
    if (target >= vocab_size) {
        return error_set(error, ERROR_OUT_OF_RANGE, "token %zu of a vocabulary of %zu", target, vocab_size);
    }
    double top = (double)logits[target];
    double others = 0, squares = 0,
           weighted = 0; /* of e = exp(z - top) and (z - top) e, the target's apart */
    for (size_t v = 0; v < vocab_size; v++) {
        double z = (double)logits[v];
        if (!isfinite(z)) {
            return error_set(error, ERROR_NUMERIC, "the logit of token %zu is %g", v, z);
        }
        if (v == target) {
            continue;
        }
        if (z > top) {
            double scale = exp(top - z);
            weighted = scale * (weighted + (top - z) * others);
            others *= scale;
            squares *= scale * scale;
            top = z;
        }
        double e = exp(z - top);
        others += e;
        squares += e * e;
        weighted += (z - top) * e;
    }
    double gap = (double)logits[target] - top, own = exp(gap), sum = others + own;
    ret_measures->el2n = sqrt(others * others + squares) / sum;
    /* -sum p log p = log sum - sum (z - top) e / sum; rounding may leave less than nothing. */
    ret_measures->entropy = fmax(0, log(sum) - (weighted + gap * own) / sum);
    return true;
}

double token_measure_mean(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return count > 0 ? sum / (double)count : (double)NAN;
}
