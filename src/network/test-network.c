/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A host with a bridge and a container on it, in miniature: this process stands in a network namespace of its own (the
 * host), a child in another (the container), and a veth pair joins them.
 */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/spawn.h"
#include "network/claims.h"
#include "network/inside.h"
#include "network/network.h"
#include "network/test-network.h"

struct scene {
        pid_t container;
};

/* Run a command given as words; the exit code. */
static int command(const char *text)
{
        char copy[256], *words[32], *save = NULL;
        size_t n = 0;
        AUTO_FREE char *output = NULL;
        struct error err = {0};

        (void)snprintf(copy, sizeof(copy), "%s", text);
        for (char *w = strtok_r(copy, " ", &save); w && n < 31; w = strtok_r(NULL, " ", &save))
                words[n++] = w;
        words[n] = NULL;
        const struct spawn_options options = {.argv = (const char *const *)words, .merge_stderr = true};
        int r = spawn_capture(&options, 5000, 1000, &output, &err);
        if (r != 0)
                print_message("%s: %d %s%s\n", text, r, output ? output : "", err.text);
        return r;
}

static void ip(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void ip(const char *format, ...)
{
        char arguments[200], text[256];
        va_list list;

        va_start(list, format);
        (void)vsnprintf(arguments, sizeof(arguments), format, list);
        va_end(list);
        (void)snprintf(text, sizeof(text), "ip %s", arguments);
        assert_int_equal(command(text), 0);
}

static int run_ip(char **output, size_t *size, void *context, struct error *err)
{
        char text[256];

        (void)output;
        (void)size;
        (void)snprintf(text, sizeof(text), "ip %s", (const char *)context);
        return command(text) == 0 ? 0 : error_set(err, EIO, "%s", text);
}

static void ip_inside(const struct scene *scene, const char *arguments)
{
        assert_int_equal(inside_run(scene->container, 5000, run_ip, (char *)arguments, NULL, NULL, NULL), 0);
}

/* Send one datagram from inside to the host's 192.0.2.1. */
static int send_datagram(char **output, size_t *size, void *context, struct error *err)
{
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc0000201)};
        AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        (void)output;
        (void)size;
        (void)context;
        if (fd < 0 || sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
                return error_errno(err, errno, "sendto");
        return 0;
}

/* Does a datagram from the container reach the host within `ms`? */
static bool gets_through(const struct scene *scene, int ms)
{
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc0000201)};
        AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof(here)), 0);
        assert_int_equal(inside_run(scene->container, 5000, send_datagram, NULL, NULL, NULL, NULL), 0);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        return poll(&p, 1, ms) == 1;
}

/* Output of `ip ARGUMENTS` inside; caller frees. */
static int show_inside(char **output, size_t *size, void *context, struct error *err)
{
        const char *const argv[] = {"ip", "-6", context, "show", "dev", "eth0", NULL};
        const struct spawn_options options = {.argv = argv};

        int r = spawn_capture(&options, 5000, 8000, output, err);
        if (r == 0)
                *size = strlen(*output);
        return r;
}

static char *inside6(const struct scene *scene, const char *what)
{
        char *text = NULL;

        assert_int_equal(inside_run(scene->container, 5000, show_inside, (char *)what, &text, NULL, NULL), 0);
        return text;
}

static void port_of(const struct scene *scene, struct network_port *ret)
{
        struct network_port *ports;
        struct error err = {0};
        size_t n;

        if (network_ports(scene->container, &ports, &n, &err) < 0)
                fail_msg("%s", err.text);
        assert_int_equal(n, 1);
        *ret = ports[0];
        free(ports);
}

static int set_up(void **state)
{
        struct scene *scene = calloc(1, sizeof(*scene));
        int ready[2];
        char c;

        assert_int_equal(pipe(ready), 0);
        scene->container = fork();
        assert_true(scene->container >= 0);
        if (scene->container == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (unshare(CLONE_NEWNET) < 0 || write(ready[1], "r", 1) != 1)
                        _exit(1);
                for (;;)
                        (void)pause();
        }
        assert_int_equal(read(ready[0], &c, 1), 1);
        (void)close(ready[0]);
        (void)close(ready[1]);
        ip("link add br9 type bridge");
        ip("address add 192.0.2.1/24 dev br9");
        ip("link set br9 up");
        ip("link add vethc type veth peer name eth0 netns %d", (int)scene->container);
        ip("link set vethc up master br9");
        ip_inside(scene, "address add 192.0.2.9/24 dev eth0");
        ip_inside(scene, "link set eth0 up");
        *state = scene;
        return 0;
}

