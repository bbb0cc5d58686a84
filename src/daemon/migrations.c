/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/migrations.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon/migration.h"
#include "daemon/released.h"
#include "migration/journal.h"
#include "wire/trust.h"

#define CLEAN_EVERY_MS (3600U * 1000)
#define KEEP_ENDED_MS (7LL * 24 * 3600 * 1000)
#define CANCEL_ANSWER_MS 5000
#define REQUEST_MAX (128U << 10)

struct migration *migrations_find(const struct migrations *all, const char *id)
{
        for (struct migration *m = all->first; m; m = m->next)
                if (strcmp(m->id, id) == 0)
                        return m;
        return NULL;
}

const char *migration_request_text(const struct migration *m, const char *key)
{
        return json_string_value(json_object_get(m->request, key)) ?: "";
}

unsigned migrations_in_progress(const struct migrations *all)
{
        unsigned n = 0;

        for (const struct migration *m = all->first; m; m = m->next)
                n += !m->ended && !m->check && !m->attention[0];
        return n;
}

bool migrations_busy(const struct migrations *all)
{
        for (const struct migration *m = all->first; m; m = m->next)
                if (m->link || m->pid || m->restart)
                        return true;
        return false;
}

/* -- directories that are no longer needed ------------------------------------------------------------------------ */

/* Calls fn for each directory of `path` whose name is a migration id. */
static void each_id(const char *path, void (*fn)(struct migrations *all, const char *path, const char *id),
                    struct migrations *all)
{
        AUTO_DIR DIR *dir = opendir(path);

        for (struct dirent *e; dir && (e = readdir(dir));)
                if (id_is_valid(e->d_name))
                        fn(all, path, e->d_name);
}

static void remove_tree(const char *path, const char *id)
{
        struct error err = {0};
        char full[PATH_MAX + ID_LENGTH + 2];

        (void)snprintf(full, sizeof(full), "%s/%s", path, id);
        if (fd_remove_tree(AT_FDCWD, full, &err) < 0)
                log_warning("cannot remove %s: %s", full, err.text);
        else
                log_info("removed %s", full);
}

/*
 * Images that a session was asked to keep (--keep-images), by the link it left. Only what bears the migration's id is
 * touched. 1: there were some.
 */
static int remove_images(struct migrations *all, const char *id, struct error *err)
{
        char link[PATH_MAX + ID_LENGTH + 32], place[PATH_MAX];

        (void)snprintf(link, sizeof(link), "%s/migrations/%s/images", all->daemon->places.state, id);
        ssize_t n = readlink(link, place, sizeof(place) - 1);
        if (n < 0)
                return errno == ENOENT ? 0 : error_errno(err, errno, "cannot read %s", link);
        place[n] = '\0';
        const char *slash = strrchr(place, '/');
        if (place[0] != '/' || !slash || strncmp(slash + 1, id, ID_LENGTH) != 0 || slash[1 + ID_LENGTH] != '-')
                return error_set(err, EINVAL, "%s leads to what is none of this migration's", link);
        if (umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
                return error_errno(err, errno, "cannot unmount %s", place);
        int r = fd_remove_tree(AT_FDCWD, place, err);
        if (r == 0 && unlink(link) < 0)
                r = error_errno(err, errno, "cannot remove %s", link);
        return r < 0 ? r : 1;
}

static bool older_than(const char *path, const char *id, const char *file, int64_t age_ms)
{
        char full[PATH_MAX + ID_LENGTH + 32];
        struct stat st;

        (void)snprintf(full, sizeof(full), "%s/%s/%s", path, id, file);
        return lstat(full, &st) == 0 && clock_wall_ms() - (int64_t)st.st_mtim.tv_sec * 1000 > age_ms;
}

static void clean_released(struct migrations *all, const char *path, const char *id)
{
        struct error err = {0};

        if (!older_than(path, id, "", (int64_t)all->daemon->config->keep_released_h * 3600 * 1000))
                return;
        if (released_forget(all->released, id, &err) < 0)
                log_warning("%s", err.text);
}

static void clean_ended(struct migrations *all, const char *path, const char *id)
{
        struct error err = {0};

        if (migrations_find(all, id) || !older_than(path, id, "report.json", KEEP_ENDED_MS))
                return;
        if (remove_images(all, id, &err) < 0)
                log_warning("%s", err.text);
        remove_tree(path, id);
}

static void clean(struct migrations *all)
{
        char path[PATH_MAX + 16];

        (void)snprintf(path, sizeof(path), "%s/released", all->daemon->places.state);
        each_id(path, clean_released, all);
        released_sweep(all->released);
        (void)snprintf(path, sizeof(path), "%s/migrations", all->daemon->places.state);
        each_id(path, clean_ended, all);
}

static void on_clean(void *context)
{
        struct migrations *all = context;

        clean(all);
        (void)source_set_timer(all->cleaner, CLEAN_EVERY_MS);
}

int migrations_forget(struct migrations *all, const char *id, struct error *err)
{
        char path[PATH_MAX + ID_LENGTH + 16];
        struct stat st;

        int images = remove_images(all, id, err);
        if (images < 0)
                return images;
        (void)snprintf(path, sizeof(path), "%s/released/%s", all->daemon->places.state, id);
        if (lstat(path, &st) < 0 && images)
                return 0;
        if (lstat(path, &st) < 0)
                return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "migration %s left nothing behind to forget", id);
        return released_forget(all->released, id, err);
}

