/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "pages/service.h"
#include "preflight/preflight.h"
#include "session/control.h"
#include "session/peer.h"
#include "session/verdict.h"
#include "target/target.h"

/* Images and the memory restored from them stand beside each other for a while. */
#define MEMORY_COPIES 2
#define MEMORY_MARGIN (64ULL << 20)
#define INODE_MARGIN 1000

static uint64_t memory_available(void)
{
        AUTO_FREE char *text = NULL;

        if (fd_read_file(AT_FDCWD, "/proc/meminfo", 65536, &text, NULL) < 0)
                return 0;
        const char *line = strstr(text, "MemAvailable:");
        return line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024 : 0;
}

static void examine_memory(const struct target_side *x, struct verdict *v)
{
        const uint64_t have = memory_available(), need = x->memory_bytes * MEMORY_COPIES + MEMORY_MARGIN;
        char text[160];

        (void)snprintf(text, sizeof(text), "%llu MB of memory are needed during the migration, %llu MB are available",
                       (unsigned long long)need / 1000000, (unsigned long long)have / 1000000);
        verdict_report("memory", need > have || need < x->memory_bytes ? GRADE_JUDGED : GRADE_OK, text, v);
}

/* Room below the nearest directory that exists already. */
static int room_for(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes, struct error *err)
{
        char parent[4096];

        if (snprintf(parent, sizeof(parent), "%s", path) >= (int)sizeof(parent))
                return error_set(err, ENAMETOOLONG, "the path %s is too long", path);
        while (access(parent, F_OK) < 0) {
                char *slash = strrchr(parent, '/');
                if (!slash || slash == parent) {
                        (void)strcpy(parent, "/");
                        break;
                }
                *slash = '\0';
        }
        return files_room(parent, ret_bytes, ret_inodes, err);
}

static int examine_disk(const struct target_side *x, struct verdict *v, struct error *err)
{
        const struct workload *w = &x->session->workload;
        uint64_t bytes, inodes;
        char text[200];

        if (w->n_trees == 0)
                return 0;
        int r = room_for(w->trees[0].target, &bytes, &inodes, err);
        if (r < 0)
                return r;
        (void)snprintf(text, sizeof(text),
                       "%llu MB in %llu files are to come, there is room for %llu MB and %llu files at %s",
                       (unsigned long long)x->file_bytes / 1000000, (unsigned long long)x->file_count,
                       (unsigned long long)bytes / 1000000, (unsigned long long)inodes, w->trees[0].target);
        bool fits = x->file_bytes < bytes && x->file_count + INODE_MARGIN < inodes;
        verdict_report("disk", fits ? GRADE_OK : GRADE_JUDGED, text, v);
        return 0;
}

/* The options of the migration, and beside them "check" and the probes of shared directories. */
static int read_options(struct target_side *x, const char *text, struct error *err)
{
        struct session_request *q = &x->session->request;
        json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

        q->check_only = json_is_true(json_object_get(object, "check"));
        (void)json_object_del(object, "check");
        x->probes = json_incref(json_object_get(object, "probes"));
        (void)json_object_del(object, "probes");
        int r = object ? migration_options_parse(object, q->kind, &q->options, err)
                       : error_set(err, EBADMSG, "%s offers options that are not JSON", q->peer);
        json_decref(object);
        return r;
}

static int read_offer(struct target_side *x, const struct message *m, struct error *err)
{
        struct session_request *q = &x->session->request;
        AUTO_FREE char *options = NULL;
        char kind[sizeof(q->kind)], name[sizeof(q->name)], target[sizeof(q->target_name)];

        if (message_get_text(m, FIELD_WORKLOAD_KIND, kind, sizeof(kind)) < 0 ||
            message_get_text(m, FIELD_WORKLOAD_ID, name, sizeof(name)) < 0 ||
            message_get_text(m, FIELD_TARGET_ID, target, sizeof(target)) < 0 || !kind_is_valid(kind) ||
            !name_is_valid(name) || !name_is_valid(target) ||
            message_dup_text(m, FIELD_DESCRIPTION, &x->description) < 0)
                return error_set(err, EBADMSG, "%s offers something without a valid name", q->peer);
        (void)message_get_u64(m, FIELD_MEMORY_BYTES, &x->memory_bytes);
        (void)message_get_u64(m, FIELD_FILE_BYTES, &x->file_bytes);
        (void)message_get_u64(m, FIELD_FILE_COUNT, &x->file_count);
        (void)snprintf(q->kind, sizeof(q->kind), "%s", kind);
        (void)snprintf(q->name, sizeof(q->name), "%s", name);
        (void)snprintf(q->target_name, sizeof(q->target_name), "%s", target);
        return message_dup_text(m, FIELD_OPTIONS, &options) == 0 ? read_options(x, options, err) : 0;
}

