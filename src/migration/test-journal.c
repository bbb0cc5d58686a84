/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/fd.h"
#include "migration/journal.h"

struct place {
        char directory[64];
        char path[96];
};

static int setup(void **state)
{
        struct place *p = calloc(1, sizeof(*p));

        assert_non_null(p);
        (void)snprintf(p->directory, sizeof(p->directory), "/tmp/test-journal-XXXXXX");
        assert_non_null(mkdtemp(p->directory));
        (void)snprintf(p->path, sizeof(p->path), "%s/record", p->directory);
        *state = p;
        return 0;
}

static int teardown(void **state)
{
        struct place *p = *state;
        int r = fd_remove_tree(AT_FDCWD, p->directory, NULL);

        free(p);
        return r;
}

static void append(struct journal *journal, const char *record, json_t *fields)
{
        struct error err = {0};

        if (journal_append(journal, record, fields, &err) < 0)
                fail_msg("%s", err.text);
        json_decref(fields);
}

static struct journal *open_it(const struct place *p)
{
        struct journal *journal = NULL;
        struct error err = {0};

        if (journal_open(p->path, &journal, &err) < 0)
                fail_msg("%s", err.text);
        return journal;
}

static void contents(const struct place *p, char **ret, size_t *ret_size)
{
        assert_int_equal(fd_read_file(AT_FDCWD, p->path, JOURNAL_SIZE_MAX, ret, ret_size), 0);
}

static void put(const struct place *p, const char *text, size_t size)
{
        AUTO_FD int fd = open(p->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, size), 0);
}

struct seen {
        unsigned n;
        char records[512];
        int stop_at;
};

static int see(const char *record, const json_t *entry, void *context)
{
        struct seen *seen = context;
        size_t used = strlen(seen->records);

        assert_int_equal(json_integer_value(json_object_get(entry, "seq")), seen->n + 1);
        assert_true(json_integer_value(json_object_get(entry, "time")) > 1500000000000);
        (void)snprintf(seen->records + used, sizeof(seen->records) - used, "%s ", record);
        seen->n++;
        return seen->stop_at && (int)seen->n == seen->stop_at ? 7 : 0;
}

static void assert_holds(const struct journal *journal, const char *records)
{
        struct seen seen = {0};

        assert_int_equal(journal_each(journal, see, &seen), 0);
        assert_string_equal(seen.records, records);
}

/* Three records, the state among them the last but one: what most of the tests begin with. */
static void write_three(const struct place *p)
{
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;

        assert_int_equal(journal_create(p->path, &journal, NULL), 0);
        append(journal, "LEFTOVER", json_pack("{s:s, s:s}", "what", "container", "name", "web \"1\" \xc3\xa4\n"));
        append(journal, "COMMIT", NULL);
        append(journal, "NOTE", json_pack("{s:[i,i], s:{s:b}}", "numbers", 1, 2, "deep", "yes", 1));
}

/* What was appended is there, in order, at once and after a restart; the state is the last handover record. */
static void test_story(void **state)
{
        const struct place *p = *state;
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        char peeked[16] = "untouched";
        struct seen seen = {.stop_at = 2};

        assert_int_equal(journal_create(p->path, &journal, NULL), 0);
        assert_null(journal_state(journal));
        assert_holds(journal, "");
        append(journal, "LEFTOVER", json_pack("{s:s}", "name", "web"));
        assert_null(journal_state(journal));
        assert_int_equal(journal_peek_state(p->path, peeked, sizeof(peeked)), 0);
        assert_string_equal(peeked, "");
        append(journal, "PREPARED", NULL);
        append(journal, "NOTE", NULL);
        append(journal, "STARTING", NULL);
        append(journal, "FREEZER", NULL);
        assert_string_equal(journal_state(journal), "STARTING");
        assert_holds(journal, "LEFTOVER PREPARED NOTE STARTING FREEZER ");
        assert_int_equal(journal_each(journal, see, &seen), 7);
        assert_int_equal(seen.n, 2);

        journal_free(TAKE_PTR(journal));
        journal = open_it(p);
        assert_string_equal(journal_state(journal), "STARTING");
        assert_holds(journal, "LEFTOVER PREPARED NOTE STARTING FREEZER ");
        append(journal, "RUNNING", NULL);
        assert_holds(journal, "LEFTOVER PREPARED NOTE STARTING FREEZER RUNNING ");
        assert_int_equal(journal_peek_state(p->path, peeked, sizeof(peeked)), 0);
        assert_string_equal(peeked, "RUNNING");
        assert_int_equal(journal_peek_state(p->path, peeked, 7), -ENAMETOOLONG);
}

