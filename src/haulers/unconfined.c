/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/unconfined.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

int unconfined_check(struct error *err)
{
        static const char *const fields[] = {"NoNewPrivs:", "Seccomp:"};
        AUTO_FREE char *ours = NULL, *first = NULL;

        if (fd_read_file(AT_FDCWD, "/proc/self/status", 65536, &ours, NULL) < 0 ||
            fd_read_file(AT_FDCWD, "/proc/1/status", 65536, &first, NULL) < 0)
                return 0;
        for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
                const char *a = strstr(ours, fields[i]), *b = strstr(first, fields[i]);
                if (!a || !b || strcspn(a, "\n") != strcspn(b, "\n") || strncmp(a, b, strcspn(a, "\n")) != 0)
                        return error_set(err, EPERM,
                                         "this process is confined (%.*s, unlike process 1), and so would be the "
                                         "workload for ever",
                                         a ? (int)strcspn(a, "\n") : 0, a ? a : "");
        }
        return 0;
}

void unconfined_forget_oom_score(void)
{
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

        if (fd >= 0) {
                (void)!write(fd, "0", 1);
                (void)close(fd);
        }
}
