/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which memory may come late is read from CRIU's images: what may not, what families share, and what is no image. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "criu/images.pb-c.h"
#include "criu/lazy_areas.h"
#include "criu/pagemap_image.h"

#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)
#define REGULAR (1U | 1U << 9)
#define AT(n) (UINT64_C(0x10000000) + (uint64_t)(n)*16 * PAGE_BYTES)

struct story {
        char directory[32];
        int fd;
        struct lazy_areas *areas;
        struct error err;
};

static int setup(void **state)
{
        struct story *s = calloc(1, sizeof(*s));

        if (!s)
                return -1;
        (void)snprintf(s->directory, sizeof(s->directory), "/tmp/lazy-test-XXXXXX");
        if (!mkdtemp(s->directory))
                return -1;
        s->fd = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *state = s;
        return s->fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
        struct story *s = *state;

        lazy_areas_free(s->areas);
        (void)close(s->fd);
        (void)fd_remove_tree(AT_FDCWD, s->directory, NULL);
        free(s);
        return 0;
}

static void append(const struct story *s, const char *name, uint32_t magic, const uint8_t *entry, size_t size)
{
        const uint32_t head[] = {0x54564319U, magic}, length = (uint32_t)size;
        const bool first = faccessat(s->fd, name, F_OK, 0) < 0;

        AUTO_FD int fd = openat(s->fd, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (first)
                assert_int_equal(fd_write_all(fd, head, sizeof(head)), 0);
        assert_int_equal(fd_write_all(fd, &length, sizeof(length)), 0);
        assert_int_equal(fd_write_all(fd, entry, size), 0);
}

static void put_task(const struct story *s, uint32_t pid, uint32_t parent)
{
        CriuImage__Task task = CRIU_IMAGE__TASK__INIT;
        uint8_t entry[64];

        task.has_pid = task.has_ppid = true;
        task.pid = pid;
        task.ppid = parent;
        append(s, "pstree.img", 0x50273030U, entry, criu_image__task__pack(&task, entry));
}

struct area {
        uint64_t start, end;
        uint32_t flags, status;
        uint64_t madv;
};

static void put_memory(const struct story *s, uint32_t pid, uint32_t program, const struct area *areas, size_t n)
{
        CriuImage__Memory memory = CRIU_IMAGE__MEMORY__INIT;
        CriuImage__Area entries[16], *list[16];
        uint8_t entry[2048];
        char name[32];

        for (size_t i = 0; i < n; i++) {
                criu_image__area__init(&entries[i]);
                entries[i].has_start = entries[i].has_end = entries[i].has_flags = entries[i].has_status = true;
                entries[i].start = areas[i].start;
                entries[i].end = areas[i].end;
                entries[i].flags = areas[i].flags;
                entries[i].status = areas[i].status;
                entries[i].has_madv = areas[i].madv != 0;
                entries[i].madv = areas[i].madv;
                list[i] = &entries[i];
        }
        memory.has_exe_file_id = true;
        memory.exe_file_id = program;
        memory.n_areas = n;
        memory.areas = list;
        (void)snprintf(name, sizeof(name), "mm-%u.img", pid);
        append(s, name, 0x57492820U, entry, criu_image__memory__pack(&memory, entry));
}

static void expect(const struct story *s, uint32_t pid, const struct lazy_area *wanted, size_t n)
{
        size_t found;
        const struct lazy_area *areas = lazy_areas_of(s->areas, pid, &found);

        assert_int_equal(found, n);
        for (size_t i = 0; i < n; i++) {
                assert_int_equal(areas[i].start, wanted[i].start);
                assert_int_equal(areas[i].end, wanted[i].end);
        }
}

static void test_what_may_come_late(void **state)
{
        struct story *s = *state;
        const struct area areas[] = {
                {AT(0), AT(1), ANONYMOUS, REGULAR, 0},
                {AT(1), AT(2), ANONYMOUS, REGULAR | 1U << 5, 0}, /* a heap, which touches the first */
                {AT(3), AT(4), MAP_PRIVATE, 1U | 1U << 6, 0},    /* of a file */
                {AT(4), AT(5), MAP_SHARED | MAP_ANONYMOUS, 1U | 1U << 8, 0},
                {AT(5), AT(6), ANONYMOUS | MAP_LOCKED, REGULAR, 0},
                {AT(6), AT(7), ANONYMOUS | MAP_HUGETLB, REGULAR, 0},
                {AT(7), AT(8), ANONYMOUS, REGULAR | 1U << 3, 0},              /* the vdso */
                {AT(8), AT(9), ANONYMOUS, 1U << 15, 0},                       /* a shadow stack */
                {AT(9), AT(10), ANONYMOUS, REGULAR, 1ULL << MADV_WIPEONFORK}, /* empty in a child */
                {AT(11), AT(12), ANONYMOUS | MAP_GROWSDOWN, REGULAR | 2U, 0}, /* the stack */
                {AT(13), AT(14), ANONYMOUS, REGULAR, 0},
                {AT(14), AT(15), ANONYMOUS, REGULAR, 0},
                {AT(15), AT(16), ANONYMOUS, REGULAR, 0},
                {AT(15) + PAGE_BYTES, AT(15) + 2 * PAGE_BYTES, 0, 1U << 16, 0}, /* guards in two of them */
                {AT(14) - PAGE_BYTES, AT(14), 0, 1U << 16, 0},
        };
        const struct lazy_area wanted[] = {{AT(0), AT(2)}, {AT(11), AT(12)}, {AT(14), AT(15)}};

        put_task(s, 7, 0);
        put_memory(s, 7, 1, areas, sizeof(areas) / sizeof(areas[0]));
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), 0);
        expect(s, 7, wanted, sizeof(wanted) / sizeof(wanted[0]));
        expect(s, 8, NULL, 0);
        assert_false(lazy_areas_need_permission(s->fd));
}