/* -- life --------------------------------------------------------------------------------------------------------- */

int migrations_new(struct daemon *daemon, struct migrations **ret, struct error *err)
{
        CLEANUP(migrations_free_ptr) struct migrations *all = calloc(1, sizeof(*all));

        if (!all)
                return error_set(err, ENOMEM, "out of memory");
        all->daemon = daemon;
        int r = released_new(daemon->loop, daemon->places.state, &all->released);
        if (r < 0)
                return error_set(err, ENOMEM, "out of memory");
        r = loop_add_timer(daemon->loop, CLEAN_EVERY_MS, on_clean, all, &all->cleaner);
        if (r < 0)
                return error_errno(err, -r, "cannot set a timer");
        *ret = TAKE_PTR(all);
        return 0;
}

void migrations_free(struct migrations *all)
{
        if (!all)
                return;
        while (all->first)
                migration_free(all->first);
        source_free(all->cleaner);
        released_free(all->released);
        free(all);
}

static void recover_one(struct migrations *all, const char *path, const char *id)
{
        struct migration *m = NULL;
        struct error err = {0};
        json_t *known = NULL;

        int r = migration_load(all, id, &m, &err);
        if (r == -ENOENT) {
                remove_tree(path, id); /* phauld ended between mkdir and the request: nothing had begun */
                return;
        }
        if (r < 0) {
                log_error("%s", err.text);
                return;
        }
        bool lives = migration_connect(m, 0, NULL) == 0;
        bool in_history = history_get(all->daemon->history, id, false, &known, NULL) == 0;
        json_decref(known);
        if (in_history) /* settled by an earlier phauld; not once more */
                m->ended = true;
        bool ended = migration_settle(m) == 1;
        if (lives)
                return;
        if (ended || m->check) {
                if (m->check)
                        remove_tree(path, id);
                migration_free(m);
                return;
        }
        log_info("migration %s had not ended: starting its session", id);
        if (migration_spawn(m, &err) < 0) {
                (void)snprintf(m->attention, sizeof(m->attention), "%s", err.text);
                log_error("migration %s: %s", id, err.text);
        }
}

int migrations_recover(struct migrations *all, struct error *err)
{
        char path[PATH_MAX + 16];

        (void)err;
        (void)snprintf(path, sizeof(path), "%s/migrations", all->daemon->places.state);
        each_id(path, recover_one, all);
        clean(all);
        return 0;
}

/* -- beginning one ------------------------------------------------------------------------------------------------ */

