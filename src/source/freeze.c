/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "session/peer.h"
#include "source/freezer.h"
#include "source/source.h"

#define DUMP_LOG "dump.log"

/* -- pages: CRIU -> page server -> bulk link --------------------------------------------------------------------- */

static int pages_reserve(const struct page_batch *batch, void **ret_data, void *context)
{
        struct source_side *x = context;

        return image_sender_batch_reserve(batch, ret_data, x->sender);
}

static int pages_commit(const struct page_batch *batch, void *context)
{
        struct source_side *x = context;

        return image_sender_batch_commit(batch, x->sender);
}

static int pages_open(uint64_t image, void *context)
{
        struct source_side *x = context;

        return image_sender_open(image, x->sender);
}

static void pages_done(const struct error *err, uint64_t pages, void *context)
{
        struct source_side *x = context;

        (void)pages;
        x->pages_ended = true;
        x->pages_error = *err;
        /* Without room, or a link, that is for what is sent next to find out. */
        if (err->kind == ERROR_NONE)
                (void)image_sender_flush(x->sender);
}

static const struct page_sink pages_sink = {
        .reserve = pages_reserve,
        .commit = pages_commit,
        .open = pages_open,
        .done = pages_done,
};

static void images_sent(int result, void *context)
{
        struct source_side *x = context;

        x->images_sent = true;
        x->images_result = result;
}

/* -- the dump ---------------------------------------------------------------------------------------------------- */

