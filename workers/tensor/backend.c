/* workers/tensor/backend.c: the registry. A backend is resolved once: its table is copied and holes are
 * filled from `reference`, so that callers never look for NULL. */
#include "workers/tensor/backend.h"

#include <math.h>
#include <string.h>

static const struct backend *const backends[] = {
#define TENSOR_BACKEND(id) &backend_##id,
#include "workers/tensor/backends.def"
#undef TENSOR_BACKEND
};
#define BACKEND_COUNT (sizeof backends / sizeof backends[0])

static const char *const names[] = {
#define TENSOR_BACKEND(id) #id,
#include "workers/tensor/backends.def"
#undef TENSOR_BACKEND
    NULL,
};

const char *const *backend_names(void)
{
    return names;
}

static void fill_holes(struct backend *backend)
{
    const struct backend *truth = &backend_reference;
#define FILL(member) backend->member = backend->member != NULL ? backend->member : truth->member
    FILL(matmul);
    FILL(rows_matmul);
    FILL(rmsnorm);
    FILL(rope);
    FILL(attention);
    FILL(attention_row);
    FILL(silu_mul);
    FILL(add);
    FILL(scan);
    FILL(squares);
    FILL(distance);
#undef FILL
}

const struct backend *backend_open(const char *name, struct error *error)
{
    static struct backend resolved[BACKEND_COUNT];
    for (size_t i = 0; i < BACKEND_COUNT; i++) {
        if (name != NULL && strcmp(name, names[i]) != 0) {
            continue;
        }
        if (resolved[i].name == NULL) {
            struct backend filled = *backends[i];
            if (filled.start != NULL && !filled.start(&filled, error)) {
                return NULL;
            }
            fill_holes(&filled);
            resolved[i] = filled;
        }
        return &resolved[i];
    }
    error_set(error, ERROR_UNKNOWN_VALUE, "no backend is named \"%.40s\"; there are openblas and reference",
              name);
    return NULL;
}

void head_scan_start(struct head_scan *scan)
{
    *scan = (struct head_scan){.max = -INFINITY};
}

void head_scan_merge(struct head_scan *into, const struct head_scan *next)
{
    if (next->max == -INFINITY) {
        return;
    }
    if (next->max > into->max) {
        into->sum = into->sum * exp((double)into->max - (double)next->max) + next->sum;
        into->max = next->max;
        into->index = next->index;
        return;
    }
    into->sum += next->sum * exp((double)next->max - (double)into->max);
}

double head_scan_logsumexp(const struct head_scan *scan)
{
    return (double)scan->max + log(scan->sum);
}