/* What a later process of this migration needs to know of it; the name is not ours yet, only asked for. */
static int record_offer(struct target_side *x, struct error *err)
{
        const struct session_request *q = &x->session->request;
        json_t *fields =
                json_pack("{s:s, s:s, s:s, s:s, s:o}", "kind", q->kind, "name", q->name, "target_name", q->target_name,
                          "description", x->description, "options", migration_options_json(&q->options));

        if (!fields)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_append(x->session->journal, "OFFER", fields, err);
        json_decref(fields);
        return r;
}

/* What the source wrote into each directory must be found where this host would look for it. */
static void examine_shared(const struct target_side *x, struct verdict *v)
{
        const struct workload *w = &x->session->workload;
        char text[400];

        for (size_t i = 0; i < w->n_trees; i++) {
                const json_t *entry = json_array_get(x->probes, i);
                const char *name = json_string_value(json_object_get(entry, "name")) ?: "";
                const char *secret = json_string_value(json_object_get(entry, "secret")) ?: "";
                struct files_probe probe;
                struct error no = {0};

                (void)snprintf(probe.name, sizeof(probe.name), "%s", name);
                (void)snprintf(probe.secret, sizeof(probe.secret), "%s", secret);
                int r = files_probe_take(w->trees[i].target, &probe, &no);
                (void)snprintf(text, sizeof(text), "%s is the same directory on %s", w->trees[i].target,
                               x->session->request.peer);
                verdict_report("shared", r < 0 ? GRADE_ERROR : GRADE_OK, r < 0 ? no.text : text, v);
        }
}

/* What is started and not restored needs no CRIU and finds out anew what the processor can do. */
static void examine_start(const struct message *offer, struct verdict *v)
{
        AUTO_FREE char *text = NULL;

        if (message_dup_text(offer, FIELD_HOST, &text) < 0)
                return;
        json_t *source = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *target = preflight_host("");
        if (source && target)
                preflight_compare_architecture(source, target, verdict_report, v);
        json_decref(source);
        json_decref(target);
}

/* CRIU here, and what the source said of itself against what is here. */
static void examine_host(const struct message *offer, int64_t arrived_ms, struct verdict *v)
{
        AUTO_FREE char *text = NULL;
        char criu[32] = "";

        if (v->options->skip_criu_check)
                verdict_report("criu", GRADE_WARNING, "not checked, as asked", v);
        else
                preflight_criu(criu, verdict_report, v);
        if (message_dup_text(offer, FIELD_HOST, &text) < 0)
                return;
        json_t *source = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *target = preflight_host(criu);
        /* What was looked at since took its time, too. */
        if (target)
                (void)json_object_set_new(target, "time_ms", json_integer(arrived_ms));
        if (source && target)
                preflight_compare(source, target, verdict_report, v);
        else
                verdict_report("cpu", GRADE_ERROR, "the two hosts could not be compared", v);
        json_decref(source);
        json_decref(target);
}

/* Memory that is not here cannot be put in place before it runs. */
static void examine_postcopy(const struct session *s, struct verdict *v)
{
        struct error why = {0};
        char text[400];

        if (!migration_options_postcopy(v->options))
                return;
        int r = page_service_possible(-1, &why);
        if (r == 0 && access(s->paths.pages, X_OK) < 0)
                r = error_errno(&why, errno, "%s", s->paths.pages);
        if (r < 0) {
                (void)snprintf(text, sizeof(text), "post-copy is not possible here: %.300s", why.text);
                verdict_report("postcopy", GRADE_ERROR, text, v);
                return;
        }
        verdict_report("postcopy", GRADE_OK,
                       "it may run here before the last of its memory has come, and is lost if the source's host dies "
                       "until then",
                       v);
}

/* What a restore needs beyond what a start does. */
static void examine_restore(const struct target_side *x, const struct message *offer, int64_t arrived_ms,
                            struct verdict *v)
{
        examine_memory(x, v);
        session_images_examine(x->session, verdict_report, v);
        examine_host(offer, arrived_ms, v);
        examine_postcopy(x->session, v);
}

