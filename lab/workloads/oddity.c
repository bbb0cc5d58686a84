// SPDX-License-Identifier: LGPL-2.1-or-later
//
// oddity NAME READY [DIR]: be a process with one thing that is odd to move, for trying a pre-flight. Writes "ready", or
// why it cannot be done here, to the file READY, and waits. What it shares with others by name lies in DIR, else /root.
// `oddity init` is an init that reaps.

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static int listening(int protocol)
{
        struct sockaddr_in a = {.sin_family = AF_INET};
        int s = socket(AF_INET, SOCK_STREAM, protocol);

        return s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 ? -1 : listen(s, 1);
}

static int netlink(int unread)
{
        struct sockaddr_nl a = {.nl_family = AF_NETLINK};
        struct {
                struct nlmsghdr h;
                struct rtgenmsg m;
        } q = {{.nlmsg_len = sizeof(q), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}, {0}};
        int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

        if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) < 0)
                return -1;
        return unread && send(s, &q, sizeof(q), 0) < 0 ? -1 : 0;
}

static int corked(void)
{
        int s = socket(AF_INET, SOCK_DGRAM, 0), on = 1;

        return setsockopt(s, IPPROTO_UDP, UDP_CORK, &on, sizeof(on));
}

static int perf(void)
{
        struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(a), .config = PERF_COUNT_SW_TASK_CLOCK};

        return (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
}

static int bpf(int program)
{
        struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
        union bpf_attr a = {0};

        if (program) {
                a.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
                a.insns = (uintptr_t)code;
                a.insn_cnt = 2;
                a.license = (uintptr_t) "GPL";
        } else {
                a.map_type = BPF_MAP_TYPE_ARRAY;
                a.key_size = a.value_size = a.max_entries = 4;
        }
        return (int)syscall(SYS_bpf, program ? BPF_PROG_LOAD : BPF_MAP_CREATE, &a, sizeof(a));
}

static int seccomp(unsigned flags)
{
        struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        struct sock_fprog p = {.len = 1, .filter = &all};

        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}

static int fan(unsigned what)
{
        int f = fanotify_init(0, 0);

        return f < 0 ? -1 : fanotify_mark(f, FAN_MARK_ADD | what, FAN_MODIFY, AT_FDCWD, "/root");
}

static int device(int major, int minor)
{
        unlink("/root/device");
        return mknod("/root/device", S_IFCHR | 0600, makedev(major, minor)) < 0 ? -1 : open("/root/device", O_RDWR);
}

static int deleted(size_t bytes, const char *other_name)
{
        char block[65536] = {1};
        int f = open("/root/gone", O_RDWR | O_CREAT | O_TRUNC, 0600);

        for (size_t i = 0; f >= 0 && i < bytes; i += sizeof(block))
                if (write(f, block, sizeof(block)) != sizeof(block))
                        return -1;
        if (other_name && (unlink(other_name), link("/root/gone", other_name) < 0))
                return -1;
        return f < 0 ? -1 : unlink("/root/gone");
}

static int mapped_and_deleted(void)
{
        if (deleted(3 << 20, "/root/again") < 0)
                return -1;
        int f = open("/root/again", O_RDWR);
        if (f < 0 || mmap(NULL, 3 << 20, PROT_READ, MAP_SHARED, f, 0) == MAP_FAILED)
                return -1;
        close(f);
        for (int i = 3; i < 20; i++)
                close(i);
        return unlink("/root/again");
}

static int of_another_mount(void)
{
        int f = (int)syscall(SYS_memfd_create, "x", 0);

        (void)f;
        return open("/root/../dev/null", O_RDONLY);
}

/* A child that has done it, and stays. */
static pid_t child(int (*fn)(int), int argument)
{
        int p[2], ok = -1;

        if (pipe(p) < 0)
                return -1;
        pid_t pid = fork();
        if (pid == 0) {
                ok = fn ? fn(argument) : 0;
                (void)!write(p[1], &ok, sizeof(ok));
                close(p[0]);
                close(p[1]);
                for (;;)
                        pause();
        }
        (void)!read(p[0], &ok, sizeof(ok));
        close(p[0]);
        close(p[1]);
        return ok < 0 ? -1 : pid;
}