static int tear_down(void **state)
{
        struct scene *scene = *state;
        struct error err = {0};

        assert_int_equal(network_delete("vethc", &err), 0);
        assert_int_equal(network_delete("br9", &err), 0);
        (void)kill(scene->container, SIGKILL);
        (void)waitpid(scene->container, NULL, 0);
        free(scene);
        return 0;
}

/* The pair is found from the inside out, with its bridge; a namespace that is the host's own is refused. */
static void ports_are_found(void **state)
{
        struct scene *scene = *state;
        struct network_port port, *none;
        struct error err = {0};
        size_t n;

        port_of(scene, &port);
        assert_string_equal(port.inside, "eth0");
        assert_string_equal(port.outside, "vethc");
        assert_string_equal(port.bridge, "br9");
        assert_int_not_equal(port.mac[0] | port.mac[1] | port.mac[5], 0);
        assert_int_equal(network_ports(getpid(), &none, &n, &err), -EOPNOTSUPP);

        ip_inside(scene, "link add odd type bridge");
        assert_int_equal(network_ports(scene->container, &none, &n, &err), -EOPNOTSUPP);
        assert_non_null(strstr(err.text, "odd"));
        ip_inside(scene, "link del odd");

        /* Both ends inside: an index of theirs may well be one of ours, and still is not our interface. */
        ip_inside(scene, "link add in1 type veth peer name in2");
        assert_int_equal(network_ports(scene->container, &none, &n, &err), -EOPNOTSUPP);
}

static void lock_stops_frames_and_keeps_the_carrier(void **state)
{
        struct scene *scene = *state;
        struct network_port port;
        struct error err = {0};

        port_of(scene, &port);
        assert_true(gets_through(scene, 500));
        assert_int_equal(network_lock(&port, &err), 0);
        assert_int_equal(network_lock(&port, &err), 0);
        assert_false(gets_through(scene, 50));
        AUTO_FREE char *links = inside6(scene, "link");
        assert_non_null(strstr(links, "LOWER_UP"));

        /* Another container comes to the bridge: the kernel computes its port states anew, and the lock holds. */
        ip("link add vethd type veth peer name vethe");
        ip("link set vethd up master br9");
        ip("link set vethe up");
        assert_false(gets_through(scene, 50));
        ip("link del vethd");
        assert_false(gets_through(scene, 50));

        assert_int_equal(network_unlock(&port, &err), 0);
        assert_int_equal(network_unlock(&port, &err), 0);
        assert_true(gets_through(scene, 500));

        struct network_port gone = {.outside = "nothere"};
        assert_int_equal(network_unlock(&gone, &err), 0);
        assert_int_equal(network_lock(&gone, &err), -ENODEV);
}

/* Where the kernel's spanning tree owns the port states, the port leaves the bridge and comes back. */
static void lock_works_with_spanning_tree(void **state)
{
        struct scene *scene = *state;
        struct network_port port, now;
        struct error err = {0};

        port_of(scene, &port);
        assert_false(network_bridge_delays("br9"));
        ip("link set br9 type bridge stp_state 1 forward_delay 200");
        assert_true(network_bridge_delays("br9"));
        assert_int_equal(network_lock(&port, &err), 0);
        assert_int_equal(network_lock(&port, &err), 0);
        port_of(scene, &now);
        assert_string_equal(now.bridge, "");
        assert_false(gets_through(scene, 50));
        assert_int_equal(network_unlock(&port, &err), 0);
        port_of(scene, &now);
        assert_string_equal(now.bridge, "br9");

        /* Twice two seconds, the least delay the protocol has. */
        bool through = false;
        for (int i = 0; i < 80 && !through; i++)
                through = gets_through(scene, 100);
        assert_true(through);
}

