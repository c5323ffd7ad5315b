"""The decoders of what nodes, controllers and operators send each other over gRPC."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from google.protobuf.message import DecodeError, Message

from edgenode.core import canonical
from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.codec import decode_as, encode
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import QUANTISE
from edgenode.core.protocol import messages, orders
from edgenode.core.protocol.events import Received
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.observed import Observed, ObservedAddress
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.core.protocol.status import NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import Schedule
from edgenode.net import order_wire, status_wire, wire
from edgenode.net.operator_wire import GRAPH
from edgenode.net.proto import common_pb2, control_pb2, operator_pb2, peer_pb2, relay_pb2
from edgenode.net.push_wire import PushReader, PushWriter
from edgenode.net.relay_registry import counted
from edgenode.net.text_wire import address_from_wire
from edgenode_lab.algorithms.shuffled import KnownPositions, Shuffled, ShuffledCompressor
from tests.cli.test_status_table import a_node, a_status
from tests.core.algorithm.payloads import COMPRESSORS, SMALL, a_payload, resealed
from tests.fuzz.decoder import Decoder

LAYOUTS = (SMALL, Layout((1,)), Layout((16, 4096, 100_000)))
_RESEAL = 0x80  # of the first byte of a payload; the other bits choose the layout
_SEPARATOR = b"\xfe\xfd\xfc\xfb"  # between the frames of a stream
_MAX_PAYLOAD_BYTES = 1 << 20
OURS = wire.Identity("home", "n1", "run", process="p", config='{"a":1}', workload='{"b":1}')
PEER = wire.Identity("home", "n0", "run", process="q")


def plan(changes: int = 0, preset: str = "a", nodes: int = 3) -> Plan:
    """A plan of nodes n0, n1, ... with this many changes."""
    members = [Member(f"n{i}", i, f"10.0.0.{i}:7600") for i in range(nodes)]
    made = create_plan("home", members, Schedule((GraphSpec(preset),), every=1))
    for change in range(changes):
        made = made.extend(made.successor(10 * (change + 1)))
    return made


def edges(nodes: int) -> Record:
    """A record with a graph that names its nodes."""
    names = [f"n{i}" for i in range(nodes)]
    ring = tuple(zip(names, [*names[1:], names[0]], strict=True))
    return create_plan("home", map(Member, names), Schedule((GraphSpec("mine", ring), GraphSpec("b")), 2)).records[0]


def _payload(payload_format: KnownPositions | None) -> Callable[[bytes], None]:
    """A decoder of payloads in the codec's format, or in that of shuffled entries."""

    def decoded(data: bytes) -> None:
        layout, reseal = LAYOUTS[(data[:1] or b"\0")[0] % len(LAYOUTS)], data[:1] >= bytes([_RESEAL])
        body = data[1:]
        found = decode_as(payload_format, resealed(body) if reseal and len(body) >= 18 else body, layout)
        numbers = found.dense(layout.size)
        assert np.isfinite(numbers).all()

    return decoded


_FLAG = bytes([next(i for i in range(_RESEAL, 256) if i % len(LAYOUTS) == 0)])
_SHUFFLED = KnownPositions(Shuffled(0.25, round=1))


def _payloads() -> tuple[bytes, ...]:
    return tuple(_FLAG + encode(a_payload(compressor, SMALL), SMALL) for compressor in COMPRESSORS)


def _shuffled_payloads() -> tuple[bytes, ...]:
    compressors = (ShuffledCompressor(_SHUFFLED.select, quantise) for quantise in QUANTISE.values())
    return tuple(_FLAG + _SHUFFLED.encode(a_payload(compressor, SMALL), SMALL) for compressor in compressors)


