/* workers/prune/race.c: see race.h. */
#include "workers/prune/race.h"

#include "base/check.h"
#include "base/memory.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONTENDER_MARGIN                                                                                     \
    1.05 /* whoever is so much nearer than heavy tokens could tell is seen whole at once */
/* Where exact scores come from elsewhere: of the best, what is worth another leader; and how far the others are from one who is evaluated
 * exactly by what some tokens say. */
#define WORTH_LEADING 0.95
#define CLEARLY_AHEAD 1.1
#define SUM_MARGIN    (1 - 1e-12) /* partial sums are added in another order than the whole */

/* ---- a round ----------------------------------------------------------------------------------------------------- */

enum seen { SEEN_NOTHING, SEEN_HEAVY, SEEN_ALL }; /* of an item's tokens */

/* A candidate that is being judged. */
struct runner {
    struct prune_candidate *candidate;
    double *values; /* [token_count]: of the tokens seen */
    double
        *control; /* [token_count]: about in proportion to the values; NULL: the leader's values stand in */
    unsigned char *seen; /* [item_count] */
    double partial;      /* what the values seen come to, in the sum that the parts divide */
    bool is_alive;       /* still in the race, and not complete */
};
struct race {
    struct race_side *side;
    struct prune_round *round;
    const struct race_options *options;
    struct runner *runners; /* [count]: those that were pending */
    size_t count, token_count;
    double
        best; /* the most that the lowest score / cost so far can be, exactly; INFINITY: none is complete */
    const double
        *leader; /* [token_count]: values of the best that was finished in this round; NULL: none was */
    double leader_value; /* its score / cost */
    double leader_cost;
    bool is_sampled;
    bool *is_heavy;     /* [token_count]: the tokens that weigh most; valid with has_heavy */
    bool has_heavy;     /* single tokens are asked for */
    double heavy_share; /* of the sum of what chose them */
    struct prune_unit *units;
    size_t *members; /* runner of each unit of a wave */
    size_t *slots, *tokens;
    double **values;
};

static double value_of(const struct prune_candidate *candidate)
{
    return candidate->score / candidate->cost;
}

static bool settle(struct race *race, struct error *error)
{
    return race->round->settled == NULL || race->round->settled(race->round->context, error);
}

/* ---- what was seen ----------------------------------------------------------------------------------------------- */

/* The least that the candidate can come to, by score / cost. */
static double bound_of(const struct race *race, const struct runner *runner)
{
    return runner->partial / objective_parts(race->side->objective) * SUM_MARGIN / runner->candidate->cost;
}

/* The tokens that the runner was seen on, ascending, in race->tokens. */
static size_t list_seen(const struct race *race, const struct runner *runner)
{
    const struct race_side *side = race->side;
    size_t count = 0;
    for (size_t item = 0, token = 0; item < side->item_count; item++) {
        size_t rows = wave_rows_of(side->engine, item, 1);
        for (size_t t = token; t < token + rows && runner->seen[item] != SEEN_NOTHING; t++) {
            if (runner->seen[item] == SEEN_ALL || race->is_heavy[t]) {
                race->tokens[count++] = t;
            }
        }
        token += rows;
    }
    return count;
}

static double sum_of(const double *values, size_t count)
{
    double sum = 0.0;
    for (size_t t = 0; t < count; t++) {
        sum += values[t];
    }
    return sum;
}

/* What the tokens seen say of the whole, by score / cost: the least that it comes to, and what it is expected to come to (INFINITY: nobody
 * knows). */
