"""Which nodes may be dead and which are slow, decided from constructed reports."""

from __future__ import annotations

import pytest

from edgenode.controller.liveness import (
    LastReport,
    Straggling,
    are_delayed,
    holding_up,
    lasting,
    most_blocked,
    suspects,
    too_slow,
    update_straggling,
)
from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.status import LinkView

LIMIT_S = 10.0
STUCK = LastReport(0.1, ("dead",), LIMIT_S / 2)
DEAD = LastReport(LIMIT_S)


# --- silent nodes


def test_silent_node_with_two_stuck_nodes_is_suspected() -> None:
    further = LastReport(0.1, ("n1",), LIMIT_S / 2)
    assert suspects({"dead": DEAD, "n1": STUCK, "n2": further, "n3": LastReport(0.1)}, 4, LIMIT_S) == ["dead"]


@pytest.mark.parametrize(
    ("dead", "n1", "n2"),
    [
        (LastReport(LIMIT_S - 0.1), STUCK, STUCK),
        (LastReport(LIMIT_S, ended=True), LastReport(0.1), LastReport(0.1)),
        (DEAD, LastReport(0.1, ("n2",), LIMIT_S), LastReport(0.1, ("n1",), LIMIT_S)),
        (DEAD, STUCK, LastReport(0.1, ("dead",), LIMIT_S / 2 - 0.1)),
        (DEAD, STUCK, LastReport(0.1)),
        (DEAD, STUCK, LastReport(LIMIT_S, ("dead",), LIMIT_S)),
    ],
    ids=[
        "not silent for long enough", "ended, and no node needs it", "no node waits for it",
        "the second does not wait for long enough",
        "the second makes progress", "the second is silent itself",
    ],
)  # fmt: skip
def test_node_is_not_suspected_without_silence_and_two_stuck(dead: LastReport, n1: LastReport, n2: LastReport) -> None:
    nodes = {"dead": dead, "n1": n1, "n2": n2, "n3": LastReport(0.1)}
    assert "dead" not in suspects(nodes, 4, LIMIT_S)


def test_ended_node_that_owes_an_answer_needs_one_stuck_node() -> None:
    nodes = {"dead": LastReport(LIMIT_S, ended=True), "n1": STUCK, "n2": LastReport(0.1), "n3": LastReport(0.1)}
    assert suspects(nodes, 4, LIMIT_S) == ["dead"]


def test_silent_node_that_a_fence_awaits_is_suspected() -> None:
    nodes = {"dead": DEAD, "n1": LastReport(0.1), "n2": LastReport(0.1), "n3": LastReport(0.1)}
    assert suspects(nodes, 4, LIMIT_S, frozenset({"dead", "n1"})) == ["dead"]


def test_one_stuck_node_is_enough_below_four_members() -> None:
    nodes = {"dead": DEAD, "n1": STUCK, "n2": LastReport(0.1)}
    assert suspects(nodes, 4, LIMIT_S) == []
    assert suspects(nodes, 3, LIMIT_S) == ["dead"]
    assert suspects({"dead": LastReport(LIMIT_S, ("dead",), LIMIT_S)}, 1, LIMIT_S) == []


# --- slow nodes


def test_node_holds_up_others_if_it_waits_for_no_node() -> None:
    ring = {
        "n0": LastReport(0.1),
        "n1": LastReport(0.1, ("n0",)),
        "n2": LastReport(0.1, ("n1",)),
        "n3": LastReport(0.1, ("n2", "n0")),
    }
    assert holding_up(ring) == {"n0": ("n1", "n3")}


def test_node_holds_nobody_up_on_the_word_of_one() -> None:
    """On a busy machine another honest node waits at almost any time, but for no single one."""
    liar, free = LastReport(0.1, ("n0", "n1", "n2"), 1e6), LastReport(0.1)
    assert holding_up({"n0": free, "n1": LastReport(0.1, ("n2",)), "n2": free, "n3": liar}) == {"n2": ("n1", "n3")}
    assert holding_up({"n0": free, "n1": free, "n2": free, "n3": liar}) == {}
    assert holding_up({"n0": free, "n1": free, "n3": liar}) == {"n0": ("n3",), "n1": ("n3",)}
    ring = {"n0": free, "n1": LastReport(0.1, ("n0",)), "n2": LastReport(0.1, ("n1",)), "n3": free}
    assert holding_up(ring) == {"n0": ("n1",)}


def test_waiting_ended_and_unknown_nodes_hold_up_no_node() -> None:
    assert holding_up({"n0": LastReport(0.1, ("n1",)), "n1": LastReport(0.1, ("n0",))}) == {}
    assert holding_up({"n0": LastReport(0.1, ("n1", "n9")), "n1": LastReport(0.1, ended=True)}) == {}


def test_node_that_claims_to_wait_holds_up_those_who_wait_for_it_alone() -> None:
    honest = {"n0": LastReport(0.1, ("n3",)), "n1": LastReport(0.1, ("n3",)), "n2": LastReport(0.1, ("n0", "n3"))}
    liar = LastReport(0.1, ("n0",))
    assert holding_up({**honest, "n3": liar}) == {"n3": ("n0", "n1", "n2")}
    assert holding_up({**honest, "n1": LastReport(0.1, ("n2", "n3")), "n3": liar}) == {}
    ring = {f"n{i}": LastReport(0.1, (f"n{(i - 1) % 3}",)) for i in range(3)}
    assert holding_up(ring) == {}  # all wait for what is on its way


