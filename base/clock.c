/* base/clock.c: the system's clocks behind the table that tests replace. */
#include "base/clock.h"
#include "base/check.h"

#include <time.h>

static int64_t clock_system_wall_ms(void *context)
{
    (void)context;
    struct timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t clock_system_boot_ns(void *context)
{
    (void)context;
    struct timespec now;
    CHECK(clock_gettime(CLOCK_BOOTTIME, &now) == 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

const struct clock_source clock_system = {
    .wall_ms = clock_system_wall_ms,
    .boot_ns = clock_system_boot_ns,
};

int64_t clock_wall_ms(const struct clock_source *clock)
{
    return clock->wall_ms(clock->context);
}

int64_t clock_boot_ns(const struct clock_source *clock)
{
    return clock->boot_ns(clock->context);
}
