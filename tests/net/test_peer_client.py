"""Links over loopback: every push is answered, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import grpc.aio
import pytest

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import DigestMismatch, TransportError
from edgenode.net import peer_client, peer_server
from edgenode.net.faults import Faults
from edgenode.net.peer_calls import Met, meet, probe, reach
from edgenode.net.peer_client import PeerAddresses, PeerLink
from edgenode.net.peer_server import PeerServer
from edgenode.net.peers import Peers
from edgenode.net.proto import peer_pb2
from edgenode.net.rpc import serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import CHUNK_BYTES, Identity
from edgenode.security import certificates
from edgenode.security.subject import Subject
from tests.net import peer_ends
from tests.net.peer_ends import N0, N1, SOON_S, Receiver, a_link, a_long_way, a_message, failure, until

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


# --- delivery


async def test_pushes_are_delivered_and_answered_in_order() -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link(target) as (link, answered):
        for t in range(20):
            link.push(a_message(t))
        await until(lambda: len(answered) == 20)
    assert receiver.took == [a_message(t) for t in range(20)]
    assert answered == [Answered("n1", Ack(t, Verdict.OK, 0)) for t in range(20)]


async def test_large_payload_travels_in_chunks_and_is_counted() -> None:
    payload = bytes(range(256)) * (20_000_000 // 256)
    receiver, sent = Receiver(max_payload_bytes=len(payload)), list[int]()
    async with receiver.up() as target, a_link(target, count=sent.append) as (link, answered):
        link.push(a_message(0, payload))
        await until(lambda: bool(answered))
    assert receiver.took[0].payload == payload
    frames = len(payload) // CHUNK_BYTES + 1
    assert 0 < sum(sent) - len(payload) < 20 * frames


@pytest.mark.parametrize("dropped", [False, True])
async def test_bytes_to_a_peer_that_leaves_are_counted(dropped: bool) -> None:
    receiver, answered, sent = Receiver(answers=False), list[Answered](), list[int]()
    async with receiver.up() as target, asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        peers = Peers(group, N0, lambda _: PeerAddresses((target,)), answered.append, count=sent.append)
        peers.push("n1", a_message(0))
        await until(lambda: receiver.rounds == [0])
        peers.push("n1", a_message(1))  # a retired link still sends it
        (peers.drop if dropped else peers.retire)("n1")
        if not dropped:
            await until(lambda: receiver.rounds == [0, 1])
        receiver.answer(0)
        receiver.answer(1)
    assert len(sent) >= (1 if dropped else 2)


async def test_link_waits_for_a_receiver_that_starts_late() -> None:
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


@pytest.mark.slow
async def test_round_trip_may_be_that_of_satellites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_ends, "SOON_S", 60.0)
    receiver = Receiver()
    async with receiver.up() as near, a_long_way(near) as target:
        met = await meet(target, N0, lambda target, why: None, 30.0)
        await reach(target, "n1", N0, 2.0)
        async with a_link(target) as (link, answered):
            link.push(a_message(0))
            await until(lambda: bool(answered), 60)
    assert (met.identity.node, receiver.rounds) == ("n1", [0])


async def test_late_unordered_answers_cause_no_repeats() -> None:
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


async def test_unanswered_pushes_are_repeated_in_order_after_a_restart() -> None:
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
            link.push(a_message(6))  # while the receiver is down
            receiver.answers = True
            async with receiver.up():
                await until(lambda: len(answered) == 7)
                link.close()
                await until(lambda: not receiver.server.senders())
    assert receiver.rounds == [*range(6), 0, 2, 3, 5, 6]
    assert [(a.ack.round, a.ack.verdict) for a in answered[2:]] == [(r, Verdict.SEEN) for r in (0, 2, 3, 5)] + [
        (6, Verdict.OK)
    ]


async def test_receiver_that_restarts_repeatedly_misses_no_push() -> None:
    receiver = Receiver()
    async with receiver.up() as target:
        pass
    async with a_link(target) as (link, answered):
        for start in range(0, 30, 10):
            async with receiver.up():
                await until(lambda: bool(receiver.server.senders()))
                for t in range(start, start + 10):
                    link.push(a_message(t, bytes(1000)))
                    await asyncio.sleep(0)
        async with receiver.up():
            await until(lambda: {a.ack.round for a in answered} == set(range(30)))
            link.close()
            await until(lambda: not receiver.server.senders())
    firsts = list(dict.fromkeys(receiver.rounds))
    assert firsts == list(range(30))


async def test_second_address_is_tried_when_the_first_is_dead() -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link("127.0.0.1:1", target) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(answered))


async def test_link_waits_for_a_peer_without_a_known_address() -> None:
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
        assert receiver.rounds == [0]  # it waits on the open stream
        receiver.answer(0)
        await asyncio.wait_for(closing, SOON_S)
        assert [a.ack.round for a in answered] == [0]
        await until(lambda: not receiver.server.senders())


async def test_closing_repeats_unanswered_pushes_after_a_restart() -> None:
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


async def test_receiver_knows_whether_the_sender_has_all_answers() -> None:
    """A stream that ends takes answers with it, and nobody can tell how many."""
    receiver = Receiver(answers=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(receiver.took))
        assert receiver.server.unfinished == 0
        stream = receiver.server._streams["n0"]
        stream.replaced.set()  # as if it was cut, before the answer
        stream.answers.put = lambda ack: None  # type: ignore[method-assign]
        receiver.answer(0)
        receiver.answers = True
        await until(lambda: receiver.rounds == [0, 0])
        assert receiver.server.unfinished == 1
        link.close()
        await until(lambda: receiver.server.unfinished == 0)
        assert [a.ack.verdict for a in answered] == [Verdict.SEEN]


async def test_receiver_expects_nothing_of_a_sender_that_is_gone() -> None:
    receiver = Receiver()
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(answered))
        assert receiver.server.unfinished == 1
        receiver.server.gone("n0")
        assert receiver.server.unfinished == 0


async def test_closing_ignores_a_receiver_that_owes_no_answer() -> None:
    receiver, answered = Receiver(), list[Answered]()
    async with AsyncExitStack() as first, asyncio.TaskGroup() as group:
        target = await first.enter_async_context(receiver.up())
        links = Peers(group, N0, lambda peer: PeerAddresses((target,)), answered.append)
        links.push("n1", a_message(0))
        await until(lambda: bool(answered))
        await first.aclose()
        await asyncio.wait_for(links.close(), SOON_S)


async def test_closing_without_links_returns_at_once() -> None:
    async with asyncio.TaskGroup() as group:
        await Peers(group, N0, lambda peer: PeerAddresses(()), lambda answered: None).close()


@pytest.mark.parametrize("turns", [0, 1, 2, 4, 8, 100])
async def test_link_that_breaks_while_abandoned_does_not_redial(turns: int) -> None:
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


async def test_abandoned_link_ends_its_stream() -> None:
    receiver = Receiver(answers=False)
    async with receiver.up() as target, asyncio.TaskGroup() as group:
        links = Peers(group, N0, lambda peer: PeerAddresses((target,)), lambda answered: None)
        links.push("n1", a_message(0))
        await until(lambda: bool(receiver.took))
        links.abandon()
        await until(lambda: not receiver.server.senders())


# --- peers of other runs, and faulty ones


@asynccontextmanager
async def a_counting_link(target: str, identity: Identity = N0) -> AsyncIterator[tuple[PeerLink, Faults]]:
    """A link that has a push to deliver, and that is cancelled at the end."""
    faults = Faults()
    link = PeerLink("n1", identity, lambda: PeerAddresses((target,)), lambda answered: None, faults)
    link.push(a_message(0))
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        task = group.create_task(link.run(), name="link")
        yield link, faults
        task.cancel()


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        (replace(N0, cluster="away"), "cluster differs from n0 at .*: ours is home, theirs is away"),
        (replace(N0, run_digest="f00d"), "run digest differs from n0 at .*: ours is run, theirs is f00d"),
        (replace(N0, plan_digest="cafe"), "plan digest differs from n0 at .*: ours is beef, theirs is cafe"),
    ],
)
async def test_peer_of_another_run_is_counted_and_asked_again(
    identity: Identity, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver = Receiver(replace(N1, plan_digest="beef"))
    async with receiver.up() as target, a_counting_link(target, identity) as (_, faults):
        await until(lambda: bool(faults.by_peer) and faults.by_peer[0].count >= 2)
        (fault,) = faults.by_peer
        assert (fault.peer, fault.kind) == ("n1", "answer")
        assert receiver.server.faults.by_peer[0].peer == "unknown"  # it was not let in
    logged = [line for line in capsys.readouterr().out.splitlines() if "refused what a peer sent" in line]
    assert len([line for line in logged if "peer=n1" in line]) == 1
    assert re.search(text, logged[0])


@pytest.mark.parametrize("verdict", [Verdict.STALE, Verdict.ERROR])
async def test_refused_push_is_repeated_until_it_is_taken(verdict: Verdict) -> None:
    receiver = Receiver(answers=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0))
        for repeats in range(1, 3):
            await until(partial(lambda n: len(receiver.took) == n, repeats))
            receiver.answer(0, verdict)
        await until(lambda: len(receiver.took) == 3)
        receiver.answer(0)
        await until(lambda: len(answered) == 3)
    assert [a.ack.verdict for a in answered] == [verdict, verdict, Verdict.OK]


async def test_another_node_at_the_address_is_skipped() -> None:
    mismatch, receiver = Receiver(replace(N1, node="n2")), Receiver()
    async with mismatch.up() as wrong, receiver.up() as right, a_link(wrong, right) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(answered))
    assert (mismatch.took, receiver.rounds) == ([], [0])


async def test_thief_of_a_revoked_key_gets_no_push() -> None:
    authority = certificates.make_authority("home")
    n0, owner, thief = (
        replace(identity, security=MutualTls(own, lambda subject, key_id: True))
        for identity in (N0, N1, N1)
        for own in [certificates.make_credentials(authority, Subject("node", identity.node))]
    )
    key = owner.security.credentials.key_id
    right, wrong = Receiver(owner), Receiver(thief)
    async with (
        wrong.up() as stolen,
        right.up() as target,
        a_link(stolen, target, identity=n0, keys=frozenset({key})) as (link, answered),
    ):
        link.push(a_message(0))
        await until(lambda: len(answered) == 1)
    assert (wrong.rounds, right.rounds) == ([], [0])


async def test_peer_that_does_not_greet_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "_HELLO_S", 0.1)
    async with (
        Receiver(opens=False).up() as silent,
        Receiver().up() as target,
        a_link(silent, target) as (link, answered),
    ):
        link.push(a_message(0))
        await until(lambda: len(answered) == 1)


ODD = peer_pb2.Answer(verdict=77)  # type: ignore[arg-type]


@pytest.mark.parametrize("answers", [[ODD], [peer_pb2.Answer(verdict=peer_pb2.VERDICT_OK)] * 65])
async def test_answers_against_the_protocol_do_not_end_the_link(answers: list[peer_pb2.Answer]) -> None:
    class Odd(PeerServer):
        async def Push(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            await context.write(peer_pb2.PushResponse(hello=N1.to_wire()))
            await context.write(peer_pb2.PushResponse(answers=answers))
            await asyncio.sleep(SOON_S)

    odd = Odd(N1, (frozenset(), None))
    there = serving("127.0.0.1:0", [(peer_server.SERVICE, odd.add_to)], 0.0)
    async with there as port, a_counting_link(f"127.0.0.1:{port}") as (_, faults):
        await until(lambda: bool(faults.by_peer) and faults.by_peer[0].count >= 2)


async def test_answers_to_nothing_are_not_delivered() -> None:
    receiver = Receiver(answers=False)
    async with receiver.up() as target, a_link(target) as (link, answered):
        link.push(a_message(0))
        await until(lambda: bool(receiver.took))
        for t in (*range(1, 100), 0, 0, 0):
            receiver.answer(t)
        await until(lambda: bool(answered))
        await asyncio.sleep(0.1)
    assert [a.ack.round for a in answered] == [0]


# --- single calls


async def test_meet_returns_identity_and_checkpoints() -> None:
    plan = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), every=1))
    server = PeerServer(N1, (frozenset({50, 100}), plan))
    server.data = DataSize(640, 32)
    met = Met(N1, frozenset({50, 100}), plan, DataSize(640, 32))
    async with serving("127.0.0.1:0", [(peer_server.SERVICE, server.add_to)], 0.0) as port:
        assert await meet(f"127.0.0.1:{port}", N0, pytest.fail, SOON_S) == met


async def test_meet_refuses_a_peer_of_another_run_by_name() -> None:
    async with Receiver(replace(N1, run_digest="f00d")).up() as target:
        error = await failure(meet(target, N0, pytest.fail, SOON_S))
    assert isinstance(error, DigestMismatch)
    assert str(error) == f"run digest differs from n1 at {target}: ours is run, theirs is f00d"


async def test_meet_waits_for_a_peer_that_starts_late() -> None:
    receiver = Receiver()
    async with receiver.up() as target:
        pass
    async with asyncio.TaskGroup() as group:
        meeting = group.create_task(meet(target, N0, lambda target, why: None, SOON_S), name="meeting")
        await asyncio.sleep(0.2)
        async with receiver.up():
            met = await meeting
    assert met == Met(N1, frozenset(), None, DataSize(640, 32))


@pytest.mark.slow
async def test_meet_waits_until_the_peer_has_loaded_its_data() -> None:
    receiver, waits = Receiver(data=None), list[str]()
    async with receiver.up() as target, asyncio.TaskGroup() as group:
        call = meet(target, N0, lambda target, why: waits.append(why), SOON_S)
        meeting = group.create_task(call, name="meeting")
        await until(lambda: bool(waits))
        assert waits == ["it is loading its data"]
        receiver.server.data = DataSize(1, 1)
        assert (await meeting).data == DataSize(1, 1)


async def test_meet_without_an_answer_fails_with_the_address() -> None:
    error = await failure(meet("127.0.0.1:1", N0, lambda target, why: None, 0.3))
    assert isinstance(error, TransportError)
    assert "127.0.0.1:1" in str(error)


async def test_probe_returns_the_identity_or_none() -> None:
    receiver = Receiver(replace(N1, process="one"))
    async with receiver.up() as target:
        assert await probe(target, N0, SOON_S) == replace(N1, process="one")
    assert await probe(target, N0, SOON_S) is None
