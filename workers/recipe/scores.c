/*
 * workers/recipe/scores.c: scores as artifacts. What scoring and searching found is kept in a folder of the caller's, under the hash of
 * all that it depends on: the model, the calibration windows, the method with the parameters that change scores, the seed where it
 * counts, the skipped layers, the machine's arithmetic and the version below. Another target on the same scores then needs neither.
 *
 * An entry is a header line and JSON, as a checkpoint:  PRUNEDSC <version> <sha256 of the JSON> <bytes>\n<JSON>
 *
 *     {"key": {...}, "members": {<what the score stage left in the checkpoint>}, "curve": <plan.json, PRUNE_TRAIT_CURVE>}
 *
 * A file that is not whole, not what its name says or not readable is passed over and written anew: it is a cache. Files are replaced
 * by rename, so readers and writers need not know of each other; a later search writes a longer curve over a shorter one.
 */
#include "workers/recipe/recipe_internal.h"

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/prune/width.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCORES_VERSION     1
#define SCORES_MAGIC       "PRUNEDSC"
#define SCORES_LIMIT_BYTES (64u << 20)

static json_t *without_late(const struct recipe *recipe)
{
    json_t *parameters = json_deep_copy(recipe->parameters);
    const char *const *late = recipe->method->late_params;
    for (; late != NULL && *late != NULL; late++) {
        (void)json_object_del(parameters, *late);
    }
    return parameters;
}

static json_t *list_skipped(const struct prune_layers *layers)
{
    json_t *list = json_array();
    for (size_t i = 0; i < layers->layer_count; i++) {
        if (layers->skip[i]) {
            CHECK(json_array_append_new(list, json_integer((json_int_t)i)) == 0);
        }
    }
    return list;
}

/* What every score depends on. */
static json_t *make_base_key(const struct recipe *recipe)
{
    const struct windows *windows = recipe->windows;
    char sha256[65];
    sha256_hex_of(windows->tokens, windows->count * windows->window_tokens * sizeof *windows->tokens, sha256);
    json_t *key = json_object();
    json_put_i64(key, "version", SCORES_VERSION);
    json_put_text(key, "model", recipe->model_sha256);
    json_put_text(key, "windows", sha256);
    json_put_i64(key, "window_tokens", (int64_t)windows->window_tokens);
    json_put_text(key, "machine", recipe->machine.identity);
    return key;
}

static json_t *make_key(const struct recipe *recipe)
{
    json_t *key = make_base_key(recipe);
    json_put_text(key, "method", recipe->method_name);
    json_put(key, "parameters", without_late(recipe));
    if (recipe->depth != NULL) {
        json_put(key, "combined", json_deep_copy(json_object_get(recipe->spec, "method")));
    }
    json_put(key, "skip", list_skipped(recipe->layers));
    if ((recipe->method->traits & PRUNE_TRAIT_SEEDED) != 0) {
        json_put_i64(key, "seed", (int64_t)recipe->seed);
    }
    return key;
}

static char *make_path(const struct recipe *recipe, const char *sha256, const char *suffix)
{
    FINISHED(text) name = {0};
    text_append_format(&name, "%s.%s", sha256, suffix);
    return file_join(recipe->job->cache_folder, name.bytes);
}

char *scores_statistics_path(const struct recipe *recipe, unsigned wanted)
{
    if (recipe->scores.key == NULL) {
        return NULL;
    }
    JSON_OWNED key = make_base_key(recipe);
    json_put_i64(key, "statistics", (int64_t)wanted);
    if ((wanted & WIDTH_LEVERAGE) != 0) {
        json_put(key, "leverage_ratio", json_real(recipe_leverage_ratio(recipe)));
    }
    OWNED_MEMORY char *text = json_format(key, false);
    char sha256[65];
    sha256_hex_of(text, strlen(text), sha256);
    return make_path(recipe, sha256, "statistics");
}

