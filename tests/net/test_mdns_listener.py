"""The set of services follows the packets. The packets are real, and only the network is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from zeroconf import DNSOutgoing, RecordUpdate, ServiceStateChange, Zeroconf, current_time_millis
from zeroconf._protocol.incoming import DNSIncoming
from zeroconf.asyncio import AsyncZeroconf

from edgenode.net import mdns_listener
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_listener import MdnsListener
from edgenode.net.mdns_service import SERVICE_TYPES, Service, service_to_info

_RESPONSE = 0x8400
INSTANCE = f"n0@lab.{SERVICE_TYPES['node']}"


def a_node(name: str = "n0", port: int = 7001, cluster: str = "lab") -> Service:
    return Service("node", cluster, name, (LOOPBACK,), port, protocol=1)


@pytest.fixture
async def zeroconf() -> AsyncIterator[Zeroconf]:
    async with AsyncZeroconf(interfaces=[LOOPBACK], unicast=True) as opened:
        yield opened.zeroconf


def receive(
    listener: MdnsListener, zeroconf: Zeroconf, service: Service, *, ago_ms: float = 0, parts: str = "srv txt address"
) -> None:
    """Give the listener a packet that describes a service, or a part of it."""
    info = service_to_info(service, service.addresses)
    out = DNSOutgoing(_RESPONSE)
    for part in parts.split():
        for record in {"srv": [info.dns_service()], "txt": [info.dns_text()], "address": info.dns_addresses()}[part]:
            out.add_answer_at_time(record, 0)
    (packet,) = out.packets()
    updates = [RecordUpdate(record, None) for record in DNSIncoming(packet).answers()]
    listener.async_update_records(zeroconf, current_time_millis() - ago_ms, updates)


async def test_complete_packet_adds_the_service(zeroconf: Zeroconf) -> None:
    listener = MdnsListener()
    changed = listener.changed
    receive(listener, zeroconf, a_node())
    assert listener.services("node", "lab") == {"n0": a_node()}
    assert (changed.is_set(), listener.changed.is_set()) == (True, False)


@pytest.mark.parametrize("parts", ["srv", "txt address", "srv txt", "srv address"])
async def test_incomplete_packet_changes_nothing(zeroconf: Zeroconf, parts: str) -> None:
    listener = MdnsListener()
    receive(listener, zeroconf, a_node(), parts=parts)
    receive(listener, zeroconf, a_node("n1"))
    receive(listener, zeroconf, a_node("n1", port=7002), parts=parts)
    assert listener.services("node", "lab") == {"n1": a_node("n1")}


async def test_order_of_the_records_is_irrelevant(zeroconf: Zeroconf) -> None:
    for parts in ("address txt srv", "txt srv address"):
        listener = MdnsListener()
        receive(listener, zeroconf, a_node(), parts=parts)
        assert listener.services("node", "lab") == {"n0": a_node()}


async def test_newest_packet_replaces_the_service(zeroconf: Zeroconf) -> None:
    listener = MdnsListener()
    for port in (7001, 7002, 7001):
        receive(listener, zeroconf, a_node(port=port))
        assert listener.services("node", "lab") == {"n0": a_node(port=port)}


async def test_repeated_packet_is_not_a_change(zeroconf: Zeroconf) -> None:
    listener = MdnsListener()
    receive(listener, zeroconf, a_node())
    changed = listener.changed
    receive(listener, zeroconf, a_node())
    assert not changed.is_set()


async def test_clusters_are_kept_apart(zeroconf: Zeroconf) -> None:
    listener = MdnsListener()
    receive(listener, zeroconf, a_node())
    receive(listener, zeroconf, a_node(cluster="den"))
    assert listener.services("node", "den") == {"n0": a_node(cluster="den")}
    assert listener.clusters("node") == {"lab", "den"}
    assert (listener.services("controller", "lab"), listener.clusters("controller")) == ({}, set())


async def test_only_a_removal_removes_a_service(zeroconf: Zeroconf) -> None:
    listener = MdnsListener()
    receive(listener, zeroconf, a_node())
    for change in (ServiceStateChange.Added, ServiceStateChange.Updated):
        listener.state_changed(zeroconf, SERVICE_TYPES["node"], INSTANCE, change)
    assert listener.services("node", "lab") == {"n0": a_node()}
    changed = listener.changed
    listener.state_changed(zeroconf, SERVICE_TYPES["node"], INSTANCE, ServiceStateChange.Removed)
    assert (listener.services("node", "lab"), changed.is_set()) == ({}, True)
    listener.state_changed(zeroconf, SERVICE_TYPES["node"], INSTANCE, ServiceStateChange.Removed)
    assert not listener.changed.is_set()


async def test_service_was_received_lately_for_one_second(zeroconf: Zeroconf) -> None:
    listener = MdnsListener()
    assert listener.received_lately(INSTANCE) is None
    receive(listener, zeroconf, a_node(), ago_ms=1001)
    assert listener.received_lately(INSTANCE) is None
    receive(listener, zeroconf, a_node(), ago_ms=500)
    assert listener.received_lately(INSTANCE.upper()) == a_node()


async def test_new_service_takes_the_place_of_the_oldest_when_all_are_taken(
    zeroconf: Zeroconf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mdns_listener, "_MOST", 3)
    listener = MdnsListener()
    for ago_ms, name in ((10, "true"), (90, "n1"), (80, "n2"), (70, "n3"), (60, "n4")):
        receive(listener, zeroconf, a_node(name), ago_ms=ago_ms)
    assert list(listener.services("node", "lab")) == ["n3", "n4", "true"]
    receive(listener, zeroconf, a_node("n3", port=7002))  # no new one
    assert list(listener.services("node", "lab")) == ["n3", "n4", "true"]
    assert capsys.readouterr().out.count("too many services are announced") == 1


async def test_change_wakes_everything_that_waits(zeroconf: Zeroconf) -> None:
    listener = MdnsListener()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(listener.changed.wait(), name="waits")
        await asyncio.sleep(0)
        receive(listener, zeroconf, a_node())
