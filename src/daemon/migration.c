/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/migration.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/spawn.h"

#define REPORT_MAX (1U << 20)
#define REQUEST_MAX (128U << 10)
#define LOG_TAIL (64 * 1024)
#define RESTART_DELAY_MS 300

static int read_json(const struct migration *m, const char *file, size_t limit, json_t **ret)
{
        char path[PATH_MAX + 32];
        AUTO_FREE char *text = NULL;
        size_t size;

        (void)snprintf(path, sizeof(path), "%s/%s", m->directory, file);
        int r = fd_read_file(AT_FDCWD, path, limit, &text, &size);
        if (r < 0)
                return r;
        *ret = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(*ret)) {
                json_decref(*ret);
                *ret = NULL;
                return -EBADMSG;
        }
        return 0;
}

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key));
}

static void replace(json_t **place, json_t *value)
{
        json_decref(*place);
        *place = value;
}

int migration_load(struct migrations *all, const char *id, struct migration **ret, struct error *err)
{
        struct migration *m = calloc(1, sizeof(*m));

        if (!m)
                return error_set(err, ENOMEM, "out of memory");
        m->owner = all;
        (void)snprintf(m->id, sizeof(m->id), "%s", id);
        if (snprintf(m->directory, sizeof(m->directory), "%s/migrations/%s", all->daemon->places.state, id) >=
            (int)sizeof(m->directory)) {
                free(m);
                return error_set(err, ENAMETOOLONG, "path of the state directory too long");
        }
        int r = read_json(m, "request.json", REQUEST_MAX, &m->request);
        if (r < 0) {
                r = r == -ENOENT ? error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "there is no migration %s", id)
                                 : error_errno(err, -r, "cannot read request.json of migration %s", id);
                free(m);
                return r;
        }
        const char *side = text_of(m->request, "side"), *mode = text_of(m->request, "mode");
        const char *fingerprint = text_of(m->request, "peer_fingerprint");
        m->source_side = side && strcmp(side, "source") == 0;
        m->check = mode && strcmp(mode, "check") == 0;
        (void)snprintf(m->fingerprint, sizeof(m->fingerprint), "%s", fingerprint ? fingerprint : "");
        (void)snprintf(m->state, sizeof(m->state), "starting");
        m->next = all->first;
        all->first = m;
        *ret = m;
        return 0;
}

static void free_cancel_waiter(struct cancel_waiter *w)
{
        source_free(w->limit);
        free(w);
}

static void answer_cancels(struct migration *m, const struct error *err, const char *text)
{
        while (m->cancel_waiters) {
                struct cancel_waiter *w = m->cancel_waiters;
                m->cancel_waiters = w->next;
                if (w->fn)
                        w->fn(err, text, w->context);
                free_cancel_waiter(w);
        }
}

static void answer_ends(struct migration *m, const struct error *err)
{
        while (m->end_waiters) {
                struct end_waiter *w = m->end_waiters;
                m->end_waiters = w->next;
                w->fn(m->report, err, w->context);
                free(w);
        }
}

void migration_free(struct migration *m)
{
        if (!m)
                return;
        for (struct migration **p = &m->owner->first; *p; p = &(*p)->next)
                if (*p == m) {
                        *p = m->next;
                        break;
                }
        struct error err = {0};
        (void)error_set(&err, ESHUTDOWN, "phauld no longer follows this migration");
        answer_cancels(m, &err, "");
        answer_ends(m, &err);
        session_link_free(m->link);
        source_free(m->child);
        source_free(m->restart);
        json_decref(m->request);
        json_decref(m->about);
        json_decref(m->progress);
        json_decref(m->verdict);
        json_decref(m->report);
        free(m);
}

/* -- what is told about it ---------------------------------------------------------------------------------------- */

static void put_text(json_t *o, const char *key, const char *text)
{
        (void)json_object_set_new(o, key, text && *text ? json_string(text) : json_null());
}

static void put_copy(json_t *o, const char *key, json_t *value)
{
        (void)json_object_set_new(o, key, value ? json_incref(value) : json_null());
}

/* What the request says, on the target completed by the offer. */
static const char *property(const struct migration *m, const char *key)
{
        const char *heard = text_of(m->about, key);

        return heard ? heard : text_of(m->request, key);
}

/* What is shown in place of the session's own state, and why. */
static const char *shown_state(const struct migration *m)
{
        if (m->attention[0])
                return m->attention_waits ? "waiting" : "attention";
        return m->stalled[0] ? "stalled" : m->state;
}