struct estimate {
    double least, expected;
};
static struct estimate estimate(const struct race *race, const struct runner *runner)
{
    const double *control = runner->control != NULL ? runner->control : race->leader;
    double bound = bound_of(race, runner);
    double own = 0.0;
    double seen = 0.0;
    size_t count = control != NULL ? list_seen(race, runner) : 0;
    for (size_t i = 0; i < count; i++) {
        own += runner->values[race->tokens[i]];
        seen += control[race->tokens[i]];
    }
    if (!(seen > 0)) {
        return (struct estimate){bound, INFINITY};
    }
    double unseen = fmax(sum_of(control, race->token_count) / seen - 1, 0); /* for each that was seen */
    if (!(own > 0) || unseen == 0) {
        return (struct estimate){bound, bound};
    }
    if (!race->is_sampled) { /* no more than who is ahead: on the tokens that both were seen on */
        double ratio = objective_ratio(race->side->objective, own / seen);
        return (struct estimate){bound,
                                 race->leader_value * race->leader_cost * ratio / runner->candidate->cost};
    }
    double squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        double residual = runner->values[race->tokens[i]] - own / seen * control[race->tokens[i]];
        squares += residual * residual;
    }
    double error = sqrt(squares * (1 + 1 / unseen)) / own; /* of what is unseen, relative */
    double sure = count < SAMPLE_TOKENS ? 0 : fmax(1 - SAMPLE_ERRORS * error, 0);
    return (struct estimate){bound * (1 + sure * unseen), bound * (1 + unseen)};
}

static bool is_beaten(const struct race *race, const struct runner *runner)
{
    double least = race->is_sampled ? estimate(race, runner).least : bound_of(race, runner);
    return least * race->options->low > race->best;
}

static bool complete(struct race *race, struct runner *runner, struct error *error)
{
    struct race_side *side = race->side;
    struct prune_candidate *candidate = runner->candidate;
    OWNED_MEMORY double *terms = memory_create(side->item_count + 1, sizeof *terms);
    if (!objective_terms(side->objective, 0, side->item_count, runner->values, terms, error)) {
        return false;
    }
    candidate->score = objective_total(side->objective, terms);
    candidate->standing = PRUNE_EXACT;
    runner->is_alive = false;
    side->completed++;
    if (!isfinite(candidate->score)) {
        return error_set(error, ERROR_NUMERIC, "the distance without sublayer %zu is not a finite number",
                         candidate->unit.first);
    }
    race->best = fmin(race->best, value_of(candidate) * race->options->high);
    struct race_memory *memory = objective_selects(side->objective) ? race->options->memory : NULL;
    return memory == NULL ||
           race_memory_keep(memory, &candidate->unit, runner->values, race->token_count, error);
}

