/*
 * workers/model/weights_cache.c: whose memory a unit lies in, and what is read ahead.
 *
 * The forward pass goes through the units in order, over and over. With less memory than units the longest unused would always be
 * the one that is needed next, so the one to go is the one that is needed last: the furthest ahead in residual order from the
 * unit that asks, round the end. Units that were removed go first. Memory is handed from unit to unit of about the same size: to
 * give it back and take it anew costs as much as reading.
 */
#include "workers/model/weights_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#define AHEAD_UNITS 2

static bool is_removed(const struct weights *weights, size_t index)
{
    size_t sublayer = weights->sublayer_of_unit[index];
    return sublayer != SIZE_MAX && weights->removed[sublayer];
}

/* ---- blocks -------------------------------------------------------------------------------------- */

/* Big enough, and not so much bigger that the rest would be missed. */
static bool is_fitting(const struct block *block, uint64_t bytes)
{
    return block->memory != NULL && block->bytes >= bytes && block->bytes - bytes <= bytes / 4;
}

static void release_block(struct weights *weights, struct block *block)
{
    weights->backend->memory_destroy(weights->options.device, block->memory);
    weights->held_bytes -= block->bytes;
    *block = (struct block){0};
}

static struct block *find_free(const struct weights *weights, uint64_t bytes, bool is_any)
{
    for (size_t i = 0; i < weights->unit_count; i++) {
        struct block *block = &weights->blocks[i];
        if (block->memory != NULL && !block->is_taken && (is_any || is_fitting(block, bytes))) {
            return block;
        }
    }
    return NULL;
}

/* The loaded unit that is needed last; fitting: only of those whose block holds `bytes`. NULL: none. */
static struct unit *find_victim(const struct weights *weights, size_t index, uint64_t bytes, bool is_any)
{
    struct unit *victim = NULL;
    size_t furthest = 0;
    for (size_t i = 0; i < weights->unit_count; i++) {
        struct unit *unit = &weights->units[i];
        if (unit->block == NULL || unit->acquired_count > 0 || (!is_any && !is_fitting(unit->block, bytes))) {
            continue;
        }
        size_t distance = (i + weights->unit_count - index) % weights->unit_count;
        distance += is_removed(weights, i) ? weights->unit_count : 0;
        if (victim == NULL || distance > furthest) {
            victim = unit;
            furthest = distance;
        }
    }
    return victim;
}

void cache_drop(struct weights *weights, struct unit *unit)
{
    if (unit->block != NULL) {
        unit->block->is_taken = false;
        unit->block = NULL;
        unit->is_advised = false;
        weights->loaded_count--;
    }
}

static bool has_room(const struct weights *weights, uint64_t bytes)
{
    uint64_t budget = weights->options.budget_bytes;
    return budget == 0 || (weights->held_bytes <= budget && bytes <= budget - weights->held_bytes);
}

static struct block *create_block(struct weights *weights, uint64_t bytes, struct error *error)
{
    struct block *block = weights->blocks;
    while (block->memory != NULL) { /* there are as many entries as units, and this unit has none */
        block++;
    }
    block->memory = weights->backend->memory_create(weights->options.device, (size_t)bytes, "weights", error);
    if (block->memory == NULL) {
        return NULL;
    }
    block->bytes = bytes;
    weights->held_bytes += bytes;
    return block;
}

bool cache_make_room(struct weights *weights, size_t index, uint64_t bytes)
{
    while (!has_room(weights, bytes)) {
        struct block *block = find_free(weights, bytes, true);
        struct unit *victim = block == NULL ? find_victim(weights, index, bytes, true) : NULL;
        if (victim != NULL) {
            block = victim->block;
            cache_drop(weights, victim);
        }
        if (block == NULL) {
            return false;
        }
        release_block(weights, block);
    }
    return true;
}

