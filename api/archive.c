/*
 * api/archive.c: a whole result as one POSIX tar, streamed from the blobs: no temporary file, and a
 * Content-Length, as every size is known beforehand. A name over 100 bytes or a size of 8 GiB and more gets a
 * pax header in front.
 *
 *   [pax header, records]? [header] [bytes, padded to 512] ... [1024 zero bytes]
 */
#include "api/api_internal.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TAR_BLOCK      512u
#define TAR_NAME_BYTES 100u
#define TAR_SIZE_LIMIT (UINT64_C(1) << 33) /* eleven octal digits */

struct archive {
    struct storage *storage;
    struct job *job;    /* acquired */
    size_t next_file;   /* index into job->files */
    struct text header; /* what stands before the current file's bytes; or the end mark */
    size_t header_sent;
    int fd; /* of the current file; -1: none */
    uint64_t file_bytes, file_sent;
    bool is_ended;
};

static void append_block(struct text *out, const char *name, uint64_t bytes, int64_t time_s, char kind)
{
    char block[TAR_BLOCK];
    unsigned sum = 0;
    memset(block, 0, sizeof block);
    memcpy(block, name, strnlen(name, TAR_NAME_BYTES));
    (void)snprintf(block + 100, 8, "%07o", 0644u);
    (void)snprintf(block + 108, 8, "%07o", 0u);
    (void)snprintf(block + 116, 8, "%07o", 0u);
    (void)snprintf(block + 124, 12, "%011" PRIo64, bytes < TAR_SIZE_LIMIT ? bytes : 0);
    (void)snprintf(block + 136, 12, "%011" PRIo64, (uint64_t)(time_s > 0 ? time_s : 0) & 077777777777u);
    memset(block + 148, ' ', 8);
    block[156] = kind;
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    for (size_t i = 0; i < sizeof block; i++) {
        sum += (unsigned char)block[i];
    }
    (void)snprintf(block + 148, 7, "%06o", sum & 0777777u);
    text_append_bytes(out, block, sizeof block);
}

static void pad_to_block(struct text *out)
{
    static const char zeros[TAR_BLOCK] = {0};
    size_t over = out->length % TAR_BLOCK;
    if (over != 0) {
        text_append_bytes(out, zeros, TAR_BLOCK - over);
    }
}

/* "<length> key=value\n", where length counts its own digits. */
static void append_record(struct text *out, const char *key, const char *value)
{
    size_t rest = strlen(key) + strlen(value) + 3, length = rest + 1;
    for (size_t digits = 1, bound = 10; rest + digits >= bound; digits++, bound *= 10) {
        length = rest + digits + 1;
    }
    text_append_format(out, "%zu %s=%s\n", length, key, value);
}

static void append_header(struct text *out, const char *name, uint64_t bytes, int64_t time_s)
{
    if (strlen(name) > TAR_NAME_BYTES || bytes >= TAR_SIZE_LIMIT) {
        struct text records = {0};
        char number[24];
        (void)snprintf(number, sizeof number, "%" PRIu64, bytes);
        append_record(&records, "path", name);
        append_record(&records, "size", number);
        append_block(out, "pax_header", records.length, time_s, 'x');
        pad_to_block(&records);
        /* append_block wrote the unpadded length; the padding follows the records. */
        text_append_bytes(out, records.bytes, records.length);
        text_finish(&records);
    }
    append_block(out, name, bytes, time_s, '0');
}

static void format_name(struct text *out, const struct job *job, const json_t *file)
{
    text_append_format(out, "%s/%s", job->id, json_string_value(json_object_get(file, "path")));
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
}

static uint64_t total_bytes(const struct job *job)
{
    uint64_t total = 2 * (uint64_t)TAR_BLOCK;
    size_t index = 0;
    json_t *file = NULL;
    json_array_foreach(job->files, index, file)
    {
        struct text name = {0}, header = {0};
        uint64_t bytes = (uint64_t)json_integer_value(json_object_get(file, "bytes"));
        format_name(&name, job, file);
        append_header(&header, name.bytes, bytes, 0);
        total += header.length + padded(bytes);
        text_finish(&name);
        text_finish(&header);
    }
    return total;
}

