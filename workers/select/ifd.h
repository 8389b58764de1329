/*
 * workers/select/ifd.h: instruction-following difficulty (Cherry LLM, NAACL 2024, 2308.12032), and its later form as a ratio of
 * perplexities (Superfiltering).
 *
 * s(A|Q) and s(A) are the mean losses (nats per token) of an answer's tokens with the prompt in front, and without it.
 *
 *     IFD_LOSS_RATIO        IFD = s(A|Q) / s(A)
 *     IFD_PERPLEXITY_RATIO  IFD = exp(s(A|Q) - s(A))
 *
 * The two do not order alike: losses 1 of 2 and 3 of 5 give 0.5 < 0.6, and e^-1 > e^-2. A score above 1 says that the prompt makes the answer
 * less likely: the pair does not belong together. What is left is ranked by falling score: the hardest prompts that still help.
 *
 * Where this differs from the published code, which is wrong there: a score that is NaN is dropped (it is not above 1 and was kept); a rate
 * that leaves no record leaves none (a slice from minus 0 took all of them); 0.29 of 100 are 29 (quantile.h). Ties go to the smaller index.
 *
 * Threads: any.
 */
#ifndef WORKERS_SELECT_IFD_H
#define WORKERS_SELECT_IFD_H

#include "base/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ifd_form { IFD_LOSS_RATIO, IFD_PERPLEXITY_RATIO };

/* Why a record is not ranked; the first that holds. */
enum ifd_verdict {
    IFD_RANKED,
    IFD_EMPTY_ANSWER,
    IFD_SHORT_ANSWER, /* fewer than min_answer_tokens */
    IFD_LONG_PROMPT,  /* the prompt alone reaches max_tokens */
    IFD_LONG_RECORD,  /* prompt and answer exceed max_tokens */
    IFD_UNDEFINED,    /* a loss that is not finite or negative; a ratio by 0 */
    IFD_ABOVE_ONE,
};
#define IFD_VERDICT_COUNT (IFD_ABOVE_ONE + 1)

struct ifd_rules {
    enum ifd_form form;
    uint32_t max_tokens;        /* the published 512 */
    uint32_t min_answer_tokens; /* 1: the published form; means over a token or two are noise */
};
/* What can be said before any loss is computed: RANKED, or one of the four verdicts on lengths. */
enum ifd_verdict ifd_judge_lengths(const struct ifd_rules *rules, uint32_t prompt_tokens,
                                   uint32_t answer_tokens);

/* All borrowed, [count]. Losses of records whose lengths are refused are not read. */
struct ifd_records {
    size_t count;
    const uint32_t *prompt_tokens, *answer_tokens;
    const double *conditional_losses; /* s(A|Q) */
    const double *alone_losses;       /* s(A) */
};
/* Owned, ifd_result_finish. */
struct ifd_result {
    double *scores;             /* [count]; NaN where there is none, but there for IFD_ABOVE_ONE */
    enum ifd_verdict *verdicts; /* [count] */
    size_t verdict_counts[IFD_VERDICT_COUNT]; /* they add up to count */
    size_t *order;                            /* [verdict_counts[IFD_RANKED]], the highest score first */
    size_t kept_count;                        /* floor(rate * ranked): the front of order */
};
/* rate: 0..1. OUT_OF_MEMORY. */
bool ifd_select(const struct ifd_records *records, const struct ifd_rules *rules, double rate,
                struct ifd_result *ret_result, struct error *error) MUST_USE;
void ifd_result_finish(struct ifd_result *result);

#endif
