"""What a push must be before any of it is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgenode.core.protocol.events import Answer, Answered, Fail, Mixed, PlanChanged, Received
from edgenode.core.protocol.member.judgement import branch, check_push, extended
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import Evicted, RemoteProtocolError
from tests.core.protocol.node_driver import (
    a_node,
    a_plan,
    from_n1,
    only,
    pair,
    play_round,
    pushed,
    receive,
    train,
    without,
)

MEMBERS = (Member("n0"), Member("n1", 4), Member("n2"))
RING = create_plan("lab", MEMBERS, Schedule((GraphSpec("a"),), 1))  # n0 -> n1 -> n2 -> n0
PLAN = RING.extend(RING.successor(5, schedule=Schedule((GraphSpec("b"),), 1)))  # reversed from round 5 on
PUSH = Message("n1", 4, 3, 0, RING.latest.digest, 0.5, (1.0, 0.25), b"")


# --- the checks of a push ---------------------------------------------------------------------------


def test_push_of_an_in_neighbour_passes() -> None:
    check_push(PUSH, PLAN, "n2")


def test_push_is_checked_against_the_graph_of_its_round() -> None:
    later = replace(PUSH, round=5, number=1)
    check_push(later, PLAN, "n0")
    with pytest.raises(RemoteProtocolError, match="n1 pushed round 5, but is not an in-neighbour in its graph"):
        check_push(later, PLAN, "n2")


def test_push_of_a_leaver_carries_all_its_mass_to_one_target() -> None:
    plan = RING.extend(RING.successor(4, members=(MEMBERS[0], MEMBERS[2]), handoffs=(("n1", "n0"),)))
    handoff = replace(PUSH, weight=1.0)
    check_push(handoff, plan, "n0")
    with pytest.raises(RemoteProtocolError, match=r"n1 pushed with weight 0\.5, not 1\.0"):
        check_push(PUSH, plan, "n0")
    with pytest.raises(RemoteProtocolError, match="n1 pushed round 3, but is not an in-neighbour"):
        check_push(handoff, plan, "n2")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sender": "n0"}, "n0 pushed round 3, but is not an in-neighbour"),
        ({"sender": "n2"}, "n2 pushed round 3, but is not an in-neighbour"),
        ({"sender": "n9"}, "n9 pushed round 3, but is not an in-neighbour"),
        ({"incarnation": 3}, "n1 pushed as incarnation 3, not its own"),
        ({"incarnation": 5}, "n1 pushed as incarnation 5, not its own"),
        ({"weight": 1.0}, r"n1 pushed with weight 1\.0, not 0\.5"),
        ({"weight": float("nan")}, "n1 pushed with weight nan"),
        ({"u": (1.0, 0.0)}, r"n1 pushed with u = \(1\.0, 0\.0\)"),
        ({"u": (-1.0,)}, r"n1 pushed with u = \(-1\.0,\)"),
        ({"u": (float("inf"),)}, r"n1 pushed with u = \(inf,\)"),
        ({"u": (1.0, float("nan"))}, r"n1 pushed with u = \(1\.0, nan\)"),
        ({"u": (3.1,)}, r"n1 pushed with u = \(3\.1,\)"),  # three processes brought 1 each
        ({"u": (1e-39,)}, r"n1 pushed with u = \(1e-39,\)"),
        ({"number": 1}, "n1 pushed under record 1 of a plan that it has no part in"),
    ],
)
def test_push_against_the_plan_is_rejected(change: dict[str, Any], text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        check_push(replace(PUSH, **change), PLAN, "n2")


def test_u_is_at_most_what_all_processes_brought() -> None:
    check_push(replace(PUSH, u=(3.0,)), PLAN, "n2")
    joined = PLAN.extend(PLAN.successor(9, members=(*MEMBERS, Member("n3"))))
    check_push(replace(PUSH, u=(4.0,)), joined, "n2")
    resumed = Plan((replace(joined.latest, start=3),))  # 3 or 4 of up to 1,024 a record
    assert resumed.most_mass >= 4 + 2 * 1024


# --- nothing is believed before it is judged ---------------------------------------------------------


def beliefs(node: Node) -> tuple[Any, ...]:
    """All that a node believes because of its peers."""
    state = node.state
    peers = state.peers
    return state.plan, dict(peers.begun), dict(peers._knows), node.state.buffered(), state.round, state.stage, state.end


ROTATED = a_plan(2).successor(4, schedule=Schedule((GraphSpec("b"),), 1))
STOPPED = a_plan(2).successor(4, end=4)


@pytest.mark.parametrize("records", [(), (ROTATED,), (STOPPED,)])
@pytest.mark.parametrize(
    "forge",
    [
        lambda m: replace(m, sender="n0"),
        lambda m: replace(m, sender="n7"),
        lambda m: replace(m, incarnation=3),
        lambda m: replace(m, weight=0.75),
        lambda m: replace(m, u=(2.5,)),
        lambda m: replace(m, number=1 << 63),
        lambda m: replace(m, digest="f" * 64),
        lambda m: replace(m, digest="f" * 64, number=1 << 63),
        lambda m: replace(m, round=5),
        lambda m: replace(m, round=1 << 40),
        lambda m: replace(m, payload=b"1"),
        lambda m: replace(m, begun_rounds=(("n1", 1 << 40),)),
        lambda m: replace(m, begun_rounds=(("n1", 4),)),
        lambda m: replace(m, begun_rounds=(("n9", 0),)),
    ],
)
def test_refused_push_changes_nothing(forge: Callable[[Message], Message], records: tuple[Any, ...]) -> None:
    node, peer = pair(rounds=5)
    message = forge(replace(pushed(train(peer)), records=records))
    train(node)
    before = beliefs(node)
    try:
        (answer,) = node.handle(Received(message))
        assert isinstance(answer, Answer)
        assert answer.ack.verdict is Verdict.STALE
    except (RemoteProtocolError, ValueError):
        pass  # the exact learner of the tests has its own error for a payload
    assert beliefs(node) == before
    assert only(Mixed, receive(node, 0)).round == 0


def test_push_is_judged_by_the_record_that_it_carries() -> None:
    node, peer = a_node("n0", a_plan(3), window=4), a_node("n2", a_plan(3), window=4)  # n2 -> n0
    record = node.state.plan.successor(1, schedule=Schedule((GraphSpec("complete"),), 1))
    for other in (node, peer):
        other.start()
    first = pushed(train(peer))
    later = replace(first, round=1, number=1, digest=record.digest, weight=1 / 3, records=(record,))
    assert node.handle(Received(later)) == [PlanChanged(record)]
    assert node.state.plan.latest == record
    late, _ = pair()
    for t in range(2):
        play_round(late, t)
    with pytest.raises(RemoteProtocolError, match="record 1 starts at 1, but round 2 is next"):
        late.handle(Received(replace(from_n1(late, 2), records=(late.state.plan.successor(1),))))


def test_record_that_a_push_carries_cannot_evict_its_sender() -> None:
    node, peer = pair()
    record = without(node.state.plan, "n1", last=0, start=4)
    with pytest.raises(RemoteProtocolError, match="n1 pushed under record 0 of a plan that it has no part in"):
        node.handle(Received(replace(pushed(train(peer)), records=(record,))))
    assert len(node.state.plan.records) == 1


# --- how far a sender can be ------------------------------------------------------------------------


def test_round_of_another_member_is_at_most_a_window_ahead() -> None:
    node, _ = pair(rounds=40)
    receive(node, 7)
    for t in (8, 39):
        with pytest.raises(RemoteProtocolError, match=f"n1 pushed round {t} of 40, but round 0 is next"):
            receive(node, t)
    with pytest.raises(RemoteProtocolError, match="n1 pushed round 40 of 40"):
        receive(node, 40)


def test_far_rounds_cannot_keep_the_current_one_out() -> None:
    node, _ = pair(window=3)
    for t in (1, 2):
        receive(node, t)
    train(node)
    assert receive(node, 0)


def test_lead_over_a_rotation_is_longer_than_the_window() -> None:
    """n1 trades with n3 alone for ten rounds, and begins round 10 while n0 has not begun its first."""
    apart = GraphSpec("apart", (("n0", "n2"), ("n2", "n0"), ("n1", "n3"), ("n3", "n1")))
    bridge = GraphSpec("bridge", (("n1", "n0"), ("n0", "n1"), ("n2", "n3"), ("n3", "n2")))
    plan = create_plan("test", [Member(f"n{i}") for i in range(4)], Schedule((apart, bridge), 10))
    node = a_node("n0", plan, rounds=40, window=3)
    node.start()
    push = Message("n1", 0, 10, 0, plan.latest.digest, 0.5, (1.0,), b"1 1")
    assert node.handle(Received(push)) == []
    with pytest.raises(RemoteProtocolError, match="n1 pushed round 11 of 40, but round 0 is next here"):
        node.handle(Received(replace(push, round=11)))


# --- answers ----------------------------------------------------------------------------------------


def test_number_of_an_unknown_record_withholds_none() -> None:
    node, _ = pair()
    train(node)
    receive(node, 0)
    node.handle(Answered("n1", Ack(0, Verdict.OK, knows=(1 << 64) - 1)))
    assert node.state.peers._known("n1") == 0


@pytest.mark.parametrize("verdict", [Verdict.STALE, Verdict.ERROR])
def test_refusal_without_a_proof_is_the_fault_of_its_sender(verdict: Verdict) -> None:
    node, _ = pair()
    train(node)
    before = beliefs(node)
    forged = replace(without(node.state.plan, "n0", last=0, start=1), parent="f" * 64)
    with pytest.raises(RemoteProtocolError, match=r"n1 refused round 0|do not follow"):
        node.handle(Answered("n1", Ack(0, verdict, (1 << 64) - 1, "a reason", (forged,))))
    assert beliefs(node) == before
    receive(node, 0)
    assert node.state.peers.owes("n1", 0)  # it is repeated, until it is taken
    node.handle(Answered("n1", Ack(0, Verdict.OK, 0)))
    assert not node.state.peers.owes("n1", 0)


def test_eviction_that_follows_our_plan_is_believed() -> None:
    """A zombie may have accepted a change that no survivor knows: the eviction has its number."""
    node, _ = pair()
    train(node)
    state = node.state
    record = without(state.plan, "n0", last=0, start=1)
    state.plan = state.plan.extend(state.plan.successor(9))
    error = only(Fail, node.handle(Answered("n1", Ack(0, Verdict.STALE, 1, "", (record,))))).error
    assert isinstance(error, Evicted)


def test_node_that_the_others_resumed_without_ends() -> None:
    node, _ = pair()
    train(node)
    latest = node.state.plan.latest
    resumed = replace(latest, number=1, parent=latest.digest, start=0)
    with pytest.raises(RemoteProtocolError, match="n1 refused round 0"):
        node.handle(Answered("n1", Ack(0, Verdict.STALE, 1, "", (resumed,))))
    alone = replace(resumed, members=latest.members[1:])
    with pytest.raises(RemoteProtocolError, match="n1 refused round 0"):
        node.handle(Answered("n1", Ack(0, Verdict.STALE, 1, "", (replace(alone, run_id="another"),))))
    error = only(Fail, node.handle(Answered("n1", Ack(0, Verdict.STALE, 1, "", (alone,))))).error
    assert str(error) == "the run has resumed without n0"


# --- records of peers -------------------------------------------------------------------------------

TRIO = a_plan(3)


def test_records_of_a_peer_extend_a_copy() -> None:
    one = TRIO.successor(5)
    two = Plan((*TRIO.records, one)).successor(9)
    assert extended(TRIO, ()) is TRIO
    longer = extended(TRIO, (TRIO.latest, one, two))
    assert longer.records == (TRIO.latest, one, two)
    assert extended(longer, (one,)) is longer
    assert extended(Plan(longer.records[1:]), (TRIO.latest,)).records == longer.records[1:]
    with pytest.raises(RemoteProtocolError, match="two records numbered 1: the plan has forked"):
        extended(longer, (TRIO.successor(6),))
    with pytest.raises(RemoteProtocolError, match=r"record 2 .* does not follow"):
        extended(TRIO, (two,))


def test_branch_leaves_the_chain_at_the_parent_of_its_first_record() -> None:
    ours, theirs = TRIO.successor(5), TRIO.successor(6)
    plan = TRIO.extend(ours)
    assert branch(plan, (theirs,)).records == (TRIO.latest, theirs)
    assert branch(plan, (ours,)) == plan
    for records in ((), (replace(theirs, parent="f" * 64),), (theirs, theirs)):
        with pytest.raises(RemoteProtocolError):
            branch(plan, records)
