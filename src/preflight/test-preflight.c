/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The scanners on what other machines said: texts of /proc, names of sockets, locks. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "preflight/preflight.h"
#include "preflight/scan.h"

static const struct task nginx = {.pid = 4711, .comm = "nginx", .state = 'S', .threads = 1};

static bool found_only(const struct findings *f, enum problem problem)
{
        for (size_t i = 0; i < PROBLEMS; i++)
                if ((f->of[i].count > 0) != (i == (size_t)problem))
                        return false;
        return true;
}

static const char status[] = "Name:\tfoo bar\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t12\nPid:\t12\nPPid:\t1\n"
                             "TracerPid:\t99\nNSpid:\t12\t3\nThreads:\t7\nKthread:\t0\nSeccomp:\t2\n";

static void status_is_read(void **state)
{
        struct task t;

        (void)state;
        assert_int_equal(task_parse(status, &t), 0);
        assert_string_equal(t.comm, "foo bar");
        assert_int_equal(t.pid, 12);
        assert_int_equal(t.tracer, 99);
        assert_int_equal(t.threads, 7);
        assert_int_equal(t.seccomp, 2);
        assert_int_equal(task_parse("", &t), -EBADMSG);
        assert_int_equal(task_parse("Name:\tx\n", &t), -EBADMSG);
}

static void tasks_are_judged(void **state)
{
        static const struct {
                struct task task;
                enum problem problem;
        } cases[] = {
                {{.pid = 1, .state = 'S', .tracer = 7}, PROBLEM_TRACED},
                {{.pid = 1, .state = 'D'}, PROBLEM_UNINTERRUPTIBLE},
                {{.pid = 1, .state = 'Z', .threads = 2}, PROBLEM_DEAD_LEADER},
                {{.pid = 1, .state = 'S', .seccomp = 1}, PROBLEM_SECCOMP_STRICT},
                {{.pid = 1, .state = 'Z', .threads = 1}, PROBLEMS},
                {{.pid = 1, .state = 'T', .threads = 4, .seccomp = 2}, PROBLEMS},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct scan s = {0};
                task_judge(&s, &cases[i].task);
                assert_true(found_only(&s.findings, cases[i].problem));
        }
}

/* Mount and network namespaces may be nested, others not; one the kernel has not got is no difference. */
static void namespaces_are_compared(void **state)
{
        struct scan s = {.init_ns = {1, 2, 3, 4, 5, 6, 7, 8, 8}};
        uint64_t own[NAMESPACES] = {91, 92, 3, 4, 5, 6, 7, 8, 8};

        (void)state;
        namespaces_judge(&s, &nginx, own);
        assert_true(found_only(&s.findings, PROBLEMS));
        own[6] = 0;
        namespaces_judge(&s, &nginx, own);
        assert_true(found_only(&s.findings, PROBLEMS));
        own[3] = 99;
        namespaces_judge(&s, &nginx, own);
        assert_true(found_only(&s.findings, PROBLEM_NAMESPACE));
        assert_non_null(strstr(s.findings.of[PROBLEM_NAMESPACE].examples[0], "user namespace"));
}

static void links_are_judged(void **state)
{
        static const struct {
                const char *link;
                enum problem problem;
                bool settled;
        } cases[] = {
                {"anon_inode:[eventfd]", PROBLEMS, true},
                {"anon_inode:inotify", PROBLEMS, true},
                {"anon_inode:[fanotify]", PROBLEMS, true},
                {"anon_inode:[io_uring]", PROBLEM_IO_URING, true},
                {"anon_inode:[userfaultfd]", PROBLEM_USERFAULTFD, true},
                {"anon_inode:bpf-map", PROBLEM_BPF, true},
                {"anon_inode:[perf_event]", PROBLEM_PERF, true},
                {"anon_inode:seccomp notify", PROBLEM_SECCOMP_LISTENER, true},
                {"anon_inode:kvm-vm", PROBLEM_ANONYMOUS, true},
                {"pipe:[12]", PROBLEMS, true},
                {"net:[4026531840]", PROBLEMS, true},
                {"/var/log/x", PROBLEMS, false},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct scan s = {0};
                assert_int_equal(descriptor_judge_link(&s, &nginx, 3, cases[i].link), cases[i].settled);
                assert_true(found_only(&s.findings, cases[i].problem));
        }
}

