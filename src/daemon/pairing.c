/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/pairing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct exchange {
        unsigned generation;
        char code[TRUST_CODE_SIZE];
        char *own_certificate, *peer_certificate;
        char own_name[NAME_MAX_LENGTH + 1], peer_name[NAME_MAX_LENGTH + 1];
        uint8_t own_nonce[32], peer_nonce[32];
        uint32_t peer_port;
};

int pairing_offer(struct pairing *p, uint64_t now_ms, int64_t wall_ms, struct error *err)
{
        char code[TRUST_CODE_SIZE];
        int r = trust_code_new(code, sizeof(code));

        if (r < 0)
                return error_errno(err, -r, "cannot make a pairing code");
        (void)memcpy(p->code, code, sizeof(p->code));
        p->until_ms = now_ms + PAIRING_OPEN_MS;
        p->expires_ms = wall_ms + PAIRING_OPEN_MS;
        p->attempts = 0;
        p->generation++;
        return 0;
}

bool pairing_is_open(const struct pairing *p, uint64_t now_ms)
{
        return p->code[0] && now_ms < p->until_ms && p->attempts < PAIRING_ATTEMPTS;
}

void pairing_close(struct pairing *p)
{
        explicit_bzero(p->code, sizeof(p->code));
}

void exchange_free(struct exchange *e)
{
        if (!e)
                return;
        free(e->own_certificate);
        free(e->peer_certificate);
        explicit_bzero(e, sizeof(*e));
        free(e);
}

static int exchange_new(const struct pair_self *self, const char *code, struct exchange **ret, struct error *err)
{
        CLEANUP(exchange_free_ptr) struct exchange *e = calloc(1, sizeof(*e));
        char fingerprint[FINGERPRINT_LENGTH + 1];

        if (!e)
                return error_set(err, ENOMEM, "out of memory");
        (void)snprintf(e->code, sizeof(e->code), "%s", code);
        (void)snprintf(e->own_name, sizeof(e->own_name), "%s", self->name);
        if (getrandom(e->own_nonce, sizeof(e->own_nonce), 0) != (ssize_t)sizeof(e->own_nonce))
                return error_set(err, EIO, "no random numbers");
        int r = trust_self(self->trust_dir, &e->own_certificate, fingerprint, err);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(e);
        return 0;
}

/* What both sides tell of themselves. */
static int take_introduction(struct exchange *e, const struct message *m, struct error *err)
{
        const uint8_t *nonce;
        size_t size;

        if (message_get_text(m, FIELD_NAME, e->peer_name, sizeof(e->peer_name)) < 0 || !name_is_valid(e->peer_name) ||
            message_get_bytes(m, FIELD_NONCE, &nonce, &size) < 0 || size != sizeof(e->peer_nonce) ||
            message_dup_text(m, FIELD_CERTIFICATE, &e->peer_certificate) < 0)
                return error_set(err, EBADMSG, "malformed pairing message");
        memcpy(e->peer_nonce, nonce, sizeof(e->peer_nonce));
        return 0;
}

static int proof_of(const struct exchange *e, const char *role, bool own_connects, uint8_t ret[static 32],
                    struct error *err)
{
        int r = own_connects ? trust_pair_proof(e->code, role, e->own_nonce, e->peer_nonce, e->own_certificate,
                                                e->peer_certificate, e->own_name, e->peer_name, ret)
                             : trust_pair_proof(e->code, role, e->peer_nonce, e->own_nonce, e->peer_certificate,
                                                e->own_certificate, e->peer_name, e->own_name, ret);

        return r < 0 ? error_errno(err, -r, "cannot compute the pairing proof") : 0;
}

static int check_proof(const struct exchange *e, const char *role, bool own_connects, const struct message *m,
                       struct error *err)
{
        uint8_t expected[32];
        const uint8_t *proof;
        size_t size;

        if (message_get_bytes(m, FIELD_PROOF, &proof, &size) < 0 || size != sizeof(expected))
                return error_set(err, EBADMSG, "malformed pairing message");
        int r = proof_of(e, role, own_connects, expected, err);
        if (r < 0)
                return r;
        if (!trust_proof_equal(expected, proof))
                return error_set_kind(err, ERROR_DENIED, EACCES, "the pairing code is wrong");
        return 0;
}

static int fill_peer(const struct exchange *e, struct peer *ret, struct error *err)
{
        struct peer peer = {.port = (uint16_t)e->peer_port};

        int r = trust_inspect(e->peer_certificate, peer.fingerprint, &peer.expires_ms, err);
        if (r < 0)
                return error_wrap(err, "the certificate of %s", e->peer_name);
        (void)snprintf(peer.name, sizeof(peer.name), "%s", e->peer_name);
        peer.certificate = strdup(e->peer_certificate);
        if (!peer.certificate)
                return error_set(err, ENOMEM, "out of memory");
        *ret = peer;
        return 0;
}

