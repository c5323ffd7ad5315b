"""What one node makes of pushes, answers and records; and how it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgenode.core.protocol.events import (
    Answer,
    Answered,
    Await,
    Fail,
    Finish,
    Mixed,
    PlanChanged,
    Received,
    Report,
)
from edgenode.core.protocol.member.member_state import Stage
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import Abort, Ended, EvictionCommitted, FenceAnswer, Offer, OfferAnswer, Restart
from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import Diverged, PeerRestarted, RemoteProtocolError
from tests.core.protocol.node_driver import (
    ROUNDS,
    a_node,
    a_plan,
    exact_mass,
    fence,
    from_n1,
    kinds,
    only,
    pair,
    play,
    play_round,
    pushed,
    receive,
    train,
    without,
)

# --- pushes and answers -----------------------------------------------------------------------------


def test_late_repeat_is_seen_and_changes_nothing() -> None:
    node, peer = pair()
    first = pushed(train(peer))
    train(node)
    node.handle(Received(first))
    before = node.state.learner.snapshot(0)
    assert node.handle(Received(first)) == [Answer("n1", Ack(0, Verdict.SEEN, 0))]
    assert node.state.learner.snapshot(0).x == before.x


def test_repeat_of_a_buffered_push_is_mixed_and_answered_once() -> None:
    node, peer = pair()
    first = pushed(train(peer))
    assert node.handle(Received(first)) == node.handle(Received(first)) == []
    actions = train(node)
    assert only(Ack, actions).verdict is Verdict.OK
    assert node.handle(Received(first)) == [Answer("n1", Ack(0, Verdict.SEEN, 0))]


@pytest.mark.parametrize(
    ("forge", "text"),
    [
        (lambda m: replace(m, sender="n2"), "n2 pushed round 0, but is not an in-neighbour"),
        (lambda m: replace(m, sender="nobody"), "nobody pushed round 0, but is not an in-neighbour"),
        (lambda m: replace(m, weight=0.25), "n1 pushed with weight 0.25, not 0.5"),
        (lambda m: replace(m, incarnation=7), "n1 pushed as incarnation 7"),
        (lambda m: replace(m, u=(1.0, float("nan"))), r"n1 pushed with u = \(1.0, nan\)"),
        (lambda m: replace(m, u=(float("inf"),)), r"n1 pushed with u = \(inf,\)"),
        (lambda m: replace(m, u=(0.0,)), r"n1 pushed with u = \(0.0,\)"),
    ],
)
def test_forged_push_is_rejected_and_the_true_one_still_counts(forge: Callable[[Message], Message], text: str) -> None:
    node, peer = pair()
    message = pushed(train(peer))
    train(node)
    with pytest.raises(RemoteProtocolError, match=text):
        node.handle(Received(forge(message)))
    assert node.state.missing() == ("n1",)
    assert only(Mixed, node.handle(Received(message))).round == 0


def test_old_push_that_was_never_mixed_is_not_answered_seen() -> None:
    plan = a_plan(3)  # only n2 pushes to n0
    node = a_node("n0", plan)
    node.start()
    node.handle(Received(Message("n2", 0, 0, 0, plan.latest.digest, 0.5, (1.0,), b"2 1")))
    train(node)
    assert node.state.round == 1
    mismatch = Message("n1", 0, 0, 0, plan.latest.digest, 0.5, (1.0,), b"1 1")
    with pytest.raises(RemoteProtocolError, match="not an in-neighbour"):
        node.handle(Received(mismatch))
    other_plan = replace(mismatch, sender="n2", digest="f" * 64)
    assert only(Ack, node.handle(Received(other_plan))).verdict is Verdict.STALE


def test_stale_plan_is_answered_with_ours() -> None:
    node, peer = pair()
    message = replace(pushed(train(peer)), digest="f" * 64)
    answer = only(Ack, node.handle(Received(message)))
    assert (answer.verdict, answer.detail) == (Verdict.STALE, node.state.plan.latest.digest)
    with pytest.raises(
        RemoteProtocolError, match=f"n0 refused round 0: its plan is e+, ours {peer.state.plan.latest.digest}"
    ):
        peer.handle(Answered("n0", Ack(0, Verdict.STALE, 0, "e" * 64)))


def test_answer_to_a_push_of_a_former_process_is_ignored() -> None:
    node, _ = pair()
    train(node)
    assert node.handle(Answered("n1", Ack(7, Verdict.STALE, 0, "e" * 64))) == []
    assert node.handle(Answered("n9", Ack(0, Verdict.ERROR, 0, "no"))) == []
    assert node.state.stage is Stage.WAITING


# --- the plan ---------------------------------------------------------------------------------------


def test_accepted_record_is_pushed_until_the_peer_has_it() -> None:
    node, peer = pair()
    record = node.state.plan.successor(3, schedule=Schedule((GraphSpec("b"),), 1))
    actions = node.handle(Offer(record))
    assert actions == [PlanChanged(record), Report(OfferAnswer(1, record.digest, True, 0))]
    first = pushed(train(node))
    assert first.records == (record,)
    assert peer.handle(Received(first)) == [PlanChanged(record)]
    assert peer.state.plan == node.state.plan
    receive(node, 0)
    assert pushed(train(node)).records == (record,)  # without an answer the record is sent again
    node.handle(Answered("n1", Ack(0, Verdict.OK, knows=1)))
    receive(node, 1)
    assert pushed(train(node)).records == ()


def test_record_is_not_pushed_back_to_its_sender() -> None:
    node, peer = pair()
    node.handle(Offer(node.state.plan.successor(3)))
    peer.handle(Received(pushed(train(node))))
    assert pushed(train(peer)).records == ()


def test_repeated_offer_is_accepted_twice_and_adopted_once() -> None:
    node, _ = pair()
    record = node.state.plan.successor(3)
    node.handle(Offer(record))
    assert node.handle(Offer(record)) == [Report(OfferAnswer(1, record.digest, True, 0))]
    assert len(node.state.plan.records) == 2


def test_offer_that_pushes_cannot_carry_in_time_is_rejected() -> None:
    plan = a_plan(4)
    node = a_node("n0", plan)
    node.start()
    needed = reach(plan, "n0", 0)
    assert needed == 3
    assert only(Report, node.handle(Offer(plan.successor(needed - 1)))) == Report(
        OfferAnswer(1, plan.successor(needed - 1).digest, False, 0)
    )
    train(node)  # round 0 is pushed without it
    assert not only(OfferAnswer, node.handle(Offer(plan.successor(needed)))).accepted
    assert only(OfferAnswer, node.handle(Offer(plan.successor(needed + 1)))).accepted


def test_offer_after_the_end_is_rejected() -> None:
    node = a_node("n0", a_plan(1), rounds=1)
    node.start()
    train(node)
    assert node.handle(Offer(node.state.plan.successor(9))) == [
        Report(OfferAnswer(1, node.state.plan.successor(9).digest, False, 1))
    ]


def test_forked_record_is_a_protocol_error() -> None:
    node, peer = pair()
    node.handle(Offer(node.state.plan.successor(3)))
    fork = peer.state.plan.successor(4)
    message = replace(pushed(train(peer)), records=(fork,))
    with pytest.raises(RemoteProtocolError, match="two records numbered 1: the plan has forked"):
        node.handle(Received(message))


def test_record_that_does_not_follow_is_a_protocol_error() -> None:
    node, peer = pair()
    orphan = Plan((peer.state.plan.successor(3),)).successor(5)
    with pytest.raises(RemoteProtocolError, match="does not follow 0"):
        node.handle(Received(replace(pushed(train(peer)), records=(orphan,))))


def test_record_for_a_pushed_round_is_a_protocol_error() -> None:
    node, peer = pair()
    late = peer.state.plan.successor(1)
    play_round(node, 0)
    train(node)
    assert node.state.next_round == 2
    message = replace(from_n1(node, 1), records=(late,))
    with pytest.raises(RemoteProtocolError, match="record 1 starts at 1, but round 2 is next"):
        node.handle(Received(message))
    assert len(node.state.plan.records) == 1


# --- divergence -------------------------------------------------------------------------------------


def test_node_reports_a_divergence_and_fails_once() -> None:
    abort = Abort("training diverged at n1 in round 0: the loss is nan")
    for node in pair():
        reported, failed = node.handle(abort)
        assert reported == Report(abort)
        assert isinstance(failed, Fail)
        assert isinstance(failed.error, Diverged)
        assert str(failed.error) == abort.reason
        assert (node.handle(abort), train(node), node.state.stage) == ([], [], Stage.OVER)


# --- fixed members ----------------------------------------------------------------------------------


def test_member_that_is_ordered_to_restart_fails_with_the_reason() -> None:
    for node in pair():
        (failed,) = node.handle(Restart("n2 restarted"))
        assert isinstance(failed, Fail)
        assert isinstance(failed.error, PeerRestarted)
        assert str(failed.error) == "n2 restarted"


def test_node_ends_without_the_answer_of_a_member_that_has_ended() -> None:
    node = a_node("n0", a_plan(2), rounds=1)
    node.start()
    train(node)
    node.handle(Received(from_n1(node, 0)))
    assert node.state.missing() == ("n1",)
    assert [type(action) for action in node.handle(Ended("n2"))] == [Await]
    (finish,) = node.handle(Ended("n1"))
    assert isinstance(finish, Finish)
    assert finish.complete


# --- leaving ----------------------------------------------------------------------------------------


def test_leaver_hands_all_its_mass_to_its_target_and_is_done() -> None:
    plan = a_plan(3)
    members = plan.latest.members[:2]
    record = plan.successor(4, members=members, handoffs=(("n2", "n1"),))
    nodes = {f"n{i}": a_node(f"n{i}", plan) for i in range(3)}
    assert only(OfferAnswer, nodes["n0"].handle(Offer(record))).accepted
    lines = play(nodes)
    assert (nodes["n2"].state.stage, nodes["n2"].state.round) == (Stage.OVER, 4)
    assert sum(line.startswith("    Finish(4 ") and line.endswith("False n1)") for line in lines) == 1
    assert [nodes[name].state.round for name in ("n0", "n1")] == [ROUNDS, ROUNDS]
    total = [sum(exact_mass(nodes[name])[i] for name in ("n0", "n1")) for i in (0, 1)]
    assert total == [0 + 1 + 2, 3]
    assert (
        sum(line.startswith("    Push(n1 n2@3") for line in lines) == 1
    )  # all it has, to its target alone; no node pushes to it any more
    assert not any(line.startswith(("    Push(n2 n0@3", "    Push(n2 n1@3", "    Push(n0 n2@3")) for line in lines)
    assert not any("n2@4" in line for line in lines)


def test_late_welcome_of_a_leaver_lets_it_take_part_until_then() -> None:
    plan = a_plan(3)
    plan = plan.extend(plan.successor(4, members=plan.latest.members[:2], handoffs=(("n2", "n1"),)))
    nodes = {f"n{i}": a_node(f"n{i}", plan) for i in range(3)}
    play(nodes)
    assert [nodes[name].state.round for name in sorted(nodes)] == [ROUNDS, ROUNDS, 4]


def test_leaver_passes_its_evidence_to_its_target() -> None:
    """It has exited when one of the others is evicted, and what it mixed of that node is in what it handed over."""
    plan = a_plan(5)
    nodes = {f"n{i}": a_node(f"n{i}", plan, rounds=12) for i in range(5)}
    handoff_to, handoffs = nodes["n1"], (("n4", "n1"),)
    assert not any(
        handoff_to.state.name in (sender, receiver) and "n3" in (sender, receiver)
        for sender, receiver in plan.graph(0).edges
    )
    record = plan.successor(9, members=plan.latest.members[:4], handoffs=handoffs)
    assert only(OfferAnswer, nodes["n0"].handle(Offer(record))).accepted
    play(nodes)
    assert only(FenceAnswer, fence(handoff_to, "n3")).begun_rounds == (
        ("n3", 7),
    )  # the push of round 7, which only n4 received


def test_leaver_rejects_what_it_cannot_carry_to_anyone() -> None:
    plan = a_plan(3)
    nodes = {f"n{i}": a_node(f"n{i}", plan) for i in range(3)}
    left = plan.successor(4, members=plan.latest.members[:2], handoffs=(("n2", "n1"),))
    assert only(OfferAnswer, nodes["n0"].handle(Offer(left))).accepted
    play(nodes)
    later = nodes["n2"].state.plan.successor(9)
    assert nodes["n2"].handle(Offer(later)) == [Report(OfferAnswer(2, later.digest, False, 4))]


def test_leaver_that_is_done_takes_nothing_back() -> None:
    plan = a_plan(2)
    nodes = {f"n{i}": a_node(f"n{i}", plan) for i in range(2)}
    record = plan.successor(4, members=plan.latest.members[:1], handoffs=(("n1", "n0"),))
    assert only(OfferAnswer, nodes["n0"].handle(Offer(record))).accepted
    play(nodes)
    before = exact_mass(nodes["n1"])
    joined = nodes["n1"].state.plan.extend(nodes["n1"].state.plan.successor(20, members=(Member("n0"), Member("n2"))))
    eviction = joined.successor(22, members=(Member("n2"),), evictions=(("n0", 0),))
    assert kinds(nodes["n1"].handle(EvictionCommitted((joined.latest, eviction)))) == ["PlanChanged", "PlanChanged"]
    assert exact_mass(nodes["n1"]) == before


def test_neither_does_one_that_waits_for_its_last_answer() -> None:
    """It has handed over what it had. The eviction undoes rounds whose pushes it does not keep any more."""
    node, _ = pair()
    record = node.state.plan.successor(4, members=(Member("n1"),), handoffs=(("n0", "n1"),))
    assert only(OfferAnswer, node.handle(Offer(record))).accepted
    for t in range(3):
        play_round(node, t)
        node.handle(Answered("n1", Ack(t, Verdict.OK, 0)))
    train(node)
    assert (node.state.round, node.state.stage, node.state.missing()) == (4, Stage.READY, ("n1",))
    before = exact_mass(node)
    joined = node.state.plan.extend(node.state.plan.successor(20, members=(Member("n1"), Member("n2"))))
    eviction = joined.successor(22, members=(Member("n2"),), evictions=(("n1", -1),))
    actions = node.handle(EvictionCommitted((joined.latest, eviction)))
    assert kinds(actions) == ["PlanChanged", "PlanChanged", "Finish"]
    assert (node.state.stage, exact_mass(node)) == (Stage.OVER, before)


@pytest.mark.parametrize("dead", [False, True])
def test_leaver_whose_target_is_dead_keeps_what_it_has(dead: bool) -> None:
    plan = a_plan(4)  # n3 -> n0 -> n1
    node = a_node("n0", plan, rounds=12)
    node.start()
    record = plan.successor(4, members=plan.latest.members[1:], handoffs=(("n0", "n2"),))
    assert only(OfferAnswer, node.handle(Offer(record))).accepted
    if dead:
        node.handle(EvictionCommitted((without(node.state.plan, "n2", last=1, start=5),)))
    for t in range(3):
        train(node)
        number, digest = node.state.plan.at(t).number, node.state.plan.at(t).digest
        node.handle(Received(Message("n3", 0, t, number, digest, 0.5, (1.0,), b"1 1")))
    train(node)
    assert (node.state.round, node.state.handed_to) == (4, "" if dead else "n2")
