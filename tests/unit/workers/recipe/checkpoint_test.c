/* Checkpoints: two generations, bound to request, inputs and machine; torn ones are passed over. */
#include "base/cleanup.h"
#include "base/file.h"
#include "workers/recipe/checkpoint.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct checkpoint_identity identity = {"spec", "inputs", "x86-64 avx2, BLAS 1.0 Haswell"};

static char *make_folder(void)
{
    char *folder = strdup("/tmp/pruned-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

static void remove_folder(char *folder)
{
    assert_true(file_remove_tree(folder, NULL));
    free(folder);
}

static void save_number(const char *folder, int number)
{
    JSON_OWNED payload = json_pack("{s:i, s:f}", "number", number, "score", 0.1 + 0.2);
    struct error error = {0};
    assert_true(checkpoint_save(folder, &identity, payload, &error));
}

/* -1: there is no checkpoint. */
static int load_number(const char *folder)
{
    struct error error = {0};
    json_t *payload = NULL;
    assert_true(checkpoint_load(folder, &identity, &payload, &error));
    if (payload == NULL) {
        return -1;
    }
    assert_true(json_number_value(json_object_get(payload, "score")) == 0.1 + 0.2);
    int number = (int)json_integer_value(json_object_get(payload, "number"));
    json_decref(payload);
    return number;
}

static void an_empty_folder_has_no_checkpoint(void **state)
{
    (void)state;
    char *folder = make_folder();
    assert_int_equal(load_number(folder), -1);
    remove_folder(folder);
}

static void the_last_save_is_loaded(void **state)
{
    (void)state;
    char *folder = make_folder();
    for (int i = 1; i <= 3; i++) {
        save_number(folder, i);
        assert_int_equal(load_number(folder), i);
    }
    remove_folder(folder);
}

static void a_torn_checkpoint_falls_back_to_the_one_before(void **state)
{
    (void)state;
    char *folder = make_folder();
    save_number(folder, 1);
    save_number(folder, 2);
    OWNED_MEMORY char *path = file_join(folder, "checkpoint");
    size_t count = 0;
    OWNED_MEMORY char *whole = file_load(path, 1 << 20, &count, NULL);
    for (size_t length = 0; length < count; length++) { /* every prefix */
        assert_true(file_save(path, whole, length, 0644, NULL));
        assert_int_equal(load_number(folder), 1);
    }
    for (size_t at = 10; at < count; at += 7) { /* and a flipped bit of the payload or its hash */
        char *newline = strchr(whole, '\n');
        if (whole + at >= newline - 40 && whole + at <= newline) {
            continue; /* the machine's name is compared, not hashed */
        }
        whole[at] = (char)(whole[at] ^ 4);
        assert_true(file_save(path, whole, count, 0644, NULL));
        struct error error = {0};
        json_t *payload = NULL;
        if (checkpoint_load(folder, &identity, &payload, &error) && payload != NULL) {
            assert_int_equal(json_integer_value(json_object_get(payload, "number")), 1);
        }
        json_decref(payload);
        whole[at] = (char)(whole[at] ^ 4);
    }
    remove_folder(folder);
}

static void a_crash_between_the_renames_loses_nothing(void **state)
{
    (void)state;
    char *folder = make_folder();
    save_number(folder, 1);
    OWNED_MEMORY char *path = file_join(folder, "checkpoint");
    OWNED_MEMORY char *fresh = file_join(folder, "checkpoint.new");
    assert_int_equal(rename(path, fresh), 0);
    assert_int_equal(load_number(folder), 1);
    remove_folder(folder);
}

static void another_request_input_or_machine_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct checkpoint_identity identity;
        enum error_code code;
    } rows[] = {
        {{"other", "inputs", "x86-64 avx2, BLAS 1.0 Haswell"}, ERROR_CONFLICT},
        {{"spec", "other", "x86-64 avx2, BLAS 1.0 Haswell"}, ERROR_INPUT_CHANGED},
        {{"spec", "inputs", "x86-64 avx512f, BLAS 1.0 SkylakeX"}, ERROR_UNSUPPORTED},
    };
    char *folder = make_folder();
    save_number(folder, 1);
    for (size_t i = 0; i < 3; i++) {
        struct error error = {0};
        json_t *payload = NULL;
        assert_false(checkpoint_load(folder, &rows[i].identity, &payload, &error));
        assert_int_equal(error.code, rows[i].code);
        assert_null(payload);
    }
    remove_folder(folder);
}

/* ---- a disk that fails ---------------------------------------------------------------------------------------------- */

static int calls_left;

static bool fails_now(void)
{
    return calls_left-- == 0;
}

static ssize_t failing_write(int fd, const void *bytes, size_t count)
{
    if (fails_now()) {
        errno = ENOSPC;
        return -1;
    }
    return file_system_real.write(fd, bytes, count);
}

static ssize_t failing_pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    if (fails_now()) {
        errno = ENOSPC;
        return -1;
    }
    return file_system_real.pwrite(fd, bytes, count, offset);
}

static int failing_fsync(int fd)
{
    if (fails_now()) {
        errno = EIO;
        return -1;
    }
    return file_system_real.fsync(fd);
}

static int failing_rename(const char *from, const char *to)
{
    if (fails_now()) {
        errno = EIO;
        return -1;
    }
    return file_system_real.rename(from, to);
}

static void whatever_fails_in_a_save_an_older_state_is_left(void **state)
{
    (void)state;
    struct file_system failing = file_system_real;
    failing.write = failing_write;
    failing.pwrite = failing_pwrite;
    failing.fsync = failing_fsync;
    failing.rename = failing_rename;
    file_sync_failure_is_error = true;
    bool was_saved = false;
    for (int n = 0; n < 40 && !was_saved; n++) {
        char *folder = make_folder();
        save_number(folder, 1);
        save_number(folder, 2);
        JSON_OWNED payload = json_pack("{s:i, s:f}", "number", 3, "score", 0.1 + 0.2);
        struct error error = {0};
        calls_left = n;
        file_system = &failing;
        was_saved = checkpoint_save(folder, &identity, payload, &error);
        file_system = &file_system_real;
        int number = load_number(folder);
        assert_true(was_saved ? number == 3 : number == 2 || number == 3);
        remove_folder(folder);
    }
    assert_true(was_saved);
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_folder_has_no_checkpoint),
        cmocka_unit_test(the_last_save_is_loaded),
        cmocka_unit_test(a_torn_checkpoint_falls_back_to_the_one_before),
        cmocka_unit_test(a_crash_between_the_renames_loses_nothing),
        cmocka_unit_test(another_request_input_or_machine_is_refused),
        cmocka_unit_test(whatever_fails_in_a_save_an_older_state_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
