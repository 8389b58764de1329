/*
 * workers/tensor/native/attention.c: attention without a matrix of scores (FlashAttention, arXiv:2205.14135), compiled once
 * per instruction set.
 *
 * A tile of QUERIES queries meets the keys of its sequence in blocks of KEYS, counted from the sequence's first key. The block's
 * keys and values are packed into panels once for all heads that share them. Each row keeps the largest score so far, the sum
 * of its weights and its mix of values; a block with a larger score scales what was there.
 *
 * Where the job allows bf16 and the CPU has VDPBF16PS, queries, keys, values and weights are rounded to bf16 for the two
 * products, and lie in pairs along the direction of the sums (of the head for scores, of the keys for mixes); a step is a pair.
 *
 * Keys that a row does not see weigh exactly 0, and a block without any leaves the row's state as it is, bit for bit: what a
 * row comes out as does not depend on the cut into tiles, nor on what follows in the sequence.
 */
#include "workers/tensor/native/micro.h"
#include "workers/tensor/native/native.h"

#if defined(__AVX512BF16__)
#define HAS_PAIRS 1
#else
#define HAS_PAIRS 0
#endif

#define QUERIES  126 /* whole microkernels of 14 and of 6 rows */
#define KEYS     128
#define S_STRIDE (KEYS + 16)
#define DEPTH    256 /* steps along a head that are made at once */
#define Q_STRIDE (DEPTH + 16)

struct work {
    const struct attention *job;
    bool is_pairs;
    size_t heads, size, padded;
    size_t steps, depths;        /* along a head */
    size_t queries, first_query; /* queries: whole microkernels */
    float *q;                    /* [heads][depths][QUERIES][Q_STRIDE] */
    float *mixes;                /* [heads][QUERIES][padded] */
    float *maxima, *sums;        /* [heads][QUERIES] */
    float *factors;              /* [QUERIES], of the head at hand */
    float *scores;               /* [QUERIES][S_STRIDE] */
    float *keys;                 /* [KEYS / PANEL][steps][PANEL] */
    float *values;               /* [padded / PANEL][KEYS][PANEL]; of pairs half of it */
    float *rows;                 /* [4][steps] */
};