/* A parent, a child, and a child of that which runs another program. */
static void put_family(const struct story *s)
{
        const struct area parent[] = {{AT(0), AT(1), ANONYMOUS, REGULAR, 0}, {AT(2), AT(3), ANONYMOUS, REGULAR, 0}},
                          child[] = {{AT(0), AT(1), ANONYMOUS, REGULAR, 0}, {AT(2), AT(4), ANONYMOUS, REGULAR, 0}};

        put_task(s, 30, 20);
        put_task(s, 10, 0);
        put_task(s, 20, 10);
        put_task(s, 40, 10); /* dead: it has no memory */
        put_memory(s, 10, 1, parent, 2);
        put_memory(s, 20, 1, child, 2);
        put_memory(s, 30, 2, child, 2);
}

static void test_what_a_family_shares_is_in_place_before(void **state)
{
        struct story *s = *state;
        const struct lazy_area own = {AT(2), AT(3)}, childs = {AT(2), AT(4)},
                               other[] = {{AT(0), AT(1)}, {AT(2), AT(4)}};

        put_family(s);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), 0);
        expect(s, 10, &own, 1);
        expect(s, 20, &childs, 1);
        expect(s, 30, other, 2);
        expect(s, 40, NULL, 0);
}

static void test_unless_it_is_to_be_shared_no_more(void **state)
{
        struct story *s = *state;
        const struct lazy_area parents[] = {{AT(0), AT(1)}, {AT(2), AT(3)}};

        put_family(s);
        assert_int_equal(lazy_areas_read(s->fd, true, &s->areas, &s->err), 0);
        expect(s, 10, parents, 2);
}

static void test_what_is_no_image(void **state)
{
        struct story *s = *state;
        const struct area backwards[] = {{AT(2), AT(3), ANONYMOUS, REGULAR, 0}, {AT(0), AT(1), ANONYMOUS, REGULAR, 0}},
                          odd[] = {{AT(0) + 1, AT(1), ANONYMOUS, REGULAR, 0}};

        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), -ENOENT);
        put_task(s, 7, 0);
        append(s, "mm-7.img", 0x12345678U, (const uint8_t *)"", 0);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), -EBADMSG);
        assert_int_equal(unlinkat(s->fd, "mm-7.img", 0), 0);
        put_memory(s, 7, 1, backwards, 2);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), -EBADMSG);
        assert_int_equal(unlinkat(s->fd, "mm-7.img", 0), 0);
        put_memory(s, 7, 1, odd, 1);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), -EBADMSG);
        assert_int_equal(unlinkat(s->fd, "mm-7.img", 0), 0);
        put_task(s, 7, 0);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), -EBADMSG);
        append(s, "pstree.img", 0x50273030U, (const uint8_t *)"\xff", 1);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), -EBADMSG);
        append(s, "userns-9.img", 1, (const uint8_t *)"", 0);
        assert_true(lazy_areas_need_permission(s->fd));
}

