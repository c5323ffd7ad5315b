"""The set of services follows the packets. The packets are real, and only the network is left out."""

from __future__ import annotations

import asyncio

import pytest
from zeroconf import DNSOutgoing  # type: ignore[attr-defined]  # there, and documented

from edgenode.net import mdns_listener
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_listener import MdnsListener
from edgenode.net.mdns_service import Service, instance_name, service_to_info

_RESPONSE = 0x8400
SOURCE = "10.0.0.7"


def a_node(name: str = "n0", port: int = 7001, cluster: str = "lab") -> Service:
    return Service("node", cluster, name, (LOOPBACK,), port, protocol=1)


def packet(service: Service, parts: str = "srv txt address", ttl: int = 120, instance: str = "") -> bytes:
    """A packet that describes a service, or a part of it, under its own name or under another one."""
    info = service_to_info(service, service.addresses)
    info.name = info.server = instance or info.name
    out = DNSOutgoing(_RESPONSE)
    for part in parts.split():
        for record in {"srv": [info.dns_service()], "txt": [info.dns_text()], "address": info.dns_addresses()}[part]:
            record.ttl = ttl
            out.add_answer_at_time(record, 0)
    return out.packets()[0]


def receive(listener: MdnsListener, *services: Service, source: str = SOURCE, parts: str = "srv txt address") -> None:
    for service in services:
        listener.received(packet(service, parts), source)


def test_complete_packet_adds_the_service() -> None:
    listener = MdnsListener("lab")
    changed = listener.changed
    receive(listener, a_node())
    assert listener.services("node", "lab") == {"n0": a_node()}
    assert (changed.is_set(), listener.changed.is_set()) == (True, False)


@pytest.mark.parametrize("parts", ["srv", "txt address", "srv txt", "srv address"])
def test_incomplete_packet_changes_nothing(parts: str) -> None:
    listener = MdnsListener("lab")
    receive(listener, a_node(), parts=parts)
    receive(listener, a_node("n1"))
    receive(listener, a_node("n1", port=7002), parts=parts)
    assert listener.services("node", "lab") == {"n1": a_node("n1")}


@pytest.mark.parametrize("parts", ["address txt srv", "txt srv address"])
def test_order_of_the_records_is_irrelevant(parts: str) -> None:
    listener = MdnsListener("lab")
    receive(listener, a_node(), parts=parts)
    assert listener.services("node", "lab") == {"n0": a_node()}


def test_newest_packet_replaces_the_service() -> None:
    listener = MdnsListener("lab")
    for port in (7001, 7002, 7001):
        receive(listener, a_node(port=port))
        assert listener.services("node", "lab") == {"n0": a_node(port=port)}
    assert listener.targets("node", "lab") == (f"{LOOPBACK}:7001",)


def test_repeated_packet_is_not_a_change() -> None:
    listener = MdnsListener("lab")
    receive(listener, a_node())
    changed = listener.changed
    receive(listener, a_node())
    assert not changed.is_set()


def test_only_the_names_of_other_clusters_are_kept() -> None:
    listener = MdnsListener("lab")
    receive(listener, a_node(), *(a_node(cluster=f"den-{i}") for i in range(20)))
    assert listener.services("node", "den-19") == {}
    assert listener.clusters("node") == {"lab", *(f"den-{i}" for i in range(4, 20))}
    assert (listener.services("controller", "lab"), listener.clusters("controller")) == ({}, set())


def test_without_a_cluster_all_are_kept() -> None:
    listener = MdnsListener("")
    receive(listener, a_node(), a_node(cluster="den"))
    assert listener.services("node", "den") == {"n0": a_node(cluster="den")}
    assert listener.clusters("node") == {"lab", "den"}


def test_goodbye_changes_nothing() -> None:
    listener = MdnsListener("lab")
    receive(listener, a_node())
    changed = listener.changed
    listener.received(packet(a_node(), ttl=0), "10.0.0.66")
    assert (listener.services("node", "lab"), changed.is_set()) == ({"n0": a_node()}, False)


def test_service_in_the_name_of_another_one_is_none() -> None:
    listener = MdnsListener("lab")
    listener.received(packet(a_node("n1"), instance=instance_name(a_node("n2"))), SOURCE)
    assert listener.services("node", "lab") == {}


def test_impostor_of_the_same_name_does_not_hide_the_true_one() -> None:
    listener = MdnsListener("lab")
    assert listener.seek("node", "lab", "n0") == {}
    receive(listener, a_node(port=1))
    receive(listener, *(a_node(port=port) for port in range(2, 99)), source="10.0.0.66")
    assert [claim.port for claim in listener.seek("node", "lab", "n0").values()] == [1, 98]
    assert listener.targets("node", "lab") == (f"{LOOPBACK}:1", f"{LOOPBACK}:98")
    for source in "abcd":
        receive(listener, a_node(port=5), source=source)
    assert list(listener.seek("node", "lab", "n0")) == ["a", "b", "c", "d"]


def test_new_name_takes_the_place_of_the_oldest_but_not_of_one_that_is_sought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mdns_listener, "_MOST", 3)
    listener = MdnsListener("lab")
    receive(listener, a_node("sought"))
    assert listener.seek("node", "lab", "sought") == {SOURCE: a_node("sought")}
    receive(listener, *(a_node(name) for name in ("true", "n1", "n2", "true", "n3", "n4")))
    assert list(listener.services("node", "lab")) == ["n3", "n4", "sought", "true"]
    receive(listener, a_node("n3", port=7002))  # no new one
    assert list(listener.services("node", "lab")) == ["n3", "n4", "sought", "true"]


async def test_change_wakes_everything_that_waits() -> None:
    listener = MdnsListener("lab")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(listener.changed.wait(), name="waits")
        await asyncio.sleep(0)
        receive(listener, a_node())
