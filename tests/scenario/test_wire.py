# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another program speaks the wire, as PROTOCOL.md describes it: well, badly, and with bad intentions."""

import contextlib
import json
import secrets
import socket
import ssl
import struct
import time

import pytest

from site_under_test import eventually
from wire import (BULK, BULK_FRAME, CONTROL, NEWEST, PAIR, QUERY, STREAM, STREAM_FRAME, Acceptor, Identity, Wire, context,
                  encode, frame, inside, pair)

IP = "10.77.0.20"


@pytest.fixture(scope="module")
def alpha(whole_site):
    """alpha's own authority, and a leaf below it."""
    identity = Identity(whole_site["alpha"], "/etc/phaul/pki")
    identity.today = identity.leaf()
    return identity


@pytest.fixture(scope="module")
def gamma(whole_site):
    """A host that is this test program: it pairs with both hosts by itself, and can be connected to."""
    identity = Identity(whole_site.client, "/root/gamma", make=True)
    identity.today = identity.leaf()
    trusted = "".join(host.run("cat", "/etc/phaul/pki/ca.crt").stdout for host in whole_site.hosts.values())
    identity.acceptor = Acceptor(whole_site, identity.today, trusted)
    for host in whole_site.hosts.values():
        code = host.run("phaul", "pair", "--offer").stdout.split()[-1]
        fingerprint = pair(whole_site, host, identity, "gamma", identity.acceptor.port, code)
        assert fingerprint == whole_site.api(host, "GET", "/host")[1]["fingerprint"]
    yield identity
    identity.acceptor.close()
    for host in whole_site.hosts.values():
        host.run("phaul", "unpair", "gamma", check=False)


class Watched:
    """beta while somebody talks to it."""

    def __init__(self, site):
        self.site, self.host = site, site["beta"]
        eventually(lambda: not site.pid_of(self.host, "phaul-net"), what="quiet")
        self.phauld = site.pid_of(self.host, "phauld")
        self.before = site.traces("beta")
        self.lines = len(self._log())
        self.migrations = set(self._migrations())

    def _log(self):
        return self.host.run("cat", "/var/log/phauld.log").stdout.splitlines()

    def _migrations(self):
        return self.host.run("ls", "/var/lib/phaul/migrations").stdout.split()

    def said(self):
        """What phauld and new sessions have logged since."""
        new = [f"/var/lib/phaul/migrations/{m}/log" for m in self._migrations() if m not in self.migrations]
        sessions = self.host.run("cat", *new, check=False).stdout if new else ""
        return "\n".join(self._log()[self.lines:]) + "\n" + sessions

    def says(self, text):
        eventually(lambda: text in self.said(), 60, f"'{text}' in the log, which says: {self.said()}")

    def connect(self, identity, leaf=None):
        return Wire.connect(self.site, self.host, leaf or identity.today)

    def unharmed(self):
        """The same phauld serves, nothing of the talk is left, and no process of it died of something else than its end."""
        eventually(lambda: not self.site.pid_of(self.host, "phaul-net"), 60, "phaul-net")
        self.site.settled_traces("beta", self.before)
        assert self.site.api(self.host, "GET", "/host")[0] == 200
        assert self.site.pid_of(self.host, "phauld") == self.phauld
        assert "unexpectedly" not in self.said() and "Sanitizer" not in self.said(), self.said()


@pytest.fixture(scope="module")
def tidy(whole_site):
    """Both hosts as every story finds them and has to leave them; cleaning up between all of them would take minutes."""
    whole_site.ready()
    whole_site["beta"].run("mkdir", "-p", "-m", "700", "/run/phaul/images")  # made by the first migration, and kept
    yield whole_site
    whole_site.clean()


@pytest.fixture
def beta(tidy):
    watched = Watched(tidy)
    yield watched
    watched.unharmed()


