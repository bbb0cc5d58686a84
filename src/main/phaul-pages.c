/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * phaul-pages: gives restored tasks their memory while they run (pages/service.h). Started by the session on the
 * target, which it outlives; its descriptors are all that it is told.
 */
#include <stdio.h>

#include "base/log.h"
#include "pages/service.h"

int main(int argc, char *argv[])
{
        (void)argv;
        if (argc != 1) {
                (void)fprintf(stderr, "usage: phaul-pages, by phaul-session\n");
                return 2;
        }
        struct error err = {0};

        log_init("phaul-pages", LOG_LEVEL_INFO);
        if (page_service_run(&err) == 0)
                return 0;
        log_error("%s", err.text);
        return 1;
}
