/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/api.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"

static void get_events(struct daemon *d, struct request *r, const char *argument)
{
        const char *last = request_header(r, "Last-Event-ID"), *migration = request_query(r, "migration");
        struct error err = {0};
        uint64_t id = 0;
        char *end;

        (void)argument;
        if (migration && !id_is_valid(migration)) {
                (void)error_set_kind(&err, ERROR_USAGE, EINVAL, "migration is not an id of %d hexadecimal digits",
                                     ID_LENGTH);
                request_reply_problem(r, 0, &err);
                return;
        }
        if (last) {
                errno = 0;
                id = strtoull(last, &end, 10);
                if (errno || *end || *last < '0' || *last > '9') {
                        (void)error_set_kind(&err, ERROR_USAGE, EINVAL, "Last-Event-ID is not an id of this stream");
                        request_reply_problem(r, 0, &err);
                        return;
                }
        }
        request_reply_events(r, d->events, last != NULL, id, migration);
}

static void get_openapi(struct daemon *d, struct request *r, const char *argument)
{
        char path[PATH_MAX + 16];
        AUTO_FREE char *text = NULL;
        struct error err = {0};

        (void)argument;
        (void)snprintf(path, sizeof(path), "%s/openapi.yaml", d->places.data);
        int n = fd_read_file(AT_FDCWD, path, 1U << 20, &text, NULL);
        if (n < 0) {
                (void)error_errno(&err, -n, "cannot read %s", path);
                request_reply_problem(r, 0, &err);
                return;
        }
        request_reply_text(r, 200, "application/yaml", text);
}

const struct api_route api_routes[] = {
        {"GET", "/host", api_get_host},
        {"GET", "/hosts", api_get_hosts},
        {"POST", "/hosts", api_post_hosts},
        {"DELETE", "/hosts/{name}", api_delete_host},
        {"POST", "/pairing-offers", api_post_pairing_offers},
        {"GET", "/workloads", api_get_workloads},
        {"GET", "/migrations", api_get_migrations},
        {"POST", "/migrations", api_post_migrations},
        {"GET", "/migrations/{id}", api_get_migration},
        {"DELETE", "/migrations/{id}", api_delete_migration},
        {"POST", "/checks", api_post_checks},
        {"POST", "/reconnections", api_post_reconnections},
        {"DELETE", "/released/{id}", api_delete_released},
        {"GET", "/events", get_events},
        {"GET", "/metrics", api_get_metrics},
        {"GET", "/openapi.yaml", get_openapi},
        {NULL, NULL, NULL},
};

/* The part of `path` that stands for {…}, in a buffer; "" for a route without one. */
static bool match(const char *route, const char *path, char *argument, size_t size)
{
        const char *hole = strchr(route, '{');

        argument[0] = '\0';
        if (!hole)
                return strcmp(route, path) == 0;
        size_t fixed = (size_t)(hole - route);
        if (strncmp(route, path, fixed) != 0)
                return false;
        const char *value = path + fixed;
        if (!*value || strchr(value, '/') || strlen(value) >= size)
                return false;
        (void)strcpy(argument, value);
        return true;
}

static int check_argument(const struct api_route *route, const char *argument, struct error *err)
{
        char quoted[160];

        if (strstr(route->path, "{id}") && !id_is_valid(argument))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not an id of %d hexadecimal digits",
                                      name_quote(argument, quoted, sizeof(quoted)), ID_LENGTH);
        if (strstr(route->path, "{name}") && !name_is_valid(argument))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "'%s' is not a valid name",
                                      name_quote(argument, quoted, sizeof(quoted)));
        return 0;
}

void api_handle(struct request *r, void *context)
{
        static const char root[] = "/api/v1";
        const char *path = request_path(r);
        struct error err = {0};
        char argument[256], quoted[256];
        bool known = false;

        if (strcmp(path, "/metrics") == 0) /* where Prometheus looks by itself */
                path = "/api/v1/metrics";
        if (strncmp(path, root, sizeof(root) - 1) == 0)
                path += sizeof(root) - 1;
        else
                path = "";
        for (const struct api_route *route = api_routes; route->method; route++) {
                if (!match(route->path, path, argument, sizeof(argument)))
                        continue;
                known = true;
                if (strcmp(route->method, request_method(r)) != 0)
                        continue;
                if (check_argument(route, argument, &err) < 0)
                        request_reply_problem(r, 0, &err);
                else
                        route->fn(context, r, argument);
                return;
        }
        (void)name_quote(request_path(r), quoted, sizeof(quoted));
        if (known) {
                (void)error_set_kind(&err, ERROR_USAGE, EINVAL, "%s does not know the method %.16s", quoted,
                                     request_method(r));
                request_reply_problem(r, 405, &err);
        } else {
                (void)error_set_kind(&err, ERROR_NOT_FOUND, ENOENT, "there is nothing at %s", quoted);
                request_reply_problem(r, 404, &err);
        }
}
