"""Counts and the round of a run: they never fall, and nothing that was counted is lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import COUNTERS, NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.net.status_wire import MOST_COUNTED
from edgenode.observability.run_progress import NodeCounts, RunProgress

PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), 1))


def resumed(start: int) -> Plan:
    """The plan of a run whose nodes were all down."""
    return Plan((PLAN.successor(start),))


def sent(count: int) -> NodeStatus:
    return NodeStatus(payload_bytes=count)


def observed(progress: RunProgress, *rounds: int, plan: Plan = PLAN, now: float = 0, paused: bool = False) -> int:
    progress.observe(plan, [NodeStatus(round=t) for t in rounds], paused, now)
    return progress.reached


# --- counts


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=5), max_size=6))
def test_count_of_newcomers_is_the_sum_of_their_processes(processes: Sequence[Sequence[int]]) -> None:
    counts, total = NodeCounts(), 0
    for i, steps in enumerate(processes):
        reported = 0
        for step in (0, *steps):
            reported, total = reported + step, total + step
            assert counts.add("n0", f"process {i}", sent(reported)).payload_bytes == total


@given(st.lists(st.tuples(st.sampled_from(["n0", "n1"]), st.sampled_from("pqr"), st.integers(0, 1 << 53)), max_size=30))
def test_no_count_ever_falls_whatever_processes_report(reports: Sequence[tuple[str, str, int]]) -> None:
    counts, before = NodeCounts(), dict[str, int]()
    for node, process, reported in reports:
        total = counts.add(node, process, sent(reported)).payload_bytes
        assert total >= max(reported, before.get(node, 0))
        before[node] = total
    assert counts.departed("payload_bytes", ()) == min(sum(before.values()), MOST_COUNTED)
    assert counts.departed("payload_bytes", before) == 0


def test_counts_stop_at_the_most_that_can_be_shown() -> None:
    counts = NodeCounts()
    for process in range(5000):  # each lies
        counts.add("n0", f"{process}", sent(0))
        assert counts.add("n0", f"{process}", sent(MOST_COUNTED)).payload_bytes == MOST_COUNTED
    counts.restore({"n1": dict.fromkeys(COUNTERS, 2**63 - 1)})
    assert counts.departed("payload_bytes", ()) == MOST_COUNTED


def test_count_after_a_resume_continues_where_the_process_before_ended() -> None:
    counts = NodeCounts()
    counts.add("n0", "first", sent(1000))
    assert [counts.add("n0", "second", sent(n)).payload_bytes for n in (800, 900, 1300)] == [1000, 1100, 1500]


@pytest.mark.parametrize("reported_first", [False, True])
def test_recorded_counts_continue_in_the_next_controller(reported_first: bool) -> None:
    counts = NodeCounts()
    if reported_first:
        counts.add("n0", "p", sent(400))
    counts.restore({"n0": dict.fromkeys(COUNTERS, 1000)})
    assert counts.add("n0", "p", sent(400)).payload_bytes == 1000
    assert counts.add("n0", "p", sent(450)).payload_bytes == 1050


# --- the round


def test_round_of_a_run_is_that_of_its_slowest_member() -> None:
    progress = RunProgress()
    assert [observed(progress, 0, 0), observed(progress, 5, 4), observed(progress, 6, 5)] == [0, 4, 5]


def test_round_does_not_fall_for_a_newcomer_or_a_silent_member() -> None:
    progress = RunProgress()
    assert [observed(progress, 9, 8), observed(progress, 9, 0), observed(progress, 0, 0), observed(progress, 7)] == [
        8, 9, 9, 9,
    ]  # fmt: skip


def test_round_falls_when_all_nodes_resume_from_a_checkpoint() -> None:
    progress = RunProgress()
    assert [observed(progress, 90, 80), observed(progress, 0, 0, plan=resumed(60))] == [80, 60]
    assert observed(progress, 61, 62, plan=resumed(60)) == 61


def test_round_of_an_earlier_controller_is_restored() -> None:
    progress = RunProgress()
    observed(progress, 0, 0)
    progress.restore(50, {})
    assert observed(progress, 49, 51) == 50


# --- the time that is left


def test_time_left_follows_from_the_measured_pace() -> None:
    progress = RunProgress()
    for second in range(11):
        observed(progress, 2 * second, plan=PLAN, now=second)
    assert progress.time_left_s(120) == pytest.approx(50)
    assert progress.time_left_s(20) == 0


def test_time_left_is_unknown_at_first_in_a_pause_and_after_a_resume() -> None:
    progress = RunProgress()
    observed(progress, 1, now=0)
    observed(progress, 2, now=0.5)  # too soon to measure a pace
    assert progress.time_left_s(9) is None
    observed(progress, 3, now=2)
    assert progress.time_left_s(9) == 6
    observed(progress, 3, now=100, paused=True)
    assert progress.time_left_s(9) is None
    observed(progress, 3, now=200)
    observed(progress, 4, now=201)
    assert progress.time_left_s(9) == 5
    observed(progress, 2, 2, plan=resumed(2), now=300)
    assert progress.time_left_s(9) is None
