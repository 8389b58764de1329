/* base/spec.c: see spec.h. */
#include "base/spec.h"
#include "base/text.h"
#include <stdio.h>
#include <string.h>

const char *const spec_types[SPEC_TYPE_COUNT] = {"pruning", "selection", "evaluation"};

const char *const spec_models[SPEC_MODEL_COUNT] = {"model", "pruned_model", "embedding_model"};

const char *spec_model(const json_t *spec, size_t index)
{
    return json_string_value(json_object_get(spec, spec_models[index]));
}

struct job_visitor {
    void (*visit)(void *context, const char *job_id);
    void *context;
};

static void visit_uri(void *context, const char *uri, const char *pointer)
{
    (void)pointer;
    const struct job_visitor *visitor = context;
    char job_id[40];
    const char *name = uri + strlen("job:");
    if (text_starts_with(uri, "job:") && strcspn(name, "/") < sizeof job_id) {
        (void)snprintf(job_id, sizeof job_id, "%.*s", (int)strcspn(name, "/"), name);
        visitor->visit(visitor->context, job_id);
    }
}

void spec_visit_jobs(const json_t *spec, void (*visit)(void *context, const char *job_id), void *context)
{
    struct job_visitor visitor = {visit, context};
    for (size_t i = 0; i < SPEC_MODEL_COUNT; i++) {
        const char *uri = spec_model(spec, i);
        if (uri != NULL) {
            visit_uri(&visitor, uri, "");
        }
    }
    json_visit_texts(spec, "", "source", visit_uri, &visitor);
}