def test_old_report_does_not_count_as_waiting() -> None:
    assert holding_up({"n0": LastReport(5, ("n1",)), "n1": LastReport(0.1, ("n0",))}) == {"n0": ("n1",)}


def test_waits_of_one_member_of_four_delay_nobody() -> None:
    liar, free, ended = LastReport(0.1, ("n0", "n1", "n2"), 1e6), LastReport(0.1), LastReport(0.1, ended=True)
    assert not are_delayed({"n0": free, "n1": free, "n2": free, "n3": liar})
    assert are_delayed({"n0": free, "n1": LastReport(0.1, ("n0",)), "n2": free, "n3": liar})
    assert not are_delayed({"n0": free, "n1": LastReport(5, ("n0",)), "n2": free, "n3": liar})
    assert are_delayed({"n0": free, "n1": ended, "n2": free, "n3": liar})
    assert not are_delayed({"n0": free, "n1": free})


def after(pattern: str, step_s: float = 0.5) -> Straggling | None:
    """The average of n0 after steps in which it held others up (x) or did not (.)."""
    known: dict[str, Straggling] = {}
    for step in pattern:
        known = update_straggling(known, ["n0"] if step == "x" else [], step_s)
    return known.get("n0")


def test_straggling_time_includes_the_time_until_detection() -> None:
    assert [bool(after("x" * n) and after("x" * n).straggling_s) for n in (6, 7)] == [False, True]  # type: ignore[union-attr]
    now = after("x" * 27)
    assert now is not None
    assert now.straggling_s == pytest.approx(27 * 0.5, abs=0.5)


def test_only_a_share_above_one_half_counts_as_straggling() -> None:
    mostly, balanced = after("xxxxxxxxx." * 12), after("x...." * 24)
    assert mostly is not None
    assert mostly.straggling_s == pytest.approx(60, abs=3)
    assert balanced is not None
    assert balanced.straggling_s == 0


def test_node_that_recovers_is_cleared_and_later_dropped() -> None:
    cleared = after("x" * 100 + "." * 8)
    assert cleared is not None
    assert cleared.straggling_s == 0
    assert after("x" * 100 + "." * 40) is None


def test_too_slow_nodes_report_and_straggle_up_to_the_limit() -> None:
    slow = {n: Straggling(1, s) for n, s in (("n0", LIMIT_S), ("n1", LIMIT_S - 1), ("dead", LIMIT_S), ("n9", LIMIT_S))}
    assert too_slow({"n0": LastReport(0.1), "n1": LastReport(0.1), "dead": LastReport(LIMIT_S)}, slow, LIMIT_S) == [
        "n0"
    ]


def link(sender: str, receiver: str, blocked_s: float, by: str = "", left_out: bool = False) -> LinkView:
    return LinkView(sender, BlockedLink(receiver, 0, f"{receiver}:1", "no answer", blocked_s, by), left_out)


def test_relayed_link_is_avoided_once_it_has_lasted() -> None:
    reports = {"a": LastReport(0.1), "b": LastReport(0.1)}
    assert lasting([link("a", "b", 9.9, by="c")], reports, 10) == (frozenset(), frozenset())
    assert lasting([link("a", "b", 10.0, by="c")], reports, 10) == (frozenset({("a", "b")}), frozenset())


def test_link_to_a_silent_node_is_a_matter_of_the_silence() -> None:
    reports = {"a": LastReport(0.1, ("b",), 20.0), "b": LastReport(10.0)}
    assert lasting([link("a", "b", 20.0)], reports, 10) == (frozenset(), frozenset())


def test_link_without_a_relay_stops_the_run_if_somebody_waits() -> None:
    idle = {"a": LastReport(0.1), "b": LastReport(0.1)}
    assert lasting([link("a", "b", 20.0)], idle, 10)[1] == frozenset()
    claims = {**idle, "a": LastReport(0.1, ("b",), 20.0)}  # which costs its receiver nothing
    assert lasting([link("a", "b", 20.0)], claims, 10)[1] == frozenset()
    waits = {**idle, "b": LastReport(0.1, ("a",), 20.0)}
    assert lasting([link("a", "b", 20.0)], waits, 10) == (frozenset(), frozenset({("a", "b")}))
    assert lasting([link("a", "b", 20.0, left_out=True)], waits, 10)[1] == frozenset()


def test_node_with_most_broken_links_is_the_one_to_go() -> None:
    assert most_blocked([]) == ""
    assert most_blocked([("a", "b")]) == "b"
    assert most_blocked([("a", "b"), ("a", "c")]) == "a"
    assert most_blocked([("a", "b"), ("c", "b"), ("b", "d")]) == "b"


def test_link_between_two_that_are_reached_evicts_neither() -> None:
    assert most_blocked([("liar", "a")], {"a"}) == ""
    assert most_blocked([("liar", "a"), ("a", "liar")], {"a", "liar"}) == ""  # a liar that takes nothing of a either
    assert most_blocked([("liar", "a"), ("liar", "b")], {"a", "b"}) == "liar"
    assert most_blocked([("a", "liar"), ("b", "liar")], {"liar"}) == "liar"
    assert most_blocked([("a", "b"), ("b", "a")], {"a"}) == "b"
