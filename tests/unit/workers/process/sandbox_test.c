/* workers/process/sandbox.c: what a confined process can still do, each tried in a child of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "workers/process/sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/pruned_sandbox_XXXXXX";
static char readable[64], writable[64], cache[64], secret[64];
static bool uses_gpu; /* of the next confined() */

static int make_folders(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    (void)snprintf(readable, sizeof readable, "%s/readable", folder);
    (void)snprintf(writable, sizeof writable, "%s/work", folder);
    (void)snprintf(cache, sizeof cache, "%s/cache", folder);
    (void)snprintf(secret, sizeof secret, "%s/secret", folder);
    struct error error;
    assert_true(file_make_folders(readable, 0700, &error));
    assert_true(file_make_folders(writable, 0700, &error));
    assert_true(file_make_folders(cache, 0700, &error));
    assert_true(file_save(secret, "secret", 6, 0600, &error));
    char path[96];
    (void)snprintf(path, sizeof path, "%s/a", readable);
    return file_save(path, "a", 1, 0600, &error) ? 0 : 1;
}

static int remove_folders(void **state)
{
    (void)state;
    struct error error;
    return file_remove_tree(folder, &error) ? 0 : 1;
}

/* Runs `body` confined in a child; returns its exit status. 100: the sandbox itself failed. */
static int confined(int (*body)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        sandbox_start(-1, true);
        const char *paths[] = {readable, NULL};
        struct error error;
        if (!sandbox_enter(&(struct sandbox_paths){paths, 2, writable, cache, 1ull << 30, uses_gpu},
                           &error)) {
            _exit(100);
        }
        _exit(body());
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* Hidden states spill into a file without a name (workers/model/sweep.c). */
static int spill_into_the_work_folder(void)
{
    int fd = open(writable, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        return errno == EOPNOTSUPP ? 0 : 1;
    }
    char byte = 0;
    bool is_kept = pwrite(fd, "x", 1, 4096) == 1 && pread(fd, &byte, 1, 4096) == 1 && byte == 'x' &&
                   posix_fadvise(fd, 0, 8192, POSIX_FADV_WILLNEED) == 0;
    (void)close(fd);
    return is_kept && open(readable, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) < 0 ? 0 : 2;
}

/* Scores are kept by a temporary and a rename, and marked as used. */
static int keep_in_the_cache(void)
{
    char path[96];
    struct error error;
    (void)snprintf(path, sizeof path, "%s/entry", cache);
    return file_save(path, "x", 1, 0600, &error) && file_system->touch(path) == 0 &&
                   file_system->unlink(path) == 0
               ? 0
               : 1;
}

static bool has_landlock(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 1;
}

static int open_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EPERM ? 0 : 1;
}

static int run_program(void)
{
    char *arguments[] = {(char[]){"true"}, NULL};
    (void)execv("/bin/true", arguments);
    return errno == EPERM ? 0 : 1;
}

static int make_a_process(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    bool is_refused = pid < 0 && errno == EPERM;
    return is_refused && syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) < 0 && errno == EPERM ? 0 : 1;
}

static int touch_the_parent(void)
{
    const struct rlimit limit = {64, 64};
    bool is_safe = kill(getppid(), 0) < 0 && errno == EPERM && kill(0, 0) < 0 && errno == EPERM &&
                   kill(-1, 0) < 0 && errno == EPERM && setpriority(PRIO_PROCESS, (id_t)getppid(), 19) < 0 &&
                   prlimit(getppid(), RLIMIT_NOFILE, &limit, NULL) < 0 && errno == EPERM;
    return is_safe ? 0 : 1;
}

static int signal_myself_and_read_my_limits(void)
{
    struct rlimit limit;
    (void)signal(SIGUSR1, SIG_IGN);
    return kill(getpid(), 0) == 0 && raise(SIGUSR1) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
                   prlimit(getpid(), RLIMIT_NOFILE, NULL, &limit) == 0
               ? 0
               : 1;
}

static int end_by_abort(void)
{
    abort();
}

static int open_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    int result = fd >= 0 ? 0 : errno;
    (void)close(fd);
    return result;
}

static int read_secret(void)
{
    return open_path(secret, O_RDONLY);
}

static int read_input(void)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/a", readable);
    return open_path(path, O_RDONLY);
}

static int write_input(void)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/a", readable);
    return open_path(path, O_WRONLY);
}

