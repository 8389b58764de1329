/*
 * storage/storage_models.c: models that jobs read: assembled from blobs, or folders left in place.
 *
 * Records are few (hundreds) and all in memory, in a list by row; a look-up walks it. An assembled folder is
 * built in tmp/ and renamed to models/<id> when whole and synced; one without a record is a leftover of a
 * crash, swept at the start.
 */
#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "storage/storage_internal.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- records ------------------------------------------------------------------------------------------- */

struct model_record *model_record_acquire(struct model_record *model)
{
    (void)__atomic_add_fetch(&model->reference_count, 1, __ATOMIC_RELAXED);
    return model;
}

void model_record_release(struct model_record *model)
{
    if (model == NULL || __atomic_sub_fetch(&model->reference_count, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    free(model->name);
    free(model->source);
    free(model->folder);
    json_decref(model->inventory); /* never shared with another record */
    free(model);
}

void model_list_add(struct model_list *list, struct model_record *taken)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity == 0 ? 16 : list->capacity * 2;
        list->models = memory_resize(list->models, list->capacity, sizeof(struct model_record *));
    }
    list->models[list->count++] = taken;
}

void model_list_finish(struct model_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        model_record_release(list->models[i]);
    }
    free(list->models);
    *list = (struct model_list){0};
}

bool storage_load_models(struct storage *storage, struct error *error)
{
    return storage->database->operations->load_models(storage->database, &storage->models, error);
}

bool storage_has_model(struct storage *storage, const char *model_id)
{
    bool found = false;
    pthread_mutex_lock(&storage->models_lock);
    for (size_t i = 0; i < storage->models.count && !found; i++) {
        found = strcmp(storage->models.models[i]->id, model_id) == 0;
    }
    pthread_mutex_unlock(&storage->models_lock);
    return found;
}

struct model_record *storage_find_model(struct storage *storage, const char *tenant_id,
                                        const char *id_or_name)
{
    struct model_record *found = NULL;
    pthread_mutex_lock(&storage->models_lock);
    for (size_t i = 0; i < storage->models.count && found == NULL; i++) {
        struct model_record *model = storage->models.models[i];
        if (strcmp(model->tenant_id, tenant_id) == 0 &&
            (strcmp(model->id, id_or_name) == 0 || strcmp(model->name, id_or_name) == 0)) {
            found = model_record_acquire(model);
        }
    }
    pthread_mutex_unlock(&storage->models_lock);
    return found;
}

size_t storage_list_models(struct storage *storage, const char *tenant_id, const char *after, size_t limit,
                           bool *ret_has_more, struct model_record ***ret_models)
{
    struct model_list page = {0};
    bool started = after == NULL;
    bool has_more = false;
    pthread_mutex_lock(&storage->models_lock);
    for (size_t i = storage->models.count; i > 0 && !has_more; i--) {
        struct model_record *model = storage->models.models[i - 1];
        if (strcmp(model->tenant_id, tenant_id) != 0) {
            continue;
        }
        if (!started) {
            started = strcmp(model->id, after) == 0;
        } else if (page.count == limit) {
            has_more = true;
        } else {
            model_list_add(&page, model_record_acquire(model));
        }
    }
    pthread_mutex_unlock(&storage->models_lock);
    *ret_has_more = has_more;
    *ret_models = page.models;
    return page.count;
}

/* ---- insert -------------------------------------------------------------------------------------------- */

struct model_command {
    struct command base;
    storage_model_done *done;
    void *context;
    struct model_record *draft, *result; /* references; result may be the draft */
    bool inserted;
};

/* The inventory without what may differ between two copies of the same content; owned. */
static json_t *content_of(const struct model_record *model)
{
    json_t *content = json_deep_copy(model->inventory);
    size_t index;
    json_t *file;
    json_array_foreach(json_object_get(content, "files"), index, file)
    {
        if (json_is_array(file)) { /* a row of inventory_format: [path, bytes, mtime_ns, sha256] */
            (void)json_array_remove(file, 2);
        } else {
            (void)json_object_del(file, "mtime_ns");
        }
    }
    (void)json_object_del(content, "folder");
    return content;
}

