#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""incr.py ADDRESS [PORT] [--key K] [--seconds N] [--patience N] [--status FILE]

INCRs one Redis key over one connection as fast as answers come, and checks that each answer is exactly one more than
the one before. Every answer is a write that Redis acknowledged and must never forget. Ends after the seconds (default 600), on SIGTERM,
when the connection ends or no answer comes for so many seconds (default 60); prints one JSON object:
{"acked", "lost", "max_gap_ms", "reconnects", "errors", "connection"}. It never reconnects: a connection that
breaks is what it is there to notice. A status file holds the number acknowledged so far, rewritten ten times a second.
Exit 0 only if the connection was kept and nothing was lost."""

import argparse
import json
import os
import signal
import socket
import sys
import time


class Stop(Exception):
    """SIGTERM or SIGINT."""


def stop(*_):
    raise Stop


def read_line(connection, buffered):
    while b"\r\n" not in buffered:
        data = connection.recv(4096)
        if not data:
            raise ConnectionError("closed by peer")
        buffered += data
    line, _, rest = buffered.partition(b"\r\n")
    return line, rest


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("port", nargs="?", type=int, default=6379)
    parser.add_argument("--key", default="acknowledged")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--status")
    return parser.parse_args()


def publish(path, text):
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def count(options, result):
    """Until the time is up."""
    key = options.key.encode()
    request = b"*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n" % (len(key), key)
    connection = socket.create_connection((options.address, options.port), timeout=options.patience)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    previous, published, buffered = None, 0.0, b""
    begin = answered = time.time()  # CLOCK_REALTIME, the clock downtime is read on
    while answered - begin < options.seconds:
        connection.sendall(request)
        line, buffered = read_line(connection, buffered)
        now = time.time()
        result["max_gap_ms"], answered = max(result["max_gap_ms"], round((now - answered) * 1000)), now
        if not line.startswith(b":"):
            raise ValueError(f"answer {line[:80]!r}")
        value = int(line[1:])
        if previous is not None and value != previous + 1:
            result["lost"] += max(previous + 1 - value, 0)
            result["errors"].append(f"{value} after {previous}")
        previous = value
        result["acked"] += 1
        if options.status and now - published > 0.1:
            publish(options.status, str(result["acked"]))
            published = now


def main():
    options = parse()
    result = {"acked": 0, "lost": 0, "max_gap_ms": 0, "reconnects": 0, "errors": [], "connection": "kept"}
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # A function of its own: what a signal raises at the end of a loop may pass by the `except` around that loop.
    try:
        count(options, result)
    except Stop:
        pass
    except (OSError, ValueError) as error:
        result["errors"].append(str(error))
        result["connection"] = str(error)
    print(json.dumps(result), flush=True)
    return 1 if result["errors"] or result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
