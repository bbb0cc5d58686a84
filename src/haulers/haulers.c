/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/hauler.h"

#include <stdlib.h>
#include <string.h>

/* The registry: one line per kind, see the folder of that name. */
extern const struct hauler lxc_hauler;
extern const struct hauler process_hauler;

const struct hauler *const haulers[] = {
        &lxc_hauler,
        &process_hauler,
        NULL,
};

const struct hauler *hauler_find(const char *kind)
{
        for (size_t i = 0; haulers[i]; i++)
                if (strcmp(haulers[i]->kind, kind) == 0)
                        return haulers[i];
        return NULL;
}

const char *grade_name(enum grade grade)
{
        switch (grade) {
        case GRADE_OK:
                return "ok";
        case GRADE_WARNING:
                return "warning";
        case GRADE_ERROR:
        case GRADE_JUDGED:
                return "error";
        }
        return "error";
}

void workload_done(struct workload *w)
{
        if (!w)
                return;
        if (w->hauler && w->hauler->done)
                w->hauler->done(w);
        for (size_t i = 0; i < w->n_trees; i++) {
                free(w->trees[i].label);
                free(w->trees[i].source);
                free(w->trees[i].target);
        }
        free(w->trees);
        free(w->id);
        free(w->description);
        free(w->freezer);
        free(w->cpu);
        free(w->addresses);
        *w = (struct workload){0};
}
