/*
 * tests/unit/base/file_test.c: files and folders, and what happens when the n-th system call fails.
 * The fault table below wraps the real one: it counts calls and lets one of them fail, or write half.
 */
#include "base/cleanup.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A folder of its own for each test. */
static char root[64];

static int make_root(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof root, "/tmp/pruned_file_XXXXXX");
    return mkdtemp(root) != NULL ? 0 : 1;
}

static int remove_root(void **state)
{
    (void)state;
    file_system = &file_system_real;
    file_sync_failure_is_error = false;
    return file_remove_tree(root, NULL) ? 0 : 1;
}

static const char *in_root(const char *name)
{
    static char paths[4][512]; /* several may be alive in one statement */
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static void save(const char *name, const char *content)
{
    struct error error = {0};
    if (!file_save(in_root(name), content, strlen(content), 0644, &error)) {
        fail_msg("%s", error.message);
    }
}

static void assert_content(const char *name, const char *expected)
{
    size_t count = 0;
    struct error error = {0};
    OWNED_MEMORY char *content = file_load(in_root(name), 1000, &count, &error);
    assert_non_null(content);
    assert_string_equal(content, expected);
    assert_int_equal(count, strlen(expected));
}

static size_t entry_count(void);

/* Faults. */

static struct {
    int countdown;     /* the call that brings it to 0 fails; 0: never */
    int calls;         /* state-changing calls so far */
    int number;        /* errno of the failure */
    bool short_writes; /* each write takes one byte at most */
    int fsyncs;
} faults;

static bool fault_strikes(void)
{
    faults.calls++;
    if (faults.countdown > 0 && --faults.countdown == 0) {
        errno = faults.number;
        return true;
    }
    return false;
}

static int faulty_open(int folder_fd, const char *path, int flags, mode_t mode)
{
    return fault_strikes() ? -1 : file_system_real.open(folder_fd, path, flags, mode);
}

static ssize_t faulty_pread(int fd, void *bytes, size_t count, off_t offset)
{
    return file_system_real.pread(fd, bytes, faults.short_writes && count > 1 ? 1 : count, offset);
}

static ssize_t faulty_pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    return fault_strikes() ? -1 : file_system_real.pwrite(fd, bytes, faults.short_writes ? 1 : count, offset);
}

static ssize_t faulty_write(int fd, const void *bytes, size_t count)
{
    return fault_strikes() ? -1 : file_system_real.write(fd, bytes, faults.short_writes ? 1 : count);
}

static int faulty_fsync(int fd)
{
    faults.fsyncs++;
    return fault_strikes() ? -1 : file_system_real.fsync(fd);
}

static int faulty_rename(const char *from, const char *to)
{
    return fault_strikes() ? -1 : file_system_real.rename(from, to);
}

static int faulty_mkdir(const char *path, mode_t mode)
{
    return fault_strikes() ? -1 : file_system_real.mkdir(path, mode);
}

static int faulty_unlink(const char *path)
{
    return fault_strikes() ? -1 : file_system_real.unlink(path);
}

static int faulty_rmdir(const char *path)
{
    return fault_strikes() ? -1 : file_system_real.rmdir(path);
}

static struct file_system faulty;

static void arm(int countdown, int number, bool short_writes)
{
    faulty = file_system_real;
    faulty.open = faulty_open;
    faulty.pread = faulty_pread;
    faulty.pwrite = faulty_pwrite;
    faulty.write = faulty_write;
    faulty.fsync = faulty_fsync;
    faulty.rename = faulty_rename;
    faulty.mkdir = faulty_mkdir;
    faulty.unlink = faulty_unlink;
    faulty.rmdir = faulty_rmdir;
    memset(&faults, 0, sizeof faults);
    faults.countdown = countdown;
    faults.number = number;
    faults.short_writes = short_writes;
    file_system = &faulty;
    file_sync_failure_is_error = true;
}

/* Tests. */

static void saving_replaces_the_whole_and_leaves_nothing_else(void **state)
{
    (void)state;
    save("a.txt", "first content");
    save("a.txt", "second");
    assert_content("a.txt", "second");
    assert_int_equal(entry_count(), 1);
    save("empty", "");
    assert_content("empty", "");
}

static void saving_syncs_file_and_folder(void **state)
{
    (void)state;
    arm(0, 0, false);
    save("a.txt", "abc");
    assert_int_equal(faults.fsyncs, 2);
}