static void drop_losers(struct race *race)
{
    for (size_t i = 0; i < race->count; i++) {
        struct runner *runner = &race->runners[i];
        if (runner->is_alive && is_beaten(race, runner)) {
            double least = race->is_sampled ? estimate(race, runner).least : bound_of(race, runner);
            race->side->sampled += bound_of(race, runner) * race->options->low > race->best ? 0 : 1;
            runner->candidate->score = least * runner->candidate->cost;
            runner->candidate->standing = PRUNE_BOUND;
            runner->is_alive = false;
            race->side->aborted++;
        }
    }
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

/* All tokens of the view, of slots [0, count) of race->slots. */
static bool see_all(struct race *race, const struct wave_view *view, size_t count, struct error *error)
{
    struct race_side *side = race->side;
    for (size_t i = 0; i < count; i++) {
        race->values[i] = race->runners[race->members[view->units[race->slots[i]]]].values + view->first_row;
    }
    struct objective_query query = {.hidden = view->hidden,
                                    .slots = race->slots,
                                    .slot_count = count,
                                    .first_item = view->first_item,
                                    .item_count = view->item_count,
                                    .values = race->values};
    if (!objective_evaluate(side->objective, &query, error)) {
        return false;
    }
    OWNED_MEMORY double *terms = memory_create(view->item_count + 1, sizeof *terms);
    for (size_t i = 0; i < count; i++) {
        struct runner *runner = &race->runners[race->members[view->units[race->slots[i]]]];
        if (!objective_terms(side->objective, view->first_item, view->item_count, race->values[i], terms,
                             error)) {
            return false;
        }
        for (size_t item = 0; item < view->item_count; item++) {
            runner->partial += terms[item];
            runner->seen[view->first_item + item] = SEEN_ALL;
        }
    }
    return true;
}

/* The view's heavy tokens, or its others. */
static bool see_some(struct race *race, const struct wave_view *view, size_t count, bool is_heavy,
                     struct error *error)
{
    struct race_side *side = race->side;
    size_t token_count = 0;
    for (size_t t = 0; t < view->row_count; t++) {
        if (race->is_heavy[view->first_row + t] == is_heavy) {
            race->tokens[token_count++] = t;
        }
    }
    for (size_t i = 0; i < count; i++) {
        race->values[i] = race->runners[race->members[view->units[race->slots[i]]]].values + view->first_row;
    }
    struct objective_query query = {.hidden = view->hidden,
                                    .slots = race->slots,
                                    .slot_count = count,
                                    .first_item = view->first_item,
                                    .item_count = view->item_count,
                                    .tokens = race->tokens,
                                    .token_count = token_count,
                                    .values = race->values};
    if (!objective_evaluate(side->objective, &query, error)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        struct runner *runner = &race->runners[race->members[view->units[race->slots[i]]]];
        runner->partial += objective_bound(side->objective, race->values[i], race->tokens, token_count);
        memset(runner->seen + view->first_item, is_heavy ? SEEN_HEAVY : SEEN_ALL, view->item_count);
    }
    return true;
}

static size_t take_all_slots(struct race *race, const struct wave_view *view)
{
    for (size_t i = 0; i < view->unit_count; i++) {
        race->slots[i] = i;
    }
    return view->unit_count;
}

/*
 * In the race. The heavy tokens carry most of anybody's sum: whoever they are enough to beat is not seen on the others. What a runner
 * is expected to come to, times the share of heavy tokens, is what they alone come to in the end.
 */
static bool visit_race(void *context, const struct wave_view *view, struct error *error)
{
    struct race *race = context;
    size_t count = take_all_slots(race, view);
    if (!race->has_heavy) {
        return see_all(race, view, count, error);
    }
    if (!see_some(race, view, count, true, error)) {
        return false;
    }
    double limit = CONTENDER_MARGIN / race->heavy_share;
    size_t contenders = 0;
    for (size_t i = 0; i < count; i++) {
        const struct runner *runner = &race->runners[race->members[view->units[i]]];
        if (!is_beaten(race, runner) &&
            (race->is_sampled || estimate(race, runner).expected < limit * race->best)) {
            race->slots[contenders++] = i;
        }
    }
    return see_some(race, view, contenders, false, error);
}

/* Whatever of these items, which were all seen alike, one runner was not seen on. */
static bool visit_rest(void *context, const struct wave_view *view, struct error *error)
{
    struct race *race = context;
    size_t count = take_all_slots(race, view);
    const struct runner *runner = &race->runners[race->members[view->units[0]]];
    CHECK(count == 1 || runner->seen[view->first_item] == SEEN_NOTHING);
    return runner->seen[view->first_item] == SEEN_HEAVY ? see_some(race, view, count, false, error)
                                                        : see_all(race, view, count, error);
}

static bool run_members(struct race *race, size_t member_count, size_t first_item, size_t item_count,
                        bool keeps,
                        bool (*visit)(void *context, const struct wave_view *view, struct error *error),
                        struct error *error)
{
    for (size_t m = 0; m < member_count; m++) {
        race->units[m] = race->runners[race->members[m]].candidate->unit;
    }
    return wave_run(race->side->engine, race->units, member_count, first_item, item_count, keeps, visit, race,
                    error);
}

static bool finish_alone(struct race *race, size_t index, struct error *error)
{
    struct race_side *side = race->side;
    struct runner *runner = &race->runners[index];
    for (size_t item = 0; item < side->item_count;) {
        size_t end = item + 1;
        while (end < side->item_count && runner->seen[end] == runner->seen[item]) {
            end++;
        }
        race->members[0] = index;
        if (runner->seen[item] != SEEN_ALL &&
            !run_members(race, 1, item, end - item, end - item == side->item_count, visit_rest, error)) {
            return false;
        }
        item = end;
    }
    return complete(race, runner, error) && settle(race, error);
}

/* Everyone, whatever it comes to; a wave at a time, because a wave is a resume point. */
static bool run_exhaustively(struct race *race, struct error *error)
{
    size_t capacity = wave_unit_capacity(race->side->engine);
    for (size_t first = 0; first < race->count;) {
        size_t count = 0;
        for (; first < race->count && count < capacity; first++) {
            if (race->runners[first].is_alive) {
                race->members[count++] = first;
            }
        }
        if (count == 0) {
            break;
        }
        if (!run_members(race, count, 0, race->side->item_count, count == 1, visit_rest, error)) {
            return false;
        }
        for (size_t m = 0; m < count; m++) {
            if (!complete(race, &race->runners[race->members[m]], error)) {
                return false;
            }
        }
        if (!settle(race, error)) {
            return false;
        }
    }
    return true;
}

/* ---- the race ---------------------------------------------------------------------------------------------------- */

static int by_value_falling(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return left > right ? -1 : left < right ? 1 : 0;
}

/* What tells which tokens weigh most: the leader's values, before there is one those of the model as it is. NULL: nothing yet. */
static const double *find_weights(const struct race *race)
{
    return race->leader != NULL ? race->leader : race->is_sampled ? race->options->memory->current : NULL;
}

/* A quarter of the tokens, those that weigh most; half of them, where they also say what the others come to. The choice stands for the
 * round. */
static void choose_heavy(struct race *race)
{
    const double *weights = find_weights(race);
    if (race->has_heavy || weights == NULL || !objective_selects(race->side->objective)) {
        return;
    }
    OWNED_MEMORY double *sorted = memory_create(race->token_count + 1, sizeof *sorted);
    memcpy(sorted, weights, race->token_count * sizeof *sorted);
    qsort(sorted, race->token_count, sizeof *sorted, by_value_falling);
    double limit = sorted[race->token_count / (race->is_sampled ? 2 : 4)];
    double heavy = 0.0;
    double all = 0.0;
    for (size_t t = 0; t < race->token_count; t++) {
        race->is_heavy[t] = weights[t] > limit;
        heavy += race->is_heavy[t] ? weights[t] : 0.0;
        all += weights[t];
    }
    race->heavy_share = heavy / all;
    race->has_heavy = heavy > 0;
}

/* The chunk whose (heavy) tokens weigh most, of those that were not run: it tells most. */
static size_t choose_chunk(const struct race *race, const bool *is_run)
{
    const struct race_side *side = race->side;
    const double *weights = find_weights(race);
    size_t chosen = side->chunk_count;
    double most = -1;
    for (size_t c = 0; c < side->chunk_count; c++) {
        size_t first = wave_rows_of(side->engine, 0, side->chunk_first[c]);
        size_t end = wave_rows_of(side->engine, 0, side->chunk_first[c + 1]);
        double weight = 0.0;
        for (size_t t = first; t < end && weights != NULL; t++) {
            weight += !race->has_heavy || race->is_heavy[t] ? weights[t] : 0.0;
        }
        if (!is_run[c] && weight > most) {
            most = weight;
            chosen = c;
        }
    }
    return chosen;
}

/* The runner that is expected to come to the least, and to less than the best so far; where that is known of nobody, the one that has
 * come to the least. count: none. */
static size_t find_ahead(const struct race *race)
{
    size_t expected = race->count;
    size_t nearest = race->count;
    double lowest = race->options->confirm != NULL ? race->best * WORTH_LEADING : race->best;
    double least = race->best;
    for (size_t i = 0; i < race->count; i++) {
        const struct runner *runner = &race->runners[i];
        if (!runner->is_alive) {
            continue;
        }
        double value = estimate(race, runner).expected;
        if (value < lowest) {
            lowest = value;
            expected = i;
        }
        if (isinf(value) && bound_of(race, runner) < least) {
            least = bound_of(race, runner);
            nearest = i;
        }
    }
    return expected < race->count || race->leader != NULL ? expected : nearest;
}

static size_t list_alive(struct race *race)
{
    size_t count = 0;
    for (size_t i = 0; i < race->count; i++) {
        if (race->runners[i].is_alive) {
            race->members[count++] = i;
        }
    }
    return count;
}

/* The lowest of what an earlier round, or another side, said, where it may win. race->count: nobody. */
static size_t find_favourite(const struct race *race)
{
    size_t found = race->count;
    double lowest = race->best;
    for (size_t i = 0; i < race->count; i++) {
        const struct prune_candidate *candidate = race->runners[i].candidate;
        if (race->runners[i].is_alive && candidate->prior / candidate->cost < lowest) {
            lowest = candidate->prior / candidate->cost;
            found = i;
        }
    }
    return found;
}

/* What is known of the runner's tokens on the side that decides, for each that came to as much here. */
static double exact_ratio(const struct race *race, const struct runner *runner, const double *exact)
{
    size_t count = list_seen(race, runner);
    double own = 0.0;
    double known = 0.0;
    for (size_t i = 0; i < count; i++) {
        own += runner->values[race->tokens[i]];
        known += exact[race->tokens[i]];
    }
    return known / own;
}

static void follow(struct race *race, const double *values, double value, double cost)
{
    if (race->leader == NULL || value < race->leader_value) {
        race->leader = values;
        race->leader_value = value;
        race->leader_cost = cost;
    }
}

/* Elsewhere, exactly. */
static bool confirm(struct race *race, struct runner *runner, struct error *error)
{
    const struct race_options *options = race->options;
    struct prune_candidate *candidate = runner->candidate;
    size_t index = (size_t)(candidate - race->round->candidates);
    double score = NAN;
    bool is_exact = false;
    if (!options->confirm(options->context, index, &score, &is_exact, error)) {
        return false;
    }
    runner->is_alive = false;
    if (!is_exact) {
        candidate->score = score / options->low;
        candidate->standing = PRUNE_BOUND;
        return true;
    }
    const double *exact = options->memory->known[candidate->unit.first];
    double ratio = exact_ratio(race, runner, exact);
    candidate->score = ratio > 0 && isfinite(ratio) ? score / ratio : score;
    candidate->standing = PRUNE_EXACT;
    race->best = fmin(race->best, score / candidate->cost);
    follow(race, exact, score / candidate->cost, candidate->cost);
    return true;
}

static bool lead(struct race *race, size_t index, struct error *error)
{
    struct runner *runner = &race->runners[index];
    if (race->options->confirm != NULL) {
        if (!confirm(race, runner, error)) {
            return false;
        }
    } else {
        if (!finish_alone(race, index, error)) {
            return false;
        }
        follow(race, runner->values, value_of(runner->candidate), runner->candidate->cost);
    }
    choose_heavy(race);
    drop_losers(race);
    return true;
}

static bool run_race(struct race *race, struct error *error)
{
    struct race_side *side = race->side;
    bool is_run[RACE_CHUNKS + 1] = {false};
    /* What an earlier round said tells less than some tokens do, where they say what the whole comes to. */
    bool is_told = race->is_sampled && race->options->memory->current != NULL;
    size_t favourite = is_told ? race->count : find_favourite(race);
    if (favourite < race->count && !lead(race, favourite, error)) {
        return false;
    }
    choose_heavy(race);
    drop_losers(race);
    for (size_t c = 0; c < side->chunk_count; c++) {
        size_t chunk = choose_chunk(race, is_run);
        size_t first = side->chunk_first[chunk];
        size_t count = list_alive(race);
        if (count == 0) {
            break;
        }
        is_run[chunk] = true;
        if (!run_members(race, count, first, side->chunk_first[chunk + 1] - first, false, visit_race,
                         error)) {
            return false;
        }
        drop_losers(race);
        for (size_t ahead = 0; (ahead = find_ahead(race)) < race->count;) {
            if (!lead(race, ahead, error)) {
                return false;
            }
        }
    }
    for (size_t i = 0; i < race->count; i++) {
        if (race->runners[i].is_alive && !finish_alone(race, i, error)) {
            return false;
        }
        drop_losers(race);
    }
    return settle(race, error);
}

/* ---- lazy rounds ------------------------------------------------------------------------------------------------- */

/*
 * Lazy greedy (a heuristic: scores may fall when more is gone). Whoever did worse before than (the favourite's score now) /
 * (1 - epsilon) stays pending. The favourite is the lowest of what earlier rounds said, evaluated or not, so that a round that is
 * resumed leaves the same candidates out; nobody goes early, for the same reason.
 */
static bool leave_out(struct race *race, struct error *error)
{
    struct prune_round *round = race->round;
    const struct prune_candidate *favourite = NULL;
    for (size_t i = 0; i < round->count; i++) {
        const struct prune_candidate *candidate = &round->candidates[i];
        if (!isnan(candidate->prior) &&
            (favourite == NULL || candidate->prior / candidate->cost < favourite->prior / favourite->cost)) {
            favourite = candidate;
        }
    }
    if (favourite == NULL) {
        return true;
    }
    for (size_t i = 0; i < race->count; i++) {
        if (race->runners[i].candidate == favourite && !finish_alone(race, i, error)) {
            return false;
        }
    }
    double limit = value_of(favourite) / (1 - round->lazy_epsilon);
    for (size_t i = 0; i < race->count; i++) {
        const struct prune_candidate *candidate = race->runners[i].candidate;
        if (race->runners[i].is_alive && candidate->prior / candidate->cost >= limit) {
            race->runners[i].is_alive = false;
            race->side->left_out++;
        }
    }
    return true;
}

/* ---- the door ---------------------------------------------------------------------------------------------------- */

static void make_control(struct race *race, struct runner *runner, double *memory)
{
    const double *known = race->options->memory->known[runner->candidate->unit.first];
    const double *current = race->options->memory->current;
    if (known == NULL || current == NULL) {
        return;
    }
    for (size_t t = 0; t < race->token_count; t++) {
        memory[t] = known[t] + current[t];
    }
    runner->control = memory;
}

/* memory: of a runner's values, and of its control where candidates are sampled. */
static bool run_all(struct race *race, double *memory, unsigned char *seen, struct error *error)
{
    const struct prune_round *round = race->round;
    const struct race_side *side = race->side;
    size_t stride = race->token_count * (race->is_sampled ? 2 : 1);
    for (size_t i = 0; i < round->count; i++) {
        struct prune_candidate *candidate = &round->candidates[i];
        if (candidate->standing == PRUNE_EXACT) {
            const double *known =
                race->options->memory != NULL ? race->options->memory->known[candidate->unit.first] : NULL;
            race->best = fmin(race->best, value_of(candidate));
            if (known != NULL) {
                follow(race, known, value_of(candidate), candidate->cost);
            }
        }
        if (candidate->standing == PRUNE_PENDING) {
            race->runners[race->count] = (struct runner){
                .candidate = candidate,
                .values = memory + race->count * stride,
                .seen = seen + race->count * side->item_count,
                .is_alive = true,
            };
            struct runner *runner = &race->runners[race->count++];
            if (race->is_sampled) {
                make_control(race, runner, runner->values + race->token_count);
            }
        }
    }
    if (race->count == 0) {
        return true;
    }
    bool is_lazy = round->lazy_epsilon >= 0;
    bool races =
        !is_lazy && !race->options->is_exhaustive && side->chunk_count > 1 && model_is_resident(side->model);
    if (is_lazy && !leave_out(race, error)) {
        return false;
    }
    /* One alone has nobody to race against; in one piece its states can be kept. */
    bool is_alone = race->count == 1 && isinf(race->best);
    return races && !is_alone ? run_race(race, error) : run_exhaustively(race, error);
}

bool race_run(struct race_side *side, struct prune_round *round, const struct race_options *options,
              struct error *error)
{
    size_t count = round->count + 1;
    size_t tokens = wave_rows_of(side->engine, 0, side->item_count);
    struct race race = {
        .side = side, .round = round, .options = options, .token_count = tokens, .best = INFINITY};
    race.is_sampled = options->is_sampled && objective_selects(side->objective);
    OWNED_MEMORY struct runner *runners = memory_create(count, sizeof *runners);
    OWNED_MEMORY size_t *members = memory_create(count, sizeof *members);
    OWNED_MEMORY size_t *slots = memory_create(count, sizeof *slots);
    OWNED_MEMORY struct prune_unit *units = memory_create(count, sizeof *units);
    OWNED_MEMORY double **values = memory_create(count, sizeof *values);
    OWNED_MEMORY size_t *listed = memory_create(tokens + 1, sizeof *listed);
    OWNED_MEMORY bool *is_heavy = memory_create(tokens + 1, sizeof *is_heavy);
    OWNED_MEMORY unsigned char *seen = memory_create(count * side->item_count + 1, 1);
    OWNED_MEMORY double *memory =
        memory_try_array(count * tokens * (race.is_sampled ? 2 : 1) + 1, sizeof *memory, "distances", error);
    race.runners = runners;
    race.members = members;
    race.slots = slots;
    race.units = units;
    race.values = values;
    race.tokens = listed;
    race.is_heavy = is_heavy;
    return memory != NULL && run_all(&race, memory, seen, error);
}

/* Chunks of about equal size: at least one item, and no smaller than a sixteenth of all rows. */
static void cut_chunks(struct race_side *side)
{
    size_t least = (wave_rows_of(side->engine, 0, side->item_count) + RACE_CHUNKS - 1) / RACE_CHUNKS;
    side->chunk_first = memory_create(RACE_CHUNKS + 2, sizeof *side->chunk_first);
    for (size_t item = 0, first = 0; item < side->item_count; item++) {
        bool is_last = item + 1 == side->item_count;
        if (is_last || (wave_rows_of(side->engine, first, item + 1 - first) >= least &&
                        side->chunk_count + 1 < RACE_CHUNKS)) {
            first = item + 1;
            side->chunk_first[++side->chunk_count] = first;
        }
    }
}

void race_side_start(struct race_side *side, struct model *model, const struct objective_text *text,
                     const struct objective_options *objective, const struct wave_options *wave)
{
    side->model = model;
    side->engine = wave_engine_create(model, text, objective, wave);
    side->item_count = text->batch.sequence_count;
    cut_chunks(side);
}

void race_side_restart(struct race_side *side)
{
    side->objective = NULL;
}

bool race_side_reach(struct race_side *side, const bool *removed, size_t first, struct error *error)
{
    if (side->objective != NULL) {
        return wave_reach(side->engine, first, error);
    }
    if (!wave_restart(side->engine, removed, first, error)) {
        return false;
    }
    side->objective = wave_engine_objective(side->engine);
    return true;
}

bool race_side_commit(struct race_side *side, const struct prune_unit *unit, struct error *error)
{
    return side->objective == NULL || wave_commit(side->engine, unit, error);
}

void race_side_finish(struct race_side *side)
{
    wave_engine_destroy(side->engine);
    free(side->chunk_first);
    *side = (struct race_side){0};
}