static const char *shown_reason(const struct migration *m)
{
        return m->attention[0] ? m->attention : m->stalled[0] ? m->stalled : NULL;
}

json_t *migration_document(const struct migration *m)
{
        const char *self = text_of(m->request, "self"), *peer = text_of(m->request, "peer");
        const char *result = text_of(m->report, "result");
        json_t *o = json_object();

        if (!o)
                return NULL;
        put_text(o, "id", m->id);
        put_text(o, "side", m->source_side ? "source" : "target");
        put_text(o, "kind", property(m, "kind"));
        put_text(o, "name", property(m, "name"));
        put_text(o, "target_name", property(m, "target_name"));
        put_text(o, "source", m->source_side ? self : peer);
        put_text(o, "target", m->source_side ? peer : self);
        put_text(o, "mode", m->check ? "check" : property(m, "mode"));
        put_text(o, "state", m->ended ? "ended" : shown_state(m));
        put_text(o, "phase", m->phase);
        put_copy(o, "created_ms", json_object_get(m->request, "created_ms"));
        (void)json_object_set_new(o, "ended_ms", m->ended ? json_integer(m->ended_ms) : json_null());
        put_copy(o, "options", json_object_get(m->request, "options"));
        put_copy(o, "progress", m->progress);
        put_copy(o, "verdict", m->verdict);
        put_text(o, "result", result ? result : m->attention[0] && !m->attention_waits ? "unknown" : NULL);
        put_text(o, "owner", text_of(m->report, "owner"));
        put_text(o, "reason", shown_reason(m) ?: text_of(m->report, "reason"));
        put_copy(o, "report", m->report);
        return o;
}

char *migration_log(const struct migration *m)
{
        char path[PATH_MAX + 8];
        struct stat st;

        (void)snprintf(path, sizeof(path), "%s/log", m->directory);
        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || fstat(fd, &st) < 0)
                return NULL;
        AUTO_FREE char *text = malloc(LOG_TAIL + 1);
        if (!text || (st.st_size > LOG_TAIL && lseek(fd, st.st_size - LOG_TAIL, SEEK_SET) < 0))
                return NULL;
        ssize_t n = fd_read_full(fd, text, LOG_TAIL);
        if (n < 0)
                return NULL;
        text[n] = '\0';
        return TAKE_PTR(text);
}

/* An event of the session for those who listen: a copy with the id in front. */
static void publish(struct migration *m, const char *name, const json_t *packet)
{
        json_t *data = json_pack("{s:s}", "id", m->id);

        if (data) {
                (void)json_object_update_missing(data, (json_t *)packet);
                (void)json_object_del(data, "event");
        }
        if (events_publish(m->owner->daemon->events, name, m->id, data) < 0)
                log_warning("migration %s: event %s dropped: out of memory", m->id, name);
}

static void publish_state(struct migration *m)
{
        json_t *packet =
                json_pack("{s:s, s:s, s:s*}", "state", shown_state(m), "phase", m->phase, "text", shown_reason(m));

        publish(m, "migration.state", packet);
        json_decref(packet);
}

/* "": it goes on. A session that was started again says so of one that its predecessor told of. */
static void take_attention(struct migration *m, const json_t *packet)
{
        const char *why = text_of(packet, "text") ?: "";

        if (!*why && !m->attention[0])
                return;
        (void)snprintf(m->attention, sizeof(m->attention), "%s", why);
        m->attention_waits = json_is_true(json_object_get(packet, "waits"));
        publish_state(m);
}

/* -- the end ------------------------------------------------------------------------------------------------------ */

