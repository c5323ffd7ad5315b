"""Which rounds are mixed before a round begins: `overlap` later than pushed, and none is left where a round drains."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.protocol.plan.lag import LOCK_STEP, Lag
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule

RING = Schedule((GraphSpec("a"),), 1)


def a_plan(rounds: int, schedule: Schedule = RING) -> Plan:
    return create_plan("home", [Member(name) for name in "012"], schedule, rounds=rounds)


PLAN = a_plan(20)


def mixed_before(lag: Lag, plan: Plan = PLAN, rounds: int = 12) -> list[int]:
    return [lag.mixed_before(plan, t) for t in range(rounds)]


def test_lock_step_mixes_every_round_before_the_next() -> None:
    assert mixed_before(LOCK_STEP) == list(range(12))


def test_overlap_leaves_its_rounds_in_flight() -> None:
    assert mixed_before(Lag(2)) == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_last_phase_is_in_lock_step() -> None:
    assert mixed_before(Lag(2), a_plan(6)) == [0, 0, 0, 1, 2, 3, 6, 7, 8, 9, 10, 11]


def test_allreduce_that_begins_again_is_in_lock_step() -> None:
    schedule = Schedule((GraphSpec("a"),), 1, last=GraphSpec("allreduce"), last_from=4)
    plan = a_plan(4, schedule)
    again, left = replace(schedule, last_from=6), tuple(map(Member, "01"))
    plan = plan.extend(plan.successor(6, schedule=again, members=left, evictions=(("2", 4),)))
    assert mixed_before(Lag(2), plan, 10) == [0, 0, 0, 1, 4, 5, 6, 7, 8, 9]


def test_nothing_is_in_flight_at_a_checkpoint() -> None:
    assert mixed_before(Lag(3, drain_every=5)) == [0, 0, 0, 0, 1, 5, 5, 5, 5, 6, 10, 10]


def test_nothing_is_in_flight_when_a_record_starts() -> None:
    plan = PLAN.extend(PLAN.successor(5))
    assert mixed_before(Lag(2), plan) == [0, 0, 0, 1, 2, 5, 5, 5, 6, 7, 8, 9]


def test_nothing_is_in_flight_when_a_member_leaves() -> None:
    """It hands over all it has in the round before the record starts."""
    record = PLAN.successor(6, members=tuple(map(Member, "01")), handoffs=(("2", "0"),))
    assert mixed_before(Lag(2), PLAN.extend(record)) == [0, 0, 0, 1, 2, 5, 6, 6, 6, 7, 8, 9]


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(1, 30), st.integers(0, 7), st.integers(1, 20))
def test_newest_push_is_the_last_before_the_next_mix(overlap: int, until: int, every: int, change: int) -> None:
    plan = a_plan(until)
    lag, plan = Lag(overlap, every), plan.extend(plan.successor(change))
    befores = mixed_before(lag, plan, 40)
    assert all(t - overlap <= before <= t for t, before in enumerate(befores))
    assert all(earlier <= later for earlier, later in pairwise(befores))
    for mixed in range(-1, 30):
        pushed = [t for t, before in enumerate(befores) if before <= mixed]
        assert lag.newest_push(plan, mixed) == max(pushed, default=-1)
