"""What somebody in the same network can send to a running cluster, with real gRPC calls and any credentials.

Every attack is one coroutine. It raises grpc.aio.AioRpcError if the door refuses it, and otherwise returns the answers.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgenode.config.schema import Config
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.orders import FenceAnswer, Join, Leadership, Progress
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import Schedule
from edgenode.net.operator_wire import GRAPH
from edgenode.net.order_wire import join_to_wire, progress_to_wire
from edgenode.net.proto import control_pb2, control_pb2_grpc, operator_pb2, operator_pb2_grpc, peer_pb2, peer_pb2_grpc
from edgenode.net.push_wire import PushWriter
from edgenode.net.rpc import channel
from edgenode.net.status_wire import CLUSTER_STATUS
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.net.wire import Identity, ack_from_wire
from edgenode.security import certificates
from edgenode.security.secret_files import read_credentials
from edgenode.security.subject import CONTROLLER, Subject

_CALL_S = 10.0
_ANSWER_S = 1.0


def admits_all(subject: Subject, key_id: str) -> bool:
    """An attacker's own server asks nobody."""
    return True


def strangers() -> dict[str, Security]:
    """Processes that the cluster has never enrolled: the name of each, and how it connects."""
    other = certificates.make_authority("other")
    return {
        "plaintext": INSECURE,
        "another authority": MutualTls(certificates.make_credentials(other, Subject("node", "node-3")), admits_all),
    }


def unregistered(folder: Path, subject: Subject) -> Security:
    """A process with a certificate that the authority in a folder has signed, and that its register does not have."""
    authority = read_credentials(folder / "authority.pem")
    assert authority is not None
    return MutualTls(certificates.make_credentials(authority, subject), admits_all)


def member(folder: Path, file: str = "credentials.pem") -> Security:
    """A process with the credentials in a folder: those of a node, unless the file says otherwise."""
    credentials = read_credentials(folder / file)
    assert credentials is not None
    return MutualTls(credentials, admits_all)


@dataclass
class Cluster:
    """A running cluster, as an attacker knows it.

    Attributes:
        status: the last one that an operator saw.
    """

    config: Config
    controller: str
    status: ClusterStatus

    @property
    def plan(self) -> Plan:
        assert self.status.plan is not None
        return self.status.plan

    def address(self, node: str) -> str:
        return next(view.address for view in self.status.nodes if view.node == node)

    def round(self, node: str) -> int:
        return next(view.status.round for view in self.status.nodes if view.node == node)


async def read_status(controller: str, operator: Security) -> ClusterStatus:
    """What an operator sees."""
    async with channel(controller, operator, CONTROLLER.dns_name) as there:
        stub = operator_pb2_grpc.OperatorServiceStub(there)
        return CLUSTER_STATUS.from_wire((await stub.Status(operator_pb2.StatusRequest(), timeout=_CALL_S)).status)


