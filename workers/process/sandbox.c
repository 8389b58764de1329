/*
 * workers/process/sandbox.c: see sandbox.h.
 *
 * The seccomp filter is a list of what is refused (EPERM), not of what is allowed: BLAS, libc and sanitizers
 * change what they call between versions, and a killed worker would look like a bad model. What is refused is
 * every way out of the process: network, other processes, other programs, and the kernel interfaces that
 * exploits start from. It is synchronised to all threads; Landlock binds the calling thread and those it
 * makes later, so both come before the compute threads.
 */
#include "workers/process/sandbox.h"
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- always -------------------------------------------------------------------------------------------- */

static void close_others(int keep_fd)
{
    unsigned next = 3;
    if (keep_fd >= 3) {
        if (keep_fd > 3) {
            (void)syscall(SYS_close_range, next, (unsigned)keep_fd - 1, 0);
        }
        next = (unsigned)keep_fd + 1;
    }
    (void)syscall(SYS_close_range, next, ~0u, 0);
}

void sandbox_start(int keep_fd, bool is_background)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    close_others(keep_fd);
    if (!is_background) {
        return;
    }
    (void)setrlimit(RLIMIT_NOFILE, &(struct rlimit){1024, 1024});
    (void)setpriority(PRIO_PROCESS, 0, 19);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, "900", 3);
        (void)close(fd);
    }
}

/* ---- Landlock ------------------------------------------------------------------------------------------ */

#define LANDLOCK_READ_FILE (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_EXECUTE)
#define LANDLOCK_READ      (LANDLOCK_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define LANDLOCK_WRITE                                                                                       \
    (LANDLOCK_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                         \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG)
#define LANDLOCK_ALL                                                                                         \
    (LANDLOCK_WRITE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_SOCK |                          \
     LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)
#define LANDLOCK_REFER_ACCESS    (1ull << 13) /* ABI 2; renames between folders of the work folder */
#define LANDLOCK_TRUNCATE_ACCESS (1ull << 14) /* ABI 3 */

struct ruleset {
    int fd;
    uint64_t extra; /* rights that the kernel's ABI knows beyond the first */
};

static bool allow_path(const struct ruleset *ruleset, const char *path, uint64_t access, struct error *error)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0) {
        return true; /* not there: whoever needs it will say so by name */
    }
    struct stat status;
    if (fstat(fd, &status) == 0 && !S_ISDIR(status.st_mode)) {
        access &= LANDLOCK_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    }
    struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
    long result = syscall(SYS_landlock_add_rule, ruleset->fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    int cause = errno;
    (void)close(fd);
    return result == 0 || error_set_errno(error, cause, "landlock rule for %.200s", path);
}

#define GPU_COUNT 16 /* nodes of single GPUs that are looked for */

/* What the NVIDIA driver opens for writing. Its ioctls are not handled by these rules, and so stay allowed; a node that is missing
 * cannot be made from in here (the driver would start nvidia-modprobe), which the driver then reports as no device. */
static bool allow_gpu(const struct ruleset *ruleset, struct error *error)
{
    static const char *const nodes[] = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools",
                                        "/dev/nvidia-modeset", "/dev/nvidia-caps"};
    bool is_fine = true;
    for (size_t i = 0; is_fine && i < sizeof nodes / sizeof *nodes; i++) {
        is_fine = allow_path(ruleset, nodes[i], LANDLOCK_READ | LANDLOCK_ACCESS_FS_WRITE_FILE, error);
    }
    char path[PATH_MAX];
    for (int i = 0; is_fine && i < GPU_COUNT; i++) {
        (void)snprintf(path, sizeof path, "/dev/nvidia%d", i);
        is_fine = allow_path(ruleset, path, LANDLOCK_READ | LANDLOCK_ACCESS_FS_WRITE_FILE, error);
    }
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (is_fine && length > 0) {
        path[length] = '\0';
        char *slash = strrchr(path, '/');
        if (slash != NULL && slash != path) {
            *slash = '\0';
            is_fine = allow_path(ruleset, path, LANDLOCK_READ, error);
        }
    }
    return is_fine;
}

static bool enter_landlock(const struct sandbox_paths *paths, struct error *error)
{
    static const char *const system_paths[] = {"/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev"};
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1) {
        return true; /* this kernel has none */
    }
    struct ruleset ruleset = {.extra = (abi >= 2 ? LANDLOCK_REFER_ACCESS : 0) |
                                       (abi >= 3 ? LANDLOCK_TRUNCATE_ACCESS : 0)};
    struct landlock_ruleset_attr attributes = {.handled_access_fs = LANDLOCK_ALL | ruleset.extra};
    ruleset.fd = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (ruleset.fd < 0) {
        return error_set_errno(error, errno, "landlock_create_ruleset");
    }
    bool is_fine = true;
    for (size_t i = 0; is_fine && i < sizeof system_paths / sizeof *system_paths; i++) {
        is_fine = allow_path(&ruleset, system_paths[i], LANDLOCK_READ, error);
    }
    for (size_t i = 0; is_fine && i < paths->readable_count; i++) {
        is_fine =
            paths->readable[i] == NULL || allow_path(&ruleset, paths->readable[i], LANDLOCK_READ, error);
    }
    if (is_fine && paths->uses_gpu) {
        is_fine = allow_gpu(&ruleset, error);
    }
    if (is_fine && paths->writable != NULL) {
        is_fine = allow_path(&ruleset, paths->writable, LANDLOCK_WRITE | ruleset.extra, error);
    }
    if (is_fine && paths->cache != NULL) {
        is_fine = allow_path(&ruleset, paths->cache, LANDLOCK_WRITE | ruleset.extra, error);
    }
    if (is_fine && syscall(SYS_landlock_restrict_self, ruleset.fd, 0) != 0) {
        is_fine = error_set_errno(error, errno, "landlock_restrict_self");
    }
    (void)close(ruleset.fd);
    return is_fine;
}