static int work_in_the_work_folder(void)
{
    char folder_path[96];
    char path[128];
    char moved[128];
    (void)snprintf(folder_path, sizeof folder_path, "%s/out", writable);
    (void)snprintf(path, sizeof path, "%s/out/x.tmp", writable);
    (void)snprintf(moved, sizeof moved, "%s/x", writable);
    struct error error;
    return mkdir(folder_path, 0700) == 0 && file_save(path, "x", 1, 0600, &error) &&
                   rename(path, moved) == 0 && unlink(moved) == 0 && rmdir(folder_path) == 0
               ? 0
               : errno;
}

static void *do_nothing(void *context)
{
    return context;
}

static int start_thread_and_allocate(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, do_nothing, NULL) != 0 || pthread_join(thread, NULL) != 0) {
        return 1;
    }
    char *bytes = malloc(64u << 20);
    if (bytes == NULL) {
        return 2;
    }
    memset(bytes, 1, 64u << 20);
    free(bytes);
    return 0;
}

static int look_at_myself(void)
{
    struct rlimit core = {1, 1};
    (void)getrlimit(RLIMIT_CORE, &core);
    int death_signal = 0;
    (void)prctl(PR_GET_PDEATHSIG, &death_signal);
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && core.rlim_max == 0 && death_signal == SIGKILL &&
                   getpriority(PRIO_PROCESS, 0) == 19
               ? 0
               : 1;
}

static void no_socket_and_no_program_can_be_opened(void **state)
{
    (void)state;
    assert_int_equal(confined(open_socket), 0);
    assert_int_equal(confined(run_program), 0);
}

static void no_process_is_made_and_no_other_is_touched(void **state)
{
    (void)state;
    assert_int_equal(confined(make_a_process), 0);
    assert_int_equal(confined(touch_the_parent), 0);
    assert_int_equal(confined(signal_myself_and_read_my_limits), 0);
    assert_int_equal(confined(end_by_abort), 1000 + SIGABRT);
}

static void only_inputs_can_be_read_and_only_the_work_folder_written(void **state)
{
    (void)state;
    assert_int_equal(confined(read_input), 0);
    assert_int_equal(confined(work_in_the_work_folder), 0);
    if (has_landlock()) {
        assert_int_equal(confined(read_secret), EACCES);
        assert_int_equal(confined(write_input), EACCES);
        assert_int_equal(confined(keep_in_the_cache), 0);
    }
}

static void hidden_states_can_spill_into_the_work_folder_alone(void **state)
{
    (void)state;
    if (!has_landlock()) {
        skip();
    }
    assert_int_equal(confined(spill_into_the_work_folder), 0);
}

static void arithmetic_needs_still_work(void **state)
{
    (void)state;
    assert_int_equal(confined(start_thread_and_allocate), 0);
}

static void the_process_is_harmless_and_dies_with_its_parent(void **state)
{
    (void)state;
    assert_int_equal(confined(look_at_myself), 0);
}

/* As a driver does: far more addresses than memory. */
static int reserve_addresses(void)
{
    return mmap(NULL, (size_t)1 << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) !=
                   MAP_FAILED
               ? 0
               : errno;
}

static int look_beside_the_program(void)
{
    return open_path("/proc/self/exe", O_RDONLY);
}

/* All else stays refused. */
static void a_gpu_gets_addresses_and_its_nodes_and_nothing_more(void **state)
{
    (void)state;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_int_equal(confined(reserve_addresses), ENOMEM);
#endif
    uses_gpu = true;
    assert_int_equal(confined(reserve_addresses), 0);
    assert_int_equal(confined(look_beside_the_program), 0);
    assert_int_equal(confined(open_socket), 0);
    assert_int_equal(confined(run_program), 0);
    assert_int_equal(confined(make_a_process), 0);
    if (has_landlock()) {
        assert_int_equal(confined(read_secret), EACCES);
        assert_int_equal(confined(write_input), EACCES);
    }
    uses_gpu = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_socket_and_no_program_can_be_opened),
        cmocka_unit_test(no_process_is_made_and_no_other_is_touched),
        cmocka_unit_test(only_inputs_can_be_read_and_only_the_work_folder_written),
        cmocka_unit_test(hidden_states_can_spill_into_the_work_folder_alone),
        cmocka_unit_test(arithmetic_needs_still_work),
        cmocka_unit_test(the_process_is_harmless_and_dies_with_its_parent),
        cmocka_unit_test(a_gpu_gets_addresses_and_its_nodes_and_nothing_more),
    };
    return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
