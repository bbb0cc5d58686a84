/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/api.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/hosts.h"
#include "daemon/inventory.h"
#include "daemon/migrations.h"

#define PROBES_MAX 64

void api_get_host(struct daemon *d, struct request *r, const char *argument)
{
        AUTO_FREE char *pem = NULL;
        char fingerprint[FINGERPRINT_LENGTH + 1];
        struct error err = {0};
        json_t *kinds = json_array();

        (void)argument;
        for (size_t i = 0; d->haulers[i]; i++)
                (void)json_array_append_new(
                        kinds, json_pack("{s:s, s:s}", "kind", d->haulers[i]->kind, "label", d->haulers[i]->label));
        if (trust_self(d->places.trust, &pem, fingerprint, &err) < 0) {
                json_decref(kinds);
                request_reply_problem(r, 0, &err);
                return;
        }
        request_reply_json(r, 200,
                           json_pack("{s:s, s:s, s:i, s:s, s:o, s:i}", "name", d->config->host_name, "version",
                                     PHAUL_VERSION, "port", (int)d->config->port, "fingerprint", fingerprint, "kinds",
                                     kinds, "migrations_in_progress", (int)migrations_in_progress(d->migrations)));
}

/* -- GET /hosts: all probed at the same time ---------------------------------------------------------------------- */

struct survey {
        struct request *request;
        json_t *list;
        unsigned open;
};

struct probe {
        struct survey *survey;
        json_t *entry; /* in the list, which lives as long */
        uint64_t begin_us;
};

static void survey_end(struct survey *s)
{
        if (s->open > 0)
                return;
        request_reply_json(s->request, 200, s->list);
        free(s);
}

static void on_probe(const json_t *answer, const struct error *err, void *context)
{
        struct probe *p = context;
        struct survey *s = p->survey;
        const char *version = json_string_value(json_object_get(answer, "version"));

        (void)json_object_set_new(p->entry, "state", json_string(answer ? "reachable" : "unreachable"));
        if (answer) {
                (void)json_object_set_new(p->entry, "version", version ? json_string(version) : json_null());
                (void)json_object_set_new(p->entry, "round_trip_ms",
                                          json_integer((json_int_t)((clock_us() - p->begin_us) / 1000)));
        } else {
                json_t *text = json_string(err->text);
                (void)json_object_set_new(p->entry, "reason", text ? text : json_null());
        }
        free(p);
        s->open--;
        survey_end(s);
}

static void probe(struct daemon *d, struct survey *s, const struct peer *peer)
{
        json_t *entry =
                json_pack("{s:s, s:s, s:i, s:s, s:I, s:I, s:s}", "name", peer->name, "address", peer->address, "port",
                          (int)peer->port, "fingerprint", peer->fingerprint, "paired_ms", (json_int_t)peer->paired_ms,
                          "expires_ms", (json_int_t)peer->expires_ms, "state", "unknown");
        struct probe *p = calloc(1, sizeof(*p));
        struct error err = {0};

        if (!entry || !p || json_array_append_new(s->list, entry) < 0) {
                free(p);
                return;
        }
        if (peer->expires_ms < clock_wall_ms()) {
                (void)json_object_set_new(entry, "state", json_string("expired"));
                (void)json_object_set_new(entry, "reason", json_string("its certificate has expired: pair again"));
                free(p);
                return;
        }
        if (s->open >= PROBES_MAX) {
                free(p);
                return;
        }
        *p = (struct probe){.survey = s, .entry = entry, .begin_us = clock_us()};
        if (hosts_query(d->hosts, peer, "status", NULL, PROBE_LIMIT_MS, on_probe, p, &err) < 0) {
                (void)json_object_set_new(entry, "reason", json_string(err.text));
                free(p);
                return;
        }
        s->open++;
}

void api_get_hosts(struct daemon *d, struct request *r, const char *argument)
{
        struct survey *s = calloc(1, sizeof(*s));
        struct peer *peers = NULL;
        struct error err = {0};
        size_t n = 0;

        (void)argument;
        if (s)
                s->list = json_array();
        if (!s || !s->list || trust_list(d->places.trust, &peers, &n, &err) < 0) {
                if (err.kind == ERROR_NONE)
                        (void)error_set(&err, ENOMEM, "out of memory");
                if (s)
                        json_decref(s->list);
                free(s);
                request_reply_problem(r, 0, &err);
                return;
        }
        s->request = r;
        s->open = 1; /* ours, until all have been asked */
        for (size_t i = 0; i < n; i++) {
                probe(d, s, &peers[i]);
                peer_done(&peers[i]);
        }
        free(peers);
        s->open--;
        survey_end(s);
}

/* -- pairing ------------------------------------------------------------------------------------------------------ */

