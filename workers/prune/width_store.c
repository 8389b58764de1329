/*
 * workers/prune/width_store.c: statistics as a file. Little-endian:
 *
 *     magic, version, have, layer_count, sublayer_count     u64 each
 *     angles, cosines                                       doubles, where WIDTH_ANGLES
 *     per sublayer: count, part_count, hidden               u64
 *         per part: moments, leverage, columns, routed      where `have` says so
 *         residual
 *     SHA-256 of all that
 *
 * One walk writes and reads: both sides are the same list of fields.
 */
#include "workers/prune/width.h"

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include <stdlib.h>
#include <string.h>

#define STORE_MAGIC   UINT64_C(0x3153544154535750) /* "PWSTATS1" */
#define STORE_VERSION 1
#define STORE_MAX     ((size_t)4 << 30)
#define COUNT_MAX     ((uint64_t)1 << 24)

struct walk {
    bool is_reading;
    unsigned char *bytes; /* owned by the caller when reading */
    size_t count, capacity, at;
    bool is_good; /* reading: nothing was missing or out of range */
};

static void pass_bytes(struct walk *walk, void *value, size_t count)
{
    if (walk->is_reading) {
        walk->is_good = walk->is_good && count <= walk->count - walk->at;
        if (walk->is_good) {
            memcpy(value, walk->bytes + walk->at, count);
            walk->at += count;
        }
        return;
    }
    if (walk->capacity - walk->count < count) {
        walk->capacity = 2 * (walk->count + count) + 4096;
        walk->bytes = memory_resize(walk->bytes, walk->capacity, 1);
    }
    memcpy(walk->bytes + walk->count, value, count);
    walk->count += count;
}

static void pass_u64(struct walk *walk, uint64_t *value, uint64_t max)
{
    pass_bytes(walk, value, sizeof *value);
    walk->is_good = walk->is_good && (!walk->is_reading || *value <= max);
    if (!walk->is_good) {
        *value = 0;
    }
}

static void pass_size(struct walk *walk, size_t *value)
{
    uint64_t wide = *value;
    pass_u64(walk, &wide, COUNT_MAX);
    *value = (size_t)wide;
}

static void pass_doubles(struct walk *walk, double **values, size_t count)
{
    if (walk->is_reading) {
        walk->is_good = walk->is_good && count * sizeof **values <= walk->count - walk->at;
        if (!walk->is_good) {
            return;
        }
        *values = memory_create(count + 1, sizeof **values);
    }
    pass_bytes(walk, *values, count * sizeof **values);
}

static void pass_moments(struct walk *walk, struct moments **moments, size_t count)
{
    if (walk->is_reading) {
        walk->is_good = walk->is_good && count * MOMENTS_SUMS * sizeof(double) <= walk->count - walk->at;
        *moments = walk->is_good ? moments_create(count, NULL) : NULL;
        walk->is_good = *moments != NULL;
        if (!walk->is_good) {
            return;
        }
    }
    pass_bytes(walk, (*moments)->values, count * MOMENTS_SUMS * sizeof(double));
    pass_u64(walk, &(*moments)->tokens, UINT64_MAX);
    pass_u64(walk, &(*moments)->sequences, UINT64_MAX);
}

static void pass_columns(struct walk *walk, struct weight_columns *columns, size_t count)
{
    if (walk->is_reading) {
        walk->is_good = walk->is_good && 2 * count * sizeof(double) <= walk->count - walk->at &&
                        weight_columns_start(columns, count, NULL);
        if (!walk->is_good) {
            return;
        }
    }
    pass_bytes(walk, columns->squares, count * sizeof(double));
    pass_bytes(walk, columns->absolutes, count * sizeof(double));
    pass_size(walk, &columns->rows);
}

static void create_arrays(struct width_sublayer *sublayer, unsigned have)
{
    size_t parts = sublayer->part_count + 1;
    sublayer->moments = (have & WIDTH_MOMENTS) != 0 ? memory_create(parts, sizeof(struct moments *)) : NULL;
    sublayer->leverage = (have & WIDTH_LEVERAGE) != 0 ? memory_create(parts, sizeof(double *)) : NULL;
    sublayer->columns = (have & WIDTH_WEIGHTS) != 0 ? memory_create(parts, sizeof *sublayer->columns) : NULL;
    sublayer->routed = (have & WIDTH_ROUTED) != 0 ? memory_create(parts, sizeof *sublayer->routed) : NULL;
}

