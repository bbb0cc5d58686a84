/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * restless [--mib N] [--status FILE] [--seconds N] [--seed N]
 *
 * Does to its own memory what programs do to theirs, at random and all the time, and checks it: writes, maps, unmaps
 * and maps again at the same place, moves, grows, gives back to the kernel, forbids and allows access, and forks
 * children that do the same to what they inherited. What every page has to hold follows from where it came from and how
 * often it was written. A line per half second; exit 1 at the first wrong byte, in any of them.
 */
#include "common.h"
#include <sys/mman.h>
#include <sys/wait.h>

enum { PAGE = 4096, WORDS = PAGE / 8, REGIONS = 32, REGION_PAGES_MAX = 1024, CHILDREN = 3, CHILD_MS = 300 };

struct region {
        uint64_t (*pages)[WORDS];
        size_t n, room; /* mapped pages; address space that is ours */
        uint64_t seed;
        uint32_t written[REGION_PAGES_MAX]; /* how often; 0: never, all zeroes */
        bool forbidden;
};

struct self {
        struct region regions[REGIONS];
        uint64_t random;
        uint64_t acts;
        size_t pages_each;
        int status;
};

static pid_t children[CHILDREN];

static uint64_t chance(struct self *s, uint64_t below)
{
        s->random = s->random * UINT64_C(6364136223846793005) + 1442695040888963407;
        return (s->random >> 33) % below;
}

static uint64_t word(const struct region *r, size_t page, size_t i)
{
        if (r->written[page] == 0)
                return 0;
        return (r->seed + page) * UINT64_C(0x9E3779B97F4A7C15) ^ r->written[page] * UINT64_C(0xC2B2AE3D27D4EB4F) ^
               i * UINT64_C(0x165667B19E3779F9);
}

static void check(const struct self *s, const struct region *r, size_t page)
{
        for (size_t i = 0; i < WORDS; i++)
                if (r->pages[page][i] != word(r, page, i)) {
                        put_line(s->status,
                                 "error: page %zu of region %zu, written %u times, word %zu is %lx in process %d", page,
                                 (size_t)(r - s->regions), r->written[page], i, (unsigned long)r->pages[page][i],
                                 (int)getpid());
                        _exit(1);
                }
}

static void check_all(const struct self *s)
{
        for (size_t i = 0; i < REGIONS; i++)
                for (size_t page = 0; page < s->regions[i].n && !s->regions[i].forbidden; page++)
                        check(s, &s->regions[i], page);
}

static void put(struct region *r, size_t page)
{
        r->written[page]++;
        for (size_t i = 0; i < WORDS; i++)
                r->pages[page][i] = word(r, page, i);
}

static void must(bool ok, const char *what)
{
        if (!ok)
                die("%s: %s", what, strerror(errno));
}

static void *map(void *at, size_t n, int flags)
{
        void *p = mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

        must(p != MAP_FAILED, "mmap");
        return p;
}

static void renew(struct self *s, struct region *r)
{
        r->seed = s->random;
        memset(r->written, 0, sizeof(r->written));
}