static void a_failure_at_any_call_keeps_old_or_new_and_no_rest(void **state)
{
    (void)state;
    for (int n = 1;; n++) {
        file_system = &file_system_real;
        save("a.txt", "old");
        arm(n, ENOSPC, false);
        struct error error = {0};
        bool saved = file_save(in_root("a.txt"), "new content", 11, 0644, &error);
        bool struck = faults.countdown == 0;
        file_system = &file_system_real;
        if (!struck) {
            assert_true(saved);
            assert_true(n > 5); /* open, write, fsync, rename, open folder, fsync folder */
            break;
        }
        assert_false(saved);
        assert_int_equal(error.code, ERROR_STORAGE_FULL);
        size_t count = 0;
        OWNED_MEMORY char *content = file_load(in_root("a.txt"), 100, &count, &error);
        assert_true(strcmp(content, "old") == 0 || strcmp(content, "new content") == 0);
        assert_int_equal(entry_count(), 1);
    }
    assert_content("a.txt", "new content");
}

static void short_reads_and_writes_are_continued(void **state)
{
    (void)state;
    arm(0, 0, true);
    save("a.txt", "abcdefgh");
    assert_content("a.txt", "abcdefgh");
    struct error error = {0};
    OWNED_FD int fd = file_create(in_root("b.txt"), 0644, &error);
    assert_true(file_write_at(fd, "12345678", 8, 4, &error));
    assert_true(file_write_at(fd, "xxxx", 4, 0, &error));
    assert_content("b.txt", "xxxx12345678");
}

static void an_interrupted_call_is_repeated(void **state)
{
    (void)state;
    for (int n = 2; n <= 3;
         n++) { /* the write, the fsync; an interrupted open is an error of local disks' own */
        arm(n, EINTR, false);
        save("a.txt", "abc");
        assert_content("a.txt", "abc");
    }
}