static bool is_same_model(const struct model_record *one, const struct model_record *other)
{
    JSON_OWNED content = content_of(one);
    JSON_OWNED other_content = content_of(other);
    bool same_content = content == NULL || other_content == NULL ? content == other_content
                                                                 : json_equal(content, other_content) == 1;
    return strcmp(one->source, other->source) == 0 && same_content;
}

/* Models of this batch are in storage->models only after the commit, so the UNIQUE constraint answers for two
 * of the same name in one batch. */
static bool run_insert(struct storage *storage, struct command *base, struct error *error)
{
    struct model_command *command = (struct model_command *)base;
    struct model_record *draft = command->draft;
    struct model_record *known = storage_find_model(storage, draft->tenant_id, draft->name);
    if (known != NULL) {
        if (is_same_model(known, draft)) {
            command->result = known;
            return true;
        }
        (void)error_set_field(error, ERROR_CONFLICT, "/name", "the name %.100s belongs to model %s already",
                              draft->name, known->id);
        model_record_release(known);
        return false;
    }
    if (!storage->database->operations->insert_model(storage->database, draft, &draft->row, error)) {
        if (error->code == ERROR_CONFLICT) {
            (void)error_set_field(error, ERROR_CONFLICT, "/name", "the name %.100s was taken just now",
                                  draft->name);
        }
        return false;
    }
    command->inserted = true;
    command->result = model_record_acquire(draft);
    return true;
}

static void publish_model(struct storage *storage, struct command *base)
{
    struct model_command *command = (struct model_command *)base;
    if (command->inserted) {
        pthread_mutex_lock(&storage->models_lock);
        model_list_add(&storage->models, model_record_acquire(command->result));
        pthread_mutex_unlock(&storage->models_lock);
    }
}

static void answer_model(struct storage *storage, struct command *base, const struct error *error)
{
    struct model_command *command = (struct model_command *)base;
    if (error != NULL || !command->inserted) {
        storage_discard_model(storage, command->draft->id); /* what was assembled for it */
    }
    command->done(command->context, command->result, error);
}

static void forget_model(struct command *base)
{
    struct model_command *command = (struct model_command *)base;
    model_record_release(TAKE(command->result));
    command->inserted = false;
}

static void destroy_model(struct command *base)
{
    struct model_command *command = (struct model_command *)base;
    forget_model(base);
    model_record_release(command->draft);
    free(command);
}

static const struct command_kind kind_insert_model = {.writes = true,
                                                      .run = run_insert,
                                                      .publish = publish_model,
                                                      .answer = answer_model,
                                                      .forget = forget_model,
                                                      .destroy = destroy_model};

void storage_insert_model(struct storage *storage, const struct model_record *draft, storage_model_done *done,
                          void *context)
{
    struct model_command *command = memory_create(1, sizeof *command);
    struct model_record *copy = memory_create(1, sizeof *copy);
    *copy = *draft;
    copy->reference_count = 1;
    copy->row = 0;
    copy->name = memory_copy_text(draft->name);
    copy->source = memory_copy_text(draft->source);
    copy->folder = memory_copy_text(draft->folder);
    copy->inventory = json_deep_copy(draft->inventory);
    copy->created_at_ms = draft->created_at_ms != 0 ? draft->created_at_ms : clock_wall_ms(storage->clock);
    command->base.kind = &kind_insert_model;
    command->draft = copy;
    command->done = done;
    command->context = context;
    storage_post(storage, &command->base);
}

/* ---- assembly ------------------------------------------------------------------------------------------ */

struct assembly {
    struct storage *storage;
    char *model_id;
    json_t *files;
    storage_folder_done *done;
    void *context;
};

