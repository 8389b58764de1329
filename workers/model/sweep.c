/* workers/model/sweep.c: see sweep.h. The thread that reads and writes works off a queue in order, so a read of a chunk comes after the
 * write of it, and a slot is free when nothing in the queue names it. */
#include "workers/model/sweep.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/model/model_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { SLOTS = 3, QUEUE = 2 * SLOTS };

struct part { /* a chunk of the batch */
    size_t first_sequence, sequence_count, first_row, row_count;
    struct hidden *hidden; /* owned; NULL: it lives in the file */
    uint64_t offset_bytes; /* in the file */
};
struct slot {
    float *rows, *branch; /* device memory for the largest spilled chunk */
    float *host;          /* what is read and written: rows where they are host memory, else owned */
    size_t pending;       /* requests that name the slot; guarded by lock */
};
struct request {
    bool is_write;
    size_t part, slot;
};
struct sweep {
    struct model *model;
    const struct token_batch *batch;
    struct part *parts;
    size_t part_count, held_count; /* the first held_count are in memory */
    size_t most_rows;
    int fd;
    uint64_t file_bytes;
    struct slot slots[SLOTS];
    bool is_started;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    struct request queue[QUEUE]; /* guarded by lock, as what follows */
    size_t queue_count;
    bool is_stopping;
    struct error failure;
};

static uint64_t row_bytes(const struct model_config *config)
{
    return config->hidden_size * sizeof(float);
}

/* ---- the file ------------------------------------------------------------------------------------ */

static bool transfer(const struct sweep *sweep, const struct request *request, struct error *error)
{
    const struct part *part = &sweep->parts[request->part];
    float *rows = sweep->slots[request->slot].host;
    size_t bytes = (size_t)(part->row_count * row_bytes(sweep->model->config));
    if (request->is_write) {
        return file_write_at(sweep->fd, rows, bytes, part->offset_bytes, error);
    }
    return file_read_at(sweep->fd, rows, bytes, part->offset_bytes, "the file of hidden states", error);
}

static void *transfer_main(void *argument)
{
    struct sweep *sweep = argument;
    pthread_mutex_lock(&sweep->lock);
    for (;;) {
        while (!sweep->is_stopping && sweep->queue_count == 0) {
            pthread_cond_wait(&sweep->wake, &sweep->lock);
        }
        if (sweep->is_stopping) {
            break;
        }
        struct request request = sweep->queue[0];
        bool has_failed = sweep->failure.code != ERROR_NONE;
        pthread_mutex_unlock(&sweep->lock);
        struct error error = {0};
        bool is_good = has_failed || transfer(sweep, &request, &error);
        pthread_mutex_lock(&sweep->lock);
        sweep->queue_count--;
        memmove(sweep->queue, sweep->queue + 1, sweep->queue_count * sizeof sweep->queue[0]);
        sweep->slots[request.slot].pending--;
        if (!is_good) {
            sweep->failure = error;
        }
        pthread_cond_broadcast(&sweep->done);
    }
    pthread_mutex_unlock(&sweep->lock);
    return NULL;
}

static void ask(struct sweep *sweep, bool is_write, size_t part, size_t slot)
{
    pthread_mutex_lock(&sweep->lock);
    while (sweep->queue_count == QUEUE) {
        pthread_cond_wait(&sweep->done, &sweep->lock);
    }
    sweep->queue[sweep->queue_count++] = (struct request){is_write, part, slot};
    sweep->slots[slot].pending++;
    pthread_cond_signal(&sweep->wake);
    pthread_mutex_unlock(&sweep->lock);
}

/* Until nothing names the slot; SLOTS: any slot. */
static bool wait_slot(struct sweep *sweep, size_t slot, struct error *error)
{
    pthread_mutex_lock(&sweep->lock);
    for (size_t i = slot == SLOTS ? 0 : slot; i < SLOTS && (slot == SLOTS || i == slot); i++) {
        while (sweep->slots[i].pending > 0) {
            pthread_cond_wait(&sweep->done, &sweep->lock);
        }
    }
    bool is_good = sweep->failure.code == ERROR_NONE;
    if (!is_good && error != NULL) {
        *error = sweep->failure;
    }
    pthread_mutex_unlock(&sweep->lock);
    return is_good;
}

