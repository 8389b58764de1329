/*
 * daemon/planner.c: plans and inspections, by a one-shot worker. See daemon_internal.h.
 *
 * A model that is an earlier result exists as blobs; before it can be looked at it is laid out as a folder,
 * once. Models are laid out one after the other.
 */
#include "base/cleanup.h"
#include "base/memory.h"
#include "daemon/daemon_internal.h"
#include <string.h>

struct question {
    struct letter letter; /* used for the way back from storage */
    struct daemon *daemon;
    const char *mode;
    json_t *request; /* owned */
    json_t *unlaid;  /* the model in `request` that is being laid out */
    api_host_done *done;
    void *done_context;
    unsigned tries_left;
    char *folder;       /* storage's answer, owned */
    struct error error; /* or its failure */
};

static void ask(struct question *question);

static void question_end(struct question *question, const json_t *answer, const struct error_list *faults)
{
    struct daemon *daemon = question->daemon;
    question->done(question->done_context, answer, faults);
    json_decref(question->request);
    free(question->folder);
    free(question);
    daemon->planner_count--;
    daemon_check_drained(daemon);
}

static bool check_memory(const struct question *question, const json_t *answer, struct error_list *faults)
{
    const json_t *plan = json_object_get(answer, "plan");
    int64_t needed = json_integer_value(json_object_get(plan, "memory_bytes"));
    uint64_t limit = question->daemon->config->memory_bytes;
    if (needed > 0 && (uint64_t)needed > limit) {
        error_list_add(
            faults, ERROR_OUT_OF_MEMORY, "/model",
            "the plan needs %lld bytes of memory; this service may give %llu (workers.memory_bytes)",
            (long long)needed, (unsigned long long)limit);
        return false;
    }
    return true;
}

static void on_answer(void *context, json_t *answer, const struct error_list *faults)
{
    struct question *question = context;
    if (answer == NULL && faults->stored > 0 && faults->items[0].code == ERROR_WORKER_CRASH &&
        question->tries_left > 0) {
        question->tries_left--;
        ask(question);
        return;
    }
    FINISHED(error_list) over = {0};
    if (answer != NULL && !check_memory(question, answer, &over)) {
        question_end(question, NULL, &over);
    } else {
        question_end(question, answer, faults);
    }
}

/* How long the worker may take, which hashes each model that comes without its inventory. */
static uint64_t allow_time(const json_t *request)
{
    const json_t *own = json_object_get(request, "model");
    uint64_t unknown_count = json_is_object(json_object_get(own, "inventory")) ? 0 : 1;
    const char *uri;
    json_t *model;
    json_object_foreach(json_object_get(request, "models"), uri, model)
    {
        unknown_count += json_is_object(json_object_get(model, "inventory")) ? 0 : 1;
    }
    return ONESHOT_TIMEOUT_MS + unknown_count * ONESHOT_READING_MS;
}

static void ask(struct question *question)
{
    oneshot_ask(&question->daemon->oneshots, question->mode, question->request, allow_time(question->request),
                on_answer, question);
}

static json_t *find_unlaid(const json_t *request)
{
    json_t *model = json_object_get(request, "model");
    if (json_object_get(model, "job") != NULL) {
        return model;
    }
    const char *uri;
    json_object_foreach(json_object_get(request, "models"), uri, model)
    {
        if (json_object_get(model, "job") != NULL) {
            return model;
        }
    }
    return NULL;
}

static void on_folder(void *context, const char *folder, const struct error *error);

/* Lays out the next model, or asks once all are. */
static void lay_out(struct question *question)
{
    question->unlaid = find_unlaid(question->request);
    if (question->unlaid == NULL) {
        ask(question);
        return;
    }
    storage_assemble_model(question->daemon->storage,
                           json_string_value(json_object_get(question->unlaid, "job")),
                           json_object_get(question->unlaid, "files"), on_folder, question);
}

static void deliver_folder(struct letter *letter)
{
    struct question *question = (struct question *)letter;
    if (question->folder == NULL) {
        FINISHED(error_list) faults = {0};
        error_list_add_error(&faults, &question->error);
        question_end(question, NULL, &faults);
        return;
    }
    json_object_clear(question->unlaid);
    json_put_text(question->unlaid, "folder", question->folder);
    json_put(question->unlaid, "inventory", json_null());
    free(question->folder);
    question->folder = NULL;
    lay_out(question);
}

static void on_folder(void *context, const char *folder, const struct error *error)
{
    struct question *question = context;
    question->folder = memory_copy_text(folder);
    if (error != NULL) {
        question->error = *error;
    }
    question->letter.deliver = deliver_folder;
    /* The loop does not end while planner_count counts this question, so the mailbox is open. */
    if (!mailbox_post(&question->daemon->mailbox, &question->letter)) {
        json_decref(question->request);
        free(question->folder);
        free(question);
    }
}

static struct question *question_create(struct daemon *daemon, const char *mode, json_t *request,
                                        api_host_done *done, void *done_context)
{
    struct question *question = memory_create(1, sizeof *question);
    *question = (struct question){.daemon = daemon,
                                  .mode = mode,
                                  .request = request,
                                  .done = done,
                                  .done_context = done_context,
                                  .tries_left = 2};
    daemon->planner_count++;
    return question;
}

/* The smaller of what a request limits itself to and what we may give. */
static uint64_t smaller(const json_t *spec, const char *name, uint64_t most)
{
    json_int_t asked = json_integer_value(json_object_get(json_object_get(spec, "limits"), name));
    return asked > 0 && (uint64_t)asked < most ? (uint64_t)asked : most;
}

void planner_allow(const struct daemon *daemon, const json_t *spec, json_t *message)
{
    const struct config *config = daemon->config;
    json_put_i64(message, "threads", (int64_t)smaller(spec, "threads", config->threads));
    json_put_i64(message, "memory_limit_bytes",
                 (int64_t)smaller(spec, "max_memory_bytes", config->memory_bytes));
}

void planner_plan(struct daemon *daemon, json_t *request, api_host_done *done, void *done_context)
{
    struct question *question = question_create(daemon, "--plan", request, done, done_context);
    planner_allow(daemon, json_object_get(request, "spec"), request);
    lay_out(question);
}

void planner_inspect(struct daemon *daemon, const char *folder, api_host_done *done, void *done_context)
{
    json_t *request = json_object();
    json_put_text(request, "folder", folder);
    ask(question_create(daemon, "--inspect", request, done, done_context));
}