/* -- and what the pagemaps make of it ------------------------------------------------------------------------------ */

struct told {
        char text[1024];
        size_t used;
};

static int collect(const struct page_owed *owed, void *context)
{
        struct told *t = context;
        char name[PAGE_OWED_FILE];

        t->used += (size_t)snprintf(t->text + t->used, sizeof(t->text) - t->used, "%u %llx+%llu at %llu of %s%s; ",
                                    owed->pid, (unsigned long long)((owed->vaddr - AT(0)) / PAGE_BYTES),
                                    (unsigned long long)owed->n_pages, (unsigned long long)owed->position,
                                    page_owed_file(owed, name), owed->left ? " (away)" : "");
        return 0;
}

static void add(struct pagemap_writer *w, struct story *s, uint64_t page, uint32_t n)
{
        static uint8_t bytes[64 * PAGE_BYTES];
        const struct page_batch batch = {.image = PAGE_IMAGE(PAGE_IMAGE_TASK, 7),
                                         .vaddr = AT(0) + page * PAGE_BYTES,
                                         .n_pages = n,
                                         .flags = PE_PRESENT};

        assert_int_equal(pagemap_writer_add(w, &batch, bytes, &s->err), 0);
}

static void test_who_is_owed_what(void **state)
{
        struct story *s = *state;
        const struct area areas[] = {{AT(0), AT(1), ANONYMOUS, REGULAR, 0},
                                     {AT(1), AT(2), ANONYMOUS | MAP_LOCKED, REGULAR, 0},
                                     {AT(2), AT(3), ANONYMOUS, REGULAR, 0}};
        CLEANUP(pagemap_writer_free_ptr) struct pagemap_writer *w = NULL;
        struct told told = {0};
        uint64_t pages;

        put_task(s, 7, 0);
        put_memory(s, 7, 1, areas, 3);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), 0);
        assert_int_equal(pagemap_writer_new(s->fd, &w), 0);
        pagemap_writer_lazy(w, s->areas);
        assert_int_equal(pagemap_writer_round(w, &s->err), 0);
        add(w, s, 4, 40); /* from the first area through the second into the third */
        assert_int_equal(pagemap_writer_last(w, &s->err), 0);
        assert_int_equal(pagemap_writer_open(w, PAGE_IMAGE(PAGE_IMAGE_TASK, 7), &s->err), 0);
        add(w, s, 0, 6);  /* four that are new, two over what the round brought */
        add(w, s, 44, 4); /* new, all of them in the third */
        assert_int_equal(pagemap_writer_keep(w, PAGE_IMAGE(PAGE_IMAGE_TASK, 7), AT(0) + 10 * PAGE_BYTES, 30, &s->err),
                         0);
        assert_int_equal(pagemap_writer_owed(w, collect, &told), -EINVAL);
        assert_int_equal(pagemap_writer_finish(w, &pages, &s->err), 0);
        assert_int_equal(pagemap_writer_owed(w, collect, &told), 0);
        assert_string_equal(told.text, "7 0+4 at 0 of pages-1.img; "
                                       "7 4+2 at 0 of round-1/pages-1.img; "
                                       "7 a+6 at 6 of round-1/pages-1.img; "
                                       "7 20+8 at 28 of round-1/pages-1.img; "
                                       "7 2c+4 at 4 of pages-1.img; ");
}

/* A writer for a task whose first and third area may come late, after a round and with its image opened. */
static struct pagemap_writer *write_left(struct story *s)
{
        const struct area areas[] = {{AT(0), AT(1), ANONYMOUS, REGULAR, 0},
                                     {AT(1), AT(2), ANONYMOUS | MAP_LOCKED, REGULAR, 0},
                                     {AT(2), AT(3), ANONYMOUS, REGULAR, 0}};
        struct pagemap_writer *w = NULL;

