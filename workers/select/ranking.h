/*
 * workers/select/ranking.h: which records come first, and how many of them a budget pays for. Every "top n" of a selector goes
 * through here, so that all agree on ties and on what is no number.
 *
 * The order: by score, falling or rising; records of equal score by index, the smaller first; -0.0 equals 0.0; infinities are
 * scores like others. A NaN is an error that names its record, or drops the record, as the caller says.
 *
 * The best n of N are kept in a heap whose root is the worst of them, and sorted at the end: O(N log n) at worst, whatever the
 * scores, and no memory beside the result.
 *
 * Budgets: of records, or of tokens (selectors are compared at equal tokens, because equal counts favour those who like long
 * records). A token budget takes records in order while the next one fits. One that does not fit is passed over for good, and
 * the walk goes on: later, shorter ones may still fit. So the tokens used never exceed the budget, and what is left over is
 * smaller than every record passed over. A record of no tokens always fits. A longer order never changes what its beginning took.
 *
 * Threads: none of these keeps state.
 */
#ifndef WORKERS_SELECT_RANKING_H
#define WORKERS_SELECT_RANKING_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ranking_direction { RANKING_FALLING, RANKING_RISING }; /* the best is the highest, the lowest */
enum ranking_nan { RANKING_NAN_ERROR, RANKING_NAN_DROP };

/* The best `wanted` of the records 0 ... count - 1, the best first. scores: [count]. ret_order: room for the smaller of wanted and
 * count; ret_count: how many it holds, less than that only where records were dropped. NUMERIC. */
bool ranking_order(const double *scores, size_t count, enum ranking_direction direction, enum ranking_nan nan,
                   size_t wanted, size_t *ret_order, size_t *ret_count, struct error *error) MUST_USE;

enum budget_unit { BUDGET_RECORDS, BUDGET_TOKENS };
struct budget {
    enum budget_unit unit;
    uint64_t limit;
};
struct budget_use {
    size_t records;
    uint64_t tokens; /* of these records */
};
/* What of the budget is left after a use within it, in its unit. */
uint64_t budget_unused(const struct budget *budget, const struct budget_use *use);
/* One step of such a walk: adds a record of so many tokens to the use, or says that it does not fit. */
bool budget_take(const struct budget *budget, uint32_t tokens, struct budget_use *use) MUST_USE;
/* Takes records from the front of an order. order: [count] record numbers; tokens: by record number, NULL: not known (BUDGET_RECORDS
 * only; the use then says 0). ret_taken: room for count, in the order's order; it may be `order` itself. */
struct budget_use ranking_fill(const struct budget *budget, const size_t *order, size_t count,
                               const uint32_t *tokens, size_t *ret_taken);

#endif
