"""Sequences of messages, through the real handlers of the servers and the state machines behind them, without a socket.

Only what the handlers raise for a caller may leave them. An error of ours that is a bug is raised as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.codec import encode
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.protocol import messages, orders
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import Disconnected, Received, Reported
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.protocol.status import NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import ScheduleSpec
from edgenode.errors import EdgenodeError, LocalProtocolError, RemoteProtocolError
from edgenode.net.control_server import ControlServer
from edgenode.net.faults import Faults
from edgenode.net.model_sender import Model
from edgenode.net.order_wire import REPORTS, join_to_wire, progress_to_wire
from edgenode.net.peer_server import PeerServer
from edgenode.net.proto import peer_pb2
from edgenode.net.push_wire import PushWriter
from edgenode.net.wire import Identity
from tests.core.algorithm.payloads import SMALL, a_payload
from tests.fuzz.decoder import Decoder
from tests.fuzz.messages import OURS, PEER, plan

_SEPARATOR = b"\xfe\xfd\xfc\xfb"  # between the messages of a stream
_MAX_BYTES = 1 << 13
_CONTROLLER = Identity("home", "controller", "run", process="c")


class _Refused(EdgenodeError):
    """The handler has ended the call."""


class _Context:
    """The part of gRPC's context that handlers use. The caller has no certificate."""

    def peer(self) -> str:
        return "ipv4:10.0.0.9:1"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    async def write(self, response: Message) -> None:
        response.SerializeToString()

    async def abort(self, code: object, details: str = "") -> None:
        raise _Refused(details)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all inputs of a process."""
    return asyncio.new_event_loop()


def _handled(call: Callable[[list[bytes]], Coroutine[Any, Any, object]]) -> Callable[[bytes], object]:
    """A decoder of a sequence. A call that is refused has ended as it should."""

    def decoded(data: bytes) -> None:
        with suppress(_Refused):
            _loop().run_until_complete(call(data.split(_SEPARATOR)))

    return decoded


async def _stream(frames: Iterable[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


def _take(handle: Callable[[Any], object], event: object) -> None:
    """Let a state machine handle an event. It may reject the event, and nothing else."""
    try:
        handle(event)
    except RemoteProtocolError:
        pass
    except LocalProtocolError as exc:
        raise AssertionError(f"{event}") from exc


async def _attend(frames: list[bytes]) -> None:
    """Reports of one link to a controller whose run has two nodes."""
    run = RunSpec("home", 2, "run", ScheduleSpec((GraphSpec("complete"),)), rounds=1000)
    cluster = Cluster(run, Leadership(0, "c"))
    cluster.handle(Reported("n1", orders.Join("10.0.0.2:1", "run", DataSize(100, 8), process="r")))

    def post(event: Reported | Disconnected) -> None:
        _take(cluster.handle, event)
        if isinstance(event, Reported):
            server.handled(event.node)

    server = ControlServer(_CONTROLLER, post, lambda node, status: None, lambda node: "", Faults())
    await server.Attend(_stream(frames), _Context())


def _peer() -> PeerServer:
    return PeerServer(OURS, (frozenset({5}), plan(1)))


async def _push(frames: list[bytes]) -> None:
    """Frames of one stream to a node that has just begun."""
    server = _peer()
    spec = AlgorithmSpec(UNCOMPRESSED, 1.0, 20)
    node = Node("n1", plan(), VectorLearner(spec, SMALL, spec.initial(np.zeros(SMALL.size, np.float32)), 0, "n1"))

    def deliver(message: messages.Message, taken: Callable[[], None]) -> None:
        taken()
        _take(node.handle, Received(message))

    server.open(OURS, deliver, 1 << 20)
    await server.Push(_stream(frames), _Context())


async def _meet(frames: list[bytes]) -> None:
    """Calls of a node to one that has met its peers."""
    server = _peer()
    server.data = DataSize(100, 8)
    server.take_part_with({"n0": "q"})
    for request in _parsed(peer_pb2.MeetRequest, frames):
        await server.Meet(request, _Context())


async def _fetch(frames: list[bytes]) -> None:
    """Calls of a newcomer to a sponsor."""
    server = _peer()

    async def model(node: str) -> Model:
        return Model(bytes(1000), "its digest")

    server.sponsor(model)
    for request in _parsed(peer_pb2.FetchModelRequest, frames):
        await server.FetchModel(request, _Context())


def _parsed(kind: type[Message], frames: Iterable[bytes]) -> list[Any]:
    """The messages among frames. gRPC itself refuses what is none."""
    found = []
    for frame in frames:
        try:
            found.append(kind.FromString(frame))
        except DecodeError:
            continue
    return found


def _sent(*sent: Message) -> bytes:
    return _SEPARATOR.join(message.SerializeToString() for message in sent)


def _attends() -> tuple[bytes, ...]:
    leader = orders.Leadership(3, "beef", "10.0.0.9:7700")
    join = orders.Join("10.0.0.1:7600", "run", DataSize(100, 8), process="q")
    running = replace(join, plan=plan(1), running=True, follows=leader, fence=orders.Fence(1, 2, frozenset({"n2"})))
    answer = orders.FenceAnswer(0, 1, 2, (("n1", 2),), plan(1).records)
    progress = progress_to_wire(orders.Progress(3, 0, "d"), NodeStatus(round=3, rounds=9))
    farewell = progress_to_wire(orders.Progress(9, 0, "d", answer), NodeStatus(round=9))
    later = [
        orders.OfferAnswer(1, "d", True, 7), answer, orders.Leave(), orders.Fetched(), orders.StopRun(),
        orders.TrainingEnded(), orders.Accusation("n1", 0, 2, "noise"), orders.NewKey("0" * 64), orders.Abort("nan"),
    ]  # fmt: skip
    first, member = join_to_wire(PEER, join), join_to_wire(PEER, running)
    return (
        _sent(first, progress, *map(REPORTS.to_wire, later[:5])),
        _sent(first, *map(REPORTS.to_wire, later[5:]), farewell),
        _sent(member, progress),
        _sent(join_to_wire(PEER, replace(join, saved=frozenset({5, 10}), plan=plan(2)))),
        _sent(first, first),
    )


def _pushes() -> tuple[bytes, ...]:
    root, payload = plan().records[0], encode(a_payload(UNCOMPRESSED, SMALL), SMALL)
    hello, writer = peer_pb2.PushRequest(hello=PEER.to_wire()).SerializeToString(), PushWriter()
    push = messages.Message("n0", 0, 0, 0, root.digest, 0.5, (1.0,), payload)
    leave = plan().successor(1, members=root.members[1:], handoffs=(("n0", "n1"),))
    handoff = replace(push, records=(leave,), begun_rounds=(("n2", 0),))
    later = [frame for t in (0, 1, 2) for frame in writer.frames(replace(push, round=t))]
    return (
        _SEPARATOR.join([hello, *later]),
        _SEPARATOR.join([hello, *PushWriter().frames(handoff), *PushWriter().frames(replace(push, round=1))]),
        _SEPARATOR.join([hello, hello]),
    )


def _meets() -> bytes:
    strange, other = replace(PEER, process="z"), replace(PEER, run_digest="f00d", config='{"a":2}')
    return _sent(
        *(peer_pb2.MeetRequest(identity=one.to_wire()) for one in (PEER, strange, other, replace(OURS, process="z"))),
        peer_pb2.MeetRequest(identity=PEER.to_wire(), abort="nan"),
    )


def _fetches() -> bytes:
    return _sent(*(peer_pb2.FetchModelRequest(identity=PEER.to_wire(), own=own) for own in ("", "0" * 64)))


DECODERS = {
    "attend-stream": Decoder(_handled(_attend), _attends(), _MAX_BYTES),
    "push-stream": Decoder(_handled(_push), _pushes(), _MAX_BYTES),
    "meet-calls": Decoder(_handled(_meet), (_meets(),), share=5),
    "fetch-calls": Decoder(_handled(_fetch), (_fetches(),), share=5),
}