/* As CRIU leaves it: the inside end is up, the outside end down and in no bridge. One call later frames pass. */
static void attach_forwards(void **state)
{
        struct scene *scene = *state;
        struct error err = {0};

        ip("link set vethc nomaster down");
        uint64_t start = clock_us();
        assert_int_equal(network_attach("vethc", "br9", &err), 0);
        print_message("attached in %d us\n", (int)(clock_us() - start));
        bool through = false;
        for (int i = 0; i < 50 && !through; i++)
                through = gets_through(scene, 100);
        assert_true(through);
        assert_int_equal(network_attach("vethc", "br9", &err), 0);

        assert_int_equal(network_attach("vethc", "nobridge", &err), -ENODEV);
        assert_int_equal(network_attach("vethc", "lo", &err), -ENODEV);
        assert_true(network_bridge_exists("br9"));
        assert_false(network_bridge_exists("lo"));
        assert_false(network_bridge_exists("a-name-that-is-too-long"));
}

/* What the bridge hears: requests, answers and advertisements with the container's addresses and a right checksum. */
static void announce_is_heard(void **state)
{
        struct scene *scene = *state;
        struct error err = {0};
        struct sockaddr_ll here = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
        unsigned requests = 0, answers = 0, advertisements = 0;
        struct network_port port;

        port_of(scene, &port);
        ip_inside(scene, "-6 address add 2001:db8::9/64 dev eth0 nodad");
        AUTO_FD int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
        here.sll_ifindex = (int)if_nametoindex("br9");
        assert_int_equal(bind(fd, (struct sockaddr *)&here, sizeof(here)), 0);

        uint64_t start = clock_us();
        if (network_announce(scene->container, &err) < 0)
                fail_msg("%s", err.text);
        print_message("announced in %d us\n", (int)(clock_us() - start));

        uint8_t frame[2048];
        ssize_t n;
        while ((n = recv(fd, frame, sizeof(frame), 0)) > 0) {
                static const uint8_t v4[4] = {192, 0, 2, 9};
                if (memcmp(frame + 6, port.mac, 6) != 0)
                        continue;
                if (n >= 42 && frame[12] == 8 && frame[13] == 6 && memcmp(frame + 28, v4, 4) == 0 &&
                    memcmp(frame + 38, v4, 4) == 0 && memcmp(frame + 22, port.mac, 6) == 0) {
                        requests += frame[21] == 1;
                        answers += frame[21] == 2;
                }
                /* the sum over pseudo header and message, checksum included, is all ones */
                if (n == 86 && frame[12] == 0x86 && frame[20] == 58 && frame[54] == 136 && (frame[58] & 0x20)) {
                        uint32_t sum = 32 + 58;
                        for (size_t i = 22; i < 86; i += 2)
                                sum += (uint32_t)(frame[i] << 8 | frame[i + 1]);
                        while (sum >> 16)
                                sum = (sum & 0xffff) + (sum >> 16);
                        assert_int_equal(sum, 0xffff);
                        advertisements++;
                }
        }
        assert_int_equal(requests, 3);
        assert_int_equal(answers, 3);
        assert_in_range(advertisements, 3, 6); /* the link-local address may still be tentative */

        AUTO_FREE char *addresses = NULL;
        assert_int_equal(network_addresses(scene->container, &addresses, &err), 0);
        assert_string_equal(addresses, "192.0.2.9/24 2001:db8::9/64");
}

/* A connection that a dead CRIU left in repair mode: writes vanish. Put right, it goes on. */
static void repair_is_turned_off(void **state)
{
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof(here);
        struct error err = {0};
        int on = 1;
        char c;

        (void)state;
        ip("link set lo up");
        AUTO_FD int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(listener, (struct sockaddr *)&here, sizeof(here)), 0);
        assert_int_equal(listen(listener, 1), 0);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&here, &size), 0);
        AUTO_FD int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(client, (struct sockaddr *)&here, sizeof(here)), 0);
        AUTO_FD int server = accept(listener, NULL, NULL);
        assert_true(server >= 0);

        /* The task that owns the connection; the descriptors here are copies of the same sockets. */
        pid_t task = fork();
        if (task == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        (void)pause();
        }
        assert_int_equal(setsockopt(server, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
        const pid_t tasks[] = {task, 0x3ffffff};
        int r = network_repair_off(tasks, 2, &err);
        if (r != 1)
                fail_msg("%d %s", r, err.text);
        assert_int_equal(network_repair_off(tasks, 1, &err), 0);
        int repair = -1;
        size = sizeof(repair);
        assert_int_equal(getsockopt(server, IPPROTO_TCP, TCP_REPAIR, &repair, &size), 0);
        assert_int_equal(repair, 0);
        /* And on again, for one whose end nobody is to hear of. */
        assert_int_equal(network_repair_on(tasks, 1, &err), 2); /* both ends are ours */
        assert_int_equal(network_repair_on(tasks, 1, &err), 0);
        assert_int_equal(getsockopt(server, IPPROTO_TCP, TCP_REPAIR, &repair, &size), 0);
        assert_int_equal(repair, 1);
        assert_int_equal(network_repair_off(tasks, 1, &err), 2);
        assert_int_equal(write(server, "x", 1), 1);
        struct pollfd p = {.fd = client, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 2000), 1);
        assert_int_equal(read(client, &c, 1), 1);
        assert_int_equal(c, 'x');
        (void)kill(task, SIGKILL);
        (void)waitpid(task, NULL, 0);
}