        put_task(s, 7, 0);
        put_memory(s, 7, 1, areas, 3);
        assert_int_equal(lazy_areas_read(s->fd, false, &s->areas, &s->err), 0);
        assert_int_equal(pagemap_writer_new(s->fd, &w), 0);
        pagemap_writer_lazy(w, s->areas);
        pagemap_writer_expect_left(w);
        assert_int_equal(pagemap_writer_round(w, &s->err), 0);
        add(w, s, 2, 4);
        assert_int_equal(pagemap_writer_last(w, &s->err), 0);
        assert_int_equal(pagemap_writer_open(w, PAGE_IMAGE(PAGE_IMAGE_TASK, 7), &s->err), 0);
        add(w, s, 8, 2);
        return w;
}

static int leave(struct pagemap_writer *w, struct story *s, uint64_t page, uint64_t n)
{
        return pagemap_writer_leave(w, PAGE_IMAGE(PAGE_IMAGE_TASK, 7), AT(0) + page * PAGE_BYTES, n, &s->err);
}

/* What stayed on the source has its places: where a round has brought it, and of its own. */
static void test_what_was_left(void **state)
{
        struct story *s = *state;
        CLEANUP(pagemap_writer_free_ptr) struct pagemap_writer *w = write_left(s);
        struct told told = {0};
        struct stat st;
        uint64_t pages;

        assert_int_equal(leave(w, s, 1, 3), 0); /* of these the round has brought two */
        assert_int_equal(leave(w, s, 3, 1), -EBADMSG);
        assert_int_equal(leave(w, s, 12, 0), -EBADMSG);
        assert_int_equal(leave(w, s, 34, 5), 0);
        assert_int_equal(pagemap_writer_keep(w, PAGE_IMAGE(PAGE_IMAGE_TASK, 7), AT(0) + 4 * PAGE_BYTES, 2, &s->err), 0);
        assert_int_equal(pagemap_writer_left(w), 8);
        assert_int_equal(pagemap_writer_stored(w), 4 + 2 + 6);
        assert_int_equal(pagemap_writer_finish(w, &pages, &s->err), 0);
        assert_int_equal(pages, 6);
        assert_int_equal(pagemap_writer_owed(w, collect, &told), 0);
        assert_string_equal(told.text, "7 1+1 at 0 of round-2/pages-1.img (away); "
                                       "7 2+2 at 0 of round-1/pages-1.img (away); "
                                       "7 4+2 at 2 of round-1/pages-1.img; "
                                       "7 8+2 at 0 of pages-1.img; "
                                       "7 22+5 at 1 of round-2/pages-1.img (away); ");
        assert_int_equal(fstatat(s->fd, "round-2/pages-1.img", &st, 0), 0);
        assert_int_equal(st.st_size, 6 * PAGE_BYTES);
}

/* Where it could not come late, or nobody said that some would be left, it is no copy. */
static void test_what_must_not_be_left(void **state)
{
        struct story *s = *state;
        CLEANUP(pagemap_writer_free_ptr) struct pagemap_writer *w = write_left(s), *other = NULL;
        uint64_t pages;

        assert_int_equal(leave(w, s, 15, 2), 0); /* one of them locked */
        assert_int_equal(pagemap_writer_finish(w, &pages, &s->err), -EBADMSG);
        assert_non_null(strstr(s->err.text, "process 7"));

        assert_int_equal(fd_remove_tree(s->fd, "round-1", NULL), 0);
        assert_int_equal(fd_remove_tree(s->fd, "round-2", NULL), 0);
        assert_int_equal(pagemap_writer_new(s->fd, &other), 0);
        pagemap_writer_lazy(other, s->areas);
        assert_int_equal(pagemap_writer_round(other, &s->err), 0);
        assert_int_equal(leave(other, s, 0, 1), -EBADMSG);
        assert_int_equal(pagemap_writer_last(other, &s->err), 0);
        assert_int_equal(leave(other, s, 0, 1), -EBADMSG);
        assert_int_equal(pagemap_writer_open(other, PAGE_IMAGE(PAGE_IMAGE_TASK, 7), &s->err), 0);
        assert_int_equal(leave(other, s, 0, 1), -EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_what_may_come_late, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_a_family_shares_is_in_place_before, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unless_it_is_to_be_shared_no_more, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_is_no_image, setup, teardown),
                cmocka_unit_test_setup_teardown(test_who_is_owed_what, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_was_left, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_must_not_be_left, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