static int own_namespace(int flag)
{
        /* The pid and time namespaces are the children's. */
        if (flag != CLONE_NEWPID && flag != CLONE_NEWTIME)
                return child(unshare, flag);
        return unshare(flag) < 0 ? -1 : child(NULL, 0);
}

static int traced(void)
{
        pid_t pid = child(NULL, 0);

        return (int)ptrace(PTRACE_SEIZE, pid, NULL, NULL);
}

static int stay(void *unused)
{
        (void)unused;
        while (pause())
                ;
        return 0;
}

static int dead_leader(void)
{
        static char stack[65536];

        if (fork() == 0) {
                clone(stay, stack + sizeof(stack), CLONE_VM | CLONE_THREAD | CLONE_SIGHAND, NULL);
                syscall(SYS_exit, 0);
        }
        return usleep(200000);
}

static int vfork_wait(void)
{
        static char stack[65536];

        if (fork() == 0)
                clone(stay, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
        return usleep(200000);
}

static int stopped(void)
{
        return kill(child(NULL, 0), SIGSTOP);
}

static int zombie(void)
{
        if (fork() == 0)
                _exit(0);
        return 0;
}

static int huge(void)
{
        char *p = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

        return p == MAP_FAILED ? -1 : (p[0] = 1);
}

static const char *directory = "/root";

static const char *shared(const char *name)
{
        static char path[300];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        return path;
}

static int fifo(void)
{
        if (mkfifo(shared("fifo"), 0600) < 0 && errno != EEXIST)
                return -1;
        return open(shared("fifo"), O_RDWR);
}

static int locked(int how)
{
        int f = open(shared("lock"), O_RDONLY | O_CREAT, 0600);

        return f < 0 ? -1 : flock(f, how);
}

/* A lock of the open file, which names no process. */
static int open_file_locked(void)
{
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
        int f = open(shared("lock"), O_RDONLY | O_CREAT, 0600);

        return f < 0 ? -1 : fcntl(f, F_OFD_SETLK, &lock);
}

static int mapped_file(void)
{
        int f = open(shared("mapped"), O_RDWR | O_CREAT, 0600);

        if (f < 0 || ftruncate(f, 4096) < 0 || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0) == MAP_FAILED)
                return -1;
        return close(f);
}

static int unix_socket(int server)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_STREAM, 0);

        snprintf(a.sun_path, sizeof(a.sun_path), "%s", shared("socket"));
        if (!server)
                return connect(s, (struct sockaddr *)&a, sizeof(a));
        unlink(a.sun_path);
        if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 1) < 0)
                return -1;
        if (fork() == 0)
                for (;;)
                        accept(s, NULL, NULL);
        return 0;
}

static int terminal(void)
{
        int m = posix_openpt(O_RDWR | O_NOCTTY);

        if (m < 0 || grantpt(m) < 0 || unlockpt(m) < 0)
                return -1;
        return open(ptsname(m), O_RDWR | O_NOCTTY);
}

static int sysv(void)
{
        int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);

        if (id < 0 || shmat(id, NULL, 0) == (void *)-1)
                return -1;
        return shmctl(id, IPC_RMID, NULL);
}

