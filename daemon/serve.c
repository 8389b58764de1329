/*
 * daemon/serve.c: start, signals, drain, stop.
 *
 * Start: the catalogue from the worker, storage (which releases what a dead service left running), the API,
 * then READY. The order makes a readyz that answers 200 mean "jobs are taken and will run".
 *
 * Drain (SIGTERM, SIGINT): no new jobs, no new claims, one-shot workers are ended, each worker is asked to
 * stop at its next resume point and has workers.drain_ms for it; its job goes back to the queue. A second
 * signal ends workers at once; they lose at most the work since their last checkpoint. When nothing is left
 * the loop stops, the API answers what it still holds, storage is closed, and the exit status is 0.
 *
 * Signals are blocked before the first thread starts and unblocked here alone, so that the loop receives
 * them.
 */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/daemon_internal.h"
#include "daemon/notify.h"
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_MS INT64_C(1000000)

/* ---- what other threads tell us ------------------------------------------------------------------------ */

struct wake {
    struct letter letter;
    struct daemon *daemon;
    char cancelled[40]; /* a job whose worker must stop; "" for a plain wake */
};

static void deliver_wake(struct letter *letter)
{
    struct wake *wake = (struct wake *)letter;
    struct daemon *daemon = wake->daemon;
    if (*wake->cancelled != '\0') {
        scheduler_cancel(daemon, wake->cancelled);
    } else {
        atomic_store(&daemon->wake_posted, false);
        if (atomic_exchange(&daemon->is_validation_news, false)) {
            validator_wake(daemon);
        }
        scheduler_wake(daemon);
    }
    free(wake);
}

static void post_wake(struct daemon *daemon, const char *cancelled)
{
    struct wake *wake = memory_create(1, sizeof *wake);
    wake->letter.deliver = deliver_wake;
    wake->daemon = daemon;
    if (cancelled != NULL) {
        (void)snprintf(wake->cancelled, sizeof wake->cancelled, "%s", cancelled);
    }
    if (!mailbox_post(&daemon->mailbox, &wake->letter)) {
        free(wake);
    }
}

/* The DB thread. */
static void on_change(void *context, struct job *job, const struct job_effects *effects)
{
    struct daemon *daemon = context;
    if (effects != NULL && effects->stop_worker) {
        post_wake(daemon, job->id);
    }
    /* A job that ended may be what another one waits for. */
    bool is_validation_news = job->state == JOB_STATE_VALIDATING || job_state_is_terminal(job->state);
    if (is_validation_news) {
        atomic_store(&daemon->is_validation_news, true); /* before the wake is posted, which takes it */
    }
    if ((is_validation_news || job->state == JOB_STATE_QUEUED) &&
        !atomic_exchange(&daemon->wake_posted, true)) {
        post_wake(daemon, NULL);
    }
    pthread_mutex_lock(&daemon->api_lock);
    if (daemon->api != NULL) {
        api_notify(daemon->api, job);
    }
    pthread_mutex_unlock(&daemon->api_lock);
}

/* ---- drain --------------------------------------------------------------------------------------------- */