def control(beta, identity, migration=None):
    """A control connection of a new migration, welcomed."""
    wire = beta.connect(identity)
    migration = migration or secrets.token_hex(16)
    wire.hello(CONTROL, migration=migration)
    assert wire.expect("WELCOME")["version"] == 1
    return wire, migration


# -- it works as described


def test_a_question_is_answered(beta, alpha):
    wire = beta.connect(alpha)
    wire.hello(QUERY)
    assert wire.expect("WELCOME")["version"] == 1
    wire.send("QUERY", what="status")
    answer = wire.expect("ANSWER")
    assert answer["last"] == 1 and json.loads(answer["body"])["host"] == "beta"
    wire.send("QUERY", what="inventory", argument=["lxc"])
    body, last = "", 0
    while not last:
        part = wire.expect("ANSWER")
        body, last = body + part["body"], part["last"]
    assert json.loads(body)["workloads"] == []
    wire.send("QUERY", what="the weather")
    assert wire.expect("ANSWER")["kind"] == "usage"
    wire.close()


def test_a_newer_program_is_met_half_way(beta, alpha):
    wire = beta.connect(alpha)
    wire.hello(QUERY, low=1, high=7)
    assert wire.expect("WELCOME")["version"] == NEWEST
    wire.close()


@pytest.mark.parametrize("purpose", [QUERY, CONTROL])
@pytest.mark.parametrize("low, high", [(NEWEST + 1, NEWEST + 2), (0, 0), (3, 1)])
def test_no_common_version(beta, alpha, low, high, purpose):
    wire = beta.connect(alpha)
    wire.hello(purpose, low, high, **({"migration": secrets.token_hex(16)} if purpose == CONTROL else {}))
    refusal = wire.expect("REFUSE")
    assert refusal["kind"] == "refused" and f"1 to {NEWEST}" in refusal["text"] and f"{low} to {high}" in refusal["text"], refusal
    assert wire.last_words() == []
    beta.says(f"the peer {low} to {high}")


def test_another_program_is_paired_and_seen(tidy, gamma):
    """The fixture did the pairing by PROTOCOL.md alone; here alpha asks the new host for its state."""
    def story(wire):
        assert wire.expect("HELLO")["purpose"] == QUERY
        wire.send("WELCOME", version=1)
        assert wire.expect("QUERY")["what"] == "status"
        wire.send("ANSWER", body='{"host": "gamma", "version": "from elsewhere"}', last=1)
        wire.last_words()

    with gamma.acceptor.serving(story):
        status, hosts = tidy.api(tidy["alpha"], "GET", "/hosts")
    seen = next(h for h in hosts if h["name"] == "gamma")
    assert status == 200 and seen["state"] == "reachable" and seen["version"] == "from elsewhere", seen


def test_another_paired_host_at_that_address_is_not_talked_to(tidy, gamma, alpha):
    """At gamma's address somebody shows a leaf of alpha, which beta trusts as well, but is not gamma."""
    beta_ca = tidy["beta"].run("cat", "/etc/phaul/pki/ca.crt").stdout
    honest, gamma.acceptor.context = gamma.acceptor.context, context(ssl.PROTOCOL_TLS_SERVER, alpha.today, beta_ca)
    heard = []
    try:
        with gamma.acceptor.serving(lambda wire: heard.extend(wire.last_words())):
            _, hosts = tidy.api(tidy["beta"], "GET", "/hosts")
    finally:
        gamma.acceptor.context = honest
    seen = next(h for h in hosts if h["name"] == "gamma")
    assert heard == [] and seen["state"] == "unreachable" and "not the one expected" in seen["reason"], (heard, seen)


# -- nothing beyond the handshake


def attempt(beta, leaf):
    """What a HELLO with that leaf brings."""
    try:
        wire = Wire.connect(beta.site, beta.host, leaf)
        wire.hello(QUERY)
    except (ssl.SSLError, OSError):
        return []
    return wire.last_words()