static void sockets_are_judged(void **state)
{
        static const struct {
                const char *protocol;
                enum problem problem;
        } cases[] = {{"TCP", PROBLEMS},
                     {"UDPv6", PROBLEMS},
                     {"UNIX-STREAM", PROBLEMS},
                     {"PACKET", PROBLEMS},
                     {"RAW", PROBLEMS},
                     {"MPTCP", PROBLEM_MPTCP},
                     {"ALG", PROBLEM_SOCKET_FAMILY},
                     {"SCTP", PROBLEM_SOCKET_FAMILY}};

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct scan s = {0};
                socket_judge(&s, &nginx, 3, cases[i].protocol, 1);
                assert_true(found_only(&s.findings, cases[i].problem));
        }
        struct scan old = {.inet_kernel = true};
        socket_judge(&old, &nginx, 3, "UDP", 1);
        assert_true(found_only(&old.findings, PROBLEM_INET_KERNEL));
}

static void unread_netlink_is_seen(void **state)
{
        static const char text[] =
                "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
                "0000000000000000 0   4711       00000000 0        0        0     2        0        100\n"
                "0000000000000000 15  4712       00000001 768      0        0     2        0        200\n";
        struct scan s = {0};

        (void)state;
        assert_int_equal(netlink_unread(text, &s.unread), 0);
        assert_int_equal(s.unread.n, 1);
        socket_judge(&s, &nginx, 3, "NETLINK", 100);
        assert_true(found_only(&s.findings, PROBLEMS));
        socket_judge(&s, &nginx, 3, "NETLINK", 200);
        assert_true(found_only(&s.findings, PROBLEM_NETLINK_UNREAD));
        free(s.unread.numbers);
}

static void mappings_are_judged(void **state)
{
        struct scan s = {0};

        (void)state;
        assert_false(mapping_judge(&s, &nginx, "/usr/bin/nginx"));
        assert_false(mapping_judge(&s, &nginx, "[stack]"));
        assert_false(mapping_judge(&s, &nginx, "/memfd:x (deleted)"));
        assert_true(mapping_judge(&s, &nginx, "/tmp/x (deleted)"));
        assert_true(mapping_judge(&s, &nginx, "/dev/dri/card0"));
        assert_true(found_only(&s.findings, PROBLEMS));
        assert_false(mapping_judge(&s, &nginx, "/anon_hugepage (deleted)"));
        assert_true(found_only(&s.findings, PROBLEM_HUGETLB));
}

static enum border_side where(const struct border *border, pid_t pid)
{
        if (pid == 666) /* who took it has ended */
                return BORDER_GONE;
        return number_set_has(border->tree, (uint64_t)pid) ? BORDER_INSIDE : BORDER_OUTSIDE;
}

