"""One node with an overlap by hand: when it mixes, what it answers, what leaves x, and what an eviction takes back."""

from __future__ import annotations

from fractions import Fraction

from edgenode.core.protocol.events import Answered, NodeAction, Received, Report, Save, Trained
from edgenode.core.protocol.member.member_state import Stage
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import EvictionCommitted, FenceAnswer
from edgenode.core.protocol.plan.lag import Lag
from tests.core.protocol.node_driver import STILL, a_node, a_plan, exact_mass, fence, from_n1, kinds

TWO = Lag(2)


def started(lag: Lag = TWO, rounds: int = 6, window: int = 8, **options: int) -> Node:
    """n0 of a pair, in training of round 0."""
    node = a_node("n0", a_plan(2, rounds=rounds), rounds, lag=lag, window=window, **options)
    node.start()
    return node


def train(node: Node) -> list[NodeAction]:
    return node.handle(Trained(node.state.next_round, STILL))


def receive(node: Node, t: int) -> list[NodeAction]:
    return node.handle(Received(from_n1(node, t)))


def test_node_pushes_the_overlap_before_it_waits() -> None:
    node = started()
    assert [kinds(train(node)) for _ in range(3)] == [["Push", "Train"], ["Push", "Train"], ["Push", "Await"]]
    assert (node.state.round, node.state.next_round, node.state.stage, node.state.missing()) == (
        0,
        3,
        Stage.WAITING,
        ("n1",),
    )
    assert kinds(receive(node, 0)) == ["Answer", "Mixed", "Train"]
    assert (node.state.round, node.state.next_round) == (1, 3)


def test_message_waits_for_its_turn_even_if_it_is_early() -> None:
    node = started()
    assert receive(node, 0) == receive(node, 1) == []
    assert [kinds(train(node)) for _ in range(2)] == [["Push", "Train"], ["Push", "Train"]]
    assert kinds(train(node)) == ["Push", "Answer", "Mixed", "Train"]


def test_own_share_leaves_with_the_push_and_the_others_come_with_the_mix() -> None:
    node = started()
    for u in (Fraction(1, 2), Fraction(1, 4), Fraction(1, 8)):
        train(node)
        assert exact_mass(node)[1] == u
    receive(node, 0)  # half of x = 1 and u = 1
    assert exact_mass(node) == (Fraction(1, 2), Fraction(5, 8))


def test_run_ends_when_nothing_is_in_flight() -> None:
    node = started(Lag(3), rounds=4)
    for t in range(4):
        receive(node, t)
    actions = [train(node) for _ in range(4)]
    assert [kinds(of_round) for of_round in actions[:3]] == [["Push", "Train"]] * 3
    assert kinds(actions[3]) == ["Push", *["Answer", "Mixed"] * 4, "Save", "Await"]
    answers = [node.handle(Answered("n1", Ack(t, Verdict.OK, 0))) for t in range(4)]
    assert kinds(answers[3]) == ["Finish"]


def test_checkpoint_is_taken_when_nothing_is_in_flight() -> None:
    node = started(Lag(2, drain_every=2), checkpoint_every=2, evaluate_every=1)
    assert kinds(train(node)) == ["Push", "Evaluate", "Train"]
    assert kinds(train(node)) == ["Push", "Await"]
    assert kinds(receive(node, 0)) == ["Answer", "Mixed", "Await"]
    actions = receive(node, 1)
    assert kinds(actions) == ["Answer", "Mixed", "Save", "Evaluate", "Train"]
    assert next(a.round for a in actions if isinstance(a, Save)) == 2


def test_fence_answer_names_what_the_peer_has_mixed() -> None:
    """Its push of round 5 shows that it has mixed rounds 0 to 2, and its answer to round 3 that it has mixed that."""
    node = started()
    for t in range(4):
        train(node)
        receive(node, t)
    receive(node, 5)
    assert only_answer(fence(node, "n1")) == (4, (("n1", 3),))
    node.handle(Answered("n1", Ack(3, Verdict.OK, 0)))
    assert only_answer(fence(node, "n1", ballot=2)) == (4, (("n1", 4),))


def only_answer(actions: list[NodeAction]) -> tuple[int, tuple[tuple[str, int], ...]]:
    (report,) = (a.report for a in actions if isinstance(a, Report))
    assert isinstance(report, FenceAnswer)
    return report.begun, report.begun_rounds


def test_eviction_takes_back_what_is_in_flight() -> None:
    """n1 has mixed no round. Its pushes of rounds 0 to 2 count, its push of round 3 does not. n0's pushes come back."""
    node = started()
    train(node)
    train(node)
    assert exact_mass(node)[1] == Fraction(1, 4)
    for t in (0, 2, 3):
        receive(node, t)
    fence(node, "n1")
    plan = node.state.plan
    record = plan.successor(3, members=plan.latest.members[:1], evictions=(("n1", 0),))
    assert kinds(node.handle(EvictionCommitted((record,)))) == ["PlanChanged"]
    assert exact_mass(node)[1] == 1
    assert kinds(train(node)) == ["Answer", "Mixed", "Mixed", "Answer", "Mixed", "Train"]
    assert exact_mass(node)[1] == 1 + 2 * Fraction(1, 2)


def test_message_of_a_peer_that_is_ahead_by_the_overlap_is_taken() -> None:
    node = started(window=3)
    train(node)
    for t in range(3):
        assert receive(node, t) == []
    assert node.state.buffered() == {"n1": 3}