/* A file without a name: it goes with the process, whatever ends it. */
static int create_file(const char *folder, struct error *error)
{
    int fd = file_system->open(AT_FDCWD, folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) {
        return fd;
    }
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) {
        error_set_errno(error, errno, "a file for hidden states in %.200s", folder);
        return -1;
    }
    OWNED_MEMORY char *path = file_join(folder, "states.tmp"); /* this file system has no nameless files */
    (void)file_system->unlink(path);
    fd = file_system->open(AT_FDCWD, path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        error_set_errno(error, errno, "creating %.200s", path);
        return -1;
    }
    (void)file_system->unlink(path);
    return fd;
}

static bool start_spilling(struct sweep *sweep, const char *folder, struct error *error)
{
    const struct model *model = sweep->model;
    size_t most = 0;
    for (size_t i = sweep->held_count; i < sweep->part_count; i++) {
        struct part *part = &sweep->parts[i];
        part->offset_bytes = sweep->file_bytes;
        sweep->file_bytes += part->row_count * row_bytes(model->config);
        most = part->row_count > most ? part->row_count : most;
    }
    size_t bytes = (size_t)(most * row_bytes(model->config)) + 64;
    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *slot = &sweep->slots[i];
        slot->rows = model->backend->memory_create(model->device, bytes, "hidden states", error);
        if (slot->rows == NULL) {
            return false;
        }
        slot->host =
            model->backend->is_host ? slot->rows : memory_try_array(bytes, 1, "hidden states", error);
        if (model->config->is_parallel && i == 0) { /* one chunk at a time has a branch */
            slot->branch = model->backend->memory_create(model->device, bytes, "hidden states", error);
        }
        if (slot->host == NULL || (model->config->is_parallel && sweep->slots[0].branch == NULL)) {
            return false;
        }
    }
    sweep->fd = create_file(folder, error);
    if (sweep->fd < 0) {
        return false;
    }
    pthread_mutex_init(&sweep->lock, NULL);
    pthread_cond_init(&sweep->wake, NULL);
    pthread_cond_init(&sweep->done, NULL);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&sweep->thread, NULL, transfer_main, sweep);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sweep->is_started = failure == 0;
    return sweep->is_started || error_set_errno(error, failure, "cannot start the thread of hidden states");
}

/* ---- cutting ------------------------------------------------------------------------------------- */

static void cut(struct sweep *sweep, size_t chunk_rows)
{
    sweep->parts = memory_create(sweep->batch->sequence_count + 1, sizeof *sweep->parts);
    size_t row = 0;
    for (size_t s = 0; s < sweep->batch->sequence_count; s++) {
        size_t count = sweep->batch->sequences[s].count;
        struct part *part = sweep->part_count > 0 ? &sweep->parts[sweep->part_count - 1] : NULL;
        if (part == NULL || part->row_count + count > chunk_rows) {
            part = &sweep->parts[sweep->part_count++];
            *part = (struct part){.first_sequence = s, .first_row = row};
        }
        part->sequence_count++;
        part->row_count += count;
        row += count;
        sweep->most_rows = part->row_count > sweep->most_rows ? part->row_count : sweep->most_rows;
    }
}

static uint64_t state_bytes(const struct model_config *config, size_t rows)
{
    return (uint64_t)rows * row_bytes(config) * (config->is_parallel ? 2 : 1) + 4096;
}

static uint64_t spill_bytes(const struct model_config *config, size_t most_rows)
{
    return SLOTS * ((uint64_t)most_rows * row_bytes(config) + 4096) +
           (config->is_parallel ? (uint64_t)most_rows * row_bytes(config) : 0);
}

void sweep_measure(const struct model_config *config, size_t rows, size_t longest_rows, size_t chunk_rows,
                   uint64_t *ret_held_bytes, uint64_t *ret_least_bytes)
{
    size_t most = chunk_rows > 0 ? chunk_rows : SWEEP_CHUNK_ROWS;
    most = most < longest_rows ? longest_rows : most;
    most = most < rows ? most : rows;
    *ret_held_bytes = state_bytes(config, rows) + 4096 * (uint64_t)(rows / most + 1);
    uint64_t least = spill_bytes(config, most);
    *ret_least_bytes = least < *ret_held_bytes ? least : *ret_held_bytes;
}

static struct token_batch part_batch(const struct sweep *sweep, const struct part *part)
{
    return (struct token_batch){sweep->batch->sequences + part->first_sequence, part->sequence_count};
}

