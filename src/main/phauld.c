/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/daemon.h"

#define TRANSIENT_FIRST_MS 20000 /* for whoever had us started */
#define TRANSIENT_IDLE_MS 3000   /* a source that lost its connection comes again at once */
#define TRANSIENT_LOOK_MS 500

static const char usage[] = "Usage: phauld [OPTION]...\n"
                            "The daemon of phaul: live migration of containers between hosts.\n"
                            "\n"
                            "  --config FILE       configuration (" PHAUL_SYSCONFDIR "/phaul/phaul.conf)\n"
                            "  --trust-dir DIR     own certificate and paired hosts (" PHAUL_SYSCONFDIR "/phaul)\n"
                            "  --state-dir DIR     migrations, history, released files (/var/lib/phaul)\n"
                            "  --runtime-dir DIR   sockets (/run/phaul)\n"
                            "  --libexec-dir DIR   helper programs (" PHAUL_LIBEXECDIR ")\n"
                            "  --data-dir DIR      description of the API (" PHAUL_DATADIR ")\n"
                            "  --transient         as `phaul receive` starts it: no port, and an end with its work\n"
                            "  --foreground        accepted and without effect: it never goes to the background\n"
                            "  --debug             more messages\n"
                            "  --help, --version\n";

static void stop(int signal, void *context)
{
        bool *stopping = context;

        log_info("%s: ending; migrations go on", strsignal(signal));
        *stopping = true;
}

/* 0 go on, 1 done, negative: wrong usage. */
static int parse(int argc, char **argv, struct places *p, enum log_level *level)
{
        static const struct option options[] = {
                {"config", required_argument, NULL, 'c'},
                {"trust-dir", required_argument, NULL, 't'},
                {"state-dir", required_argument, NULL, 's'},
                {"runtime-dir", required_argument, NULL, 'r'},
                {"libexec-dir", required_argument, NULL, 'l'},
                {"data-dir", required_argument, NULL, 'd'},
                {"transient", no_argument, NULL, 'T'},
                {"foreground", no_argument, NULL, 'f'},
                {"debug", no_argument, NULL, 'D'},
                {"help", no_argument, NULL, 'h'},
                {"version", no_argument, NULL, 'V'},
                {NULL, 0, NULL, 0},
        };
        int option;

        while ((option = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
                char *place = NULL;
                switch (option) {
                case 'c':
                        place = p->config_file;
                        break;
                case 't':
                        place = p->trust;
                        break;
                case 's':
                        place = p->state;
                        break;
                case 'r':
                        place = p->runtime;
                        break;
                case 'l':
                        place = p->libexec;
                        break;
                case 'd':
                        place = p->data;
                        break;
                case 'T':
                        p->transient = true;
                        break;
                case 'f':
                        break;
                case 'D':
                        *level = LOG_LEVEL_DEBUG;
                        break;
                case 'h':
                        (void)fputs(usage, stdout);
                        return 1;
                case 'V':
                        (void)puts("phauld " PHAUL_VERSION);
                        return 1;
                default:
                        return -1;
                }
                if (!place)
                        continue;
                if (optarg[0] != '/' || strlen(optarg) > PATH_MAX - 256) {
                        (void)fprintf(stderr, "phauld: not an absolute path: %s\n", optarg);
                        return -1;
                }
                (void)strcpy(place, optarg);
        }
        if (optind < argc) {
                (void)fprintf(stderr, "phauld: unexpected argument: %s\n", argv[optind]);
                return -1;
        }
        return 0;
}

int main(int argc, char **argv)
{
        static struct places places = {
                .config_file = PHAUL_SYSCONFDIR "/phaul/phaul.conf",
                .trust = PHAUL_SYSCONFDIR "/phaul",
                .state = "/var/lib/phaul",
                .runtime = "/run/phaul",
                .libexec = PHAUL_LIBEXECDIR,
                .data = PHAUL_DATADIR,
        };
        CLEANUP(loop_free_ptr) struct loop *loop = NULL;
        CLEANUP(source_free_ptr) struct source *on_term = NULL;
        CLEANUP(source_free_ptr) struct source *on_int = NULL;
        CLEANUP(daemon_free_ptr) struct daemon *daemon = NULL;
        enum log_level level = LOG_LEVEL_INFO;
        struct error err = {0};
        bool stopping = false;

        int r = parse(argc, argv, &places, &level);
        if (r != 0)
                return r < 0 ? error_exit_code(ERROR_USAGE) : 0;
        log_init("phauld", level);
        (void)umask(0022);
        (void)signal(SIGPIPE, SIG_IGN);
        if (geteuid() != 0) {
                log_error("phauld must be started by root");
                return error_exit_code(ERROR_DENIED);
        }

        r = loop_new(&loop);
        if (r == 0)
                r = loop_add_signal(loop, SIGTERM, stop, &stopping, &on_term);
        if (r == 0)
                r = loop_add_signal(loop, SIGINT, stop, &stopping, &on_int);
        if (r < 0) {
                log_error("cannot make the event loop: %s", strerrordesc_np(-r));
                return 1;
        }
        if (daemon_new(loop, &places, haulers, &daemon, &err) < 0) {
                log_error("%s", err.text);
                return error_exit_code(err.kind);
        }
        if (places.transient)
                log_info("phauld " PHAUL_VERSION " on %s, for tunnels only", daemon->config->host_name);
        else
                log_info("phauld " PHAUL_VERSION " on %s, port %u", daemon->config->host_name, daemon->config->port);
        (void)sd_notify(0, "READY=1");
        uint64_t idle_until = clock_ms() + TRANSIENT_FIRST_MS;
        while (!stopping && r == 0) {
                r = loop_run_once(loop, places.transient ? TRANSIENT_LOOK_MS : -1);
                if (places.transient && daemon_is_busy(daemon))
                        idle_until = clock_ms() + TRANSIENT_IDLE_MS;
                else if (places.transient && clock_ms() >= idle_until)
                        stopping = true;
        }
        (void)sd_notify(0, "STOPPING=1");
        if (r < 0)
                log_error("event loop: %s", strerrordesc_np(-r));
        return r < 0 ? 1 : 0;
}