struct claims {
        char text[512];
};

static void note_claim(const struct network_wanted *wanted, const char *address, const char *who, bool gateway,
                       void *context)
{
        struct claims *c = context;
        const size_t n = strlen(c->text);

        (void)wanted;
        (void)snprintf(c->text + n, sizeof(c->text) - n, "[%s %s%s]", address ? address : "mac", who,
                       gateway ? ", the gateway" : "");
}

static struct claims claims_of(struct network_wanted *wanted, size_t n, bool away)
{
        struct claims c = {0};
        struct error err = {0};
        const struct network_workload w = {.wanted = wanted, .n = n, .away = away, .complete = true};

        if (network_claims(&w, note_claim, &c, &err) < 0)
                fail_msg("%s", err.text);
        return c;
}

/* The container answers for itself; for anybody else it is somebody who has the address already. */
static void claims_are_found(void **state)
{
        const struct scene *scene = *state;
        struct network_port port;

        ip_inside(scene, "address add 192.0.2.7/24 dev eth0");
        ip_inside(scene, "link set eth0 up");
        port_of(scene, &port);
        struct network_wanted wanted[] = {{.bridge = "br9", .mac_known = true},
                                          {.address = "192.0.2.7", .bridge = "br9"},
                                          {.address = "192.0.2.8", .bridge = "br9"}};
        memcpy(wanted[0].mac, port.mac, sizeof(port.mac));
        struct claims c = claims_of(wanted, 3, false);
        assert_string_equal(c.text, "");
        /* It does not run, and yet there is an answer. */
        c = claims_of(wanted, 3, true);
        assert_non_null(strstr(c.text, "[192.0.2.7 "));
        assert_non_null(strstr(c.text, " on br9]"));
        /* Another hardware address than its own. */
        wanted[0].mac[5] ^= 1;
        c = claims_of(wanted, 3, false);
        assert_non_null(strstr(c.text, "[192.0.2.7 "));
        assert_null(strstr(c.text, "192.0.2.8"));
        /* What somebody set for good is believed, and stays. */
        ip("neighbour replace 192.0.2.9 lladdr 02:00:00:00:00:09 nud permanent dev br9");
        (void)snprintf(wanted[2].address, sizeof(wanted[2].address), "192.0.2.9");
        for (int i = 0; i < 2; i++) {
                c = claims_of(wanted, 3, false);
                assert_non_null(strstr(c.text, "[192.0.2.9 02:00:00:00:00:09 on br9]"));
        }
        (void)snprintf(wanted[2].address, sizeof(wanted[2].address), "192.0.2.8");
        /* Its hardware address at an address that it has not got. */
        wanted[0].mac[5] ^= 1;
        c = claims_of(wanted, 1, false);
        assert_string_equal(c.text, "[mac 192.0.2.7 on br9]");
        /* It had that one, and the table of neighbours remembers. */
        ip_inside(scene, "address flush dev eth0");
        ip("neighbour replace 192.0.2.7 lladdr %02x:%02x:%02x:%02x:%02x:%02x nud reachable dev br9", port.mac[0],
           port.mac[1], port.mac[2], port.mac[3], port.mac[4], port.mac[5]);
        c = claims_of(wanted, 1, false);
        assert_string_equal(c.text, "");
        /* This host itself. */
        ip("address add 192.0.2.8/32 dev br9");
        c = claims_of(wanted, 3, false);
        assert_string_equal(c.text, "[192.0.2.8 interface br9 of this host]");
        ip("link set br9 address 02:00:00:00:00:77");
        memcpy(wanted[0].mac, "\x02\x00\x00\x00\x00\x77", 6);
        c = claims_of(wanted, 1, false);
        assert_string_equal(c.text, "[mac interface br9 of this host]");
}

