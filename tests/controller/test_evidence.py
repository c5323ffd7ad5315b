"""Who is dead and who is slow, decided on made-up reports."""

from __future__ import annotations

import pytest

from edgenode.controller.evidence import NodeEvidence, Straggling, holding_up, silent, straggling, too_slow
from edgenode.node.progress import RoundTimer, StallReporter

LIMIT_S = 10.0
STUCK = NodeEvidence(0.1, ("dead",), LIMIT_S / 2)
DEAD = NodeEvidence(LIMIT_S)


# --- the silent


def test_who_is_silent_waited_for_and_stops_two_others_may_be_dead() -> None:
    further = NodeEvidence(0.1, ("n1",), LIMIT_S / 2)
    assert silent({"dead": DEAD, "n1": STUCK, "n2": further, "n3": NodeEvidence(0.1)}, 4, LIMIT_S) == ["dead"]


@pytest.mark.parametrize(
    ("dead", "n1", "n2"),
    [
        (NodeEvidence(LIMIT_S - 0.1), STUCK, STUCK),
        (NodeEvidence(LIMIT_S, ended=True), NodeEvidence(0.1), NodeEvidence(0.1)),
        (DEAD, NodeEvidence(0.1, ("n2",), LIMIT_S), NodeEvidence(0.1, ("n1",), LIMIT_S)),
        (DEAD, STUCK, NodeEvidence(0.1, ("dead",), LIMIT_S / 2 - 0.1)),
        (DEAD, STUCK, NodeEvidence(0.1)),
        (DEAD, STUCK, NodeEvidence(LIMIT_S, ("dead",), LIMIT_S)),
    ],
    ids=[
        "not silent for long enough", "it has ended, unmissed", "nobody waits for it",
        "the second does not wait for long enough",
        "the second goes on", "the second is silent itself",
    ],
)  # fmt: skip
def test_without_silence_and_two_witnesses_nobody_is_dead(
    dead: NodeEvidence, n1: NodeEvidence, n2: NodeEvidence
) -> None:
    nodes = {"dead": dead, "n1": n1, "n2": n2, "n3": NodeEvidence(0.1)}
    assert "dead" not in silent(nodes, 4, LIMIT_S)


def test_one_that_has_ended_and_left_another_without_an_answer_needs_no_second_witness() -> None:
    nodes = {"dead": NodeEvidence(LIMIT_S, ended=True), "n1": STUCK, "n2": NodeEvidence(0.1), "n3": NodeEvidence(0.1)}
    assert silent(nodes, 4, LIMIT_S) == ["dead"]


def test_whoever_a_fence_waits_for_is_waited_for_by_all() -> None:
    nodes = {"dead": DEAD, "n1": NodeEvidence(0.1), "n2": NodeEvidence(0.1), "n3": NodeEvidence(0.1)}
    assert silent(nodes, 4, LIMIT_S, frozenset({"dead", "n1"})) == ["dead"]


def test_in_a_run_of_less_than_four_one_witness_has_to_do() -> None:
    nodes = {"dead": DEAD, "n1": STUCK, "n2": NodeEvidence(0.1)}
    assert silent(nodes, 4, LIMIT_S) == []
    assert silent(nodes, 3, LIMIT_S) == ["dead"]
    assert silent({"dead": NodeEvidence(LIMIT_S, ("dead",), LIMIT_S)}, 1, LIMIT_S) == []


# --- a standstill


def test_a_standstill_is_said_every_so_often_until_the_round_or_what_holds_up_is_over() -> None:
    standstill = StallReporter(every_s=30)
    said = [standstill.due(at, 7, held_up=True) for at in (100, 129, 130, 131, 160)]
    assert said == [None, None, 30, None, 60]
    assert [standstill.due(at, 8, held_up=True) for at in (190, 219, 220)] == [None, None, 30]
    assert standstill.due(260, 8, held_up=False) is None
    assert [standstill.due(at, 8, held_up=True) for at in (289, 290)] == [None, 30]


# --- the slow


def test_the_straggler_is_whom_others_wait_for_while_it_waits_for_nobody() -> None:
    ring = {
        "n0": NodeEvidence(0.1),
        "n1": NodeEvidence(0.1, ("n0",)),
        "n2": NodeEvidence(0.1, ("n1",)),
        "n3": NodeEvidence(0.1, ("n2", "n0")),
    }
    assert holding_up(ring) == {"n0": ("n1", "n3")}


def test_nobody_holds_up_who_only_wait_for_each_other_or_for_one_who_has_ended_or_is_unknown() -> None:
    assert holding_up({"n0": NodeEvidence(0.1, ("n1",)), "n1": NodeEvidence(0.1, ("n0",))}) == {}
    assert holding_up({"n0": NodeEvidence(0.1, ("n1", "n9")), "n1": NodeEvidence(0.1, ended=True)}) == {}


def test_what_an_old_report_says_of_waiting_is_forgotten() -> None:
    assert holding_up({"n0": NodeEvidence(5, ("n1",)), "n1": NodeEvidence(0.1, ("n0",))}) == {"n0": ("n1",)}


def looked(pattern: str, step_s: float = 0.5) -> Straggling | None:
    """What is known of n0 after looks at which it held others up (x) or did not (.)."""
    known: dict[str, Straggling] = {}
    for look in pattern:
        known = straggling(known, ["n0"] if look == "x" else [], step_s)
    return known.get("n0")


def test_who_stops_the_others_is_noticed_after_some_seconds_and_counted_from_the_beginning() -> None:
    assert [bool(looked("x" * n) and looked("x" * n).straggling_s) for n in (6, 7)] == [False, True]  # type: ignore[union-attr]
    now = looked("x" * 27)
    assert now is not None
    assert now.straggling_s == pytest.approx(27 * 0.5, abs=0.5)


def test_who_holds_up_most_of_the_time_counts_and_who_does_so_now_and_then_does_not() -> None:
    mostly, balanced = looked("xxxxxxxxx." * 12), looked("x...." * 24)
    assert mostly is not None
    assert mostly.straggling_s == pytest.approx(60, abs=3)
    assert balanced is not None
    assert balanced.straggling_s == 0


def test_who_does_so_no_more_is_cleared_and_then_forgotten() -> None:
    cleared = looked("x" * 100 + "." * 8)
    assert cleared is not None
    assert cleared.straggling_s == 0
    assert looked("x" * 100 + "." * 40) is None


def test_too_slow_is_who_answers_and_has_held_up_for_the_limit() -> None:
    slow = {
        n: Straggling(1, s) for n, s in (("n0", LIMIT_S), ("n1", LIMIT_S - 1), ("dead", LIMIT_S), ("gone", LIMIT_S))
    }
    assert too_slow(
        {"n0": NodeEvidence(0.1), "n1": NodeEvidence(0.1), "dead": NodeEvidence(LIMIT_S)}, slow, LIMIT_S
    ) == ["n0"]


# --- the pace


def test_the_pace_is_what_a_round_takes_lately_without_pauses() -> None:
    pace = RoundTimer()
    pace.round_ended(10)
    assert pace.round_s == 0
    pace.round_ended(12)
    assert pace.round_s == 2
    pace.interrupt()
    pace.round_ended(1000)
    assert pace.round_s == 2
    for end in range(1001, 1101):
        pace.round_ended(end)
    assert pace.round_s == pytest.approx(1, abs=0.01)