/* As many as memory holds; if not all, the slots have to fit beside them. */
static bool hold(struct sweep *sweep, const struct sweep_options *options, struct error *error)
{
    const struct model_config *config = sweep->model->config;
    uint64_t all = 0;
    for (size_t i = 0; i < sweep->part_count; i++) {
        all += state_bytes(config, sweep->parts[i].row_count);
    }
    bool is_all = options->memory_bytes == 0 || options->spill_folder == NULL || all <= options->memory_bytes;
    uint64_t slots = is_all ? 0 : spill_bytes(config, sweep->most_rows);
    uint64_t left = options->memory_bytes > slots ? options->memory_bytes - slots : 0;
    while (sweep->held_count < sweep->part_count) {
        struct part *part = &sweep->parts[sweep->held_count];
        uint64_t bytes = state_bytes(config, part->row_count);
        if (!is_all && bytes > left) {
            return true;
        }
        struct token_batch batch = part_batch(sweep, part);
        part->hidden = hidden_create(sweep->model, &batch, error);
        if (part->hidden == NULL) {
            return false;
        }
        left -= is_all ? 0 : bytes;
        sweep->held_count++;
    }
    return true;
}

struct sweep *sweep_create(struct model *model, const struct token_batch *batch,
                           const struct sweep_options *options, struct error *error)
{
    OWNED(sweep) sweep = memory_create(1, sizeof *sweep);
    sweep->model = model;
    sweep->batch = batch;
    sweep->fd = -1;
    cut(sweep, options->chunk_rows > 0 ? options->chunk_rows : SWEEP_CHUNK_ROWS);
    if (!hold(sweep, options, error) ||
        (sweep->held_count < sweep->part_count && !start_spilling(sweep, options->spill_folder, error))) {
        return NULL;
    }
    return TAKE(sweep);
}

void sweep_destroy(struct sweep *sweep)
{
    if (sweep == NULL) {
        return;
    }
    if (sweep->is_started) {
        pthread_mutex_lock(&sweep->lock);
        sweep->is_stopping = true;
        pthread_cond_signal(&sweep->wake);
        pthread_mutex_unlock(&sweep->lock);
        pthread_join(sweep->thread, NULL);
        pthread_cond_destroy(&sweep->wake);
        pthread_cond_destroy(&sweep->done);
        pthread_mutex_destroy(&sweep->lock);
    }
    const struct model *model = sweep->model;
    for (size_t i = 0; i < SLOTS; i++) {
        if (!model->backend->is_host) {
            free(sweep->slots[i].host);
        }
        model->backend->memory_destroy(model->device, sweep->slots[i].rows);
        model->backend->memory_destroy(model->device, sweep->slots[i].branch);
    }
    if (sweep->fd >= 0) {
        (void)close(sweep->fd);
    }
    for (size_t i = 0; sweep->parts != NULL && i < sweep->part_count; i++) {
        hidden_destroy(sweep->parts[i].hidden);
    }
    free(sweep->parts);
    free(sweep);
}

/* ---- visiting ------------------------------------------------------------------------------------ */

struct walk {
    bool reads, writes;
    bool (*visit)(void *context, const struct sweep_chunk *chunk, struct error *error);
    void *context;
};

static bool visit_part(const struct part *part, struct hidden *hidden, const struct walk *walk,
                       struct error *error)
{
    struct sweep_chunk chunk = {hidden, part->first_sequence, part->first_row};
    return walk->visit(walk->context, &chunk, error);
}

/* The states of a spilled chunk, for one visit: segments of its own, rows of the slot. */
static bool visit_spilled(struct sweep *sweep, size_t index, const struct walk *walk, struct error *error)
{
    const struct model *model = sweep->model;
    const struct part *part = &sweep->parts[index];
    size_t at = (index - sweep->held_count) % SLOTS;
    struct slot *slot = &sweep->slots[at];
    size_t bytes = (size_t)(part->row_count * row_bytes(model->config));
    OWNED_MEMORY struct segment *segments = memory_create(part->sequence_count + 1, sizeof *segments);
    struct hidden hidden = {.sequence_count = part->sequence_count,
                            .hidden_size = model->config->hidden_size,
                            .segments = segments,
                            .rows = slot->rows,
                            .branch = sweep->slots[0].branch,
                            .branch_layer = SIZE_MAX,
                            .model = sweep->model};
    for (size_t s = 0; s < part->sequence_count; s++) {
        size_t count = sweep->batch->sequences[part->first_sequence + s].count;
        segments[s] = (struct segment){.first_row = hidden.row_count, .count = count};
        hidden.row_count += count;
    }
    if (!wait_slot(sweep, at, error) ||
        (walk->reads && !model->backend->is_host &&
         !model->backend->memory_write(model->device, slot->rows, slot->host, bytes, error)) ||
        !visit_part(part, &hidden, walk, error)) {
        return false;
    }
    if (walk->writes) {
        if (!model->backend->is_host &&
            !model->backend->memory_read(model->device, slot->host, slot->rows, bytes, error)) {
            return false;
        }
        ask(sweep, true, index, at);
    }
    return true;
}