static int find_name(const char *record, const json_t *entry, void *context)
{
        if (strcmp(record, "LEFTOVER") == 0)
                assert_string_equal(json_string_value(json_object_get(entry, "name")), "web \"1\" \xc3\xa4\n");
        (void)context;
        return 0;
}

/* Fields come back as they were, and what the caller does with its object later does not change what was recorded. */
static void test_fields(void **state)
{
        const struct place *p = *state;
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;

        write_three(p);
        journal = open_it(p);
        assert_int_equal(journal_each(journal, find_name, NULL), 0);

        json_t *fields = json_pack("{s:s}", "name", "web \"1\" \xc3\xa4\n");
        assert_int_equal(journal_append(journal, "LEFTOVER", fields, NULL), 0);
        json_object_set_new(fields, "name", json_string("changed"));
        json_decref(fields);
        assert_int_equal(journal_each(journal, find_name, NULL), 0);
}

struct descent {
        struct journal *journal;
        size_t next; /* number of the one that is due */
};

static int descend(const char *record, const json_t *entry, void *context)
{
        struct descent *d = context;

        if (strcmp(record, "LEFTOVER") != 0)
                return 0;
        assert_int_equal(json_integer_value(json_object_get(entry, "number")), (json_int_t)--d->next);
        return d->next % 100 ? 0 : journal_append(d->journal, "NOTE", NULL, NULL);
}

/* What was made last is removed first, however much it is, and what happens meanwhile is recorded. */
static void test_backwards(void **state)
{
        const struct place *p = *state;
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        const size_t n = 1000;

        assert_int_equal(journal_create(p->path, &journal, NULL), 0);
        for (size_t i = 0; i < n; i++)
                append(journal, "LEFTOVER", json_pack("{s:I}", "number", (json_int_t)i));
        struct descent d = {.journal = journal, .next = n};
        assert_int_equal(journal_each_back(journal, descend, &d), 0);
        assert_int_equal(d.next, 0);
}

