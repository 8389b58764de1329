/* workers/tensor/native/native.c: our own kernels for everything, chosen by what the CPU has, or as PRUNED_ISA says. */
#include "workers/tensor/native/native.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

size_t native_matrix_bytes(enum dtype dtype, size_t n, size_t k)
{
    size_t depth = dtype == DTYPE_BF16 ? (k + 1) / 2 * 2 : k;
    return (n + PANEL - 1) / PANEL * PANEL * depth * dtype_bytes(dtype);
}

#define WRITE_BLOCK                                                                                          \
    64 /* elements of k that are written for all rows of a panel, while its lines are in the cache */

static void write_f32(float *panel, size_t column, size_t count, const float *row)
{
    for (size_t i = 0; i < count; i++) {
        panel[i * PANEL + column] = row[i];
    }
}

/* halves: room for count of them. Pairs of k lie together, so a pair is one store. */
static void write_bf16(uint16_t *panel, size_t column, size_t count, const float *row, uint16_t *halves)
{
    dtype_from_f32(DTYPE_BF16, row, count, halves);
    uint16_t *to = panel + 2 * column;
    for (size_t i = 0; i + 1 < count; i += 2, to += 2 * PANEL) {
        memcpy(to, halves + i, 2 * sizeof *to);
    }
    if (count % 2 != 0) {
        *to = halves[count - 1];
    }
}

void native_matrix_write(const struct matrix *matrix, size_t first_row, size_t row_count, const float *rows,
                         size_t stride)
{
    size_t k = matrix->k, even = (k + 1) / 2 * 2;
    uint16_t halves[WRITE_BLOCK];
    for (size_t done = 0; done < row_count;) {
        size_t first = first_row + done, start = first / PANEL * PANEL;
        size_t left = row_count - done, count = PANEL - first % PANEL;
        count = count < left ? count : left;
        for (size_t i = 0; i < k; i += WRITE_BLOCK) {
            size_t length = k - i < WRITE_BLOCK ? k - i : WRITE_BLOCK;
            for (size_t r = 0; r < count; r++) {
                const float *row = rows + (done + r) * stride + i;
                size_t column = first % PANEL + r;
                if (matrix->dtype == DTYPE_BF16) {
                    write_bf16((uint16_t *)matrix->data + start * even + i * PANEL, column, length, row,
                               halves);
                } else {
                    write_f32((float *)matrix->data + start * k + i * PANEL, column, length, row);
                }
            }
        }
        done += count;
    }
}

/* ---- choice ------------------------------------------------------------------------------------------------------ */

struct choice {
    const char *name;
    struct kernels kernels;
};

#if defined(__x86_64__)
/* AMX with bf16, and the kernel's leave to use tile registers (which threads started later inherit). */
static bool has_amx(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    enum { BF16 = 1u << 22, TILE = 1u << 24, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & BF16) != 0 && (d & TILE) != 0 &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

static bool cpu_has(const char *isa)
{
#if defined(__x86_64__)
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (strcmp(isa, "amx") == 0) {
        return has_avx512 && __builtin_cpu_supports("avx512bf16") && has_amx();
    }
    if (strcmp(isa, "amx_emulated") == 0) {
        return has_avx2; /* for tests, where they can be run at all */
    }
    if (strcmp(isa, "avx512_bf16") == 0) {
        return has_avx512 && __builtin_cpu_supports("avx512bf16");
    }
    if (strcmp(isa, "avx512") == 0) {
        return has_avx512;
    }
    if (strcmp(isa, "avx2") == 0) {
        return has_avx2;
    }
#endif
    return strcmp(isa, "baseline") == 0;
}

const struct kernels *native_kernels_of(const char *isa, struct error *error)
{
    static struct kernels baseline, avx2, avx512, avx512_bf16, amx, amx_emulated;
    if (!cpu_has(isa)) {
        error_set(error, ERROR_UNSUPPORTED, "this CPU or build lacks the instruction set \"%.20s\"", isa);
        return NULL;
    }
#define FILL_SET(set, base, attention, products)                                                             \
    if (strcmp(isa, #set) == 0) {                                                                            \
        set = (struct kernels){                                                                              \
            .name = #set, .matrix_bytes = native_matrix_bytes, .matrix_write = native_matrix_write};         \
        native_rows_##base(&set);                                                                            \
        native_dots_##base(&set);                                                                            \
        native_attention_##attention(&set);                                                                  \
        products;                                                                                            \
        return &set;                                                                                         \
    }
    FILL_SET(baseline, baseline, baseline, native_product_baseline(&baseline))
#if defined(__x86_64__)
    FILL_SET(avx2, avx2, avx2, native_product_avx2(&avx2))
    FILL_SET(avx512, avx512, avx512, native_product_avx512(&avx512))
    FILL_SET(avx512_bf16, avx512, avx512_bf16, native_product_avx512_bf16(&avx512_bf16))
    FILL_SET(amx, avx512, avx512_bf16, (native_product_avx512(&amx), native_product_amx(&amx)))
    FILL_SET(amx_emulated, avx2, avx2,
             (native_product_avx2(&amx_emulated), native_product_amx_emulated(&amx_emulated)))
#endif
    return NULL;
}

const struct kernels *native_kernels(struct error *error)
{
    static const char *const isas[] = {"amx", "avx512_bf16", "avx512", "avx2", "baseline"};
    const char *wanted = getenv("PRUNED_ISA");
    if (wanted != NULL) {
        return native_kernels_of(wanted, error);
    }
    size_t i = 0;
    while (!cpu_has(isas[i])) {
        i++;
    }
    return native_kernels_of(isas[i], error);
}

static bool native_open(struct backend *self, struct pool *pool, void **ret_state, struct error *error)
{
    (void)self;
    const struct kernels *kernels = native_kernels(error);
    if (kernels == NULL) {
        return false;
    }
    *ret_state = cpu_create(kernels, pool);
    return true;
}

static const char *native_identity(void *state)
{
    return ((struct cpu *)state)->kernels.name;
}

static bool native_supports(void *state, enum dtype dtype)
{
    const char *isa = ((struct cpu *)state)->kernels.name;
    return dtype == DTYPE_F32 || strcmp(isa, "avx512_bf16") == 0 || strcmp(isa, "amx") == 0;
}

const struct backend backend_native = {
    CPU_OPERATIONS,
    .name = "native",
    .summary = "Our own vector kernels (AVX-512, AVX2 or plain C): fp32, and bf16 with fp32 accumulation.",
    .open = native_open,
    .identity = native_identity,
    .supports = native_supports,
    .matrix_bytes = native_matrix_bytes,
};
