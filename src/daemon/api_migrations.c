/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/api.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/ssh_address.h"
#include "daemon/migrations.h"
#include "migration/options.h"

#define KEY_MAX 128
#define LIST_DEFAULT 100
#define LIST_MAX 1000
#define CHECK_LIMIT_MS 60000

/* -- what is asked for -------------------------------------------------------------------------------------------- */

static int check_name(const char *what, const char *name, struct error *err)
{
        char quoted[160];

        if (name_is_valid(name))
                return 0;
        return error_set_kind(err, ERROR_USAGE, EINVAL, "%s '%s' is not a valid name", what,
                              name_quote(name, quoted, sizeof(quoted)));
}

#define OTHER_END "remote" /* what a host is called of which we know no name */

static int check_ssh(struct migration_order *o, struct error *err)
{
        const char *host, *user = NULL, *agent = NULL;
        json_error_t where;
        int port = 22;

        if (json_unpack_ex(o->ssh, &where, JSON_STRICT, "{s:s, s?s, s?i, s?s}", "host", &host, "user", &user, "port",
                           &port, "agent", &agent) < 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "the body is not a migration: ssh: %s", where.text);
        if (!ssh_host_is_valid(host))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "ssh: not the name or address of a host");
        if (user && !ssh_user_is_valid(user))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "ssh: not the name of a user");
        if (port < 1 || port > 65535)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "ssh: port is a number from 1 to 65535");
        if (agent && (agent[0] != '/' || strlen(agent) > SSH_AGENT_MAX))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "ssh: agent is not the path of a socket");
        o->host = name_is_valid(host) ? host : OTHER_END;
        return 0;
}

/* A paired host, or ssh, or descriptors. */
static int check_way(struct migration_order *o, struct error *err)
{
        if (!o->host + !o->ssh + !o->descriptors != 2)
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      "the body is not a migration: exactly one of host, ssh and descriptors");
        if (o->host)
                return check_name("host", o->host, err);
        if (o->ssh)
                return check_ssh(o, err);
        if (!id_is_valid(o->descriptors))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "descriptors is a ticket of %d hexadecimal digits",
                                      ID_LENGTH);
        o->host = OTHER_END;
        return 0;
}

/* Strings point into `body`. */
static int parse_order(const struct request *request, json_t *body, bool check, struct migration_order *ret,
                       struct error *err)
{
        struct migration_order o = {.check = check, .uid = request_uid(request)};
        struct migration_options options;
        json_error_t where;
        char quoted[64];

        if (json_unpack_ex(body, &where, JSON_STRICT, "{s:s, s:s, s?s, s?o, s?s, s?s, s?o}", "kind", &o.kind, "id",
                           &o.name, "host", &o.host, "ssh", &o.ssh, "descriptors", &o.descriptors, "target_id",
                           &o.target_name, "options", &o.options) < 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "the body is not a migration: %s", where.text);
        if (!kind_is_valid(o.kind))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "kind '%s' is not a kind of workload",
                                      name_quote(o.kind, quoted, sizeof(quoted)));
        int r = check_name("id", o.name, err);
        if (r == 0)
                r = check_way(&o, err);
        if (r == 0 && o.target_name)
                r = check_name("target_id", o.target_name, err);
        if (r == 0)
                r = migration_options_parse(o.options, o.kind, &options, err);
        if (r == 0 && options.via[0] && (o.ssh || o.descriptors))
                r = error_set_kind(err, ERROR_USAGE, EINVAL, "via has no meaning where nothing is dialled");
        if (r == 0)
                *ret = o;
        return r;
}

static int known_kind(const struct daemon *d, const char *kind, struct error *err)
{
        for (size_t i = 0; d->haulers[i]; i++)
                if (strcmp(d->haulers[i]->kind, kind) == 0)
                        return 0;
        return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a kind of workload known here", kind);
}

/* -- POST /migrations --------------------------------------------------------------------------------------------- */

static int digest(const char *text, char ret[static 65])
{
        unsigned char hash[32];
        unsigned n = 0;

        if (EVP_Digest(text, strlen(text), hash, &n, EVP_sha256(), NULL) != 1 || n != sizeof(hash))
                return -EIO;
        for (size_t i = 0; i < sizeof(hash); i++)
                (void)snprintf(ret + 2 * i, 3, "%02x", hash[i]);
        return 0;
}

