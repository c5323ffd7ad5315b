"""What a controller tells nodes of the addresses at which it sees the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.controller import observations as module
from edgenode.controller.observations import Observations
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import Disconnected, Reported
from edgenode.core.protocol.observed import Observed
from edgenode.core.protocol.orders import Join, Leadership, Order
from edgenode.core.topology.period import DataSize

HOME, OTHER, MOVED = "203.0.113.20:7600", "203.0.113.21:7600", "203.0.113.120:7600"


class Site:
    """The nodes of a controller, which await the start of their run.

    Attributes:
        sent: (node, (name, address) of those that were named to it), in order.
    """

    def __init__(self) -> None:
        config = load(None, {"run.nodes": 9}, {})
        self._digest = config.digest()
        self._cluster = Cluster(factory.run_spec(config), Leadership(3, "beef"))
        self.sent: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        self._observations = Observations(self._cluster, self._send)

    def _send(self, node: str, order: Order) -> None:
        assert isinstance(order, Observed)
        self.sent.append((node, tuple((one.node, one.address) for one in order.addresses)))

    def join(self, node: str, observed: str = "") -> None:
        join = Join(f"{node}:1", self._digest, DataSize(8, 1), process="p", observed=observed)
        self._cluster.handle(Reported(node, join))
        self._observations.name_to(node)

    def leave(self, node: str) -> None:
        self._cluster.handle(Disconnected(node))

    @contextmanager
    def running(self) -> Iterator[None]:
        task = asyncio.ensure_future(self._observations.run())
        yield
        task.cancel()

    async def later(self) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
        """What is sent in the time of some looks."""
        await asyncio.sleep(0.1)
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(module, "_EVERY_S", 0.01)
    return Site()


async def test_nothing_is_sent_in_one_network(site: Site) -> None:
    with site.running():
        for node in ("n0", "n1"):
            site.join(node)
        assert await site.later() == []


async def test_node_learns_all_addresses_when_it_joins(site: Site) -> None:
    site.join("n1", OTHER)
    site.join("n0", HOME)
    site.join("n2")
    both = (("n0", HOME), ("n1", OTHER))
    assert site.sent == [("n1", (("n1", OTHER),)), ("n0", both), ("n2", both)]


async def test_others_learn_of_all_new_addresses_by_one_order(site: Site) -> None:
    with site.running():
        site.join("n2")
        for node, address in (("n1", OTHER), ("n0", HOME)):
            site.join(node, address)
        sent = await site.later()
        both = (("n0", HOME), ("n1", OTHER))
        assert [one for one in sent if one[0] == "n2"] == [("n2", both)]
        assert await site.later() == []


async def test_address_of_a_node_that_moved_is_named_again(site: Site) -> None:
    with site.running():
        site.join("n0", HOME)
        site.join("n1")
        await site.later()
        site.leave("n0")
        assert await site.later() == []
        site.join("n0", MOVED)
        assert ("n1", (("n0", MOVED),)) in await site.later()
