/* workers/model/weights_unit.c: what a unit is made of, and filling it. Windows of rows are read, converted and packed by tasks
 * of the pool, each its own rows; the first fault in file order is the one that is told. */
#include "workers/model/weights_internal.h"

#include "base/check.h"
#include "base/memory.h"
#include <stdatomic.h>
#include <string.h>

#define WINDOW_BYTES                                                                                         \
    ((uint64_t)1 << 20) /* of fp32 rows: fits the second cache level beside the packed ones */
#define STRIPE_BYTES    ((uint64_t)4 << 20) /* transposed tensors: wider, because each stored row is one read */
#define WINDOW_ROWS     16                  /* packed layouts hold so many rows together */
#define PIECE_ALIGNMENT 256

/* ---- what a unit is made of --------------------------------------------------------------------- */

struct slot_role {
    enum weight_role role;
    enum slot slot;
};
/* Roles that share a slot follow one another in it, in this order. */
static const struct slot_role attention_roles[] = {
    {WEIGHT_ATTENTION_NORM, SLOT_NORM},
    {WEIGHT_ATTENTION_NORM_BIAS, SLOT_NORM_BIAS},
    {WEIGHT_ATTENTION_POST_NORM, SLOT_POST_NORM},
    {WEIGHT_Q, SLOT_IN},
    {WEIGHT_K, SLOT_IN},
    {WEIGHT_V, SLOT_IN},
    {WEIGHT_QKV, SLOT_IN},
    {WEIGHT_Q_BIAS, SLOT_IN_BIAS},
    {WEIGHT_K_BIAS, SLOT_IN_BIAS},
    {WEIGHT_V_BIAS, SLOT_IN_BIAS},
    {WEIGHT_QKV_BIAS, SLOT_IN_BIAS},
    {WEIGHT_Q_NORM, SLOT_Q_NORM},
    {WEIGHT_K_NORM, SLOT_K_NORM},
    {WEIGHT_O, SLOT_OUT},
    {WEIGHT_O_BIAS, SLOT_OUT_BIAS},
};
static const struct slot_role ffn_roles[] = {
    {WEIGHT_FFN_NORM, SLOT_NORM},
    {WEIGHT_FFN_NORM_BIAS, SLOT_NORM_BIAS},
    {WEIGHT_FFN_POST_NORM, SLOT_POST_NORM},
    {WEIGHT_GATE, SLOT_IN},
    {WEIGHT_UP, SLOT_IN},
    {WEIGHT_GATE_UP, SLOT_IN},
    {WEIGHT_GATE_BIAS, SLOT_IN_BIAS},
    {WEIGHT_UP_BIAS, SLOT_IN_BIAS},
    {WEIGHT_DOWN, SLOT_OUT},
    {WEIGHT_DOWN_BIAS, SLOT_OUT_BIAS},
    {WEIGHT_ROUTER, SLOT_ROUTER},
};
static const enum weight_role expert_roles[] = {WEIGHT_EXPERT_GATE, WEIGHT_EXPERT_UP, WEIGHT_EXPERT_DOWN};
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static bool is_norm_weight(enum weight_role role)
{
    return role == WEIGHT_EMBEDDING_NORM || role == WEIGHT_FINAL_NORM || role == WEIGHT_ATTENTION_NORM ||
           role == WEIGHT_Q_NORM || role == WEIGHT_K_NORM || role == WEIGHT_ATTENTION_POST_NORM ||
           role == WEIGHT_FFN_NORM || role == WEIGHT_FFN_POST_NORM;
}

