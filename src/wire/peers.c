/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "wire/trust.h"

/* Paired hosts: one file DIR/peers/NAME.json each, replaced as a whole. */

#define PEER_LIMIT (64 * 1024)
#define PEERS_MAX 4096
#define SUFFIX ".json"

static inline void json_unref_ptr(json_t **p)
{
        json_decref(*p);
}

void peer_done(struct peer *peer)
{
        if (!peer)
                return;
        free(peer->certificate);
        peer->certificate = NULL;
}

static int peers_path(const char *dir, const char *name, char *ret, size_t size, struct error *err)
{
        if (snprintf(ret, size, "%s/peers%s%s%s", dir, name ? "/" : "", name ?: "", name ? SUFFIX : "") >= (int)size)
                return error_set(err, ENAMETOOLONG, "path too long: %s", dir);
        return 0;
}

static bool address_is_valid(const char *address)
{
        size_t n = strlen(address);

        if (n == 0 || n >= sizeof(((struct peer *)0)->address))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!isalnum((unsigned char)address[i]) && !strchr(".:-_%", address[i]))
                        return false;
        return true;
}

static int parse_peer(const char *name, const char *text, size_t size, struct peer *ret, struct error *err)
{
        json_error_t where;
        CLEANUP(json_unref_ptr) json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
        const char *address, *certificate;
        json_int_t port, paired;

        if (!root)
                return error_set(err, EBADMSG, "line %d: %s", where.line, where.text);
        /* Name and fingerprint are written for people; what counts is the file's name and the certificate. */
        if (json_unpack(root, "{s:s, s:I, s:I, s:s}", "address", &address, "port", &port, "paired_ms", &paired,
                        "certificate", &certificate) < 0)
                return error_set(err, EBADMSG, "address, port, paired_ms or certificate is missing");
        if (!address_is_valid(address) || port < 1 || port > 65535)
                return error_set(err, EBADMSG, "not a valid address and port");

        struct peer p = {.port = (uint16_t)port, .paired_ms = paired};
        (void)snprintf(p.name, sizeof(p.name), "%s", name);
        (void)snprintf(p.address, sizeof(p.address), "%s", address);
        int r = trust_inspect(certificate, p.fingerprint, &p.expires_ms, err);
        if (r < 0)
                return r;
        p.certificate = strdup(certificate);
        if (!p.certificate)
                return error_set(err, ENOMEM, "out of memory");
        *ret = p;
        return 0;
}

static int load_peer(const char *dir, const char *name, struct peer *ret, struct error *err)
{
        AUTO_FREE char *text = NULL;
        char path[PATH_MAX];
        size_t size;
        int r = peers_path(dir, name, path, sizeof(path), err);

        if (r < 0)
                return r;
        r = fd_read_file(AT_FDCWD, path, PEER_LIMIT, &text, &size);
        if (r == -ENOENT)
                return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "no paired host is called %s", name);
        if (r < 0)
                return error_errno(err, -r, "cannot read %s", path);
        r = parse_peer(name, text, size, ret, err);
        return r < 0 ? error_wrap(err, "%s", path) : 0;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(((const struct peer *)a)->name, ((const struct peer *)b)->name);
}

static void free_peers(struct peer *peers, size_t n)
{
        for (size_t i = 0; i < n; i++)
                peer_done(&peers[i]);
        free(peers);
}

/* NAME of a directory entry NAME.json; false for anything else (leftovers of an interrupted write among them). */
static bool name_of_entry(const char *entry, char name[static NAME_MAX_LENGTH + 1])
{
        size_t n = strlen(entry), suffix = sizeof(SUFFIX) - 1;

        if (n <= suffix || n - suffix > NAME_MAX_LENGTH || strcmp(entry + n - suffix, SUFFIX) != 0)
                return false;
        memcpy(name, entry, n - suffix);
        name[n - suffix] = '\0';
        return name_is_valid(name);
}

int trust_list(const char *dir, struct peer **ret, size_t *ret_n, struct error *err)
{
        char path[PATH_MAX], name[NAME_MAX_LENGTH + 1];
        struct peer *peers = NULL;
        size_t n = 0;
        int r = peers_path(dir, NULL, path, sizeof(path), err);

        if (r < 0)
                return r;
        AUTO_DIR DIR *stream = opendir(path);
        if (!stream && errno != ENOENT)
                return error_errno(err, errno, "cannot read %s", path);
        while (stream && r == 0) {
                errno = 0;
                const struct dirent *entry = readdir(stream);
                if (!entry) {
                        if (errno)
                                r = error_errno(err, errno, "cannot read %s", path);
                        break;
                }
                if (!name_of_entry(entry->d_name, name))
                        continue;
                struct peer *grown = n < PEERS_MAX ? realloc(peers, (n + 1) * sizeof(*peers)) : NULL;
                if (!grown) {
                        r = error_set(err, ENOMEM, "too many paired hosts in %s", path);
                        break;
                }
                peers = grown;
                struct error inner = {0};
                r = load_peer(dir, name, &peers[n], &inner);
                if (r == 0)
                        n++;
                else if (inner.kind == ERROR_NOT_FOUND)
                        r = 0; /* removed while we looked */
                else if (err)
                        *err = inner;
        }
        if (r < 0) {
                free_peers(peers, n);
                return r;
        }
        if (n)
                qsort(peers, n, sizeof(*peers), by_name);
        *ret = peers;
        *ret_n = n;
        return 0;
}

