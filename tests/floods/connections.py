"""Opens many TCP connections and renews each that is hung up on, until it is killed. Needs the standard library only.

    python connections.py KIND HOST:PORT... [--count 1500] [--sources 10.77.0.0/24]

KIND says what each connection sends: nothing (`silent`), random bytes (`garbage`), a TLS ClientHello and no more
(`hello`), half of one (`half`), or half of an HTTP request (`request`). With `--sources`, connections come from the
addresses that `--sources` lists, in turn. The first line of output says how many have been opened, each second.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Iterator

_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n"


def client_hello() -> bytes:
    """Return the first message of a TLS handshake."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="node.edgenode").do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    raise AssertionError("a handshake needs an answer")


HELLO = client_hello()
SENT = {"silent": b"", "garbage": os.urandom(300), "hello": HELLO, "half": HELLO[:100], "request": _REQUEST}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=SENT)
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--count", type=int, default=1500, help="connections to each target")
    parser.add_argument("--sources", nargs="*", default=[""], help="own addresses to connect from")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    flood(SENT[options.kind], options.targets, options.count, itertools.cycle(options.sources))
    return 0


def flood(first: bytes, targets: list[str], count: int, sources: Iterator[str]) -> None:
    selector = selectors.DefaultSelector()
    waiting = [(host, int(port)) for host, _, port in (t.rpartition(":") for t in targets) for _ in range(count)]
    opened, shown = 0, time.monotonic()
    while True:
        again, waiting = waiting, []
        for target in again:
            if not connect(selector, target, next(sources)):
                waiting.append(target)
        opened += len(again) - len(waiting)
        for key, events in selector.select(timeout=0.05):
            if not is_alive(key.fileobj, events, first, selector, key.data):  # type: ignore[arg-type]
                waiting.append(key.data)
        if time.monotonic() - shown > 1:
            print(opened, flush=True)
            opened, shown = 0, time.monotonic()


def connect(selector: selectors.BaseSelector, target: tuple[str, int], source: str) -> bool:
    try:
        one = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    except OSError:
        return False
    one.setblocking(False)
    if source:
        one.bind((source, 0))
    one.connect_ex(target)
    selector.register(one, selectors.EVENT_WRITE, target)
    return True


def is_alive(
    one: socket.socket, events: int, first: bytes, selector: selectors.BaseSelector, target: tuple[str, int]
) -> bool:
    """Send the first bytes of a new connection, and read what an old one gets. False if it has ended, and is closed."""
    try:
        if events & selectors.EVENT_WRITE:
            if first:
                one.send(first)
            elif one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise ConnectionError
            selector.modify(one, selectors.EVENT_READ, target)
            return True
        if one.recv(1 << 16):
            return True
    except BlockingIOError:
        return True
    except OSError:
        pass
    selector.unregister(one)
    one.close()
    return False


if __name__ == "__main__":
    sys.exit(main())
