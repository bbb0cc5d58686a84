# SPDX-License-Identifier: LGPL-2.1-or-later
"""The API is what docs/openapi.yaml says, no more and no less, and stays itself whoever talks to it and how."""

import http.client
import json
import re
import secrets
import socket
import threading
import time

import jsonschema
import pytest
import yaml

from site_under_test import TREE, Connection, eventually

IP = "10.77.0.20"
SPEC = yaml.safe_load((TREE / "docs/openapi.yaml").read_text())
METHODS = ["get", "post", "put", "patch", "delete", "options", "head", "trace"]
NOBODY = "0" * 32
ORDER = {"kind": "lxc", "id": "shop", "host": "beta"}


def ask(host, method, path, body=None, headers=None, timeout=30):
    """(status, headers, body as text) of one request on a connection of its own."""
    connection = Connection(host, timeout)
    headers = dict(headers or {})
    if isinstance(body, (dict, list)):
        body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
    connection.request(method.upper(), path, body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text


def operation(method, path):
    """The description of an operation: (its template, it) for a path like /migrations/0123."""
    path = path.removeprefix("/api/v1").partition("?")[0]
    for template, item in SPEC["paths"].items():
        if re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", template), path) and method.lower() in item:
            return item[method.lower()]
    return None


def resolved(node):
    while "$ref" in node:
        place = SPEC
        for step in node["$ref"].removeprefix("#/").split("/"):
            place = place[step]
        node = place
    return node


def validate(method, path, status, headers, text):
    """An answer against its description; whatever is not described for its status must be a problem."""
    described = operation(method, path)
    responses = described["responses"] if described else {}
    response = resolved(responses.get(str(status)) or {"$ref": "#/components/responses/Problem"})
    if "content" not in response:
        assert text == "", text
        return None
    kind = headers["content-type"].split(";")[0]
    assert kind in response["content"], (kind, status, text)
    value = json.loads(text) if kind.endswith("json") else text
    validator = jsonschema.Draft202012Validator(response["content"][kind]["schema"], resolver=jsonschema.RefResolver("", SPEC))
    problems = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(value)]
    assert not problems, (method, path, problems)
    undescribed(value, response["content"][kind]["schema"], f"{method} {path}")
    if kind == "application/problem+json":
        assert value["status"] == status, value
    return value


