/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/lxc/phaul-lxc.h"

#include <errno.h>
#include <fcntl.h>
#include <lxc/version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/name.h"

#define CONFIG_MAX (1 << 20)

/* What liblxc wrote to standard error since, its last line: with the file names of its sources taken off. */
static void last_complaint(int fd, char *text, size_t size)
{
        char buffer[4096];

        ssize_t n = pread(fd, buffer, sizeof(buffer) - 1, 0);
        buffer[n > 0 ? n : 0] = '\0';
        const char *start = strstr(buffer, "Failed to parse config");
        if (!start)
                start = buffer;
        (void)snprintf(text, size, "%.*s", (int)strcspn(start, "\n"), start);
}

/* Every line that this liblxc does not take, by its key: it stops at the first one itself. */
static void refused_keys(struct lxc_container *c, const char *file, char *ret, size_t size)
{
        AUTO_FREE char *text = NULL;
        char *save = NULL;

        ret[0] = '\0';
        if (fd_read_file(AT_FDCWD, file, CONFIG_MAX, &text, NULL) < 0)
                return;
        c->clear_config(c);
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char key[128], value[4096] = "";
                if (sscanf(line, " %127[a-zA-Z0-9_.-] = %4095[^\n]", key, value) < 1 || strncmp(key, "lxc.", 4) != 0 ||
                    c->set_config_item(c, key, value))
                        continue;
                const size_t n = strlen(ret);
                (void)snprintf(ret + n, size - n, "%s%s", n ? ", " : "", key);
        }
}

int verb_verify(int argc, char **argv, json_t **ret, struct error *err)
{
        char complaint[400], keys[600];

        (void)argc;
        if (!name_is_valid(argv[1]))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "that is not the name of a container");
        AUTO_FD int memory = memfd_create("complaints", MFD_CLOEXEC);
        if (memory < 0 || dup2(memory, STDERR_FILENO) < 0)
                return error_errno(err, errno, "cannot catch what liblxc says");

        /* Where nothing of that name lies yet (or the name is taken, and that is found out elsewhere). */
        struct lxc_container *c = lxc_container_new(argv[1], lxc_path());
        if (!c)
                return error_set(err, ENOMEM, "liblxc cannot make a container object");
        int r = 0;
        json_t *answer = NULL;
        c->clear_config(c);
        if (!c->load_config(c, argv[0])) {
                last_complaint(memory, complaint, sizeof(complaint));
                refused_keys(c, argv[0], keys, sizeof(keys));
                r = error_set_kind(err, ERROR_REFUSED, EINVAL, "liblxc %s does not accept the configuration: %s%s%s",
                                   lxc_get_version(), complaint, keys[0] ? "; it refuses " : "", keys);
        } else {
                answer = json_pack("{ss ss ss}", "id", argv[1], "version", lxc_get_version(), "lxcpath", lxc_path());
                r = answer ? describe_config(c, answer, err) : error_set(err, ENOMEM, "out of memory");
        }
        (void)lxc_container_put(c);
        if (r < 0)
                json_decref(answer);
        else
                *ret = answer;
        return r;
}