static size_t pad(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

static float *lay_out(struct work *work, float *at)
{
    size_t rows = work->heads * QUERIES;
#define PLACE(member, count)                                                                                 \
    work->member = at;                                                                                       \
    at += pad(count, 16)
    PLACE(q, rows * work->depths * Q_STRIDE);
    PLACE(mixes, rows * work->padded);
    PLACE(maxima, rows);
    PLACE(sums, rows);
    PLACE(factors, (size_t)QUERIES);
    PLACE(scores, (size_t)QUERIES * S_STRIDE);
    PLACE(keys, KEYS * work->size);
    PLACE(values, KEYS * work->padded);
    PLACE(rows, 4 * work->steps);
#undef PLACE
    return at;
}

static struct work make_work(size_t head_size, size_t head_count, bool is_pairs)
{
    size_t steps = is_pairs ? (head_size + 1) / 2 : head_size;
    return (struct work){.is_pairs = is_pairs,
                         .heads = head_count,
                         .size = head_size,
                         .padded = pad(head_size, PANEL),
                         .steps = steps,
                         .depths = (steps + DEPTH - 1) / DEPTH};
}

static size_t attention_scratch(size_t head_size)
{
    static float origin;
    struct work work = make_work(head_size, ATTENTION_HEADS, false);
    return (size_t)(lay_out(&work, &origin) - &origin) * sizeof(float);
}

static float *queries_of(const struct work *work, size_t head, size_t depth)
{
    return work->q + (head * work->depths + depth) * QUERIES * Q_STRIDE;
}

/* `count` elements as the work multiplies them. */
static void take_elements(const struct work *work, const float *x, size_t count, float *to)
{
#if HAS_PAIRS
    if (work->is_pairs) {
        take_bf16(x, count, to);
        return;
    }
#endif
    (void)work;
    memcpy(to, x, count * sizeof *to);
}

static void take_queries(struct work *work, const struct attention_tile *tile)
{
    const struct attention *job = work->job;
    for (size_t h = 0; h < work->heads; h++) {
        for (size_t t = 0; t < work->queries; t++) {
            size_t row = tile->segment->first_row + tile->first_query + t;
            const float *q = job->q + row * job->q_stride + (tile->first_head + h) * work->size;
            for (size_t d = 0; d < work->depths; d++) {
                size_t depth = work->is_pairs ? 2 * DEPTH : DEPTH; /* elements */
                size_t left = work->size - d * depth, count = left < depth ? left : depth;
                float *to = queries_of(work, h, d) + t * Q_STRIDE;
                if (t < tile->query_count) {
                    take_elements(work, q + d * depth, count, to);
                } else {
                    memset(to, 0, DEPTH * sizeof *to);
                }
            }
            work->maxima[h * QUERIES + t] = -INFINITY;
            work->sums[h * QUERIES + t] = 0.0f;
        }
        memset(work->mixes + h * QUERIES * work->padded, 0, work->queries * work->padded * sizeof(float));
    }
}

/* Four rows of four, transposed. */
static ALWAYS_INLINE void transpose(const float *const *from, size_t i, float *to)
{
    v4 a, b, c, d;
    memcpy(&a, from[0] + i, sizeof a);
    memcpy(&b, from[1] + i, sizeof b);
    memcpy(&c, from[2] + i, sizeof c);
    memcpy(&d, from[3] + i, sizeof d);
    v4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
       ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    v4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
       cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    v4 columns[4] = {__builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5),
                     __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
                     __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                     __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (size_t j = 0; j < 4; j++) {
        memcpy(to + j * PANEL, &columns[j], sizeof columns[j]);
    }
}

/* Four keys, of which `count` are there, into their columns of a panel. */
static void take_four_keys(const float *k, size_t stride, size_t count, size_t size, float *panel)
{
    static const float none[4];
    const float *rows[4];
    size_t whole = size / 4 * 4;
    for (size_t i = 0; i < whole; i += 4) {
        for (size_t r = 0; r < 4; r++) {
            rows[r] = r < count ? k + r * stride + i : none;
        }
        transpose(rows, 0, panel + i * PANEL);
    }
    for (size_t i = whole; i < size; i++) {
        for (size_t r = 0; r < 4; r++) {
            panel[i * PANEL + r] = r < count ? k[r * stride + i] : 0.0f;
        }
    }
}

static void take_values(const struct work *work, const float *v, size_t stride, size_t count, size_t width,
                        float *panel)
{
#if HAS_PAIRS
    for (size_t t = 0; t < count && work->is_pairs; t += 2) {
        const float *one = v + t * stride, *two = v + (t + 1) * stride;
        for (size_t i = 0; i < PANEL; i += LANES) {
            size_t left = width > i ? width - i : 0;
            vf first = left >= LANES ? load(one + i) : load_part(one + (left > 0 ? i : 0), left, 0.0f);
            vf second = splat(0.0f);
            if (t + 1 < count) {
                second = left >= LANES ? load(two + i) : load_part(two + (left > 0 ? i : 0), left, 0.0f);
            }
            store(panel + t / 2 * PANEL + i, pair_up(first, second));
        }
    }
#endif
    for (size_t t = 0; t < count && !work->is_pairs; t++) {
        if (width == PANEL) {
            memcpy(panel + t * PANEL, v + t * stride, PANEL * sizeof *panel);
        } else {
            memset(panel + t * PANEL, 0, PANEL * sizeof *panel);
            memcpy(panel + t * PANEL, v + t * stride, width * sizeof *panel);
        }
    }
}

/* Keys [first, first + count) of the sequence, and zeros up to whole panels. */
static void take_keys(struct work *work, const struct attention_tile *tile, size_t first, size_t count)
{
    const struct attention *job = work->job;
    size_t offset = (tile->segment->first_row + first) * job->kv_stride + tile->kv_head * work->size;
    for (size_t t = 0; t < pad(count, PANEL); t += 4) {
        size_t left = t < count ? count - t : 0, there = left < 4 ? left : 4, stride = job->kv_stride;
        const float *k = job->k + offset + (t < count ? t : 0) * stride;
        if (work->is_pairs) {
            for (size_t r = 0; r < there; r++) {
                take_elements(work, k + r * stride, work->size, work->rows + r * work->steps);
            }
            k = work->rows;
            stride = work->steps;
        }
        take_four_keys(k, stride, there, work->steps,
                       work->keys + t / PANEL * PANEL * work->steps + t % PANEL);
    }
    for (size_t column = 0; column < work->padded; column += PANEL) {
        size_t left = work->size - column;
        take_values(work, job->v + offset + column, job->kv_stride, count, left < PANEL ? left : PANEL,
                    work->values + column * KEYS);
    }
}

/* The keys of a block that a query sees: [first, end) of the block. */
struct view {
    size_t first, end;
};
static struct view view_of(const struct attention *job, size_t query, size_t first_key, size_t count)
{
    struct view view = {0, count};
    if (job->is_causal) {
        size_t end = query + 1 > first_key ? query + 1 - first_key : 0;
        view.end = end < count ? end : count;
    }
    if (job->window > 0 && query + 1 > job->window + first_key) {
        view.first = query + 1 - job->window - first_key;
    }
    view.first = view.first < view.end ? view.first : view.end;
    return view;
}

static ALWAYS_INLINE void multiply(const struct work *work, size_t steps, const float *a, size_t a_stride,
                                   const float *b, struct tile_sums *ret)
{
    if (HAS_PAIRS && work->is_pairs) {
        micro(MICRO_ROWS, true, steps, a, a_stride, b, PANEL, ret);
    } else {
        micro(MICRO_ROWS, false, steps, a, a_stride, b, PANEL, ret);
    }
}

/* Scores of the microkernel's rows at `row` against the first `end` keys of the block. */
static void score(const struct work *work, size_t head, size_t row, size_t end)
{
    for (size_t column = 0; column < end; column += MICRO_COLUMNS) {
        const float *panel = work->keys + column / PANEL * PANEL * work->steps + column % PANEL;
        float *out = work->scores + row * S_STRIDE + column;
        for (size_t d = 0; d < work->depths; d++) {
            size_t left = work->steps - d * DEPTH;
            struct tile_sums t;
            multiply(work, left < DEPTH ? left : DEPTH, queries_of(work, head, d) + row * Q_STRIDE, Q_STRIDE,
                     panel + d * DEPTH * PANEL, &t);
            UNROLL
            for (size_t r = 0; r < MICRO_ROWS; r++) {
                float *to = out + r * S_STRIDE;
                store(to, d == 0 ? t.sums[r][0] : load(to) + t.sums[r][0]);
                store(to + LANES, d == 0 ? t.sums[r][1] : load(to + LANES) + t.sums[r][1]);
            }
        }
    }
}

static inline vf keep_lanes(vf v, size_t first, size_t end, float other)
{
    vi lane = {0};
    for (size_t l = 0; l < LANES; l++) {
        lane[l] = (int32_t)l;
    }
    return choose((lane >= (int32_t)first) & (lane < (int32_t)end), v, splat(other));
}

/* Lanes of the vector at `at` that are in the view, `other` elsewhere. */
static inline vf in_view(vf v, size_t at, struct view view, float other)
{
    if (view.first <= at && view.end >= at + LANES) {
        return v;
    }
    return keep_lanes(v, view.first > at ? view.first - at : 0, view.end > at ? view.end - at : 0, other);
}

/* Caps the scores of one row and finds the largest that is seen, or what was largest before. */
static float find_max(const struct work *work, float *scores, struct view view, float before)
{
    const struct attention *job = work->job;
    size_t from = view.first / LANES * LANES;
    for (size_t i = from; i < view.end && job->softcap > 0.0f; i += LANES) {
        store(scores + i, job->softcap * vtanh(load(scores + i) * (job->scale / job->softcap)));
    }
    vf largest = splat(before);
    for (size_t i = from; i < view.end; i += LANES) {
        largest = vmax(in_view(load(scores + i), i, view, -INFINITY), largest);
    }
    return max_lanes(largest);
}

/* Scores of one row become weights 2^(factor (score - max)), zeros where nothing is seen, up to `end`. Returns their sum. */
static float weigh(float *scores, struct view view, size_t end, float max, float factor)
{
    vf total = splat(0.0f);
    size_t i = 0;
    for (; i + LANES <= view.first; i += LANES) {
        store(scores + i, splat(0.0f));
    }
    for (; i < view.end; i += LANES) {
        vf e = in_view(vexp2((load(scores + i) - max) * factor), i, view, 0.0f);
        store(scores + i, e);
        total += e;
    }
    for (; i < end; i += LANES) {
        store(scores + i, splat(0.0f));
    }
    return sum_lanes(total);
}

/* Rows of scores become weights, and the states of the rows move on: largest score, sum, and the factor for what was there. */
static void weigh_rows(const struct work *work, size_t row, size_t rows, const struct view *views, size_t end,
                       float *maxima, float *sums)
{
    float factor = (float)(1.4426950408889634 * (work->job->softcap > 0.0f ? 1.0 : (double)work->job->scale));
    float before[16], after[16], factors[16] = {0};
    for (size_t r = 0; r < 16; r++) {
        before[r] = after[r] = 0.0f;
    }
    for (size_t r = 0; r < rows; r++) {
        if (views[r].first < views[r].end) {
            before[r] = maxima[r];
            after[r] = find_max(work, work->scores + (row + r) * S_STRIDE, views[r], maxima[r]);
        }
    }
    for (size_t r = 0; r < rows; r += LANES) {
        store(factors + r, vexp2((load(before + r) - load(after + r)) * factor));
    }
    for (size_t r = 0; r < rows; r++) {
        float *scores = work->scores + (row + r) * S_STRIDE;
        work->factors[row + r] = factors[r];
        sums[r] = sums[r] * factors[r] + weigh(scores, views[r], end, after[r], factor);
        maxima[r] = views[r].first < views[r].end ? after[r] : maxima[r];
#if HAS_PAIRS
        if (work->is_pairs) {
            take_bf16(scores, pad(end, LANES), scores); /* behind what has been read */
        }
#endif
    }
}

/* mix = mix * factor + weights x values, over the first `end` keys. */
static void mix(const struct work *work, size_t head, size_t row, size_t end)
{
    for (size_t column = 0; column < work->size; column += MICRO_COLUMNS) {
        struct tile_sums t;
        multiply(work, work->is_pairs ? (end + 1) / 2 : end, work->scores + row * S_STRIDE, S_STRIDE,
                 work->values + column / PANEL * PANEL * KEYS + column % PANEL, &t);
        float *to = work->mixes + (head * QUERIES + row) * work->padded + column;
        UNROLL
        for (size_t r = 0; r < MICRO_ROWS; r++) {
            vf factor = splat(work->factors[row + r]);
            store(to, multiply_add(load(to), factor, t.sums[r][0]));
            store(to + LANES, multiply_add(load(to + LANES), factor, t.sums[r][1]));
            to += work->padded;
        }
    }
}

static void meet_block(const struct work *work, size_t head, size_t first_key, size_t count)
{
    for (size_t row = 0; row < work->queries; row += MICRO_ROWS) {
        struct view last = view_of(work->job, work->first_query + row + MICRO_ROWS - 1, first_key, count);
        if (last.end == 0) {
            continue; /* all keys of the block come after these queries */
        }
        score(work, head, row, last.end);
        struct view views[MICRO_ROWS];
        for (size_t r = 0; r < MICRO_ROWS; r++) {
            views[r] = view_of(work->job, work->first_query + row + r, first_key, count);
        }
        size_t state = head * QUERIES + row;
        weigh_rows(work, row, MICRO_ROWS, views, last.end, work->maxima + state, work->sums + state);
        mix(work, head, row, last.end);
    }
}

static void give_mixes(const struct work *work, const struct attention_tile *tile)
{
    const struct attention *job = work->job;
    for (size_t h = 0; h < work->heads; h++) {
        for (size_t t = 0; t < tile->query_count; t++) {
            size_t row = tile->segment->first_row + tile->first_query + t;
            float *out = job->out + row * job->out_stride + (tile->first_head + h) * work->size;
            const float *from = work->mixes + (h * QUERIES + t) * work->padded;
            float factor = 1.0f / work->sums[h * QUERIES + t];
            for (size_t i = 0; i < work->size; i++) {
                out[i] = from[i] * factor;
            }
        }
    }
}

static void attend(const struct attention_tile *tile)
{
    const struct attention *job = tile->job;
    struct work work = make_work(job->head_size, tile->head_count, HAS_PAIRS && job->dtype == DTYPE_BF16);
    lay_out(&work, tile->scratch);
    work.job = job;
    work.first_query = tile->first_query;
    work.queries = pad(tile->query_count, MICRO_ROWS);
    take_queries(&work, tile);
    size_t end = job->is_causal ? tile->first_query + tile->query_count : tile->segment->count;
    size_t first = 0;
    if (job->window > 0 && tile->first_query + 1 > job->window) {
        first = (tile->first_query + 1 - job->window) / KEYS * KEYS;
    }
    for (; first < end; first += KEYS) {
        size_t count = end - first < KEYS ? end - first : KEYS;
        take_keys(&work, tile, first, count);
        for (size_t h = 0; h < work.heads; h++) {
            meet_block(&work, h, first, count);
        }
    }
    give_mixes(&work, tile);
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static inline vf load_at(const float *x, size_t count, size_t i)
{
    return i + LANES <= count ? load(x + i) : load_part(x + i, count - i, 0.0f);
}

static float dot(size_t count, const float *x, const float *y)
{
    vf sum = splat(0.0f);
    for (size_t i = 0; i < count; i += LANES) {
        sum = multiply_add(load_at(x, count, i), load_at(y, count, i), sum);
    }
    return sum_lanes(sum);
}

/* mixes[h] = mixes[h] * factors[h] + sum of weights[h][t] values[t] */
static void mix_row(const struct work *work, const float *values, size_t stride, size_t count)
{
    for (size_t h = 0; h < work->heads; h++) {
        const float *weights = work->scores + h * S_STRIDE;
        for (size_t i = 0; i < work->size; i += LANES) {
            float *to = work->mixes + h * work->padded + i;
            vf sum = load(to) * work->factors[h];
            for (size_t t = 0; t < count; t++) {
                sum = multiply_add(splat(weights[t]), load_at(values + t * stride, work->size, i), sum);
            }
            store(to, sum);
        }
    }
}

static void attend_row(const struct attention_rows *rows, const struct attention_tile *tile)
{
    size_t row = tile->first_query;
    struct attention job = {.scale = rows->scale, .softcap = rows->softcap};
    struct work work = make_work(rows->head_size, tile->head_count, false);
    lay_out(&work, tile->scratch);
    work.job = &job;
    size_t count = rows->counts[row];
    size_t first = rows->window > 0 && count > rows->window ? count - rows->window : 0;
    const float *q = rows->q + row * rows->q_stride + tile->first_head * work.size;
    for (size_t h = 0; h < work.heads; h++) {
        work.maxima[h] = -INFINITY;
        work.sums[h] = 0.0f;
    }
    memset(work.mixes, 0, work.heads * work.padded * sizeof *work.mixes);
    for (; first < count; first += KEYS) {
        size_t keys = count - first < KEYS ? count - first : KEYS;
        size_t at = (rows->first_rows[row] + first) * rows->kv_stride + tile->kv_head * work.size;
        for (size_t t = 0; t < keys; t++) {
            for (size_t h = 0; h < work.heads; h++) {
                work.scores[h * S_STRIDE + t] =
                    dot(work.size, q + h * work.size, rows->keys + at + t * rows->kv_stride);
            }
        }
        for (size_t h = 0; h < work.heads; h++) {
            struct view all = {0, keys};
            weigh_rows(&work, h, 1, &all, keys, &work.maxima[h], &work.sums[h]);
        }
        mix_row(&work, rows->values + at, rows->kv_stride, keys);
    }
    for (size_t h = 0; h < work.heads; h++) {
        float *out = rows->out + row * rows->out_stride + (tile->first_head + h) * work.size;
        for (size_t i = 0; i < work.size; i++) {
            out[i] = work.mixes[h * work.padded + i] / work.sums[h];
        }
    }
}

void NATIVE_NAME(native_attention)(struct kernels *kernels)
{
    kernels->attention_queries = QUERIES;
    kernels->attention_scratch = attention_scratch;
    kernels->attend = attend;
    kernels->attend_row = attend_row;
}