def undescribed(value, schema, where):
    """No member that the description does not know."""
    schema = resolved(schema)
    for choice in schema.get("oneOf", []):
        if resolved(choice).get("type") == "object" and isinstance(value, dict):
            schema = resolved(choice)
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) <= set(schema["properties"]), f"{where} says {set(value) - set(schema['properties'])}, which is not described"
        for key, member in value.items():
            undescribed(member, schema["properties"][key], f"{where}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for member in value:
            undescribed(member, schema["items"], where)


def call(host, method, path, body=None, headers=None):
    """(status, value) of a request below /api/v1, validated."""
    status, answered, text = ask(host, method, f"/api/v1{path}", body, headers)
    return status, validate(method, path, status, answered, text)


class Events:
    """A reader of the event stream."""

    def __init__(self, host, query="", last=None):
        self.connection = Connection(host)
        self.connection.request("GET", f"/api/v1/events{query}", headers={"Last-Event-ID": str(last)} if last is not None else {})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200 and self.answer.getheader("content-type") == "text/event-stream"
        self.seen, self.ended = [], False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        event = {}
        try:
            while line := self.answer.readline():
                key, _, value = line.decode().rstrip("\n").partition(": ")
                if key in ("id", "event", "data"):
                    event[key] = value
                elif not key and event:
                    self.seen.append((int(event.get("id", 0)), event["event"], json.loads(event["data"])))
                    event = {}
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            pass
        self.ended = True

    def names(self):
        return [name for _, name, _ in list(self.seen)]

    def close(self):
        self.connection.plain.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
        eventually(lambda: self.ended, 60, "the end of the stream")
        self.connection.close()


# -- the description


def test_every_operation_is_there(site):
    """Each is asked for in a way that touches nothing, and answers as described."""
    alpha = site["alpha"]
    for template, item in SPEC["paths"].items():
        path = "/api/v1" + template.replace("{id}", NOBODY).replace("{name}", "nobody")
        for method in METHODS:
            if template == "/events" and method == "get":
                continue  # never ends; it has its own tests
            if method == "head":
                continue  # whose answer has no body that could be a problem
            status, headers, text = ask(alpha, method, path, body={} if method == "post" else None)
            if method not in item:
                assert status == 405, (method, path, status)
                validate(method, template, status, headers, text)
                continue
            assert status not in (405, 500, 501), (method, path, status, text)
            assert status in (200, 201, 400, 404), (method, path, status, text)
            validate(method, path, status, headers, text)


def test_nothing_else_is_served(site):
    for path in ("/", "/api", "/api/", "/api/v1", "/api/v1/", "/api/v1//host", "/api/v1/host/", "/api/v1/hosts/a/b", "/api/v2/host",
                 "/host", "/api/v1/debug", "/api/v1/../host", "/api/v1/%2e%2e/host", "/api/v1/migrations/", "/etc/passwd",
                 "/api/v1/openapi.json", "/favicon.ico", "/api/v1/released", "/api/v1/migrations/" + "a" * 300):
        status, headers, text = ask(site["alpha"], "GET", path)
        assert status in (400, 404), (path, status, text)
        validate("GET", "/nothing", status, headers, text)
    assert operation("GET", "/nothing") is None
    assert yaml.safe_load(ask(site["alpha"], "GET", "/api/v1/openapi.yaml")[2]) == SPEC, "it serves another description of itself"


def test_answers_of_a_whole_life(site):
    """A pre-flight, a migration, its list entries and reports on both hosts, pairing, forgetting: all as described."""
    alpha, beta = site["alpha"], site["beta"]
    site.redis("alpha", "shop", IP)
    assert call(alpha, "GET", "/workloads")[1]["workloads"][0]["id"] == "shop"
    assert call(beta, "GET", "/workloads?host=alpha&kind=lxc")[1]["host"] == "alpha"
    assert call(alpha, "GET", "/workloads?kind=pid")[0] == 200
    assert call(alpha, "GET", "/workloads?host=nobody")[0] == 404
    assert [h["name"] for h in call(alpha, "GET", "/hosts")[1]] == ["beta"]
    assert call(alpha, "POST", "/checks", ORDER)[1]["verdict"] in ("ok", "warning")
    status, refused = call(alpha, "POST", "/checks", {**ORDER, "id": "nothing"})
    assert status == 404, refused
    events = Events(alpha)
    status, made = call(alpha, "POST", "/migrations", {**ORDER, "options": {"bandwidth": 10 ** 9, "timeout_s": 60}})
    assert status == 202
    identity = made["id"]
    while not call(alpha, "GET", f"/migrations/{identity}")[1].get("result"):
        assert call(alpha, "GET", "/migrations?limit=1")[0] == 200
    shown = call(alpha, "GET", f"/migrations/{identity}")[1]
    assert shown["result"] == "done" and shown["report"]["owner"] == "target", shown
    eventually(lambda: call(beta, "GET", f"/migrations/{identity}")[1].get("result") == "done", what="the report on beta")
    assert call(alpha, "DELETE", f"/migrations/{identity}")[0] == 409
    assert call(alpha, "DELETE", f"/released/{identity}")[0] == 204
    assert call(alpha, "DELETE", f"/released/{identity}")[0] == 404
    eventually(lambda: "migration.result" in events.names(), 60, "events")
    assert {"migration.created", "migration.state", "migration.progress", "migration.verdict", "migration.result"} <= set(events.names())
    schemas = {"migration.created": "Migration", "migration.result": "Report", "migration.progress": "Progress"}
    resolver = jsonschema.RefResolver("", SPEC)
    for _, name, data in list(events.seen):
        if name in schemas:
            jsonschema.Draft202012Validator(SPEC["components"]["schemas"][schemas[name]], resolver=resolver).validate(data)
        assert "id" in data, (name, data)
    ids = [i for i, _, _ in events.seen]
    assert ids == sorted(set(ids))
    events.close()
    offer = call(beta, "POST", "/pairing-offers")[1]
    status, paired = call(alpha, "POST", "/hosts", {"address": "beta", "name": "beta", "code": offer["code"]})
    assert status == 201 and paired["name"] == "beta"
    assert call(alpha, "POST", "/hosts", {"address": "beta", "name": "beta", "code": offer["code"]})[0] in (403, 409, 422)
    assert call(alpha, "DELETE", "/hosts/nobody")[0] == 404


# -- idempotency


def test_the_same_key_is_carried_out_once(site):
    alpha, key = site["alpha"], {"Idempotency-Key": secrets.token_hex(8)}
    site.redis("alpha", "shop", IP)
    first = call(alpha, "POST", "/migrations", ORDER, key)
    again = call(alpha, "POST", "/migrations", ORDER, key)
    assert first[0] == again[0] == 202 and first[1]["id"] == again[1]["id"]
    other = call(alpha, "POST", "/migrations", {**ORDER, "target_id": "store"}, key)
    assert other[0] == 422, other
    assert site.result("alpha", first[1]["id"])["result"] == "done"
    assert call(alpha, "POST", "/migrations", ORDER, key)[1]["id"] == first[1]["id"], "not after its end"
    site.restart(alpha)
    assert call(alpha, "POST", "/migrations", ORDER, key)[1]["id"] == first[1]["id"], "not after a restart"
    assert site.state("beta", "shop") == "RUNNING"
    for bad in ("", "a b", "x" * 129, "\x7f"):
        assert call(alpha, "POST", "/migrations", ORDER, {"Idempotency-Key": bad})[0] == 400, bad


# -- events


def test_events_resume(site):
    """By Last-Event-ID exactly what was missed; after a restart of phauld a gap is said to be one, and ids still grow."""
    alpha = site["alpha"]
    site.redis("alpha", "shop", IP)
    events = Events(alpha)
    identity = site.migrate("alpha", "lxc/shop", "beta")["id"]
    eventually(lambda: "migration.result" in events.names(), 60, "the result")
    events.close()
    middle, last = events.seen[len(events.seen) // 2][0], events.seen[-1][0]
    resumed = Events(alpha, last=middle)
    eventually(lambda: "migration.result" in resumed.names(), 60, "what was missed")
    assert resumed.seen == [e for e in events.seen if e[0] > middle]
    began = time.monotonic()
    only = Events(alpha, f"?migration={NOBODY}", last=last)
    assert time.monotonic() - began < 10, "a client without news does not even get headers until the next heartbeat"
    site.restart(alpha)
    eventually(lambda: resumed.ended and only.ended, 60, "the end of the streams with their phauld")
    assert only.seen == []
    over = Events(alpha, last=middle)
    site.migrate("beta", "lxc/shop", "alpha")
    eventually(lambda: "migration.result" in over.names(), 60, "events after the restart")
    assert over.names()[0] == "gap", f"what was lost with phauld is not there, and nobody says so: {over.names()[:3]}"
    fresh = [i for i, name, _ in over.seen if name != "gap"]
    assert fresh and min(fresh) > last, (fresh[:3], last)
    assert identity not in {data.get("id") for _, name, data in over.seen if name != "gap"}
    over.close()


def test_a_last_event_that_is_none(site):
    for bad in ("x", "-1", "1x", "99999999999999999999999"):
        assert call(site["alpha"], "GET", "/events", headers={"Last-Event-ID": bad})[0] == 400, bad
    assert call(site["alpha"], "GET", "/events?migration=x")[0] == 400


# -- malformed


BODIES = {
    "nothing": (b"", 400), "not JSON": (b"{", 400), "an array": (b"[]", 400), "a string": (b'"x"', 400),
    "not UTF-8": (b'{"kind": "l\xffc", "id": "shop", "host": "beta"}', 400),
    "a NUL": (b'{"kind": "lxc", "id": "sh\\u0000op", "host": "beta"}', 400),
    "twice": (b'{"kind": "lxc", "kind": "lxc", "id": "shop", "host": "beta"}', 400),
    "unknown": (json.dumps({**ORDER, "force": True}).encode(), 400),
    "unknown option": (json.dumps({**ORDER, "options": {"speed": 9}}).encode(), 400),
    "wrong type": (json.dumps({**ORDER, "id": 7}).encode(), 400),
    "missing": (b'{"kind": "lxc", "id": "shop"}', 400),
    "deep": (b"[" * 60000, 400),
    "deep object": (b'{"options":' * 5000 + b"1" + b"}" * 5000, 400),
    "large": (b" " * 70000, 413), "very large": (b" " * 5000000, 413),
    "negative": (json.dumps({**ORDER, "options": {"bandwidth": -1}}).encode(), 400),
    "huge number": (b'{"kind": "lxc", "id": "shop", "host": "beta", "options": {"bandwidth": 1e400}}', 400),
    "too long": (json.dumps({**ORDER, "options": {"timeout_s": 604801}}).encode(), 400),
    "a name as via": (json.dumps({**ORDER, "options": {"via": "beta"}}).encode(), 400),
}


@pytest.mark.parametrize("what", BODIES, ids=[name.replace(" ", "-") for name in BODIES])
def test_malformed_bodies(whole_site, what):
    body, expected = BODIES[what]
    for path in ("/migrations", "/checks", "/hosts"):
        try:
            status, value = call(whole_site["alpha"], "POST", path, body)
        except (BrokenPipeError, ConnectionResetError):  # it need not read to the end what it refuses
            assert expected == 413
            continue
        assert status == expected and value["kind"] == "usage", (path, status, value)


def raw(host, data, seconds=1):
    """What phauld says to bytes that may not be HTTP."""
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(seconds)
    plain.connect(f"/proc/{host.pid}/root/run/phaul/phauld.sock")
    said = b""
    try:
        plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
        while part := plain.recv(65536):
            said += part
    except OSError:
        pass
    plain.close()
    return said


@pytest.mark.parametrize("data", [
    b"hello\r\n\r\n", secrets.token_bytes(5000), b"GET /api/v1/host\r\n\r\n", b"GET " + b"/" * 100000 + b" HTTP/1.1\r\n\r\n",
    b"GET /api/v1/host HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
    b"POST /api/v1/migrations HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/migrations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
    b"POST /api/v1/migrations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n{}",
    b"POST /api/v1/migrations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", b"GET /api/v1/%00host HTTP/1.1\r\nHost: x\r\n\r\n",
], ids=range(10))
def test_malformed_requests(whole_site, data):
    before = whole_site.pid_of(whole_site["alpha"], "phauld")
    said = raw(whole_site["alpha"], data)
    assert not said.startswith(b"HTTP/1.1 2"), said[:200]
    assert call(whole_site["alpha"], "GET", "/host")[0] == 200
    assert whole_site.pid_of(whole_site["alpha"], "phauld") == before


def test_a_chunked_body_is_limited_as_well(whole_site):
    chunks = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    said = raw(whole_site["alpha"], b"POST /api/v1/migrations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert said == b"" or b" 413 " in said.split(b"\r\n")[0], said[:200]


# -- many


@pytest.mark.parametrize("what", ["silent", "half a request", "event streams"])
def test_three_hundred_connections(site, what):
    """A careless program of the group cannot keep another user out."""
    alpha = site["alpha"]
    text = {"silent": b"", "half a request": b"GET /api/v1/host HT",
            "event streams": b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n"}[what]
    crowd = []
    try:
        site.kill(alpha, "phauld", "STOP")  # too busy to accept, for as long as they come
        for _ in range(300):
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(0.2)
            plain.connect(f"/proc/{alpha.pid}/root/run/phaul/phauld.sock")
            plain.send(text)
            crowd.append(plain)
        site.kill(alpha, "phauld", "CONT")
        began = time.monotonic()
        status = call(alpha, "GET", "/host")[0]
        assert status == 200 and time.monotonic() - began < 10
        assert alpha.run("phaul", "list").returncode == 0
    finally:
        site.kill(alpha, "phauld", "CONT")
        for plain in crowd:
            plain.close()
    eventually(lambda: call(alpha, "GET", "/host")[0] == 200, 5)


# -- who may


def as_user(host, groups, path="/api/v1/host"):
    return host.run("setpriv", "--reuid=nobody", "--regid=nogroup", *groups, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
                    "--unix-socket", "/run/phaul/phauld.sock", f"http://phauld{path}", check=False).stdout


def test_peer_credentials(site):
    alpha = site["alpha"]
    assert as_user(alpha, ["--groups=phaul"]) == "200"
    assert as_user(alpha, ["--clear-groups"]) == "000", "the socket's mode keeps others out"
    alpha.run("chmod", "666", "/run/phaul/phauld.sock")
    try:
        assert as_user(alpha, ["--groups=phaul"]) == "200"
        assert as_user(alpha, ["--clear-groups"]) == "403", "and if the mode does not, phauld looks for itself"
        assert as_user(alpha, ["--clear-groups"], "/metrics") == "403"
    finally:
        alpha.run("chmod", "660", "/run/phaul/phauld.sock")


# -- metrics


def metrics(host):
    """{name and labels: value} of text that is checked line by line against the format."""
    status, headers, text = ask(host, "GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4") and text.endswith("\n")
    found, kinds, helped, families = {}, {}, set(), []
    for line in text.splitlines():
        if match := re.fullmatch(r"# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) .+", line):
            helped.add(match[1])
        elif match := re.fullmatch(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram|summary|untyped)", line):
            assert match[1] not in kinds, f"{match[1]} is declared twice"
            kinds[match[1]] = match[2]
        else:
            match = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*",?)*\})? (\S+)', line)
            assert match, line
            base = match[1] if match[1] in kinds else re.sub("_(bucket|sum|count)$", "", match[1])
            assert base in kinds and base in helped, line
            if not families or families[-1] != base:
                assert base not in families, f"{base} is scattered"
                families.append(base)
            assert match[1] + (match[2] or "") not in found, line
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def test_metrics(site):
    alpha, beta = site["alpha"], site["beta"]
    site.redis("alpha", "shop", IP)
    before = {host.name: metrics(host) for host in (alpha, beta)}
    report = site.migrate("alpha", "lxc/shop", "beta")
    done = 'phaul_migrations_total{kind="lxc",result="done"}'
    eventually(lambda: metrics(beta).get(done, 0) == before["beta"].get(done, 0) + 1, 60, "the count on beta")
    now = metrics(alpha)
    for host in (alpha, beta):  # not before all is counted: that may happen between the two questions
        assert ask(host, "GET", "/api/v1/metrics")[2] == ask(host, "GET", "/metrics")[2]
    assert now[done] == before["alpha"].get(done, 0) + 1
    assert now["phaul_migrations_in_progress"] == 0
    sent = 'phaul_transfer_bytes_total{direction="sent"}'
    assert now[sent] - before["alpha"].get(sent, 0) == report["bytes_sent"] > 0
    received = 'phaul_transfer_bytes_total{direction="received"}'
    assert metrics(beta)[received] > before["beta"].get(received, 0)
    name = "phaul_migration_downtime_seconds"
    assert now[f"{name}_count"] == before["alpha"][f"{name}_count"] + 1
    assert now[f"{name}_sum"] - before["alpha"][f"{name}_sum"] == pytest.approx(report["downtime_ms"] / 1000, abs=0.01)
    buckets = [(float(re.search('le="([^"]*)"', key)[1]), value) for key, value in now.items() if key.startswith(f"{name}_bucket")]
    assert [b for b, _ in buckets] == sorted(b for b, _ in buckets) and buckets[-1][0] == float("inf")
    assert [v for _, v in buckets] == sorted(v for _, v in buckets) and buckets[-1][1] == now[f"{name}_count"]