@dataclass
class Attacker:
    """A process that speaks to a cluster under a name.

    Attributes:
        security: how it connects.
        name: the name that it claims; its own, if the attack is not about names.
        process: the id of the process that it claims to be. `Meet` tells a member those of all others.
    """

    cluster: Cluster
    security: Security
    name: str = "node-3"
    process: str = "attacker"

    def identity(self, name: str = "", **changes: Any) -> Identity:
        """What it says about itself: everything of a true member, as `Meet` tells it."""
        incarnation = self.cluster.plan.latest.incarnations.get(name or self.name, 0)
        config = self.cluster.config
        digest = self.cluster.plan.records[0].digest
        identity = Identity(
            config.run.cluster, name or self.name, config.digest(), incarnation, digest, self.process,
            config=config.shared(), security=self.security,
        )  # fmt: skip
        return replace(identity, **changes)

    def message(self, t: int, **changes: Any) -> Message:
        """A push that would be right, if its payload were."""
        record = self.cluster.plan.at(t)
        weight = self.cluster.plan.graph(t).weight(self.name)
        incarnation = record.incarnations.get(self.name, 0)
        message = Message(self.name, incarnation, t, record.number, record.digest, weight, (1.0,), b"noise")
        return replace(message, **changes)

    @asynccontextmanager
    async def stream(self, to: str, identity: Identity) -> AsyncIterator[grpc.aio.StreamStreamCall]:
        """A push stream to a node, after the greeting."""
        async with channel(self.cluster.address(to), self.security, Subject("node", to).dns_name) as there:
            stream = peer_pb2_grpc.PeerServiceStub(there).Push(timeout=_CALL_S)
            await stream.write(peer_pb2.PushRequest(hello=identity.to_wire()))
            if await stream.read() is grpc.aio.EOF:
                await _raise(stream)
            yield stream
            stream.cancel()

    async def push(self, to: str, *messages: Message, identity: Identity | None = None) -> list[str]:
        """Push messages to a node. The answers to them that came, in words, without those to the true member."""
        answers, writer = [], PushWriter()
        async with self.stream(to, identity or self.identity()) as stream:
            for message in messages:
                try:
                    for frame in writer.frames(message):
                        await stream.write(peer_pb2.PushRequest.FromString(frame))
                except asyncio.InvalidStateError:  # the other side has ended it
                    await _raise(stream)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    while len(answers) < len(messages):
                        response = await stream.read()
                        if response is grpc.aio.EOF:
                            await _raise(stream)
                        acks = [ack_from_wire(to, answer) for answer in response.answers]
                        answers += [f"{ack.verdict.name}: {ack.detail}" for ack in acks]
        return answers

    async def attend(self, first: Join, identity: Identity, *reports: control_pb2.AttendRequest) -> list[Any]:
        """Report to the controller. Its orders that came."""
        orders = []
        async with channel(self.cluster.controller, self.security, CONTROLLER.dns_name) as there:
            stream = control_pb2_grpc.ControlServiceStub(there).Attend(timeout=_CALL_S)
            for request in (join_to_wire(identity, first), *reports):
                try:
                    await stream.write(request)
                except asyncio.InvalidStateError:  # the call was refused before all was written
                    await _raise(stream)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    while (order := await stream.read()) is not grpc.aio.EOF:
                        orders.append(order)
                    await _raise(stream)
            stream.cancel()
        return orders

    def join(self, **changes: Any) -> Join:
        """A first report."""
        join = Join("127.0.0.1:1", self.cluster.config.digest(), DataSize(100, 10), process=self.process)
        return replace(join, **changes)

    def operator(self, call: Callable[[operator_pb2_grpc.OperatorServiceStub], Awaitable[Any]]) -> Awaitable[Any]:
        """Call the operator service."""

        async def called() -> Any:
            async with channel(self.cluster.controller, self.security, CONTROLLER.dns_name) as there:
                return await call(operator_pb2_grpc.OperatorServiceStub(there))

        return called()

    async def fetch(self, node: str, timeout_s: float = _CALL_S) -> int:
        """Fetch the model of a node. The number of bytes."""
        async with channel(self.cluster.address(node), self.security, Subject("node", node).dns_name) as there:
            request = peer_pb2.FetchModelRequest(identity=self.identity(plan_digest="").to_wire())
            return sum(
                [
                    len(r.chunk)
                    async for r in peer_pb2_grpc.PeerServiceStub(there).FetchModel(request, timeout=timeout_s)
                ]
            )

    def forged(self, **changes: Any) -> Record:
        """A record that follows, made up."""
        t = max(self.cluster.round(node) for node in self.cluster.plan.latest.names)
        return self.cluster.plan.successor(t + 50, **changes)


async def _raise(stream: grpc.aio.Call) -> None:
    """Raise the status with which the other side ended a stream."""
    raise grpc.aio.AioRpcError(
        await stream.code(), await stream.initial_metadata(), await stream.trailing_metadata(), await stream.details()
    )


# --- the attacks --------------------------------------------------------------------------------------


async def stop_with_a_forged_record(a: Attacker) -> object:
    """A record with an end, of which nobody but the attacker knows."""
    t = a.cluster.round("node-0")
    record = a.forged(end=t + 60)
    return await a.push("node-0", a.message(t, records=(record,)))


async def hand_over_to_nobody(a: Attacker) -> object:
    """A record in which node-0 hands over to a node that does not exist."""
    stay = tuple(m for m in a.cluster.plan.latest.members if m.node != "node-0")
    record = a.forged(members=stay, handoffs=(("node-0", "nobody"),))
    return await a.push("node-0", a.message(a.cluster.round("node-0"), records=(record,)))


async def speak_for_a_neighbour(a: Attacker) -> object:
    """A greeting under the name of a neighbour, to take over its answers."""
    async with a.stream("node-1", a.identity("node-0")):
        await asyncio.sleep(1)
    return None


async def push_a_huge_weight(a: Attacker) -> object:
    """u = 1e300."""
    t = a.cluster.round("node-0") + 1
    return await a.push("node-0", a.message(t, u=(1e300,)))


async def push_far_ahead(a: Attacker) -> object:
    """Pushes of rounds that nobody has begun."""
    t = a.cluster.round("node-0")
    return await a.push("node-0", *(a.message(t + 10_000 + k) for k in range(9)))


