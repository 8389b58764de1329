/* workers/model/tap.c: see tap.h. Rows of a device with memory of its own go to the host and back. */
#include "workers/model/model_internal.h"

#include "base/memory.h"
#include <stdlib.h>

void model_set_tap(struct model *model, const struct model_tap *tap)
{
    model->tap = tap;
}

static bool reserve(struct model *model, size_t count, struct error *error)
{
    if (count > model->tap_count) {
        free(model->tap_rows);
        model->tap_count = 0;
        model->tap_rows = memory_try_array(count, sizeof *model->tap_rows, "rows that are looked at", error);
        if (model->tap_rows == NULL) {
            return false;
        }
        model->tap_count = count;
    }
    return true;
}

static bool show_copy(struct model *model, struct tap_rows *rows, struct error *error)
{
    const struct model_tap *tap = model->tap;
    float *device_rows = rows->values;
    size_t bytes = rows->rows * rows->stride * sizeof *device_rows;
    bool is_changed = (tap->changed & 1u << rows->point) != 0;
    if (!reserve(model, rows->rows * rows->stride, error) ||
        !model->backend->memory_read(model->device, model->tap_rows, device_rows, bytes, error)) {
        return false;
    }
    rows->values = model->tap_rows;
    return tap->visit(tap->context, rows, error) &&
           (!is_changed ||
            model->backend->memory_write(model->device, device_rows, model->tap_rows, bytes, error));
}

bool tap_show(struct model *model, const struct span *span, struct tap_rows *rows, struct error *error)
{
    const struct model_tap *tap = model->tap;
    bool is_decoding = span->cache != NULL && span->cache->first_rows != NULL;
    if (tap == NULL || (tap->points & 1u << rows->point) == 0 || is_decoding || rows->rows == 0) {
        return true;
    }
    rows->first_row = span->first_row;
    return model->backend->is_host ? tap->visit(tap->context, rows, error) : show_copy(model, rows, error);
}
