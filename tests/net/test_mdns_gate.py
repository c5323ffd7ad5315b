"""Which packets reach the listener and zeroconf: real packets, and no network."""

from __future__ import annotations

import asyncio

import pytest
from zeroconf import DNSOutgoing, DNSPointer, DNSQuestion  # type: ignore[attr-defined]  # there, and documented

from edgenode.net.mdns_gate import ALL, EACH, Budget, MdnsGate
from edgenode.net.mdns_service import SERVICE_TYPES

OWN, OTHER = "10.0.0.1", "10.0.0.2"
NODES = SERVICE_TYPES["node"]


class Gated(asyncio.DatagramProtocol):
    """A gate, and what it lets through."""

    def __init__(self) -> None:
        self.zeroconf: list[bytes] = []
        self.answers: list[tuple[bytes, str]] = []
        self.dropped: list[str] = []
        self.gate = MdnsGate(self, frozenset({OWN}), Budget(), self.answered, self.dropped.append)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.zeroconf.append(data)

    def answered(self, data: bytes, source: str) -> None:
        self.answers.append((data, source))

    def receive(self, data: bytes, source: str = OTHER) -> None:
        self.gate.datagram_received(data, (source, 5353))


def question(name: str = NODES, count: int = 1) -> bytes:
    out = DNSOutgoing(0)
    for _ in range(count):
        out.add_question(DNSQuestion(name, 12, 1))
    return out.packets()[0]


def answer(name: str = NODES, alias: str = "n0") -> bytes:
    out = DNSOutgoing(0x8400)
    out.add_answer_at_time(DNSPointer(name, 12, 1, 4500, f"{alias}.{name}"), 0)
    return out.packets()[0]


async def test_question_goes_to_zeroconf() -> None:
    gated = Gated()
    gated.receive(question())
    assert (gated.zeroconf, gated.answers) == ([question()], [])


async def test_own_answer_is_recognised_on_a_socket_for_both_families() -> None:
    gated = Gated()
    gated.receive(answer(), f"::ffff:{OWN}")
    assert (gated.zeroconf, gated.answers) == ([answer()], [(answer(), OWN)])


async def test_answer_of_another_device_goes_to_the_listener_only() -> None:
    gated = Gated()
    gated.receive(answer())
    assert (gated.zeroconf, gated.answers) == ([], [(answer(), OTHER)])


async def test_own_answer_goes_to_both() -> None:
    gated = Gated()
    gated.receive(answer(), OWN)
    assert (gated.zeroconf, gated.answers) == ([answer()], [(answer(), OWN)])


@pytest.mark.parametrize(
    "data",
    [answer("_ipp._tcp.local."), question("_http._tcp.local."), b"", answer()[:11], answer() + bytes(1460)],
    ids=["a printer", "a browser", "empty", "no header", "larger than any of zeroconf"],
)
async def test_other_packets_are_dropped(data: bytes) -> None:
    gated = Gated()
    gated.receive(data)
    gated.receive(answer("_EdgeNode._tcp.local."))  # DNS ignores case
    assert (gated.zeroconf, len(gated.answers)) == ([], 1)


@pytest.mark.parametrize("packet", [question(), answer()], ids=["questions", "answers"])
async def test_flood_of_one_source_leaves_room_for_the_others(packet: bytes) -> None:
    gated = Gated()
    for _ in range(2_000):
        gated.receive(packet)
    gated.receive(packet, OWN)
    assert len(gated.zeroconf) + len(gated.answers) <= 2 * EACH + 2  # another second may begin meanwhile
    assert gated.zeroconf[-1:] == [packet]
    assert {*gated.dropped} == {OTHER}


def test_packet_costs_its_entries_and_each_second_begins_anew() -> None:
    budget = Budget()
    taken = [[budget.take(OTHER, 50, second + i / 1000) for i in range(500)].count(True) for second in (7, 8, 70)]
    assert taken == [EACH // 50] * 3


def test_sources_without_end_are_bounded_together() -> None:
    budget = Budget()
    assert [budget.take(f"10.{i >> 8}.{i & 255}.1", 1, 7) for i in range(5000)].count(True) == ALL
    assert budget.take(OTHER, 1, 8)


async def test_header_that_promises_more_than_the_limit_is_dropped() -> None:
    gated = Gated()
    gated.receive(answer()[:4] + b"\xff" * 8 + answer()[12:])
    gated.receive(answer()[:4] + bytes(8) + answer()[12:])  # no entry at all costs one
    assert len(gated.answers) == 1