async def push_what_no_plan_allows(a: Attacker) -> object:
    """NaN and negative u, wrong weights, bad bytes, the record number 2^64 - 1, and rounds that others cannot have."""
    t = a.cluster.round("node-0") + 2
    wrong = [
        {"u": (math.nan,)}, {"u": (-1.0,)}, {"weight": 0.9}, {"weight": math.nan}, {"payload": os.urandom(500)},
        {"incarnation": 7}, {"number": (1 << 64) - 1}, {"begun_rounds": (("node-1", 1 << 40),)},
    ]  # fmt: skip
    refusals = []
    for changes in wrong:  # each on a stream of its own, because some of them end it
        try:
            await a.push("node-0", a.message(t, **changes))
        except grpc.aio.AioRpcError as exc:
            refusals.append(exc)
    if refusals:
        raise refusals[0]
    return None


async def push_much_that_is_refused(a: Attacker) -> object:
    """Pushes of 80 kB, one after the other, none of which can be right. What they leave at node-0 is measured."""
    t = a.cluster.round("node-0")
    async with a.stream("node-0", a.identity()) as stream:
        try:
            async with asyncio.timeout(3):
                while True:
                    for frame in PushWriter().frames(a.message(t + 10_000, payload=bytes(80_000))):
                        await stream.write(peer_pb2.PushRequest.FromString(frame))
        except TimeoutError:
            return None
        except asyncio.InvalidStateError:  # the other side has ended it
            await _raise(stream)
    return None


async def push_records_of_many_members(a: Attacker) -> object:
    """29 and 38 kB that expand to 2 and 4 million edges."""
    t = a.cluster.round("node-0")
    return [await a.push("node-0", a.message(t, records=(_large(a, members),))) for members in (1500, 1950)]


def _large(a: Attacker, count: int) -> Record:
    members = [Member(f"m{i:04}") for i in range(count)]
    schedule = Schedule((GraphSpec("complete"),), 1)
    # made without its checks, which are what takes so long
    plain = create_plan(a.cluster.config.run.cluster, [Member("m0")], schedule).records[0]
    record = object.__new__(Record)
    for field in Record.__dataclass_fields__:
        object.__setattr__(record, field, getattr(plain, field))
    object.__setattr__(record, "members", tuple(members))
    return record


async def meet_with_a_large_configuration(a: Attacker) -> object:
    """100 greetings of another run, each with a configuration of a megabyte. What they leave at node-0 is measured."""
    identity = a.identity(run_digest="f00d").to_wire()
    identity.config = "x" * 1_000_000
    async with channel(a.cluster.address("node-0"), a.security, Subject("node", "node-0").dns_name) as there:
        for _ in range(100):
            await peer_pb2_grpc.PeerServiceStub(there).Meet(peer_pb2.MeetRequest(identity=identity), timeout=_CALL_S)


async def claim_a_higher_term(a: Attacker) -> object:
    """A member that follows another controller."""
    leader = Leadership(1_000_000, "evil", "127.0.0.1:1")
    return await a.attend(a.join(plan=a.cluster.plan, running=True, follows=leader), a.identity())


async def report_a_round_of_no_run(a: Attacker) -> object:
    """A round that would become the start of a record."""
    latest = a.cluster.plan.latest
    absurd = progress_to_wire(Progress(1 << 40, latest.number, latest.digest), NodeStatus())
    return await a.attend(a.join(plan=a.cluster.plan, running=True), a.identity(), absurd)


async def report_without_end(a: Attacker) -> object:
    """Reports of 900 kB, one after the other. What they leave at the controller is measured."""
    latest = a.cluster.plan.latest
    large = NodeStatus(round=a.cluster.round(a.name), error="x" * 900_000)
    report = progress_to_wire(Progress(large.round, latest.number, latest.digest), large)
    return await a.attend(a.join(plan=a.cluster.plan, running=True), a.identity(), *[report] * 300)


async def begin_with_a_million_rounds(a: Attacker) -> object:
    """A first report with a million saved rounds, in 4 MB. They would take 100 MB of the controller."""
    first = join_to_wire(a.identity(), a.join()).join.SerializeToString()
    numbers = range(1 << 21, 3 << 20)
    rounds = b"".join(bytes((t & 127 | 128, t >> 7 & 127 | 128, t >> 14 & 127 | 128, t >> 21)) for t in numbers)
    saved = _field(1, rounds)
    async with channel(a.cluster.controller, a.security, CONTROLLER.dns_name) as there:
        stream = there.stream_stream("/edgenode.v1.ControlService/Attend")(timeout=_CALL_S)
        await stream.write(_field(1, first + _field(4, saved)))
        if await stream.read() is grpc.aio.EOF:
            await _raise(stream)
        stream.cancel()


def _field(number: int, content: bytes) -> bytes:
    """A field of a message, as protobuf writes it."""
    length, left = bytearray(), len(content)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([number << 3 | 2, *length, left]) + content