bool weights_view(const struct inventory *inventory, enum weight_role role, size_t layer, size_t expert,
                  struct source_view *ret_view)
{
    const struct model_config *config = &inventory->config;
    const struct architecture *architecture = architecture_of(config);
    struct weight_shape shape;
    if (!architecture_tensor(config, role, layer, expert, &shape)) {
        return false;
    }
    const struct inventory_tensor *tensor = inventory_find(inventory, shape.name);
    CHECK(tensor != NULL); /* the inventory checked it */
    source_view_canonical(tensor, ret_view);
    CHECK(ret_view->rows * ret_view->columns == shape.count);
    if (shape.is_transposed) {
        source_view_transpose(ret_view);
    }
    if ((role == WEIGHT_QKV || role == WEIGHT_QKV_BIAS) && architecture->qkv_order == QKV_INTERLEAVED) {
        source_view_deinterleave(ret_view, config->layers[layer].head_count, config->head_size);
    }
    if (architecture->norm_adds_one && is_norm_weight(role)) {
        ret_view->add += 1.0f;
    }
    return true;
}

static uint64_t window_rows(const struct source_view *view)
{
    uint64_t bytes = view->is_transposed ? STRIPE_BYTES : WINDOW_BYTES;
    uint64_t rows = bytes / (view->columns * sizeof(float)) / WINDOW_ROWS * WINDOW_ROWS;
    rows = rows < WINDOW_ROWS ? WINDOW_ROWS : rows;
    return rows < view->rows ? rows : view->rows;
}

struct description {
    const struct inventory *inventory;
    enum dtype dtype;
    struct unit *unit;
};

static void add_tensor(const struct description *description, enum weight_role role, size_t layer,
                       size_t expert, size_t slot)
{
    struct unit *unit = description->unit;
    struct source_view view;
    if (!weights_view(description->inventory, role, layer, expert, &view)) {
        return;
    }
    struct piece *piece = &unit->pieces[slot];
    bool is_matrix = slot == SLOT_IN || slot == SLOT_OUT || slot == SLOT_ROUTER || slot >= SLOT_COUNT;
    CHECK(piece->n == 0 || piece->k == view.columns);
    piece->is_vector = !is_matrix;
    piece->dtype = is_matrix && slot != SLOT_ROUTER ? description->dtype : DTYPE_F32;
    struct load *load = &unit->loads[unit->load_count++];
    *load = (struct load){.view = view,
                          .piece = slot,
                          .first_row = piece->n,
                          .window_rows = window_rows(&view),
                          .first_task = unit->task_count};
    piece->n += (size_t)view.rows;
    piece->k = (size_t)view.columns;
    if (is_matrix) {
        unit->task_count += (size_t)((view.rows + load->window_rows - 1) / load->window_rows);
    }
}

size_t unit_count_of(const struct model_config *config)
{
    return 2 * config->layer_count + 1;
}

void unit_describe(const struct inventory *inventory, size_t index, enum dtype dtype, struct unit *ret_unit)
{
    const struct model_config *config = &inventory->config;
    size_t layer = index / 2;
    bool is_head = index == 2 * config->layer_count;
    bool is_attention = !is_head && index % 2 == 0;
    struct unit unit = {.piece_count = SLOT_COUNT};
    if (!is_head && !is_attention && config->layers[layer].has_ffn) {
        unit.expert_count = config->layers[layer].expert_count;
    }
    unit.piece_count += 2 * unit.expert_count;
    unit.pieces = memory_create(unit.piece_count, sizeof *unit.pieces);
    unit.loads = memory_create(COUNT_OF(attention_roles) + COUNT_OF(expert_roles) * unit.expert_count,
                               sizeof *unit.loads);
    if (unit.expert_count > 0) {
        unit.experts = memory_create(unit.expert_count, sizeof *unit.experts);
    }
    struct description description = {inventory, dtype, &unit};
    if (is_head) {
        struct source_view view;
        bool has_own = weights_view(inventory, WEIGHT_HEAD, 0, 0, &view);
        add_tensor(&description, WEIGHT_FINAL_NORM, 0, 0, SLOT_NORM);
        add_tensor(&description, WEIGHT_FINAL_NORM_BIAS, 0, 0, SLOT_NORM_BIAS);
        if (!architecture_of(config)->is_encoder) {
            add_tensor(&description, has_own ? WEIGHT_HEAD : WEIGHT_EMBEDDING, 0, 0, SLOT_OUT);
        }
    } else {
        const struct slot_role *roles = is_attention ? attention_roles : ffn_roles;
        size_t count = is_attention ? COUNT_OF(attention_roles) : COUNT_OF(ffn_roles);
        for (size_t i = 0; i < count; i++) {
            add_tensor(&description, roles[i].role, layer, 0, roles[i].slot);
        }
        for (size_t i = 0; i < unit.expert_count * COUNT_OF(expert_roles); i++) {
            size_t expert = i / COUNT_OF(expert_roles);
            enum weight_role role = expert_roles[i % COUNT_OF(expert_roles)];
            add_tensor(&description, role, layer, expert,
                       SLOT_COUNT + 2 * expert + (role == WEIGHT_EXPERT_DOWN ? 1 : 0));
        }
    }
    *ret_unit = unit;
}

