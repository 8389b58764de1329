/*
 * workers/process/protocol.h: what the daemon and its workers say to each other.
 *
 * Over a stream socket pair (the worker's descriptor 3): frames of a 4-byte little-endian length and one JSON
 * object of that many bytes, at most PROTOCOL_FRAME_LIMIT. Every object has "type"; those about an attempt carry
 * "epoch".
 *
 * daemon -> worker
 *   job       {version, job_id, epoch, spec, model: {folder, inventory},
 *              models: {"<uri>": {folder, inventory}} (those in the spec beside `model`),
 *              inputs: {"<uri>": "<absolute path>"}, work_folder, cache_folder (may be absent), threads,
 *              memory_limit_bytes, heartbeat_ms}           sent once, first
 *   cancel    {}      stop now
 *   drain     {}      stop at the next resume point
 * worker -> daemon
 *   heartbeat {epoch, peak_rss_bytes, cpu_seconds}               every PROTOCOL_HEARTBEAT_MS, from the main thread, for as long as
 *                                                               the compute pool moves (see worker main.c)
 *   stage     {epoch, stage}
 *   progress  {epoch, stage, step, steps, unit, ratio, rate_per_second, eta_seconds}
 *   step      {epoch, stage, step}                              a checkpoint is durable
 *   message   {epoch, level, message, data}
 *   result    {epoch, files: [{path, bytes, sha256}], result: {...}}   everything under work_folder/out is synced; then exit 0
 *   error     {epoch, stage, code, field, message, retryable}   then exit 1
 *   drained   {epoch}                                           then exit 0
 * result, error and drained are the last word; a worker has one lease to exit after it. Any other frame of a worker has at
 * most 64 KiB, and of stages and messages the first 1,000 reach the event log. The daemon reads no faster than storage
 * writes. A worker whose socket closes exits at once.
 *
 * One-shot modes of the same program, JSON on stdin and stdout, exit 0 when an answer was printed:
 *   pruned-worker --describe            -> the catalogue (recipe/catalogue.h)
 *   pruned-worker --inspect             <- {folder}                 -> {inventory} or {errors: [{code, field, message}]}
 *   pruned-worker --plan                <- {spec, model: {folder, inventory}, models, inputs, threads, memory_limit_bytes}
 *                                          -> {plan} or {errors: [...]}
 *       plan: {memory_bytes, disk_bytes, output: {...shapes, bytes}, layouts, loaders, stages: [...], warnings: []}
 *       (an inventory may be null: the folder is inspected first, and the answer carries that of `model` as {inventory} too)
 */
#ifndef WORKERS_PROCESS_PROTOCOL_H
#define WORKERS_PROCESS_PROTOCOL_H

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include <stdbool.h>
#include <stddef.h>

#define PROTOCOL_VERSION      1
#define PROTOCOL_FD           3
#define PROTOCOL_FRAME_LIMIT  (64u << 20)
#define PROTOCOL_HEARTBEAT_MS 5000
#define PROTOCOL_LEASE_MS     30000
#define PROTOCOL_TYPES(X)                                                                                    \
    X(JOB, "job")                                                                                            \
    X(CANCEL, "cancel")                                                                                      \
    X(DRAIN, "drain")                                                                                        \
    X(HEARTBEAT, "heartbeat")                                                                                \
    X(STAGE, "stage")                                                                                        \
    X(PROGRESS, "progress")                                                                                  \
    X(STEP, "step")                                                                                          \
    X(MESSAGE, "message")                                                                                    \
    X(RESULT, "result")                                                                                      \
    X(ERROR, "error")                                                                                        \
    X(DRAINED, "drained")
enum protocol_type {
#define X(name, slug) PROTOCOL_##name,
    PROTOCOL_TYPES(X)
#undef X
};

/* "heartbeat"; and back: false for a word this version does not know. */
const char *protocol_type_slug(enum protocol_type type);
bool protocol_type_parse(const char *slug, enum protocol_type *ret_type);

/* A new frame object {"type": slug}; the caller adds members. Owned. */
json_t *protocol_message(enum protocol_type type) MUST_USE;
/* Appends the frame of `message` to `bytes`. TOO_LARGE past PROTOCOL_FRAME_LIMIT. */
bool protocol_append_frame(struct text *bytes, const json_t *message, struct error *error) MUST_USE;

/* Cuts a byte stream into frames. Zero-initialise; one thread. */
struct protocol_reader {
    struct text bytes;
    size_t taken; /* bytes of the front that were handed out */
};
void protocol_reader_feed(struct protocol_reader *reader, const void *bytes, size_t count);
/* The next whole frame in *ret_message (owned) and its type; NULL when more bytes are needed. A frame that is
 * too long, no JSON object or of an unknown type fails: CORRUPT_FILE, and the stream is of no use any more.
 */
bool protocol_reader_next(struct protocol_reader *reader, json_t **ret_message, enum protocol_type *ret_type,
                          struct error *error) MUST_USE;
void protocol_reader_finish(struct protocol_reader *reader);

#endif
