/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "daemon/descriptors.h"
#include "daemon/migration.h"
#include "migration/handover.h"
#include "wire/trust.h"

/* A user's order: may it be, where to and how, and its session. */

#define CHECKS_MAX 16 /* at the same time */

/* Checks cost two processes each, and a page may ask for one whenever a mouse moves. */
static int check_checks(const struct migrations *all, struct error *err)
{
        unsigned n = 0;

        for (const struct migration *m = all->first; m; m = m->next)
                n += m->check && !m->ended;
        if (n < CHECKS_MAX)
                return 0;
        return error_set_kind(err, ERROR_REFUSED, EBUSY, "%d checks run already", CHECKS_MAX);
}

/* An earlier order with the same key: 1 found, 0 none, negative: the key was used for something else. */
static int find_key(struct migrations *all, const struct migration_order *order, char *ret_id, struct error *err)
{
        const struct migration *m = all->first;
        char hash[65];

        if (!order->key)
                return 0;
        while (m && strcmp(migration_request_text(m, "idempotency_key"), order->key) != 0)
                m = m->next;
        if (m) {
                (void)strcpy(ret_id, m->id);
                (void)snprintf(hash, sizeof(hash), "%s", migration_request_text(m, "idempotency_hash"));
        } else if (history_find_key(all->daemon->history, order->key, ret_id, hash) < 0)
                return 0;
        if (strcmp(hash, order->hash) != 0)
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "this Idempotency-Key was used with another request");
        return 1;
}

static int check_order(struct migrations *all, const struct migration_order *order, struct error *err)
{
        const char *self = all->daemon->config->host_name;

        if (strcmp(order->host, self) == 0)
                return error_set_kind(err, ERROR_REFUSED, EINVAL, "%s is this host: source and target are the same",
                                      self);
        if (order->check)
                return check_checks(all, err);
        for (const struct migration *m = all->first; m; m = m->next)
                if (!m->ended && !m->check && m->source_side &&
                    strcmp(migration_request_text(m, "kind"), order->kind) == 0 &&
                    strcmp(migration_request_text(m, "name"), order->name) == 0)
                        return error_set_kind(err, ERROR_REFUSED, EALREADY, "%s/%s is already migrating (%s)",
                                              order->kind, order->name, m->id);
        return migrations_check_limit(all, err);
}

/* Whom, and how: a paired host, or whoever is at the other end of ssh or of a user's descriptors. */
static int find_way(struct migrations *all, const struct migration_order *order, struct peer *peer,
                    struct tunnel_lane lanes[static 2], struct error *err)
{
        if (!order->ssh && !order->descriptors)
                return trust_find(all->daemon->places.trust, order->host, peer, err);
        (void)snprintf(peer->name, sizeof(peer->name), "%s", order->host);
        return order->descriptors
                       ? descriptors_redeem(all->daemon->descriptors, order->descriptors, order->uid, lanes, err)
                       : 0;
}

static void put_way(json_t *request, const struct migration_order *order)
{
        if (!order->ssh && !order->descriptors)
                return;
        (void)json_object_set_new(request, "way", json_string(order->ssh ? "ssh" : "descriptors"));
        if (order->ssh) {
                json_t *ssh = json_deep_copy(order->ssh);
                (void)json_object_set_new(ssh, "uid", json_integer((json_int_t)order->uid));
                (void)json_object_set_new(request, "ssh", ssh);
        }
}

/* Those that the session does not get are missed there. */
static void hand_over(const struct migration *m, struct tunnel_lane lanes[static 2])
{
        for (int i = 0; i < 2; i++) {
                const bool both = lanes[i].in == lanes[i].out;
                (void)session_link_send(
                        m->link,
                        json_pack("{s:s, s:i, s:s}", "do", "lane", "lane", i, "direction", both ? "both" : "in"),
                        TAKE_FD(lanes[i].in));
                if (both)
                        lanes[i].out = -1;
                else
                        (void)session_link_send(
                                m->link, json_pack("{s:s, s:i, s:s}", "do", "lane", "lane", i, "direction", "out"),
                                TAKE_FD(lanes[i].out));
        }
}

