"""Two real ends over loopback: every push is answered, whatever happens to the connection in between."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc.aio
import pytest

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.plan import Member, create_plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import DigestMismatch, EdgenodeError, RemoteProtocolError, TransportError
from edgenode.net import peers
from edgenode.net.peers import PeerAddresses, PeerLink, Peers, PeerServer, meet, probe
from edgenode.net.proto import peer_pb2, peer_pb2_grpc
from edgenode.net.rpc import channel, serving
from edgenode.net.wire import CHUNK_BYTES, Identity, push_frames

N0, N1 = Identity("home", "n0", "run"), Identity("home", "n1", "run")
SOON_S = 5.0


@pytest.fixture(autouse=True)
async def nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task outlives a test, and neither asyncio nor gRPC has logged a complaint."""
    yield
    gc.collect(1)  # what a test has just made is young
    await asyncio.sleep(0)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


def a_message(t: int, payload: bytes = b"payload") -> Message:
    return Message("n0", 0, t, number=0, digest="d", weight=0.5, u=(1.0,), payload=payload)


@dataclass
class Receiver:
    """n1, which may be stopped and started again; what it took stays taken."""

    identity: Identity = N1
    answers: bool = True
    opens: bool = True
    max_payload_bytes: int = 1_000
    port: int = 0
    took: list[Message] = field(default_factory=list)
    server: PeerServer = field(init=False)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        self.server = PeerServer(self.identity, (frozenset(), None))
        if self.opens:
            self.open()
        async with serving(f"127.0.0.1:{self.port}", [(peers.SERVICE, self.server.add_to)], 0.0) as self.port:
            yield f"127.0.0.1:{self.port}"

    def open(self) -> None:
        self.server.open(self.identity, self._take, self.max_payload_bytes)

    def _take(self, message: Message) -> None:
        seen = message.round in {m.round for m in self.took}
        self.took.append(message)
        if self.answers:
            self.answer(message.round, Verdict.SEEN if seen else Verdict.OK)

    def answer(self, t: int, verdict: Verdict = Verdict.OK) -> None:
        self.server.answer("n0", Ack(t, verdict, 0))

    @property
    def rounds(self) -> list[int]:
        return [message.round for message in self.took]


@asynccontextmanager
async def a_link(*targets: str, identity: Identity = N0) -> AsyncIterator[tuple[PeerLink, list[Answered]]]:
    """n0's link to n1; it is closed, and has ended, when the block is left."""
    answered: list[Answered] = []
    link = PeerLink("n1", identity, lambda: PeerAddresses(tuple(targets)), answered.append)
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        group.create_task(link.run(), name="link")
        yield link, answered
        link.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110 - what is awaited is on the other side
            await asyncio.sleep(0.005)


async def failure(work: Awaitable[object]) -> EdgenodeError:
    with pytest.raises(EdgenodeError) as caught:
        await asyncio.wait_for(work, SOON_S)
    return caught.value


# --- delivery


async def test_pushes_are_delivered_and_answered_in_order() -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link(target) as (link, answered):
        for t in range(20):
            link.push(a_message(t))
        await until(lambda: len(answered) == 20)
    assert receiver.took == [a_message(t) for t in range(20)]
    assert answered == [Answered("n1", Ack(t, Verdict.OK, 0)) for t in range(20)]


async def test_a_payload_of_many_chunks_travels_and_is_counted() -> None:
    payload = bytes(range(256)) * (20_000_000 // 256)
    receiver = Receiver(max_payload_bytes=len(payload))
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0, payload))
        await until(lambda: bool(answered))
    assert receiver.took[0].payload == payload
    frames = len(payload) // CHUNK_BYTES + 1
    assert 0 < link.wire_bytes - len(payload) < 20 * frames


async def test_a_receiver_that_starts_late_is_waited_for() -> None:
    receiver = Receiver()
    async with receiver.up() as target:
        pass
    async with a_link(target) as (link, answered):
        link.push(a_message(0))
        await asyncio.sleep(0.2)
        async with receiver.up():
            await until(lambda: bool(answered))
            link.close()
    assert receiver.rounds == [0]


async def test_a_receiver_that_opens_late_keeps_the_stream_waiting() -> None:
    receiver = Receiver(opens=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0))
        await asyncio.sleep(0.1)
        assert (receiver.took, receiver.server.connected) == ([], 0)
        receiver.open()
        await until(lambda: bool(answered))
    assert receiver.rounds == [0]