int target_examine(struct target_side *x, const struct message *offer, struct error *err)
{
        struct session *s = x->session;
        CLEANUP(verdict_done) struct verdict v = {.host = s->request.self, .options = &s->request.options};
        const int64_t arrived_ms = clock_wall_ms();
        struct error no = {0};

        session_phase(s, "examine");
        int r = read_offer(x, offer, err);
        if (r == 0)
                r = session_images_place(s, err);
        if (r == 0)
                r = record_offer(x, err);
        if (r == 0)
                r = session_report_open(s, err);
        if (r < 0)
                return r;
        control_event(s, json_pack("{s:s, s:s, s:s, s:s, s:s}", "event", "about", "kind", s->request.kind, "name",
                                   s->request.name, "target_name", s->request.target_name, "mode",
                                   s->request.check_only ? "check" : migration_mode_name(s->request.options.mode)));

        s->hauler = hauler_find(s->request.kind);
        s->workload.options = &s->request.options;
        if (!s->hauler)
                verdict_report("kind", GRADE_ERROR, "this host does not know workloads of this kind", &v);
        else if (s->request.options.mode == MODE_RESTART && !s->hauler->start)
                verdict_report("mode", GRADE_ERROR, "workloads of this kind cannot be started here in restart mode",
                               &v);
        else if (s->hauler->verify(s->request.target_name, x->description, &s->workload, verdict_report, &v, &no) < 0)
                verdict_report("workload", GRADE_ERROR, no.text, &v);
        else if (s->request.options.files == MOVE_SHARED)
                examine_shared(x, &v);
        else if (examine_disk(x, &v, &no) < 0)
                verdict_report("disk", GRADE_ERROR, no.text, &v);
        if (s->request.options.mode == MODE_RESTART)
                examine_start(offer, &v);
        else
                examine_restore(x, offer, arrived_ms, &v);

        struct message *answer = message_new(MSG_VERDICT);
        r = verdict_put_message(&v, answer);
        if (r < 0) {
                message_free(answer);
                return error_errno(err, -r, "cannot answer");
        }
        r = peer_send(s, answer, err);
        x->offered = r == 0 && verdict_grade(&v) != GRADE_ERROR;
        return r;
}

static int recall_entry(const char *record, const json_t *entry, void *context)
{
        struct target_side *x = context;
        struct session_request *q = &x->session->request;

        if (strcmp(record, "HELD") == 0)
                x->session->workload.init_pid = (pid_t)json_integer_value(json_object_get(entry, "init_pid"));
        if (strcmp(record, "OFFER") != 0)
                return 0;
        const char *description = json_string_value(json_object_get(entry, "description"));
        const char *kind = json_string_value(json_object_get(entry, "kind"));
        const char *name = json_string_value(json_object_get(entry, "name"));
        const char *target = json_string_value(json_object_get(entry, "target_name"));
        if (!description || !kind_is_valid(kind) || !name_is_valid(name) || !name_is_valid(target))
                return -EBADMSG;
        if (migration_options_parse(json_object_get(entry, "options"), kind, &q->options, NULL) < 0)
                return -EBADMSG;
        (void)snprintf(q->kind, sizeof(q->kind), "%s", kind);
        (void)snprintf(q->name, sizeof(q->name), "%s", name);
        (void)snprintf(q->target_name, sizeof(q->target_name), "%s", target);
        free(x->description);
        x->description = strdup(description);
        return x->description ? 0 : -ENOMEM;
}

static void recall_finding(const char *item, enum grade grade, const char *reason, void *context)
{
        /* Verified when it was offered; now only the paths are wanted. */
        (void)item;
        (void)grade;
        (void)reason;
        (void)context;
}

int target_recall(struct target_side *x, struct error *err)
{
        struct session *s = x->session;

        int r = journal_each(s->journal, recall_entry, x);
        if (r < 0)
                return error_errno(err, -r, "cannot use the record %s", s->paths.record);
        if (!x->description)
                return 0;
        s->hauler = hauler_find(s->request.kind);
        if (!s->hauler)
                return error_set(err, EINVAL, "this host does not know workloads of kind %s any more", s->request.kind);
        s->workload.options = &s->request.options;
        r = session_images_place(s, err);
        if (r < 0)
                return r;
        pid_t init = s->workload.init_pid;
        r = s->hauler->verify(s->request.target_name, x->description, &s->workload, recall_finding, NULL, err);
        if (init)
                s->workload.init_pid = init;
        return r < 0 ? r : session_report_open(s, err);
}