int migrations_order(struct migrations *all, const struct migration_order *order, char ret_id[static ID_LENGTH + 1],
                     bool *ret_old, struct error *err)
{
        const struct config *config = all->daemon->config;
        struct tunnel_lane lanes[2] = {{-1, -1}, {-1, -1}};
        CLEANUP(peer_done) struct peer peer = {0};
        struct migration *m;

        int r = find_key(all, order, ret_id, err);
        *ret_old = r > 0;
        if (r != 0)
                return r < 0 ? r : 0;
        r = check_order(all, order, err);
        if (r == 0)
                r = find_way(all, order, &peer, lanes, err);
        if (r < 0)
                return r;
        r = id_new(ret_id);
        if (r < 0) {
                descriptors_close_lanes(lanes);
                return error_errno(err, -r, "no random numbers");
        }
        const char *mode = json_string_value(json_object_get(order->options, "mode"));
        json_t *request = migrations_base_request(all->daemon, ret_id, "source",
                                                  order->check ? "check"
                                                  : mode       ? mode
                                                               : "live",
                                                  &peer);
        json_t *options = order->options ? json_deep_copy(order->options) : json_object();
        if (config->bandwidth && !json_object_get(options, "bandwidth"))
                (void)json_object_set_new(options, "bandwidth", json_integer((json_int_t)config->bandwidth));
        (void)json_object_set_new(request, "kind", json_string(order->kind));
        (void)json_object_set_new(request, "name", json_string(order->name));
        (void)json_object_set_new(request, "target_name",
                                  json_string(order->target_name ? order->target_name : order->name));
        (void)json_object_set_new(
                request, "floor_ms",
                json_integer(history_floor(all->daemon->history, order->kind, order->name, peer.name)));
        if (json_object_set_new(request, "options", options) < 0) {
                json_decref(request);
                request = NULL;
        }
        if (order->key) {
                (void)json_object_set_new(request, "idempotency_key", json_string(order->key));
                (void)json_object_set_new(request, "idempotency_hash", json_string(order->hash));
        }
        put_way(request, order);
        r = migrations_begin(all, ret_id, request, &m, err);
        if (r == 0 && order->descriptors)
                hand_over(m, lanes);
        descriptors_close_lanes(lanes);
        if (r < 0)
                return r;
        if (!order->check) {
                log_info("migration %s: %s/%s to %s", ret_id, order->kind, order->name, order->host);
                (void)events_publish(all->daemon->events, "migration.created", ret_id, migration_document(m));
        }
        return 0;
}

/* Before the decision a session needs no new descriptors: it ends with the old ones. */
static int check_decided(const struct migration *m, struct error *err)
{
        if (m->ended || !m->state[0] || strcmp(m->state, handover_state_name(SOURCE_COMMITTED)) == 0 ||
            strcmp(m->state, handover_state_name(SOURCE_SERVING)) == 0 ||
            strcmp(m->state, handover_state_name(SOURCE_ABORTED)) == 0)
                return 0;
        return error_set_kind(err, ERROR_REFUSED, EBUSY,
                              "migration %s is under way over the descriptors that it has, and ends if they are lost",
                              m->id);
}

int migrations_reconnect(struct migrations *all, const char *id, const char *ticket, uid_t uid, struct error *err)
{
        struct tunnel_lane lanes[2] = {{-1, -1}, {-1, -1}};
        struct migration *m = migrations_find(all, id);
        int r = 0;

        if (!m) {
                r = migration_load(all, id, &m, err);
                if (r < 0)
                        return r;
                m->ended = true; /* or it would be in the list */
        }
        if (strcmp(migration_request_text(m, "way"), "descriptors") != 0)
                r = error_set_kind(err, ERROR_REFUSED, EINVAL, "migration %s does not go over descriptors", id);
        if (r == 0)
                r = check_decided(m, err);
        if (r == 0)
                r = descriptors_redeem(all->daemon->descriptors, ticket, uid, lanes, err);
        if (r == 0 && m->ended && !m->link)
                r = migration_spawn(m, err);
        if (r == 0 && !m->link)
                r = error_set_kind(err, ERROR_REFUSED, EBUSY, "the session of migration %s is being started", id);
        if (r == 0)
                hand_over(m, lanes);
        else if (m->ended && !m->link && !m->pid)
                migration_free(m);
        descriptors_close_lanes(lanes);
        return r;
}
