/* workers/select/forgetting.c: see forgetting.h. */
#include "workers/select/forgetting.h"

#include <math.h>

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
