/* workers/select/gotd.c: see gotd.h. */
#include "workers/select/gotd.h"

#include "workers/select/ranking.h"

void gotd_gradients(const double *potentials, size_t count, double *ret_gradients)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += potentials[i];
    }
    for (size_t i = 0; i < count; i++) {
        double others = sum - potentials[i];
        ret_gradients[i] = count > 1 ? potentials[i] - others / (double)(count - 1) : 0.0;
    }
}

bool gotd_order(const double *potentials, size_t count, enum gotd_side side, size_t wanted, size_t *ret_order,
                struct error *error)
{
    size_t ordered = 0; /* none is dropped */
    return ranking_order(potentials, count, side == GOTD_AWAY ? RANKING_FALLING : RANKING_RISING,
                         RANKING_NAN_ERROR, wanted, ret_order, &ordered, error);
}