int migration_settle(struct migration *m)
{
        struct error err = {0}, none = {0};
        struct stat st;
        char path[PATH_MAX + 32];
        json_t *report = NULL;

        if (m->ended)
                return 1;
        int r = read_json(m, "report.json", REPORT_MAX, &report);
        if (r < 0) {
                if (r != -ENOENT)
                        log_warning("migration %s: cannot read report.json: %s", m->id, strerrordesc_np(-r));
                return 0;
        }
        replace(&m->report, report);
        (void)snprintf(path, sizeof(path), "%s/report.json", m->directory);
        m->ended_ms = stat(path, &st) == 0 ? (int64_t)st.st_mtim.tv_sec * 1000 : clock_wall_ms();
        m->ended = true;
        m->attention[0] = m->stalled[0] = '\0';
        const char *mode = text_of(report, "mode");
        if (mode && strcmp(mode, "check") == 0)
                m->check = true;
        if (!m->about && !m->source_side) /* phauld was away when the offer came */
                m->about = json_incref(report);
        if (!property(m, "kind") || !property(m, "name")) {
                /* A connection that never offered anything: as little is kept as of a check, so it is said here. */
                m->check = true;
                log_warning("migration %s: %s offered nothing: %s", m->id, text_of(m->request, "peer") ?: "?",
                            text_of(report, "reason") ?: "no reason given");
        }

        if (!m->check) {
                json_t *document = migration_document(m);
                AUTO_FREE char *log = migration_log(m);
                if (history_put(m->owner->daemon->history, document, log, text_of(m->request, "idempotency_key"),
                                text_of(m->request, "idempotency_hash"), &err) < 0)
                        log_error("migration %s: %s", m->id, err.text);
                json_decref(document);
                log_info("migration %s (%s/%s) ended: %s", m->id, property(m, "kind") ?: "?",
                         property(m, "name") ?: "?", text_of(report, "result") ?: "?");
        }
        publish(m, "migration.result", report);
        (void)error_set(&err, EALREADY, "too late: the migration has ended");
        answer_cancels(m, &err, "");
        answer_ends(m, &none);
        return 1;
}

/* It cannot go on by itself; it stays in the list, and its directory as it is. */
static void need_attention(struct migration *m, const char *why)
{
        struct error err = {0};

        (void)snprintf(m->attention, sizeof(m->attention), "%s", why);
        m->attention_waits = false;
        log_error("migration %s needs attention: %s", m->id, why);
        publish_state(m);
        (void)error_set_kind(&err, ERROR_UNKNOWN, EIO, "%s", why);
        answer_cancels(m, &err, "");
        answer_ends(m, &err);
}

static void on_restart(void *context)
{
        struct migration *m = context;
        struct error err = {0};

        source_free(TAKE_PTR(m->restart));
        /* Perhaps another one lives after all (an older phauld's, a socket that was slow). */
        if (migration_connect(m, 0, NULL) == 0)
                return;
        if (migration_spawn(m, &err) < 0)
                need_attention(m, err.text);
}

static void restart(struct migration *m)
{
        uint64_t now = clock_ms();
        char why[400];

        if (m->n_restarts == SESSION_RESTARTS) {
                if (now - m->restarts[0] < SESSION_RESTARTS_MS) {
                        (void)snprintf(why, sizeof(why),
                                       "its session ended %d times within %d s without a result; see the log of "
                                       "migration %s, then restart phauld to try again",
                                       SESSION_RESTARTS + 1, SESSION_RESTARTS_MS / 1000, m->id);
                        need_attention(m, why);
                        return;
                }
                memmove(m->restarts, m->restarts + 1, sizeof(m->restarts) - sizeof(m->restarts[0]));
                m->n_restarts--;
        }
        m->restarts[m->n_restarts++] = now;
        log_warning("migration %s: its session ended without a result, starting it again", m->id);
        if (loop_add_timer(m->owner->daemon->loop, RESTART_DELAY_MS * m->n_restarts, on_restart, m, &m->restart) < 0)
                need_attention(m, "out of memory");
}

/* Socket and child are both gone. May free m. */
static void session_over(struct migration *m)
{
        struct error err = {0};

        if (!migration_settle(m)) {
                /* A check touches nothing: there is nothing to be carried to an end. */
                if (!m->check) {
                        restart(m);
                        return;
                }
                (void)error_set(&err, EPROTO, "the check ended without a result");
                answer_ends(m, &err);
        }
        if (m->check && fd_remove_tree(AT_FDCWD, m->directory, &err) < 0)
                log_warning("migration %s: %s", m->id, err.text);
        migration_free(m);
}

/* -- the session -------------------------------------------------------------------------------------------------- */

static void take_about(struct migration *m, const json_t *packet)
{
        const char *kind = text_of(packet, "kind"), *name = text_of(packet, "name"), *mode = text_of(packet, "mode");

        if (!kind_is_valid(kind) || !name_is_valid(name))
                return;
        replace(&m->about, json_deep_copy(packet));
        if (mode && strcmp(mode, "check") == 0)
                m->check = true;
        if (!m->check)
                publish(m, "migration.created", packet);
}

static void take_cancel(struct migration *m, const json_t *packet)
{
        const char *text = text_of(packet, "text") ?: "";
        struct error err = {0};

        if (!json_is_true(json_object_get(packet, "ok")))
                (void)error_set_kind(&err, ERROR_FAILED, ETOOMANYREFS, "%s", *text ? text : "too late");
        answer_cancels(m, &err, text);
}