static void pass_sublayer(struct walk *walk, struct width_sublayer *sublayer, unsigned have)
{
    size_t hidden = sublayer->residual != NULL ? sublayer->residual->count : 0;
    pass_size(walk, &sublayer->count);
    pass_size(walk, &sublayer->part_count);
    pass_size(walk, &hidden);
    if (walk->is_reading) {
        if (!walk->is_good) {
            sublayer->part_count = 0;
            return;
        }
        create_arrays(sublayer, have);
    }
    for (size_t p = 0; p < sublayer->part_count && walk->is_good; p++) {
        if (sublayer->moments != NULL) {
            pass_moments(walk, &sublayer->moments[p], sublayer->count);
        }
        if (sublayer->leverage != NULL && walk->is_good) {
            pass_doubles(walk, &sublayer->leverage[p], sublayer->count);
        }
        if (sublayer->columns != NULL && walk->is_good) {
            pass_columns(walk, &sublayer->columns[p], sublayer->count);
        }
        if (sublayer->routed != NULL && walk->is_good) {
            pass_bytes(walk, &sublayer->routed[p].sum, sizeof sublayer->routed[p].sum);
            pass_u64(walk, &sublayer->routed[p].tokens, UINT64_MAX);
        }
    }
    if ((have & WIDTH_RESIDUAL) != 0 && walk->is_good) {
        pass_moments(walk, &sublayer->residual, hidden);
    }
}

static void pass_statistics(struct walk *walk, struct width_statistics *statistics)
{
    uint64_t magic = STORE_MAGIC, version = STORE_VERSION, have = statistics->have;
    size_t count = statistics->sublayer_count;
    pass_u64(walk, &magic, UINT64_MAX);
    pass_u64(walk, &version, STORE_VERSION);
    pass_u64(walk, &have, UINT32_MAX);
    pass_size(walk, &statistics->layer_count);
    pass_size(walk, &count);
    walk->is_good =
        walk->is_good && magic == STORE_MAGIC && version == STORE_VERSION && count <= 2 * MODEL_LAYERS_MAX;
    if (walk->is_reading && walk->is_good) {
        statistics->have = (unsigned)have;
        statistics->sublayers = memory_create(count + 1, sizeof *statistics->sublayers);
    }
    if ((have & WIDTH_ANGLES) != 0 && walk->is_good) {
        pass_doubles(walk, &statistics->angles, statistics->layer_count);
        if (walk->is_good) {
            pass_doubles(walk, &statistics->cosines, statistics->layer_count);
        }
    }
    for (size_t i = 0; i < count && walk->is_good; i++) {
        statistics->sublayer_count = i + 1;
        pass_sublayer(walk, &statistics->sublayers[i], (unsigned)have);
    }
}

bool width_statistics_save(const struct width_statistics *statistics, const char *path, struct error *error)
{
    struct walk walk = {.is_good = true};
    unsigned char digest[SHA256_BYTES];
    struct sha256 hash;
    pass_statistics(&walk, (struct width_statistics *)(uintptr_t)statistics);
    sha256_start(&hash);
    sha256_update(&hash, walk.bytes, walk.count);
    sha256_end(&hash, digest);
    pass_bytes(&walk, digest, sizeof digest);
    bool is_saved = file_save(path, walk.bytes, walk.count, 0644, error);
    free(walk.bytes);
    return is_saved;
}

struct width_statistics *width_statistics_load(const char *path, struct error *error)
{
    size_t count = 0;
    OWNED_MEMORY char *bytes = file_load(path, STORE_MAX, &count, error);
    if (bytes == NULL) {
        return NULL;
    }
    unsigned char digest[SHA256_BYTES] = {0};
    struct sha256 hash;
    OWNED(width_statistics) statistics = memory_create(1, sizeof *statistics);
    bool is_sound = count > sizeof digest;
    if (is_sound) {
        sha256_start(&hash);
        sha256_update(&hash, bytes, count - sizeof digest);
        sha256_end(&hash, digest);
        is_sound = memcmp(bytes + count - sizeof digest, digest, sizeof digest) == 0;
    }
    struct walk walk = {.is_reading = true,
                        .bytes = (unsigned char *)bytes,
                        .count = is_sound ? count - sizeof digest : 0,
                        .is_good = is_sound};
    if (is_sound) {
        pass_statistics(&walk, statistics);
    }
    if (!walk.is_good || walk.at != walk.count) {
        error_set_field(error, ERROR_CORRUPT_FILE, path, "%s does not hold statistics, or is damaged", path);
        return NULL;
    }
    return TAKE(statistics);
}