LEAVES = {
    "no certificate": lambda alpha, stranger: None,
    "expired": lambda alpha, stranger: alpha.leaf("20200101000000Z", "20200201000000Z"),
    "not yet valid": lambda alpha, stranger: alpha.leaf("20900101000000Z", "20900201000000Z"),
    "unpaired": lambda alpha, stranger: stranger.leaf(),
    "alpha in name only": lambda alpha, stranger: stranger.leaf(issuer="/root/as-alpha/ca.crt"),
    "the authority itself": lambda alpha, stranger: alpha.host.run("cat", "/etc/phaul/pki/ca.key", "/etc/phaul/pki/ca.crt").stdout,
    "for other uses": lambda alpha, stranger: alpha.leaf(usage="emailProtection"),
}


@pytest.mark.parametrize("leaf", LEAVES, ids=[name.replace(" ", "-") for name in LEAVES])
def test_bad_certificates(beta, alpha, leaf):
    stranger = Identity(beta.site.client, "/root/stranger", make=True)
    # An authority with the stranger's key that calls itself what alpha's does.
    subject = alpha.openssl("x509", "-in", "/etc/phaul/pki/ca.crt", "-noout", "-subject", "-nameopt", "compat").split("subject=")[1].strip()
    beta.site.client.run("mkdir", "-p", "/root/as-alpha")
    stranger.openssl("req", "-x509", "-key", "/root/stranger/ca.key", "-out", "/root/as-alpha/ca.crt", "-days", "10", "-subj",
                     subject if subject.startswith("/") else "/" + subject.replace(" = ", "="))
    assert attempt(beta, LEAVES[leaf](alpha, stranger)) == []
    beta.says("was not accepted")


def test_a_good_certificate_gets_further(beta, alpha):
    """What the tests above rely on."""
    wire = beta.connect(alpha)
    wire.hello(QUERY)
    wire.expect("WELCOME")
    wire.close()


def test_not_older_than_tls13(beta, alpha):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    plain = inside(beta.site.client, lambda: socket.create_connection((beta.host.address, 12345), 10))
    with pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)
    beta.says("does not speak the protocol")


# -- breaking the rules


def hello(**fields):
    return frame(encode("HELLO", **{"version_min": 1, "version_max": 1, "purpose": QUERY, **fields}))


def raw(kind, *fields):
    """A message of any numbers."""
    return frame(struct.pack(">HH", kind, 0) + b"".join(struct.pack(">HI", tag, len(value)) + value for tag, value in fields))


BEFORE_WELCOME = {
    "garbage": secrets.token_bytes(4096),
    "an oversized frame": struct.pack(">IB3x", 128 * 1024 + 1, 1),
    "a frame of 4 GiB": struct.pack(">IB3x", 0xffffffff, 1),
    "a frame too small": frame(b"\0\1"),
    "reserved bytes": struct.pack(">IB3s", 4, 1, b"\0\0\1") + struct.pack(">HH", 4, 0),
    "an unknown kind of frame": frame(b"abcd", 9),
    "bulk before its time": frame(b"\0" * 28, BULK_FRAME),
    "stream before its time": frame(b"abcd", STREAM_FRAME),
    "a question without a greeting": frame(encode("QUERY", what="status")),
    "two greetings": hello() + hello(),
    "an unknown message": raw(999),
    "an unknown field": raw(1, (1, b"\0\0\0\1"), (2, b"\0\0\0\1"), (5, b"\0\0\0\4"), (99, b"")),
    "a missing field": raw(1, (1, b"\0\0\0\1"), (2, b"\0\0\0\1")),
    "a repeated field": raw(1, (1, b"\0\0\0\1"), (1, b"\0\0\0\1"), (2, b"\0\0\0\1"), (5, b"\0\0\0\4")),
    "a number of three bytes": raw(1, (1, b"\0\0\1"), (2, b"\0\0\0\1"), (5, b"\0\0\0\4")),
    "a field longer than its message": frame(struct.pack(">HHHI", 1, 0, 1, 4000000000)),
    "a message of the other side": frame(encode("WELCOME", version=1)),
    "text that is not UTF-8": raw(1, (1, b"\0\0\0\1"), (2, b"\0\0\0\1"), (5, b"\0\0\0\4"), (4, b"\xff\xfe")),
    "text with a NUL": raw(1, (1, b"\0\0\0\1"), (2, b"\0\0\0\1"), (5, b"\0\0\0\4"), (4, b"a\0b")),
}


