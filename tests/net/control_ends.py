"""Both ends of the control service over loopback, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgenode.core.protocol.events import Disconnected, Reported
from edgenode.core.protocol.orders import FenceAnswer, Join, Leadership, Order, Progress, Standby
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError, first_cause
from edgenode.net import control_server
from edgenode.net.control_client import ControlLink
from edgenode.net.control_server import ControlServer
from edgenode.net.faults import Faults
from edgenode.net.rpc import serving
from edgenode.net.wire import Identity
from tests.net.peer_ends import SOON_S, until

PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), every=1))
CHANGE = PLAN.successor(9)


@dataclass
class Controller:
    """The controller's end. It can be stopped and started again on its port."""

    port: int = 0
    events: list[object] = field(default_factory=list)
    reports: list[NodeStatus] = field(default_factory=list)
    planned: dict[str, str] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    relays: dict[str, str] = field(default_factory=dict)
    is_busy: bool = False  # handles no report
    server: ControlServer = field(init=False)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        identity = Identity("home", "controller", "run")
        self.server = ControlServer(
            identity,
            self._post,
            lambda node, report: self.reports.append(report),
            lambda node: self.planned.get(node, ""),
            self.faults,
            relay_at=lambda name: self.relays.get(name, ""),
        )
        async with serving(f"127.0.0.1:{self.port}", [(control_server.SERVICE, self.server.add_to)], 0.0) as self.port:
            yield f"127.0.0.1:{self.port}"

    def _post(self, event: Reported | Disconnected) -> None:
        self.events.append(event)
        if isinstance(event, Reported) and not self.is_busy:
            self.server.handled(event.node)

    def reported(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, Reported) and isinstance(event.report, kind)]

    @property
    def kinds(self) -> list[type]:
        """Of the reports, and Disconnected."""
        return [type(event.report) if isinstance(event, Reported) else type(event) for event in self.events]


@dataclass
class Node:
    """A node's end."""

    target: str
    name: str = "n0"
    address: str = "127.0.0.1:7600"
    cluster: str = "home"
    running: bool = False
    process: str = "p"
    follows: Leadership | None = None
    orders: list[object] = field(default_factory=list)
    standbys: list[Standby] = field(default_factory=list)
    link: ControlLink = field(init=False)

    def __post_init__(self) -> None:
        identity = Identity(self.cluster, self.name, "run", process=self.process)
        self.link = ControlLink(identity, self._find, self._join, self._ordered)

    async def _find(self) -> str:
        return self.target

    def _join(self, controller: str) -> Join:
        assert controller == self.target
        plan = PLAN if self.running else None
        data, saved = DataSize(640, 32), frozenset({50})
        return Join(self.address, "run", data, saved, plan, self.running, self.process, follows=self.follows)

    def _ordered(self, order: Order) -> None:
        if isinstance(order, Standby):
            self.standbys.append(order)
        else:
            self.orders.append(order)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Node]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.link.run(), name=f"link of {self.name}")
            yield self
            task.cancel()


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Controller, Node]]:
    """A controller, and a node that has joined it and has its answer."""
    controller = Controller()
    async with controller.up() as target, Node(target).up() as node:
        await until(lambda: bool(controller.events))
        controller.server.send("n0", Standby(("n0",), 1))
        await until(node.link.connected.is_set)
        yield controller, node


async def failure(node: Node) -> Exception:
    with pytest.raises((RemoteProtocolError, ExceptionGroup)) as caught:
        await asyncio.wait_for(node.link.run(), SOON_S)
    return first_cause(caught.value)  # type: ignore[return-value]


def progress(next_round: int, farewell: FenceAnswer | None = None, **fields: Any) -> tuple[Progress, NodeStatus]:
    """A report of n0 that has completed all rounds before ``next_round``."""
    return Progress(next_round, 0, "d", farewell), NodeStatus(round=next_round, **fields)
