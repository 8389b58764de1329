/* tests/unit/workers/export/families.h: every family's small model, opened, run and written: what the tests of exports share. */
#ifndef TESTS_UNIT_WORKERS_EXPORT_FAMILIES_H
#define TESTS_UNIT_WORKERS_EXPORT_FAMILIES_H

#include "base/file.h"
#include "base/memory.h"
#include "workers/export/export.h"
#include "workers/model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GOLDENS PROJECT_ROOT "/tests/golden/families/"

enum { TOKENS = 40 };

struct source {
    char *folder;
    struct inventory *inventory;
};

static inline char *make_folder(void)
{
    char *folder = memory_copy_text("/tmp/pruned-export-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

/* A copy: some of the models are links to others, which a model's files may not be. */
static inline struct source open_source(const char *name)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    struct source source = {.folder = make_folder()};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[600];
        size_t count = 0;
        (void)snprintf(path, sizeof path, "%s%s/%s", GOLDENS, name, files[i]);
        OWNED_MEMORY char *bytes = file_load(path, (size_t)1 << 20, &count, NULL);
        OWNED_MEMORY char *to = file_join(source.folder, files[i]);
        assert_non_null(bytes);
        assert_true(file_save(to, bytes, count, 0644, NULL));
    }
    FINISHED(error_list) faults = {0};
    source.inventory = inventory_inspect(source.folder, false, NULL, &faults);
    if (source.inventory == NULL) {
        fail_msg("%s: %s", name, faults.items[0].message);
    }
    return source;
}

static inline void close_source(struct source *source)
{
    inventory_destroy(source->inventory);
    assert_true(file_remove_tree(source->folder, NULL));
    free(source->folder);
}

/* removed: sublayers, ended by -1. */
static inline struct plan *make_plan(const struct inventory *inventory, const int *removed)
{
    struct plan *plan = plan_create(2 * inventory->config.layer_count);
    for (size_t i = 0; removed[i] >= 0; i++) {
        plan_add_point(plan, (size_t)removed[i], 0.25, true);
    }
    plan_cut(plan, plan->point_count);
    return plan;
}

/* Hidden states after all sublayers but the removed ones: owned, [TOKENS, hidden_size]. */
static inline float *run(const struct inventory *inventory, const char *folder, const bool *removed)
{
    int32_t tokens[TOKENS];
    for (size_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)((7 * i + 3) % inventory->config.vocab_size);
    }
    struct token_sequence sequence = {tokens, TOKENS};
    struct token_batch batch = {&sequence, 1};
    struct error error = {0};
    struct pool *pool = pool_create(1, &error);
    struct model_options options = {.backend = "reference", .pool = pool};
    struct model *model = model_open(inventory, folder, &options, &error);
    struct hidden *hidden = model != NULL ? hidden_create(model, &batch, &error) : NULL;
    float *rows = memory_create(TOKENS * inventory->config.hidden_size, sizeof *rows);
    if (hidden == NULL || !model_embed(model, &batch, hidden, &error) ||
        !model_run_from(model, 0, removed, hidden, &error) || !hidden_read(hidden, 0, TOKENS, rows, &error)) {
        fail_msg("%s", error.message);
    }
    hidden_destroy(hidden);
    model_destroy(model);
    pool_destroy(pool);
    return rows;
}

#endif