int trust_find(const char *dir, const char *name, struct peer *ret, struct error *err)
{
        char quoted[256];

        if (!name_is_valid(name))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "not the name of a host: %s",
                                      name_quote(name, quoted, sizeof(quoted)));
        return load_peer(dir, name, ret, err);
}

int trust_find_fingerprint(const char *dir, const char *fingerprint, struct peer *ret, struct error *err)
{
        struct peer *peers;
        size_t n;
        bool found = false;
        int r = trust_list(dir, &peers, &n, err);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n && !found; i++) {
                if (strcmp(peers[i].fingerprint, fingerprint) != 0)
                        continue;
                *ret = peers[i];
                peers[i].certificate = NULL;
                found = true;
        }
        free_peers(peers, n);
        return found ? 0 : error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "no paired host has that certificate");
}

/* A certificate names one host: were it known under two names, a migration could be sent from a host to itself. */
static int check_new(const char *dir, const struct peer *peer, char fingerprint[static FINGERPRINT_LENGTH + 1],
                     struct error *err)
{
        char own[FINGERPRINT_LENGTH + 1], quoted[256];
        AUTO_FREE char *own_pem = NULL;
        struct peer other = {0};
        struct error ignored = {0};
        int64_t expires;

        if (!name_is_valid(peer->name))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "not the name of a host: %s",
                                      name_quote(peer->name, quoted, sizeof(quoted)));
        if (!address_is_valid(peer->address) || peer->port == 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "not a valid address and port: %s",
                                      name_quote(peer->address, quoted, sizeof(quoted)));
        if (!peer->certificate)
                return error_set_kind(err, ERROR_USAGE, EINVAL, "%s has no certificate", peer->name);
        int r = trust_inspect(peer->certificate, fingerprint, &expires, err);
        if (r < 0)
                return error_wrap(err, "certificate of %s", peer->name);
        if (expires <= clock_wall_ms())
                return error_set_kind(err, ERROR_REFUSED, EKEYEXPIRED, "the certificate of %s has expired", peer->name);
        r = trust_self(dir, &own_pem, own, err);
        if (r < 0)
                return r;
        if (strcmp(own, fingerprint) == 0)
                return error_set_kind(err, ERROR_REFUSED, EEXIST, "a host cannot be paired with itself");

        r = trust_find_fingerprint(dir, fingerprint, &other, &ignored);
        if (r == 0 && strcmp(other.name, peer->name) != 0)
                r = error_set_kind(err, ERROR_REFUSED, EEXIST, "that host is already paired under the name %s",
                                   other.name);
        else if (r < 0 && ignored.kind == ERROR_NOT_FOUND)
                r = 0;
        else if (r < 0 && err)
                *err = ignored;
        peer_done(&other);
        return r;
}

int trust_add(const char *dir, const struct peer *peer, struct error *err)
{
        char path[PATH_MAX], fingerprint[FINGERPRINT_LENGTH + 1];
        int r = check_new(dir, peer, fingerprint, err);

        if (r == 0)
                r = peers_path(dir, NULL, path, sizeof(path), err);
        if (r < 0)
                return r;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return error_errno(err, errno, "cannot make %s", path);

        CLEANUP(json_unref_ptr)
        json_t *root = json_pack("{s:s, s:s, s:i, s:I, s:s, s:s}", "name", peer->name, "address", peer->address, "port",
                                 (int)peer->port, "paired_ms", (json_int_t)peer->paired_ms, "fingerprint", fingerprint,
                                 "certificate", peer->certificate);
        AUTO_FREE char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
        if (!text)
                return error_set(err, ENOMEM, "out of memory");
        r = peers_path(dir, peer->name, path, sizeof(path), err);
        if (r < 0)
                return r;
        r = fd_write_file(AT_FDCWD, path, text, strlen(text), 0600);
        return r < 0 ? error_errno(err, -r, "cannot write %s", path) : 0;
}

int trust_remove(const char *dir, const char *name, struct error *err)
{
        char path[PATH_MAX], quoted[256], file[NAME_MAX_LENGTH + sizeof(SUFFIX)];
        int r;

        if (!name_is_valid(name))
                return error_set_kind(err, ERROR_USAGE, EINVAL, "not the name of a host: %s",
                                      name_quote(name, quoted, sizeof(quoted)));
        r = peers_path(dir, NULL, path, sizeof(path), err);
        if (r < 0)
                return r;
        (void)snprintf(file, sizeof(file), "%s" SUFFIX, name);
        AUTO_FD int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir_fd < 0 || unlinkat(dir_fd, file, 0) < 0) {
                if (errno == ENOENT)
                        return error_set_kind(err, ERROR_NOT_FOUND, ENOENT, "no paired host is called %s", name);
                return error_errno(err, errno, "cannot remove %s/%s", path, file);
        }
        /* Not durable would mean trusted again after a crash. */
        return fsync(dir_fd) < 0 ? error_errno(err, errno, "cannot sync %s", path) : 0;
}