async def test_a_receiver_that_answers_late_and_out_of_order_gets_no_push_twice() -> None:
    receiver = Receiver(answers=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        for t in range(3):
            link.push(a_message(t))
        await until(lambda: len(receiver.took) == 3)
        await asyncio.sleep(0.3)
        for t in (2, 0, 1):
            receiver.answer(t)
        await until(lambda: len(answered) == 3)
    assert receiver.rounds == [0, 1, 2]
    assert [a.ack.round for a in answered] == [2, 0, 1]


async def test_what_a_stopped_receiver_has_not_answered_is_pushed_again_in_order() -> None:
    receiver = Receiver(answers=False)
    async with AsyncExitStack() as first:
        target = await first.enter_async_context(receiver.up())
        async with a_link(target) as (link, answered):
            for t in range(6):
                link.push(a_message(t))
            await until(lambda: len(receiver.took) == 6)
            for t in (1, 4):
                receiver.answer(t)
            await until(lambda: len(answered) == 2)
            await first.aclose()
            link.push(a_message(6))  # while nobody is there
            receiver.answers = True
            async with receiver.up():
                await until(lambda: len(answered) == 7)
                link.close()
                await until(lambda: receiver.server.connected == 0)
    assert receiver.rounds == [*range(6), 0, 2, 3, 5, 6]
    assert [(a.ack.round, a.ack.verdict) for a in answered[2:]] == [(r, Verdict.SEEN) for r in (0, 2, 3, 5)] + [
        (6, Verdict.OK)
    ]


async def test_a_receiver_stopped_again_and_again_misses_nothing() -> None:
    receiver = Receiver()
    async with receiver.up() as target:
        pass
    async with a_link(target) as (link, answered):
        for start in range(0, 30, 10):
            async with receiver.up():
                await until(lambda: receiver.server.connected == 1)
                for t in range(start, start + 10):
                    link.push(a_message(t, bytes(1000)))
                    await asyncio.sleep(0)
        async with receiver.up():
            await until(lambda: {a.ack.round for a in answered} == set(range(30)))
            link.close()
            await until(lambda: receiver.server.connected == 0)
    firsts = list(dict.fromkeys(receiver.rounds))
    assert firsts == list(range(30))


async def test_a_second_address_is_tried_when_the_first_is_dead() -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link("127.0.0.1:1", target) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(answered))


async def test_a_peer_without_a_known_address_is_waited_for() -> None:
    receiver, targets = Receiver(), []
    answered: list[Answered] = []
    link = PeerLink("n1", N0, lambda: PeerAddresses(tuple(targets)), answered.append)
    async with receiver.up() as target, asyncio.TaskGroup() as group:
        group.create_task(link.run(), name="link")
        link.push(a_message(0))
        await asyncio.sleep(0.1)
        targets.append(target)
        await until(lambda: bool(answered))
        link.close()


# --- closing


async def test_closing_waits_for_the_last_answer() -> None:
    receiver = Receiver(answers=False)
    async with receiver.up() as target, asyncio.TaskGroup() as group:
        answered: list[Answered] = []
        links = Peers(group, N0, lambda peer: PeerAddresses((target,)), answered.append)
        links.push("n1", a_message(0))
        await until(lambda: bool(receiver.took))
        closing = group.create_task(links.close(), name="closing")
        await asyncio.sleep(0.3)
        assert not closing.done()
        assert receiver.rounds == [0]  # it waits on the stream that it has
        receiver.answer(0)
        await asyncio.wait_for(closing, SOON_S)
        assert [a.ack.round for a in answered] == [0]
        await until(lambda: receiver.server.connected == 0)


async def test_closing_repeats_what_a_stopped_receiver_did_not_answer() -> None:
    receiver = Receiver(answers=False)
    async with AsyncExitStack() as first, asyncio.TaskGroup() as group:
        target = await first.enter_async_context(receiver.up())
        answered: list[Answered] = []
        links = Peers(group, N0, lambda peer: PeerAddresses((target,)), answered.append)
        links.push("n1", a_message(0))
        await until(lambda: bool(receiver.took))
        closing = group.create_task(links.close(), name="closing")
        await first.aclose()
        receiver.answers = True
        async with receiver.up():
            await asyncio.wait_for(closing, SOON_S)
    assert receiver.rounds == [0, 0]
    assert [a.ack.verdict for a in answered] == [Verdict.SEEN]


async def test_closing_does_not_wait_for_a_receiver_that_owes_nothing() -> None:
    receiver = Receiver()
    async with AsyncExitStack() as first, asyncio.TaskGroup() as group:
        target = await first.enter_async_context(receiver.up())
        links = Peers(group, N0, lambda peer: PeerAddresses((target,)), lambda answered: None)
        links.push("n1", a_message(0))
        await until(lambda: bool(receiver.took))
        await first.aclose()
        await asyncio.wait_for(links.close(), SOON_S)