void unit_lay_out(struct unit *unit, size_t (*matrix_bytes)(enum dtype dtype, size_t n, size_t k))
{
    unit->bytes = 0;
    for (size_t i = 0; i < unit->piece_count; i++) {
        struct piece *piece = &unit->pieces[i];
        if (piece->n > 0) {
            piece->offset_bytes = unit->bytes;
            uint64_t bytes =
                piece->is_vector ? piece->n * sizeof(float) : matrix_bytes(piece->dtype, piece->n, piece->k);
            unit->bytes += (bytes + PIECE_ALIGNMENT - 1) / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
        }
    }
}

void unit_finish(struct unit *unit)
{
    free(unit->pieces);
    free(unit->loads);
    free(unit->experts);
}

/* ---- what the forward pass sees ------------------------------------------------------------------ */

static void *piece_data(const struct unit *unit, size_t slot)
{
    const struct piece *piece = &unit->pieces[slot];
    return piece->n > 0 ? (unsigned char *)unit->block->memory + piece->offset_bytes : NULL;
}

static struct matrix piece_matrix(const struct unit *unit, size_t slot)
{
    const struct piece *piece = &unit->pieces[slot];
    return (struct matrix){
        .dtype = piece->dtype, .n = piece->n, .k = piece->k, .data = piece_data(unit, slot)};
}

static void show_unit(struct unit *unit)
{
    struct norm_weights norm = {piece_data(unit, SLOT_NORM), piece_data(unit, SLOT_NORM_BIAS)};
    unit->head = (struct head_weights){.norm = norm, .matrix = piece_matrix(unit, SLOT_OUT)};
    unit->sublayer = (struct sublayer_weights){
        .norm = norm,
        .post_norm = {piece_data(unit, SLOT_POST_NORM), NULL},
        .in = piece_matrix(unit, SLOT_IN),
        .in_bias = piece_data(unit, SLOT_IN_BIAS),
        .q_norm = {piece_data(unit, SLOT_Q_NORM), NULL},
        .k_norm = {piece_data(unit, SLOT_K_NORM), NULL},
        .out = piece_matrix(unit, SLOT_OUT),
        .out_bias = piece_data(unit, SLOT_OUT_BIAS),
        .router = piece_matrix(unit, SLOT_ROUTER),
        .experts = unit->experts,
        .expert_count = unit->expert_count,
    };
    unit->sublayer.ffn = (struct ffn_weights){unit->sublayer.in, unit->sublayer.in_bias, unit->sublayer.out,
                                              unit->sublayer.out_bias};
    for (size_t i = 0; i < unit->expert_count; i++) {
        unit->experts[i] = (struct ffn_weights){.in = piece_matrix(unit, SLOT_COUNT + 2 * i),
                                                .out = piece_matrix(unit, SLOT_COUNT + 2 * i + 1)};
    }
}

/* ---- loading ------------------------------------------------------------------------------------- */

struct loading {
    struct weights *weights;
    struct unit *unit;
    pthread_mutex_t lock;
    atomic_size_t failed_task; /* the lowest; SIZE_MAX: none */
    struct error error;        /* of failed_task; guarded by lock */
};

static void keep_failure(struct loading *loading, size_t task, const struct error *error)
{
    pthread_mutex_lock(&loading->lock);
    if (task < atomic_load(&loading->failed_task)) {
        atomic_store(&loading->failed_task, task);
        loading->error = *error;
    }
    pthread_mutex_unlock(&loading->lock);
}

