/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/receptions.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/peers.h"
#include "wire/trust.h"

struct reception {
        struct receptions *owner;
        struct reception *next;
        struct tunnel *tunnel;
        struct peer guest; /* the other host, when it is known */
        reception_over_fn fn;
        void *context;
};

struct receptions {
        struct daemon *daemon;
        struct reception *first;
        unsigned n;
};

static void reception_free(struct reception *r)
{
        for (struct reception **p = &r->owner->first; *p; p = &(*p)->next)
                if (*p == r) {
                        *p = r->next;
                        r->owner->n--;
                        break;
                }
        tunnel_free(r->tunnel);
        peer_done(&r->guest);
        free(r);
}

static void over(struct reception *r, const struct error *err)
{
        if (r->fn)
                r->fn(err, r->context);
        reception_free(r);
}

static void on_up(struct tunnel *tunnel, const struct tunnel_peer *peer, void *context)
{
        struct reception *r = context;

        (void)tunnel;
        (void)snprintf(r->guest.name, sizeof(r->guest.name), "%s", peer->name);
        (void)snprintf(r->guest.fingerprint, sizeof(r->guest.fingerprint), "%s", peer->fingerprint);
        r->guest.certificate = strdup(peer->certificate);
        log_info("%s has come through a tunnel", peer->name);
}

static void on_asked(struct tunnel *tunnel, int fd, void *context)
{
        const struct reception *r = context;

        (void)tunnel;
        peers_take_guest(r->owner->daemon->peers, fd, &r->guest);
}

static void on_down(struct tunnel *tunnel, const struct error *err, void *context)
{
        struct reception *r = context;

        (void)tunnel;
        log_info("tunnel%s%s: %s", r->guest.name[0] ? " of " : "", r->guest.name, err->text);
        /* That a tunnel ends is how its work ends, if it had begun any. */
        struct error none = {0};
        over(r, r->guest.name[0] && err->code == ECONNRESET ? &none : err);
}

int receptions_add(struct receptions *all, const struct tunnel_lane *lanes, unsigned n_lanes, reception_over_fn fn,
                   void *context, struct reception **ret, struct error *err)
{
        static const struct tunnel_handlers handlers = {.up = on_up, .asked = on_asked, .down = on_down};
        const struct daemon *d = all->daemon;
        struct tunnel_options options = {
                .accepting = true,
                .n_lanes = n_lanes,
                .words_fd = -1,
                .label = "tunnel",
                .name = d->config->host_name,
                .trust_dir = d->places.trust,
                .handshake_ms = RECEPTION_GREETING_MS,
        };

        if (all->n >= RECEPTIONS_MAX)
                return error_set_kind(err, ERROR_REFUSED, EBUSY, "%d tunnels lead to %s already", RECEPTIONS_MAX,
                                      d->config->host_name);
        struct reception *r = calloc(1, sizeof(*r));
        if (!r)
                return error_set(err, ENOMEM, "out of memory");
        r->owner = all;
        r->next = all->first;
        all->first = r;
        all->n++;
        memcpy(options.lanes, lanes, n_lanes * sizeof(*lanes));
        int n = tunnel_start(d->loop, &d->link_environment, &options, &handlers, r, &r->tunnel, err);
        if (n < 0) {
                reception_free(r);
                return n;
        }
        r->fn = fn;
        r->context = context;
        *ret = r;
        return 0;
}

void reception_forget(struct reception *r)
{
        r->fn = NULL;
}

bool receptions_busy(const struct receptions *all)
{
        return all->first != NULL;
}

int receptions_new(struct daemon *daemon, struct receptions **ret)
{
        struct receptions *all = calloc(1, sizeof(*all));

        if (!all)
                return -ENOMEM;
        all->daemon = daemon;
        *ret = all;
        return 0;
}

void receptions_free(struct receptions *all)
{
        struct error none = {0};

        if (!all)
                return;
        while (all->first)
                over(all->first, &none);
        free(all);
}