json_t *migrations_base_request(const struct daemon *d, const char *id, const char *side, const char *mode,
                                const struct peer *peer)
{
        json_t *actions = json_array();

        for (size_t i = 0; i < d->config->n_actions; i++)
                (void)json_array_append_new(actions, json_string(d->config->actions[i]));
        return json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:i, s:o, s:s*, s:s, s:s, s:s, s:s}", "id", id,
                         "side", side, "mode", mode, "created_ms", (json_int_t)clock_wall_ms(), "self",
                         d->config->host_name, "peer", peer->name, "peer_fingerprint", peer->fingerprint,
                         "peer_address", peer->address, "peer_port", (int)peer->port, "actions", actions,
                         "hook_directory", d->config->hook_directory, "state_dir", d->places.state, "runtime_dir",
                         d->places.runtime, "config_dir", d->places.trust, "libexec_dir", d->places.libexec);
}

int migrations_begin(struct migrations *all, const char *id, json_t *request, struct migration **ret, struct error *err)
{
        struct migration *m = NULL;
        char path[PATH_MAX + ID_LENGTH + 32];
        AUTO_FREE char *text = request ? json_dumps(request, JSON_INDENT(1)) : NULL;

        json_decref(request);
        if (!text)
                return error_set(err, ENOMEM, "out of memory");
        (void)snprintf(path, sizeof(path), "%s/migrations/%s", all->daemon->places.state, id);
        if (mkdir(path, 0700) < 0)
                return error_errno(err, errno, "cannot make %s", path);
        (void)snprintf(path, sizeof(path), "%s/migrations/%s/request.json", all->daemon->places.state, id);
        int r = fd_write_file(AT_FDCWD, path, text, strlen(text), 0600);
        if (r != 0)
                r = error_errno(err, -r, "cannot write %s", path);
        else
                r = migration_load(all, id, &m, err);
        if (r == 0)
                r = migration_spawn(m, err);
        if (r < 0) {
                migration_free(m);
                (void)snprintf(path, sizeof(path), "%s/migrations", all->daemon->places.state);
                remove_tree(path, id);
                return r;
        }
        *ret = m;
        return 0;
}

int migrations_check_limit(const struct migrations *all, struct error *err)
{
        if (migrations_in_progress(all) < all->daemon->config->max_migrations)
                return 0;
        return error_set_kind(err, ERROR_REFUSED, EBUSY,
                              "%u migrations run on %s already, the limit of its configuration",
                              all->daemon->config->max_migrations, all->daemon->config->host_name);
}

/* -- connections of the other side -------------------------------------------------------------------------------- */

static int begin_target(struct migrations *all, const char *id, const struct link_peer *from, const struct peer *guest,
                        struct migration **ret, struct error *err)
{
        CLEANUP(peer_done) struct peer peer = {0};

        int r = migrations_check_limit(all, err);
        if (r == 0 && !guest)
                r = trust_find_fingerprint(all->daemon->places.trust, from->fingerprint, &peer, err);
        if (r < 0)
                return r;
        json_t *request = migrations_base_request(all->daemon, id, "target", "live", guest ? guest : &peer);
        if (guest)
                (void)json_object_set_new(request, "way", json_string("tunnel"));
        return migrations_begin(all, id, request, ret, err);
}

/* The one a connection is for: living, new, or ended and asked about once more. */
static int find_for(struct migrations *all, const char *id, uint32_t purpose, const struct link_peer *from,
                    const struct peer *guest, struct migration **ret, struct error *err)
{
        struct error local = {0};
        struct migration *m = migrations_find(all, id);

        if (!m && purpose != PURPOSE_CONTROL)
                return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "there is no migration %s here", id);
        if (!m) {
                int r = migration_load(all, id, &m, &local);
                if (r == -ENOENT)
                        return begin_target(all, id, from, guest, ret, err);
                if (r < 0)
                        return error_set(err, EIO, "%s", local.text);
                if (strcmp(m->fingerprint, from->fingerprint) != 0) {
                        migration_free(m);
                        m = NULL;
                } else {
                        /* Ended, or it would be in the list: a session is to answer from the record. */
                        m->ended = true;
                        r = migration_spawn(m, err);
                        if (r < 0) {
                                migration_free(m);
                                return r;
                        }
                }
        }
        if (!m || strcmp(m->fingerprint, from->fingerprint) != 0)
                return error_set_kind(err, ERROR_DENIED, EACCES, "migration %s is not one with this host", id);
        *ret = m;
        return 0;
}

