/* workers/select/one_shot.c: see one_shot.h. The file: zero_shot, then one_shot row by row. */
#include "workers/select/one_shot.h"

#include "base/check.h"
#include "base/file.h"
#include "base/memory.h"
#include "workers/select/nuggets.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t round_count(size_t anchor_count)
{
    return (anchor_count + ONE_SHOT_ROUND - 1) / ONE_SHOT_ROUND;
}

static size_t round_end(const struct one_shot *pass, size_t round)
{
    size_t end = (round + 1) * ONE_SHOT_ROUND;
    return end < pass->anchor_count ? end : pass->anchor_count;
}

uint64_t one_shot_file_bytes(size_t candidate_count, size_t anchor_count)
{
    return ((uint64_t)candidate_count + 1) * anchor_count * sizeof(double);
}

size_t one_shot_steps(size_t candidate_count, size_t anchor_count)
{
    return anchor_count + candidate_count * round_count(anchor_count);
}

uint64_t one_shot_bytes(const struct model_config *config, size_t batch_tokens, size_t longest_tokens)
{
    size_t rows = batch_tokens > longest_tokens ? batch_tokens : longest_tokens;
    uint64_t states = (uint64_t)rows * config->hidden_size * sizeof(float) * (config->is_parallel ? 2 : 1);
    return states + model_shared_bytes(config, rows) + 64 * (uint64_t)rows;
}

static uint64_t place_of(const struct one_shot *pass, size_t candidate, size_t anchor)
{
    return (((uint64_t)candidate + 1) * pass->anchor_count + anchor) * sizeof(double);
}

static const struct candidate *candidate_at(const struct one_shot *pass, size_t index)
{
    return &pass->candidates->items[pass->candidates->valid[index]];
}

/* ---- who is asked what --------------------------------------------------------------------------------------- */

enum pair_fit { PAIR_WHOLE, PAIR_CUT, PAIR_LEAK, PAIR_NO_ROOM };

static bool is_same(const struct candidate *a, const struct candidate *b)
{
    return a->prompt_count == b->prompt_count && a->response_count == b->response_count &&
           memcmp(a->tokens, b->tokens, ((size_t)a->prompt_count + a->response_count) * sizeof *a->tokens) ==
               0;
}

/* *ret_prefix: how many tokens of the candidate stand before the anchor. */
static enum pair_fit fit(const struct one_shot *pass, const struct candidate *item,
                         const struct one_shot_anchor *anchor, size_t *ret_prefix)
{
    size_t taken = anchor->follow_count + anchor->item->response_count;
    size_t room = pass->context_tokens > taken ? pass->context_tokens - taken : 0;
    size_t whole = (size_t)item->prompt_count + item->response_count;
    *ret_prefix = whole < room ? whole : room;
    return is_same(item, anchor->item) ? PAIR_LEAK
           : whole <= room             ? PAIR_WHOLE
           : room > item->prompt_count ? PAIR_CUT
                                       : PAIR_NO_ROOM;
}

static bool is_asked(enum pair_fit fit)
{
    return fit == PAIR_WHOLE || fit == PAIR_CUT;
}

struct state {
    struct nuggets_tally tally;
    size_t left;    /* anchors that may still be asked */
    bool is_closed; /* nothing more is asked */
};

static struct state state_of(const struct one_shot *pass, size_t candidate)
{
    struct state state = {0};
    for (size_t j = 0; j < pass->anchor_count; j++) {
        size_t prefix = 0;
        state.left += is_asked(fit(pass, candidate_at(pass, candidate), &pass->anchors[j], &prefix)) ? 1 : 0;
    }
    return state;
}

/* After a round. */
static void look(const struct one_shot *pass, struct state *state)
{
    size_t looks = round_count(pass->anchor_count) - 1;
    state->is_closed = state->left == 0 ||
                       (pass->delta > 0 && nuggets_decide(&state->tally, state->left, pass->threshold,
                                                          pass->delta / (double)looks) != NUGGETS_UNDECIDED);
}