static bool link_file(struct storage *storage, const char *folder, const json_t *file, const char *pointer,
                      struct error *error)
{
    const char *path = NULL;
    const char *sha256 = NULL;
    uint64_t bytes = 0;
    if (!json_get_text(file, pointer, "path", &path, error) ||
        !json_get_text(file, pointer, "sha256", &sha256, error)) {
        return false;
    }
    if (!file_name_is_safe(path)) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, pointer,
                               "\"%.100s\" is not a plain relative file name", path);
    }
    if (!blob_store_hold(storage->blobs, sha256, &bytes)) {
        return error_set_field(error, ERROR_NOT_FOUND, sha256, "%.100s: no blob sha256:%.64s was uploaded",
                               path, sha256);
    }
    OWNED_MEMORY char *to = file_join(folder, path);
    char *slash = strrchr(to, '/');
    *slash = '\0';
    bool made = file_make_folders(to, 0700, error);
    *slash = '/';
    return made && blob_store_link(storage->blobs, sha256, to, error);
}

static bool sync_visited(const char *relative, const struct stat *status, void *context, struct error *error)
{
    OWNED_MEMORY char *path = file_join(context, relative);
    return !S_ISDIR(status->st_mode) || file_sync_folder(path, error);
}

static bool assemble(struct assembly *assembly, char *building, const char *folder, struct error *error)
{
    if (!json_is_array(assembly->files) || json_array_size(assembly->files) == 0) {
        return error_set_field(error, ERROR_INVALID_ARGUMENT, "/files", "a model needs at least one file");
    }
    if (!file_make_folders(building, 0700, error)) {
        return false;
    }
    size_t index;
    const json_t *file;
    json_array_foreach(assembly->files, index, file)
    {
        char pointer[48];
        (void)snprintf(pointer, sizeof pointer, "/files/%zu", index);
        if (!link_file(assembly->storage, building, file, pointer, error)) {
            return false;
        }
    }
    if (!file_walk(building, sync_visited, building, error) || !file_sync_folder(building, error)) {
        return false;
    }
    OWNED_MEMORY char *models = file_join(assembly->storage->folder, "models");
    if (file_system->rename_noreplace(building, folder) == 0) {
        return file_sync_folder(models, error);
    }
    if (errno != EEXIST || !file_is_folder(folder)) {
        return error_set_errno(error, errno, "placing %s", folder);
    }
    /* Two asked for the same result at once; an id stands for one content, so either copy will do. */
    storage_remove_later(assembly->storage, memory_copy_text(building));
    return true;
}

static char *name_folder(const struct storage *storage, const char *model_id)
{
    OWNED_MEMORY char *models = file_join(storage->folder, "models");
    return file_join(models, model_id);
}

static void run_assembly(void *context)
{
    struct assembly *assembly = context;
    struct error error = {0};
    OWNED_MEMORY char *folder = name_folder(assembly->storage, assembly->model_id);
    OWNED_MEMORY char *building = blob_store_name_temporary(assembly->storage->blobs, "model");
    if (!file_name_is_safe(assembly->model_id) || strchr(assembly->model_id, '/') != NULL) {
        (void)error_set(&error, ERROR_INVALID_ARGUMENT, "%.40s is no model id", assembly->model_id);
        assembly->done(assembly->context, NULL, &error);
    } else if (assemble(assembly, building, folder, &error)) {
        assembly->done(assembly->context, folder, NULL);
    } else {
        storage_remove_later(assembly->storage, TAKE(building));
        assembly->done(assembly->context, NULL, &error);
    }
    free(assembly->model_id);
    json_decref(assembly->files);
    free(assembly);
}

void storage_assemble_model(struct storage *storage, const char *model_id, json_t *files,
                            storage_folder_done *done, void *context)
{
    struct assembly *assembly = memory_create(1, sizeof *assembly);
    assembly->storage = storage;
    assembly->model_id = memory_copy_text(model_id);
    assembly->files = json_deep_copy(files);
    assembly->done = done;
    assembly->context = context;
    io_pool_post(storage->pool, run_assembly, assembly);
}

void storage_discard_model(struct storage *storage, const char *model_id)
{
    if (!file_name_is_safe(model_id) || strchr(model_id, '/') != NULL ||
        storage_has_model(storage, model_id)) {
        return;
    }
    OWNED_MEMORY char *folder = name_folder(storage, model_id);
    storage_remove_later(storage, blob_store_discard(storage->blobs, folder));
}
