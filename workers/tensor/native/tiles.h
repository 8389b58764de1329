/*
 * workers/tensor/native/tiles.h: the few operations on AMX tiles that amx.c is written against: eight tiles of 16 rows of 64
 * bytes. By intrinsics, or in plain C (TILES_EMULATED) with the rounding that Intel's manual gives for TDPBF16PS: of the 32 products
 * of a row and a column, those of even k and those of odd k are summed apart, each rounded to fp32, then together, then added to
 * the destination; denormals are zeros throughout.
 *
 * The machines this was written on have no AMX: only the emulated form was run.
 */
#ifndef WORKERS_TENSOR_NATIVE_TILES_H
#define WORKERS_TENSOR_NATIVE_TILES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TILE_ROWS  16
#define TILE_BYTES 64 /* of a row: 16 fp32, or 32 bf16 */

#if defined(TILES_EMULATED)

struct tile {
    union {
        float f32[TILE_ROWS][16];
        uint16_t bf16[TILE_ROWS][32];
    };
};
static _Thread_local struct tile tiles[8];

static inline void tiles_settle(void)
{
}

static inline void tiles_start(void)
{
}

static inline void tiles_end(void)
{
}

static inline void tile_zero_(size_t t)
{
    memset(&tiles[t], 0, sizeof tiles[t]);
}

static inline void tile_load_(size_t t, const void *from, size_t stride)
{
    for (size_t r = 0; r < TILE_ROWS; r++) {
        memcpy(tiles[t].f32[r], (const char *)from + r * stride, TILE_BYTES);
    }
}

static inline void tile_store_(size_t t, void *to, size_t stride)
{
    for (size_t r = 0; r < TILE_ROWS; r++) {
        memcpy((char *)to + r * stride, tiles[t].f32[r], TILE_BYTES);
    }
}

static inline float widened(uint16_t half)
{
    uint32_t bits = (half & 0x7f80u) == 0 ? (half & 0x8000u) << 16 : (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float flushed(float value)
{
    return value < 0x1p-126f && value > -0x1p-126f ? 0.0f : value;
}

/* c += a x b: a [16 rows][32 k], b [16 pairs of k][16 columns][2] */
static inline void tile_dot_(size_t c, size_t a, size_t b)
{
    for (size_t m = 0; m < TILE_ROWS; m++) {
        for (size_t n = 0; n < 16; n++) {
            float even = 0.0f, odd = 0.0f;
            for (size_t p = 0; p < 16; p++) { /* products of two bf16 are exact */
                even = flushed(even + widened(tiles[a].bf16[m][2 * p]) * widened(tiles[b].bf16[p][2 * n]));
                odd = flushed(odd +
                              widened(tiles[a].bf16[m][2 * p + 1]) * widened(tiles[b].bf16[p][2 * n + 1]));
            }
            tiles[c].f32[m][n] = flushed(tiles[c].f32[m][n] + flushed(even + odd));
        }
    }
}

#define tile_zero(t)               tile_zero_(t)
#define tile_load(t, from, stride) tile_load_(t, from, stride)
#define tile_store(t, to, stride)  tile_store_(t, to, stride)
#define tile_dot(c, a, b)          tile_dot_(c, a, b)

#else

#include <immintrin.h>

/* What was stored is in memory: compilers do not take the intrinsics for readers of it. */
static inline void tiles_settle(void)
{
    __asm__ volatile("" ::: "memory");
}

static inline void tiles_start(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    _Static_assert(sizeof config == 64, "a tile configuration has 64 bytes");
    for (size_t t = 0; t < 8; t++) {
        config.row_bytes[t] = TILE_BYTES;
        config.rows[t] = TILE_ROWS;
    }
    tiles_settle();
    _tile_loadconfig(&config);
}

static inline void tiles_end(void)
{
    _tile_release();
}

#define tile_zero(t)               _tile_zero(t)
#define tile_load(t, from, stride) _tile_loadd(t, from, stride)
#define tile_store(t, to, stride)  _tile_stored(t, to, stride)
#define tile_dot(c, a, b)          _tile_dpbf16ps(c, a, b)

#endif
#endif