static void count_answer(const double *zero_shot, size_t anchor, double one_shot, struct state *state)
{
    state->left--;
    state->tally.anchors++;
    state->tally.wins += one_shot > zero_shot[anchor] ? 1 : 0;
}

/* What the first `rounds` rounds said of a candidate, from its row, in which what they did not ask becomes NaN. */
static struct state replay(const struct one_shot *pass, size_t candidate, size_t rounds,
                           const double *zero_shot, double *row, struct one_shot_counts *counts)
{
    struct state state = state_of(pass, candidate);
    for (size_t round = 0; round < rounds; round++) {
        bool was_closed = state.is_closed;
        for (size_t j = round * ONE_SHOT_ROUND; j < round_end(pass, round); j++) {
            size_t prefix = 0;
            enum pair_fit pair = fit(pass, candidate_at(pass, candidate), &pass->anchors[j], &prefix);
            counts->leaks += pair == PAIR_LEAK ? 1 : 0;
            counts->no_room += pair == PAIR_NO_ROOM ? 1 : 0;
            if (was_closed || !is_asked(pair)) {
                row[j] = (double)NAN;
                continue;
            }
            counts->evaluations++;
            counts->cut += pair == PAIR_CUT ? 1 : 0;
            count_answer(zero_shot, j, row[j], &state);
        }
        if (!was_closed) {
            look(pass, &state);
        }
    }
    return state;
}

/* ---- answers by themselves ----------------------------------------------------------------------------------- */

/* The sum of what the last `answer_count` rows of a sequence lose. */
static double sum_of(const struct segment *segment, size_t answer_count, const double *losses)
{
    double sum = 0;
    for (size_t t = segment->count - answer_count; t < segment->count; t++) {
        sum += losses[segment->first_row + t];
    }
    return -sum;
}

/* Sequences without their last token, and the answers that their last rows foretell. ret_sums [hidden->sequence_count]. */
static bool sum_answers(struct model *model, const struct hidden *hidden,
                        const struct candidate *const *answers, double *ret_sums, struct error *error)
{
    size_t count = hidden->sequence_count;
    OWNED_MEMORY struct target_sequence *targets = memory_create(count, sizeof *targets);
    OWNED_MEMORY int32_t *wanted = memory_try_array(hidden->row_count, sizeof *wanted, "answers", error);
    OWNED_MEMORY double *losses = memory_try_array(hidden->row_count, sizeof *losses, "losses", error);
    if (wanted == NULL || losses == NULL) {
        return false;
    }
    for (size_t s = 0; s < count; s++) {
        const struct segment *segment = &hidden->segments[s];
        size_t before = segment->count - answers[s]->response_count;
        for (size_t t = 0; t < segment->count; t++) {
            wanted[segment->first_row + t] =
                t < before ? -1 : answers[s]->tokens[answers[s]->prompt_count + t - before];
        }
        targets[s] = (struct target_sequence){.targets = wanted + segment->first_row,
                                              .nll = losses + segment->first_row};
    }
    if (!model_nll(model, hidden, targets, error)) {
        return false;
    }
    for (size_t s = 0; s < count; s++) {
        ret_sums[s] = sum_of(&hidden->segments[s], answers[s]->response_count, losses);
    }
    return true;
}

static const char *name_of(const struct one_shot_anchor *anchor)
{
    return anchor->set->sets[anchor->item->source]->name;
}

static bool ask_alone(const struct one_shot *pass, size_t first, size_t count, double *ret_sums,
                      struct error *error)
{
    OWNED_MEMORY struct token_sequence *sequences = memory_create(count, sizeof *sequences);
    OWNED_MEMORY const struct candidate **answers = memory_create(count, sizeof *answers);
    for (size_t i = 0; i < count; i++) {
        answers[i] = pass->anchors[first + i].item;
        sequences[i] = (struct token_sequence){answers[i]->tokens, (size_t)answers[i]->prompt_count +
                                                                       answers[i]->response_count - 1};
    }
    struct token_batch batch = {sequences, count};
    OWNED(hidden) hidden = model_run_batch(pass->model, &batch, NULL, error);
    return hidden != NULL && sum_answers(pass->model, hidden, answers, ret_sums, error);
}