/* Opens the next file and writes its header, or the end mark. */
static bool step(struct archive *archive)
{
    struct error error = {0};
    char sha256[65];
    text_clear(&archive->header);
    archive->header_sent = 0;
    archive->file_bytes = archive->file_sent = 0;
    if (archive->fd >= 0) {
        (void)close(archive->fd);
        archive->fd = -1;
    }
    const json_t *file = json_array_get(archive->job->files, archive->next_file++);
    if (file == NULL) {
        static const char zeros[2 * TAR_BLOCK] = {0};
        text_append_bytes(&archive->header, zeros, sizeof zeros);
        archive->is_ended = true;
        return true;
    }
    const char *path = json_string_value(json_object_get(file, "path"));
    archive->fd =
        storage_open_artifact(archive->storage, archive->job, path, &archive->file_bytes, sha256, &error);
    if (archive->fd < 0) {
        return false;
    }
    struct text name = {0};
    format_name(&name, archive->job, file);
    append_header(&archive->header, name.bytes, archive->file_bytes, archive->job->finished_at_ms / 1000);
    text_finish(&name);
    return true;
}

/* MHD thread. Some bytes of the archive; MHD asks for them in order. */
static ssize_t read_archive(void *context, uint64_t position, char *bytes, size_t capacity)
{
    (void)position;
    struct archive *archive = context;
    for (;;) {
        size_t left = archive->header.length - archive->header_sent;
        if (left > 0) {
            size_t count = left < capacity ? left : capacity;
            memcpy(bytes, archive->header.bytes + archive->header_sent, count);
            archive->header_sent += count;
            return (ssize_t)count;
        }
        uint64_t end = padded(archive->file_bytes);
        if (archive->file_sent < end) {
            bool is_padding = archive->file_sent >= archive->file_bytes;
            uint64_t rest = (is_padding ? end : archive->file_bytes) - archive->file_sent;
            size_t count = rest < capacity ? (size_t)rest : capacity;
            if (is_padding) {
                memset(bytes, 0, count);
            } else if (!file_read_at(archive->fd, bytes, count, archive->file_sent, "artifact", NULL)) {
                return MHD_CONTENT_READER_END_WITH_ERROR;
            }
            archive->file_sent += count;
            return (ssize_t)count;
        }
        if (archive->is_ended) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        if (!step(archive)) {
            return MHD_CONTENT_READER_END_WITH_ERROR;
        }
    }
}

static void archive_destroy(void *context)
{
    struct archive *archive = context;
    if (archive->fd >= 0) {
        (void)close(archive->fd);
    }
    text_finish(&archive->header);
    job_release(archive->job);
    free(archive);
}

static void send_archive(struct request *request, struct job *job)
{
    if (job->files == NULL) {
        struct error error = {0};
        (void)error_set_field(&error, ERROR_NOT_FOUND, "archive",
                              "the job is %s; its files come when it has succeeded",
                              job_state_slug(job->state));
        request_answer_error(request, 0, &error);
        return;
    }
    struct archive *archive = memory_create(1, sizeof *archive);
    archive->storage = request->api->options.storage;
    archive->job = job_acquire(job);
    archive->fd = -1;
    struct MHD_Response *response = MHD_create_response_from_callback(total_bytes(job), 256 * 1024,
                                                                      read_archive, archive, archive_destroy);
    char name[96];
    (void)snprintf(name, sizeof name, "attachment; filename=\"%s.tar\"", job->id);
    response_header(response, "Content-Type", "application/x-tar");
    response_header(response, "Content-Disposition", name);
    request_answer(request, 200, response);
}

void handle_job_archive(struct request *request)
{
    job_then(request, send_archive);
}