static void on_stray_handle(uv_handle_t *handle, void *context)
{
    (void)context;
    if (!uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

void daemon_check_drained(struct daemon *daemon)
{
    if (daemon->drain_started_ns == 0 || daemon->scheduler.busy_count > 0 || daemon->scheduler.is_claiming ||
        daemon->validator.active_count > 0 || daemon->validator.is_scanning || daemon->planner_count > 0 ||
        daemon->oneshots.running_count > 0) {
        return;
    }
    uv_stop(&daemon->loop);
}

static void begin_drain(struct daemon *daemon)
{
    daemon->drain_started_ns = clock_boot_ns(daemon->clock);
    atomic_store(&daemon->is_draining, true);
    notify_send("STOPPING=1\nSTATUS=draining, %zu jobs running", daemon->scheduler.busy_count);
    log_info("draining", LOG_I64("running", daemon->scheduler.busy_count));
    if (daemon->api != NULL) {
        api_drain(daemon->api);
    }
    oneshot_pool_close(&daemon->oneshots);
    scheduler_drain(daemon, false);
    daemon_check_drained(daemon);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct daemon *daemon = signal->data;
    if (number == SIGHUP) {
        log_info("settings are read at the start only; restart to change them");
    } else if (daemon->drain_started_ns == 0) {
        begin_drain(daemon);
    } else {
        log_warning("second signal: stopping now");
        scheduler_drain(daemon, true);
    }
}

/* ---- the tick ------------------------------------------------------------------------------------------ */

static void report_status(struct daemon *daemon, int64_t now_ns)
{
    if (now_ns - daemon->last_status_ns < 5000 * NS_PER_MS) {
        return;
    }
    daemon->last_status_ns = now_ns;
    struct storage_counts counts;
    storage_get_counts(daemon->storage, &counts);
    notify_send("STATUS=%zu running, %" PRIu64 " queued", daemon->scheduler.busy_count,
                counts.by_state[JOB_STATE_QUEUED]);
}

static void on_tick(uv_timer_t *timer)
{
    struct daemon *daemon = timer->data;
    int64_t now_ns = clock_boot_ns(daemon->clock);
    int64_t late_ns = now_ns - daemon->last_tick_ns - 2 * DAEMON_TICK_MS * NS_PER_MS;
    daemon->last_tick_ns = now_ns;
    atomic_store(&daemon->ticked_ns, now_ns);
    int64_t watchdog_ms = notify_watchdog_ms();
    if (watchdog_ms > 0 && now_ns - daemon->last_watchdog_ns >= watchdog_ms * NS_PER_MS / 2) {
        daemon->last_watchdog_ns = now_ns;
        notify_send("WATCHDOG=1");
    }
    scheduler_tick(daemon, now_ns, late_ns > 0 ? late_ns : 0);
    validator_tick(daemon);
    if (daemon->drain_started_ns == 0) {
        report_status(daemon, now_ns);
    } else if (now_ns - daemon->drain_started_ns > daemon->config->drain_ms * NS_PER_MS) {
        scheduler_drain(daemon, true);
    }
}

/* ---- start --------------------------------------------------------------------------------------------- */

/* A worker sees nothing of our environment but what arithmetic and sanitizers need. */
static char **worker_environment(void)
{
    static const char *const passed[] = {"PATH",         "OPENBLAS_CORETYPE", "LD_LIBRARY_PATH",
                                         "ASAN_OPTIONS", "UBSAN_OPTIONS",     "TSAN_OPTIONS",
                                         "LSAN_OPTIONS"};
    const size_t count = sizeof passed / sizeof *passed;
    char **environment = memory_create(count + 3, sizeof *environment);
    size_t filled = 0;
    environment[filled++] = memory_copy_text("OPENBLAS_NUM_THREADS=1");
    environment[filled++] = memory_copy_text("LC_ALL=C.UTF-8");
    for (size_t i = 0; i < count; i++) {
        const char *value = getenv(passed[i]);
        if (value != NULL) {
            struct text line = {0};
            text_append_format(&line, "%s=%s", passed[i], value);
            environment[filled++] = text_take(&line);
        }
    }
    return environment;
}

struct description {
    json_t *catalogue; /* owned */
    bool is_answered;
    struct error error;
};

static void on_described(void *context, json_t *answer, const struct error_list *faults)
{
    struct description *description = context;
    description->is_answered = true;
    description->catalogue = json_incref(answer);
    if (answer == NULL) {
        description->error = faults->items[0];
    }
}

static bool read_catalogue(struct daemon *daemon, struct error *error)
{
    struct description description = {0};
    oneshot_ask(&daemon->oneshots, "--describe", NULL, ONESHOT_TIMEOUT_MS, on_described, &description);
    while (!description.is_answered) {
        (void)uv_run(&daemon->loop, UV_RUN_ONCE);
    }
    daemon->catalogue = description.catalogue;
    if (description.catalogue == NULL) {
        *error = description.error;
        return error_prefix(error, "reading the catalogue: ");
    }
    return true;
}

static bool open_storage(struct daemon *daemon, struct error *error)
{
    const struct config *config = daemon->config;
    char folder[PATH_MAX]; /* workers have other working folders, so it must be absolute */
    if (!file_make_folders(config->state, 0700, error)) {
        return false;
    }
    if (realpath(config->state, folder) == NULL) {
        return error_set(error, ERROR_IO, "cannot resolve the state folder %s", config->state);
    }
    const struct storage_options options = {.folder = folder,
                                            .clock = daemon->clock,
                                            .reserve_bytes = config->reserve_bytes,
                                            .database_quota_bytes = config->database_quota_bytes,
                                            .on_change = on_change,
                                            .on_change_context = daemon};
    return storage_open(&options, &daemon->storage, error);
}

static bool start_api(struct daemon *daemon, struct error *error)
{
    const struct config *config = daemon->config;
    const struct api_options options = {.listen_fd = notify_listen_fd(),
                                        .address = config->address,
                                        .port = config->port,
                                        .hosts = (const char *const *)config->hosts,
                                        .roots = (const char *const *)config->roots,
                                        .token = config->token,
                                        .max_upload_bytes = config->max_upload_bytes,
                                        .catalogue = daemon->catalogue,
                                        .storage = daemon->storage,
                                        .host = host_make(daemon)};
    struct api *api = NULL;
    if (!api_start(&options, &api, error)) {
        return false;
    }
    pthread_mutex_lock(&daemon->api_lock);
    daemon->api = api;
    pthread_mutex_unlock(&daemon->api_lock);
    return true;
}

static bool announce(struct daemon *daemon, struct error *error)
{
    uint16_t port = api_port(daemon->api);
    if (daemon->config->port_file != NULL) {
        char line[16];
        int count = snprintf(line, sizeof line, "%u\n", port);
        if (!file_save(daemon->config->port_file, line, (size_t)count, 0644, error)) {
            return false;
        }
    }
    log_info("ready", LOG_TEXT("address", daemon->config->address), LOG_I64("port", port),
             LOG_TEXT("state", storage_folder(daemon->storage)), LOG_I64("slots", daemon->config->slots),
             LOG_TEXT("version", PRUNED_VERSION));
    if (daemon->config->token == NULL && strcmp(daemon->config->address, "127.0.0.1") != 0 &&
        strcmp(daemon->config->address, "::1") != 0) {
        log_warning(
            "listening beyond this machine without server.token_file: anyone who reaches it may use it");
    }
    notify_send("READY=1\nSTATUS=ready");
    return true;
}

static void start_signal(struct daemon *daemon, uv_signal_t *signal, int number)
{
    (void)uv_signal_init(&daemon->loop, signal);
    signal->data = daemon;
    (void)uv_signal_start(signal, on_signal, number);
}

static void block_signals(int how)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    (void)pthread_sigmask(how, &set, NULL);
}

static void run_nothing(uv_work_t *work)
{
    (void)work;
}

static void on_nothing(uv_work_t *work, int status)
{
    (void)status;
    *(bool *)work->data = true;
}

/* libuv makes its pool at the first use; its threads must inherit the blocked signals like every other thread. */
static void start_pool(struct daemon *daemon)
{
    bool is_done = false;
    uv_work_t work = {.data = &is_done};
    (void)uv_queue_work(&daemon->loop, &work, run_nothing, on_nothing);
    while (!is_done) {
        (void)uv_run(&daemon->loop, UV_RUN_ONCE);
    }
}

static bool start(struct daemon *daemon, struct error *error)
{
    if (!mailbox_open(&daemon->mailbox, &daemon->loop, error) || !read_catalogue(daemon, error) ||
        !open_storage(daemon, error) || !start_api(daemon, error)) {
        return false;
    }
    start_pool(daemon);
    start_signal(daemon, &daemon->terminate, SIGTERM);
    start_signal(daemon, &daemon->interrupt, SIGINT);
    start_signal(daemon, &daemon->hangup, SIGHUP);
    block_signals(SIG_UNBLOCK);
    daemon->last_tick_ns = clock_boot_ns(daemon->clock);
    atomic_store(&daemon->ticked_ns, daemon->last_tick_ns);
    (void)uv_timer_init(&daemon->loop, &daemon->tick);
    daemon->tick.data = daemon;
    (void)uv_timer_start(&daemon->tick, on_tick, 0, DAEMON_TICK_MS);
    validator_wake(daemon); /* what an earlier service left `validating` */
    return announce(daemon, error);
}

static void stop(struct daemon *daemon)
{
    atomic_store(&daemon->is_draining, true);
    daemon->drain_started_ns = clock_boot_ns(daemon->clock);
    oneshot_pool_close(&daemon->oneshots);
    pthread_mutex_lock(&daemon->api_lock);
    struct api *api = daemon->api;
    daemon->api = NULL;
    pthread_mutex_unlock(&daemon->api_lock);
    mailbox_close(&daemon->mailbox);
    api_stop(api);
    storage_close(daemon->storage);
    uv_walk(&daemon->loop, on_stray_handle, NULL);
    while (uv_run(&daemon->loop, UV_RUN_DEFAULT) != 0) {
    }
    (void)uv_loop_close(&daemon->loop);
    json_decref(daemon->catalogue);
    for (size_t i = 0; daemon->worker_environment[i] != NULL; i++) {
        free(daemon->worker_environment[i]);
    }
    free(daemon->worker_environment);
    pthread_mutex_destroy(&daemon->api_lock);
}

int daemon_serve(const struct config *config)
{
    log_start("pruned", config->log_level, config->log_format);
    json_start();
    block_signals(SIG_BLOCK);
    (void)signal(SIGPIPE, SIG_IGN);

    struct daemon *daemon = memory_create(1, sizeof *daemon);
    daemon->config = config;
    daemon->clock = &clock_system;
    daemon->worker_environment = worker_environment();
    pthread_mutex_init(&daemon->api_lock, NULL);
    (void)uv_loop_init(&daemon->loop);
    oneshot_pool_init(&daemon->oneshots, &daemon->loop, config->worker_path, daemon->worker_environment);
    struct error error;
    bool started = start(daemon, &error);
    if (started) {
        (void)uv_run(&daemon->loop, UV_RUN_DEFAULT);
    } else {
        log_error("cannot start", LOG_TEXT("code", error_code_slug(error.code)),
                  LOG_TEXT("cause", error.message));
        notify_send("STOPPING=1\nSTATUS=cannot start: %.300s", error.message);
    }
    stop(daemon);
    free(daemon);
    if (started) {
        log_info("stopped");
    }
    return started ? 0 : 1;
}
