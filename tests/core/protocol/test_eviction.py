"""What a fence needs to be complete, and what a cut counts: by values alone."""

from __future__ import annotations

from edgenode.core.protocol.eviction import Fencing
from edgenode.core.protocol.messages import AnswerFence
from edgenode.core.protocol.plan import Member, Plan, found
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule

PLAN = found("lab", [Member(f"n{i}") for i in range(4)], Schedule((GraphSpec("a"),), 1))


def a_fencing(*evicted: str) -> Fencing:
    return Fencing(2, 5, frozenset(evicted or ("n3",)), frozenset({"n0", "n1"}), [])


def promise(begun: int, *held: tuple[str, int], term: int = 2, ballot: int = 5, plan: Plan = PLAN) -> AnswerFence:
    return AnswerFence(term, ballot, begun, held, plan.records)


def test_a_fence_is_complete_when_every_survivor_has_promised() -> None:
    fencing = a_fencing()
    assert not fencing.complete
    assert fencing.begun == -1
    assert fencing.take("n1", promise(7))
    assert not fencing.complete
    assert fencing.take("n1", promise(7))  # said twice, it counts once
    assert not fencing.complete
    assert fencing.take("n0", promise(5))
    assert fencing.complete
    assert fencing.begun == 7


def test_a_promise_of_another_ballot_or_term_or_of_nobody_asked_is_void() -> None:
    fencing = a_fencing()
    assert not fencing.take("n0", promise(5, ballot=4))
    assert not fencing.take("n0", promise(5, term=1))
    assert not fencing.take("n3", promise(5))
    assert not fencing.take("n9", promise(5))
    assert fencing.answers == {}


def test_a_fence_without_survivors_to_ask_is_complete() -> None:
    assert Fencing(0, 1, frozenset({"n3"}), frozenset(), []).complete


def test_the_newest_round_that_anyone_knows_the_evicted_to_have_begun_is_its_last() -> None:
    fencing = a_fencing("n3", "n2")
    fencing.take("n0", promise(9, ("n2", 4), ("n3", 7)))
    fencing.take("n1", promise(8, ("n2", 6), ("n3", -1)))
    assert fencing.cut(PLAN, 10) == (("n2", 6), ("n3", 7))


def test_no_round_counts_that_the_survivors_did_not_begin() -> None:
    fencing = a_fencing()
    fencing.take("n0", promise(6, ("n3", 8)))
    assert fencing.cut(PLAN, 7) == (("n3", 6),)


def test_one_that_nobody_heard_of_counts_up_to_the_round_before_it_joined() -> None:
    fencing = a_fencing()
    fencing.take("n0", promise(20, ("n3", -1)))
    assert fencing.cut(PLAN, 21) == (("n3", -1),)
    without = PLAN.extend(PLAN.successor(5, members=PLAN.latest.members[:3], cut=(("n3", 3),)))
    again = without.extend(without.successor(12, members=(*PLAN.latest.members[:3], Member("n3", 1))))
    assert fencing.cut(again, 21) == (("n3", 11),)


def test_the_longest_chain_that_a_survivor_knows_goes_on() -> None:
    longer = PLAN.extend(PLAN.successor(8))
    fencing = a_fencing()
    fencing.take("n0", promise(5))
    assert fencing.newest_plan(PLAN) == PLAN
    fencing.take("n1", promise(5, plan=longer))
    assert fencing.newest_plan(PLAN) == longer
    assert a_fencing().newest_plan(longer) == longer