static json_t *attach_packet(const struct link_peer *peer, const struct message *hello, uint32_t purpose)
{
        static const char *const names[] = {
                [PURPOSE_CONTROL] = "control", [PURPOSE_STREAM] = "stream", [PURPOSE_BULK] = "bulk"};
        uint32_t min = 0, max = 0, stream = 0;
        const uint8_t *token = NULL;
        size_t size = 0;
        char hex[2 * 16 + 1] = "";

        (void)message_get_u32(hello, FIELD_VERSION_MIN, &min);
        (void)message_get_u32(hello, FIELD_VERSION_MAX, &max);
        (void)message_get_u32(hello, FIELD_STREAM, &stream);
        if (message_get_bytes(hello, FIELD_TOKEN, &token, &size) == 0 && size == 16)
                for (size_t i = 0; i < size; i++)
                        (void)snprintf(hex + 2 * i, 3, "%02x", token[i]);
        return json_pack("{s:s, s:s, s:s, s:{s:s, s:I, s:I, s:I, s:s*}}", "do", "attach", "peer", peer->fingerprint,
                         "address", peer->address, "hello", "purpose", names[purpose], "version_min", (json_int_t)min,
                         "version_max", (json_int_t)max, "stream", (json_int_t)stream, "token", hex[0] ? hex : NULL);
}

int migrations_attach(struct migrations *all, struct link *link, const struct link_peer *peer, const struct peer *guest,
                      const struct message *hello, struct error *err)
{
        char id[ID_LENGTH + 1];
        struct migration *m = NULL;
        uint32_t purpose = 0;

        if (message_get_u32(hello, FIELD_PURPOSE, &purpose) < 0 || purpose < PURPOSE_CONTROL ||
            purpose > PURPOSE_BULK || message_get_text(hello, FIELD_MIGRATION, id, sizeof(id)) < 0 || !id_is_valid(id))
                return error_set_kind(err, ERROR_USAGE, EBADMSG, "malformed hello");
        int r = find_for(all, id, purpose, peer, guest, &m, err);
        if (r < 0)
                return r;
        if (!m->link)
                return error_set_kind(err, ERROR_FAILED, EBUSY, "the session of migration %s is not there: %s", id,
                                      m->attention[0] ? m->attention : "it is being started again");

        int fd = link_release(link);
        if (fd < 0)
                log_warning("migration %s: a connection was lost on its way to the session", id);
        else if (session_link_send(m->link, attach_packet(peer, hello, purpose), fd) < 0)
                log_warning("migration %s: its session does not take connections", id);
        return 0;
}

/* -- asked by the API --------------------------------------------------------------------------------------------- */

int migrations_show(struct migrations *all, const char *id, json_t **ret, struct error *err)
{
        const struct migration *m = migrations_find(all, id);

        if (!m || (m->ended && !m->report))
                return history_get(all->daemon->history, id, true, ret, err);
        json_t *document = migration_document(m), *lines = json_array();
        AUTO_FREE char *log = migration_log(m);
        for (char *save = NULL, *line = log ? strtok_r(log, "\n", &save) : NULL; line;
             line = strtok_r(NULL, "\n", &save)) {
                json_t *text = json_string(line);
                if (text)
                        (void)json_array_append_new(lines, text);
        }
        if (!document || json_object_set_new(document, "log", lines) < 0) {
                json_decref(document);
                return error_set(err, ENOMEM, "out of memory");
        }
        *ret = document;
        return 0;
}

