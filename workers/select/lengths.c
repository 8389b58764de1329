/* workers/select/lengths.c: see lengths.h. */
#include "workers/select/lengths.h"

#include <math.h>

static double dot(const float *a, const float *b, size_t size)
{
    double sum = 0.0;
    for (size_t c = 0; c < size; c++) {
        sum += (double)a[c] * (double)b[c];
    }
    return sum;
}

bool lengths_square(const float *rows, size_t count, size_t size, const char *what, double *ret_squares,
                    struct error *error)
{
    for (size_t r = 0; r < count; r++) {
        double square = dot(rows + r * size, rows + r * size, size);
        if (!(square <= LENGTHS_SQUARE_LIMIT)) {
            return error_set(error, ERROR_NUMERIC, "%s %zu has a squared length of %g; at most %g will do",
                             what, r, square, LENGTHS_SQUARE_LIMIT);
        }
        ret_squares[r] = square;
    }
    return true;
}

double lengths_inverse(double square)
{
    return square < LENGTHS_SQUARE_ZERO ? 0.0 : 1.0 / sqrt(square);
}

double lengths_cosine(const float *a, double a_square, const float *b, double b_square, size_t size)
{
    if (a_square < LENGTHS_SQUARE_ZERO || b_square < LENGTHS_SQUARE_ZERO) {
        return 0.0;
    }
    /* One root of the product, not a product of roots: that of s * s is s. */
    double cosine = dot(a, b, size) / sqrt(a_square * b_square);
    return cosine > 1.0 ? 1.0 : cosine < -1.0 ? -1.0 : cosine;
}

double lengths_margin(size_t size)
{
    return (double)(size + 16) * 0x1p-24;
}
