/* workers/process/spec.c and confine.c: which paths the models and texts of a spec are, and that the sandbox leaves just those. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "workers/process/process_internal.h"
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/pruned_inputs_XXXXXX";
static const char *const files[] = {"one/config.json", "two/config.json", "three/model.gguf",
                                    "four/config.json", "text.txt"};

static int make_files(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        OWNED_MEMORY char *path = file_join(folder, files[i]);
        char *slash = strrchr(path, '/');
        *slash = '\0';
        assert_true(file_make_folders(path, 0700, NULL));
        *slash = '/';
        assert_true(file_save(path, "{}", 2, 0600, NULL));
    }
    return chdir(folder);
}

static int remove_files(void **state)
{
    (void)state;
    return chdir("/") == 0 && file_remove_tree(folder, NULL) ? 0 : 1;
}

static const char *folder_of(const json_t *models, const char *uri)
{
    return json_string_value(json_object_get(json_object_get(models, uri), "folder"));
}

static void every_model_of_a_spec_becomes_a_path(void **state)
{
    (void)state;
    JSON_OWNED spec =
        json_pack("{s:s,s:s,s:s,s:{s:s}}", "model", "one", "pruned_model", "file:three/model.gguf",
                  "embedding_model", "one", "text", "source", "text.txt");
    OWNED_MEMORY char *model = NULL;
    JSON_OWNED models = NULL;
    JSON_OWNED inputs = NULL;
    FINISHED(error_list) faults = {0};
    assert_true(spec_find_files(spec, &model, &models, &inputs, &faults));
    OWNED_MEMORY char *one = file_join(folder, "one");
    OWNED_MEMORY char *three = file_join(folder, "three/model.gguf");
    OWNED_MEMORY char *text = file_join(folder, "text.txt");
    assert_string_equal(model, one);
    assert_int_equal(json_object_size(models), 2);
    assert_string_equal(folder_of(models, "one"), one); /* the same model may be named twice */
    assert_string_equal(folder_of(models, "file:three/model.gguf"), three);
    assert_true(json_is_null(json_object_get(json_object_get(models, "one"), "inventory")));
    assert_string_equal(json_string_value(json_object_get(inputs, "text.txt")), text);
}

static void a_spec_of_one_model_has_none_beside_it(void **state)
{
    (void)state;
    JSON_OWNED spec = json_pack("{s:s,s:n}", "model", "one", "pruned_model");
    OWNED_MEMORY char *model = NULL;
    JSON_OWNED models = NULL;
    JSON_OWNED inputs = NULL;
    FINISHED(error_list) faults = {0};
    assert_true(spec_find_files(spec, &model, &models, &inputs, &faults));
    assert_int_equal(json_object_size(models), 0);
}

static void every_model_that_is_none_is_a_fault_of_its_own(void **state)
{
    (void)state;
    JSON_OWNED spec = json_pack("{s:s,s:s,s:s,s:{s:s}}", "model", "nowhere", "pruned_model", "text.txt",
                                "embedding_model", "job:job_X", "text", "source", "no.txt");
    char *model = NULL;
    json_t *models = NULL;
    json_t *inputs = NULL;
    FINISHED(error_list) faults = {0};
    assert_false(spec_find_files(spec, &model, &models, &inputs, &faults));
    static const struct {
        const char *field;
        enum error_code code;
    } wanted[] = {{"/model", ERROR_NOT_FOUND},
                  {"/pruned_model", ERROR_INVALID_ARGUMENT},
                  {"/embedding_model", ERROR_UNSUPPORTED},
                  {"/text/source", ERROR_NOT_FOUND}};
    assert_int_equal(faults.stored, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(faults.items[i].field, wanted[i].field);
        assert_int_equal(faults.items[i].code, wanted[i].code);
    }
    assert_null(models);
}

static void an_unknown_type_is_answered_with_the_known_ones(void **state)
{
    (void)state;
    JSON_OWNED spec = json_pack("{s:s}", "type", "baking");
    FINISHED(error_list) faults = {0};
    assert_null(spec_resolve(spec, &faults));
    assert_string_equal(faults.items[0].field, "/type");
    assert_non_null(strstr(faults.items[0].message, "\"baking\""));
    assert_non_null(strstr(faults.items[0].message, "pruning"));
    assert_non_null(strstr(faults.items[0].message, "evaluation"));
}

/* Confined to models one, two and three's file and to the text; the bits of the files that can still be read. */
static int try_to_read(const json_t *order)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        sandbox_start(-1, false);
        struct error error;
        if (!confine(order, (struct sandbox_paths){0}, &error)) {
            _exit(100);
        }
        int readable = 0;
        for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
            readable |= open(files[i], O_RDONLY | O_CLOEXEC) >= 0 ? 1 << i : 0;
        }
        _exit(readable);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_worker_reads_all_its_models_and_no_other(void **state)
{
    (void)state;
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1) {
        print_message("# this kernel has no Landlock\n");
        skip();
    }
    OWNED_MEMORY char *one = file_join(folder, "one");
    OWNED_MEMORY char *two = file_join(folder, "two");
    OWNED_MEMORY char *three = file_join(folder, "three/model.gguf");
    OWNED_MEMORY char *text = file_join(folder, "text.txt");
    JSON_OWNED order = json_pack("{s:{s:s},s:{s:{s:s},s:{s:s}},s:{s:s}}", "model", "folder", one, "models",
                                 "a", "folder", two, "b", "folder", three, "inputs", "t", text);
    assert_int_equal(try_to_read(order), 0x17); /* all but four */
    JSON_OWNED alone = json_pack("{s:{s:s}}", "model", "folder", one);
    assert_int_equal(try_to_read(alone), 0x01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_model_of_a_spec_becomes_a_path),
        cmocka_unit_test(a_spec_of_one_model_has_none_beside_it),
        cmocka_unit_test(every_model_that_is_none_is_a_fault_of_its_own),
        cmocka_unit_test(an_unknown_type_is_answered_with_the_known_ones),
        cmocka_unit_test(a_worker_reads_all_its_models_and_no_other),
    };
    json_start();
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
