/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * restless [--mib N] [--status FILE] [--data FILE] [--without sysv] [--pause MS] [--seconds N] [--seed N]
 *
 * Does to its own memory what programs do to theirs, at random and all the time, and checks it: writes, maps, unmaps
 * and maps again at the same place, moves (also what is two mebibytes and aligned, and to low addresses), grows,
 * shrinks, forbids and allows, locks, guards, gives back to the kernel, keeps from children, and lets the kernel write
 * into it: from pipes, from others' memory and, with --data (a file that it makes), by direct I/O. It forks children
 * that do the same to what they inherited; all of them share memory of four kinds. Children and the process itself
 * execute the program anew now and then. As programs do, it guards memory and keeps it from children right when it has
 * mapped it: of these two no userfaultfd tells, so they are not for pages that are still to come.
 *
 * What every page has to hold follows from where it came from, who wrote it last and how often it was written
 * (restless-pages.h, restless-shared.h). A line per half second; exit 1 at the first wrong byte, in any of them.
 * System V memory is not for processes that share the host's IPC namespace (--without sysv): CRIU refuses them.
 */
#include "restless-shared.h"
#include <sys/mman.h>
#include <sys/wait.h>

#ifndef MADV_GUARD_INSTALL /* Linux 6.13 */
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

enum { REGIONS = 32, ALIGNED_REGIONS = 2, ALIGNED_PAGES = 512, CHILDREN = 3, RUN_MAX = 64 };
enum { STACK_PAGES = 64, STACK_FIRST_PAGES = 4, OWN_OPTIONS = 5, ARGUMENTS_MAX = 32 };
#define LOW ((char *)0x100000)
#define STACK_END ((char *)0x600000000000)

struct self {
        struct region regions[REGIONS];
        struct region stack; /* grows downwards by itself */
        struct share shares[SHARE_KINDS];
        uint64_t random, acts, execs;
        size_t children;
        int status, data;
        char **arguments; /* as the first of us was called, without its name */
        char program[256];
};

static uint64_t chance(struct self *s, uint64_t below)
{
        s->random = s->random * UINT64_C(6364136223846793005) + 1442695040888963407;
        return (s->random >> 33) % below;
}

static void check_all(struct self *s)
{
        for (size_t i = 0; i < REGIONS; i++)
                check_region(&s->regions[i], s->status);
        check_region(&s->stack, s->status);
}

/* -- what is done to a region -------------------------------------------------------------------------------------- */

static void advise(const struct region *r, size_t first, size_t n, int advice)
{
        must(madvise(r->pages + first, n * PAGE, advice) == 0, "madvise");
}

static void unlock(struct region *r)
{
        if (r->locked)
                must(munlock(r->pages, r->n * PAGE) == 0, "munlock");
        r->locked = false;
}

/* Who may not lock so much does not. Guard pages cannot be brought in. */
static void lock(struct region *r)
{
        if (!any_guarded(r, 0, r->n))
                r->locked = mlock(r->pages, r->n * PAGE) == 0;
        if (!r->locked)
                (void)munlock(r->pages, r->n * PAGE);
}