/* One file, one of ours and another's: told once, whoever has it and whoever waits. */
static void locks_are_compared(void **state)
{
        static const struct {
                const char *text;
                enum problem problem;
                const char *fdinfo[2]; /* of process 10, and of process 99 */
        } cases[] = {
                {"1: FLOCK  ADVISORY  WRITE 10 00:2d:7 0 EOF\n", PROBLEMS, {NULL}},
                {"1: FLOCK  ADVISORY  WRITE 10 00:2d:7 0 EOF\n2: POSIX  ADVISORY  READ 99 00:2d:8 0 EOF\n",
                 PROBLEMS,
                 {NULL}},
                {"1: FLOCK  ADVISORY  WRITE 10 00:2d:7 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 11 00:2d:7 0 EOF\n",
                 PROBLEMS,
                 {NULL}},
                {"1: FLOCK  ADVISORY  WRITE 99 00:2d:7 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 11 00:2d:7 0 EOF\n",
                 PROBLEM_LOCK_OUTSIDE,
                 {NULL}},
                {"1: POSIX  ADVISORY  READ 11 00:2d:7 0 9\n2: POSIX  ADVISORY  READ 99 00:2d:7 0 9\n",
                 PROBLEM_LOCK_OUTSIDE,
                 {NULL}},
                {"1: LEASE  ACTIVE    READ 10 00:2d:7 0 EOF\n2: LEASE  ACTIVE    READ 99 00:2d:7 0 EOF\n",
                 PROBLEM_LOCK_OUTSIDE,
                 {NULL}},
                {"1: FLOCK  ADVISORY  WRITE 666 00:2d:7 0 EOF\n2: FLOCK  ADVISORY  READ 10 00:2d:7 0 EOF\n",
                 PROBLEMS,
                 {NULL}},
                {"1: OFDLCK ADVISORY  WRITE -1 00:2d:7 0 EOF\n2: FLOCK  ADVISORY  READ 10 00:2d:7 0 EOF\n",
                 PROBLEMS,
                 {NULL}},
                {"1: OFDLCK ADVISORY  READ -1 00:2d:7 0 9\n2: OFDLCK ADVISORY  READ -1 00:2d:7 0 9\n",
                 PROBLEM_LOCK_OUTSIDE,
                 {"pos:\t0\nflags:\t02\nlock:\t1: OFDLCK ADVISORY  READ -1 00:2d:7 0 9\n",
                  "lock:\t1: OFDLCK ADVISORY  READ -1 00:2d:7 0 9\n"}},
                {"1: OFDLCK ADVISORY  WRITE -1 00:2d:7 0 EOF\n2: OFDLCK ADVISORY  WRITE -1 00:2d:8 0 EOF\n",
                 PROBLEMS,
                 {"lock:\t1: OFDLCK ADVISORY  WRITE -1 00:2d:7 0 EOF\n",
                  "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:2d:8 0 EOF\n"}},
                {"1: OFDLCK ADVISORY  WRITE -1 00:2d:7 0 EOF\n1: -> POSIX  ADVISORY  WRITE 99 00:2d:7 0 EOF\n",
                 PROBLEM_LOCK_OUTSIDE,
                 {"lock:\t1: OFDLCK ADVISORY  WRITE -1 00:2d:7 0 EOF\n"}},
                {"1: FLOCK  ADVISORY  WRITE 666 00:2d:7 0 EOF\n2: FLOCK  ADVISORY  READ 10 00:2d:7 0 EOF\n",
                 PROBLEM_LOCK_OUTSIDE,
                 {NULL, "lock:\t1: FLOCK  ADVISORY  WRITE 666 00:2d:7 0 EOF\n"}},
                {"1: POSIX  ADVISORY  READ 10 00:2d:7 0 9\n",
                 PROBLEMS,
                 {NULL, "lock:\tnonsense\nlock:\nmnt_id:\t1: POSIX  ADVISORY  READ 10 00:2d:7 0 9\n"}},
                {"", PROBLEMS, {NULL}},
                {"1: nonsense\n:\n", PROBLEMS, {NULL}},
        };
        struct number_set tree = {0};

        (void)state;
        assert_int_equal(number_set_add(&tree, 11), 0);
        assert_int_equal(number_set_add(&tree, 10), 0);
        number_set_sort(&tree);
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct findings f = {0}, again = {0};
                const struct border border = {.tree = &tree};
                struct suspicion first = {.findings = &f}, second = {.findings = &again, .before = &first.now};
                struct lock_holders holders = {0};
                for (size_t k = 0; k < 2; k++)
                        if (cases[i].fdinfo[k])
                                assert_int_equal(lock_holders_add(&holders, k ? 99 : 10, cases[i].fdinfo[k]), 0);
                assert_int_equal(locks_judge(cases[i].text, &holders, &border, where, &first), 0);
                assert_true(found_only(&f, cases[i].problem));
                /* What is there twice is told again, and what is new is not yet. */
                assert_int_equal(locks_judge(cases[i].text, &holders, &border, where, &second), 0);
                assert_true(found_only(&again, cases[i].problem));
                number_set_done(&first.now);
                again = (struct findings){0};
                assert_int_equal(locks_judge(cases[i].text, &holders, &border, where, &second), 0);
                assert_true(found_only(&again, PROBLEMS));
                number_set_done(&second.now);
                lock_holders_done(&holders);
        }
        number_set_done(&tree);
}

static void watches_are_read(void **state)
{
        struct watch w;

        (void)state;
        assert_true(watch_parse("inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 "
                                "fhandle-type:1 f_handle:7e9e0000640d1b6d",
                                &w));
        assert_int_equal(w.inode, 0x9e7e);
        assert_int_equal(w.device, makedev(8, 0x13));
        assert_int_equal(w.handle_bytes, 8);
        assert_int_equal(w.handle_type, 1);
        assert_memory_equal(w.handle, "\x7e\x9e\x00\x00\x64\x0d\x1b\x6d", 8);
        /* /proc has no handles. */
        assert_true(watch_parse("inotify wd:2 ino:1 sdev:16 mask:2 ignored_mask:0", &w));
        assert_int_equal(w.handle_bytes, 0);
        assert_false(w.whole);
        assert_true(watch_parse("fanotify sdev:16 mflags:0 mask:2 ignored_mask:0", &w));
        assert_true(w.whole);
        /* A mount, no mark, and a handle that is shorter than it says. */
        assert_false(watch_parse("fanotify mnt_id:1c mflags:0 mask:2 ignored_mask:0", &w));
        assert_false(watch_parse("fanotify flags:0 event-flags:0", &w));
        assert_false(watch_parse("pos:\t0", &w));
        assert_true(watch_parse("inotify wd:1 ino:1 sdev:1 mask:2 fhandle-bytes:40 fhandle-type:1 f_handle:ab", &w));
        assert_int_equal(w.handle_bytes, 0);
}