static int take_key(const struct request *r, char *hash, struct migration_order *order, struct error *err)
{
        const char *key = request_header(r, "Idempotency-Key");
        size_t n = key ? strlen(key) : 0;

        if (!key)
                return 0;
        for (size_t i = 0; i < n; i++)
                if (key[i] < '!' || key[i] > '~')
                        n = 0;
        if (n == 0 || n > KEY_MAX)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "Idempotency-Key is 1 to %d printable characters",
                                      KEY_MAX);
        order->key = key;
        order->hash = hash;
        return digest(request_body(r), hash) < 0 ? error_set(err, EIO, "cannot compute a digest") : 0;
}

static int post_migration(struct daemon *d, struct request *r, json_t *body, char *ret_id, struct error *err)
{
        struct migration_order order;
        char hash[65];
        bool old = false;

        int n = parse_order(r, body, false, &order, err);
        if (n == 0)
                n = known_kind(d, order.kind, err);
        if (n == 0)
                n = take_key(r, hash, &order, err);
        if (n == 0)
                n = migrations_order(d->migrations, &order, ret_id, &old, err);
        return n;
}

void api_post_migrations(struct daemon *d, struct request *r, const char *argument)
{
        json_t *body = NULL, *document = NULL;
        struct error err = {0};
        char id[ID_LENGTH + 1], location[ID_LENGTH + 32];

        (void)argument;
        int n = request_json(r, &body, &err);
        if (n == 0)
                n = post_migration(d, r, body, id, &err);
        if (n == 0)
                n = migrations_show(d->migrations, id, &document, &err);
        json_decref(body);
        if (n < 0) {
                request_reply_problem(r, 0, &err);
                return;
        }
        (void)snprintf(location, sizeof(location), "/api/v1/migrations/%s", id);
        request_set_header(r, "Location", location);
        request_reply_json(r, 202, document);
}

/* -- POST /checks ------------------------------------------------------------------------------------------------- */

struct check {
        struct daemon *daemon;
        struct request *request;
        struct source *limit;
        char id[ID_LENGTH + 1];
        bool replied;
};

static void check_limit(void *context)
{
        struct check *c = context;
        struct error err = {0};

        /* The session may still end one day; then on_check_end() frees. */
        (void)error_set(&err, ETIMEDOUT, "the check took longer than %d s", CHECK_LIMIT_MS / 1000);
        request_reply_problem(c->request, 0, &err);
        c->replied = true;
        (void)migrations_cancel(c->daemon->migrations, c->id, NULL, NULL, NULL);
}

/* A check that could not even be made is an error of the kind its result names. */
static bool is_failure(const json_t *report, struct error *err)
{
        const char *result = json_string_value(json_object_get(report, "result"));
        const char *reason = json_string_value(json_object_get(report, "reason"));
        const char *kind = json_string_value(json_object_get(json_object_get(report, "failure"), "kind"));
        const char *verdict = json_string_value(json_object_get(report, "verdict"));

        /* Refused is a verdict; a link that broke after a good verdict of one side is none. */
        if ((verdict && strcmp(verdict, "error") == 0) || !result || strcmp(result, "done") == 0)
                return false;
        (void)error_set_kind(err, error_kind_from_name(kind ? kind : result), EPROTO, "%s",
                             reason ? reason : "the check failed");
        return true;
}

static void on_check_end(const json_t *report, const struct error *cause, void *context)
{
        struct check *c = context;
        struct error err = *cause;

        if (!c->replied) {
                if (!report || is_failure(report, &err)) {
                        request_reply_problem(c->request, 0, &err);
                } else {
                        json_t *verdict = json_object_get(report, "verdict"), *items = json_object_get(report, "items");
                        request_reply_json(
                                c->request, 200,
                                json_pack("{s:s, s:O?, s:O?}", "id", c->id, "verdict", verdict, "items", items));
                }
        }
        source_free(c->limit);
        free(c);
}