def _push(data: bytes) -> None:
    """Frames of one stream, which a node takes that has just begun."""
    reader = PushReader(PEER, _MAX_PAYLOAD_BYTES)
    spec = AlgorithmSpec(UNCOMPRESSED, 1.0, 20)
    node = Node("n1", plan(), VectorLearner(spec, SMALL, spec.initial(np.zeros(SMALL.size, np.float32)), 0, "n1"))
    for part in data.split(_SEPARATOR):
        if message := reader.feed(part):
            node.handle(Received(message))


def _pushes() -> tuple[bytes, ...]:
    root = plan().records[0]
    payload = encode(a_payload(UNCOMPRESSED, SMALL), SMALL)
    found, writer = [], PushWriter()
    for records, begun in (((), ()), (plan(1).records[1:], ()), ((), (("n2", 0),))):
        message = messages.Message("n0", 0, 0, 0, root.digest, 0.5, (1.0,), payload, records, begun)
        found.append(_SEPARATOR.join(PushWriter().frames(message)))
    again = [frame for u in (1.0, 0.9) for frame in writer.frames(replace(message, u=(u,), begun_rounds=()))]
    return (*found, _SEPARATOR.join(again))  # the second push of a stream does not name its record


def _parsed(kind: type[Message], take: Callable[..., object]) -> Callable[[bytes], object]:
    """A decoder of protobuf messages of a kind. gRPC itself refuses what is not one."""

    def decoded(data: bytes) -> object:
        try:
            parsed = kind.FromString(data)
        except DecodeError:
            return None
        return take(parsed)

    return decoded


def _attend(request: control_pb2.AttendRequest) -> None:
    if request.HasField("join"):
        OURS.check(request.join.identity, "peer")
        order_wire.join_from_wire(request.join)
        return
    order_wire.report_from_wire(request)
    if request.HasField("progress"):
        status_wire.NODE_STATUS.from_wire(request.progress)


def _met(response: peer_pb2.MeetResponse) -> None:
    wire.SAVED.from_wire(response.saved)
    wire.DATA_SIZE.from_wire(response.data)
    OURS.check(response.identity, "peer")


def _rotate(request: operator_pb2.RotateRequest) -> None:
    members = tuple(f"n{i}" for i in range(3))
    Schedule(tuple(map(GRAPH.from_wire, request.graphs)), max(1, request.every)).check(members)


def _attends() -> list[Message]:
    answer = orders.FenceAnswer(1, 2, 3, (("n0", 2),), plan(1).records)
    fence, leader = orders.Fence(1, 2, frozenset({"n2"})), orders.Leadership(3, "beef", "10.0.0.9:7700")
    join = orders.Join("10.0.0.1:7600", "run", DataSize(100, 8), frozenset({5, 10}), plan(2), True, "p", fence, leader)
    reports = [
        orders.OfferAnswer(1, "d", True, 7), answer, orders.Fetched(), orders.Leave(), orders.Abort("nan"),
        orders.TrainingEnded(), orders.StopRun(),
        orders.NewKey("0" * 64), orders.Accusation("n2", 0, 7, "noise"),
    ]  # fmt: skip
    status = NodeStatus(round=5, rounds=9, loss=0.5, u=1.0, sketch=(0.1, 0.2), waiting_for=("n2",))
    return [
        order_wire.join_to_wire(PEER, join),
        order_wire.progress_to_wire(orders.Progress(5, 1, "d", answer), status),
        *map(order_wire.REPORTS.to_wire, reports),
    ]


def _orders() -> list[Message]:
    leader = orders.Leadership(3, "beef", "10.0.0.9:7700")
    sent: list[orders.Order] = [
        orders.Hello(leader, True), orders.Halt(False), orders.Welcome(plan(2), 4), orders.Refuse("no"),
        orders.Standby(("n0",), 2), orders.Sponsor("10.0.0.1:7600", ("10.0.0.2:7600",)),
        orders.Offer(plan(1).records[1]), orders.Fence(1, 2, frozenset({"n2"})),
        orders.EvictionCommitted(plan(1).records[1:]), orders.LeaveRefused("no"), orders.Abort("nan"),
        orders.Revoked(frozenset({"0" * 64})), orders.Restart("no"), orders.Ended("n1"),
        Relays((RelayAddress("fra", "relay.example.org:7702", "0" * 64),)),
        Observed((ObservedAddress("n1", "203.0.113.20:7600"), ObservedAddress("n2", "[2001:db8::5]:7600"))),
    ]  # fmt: skip
    return list(map(order_wire.ORDERS.to_wire, sent))