@pytest.mark.parametrize("what", BEFORE_WELCOME, ids=[name.replace(" ", "-") for name in BEFORE_WELCOME])
def test_rules_broken_at_once(beta, alpha, what):
    wire = beta.connect(alpha)
    wire.tls.sendall(BEFORE_WELCOME[what])
    said = wire.last_words()
    assert all(name == "WELCOME" for name, _ in said), said
    beta.says("broke the protocol" if "two" not in what else "the peer greeted")  # it was no limit on silence


@pytest.mark.parametrize("purpose", [0, 6, 4000000000])
def test_an_unknown_purpose(beta, alpha, purpose):
    wire = beta.connect(alpha)
    wire.hello(purpose)
    assert "purpose" in wire.expect("REFUSE")["text"]
    assert wire.last_words() == []


def test_pairing_that_was_not_offered(beta, alpha):
    wire = beta.connect(alpha)
    wire.hello(PAIR)
    assert wire.expect("REFUSE")["kind"] == "denied"


@pytest.mark.parametrize("name", ["PREPARE", "COMMIT", "RELEASED", "STATE_END", "ABORTED"])
def test_out_of_turn(beta, alpha, name):
    """Before an offer nothing else has a meaning, least of all COMMIT."""
    wire, migration = control(beta, alpha)
    wire.send(name)
    wire.expect("DISCARDED")
    wire.close()
    known = {"PREPARE": "that was not offered", "STATE_END": "never began", "ABORTED": "took it back"}
    beta.says(known.get(name, f"sent {name} out of turn"))
    beta.says("offered nothing")
    # Until its session has ended it is told how it was.
    eventually(lambda: beta.site.api(beta.host, "GET", f"/migrations/{migration}")[0] == 404, what="what was never offered")


def test_messages_of_another_purpose(beta, alpha):
    wire = beta.connect(alpha)
    wire.hello(QUERY)
    wire.expect("WELCOME")
    wire.send("COMMIT")
    assert wire.last_words() == []
    beta.says("broke the protocol")


def test_a_hundred_messages_at_once(beta, alpha):
    """Nobody's memory is filled by messages that no phase waits for."""
    wire, _ = control(beta, alpha)
    wire.tls.sendall(frame(encode("RELEASED")) * 100)
    assert {name for name, _ in wire.last_words()} <= {"DISCARDED"}


@pytest.mark.parametrize("purpose", [STREAM, BULK])
def test_data_for_an_unknown_migration(beta, alpha, purpose):
    wire = beta.connect(alpha)
    wire.hello(purpose, migration=secrets.token_hex(16), token=bytes(16), stream=1)
    assert wire.expect("REFUSE")["kind"] == "not-found"
    beta.says("there is no migration")


@pytest.mark.parametrize("migration", ["../../../etc", "A" * 32, "0" * 31, "x", "0" * 64])
def test_bad_migration_ids(beta, alpha, migration):
    wire = beta.connect(alpha)
    wire.hello(CONTROL, migration=migration)
    assert wire.expect("REFUSE")["kind"] == "usage"
    beta.says("malformed hello")


@pytest.mark.parametrize("purpose", [STREAM, BULK])
def test_a_wrong_token(beta, alpha, purpose):
    wire, migration = control(beta, alpha)
    for token in ({}, {"token": bytes(16)}, {"token": secrets.token_bytes(16)}):
        data = beta.connect(alpha)
        data.hello(purpose, migration=migration, stream=1, **token)
        assert data.expect("REFUSE")["kind"] == "denied"
    wire.close()