int exchange_offer(struct pairing *p, const struct pair_self *self, uint64_t now_ms, const struct message *open,
                   struct exchange **ret, struct message **ret_reply, struct error *err)
{
        CLEANUP(exchange_free_ptr) struct exchange *e = NULL;
        CLEANUP(message_free_ptr) struct message *reply = NULL;
        uint8_t proof[32];

        if (!pairing_is_open(p, now_ms))
                return error_set_kind(err, ERROR_DENIED, EACCES, "%s does not offer to be paired just now", self->name);
        int r = exchange_new(self, p->code, &e, err);
        if (r == 0)
                r = take_introduction(e, open, err);
        if (r < 0)
                return r;
        if (message_get_u32(open, FIELD_PORT, &e->peer_port) < 0 || e->peer_port == 0 || e->peer_port > 65535)
                return error_set(err, EBADMSG, "malformed pairing message");
        e->generation = p->generation;
        r = proof_of(e, "offerer", false, proof, err);
        if (r < 0)
                return r;

        reply = message_new(MSG_PAIR_OFFER);
        message_put_text(reply, FIELD_CERTIFICATE, e->own_certificate);
        message_put_bytes(reply, FIELD_NONCE, e->own_nonce, sizeof(e->own_nonce));
        message_put_text(reply, FIELD_NAME, e->own_name);
        message_put_bytes(reply, FIELD_PROOF, proof, sizeof(proof));
        r = message_result(reply);
        if (r < 0)
                return error_errno(err, -r, "cannot answer");
        p->attempts++;
        *ret = TAKE_PTR(e);
        *ret_reply = TAKE_PTR(reply);
        return 0;
}

int exchange_accept(struct exchange *e, struct pairing *p, uint64_t now_ms, const struct message *proof,
                    struct peer *ret_peer, struct error *err)
{
        if (!p->code[0] || now_ms >= p->until_ms || p->generation != e->generation)
                return error_set_kind(err, ERROR_DENIED, EACCES, "the pairing code is no longer good");
        int r = check_proof(e, "connector", false, proof, err);
        if (r == 0)
                r = fill_peer(e, ret_peer, err);
        if (r == 0)
                pairing_close(p);
        return r;
}

int exchange_open(const struct pair_self *self, const char *code, struct exchange **ret, struct message **ret_open,
                  struct error *err)
{
        CLEANUP(exchange_free_ptr) struct exchange *e = NULL;
        CLEANUP(message_free_ptr) struct message *open = NULL;
        char normal[TRUST_CODE_SIZE];

        if (trust_code_normalize(code, normal, sizeof(normal)) < 0)
                return error_set_kind(err, ERROR_USAGE, EINVAL,
                                      "this is not a pairing code: `phaul pair --offer` prints one");
        int r = exchange_new(self, normal, &e, err);
        explicit_bzero(normal, sizeof(normal));
        if (r < 0)
                return r;
        open = message_new(MSG_PAIR_OPEN);
        message_put_text(open, FIELD_CERTIFICATE, e->own_certificate);
        message_put_bytes(open, FIELD_NONCE, e->own_nonce, sizeof(e->own_nonce));
        message_put_text(open, FIELD_NAME, e->own_name);
        message_put_u32(open, FIELD_PORT, self->port);
        r = message_result(open);
        if (r < 0)
                return error_errno(err, -r, "cannot ask");
        *ret = TAKE_PTR(e);
        *ret_open = TAKE_PTR(open);
        return 0;
}

int exchange_prove(struct exchange *e, const struct message *offer, struct message **ret_proof, struct peer *ret_peer,
                   struct error *err)
{
        CLEANUP(message_free_ptr) struct message *m = NULL;
        uint8_t proof[32];

        if (e->peer_certificate)
                return error_set(err, EPROTO, "a second offer");
        int r = take_introduction(e, offer, err);
        if (r == 0)
                r = check_proof(e, "offerer", true, offer, err);
        if (r == 0)
                r = proof_of(e, "connector", true, proof, err);
        if (r < 0)
                return r;
        m = message_new(MSG_PAIR_PROOF);
        message_put_bytes(m, FIELD_PROOF, proof, sizeof(proof));
        r = message_result(m);
        if (r < 0)
                return error_errno(err, -r, "cannot answer");
        r = fill_peer(e, ret_peer, err);
        if (r < 0)
                return r;
        *ret_proof = TAKE_PTR(m);
        return 0;
}
