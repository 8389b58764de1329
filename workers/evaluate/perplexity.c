/*
 * workers/evaluate/perplexity.c: both protocols are the same walk over a list of ids, with other strides.
 * `rolling` scores ids[1..] in windows of W, each fed the token before it: stride W, W scored. `gptq` cuts
 * windows of W of which the first token is context only: stride W, W - 1 scored. Feeding ids[s, s + n) and
 * asking for ids[s + 1, s + n + 1) says both.
 */
#include "workers/evaluate/perplexity.h"
#include "base/memory.h"
#include "workers/data/windows.h"
#include "workers/evaluate/score.h"

#include <math.h>
#include <string.h>

bool perplexity_protocol_parse(const char *text, enum perplexity_protocol *ret_protocol)
{
    if (strcmp(text, "gptq") == 0) {
        *ret_protocol = PERPLEXITY_GPTQ;
    } else if (strcmp(text, "rolling") == 0) {
        *ret_protocol = PERPLEXITY_ROLLING;
    } else {
        return false;
    }
    return true;
}

const char *perplexity_protocol_name(enum perplexity_protocol protocol)
{
    return protocol == PERPLEXITY_ROLLING ? "rolling" : "gptq";
}

/* The windows of a whole measurement. ids live in the streams of the caller. */
struct window_list {
    struct score_item *items;
    size_t count, capacity;
};

static void add_window(struct window_list *list, const int32_t *ids, size_t count)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity == 0 ? 256 : list->capacity * 2;
        list->items = memory_resize(list->items, list->capacity, sizeof *list->items);
    }
    list->items[list->count++] = (struct score_item){.tokens = ids, .count = count};
}

static bool list_gptq(const struct corpus *corpus, const struct tokenizer *tokenizer, size_t vocab_size,
                      const struct evaluate_control *control, struct tokens *ids, struct window_list *list,
                      struct perplexity *result, struct error *error)
{
    struct token_stream stream = {0};
    if (!token_stream_create(corpus, tokenizer, vocab_size, control->cancel, &stream, error)) {
        return false;
    }
    *ids = stream.tokens; /* handed over */
    result->text_tokens = ids->count - stream.bos_count;
    result->text_bytes = stream.byte_count;
    size_t window = result->window_tokens;
    if (ids->count < window) {
        return error_set_field(error, ERROR_TEXT_TOO_SHORT, corpus->name,
                               "%s (%s) has %zu tokens; one window needs %zu", corpus->name,
                               corpus_half_name(corpus->half), ids->count, window);
    }
    for (size_t start = 0; start + window <= ids->count; start += window) {
        add_window(list, ids->ids + start, window - 1);
    }
    return true;
}

/* All documents' ids one after another in `ids`, each led by the prefix token; windows do not cross
 * documents. */
static bool list_rolling(const struct corpus *corpus, const struct tokenizer *tokenizer, size_t vocab_size,
                         int32_t prefix, const struct evaluate_control *control, struct tokens *ids,
                         struct window_list *list, struct perplexity *result, struct error *error)
{
    size_t *ends = memory_create(corpus->document_count, sizeof *ends); /* ids may move while they grow */
    bool ok = true;
    for (size_t i = 0; ok && i < corpus->document_count; i++) {
        const struct document *document = &corpus->documents[i];
        if (prefix >= 0) {
            tokens_append(ids, prefix);
        }
        size_t start = ids->count;
        ok = tokenizer_encode(tokenizer, document->bytes, document->length, false, ids, error) &&
             token_ids_check(ids->ids + start, ids->count - start, vocab_size, corpus->name, error) &&
             cancel_check_now(control->cancel, error);
        result->text_tokens += ids->count - start;
        ends[i] = ids->count;
    }
    result->text_bytes = corpus->byte_count;
    for (size_t i = 0, start = 0; ok && i < corpus->document_count; start = ends[i], i++) {
        for (size_t at = start; at + 1 < ends[i]; at += result->window_tokens) {
            size_t left = ends[i] - 1 - at;
            add_window(list, ids->ids + at, left < result->window_tokens ? left : result->window_tokens);
        }
    }
    free(ends);
    if (ok && list->count == 0) {
        return error_set_field(error, ERROR_TEXT_TOO_SHORT, corpus->name, "%s (%s) has no token to score",
                               corpus->name, corpus_half_name(corpus->half));
    }
    return ok;
}

static void resume_windows(const struct evaluate_control *control, struct perplexity *result,
                           size_t *ret_done)
{
    const json_t *buckets = json_object_get(control->resume, "buckets");
    *ret_done = (size_t)score_resume_count(control, "done");
    result->token_count = score_resume_count(control, "tokens");
    result->nll_sum = json_number_value(json_object_get(control->resume, "nll_sum"));
    for (size_t i = 0; i < SCORE_BUCKETS; i++) {
        result->bucket_nll[i] = json_number_value(json_array_get(buckets, i));
    }
}

