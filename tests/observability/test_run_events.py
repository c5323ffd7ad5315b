"""Events of a run, from the changes of its plan and from its pauses."""

from __future__ import annotations

from typing import Any

import pytest

from edgenode.core.protocol.orders import Accusation
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.observability.run_events import EventWatch, ending, outcome_of, poison_alarm
from edgenode.storage.run_history import RESTARTED, RunSoFar

N0, N1, N2 = Member("n0"), Member("n1"), Member("n2")
PLAN = create_plan("home", [N0, N1, N2], Schedule((GraphSpec("a"),), 1))


def extended(plan: Plan, start: int, **changes: Any) -> Plan:
    return plan.extend(plan.successor(start, **changes))


def news(watch: EventWatch, plan: Plan, paused: bool = False, reached: int = 0) -> list[tuple[int, str, str]]:
    return [(event.round, event.kind, event.text) for event in watch.news(plan, paused, reached)]


def test_every_change_of_plan_has_its_event_once() -> None:
    watch = EventWatch(RunSoFar(), None)
    assert news(watch, PLAN) == [(0, "started", "n0, n1, n2")]
    assert news(watch, PLAN) == []
    plan = extended(PLAN, 10, members=(N0, N1), evictions=(("n2", 8),))
    plan = extended(plan, 20, members=(N0, N1, Member("n2", 1)))
    assert news(watch, plan) == [(10, "evicted", "n2"), (20, "joined", "n2")]
    plan = extended(plan, 30, members=(N0, Member("n2", 1)), handoffs=(("n1", "n0"),))
    assert news(watch, plan) == [(30, "left", "n1")]
    plan = extended(plan, 40, schedule=Schedule((GraphSpec("a"), GraphSpec("b")), 6, origin=40))
    assert news(watch, plan) == [(40, "plan changed", "graph a, b in turn, every 6 rounds")]
    assert news(watch, extended(plan, 50, end=50)) == [(50, "stopping", "before round 50")]


def test_run_that_resumes_from_a_checkpoint_restarts() -> None:
    watch = EventWatch(RunSoFar(), None)
    news(watch, PLAN, reached=90)
    assert news(watch, Plan((PLAN.successor(60),))) == [(60, RESTARTED, "from round 60: n0, n1, n2")]


def test_pauses_are_events_of_the_round_of_the_run() -> None:
    watch = EventWatch(RunSoFar(), None)
    news(watch, PLAN)
    assert news(watch, PLAN, paused=True, reached=7) == [(7, "paused", "by an operator")]
    assert news(watch, PLAN, paused=True, reached=8) == []
    assert news(watch, PLAN, paused=False, reached=8) == [(8, "resumed", "by an operator")]


def test_pause_after_a_poison_alarm_is_not_an_operators() -> None:
    watch = EventWatch(RunSoFar(), None)
    watch.news(PLAN, False, 0)
    (event,) = watch.news(PLAN, True, 7, "after a poison alarm")
    assert (event.kind, event.text) == ("paused", "after a poison alarm")


def test_poison_alarm_names_the_member_the_round_and_who_reports_it() -> None:
    event = poison_alarm("n0", Accusation("n2", 0, 7, "its message is 9 times as long as expected"))
    assert (event.round, event.kind) == (7, "poison alarm")
    assert event.text == "n2: its message is 9 times as long as expected (reported by n0)"
    assert poison_alarm("n0", Accusation("", 0, 7, "the score fell")).text == "the score fell (reported by n0)"


def test_restarted_controller_records_what_the_last_one_could_not() -> None:
    plan = extended(extended(PLAN, 10, members=(N0, N1), evictions=(("n2", 8),)), 20, end=20)
    watch = EventWatch(RunSoFar(round=12, record=1, paused=True), term=3)
    assert news(watch, plan, paused=False, reached=12) == [
        (12, "controller restarted", "term 3"), (20, "stopping", "before round 20"), (12, "resumed", "by an operator"),
    ]  # fmt: skip
    assert news(watch, plan) == []


def test_long_lists_and_names_are_cut() -> None:
    members = [Member(f"{i:02d}" + "x" * 100) for i in range(20)]
    ((_, _, text),) = news(EventWatch(RunSoFar(), None), create_plan("home", members, PLAN.latest.schedule))
    assert text.startswith("00xxxx")
    assert text.endswith("x… and 12 more")
    assert len(text) < 700


@pytest.mark.parametrize(
    ("states", "outcome"), [("DONE STOPPED", "done"), ("STOPPED STOPPED", "stopped"), ("DONE DONE", "done")]
)
def test_run_that_a_node_left_is_done_where_the_others_did_all_rounds(states: str, outcome: str) -> None:
    views = tuple(NodeView(f"n{i}", status=NodeStatus(NodeState[name])) for i, name in enumerate(states.split()))
    assert outcome_of(ClusterStatus("home", nodes=views), ended_well=True) == outcome


def test_end_of_a_run_is_an_event_with_its_reason() -> None:
    nodes = (NodeView("n0", status=NodeStatus(NodeState.FAILED, round=9, error="disk on fire " * 100)),)
    events = [ending(outcome, ClusterStatus("home", nodes=nodes)) for outcome in ("done", "stopped", "failed")]
    assert [(e.round, e.kind) for e in events] == [(9, "finished"), (9, "stopped"), (9, "failed")]
    assert events[2].text.startswith("n0: disk on fire disk")
    assert len(events[2].text) == 1004
    assert ending("failed", ClusterStatus("home")).text == "not all nodes completed the run"