/* Somewhere else, with all it holds: the kernel moves page tables whole where both places are aligned. */
static void move(struct self *s, struct region *r)
{
        char *to = MAP_FAILED;

        if (r->align == 1 && chance(s, 3) == 0)
                to = mmap(LOW, r->n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (to == MAP_FAILED)
                to = find_place(r->n, r->align);
        void *p = mremap(r->pages, r->n * PAGE, r->n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        if (p == MAP_FAILED && errno == EFAULT) { /* what was mapped at two times may be two areas to the kernel */
                (void)munmap(to, r->n * PAGE);
                return;
        }
        must(p == to, "mremap");
        r->pages = p;
}

/* What is behind it may be somebody else's by now. */
static void shrink_or_grow(struct region *r)
{
        const size_t half = r->full / 2;

        if (r->n > half) {
                must(munmap(r->pages + half, (r->n - half) * PAGE) == 0, "munmap");
                for (size_t page = half; page < r->n; page++)
                        r->state[page].guarded = false;
                note_empty(r, half, r->n - half);
                r->n = half;
                return;
        }
        void *more = mmap(r->pages + r->n, (r->full - r->n) * PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (more == MAP_FAILED)
                return;
        r->n = r->full;
        if (r->wiped_in_children)
                advise(r, 0, r->n, MADV_WIPEONFORK);
        if (r->not_for_children)
                advise(r, 0, r->n, MADV_DONTFORK);
        if (r->locked)
                lock(r);
}

/* Empty at once, or whenever the kernel likes. */
static void give_back(struct region *r, size_t page, size_t n, bool at_once)
{
        unlock(r);
        advise(r, page, n, at_once ? MADV_DONTNEED : MADV_FREE);
        for (size_t i = page; i < page + n; i++)
                r->state[i].freed = !at_once && !r->state[i].empty;
        if (at_once)
                note_empty(r, page, n);
}

static void forbid(struct region *r, bool forbidden)
{
        must(mprotect(r->pages, r->n * PAGE, forbidden ? PROT_NONE : PROT_READ | PROT_WRITE) == 0, "mprotect");
        r->forbidden = forbidden;
}

static void read_only_for_a_moment(struct self *s, struct region *r, size_t page, size_t n)
{
        must(mprotect(r->pages + page, n * PAGE, PROT_READ) == 0, "mprotect");
        check(r, page, s->status);
        must(mprotect(r->pages + page, n * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
}

static void guard(struct region *r, size_t page, size_t n, bool guarded)
{
        unlock(r);
        if (madvise(r->pages + page, n * PAGE, guarded ? MADV_GUARD_INSTALL : MADV_GUARD_REMOVE) < 0)
                return; /* this kernel has none */
        for (size_t i = page; i < page + n; i++) {
                if (guarded || r->state[i].guarded)
                        note_empty(r, i, 1);
                r->state[i].guarded = guarded;
        }
}

static void wipe_in_children(struct region *r, bool wiped)
{
        r->wiped_in_children = wiped;
        advise(r, 0, r->n, wiped ? MADV_WIPEONFORK : MADV_KEEPONFORK);
}

/* For children there is not even address space, or again there is. */
static void keep_from_children(struct region *r)
{
        r->not_for_children = !r->not_for_children;
        advise(r, 0, r->n, r->not_for_children ? MADV_DONTFORK : MADV_DOFORK);
}

static void renew_in_place(struct self *s, struct region *r, size_t page, size_t n)
{
        must(munmap(r->pages, r->n * PAGE) == 0, "munmap");
        r->pages = map(r->pages, r->n, MAP_FIXED);
        renew(r, s->random);
        switch (chance(s, 12)) {
        case 0: /* seldom: all that the kernel has made one with it is no memory that comes late then */
                return guard(r, page, n, true);
        case 1:
        case 2:
        case 3:
                return wipe_in_children(r, true);
        default:
                return;
        }
}

/* By the kernel, which copies it from a pipe, or from memory on behalf of who may be another process. */
static void let_write(struct region *r, size_t page, bool by_pipe)
{
        uint64_t words[WORDS];
        int ends[2];

        if (r->state[page].guarded)
                return;
        note_written(r, page);
        for (size_t i = 0; i < WORDS; i++)
                words[i] = word(r, page, i);
        if (!by_pipe) {
                const struct iovec from = {words, PAGE}, to = {r->pages[page], PAGE};
                must(process_vm_writev(getpid(), &from, 1, &to, 1, 0) == PAGE, "process_vm_writev");
                return;
        }
        must(pipe2(ends, O_CLOEXEC) == 0, "pipe");
        must(write(ends[1], words, PAGE) == PAGE && read(ends[0], r->pages[page], PAGE) == PAGE, "pipe");
        (void)close(ends[0]);
        (void)close(ends[1]);
}

/* By direct I/O, where the page is changed at its end, whoever looked at it before. */
static void read_from_file(struct self *s, struct region *r, size_t page, size_t n)
{
        const size_t first = chance(s, DATA_PAGES - n + 1);

        if (s->data < 0 || any_guarded(r, page, n))
                return;
        must(pread(s->data, r->pages + page, n * PAGE, (off_t)(first * PAGE)) == (ssize_t)(n * PAGE), "direct I/O");
        for (size_t i = 0; i < n; i++) {
                note_written(r, page + i);
                r->state[page + i].from_file = (uint8_t)(first + i + 1);
        }
}

static void write_some(struct self *s, struct region *r, size_t page, size_t n)
{
        for (size_t i = page; i < page + n && i < page + 8; i++) {
                check(r, i, s->status);
                if (!r->state[i].guarded)
                        put(r, i);
        }
}

/* One page further down, which the kernel maps when it is touched; then all but the first are unmapped. */
static void grow_stack(struct self *s)
{
        struct region *r = &s->stack;
        const size_t least = STACK_PAGES - STACK_FIRST_PAGES;

        if (r->begin > 0) {
                put(r, --r->begin);
        } else {
                must(munmap(r->pages, least * PAGE) == 0, "munmap");
                note_empty(r, 0, least);
                r->begin = least;
        }
        check(r, r->begin + chance(s, r->n - r->begin), s->status);
}

/* Now and then it is mapped somewhere else. */
static void share_some(struct self *s)
{
        struct share *share = &s->shares[chance(s, SHARE_KINDS)];

        if (!share->memory)
                return;
        if (share->kind != SHARE_ANONYMOUS && chance(s, 64) == 0) {
                share_detach(share);
                share_attach(share);
        }
        share_act(share, chance(s, SHARE_PAGES), (unsigned)chance(s, 16), s->status);
}

static void act(struct self *s)
{
        struct region *r = &s->regions[chance(s, REGIONS)];
        const size_t page = chance(s, r->n), left = r->n - page, n = 1 + chance(s, left < RUN_MAX ? left : RUN_MAX);
        const bool either = chance(s, 2) == 0;

        s->acts++;
        if (r->forbidden) { /* for a while it was */
                forbid(r, false);
                check(r, page, s->status);
                return;
        }
        switch (chance(s, 96)) {
        case 0:
        case 1:
                return renew_in_place(s, r, page, n);
        case 2:
                return move(s, r);
        case 3:
                return shrink_or_grow(r);
        case 4:
        case 5:
                return give_back(r, page, n, true);
        case 6:
                return give_back(r, page, n, false);
        case 7:
                return forbid(r, true);
        case 8:
                return read_only_for_a_moment(s, r, page, n);
        case 9:
        case 10:
                return let_write(r, page, either);
        case 11:
        case 12:
                return read_from_file(s, r, page, n);
        case 13:
                return either ? keep_from_children(r) : wipe_in_children(r, false);
        case 14:
                return advise(r, 0, r->n, either ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        case 15:
                return r->locked ? unlock(r) : lock(r);
        case 16:
                return guard(r, page, n, false);
        case 17:
                return move(s, r);
        case 18:
        case 19:
                return grow_stack(s);
        default:
                return either && chance(s, 4) == 0 ? share_some(s) : write_some(s, r, page, n);
        }
}

/* -- processes ----------------------------------------------------------------------------------------------------- */

/* The program anew, with all it shares and nothing else. `own`: OWN_OPTIONS pairs, which the next one takes off again.
 */
static _Noreturn void execute(struct self *s, const char *role, uint64_t life_ms)
{
        char *arguments[ARGUMENTS_MAX] = {s->program}, text[OWN_OPTIONS][64];
        static const char *const names[OWN_OPTIONS] = {"--as", "--seed", "--life", "--number", "--shares"};
        size_t n = 1;

        (void)snprintf(text[0], sizeof(text[0]), "%s", role);
        (void)snprintf(text[1], sizeof(text[1]), "%lu", (unsigned long)chance(s, UINT32_MAX));
        (void)snprintf(text[2], sizeof(text[2]), "%lu", (unsigned long)life_ms);
        (void)snprintf(text[3], sizeof(text[3]), "%lu,%lu,%zu", (unsigned long)s->acts, (unsigned long)s->execs + 1,
                       s->children);
        (void)snprintf(text[4], sizeof(text[4]), "%d,%d,%d", s->shares[SHARE_MEMFD].handle,
                       s->shares[SHARE_POSIX].handle, s->shares[SHARE_SYSV].handle);
        for (size_t i = 0; i < OWN_OPTIONS; i++) {
                arguments[n++] = (char *)(uintptr_t)names[i];
                arguments[n++] = text[i];
        }
        for (size_t i = 0; s->arguments[i] && n < ARGUMENTS_MAX - 1; i++)
                arguments[n++] = s->arguments[i];
        (void)execv(s->program, arguments);
        die("%s: %s", s->program, strerror(errno));
}

static void live(struct self *s, uint64_t ms)
{
        const double end = monotonic_s() + (double)ms / 1000;

        while (monotonic_s() < end) {
                act(s);
                sleep_us(200);
        }
        check_all(s);
}

/* What the kernel leaves to a child of what its parent had. */
static void inherit(struct region *r, uint64_t seed)
{
        if (r->not_for_children) {
                r->pages = map(NULL, r->n, 0);
                renew(r, seed);
                r->align = 1;
        } else if (r->wiped_in_children) {
                for (size_t page = 0; page < r->n; page++)
                        r->state[page].guarded = false;
                note_empty(r, 0, r->n);
        }
        r->locked = false;
}

static _Noreturn void be_child(struct self *s, uint64_t seed)
{
        const uint64_t life_ms = 50 * (1 + (seed ^ s->random) % 30);

        s->random ^= seed * UINT64_C(0x9E3779B97F4A7C15);
        for (size_t i = 0; i < REGIONS; i++)
                inherit(&s->regions[i], s->random + i);
        live(s, life_ms);
        if (chance(s, 3) == 0)
                execute(s, "child", life_ms);
        _exit(0);
}

static void see_to_children(struct self *s)
{
        int how;

        for (pid_t pid; (pid = waitpid(-1, &how, WNOHANG)) > 0; s->children--)
                if (how != 0) {
                        put_line(s->status, "error: child %d ended with %x", (int)pid, (unsigned)how);
                        exit(1);
                }
        for (; s->children < CHILDREN; s->children++) {
                const uint64_t seed = chance(s, UINT32_MAX);
                const pid_t pid = fork();
                must(pid >= 0, "fork");
                if (pid == 0)
                        be_child(s, seed);
        }
}

/* -- the beginning ------------------------------------------------------------------------------------------------- */

/* The first of us writes it. */
static int open_data(const char *path, bool make)
{
        page_words page;

        if (!path)
                return -1;
        int fd = make ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
        for (size_t i = 0; make && i < DATA_PAGES; i++) {
                for (size_t k = 0; k < WORDS; k++)
                        page[k] = data_word(i, k);
                must(fd >= 0 && write(fd, page, PAGE) == PAGE, path);
        }
        if (fd >= 0)
                (void)close(fd);
        fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
        must(fd >= 0, path);
        return fd;
}

static void make_regions(struct self *s, double mib)
{
        const size_t each = (size_t)(mib * 256 / REGIONS);

        if (each < 4 || each > REGION_PAGES_MAX)
                die("--mib must be from 1 to %d", REGIONS * REGION_PAGES_MAX / 256);
        for (size_t i = 0; i < REGIONS; i++) {
                struct region *r = &s->regions[i];
                r->align = i < ALIGNED_REGIONS ? ALIGNED_PAGES : 1;
                r->n = r->full = i < ALIGNED_REGIONS ? ALIGNED_PAGES : each;
                r->pages = map(find_place(r->n, r->align), r->n, MAP_FIXED);
                renew(r, s->random + i * UINT64_C(1000003));
                for (size_t page = 0; page < r->n; page++)
                        put(r, page);
        }
        struct region *r = &s->stack;
        r->n = r->full = STACK_PAGES;
        r->begin = STACK_PAGES - STACK_FIRST_PAGES;
        r->pages = (page_words *)(void *)(STACK_END - STACK_PAGES * PAGE);
        (void)map(r->pages + r->begin, STACK_FIRST_PAGES, MAP_GROWSDOWN | MAP_FIXED_NOREPLACE);
        renew(r, s->random);
        r->align = 1;
}

static void open_shares(struct self *s, const char *without, const char *handles)
{
        int memfd = -1, posix = -1, sysv = -1;

        if (handles && sscanf(handles, "%d,%d,%d", &memfd, &posix, &sysv) != 3)
                die("--shares %s", handles);
        share_open(&s->shares[SHARE_ANONYMOUS], SHARE_ANONYMOUS, -1);
        share_open(&s->shares[SHARE_MEMFD], SHARE_MEMFD, memfd);
        share_open(&s->shares[SHARE_POSIX], SHARE_POSIX, posix);
        if (strcmp(without, "sysv") == 0)
                s->shares[SHARE_SYSV].handle = -1;
        else
                share_open(&s->shares[SHARE_SYSV], SHARE_SYSV, sysv);
}

/* `role`: NULL for the first of us; else what went before the arguments is known from execute(). */
static struct self *begin(int argc, char **argv, const char *role)
{
        struct self *s = calloc(1, sizeof(*s));
        const char *number = option(argc, argv, "number", NULL);
        unsigned long acts = 0, execs = 0;

        if (!s)
                die("no memory");
        if (argc + 2 * OWN_OPTIONS >= ARGUMENTS_MAX)
                die("too many arguments");
        if (number && sscanf(number, "%lu,%lu,%zu", &acts, &execs, &s->children) != 3)
                die("--number %s", number);
        s->acts = acts;
        s->execs = execs;
        s->arguments = argv + 1 + (role ? 2 * OWN_OPTIONS : 0);
        must(readlink("/proc/self/exe", s->program, sizeof(s->program) - 1) > 0, "/proc/self/exe");
        s->status = open_status(argc, argv);
        s->data = open_data(option(argc, argv, "data", NULL), !role);
        s->random = (uint64_t)number_option(argc, argv, "seed", (double)(realtime_ns() % 1000000007));
        if (!role || strcmp(role, "child") != 0)
                put_line(s->status, "%s: seed %lu", role ? role : "ready", (unsigned long)s->random);
        open_shares(s, option(argc, argv, "without", ""), option(argc, argv, "shares", NULL));
        make_regions(s, number_option(argc, argv, "mib", 32));
        return s;
}

/* A signal that comes while another program is executed waits until that can take it. */
static void hold_signals(int how)
{
        sigset_t set;

        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGTERM);
        (void)sigaddset(&set, SIGINT);
        (void)sigprocmask(how, &set, NULL);
}

static int end(struct self *s)
{
        int how;

        for (; s->children; s->children--)
                if (wait(&how) < 0 || how != 0) {
                        put_line(s->status, "error: a child ended with %x", (unsigned)how);
                        return 1;
                }
        check_all(s);
        if (s->shares[SHARE_SYSV].memory)
                (void)shmctl(s->shares[SHARE_SYSV].handle, IPC_RMID, NULL);
        put_line(s->status, "end: %lu acts, %lu programs, 0 errors", (unsigned long)s->acts, (unsigned long)s->execs);
        return 0;
}

static int status_of_all;

/* Memory that is not there is a wrong byte, too. */
static void on_fault(int number, siginfo_t *info, void *context)
{
        (void)context;
        put_line(status_of_all, "error: process %d: signal %d for what is at %p", (int)getpid(), number, info->si_addr);
        _exit(1);
}

static void tell_faults(int status)
{
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

        status_of_all = status;
        (void)sigaction(SIGSEGV, &action, NULL);
        (void)sigaction(SIGBUS, &action, NULL);
}

int main(int argc, char **argv)
{
        const char *role = option(argc, argv, "as", NULL);
        const double seconds = number_option(argc, argv, "seconds", 1e9);
        const long pause_us = (long)(number_option(argc, argv, "pause", 2) * 1000);
        struct self *s = begin(argc, argv, role);

        tell_faults(s->status);
        if (role && strcmp(role, "child") == 0) {
                live(s, (uint64_t)number_option(argc, argv, "life", 0));
                return 0;
        }
        stop_on_signals();
        hold_signals(SIG_UNBLOCK);
        const double start = monotonic_s();
        double told = start;
        for (uint64_t turn = 0; !asked_to_stop && monotonic_s() - start < seconds; turn++) {
                for (int i = 0; i < 50; i++)
                        act(s);
                if (turn % 16 == 0)
                        see_to_children(s);
                if (turn % 64 == 0)
                        check_all(s);
                sleep_us(pause_us);
                if (monotonic_s() - told > 0.5) {
                        put_line(s->status, "%ld ms: %lu acts, %lu programs, 0 errors", (long)(realtime_ns() / 1000000),
                                 (unsigned long)s->acts, (unsigned long)s->execs);
                        told = monotonic_s();
                }
                if (turn > 200 && chance(s, 400) == 0 && seconds >= 1e9) {
                        hold_signals(SIG_BLOCK);
                        check_all(s);
                        execute(s, "again", 0);
                }
        }
        return end(s);
}