bool cache_take_block(struct weights *weights, size_t index, struct error *error)
{
    struct unit *unit = &weights->units[index];
    uint64_t bytes = unit->bytes;
    struct block *block = find_free(weights, bytes, false);
    if (block == NULL && !has_room(weights, bytes)) { /* hand over the memory of one about as large */
        struct unit *victim = find_victim(weights, index, bytes, false);
        if (victim != NULL) {
            block = victim->block;
            cache_drop(weights, victim);
        }
    }
    if (block == NULL && !cache_make_room(weights, index, bytes)) {
        return error_set(error, ERROR_TOO_LARGE,
                         "the weights need %" PRIu64 " bytes more than their budget of %" PRIu64, bytes,
                         weights->options.budget_bytes);
    }
    if (block == NULL) {
        block = create_block(weights, bytes, error);
    }
    if (block == NULL) {
        return false;
    }
    block->is_taken = true;
    unit->block = block;
    weights->loaded_count++;
    return true;
}

/* ---- reading ahead -------------------------------------------------------------------------------- */

static void *ahead_main(void *argument)
{
    struct weights *weights = argument;
    struct ahead *ahead = &weights->ahead;
    pthread_mutex_lock(&ahead->lock);
    for (;;) {
        while (!ahead->is_stopping && ahead->count == 0) {
            pthread_cond_wait(&ahead->wake, &ahead->lock);
        }
        if (ahead->is_stopping) {
            break;
        }
        const struct unit *unit = &weights->units[ahead->units[0]];
        ahead->count--;
        memmove(ahead->units, ahead->units + 1, ahead->count * sizeof ahead->units[0]);
        pthread_mutex_unlock(&ahead->lock);
        for (size_t i = 0; i < unit->load_count; i++) { /* fixed after opening */
            source_read_ahead(weights->source, unit->loads[i].view.tensor);
        }
        pthread_mutex_lock(&ahead->lock);
    }
    pthread_mutex_unlock(&ahead->lock);
    return NULL;
}

bool cache_start(struct weights *weights, struct error *error)
{
    struct ahead *ahead = &weights->ahead;
    pthread_mutex_init(&ahead->lock, NULL);
    pthread_cond_init(&ahead->wake, NULL);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = pthread_create(&ahead->thread, NULL, ahead_main, weights);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    ahead->is_started = failure == 0;
    return ahead->is_started || error_set_errno(error, failure, "cannot start the thread that reads ahead");
}

static void ask(struct weights *weights, size_t index)
{
    struct ahead *ahead = &weights->ahead;
    enum { CAPACITY = sizeof ahead->units / sizeof ahead->units[0] };
    pthread_mutex_lock(&ahead->lock);
    if (ahead->count < CAPACITY) {
        ahead->units[ahead->count++] = index;
        weights->units[index].is_advised = true;
        pthread_cond_signal(&ahead->wake);
    }
    pthread_mutex_unlock(&ahead->lock);
}

void cache_read_ahead(struct weights *weights, size_t index)
{
    if (weights->loaded_count == weights->present_count) {
        return;
    }
    size_t found = 0;
    for (size_t step = 1; step < weights->unit_count && found < AHEAD_UNITS; step++) {
        size_t next = (index + step) % weights->unit_count;
        const struct unit *unit = &weights->units[next];
        bool is_head = next == weights->unit_count - 1;
        if (unit->bytes == 0 || is_removed(weights, next) || (is_head && !weights->is_head_used)) {
            continue;
        }
        found++;
        if (unit->block == NULL && !unit->is_advised) {
            ask(weights, next);
        }
    }
}

void cache_destroy(struct weights *weights)
{
    struct ahead *ahead = &weights->ahead;
    if (ahead->is_started) {
        pthread_mutex_lock(&ahead->lock);
        ahead->is_stopping = true;
        pthread_cond_signal(&ahead->wake);
        pthread_mutex_unlock(&ahead->lock);
        pthread_join(ahead->thread, NULL);
        pthread_cond_destroy(&ahead->wake);
        pthread_mutex_destroy(&ahead->lock);
    }
    for (size_t i = 0; weights->blocks != NULL && i < weights->unit_count; i++) {
        if (weights->blocks[i].memory != NULL) {
            release_block(weights, &weights->blocks[i]);
        }
    }
    free(weights->blocks);
}