static void keep_windows(const struct evaluate_control *control, const struct perplexity *result, size_t done)
{
    if (control->resume == NULL) {
        return;
    }
    json_t *buckets = json_array();
    for (size_t i = 0; i < SCORE_BUCKETS; i++) {
        (void)json_array_append_new(buckets, json_real(result->bucket_nll[i]));
    }
    json_put(control->resume, "buckets", buckets);
    json_put_double(control->resume, "nll_sum", result->nll_sum);
    score_keep_count(control, "tokens", result->token_count);
    score_keep_count(control, "done", done);
}

static bool score_windows(struct model *model, struct window_list *list,
                          const struct evaluate_control *control, struct perplexity *result,
                          struct error *error)
{
    const char *what = perplexity_protocol_name(result->protocol);
    size_t done = 0;
    resume_windows(control, result, &done);
    for (size_t i = 0; i < list->count; i++) {
        list->items[i].bucket_sums = result->bucket_nll;
        for (size_t t = list->items[i].first_scored; t < list->items[i].count; t++) {
            result->bucket_tokens[score_bucket(t + 1)]++;
        }
    }
    while (done < list->count) {
        size_t size = score_batch_size(list->items + done, list->count - done, control);
        if (!score_batch(model, list->items + done, size, control, error)) {
            return false;
        }
        for (size_t i = done; i < done + size; i++) {
            result->nll_sum += list->items[i].nll_sum;
            result->token_count += list->items[i].count;
        }
        done += size;
        keep_windows(control, result, done);
        score_progress(control, what, done, list->count, "windows");
    }
    return true;
}

static bool check_window(const struct model *model, size_t window_tokens, struct error *error)
{
    size_t context = model_get_config(model)->context_tokens;
    if (window_tokens < 2 || (context > 0 && window_tokens > context)) {
        return error_set_field(error, ERROR_OUT_OF_RANGE, "/evaluation/window_tokens",
                               "a window of %zu tokens; this model takes 2 to %zu", window_tokens, context);
    }
    return true;
}

bool perplexity_measure(struct model *model, const struct tokenizer *tokenizer, const struct corpus *corpus,
                        enum perplexity_protocol protocol, size_t window_tokens,
                        const struct evaluate_control *control, struct perplexity *ret_perplexity,
                        struct error *error)
{
    struct perplexity result = {.protocol = protocol, .window_tokens = window_tokens};
    size_t vocab_size = model_get_config(model)->vocab_size;
    struct tokens ids = {0};
    struct window_list list = {0};
    bool ok = check_window(model, window_tokens, error) &&
              (protocol == PERPLEXITY_GPTQ
                   ? list_gptq(corpus, tokenizer, vocab_size, control, &ids, &list, &result, error)
                   : list_rolling(corpus, tokenizer, vocab_size, score_prefix_token(model, tokenizer),
                                  control, &ids, &list, &result, error)) &&
              score_windows(model, &list, control, &result, error);
    result.window_count = list.count;
    free(list.items);
    tokens_finish(&ids);
    if (!ok) {
        return false;
    }
    result.nll_mean = result.nll_sum / (double)result.token_count;
    result.perplexity = exp(result.nll_mean);
    double bytes = (double)result.text_bytes * ((double)result.token_count / (double)result.text_tokens);
    result.bits_per_byte = result.nll_sum / log(2.0) / bytes;
    *ret_perplexity = result;
    return true;
}

json_t *perplexity_format(const struct perplexity *perplexity)
{
    json_t *json = json_object();
    json_put_text(json, "protocol", perplexity_protocol_name(perplexity->protocol));
    json_put_double(json, "perplexity", perplexity->perplexity);
    json_put_double(json, "nll_mean", perplexity->nll_mean);
    json_put_double(json, "bits_per_byte", perplexity->bits_per_byte);
    json_put_i64(json, "tokens_scored", (int64_t)perplexity->token_count);
    json_put_i64(json, "tokens", (int64_t)perplexity->text_tokens);
    json_put_i64(json, "windows", (int64_t)perplexity->window_count);
    json_put_i64(json, "window_tokens", (int64_t)perplexity->window_tokens);
    json_t *buckets = json_array();
    for (size_t i = 0; i < SCORE_BUCKETS && perplexity->bucket_tokens[i] > 0; i++) {
        double mean = perplexity->bucket_nll[i] / (double)perplexity->bucket_tokens[i];
        int64_t last = ((int64_t)2 << i) - 1,
                most = (int64_t)perplexity->window_tokens - (perplexity->protocol == PERPLEXITY_GPTQ ? 1 : 0);
        json_t *bucket = json_object();
        json_put_i64(bucket, "first", (int64_t)1 << i);
        json_put_i64(bucket, "last", last < most ? last : most);
        json_put_i64(bucket, "tokens", (int64_t)perplexity->bucket_tokens[i]);
        json_put_double(bucket, "nll_mean", mean);
        json_put_double(bucket, "perplexity", exp(mean));
        (void)json_array_append_new(buckets, bucket);
    }
    json_put(json, "by_position", buckets);
    return json;
}