/* What it has on a bridge of its own is no business of others, who may have the same. */
static void what_it_has_within_is_its_own(void **state)
{
        const struct scene *scene = *state;
        AUTO_FREE struct network_port *ports = NULL;
        AUTO_FREE char *named = NULL;
        struct network_port port;
        struct error err = {0};
        size_t n = 0;

        ip_inside(scene, "link set eth0 up");
        ip_inside(scene, "link add docker0 type bridge");
        ip_inside(scene, "address add 172.17.0.1/16 dev docker0");
        ip_inside(scene, "link set docker0 up");
        assert_int_equal(network_ports_among(scene->container, &ports, &n, &err), 0);
        assert_int_equal(n, 1);
        assert_string_equal(ports[0].inside, "eth0");
        port = ports[0];
        assert_int_equal(network_addresses_named(scene->container, &named, &err), 0);
        assert_non_null(strstr(named, "eth0 192.0.2.9/24"));
        assert_non_null(strstr(named, "docker0 172.17.0.1/16"));

        ip("address add 172.17.0.1/32 dev br9");
        struct network_wanted wanted[] = {{.bridge = "br9", .mac_known = true},
                                          {.address = "192.0.2.9", .bridge = "br9"},
                                          {.address = "172.17.0.1", .within = true}};
        memcpy(wanted[0].mac, port.mac, sizeof(port.mac));
        struct claims c = claims_of(wanted, 3, false);
        assert_string_equal(c.text, "");
        /* It answers for it on its port as well, as kernels do; that is no other one with its hardware address. */
        ip("address del 172.17.0.1/32 dev br9");
        ip("neighbour replace 172.17.0.1 lladdr %02x:%02x:%02x:%02x:%02x:%02x nud permanent dev br9", port.mac[0],
           port.mac[1], port.mac[2], port.mac[3], port.mac[4], port.mac[5]);
        c = claims_of(wanted, 3, false);
        assert_string_equal(c.text, "");
}

/* A router that answers for all addresses says little about one. */
static void a_gateway_is_told(void **state)
{
        struct network_wanted wanted[] = {{.bridge = "br9", .mac_known = true, .mac = {2, 0, 0, 0, 0, 5}},
                                          {.address = "192.0.2.7", .bridge = "br9"},
                                          {.address = "192.0.2.8", .bridge = "br9"}};

        (void)state;
        ip("route add default via 192.0.2.3");
        ip("neighbour replace 192.0.2.3 lladdr 02:00:00:00:00:01 nud permanent dev br9");
        ip("neighbour replace 192.0.2.7 lladdr 02:00:00:00:00:01 nud permanent dev br9");
        ip("neighbour replace 192.0.2.8 lladdr 02:00:00:00:00:09 nud permanent dev br9");
        struct claims c = claims_of(wanted, 3, false);
        assert_string_equal(c.text, "[192.0.2.7 02:00:00:00:00:01 on br9, the gateway]"
                                    "[192.0.2.8 02:00:00:00:00:09 on br9]");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(ports_are_found, set_up, tear_down),
                cmocka_unit_test_setup_teardown(lock_stops_frames_and_keeps_the_carrier, set_up, tear_down),
                cmocka_unit_test_setup_teardown(lock_works_with_spanning_tree, set_up, tear_down),
                cmocka_unit_test_setup_teardown(attach_forwards, set_up, tear_down),
                cmocka_unit_test_setup_teardown(announce_is_heard, set_up, tear_down),
                cmocka_unit_test_setup_teardown(claims_are_found, set_up, tear_down),
                cmocka_unit_test_setup_teardown(what_it_has_within_is_its_own, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_gateway_is_told, set_up, tear_down),
                cmocka_unit_test(repair_is_turned_off),
        };

        if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
                print_message("needs root and a network namespace\n");
                return 77;
        }
        int failed = cmocka_run_group_tests_name("network", tests, NULL, NULL);
        return failed + test_hooks();
}