void api_post_pairing_offers(struct daemon *d, struct request *r, const char *argument)
{
        struct error err = {0};
        struct tm tm;
        char expires[32];

        (void)argument;
        if (pairing_offer(&d->pairing, clock_ms(), clock_wall_ms(), &err) < 0) {
                request_reply_problem(r, 0, &err);
                return;
        }
        time_t at = (time_t)(d->pairing.expires_ms / 1000);
        (void)gmtime_r(&at, &tm);
        (void)strftime(expires, sizeof(expires), "%Y-%m-%dT%H:%M:%SZ", &tm);
        log_info("pairing is offered until %s", expires);
        request_reply_json(r, 201,
                           json_pack("{s:s, s:s, s:s, s:i}", "code", d->pairing.code, "expires", expires, "name",
                                     d->config->host_name, "port", (int)d->config->port));
}

static void on_paired(const struct peer *peer, const struct error *err, void *context)
{
        struct request *r = context;

        if (!peer) {
                request_reply_problem(r, 0, err);
                return;
        }
        char location[NAME_MAX_LENGTH + 32];
        (void)snprintf(location, sizeof(location), "/api/v1/hosts/%s", peer->name);
        request_set_header(r, "Location", location);
        request_reply_json(r, 201,
                           json_pack("{s:s, s:s, s:i, s:s, s:I, s:I}", "name", peer->name, "address", peer->address,
                                     "port", (int)peer->port, "fingerprint", peer->fingerprint, "paired_ms",
                                     (json_int_t)peer->paired_ms, "expires_ms", (json_int_t)peer->expires_ms));
}

/* A host name or numeric address: what a resolver takes, and nothing that could be anything else. */
static bool address_is_valid(const char *text)
{
        size_t n = strlen(text);

        return n > 0 && n < 254 && text[0] != '-' &&
               strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-_%") == n;
}

static int post_hosts(struct daemon *d, struct request *r, const json_t *body, struct error *err)
{
        const char *address = NULL, *name = NULL, *code = NULL;
        json_int_t port = 12345;
        json_error_t where;
        char quoted[160];

        if (json_unpack_ex((json_t *)body, &where, JSON_STRICT, "{s:s, s?I, s?s, s:s}", "address", &address, "port",
                           &port, "name", &name, "code", &code) < 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "the body is not a pairing: %s", where.text);
        if (!address_is_valid(address))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not an address",
                                      name_quote(address, quoted, sizeof(quoted)));
        if (port < 1 || port > 65535)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "port must be from 1 to 65535");
        if (name && !name_is_valid(name))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a valid name",
                                      name_quote(name, quoted, sizeof(quoted)));
        return hosts_pair(d->hosts, address, (uint16_t)port, name, code, on_paired, r, err);
}

void api_post_hosts(struct daemon *d, struct request *r, const char *argument)
{
        json_t *body = NULL;
        struct error err = {0};

        (void)argument;
        int n = request_json(r, &body, &err);
        if (n == 0)
                n = post_hosts(d, r, body, &err);
        json_decref(body);
        if (n < 0)
                request_reply_problem(r, 0, &err);
}

void api_delete_host(struct daemon *d, struct request *r, const char *argument)
{
        struct error err = {0};

        if (trust_remove(d->places.trust, argument, &err) < 0) {
                request_reply_problem(r, 0, &err);
                return;
        }
        log_info("no longer paired with %s", argument);
        (void)events_publish(d->events, "host.unpaired", NULL, json_pack("{s:s}", "name", argument));
        request_reply_empty(r);
}

/* -- workloads ---------------------------------------------------------------------------------------------------- */

static void on_inventory(json_t *result, void *context)
{
        request_reply_json(context, 200, result);
}

static void on_far_inventory(const json_t *answer, const struct error *err, void *context)
{
        if (answer)
                request_reply_json(context, 200, json_deep_copy(answer));
        else
                request_reply_problem(context, 0, err);
}

static int get_workloads(struct daemon *d, struct request *r, struct error *err)
{
        const char *host = request_query(r, "host"), *kind = request_query(r, "kind");
        CLEANUP(peer_done) struct peer peer = {0};
        char quoted[160];

        if (kind && !kind_is_valid(kind))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a kind of workload",
                                      name_quote(kind, quoted, sizeof(quoted)));
        if (host && !name_is_valid(host))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a valid name",
                                      name_quote(host, quoted, sizeof(quoted)));
        if (!host || strcmp(host, d->config->host_name) == 0)
                return inventory_start(d->loop, d->haulers, d->config->host_name, kind, on_inventory, r, NULL, err);
        int n = trust_find(d->places.trust, host, &peer, err);
        if (n == 0)
                n = hosts_query(d->hosts, &peer, "inventory", kind, QUERY_LIMIT_MS, on_far_inventory, r, err);
        return n;
}

void api_get_workloads(struct daemon *d, struct request *r, const char *argument)
{
        struct error err = {0};

        (void)argument;
        if (get_workloads(d, r, &err) < 0)
                request_reply_problem(r, 0, &err);
}
