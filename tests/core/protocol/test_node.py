"""Every stage and event of one node, by hand; and a golden transcript of four."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, as_float32, keep_none
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.events import (
    Answer,
    Answered,
    Await,
    Evaluate,
    Fail,
    Finish,
    Mixed,
    NodeAction,
    PlanChanged,
    Push,
    Received,
    Report,
    TimedOut,
    Train,
    Trained,
)
from edgenode.core.protocol.member_state import Stage
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.node import Node
from edgenode.core.protocol.orders import EvictionCommitted, Fence, FenceAnswer, Halt, Offer, OfferAnswer
from edgenode.core.protocol.plan import Member, Plan, Record, create_plan, reach
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import BarrierTimeout, DigestMismatch, Evicted, LocalProtocolError, RemoteProtocolError
from tests.simulation.exact_learner import ExactLearner
from tests.simulation.transcript import brief

ROUNDS = 6
STILL = np.array([Fraction(0)], dtype=object)


def a_plan(n: int = 2, *graphs: str, every: int = 1) -> Plan:
    specs = tuple(map(GraphSpec, graphs or ("a",)))
    return create_plan("test", [Member(f"n{i}") for i in range(n)], Schedule(specs, every))


def a_node(name: str, plan: Plan, rounds: int = ROUNDS, **options: Any) -> Node:
    return Node(name, plan, ExactLearner(rounds, Fraction(int(name[1:]))), **options)


def pair(**options: Any) -> tuple[Node, Node]:
    """n0 <-> n1, both in training of round 0."""
    plan = a_plan(2)
    nodes = a_node("n0", plan, **options), a_node("n1", plan, **options)
    for node in nodes:
        node.start()
    return nodes


def train(node: Node) -> list[NodeAction]:
    return node.handle(Trained(node.round, STILL))


def pushed(actions: list[NodeAction]) -> Message:
    return next(a.message for a in actions if isinstance(a, Push))


def from_n1(node: Node, t: int) -> Message:
    return Message("n1", 0, t, 0, node.plan.at(t).digest, 0.5, (1.0,), b"1 1")


def hear(node: Node, t: int) -> list[NodeAction]:
    return node.handle(Received(from_n1(node, t)))


def only(kind: type, actions: list[NodeAction]) -> Any:
    """The one action of a kind, or what the one of that kind carries."""
    carried = [a.ack if isinstance(a, Answer) else a.report if isinstance(a, Report) else a for a in actions]
    found = [a for a in (*actions, *carried) if type(a) is kind]
    assert len(found) == 1 or (len(found) == 2 and found[0] is found[1]), actions
    return found[0]


def kinds(actions: list[NodeAction]) -> list[str]:
    return [type(a).__name__ for a in actions]


def play(nodes: dict[str, Node], local_update: Any = STILL) -> list[str]:
    """Deliver everything first come, first served; the transcript."""
    lines, queue = [], deque[tuple[str, Any]]()

    def note(name: str, cause: str, actions: list[NodeAction]) -> None:
        lines.extend([f"{name} {cause}", *(f"    {brief(action)}" for action in actions)])
        for action in actions:
            match action:
                case Push(to, message):
                    queue.append((to, Received(message)))
                case Answer(to, ack):
                    queue.append((to, Answered(name, ack)))
                case Train(t, _):
                    queue.append((name, Trained(t, local_update)))

    for name, node in nodes.items():
        note(name, "start", node.start())
    while queue:
        name, event = queue.popleft()
        note(name, brief(event), nodes[name].handle(event))
    return lines


# --- rounds -----------------------------------------------------------------------------------------

GOLDEN = """
n0 start
    Save(0 State([0] [0] [1]) plan#0)
    Train(0 [0])
n1 start
    Save(0 State([1] [0] [1]) plan#0)
    Train(0 [1])
n2 start
    Save(0 State([2] [0] [1]) plan#0)
    Train(0 [2])
n3 start
    Save(0 State([3] [0] [1]) plan#0)
    Train(0 [3])
n0 Trained(0 [0])
    Push(n1 n0@0#0 5cc3a655)
    Await(0 [n3])
n1 Trained(0 [0])
    Push(n2 n1@0#0 020a7c91)
    Await(0 [n0])
n2 Trained(0 [0])
    Push(n3 n2@0#0 e57acc10)
    Await(0 [n1])
n3 Trained(0 [0])
    Push(n0 n3@0#0 290a8619)
    Await(0 [n2])
n1 Received(n0@0#0 5cc3a655)
    Answer(n0 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([1/2] [0] [1]) plan#0)
    Await(1 [n2])
n2 Received(n1@0#0 020a7c91)
    Answer(n1 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([3/2] [0] [1]) plan#0)
    Await(1 [n3])
n3 Received(n2@0#0 e57acc10)
    Answer(n2 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([5/2] [0] [1]) plan#0)
    Await(1 [n0])
n0 Received(n3@0#0 290a8619)
    Answer(n3 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([3/2] [0] [1]) plan#0)
    Await(1 [n1])
n0 Answered(n1 Ack(0 OK 0  []))
    Finish(1 [3/2] True)
n1 Answered(n2 Ack(0 OK 0  []))
    Finish(1 [1/2] True)
n2 Answered(n3 Ack(0 OK 0  []))
    Finish(1 [3/2] True)
n3 Answered(n0 Ack(0 OK 0  []))
    Finish(1 [5/2] True)
"""


def test_golden_transcript_of_four_nodes() -> None:
    plan = a_plan(4)
    nodes = {f"n{i}": a_node(f"n{i}", plan, rounds=1) for i in range(4)}
    assert play(nodes) == GOLDEN.strip().splitlines()


def test_the_stages_of_a_round() -> None:
    plan = a_plan(2)
    node, peer = a_node("n0", plan), a_node("n1", plan)
    peer.start()
    assert node.stage is Stage.READY
    assert kinds(node.start()) == ["Save", "Train"]
    assert node.stage is Stage.TRAINING
    assert node.next_round == 0
    assert kinds(train(node)) == ["Push", "Await"]
    assert node.stage is Stage.WAITING
    assert (node.next_round, node.missing()) == (1, ("n1",))
    actions = node.handle(Received(pushed(train(peer))))
    assert kinds(actions) == ["Answer", "Mixed", "Train"]
    assert (node.stage, node.round) == (Stage.TRAINING, 1)
    assert only(Mixed, actions).messages == 1


def test_an_early_message_waits_for_its_round_and_is_answered_only_when_mixed() -> None:
    node, peer = pair()
    first = pushed(train(peer))
    assert node.handle(Received(first)) == []
    actions = train(node)
    assert kinds(actions) == ["Push", "Answer", "Mixed", "Train"]
    assert only(Answer, actions) == Answer("n1", Ack(0, Verdict.OK, 0))


def test_a_late_repeat_is_seen_and_changes_nothing() -> None:
    node, peer = pair()
    first = pushed(train(peer))
    train(node)
    node.handle(Received(first))
    before = node._state.learner.snapshot()
    assert node.handle(Received(first)) == [Answer("n1", Ack(0, Verdict.SEEN, 0))]
    assert node._state.learner.snapshot().x == before.x


def test_a_repeat_of_a_held_message_is_not_answered_twice_nor_mixed_twice() -> None:
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
def test_a_breach_is_refused_and_the_true_message_still_counts(forge: Callable[[Message], Message], text: str) -> None:
    node, peer = pair()
    message = pushed(train(peer))
    train(node)
    with pytest.raises(RemoteProtocolError, match=text):
        node.handle(Received(forge(message)))
    assert node.missing() == ("n1",)
    assert only(Mixed, node.handle(Received(message))).round == 0


def test_an_old_message_that_was_never_mixed_is_not_called_seen() -> None:
    plan = a_plan(3)  # n0 hears n2 alone
    node = a_node("n0", plan)
    node.start()
    node.handle(Received(Message("n2", 0, 0, 0, plan.latest.digest, 0.5, (1.0,), b"2 1")))
    train(node)
    assert node.round == 1
    mismatch = Message("n1", 0, 0, 0, plan.latest.digest, 0.5, (1.0,), b"1 1")
    with pytest.raises(RemoteProtocolError, match="not an in-neighbour"):
        node.handle(Received(mismatch))
    other_plan = replace(mismatch, sender="n2", digest="f" * 64)
    assert only(Ack, node.handle(Received(other_plan))).verdict is Verdict.STALE


def test_more_than_a_window_ahead_is_a_breach() -> None:
    node, _ = pair(window=2)
    hear(node, 1)
    hear(node, 0)
    with pytest.raises(RemoteProtocolError, match="more than 2 unanswered pushes ahead"):
        hear(node, 2)


def test_a_stale_plan_is_answered_with_ours_and_ends_the_sender() -> None:
    node, peer = pair()
    message = replace(pushed(train(peer)), digest="f" * 64)
    answer = only(Ack, node.handle(Received(message)))
    assert (answer.verdict, answer.detail) == (Verdict.STALE, node.plan.latest.digest)
    theirs = Answered("n0", Ack(0, Verdict.STALE, 0, "e" * 64))
    error = only(Fail, peer.handle(theirs)).error
    assert isinstance(error, DigestMismatch)
    assert (error.ours, error.theirs, error.peer) == (peer.plan.latest.digest, "e" * 64, "n0")
    assert peer.handle(theirs) == []  # it fails once


def test_a_refused_push_ends_the_sender_even_while_it_trains() -> None:
    node, peer = pair()
    train(node)
    train(peer)
    error = only(Fail, peer.handle(Answered("n0", Ack(0, Verdict.ERROR, 0, "no such model")))).error
    assert "n0 refused round 0: no such model" in str(error)
    hear(node, 0)
    assert node.stage is Stage.TRAINING
    node.handle(Answered("n1", Ack(0, Verdict.ERROR, 0, "no")))
    assert train(node) == []


def test_an_answer_to_a_push_of_a_former_life_is_ignored() -> None:
    node, _ = pair()
    train(node)
    assert node.handle(Answered("n1", Ack(7, Verdict.STALE, 0, "e" * 64))) == []
    assert node.handle(Answered("n9", Ack(0, Verdict.ERROR, 0, "no"))) == []
    assert node.stage is Stage.WAITING


def test_training_that_nobody_asked_for_is_our_own_bug() -> None:
    node, _ = pair()
    with pytest.raises(LocalProtocolError, match="trained round 3 while TRAINING in round 0"):
        node.handle(Trained(3, STILL))
    train(node)
    with pytest.raises(LocalProtocolError, match="trained round 0 while WAITING in round 0"):
        node.handle(Trained(0, STILL))


def test_a_timeout_names_the_round_and_who_is_missing() -> None:
    plan = a_plan(4, "complete")
    node = a_node("n0", plan)
    node.start()
    assert node.handle(TimedOut(0)) == []  # it trains: nobody holds it up
    train(node)
    node.handle(Received(Message("n2", 0, 0, 0, plan.latest.digest, 0.25, (1.0,), b"2 1")))
    assert node.handle(TimedOut(1)) == []
    error = only(Fail, node.handle(TimedOut(0))).error
    assert isinstance(error, BarrierTimeout)
    assert (error.round, error.missing) == (0, ("n1", "n3"))
    assert node.handle(TimedOut(0)) == []


# --- the window, and the end ------------------------------------------------------------------------


def close(node: Node, t: int) -> list[NodeAction]:
    """Train and hear n1 in one round of a pair."""
    train(node)
    return hear(node, t)


def test_a_full_window_holds_a_node_back_until_the_oldest_push_is_answered() -> None:
    node, _ = pair(window=2)
    assert "Train" in kinds(close(node, 0))
    actions = close(node, 1)
    assert only(Await, actions) == Await(2, ("n1",))
    assert node.stage is Stage.READY
    assert node.handle(Answered("n1", Ack(1, Verdict.OK, 0))) == []  # not the oldest: no new deadline either
    assert kinds(node.handle(Answered("n1", Ack(0, Verdict.SEEN, 0)))) == ["Train"]


def test_a_held_back_node_that_times_out_names_who_owes_the_answer() -> None:
    node, _ = pair(window=1)
    close(node, 0)
    error = only(Fail, node.handle(TimedOut(1))).error
    assert (error.round, error.missing) == (1, ("n1",))


def test_finishing_waits_for_every_last_answer() -> None:
    plan = a_plan(2)
    node = a_node("n0", plan, rounds=2)
    node.start()
    close(node, 0)
    actions = close(node, 1)
    assert kinds(actions) == ["Answer", "Mixed", "Save", "Await"]
    assert node.handle(Answered("n1", Ack(1, Verdict.OK, 0))) == []
    finish = only(Finish, node.handle(Answered("n1", Ack(0, Verdict.OK, 0))))
    assert (finish.round, finish.complete) == (2, True)
    assert node.stage is Stage.OVER
    assert only(Ack, hear(node, 1)).verdict is Verdict.SEEN  # it still answers


def test_a_single_node_runs_alone() -> None:
    node = a_node("n0", a_plan(1), rounds=3, evaluate_every=2, checkpoint_every=1)
    node.start()
    assert kinds(train(node)) == ["Mixed", "Save", "Train"]
    assert kinds(train(node)) == ["Mixed", "Save", "Evaluate", "Train"]
    assert kinds(train(node)) == ["Mixed", "Save", "Finish"]


def test_a_single_node_never_trains_the_round_it_is_stopped_at() -> None:
    plan = a_plan(1)
    node = a_node("n0", plan)
    node.start()
    now = plan.successor(0 + 1, end=1)
    in_training = plan.successor(1, end=1)
    assert only(OfferAnswer, node.handle(Offer(now))).accepted
    train(node)
    assert (node.round, node.stage) == (1, Stage.OVER)
    late = a_node("n0", plan)
    late.start()
    train(late)
    assert not only(OfferAnswer, late.handle(Offer(in_training))).accepted


def test_a_run_without_communication_still_advances() -> None:
    """K = 0 and eta 0: the paper's control. Empty payloads keep the barrier in step and move no mass."""
    layout = Layout((3, 2))
    algorithm_spec = AlgorithmSpec(Compressor(keep_none, as_float32), 0.0, training_rounds=3)
    plan = a_plan(3, "chord")
    nodes = {
        f"n{i}": Node(
            f"n{i}",
            plan,
            VectorLearner(algorithm_spec, layout, State.initial(np.full(5, i, dtype=np.float32)), 0, f"n{i}"),
        )
        for i in range(3)
    }
    play(nodes, np.zeros(5, dtype=np.float32))
    for i, node in enumerate(nodes.values()):
        assert node.stage is Stage.OVER
        state = node._state.learner.snapshot()
        assert state.u.tolist() == [1.0]
        assert (state.x == i).all()


# --- the plan ---------------------------------------------------------------------------------------


def test_an_offer_is_accepted_and_travels_until_the_peer_is_known_to_have_it() -> None:
    node, peer = pair()
    record = node.plan.successor(3, schedule=Schedule((GraphSpec("b"),), 1))
    actions = node.handle(Offer(record))
    assert actions == [PlanChanged(record), Report(OfferAnswer(1, record.digest, True, 0))]
    first = pushed(train(node))
    assert first.records == (record,)
    assert peer.handle(Received(first)) == [PlanChanged(record)]
    assert peer.plan == node.plan
    hear(node, 0)
    assert pushed(train(node)).records == (record,)  # no answer yet: the record goes again
    node.handle(Answered("n1", Ack(0, Verdict.OK, knows=1)))
    hear(node, 1)
    assert pushed(train(node)).records == ()


def test_a_peer_that_sent_the_record_is_not_sent_it_back() -> None:
    node, peer = pair()
    node.handle(Offer(node.plan.successor(3)))
    peer.handle(Received(pushed(train(node))))
    assert pushed(train(peer)).records == ()


def test_the_same_offer_twice_is_accepted_twice_and_adopted_once() -> None:
    node, _ = pair()
    record = node.plan.successor(3)
    node.handle(Offer(record))
    assert node.handle(Offer(record)) == [Report(OfferAnswer(1, record.digest, True, 0))]
    assert len(node.plan.records) == 2


def test_an_offer_that_its_pushes_could_not_carry_in_time_is_refused() -> None:
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


def test_no_offer_is_accepted_when_the_run_is_over() -> None:
    node = a_node("n0", a_plan(1), rounds=1)
    node.start()
    train(node)
    assert node.handle(Offer(node.plan.successor(9))) == [
        Report(OfferAnswer(1, node.plan.successor(9).digest, False, 1))
    ]


def test_a_forked_record_is_a_breach() -> None:
    node, peer = pair()
    node.handle(Offer(node.plan.successor(3)))
    fork = peer.plan.successor(4)
    message = replace(pushed(train(peer)), records=(fork,))
    with pytest.raises(RemoteProtocolError, match="two records numbered 1: the plan has forked"):
        node.handle(Received(message))


def test_a_record_that_does_not_follow_is_a_breach() -> None:
    node, peer = pair()
    orphan = Plan((peer.plan.successor(3),)).successor(5)
    with pytest.raises(RemoteProtocolError, match="does not follow 0"):
        node.handle(Received(replace(pushed(train(peer)), records=(orphan,))))


def test_a_record_for_a_round_already_pushed_is_a_breach() -> None:
    node, peer = pair()
    late = peer.plan.successor(1)
    close(node, 0)
    train(node)
    assert node.next_round == 2
    message = replace(from_n1(node, 1), records=(late,))
    with pytest.raises(RemoteProtocolError, match="record 1 starts at 1, but round 2 is next"):
        node.handle(Received(message))
    assert len(node.plan.records) == 1


def test_a_stop_ends_every_node_at_the_same_round() -> None:
    plan = a_plan(4)
    nodes = {f"n{i}": a_node(f"n{i}", plan, rounds=50) for i in range(4)}
    assert only(OfferAnswer, nodes["n2"].handle(Offer(plan.successor(5, end=5)))).accepted
    lines = play(nodes)
    assert {(node.stage, node.round) for node in nodes.values()} == {(Stage.OVER, 5)}
    assert sum(line.startswith("    Finish(5") and line.endswith("False)") for line in lines) == 4
    assert sum(line.startswith("    Save(5 ") for line in lines) == 4


def test_evaluates_and_saves_when_due_but_not_twice_at_the_end() -> None:
    node = a_node("n0", a_plan(1), rounds=2, evaluate_every=1, checkpoint_every=2)
    assert kinds(node.start()) == ["Save", "Train"]
    actions = train(node)
    assert only(Evaluate, actions).round == 1
    assert kinds(train(node)) == ["Mixed", "Save", "Finish"]


# --- the fence and the cut --------------------------------------------------------------------------


def fence(node: Node, *evicted: str, term: int = 0, ballot: int = 1) -> list[NodeAction]:
    return node.handle(Fence(term, ballot, frozenset(evicted)))


def without(plan: Plan, dead: str, last: int, start: int) -> Record:
    members = tuple(m for m in plan.latest.members if m.node != dead)
    return plan.successor(start, members=members, evictions=((dead, last),))


def exactly(node: Node) -> tuple[Any, Any]:
    x, u = node._state.learner.mass()  # type: ignore[attr-defined]
    return x, u


def test_a_fenced_node_says_where_it_stands_and_begins_no_round() -> None:
    node, _ = pair()
    close(node, 0)
    train(node)
    hear(node, 1)  # it trains round 2 now
    assert fence(node, "n1") == [Report(FenceAnswer(0, 1, 2, (("n1", 1),), node.plan.records))]
    assert node.fenced == {"n1"}
    assert kinds(train(node)) == ["Push", "Await"]  # the round it has begun goes on
    assert hear(node, 2) == []
    assert node.missing() == ("n1",)


def test_a_fenced_node_that_closes_its_round_stays_before_the_next() -> None:
    node = a_node("n0", a_plan(3))  # it hears n2 alone
    node.start()
    train(node)
    assert fence(node, "n1") == [Report(FenceAnswer(0, 1, 0, (("n1", -1),), node.plan.records))]
    first = Message("n2", 0, 0, 0, node.plan.latest.digest, 0.5, (1.0,), b"2 1")
    assert kinds(node.handle(Received(first))) == ["Answer", "Mixed"]
    assert (node.stage, node.round) == (Stage.READY, 1)
    assert fence(node, "n1", ballot=2) == [Report(FenceAnswer(0, 2, 0, (("n1", -1),), node.plan.records))]
    assert kinds(node.handle(EvictionCommitted((without(node.plan, "n1", 0, 1),)))) == ["PlanChanged", "Train"]


def test_an_answer_of_the_evicted_proves_that_it_began_the_next_round() -> None:
    node, _ = pair()
    close(node, 0)
    node.handle(Answered("n1", Ack(0, Verdict.OK, 0)))
    assert only(FenceAnswer, fence(node, "n1")).begun_rounds == (("n1", 1),)


def test_a_push_of_the_evicted_is_dropped_without_an_answer_nor_its_records() -> None:
    node, peer = pair()
    train(node)
    fence(node, "n1")
    message = replace(pushed(train(peer)), records=(node.plan.successor(9),))
    assert node.handle(Received(message)) == []
    assert len(node.plan.records) == 1


def test_a_node_behind_a_fence_takes_no_offer() -> None:
    node, _ = pair()
    fence(node, "n1")
    assert not only(OfferAnswer, node.handle(Offer(node.plan.successor(5)))).accepted


def test_a_cut_takes_back_what_was_pushed_in_the_last_round_or_later_exactly() -> None:
    node, _ = pair()
    x = [exactly(node)]
    for t in range(4):  # mixed with n1's 1/2 of (1, 1) each
        close(node, t)
        x.append(exactly(node))
    assert x[1] == (Fraction(1, 2), 1)
    fence(node, "n1")
    node.handle(EvictionCommitted((without(node.plan, "n1", last=2, start=5),)))
    # of rounds 2 and 3, half of what was there then comes back; of rounds 0 and 1 nothing does
    back = [Fraction(1, 2) * (x[2][i] + x[3][i]) for i in (0, 1)]
    assert exactly(node) == (x[4][0] + back[0], x[4][1] + back[1])
    assert node.fenced == frozenset()


def test_a_cut_keeps_the_share_of_a_push_that_is_not_mixed_yet() -> None:
    node, _ = pair()
    train(node)
    fence(node, "n1")
    actions = node.handle(EvictionCommitted((without(node.plan, "n1", last=0, start=1),)))
    assert kinds(actions) == ["PlanChanged", "Mixed", "Train"]
    assert exactly(node) == (0, 1)  # as if it had never pushed


def test_a_cut_keeps_what_counts_of_the_dead_and_drops_the_rest() -> None:
    node, _ = pair()
    hear(node, 0)
    hear(node, 1)
    fence(node, "n1")
    node.handle(EvictionCommitted((without(node.plan, "n1", last=0, start=3),)))
    # it pushes to nobody, and takes round 0 of the dead
    assert kinds(train(node)) == ["Answer", "Mixed", "Train"]
    assert exactly(node) == (Fraction(1, 2), Fraction(3, 2))
    assert kinds(train(node)) == ["Mixed", "Train"]
    assert exactly(node) == (Fraction(1, 2), Fraction(3, 2))


def test_a_cut_frees_who_waited_for_the_answers_of_the_dead() -> None:
    node, _ = pair(window=1)
    close(node, 0)
    assert node.missing() == ("n1",)
    fence(node, "n1")
    record = without(node.plan, "n1", last=1, start=2)
    assert kinds(node.handle(EvictionCommitted((record,)))) == ["PlanChanged", "Train"]
    assert node.handle(EvictionCommitted((record,))) == []  # told twice


def test_a_zombie_that_learns_of_its_cut_from_an_answer_or_a_decree_fails_once() -> None:
    node, zombie = pair()
    message = pushed(train(zombie))
    fence(node, "n1")
    record = without(node.plan, "n1", last=0, start=1)
    node.handle(EvictionCommitted((record,)))
    answer = only(Ack, node.handle(Received(message)))
    assert (answer.verdict, answer.records) == (Verdict.STALE, (record,))
    told = Answered("n0", Ack(0, answer.verdict, answer.knows, answer.detail, answer.records))
    assert isinstance(only(Fail, zombie.handle(told)).error, Evicted)
    assert zombie.handle(EvictionCommitted((record,))) == []
    _, other = pair()
    assert isinstance(only(Fail, other.handle(EvictionCommitted((record,)))).error, Evicted)


# --- pausing ----------------------------------------------------------------------------------------


def test_a_halted_node_ends_its_round_and_begins_no_other_until_it_may() -> None:
    node, peer = pair()
    assert node.handle(Halt(True)) == []
    assert not node.stands_still  # the step is under way
    message = pushed(train(peer))
    assert kinds(train(node)) == ["Push", "Await"]
    assert node.stands_still
    assert kinds(node.handle(Received(message))) == ["Answer", "Mixed"]
    assert (node.round, node.stage, node.stands_still) == (1, Stage.READY, True)
    assert node.handle(Halt(True)) == []  # told twice
    assert kinds(node.handle(Halt(False))) == ["Train"]
    assert node.handle(Halt(False)) == []


def test_a_node_may_be_halted_from_the_start() -> None:
    node = a_node("n0", a_plan(2))
    assert kinds(node.start(halted=True)) == ["Save"]
    assert node.stands_still
    assert kinds(node.handle(Halt(False))) == ["Train"]


def test_a_wait_that_a_pause_fell_into_begins_anew() -> None:
    node, _ = pair()
    train(node)
    node.handle(Halt(True))
    assert node.handle(Halt(False)) == [Await(0, ("n1",))]


def test_a_halted_node_still_answers_offers_and_fences_and_stays_after_a_cut() -> None:
    node, _ = pair()
    close(node, 0)
    train(node)
    node.handle(Halt(True))
    assert only(OfferAnswer, node.handle(Offer(node.plan.successor(5)))).accepted
    assert only(FenceAnswer, fence(node, "n1")).begun == 1
    record = without(node.plan, "n1", last=1, start=6)
    assert kinds(node.handle(EvictionCommitted((record,)))) == ["PlanChanged", "Mixed"]
    assert (node.round, node.stands_still) == (2, True)


def test_a_pause_does_not_keep_a_node_from_its_end() -> None:
    plan = a_plan(1)
    node = a_node("n0", plan, rounds=1)
    node.start()
    node.handle(Halt(True))
    assert kinds(train(node))[-1] == "Finish"


# --- leaving ----------------------------------------------------------------------------------------


def test_a_leaver_hands_all_its_mass_to_its_heir_and_is_done() -> None:
    plan = a_plan(3)
    members = plan.latest.members[:2]
    record = plan.successor(4, members=members, handoffs=(("n2", "n1"),))
    nodes = {f"n{i}": a_node(f"n{i}", plan) for i in range(3)}
    assert only(OfferAnswer, nodes["n0"].handle(Offer(record))).accepted
    lines = play(nodes)
    assert (nodes["n2"].stage, nodes["n2"].round) == (Stage.OVER, 4)
    assert sum(line.startswith("    Finish(4 ") and line.endswith("False)") for line in lines) == 1
    assert [nodes[name].round for name in ("n0", "n1")] == [ROUNDS, ROUNDS]
    total = [sum(exactly(nodes[name])[i] for name in ("n0", "n1")) for i in (0, 1)]
    assert total == [0 + 1 + 2, 3]
    assert (
        sum(line.startswith("    Push(n1 n2@3") for line in lines) == 1
    )  # all it has, to its heir alone, and nobody pushes to it any more
    assert not any(line.startswith(("    Push(n2 n0@3", "    Push(n2 n1@3", "    Push(n0 n2@3")) for line in lines)
    assert not any("n2@4" in line for line in lines)


def test_a_member_whose_welcome_comes_after_the_record_of_its_leave_takes_part_until_then() -> None:
    plan = a_plan(3)
    plan = plan.extend(plan.successor(4, members=plan.latest.members[:2], handoffs=(("n2", "n1"),)))
    nodes = {f"n{i}": a_node(f"n{i}", plan) for i in range(3)}
    play(nodes)
    assert [nodes[name].round for name in sorted(nodes)] == [ROUNDS, ROUNDS, 4]


def test_a_leaver_leaves_what_it_knows_of_the_others_to_its_heir() -> None:
    """It is gone when one of them is cut out, and what that one said is part of what was handed over."""
    plan = a_plan(5)
    nodes = {f"n{i}": a_node(f"n{i}", plan, rounds=12) for i in range(5)}
    handoff_to, handoffs = nodes["n1"], (("n4", "n1"),)
    assert not any(
        handoff_to.name in (sender, receiver) and "n3" in (sender, receiver) for sender, receiver in plan.graph(0).edges
    )
    record = plan.successor(9, members=plan.latest.members[:4], handoffs=handoffs)
    assert only(OfferAnswer, nodes["n0"].handle(Offer(record))).accepted
    play(nodes)
    assert only(FenceAnswer, fence(handoff_to, "n3")).begun_rounds == (
        ("n3", 7),
    )  # what it told n4 before that said farewell


def test_a_leaver_that_is_done_takes_nothing_back() -> None:
    plan = a_plan(2)
    nodes = {f"n{i}": a_node(f"n{i}", plan) for i in range(2)}
    record = plan.successor(4, members=plan.latest.members[:1], handoffs=(("n1", "n0"),))
    assert only(OfferAnswer, nodes["n0"].handle(Offer(record))).accepted
    play(nodes)
    before = exactly(nodes["n1"])
    joined = nodes["n1"].plan.extend(nodes["n1"].plan.successor(20, members=(Member("n0"), Member("n2"))))
    cut = joined.successor(22, members=(Member("n2"),), evictions=(("n0", 0),))
    assert kinds(nodes["n1"].handle(EvictionCommitted((joined.latest, cut)))) == ["PlanChanged", "PlanChanged"]
    assert exactly(nodes["n1"]) == before
