/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "preflight/preflight.h"
#include "session/control.h"
#include "session/peer.h"
#include "session/verdict.h"
#include "source/source.h"

#define ANSWER_TIMEOUT_MS 60000
#define SCAN_TIMEOUT_MS 10000

static int measure(struct session *s, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err)
{
        *ret_bytes = *ret_inodes = 0;
        for (size_t i = 0; i < s->workload.n_trees; i++) {
                uint64_t bytes = 0, inodes = 0;
                int r = files_measure(s->workload.trees[i].source, &bytes, &inodes, err);
                if (r < 0)
                        return r;
                *ret_bytes += bytes;
                *ret_inodes += inodes;
        }
        return 0;
}

static int offer(struct session *s, const char *criu, json_t *probes, uint64_t bytes, uint64_t inodes,
                 struct error *err)
{
        json_t *object = migration_options_json(&s->request.options);

        if (s->request.check_only)
                (void)json_object_set_new(object, "check", json_true());
        if (probes)
                (void)json_object_set_new(object, "probes", probes);
        AUTO_FREE char *options = object ? json_dumps(object, JSON_COMPACT) : NULL;
        json_decref(object);
        json_t *host = preflight_host(criu);
        AUTO_FREE char *self = host ? json_dumps(host, JSON_COMPACT) : NULL;
        json_decref(host);
        if (!options || !self)
                return error_set(err, ENOMEM, "out of memory");

        struct message *m = message_new(MSG_OFFER);
        message_put_text(m, FIELD_MIGRATION, s->request.id);
        message_put_text(m, FIELD_WORKLOAD_KIND, s->request.kind);
        message_put_text(m, FIELD_WORKLOAD_ID, s->request.name);
        message_put_text(m, FIELD_TARGET_ID, s->request.target_name);
        message_put_text(m, FIELD_DESCRIPTION, s->workload.description);
        message_put_u64(m, FIELD_MEMORY_BYTES, s->workload.memory_bytes);
        message_put_u64(m, FIELD_FILE_BYTES, bytes);
        message_put_u64(m, FIELD_FILE_COUNT, inodes);
        message_put_text(m, FIELD_OPTIONS, options);
        message_put_text(m, FIELD_HOST, self);
        return peer_send(s, m, err);
}

/* Our own look, CRIU's, and one at every task. */
static int examine_here(struct session *s, struct verdict *v, char criu[static 32], struct error *err)
{
        criu[0] = '\0';
        s->hauler = hauler_find(s->request.kind);
        if (!s->hauler)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "this host does not know workloads of kind '%s'",
                                      s->request.kind);
        s->workload.options = &s->request.options;
        int r = s->hauler->examine(s->request.name, &s->workload, verdict_report, v, err);
        if (r == 0 && !s->request.check_only)
                r = source_await_memory(s, err);
        if (r < 0)
                return r;
        const bool restart = s->request.options.mode == MODE_RESTART;
        if (restart && !s->hauler->stop)
                return error_set_kind(
                        err, ERROR_REFUSED, EOPNOTSUPP,
                        "workloads of kind %s cannot be stopped and started, so they cannot be migrated in "
                        "restart mode",
                        s->request.kind);
        /* What is stopped here is not started there: people who move it would be surprised. */
        if (restart && !s->workload.init_pid)
                s->request.options.no_start = true;
        if (s->workload.n_trees > SOURCE_TREES_MAX)
                return error_set_kind(err, ERROR_REFUSED, E2BIG, "%s/%s has more than %d file trees", s->request.kind,
                                      s->request.name, SOURCE_TREES_MAX);
        if (restart) {
                verdict_report("mode", GRADE_OK,
                               !s->workload.init_pid         ? "it is stopped here, and will be there"
                               : s->request.options.no_start ? "it will be stopped here, and not started there"
                                                             : "it will be stopped here and started there",
                               v);
                return 0;
        }
        session_images_examine(s, verdict_report, v);
        if (s->request.options.skip_criu_check)
                verdict_report("criu", GRADE_WARNING, "not checked, as asked", v);
        else
                preflight_criu(criu, verdict_report, v);
        const struct preflight_subject subject = {.init = s->workload.init_pid,
                                                  .cgroup = s->workload.freezer,
                                                  .criu = criu,
                                                  .shell_job = s->request.options.shell_job};
        return preflight_scan(&subject, SCAN_TIMEOUT_MS, verdict_report, v, err);
}

static int examine_there(struct source_side *x, struct verdict *v, const char *criu, struct error *err)
{
        CLEANUP(message_free_ptr) struct message *answer = NULL;
        struct session *s = x->session;
        const bool shared = s->request.options.files == MOVE_SHARED;
        uint64_t bytes = 0, inodes = 0;
        json_t *probes = NULL;

        int r = shared ? 0 : measure(s, &bytes, &inodes, err);
        if (r < 0)
                return r;
        s->file_bytes = bytes;
        r = peer_connect(s, WAIT_INTERRUPTIBLE, err);
        if (r < 0)
                return error_wrap(err, "cannot reach %s", s->request.peer);
        source_postcopy_agree(x);
        if (shared && !(probes = source_probes_write(x, err)))
                r = -err->code;
        if (r == 0)
                r = offer(s, criu, probes, bytes, inodes, err);
        if (r == 0)
                r = peer_expect(s, MSG_VERDICT, ANSWER_TIMEOUT_MS, &answer, err);
        if (r == 0)
                r = verdict_add_message(v, answer, err);
        source_probes_end(x, r == 0 ? verdict_report : NULL, v);
        return r;
}

int source_examine(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        CLEANUP(verdict_done) struct verdict v = {.host = s->request.self, .options = &s->request.options};

        char criu[32];

        session_phase(s, "examine");
        int r = examine_here(s, &v, criu, err);
        const bool refused = r == 0 && verdict_grade(&v) == GRADE_ERROR;
        /* Who only asks wants to hear everything at once; a migration that is refused here need not bother the target.
         */
        if (r == 0 && (!refused || s->request.check_only))
                r = examine_there(x, &v, criu, err);
        if (r < 0 && refused && !s->cancel_requested) {
                verdict_report("target", GRADE_ERROR, err->text, &v);
                error_clear(err);
                r = 0;
        }
        if (r == 0 && verdict_grade(&v) != GRADE_ERROR)
                r = source_link_speed(x, &v, err);
        if (r < 0)
                return r;
        s->verdict = verdict_json(&v);
        control_event(s, json_incref(s->verdict));
        if (verdict_grade(&v) == GRADE_ERROR)
                return verdict_refusal(&v, err);
        return s->hauler->agreed ? s->hauler->agreed(&s->workload, v.items, err) : 0;
}
