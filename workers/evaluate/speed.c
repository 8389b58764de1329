/* workers/evaluate/speed.c: medians of timed runs. The tokens are arbitrary and fixed: a dense model's speed
 * does not depend on them. */
#include "workers/evaluate/speed.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/evaluate/score.h"

#include <stdio.h>
#include <string.h>

#define SPEED_RUNS_MAX 1000

struct speed_run {
    struct model *model;
    const struct evaluate_control *control;
    const struct clock_source *clock;
    int32_t *tokens;    /* [prompt_tokens] */
    int32_t *generated; /* [decode_tokens] */
    float *logits;      /* [vocab_size] */
    size_t prompt_tokens, decode_tokens;
};

static bool time_prefill(struct speed_run *run, double *ret_seconds, struct error *error)
{
    struct token_sequence sequence = {.tokens = run->tokens, .count = run->prompt_tokens};
    struct token_batch batch = {.sequences = &sequence, .sequence_count = 1};
    OWNED(hidden) hidden = hidden_create(run->model, &batch, error);
    if (hidden == NULL) {
        return false;
    }
    int64_t start = clock_boot_ns(run->clock);
    if (!model_embed(run->model, &batch, hidden, error) ||
        !model_run_from(run->model, 0, run->control->removed, hidden, error) ||
        !model_logits(run->model, hidden, 0, run->prompt_tokens - 1, 1, run->logits, error)) {
        return false;
    }
    *ret_seconds = (double)(clock_boot_ns(run->clock) - start) / 1e9;
    return true;
}

static bool time_decode(struct speed_run *run, double *ret_seconds, struct error *error)
{
    struct generation generation = {
        .prompt = run->tokens, .prompt_count = 1, .tokens = run->generated, .max_tokens = run->decode_tokens};
    int64_t start = clock_boot_ns(run->clock);
    if (!model_generate(run->model, run->control->removed, &generation, 1, NULL, 0, error)) {
        return false;
    }
    *ret_seconds = (double)(clock_boot_ns(run->clock) - start) / 1e9;
    return true;
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare_doubles);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Median seconds of run_count runs after warmup_count others. */
static bool time_runs(struct speed_run *run, const struct speed *speed, const char *what,
                      bool (*time_once)(struct speed_run *, double *, struct error *), double *ret_seconds,
                      struct error *error)
{
    double seconds[SPEED_RUNS_MAX] = {0};
    for (size_t i = 0; i < speed->warmup_count + speed->run_count; i++) {
        double *slot = &seconds[i < speed->warmup_count ? 0 : i - speed->warmup_count];
        if (!cancel_check_now(run->control->cancel, error) || !time_once(run, slot, error)) {
            return false;
        }
        score_progress(run->control, what, i + 1, speed->warmup_count + speed->run_count, "runs");
    }
    *ret_seconds = median(seconds, speed->run_count);
    return true;
}

static double rate(size_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

static size_t smallest(size_t left, size_t right)
{
    return left < right ? left : right;
}

bool speed_measure(struct model *model, const struct speed_options *options,
                   const struct evaluate_control *control, struct speed *ret_speed, struct error *error)
{
    const struct model_config *config = model_get_config(model);
    size_t context = config->context_tokens > 1 ? config->context_tokens : 2;
    struct speed speed = {.run_count =
                              smallest(options->run_count > 0 ? options->run_count : 5, SPEED_RUNS_MAX),
                          .warmup_count = options->warmup_count,
                          .threads = options->threads,
                          .backend = options->backend,
                          .dtype = options->dtype != NULL ? options->dtype : "float32"};
    speed.prompt_tokens = options->prompt_tokens > 0 ? options->prompt_tokens : smallest(256, context / 2);
    speed.decode_tokens = options->decode_tokens > 0 ? options->decode_tokens : smallest(64, context - 1);
    if (speed.prompt_tokens > context || speed.decode_tokens >= context) {
        return error_set(error, ERROR_OUT_OF_RANGE,
                         "speed over %zu prompt and %zu new tokens; the model's context has %zu",
                         speed.prompt_tokens, speed.decode_tokens, context);
    }
    struct speed_run run = {.model = model,
                            .control = control,
                            .clock = options->clock != NULL ? options->clock : &clock_system,
                            .prompt_tokens = speed.prompt_tokens,
                            .decode_tokens = speed.decode_tokens};
    run.tokens = memory_create(speed.prompt_tokens, sizeof *run.tokens);
    run.generated = memory_create(speed.decode_tokens, sizeof *run.generated);
    run.logits = memory_create(config->vocab_size, sizeof *run.logits);
    for (size_t i = 0; i < speed.prompt_tokens; i++) {
        run.tokens[i] = (int32_t)((i * 7919 + 11) % config->vocab_size);
    }
    double prefill = 0, decode = 0;
    bool ok = time_runs(&run, &speed, "prefill", time_prefill, &prefill, error) &&
              time_runs(&run, &speed, "decode", time_decode, &decode, error);
    free(run.tokens);
    free(run.generated);
    free(run.logits);
    if (!ok) {
        return false;
    }
    speed.prefill_tokens_per_second = rate(speed.prompt_tokens, prefill);
    speed.decode_tokens_per_second = rate(speed.decode_tokens, decode);
    *ret_speed = speed;
    return true;
}

json_t *speed_format(const struct speed *speed)
{
    json_t *json = json_object();
    json_put_double(json, "prefill_tokens_per_second", speed->prefill_tokens_per_second);
    json_put_double(json, "decode_tokens_per_second", speed->decode_tokens_per_second);
    json_put_i64(json, "prompt_tokens", (int64_t)speed->prompt_tokens);
    json_put_i64(json, "decode_tokens", (int64_t)speed->decode_tokens);
    json_put_i64(json, "runs", (int64_t)speed->run_count);
    json_put_i64(json, "warmups", (int64_t)speed->warmup_count);
    json_put_i64(json, "threads", (int64_t)speed->threads);
    json_put_text(json, "backend", speed->backend);
    json_put_text(json, "dtype", speed->dtype);
    return json;
}

static uint64_t read_status(const char *label)
{
    FILE *status = fopen("/proc/self/status", "re");
    if (status == NULL) {
        return 0;
    }
    char line[256];
    uint64_t kibibytes = 0;
    while (fgets(line, sizeof line, status) != NULL) {
        if (text_starts_with(line, label)) {
            const char *digits = line + strcspn(line, "0123456789");
            (void)text_parse_u64(digits, strspn(digits, "0123456789"), &kibibytes);
            break;
        }
    }
    (void)fclose(status);
    return kibibytes * 1024;
}

uint64_t speed_peak_rss_bytes(void)
{
    return read_status("VmHWM:");
}

uint64_t speed_rss_bytes(void)
{
    return read_status("VmRSS:");
}