char *scores_pass_path(const struct recipe *recipe)
{
    return recipe->scores.key != NULL ? make_path(recipe, recipe->scores.sha256, "pass")
                                      : file_join(recipe->job->work_folder, "pass");
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Owned; NULL for what is absent, damaged or another's. */
static json_t *load_entry(const struct recipe *recipe)
{
    OWNED_MEMORY char *path = make_path(recipe, recipe->scores.sha256, "scores");
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(path, SCORES_LIMIT_BYTES, &count, NULL);
    char *newline = bytes != NULL ? memchr(bytes, '\n', count) : NULL;
    if (newline == NULL) {
        return NULL;
    }
    *newline = '\0';
    int version = 0;
    size_t length = 0;
    char expected[65];
    char found[65];
    if (sscanf(bytes, SCORES_MAGIC " %d %64s %zu", &version, expected, &length) != 3 ||
        version != SCORES_VERSION || (size_t)(bytes + count - newline - 1) != length) {
        return NULL;
    }
    sha256_hex_of(newline + 1, length, found);
    if (strcmp(found, expected) != 0) {
        return NULL;
    }
    JSON_OWNED entry = json_parse(newline + 1, length, SCORES_LIMIT_BYTES, NULL);
    if (!json_equal(json_object_get(entry, "key"), recipe->scores.key)) {
        return NULL;
    }
    (void)file_system->touch(path); /* what is used stays longest */
    return json_incref(entry);
}

/* A curve of this model that a search could have left. */
static bool is_curve_sound(const struct recipe *recipe, const json_t *json)
{
    OWNED(plan) curve = json != NULL ? plan_parse(json, NULL) : NULL;
    struct plan_sublayer *listed = NULL;
    size_t count = plan_list_sublayers(&recipe->inventory->config, &listed);
    bool is_sound = curve != NULL && curve->sublayer_count == count;
    for (size_t i = 0; is_sound && i < curve->point_count; i++) {
        is_sound = !recipe->layers->skip[listed[curve->points[i].sublayer].layer];
    }
    free(listed);
    return is_sound && curve->point_count > 0 && curve->points[curve->point_count - 1].is_cut;
}

static size_t curve_length(const json_t *curve)
{
    return json_array_size(json_object_get(curve, "points"));
}

bool scores_take(struct recipe *recipe, struct error *error)
{
    struct scores *scores = &recipe->scores;
    if (recipe->job->cache_folder == NULL || recipe->windows == NULL) {
        return true;
    }
    scores->key = make_key(recipe);
    OWNED_MEMORY char *text = json_format(scores->key, false);
    sha256_hex_of(text, strlen(text), scores->sha256);
    if (!file_make_folders((char *)(uintptr_t)recipe->job->cache_folder, 0777, error)) {
        return false;
    }
    JSON_OWNED entry = load_entry(recipe);
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(entry, "members"), name, value)
    {
        if (json_object_get(recipe->done, name) == NULL) {
            json_put(recipe->done, name, json_incref(value));
            scores->has_members = true;
        }
    }
    json_t *curve = json_object_get(entry, "curve");
    if (is_curve_sound(recipe, curve) && /* farther than an earlier attempt of this job got */
        curve_length(curve) > curve_length(json_object_get(recipe->done, "curve")) &&
        curve_length(curve) > curve_length(json_object_get(recipe->done, "search"))) {
        json_put(recipe->done, "curve", json_incref(curve));
        (void)json_object_del(recipe->done, "search");
        scores->kept_points = curve_length(curve);
    }
    scores->before = json_copy(recipe->done);
    scores->members = entry != NULL ? json_incref(json_object_get(entry, "members")) : json_object();
    return true;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void save_entry(struct recipe *recipe, json_t *curve)
{
    struct error error = {0};
    JSON_OWNED entry = json_object();
    json_put(entry, "key", json_incref(recipe->scores.key));
    json_put(entry, "members", json_incref(recipe->scores.members));
    json_put(entry, "curve", json_incref(curve));
    OWNED_MEMORY char *json = json_format(entry, false);
    size_t length = strlen(json);
    char sha256[65];
    sha256_hex_of(json, length, sha256);
    FINISHED(text) file = {0};
    text_append_format(&file, "%s %d %s %zu\n", SCORES_MAGIC, SCORES_VERSION, sha256, length);
    text_append_bytes(&file, json, length);
    OWNED_MEMORY char *path = make_path(recipe, recipe->scores.sha256, "scores");
    if (file.length > SCORES_LIMIT_BYTES || !file_save(path, file.bytes, file.length, 0644, &error)) {
        recipe_warn(recipe, "the scores could not be kept: %s",
                    error.code != ERROR_NONE ? error.message : "they are too large");
    }
}

/* What the score stage has left in the checkpoint since scores_take, but for the mark of a file in the work folder. */
static json_t *new_members(const struct recipe *recipe)
{
    json_t *members = json_object();
    const char *name;
    json_t *value;
    json_object_foreach(recipe->done, name, value)
    {
        if (json_object_get(recipe->scores.before, name) == NULL && strcmp(name, "statistics") != 0) {
            json_put(members, name, json_incref(value));
        }
    }
    return members;
}

void scores_keep_members(struct recipe *recipe)
{
    struct scores *scores = &recipe->scores;
    if (scores->key == NULL) {
        return;
    }
    JSON_OWNED members = new_members(recipe);
    if (json_object_size(members) > 0) {
        scores->is_written = true;
        CHECK(json_object_update(scores->members, members) == 0);
        save_entry(recipe, NULL);
    }
}

void scores_keep_curve(struct recipe *recipe, const struct plan *curve)
{
    struct scores *scores = &recipe->scores;
    if (scores->key == NULL || curve->point_count <= scores->kept_points) {
        return;
    }
    scores->is_written = true;
    JSON_OWNED json = plan_format(curve, recipe->inventory);
    save_entry(recipe, json);
}

void scores_finish(struct scores *scores)
{
    json_decref(scores->key);
    json_decref(scores->before);
    json_decref(scores->members);
}

json_t *scores_format(const struct recipe *recipe)
{
    const struct scores *scores = &recipe->scores;
    json_t *earlier = json_object_get(recipe->done, "scores");
    if (scores->key == NULL && earlier != NULL) {
        return json_incref(earlier); /* an attempt before this one found them */
    }
    json_t *object = json_object();
    bool is_found = scores->has_members || scores->kept_points > 0 || scores->is_file_found;
    json_put_text(object, "cache",
                  scores->key == NULL               ? "off"
                  : is_found && !scores->is_written ? "hit"
                  : is_found                        ? "extended"
                                                    : "miss");
    json_put_text(object, "key", scores->key != NULL ? scores->sha256 : NULL);
    json_put_double(object, "seconds",
                    recipe->progress.stage_seconds[STAGE_SCORE] +
                        recipe->progress.stage_seconds[STAGE_SEARCH]);
    return object;
}