def test_somebody_elses_migration(beta, alpha, gamma):
    """gamma is paired with beta, but this migration is alpha's."""
    wire, migration = control(beta, alpha)
    for purpose in (CONTROL, STREAM, BULK):
        other = beta.connect(gamma)
        other.hello(purpose, migration=migration, stream=1, token=bytes(16))
        assert other.expect("REFUSE")["kind"] == "denied"
    asked = beta.connect(gamma)
    asked.hello(QUERY)
    asked.expect("WELCOME")
    asked.send("QUERY", what="handover", migration=migration)
    assert asked.expect("ANSWER")["kind"] == "not-found"
    asked.close()
    wire.send("OFFER", migration=migration, workload_kind="lxc", workload_id="shop", target_id="shop", description="{}")
    wire.expect("VERDICT")
    wire.close()
    beta.says("is not one with this host")


def test_saying_nothing(beta, alpha):
    """Whoever goes silent is dropped: before TLS, before HELLO, before a question, before an offer."""
    before_tls = inside(beta.site.client, lambda: socket.create_connection((beta.host.address, 12345), 10))
    before_hello = beta.connect(alpha)
    before_question = beta.connect(alpha)
    before_question.hello(QUERY)
    before_offer = beta.connect(alpha)
    before_offer.hello(CONTROL, migration=secrets.token_hex(16))
    deadline = time.monotonic() + 60
    for plain in (before_tls, before_hello.tls, before_question.tls, before_offer.tls):
        with pytest.raises((EOFError, OSError)):
            while True:
                plain.settimeout(max(0.1, deadline - time.monotonic()))
                try:
                    if not plain.recv(65536):
                        raise EOFError
                except TimeoutError:
                    pytest.fail("it still listens")
    beta.says("was lost: no answer")


# -- offers


def offer(wire, migration, **fields):
    wire.send("OFFER", **{"migration": migration, "workload_kind": "lxc", "workload_id": "shop", "target_id": "shop",
                          "description": "{}", "memory_bytes": 1 << 20, "file_bytes": 1 << 20, "file_count": 10, **fields})


JUNK = json.dumps({"trees": ["/"] * 11000, "config": "lxc.rootfs.path = dir:/\n"})
BAD_OFFERS = {
    "out of the folder": {"target_id": "../../etc"},
    "source out of the folder": {"workload_id": "../../etc"},
    "spaces": {"target_id": "a b"},
    "hidden": {"target_id": ".shop"},
    "an option": {"target_id": "-rf"},
    "a line break": {"target_id": "a\nb"},
    "128 characters": {"target_id": "a" * 128},
    "another kind": {"workload_kind": "../lxc"},
    "an unknown kind": {"workload_kind": "vm"},
    "not JSON": {"description": "lxc.rootfs.path = dir:/"},
    "junk": {"description": "x" * 90000},
    "JSON junk": {"description": JUNK},
    "deep junk": {"description": "[" * 90000},
    "no description": {"description": ""},
    "an array": {"description": "[]"},
    "impossible memory": {"memory_bytes": 2 ** 64 - 1},
    "impossible files": {"file_bytes": 2 ** 64 - 1, "file_count": 2 ** 64 - 1},
}
BROKEN_OFFERS = {
    "300 characters": {"target_id": "a" * 300},
    "not UTF-8": {"target_id": b"sh\xffop"},
    "a NUL": {"target_id": b"sh\0op"},
    "too large": {"description": "x" * (97 * 1024)},
    "no name": {"workload_id": ""},
}


@pytest.mark.parametrize("what", BAD_OFFERS, ids=[name.replace(" ", "-") for name in BAD_OFFERS])
def test_bad_offers(beta, alpha, what):
    wire, migration = control(beta, alpha)
    offer(wire, migration, **BAD_OFFERS[what])
    name, fields = wire.next()
    if name == "VERDICT":
        assert fields["grade"] == "error", fields
        wire.send("PREPARE")  # as if it had not been refused
        name, fields = wire.next()
    assert name == "DISCARDED", (name, fields)
    wire.close()


