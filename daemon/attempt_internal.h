/*
 * daemon/attempt_internal.h: one attempt, for attempt.c (prepare, run, orders from outside), attempt_talk.c (frames and
 * complaints of the worker) and attempt_settle.c (storage events, the final one, the end). All on the loop thread.
 */
#ifndef DAEMON_ATTEMPT_INTERNAL_H
#define DAEMON_ATTEMPT_INTERNAL_H

#include "api/sources.h"
#include "base/text.h"
#include "daemon/daemon_internal.h"
#include "workers/process/protocol.h"

enum kill_reason {
    KILL_NONE,
    KILL_CANCEL,
    KILL_HUNG,
    KILL_DRAIN,
    KILL_TIME_LIMIT,
    KILL_PROTOCOL,
    KILL_FENCED
};
enum phase { PHASE_PREPARE, PHASE_RUN, PHASE_SETTLE, PHASE_ENDED };

struct attempt {
    struct daemon *daemon;
    struct job *job; /* acquired; as it was claimed */
    size_t slot;
    uint64_t epoch;
    enum phase phase;
    enum kill_reason kill_reason;
    bool is_cancelled, is_draining;

    /* prepare */
    uv_work_t work;
    char *work_folder;  /* owned */
    char *cache_folder; /* owned; where its scores are kept, NULL: nowhere */
    struct sources sources;
    struct error_list faults; /* why it could not be prepared */

    /* run */
    uv_process_t process;
    uv_pipe_t socket, errors;
    uv_timer_t limit_timer, retry_timer;
    uv_timer_t stop_timer; /* how long an end may take: after a cancel, after the last word, after the exit */
    bool has_handles, is_process_started;
    bool is_socket_open, is_errors_open; /* we still read them */
    bool is_paused;                      /* the socket is not read while too many events wait for storage */
    unsigned open_count;                 /* process, socket, errors: what has not ended yet */
    unsigned orphan_ticks;               /* looks at pipes that outlive the process */
    size_t logged_count;                 /* frames that each became a row of the event log */
    unsigned handle_count;               /* handles that must be closed before free */
    struct protocol_reader reader;
    int64_t last_heard_ns;
    struct job_progress progress; /* its unit points at the next field */
    char unit[24];
    int64_t exit_status;
    int signal_number;
    struct text line; /* of stderr, so far */
    size_t line_count;
    char last_line[256];

    /* settle */
    enum protocol_type last_word; /* valid with `answer` */
    json_t *answer;               /* owned: the result, error or drained frame; NULL: none came */
    size_t event_count;           /* storage calls whose callbacks are outstanding */
    bool is_recorded;             /* the final event was taken */
};

/* attempt_settle.c. A storage event of this epoch; settle chooses and applies the final one, again if need be. */
void attempt_apply(struct attempt *attempt, struct job_event event);
void attempt_settle(struct attempt *attempt);
void attempt_kill(struct attempt *attempt, enum kill_reason reason);
void attempt_hurry(const struct attempt *attempt); /* the worker is to end soon */
/* Hands the slot back and frees the attempt, once the final event is recorded and no callback is outstanding. */
void attempt_check_ended(struct attempt *attempt);

/* attempt_talk.c */
void attempt_listen(struct attempt *attempt); /* starts reading both pipes */
/* After a pause, once few enough events are outstanding. */
void attempt_listen_again(struct attempt *attempt);
void attempt_stop_listening(struct attempt *attempt); /* what is still open counts as ended */
void attempt_part_ended(struct attempt *attempt);     /* the process, or one of the pipes */
void attempt_send_frame(struct attempt *attempt, const json_t *message); /* borrowed */
void attempt_send_word(struct attempt *attempt, enum protocol_type type);

#endif
