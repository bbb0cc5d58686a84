/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the exit code and the words of rsync are taken for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "files/complaints.h"

#define EXITED(code) ((code) << 8)

static int judge(const char *text, int status, bool live, struct error *err)
{
        struct complaints c = {0};

        complaints_feed(&c, text, strlen(text));
        complaints_end(&c);
        return complaints_judge(&c, status, live, err);
}

/* Files that come and go are normal while the tree is in use, and an error while it stands still. */
static void test_unrest(void **state)
{
        static const char text[] = "file has vanished: \"/tree/tmp/x\"\n"
                                   "rsync warning: some files vanished before they could be transferred (code 24)\n";
        struct error err = {0};

        (void)state;
        assert_int_equal(judge(text, EXITED(24), true, &err), 0);
        assert_int_equal(judge(text, EXITED(24), false, &err), -EIO);
        assert_non_null(strstr(err.text, "vanished"));
        assert_int_equal(judge("rsync: [sender] read errors mapping \"/tree/log\": No data available (61)\n",
                               EXITED(23), true, &err),
                         0);
        assert_int_equal(judge("rsync: [sender] send_files failed to open \"/tree/x\": Permission denied (13)\n",
                               EXITED(23), true, &err),
                         -EIO);
}

static void test_disk_full(void **state)
{
        struct error err = {0};

        (void)state;
        assert_int_equal(judge("rsync: [receiver] write failed on \"/tree/big\": No space left on device (28)\n"
                               "rsync error: error in file IO (code 11) at receiver.c(380) [receiver=3.2.7]\n",
                               EXITED(11), true, &err),
                         -ENOSPC);
        assert_non_null(strstr(err.text, "No space left on device"));
        assert_non_null(strstr(err.text, "code 11"));
        assert_null(strstr(err.text, "receiver.c"));
}

/* However much is said, in whatever bytes: the end of it is kept, and it is fit for a terminal and for JSON. */
static void test_flood(void **state)
{
        struct complaints c = {0};
        struct error err = {0};
        char noise[1000];

        (void)state;
        memset(noise, '\xff', sizeof(noise));
        for (int i = 0; i < 1000; i++)
                complaints_feed(&c, noise, sizeof(noise));
        complaints_feed(&c, "\n\033[31mlast word", 15);
        complaints_end(&c);
        assert_int_equal(complaints_judge(&c, 9, true, &err), -EIO);
        assert_non_null(strstr(err.text, "signal 9"));
        assert_non_null(strstr(err.text, "last word"));
        assert_null(strchr(err.text, '\033'));
        assert_null(strchr(err.text, '\xff'));
}

static void test_statistics(void **state)
{
        static const char text[] = "Number of regular files transferred: 1,234\nNumber of deleted files: 5 (reg: 5)\n"
                                   "Literal data: 98765432109 bytes\nphaul deleted: 2\n";
        struct files_result result = {0};
        struct line_reader reader = {0};

        (void)state;
        for (size_t i = 0; i < sizeof(text) - 1; i++)
                line_feed(&reader, text + i, 1, result_line, &result);
        line_end(&reader, result_line, &result);
        assert_int_equal(result.files, 1234);
        assert_int_equal(result.deleted, 7);
        assert_int_equal(result.bytes_changed, 98765432109);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_unrest),
                cmocka_unit_test(test_disk_full),
                cmocka_unit_test(test_flood),
                cmocka_unit_test(test_statistics),
        };

        return cmocka_run_group_tests_name("files: complaints", tests, NULL, NULL);
}
