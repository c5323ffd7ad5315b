"""A reply in words and as JSON: the round, or what the change waits for, and what is used in place of what."""

from __future__ import annotations

from dataclasses import replace

from edgenode.core.protocol.events import Reply
from edgenode.core.topology.graph import GraphSpec
from edgenode.observability.reply_words import TO_RESUME, evicted, rotated, rotated_json, stopped

B = (GraphSpec("b"),)
QUEUED = Reply(1, None, waits_for="the change of round 120", earliest=126, replaces="graph c")
NOTE = "graph a is used instead of mine: mine has no edge of n9"


def test_decided_change_names_its_round() -> None:
    assert rotated((*B, GraphSpec("c")), Reply(1, 42)) == "graph b+c takes effect at round 42 at every node"
    assert stopped(Reply(1, 42)).splitlines() == ["every node stops before round 42", TO_RESUME]
    first, second = evicted("n1", Reply(1, 42)).splitlines()
    assert first == "the run continues without n1 from round 42"
    assert (
        second == "If n1 still runs or starts again, it rejoins if nodes can join. To keep it out: edgenode revoke n1"
    )


def test_queued_change_names_what_it_waits_for_and_replaces() -> None:
    assert rotated(B, QUEUED) == (
        "Queued: graph b takes effect after the change of round 120, at round 126 at the earliest.\n"
        "It replaces graph c, which was queued."
    )
    assert stopped(QUEUED) == "Queued: every node stops after the change of round 120, at round 126 at the earliest."


def test_substitute_is_named_with_its_reason() -> None:
    reply = Reply(1, 42, difference=NOTE)
    assert evicted("n1", reply).splitlines()[1] == f"G{NOTE[1:]}."
    assert rotated(B, reply).splitlines()[1] == f"G{NOTE[1:]}."


def test_json_carries_the_same_facts() -> None:
    assert rotated_json(B, QUEUED) == {
        "graph": "b", "round": None, "queued": True, "waits_for": "the change of round 120", "earliest_round": 126,
        "replaces": "graph c", "difference": None, "held_by": None,
    }  # fmt: skip
    assert rotated_json(B, replace(QUEUED, held_by="n0 cannot reach n1"))["held_by"] == "n0 cannot reach n1"
    assert rotated_json(B, Reply(1, 42, difference=NOTE))["difference"] == NOTE
