/*
 * workers/process/question.c: one question on stdin, one answer on stdout. See protocol.h for the forms.
 *
 * The answer is written after the work is done, whole; exit 0 says that it is there. Bad inputs are an answer
 * too.
 */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "workers/process/process_internal.h"
#include "workers/process/protocol.h"
#include "workers/process/sandbox.h"
#include "workers/recipe/recipe.h"
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static json_t *read_request(struct error *error)
{
    FINISHED(text) input = {0};
    char bytes[65536];
    for (;;) {
        ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            break;
        }
        if (input.length + (size_t)count > PROTOCOL_FRAME_LIMIT) {
            error_set(error, ERROR_TOO_LARGE, "the request is over %u bytes", PROTOCOL_FRAME_LIMIT);
            return NULL;
        }
        text_append_bytes(&input, bytes, (size_t)count);
    }
    return json_parse(input.bytes == NULL ? "" : input.bytes, input.length, PROTOCOL_FRAME_LIMIT, error);
}

static json_t *errors_answer(const struct error_list *faults)
{
    json_t *errors = json_array();
    for (size_t i = 0; i < faults->stored; i++) {
        json_array_append_new(errors, json_from_error(&faults->items[i]));
    }
    json_t *answer = json_object();
    json_put(answer, "errors", errors);
    return answer;
}

/* From here on only the inputs can be read. */
static bool confine_question(const json_t *request, struct error_list *faults)
{
    struct error error;
    return confine(request, (struct sandbox_paths){0}, &error) || error_list_add_error(faults, &error);
}

static json_t *inspect(const json_t *request, struct error_list *faults)
{
    struct error error;
    const char *folder = NULL;
    json_t *inventory = NULL;
    if (!json_get_text(request, "", "folder", &folder, &error)) {
        error_list_add_error(faults, &error);
        return NULL;
    }
    JSON_OWNED order = json_object();
    json_put(order, "model", json_incref((json_t *)(uintptr_t)request));
    if (!confine_question(order, faults) || !recipe_inspect(folder, &inventory, faults)) {
        return NULL;
    }
    json_t *answer = json_object();
    json_put(answer, "inventory", inventory);
    return answer;
}

static json_t *plan(const json_t *request, struct error_list *faults)
{
    struct error error;
    json_t *spec = NULL;
    json_t *model = NULL;
    json_t *models = NULL;
    json_t *inputs = NULL;
    const char *folder = NULL;
    if (!json_get_object(request, "", "spec", &spec, &error) ||
        !json_get_object(request, "", "model", &model, &error) ||
        !json_get_object(request, "", "models", &models, &error) ||
        !json_get_object(request, "", "inputs", &inputs, &error) ||
        !json_get_text(model, "/model", "folder", &folder, &error)) {
        error_list_add_error(faults, &error);
        return NULL;
    }
    json_int_t threads = json_integer_value(json_object_get(request, "threads"));
    json_int_t memory = json_integer_value(json_object_get(request, "memory_limit_bytes"));
    const json_t *inventory = json_object_get(model, "inventory");
    const struct recipe_job job = {.spec = spec,
                                   .model_folder = folder,
                                   .inventory = json_is_object(inventory) ? inventory : NULL,
                                   .models = models,
                                   .inputs = inputs,
                                   .threads = threads > 0 ? (size_t)threads : 1,
                                   .memory_limit_bytes = memory > 0 ? (uint64_t)memory : 0};
    json_t *found = NULL;
    json_t *planned = NULL;
    if (!confine_question(request, faults) || !recipe_plan(&job, &planned, &found, faults)) {
        return NULL;
    }
    json_t *answer = json_object();
    json_put(answer, "plan", planned);
    json_put(answer, "inventory", found);
    return answer;
}

static bool print_answer(const json_t *answer)
{
    OWNED_MEMORY char *text = json_format(answer, false);
    struct error error;
    return file_append(STDOUT_FILENO, text, strlen(text), &error) &&
           file_append(STDOUT_FILENO, "\n", 1, &error);
}

int question_main(const char *mode)
{
    JSON_OWNED answer = NULL;
    FINISHED(error_list) faults = {0};
    if (strcmp(mode, "--describe") == 0) {
        answer = recipe_catalogue();
        return print_answer(answer) ? 0 : 1;
    }
    if (!isatty(STDIN_FILENO)) {
        sandbox_start(-1, false);
        (void)setpriority(PRIO_PROCESS, 0, 10);
    }
    struct error error;
    JSON_OWNED request = read_request(&error);
    if (request == NULL) {
        error_list_add_error(&faults, &error);
    } else if (strcmp(mode, "--inspect") == 0) {
        answer = inspect(request, &faults);
    } else {
        answer = plan(request, &faults);
    }
    if (answer == NULL) {
        answer = errors_answer(&faults);
    }
    return print_answer(answer) ? 0 : 1;
}
