"""The receiving end over loopback: it serves its peers, and refuses what breaks the protocol."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256

import grpc.aio
import pytest
from structlog.testing import capture_logs

from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import Abort
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.topology.schedule import GraphSpec, Schedule
from edgenode.errors import RemoteProtocolError, TransportError
from edgenode.net import model_sender, peer_server
from edgenode.net.model_sender import Model
from edgenode.net.peer_calls import abort, fetch_model, has_model, meet, probe
from edgenode.net.peer_server import Answers
from edgenode.net.proto import peer_pb2, peer_pb2_grpc
from edgenode.net.rpc import channel
from edgenode.net.wire import CHUNK_BYTES, MOST_ANSWERS
from tests.net.peer_ends import N0, N1, SOON_S, Receiver, a_link, a_message, failure, push_frames, until

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


async def test_stream_waits_until_the_receiver_opens() -> None:
    receiver = Receiver(opens=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0))
        await asyncio.sleep(0.1)
        assert (receiver.took, receiver.server.senders()) == ([], {})
        receiver.open()
        await until(lambda: bool(answered))
    assert receiver.rounds == [0]


NAMELESS = peer_pb2.PushRequest(hello=replace(N0, node="../n0").to_wire())
HELLO = peer_pb2.PushRequest(hello=replace(N0, node="bad").to_wire())


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([peer_pb2.PushRequest(chunk=b"first")], "a process is named ''"),
        (push_frames(a_message(0)), "a process is named ''"),
        ([HELLO, peer_pb2.PushRequest(chunk=b"first")], "unexpected frame: a part of no payload"),
        ([NAMELESS], "a process is named '../n0', but a name is 1 to 63 ASCII letters"),
        ([HELLO, HELLO], "unexpected frame: neither a header"),
        ([HELLO, *push_frames(a_message(0, bytes(1001)))], "a payload of 1001 bytes; this model's is at most 1000"),
        ([HELLO, *push_frames(replace(a_message(0), u=(1.0, float("nan"))))], "not finite"),
    ],
)
async def test_malformed_frames_are_refused_and_others_are_served(frames: list[object], text: str) -> None:
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


async def test_stream_that_ends_before_its_greeting_is_no_fault_of_its_sender() -> None:
    """A relay can end a connection at any byte."""
    receiver = Receiver()
    async with receiver.up() as target, channel(target) as to_peer:
        with pytest.raises(grpc.aio.AioRpcError, match="ended before its greeting"):
            async with asyncio.timeout(SOON_S):
                async for _ in peer_pb2_grpc.PeerServiceStub(to_peer).Push(iter([])):
                    pass
        assert receiver.server.faults.by_peer == ()


async def test_random_bytes_do_not_stop_the_server() -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link(target) as (link, answered), channel(target) as to_peer:
        push = to_peer.stream_stream(f"/{peer_server.SERVICE}/Push")
        for garbage in (b"\xff" * 40, b"\x0a\xff", bytes(100)):
            with pytest.raises(grpc.aio.AioRpcError):
                async with asyncio.timeout(SOON_S):
                    async for _ in push(iter([garbage])):
                        pass
        link.push(a_message(0))
        await until(lambda: bool(answered))


async def test_bad_frame_amid_answers_arrives_as_a_refusal() -> None:
    """A refusal that is lost in the middle of a write would let its sender retry for ever."""
    receiver = Receiver()
    many = push_frames(*map(a_message, range(200)))
    async with receiver.up() as target, channel(target) as to_peer:
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(SOON_S):
                    frames = iter([peer_pb2.PushRequest(hello=N0.to_wire()), *many, peer_pb2.PushRequest()])
                    async for _ in peer_pb2_grpc.PeerServiceStub(to_peer).Push(frames):
                        pass
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


# --- what one sender can take


async def test_server_reads_no_more_than_a_window_of_pushes() -> None:
    """A flood waits in the sockets, and the true pushes arrive in their order once the node is free."""
    receiver = Receiver(busy=True, window=3, max_payload_bytes=100_000)
    async with receiver.up() as target, a_link(target) as (link, answered):
        for t in range(40):
            link.push(a_message(t, bytes(80_000)))
        await until(lambda: len(receiver.took) == 3)
        await asyncio.sleep(0.2)
        assert receiver.rounds == [0, 1, 2]
        receiver.waiting.pop()()
        await until(lambda: receiver.rounds == [0, 1, 2, 3])
        receiver.busy = False
        while receiver.waiting:
            receiver.waiting.pop()()
        await until(lambda: len(answered) == 40)
    assert receiver.rounds == list(range(40))


async def test_sender_that_reads_no_answers_takes_a_limited_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "_MOST_WAITING", 16)
    receiver = Receiver(answers=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(receiver.took))
        for t in range(1, 100):  # without a turn of the loop nothing is written
            receiver.answer(t)
        assert len(receiver.server._streams["n0"].answers) == 16
        await until(lambda: not len(receiver.server._streams["n0"].answers))
        receiver.answer(0)
        await until(lambda: bool(answered))


# --- answers that travel together


def an_ack(t: int, verdict: Verdict = Verdict.OK, records: tuple[Record, ...] = ()) -> Ack:
    return Ack(t, verdict, 0, "", records)


async def frame(answers: Answers, within_s: float) -> list[int]:
    return [ack.round for ack in await asyncio.wait_for(answers.take(), within_s)]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    monkeypatch.setattr(peer_server, "_HOLD_S", 0.5)
    held = Answers(window=8)
    held.hold = True
    return held


async def test_answers_wait_until_half_a_window_is_there(answers: Answers) -> None:
    for t in range(3):
        answers.put(an_ack(t))
    with pytest.raises(TimeoutError):
        await frame(answers, 0.1)
    answers.put(an_ack(3))
    assert await frame(answers, 0.1) == [0, 1, 2, 3]


async def test_answer_waits_a_limited_time(answers: Answers) -> None:
    for t in range(2):
        begin = asyncio.get_running_loop().time()
        answers.put(an_ack(t))
        assert await frame(answers, SOON_S) == [t]
        assert asyncio.get_running_loop().time() - begin > 0.4


@pytest.mark.parametrize("verdict", [Verdict.SEEN, Verdict.STALE, Verdict.ERROR])
async def test_other_answers_take_those_that_wait_along(answers: Answers, verdict: Verdict) -> None:
    answers.put(an_ack(0))
    answers.put(an_ack(1, verdict))
    assert await frame(answers, 0.1) == [0, 1]


async def test_answer_to_a_large_push_does_not_wait(answers: Answers) -> None:
    answers.hold = False
    answers.put(an_ack(0))
    assert await frame(answers, 0.1) == [0]


async def test_frame_has_a_limited_number_of_answers(answers: Answers) -> None:
    """The other end refuses a longer one. Records are long, so an answer with some is alone."""
    record = create_plan("home", [Member("n0", 0)], Schedule((GraphSpec("a"),), every=1)).latest
    for t in range(70):
        answers.put(an_ack(t))
    answers.put(an_ack(70, Verdict.STALE, (record,)))
    answers.put(an_ack(71))
    answers.end()
    frames = []
    while found := await frame(answers, 0.1):
        frames.append(found)
    assert [t for found in frames for t in found] == list(range(72))
    assert max(map(len, frames)) <= MOST_ANSWERS
    assert [70] in frames


async def test_sender_with_a_full_window_gets_its_answers() -> None:
    """Half a window of answers is enough, and a sender may have a window unanswered."""
    receiver = Receiver(answers=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        for t in range(8):
            link.push(a_message(t))
        await until(lambda: len(receiver.took) == 8)
        for t in range(5):
            receiver.answer(t)
        await until(lambda: len(answered) == 5)
        for t in range(5, 8):
            receiver.answer(t)
        await until(lambda: len(answered) == 8)


async def test_newer_stream_of_a_name_ends_the_older_one() -> None:
    receiver = Receiver(answers=False)
    async with receiver.up() as target, channel(target) as to_peer:
        older = peer_pb2_grpc.PeerServiceStub(to_peer).Push()
        await older.write(peer_pb2.PushRequest(hello=N0.to_wire()))
        await older.read()
        async with a_link(target) as (link, answered):
            link.push(a_message(0))
            await until(lambda: bool(receiver.took))
            with pytest.raises(grpc.aio.AioRpcError, match="this node has connected again"):
                await asyncio.wait_for(older.read(), SOON_S)
            receiver.answer(0)
            await until(lambda: bool(answered))
        assert len(receiver.server.senders()) <= 1


async def test_stream_without_a_greeting_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_server, "_HELLO_S", 0.1)
    async with Receiver().up() as target, channel(target) as to_peer:
        stream = peer_pb2_grpc.PeerServiceStub(to_peer).Push()
        with pytest.raises(grpc.aio.AioRpcError, match="no greeting in"):
            async with asyncio.timeout(SOON_S):
                await stream.read()


async def test_message_above_a_mebibyte_ends_its_call() -> None:
    receiver = Receiver(max_payload_bytes=1 << 30)
    async with receiver.up() as target, a_link(target) as (link, answered), channel(target) as to_peer:
        stream = peer_pb2_grpc.PeerServiceStub(to_peer).Push()
        await stream.write(peer_pb2.PushRequest(hello=replace(N0, node="n2").to_wire()))
        await stream.read()
        await stream.write(peer_pb2.PushRequest(chunk=bytes(1 << 20)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stream.read(), SOON_S)
        assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
        link.push(a_message(0))
        await until(lambda: bool(answered))


async def test_server_waits_a_limited_time_until_every_peer_met_it() -> None:
    receiver = Receiver()
    async with receiver.up() as target, asyncio.timeout(SOON_S):
        await receiver.server.wait_until_known_to(frozenset({"n0"}), 0.05)
        waiting = asyncio.create_task(receiver.server.wait_until_known_to(frozenset({"n0"}), 60), name="waiting")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await meet(target, N0, lambda *_: None, SOON_S)
        await waiting


async def test_answer_with_an_older_company_is_not_enough() -> None:
    receiver = Receiver()
    async with receiver.up() as target, asyncio.timeout(SOON_S):
        await meet(target, N0, lambda *_: None, SOON_S)
        receiver.server.company = "all"
        waiting = asyncio.create_task(receiver.server.wait_until_known_to(frozenset({"n0"}), 60), name="waiting")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert (await meet(target, N0, lambda *_: None, SOON_S)).company == "all"
        await waiting


async def test_another_process_of_the_same_name_is_a_mismatch() -> None:
    receiver = Receiver(replace(N1, process="one"))
    async with receiver.up() as target:
        await probe(target, replace(N1, process="one"), SOON_S)
        assert receiver.server._mismatches.empty()
        await probe(target, replace(N1, process="two"), SOON_S)
        assert "has this node's name 'n1': give one of the two another --name" in str(
            await failure(receiver.server.first_mismatch())
        )


async def test_processes_of_other_runs_leave_one_mismatch_and_one_line() -> None:
    receiver = Receiver()
    request = peer_pb2.MeetRequest(identity=replace(N0, run_digest="f00d").to_wire())
    request.identity.config = "x" * 1_000_000
    async with receiver.up() as target, channel(target) as there:
        with capture_logs() as logged:
            for _ in range(20):
                await peer_pb2_grpc.PeerServiceStub(there).Meet(request)
        assert [line["event"] for line in logged] == ["met a process of another run"]
        kept = receiver.server._mismatches.get_nowait()
        assert receiver.server._mismatches.empty()
        assert "run digest differs from n0" in str(kept)
        assert kept.__traceback__ is None  # its frames would keep the request


async def test_process_with_an_invalid_name_is_not_met() -> None:
    receiver = Receiver()
    async with receiver.up() as target:
        assert await probe(target, replace(N0, node="../n0"), SOON_S) is None
    assert receiver.server._known_to == {}


async def test_abort_of_a_peer_arrives_with_its_identity() -> None:
    receiver, member = Receiver(), replace(N0, plan_digest="plan", incarnation=2)
    async with receiver.up() as target:
        await probe(target, member, SOON_S)
        assert receiver.server._aborts.empty()
        await abort(target, replace(member, run_digest="f00d"), "another run", SOON_S)
        for _ in range(20):
            await abort(target, member, "training diverged", SOON_S)
        assert await receiver.server.next_abort() == (member, Abort("training diverged"))
        assert receiver.server._aborts.qsize() == 15
    await abort(target, member, "to a process that has ended", SOON_S)


# --- the model


async def test_newcomer_fetches_the_model_in_chunks() -> None:
    receiver, model = Receiver(), bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"end"

    async def export(node: str) -> Model:
        assert node == N0.node
        return Model(model, sha256(model).hexdigest())

    async with receiver.up() as target:
        receiver.server.sponsor(export)
        assert await fetch_model(target, N0, len(model), SOON_S) == model
        assert await fetch_model(target, N0, len(model), SOON_S, sha256(b"another").hexdigest()) == model
        assert await fetch_model(target, N0, len(model), SOON_S, sha256(model).hexdigest()) == b""
        assert await has_model(target, N0, sha256(model).hexdigest(), SOON_S, "n1")
        assert not await has_model(target, N0, sha256(b"another").hexdigest(), SOON_S, "n1")
        error = await failure(fetch_model(target, N0, len(model) - 1, SOON_S))
    assert isinstance(error, RemoteProtocolError)
    assert str(error) == f"{target} sends a model of more than {len(model) - 1} bytes"


async def test_node_without_a_model_refuses_to_send_it() -> None:
    async with Receiver().up() as target:
        error = await failure(fetch_model(target, N0, 1, SOON_S))
    assert isinstance(error, TransportError)
    assert "n1 has no model yet" in str(error)


async def test_newcomers_fetch_one_after_the_other() -> None:
    receiver, at_once, most = Receiver(), 0, 0

    async def export(node: str) -> Model:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return Model(bytes(3 * CHUNK_BYTES), "its digest")

    async with receiver.up() as target:
        receiver.server.sponsor(export)
        fetches = (fetch_model(target, replace(N0, node=f"n{i + 2}"), 1 << 20, SOON_S) for i in range(20))
        assert {len(model) for model in await asyncio.gather(*fetches)} == {3 * CHUNK_BYTES}
    assert most == 1


class StalledFetches:
    """Newcomers that read one part of a large model each, and no more."""

    def __init__(self, target: str) -> None:
        self._target = target

    async def __aenter__(self) -> StalledFetches:
        self._channel = channel(self._target)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(0)

    async def start(self, node: str) -> grpc.aio.UnaryStreamCall:
        request = peer_pb2.FetchModelRequest(identity=replace(N0, node=node).to_wire())
        stalled = peer_pb2_grpc.PeerServiceStub(self._channel).FetchModel(request)
        await stalled.read()
        return stalled


async def end_of(fetch: grpc.aio.UnaryStreamCall) -> tuple[grpc.StatusCode, str]:
    """How a fetch has ended. A client gets the status when it has read what came before."""
    with suppress(grpc.aio.AioRpcError):
        while await fetch.read() is not grpc.aio.EOF:
            pass
    return await fetch.code(), await fetch.details() or ""


async def export_large(node: str) -> Model:
    return Model(b"model" if node == "n0" else bytes(24 << 20), "its digest")


async def test_newcomers_that_read_nothing_do_not_keep_another_out() -> None:
    receiver = Receiver()
    async with receiver.up() as target, StalledFetches(target) as fetches:
        receiver.server.sponsor(export_large)
        for i in range(3):
            await fetches.start(f"n{i + 2}")
        assert await fetch_model(target, N0, 1 << 20, SOON_S) == b"model"


async def test_model_is_sent_to_four_at_a_time() -> None:
    receiver = Receiver()
    async with receiver.up() as target, StalledFetches(target) as fetches:
        receiver.server.sponsor(export_large)
        stalled = [await fetches.start(f"n{i + 2}") for i in range(4)]
        fifth = asyncio.create_task(fetch_model(target, N0, 1 << 20, SOON_S), name="fifth")
        assert await asyncio.wait([fifth], timeout=0.3) == (set(), {fifth})
        stalled[0].cancel()
        assert await fifth == b"model"


async def test_one_newcomer_takes_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_sender, "_MOST_SENT", 2)
    receiver = Receiver()
    async with receiver.up() as target, StalledFetches(target) as fetches:
        receiver.server.sponsor(export_large)
        older = [await fetches.start("n2") for _ in range(5)][:-1]
        assert await fetch_model(target, N0, 1 << 20, SOON_S) == b"model"
        for fetch in older:
            assert await end_of(fetch) == (grpc.StatusCode.ABORTED, "n2 has called again")


@pytest.mark.parametrize("limit", ["_STALL_S", "longest_s"])
async def test_fetch_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(model_sender, "_MOST_SENT", 1)
    monkeypatch.setattr(
        model_sender, limit, 0.2 if limit == "_STALL_S" else lambda size: 0.2 if size > 1000 else SOON_S
    )
    receiver = Receiver()
    async with receiver.up() as target, StalledFetches(target) as fetches:
        receiver.server.sponsor(export_large)
        stalled = await fetches.start("n2")
        assert await fetch_model(target, N0, 1 << 20, SOON_S) == b"model"
        assert await end_of(stalled) == (grpc.StatusCode.ABORTED, "this node read too little of the model")


def test_time_for_a_model_follows_its_size() -> None:
    assert [round(model_sender.longest_s(mebibytes << 20)) for mebibytes in (0, 1, 45)] == [30, 46, 750]
