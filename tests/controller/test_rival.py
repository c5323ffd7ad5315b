"""Whether another controller leads a cluster of the same name: real servers, and what they can prove."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import pytest

from edgenode.controller.rival import answers
from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.status import ClusterStatus
from edgenode.net import operator_server
from edgenode.net.mdns_service import Service
from edgenode.net.operator_server import OperatorServer
from edgenode.net.rpc import serving
from edgenode.net.tls import MutualTls
from edgenode.security.certificates import make_authority, make_credentials
from edgenode.security.subject import CONTROLLER

HOME = make_authority("home")
OURS = Leadership(1, "ours")


class Run:
    """A run that only shows its status."""

    def status(self) -> ClusterStatus:
        return ClusterStatus("home", leadership=Leadership(0, "theirs"))


def controller_of(authority: object) -> MutualTls:
    return MutualTls(make_credentials(authority, CONTROLLER), lambda subject, key_id: True)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "counts", "counts_unproven"),
    [("ours", True, True), ("another authority", False, True), ("silent", False, False), ("none", False, False)],
)
async def test_rival_that_others_announce_must_prove_that_it_is_one(
    kind: str, counts: bool, counts_unproven: bool
) -> None:
    async with AsyncExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = {"silent": silent.getsockname()[1], "none": 1}.get(kind, 0)
        if kind in ("ours", "another authority"):
            security = controller_of(HOME if kind == "ours" else make_authority("home"))
            services = [(operator_server.SERVICE, OperatorServer(Run()).add_to)]  # type: ignore[arg-type]
            port = await stack.enter_async_context(serving("127.0.0.1:0", services, 0.0, security=security))
        rival = Service("controller", "home", "controller", ("127.0.0.1",), port, 1)
        own = controller_of(HOME)
        assert await answers(rival, "home", OURS, own, unproven=False) is counts
        assert await answers(rival, "home", OURS, own, unproven=True) is counts_unproven
