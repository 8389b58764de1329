/* daemon/config.c: the four layers in their order, and every fault with where it stands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "daemon/config.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[] = "/tmp/pruned_config_XXXXXX";
static char file[64];

static int make_folder(void **state)
{
    (void)state;
    (void)unsetenv("CONFIGURATION_DIRECTORY");
    (void)unsetenv("STATE_DIRECTORY");
    (void)unsetenv("CREDENTIALS_DIRECTORY");
    assert_non_null(mkdtemp(folder));
    (void)snprintf(file, sizeof file, "%s/pruned.conf", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    struct error error;
    return file_remove_tree(folder, &error) ? 0 : 1;
}

static void write_file(const char *content)
{
    struct error error;
    assert_true(file_save(file, content, strlen(content), 0600, &error));
}

/* The worker must exist; any program will do. */
static char worker_flag[] = "--worker=/bin/true";
#define WORKER worker_flag

static void defaults_are_complete_and_valid(void **state)
{
    (void)state;
    FINISHED(config) config = {0};
    FINISHED(error_list) faults = {0};
    assert_true(config_load(1, (char *[]){WORKER}, &config, &faults));
    assert_string_equal(config.address, "127.0.0.1");
    assert_int_equal(config.port, 8765);
    assert_int_equal(config.slots, 1);
    assert_int_equal(config.lease_ms, 30000);
    assert_int_equal(config.reserve_bytes, 256u << 20);
    assert_int_equal(config.score_cache_bytes, 8ull << 30);
    assert_true(config.threads >= 1);
    assert_true(config.memory_bytes > 0);
    assert_null(config.token);
    assert_null(config.roots[0]);
    assert_string_equal(config.origins[CONFIG_WORKERS_SLOTS], "default");
}

static void a_flag_beats_the_environment_which_beats_the_file(void **state)
{
    (void)state;
    write_file("# comment\n[workers]\nslots = 2\nthreads=3\n[server]\nlisten = \"127.0.0.1:1\"\n");
    assert_int_equal(setenv("PRUNED_WORKERS_SLOTS", "4", 1), 0);
    assert_int_equal(setenv("PRUNED_SERVER_LISTEN", "127.0.0.1:2", 1), 0);
    FINISHED(config) config = {0};
    FINISHED(error_list) faults = {0};
    char *arguments[] = {WORKER, (char[]){"--config"}, file, (char[]){"--listen"}, (char[]){"127.0.0.1:3"}};
    assert_true(config_load(5, arguments, &config, &faults));
    (void)unsetenv("PRUNED_WORKERS_SLOTS");
    (void)unsetenv("PRUNED_SERVER_LISTEN");
    assert_int_equal(config.threads, 3);
    assert_int_equal(config.slots, 4);
    assert_int_equal(config.port, 3);
    assert_non_null(strstr(config.origins[CONFIG_WORKERS_THREADS], "pruned.conf:4"));
    assert_string_equal(config.origins[CONFIG_WORKERS_SLOTS], "PRUNED_WORKERS_SLOTS");
    assert_string_equal(config.origins[CONFIG_SERVER_LISTEN], "--listen");
}

static void lists_take_colons_and_repeated_flags(void **state)
{
    (void)state;
    FINISHED(config) config = {0};
    FINISHED(error_list) faults = {0};
    char *arguments[] = {WORKER, (char[]){"--root=/tmp"}, (char[]){"--root=/usr:/var"}};
    assert_true(config_load(3, arguments, &config, &faults));
    assert_string_equal(config.roots[0], "/tmp");
    assert_string_equal(config.roots[1], "/usr");
    assert_string_equal(config.roots[2], "/var");
    assert_null(config.roots[3]);
}

static bool has_fault(const struct error_list *faults, enum error_code code, const char *place)
{
    for (size_t i = 0; i < faults->stored; i++) {
        if (faults->items[i].code == code && strstr(faults->items[i].field, place) != NULL) {
            return true;
        }
    }
    return false;
}

