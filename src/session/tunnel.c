/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/spawn.h"
#include "wire/trust.h"
#include "wire/tunnel.h"

#define LANES_MS 10000     /* for phauld to hand descriptors over */
#define HANDSHAKE_MS 40000 /* ssh has 10 s to connect, then logs in, and the far half may have to be started */
#define SSH_END_MS 2000    /* from the end of its bytes to its exit status */

struct session_tunnel {
        struct session *session;
        struct tunnel *tunnel;
        bool up, given;
        struct error loss;
        struct tunnel_lane lanes[SESSION_LANES_MAX]; /* -1: not here */
        pid_t ssh;                                   /* 0: none runs */
        int ssh_status;                              /* of the last one that ended; -1 none yet */
        struct source *ssh_child;
        char *certificate; /* of the other host, as first seen */
        char label[128];
};

static void close_lanes(struct session_tunnel *t)
{
        for (size_t i = 0; i < SESSION_LANES_MAX; i++) {
                struct tunnel_lane *l = &t->lanes[i];
                if (l->out >= 0 && l->out != l->in)
                        (void)close(l->out);
                if (l->in >= 0)
                        (void)close(l->in);
                *l = (struct tunnel_lane){-1, -1};
        }
}

/* One that hangs in a dead connection, before the next is run. */
static void end_ssh(struct session_tunnel *t)
{
        source_free(TAKE_PTR(t->ssh_child));
        if (t->ssh > 0) {
                (void)kill(t->ssh, SIGKILL);
                while (waitpid(t->ssh, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        t->ssh = 0;
}

void session_tunnel_free(struct session_tunnel *t)
{
        if (!t)
                return;
        /* What was said last may still be on its way: ssh ends when its streams do. */
        tunnel_free(t->tunnel);
        source_free(t->ssh_child);
        close_lanes(t);
        free(t->certificate);
        free(t);
}

static int recall(const char *record, const json_t *entry, void *context)
{
        struct session_tunnel *t = context;
        const char *fingerprint = json_string_value(json_object_get(entry, "fingerprint"));
        const char *certificate = json_string_value(json_object_get(entry, "certificate"));

        if (strcmp(record, "PEER") != 0)
                return 0;
        if (!fingerprint || strlen(fingerprint) != FINGERPRINT_LENGTH || !certificate)
                return -EBADMSG;
        (void)strcpy(t->session->request.peer_fingerprint, fingerprint);
        free(t->certificate);
        t->certificate = strdup(certificate);
        return t->certificate ? 0 : -ENOMEM;
}

int session_tunnel_new(struct session *s, struct error *err)
{
        const enum way_kind kind = s->request.way.kind;

        if (kind != WAY_SSH && kind != WAY_DESCRIPTORS)
                return 0;
        struct session_tunnel *t = calloc(1, sizeof(*t));
        if (!t)
                return error_set(err, ENOMEM, "out of memory");
        s->tunnel = t;
        t->session = s;
        t->ssh_status = -1;
        for (size_t i = 0; i < SESSION_LANES_MAX; i++)
                t->lanes[i] = (struct tunnel_lane){-1, -1};
        (void)snprintf(t->label, sizeof(t->label), "%s%.100s", kind == WAY_SSH ? "ssh:" : "",
                       kind == WAY_SSH ? s->request.way.ssh.host : s->request.peer);
        int r = journal_each(s->journal, recall, t);
        return r < 0 ? error_errno(err, -r, "cannot use the record %s", s->paths.record) : 0;
}

static void lost(struct session_tunnel *t, const struct error *err)
{
        t->up = false;
        t->loss = *err;
        tunnel_free(TAKE_PTR(t->tunnel));
}

/*
 * The first of new ones. Once the decision is made, a user who brings them knows better than we that the old ones lead
 * nowhere; before it, whoever loses a connection loses the migration.
 */
static void begin_lanes(struct session_tunnel *t)
{
        const struct session *s = t->session;
        struct error why = {0};

        if (t->tunnel && s->state != SOURCE_COMMITTED && s->state != SOURCE_SERVING && s->state != SOURCE_ABORTED &&
            !s->finished)
                return;
        close_lanes(t);
        (void)error_set(&why, ENOTCONN, "new descriptors to %s took the place of the old ones", s->request.peer);
        if (t->tunnel)
                lost(t, &why);
}

void session_tunnel_lane(struct session *s, unsigned lane, bool in, bool out, int given)
{
        AUTO_FD int fd = given;
        struct tunnel_lane *l = &s->tunnel->lanes[lane];

        if (lane == 0 && in)
                begin_lanes(s->tunnel);
        if ((in && l->in >= 0) || (out && l->out >= 0) || s->tunnel->tunnel)
                return;
        if (in)
                l->in = fd;
        if (out)
                l->out = fd;
        (void)TAKE_FD(fd);
}

/* -- what the tunnel says ----------------------------------------------------------------------------------------- */

/* The first to answer is the one; durable before anything depends on it. */
static int remember(struct session_tunnel *t, const struct tunnel_peer *peer, struct error *err)
{
        struct session *s = t->session;

        if (s->request.peer_fingerprint[0]) {
                if (strcmp(s->request.peer_fingerprint, peer->fingerprint) == 0)
                        return 0;
                return error_set_kind(err, ERROR_DENIED, EACCES, "another host answers at %s than before (%s)",
                                      t->label, peer->name);
        }
        t->certificate = strdup(peer->certificate);
        json_t *fields = json_pack("{s:s, s:s, s:s}", "name", peer->name, "fingerprint", peer->fingerprint,
                                   "certificate", peer->certificate);
        int r = t->certificate && fields ? journal_append(s->journal, "PEER", fields, err)
                                         : error_set(err, ENOMEM, "out of memory");
        json_decref(fields);
        if (r == 0)
                memcpy(s->request.peer_fingerprint, peer->fingerprint, sizeof(s->request.peer_fingerprint));
        return r;
}

static void on_up(struct tunnel *tunnel, const struct tunnel_peer *peer, void *context)
{
        struct session_tunnel *t = context;
        struct error err = {0};

        (void)tunnel;
        if (remember(t, peer, &err) < 0)
                lost(t, &err);
        else
                t->up = true;
}

static void on_down(struct tunnel *tunnel, const struct error *err, void *context)
{
        (void)tunnel;
        lost(context, err);
}

/* -- beginning ---------------------------------------------------------------------------------------------------- */

static void on_ssh_end(pid_t pid, int status, void *context)
{
        struct session_tunnel *t = context;

        (void)pid;
        t->ssh = 0;
        t->ssh_status = status;
        source_free(TAKE_PTR(t->ssh_child));
}

/* As the user who asked for the migration: with that user's keys, configuration and known hosts, and no more. */
static int run_ssh(struct session_tunnel *t, int stream, int words, struct error *err)
{
        const struct way *way = &t->session->request.way;
        const char *argv[WAY_ARGV_MAX], *env[2] = {0};
        char port[WAY_PORT_SIZE], agent[sizeof("SSH_AUTH_SOCK=") + SSH_AGENT_MAX];
        struct spawn_user user;
        const struct spawn_fd fds[] = {{stream, 0}, {stream, 1}, {words, 2}};
        const struct spawn_options options = {
                .argv = argv, .env = env, .fds = fds, .n_fds = 3, .new_session = true, .user = &user};

        int r = spawn_user_find(way->uid, &user, err);
        if (r < 0)
                return r;
        way_ssh_argv(way, argv, port);
        if (way->agent[0]) {
                (void)snprintf(agent, sizeof(agent), "SSH_AUTH_SOCK=%s", way->agent);
                env[0] = agent;
        }
        r = spawn(&options, &t->ssh, NULL, err);
        if (r == -ENOENT)
                return error_set_kind(err, ERROR_REFUSED, ENOENT, "ssh is not installed on %s",
                                      t->session->request.self);
        if (r < 0)
                return r;
        r = loop_add_child(t->session->loop, t->ssh, on_ssh_end, t, &t->ssh_child);
        return r < 0 ? error_errno(err, -r, "cannot watch ssh") : 0;
}

static int begin_ssh(struct session_tunnel *t, struct tunnel_options *options, struct error *err)
{
        int pair[2], words[2];

        end_ssh(t);
        t->ssh_status = -1;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return error_errno(err, errno, "cannot start ssh");
        AUTO_FD int ours = pair[0];
        AUTO_FD int theirs = pair[1];
        if (pipe2(words, O_CLOEXEC) < 0)
                return error_errno(err, errno, "cannot start ssh");
        AUTO_FD int hear = words[0];
        AUTO_FD int say = words[1];
        int r = run_ssh(t, theirs, say, err);
        if (r < 0)
                return r;
        t->lanes[0] = (struct tunnel_lane){ours, ours};
        (void)TAKE_FD(ours);
        options->words_fd = TAKE_FD(hear);
        return 0;
}

static bool lanes_here(void *context)
{
        const struct session_tunnel *t = context;

        for (size_t i = 0; i < SESSION_LANES_MAX; i++)
                if (t->lanes[i].in < 0 || t->lanes[i].out < 0)
                        return false;
        return true;
}

static int begin_descriptors(struct session_tunnel *t, struct tunnel_options *options, struct error *err)
{
        if (!session_tunnel_can_begin(t->session))
                return error_set(err, ENOTCONN, "the descriptors that led to %s are gone", t->session->request.peer);
        int r = session_wait(t->session, WAIT_THROUGH, lanes_here, t, LANES_MS, "waiting for the descriptors", err);
        options->n_lanes = SESSION_LANES_MAX;
        t->given = true;
        return r;
}

static int begin(struct session_tunnel *t, struct error *err)
{
        static const struct tunnel_handlers handlers = {.up = on_up, .down = on_down};
        struct session *s = t->session;
        const struct link_environment environment = {.program = s->paths.net};
        struct tunnel_options options = {
                .n_lanes = 1,
                .words_fd = -1,
                .label = t->label,
                .name = s->request.self,
                .trust_dir = s->paths.trust,
                .handshake_ms = HANDSHAKE_MS,
        };

        error_clear(&t->loss);
        int r = s->request.way.kind == WAY_SSH ? begin_ssh(t, &options, err) : begin_descriptors(t, &options, err);
        if (r == 0) {
                memcpy(options.lanes, t->lanes, sizeof(options.lanes));
                r = tunnel_start(s->loop, &environment, &options, &handlers, t, &t->tunnel, err);
        }
        close_lanes(t); /* phaul-net has its own */
        if (options.words_fd >= 0)
                (void)close(options.words_fd);
        return r;
}

static bool settled(void *context)
{
        const struct session_tunnel *t = context;

        return t->up || !t->tunnel || t->session->cancel_requested;
}

static bool settled_at_all(void *context)
{
        const struct session_tunnel *t = context;

        return t->up || !t->tunnel;
}

static bool ssh_over(void *context)
{
        const struct session_tunnel *t = context;

        return t->ssh == 0;
}

/* No longer than the user allows, as long as the user may still interrupt. */
static uint64_t patience_ms(const struct session *s, enum session_wait_mode mode)
{
        const uint64_t most = HANDSHAKE_MS + LANES_MS;

        if (mode != WAIT_INTERRUPTIBLE || !s->request.options.timeout_s)
                return most;
        const uint64_t allowed = s->request.options.timeout_s * 1000, spent = clock_ms() - s->started_ms;
        const uint64_t left = spent < allowed ? allowed - spent : 1;
        return left < most ? left : most;
}

int session_tunnel_ready(struct session *s, enum session_wait_mode mode, struct error *err)
{
        struct session_tunnel *t = s->tunnel;

        if (!t || t->up)
                return 0;
        int r = begin(t, err);
        if (r == 0)
                r = session_wait(s, WAIT_THROUGH, settled, t, patience_ms(s, mode), "connecting", err);
        if (r == 0 && mode == WAIT_INTERRUPTIBLE && s->cancel_requested)
                r = error_set_kind(err, ERROR_CANCELLED, ECANCELED, "cancelled");
        /* Cancelled long ago, and now telling so. */
        if (r == 0 && !t->up && t->tunnel)
                r = session_wait(s, WAIT_THROUGH, settled_at_all, t, HANDSHAKE_MS, "connecting", err);
        if (r < 0) {
                tunnel_free(TAKE_PTR(t->tunnel));
                return r;
        }
        if (t->up)
                return 0;
        struct error loss = t->loss;
        if (s->request.way.kind == WAY_SSH) {
                (void)session_wait(s, WAIT_THROUGH, ssh_over, t, SSH_END_MS, "waiting for ssh", NULL);
                way_ssh_explain(&s->request.way, t->ssh == 0 ? t->ssh_status : -1, &loss);
        }
        if (err)
                *err = loss;
        return -(loss.code ?: ENOTCONN);
}

int session_tunnel_dial(struct session *s, struct link_connect_options *options, const struct link_handlers *handlers,
                        void *context, struct link **ret, struct error *err)
{
        const struct link_environment environment = {.program = s->paths.net};
        CLEANUP(credentials_free_ptr) struct credentials *credentials = NULL;
        int fd = -1;

        if (!s->tunnel->up)
                return error_set(err, ENOTCONN, "the connection to %s is lost", s->request.peer);
        int r = trust_credentials_for(s->paths.trust, s->tunnel->certificate, &credentials, err);
        if (r == 0)
                r = tunnel_open(s->tunnel->tunnel, options->purpose, &fd, err);
        if (r < 0)
                return r;
        options->address = s->tunnel->label;
        options->expect = s->request.peer_fingerprint;
        return link_connect_on(s->loop, &environment, credentials, options, fd, handlers, context, ret, err);
}

bool session_tunnel_can_begin(const struct session *s)
{
        const struct session_tunnel *t = s->tunnel;

        return t && (t->up || s->request.way.kind == WAY_SSH || lanes_here(s->tunnel) ||
                     (!t->given && (!s->recovering || s->finished)));
}
