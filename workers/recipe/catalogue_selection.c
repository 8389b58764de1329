/* workers/recipe/catalogue_selection.c: the body of a selection job. */
#include "workers/recipe/selection.h"

#include "base/check.h"
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define METHODS_MAX     64
#define OWN_MEMBERS     6

static const char *const templates[] = {"alpaca", "plain", "chatml", "custom", NULL};

static const struct param_spec dataset_members[] = {
    {.name = "sources",
     .type = PARAM_ARRAY,
     .flags = PARAM_REQUIRED,
     .min = 1,
     .max = SELECTION_SOURCES_MAX,
     .members = &select_source_item,
     .member_count = 1,
     .help = "The data sets to choose from, together."},
    {.name = "template",
     .type = PARAM_ENUM,
     .values = templates,
     .default_json = "\"alpaca\"",
     .help = "What the models are given before a response; recover with the same one."},
    {.name = "template_full",
     .type = PARAM_TEXT,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 8192,
     .help = "Of a custom template: text with {instruction} and {input}."},
    {.name = "template_lone",
     .type = PARAM_TEXT,
     .flags = PARAM_NULLABLE,
     .min = 1,
     .max = 8192,
     .help = "Of a custom template: text with {instruction}, for records without an input."},
    {.name = "max_tokens",
     .type = PARAM_INTEGER,
     .min = 2,
     .max = 131072,
     .default_json = "512",
     .unit = "tokens",
     .help =
         "Longer records lose the end of their response, and those whose prompt is as long are left out; at "
         "most the models' context."},
};
static const struct param_spec budget_members[] = {
    {.name = "samples",
     .type = PARAM_INTEGER,
     .min = 0,
     .max = 4294967294.0,
     .unit = "records",
     .help = "So many records."},
    {.name = "tokens",
     .type = PARAM_INTEGER,
     .min = 0,
     .max = 9007199254740991.0,
     .unit = "tokens",
     .help = "Records of at most so many tokens together, prompts and responses."},
    {.name = "fraction",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 1,
     .help = "This share of the records that can be chosen, rounded down."},
};

/* The method union is built from the registry, so a new selector needs no line here. */
const struct param_spec *catalogue_selection_body(const struct param_spec *common, size_t common_count)
{
    static struct param_spec members[OWN_MEMBERS + 16];
    static struct param_spec methods[METHODS_MAX];
    static struct param_spec body;
    if (body.members != NULL) {
        return &body;
    }
    size_t method_count = 0;
    for (const struct select_method *const *method = select_methods(); *method != NULL; method++) {
        CHECK(method_count < METHODS_MAX);
        methods[method_count++] = (struct param_spec){.name = (*method)->name,
                                                      .type = PARAM_OBJECT,
                                                      .members = (*method)->params,
                                                      .member_count = (*method)->param_count,
                                                      .help = (*method)->summary};
    }
    const struct param_spec own[OWN_MEMBERS] = {
        {.name = "model",
         .type = PARAM_TEXT,
         .flags = PARAM_REQUIRED,
         .min = 1,
         .max = 4096,
         .help = "The original: a registered model, a folder, or the result of an earlier job."},
        {.name = "pruned_model",
         .type = PARAM_TEXT,
         .flags = PARAM_NULLABLE,
         .min = 1,
         .max = 4096,
         .help =
             "The model that is to be healed, named as the original is. Needed by methods that ask what pruning "
             "broke. A job that has not ended yet is waited for."},
        {.name = "embedding_model",
         .type = PARAM_TEXT,
         .flags = PARAM_NULLABLE,
         .min = 1,
         .max = 4096,
         .help =
             "A sentence encoder (any model will do: the mean of its last states is taken); the original's own states "
             "unless given."},
        {.name = "dataset",
         .type = PARAM_OBJECT,
         .flags = PARAM_REQUIRED,
         .members = dataset_members,
         .member_count = COUNT_OF(dataset_members),
         .help = "What to choose from."},
        {.name = "method",
         .type = PARAM_UNION,
         .flags = PARAM_REQUIRED,
         .members = methods,
         .member_count = method_count,
         .help = "What decides which records come first."},
        {.name = "budget",
         .type = PARAM_OBJECT,
         .flags = PARAM_REQUIRED | PARAM_EXACTLY_ONE,
         .members = budget_members,
         .member_count = COUNT_OF(budget_members),
         .help = "How much to choose."},
    };
    CHECK(OWN_MEMBERS + common_count <= COUNT_OF(members));
    memcpy(members, own, sizeof own);
    memcpy(members + OWN_MEMBERS, common, common_count * sizeof *common);
    body = (struct param_spec){.type = PARAM_OBJECT,
                               .members = members,
                               .member_count = OWN_MEMBERS + common_count,
                               .help = "Chooses the instruction data that heal a pruned model."};
    return &body;
}
