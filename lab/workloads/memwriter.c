/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memwriter --mib N --rate MB_PER_S [--memory private|sysv] [--status FILE] [--seconds N]
 *
 * Holds N MiB (as a System V segment, if that is asked for), dirties them at a rate and checks them all the time. Every
 * page's content follows from its number and its generation; generations stand in a table of their own, whose sum must
 * equal the number of writes. So a wrong byte, a page of an earlier round and a stale table are all noticed. One status
 * line per second; exit 1 at the first wrong byte.
 */
#include "common.h"
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

enum { PAGE = 4096, WORDS = PAGE / 8, TICK_US = 10000 };

struct memory {
        uint64_t (*pages)[WORDS];
        uint64_t *generations;
        size_t count;
        uint64_t writes;
        size_t next_check;
        uint64_t generation_sum; /* of the pages checked in this sweep plus what was written behind it */
};

static uint64_t seed_of(size_t page, uint64_t generation)
{
        return (page + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ generation * UINT64_C(0xC2B2AE3D27D4EB4F);
}

static void fill(struct memory *m, size_t page)
{
        uint64_t seed = seed_of(page, m->generations[page]);

        for (size_t n = 0; n < WORDS; n++)
                m->pages[page][n] = seed + n * UINT64_C(0x165667B19E3779F9);
}

static bool check(const struct memory *m, size_t page, int status)
{
        uint64_t seed = seed_of(page, m->generations[page]), wrong = 0;

        for (size_t n = 0; n < WORDS; n++)
                wrong |= m->pages[page][n] ^ (seed + n * UINT64_C(0x165667B19E3779F9));
        if (wrong)
                put_line(status, "error: page %zu of %zu does not hold its generation %lu", page, m->count,
                         (unsigned long)m->generations[page]);
        return !wrong;
}

static bool rewrite_one(struct memory *m, uint64_t *random, int status)
{
        *random = *random * UINT64_C(6364136223846793005) + 1442695040888963407;
        size_t page = (size_t)((*random >> 33) % m->count);

        if (!check(m, page, status))
                return false;
        m->generations[page]++;
        m->writes++;
        if (page < m->next_check)
                m->generation_sum++;
        fill(m, page);
        return true;
}

static bool check_one(struct memory *m, int status)
{
        if (!check(m, m->next_check, status))
                return false;
        m->generation_sum += m->generations[m->next_check++];
        if (m->next_check < m->count)
                return true;
        if (m->generation_sum != m->writes) {
                put_line(status, "error: generations add up to %lu after %lu writes", (unsigned long)m->generation_sum,
                         (unsigned long)m->writes);
                return false;
        }
        m->next_check = 0;
        m->generation_sum = 0;
        return true;
}

static void *get_memory(const char *kind, size_t bytes)
{
        if (strcmp(kind, "private") == 0)
                return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (strcmp(kind, "sysv") != 0)
                die("--memory %s: private or sysv", kind);
        int id = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
        void *memory = id < 0 ? MAP_FAILED : shmat(id, NULL, 0);
        shmctl(id, IPC_RMID, NULL); /* it goes when we go */
        return memory;
}

int main(int argc, char **argv)
{
        double mib = number_option(argc, argv, "mib", 64), rate = number_option(argc, argv, "rate", 10);
        double seconds = number_option(argc, argv, "seconds", 1e9);
        int status = open_status(argc, argv);
        struct memory m = {.count = (size_t)(mib * 256)};
        uint64_t random = 1, checked = 0;

        if (m.count == 0)
                die("--mib must be positive");
        m.pages = get_memory(option(argc, argv, "memory", "private"), m.count * PAGE);
        m.generations = calloc(m.count, sizeof(*m.generations));
        if (m.pages == MAP_FAILED || !m.generations)
                die("no memory for %zu pages", m.count);
        stop_on_signals();
        for (size_t page = 0; page < m.count; page++)
                fill(&m, page);
        put_line(status, "ready: %zu pages at %p", m.count, (void *)m.pages);

        double start = monotonic_s(), last = start;
        int64_t seen = realtime_ns(), reported = seen, worst_gap = 0;
        double budget = 0;
        while (!asked_to_stop && monotonic_s() - start < seconds) {
                sleep_us(TICK_US);
                int64_t now = realtime_ns();
                if (now - seen > worst_gap)
                        worst_gap = now - seen;
                seen = now;
                double tick = monotonic_s();
                budget += (tick - last < 1 ? tick - last : 1) * rate * 1e6 / PAGE; /* no burst after a pause */
                last = tick;
                for (; budget >= 1; budget--)
                        if (!rewrite_one(&m, &random, status))
                                return 1;
                for (size_t n = 0; n < 512 || n * 100 < m.count; n++, checked++) /* a sweep takes a second or less */
                        if (!check_one(&m, status))
                                return 1;
                if (now - reported >= 1000000000) {
                        put_line(status, "%ld ms: %lu written, %lu checked, longest gap %ld ms, 0 errors",
                                 (long)(now / 1000000), (unsigned long)m.writes, (unsigned long)checked,
                                 (long)(worst_gap / 1000000));
                        reported = now;
                        worst_gap = 0;
                }
        }
        for (m.next_check = 0, m.generation_sum = 0; m.next_check + 1 < m.count;)
                if (!check_one(&m, status))
                        return 1;
        if (!check_one(&m, status))
                return 1;
        put_line(status, "end: %lu written, 0 errors", (unsigned long)m.writes);
        return 0;
}