static void terminals_are_paired(void **state)
{
        struct scan s = {0};
        uint64_t index;

        (void)state;
        assert_true(terminal_master_index("pos:\t0\nflags:\t02\ntty-index:\t7\n", &index));
        assert_int_equal(index, 7);
        assert_false(terminal_master_index("pos:\t0\n", &index));
        assert_int_equal(terminal_note(&s, &nginx, 0, 136, 7), 0);
        assert_int_equal(number_set_add(&s.masters, 7), 0);
        struct suspicion suspicion = {.findings = &s.findings};
        terminals_judge(&s, &suspicion);
        assert_true(found_only(&s.findings, PROBLEMS));
        assert_int_equal(terminal_note(&s, &nginx, 0, 136, 8), 0);
        assert_int_equal(terminal_note(&s, &nginx, 1, 136, 8), 0);
        terminals_judge(&s, &suspicion);
        assert_true(found_only(&s.findings, PROBLEM_TERMINAL));
        assert_int_equal(s.findings.of[PROBLEM_TERMINAL].count, 1);
        number_set_done(&suspicion.now);
        scan_done(&s);
}

/* What is mapped shared and may be shared with others; what cannot be written is a cache. */
static void shared_mappings_are_kept(void **state)
{
        static const struct {
                const char *line, *path;
                size_t kept;
        } cases[] = {
                {"7f00-7f10 rw-s 00000000 00:01 4711 /dev/zero (deleted)", "/dev/zero (deleted)", 1},
                {"7f00-7f10 r--s 00000000 00:01 4712 /memfd:x (deleted)", "/memfd:x (deleted)", 1},
                {"7f00-7f10 rw-s 00000000 00:01 0 /SYSV00000000 (deleted)", "/SYSV00000000 (deleted)", 1},
                {"7f00-7f10 rw-s 00000000 fd:01 9 /var/lib/db", "/var/lib/db", 1},
                {"7f00-7f10 r--s 00000000 fd:01 9 /usr/lib/gconv-modules.cache", "/usr/lib/gconv-modules.cache", 0},
                {"7f00-7f10 rw-p 00000000 fd:01 9 /var/lib/db", "/var/lib/db", 0},
                {"7f00-7f10 rw-s 00000000 00:05 9 /dev/dri/card0", "/dev/dri/card0", 0},
                {"7f00-7f10 rw-p 00000000 00:00 0 [heap]", "[heap]", 0},
        };

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct scan s = {0};
                assert_int_equal(mapping_share(&s, &nginx, cases[i].line, cases[i].path), 0);
                assert_int_equal(s.shared.n, cases[i].kept);
                assert_true(found_only(&s.findings, PROBLEMS));
                free(s.shared.ends);
        }
        struct scan host = {.host_ipc = true};
        assert_int_equal(mapping_share(&host, &nginx, cases[2].line, cases[2].path), 0);
        assert_true(found_only(&host.findings, PROBLEM_SYSV_HOST));
}

static void programs_are_told_apart(void **state)
{
        char path[] = "/tmp/phaul-elf-XXXXXX";
        int fd = mkstemp(path);

        (void)state;
        assert_int_equal(write(fd, "\177ELF\1\1\1\0\0\0\0\0\0\0\0\0", 16), 16);
        assert_true(program_is_compat(path));
        assert_int_equal(pwrite(fd, "\2", 1, 4), 1);
        assert_false(program_is_compat(path));
        assert_int_equal(ftruncate(fd, 5), 0);
        assert_false(program_is_compat(path));
        assert_false(program_is_compat("/nowhere"));
        (void)close(fd);
        (void)unlink(path);
}