/* Somewhere else, with all it holds. */
static void move(struct region *r)
{
        void *to = mmap(NULL, r->room * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        must(to != MAP_FAILED, "mmap");
        void *p = mremap(r->pages, r->n * PAGE, r->n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        if (p == MAP_FAILED && errno == EFAULT) { /* what was mapped at two times may be two areas to the kernel */
                (void)munmap(to, r->room * PAGE);
                return;
        }
        must(p == to, "mremap");
        if (r->room > r->n)
                (void)munmap((char *)(void *)r->pages + r->n * PAGE, (r->room - r->n) * PAGE);
        r->pages = p;
}

static void act(struct self *s)
{
        struct region *r = &s->regions[chance(s, REGIONS)];
        const size_t page = chance(s, r->n), count = 1 + chance(s, r->n - page < 64 ? r->n - page : 64);

        s->acts++;
        if (r->forbidden) { /* for a while it was */
                must(mprotect(r->pages, r->n * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
                r->forbidden = false;
                check(s, r, page);
                return;
        }
        switch (chance(s, 64)) {
        case 0: /* at the same place, and empty */
                must(munmap(r->pages, r->n * PAGE) == 0, "munmap");
                r->pages = map(r->pages, r->n, MAP_FIXED);
                renew(s, r);
                break;
        case 1:
                move(r);
                break;
        case 2: /* shorter or longer, in its own room */
                if (r->n > s->pages_each / 2) {
                        must(munmap(r->pages + r->n / 2, (r->n - r->n / 2) * PAGE) == 0, "munmap");
                        memset(r->written + r->n / 2, 0, (r->n - r->n / 2) * sizeof(r->written[0]));
                        r->n /= 2;
                } else {
                        (void)map(r->pages + r->n, r->room - r->n, MAP_FIXED);
                        r->n = r->room;
                }
                break;
        case 3:
        case 4: /* empty again */
                must(madvise(r->pages + page, count * PAGE, MADV_DONTNEED) == 0, "madvise");
                memset(r->written + page, 0, count * sizeof(r->written[0]));
                break;
        case 5:
                must(mprotect(r->pages, r->n * PAGE, PROT_NONE) == 0, "mprotect");
                r->forbidden = true;
                break;
        case 6:
                must(mprotect(r->pages + page, count * PAGE, PROT_READ) == 0, "mprotect");
                check(s, r, page);
                must(mprotect(r->pages + page, count * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect");
                break;
        case 7: /* by the kernel, not by the program */
                if (r->written[page]) {
                        int ends[2];
                        must(pipe2(ends, O_CLOEXEC) == 0, "pipe");
                        r->written[page]++;
                        uint64_t words[WORDS];
                        for (size_t i = 0; i < WORDS; i++)
                                words[i] = word(r, page, i);
                        must(write(ends[1], words, PAGE) == PAGE && read(ends[0], r->pages[page], PAGE) == PAGE,
                             "pipe");
                        (void)close(ends[0]);
                        (void)close(ends[1]);
                }
                break;
        default:
                for (size_t i = 0; i < count && i < 8; i++) {
                        check(s, r, page + i);
                        put(r, page + i);
                }
        }
}

static _Noreturn void be_child(struct self *s, uint64_t seed)
{
        const double end = monotonic_s() + CHILD_MS / 1000.0;

        s->random ^= seed;
        while (monotonic_s() < end) {
                act(s);
                sleep_us(200);
        }
        check_all(s);
        _exit(0);
}

static void see_to_children(struct self *s, uint64_t turn)
{
        for (size_t i = 0; i < CHILDREN; i++) {
                int how = 0;
                if (children[i] && waitpid(children[i], &how, WNOHANG) != children[i])
                        continue;
                if (children[i] && how != 0) {
                        put_line(s->status, "error: child %d ended with %x", (int)children[i], how);
                        exit(1);
                }
                children[i] = fork();
                must(children[i] >= 0, "fork");
                if (children[i] == 0)
                        be_child(s, turn * CHILDREN + i);
        }
}

int main(int argc, char **argv)
{
        const double seconds = number_option(argc, argv, "seconds", 1e9), mib = number_option(argc, argv, "mib", 32);
        struct self *s = calloc(1, sizeof(*s));

        if (!s)
                die("no memory");
        s->status = open_status(argc, argv);
        s->random = (uint64_t)number_option(argc, argv, "seed", (double)(realtime_ns() % 1000000007));
        s->pages_each = (size_t)(mib * 256 / REGIONS);
        if (s->pages_each < 4 || s->pages_each > REGION_PAGES_MAX)
                die("--mib must be from 1 to %d", REGIONS * REGION_PAGES_MAX / 256);
        for (size_t i = 0; i < REGIONS; i++) {
                struct region *r = &s->regions[i];
                r->n = r->room = s->pages_each;
                r->pages = map(NULL, r->n, 0);
                renew(s, r);
                for (size_t page = 0; page < r->n; page++)
                        put(r, page);
        }
        stop_on_signals();
        put_line(s->status, "ready: seed %lu", (unsigned long)s->random);
        const double start = monotonic_s();
        double told = start;
        for (uint64_t turn = 0; !asked_to_stop && monotonic_s() - start < seconds; turn++) {
                for (int i = 0; i < 50; i++)
                        act(s);
                if (turn % 16 == 0)
                        see_to_children(s, turn);
                if (turn % 64 == 0)
                        check_all(s);
                sleep_us(2000);
                if (monotonic_s() - told > 0.5) {
                        put_line(s->status, "%ld ms: %lu acts, 0 errors", (long)(realtime_ns() / 1000000),
                                 (unsigned long)s->acts);
                        told = monotonic_s();
                }
        }
        for (size_t i = 0; i < CHILDREN; i++)
                if (children[i])
                        (void)waitpid(children[i], NULL, 0);
        check_all(s);
        put_line(s->status, "end: %lu acts, 0 errors", (unsigned long)s->acts);
        return 0;
}