async def test_links_without_a_peer_close_at_once() -> None:
    async with asyncio.TaskGroup() as group:
        await Peers(group, N0, lambda peer: PeerAddresses(()), lambda answered: None).close()


@pytest.mark.parametrize("turns", [0, 1, 2, 4, 8, 100])
async def test_a_link_that_breaks_while_it_is_abandoned_does_not_dial_again(turns: int) -> None:
    receiver = Receiver(answers=False)
    async with AsyncExitStack() as first, asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        target = await first.enter_async_context(receiver.up())
        links = Peers(group, N0, lambda peer: PeerAddresses((target,)), lambda answered: None)
        links.push("n1", a_message(0))
        await until(lambda: bool(receiver.took))
        stopping = group.create_task(first.aclose(), name="stopping")
        while turns and not stopping.done():
            await asyncio.sleep(0)
            turns -= 1
        links.abandon()
        await stopping


async def test_an_abandoned_link_leaves_nobody_waiting() -> None:
    receiver = Receiver(answers=False)
    async with receiver.up() as target, asyncio.TaskGroup() as group:
        links = Peers(group, N0, lambda peer: PeerAddresses((target,)), lambda answered: None)
        links.push("n1", a_message(0))
        await until(lambda: bool(receiver.took))
        links.abandon()
        await until(lambda: receiver.server.connected == 0)


# --- the wrong ones


@pytest.mark.parametrize(
    ("identity", "what", "ours", "theirs"),
    [
        (replace(N0, cluster="away"), "cluster", "home", "away"),
        (replace(N0, run_digest="f00d"), "run digest", "run", "f00d"),
    ],
)
async def test_a_peer_of_another_run_is_refused_with_both_values(
    identity: Identity, what: str, ours: str, theirs: str
) -> None:
    async with Receiver().up() as target:
        error = await failure(PeerLink("n1", identity, lambda: PeerAddresses((target,)), lambda answered: None).run())
    assert isinstance(error, RemoteProtocolError)
    assert str(error).startswith(f"refused by {target}: {what} differs from n0 at ")
    assert str(error).endswith(f"ours is {ours}, theirs is {theirs}")


async def test_another_plan_is_refused_with_both_values() -> None:
    async with Receiver(replace(N1, plan_digest="beef")).up() as target:
        link = PeerLink("n1", replace(N0, plan_digest="cafe"), lambda: PeerAddresses((target,)), lambda answered: None)
        error = await failure(link.run())
    assert isinstance(error, RemoteProtocolError)
    assert "plan digest differs" in str(error)
    assert "ours is beef, theirs is cafe" in str(error)


async def test_somebody_else_at_the_address_is_passed_over_for_the_right_one() -> None:
    mismatch, receiver = Receiver(replace(N1, node="n2")), Receiver()
    async with mismatch.up() as wrong, receiver.up() as right, a_link(wrong, right) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(answered))
    assert (mismatch.took, receiver.rounds) == ([], [0])


async def test_an_answer_that_nobody_understands_ends_the_link() -> None:
    class Strange(PeerServer):
        async def Push(self, requests: AsyncIterator[peer_pb2.PushRequest], context: grpc.aio.ServicerContext) -> None:
            await context.write(peer_pb2.PushResponse(hello=N1.to_wire()))
            await context.write(peer_pb2.PushResponse(answer=peer_pb2.Answer(verdict=77)))  # type: ignore[arg-type]
            await asyncio.sleep(SOON_S)

    strange = Strange(N1, (frozenset(), None))
    async with serving("127.0.0.1:0", [(peers.SERVICE, strange.add_to)], 0.0) as port:
        there = PeerAddresses((f"127.0.0.1:{port}",))
        error = await failure(PeerLink("n1", N0, lambda: there, lambda answered: None).run())
    assert isinstance(error, RemoteProtocolError)
    assert "n1 answered with an unknown verdict 77" in str(error)