@pytest.mark.parametrize("what", BROKEN_OFFERS, ids=[name.replace(" ", "-") for name in BROKEN_OFFERS])
def test_broken_offers(beta, alpha, what):
    wire, migration = control(beta, alpha)
    offer(wire, migration, **BROKEN_OFFERS[what])
    assert {name for name, _ in wire.last_words()} <= {"DISCARDED"}
    beta.says("broke the protocol")


def test_an_offer_for_another_migration(beta, alpha):
    wire, _ = control(beta, alpha)
    offer(wire, secrets.token_hex(16))
    name, fields = wire.next()
    assert name == "DISCARDED" or fields.get("grade") == "error", (name, fields)
    wire.close()


# -- real offers, from a real container


def be_told(gamma, wire):
    """Until the source has said that it aborted, on this connection or one it makes for that, and has heard DISCARDED.

    A source to which the other side had said that itself has nothing left to tell.
    """
    while True:
        try:
            while True:
                name, fields = wire.next(10)
                if name == "HELLO":
                    wire.send("WELCOME", version=1)
                elif name == "ABORTED" or (name == "RESUME" and fields["state"] == "aborted"):
                    wire.send("DISCARDED")
                    wire.last_words(5)
                    return
        except (EOFError, OSError):
            wire.close()
            try:
                wire = gamma.acceptor.accept(3)
            except TimeoutError:
                return


@pytest.fixture(scope="module")
def offered(tidy, gamma):
    """What alpha offers of a container; gamma, which is asked, keeps it and says no."""
    whole_site = tidy
    whole_site.redis("alpha", "shop", IP)
    heard = []

    def story(wire):
        assert wire.expect("HELLO")["purpose"] == CONTROL
        wire.send("WELCOME", version=1)
        heard.append(wire.expect("OFFER"))
        item = {"id": "mood", "host": "gamma", "grade": "error", "reason": "not today"}
        wire.send("VERDICT", grade="error", item=[json.dumps(item)])
        be_told(gamma, wire)

    with gamma.acceptor.serving(story):
        done = whole_site["alpha"].run("phaul", "migrate", "lxc/shop", "gamma", check=False)
    assert done.returncode == 3 and "not today" in done.stderr, done.stderr
    assert whole_site.state("alpha", "shop") == "RUNNING"
    whole_site.clean()
    return {key: value for key, value in heard[0].items() if key not in ("migration", "options")}


def test_vanishing_after_prepare(beta, alpha, offered):
    wire, migration = control(beta, alpha)
    wire.send("OFFER", migration=migration, **offered)
    verdict = wire.expect("VERDICT", 30)
    assert verdict["grade"] != "error", verdict
    wire.send("PREPARE")
    assert len(wire.expect("READY", 30)["token"]) == 16
    assert beta.host.run("ls", "/var/lib/lxc").stdout.split() == ["shop"]
    wire.close()
    beta.says("lost")


def test_vanishing_in_the_middle_of_files(beta, alpha, offered):
    """A stream that speaks anything but rsync, and then an end without a goodbye."""
    wire, migration = control(beta, alpha)
    wire.send("OFFER", migration=migration, **offered)
    wire.expect("VERDICT", 30)
    wire.send("PREPARE")
    token = wire.expect("READY", 30)["token"]
    data = beta.connect(alpha)
    data.hello(STREAM, migration=migration, token=token, stream=1)
    wire.send("FILES_ROUND", round=1, tree=0, stream=1, round_kind=0)
    data.expect("WELCOME")
    data.tls.sendall(frame(secrets.token_bytes(60000), STREAM_FRAME))
    done = wire.expect("FILES_DONE")
    assert done["status"] != 0 and done["text"], done
    data.close()
    wire.close()


