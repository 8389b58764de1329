/*
 * workers/select/quantile.h: shares of a number of records, and the quantile by inverse distribution function ("type 1", numpy's
 * inverted_cdf): Q_g(X) is the smallest x of X with at least a share g of X at or below it; Q_0 is the least.
 *
 * One rule turns shares into counts: k of n records are the share k / n as rounded to double, and shares are compared as they are. So 0.29
 * of 100 is 29, where floor(0.29 * 100) is 28 (the product rounds to 28.999999999999996).
 *
 * Threads: any; everything is in the caller's memory. No function fails.
 */
#ifndef WORKERS_SELECT_QUANTILE_H
#define WORKERS_SELECT_QUANTILE_H

#include <stddef.h>

/* The most, and the fewest, of `count` records whose share is at most, and at least, `ratio` (0..1). 0 of none. */
size_t quantile_count_within(double ratio, size_t count);
size_t quantile_count_reaching(double ratio, size_t count);

/* Ascending; no value is NaN. */
void quantile_sort(double *values, size_t count);
/* Q_ratio of ascending values; count >= 1. */
double quantile_of_sorted(const double *sorted, size_t count, double ratio);

#endif