def _relay_report(report: relay_pb2.RelayReport) -> None:
    address_from_wire(report.address)
    counted("fra", report)


def _relay_reports() -> list[Message]:
    traffic = [relay_pb2.RelayedTraffic(node="n0", connections=1, bytes=9), relay_pb2.RelayedTraffic(node="n1")]
    return [relay_pb2.RelayReport(name="fra", address="[::1]:7702", traffic=traffic)]


def _bytes(found: list[Message]) -> tuple[bytes, ...]:
    return tuple(message.SerializeToString() for message in found)


def _acks() -> list[Message]:
    return [wire.ack_to_wire(messages.Ack(3, verdict, 1, "why", plan(1).records)) for verdict in messages.Verdict]


def _differs(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    if text.isprintable():
        canonical.differences(OURS.config, text, canonical.digest(text))


_RECORDS = (
    *(r.to_json().encode() for r in plan(2).records),
    *(plan(preset=preset, nodes=8).records[0].to_json().encode() for preset in ("complete", "exponential")),
    edges(6).to_json().encode(),
)

DECODERS = {
    "payload": Decoder(_payload(None), _payloads(), share=15),
    # atheris keeps the arrays that instrumented code compares, so a process takes 10 kB more in each run of this one
    "shuffled-payload": Decoder(_payload(_SHUFFLED), _shuffled_payloads(), share=2),
    "push": Decoder(_push, _pushes()),
    "record": Decoder(Record.from_json, _RECORDS, max_bytes=1 << 16, share=15),
    "ack": Decoder(_parsed(peer_pb2.Answer, lambda answer: wire.ack_from_wire("n0", answer)), _bytes(_acks())),
    "meet": Decoder(
        _parsed(peer_pb2.MeetRequest, lambda request: OURS.check(request.identity, "peer")),
        _bytes([peer_pb2.MeetRequest(identity=PEER.to_wire(), abort="nan")]),
    ),
    "met": Decoder(
        _parsed(peer_pb2.MeetResponse, _met),
        _bytes([
            peer_pb2.MeetResponse(
                identity=PEER.to_wire(),
                saved=wire.SAVED.to_wire((frozenset({5}), plan(1))),
                data=common_pb2.DataSize(samples=100, samples_per_round=8),
            )
        ]),
    ),
    "difference": Decoder(_differs, (b'{"a":2,"b":[1]}', json.dumps({"x" * 9: None}).encode())),
    "report": Decoder(_parsed(control_pb2.AttendRequest, _attend), _bytes(_attends())),
    "order": Decoder(_parsed(control_pb2.AttendResponse, order_wire.ORDERS.from_wire), _bytes(_orders())),
    "relay report": Decoder(_parsed(relay_pb2.RelayReport, _relay_report), _bytes(_relay_reports())),
    "status": Decoder(
        _parsed(operator_pb2.ClusterStatus, status_wire.CLUSTER_STATUS.from_wire),
        _bytes([status_wire.CLUSTER_STATUS.to_wire(a_status(a_node("n0", round=5, rounds=9), plan=plan(1)))]),
    ),
    "rotate": Decoder(
        _parsed(operator_pb2.RotateRequest, _rotate),
        _bytes([
            operator_pb2.RotateRequest(graphs=[GRAPH.to_wire(spec)], every=2)
            for spec in (GraphSpec("a"), *edges(3).schedule.graphs)
        ]),
    ),
}  # fmt: skip
