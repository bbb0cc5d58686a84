/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "source/freezer.h"
#include "source/source.h"

#define CRIU_LEAVES_MS 3000

static int restore_text(const json_t *entry, const char *key, char *ret, size_t size)
{
        const char *text = json_string_value(json_object_get(entry, key));

        return text && snprintf(ret, size, "%s", text) < (int)size ? 0 : -EBADMSG;
}

/* Whether the freezer was shut when that process died is not known: it is opened. */
static int replay_rounds(struct source_side *x, const json_t *entry)
{
        struct workload *w = &x->session->workload;
        const char *freezer = json_string_value(json_object_get(entry, "freezer"));

        if (!freezer)
                return -EBADMSG;
        free(w->freezer);
        w->freezer = strdup(freezer);
        w->freezer_v2 = json_is_true(json_object_get(entry, "v2"));
        w->init_pid = (pid_t)json_integer_value(json_object_get(entry, "init_pid"));
        x->in_rounds = true;
        return w->freezer ? 0 : -ENOMEM;
}

/* It does not matter whether it was put back already: until then nobody else has been told to change it. */
static int replay_throttled(struct source_side *x, const json_t *entry)
{
        const char *cpu = json_string_value(json_object_get(entry, "cpu"));
        const char *before = json_string_value(json_object_get(entry, "before"));
        struct error err = {0};

        if (!cpu || cpu[0] != '/' || !before)
                return -EBADMSG;
        if (throttle_restore(cpu, before, &err) < 0)
                session_log(x->session, "error", "%s", err.text);
        return 0;
}

static int replay_freezing(struct source_side *x, const json_t *entry)
{
        struct workload *w = &x->session->workload;
        const json_t *ports = json_object_get(entry, "ports");
        const char *freezer = json_string_value(json_object_get(entry, "freezer"));
        size_t n = json_array_size(ports);

        if (!freezer || n > 64)
                return -EBADMSG;
        free(w->freezer);
        w->freezer = strdup(freezer);
        w->freezer_v2 = json_is_true(json_object_get(entry, "v2"));
        w->init_pid = (pid_t)json_integer_value(json_object_get(entry, "init_pid"));
        free(x->ports);
        x->ports = calloc(n + 1, sizeof(*x->ports));
        x->n_ports = 0;
        if (!w->freezer || !x->ports)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const json_t *port = json_array_get(ports, i);
                struct network_port *p = &x->ports[x->n_ports];
                if (restore_text(port, "inside", p->inside, sizeof(p->inside)) < 0 ||
                    restore_text(port, "outside", p->outside, sizeof(p->outside)) < 0 ||
                    restore_text(port, "bridge", p->bridge, sizeof(p->bridge)) < 0)
                        return -EBADMSG;
                x->n_ports++;
        }
        /* How long it stood still is not known any more; that it did is. */
        x->frozen_since_us = clock_us();
        return 0;
}

static int replay(const char *record, const json_t *entry, void *context)
{
        struct source_side *x = context;

        if (strcmp(record, "ROUNDS") == 0)
                return replay_rounds(x, entry);
        if (strcmp(record, "THROTTLED") == 0)
                return replay_throttled(x, entry);
        if (strcmp(record, "FREEZING") == 0)
                return replay_freezing(x, entry);
        x->stopping |= strcmp(record, "STOPPING") == 0;
        x->stopped |= strcmp(record, "STOPPED") == 0;
        if (strcmp(record, "WORKLOAD") == 0) {
                const char *description = json_string_value(json_object_get(entry, "description"));
                free(x->session->workload.description);
                x->session->workload.description = description ? strdup(description) : NULL;
                return x->session->workload.description ? 0 : -EBADMSG;
        }
        return 0;
}

/* After a reboot of the host pid and interfaces may belong to somebody else. */
static bool still_there(const struct workload *w)
{
        AUTO_FREE pid_t *pids = NULL;
        size_t n = 0;

        if (freezer_pids(w->freezer, &pids, &n, NULL) < 0)
                return false;
        for (size_t i = 0; i < n; i++)
                if (pids[i] == w->init_pid)
                        return true;
        return false;
}

int source_recover(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        s->hauler = s->workload.hauler = hauler_find(s->request.kind);
        if (!s->hauler)
                return error_set(err, EINVAL, "this host does not know workloads of kind %s any more", s->request.kind);
        s->workload.options = &s->request.options;
        s->workload.id = strdup(s->request.name);
        if (!s->workload.id)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_each(s->journal, replay, x);
        if (r < 0)
                return error_errno(err, -r, "cannot use the record %s", s->paths.record);

        if ((x->frozen_since_us || x->in_rounds) && !still_there(&s->workload)) {
                s->workload.init_pid = 0;
                x->n_ports = 0;
                x->in_rounds = false;
        }

        /* Our CRIU, if it was at work, lost its socket with us and is undoing its dump: let it finish before we thaw.
         */
        if (x->frozen_since_us && s->state != SOURCE_COMMITTED && s->state != SOURCE_SERVING)
                (void)usleep(CRIU_LEAVES_MS * 1000);
        return 0;
}
