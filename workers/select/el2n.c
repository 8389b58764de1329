/* workers/select/el2n.c: see el2n.h. */
#include "workers/select/el2n.h"

#include <math.h>

bool el2n_of_token(const float *logits, size_t vocab_size, size_t target, double *ret_value,
                   struct error *error)
{
    if (target >= vocab_size) {
        return error_set(error, ERROR_OUT_OF_RANGE, "token %zu of a vocabulary of %zu", target, vocab_size);
    }
    double top = (double)logits[target];
    double others = 0, squares = 0; /* of exp(z - top), the target's apart */
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
            others *= scale;
            squares *= scale * scale;
            top = z;
        }
        double e = exp(z - top);
        others += e;
        squares += e * e;
    }
    double sum = others + exp((double)logits[target] - top);
    *ret_value = sqrt(others * others + squares) / sum;
    return true;
}

double el2n_mean(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += values[i];
    }
    return count > 0 ? sum / (double)count : (double)NAN;
}

void forgetting_add(struct forgetting *forgetting, bool is_right)
{
    forgetting->events += forgetting->is_right && !is_right ? 1 : 0;
    forgetting->is_right = is_right;
    forgetting->was_ever_right = forgetting->was_ever_right || is_right;
}

double forgetting_score(const struct forgetting *forgetting)
{
    return forgetting->was_ever_right ? (double)forgetting->events : (double)INFINITY;
}