/* Anchors from number *at on, as many as a batch takes. */
static bool ask_anchors(const struct one_shot *pass, double *zero_shot, size_t *at, struct error *error)
{
    size_t first = *at, count = 0, tokens = 0;
    for (; first + count < pass->anchor_count; count++) {
        const struct candidate *item = pass->anchors[first + count].item;
        tokens += (size_t)item->prompt_count + item->response_count;
        if (count > 0 && tokens > pass->batch_tokens) {
            break;
        }
    }
    if (ask_alone(pass, first, count, zero_shot + first, error)) {
        *at += count;
        return file_write_at(pass->fd, zero_shot + first, count * sizeof *zero_shot,
                             first * sizeof *zero_shot, error);
    }
    for (size_t i = first; error->code == ERROR_NUMERIC && i < first + count; i++) {
        struct error found = {0};
        if (!ask_alone(pass, i, 1, zero_shot + i, &found)) {
            *error = found;
            error_prefix(error, "%s, record %u: ", name_of(&pass->anchors[i]),
                         pass->anchors[i].item->record + 1);
            break;
        }
    }
    return false;
}

/* ---- answers after an example --------------------------------------------------------------------------------- */

struct pair {
    size_t candidate, anchor, prefix, tokens; /* tokens: of the whole, as it is fed */
    double value;
};

/* Pairs as sequences. Owned. */
struct wholes {
    int32_t *tokens;
    struct token_sequence *sequences, *prefixes; /* [count], [prefix_count] */
    size_t *prefix_of;
    const struct candidate **answers;
    size_t prefix_count;
};

static void wholes_finish(struct wholes *wholes)
{
    free(wholes->tokens);
    free(wholes->sequences);
    free(wholes->prefixes);
    free(wholes->prefix_of);
    free((void *)wholes->answers);
}

static bool wholes_make(const struct one_shot *pass, const struct pair *pairs, size_t count,
                        struct wholes *wholes, struct error *error)
{
    size_t total = 0, at = 0;
    for (size_t p = 0; p < count; p++) {
        total += pairs[p].tokens;
    }
    wholes->tokens = memory_try_array(total, sizeof *wholes->tokens, "tokens of pairs", error);
    wholes->sequences = memory_create(count, sizeof *wholes->sequences);
    wholes->prefixes = memory_create(count, sizeof *wholes->prefixes);
    wholes->prefix_of = memory_create(count, sizeof *wholes->prefix_of);
    wholes->answers = memory_create(count, sizeof *wholes->answers);
    for (size_t p = 0; wholes->tokens != NULL && p < count; p++) {
        const struct pair *pair = &pairs[p];
        const struct candidate *item = candidate_at(pass, pair->candidate);
        const struct one_shot_anchor *anchor = &pass->anchors[pair->anchor];
        int32_t *to = wholes->tokens + at;
        memcpy(to, item->tokens, pair->prefix * sizeof *to);
        memcpy(to + pair->prefix, anchor->follow, anchor->follow_count * sizeof *to);
        memcpy(to + pair->prefix + anchor->follow_count, anchor->item->tokens + anchor->item->prompt_count,
               (anchor->item->response_count - 1) * sizeof *to);
        if (p == 0 || pair->candidate != pairs[p - 1].candidate || pair->prefix != pairs[p - 1].prefix) {
            wholes->prefixes[wholes->prefix_count++] = (struct token_sequence){item->tokens, pair->prefix};
        }
        wholes->prefix_of[p] = wholes->prefix_count - 1;
        wholes->sequences[p] = (struct token_sequence){to, pair->tokens};
        wholes->answers[p] = anchor->item;
        at += pair->tokens;
    }
    return wholes->tokens != NULL;
}