static void on_event(const char *name, const json_t *packet, void *context)
{
        struct migration *m = context;

        if (strcmp(name, "progress") == 0) {
                json_t *copy = json_deep_copy(packet);
                (void)json_object_del(copy, "event");
                replace(&m->progress, copy);
                publish(m, "migration.progress", packet);
        } else if (strcmp(name, "state") == 0) {
                (void)snprintf(m->state, sizeof(m->state), "%s", text_of(packet, "state") ?: "working");
                (void)snprintf(m->phase, sizeof(m->phase), "%s", text_of(packet, "phase") ?: "");
                publish(m, "migration.state", packet);
        } else if (strcmp(name, "log") == 0) {
                publish(m, "migration.log", packet);
        } else if (strcmp(name, "verdict") == 0) {
                json_t *copy = json_deep_copy(packet);
                (void)json_object_del(copy, "event");
                replace(&m->verdict, copy);
                publish(m, "migration.verdict", packet);
        } else if (strcmp(name, "about") == 0) {
                take_about(m, packet);
        } else if (strcmp(name, "cancel") == 0) {
                take_cancel(m, packet);
        } else if (strcmp(name, "attention") == 0) {
                take_attention(m, packet);
        } else if (strcmp(name, "stalled") == 0) {
                (void)snprintf(m->stalled, sizeof(m->stalled), "%s", text_of(packet, "text") ?: "");
                publish_state(m);
        } else if (strcmp(name, "result") == 0) {
                (void)migration_settle(m);
        }
}

static void on_gone(bool was_connected, void *context)
{
        struct migration *m = context;
        struct error err = {0};

        session_link_free(TAKE_PTR(m->link));
        if (m->pid == 0) {
                session_over(m);
                return;
        }
        /* Our child still runs: either it is just ending (on_child comes), or it has not opened its socket yet. */
        if (!was_connected && migration_connect(m, SESSION_CONNECT_MS, &err) < 0)
                log_warning("migration %s: %s", m->id, err.text);
}

static void on_child(pid_t pid, int status, void *context)
{
        struct migration *m = context;

        (void)pid;
        m->pid = 0;
        source_free(TAKE_PTR(m->child));
        if (WIFSIGNALED(status))
                log_warning("migration %s: its session was killed by signal %d", m->id, WTERMSIG(status));
        else if (WEXITSTATUS(status) != 0)
                log_info("migration %s: its session exited with %d", m->id, WEXITSTATUS(status));
        /* What it said last may still be in the socket: the end of that comes by itself. */
        if (m->link)
                session_link_hurry(m->link);
        else
                session_over(m);
}

int migration_connect(struct migration *m, unsigned patience_ms, struct error *err)
{
        static const struct session_link_handlers handlers = {.event = on_event, .gone = on_gone};
        char path[PATH_MAX];

        if (snprintf(path, sizeof(path), "%s/sessions/%s.sock", m->owner->daemon->places.runtime, m->id) >=
            (int)sizeof(path))
                return error_set(err, ENAMETOOLONG, "path of the runtime directory too long");
        int r = session_link_new(m->owner->daemon->loop, path, patience_ms, &handlers, m, &m->link, err);
        if (r == 0)
                (void)session_link_send(m->link, json_pack("{s:s}", "do", "status"), -1);
        return r;
}

int migration_spawn(struct migration *m, struct error *err)
{
        char program[PATH_MAX + 16], path[PATH_MAX + 8];
        const char *const argv[] = {program, m->directory, NULL};

        (void)snprintf(program, sizeof(program), "%s/phaul-session", m->owner->daemon->places.libexec);
        (void)snprintf(path, sizeof(path), "%s/log", m->directory);
        AUTO_FD int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (log < 0)
                return error_errno(err, errno, "cannot open %s", path);
        const struct spawn_fd fds[] = {{.fd = log, .target = 1}, {.fd = log, .target = 2}};
        const struct spawn_options options = {.argv = argv, .fds = fds, .n_fds = 2, .new_session = true};
        int r = spawn(&options, &m->pid, NULL, err);
        if (r < 0)
                return r;
        r = loop_add_child(m->owner->daemon->loop, m->pid, on_child, m, &m->child);
        if (r < 0) {
                m->pid = 0; /* it runs all the same; its socket tells its end */
                log_warning("migration %s: cannot watch its session", m->id);
        }
        return migration_connect(m, SESSION_CONNECT_MS, err);
}
