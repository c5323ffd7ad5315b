"""Ports that other processes of the machine have taken, or try to take over."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

import pytest

from edgenode.net.listener import bind


def taken(host: str, port: int, *options: int) -> socket.socket:
    """A socket of a process that takes a port, by all means."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    one = socket.socket(family)
    try:
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind((host, port))
        one.listen()
    except OSError:
        one.close()
        raise
    return one


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)])
@pytest.mark.parametrize("theirs", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("listen", ["0.0.0.0", "127.0.0.1"])
def test_nobody_listens_at_our_port_as_well(listen: str, theirs: str, options: tuple[int, ...]) -> None:
    """The same user could with SO_REUSEPORT, if our sockets had it, and so get some of the connections."""
    with ExitStack() as stack:
        (ours,) = (stack.enter_context(one) for one in bind(f"{listen}:0"))
        with pytest.raises(OSError) as caught:
            stack.enter_context(taken(theirs, ours.getsockname()[1], *options))
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("listen", ["0.0.0.0", "[::]", ""])
def test_wildcard_takes_both_families(listen: str) -> None:
    (ours,) = bind(f"{listen}:0")
    with ours:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, ours.getsockname()[1]), 5).close()


@pytest.mark.parametrize("theirs", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("listen", ["0.0.0.0", "127.0.0.1"])
def test_port_that_was_taken_first_is_not_shared(listen: str, theirs: str) -> None:
    with taken(theirs, 0, socket.SO_REUSEADDR, socket.SO_REUSEPORT) as first:
        with pytest.raises(OSError) as caught:
            bind(f"{listen}:{first.getsockname()[1]}")
        assert caught.value.errno == errno.EADDRINUSE
