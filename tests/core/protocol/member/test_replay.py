"""Old traffic that is sent again: pushes of another epoch of the run, of a process that was evicted, and duplicates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.events import Received
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.plan.plan import Plan
from tests.core.protocol.node_driver import a_node, a_plan, exact_mass, from_n1, kinds, only, play_round, receive, train

BEFORE = a_plan(2)
RESUMED = Plan((replace(BEFORE.latest, number=1, start=2),))  # all resume from round 2


def of_before(t: int) -> Message:
    """The push of n1 for a round, from before the resume."""
    record = BEFORE.at(t)
    return Message("n1", 0, t, record.number, record.digest, 0.5, (1.0,), b"9 1")


@pytest.mark.parametrize("t", [1, 2, 3])
def test_push_from_before_a_resume_is_refused_and_changes_nothing(t: int) -> None:
    node = a_node("n0", RESUMED, start=2)
    node.start()
    train(node)
    before = exact_mass(node)
    ack = only(Ack, node.handle(Received(of_before(t))))
    assert ack.verdict is Verdict.STALE
    assert (exact_mass(node), node.state.buffered(), node.state.round) == (before, {}, 2)
    assert "Mixed" in kinds(receive(node, 2))  # the true one


def test_duplicate_of_a_push_is_mixed_once() -> None:
    node = a_node("n0", BEFORE)
    node.start()
    push = from_n1(node, 0)
    play_round(node, 0)
    mass = exact_mass(node)
    for _ in range(3):
        assert only(Ack, node.handle(Received(push))).verdict is Verdict.SEEN
    other = replace(push, payload=b"9 1")  # and what it says the second time does not count
    assert only(Ack, node.handle(Received(other))).verdict is Verdict.SEEN
    assert exact_mass(node) == mass
    train(node)
    assert node.handle(Received(replace(from_n1(node, 1), payload=b"2 1")))
    assert node.state.round == 2


def test_second_push_of_a_round_that_waits_does_not_replace_the_first() -> None:
    node = a_node("n0", BEFORE)
    node.start()
    assert receive(node, 0) == []
    assert node.handle(Received(replace(from_n1(node, 0), payload=b"9 1"))) == []
    train(node)
    alone = a_node("n0", BEFORE)
    alone.start()
    play_round(alone, 0)
    assert exact_mass(node) == exact_mass(alone)