static bool ask_together(const struct one_shot *pass, struct pair *pairs, size_t count, struct error *error)
{
    FINISHED(wholes) wholes = {0};
    OWNED(hidden) hidden = NULL;
    OWNED_MEMORY double *sums = memory_create(count, sizeof *sums);
    if (!wholes_make(pass, pairs, count, &wholes, error)) {
        return false;
    }
    const struct token_batch prefixes = {wholes.prefixes, wholes.prefix_count},
                             batch = {wholes.sequences, count};
    if (model_can_share(pass->model)) {
        if (!model_run_shared(pass->model, NULL, &prefixes, &batch, wholes.prefix_of, &hidden, error)) {
            return false;
        }
    } else {
        hidden = model_run_batch(pass->model, &batch, NULL, error);
    }
    if (hidden == NULL || !sum_answers(pass->model, hidden, wholes.answers, sums, error)) {
        return false;
    }
    for (size_t p = 0; p < count; p++) {
        pairs[p].value = sums[p];
    }
    return true;
}

static bool name_pair(const struct one_shot *pass, struct pair *pairs, size_t count, struct error *error)
{
    for (size_t p = 0; p < count; p++) {
        struct error found = {0};
        if (!ask_together(pass, &pairs[p], 1, &found) && found.code == ERROR_NUMERIC) {
            const struct candidate *item = candidate_at(pass, pairs[p].candidate);
            const struct one_shot_anchor *anchor = &pass->anchors[pairs[p].anchor];
            *error = found;
            error_prefix(error,
                         "%s, record %u before %s, record %u: ", pass->candidates->sets[item->source]->name,
                         item->record + 1, name_of(anchor), anchor->item->record + 1);
            break;
        }
    }
    return false;
}

static bool ask_pairs(const struct one_shot *pass, struct pair *pairs, size_t pair_count, struct error *error)
{
    for (size_t done = 0; done < pair_count;) {
        size_t count = 0, tokens = 0;
        for (; done + count < pair_count; count++) {
            tokens += pairs[done + count].tokens;
            if (count > 0 && tokens > pass->batch_tokens) {
                break;
            }
        }
        if (!cancel_check_now(pass->cancel, error)) {
            return false;
        }
        if (!ask_together(pass, pairs + done, count, error)) {
            return error->code == ERROR_NUMERIC ? name_pair(pass, pairs + done, count, error) : false;
        }
        for (size_t p = done; p < done + count; p++) {
            if (!file_write_at(pass->fd, &pairs[p].value, sizeof pairs[p].value,
                               place_of(pass, pairs[p].candidate, pairs[p].anchor), error)) {
                return false;
            }
        }
        done += count;
    }
    return true;
}

/* ---- the pass ------------------------------------------------------------------------------------------------ */

struct run {
    const struct one_shot *pass;
    double *zero_shot;    /* [anchor_count] */
    struct state *states; /* [candidates] */
    struct pair *pairs;   /* [pair_room] */
    size_t pair_room;
};

static size_t list_pairs(const struct run *run, size_t round, size_t candidate, struct pair *pairs,
                         size_t *ret_tokens)
{
    const struct one_shot *pass = run->pass;
    size_t count = 0;
    *ret_tokens = 0;
    for (size_t j = round * ONE_SHOT_ROUND; j < round_end(pass, round); j++) {
        struct pair pair = {.candidate = candidate, .anchor = j};
        const struct one_shot_anchor *anchor = &pass->anchors[j];
        if (!is_asked(fit(pass, candidate_at(pass, candidate), anchor, &pair.prefix))) {
            continue;
        }
        pair.tokens = pair.prefix + anchor->follow_count + anchor->item->response_count - 1;
        *ret_tokens += pair.tokens;
        pairs[count++] = pair;
    }
    return count;
}

