/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "base/cleanup.h"
#include "net/net.h"

/* TLS 1.3, mutual, and exactly the certificates the owner gave. */

/* Verify against one anchor alone: no other certificate can then lend its name or its key. */
static int verify_against(X509 *leaf, X509 *anchor, int purpose)
{
        X509_STORE *store = X509_STORE_new();
        X509_STORE_CTX *context = X509_STORE_CTX_new();
        int result = X509_V_ERR_OUT_OF_MEM;

        if (store && context && X509_STORE_add_cert(store, anchor) == 1 &&
            X509_STORE_CTX_init(context, store, leaf, NULL) == 1 && X509_STORE_CTX_set_purpose(context, purpose) == 1) {
                X509_STORE_CTX_set_depth(context, 0);
                result = X509_verify_cert(context) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(context);
                if (result == X509_V_OK && sk_X509_num(X509_STORE_CTX_get0_chain(context)) != 2)
                        result = X509_V_ERR_CERT_CHAIN_TOO_LONG; /* the anchor itself is no leaf */
        }
        X509_STORE_CTX_free(context);
        X509_STORE_free(store);
        return result;
}

static bool is_about_time(int error)
{
        return error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID;
}

/* Replaces OpenSSL's search through a store. Called with the certificate the peer has shown. */
static int on_certificate(X509_STORE_CTX *context, void *data)
{
        struct net *net = data;
        X509 *leaf = X509_STORE_CTX_get0_cert(context);
        int purpose = net->config.accepting ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER;
        int error = X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY;

        net->peer_anchor = NULL;
        for (size_t i = 0; i < net->n_anchors && !net->peer_anchor; i++) {
                int r = verify_against(leaf, net->anchors[i].certificate, purpose);
                if (r == X509_V_OK)
                        net->peer_anchor = &net->anchors[i];
                else if (is_about_time(r))
                        error = r;
        }
        ERR_clear_error();
        if (net->peer_anchor)
                error = X509_V_OK;
        bool pairing = net->config.accepting ? net->config.allow_strangers : net->purpose == PURPOSE_PAIR;
        if (!net->peer_anchor && pairing) {
                net->stranger = true;
                error = X509_V_OK;
        }
        net->verify_error = error;
        X509_STORE_CTX_set_error(context, error);
        return error == X509_V_OK;
}

static int set_identity(struct net *net)
{
        const unsigned char *p = net->config.key;
        EVP_PKEY *key = d2i_AutoPrivateKey(NULL, &p, (long)net->config.key_size);
        int r = key && SSL_CTX_use_certificate_ASN1(net->tls, (int)net->config.leaf_size, net->config.leaf) == 1 &&
                                SSL_CTX_use_PrivateKey(net->tls, key) == 1 && SSL_CTX_check_private_key(net->tls) == 1
                        ? 0
                        : -EINVAL;

        EVP_PKEY_free(key);
        OPENSSL_cleanse(net->config.key, sizeof(net->config.key));
        return r;
}

int tls_init(struct net *net, struct error *err)
{
        /* Without openssl.cnf: what a connection is made of is decided here. */
        if (OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_LOAD_SSL_STRINGS |
                                     OPENSSL_INIT_LOAD_CRYPTO_STRINGS,
                             NULL) != 1)
                return error_set(err, EIO, "cannot start OpenSSL");
        net->tls = SSL_CTX_new(net->config.accepting ? TLS_server_method() : TLS_client_method());
        if (!net->tls)
                return error_set(err, ENOMEM, "cannot start TLS");

        SSL_CTX *c = net->tls;
        if (SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) != 1 ||
            SSL_CTX_set_max_proto_version(c, TLS1_3_VERSION) != 1 ||
            SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") !=
                    1 ||
            SSL_CTX_set1_groups_list(c, "X25519:P-256") != 1 || SSL_CTX_set_num_tickets(c, 0) != 1 ||
            set_identity(net) < 0)
                return error_set(err, EIO, "cannot set TLS up");
        SSL_CTX_set_security_level(c, 2);
        (void)SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
        SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_max_cert_list(c, 16384);
        SSL_CTX_set_read_ahead(c, 1);
        SSL_CTX_set_default_read_buffer_len(c, (size_t)256 * 1024);
        int verify = SSL_VERIFY_PEER;
        if (!net->config.allow_strangers)
                verify |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
        SSL_CTX_set_verify(c, verify, NULL);
        SSL_CTX_set_cert_verify_callback(c, on_certificate, net);
        return 0;
}