/* The form of a line is what the header says: the sum can be computed by any other tool. */
static void test_form(void **state)
{
        const struct place *p = *state;
        static const char known[] =
                "{\"seq\":1,\"time\":1700000000000,\"record\":\"COMMIT\",\"sum\":\"e61b2bceb358b417\"}\n";
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        struct stat st;

        put(p, known, strlen(known));
        journal = open_it(p);
        assert_string_equal(journal_state(journal), "COMMIT");
        journal_free(TAKE_PTR(journal));

        assert_int_equal(unlink(p->path), 0);
        write_three(p);
        assert_int_equal(stat(p->path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
}

/* Wherever a crash cut the last line off, the lines before it stand, and the next one follows them cleanly. */
static void test_torn_at_every_byte(void **state)
{
        const struct place *p = *state;
        AUTO_FREE char *text = NULL;
        size_t size;

        write_three(p);
        contents(p, &text, &size);
        size_t last = size - 1;
        while (text[last - 1] != '\n')
                last--;

        for (size_t cut = last; cut <= size; cut++) {
                CLEANUP(journal_free_ptr) struct journal *journal = NULL;
                const char *kept = cut == size ? "LEFTOVER COMMIT NOTE " : "LEFTOVER COMMIT ";
                char records[64], peeked[16];
                struct stat st;

                put(p, text, cut);
                assert_int_equal(journal_peek_state(p->path, peeked, sizeof(peeked)), 0);
                assert_string_equal(peeked, "COMMIT");
                journal = open_it(p);
                assert_string_equal(journal_state(journal), "COMMIT");
                assert_holds(journal, kept);
                assert_int_equal(stat(p->path, &st), 0);
                assert_int_equal(st.st_size, cut); /* reading changes nothing */

                append(journal, "RELEASED", NULL);
                journal_free(TAKE_PTR(journal));
                journal = open_it(p);
                (void)snprintf(records, sizeof(records), "%sRELEASED ", kept);
                assert_holds(journal, records);
        }
}

/* The same for a last line of which blocks never reached the disk: they read as zeros. */
static void test_torn_with_zeros(void **state)
{
        const struct place *p = *state;
        AUTO_FREE char *text = NULL;
        size_t size;

        write_three(p);
        contents(p, &text, &size);
        size_t last = size - 1;
        while (text[last - 1] != '\n')
                last--;
        for (size_t from = last; from < size - 1; from++) {
                CLEANUP(journal_free_ptr) struct journal *journal = NULL;
                AUTO_FREE char *copy = malloc(size);

                assert_non_null(copy);
                memcpy(copy, text, size);
                memset(copy + from, 0, size - 1 - from);
                put(p, copy, size);
                journal = open_it(p);
                assert_holds(journal, "LEFTOVER COMMIT ");
                append(journal, "RELEASED", NULL);
                journal_free(TAKE_PTR(journal));
                journal = open_it(p);
                assert_holds(journal, "LEFTOVER COMMIT RELEASED ");
        }
}

/* Any other damage, anywhere, is an error that names the line: a forgotten COMMIT would be two workloads. */
static void test_damage(void **state)
{
        const struct place *p = *state;
        AUTO_FREE char *text = NULL;
        size_t size;

        write_three(p);
        contents(p, &text, &size);
        for (size_t i = 0; i < size - 1; i++) { /* the very last newline is the torn case */
                for (unsigned bit = 0; bit < 8; bit++) {
                        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
                        struct error err = {0};
                        char peeked[16] = "untouched";

                        text[i] = (char)(text[i] ^ (1 << bit));
                        put(p, text, size);
                        text[i] = (char)(text[i] ^ (1 << bit));
                        assert_int_equal(journal_open(p->path, &journal, &err), -EBADMSG);
                        assert_null(journal);
                        assert_non_null(strstr(err.text, "line"));
                        assert_int_equal(journal_peek_state(p->path, peeked, sizeof(peeked)), -EBADMSG);
                        assert_string_equal(peeked, "untouched");
                }
        }
}

/* Lines that are whole, but of which one is missing, doubled or swapped, are no record either. */
static void test_order(void **state)
{
        const struct place *p = *state;
        AUTO_FREE char *text = NULL;
        size_t size;

        write_three(p);
        contents(p, &text, &size);
        char *second = strchr(text, '\n') + 1, *third = strchr(second, '\n') + 1;
        const char *const orders[][2] = {{second, third}, {text, text}, {text, third}};
        for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
                CLEANUP(journal_free_ptr) struct journal *journal = NULL;
                char joined[2048];
                size_t used = 0;

                for (size_t j = 0; j < 2; j++) {
                        size_t length = (size_t)(strchr(orders[i][j], '\n') - orders[i][j]) + 1;
                        memcpy(joined + used, orders[i][j], length);
                        used += length;
                }
                put(p, joined, used);
                assert_int_equal(journal_open(p->path, &journal, NULL), -EBADMSG);
        }
}

/* Created once, opened by one, and only where there is one. */
static void test_one_owner(void **state)
{
        const struct place *p = *state;
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        struct journal *second = NULL;
        char peeked[16], nowhere[128];

        assert_int_equal(journal_open(p->path, &second, NULL), -ENOENT);
        assert_int_equal(journal_peek_state(p->path, peeked, sizeof(peeked)), -ENOENT);
        assert_int_equal(journal_create(p->path, &journal, NULL), 0);
        assert_int_equal(journal_create(p->path, &second, NULL), -EEXIST);
        assert_int_equal(journal_open(p->path, &second, NULL), -EBUSY);
        append(journal, "ABORTED", NULL);
        assert_int_equal(journal_peek_state(p->path, peeked, sizeof(peeked)), 0); /* looking is allowed */
        assert_string_equal(peeked, "ABORTED");
        journal_free(TAKE_PTR(journal));
        journal = open_it(p);

        (void)snprintf(nowhere, sizeof(nowhere), "%s/none/record", p->directory);
        assert_int_equal(journal_create(nowhere, &second, NULL), -ENOENT);
        assert_int_equal(journal_open(p->directory, &second, NULL), -EISDIR);
        (void)snprintf(nowhere, sizeof(nowhere), "%s/link", p->directory);
        assert_int_equal(symlink(p->path, nowhere), 0);
        assert_int_equal(journal_open(nowhere, &second, NULL), -ELOOP);
        assert_null(second);
        journal_free(NULL);
}

/* Records and fields that could not be read again are refused before anything is written. */
static void test_refused(void **state)
{
        const struct place *p = *state;
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        static const char *const names[] = {"",  "commit", "A B", "\"", "NOTE\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                            NULL};
        json_t *bad[] = {json_pack("{s:i}", "seq", 1),
                         json_pack("{s:i}", "time", 1),
                         json_pack("{s:s}", "sum", ""),
                         json_pack("{s:s}", "record", "X"),
                         json_array(),
                         json_object(),
                         json_object()};
        struct stat st;

        json_object_set_new(bad[5], "text", json_stringn("a\0b", 3));
        AUTO_FREE char *big = malloc(JOURNAL_LINE_MAX + 1);
        assert_non_null(big);
        memset(big, 'x', JOURNAL_LINE_MAX);
        big[JOURNAL_LINE_MAX] = '\0';
        json_object_set_new(bad[6], "text", json_string(big));

        assert_int_equal(journal_create(p->path, &journal, NULL), 0);
        for (size_t i = 0; names[i]; i++)
                assert_int_equal(journal_append(journal, names[i], NULL, NULL), -EINVAL);
        assert_int_equal(journal_append(journal, NULL, NULL, NULL), -EINVAL);
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
                assert_int_equal(journal_append(journal, "NOTE", bad[i], NULL), i == 6 ? -E2BIG : -EINVAL);
                json_decref(bad[i]);
        }
        assert_int_equal(stat(p->path, &st), 0);
        assert_int_equal(st.st_size, 0);
        append(journal, "NOTE", NULL);
        assert_holds(journal, "NOTE ");
}

/* The longest line goes in and comes out; the file stops at its ceiling, whole. */
static void test_ceilings(void **state)
{
        const struct place *p = *state;
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        AUTO_FREE char *big = malloc(JOURNAL_LINE_MAX);
        struct stat st;
        int r;

        assert_non_null(big);
        assert_int_equal(journal_create(p->path, &journal, NULL), 0);
        for (size_t length = JOURNAL_LINE_MAX - 1;; length--) {
                memset(big, 'x', length);
                big[length] = '\0';
                json_t *fields = json_pack("{s:s}", "text", big);
                r = journal_append(journal, "NOTE", fields, NULL);
                json_decref(fields);
                if (r == 0)
                        break;
                assert_int_equal(r, -E2BIG);
        }
        assert_int_equal(stat(p->path, &st), 0);
        assert_int_equal(st.st_size, JOURNAL_LINE_MAX);

        do {
                json_t *fields = json_pack("{s:s}", "text", big + 1024);
                r = journal_append(journal, "NOTE", fields, NULL);
                json_decref(fields);
        } while (r == 0);
        assert_int_equal(r, -EFBIG);
        assert_int_equal(stat(p->path, &st), 0);
        assert_in_range(st.st_size, JOURNAL_SIZE_MAX - JOURNAL_LINE_MAX, JOURNAL_SIZE_MAX);
        journal_free(TAKE_PTR(journal));
        journal = open_it(p);
        assert_int_equal(truncate(p->path, JOURNAL_SIZE_MAX + 1), 0);
        journal_free(TAKE_PTR(journal));
        assert_int_equal(journal_open(p->path, &journal, NULL), -EFBIG);
}

/* A write that fails halfway has not happened; once the disk has room again, all goes on. */
static void test_failing_write(void **state)
{
        const struct place *p = *state;
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        struct rlimit before, tight;
        struct stat st;
        off_t good;

        write_three(p);
        journal = open_it(p);
        assert_int_equal(stat(p->path, &st), 0);
        good = st.st_size;

        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        tight = before;
        tight.rlim_cur = (rlim_t)good + 10;
        void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
        int r = journal_append(journal, "RELEASED", NULL, NULL);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        (void)signal(SIGXFSZ, old);

        assert_int_equal(r, -EFBIG);
        assert_string_equal(journal_state(journal), "COMMIT");
        assert_int_equal(stat(p->path, &st), 0);
        assert_int_equal(st.st_size, good);
        append(journal, "ABORTED", NULL);
        journal_free(TAKE_PTR(journal));
        journal = open_it(p);
        assert_holds(journal, "LEFTOVER COMMIT NOTE ABORTED ");
}

#define STORY(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                STORY(test_story),
                STORY(test_fields),
                STORY(test_backwards),
                STORY(test_form),
                STORY(test_damage),
                STORY(test_torn_with_zeros),
                STORY(test_torn_at_every_byte),
                STORY(test_order),
                STORY(test_one_owner),
                STORY(test_refused),
                STORY(test_ceilings),
                STORY(test_failing_write),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