async def report_nothing_on_many_links(a: Attacker) -> object:
    """300 streams to the controller that stay without a first report."""
    async with channel(a.cluster.controller, a.security, CONTROLLER.dns_name) as there:
        streams = [control_pb2_grpc.ControlServiceStub(there).Attend(timeout=_CALL_S) for _ in range(300)]
        reads = [asyncio.create_task(stream.read(), name="orders") for stream in streams]
        ended = islice(asyncio.as_completed(reads), len(reads) - 1)  # a member's last one may stay for a while
        answers = await asyncio.gather(*ended, return_exceptions=True)
        for read in reads:
            read.cancel()
        for refusal in answers:
            if isinstance(refusal, grpc.aio.AioRpcError):
                raise refusal


async def watch_on_many_streams(a: Attacker) -> object:
    """300 calls of the controller's health service that stay open."""
    async with AsyncExitStack() as stack:
        reads = []
        for _ in range(6):  # a connection has at most 100
            there = await stack.enter_async_context(channel(a.cluster.controller, a.security, CONTROLLER.dns_name))
            watch = health_pb2_grpc.HealthStub(there).Watch
            calls = [watch(health_pb2.HealthCheckRequest(), timeout=_CALL_S) for _ in range(50)]
            reads += [call.read() for call in calls]
        for refusal in await asyncio.gather(*reads, return_exceptions=True):
            if isinstance(refusal, grpc.aio.AioRpcError):
                raise refusal


async def end_for_another(a: Attacker) -> object:
    """A report that node-0 is done."""
    farewell = FenceAnswer(0, 0, 10, (), a.cluster.plan.records)
    done = progress_to_wire(Progress(10, 0, a.cluster.plan.latest.digest, farewell), NodeStatus(state=NodeState.DONE))
    join = a.join(plan=a.cluster.plan, running=True)
    return await a.attend(join, a.identity("node-0"), done)


async def join_as_another(a: Attacker) -> object:
    """A newcomer with the name and the address of a member."""
    return await a.attend(a.join(address=a.cluster.address("node-0")), a.identity("node-0"))


async def report_absurd_data(a: Attacker) -> object:
    """2^63 samples, from which all nodes would derive their epochs."""
    return await a.attend(a.join(data=DataSize(1 << 63, 1)), a.identity())


async def use_a_name_with_escape_codes(a: Attacker) -> object:
    """A name that is printed and becomes a path."""
    return await a.attend(a.join(), a.identity("../\x1b[2J"))


async def stop_as_operator(a: Attacker) -> object:
    """An operator's request."""
    return await a.operator(lambda stub: stub.Stop(operator_pb2.StopRequest(), timeout=_CALL_S))


async def evict_as_operator(a: Attacker) -> object:
    """An operator's request."""
    return await a.operator(lambda stub: stub.Evict(operator_pb2.EvictRequest(node="node-0"), timeout=_CALL_S))


async def rotate_through_9001_graphs(a: Attacker) -> object:
    """An operator's request."""
    request = operator_pb2.RotateRequest(graphs=[GRAPH.to_wire(GraphSpec("a"))] * 9001, every=1)
    return await a.operator(lambda stub: stub.Rotate(request, timeout=_CALL_S))


async def fetch_many_models(a: Attacker) -> object:
    """100 clients that fetch the model at once."""
    await a.fetch("node-0")
    results = await asyncio.gather(*(a.fetch("node-0", 3.0) for _ in range(100)), return_exceptions=True)
    return [one for one in results if isinstance(one, int)]


Attack = Callable[[Attacker], Awaitable[object]]
UNCOUNTED: Mapping[Attack, str] = {
    claim_a_higher_term: r"refused a node .*node=node-3 reason=.*signature",
    meet_with_a_large_configuration: "",  # which node-0 logs
    report_without_end: r"node joined .*node=node-3",  # no report is wrong
    report_nothing_on_many_links: r"refused a call .*node-3.*no report in",
    watch_on_many_streams: r"refused a call .*calls of Watch with one key.*node-3",
    stop_as_operator: r"refused a call .*OperatorService/Stop.*node node-3",
    evict_as_operator: r"refused a call .*OperatorService/Evict.*node node-3",
    rotate_through_9001_graphs: r"refused a call .*OperatorService/Rotate.*node node-3",
}
"""Attacks of a member that are no faults of a message, and what the controller logs of each."""
ATTACKS: Iterable[Attack] = (
    stop_with_a_forged_record, hand_over_to_nobody, speak_for_a_neighbour, push_a_huge_weight, push_far_ahead,
    push_what_no_plan_allows, push_much_that_is_refused, push_records_of_many_members,
    meet_with_a_large_configuration, claim_a_higher_term, report_a_round_of_no_run, report_without_end,
    begin_with_a_million_rounds, report_nothing_on_many_links, watch_on_many_streams, end_for_another, join_as_another,
    report_absurd_data, use_a_name_with_escape_codes, stop_as_operator, evict_as_operator, rotate_through_9001_graphs,
    fetch_many_models,
)  # fmt: skip
