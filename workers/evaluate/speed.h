/* workers/evaluate/speed.h: tokens per second and peak memory, with everything a speed must carry: threads,
 * backend, dtype, warm-up, median of runs. Prefill is one sequence of prompt_tokens through all kept
 * sublayers and the head; decode is one sequence, one token at a time, with a cache. Times come from the
 * clock handed in. */
#ifndef WORKERS_EVALUATE_SPEED_H
#define WORKERS_EVALUATE_SPEED_H

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "workers/evaluate/control.h"
#include "workers/model/model.h"
#include <stddef.h>
#include <stdint.h>

struct speed_options {
    size_t prompt_tokens, decode_tokens; /* 0: 256 (at most half of the context) and 64 */
    size_t run_count, warmup_count;      /* 0 runs: 5; warm-ups as they are (SPEED_DEFAULTS: 1) */
    size_t threads;                      /* stated in the result */
    const char *backend, *dtype;         /* stated in the result; dtype NULL: float32 */
    const struct clock_source *clock;    /* NULL: clock_system */
};
#define SPEED_DEFAULTS ((struct speed_options){.run_count = 5, .warmup_count = 1})
struct speed {
    double prefill_tokens_per_second, decode_tokens_per_second; /* medians */
    size_t prompt_tokens, decode_tokens, run_count, warmup_count, threads;
    const char *backend, *dtype;
};
bool speed_measure(struct model *model, const struct speed_options *options,
                   const struct evaluate_control *control, struct speed *ret_speed,
                   struct error *error) MUST_USE;
/* {"prefill_tokens_per_second", "decode_tokens_per_second", "prompt_tokens", "decode_tokens", "runs",
 * "warmups", "threads", "backend", "dtype": "float32"}. Owned. */
json_t *speed_format(const struct speed *speed) MUST_USE;

/* Highest resident set of this process so far (VmHWM); 0 where /proc has none. */
uint64_t speed_peak_rss_bytes(void);
uint64_t speed_rss_bytes(void); /* resident now (VmRSS) */

#endif