static void walk_begin(struct sweep *sweep, const struct walk *walk)
{
    if (walk->reads && sweep->held_count < sweep->part_count) {
        ask(sweep, false, sweep->held_count, 0);
    }
}

static bool walk_part(struct sweep *sweep, size_t i, const struct walk *walk, struct error *error)
{
    size_t held = sweep->held_count;
    if (i < held) {
        sweep->parts[i].hidden->branch_layer = SIZE_MAX;
        return visit_part(&sweep->parts[i], sweep->parts[i].hidden, walk, error);
    }
    if (walk->reads && i + 1 < sweep->part_count) {
        ask(sweep, false, i + 1, (i + 1 - held) % SLOTS);
    }
    return visit_spilled(sweep, i, walk, error);
}

/* Nobody touches a slot after this. */
static bool walk_end(struct sweep *sweep, bool is_good, struct error *error)
{
    return (!sweep->is_started || wait_slot(sweep, SLOTS, is_good ? error : NULL)) && is_good;
}

static bool walk_parts(struct sweep *sweep, const struct walk *walk, struct error *error)
{
    bool is_good = true;
    walk_begin(sweep, walk);
    for (size_t i = 0; i < sweep->part_count && is_good; i++) {
        is_good = walk_part(sweep, i, walk, error);
    }
    return walk_end(sweep, is_good, error);
}

bool sweep_each(struct sweep *sweep, bool is_changed,
                bool (*visit)(void *context, const struct sweep_chunk *chunk, struct error *error),
                void *context, struct error *error)
{
    struct walk walk = {true, is_changed, visit, context};
    return walk_parts(sweep, &walk, error);
}

/* The chunk of the other sweep is visited inside the visit of this one's. */
struct beside {
    struct sweep *other;
    struct walk walk; /* of the other */
    size_t index;
    const struct sweep_chunk *chunk; /* of the first */
    bool (*visit)(void *context, const struct sweep_chunk *first, const struct sweep_chunk *second,
                  struct error *error);
    void *context;
};

static bool visit_second(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    const struct beside *beside = context;
    return beside->visit(beside->context, beside->chunk, chunk, error);
}

static bool visit_first(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    struct beside *beside = context;
    beside->chunk = chunk;
    return walk_part(beside->other, beside->index, &beside->walk, error);
}

bool sweep_each_beside(struct sweep *first, bool is_first_changed, struct sweep *second,
                       bool is_second_changed,
                       bool (*visit)(void *context, const struct sweep_chunk *first,
                                     const struct sweep_chunk *second, struct error *error),
                       void *context, struct error *error)
{
    struct beside beside = {.other = second, .visit = visit, .context = context};
    beside.walk = (struct walk){true, is_second_changed, visit_second, &beside};
    struct walk walk = {true, is_first_changed, visit_first, &beside};
    CHECK(first != second && first->part_count == second->part_count);
    bool is_good = true;
    walk_begin(first, &walk);
    walk_begin(second, &beside.walk);
    for (; beside.index < first->part_count && is_good; beside.index++) {
        CHECK(first->parts[beside.index].row_count == second->parts[beside.index].row_count);
        is_good = walk_part(first, beside.index, &walk, error);
    }
    is_good = walk_end(second, is_good, error);
    return walk_end(first, is_good, error);
}

static bool embed_chunk(void *context, const struct sweep_chunk *chunk, struct error *error)
{
    const struct sweep *sweep = context;
    struct token_batch batch = {sweep->batch->sequences + chunk->first_sequence,
                                chunk->hidden->sequence_count};
    return model_embed(sweep->model, &batch, chunk->hidden, error);
}

bool sweep_embed(struct sweep *sweep, struct error *error)
{
    struct walk walk = {false, true, embed_chunk, sweep};
    return walk_parts(sweep, &walk, error);
}

size_t sweep_most_rows(const struct sweep *sweep)
{
    return sweep->most_rows;
}

uint64_t sweep_spilled_bytes(const struct sweep *sweep)
{
    return sweep->file_bytes;
}
