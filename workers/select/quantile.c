/* workers/select/quantile.c: see quantile.h. The product only guesses the count; the quotients on both sides of it decide. */
#include "workers/select/quantile.h"

#include "base/check.h"
#include <math.h>
#include <stdlib.h>

size_t quantile_count_within(double ratio, size_t count)
{
    CHECK(ratio >= 0 && ratio <= 1);
    if (count == 0) {
        return 0;
    }
    double n = (double)count;
    size_t k = (size_t)floor(ratio * n);
    while (k < count && (double)(k + 1) / n <= ratio) {
        k++;
    }
    while (k > 0 && (double)k / n > ratio) {
        k--;
    }
    return k;
}

size_t quantile_count_reaching(double ratio, size_t count)
{
    size_t k = quantile_count_within(ratio, count);
    return k < count && (double)k / (double)count < ratio ? k + 1 : k;
}

static int compare_values(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

void quantile_sort(double *values, size_t count)
{
    if (count > 0) {
        qsort(values, count, sizeof *values, compare_values);
    }
}

double quantile_of_sorted(const double *sorted, size_t count, double ratio)
{
    CHECK(count > 0);
    size_t rank = quantile_count_reaching(ratio, count);
    return sorted[rank > 0 ? rank - 1 : 0];
}
