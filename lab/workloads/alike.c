/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * alike --mib N [--rate PAGES_PER_S] [--status FILE] [--seconds N]
 *
 * Memory of which much is alike: a third of the pages are zeros, a third have one of a few contents, a third are like
 * no other; and a child has all of it once more, shared until one of them writes. Both go on writing pages: as they are
 * already, with zeros, with what another page has, with what none has. Both check their pages all the time against a
 * table of what they wrote. One status line per second of the parent, which sees to it that the child goes on; exit 1
 * at the first wrong byte.
 */
#include "common.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { PAGE = 4096, WORDS = PAGE / 8, TICK_US = 10000, FEW = 16 };

struct memory {
        uint64_t (*pages)[WORDS];
        uint64_t *seeds; /* of each page; 0: zeros */
        size_t count, next_check;
        uint64_t random, unique;
};

/* Of the two, in memory that they share. */
struct both {
        volatile uint64_t checked;
        volatile int wrong;
};

static void write_page(struct memory *m, size_t page, uint64_t seed)
{
        m->seeds[page] = seed;
        for (size_t n = 0; n < WORDS; n++)
                m->pages[page][n] = seed * (2 * n + 1);
}

static bool is_right(const struct memory *m, size_t page)
{
        uint64_t wrong = 0;

        for (size_t n = 0; n < WORDS; n++)
                wrong |= m->pages[page][n] ^ m->seeds[page] * (2 * n + 1);
        return wrong == 0;
}

static uint64_t choose(struct memory *m, size_t page)
{
        m->random = m->random * UINT64_C(6364136223846793005) + 1442695040888963407;
        switch (m->random >> 60 & 3) {
        case 0:
                return m->seeds[page];
        case 1:
                return 0;
        case 2:
                return 1 + (m->random >> 40) % FEW;
        default:
                return m->unique += 2;
        }
}

/* False: something is wrong. */
static bool go_on(struct memory *m, double pages)
{
        for (; pages >= 1; pages--) {
                const size_t page = (size_t)((m->random >> 33) % m->count);
                if (!is_right(m, page))
                        return false;
                write_page(m, page, choose(m, page));
        }
        for (size_t n = 0; n < 512 || n * 100 < m->count; n++) {
                if (!is_right(m, m->next_check))
                        return false;
                m->next_check = (m->next_check + 1) % m->count;
        }
        return true;
}

static int run_child(struct memory *m, struct both *both, double rate)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        m->random = 7;
        m->unique = UINT64_C(1) << 40 | 1; /* not those of the parent */
        while (!asked_to_stop) {
                sleep_us(TICK_US);
                if (!go_on(m, rate * TICK_US / 1e6 + 1)) {
                        both->wrong = 1;
                        return 1;
                }
                both->checked++;
        }
        return 0;
}

static int run_parent(struct memory *m, struct both *both, double rate, double seconds, int status)
{
        const double start = monotonic_s();
        double reported = start;
        uint64_t before = 0, turns = 0;

        while (!asked_to_stop && monotonic_s() - start < seconds) {
                sleep_us(TICK_US);
                if (!go_on(m, rate * TICK_US / 1e6 + 1)) {
                        put_line(status, "error: a page of the parent is not what was written");
                        return 1;
                }
                turns++;
                if (both->wrong) {
                        put_line(status, "error: a page of the child is not what was written");
                        return 1;
                }
                if (monotonic_s() - reported < 1 || both->checked == before)
                        continue;
                before = both->checked;
                reported = monotonic_s();
                put_line(status, "%lu and %lu turns, 0 errors", (unsigned long)turns, (unsigned long)before);
        }
        put_line(status, "end: 0 errors");
        return 0;
}

int main(int argc, char **argv)
{
        const double mib = number_option(argc, argv, "mib", 48), rate = number_option(argc, argv, "rate", 500);
        const double seconds = number_option(argc, argv, "seconds", 1e9);
        int status = open_status(argc, argv);
        struct memory m = {.count = (size_t)(mib * 256), .random = 1, .unique = 1001};

        if (m.count == 0)
                die("--mib must be positive");
        m.pages = mmap(NULL, m.count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        m.seeds = calloc(m.count, sizeof(*m.seeds));
        struct both *both = mmap(NULL, sizeof(*both), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (m.pages == MAP_FAILED || !m.seeds || both == MAP_FAILED)
                die("no memory for %zu pages", m.count);
        stop_on_signals();
        for (size_t page = 0; page < m.count; page++)
                write_page(&m, page, page % 3 == 0 ? 0 : page % 3 == 1 ? 1 + page % FEW : (m.unique += 2));
        put_line(status, "ready: %zu pages at %p", m.count, (void *)m.pages);
        pid_t child = fork();
        if (child < 0)
                die("fork: %s", strerror(errno));
        if (child == 0)
                return run_child(&m, both, rate);
        int result = run_parent(&m, both, rate, seconds, status);
        kill(child, SIGTERM);
        (void)waitpid(child, NULL, 0);
        return result;
}