static int act(const char *name)
{
        static char uring[120];
        int pair[2];
#define IS(text) (strcmp(name, text) == 0)
        if (IS("tcp"))
                return listening(0);
        if (IS("mptcp"))
                return listening(IPPROTO_MPTCP);
        if (IS("sctp"))
                return socket(AF_INET, SOCK_STREAM, 132);
        if (IS("raw"))
                return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
        if (IS("packet"))
                return socket(AF_PACKET, SOCK_RAW, 0);
        if (IS("alg"))
                return socket(AF_ALG, SOCK_SEQPACKET, 0);
        if (IS("vsock"))
                return socket(AF_VSOCK, SOCK_STREAM, 0);
        if (IS("unix"))
                return socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        if (IS("netlink"))
                return netlink(0);
        if (IS("netlink-unread"))
                return netlink(1);
        if (IS("corked-udp"))
                return corked();
        if (IS("io-uring"))
                return (int)syscall(SYS_io_uring_setup, 8, uring);
        if (IS("userfaultfd"))
                return (int)syscall(SYS_userfaultfd, 0);
        if (IS("perf"))
                return perf();
        if (IS("bpf-map"))
                return bpf(0);
        if (IS("bpf-program"))
                return bpf(1);
        if (IS("seccomp"))
                return seccomp(0);
        if (IS("seccomp-listener"))
                return seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER);
        if (IS("inotify"))
                return inotify_add_watch(inotify_init(), "/root", IN_MODIFY);
        if (IS("inotify-proc"))
                return inotify_add_watch(inotify_init(), "/proc/sys", IN_MODIFY);
        if (IS("fanotify"))
                return fan(0);
        if (IS("fanotify-file-system"))
                return fan(FAN_MARK_FILESYSTEM);
        if (IS("fifo"))
                return fifo();
        if (IS("locked"))
                return locked(LOCK_SH);
        if (IS("locked-open-file"))
                return open_file_locked();
        if (IS("written"))
                return open(shared("written"), O_WRONLY | O_CREAT, 0600);
        if (IS("mapped-file"))
                return mapped_file();
        if (IS("unix-server"))
                return unix_socket(1);
        if (IS("unix-client"))
                return unix_socket(0);
        if (IS("shared-memory"))
                return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
                               ? -1
                               : child(NULL, 0);
        if (IS("pipe"))
                return pipe(pair) < 0 ? -1 : child(NULL, 0);
        if (IS("terminal"))
                return terminal();
        if (IS("sysv"))
                return sysv();
        if (IS("pidfd"))
                return (int)syscall(SYS_pidfd_open, getpid(), 0);
        if (IS("memfd"))
                return (int)syscall(SYS_memfd_create, "oddity", 0);
        if (IS("fscontext"))
                return (int)syscall(SYS_fsopen, "tmpfs", 0);
        if (IS("null"))
                return of_another_mount();
        if (IS("fuse"))
                return device(10, 229);
        if (IS("tun"))
                return device(10, 200);
        if (IS("loop-control"))
                return device(10, 237);
        if (IS("deleted-small"))
                return deleted(65536, NULL);
        if (IS("deleted-large"))
                return deleted(3 << 20, NULL);
        if (IS("deleted-linked"))
                return deleted(3 << 20, "/root/stays");
        if (IS("deleted-mapped"))
                return mapped_and_deleted();
        if (IS("user-namespace"))
                return own_namespace(CLONE_NEWUSER);
        if (IS("pid-namespace"))
                return own_namespace(CLONE_NEWPID);
        if (IS("time-namespace"))
                return own_namespace(CLONE_NEWTIME);
        if (IS("cgroup-namespace"))
                return own_namespace(CLONE_NEWCGROUP);
        if (IS("net-namespace"))
                return own_namespace(CLONE_NEWNET);
        if (IS("mnt-namespace"))
                return own_namespace(CLONE_NEWNS);
        if (IS("uts-namespace"))
                return own_namespace(CLONE_NEWUTS);
        if (IS("ipc-namespace"))
                return own_namespace(CLONE_NEWIPC);
        if (IS("traced"))
                return traced();
        if (IS("dead-leader"))
                return dead_leader();
        if (IS("vfork"))
                return vfork_wait();
        if (IS("stopped"))
                return stopped();
        if (IS("zombie"))
                return zombie();
        if (IS("huge"))
                return huge();
        errno = EINVAL;
        return -1;
}

int main(int argc, char **argv)
{
        if (argc == 2 && strcmp(argv[1], "init") == 0)
                for (;;)
                        if (wait(NULL) < 0)
                                usleep(200000);
        if (argc != 3 && argc != 4)
                return 2;
        if (argc == 4)
                directory = argv[3];
        int r = act(argv[1]);
        int f = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dprintf(f, "%s", r < 0 ? strerror(errno) : "ready");
        close(f);
        for (;;)
                pause();
}
