"""What a fence needs to be complete, and what a cut counts: by values alone."""

from __future__ import annotations

from edgenode.core.protocol.eviction import Ballot
from edgenode.core.protocol.orders import FenceAnswer
from edgenode.core.protocol.plan import Member, Plan, create_plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule

PLAN = create_plan("lab", [Member(f"n{i}") for i in range(4)], Schedule((GraphSpec("a"),), 1))


def a_ballot(*evicted: str) -> Ballot:
    return Ballot(2, 5, frozenset(evicted or ("n3",)), frozenset({"n0", "n1"}), [])


def promise(
    begun: int, *begun_rounds: tuple[str, int], term: int = 2, ballot: int = 5, plan: Plan = PLAN
) -> FenceAnswer:
    return FenceAnswer(term, ballot, begun, begun_rounds, plan.records)


def test_a_fence_is_complete_when_every_survivor_has_promised() -> None:
    ballot = a_ballot()
    assert not ballot.complete
    assert ballot.begun == -1
    assert ballot.take("n1", promise(7))
    assert not ballot.complete
    assert ballot.take("n1", promise(7))  # said twice, it counts once
    assert not ballot.complete
    assert ballot.take("n0", promise(5))
    assert ballot.complete
    assert ballot.begun == 7


def test_a_promise_of_another_ballot_or_term_or_of_nobody_asked_is_void() -> None:
    ballot = a_ballot()
    assert not ballot.take("n0", promise(5, ballot=4))
    assert not ballot.take("n0", promise(5, term=1))
    assert not ballot.take("n3", promise(5))
    assert not ballot.take("n9", promise(5))
    assert ballot.answers == {}


def test_a_fence_without_survivors_to_ask_is_complete() -> None:
    assert Ballot(0, 1, frozenset({"n3"}), frozenset(), []).complete


def test_the_newest_round_that_anyone_knows_the_evicted_to_have_begun_is_its_last() -> None:
    ballot = a_ballot("n3", "n2")
    ballot.take("n0", promise(9, ("n2", 4), ("n3", 7)))
    ballot.take("n1", promise(8, ("n2", 6), ("n3", -1)))
    assert ballot.last_rounds(PLAN, 10) == (("n2", 6), ("n3", 7))


def test_no_round_counts_that_the_survivors_did_not_begin() -> None:
    ballot = a_ballot()
    ballot.take("n0", promise(6, ("n3", 8)))
    assert ballot.last_rounds(PLAN, 7) == (("n3", 6),)


def test_one_that_nobody_heard_of_counts_up_to_the_round_before_it_joined() -> None:
    ballot = a_ballot()
    ballot.take("n0", promise(20, ("n3", -1)))
    assert ballot.last_rounds(PLAN, 21) == (("n3", -1),)
    without = PLAN.extend(PLAN.successor(5, members=PLAN.latest.members[:3], evictions=(("n3", 3),)))
    again = without.extend(without.successor(12, members=(*PLAN.latest.members[:3], Member("n3", 1))))
    assert ballot.last_rounds(again, 21) == (("n3", 11),)


def test_the_longest_chain_that_a_survivor_knows_goes_on() -> None:
    longer = PLAN.extend(PLAN.successor(8))
    ballot = a_ballot()
    ballot.take("n0", promise(5))
    assert ballot.newest_plan(PLAN) == PLAN
    ballot.take("n1", promise(5, plan=longer))
    assert ballot.newest_plan(PLAN) == longer
    assert a_ballot().newest_plan(longer) == longer