static const struct load *find_load(const struct unit *unit, size_t task)
{
    size_t low = 0;
    size_t high = unit->load_count;
    while (high - low > 1) { /* the last one that starts at or before the task */
        size_t middle = low + (high - low) / 2;
        *(unit->loads[middle].first_task <= task ? &low : &high) = middle;
    }
    return &unit->loads[low];
}

static void load_window(void *context, size_t task, size_t thread)
{
    struct loading *loading = context;
    struct weights *weights = loading->weights;
    const struct load *load = find_load(loading->unit, task);
    if (atomic_load(&loading->failed_task) < task) {
        return;
    }
    uint64_t first = (task - load->first_task) * load->window_rows;
    uint64_t left = load->view.rows - first;
    uint64_t count = left < load->window_rows ? left : load->window_rows;
    const struct window *window = &weights->windows[thread];
    struct matrix matrix = piece_matrix(loading->unit, load->piece);
    struct error error = {0};
    if (!source_read_rows(weights->source, &load->view, first, count, window->bytes, window->rows, &error) ||
        !weights->backend->matrix_write(weights->options.device, &matrix, (size_t)(load->first_row + first),
                                        (size_t)count, window->rows, matrix.k, &error)) {
        keep_failure(loading, task, &error);
    }
}

static bool load_vector(struct weights *weights, const struct unit *unit, const struct load *load,
                        struct error *error)
{
    const struct window *window = &weights->windows[0];
    float *to = (float *)piece_data(unit, load->piece) + load->first_row;
    for (uint64_t done = 0; done < load->view.rows; done += load->window_rows) {
        uint64_t left = load->view.rows - done;
        uint64_t count = left < load->window_rows ? left : load->window_rows;
        if (!source_read_rows(weights->source, &load->view, done, count, window->bytes, window->rows,
                              error) ||
            !weights->backend->memory_write(weights->options.device, to + done, window->rows,
                                            (size_t)count * sizeof(float), error)) {
            return false;
        }
    }
    return true;
}

static bool has_same_layout(const struct unit *a, const struct unit *b)
{
    bool is_same = a->piece_count == b->piece_count;
    for (size_t i = 0; is_same && i < a->piece_count; i++) {
        const struct piece *left = &a->pieces[i];
        const struct piece *right = &b->pieces[i];
        is_same = left->n == right->n && left->k == right->k && left->dtype == right->dtype &&
                  left->offset_bytes == right->offset_bytes;
    }
    return is_same;
}

/* Padding must be zero where it is; where the same layout was written before, it still is. */
static void clear_padding(struct weights *weights, struct unit *unit)
{
    struct block *block = unit->block;
    if (block->shape != NULL && !has_same_layout(block->shape, unit)) {
        for (size_t i = 0; i < unit->piece_count; i++) {
            struct matrix matrix = piece_matrix(unit, i);
            if (matrix.n > 0 && !unit->pieces[i].is_vector) {
                matrix_clear(weights->options.device, &matrix);
            }
        }
    }
    block->shape = unit;
}

bool unit_load(struct weights *weights, struct unit *unit, struct error *error)
{
    clear_padding(weights, unit);
    for (size_t i = 0; i < unit->load_count; i++) {
        if (unit->pieces[unit->loads[i].piece].is_vector &&
            !load_vector(weights, unit, &unit->loads[i], error)) {
            return false;
        }
    }
    struct loading loading = {.weights = weights, .unit = unit, .lock = PTHREAD_MUTEX_INITIALIZER};
    atomic_init(&loading.failed_task, SIZE_MAX);
    bool is_good = pool_run(weights->options.pool, unit->task_count, load_window, &loading,
                            weights->options.cancel, error);
    pthread_mutex_destroy(&loading.lock);
    if (is_good && atomic_load(&loading.failed_task) != SIZE_MAX) {
        if (error != NULL) {
            *error = loading.error;
        }
        return false;
    }
    if (is_good) {
        show_unit(unit);
    }
    return is_good;
}