int migrations_list(struct migrations *all, unsigned limit, json_t **ret, struct error *err)
{
        json_t *list = json_array();

        for (const struct migration *m = all->first; m; m = m->next)
                if (!m->ended && !m->check)
                        (void)json_array_append_new(list, migration_document(m));
        int r = history_list(all->daemon->history, limit, list, err);
        if (r < 0) {
                json_decref(list);
                return r;
        }
        *ret = list;
        return 0;
}

int migrations_record(struct migrations *all, const char *id, const char *fingerprint, char *ret, size_t size,
                      struct error *err)
{
        char path[PATH_MAX + 128];
        AUTO_FREE char *text = NULL;
        size_t length;

        (void)snprintf(path, sizeof(path), "%s/migrations/%s/request.json", all->daemon->places.state, id);
        int r = fd_read_file(AT_FDCWD, path, REQUEST_MAX, &text, &length);
        json_t *request = r == 0 ? json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL) : NULL;
        const char *side = json_string_value(json_object_get(request, "side"));
        const char *peer = json_string_value(json_object_get(request, "peer_fingerprint"));
        bool theirs = side && peer && strcmp(side, "source") == 0 && strcmp(peer, fingerprint) == 0;
        json_decref(request);
        /* What is another host's migration does not exist for this one. */
        if (!theirs)
                return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "there is no migration %s", id);

        (void)snprintf(path, sizeof(path), "%s/migrations/%s/record", all->daemon->places.state, id);
        r = journal_peek_state(path, ret, size);
        return r < 0 ? error_errno(err, -r, "cannot read the record of migration %s", id) : 0;
}

static void on_cancel_limit(void *context)
{
        struct cancel_waiter *w = context;
        struct error none = {0};

        for (struct cancel_waiter **p = &w->migration->cancel_waiters; *p; p = &(*p)->next)
                if (*p == w) {
                        *p = w->next;
                        break;
                }
        if (w->fn)
                w->fn(&none, "asked for; the session has not answered yet", w->context);
        source_free(w->limit);
        free(w);
}

int migrations_cancel(struct migrations *all, const char *id, migration_cancel_fn fn, void *context, struct error *err)
{
        struct migration *m = migrations_find(all, id);
        json_t *known = NULL;

        if (!m || m->ended) {
                int r = history_get(all->daemon->history, id, false, &known, err);
                if (r < 0)
                        return r;
                json_decref(known);
                return error_set(err, EALREADY, "too late: migration %s has ended", id);
        }
        if (!m->link)
                return error_set_kind(err, ERROR_REFUSED, EBUSY, "the session of migration %s is not there: %s", id,
                                      m->attention[0] ? m->attention : "it is being started again");
        struct cancel_waiter *w = calloc(1, sizeof(*w));
        if (!w)
                return error_set(err, ENOMEM, "out of memory");
        *w = (struct cancel_waiter){.migration = m, .fn = fn, .context = context};
        int r = loop_add_timer(all->daemon->loop, CANCEL_ANSWER_MS, on_cancel_limit, w, &w->limit);
        if (r == 0)
                r = session_link_send(m->link, json_pack("{s:s}", "do", "cancel"), -1);
        if (r < 0) {
                source_free(w->limit);
                free(w);
                return error_errno(err, -r, "cannot reach the session of migration %s", id);
        }
        w->next = m->cancel_waiters;
        m->cancel_waiters = w;
        return 0;
}

int migrations_on_end(struct migrations *all, const char *id, migration_end_fn fn, void *context)
{
        struct migration *m = migrations_find(all, id);
        struct end_waiter *w = m ? calloc(1, sizeof(*w)) : NULL;

        if (!w)
                return m ? -ENOMEM : -ENOENT;
        *w = (struct end_waiter){.fn = fn, .context = context, .next = m->end_waiters};
        m->end_waiters = w;
        return 0;
}