static void units_are_found(void **state)
{
        static const struct {
                const char *cgroup, *name, *path;
                bool user;
        } cases[] = {
                {"0::/system.slice/web.service\n", "web.service", "/system.slice/web.service", false},
                {"3:cpu:/x.service\n1:name=systemd:/system.slice/a.service/sub\n", "a.service",
                 "/system.slice/a.service", false},
                {"0::/user.slice/user-1000.slice/user@1000.service/app.slice/play.service\n", "play.service",
                 "/user.slice/user-1000.slice/user@1000.service/app.slice/play.service", true},
                {"0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "user@1000.service",
                 "/user.slice/user-1000.slice/user@1000.service", false},
        };
        static const char *const none[] = {"0::/user.slice/session-1.scope\n", "0::/lxc.payload.web/init.scope\n", ""};
        struct unit unit;

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                assert_true(unit_find(cases[i].cgroup, &unit));
                assert_string_equal(unit.name, cases[i].name);
                assert_string_equal(unit.path, cases[i].path);
                assert_int_equal(unit.user, cases[i].user);
                assert_int_equal(unit.uid, cases[i].user ? 1000 : 0);
        }
        for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
                assert_false(unit_find(none[i], &unit));
}

/* One of many processes of a unit may go: systemd does not see it end. */
static void units_that_go_on_are_told_apart(void **state)
{
        (void)state;
        assert_int_equal(unit_main_pid("Restart=always\nMainPID=4711\n"), 4711);
        assert_int_equal(unit_main_pid("Restart=always\nMainPID=0\n"), 0);
        assert_int_equal(unit_main_pid(""), 0);
        assert_int_equal(unit_judge("Restart=always\nMainPID=4711\n", false), PROBLEM_RESTARTED);
        assert_int_equal(unit_judge("Restart=on-failure\n", false), PROBLEM_RESTARTED);
        assert_int_equal(unit_judge("Restart=on-success\n", false), PROBLEM_UNIT);
        assert_int_equal(unit_judge("Restart=no\n", false), PROBLEM_UNIT);
        assert_int_equal(unit_judge("Restart=always\nMainPID=4711\n", true), PROBLEM_UNIT_STAYS);
}

static void keep_text(const char *item, enum grade grade, const char *reason, void *context)
{
        (void)item;
        (void)grade;
        (void)snprintf(context, 1024, "%s", reason);
}

/* A thousand cases are one line. */
static void many_are_one(void **state)
{
        struct findings f = {0};
        char text[1024] = "";

        (void)state;
        for (int i = 0; i < 1000; i++)
                findings_note(&f, PROBLEM_IO_URING, "process %d (\033x)", i);
        findings_report(&f, keep_text, text);
        assert_non_null(strstr(text, "and 997 more"));
        assert_null(strchr(text, '\033'));
}

/* Every item there can be is in the documentation. */
static void items_are_documented(void **state)
{
        static const char *const others[] = {"cpu", "criu", "criu-versions", "clock", "link"};
        AUTO_FREE char *text = NULL;
        char cell[64];

        (void)state;
        assert_int_equal(fd_read_file(AT_FDCWD, DOCS "/preflight.md", 1 << 20, &text, NULL), 0);
        for (size_t i = 0; i < PROBLEMS + sizeof(others) / sizeof(others[0]); i++) {
                (void)snprintf(cell, sizeof(cell), "\n| %s |",
                               i < PROBLEMS ? problem_item((enum problem)i) : others[i - PROBLEMS]);
                if (!strstr(text, cell))
                        fail_msg("docs/preflight.md does not explain%s", cell + 1);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(status_is_read),
                cmocka_unit_test(tasks_are_judged),
                cmocka_unit_test(namespaces_are_compared),
                cmocka_unit_test(links_are_judged),
                cmocka_unit_test(sockets_are_judged),
                cmocka_unit_test(unread_netlink_is_seen),
                cmocka_unit_test(mappings_are_judged),
                cmocka_unit_test(locks_are_compared),
                cmocka_unit_test(watches_are_read),
                cmocka_unit_test(terminals_are_paired),
                cmocka_unit_test(shared_mappings_are_kept),
                cmocka_unit_test(programs_are_told_apart),
                cmocka_unit_test(units_are_found),
                cmocka_unit_test(units_that_go_on_are_told_apart),
                cmocka_unit_test(many_are_one),
                cmocka_unit_test(items_are_documented),
        };

        return cmocka_run_group_tests_name("preflight", tests, NULL, NULL);
}