int tls_start(struct net *net, struct error *err)
{
        net->ssl = SSL_new(net->tls);
        if (!net->ssl || SSL_set_fd(net->ssl, net->tcp_fd) != 1)
                return error_set(err, ENOMEM, "cannot start TLS");
        if (net->config.accepting)
                SSL_set_accept_state(net->ssl);
        else
                SSL_set_connect_state(net->ssl);
        return 0;
}

static int explain_verify(const struct net *net, struct error *err)
{
        const char *who = net->peer;

        switch (net->verify_error) {
        case X509_V_ERR_CERT_HAS_EXPIRED:
                return error_set_kind(err, ERROR_DENIED, EKEYEXPIRED,
                                      "the certificate of %s has expired (or the clocks differ by more than a day)",
                                      who);
        case X509_V_ERR_CERT_NOT_YET_VALID:
                return error_set_kind(err, ERROR_DENIED, EKEYREJECTED,
                                      "the certificate of %s is not valid yet: the clocks of the hosts differ", who);
        default:
                return error_set_kind(err, ERROR_DENIED, EKEYREJECTED,
                                      "the certificate of %s is not one of a paired host", who);
        }
}

/* The peer told us by an alert what it thinks of us. */
static bool explain_alert(const struct net *net, int reason, struct error *err)
{
        switch (reason) {
        case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
        case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
                (void)error_set_kind(err, ERROR_DENIED, EACCES,
                                     "the host at %s does not know this host: it is not paired there%s", net->peer,
                                     net->purpose == PURPOSE_PAIR ? ", and does not offer pairing now" : "");
                return true;
        case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
                (void)error_set_kind(err, ERROR_DENIED, EKEYEXPIRED,
                                     "to the host at %s the certificate of this host has expired: compare the clocks",
                                     net->peer);
                return true;
        default:
                return false;
        }
}

void tls_explain(const struct net *net, int ssl_error, int saved_errno, struct error *err)
{
        unsigned long code = ERR_peek_error();
        int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
        bool early = net->phase == PHASE_HANDSHAKE || (net->phase == PHASE_GREETING && !net->config.accepting);
        const char *text = code ? ERR_reason_error_string(code) : NULL;

        ERR_clear_error();
        if (ssl_error == SSL_ERROR_SSL && net->verify_error != X509_V_OK && net->phase == PHASE_HANDSHAKE) {
                (void)explain_verify(net, err);
        } else if (ssl_error == SSL_ERROR_SSL && reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
                (void)error_set_kind(err, ERROR_DENIED, EACCES, "%s showed no certificate", net->peer);
        } else if (ssl_error == SSL_ERROR_SSL && explain_alert(net, reason, err)) {
                return;
        } else if (ssl_error == SSL_ERROR_SYSCALL && saved_errno == ETIMEDOUT) {
                (void)error_set(err, ETIMEDOUT, "no answer from %s for %u s", net->peer,
                                (net->config.silence_ms + 500) / 1000);
        } else if (ssl_error == SSL_ERROR_SSL && reason != SSL_R_UNEXPECTED_EOF_WHILE_READING) {
                (void)error_set_kind(err, early ? ERROR_DENIED : ERROR_FAILED, EPROTO,
                                     "%s does not speak the protocol of phaul (%s)", net->peer, text ?: "TLS error");
        } else if (early && net->config.accepting) {
                (void)error_set(err, ECONNRESET, "%s closed the connection during the handshake", net->peer);
        } else if (early) {
                (void)error_set_kind(err, ERROR_DENIED, ECONNRESET,
                                     "the peer at %s closed the connection during the handshake%s", net->peer,
                                     net->is_tcp ? ": this host is probably not paired there" : "");
        } else {
                (void)error_set(err, ECONNRESET, "the connection to %s broke", net->peer);
        }
}
