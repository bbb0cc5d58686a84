# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wire of PROTOCOL.md as another program speaks it: nothing of phaul's own code is used here."""

import contextlib
import ctypes
import hashlib
import hmac
import os
import secrets
import socket
import ssl
import struct
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

PORT = 12345
CONTROL, STREAM, BULK, QUERY, PAIR = 1, 2, 3, 4, 5
MESSAGE_FRAME, BULK_FRAME, STREAM_FRAME = 1, 2, 3
NEWEST = 5  # version of the protocol
CLONE_NEWNET = 0x40000000


def _tables():
    """(types of messages, tags of fields, kinds of values) as the tables of PROTOCOL.md have them."""
    types, tags, kinds = {}, {}, {}
    for line in (Path(__file__).resolve().parents[2] / "PROTOCOL.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[2] in ("C", "A", "both") and cells[1][:1].isdigit():
            types.update(zip(cells[0].split(", "), map(int, cells[1].split(", "))))
        elif len(cells) == 7:
            for name, tag, value in (cells[:3], cells[4:]):
                if tag.isdigit():
                    tags[name], kinds[name] = int(tag), value.split(",")[0]
    return types, tags, kinds


TYPES, TAGS, KINDS = _tables()
NAMES = {number: name for name, number in TYPES.items()}
FIELDS = {tag: name for name, tag in TAGS.items()}
REPEATED = {"item", "argument"}


def inside(host, make):
    """What make() returns, called by a thread in the network of a host of the lab. Sockets stay there."""
    result = []

    def enter():
        with open(f"/run/netns/phaul-lab.{host.lab.name}.{host.name}", encoding="ascii") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) < 0:
                result.append(OSError(ctypes.get_errno(), "setns"))
                return
        try:
            result.append(make())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def frame(body, kind=MESSAGE_FRAME):
    return struct.pack(">IB3x", len(body), kind) + body


def encode(name, /, **fields):
    """A message. Numbers, text and bytes as they are; a list repeats its field."""
    body = struct.pack(">HH", TYPES[name], 0)
    for field, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                one = struct.pack(">Q" if KINDS[field] == "u64" else ">I", one)
            elif isinstance(one, str):
                one = one.encode()
            body += struct.pack(">HI", TAGS[field], len(one)) + one
    return body


def decode(body):
    """(name, fields) of a message; repeated items come as a list."""
    kind, zero = struct.unpack_from(">HH", body)
    assert zero == 0 and kind in NAMES, body[:16]
    fields, at = {}, 4
    while at < len(body):
        tag, size = struct.unpack_from(">HI", body, at)
        value = body[at + 6:at + 6 + size]
        assert len(value) == size
        at += 6 + size
        field = FIELDS[tag]
        if KINDS[field] == "text":
            value = value.decode()
        elif KINDS[field] in ("u32", "u64"):
            assert size == int(KINDS[field][1:]) // 8, field
            value = int.from_bytes(value, "big")
        if field in REPEATED:
            fields.setdefault(field, []).append(value)
        else:
            assert field not in fields, field
            fields[field] = value
    return NAMES[kind], fields


class Identity:
    """An authority and its leaves, made by the openssl command in a host of the lab."""

    def __init__(self, host, folder, make=False):
        self.host, self.folder = host, folder
        if make:
            host.run("mkdir", "-p", folder)
            self.openssl("req", "-x509", *KEY, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt", "-days", "3650",
                         "-subj", "/CN=another program", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0",
                         "-addext", "keyUsage=critical,keyCertSign")
        self.ca = host.run("cat", f"{folder}/ca.crt").stdout
        self.der = ssl.PEM_cert_to_DER_cert(self.ca)

    def openssl(self, *arguments):
        return self.host.run("openssl", *arguments).stdout

    def leaf(self, first="", last="", usage="clientAuth,serverAuth", issuer=None):
        """PEM of a key and a certificate below the authority; dates as YYYYMMDDHHMMSSZ, else from yesterday to tomorrow."""
        first = first or time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() - 86400))
        last = last or time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 86400))
        work = f"/tmp/leaf-{secrets.token_hex(4)}"
        self.openssl("req", "-new", *KEY, "-keyout", f"{work}.key", "-out", f"{work}.csr", "-subj", "/CN=leaf")
        self.host.run("sh", "-c", f"printf 'basicConstraints=critical,CA:FALSE\\nkeyUsage=critical,digitalSignature\\n"
                      f"extendedKeyUsage={usage}\\n' > {work}.ext")
        self.openssl("x509", "-req", "-in", f"{work}.csr", "-CA", issuer or f"{self.folder}/ca.crt", "-CAkey", f"{self.folder}/ca.key",
                     "-not_before", first, "-not_after", last, "-extfile", f"{work}.ext", "-out", f"{work}.crt")
        pem = self.host.run("cat", f"{work}.key", f"{work}.crt").stdout
        self.host.run("sh", "-c", f"rm {work}.*")
        return pem


KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def context(side, leaf, trusted=None):
    """TLS 1.3 with this leaf; whom it trusts is one authority, or anybody."""
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED if trusted else ssl.CERT_NONE
    if trusted:
        made.load_verify_locations(cadata=trusted)
    if leaf:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(leaf)
            file.flush()
            made.load_cert_chain(file.name)
    return made


class Wire:
    """One connection, after the TLS handshake."""

    def __init__(self, tls):
        self.tls = tls
        self.buffer = b""

    @classmethod
    def connect(cls, site, to, leaf, trusted=None):
        """From the lab's client to a host."""
        plain = inside(site.client, lambda: socket.create_connection((to.address, PORT), 10))
        return cls(context(ssl.PROTOCOL_TLS_CLIENT, leaf, trusted).wrap_socket(plain))

    def close(self):
        self.tls.close()

    def send(self, name, /, **fields):
        self.tls.sendall(frame(encode(name, **fields)))

    def hello(self, purpose, low=1, high=1, **fields):
        self.send("HELLO", version_min=low, version_max=high, purpose=purpose, software="another program", **fields)

    def _read(self, size, deadline):
        while len(self.buffer) < size:
            self.tls.settimeout(max(0.001, deadline - time.monotonic()))
            got = self.tls.recv(65536)
            if not got:
                raise EOFError
            self.buffer += got
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def next(self, seconds=15):
        """The next message but PING and PONG; EOFError at the end, in order or not."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                size, kind = struct.unpack(">IB3x", self._read(8, deadline))
                body = self._read(size, deadline)
                assert kind == MESSAGE_FRAME, kind
                name, fields = decode(body)
                if name == "PING":
                    self.send("PONG")
                elif name != "PONG":
                    return name, fields
        except TimeoutError:
            raise
        except OSError as error:  # ssl.SSLError is one
            raise EOFError from error

    def expect(self, name, seconds=15):
        got, fields = self.next(seconds)
        assert got == name, (got, fields)
        return fields

    def expect_after_probes(self, name):
        """As expect(), when the other side may measure the link first."""
        while (got := self.next())[0] == "PROBE":
            if "last" in got[1]:
                self.send("PROBED")
        assert got[0] == name, got
        return got[1]

    def last_words(self, seconds=15):
        """Everything it still says until it ends the connection."""
        said = []
        try:
            while True:
                said.append(self.next(seconds))
        except EOFError:
            self.close()
            return said


class Acceptor:
    """A port in the lab's client that other hosts can connect to."""

    def __init__(self, site, leaf, trusted):
        self.context = context(ssl.PROTOCOL_TLS_SERVER, leaf, trusted)
        self.listener = inside(site.client, lambda: socket.create_server(("0.0.0.0", 0)))
        self.port = self.listener.getsockname()[1]

    def accept(self, seconds=15):
        """The next connection that is alive: others asked how we are while nobody was listening, and left."""
        self.listener.settimeout(seconds)
        while True:
            plain, _ = self.listener.accept()
            plain.settimeout(seconds)
            try:
                return Wire(self.context.wrap_socket(plain, server_side=True))
            except OSError:
                plain.close()

    @contextlib.contextmanager
    def serving(self, story):
        """story(wire) of the next connection, beside what is done meanwhile; it has to come to its end."""
        with futures.ThreadPoolExecutor(1) as teller:
            told = teller.submit(lambda: story(self.accept()))
            yield
            told.result()

    def close(self):
        self.listener.close()


def pair(site, host, identity, name, port, code):
    """Become a paired host of `host` that is called `name` there."""
    code = code.upper().replace("-", "").translate(str.maketrans("ILO", "110"))
    code = "-".join(code[at:at + 5] for at in range(0, len(code), 5))
    wire = Wire.connect(site, host, identity.leaf())
    wire.hello(PAIR)
    wire.expect("WELCOME")
    nonce = os.urandom(32)
    wire.send("PAIR_OPEN", certificate=identity.ca, nonce=nonce, name=name, port=port)
    offer = wire.expect("PAIR_OFFER")
    extracted = hmac.digest(b"phaul pairing 1", code.encode(), "sha256")
    key = hmac.digest(extracted, b"proof\x01", "sha256")

    def proof(role):
        parts = [role, nonce, offer["nonce"], identity.der, ssl.PEM_cert_to_DER_cert(offer["certificate"]), name.encode(),
                 offer["name"].encode()]
        return hmac.digest(key, b"".join(struct.pack(">I", len(p)) + p for p in parts), "sha256")

    assert offer["proof"] == proof(b"offerer")
    wire.send("PAIR_PROOF", proof=proof(b"connector"))
    wire.expect("PAIR_DONE")
    wire.close()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(offer["certificate"])).hexdigest()