static void every_fault_is_reported_with_its_place(void **state)
{
    (void)state;
    write_file("[workers]\nslots = 0\nspeed = 9\n[nonsense]\nthis is no line\n[log]\nlevel = loud\n"
               "[storage]\nreserve_bytes = 5X\n");
    assert_int_equal(setenv("PRUNED_WORKERS_SPEED", "9", 1), 0);
    FINISHED(config) config = {0};
    FINISHED(error_list) faults = {0};
    char *arguments[] = {WORKER,
                         (char[]){"--config"},
                         file,
                         (char[]){"--listen=nowhere"},
                         (char[]){"--root=/does/not/exist"},
                         (char[]){"--colour=red"},
                         (char[]){"--threads"}};
    assert_false(config_load(7, arguments, &config, &faults));
    (void)unsetenv("PRUNED_WORKERS_SPEED");
    assert_true(has_fault(&faults, ERROR_OUT_OF_RANGE, "pruned.conf:2"));
    assert_true(has_fault(&faults, ERROR_UNKNOWN_FIELD, "pruned.conf:3"));
    assert_true(has_fault(&faults, ERROR_UNKNOWN_FIELD, "pruned.conf:4"));
    assert_true(has_fault(&faults, ERROR_INVALID_ARGUMENT, "pruned.conf:5"));
    assert_true(has_fault(&faults, ERROR_UNKNOWN_VALUE, "pruned.conf:7"));
    assert_true(has_fault(&faults, ERROR_WRONG_TYPE, "pruned.conf:9"));
    assert_true(has_fault(&faults, ERROR_UNKNOWN_FIELD, "PRUNED_WORKERS_SPEED"));
    assert_true(has_fault(&faults, ERROR_INVALID_ARGUMENT, "--listen"));
    assert_true(has_fault(&faults, ERROR_NOT_FOUND, "--root"));
    assert_true(has_fault(&faults, ERROR_UNKNOWN_FIELD, "--colour"));
    assert_true(has_fault(&faults, ERROR_MISSING_FIELD, "--threads"));
    assert_int_equal(faults.count, 11);
}

static void bytes_take_a_suffix_and_do_not_overflow(void **state)
{
    (void)state;
    FINISHED(config) config = {0};
    FINISHED(error_list) faults = {0};
    assert_true(config_load(2, (char *[]){WORKER, (char[]){"--memory-bytes=3G"}}, &config, &faults));
    assert_int_equal(config.memory_bytes, 3ull << 30);
    FINISHED(config) second = {0};
    assert_false(
        config_load(2, (char *[]){WORKER, (char[]){"--memory-bytes=99999999999T"}}, &second, &faults));
}

static void a_token_is_read_from_its_file_and_never_printed(void **state)
{
    (void)state;
    char path[80];
    (void)snprintf(path, sizeof path, "%s/token", folder);
    struct error error;
    assert_true(file_save(path, "0123456789abcdef\n", 17, 0600, &error));
    FINISHED(config) config = {0};
    FINISHED(error_list) faults = {0};
    char *arguments[] = {WORKER, (char[]){"--token-file"}, path};
    assert_true(config_load(3, arguments, &config, &faults));
    assert_string_equal(config.token, "0123456789abcdef");
    FINISHED(text) printed = {0};
    config_print(&config, &printed);
    assert_null(strstr(printed.bytes, config.token));
    assert_non_null(strstr(printed.bytes, "server.token_file = "));
    assert_true(file_save(path, "short", 5, 0600, &error));
    FINISHED(config) second = {0};
    assert_false(config_load(3, arguments, &second, &faults));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_complete_and_valid),
        cmocka_unit_test(a_flag_beats_the_environment_which_beats_the_file),
        cmocka_unit_test(lists_take_colons_and_repeated_flags),
        cmocka_unit_test(every_fault_is_reported_with_its_place),
        cmocka_unit_test(bytes_take_a_suffix_and_do_not_overflow),
        cmocka_unit_test(a_token_is_read_from_its_file_and_never_printed),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