def first_word(*wires, seconds=15):
    """Of several to whom one thing is said: each has a process of its own there, so which comes too late is open."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for wire in wires:
            with contextlib.suppress(TimeoutError):
                return wire.next(0.3)
    raise AssertionError("nothing was said")


@pytest.mark.parametrize("what", ["a tree that does not exist", "the same stream twice", "memory that is not one",
                                  "memory that is left out", "more connections than there can be"])
def test_after_prepare_the_rules_hold_as_well(beta, alpha, offered, what):
    wire, migration = control(beta, alpha)
    wire.send("OFFER", migration=migration, **offered)
    wire.expect("VERDICT", 30)
    wire.send("PREPARE")
    token = wire.expect("READY", 30)["token"]
    data = beta.connect(alpha)
    if "tree" in what:
        wire.send("FILES_ROUND", round=1, tree=99, stream=1, round_kind=0)
    elif "twice" in what:
        data.hello(STREAM, migration=migration, token=token, stream=7)
        second = beta.connect(alpha)
        second.hello(STREAM, migration=migration, token=token, stream=7)
        name, fields = first_word(second, data)
        assert name == "REFUSE" and fields["kind"] == "denied", (name, fields)
        wire.send("COMMIT")
    elif "left out" in what:
        data.hello(BULK, high=NEWEST, migration=migration, token=token, stream=2)
        second = beta.connect(alpha)
        second.hello(BULK, high=NEWEST, migration=migration, token=token, stream=3)
        wire.send("STATE_OPEN", stream=2, streams=2)
        for number, one in enumerate((data, second), 1):
            one.expect("WELCOME")
            one.tls.sendall(frame(struct.pack(">HHQQQQ", 1, 0, 1, 0, 0, number), BULK_FRAME))
    elif "more" in what:
        data.hello(BULK, migration=migration, token=token, stream=2)
        wire.send("STATE_OPEN", stream=2, streams=9)
    else:
        data.hello(BULK, migration=migration, token=token, stream=2)
        wire.send("STATE_OPEN", stream=2)
        data.expect("WELCOME")
        data.tls.sendall(frame(struct.pack(">HHQQQ", 77, 0, 1, 2, 3) + b"../../etc/passwd", BULK_FRAME))
    reason = wire.expect("DISCARDED", 30)["text"]
    assert reason and ("left out" not in what or "left out a frame" in reason), reason
    data.close()
    wire.close()


def test_a_target_that_cheats(tidy, gamma):
    """gamma agrees to take the container, then says what it likes: it stays where it is, with its connections."""
    lies = [["PREPARED"], ["RUNNING"], ["VERDICT"], ["READY", "PREPARED", "RUNNING"], None]
    tidy.redis("alpha", "shop", IP)
    before = tidy.traces("alpha")
    counting = tidy.counting(IP)
    for lie in lies:
        def story(wire, lie=lie):
            item = [json.dumps({"id": "mood", "host": "gamma", "grade": "ok", "reason": "why not"})]
            wire.expect("HELLO")
            wire.send("WELCOME", version=1)
            wire.expect("OFFER")
            wire.send("VERDICT", grade="ok", item=item)
            wire.expect_after_probes("PREPARE")
            if lie is None:
                wire.tls.sendall(secrets.token_bytes(5000))
            for name in lie or []:
                more = {"READY": {"token": bytes(16)}, "VERDICT": {"grade": "ok", "item": item}}.get(name, {})
                wire.send(name, **more)
            be_told(gamma, wire)

        with gamma.acceptor.serving(story):
            done = tidy["alpha"].run("phaul", "migrate", "lxc/shop", "gamma", check=False)
        assert done.returncode == 1 and "gamma" in done.stderr, (lie, done.stderr)
        assert tidy.state("alpha", "shop") == "RUNNING"
    tidy.finish(counting, IP)
    tidy.settled_traces("alpha", before)
    tidy.clean()
