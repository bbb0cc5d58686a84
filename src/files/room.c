/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "files/room.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Exists everywhere, and is covered in our own mount namespace only, after everything needed below it was cloned. */
#define SCAFFOLD "/tmp"

/* Directories of a system whose /usr is merged are links into it; otherwise they are shown as they are. */
static const char *const system_dirs[] = {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"};
#define N_SYSTEM_DIRS (sizeof(system_dirs) / sizeof(system_dirs[0]))

struct parts {
        int tree, program;
        int dirs[N_SYSTEM_DIRS]; /* -1: a link, or not there */
        char links[N_SYSTEM_DIRS][64];
};

static int set_attributes(int fd, uint64_t set, struct error *err, const char *what)
{
        struct mount_attr attr = {.attr_set = set, .propagation = MS_PRIVATE};

        if (set & MOUNT_ATTR_NOATIME)
                attr.attr_clr = MOUNT_ATTR__ATIME;
        if (mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0)
                return error_errno(err, errno, "cannot confine the copy: attributes of %s", what);
        return 0;
}

static int clone_fd(int fd, uint64_t attributes, int *ret, struct error *err, const char *what)
{
        AUTO_FD int clone = open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
        if (clone < 0)
                return error_errno(err, errno, "cannot confine the copy: clone of %s", what);
        int r = set_attributes(clone, attributes, err, what);
        if (r == 0)
                *ret = TAKE_FD(clone);
        return r;
}

static int clone_system(struct parts *p, struct error *err)
{
        for (size_t i = 0; i < N_SYSTEM_DIRS; i++) {
                char path[32];
                struct stat st;

                (void)snprintf(path, sizeof(path), "/%s", system_dirs[i]);
                if (lstat(path, &st) < 0)
                        continue;
                if (S_ISLNK(st.st_mode)) {
                        ssize_t n = readlink(path, p->links[i], sizeof(p->links[i]) - 1);
                        p->links[i][n > 0 ? n : 0] = '\0';
                        continue;
                }
                /* Recursive: /usr/local and the like may be file systems of their own. */
                p->dirs[i] = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
                if (p->dirs[i] < 0)
                        return error_errno(err, errno, "cannot confine the copy: clone of %s", path);
                int r = set_attributes(p->dirs[i], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, err, path);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* While still in the first mount namespace: clones of mounts can only be made in the namespace they are in. */
static int gather(const struct room_options *o, struct parts *p, struct error *err)
{
        uint64_t tree = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME;

        if (!o->writable)
                tree |= MOUNT_ATTR_RDONLY;
        int r = clone_fd(o->tree_fd, tree, &p->tree, err, "the tree");
        if (r == 0 && o->program_fd >= 0)
                r = clone_fd(o->program_fd, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, &p->program, err,
                             "phaul-rsh");
        return r < 0 ? r : clone_system(p, err);
}

static int place(int clone, const char *name, bool is_dir, struct error *err)
{
        if (is_dir) {
                if (mkdir(name, 0755) < 0)
                        return error_errno(err, errno, "cannot confine the copy: make %s", name);
        } else {
                AUTO_FD int fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0755);
                if (fd < 0)
                        return error_errno(err, errno, "cannot confine the copy: make %s", name);
        }
        if (move_mount(clone, "", AT_FDCWD, name, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return error_errno(err, errno, "cannot confine the copy: mount %s", name);
        return 0;
}

static int furnish(const struct parts *p, struct error *err)
{
        int r = place(p->tree, ROOM_TREE_NAME, true, err);

        if (r == 0 && p->program >= 0)
                r = place(p->program, ROOM_PROGRAM_NAME, false, err);
        for (size_t i = 0; r == 0 && i < N_SYSTEM_DIRS; i++) {
                if (p->dirs[i] >= 0)
                        r = place(p->dirs[i], system_dirs[i], true, err);
                else if (p->links[i][0] && symlink(p->links[i], system_dirs[i]) < 0)
                        r = error_errno(err, errno, "cannot confine the copy: link %s", system_dirs[i]);
        }
        return r;
}

static int move_in(const struct parts *p, struct error *err)
{
        struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};

        if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0)
                return error_errno(err, errno, "cannot confine the copy: unshare");
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return error_errno(err, errno, "cannot confine the copy: private mounts");
        if (mount("phaul", SCAFFOLD, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0755") < 0)
                return error_errno(err, errno, "cannot confine the copy: mount %s", SCAFFOLD);
        if (chdir(SCAFFOLD) < 0)
                return error_errno(err, errno, "cannot confine the copy: enter %s", SCAFFOLD);

        int r = furnish(p, err);
        if (r < 0)
                return r;
        /* The old root ends up on top of the new one, where it can be taken off. */
        if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
                return error_errno(err, errno, "cannot confine the copy: change of root");
        if (mount_setattr(AT_FDCWD, "/", 0, &read_only, sizeof(read_only)) < 0)
                return error_errno(err, errno, "cannot confine the copy: read-only root");
        return 0;
}

static int drop_capabilities(bool writable, struct error *err)
{
        static const cap_value_t reader[] = {CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN};
        static const cap_value_t writer[] = {CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_CHOWN, CAP_DAC_OVERRIDE,
                                             CAP_FOWNER,          CAP_FSETID,    CAP_MKNOD, CAP_SETFCAP};
        const cap_value_t *keep = writable ? writer : reader;
        int n = writable ? (int)(sizeof(writer) / sizeof(writer[0])) : (int)(sizeof(reader) / sizeof(reader[0]));

        for (cap_value_t c = 0; c <= CAP_LAST_CAP; c++) {
                bool kept = false;
                for (int i = 0; i < n; i++)
                        kept |= keep[i] == c;
                /* EINVAL: a capability this kernel does not know. */
                if (!kept && cap_drop_bound(c) < 0 && errno != EINVAL)
                        return error_errno(err, errno, "cannot confine the copy: bounding set");
        }
        (void)cap_reset_ambient();

        /* What is not permitted here (a container that runs us) cannot be kept either: the intersection. */
        cap_t now = cap_get_proc(), next = cap_init();
        int r = now && next ? 0 : -ENOMEM;
        for (int i = 0; r == 0 && i < n; i++) {
                cap_flag_value_t have = CAP_CLEAR;
                (void)cap_get_flag(now, keep[i], CAP_PERMITTED, &have);
                if (have == CAP_SET && (cap_set_flag(next, CAP_PERMITTED, 1, &keep[i], CAP_SET) < 0 ||
                                        cap_set_flag(next, CAP_EFFECTIVE, 1, &keep[i], CAP_SET) < 0))
                        r = -errno;
        }
        if (r == 0 && cap_set_proc(next) < 0)
                r = -errno;
        (void)cap_free(now);
        (void)cap_free(next);
        return r < 0 ? error_errno(err, -r, "cannot confine the copy: capabilities") : 0;
}

static int forbid(bool hurry, struct error *err)
{
        static const int calls[] = {
                SCMP_SYS(mount),
                SCMP_SYS(umount2),
                SCMP_SYS(mount_setattr),
                SCMP_SYS(move_mount),
                SCMP_SYS(open_tree),
                SCMP_SYS(fsopen),
                SCMP_SYS(fsconfig),
                SCMP_SYS(fsmount),
                SCMP_SYS(fspick),
                SCMP_SYS(pivot_root),
                SCMP_SYS(chroot),
                SCMP_SYS(setns),
                SCMP_SYS(unshare),
                SCMP_SYS(bpf),
                SCMP_SYS(perf_event_open),
                SCMP_SYS(ptrace),
                SCMP_SYS(process_vm_readv),
                SCMP_SYS(process_vm_writev),
                SCMP_SYS(pidfd_getfd),
                SCMP_SYS(open_by_handle_at),
                SCMP_SYS(name_to_handle_at),
                SCMP_SYS(socket),
                SCMP_SYS(io_uring_setup),
                SCMP_SYS(userfaultfd),
                SCMP_SYS(fanotify_init),
                SCMP_SYS(quotactl),
                SCMP_SYS(quotactl_fd),
                SCMP_SYS(swapon),
                SCMP_SYS(swapoff),
                SCMP_SYS(sethostname),
                SCMP_SYS(setdomainname),
                SCMP_SYS(syslog),
                SCMP_SYS(keyctl),
                SCMP_SYS(add_key),
                SCMP_SYS(request_key),
                SCMP_SYS(seccomp),
                SCMP_SYS(reboot),
                SCMP_SYS(acct),
                SCMP_SYS(init_module),
                SCMP_SYS(finit_module),
                SCMP_SYS(delete_module),
                SCMP_SYS(kexec_load),
                SCMP_SYS(kexec_file_load),
        };
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
        int r = filter ? 0 : -ENOMEM;

        for (size_t i = 0; r == 0 && i < sizeof(calls) / sizeof(calls[0]); i++)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), calls[i], 0);
        /* New namespaces by clone() (its flags are checked); clone3() hides them behind a pointer: not there, for libc.
         */
        if (r == 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
        if (r == 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                                     SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWNS, CLONE_NEWNS));
        if (r == 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
        if (r == 0 && hurry)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(0), SCMP_SYS(nanosleep), 0);
        if (r == 0 && hurry)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(0), SCMP_SYS(clock_nanosleep), 0);
        if (r == 0)
                r = seccomp_load(filter);
        seccomp_release(filter);
        return r < 0 ? error_errno(err, -r, "cannot confine the copy: system call filter") : 0;
}

static void close_parts(struct parts *p)
{
        cleanup_fd(&p->tree);
        cleanup_fd(&p->program);
        for (size_t i = 0; i < N_SYSTEM_DIRS; i++)
                cleanup_fd(&p->dirs[i]);
}

int room_enter(const struct room_options *options, struct error *err)
{
        struct parts parts = {.tree = -1, .program = -1};

        for (size_t i = 0; i < N_SYSTEM_DIRS; i++)
                parts.dirs[i] = -1;
        int r = gather(options, &parts, err);
        if (r == 0)
                r = move_in(&parts, err);
        close_parts(&parts);
        if (r == 0)
                r = drop_capabilities(options->writable, err);
        if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                r = error_errno(err, errno, "cannot confine the copy: no_new_privs");
        return r < 0 ? r : forbid(options->hurry, err);
}
