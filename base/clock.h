/*
 * base/clock.h: time is handed in, so that tests own it. Wall time (Unix UTC) is for display and records;
 * leases and durations use CLOCK_BOOTTIME, which no one can set back.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

struct clock_source {
    int64_t (*wall_ms)(void *context); /* Unix UTC, milliseconds */
    int64_t (*boot_ns)(void *context); /* monotonic, counts suspend, nanoseconds */
    void *context;
};
extern const struct clock_source clock_system;
int64_t clock_wall_ms(const struct clock_source *clock);
int64_t clock_boot_ns(const struct clock_source *clock);
static inline int64_t clock_boot_ms(const struct clock_source *clock)
{
    return clock_boot_ns(clock) / 1000000;
}

#endif