static int lock_ports(struct source_side *x, struct error *err)
{
        for (size_t i = 0; i < x->n_ports; i++) {
                int r = network_lock(&x->ports[i], err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void tell(const char *item, enum grade grade, const char *reason, void *context)
{
        (void)item;
        session_log(context, grade == GRADE_OK ? "info" : "warning", "%s", reason);
}

/* On cgroup v1 CRIU could not let go of tasks that our freezer holds: what fails here leaves them thawed. */
static int freeze_at_end(struct source_side *x)
{
        struct session *s = x->session;

        int r = freezer_freeze(s->workload.freezer, s->workload.freezer_v2, &x->lock_error);
        if (r < 0 || !s->hauler->frozen)
                return r;
        r = s->hauler->frozen(&s->workload, x->images_fd, tell, s, &x->lock_error);
        if (r < 0)
                (void)freezer_thaw(s->workload.freezer, s->workload.freezer_v2, NULL);
        return r;
}

static int all_stand_still(struct source_side *x)
{
        const struct hauler *hauler = x->session->hauler;
        int r = hauler->network_lock ? hauler->network_lock(&x->session->workload, &x->lock_error) : 0;

        return r < 0 ? r : source_memory_clean(x, &x->lock_error);
}

/* Not earlier: it would dirty again what rounds have sent. Not later: what may hardly run is slow to stop. */
static int about_to_stop(struct source_side *x)
{
        migration_report_frozen(x->session->report, clock_ms());
        return x->throttle ? throttle_lift(x->throttle, &x->lock_error) : 0;
}

/*
 * CRIU waits in each point for our answer. Right after pre-dump it stops the tasks. At network-lock and query-ext-files
 * all tasks stand still and no socket has been touched: our own lock goes on. CRIU says the first only of a network
 * namespace that it dumps, the second always. At post-dump only ptrace holds the tasks: our freezer takes over before
 * anything else happens, so that neither CRIU's death nor ours lets them run.
 */
static void on_notify(struct criu *criu, const char *point, void *context)
{
        struct source_side *x = context;
        int r = 0;

        if (x->aborting) {
                r = -ECANCELED;
        } else if (strcmp(point, "pre-dump") == 0) {
                r = about_to_stop(x);
        } else if (strcmp(point, "network-lock") == 0) {
                r = lock_ports(x, &x->lock_error);
        } else if (strcmp(point, "query-ext-files") == 0) {
                r = all_stand_still(x);
        } else if (strcmp(point, "post-dump") == 0) {
                r = freeze_at_end(x);
                x->criu_at_end = r == 0;
                if (r == 0)
                        return; /* held until release or rollback */
        }
        (void)criu_proceed(criu, r == 0);
}

static void on_dump_done(struct criu *criu, const struct error *err, void *context)
{
        struct source_side *x = context;

        (void)criu;
        x->criu_ended = true;
        x->criu_at_end = false;
        x->criu_error = *err;
}

static bool dump_settled(void *context)
{
        const struct source_side *x = context;

        return x->criu_ended || x->pages_error.kind != ERROR_NONE || x->bulk_error.kind != ERROR_NONE ||
               (x->criu_at_end && x->pages_ended);
}

static int start_dump(struct source_side *x, struct criu_dump_options *options, struct error *err)
{
        static const struct criu_handlers handlers = {.notify = on_notify, .done = on_dump_done};
        struct session *s = x->session;
        int ends[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
                return error_errno(err, errno, "cannot make a socket pair");
        AUTO_FD int criu_end = ends[1];
        int r = page_server_new(s->loop, ends[0], &pages_sink, x, &x->pages);
        if (r < 0)
                return error_errno(err, -r, "cannot take CRIU's pages");
        options->page_server_fd = criu_end;

        x->frozen_since_us = clock_us();
        session_round(s, 0, s->workload.memory_bytes);
        return criu_dump(s->loop, options, &handlers, x, &x->criu, err);
}

/* Everything a process that comes after us needs to undo the freeze; durable before it begins. */
static int record_freeze(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        json_t *ports = json_array();

        for (size_t i = 0; i < x->n_ports; i++)
                (void)json_array_append_new(ports, json_pack("{s:s, s:s, s:s}", "inside", x->ports[i].inside, "outside",
                                                             x->ports[i].outside, "bridge", x->ports[i].bridge));
        json_t *fields = json_pack("{s:s, s:b, s:i, s:o}", "freezer", s->workload.freezer, "v2", s->workload.freezer_v2,
                                   "init_pid", (int)s->workload.init_pid, "ports", ports);
        if (!fields)
                return error_set(err, ENOMEM, "out of memory");
        int r = journal_append(s->journal, "FREEZING", fields, err);
        json_decref(fields);
        return r;
}

static int dump(struct source_side *x, struct error *err)
{
        struct session *s = x->session;
        struct criu_dump_options options = {
                .pid = s->workload.init_pid,
                .images_fd = x->images_fd,
                .work_fd = x->images_fd,
                .log_file = DUMP_LOG,
                .tcp_established = true,
                .file_locks = true,
                .skip_network_lock = true,
                .clean_pages_fd = x->clean_pages ? clean_pages_fd(x->clean_pages) : -1,
                .late_pages_fd = x->late_pages ? clean_pages_fd(x->late_pages) : -1,
                .verbose = s->request.options.verbose,
        };

        int r = s->hauler->ports ? network_ports(s->workload.init_pid, &x->ports, &x->n_ports, err) : 0;
        if (r == 0)
                r = s->hauler->dump_options(&s->workload, &options, err);
        x->within = options.within != 0;
        if (r == 0)
                r = record_freeze(x, err);
        if (r == 0)
                r = start_dump(x, &options, err);
        if (r == 0)
                r = session_wait(s, WAIT_INTERRUPTIBLE, dump_settled, x, 0, "dumping", err);
        if (r == 0)
                r = source_bulk_state(x, err);
        if (r < 0)
                return r;

        if (x->lock_error.kind != ERROR_NONE)
                *err = x->lock_error;
        else if (x->pages_error.kind != ERROR_NONE)
                *err = x->pages_error;
        else if (x->criu_ended)
                *err = x->criu_error;
        else
                return 0;
        if (err->kind == ERROR_NONE)
                return error_set(err, EIO, "criu ended before everything was dumped");
        return error_wrap(err, "dumping %s/%s", s->request.kind, s->request.name);
}

static bool images_settled(void *context)
{
        const struct source_side *x = context;

        return x->images_sent || x->bulk_error.kind != ERROR_NONE;
}

/* Begun before the last pass over the files and finished after it: the one waits for disks, the other for the link. */
static int start_images(struct source_side *x, struct error *err)
{
        int r = image_sender_files(x->sender, x->images_fd, images_sent, x);

        return r < 0 ? error_errno(err, -r, "cannot send the images") : 0;
}

static int finish_images(struct source_side *x, struct error *err)
{
        int r = session_wait(x->session, WAIT_INTERRUPTIBLE, images_settled, x, 0, "sending the images", err);

        if (r == 0)
                r = source_bulk_state(x, err);
        if (r == 0 && x->images_result < 0)
                r = error_errno(err, -x->images_result, "cannot send the images");
        return r;
}

int source_freeze(struct source_side *x, struct error *err)
{
        struct session *s = x->session;

        session_phase(s, "freeze");
        int r = source_open_state(x, err);
        if (r < 0)
                return r;
        source_save(x, SOURCE_PLACES); /* where there were no rounds */
        r = source_files_arm(x, err);
        if (r == 0)
                r = dump(x, err);
        if (r == 0)
                r = session_step(s, EVENT_FROZEN, NULL, NULL, err);
        if (r < 0)
                return r;

        session_phase(s, "state");
        r = source_memory_kept(x, err);
        if (r == 0)
                r = start_images(x, err);
        if (r == 0)
                r = source_files_last(x, err);
        if (r == 0)
                r = finish_images(x, err);
        source_saved(x);
        if (r == 0)
                r = source_postcopy_give(x, err);
        return r < 0 ? r : peer_send_simple(s, MSG_STATE_END, err);
}