static void a_failed_fsync_ends_the_process(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(STDERR_FILENO);
        arm(3, EIO, false);
        file_sync_failure_is_error = false;
        bool saved = file_save(in_root("a.txt"), "abc", 3, 0644, NULL);
        _exit(saved ? 1 : 2);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void creating_refuses_what_exists(void **state)
{
    (void)state;
    struct error error = {0};
    OWNED_FD int first = file_create(in_root("a"), 0600, &error);
    assert_true(first >= 0);
    assert_int_equal(fcntl(first, F_GETFD), FD_CLOEXEC);
    assert_int_equal(file_create(in_root("a"), 0600, &error), -1);
    assert_int_equal(symlink("elsewhere", in_root("link")), 0);
    assert_int_equal(file_create(in_root("link"), 0600, &error), -1);
    assert_false(file_exists(in_root("elsewhere")));
}

static void only_regular_files_are_read(void **state)
{
    (void)state;
    struct error error = {0};
    assert_int_equal(mkfifo(in_root("fifo"), 0600), 0);
    assert_int_equal(file_open_read(in_root("fifo"), &error), -1);
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_int_equal(file_open_read(root, &error), -1);
    assert_int_equal(error.code, ERROR_INVALID_ARGUMENT);
    assert_int_equal(file_open_read(in_root("absent"), &error), -1);
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_non_null(strstr(error.message, "absent"));
}

static void loading_stops_at_its_limit(void **state)
{
    (void)state;
    size_t count = 99;
    struct error error = {0};
    save("a", "12345");
    assert_null(file_load(in_root("a"), 4, &count, &error));
    assert_int_equal(error.code, ERROR_TOO_LARGE);
    assert_int_equal(count, 99);
    OWNED_MEMORY char *content = file_load(in_root("a"), 5, &count, &error);
    assert_string_equal(content, "12345");
}

static void reading_past_the_end_says_the_file_changed(void **state)
{
    (void)state;
    char bytes[8];
    struct error error = {0};
    uint64_t size = 0;
    save("a", "12345");
    OWNED_FD int fd = file_open_read(in_root("a"), &error);
    assert_true(file_size(fd, &size, &error));
    assert_int_equal(size, 5);
    assert_true(file_read_at(fd, bytes, 3, 2, "a", &error));
    assert_memory_equal(bytes, "345", 3);
    assert_false(file_read_at(fd, bytes, 4, 2, "model.safetensors", &error));
    assert_int_equal(error.code, ERROR_INPUT_CHANGED);
    assert_string_equal(error.field, "model.safetensors");
    assert_false(file_read_at(fd, bytes, 4, UINT64_MAX - 1, "a", &error));
    assert_int_equal(error.code, ERROR_OUT_OF_RANGE);
    assert_true(file_read_at(fd, bytes, 0, 100, "a", &error));
}

static void nothing_outside_the_folder_opens(void **state)
{
    (void)state;
    struct error error = {0};
    assert_true(file_make_folders(in_root("box/inner"), 0755, &error));
    save("secret", "s");
    save("box/inner/file", "f");
    assert_int_equal(symlink("../secret", in_root("box/up")), 0);
    assert_int_equal(symlink("/etc/passwd", in_root("box/absolute")), 0);
    assert_int_equal(symlink("inner/file", in_root("box/near")), 0);
    assert_int_equal(symlink("inner", in_root("box/folder")), 0);
    OWNED_FD int box = file_open_folder(in_root("box"), &error);
    assert_true(box >= 0);

    static const struct {
        const char *path;
        bool follow_links, opens;
        enum error_code code;
    } cases[] = {
        {"inner/file", false, true, ERROR_NONE},
        {"inner/./file", false, true, ERROR_NONE},
        {"near", true, true, ERROR_NONE},
        {"folder/file", true, true, ERROR_NONE},
        {"near", false, false, ERROR_FORBIDDEN},
        {"folder/file", false, false, ERROR_FORBIDDEN},
        {"up", true, false, ERROR_FORBIDDEN},
        {"up", false, false, ERROR_FORBIDDEN},
        {"absolute", true, false, ERROR_FORBIDDEN},
        {"../secret", true, false, ERROR_FORBIDDEN},
        {"inner/../inner/file", true, false, ERROR_FORBIDDEN},
        {"..", false, false, ERROR_FORBIDDEN},
        {"/etc/passwd", true, false, ERROR_FORBIDDEN},
        {"inner", false, false, ERROR_INVALID_ARGUMENT},
        {"absent", false, false, ERROR_NOT_FOUND},
        {"", false, false, ERROR_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        error = (struct error){0};
        OWNED_FD int fd = file_open_beneath(box, cases[i].path, cases[i].follow_links, &error);
        if ((fd >= 0) != cases[i].opens || error.code != cases[i].code) {
            fail_msg("%s: descriptor %d, %s %s", cases[i].path, fd, error_code_slug(error.code),
                     error.message);
        }
    }
}

static void folders_are_made_with_their_parents_and_synced(void **state)
{
    (void)state;
    struct error error = {0};
    arm(0, 0, false);
    assert_true(file_make_folders(in_root("a/b//c/"), 0755, &error));
    assert_int_equal(faults.fsyncs, 3); /* the parents of a, b and c; /tmp and root existed */
    assert_true(file_is_folder(in_root("a/b/c")));
    assert_true(file_make_folders(in_root("a/b/c"), 0755, &error));
    assert_int_equal(faults.fsyncs, 3);
    save("plain", "x");
    assert_false(file_make_folders(in_root("plain/d"), 0755, &error));
    assert_false(file_make_folders("", 0755, &error));
    assert_false(file_is_folder(in_root("plain")));
}

struct seen {
    struct text names;
    size_t stop_after, count;
};

static bool note(const char *relative, const struct stat *status, void *context, struct error *error)
{
    struct seen *seen = context;
    text_append_format(&seen->names, "%s%s ", relative,
                       S_ISDIR(status->st_mode)   ? "/"
                       : S_ISLNK(status->st_mode) ? "@"
                                                  : "");
    seen->count++;
    return seen->count != seen->stop_after || error_set(error, ERROR_CONFLICT, "enough");
}

static size_t entry_count(void)
{
    struct seen seen = {0};
    assert_true(file_walk(root, note, &seen, NULL));
    text_finish(&seen.names);
    return seen.count;
}

static void a_walk_is_sorted_deep_first_and_follows_no_link(void **state)
{
    (void)state;
    struct error error = {0};
    assert_true(file_make_folders(in_root("b/sub"), 0755, &error));
    assert_true(file_make_folders(in_root("empty"), 0755, &error));
    save("b/z", "");
    save("b/sub/y", "");
    save("a", "");
    save("c", "");
    assert_int_equal(symlink("..", in_root("b/loop")), 0);
    struct seen seen = {0};
    assert_true(file_walk(root, note, &seen, &error));
    assert_string_equal(seen.names.bytes, "a b/ b/loop@ b/sub/ b/sub/y b/z c empty/ ");
    text_finish(&seen.names);
    seen = (struct seen){.stop_after = 3};
    assert_false(file_walk(root, note, &seen, &error));
    assert_int_equal(error.code, ERROR_CONFLICT);
    assert_int_equal(seen.count, 3);
    text_finish(&seen.names);
    assert_false(file_walk(in_root("absent"), note, &seen, &error));
    assert_int_equal(error.code, ERROR_NOT_FOUND);
}

static void removing_a_tree_spares_what_links_point_to(void **state)
{
    (void)state;
    struct error error = {0};
    assert_true(file_make_folders(in_root("keep"), 0755, &error));
    assert_true(file_make_folders(in_root("tree/deep/er"), 0755, &error));
    save("keep/file", "k");
    save("tree/deep/file", "f");
    assert_int_equal(symlink("../keep", in_root("tree/link")), 0);
    assert_int_equal(symlink("tree", in_root("top")), 0);
    assert_true(file_remove_tree(in_root("top"), &error)); /* the link goes, the tree stays */
    assert_true(file_is_folder(in_root("tree/deep")));
    assert_true(file_remove_tree(in_root("tree"), &error));
    assert_false(file_exists(in_root("tree")));
    assert_content("keep/file", "k");
    assert_true(file_remove_tree(in_root("tree"), &error));
    assert_true(file_remove_tree(in_root("keep/file"), &error));
    assert_int_equal(entry_count(), 1);
}

static void a_removal_that_fails_says_where(void **state)
{
    (void)state;
    struct error error = {0};
    assert_true(file_make_folders(in_root("tree"), 0755, &error));
    save("tree/file", "f");
    arm(2, EBUSY, false); /* 1: opening the folder to list it */
    assert_false(file_remove_tree(in_root("tree"), &error));
    assert_int_equal(error.code, ERROR_IO);
    assert_non_null(strstr(error.message, "tree/file"));
}

static void a_file_hashes_as_its_bytes_do(void **state)
{
    (void)state;
    struct error error = {0};
    const size_t count = (3u << 20) + 17;
    OWNED_MEMORY char *bytes = memory_create(count, 1);
    for (size_t i = 0; i < count; i++) {
        bytes[i] = (char)(i % 253);
    }
    assert_true(file_save(in_root("big"), bytes, count, 0644, &error));
    char expected[SHA256_HEX], hex[SHA256_HEX];
    uint64_t size = 0;
    sha256_hex_of(bytes, count, expected);
    assert_true(file_hash(in_root("big"), hex, &size, &error));
    assert_string_equal(hex, expected);
    assert_int_equal(size, count);
    assert_true(file_hash(in_root("big"), hex, NULL, &error));
    assert_false(file_hash(in_root("absent"), hex, NULL, &error));
}

static void free_space_is_within_the_total(void **state)
{
    (void)state;
    uint64_t free_bytes = 0, total_bytes = 0;
    struct error error = {0};
    assert_true(file_free_bytes(root, &free_bytes, &total_bytes, &error));
    assert_true(free_bytes > 0 && free_bytes <= total_bytes);
    assert_false(file_free_bytes(in_root("absent"), &free_bytes, &total_bytes, &error));
    assert_int_equal(error.code, ERROR_NOT_FOUND);
}

static void safe_names_are_plain_and_relative(void **state)
{
    (void)state;
    static const char *const safe[] = {"a",       "a/b.c", "model-00001-of-00002.safetensors", "...", "a/..b",
                                       ".hidden", "A_9"};
    static const char *const unsafe[] = {"",      "/",    "/a",  "a/",   "a//b", ".",         "..",  "a/..",
                                         "a/./b", "../a", "a b", "a\nb", "a\\b", "a\xC3\xA9", "a:b", "~"};
    for (size_t i = 0; i < sizeof safe / sizeof safe[0]; i++) {
        assert_true(file_name_is_safe(safe[i]));
    }
    for (size_t i = 0; i < sizeof unsafe / sizeof unsafe[0]; i++) {
        assert_false(file_name_is_safe(unsafe[i]));
    }
    char name[514];
    memset(name, 'a', sizeof name);
    name[512] = '\0';
    assert_true(file_name_is_safe(name));
    name[512] = 'a';
    name[513] = '\0';
    assert_false(file_name_is_safe(name));
    OWNED_MEMORY char *joined = file_join("a/b", "c");
    assert_string_equal(joined, "a/b/c");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(saving_replaces_the_whole_and_leaves_nothing_else),
        TEST(saving_syncs_file_and_folder),
        TEST(a_failure_at_any_call_keeps_old_or_new_and_no_rest),
        TEST(short_reads_and_writes_are_continued),
        TEST(an_interrupted_call_is_repeated),
        TEST(a_failed_fsync_ends_the_process),
        TEST(creating_refuses_what_exists),
        TEST(only_regular_files_are_read),
        TEST(loading_stops_at_its_limit),
        TEST(reading_past_the_end_says_the_file_changed),
        TEST(nothing_outside_the_folder_opens),
        TEST(folders_are_made_with_their_parents_and_synced),
        TEST(a_walk_is_sorted_deep_first_and_follows_no_link),
        TEST(removing_a_tree_spares_what_links_point_to),
        TEST(a_removal_that_fails_says_where),
        TEST(a_file_hashes_as_its_bytes_do),
        TEST(free_space_is_within_the_total),
        TEST(safe_names_are_plain_and_relative),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