static int post_check(struct daemon *d, struct check *c, json_t *body, struct error *err)
{
        struct migration_order order;
        bool old;

        int n = parse_order(c->request, body, true, &order, err);
        if (n == 0)
                n = known_kind(d, order.kind, err);
        if (n == 0)
                n = migrations_order(d->migrations, &order, c->id, &old, err);
        if (n == 0) {
                n = loop_add_timer(d->loop, CHECK_LIMIT_MS, check_limit, c, &c->limit);
                if (n == 0)
                        n = migrations_on_end(d->migrations, c->id, on_check_end, c);
                if (n < 0)
                        n = error_errno(err, -n, "cannot wait for the check");
        }
        return n;
}

void api_post_checks(struct daemon *d, struct request *r, const char *argument)
{
        struct check *c = calloc(1, sizeof(*c));
        json_t *body = NULL;
        struct error err = {0};

        (void)argument;
        int n = c ? request_json(r, &body, &err) : error_set(&err, ENOMEM, "out of memory");
        if (n == 0) {
                c->daemon = d;
                c->request = r;
                n = post_check(d, c, body, &err);
        }
        json_decref(body);
        if (n < 0) {
                if (c)
                        source_free(c->limit);
                free(c);
                request_reply_problem(r, 0, &err);
        }
}

/* -- POST /reconnections ------------------------------------------------------------------------------------------ */

static int reconnect(struct daemon *d, struct request *r, json_t *body, struct error *err)
{
        const char *id, *ticket;
        json_error_t where;

        if (json_unpack_ex(body, &where, JSON_STRICT, "{s:s, s:s}", "id", &id, "descriptors", &ticket) < 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "the body is not a reconnection: %s", where.text);
        if (!id_is_valid(id) || !id_is_valid(ticket))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "id and descriptors have %d hexadecimal digits",
                                      ID_LENGTH);
        return migrations_reconnect(d->migrations, id, ticket, request_uid(r), err);
}

void api_post_reconnections(struct daemon *d, struct request *r, const char *argument)
{
        json_t *body = NULL;
        struct error err = {0};

        (void)argument;
        int n = request_json(r, &body, &err);
        if (n == 0)
                n = reconnect(d, r, body, &err);
        json_decref(body);
        if (n < 0)
                request_reply_problem(r, 0, &err);
        else
                request_reply_empty(r);
}

/* -- the rest ----------------------------------------------------------------------------------------------------- */

void api_get_migrations(struct daemon *d, struct request *r, const char *argument)
{
        const char *text = request_query(r, "limit");
        unsigned long limit = LIST_DEFAULT;
        json_t *list = NULL;
        struct error err = {0};
        char *end;

        (void)argument;
        if (text) {
                limit = strtoul(text, &end, 10);
                if (*text < '0' || *text > '9' || *end || limit < 1 || limit > LIST_MAX) {
                        (void)error_set_kind(&err, ERROR_USAGE, EINVAL, "limit is a number from 1 to %d", LIST_MAX);
                        request_reply_problem(r, 0, &err);
                        return;
                }
        }
        if (migrations_list(d->migrations, (unsigned)limit, &list, &err) < 0)
                request_reply_problem(r, 0, &err);
        else
                request_reply_json(r, 200, list);
}

void api_get_migration(struct daemon *d, struct request *r, const char *argument)
{
        json_t *document = NULL;
        struct error err = {0};

        if (migrations_show(d->migrations, argument, &document, &err) < 0)
                request_reply_problem(r, 0, &err);
        else
                request_reply_json(r, 200, document);
}

static void on_cancelled(const struct error *err, const char *text, void *context)
{
        if (err->kind != ERROR_NONE)
                request_reply_problem(context, 0, err);
        else
                request_reply_json(context, 202, json_pack("{s:s}", "text", text));
}

void api_delete_migration(struct daemon *d, struct request *r, const char *argument)
{
        struct error err = {0};

        if (migrations_cancel(d->migrations, argument, on_cancelled, r, &err) < 0)
                request_reply_problem(r, 0, &err);
}

void api_delete_released(struct daemon *d, struct request *r, const char *argument)
{
        struct error err = {0};

        if (migrations_forget(d->migrations, argument, &err) < 0)
                request_reply_problem(r, 0, &err);
        else
                request_reply_empty(r);
}
