/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/securebits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pwd.h>
#include <seccomp.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "net/net.h"

/* How phaul-net gives up what it could do; PRIVSEP.md says what is left. */

static int drop_bounding_set(struct error *err)
{
        /* EINVAL: beyond the last capability this kernel knows. */
        for (unsigned long cap = 0; cap < 64; cap++)
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
                        if (errno == EINVAL)
                                break;
                        return error_errno(err, errno, "cannot drop capability %lu", cap);
                }
        (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        /* Being uid 0 again, should that ever happen, would mean nothing. */
        if (prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED, 0, 0, 0) < 0)
                return error_errno(err, errno, "cannot set the secure bits");
        return 0;
}

static int keep_capability(const cap_value_t *cap)
{
        cap_t set = cap_init();
        int r = set ? 0 : -1;

        if (r == 0 && cap)
                r = cap_set_flag(set, CAP_PERMITTED, 1, cap, CAP_SET);
        if (r == 0 && cap)
                r = cap_set_flag(set, CAP_EFFECTIVE, 1, cap, CAP_SET);
        if (r == 0)
                r = cap_set_proc(set);
        int saved = errno;
        if (set)
                (void)cap_free(set);
        return r < 0 ? -saved : 0;
}

static int set_limits(unsigned files, struct error *err)
{
        const struct {
                int resource;
                rlim_t limit;
        } limits[] = {
                {RLIMIT_NOFILE, files}, {RLIMIT_FSIZE, 0}, {RLIMIT_NPROC, 0}, {RLIMIT_CORE, 0}, {RLIMIT_MEMLOCK, 0}};

        for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
                struct rlimit r = {limits[i].limit, limits[i].limit};
                if (setrlimit(limits[i].resource, &r) < 0)
                        return error_errno(err, errno, "cannot limit resources");
        }
        return 0;
}

int sandbox_drop_user(const char *user, unsigned files, struct error *err)
{
        const cap_value_t chroot_cap = CAP_SYS_CHROOT;
        const struct passwd *entry;

        if (geteuid() != 0)
                return error_set(err, EPERM, "phaul-net must be started by root");
        entry = user[0] ? getpwnam(user) : getpwnam("phaul-net") ?: getpwnam("nobody");
        if (!entry || entry->pw_uid == 0 || entry->pw_gid == 0)
                return error_set(err, ENOENT, "there is no unprivileged user %s to run as",
                                 user[0] ? user : "phaul-net or nobody");
        uid_t uid = entry->pw_uid;
        gid_t gid = entry->pw_gid;

        int r = drop_bounding_set(err);
        if (r < 0)
                return r;
        if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
                return error_errno(err, errno, "cannot become another user");
        r = keep_capability(&chroot_cap);
        if (r < 0)
                return error_errno(err, -r, "cannot drop capabilities");
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return error_errno(err, errno, "cannot give up privileges");
        return set_limits(files, err);
}

static int enter_root(const char *root, struct error *err)
{
        AUTO_FD int fd = open(root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return error_errno(err, errno, "cannot open %s", root);
        if (st.st_uid != 0 || (st.st_mode & 022))
                return error_set(err, EPERM, "%s must belong to root and be writable by nobody else", root);
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        AUTO_DIR DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
        if (!dir)
                return error_errno(err, errno, "cannot read %s", root);
        for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                        return error_set(err, ENOTEMPTY, "%s must be empty", root);
        if (fchdir(fd) < 0 || chroot(".") < 0 || chdir("/") < 0)
                return error_errno(err, errno, "cannot enter %s", root);
        return 0;
}

/* Everything the loop, malloc and OpenSSL need, and nothing that makes or opens anything. */
static int add_rules(scmp_filter_ctx filter)
{
        static const int allowed[] = {
                SCMP_SYS(read),
                SCMP_SYS(write),
                SCMP_SYS(readv),
                SCMP_SYS(writev),
                SCMP_SYS(recvfrom),
                SCMP_SYS(sendto),
                SCMP_SYS(recvmsg),
                SCMP_SYS(sendmsg),
                SCMP_SYS(shutdown),
                SCMP_SYS(close),
                SCMP_SYS(poll),
                SCMP_SYS(ppoll),
                SCMP_SYS(munmap),
                SCMP_SYS(mremap),
                SCMP_SYS(madvise),
                SCMP_SYS(brk),
                SCMP_SYS(clock_gettime),
                SCMP_SYS(gettimeofday),
                SCMP_SYS(time),
                SCMP_SYS(getrandom),
                SCMP_SYS(futex),
                SCMP_SYS(rt_sigprocmask),
                SCMP_SYS(rt_sigreturn),
                SCMP_SYS(getpid),
                SCMP_SYS(exit),
                SCMP_SYS(exit_group),
                SCMP_SYS(restart_syscall),
        };
        /* Libraries look around (time zone, number of processors); a "no" must not end a migration on the day one of
         * them learns to. All else kills. */
        static const int denied[] = {
                SCMP_SYS(open),      SCMP_SYS(openat),      SCMP_SYS(access),
                SCMP_SYS(faccessat), SCMP_SYS(faccessat2),  SCMP_SYS(newfstatat),
                SCMP_SYS(fstat),     SCMP_SYS(stat),        SCMP_SYS(statx),
                SCMP_SYS(readlink),  SCMP_SYS(readlinkat),  SCMP_SYS(ioctl),
                SCMP_SYS(sysinfo),   SCMP_SYS(uname),       SCMP_SYS(prlimit64),
                SCMP_SYS(fcntl),     SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
        };
        /* Memory may never become code; of a socket only what greeting.c and run.c ask for. */
        static const struct {
                int call;
                unsigned n;
                struct scmp_arg_cmp args[2];
        } conditional[] = {
                {SCMP_SYS(mmap), 1, {{2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0}}},
                {SCMP_SYS(mprotect), 1, {{2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0}}},
                {SCMP_SYS(getsockopt), 2, {{1, SCMP_CMP_EQ, IPPROTO_TCP, 0}, {2, SCMP_CMP_EQ, TCP_INFO, 0}}},
                {SCMP_SYS(setsockopt), 2, {{1, SCMP_CMP_EQ, IPPROTO_TCP, 0}, {2, SCMP_CMP_EQ, TCP_USER_TIMEOUT, 0}}},
        };
        int r = 0;

        for (size_t i = 0; r == 0 && i < sizeof(allowed) / sizeof(allowed[0]); i++)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
        for (size_t i = 0; r == 0 && i < sizeof(denied) / sizeof(denied[0]); i++)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), denied[i], 0);
        for (size_t i = 0; r == 0 && i < sizeof(conditional) / sizeof(conditional[0]); i++)
                r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, conditional[i].call, conditional[i].n,
                                           conditional[i].args);
        return r;
}

static int load_filter(struct error *err)
{
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
        int r = filter ? add_rules(filter) : -ENOMEM;

        if (r == 0)
                r = seccomp_load(filter);
        if (filter)
                seccomp_release(filter);
        return r < 0 ? error_errno(err, -r, "cannot load the system call filter") : 0;
}

int sandbox_seal(const char *root, struct error *err)
{
        int r = enter_root(root, err);

        if (r == 0) {
                r = keep_capability(NULL);
                if (r < 0)
                        (void)error_errno(err, -r, "cannot drop capabilities");
        }
        return r < 0 ? r : load_filter(err);
}