HELLO = peer_pb2.PushRequest(hello=replace(N0, node="bad").to_wire())


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([], "cluster differs"),
        ([peer_pb2.PushRequest(chunk=b"first")], "cluster differs"),
        (list(push_frames(a_message(0))), "cluster differs"),
        ([HELLO, peer_pb2.PushRequest(chunk=b"first")], "unexpected frame 'chunk'"),
        ([HELLO, HELLO], "unexpected frame 'hello'"),
        ([HELLO, *push_frames(a_message(0, bytes(1001)))], "a payload of 1001 bytes; this model's is at most 1000"),
        ([HELLO, *push_frames(replace(a_message(0), u=(1.0, float("nan"))))], "not finite"),
    ],
)
async def test_a_malformed_sender_is_refused_and_others_are_served(frames: list[object], text: str) -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link(target) as (link, answered), channel(target) as to_peer:
        link.push(a_message(0))
        await until(lambda: len(answered) == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(SOON_S):
                async for _ in peer_pb2_grpc.PeerServiceStub(to_peer).Push(iter(frames)):
                    pass
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert text in (caught.value.details() or "")
        link.push(a_message(1))
        await until(lambda: len(answered) == 2)
    assert receiver.rounds == [0, 1]


async def test_bytes_that_are_no_message_do_not_stop_the_server() -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link(target) as (link, answered), channel(target) as to_peer:
        push = to_peer.stream_stream(f"/{peers.SERVICE}/Push")
        for garbage in (b"\xff" * 40, b"\x0a\xff", bytes(100)):
            with pytest.raises(grpc.aio.AioRpcError):
                async with asyncio.timeout(SOON_S):
                    async for _ in push(iter([garbage])):
                        pass
        link.push(a_message(0))
        await until(lambda: bool(answered))


async def test_a_bad_frame_while_answers_flow_still_arrives_as_a_refusal() -> None:
    """The refusal must not be lost in the middle of a write: its sender would try again for ever."""
    receiver = Receiver()
    many = [frame for t in range(200) for frame in push_frames(a_message(t))]
    async with receiver.up() as target, channel(target) as to_peer:
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(SOON_S):
                    frames = iter([peer_pb2.PushRequest(hello=N0.to_wire()), *many, peer_pb2.PushRequest()])
                    async for _ in peer_pb2_grpc.PeerServiceStub(to_peer).Push(frames):
                        pass
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


# --- meeting


async def test_a_fixed_peer_says_who_it_is_and_what_it_has_saved() -> None:
    plan = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), every=1))
    server = PeerServer(N1, (frozenset({50, 100}), plan))
    async with serving("127.0.0.1:0", [(peers.SERVICE, server.add_to)], 0.0) as port:
        assert await meet(f"127.0.0.1:{port}", N0, pytest.fail, SOON_S) == (N1, frozenset({50, 100}), plan)


async def test_a_fixed_peer_of_another_run_is_refused_by_name() -> None:
    async with Receiver(replace(N1, run_digest="f00d")).up() as target:
        error = await failure(meet(target, N0, pytest.fail, SOON_S))
    assert isinstance(error, DigestMismatch)
    assert str(error) == f"run digest differs from n1 at {target}: ours is run, theirs is f00d"


async def test_a_fixed_peer_that_starts_late_is_waited_for() -> None:
    receiver = Receiver()
    async with receiver.up() as target:
        pass
    async with asyncio.TaskGroup() as group:
        meeting = group.create_task(meet(target, N0, lambda target, why: None, SOON_S), name="meeting")
        await asyncio.sleep(0.2)
        async with receiver.up():
            identity, rounds, plan = await meeting
    assert (identity, rounds, plan) == (N1, frozenset(), None)


async def test_a_fixed_peer_that_never_answers_is_given_up_with_its_address() -> None:
    error = await failure(meet("127.0.0.1:1", N0, lambda target, why: None, 0.3))
    assert isinstance(error, TransportError)
    assert "127.0.0.1:1" in str(error)


async def test_a_probe_tells_who_answers_and_none_where_nobody_does() -> None:
    receiver = Receiver(replace(N1, process="one"))
    async with receiver.up() as target:
        assert await probe(target, N0, SOON_S) == replace(N1, process="one")
    assert await probe(target, N0, SOON_S) is None


async def test_who_has_ended_stays_until_everyone_has_asked_who_it_is_but_not_for_ever() -> None:
    receiver = Receiver()
    async with receiver.up() as target, asyncio.timeout(SOON_S):
        await receiver.server.greeted_by(frozenset({"n0"}), 0.05)
        waiting = asyncio.create_task(receiver.server.greeted_by(frozenset({"n0"}), 60), name="waiting")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await meet(target, N0, lambda *_: None, SOON_S)
        await waiting


async def test_a_process_of_our_own_name_is_a_stranger_and_we_ourselves_are_not() -> None:
    receiver = Receiver(replace(N1, process="one"))
    async with receiver.up() as target:
        await probe(target, replace(N1, process="one"), SOON_S)
        assert receiver.server._mismatches.empty()
        await probe(target, replace(N1, process="two"), SOON_S)
        assert "has our own name 'n1': give one of us another --name" in str(
            await failure(receiver.server.first_mismatch())
        )
