/* api/health.c: the answers that need no token: alive, ready, version, and the page for those who open "/".
 */
#include "api/api_internal.h"

static const char plain_text[] = "text/plain; charset=utf-8";

void handle_livez(struct request *request)
{
    const struct api_host *host = &request->api->options.host;
    bool is_alive = host->is_alive == NULL || host->is_alive(host->context);
    request_answer_text(request, is_alive ? 200 : 503, plain_text,
                        is_alive ? "ok\n" : "the event loop stands still\n");
}

void handle_readyz(struct request *request)
{
    struct api *api = request->api;
    bool verbose = false;
    struct error error = {0};
    struct text checks = {0};
    if (!request_query_bool(request, "verbose", &verbose, &error)) {
        request_answer_error(request, 0, &error);
        return;
    }
    bool is_draining = atomic_load(&api->is_draining);
    bool is_ready =
        api->options.host.is_ready == NULL || api->options.host.is_ready(api->options.host.context, &checks);
    text_append(&checks, is_draining ? "[-]api draining\n" : "[+]api ok\n");
    is_ready = is_ready && !is_draining;
    if (!verbose) {
        text_clear(&checks);
    }
    text_append(&checks, is_ready ? "ready\n" : "not ready\n");
    request_answer_text(request, is_ready ? 200 : 503, plain_text, checks.bytes);
    text_finish(&checks);
}

void handle_version(struct request *request)
{
    json_t *body = json_object();
    json_put_text(body, "name", "pruned");
    json_put_text(body, "version", PRUNED_VERSION);
    json_t *engine = json_object_get(request->api->options.catalogue, "engine");
    json_put(body, "engine", engine != NULL ? json_incref(engine) : json_null());
    json_put_i64(body, "started_at", request->api->started_at_ms / 1000);
    request_answer_json(request, 200, body);
}

void handle_landing(struct request *request)
{
    request_answer_text(request, 200, plain_text,
                        "pruned " PRUNED_VERSION ": a service that makes neural networks smaller.\n"
                        "\n"
                        "  GET  /v1/methods             what can be asked for, with JSON Schemas\n"
                        "  PUT  /v1/blobs/sha256:<hex>  upload a file (curl -T)\n"
                        "  POST /v1/models              register a model from uploads or a folder\n"
                        "  POST /v1/pruning/jobs        submit; ?dry_run=true shows the plan only\n"
                        "  POST /v1/selection/jobs      choose the data that heals it best\n"
                        "  POST /v1/evaluation/jobs     measure a model\n"
                        "  GET  /v1/jobs/<id>?wait=25   follow a job\n"
                        "  GET  /v1/jobs/<id>/report    what was lost and gained\n"
                        "  GET  /v1/jobs/<id>/archive   the result as one tar\n"
                        "  GET  /livez /readyz /metrics /version\n");
}
