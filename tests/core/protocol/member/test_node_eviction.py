"""One node behind a fence, and what an eviction undoes in it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from edgenode.core.protocol.events import (
    Answered,
    Fail,
    Received,
    Report,
)
from edgenode.core.protocol.member.member_state import Stage
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import EvictionCommitted, FenceAnswer, Offer, OfferAnswer
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import Evicted, RemoteProtocolError
from tests.core.protocol.node_driver import (
    a_node,
    a_plan,
    exact_mass,
    fence,
    kinds,
    only,
    pair,
    play_round,
    pushed,
    receive,
    train,
    without,
)

# --- behind a fence ---------------------------------------------------------------------------------


def test_fenced_node_reports_its_round_and_begins_no_other() -> None:
    node, _ = pair()
    play_round(node, 0)
    train(node)
    receive(node, 1)  # it trains round 2 now
    assert fence(node, "n1") == [Report(FenceAnswer(0, 1, 2, (("n1", 1),), node.state.plan.records))]
    assert node.state.fenced == {"n1"}
    assert kinds(train(node)) == ["Push", "Await"]  # it continues the round that it has begun
    assert receive(node, 2) == []
    assert node.state.missing() == ("n1",)


def test_fenced_node_that_mixes_its_round_waits_before_the_next() -> None:
    node = a_node("n0", a_plan(3))  # only n2 pushes to it
    node.start()
    train(node)
    assert fence(node, "n1") == [Report(FenceAnswer(0, 1, 0, (("n1", -1),), node.state.plan.records))]
    first = Message("n2", 0, 0, 0, node.state.plan.latest.digest, 0.5, (1.0,), b"2 1")
    assert kinds(node.handle(Received(first))) == ["Answer", "Mixed"]
    assert (node.state.stage, node.state.round) == (Stage.READY, 1)
    assert fence(node, "n1", ballot=2) == [Report(FenceAnswer(0, 2, 0, (("n1", -1),), node.state.plan.records))]
    assert kinds(node.handle(EvictionCommitted((without(node.state.plan, "n1", 0, 1),)))) == ["PlanChanged", "Train"]


def test_answer_proves_that_its_sender_began_the_next_round() -> None:
    node, _ = pair()
    play_round(node, 0)
    node.handle(Answered("n1", Ack(0, Verdict.OK, 0)))
    assert only(FenceAnswer, fence(node, "n1")).begun_rounds == (("n1", 1),)


def test_push_from_behind_the_fence_is_ignored_with_its_records() -> None:
    node, peer = pair()
    train(node)
    fence(node, "n1")
    message = replace(pushed(train(peer)), records=(node.state.plan.successor(9),))
    assert node.handle(Received(message)) == []
    assert len(node.state.plan.records) == 1


def test_fenced_node_rejects_offers() -> None:
    node, _ = pair()
    fence(node, "n1")
    assert not only(OfferAnswer, node.handle(Offer(node.state.plan.successor(5)))).accepted


# --- after the eviction -----------------------------------------------------------------------------


def test_pushes_from_the_last_round_on_are_taken_back_exactly() -> None:
    node, _ = pair()
    x = [exact_mass(node)]
    for t in range(4):  # mixed with n1's 1/2 of (1, 1) each
        play_round(node, t)
        x.append(exact_mass(node))
    assert x[1] == (Fraction(1, 2), 1)
    fence(node, "n1")
    node.handle(EvictionCommitted((without(node.state.plan, "n1", last=2, start=5),)))
    # of rounds 2 and 3, half of what was there then comes back; of rounds 0 and 1 nothing does
    back = [Fraction(1, 2) * (x[2][i] + x[3][i]) for i in (0, 1)]
    assert exact_mass(node) == (x[4][0] + back[0], x[4][1] + back[1])
    assert node.state.fenced == frozenset()


def test_share_of_a_push_in_the_current_round_is_kept() -> None:
    node, _ = pair()
    train(node)
    fence(node, "n1")
    actions = node.handle(EvictionCommitted((without(node.state.plan, "n1", last=0, start=1),)))
    assert kinds(actions) == ["PlanChanged", "Mixed", "Train"]
    assert exact_mass(node) == (0, 1)  # as if it had never pushed


def test_pushes_of_the_evicted_count_up_to_its_last_round() -> None:
    node, _ = pair()
    receive(node, 0)
    receive(node, 1)
    fence(node, "n1")
    node.handle(EvictionCommitted((without(node.state.plan, "n1", last=0, start=3),)))
    # it pushes to no node, and mixes round 0 of the evicted
    assert kinds(train(node)) == ["Answer", "Mixed", "Train"]
    assert exact_mass(node) == (Fraction(1, 2), Fraction(3, 2))
    assert kinds(train(node)) == ["Mixed", "Train"]
    assert exact_mass(node) == (Fraction(1, 2), Fraction(3, 2))


def test_eviction_ends_waits_for_answers_of_the_evicted() -> None:
    node, _ = pair(window=1)
    play_round(node, 0)
    assert node.state.missing() == ("n1",)
    fence(node, "n1")
    record = without(node.state.plan, "n1", last=1, start=2)
    assert kinds(node.handle(EvictionCommitted((record,)))) == ["PlanChanged", "Train"]
    assert node.handle(EvictionCommitted((record,))) == []  # a repeat changes nothing


def test_zombie_that_learns_of_its_eviction_fails_once() -> None:
    node, zombie = pair()
    message = pushed(train(zombie))
    fence(node, "n1")
    record = without(node.state.plan, "n1", last=0, start=1)
    node.handle(EvictionCommitted((record,)))
    answer = only(Ack, node.handle(Received(message)))
    assert (answer.verdict, answer.records) == (Verdict.STALE, (record,))
    stale = Answered("n0", Ack(0, answer.verdict, answer.knows, answer.detail, answer.records))
    assert isinstance(only(Fail, zombie.handle(stale)).error, Evicted)
    assert zombie.handle(EvictionCommitted((record,))) == []
    _, other = pair()
    assert isinstance(only(Fail, other.handle(EvictionCommitted((record,)))).error, Evicted)


def test_node_that_learns_of_a_change_too_late_rejoins() -> None:
    node, _ = pair()
    for t in range(2):
        play_round(node, t)
    withheld = node.state.plan.successor(1, schedule=Schedule((GraphSpec("b"),), 1))
    error = only(Fail, node.handle(EvictionCommitted((withheld,)))).error
    assert isinstance(error, Evicted)
    assert str(error) == "n0 was left behind: record 1 starts at 1, but round 2 is next"


@pytest.mark.parametrize(("last", "kept"), [(1, False), (2, True)])
def test_node_rejoins_if_it_keeps_no_copy_of_what_an_eviction_takes_back(last: int, kept: bool) -> None:
    """It has said less of the evicted node than it knew, or was not asked."""
    node, _ = pair(window=2)
    for t in range(5):
        play_round(node, t)
        node.handle(Answered("n1", Ack(t, Verdict.OK, 0)))
    record = without(node.state.plan, "n1", last, start=5)
    actions = node.handle(EvictionCommitted((record,)))
    if kept:
        assert kinds(actions) == ["PlanChanged"]
        return
    assert isinstance(only(Fail, actions).error, Evicted)
    assert str(only(Fail, actions).error) == "n0 was left behind: record 1 takes back what was pushed before round 2"
    assert len(node.state.plan.records) == 1


def test_push_with_such_an_eviction_is_refused_as_a_whole() -> None:
    node = a_node("n0", a_plan(3), window=2)  # it pushes to n1, and n2 to it
    node.start()
    record = node.state.plan.latest
    for t in range(5):
        train(node)
        node.handle(Received(Message("n2", 0, t, 0, record.digest, 0.5, (1.0,), b"1 1")))
        node.handle(Answered("n1", Ack(t, Verdict.OK, 0)))
    before = exact_mass(node)
    eviction = without(node.state.plan, "n1", last=1, start=5)
    message = Message("n2", 0, 5, 1, eviction.digest, 0.5, (1.0,), b"1 1", records=(eviction,))
    with pytest.raises(RemoteProtocolError, match="record 1 takes back what was pushed before round 2"):
        node.handle(Received(message))
    assert (node.state.plan.latest, exact_mass(node)) == (record, before)