/* ---- seccomp ------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define SANDBOX_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define SANDBOX_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef SANDBOX_ARCH
static const unsigned refused_calls[] = {
    SYS_socket,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_pidfd_getfd,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_unshare,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_open_by_handle_at,
    SYS_swapon,
    SYS_swapoff,
    SYS_reboot,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_tkill,
    SYS_pidfd_send_signal,
    SYS_setpriority,
#ifdef SYS_fork
    SYS_fork,
    SYS_vfork,
#endif
};
#define REFUSED_COUNT (sizeof refused_calls / sizeof *refused_calls)

/* Calls that name a process: ours only. The service runs as the same user, so nothing else keeps a worker from ending it. */
static const struct {
    unsigned call;
    bool takes_zero; /* 0 is the caller; to kill it is the whole process group */
} own_calls[] = {
    {SYS_kill, false},     {SYS_tgkill, false}, {SYS_rt_sigqueueinfo, false}, {SYS_rt_tgsigqueueinfo, false},
    {SYS_prlimit64, true},
};
#define OWN_COUNT (sizeof own_calls / sizeof *own_calls)

struct filter {
    struct sock_filter code[REFUSED_COUNT + 6 * OWN_COUNT + 16];
    unsigned short count;
};

static void add(struct filter *filter, unsigned short code, unsigned char if_true, unsigned char if_false,
                unsigned value)
{
    filter->code[filter->count++] = (struct sock_filter)BPF_JUMP(code, value, if_true, if_false);
}

static void add_return(struct filter *filter, unsigned value)
{
    add(filter, BPF_RET | BPF_K, 0, 0, value);
}

static void load_argument(struct filter *filter)
{
    /* The low half of the first argument: pid_t and the flags of clone are no wider. Both machines are little-endian. */
    add(filter, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args));
}

/* Processes are made by clone without CLONE_THREAD, or by clone3, whose flags a filter cannot read: libc falls back to clone
 * when the kernel does not know it. Each block leaves the number of the call in the accumulator if it is another's. */
static void add_own_calls(struct filter *filter)
{
    for (size_t i = 0; i < OWN_COUNT; i++) {
        add(filter, BPF_JMP | BPF_JEQ | BPF_K, 0, 5, own_calls[i].call);
        load_argument(filter);
        add(filter, BPF_JMP | BPF_JEQ | BPF_K, 2, 0, (unsigned)getpid());
        add(filter, BPF_JMP | BPF_JEQ | BPF_K, own_calls[i].takes_zero ? 1 : 0, 0, 0);
        add_return(filter, SECCOMP_RET_ERRNO | EPERM);
        add_return(filter, SECCOMP_RET_ALLOW);
    }
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, 0, 4, SYS_clone);
    load_argument(filter);
    add(filter, BPF_JMP | BPF_JSET | BPF_K, 1, 0, CLONE_THREAD);
    add_return(filter, SECCOMP_RET_ERRNO | EPERM);
    add_return(filter, SECCOMP_RET_ALLOW);
    add(filter, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_clone3);
    add_return(filter, SECCOMP_RET_ERRNO | ENOSYS);
}

static bool enter_seccomp(struct error *error)
{
    struct filter filter = {.count = 0};
    add(&filter, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch));
    add(&filter, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SANDBOX_ARCH);
    add_return(&filter, SECCOMP_RET_KILL_PROCESS);
    add(&filter, BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
    /* The x32 numbers of x86-64 would be a second door. */
    add(&filter, BPF_JMP | BPF_JGE | BPF_K, 0, 1, 0x40000000u);
    add_return(&filter, SECCOMP_RET_ERRNO | EPERM);
    add_own_calls(&filter);
    /* [jump to refuse] x n, allow, refuse. The jump distances fit a byte: n < 250. */
    for (size_t i = 0; i < REFUSED_COUNT; i++) {
        add(&filter, BPF_JMP | BPF_JEQ | BPF_K, (unsigned char)(REFUSED_COUNT - i), 0, refused_calls[i]);
    }
    add_return(&filter, SECCOMP_RET_ALLOW);
    add_return(&filter, SECCOMP_RET_ERRNO | EPERM);
    const struct sock_fprog program = {.len = filter.count, .filter = filter.code};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0 &&
        errno != ENOSYS && errno != EINVAL) {
        return error_set_errno(error, errno, "seccomp");
    }
    return true;
}
#else
static bool enter_seccomp(struct error *error)
{
    (void)error; /* no list for this architecture */
    return true;
}
#endif

/* Twice the limit and 4 GiB: thread stacks and libraries count here too, and are not memory. Sanitizers need
 * terabytes. */
static void limit_address_space(uint64_t memory_limit_bytes)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    if (memory_limit_bytes > 0 && memory_limit_bytes < UINT64_MAX / 4) {
        rlim_t bytes = (rlim_t)(memory_limit_bytes * 2 + (4ull << 30));
        (void)setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes});
    }
#else
    (void)memory_limit_bytes;
#endif
}

bool sandbox_enter(const struct sandbox_paths *paths, struct error *error)
{
    limit_address_space(paths->uses_gpu ? 0 : paths->memory_limit_bytes);
    return enter_landlock(paths, error) && enter_seccomp(error);
}
