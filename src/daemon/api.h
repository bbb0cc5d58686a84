/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "daemon/daemon.h"

/*
 * The REST API: a table of method, path and function; docs/openapi.yaml describes it, and a test holds the two against
 * each other. A handler replies to the request now or later, exactly once.
 */
typedef void (*api_fn)(struct daemon *daemon, struct request *request, const char *argument);

struct api_route {
        const char *method;
        const char *path; /* "{…}" stands for one segment, which becomes `argument` */
        api_fn fn;
};
extern const struct api_route api_routes[]; /* ends with a NULL method */

/* The http_handler_fn; context is the daemon. */
void api_handle(struct request *request, void *context);

/* One function per route. */
void api_get_host(struct daemon *d, struct request *r, const char *argument);
void api_get_hosts(struct daemon *d, struct request *r, const char *argument);
void api_post_pairing_offers(struct daemon *d, struct request *r, const char *argument);
void api_post_hosts(struct daemon *d, struct request *r, const char *argument);
void api_delete_host(struct daemon *d, struct request *r, const char *argument);
void api_get_workloads(struct daemon *d, struct request *r, const char *argument);
void api_get_migrations(struct daemon *d, struct request *r, const char *argument);
void api_post_migrations(struct daemon *d, struct request *r, const char *argument);
void api_get_migration(struct daemon *d, struct request *r, const char *argument);
void api_delete_migration(struct daemon *d, struct request *r, const char *argument);
void api_post_checks(struct daemon *d, struct request *r, const char *argument);
void api_post_reconnections(struct daemon *d, struct request *r, const char *argument);
void api_delete_released(struct daemon *d, struct request *r, const char *argument);
void api_get_metrics(struct daemon *d, struct request *r, const char *argument);