/* Candidates from number *at of a round on, as many as a batch takes. */
static bool ask_batch(const struct run *run, size_t round, size_t *at, struct error *error)
{
    const struct one_shot *pass = run->pass;
    size_t first = *at, next = first, count = 0, tokens = 0;
    for (; next < pass->candidates->valid_count; next++) {
        size_t more = 0;
        if (run->states[next].is_closed) {
            continue;
        }
        if (count + ONE_SHOT_ROUND > run->pair_room) {
            break;
        }
        size_t added = list_pairs(run, round, next, run->pairs + count, &more);
        if (count > 0 && tokens + more > pass->batch_tokens) {
            break;
        }
        count += added;
        tokens += more;
    }
    if (!ask_pairs(pass, run->pairs, count, error)) {
        return false;
    }
    for (size_t p = 0; p < count; p++) {
        count_answer(run->zero_shot, run->pairs[p].anchor, run->pairs[p].value,
                     &run->states[run->pairs[p].candidate]);
    }
    for (size_t i = first; i < next; i++) {
        if (!run->states[i].is_closed) {
            look(pass, &run->states[i]);
        }
    }
    *at = next;
    return true;
}

/* Everything that steps before `done` left in the file. */
static bool go_back_in(const struct run *run, size_t done, struct error *error)
{
    const struct one_shot *pass = run->pass;
    size_t anchors = pass->anchor_count, count = pass->candidates->valid_count;
    size_t known = done < anchors ? done : anchors, asked = done - known;
    OWNED_MEMORY double *row = memory_create(anchors, sizeof *row);
    if (!file_read_at(pass->fd, run->zero_shot, known * sizeof *row, 0, "what was measured", error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        struct one_shot_counts counts = {0};
        size_t rounds = asked / count + (i < asked % count ? 1 : 0);
        if (!cancel_check_now(pass->cancel, error) ||
            (rounds > 0 && !file_read_at(pass->fd, row, anchors * sizeof *row, place_of(pass, i, 0),
                                         "what was measured", error))) {
            return false;
        }
        run->states[i] = replay(pass, i, rounds, run->zero_shot, row, &counts);
    }
    return true;
}

bool one_shot_run(const struct one_shot *pass, size_t done, struct error *error)
{
    size_t anchors = pass->anchor_count, count = pass->candidates->valid_count;
    size_t total = one_shot_steps(count, anchors);
    struct error local = {0};
    error = error != NULL ? error : &local;
    CHECK(anchors > 0);
    size_t room = pass->batch_tokens + ONE_SHOT_ROUND; /* a pair has a token at least */
    OWNED_MEMORY double *zero_shot = memory_create(anchors, sizeof *zero_shot);
    OWNED_MEMORY struct state *states = memory_try_array(count, sizeof *states, "golden scores", error);
    OWNED_MEMORY struct pair *pairs = memory_try_array(room, sizeof *pairs, "pairs", error);
    const struct run run = {pass, zero_shot, states, pairs, room};
    if (states == NULL || pairs == NULL || !go_back_in(&run, done, error)) {
        return false;
    }
    while (done < total) {
        size_t asked = done < anchors ? 0 : done - anchors, at = done < anchors ? done : asked % count;
        if (!cancel_check_now(pass->cancel, error) ||
            !(done < anchors ? ask_anchors(pass, zero_shot, &at, error)
                             : ask_batch(&run, asked / count, &at, error))) {
            return false;
        }
        done = done < anchors ? at : anchors + asked / count * count + at;
        if (!pass->advanced(pass->context, done, total, error)) {
            return false;
        }
    }
    return true;
}

bool one_shot_read(const struct one_shot *pass, double *ret_zero_shot, double *ret_one_shot,
                   struct one_shot_counts *ret_counts, struct error *error)
{
    size_t count = pass->candidates->valid_count, anchors = pass->anchor_count;
    *ret_counts = (struct one_shot_counts){0};
    if (!file_read_at(pass->fd, ret_zero_shot, anchors * sizeof *ret_zero_shot, 0, "what was measured",
                      error) ||
        !file_read_at(pass->fd, ret_one_shot, count * anchors * sizeof *ret_one_shot, place_of(pass, 0, 0),
                      "what was measured", error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!cancel_check_now(pass->cancel, error)) {
            return false;
        }
        (void)replay(pass, i, round_count(anchors), ret_zero_shot, ret_one_shot + i * anchors, ret_counts);
    }
    return true;
}
