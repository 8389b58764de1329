/*
 * api/blobs.c: uploads by content. `curl -T model.safetensors host/v1/blobs/sha256:<hex>` streams into a
 * temporary of storage; the last byte makes storage hash, sync and rename it. The name says what the content
 * must be, so a repeated upload is free (HEAD first, or the same PUT again) and a broken one leaves nothing.
 */
#include "api/api_internal.h"
#include "base/hash.h"
#include <string.h>

/* The hex digits of "sha256:<hex>"; NULL and a fault otherwise. */
static const char *take_digest(const struct request *request, struct error *error)
{
    const char *name = request_variable(request, 0);
    if (!text_starts_with(name, "sha256:") || !sha256_hex_is_valid(name + 7)) {
        (void)error_set_field(error, ERROR_INVALID_ARGUMENT, "digest",
                              "\"%.80s\" is no blob name; it is sha256: and 64 lower-case hexadecimal digits",
                              name);
        return NULL;
    }
    return name + 7;
}

void blob_begin(struct request *request)
{
    struct api *api = request->api;
    uint64_t bytes = 0;
    const char *hex = take_digest(request, &request->body_fault);
    if (hex == NULL) {
        return;
    }
    if (request->content_length > api->options.max_upload_bytes) {
        (void)error_set_field(&request->body_fault, ERROR_TOO_LARGE, "Content-Length",
                              "the upload has %llu bytes; at most %llu are taken",
                              (unsigned long long)request->content_length,
                              (unsigned long long)api->options.max_upload_bytes);
        return;
    }
    if (!storage_find_blob(api->options.storage, hex, &bytes)) {
        request->upload =
            storage_open_upload(api->options.storage, request->content_length, &request->body_fault);
    }
}

void blob_append(struct request *request, const void *bytes, size_t count)
{
    struct api *api = request->api;
    if (request->upload == NULL) {
        return; /* we have it already: the bytes are read off and dropped */
    }
    if (request->body_bytes > api->options.max_upload_bytes) {
        (void)error_set_field(&request->body_fault, ERROR_TOO_LARGE, "body", "the upload passed %llu bytes",
                              (unsigned long long)api->options.max_upload_bytes);
    } else if (storage_append_upload(request->upload, bytes, count, &request->body_fault)) {
        (void)atomic_fetch_add(&api->upload_bytes, count);
        return;
    }
    storage_abandon_upload(request->upload);
    request->upload = NULL;
}

static json_t *blob_view(const struct request *request, uint64_t bytes)
{
    json_t *view = json_object();
    json_put_text(view, "object", "blob");
    json_put_text(view, "digest", request_variable(request, 0));
    json_put_i64(view, "bytes", (int64_t)bytes);
    return view;
}

static void uploaded(void *context, uint64_t bytes, bool existed, const struct error *error)
{
    struct request *request = context;
    if (error != NULL && error->code != ERROR_NONE) {
        request_answer_error(request, 0, error);
    } else {
        request_answer_json(request, existed ? 200 : 201, blob_view(request, bytes));
    }
    request_resume_done(request);
}

void handle_blob_put(struct request *request)
{
    struct storage *storage = request->api->options.storage;
    const char *hex = request_variable(request, 0) + strlen("sha256:");
    uint64_t bytes = 0;
    if (request->upload != NULL) {
        struct storage_upload *upload = request->upload;
        request->upload = NULL;
        request_suspend(request);
        storage_finish_upload(upload, hex, uploaded, request);
    } else if (storage_find_blob(storage, hex, &bytes)) {
        request_answer_json(request, 200, blob_view(request, bytes));
    } else {
        struct error error = {0};
        (void)error_set_field(&error, ERROR_CONFLICT, "digest",
                              "the blob was removed while it was sent again; repeat");
        request_answer_error(request, 0, &error);
    }
}

/* HEAD sends no body, so nothing is ever read from here. */
static ssize_t read_nothing(void *context, uint64_t offset, char *bytes, size_t capacity)
{
    (void)context;
    (void)offset;
    (void)bytes;
    (void)capacity;
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

void handle_blob_head(struct request *request)
{
    struct error error = {0};
    uint64_t bytes = 0;
    const char *hex = take_digest(request, &error);
    if (hex != NULL && !storage_find_blob(request->api->options.storage, hex, &bytes)) {
        (void)error_set_field(&error, ERROR_NOT_FOUND, "digest", "there is no blob sha256:%s", hex);
        hex = NULL;
    }
    if (hex == NULL) {
        request_answer_error(request, 0, &error);
        return;
    }
    struct MHD_Response *response = MHD_create_response_from_callback(bytes, 4096, read_nothing, NULL, NULL);
    char etag[80];
    (void)snprintf(etag, sizeof etag, "\"%s\"", hex);
    response_header(response, "ETag", etag);
    response_header(response, "Content-Type", "application/octet-stream");
    request_answer(request, 200, response);
}
