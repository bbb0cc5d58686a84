/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdlib.h>

#include "source/source.h"

/*
 * Shared storage: nothing is copied, but it must be certain that both hosts mean the same directories. A probe with a
 * secret is written into each, the target finds and removes it, and that must be seen here.
 */

json_t *source_probes_write(struct source_side *x, struct error *err)
{
        const struct workload *w = &x->session->workload;
        json_t *list = json_array();

        for (size_t i = 0; i < w->n_trees; i++) {
                if (files_probe_write(w->trees[i].source, &x->probes[i], err) < 0) {
                        json_decref(list);
                        return NULL;
                }
                x->n_probes = i + 1;
                (void)json_array_append_new(
                        list, json_pack("{s:s, s:s}", "name", x->probes[i].name, "secret", x->probes[i].secret));
        }
        if (json_array_size(list) != w->n_trees) {
                json_decref(list);
                (void)error_set(err, ENOMEM, "out of memory");
                return NULL;
        }
        return list;
}

void source_probes_end(struct source_side *x, hauler_report_fn report, void *context)
{
        const struct workload *w = &x->session->workload;
        char text[400];

        for (size_t i = 0; i < x->n_probes; i++) {
                struct error err = {0};
                const char *path = w->trees[i].source;
                int r = files_probe_end(path, &x->probes[i], &err);
                (void)snprintf(text, sizeof(text), "%s is %s on %s", path,
                               r == 0 ? "the same directory" : "not the same directory", x->session->request.peer);
                if (report)
                        report("shared", r == 0 ? GRADE_OK : GRADE_ERROR, r < 0 ? err.text : text, context);
        }
        x->n_probes = 0;
}

int source_shared_sync(struct source_side *x, struct error *err)
{
        const struct workload *w = &x->session->workload;

        for (size_t i = 0; i < w->n_trees; i++) {
                int r = files_sync(w->trees[i].source, err);
                if (r < 0)
                        return r;
        }
        return 0;
}
