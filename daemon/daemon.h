/*
 * daemon/daemon.h: the service itself, `pruned serve`: what keeps storage, the HTTP door and the workers
 * together.
 *
 * One libuv loop on the main thread owns children, timers, signals and leases. It never runs SQL and hashes
 * nothing. What other threads have to say (a storage callback, a request of the API for a plan) arrives as a
 * letter in a mailbox that the loop empties. The files, in the order to read them:
 *
 *     config     the settings, one table
 *     mailbox    letters from other threads to the loop
 *     oneshot    `pruned-worker --plan` and friends: JSON in, JSON out, a time limit, two at a time
 *     planner    a plan or an inspection, for the API and for jobs that are `validating`
 *     validator  validating -> queued or failed
 *     attempt    one claim of a job: work folder, worker process, leases, cancel (_talk: frames; _settle: the end)
 *     scheduler  slots and the memory reservation; claims when both are free
 *     host       what the API asks of us (struct api_host)
 *     notify     systemd: readiness, watchdog, socket activation
 *     serve      start, signals, drain, stop
 *     main       the command line
 */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "daemon/config.h"

/* Runs until a signal ends it; returns the exit status. Call with no other thread in the process. */
int daemon_serve(const struct config *config);

#endif
