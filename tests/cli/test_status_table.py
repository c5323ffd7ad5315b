"""A status as tables, as JSON and in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from edgenode.cli.fitted_table import stdout
from edgenode.cli.status_table import nodes_table, status_table, title, watch_table
from edgenode.cli.topology import _plan
from edgenode.cli.watch import Screen
from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import ClusterStatus, Fault, NodeState, NodeStatus, NodeView, PendingChange
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import ConfigError
from edgenode.observability.status_view import cluster_json, duration, next_switch, size

A, B, EVERYONE = GraphSpec("a"), GraphSpec("b"), GraphSpec("complete")


def a_plan(nodes: int = 4, **schedule: object) -> Plan:
    return create_plan("home", [Member(f"n{i}") for i in range(nodes)], Schedule((A, B), every=10, **schedule))  # type: ignore[arg-type]


def a_straggler(*others: str, connected: bool = True, state: NodeState = NodeState.RUNNING) -> NodeView:
    return replace(a_node(connected=connected, state=state), holds_up=others, holds_up_s=12)


def a_node(name: str = "n0", connected: bool = True, **report: Any) -> NodeView:
    return NodeView(name, "10.0.0.1:7600", connected, last_seen_s=7.25, status=NodeStatus(**report))


def a_status(*nodes: NodeView, plan: Plan | None = None) -> ClusterStatus:
    leadership = Leadership(term=3, nonce="beef", address="10.0.0.5:7700")
    return ClusterStatus("home", missing=2, plan=plan, nodes=nodes, leadership=leadership)


def printed(status: ClusterStatus) -> str:
    return shown(status_table(status))


def shown(picture: RenderableType, width: int = 140) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


# --- titles


def test_title_before_the_start_counts_the_missing_nodes() -> None:
    assert title(a_status()) == "home: waiting for 2 more nodes"


def test_one_missing_node_is_singular() -> None:
    assert title(replace(a_status(), missing=1)) == "home: waiting for 1 more node"
    with pytest.raises(ConfigError, match="it waits for 1 more node;"):
        _plan(replace(a_status(), missing=1))


def test_title_names_graph_edges_and_next_switch() -> None:
    nodes = [a_node("n0", round=12), a_node("n1", round=9)]
    assert title(a_status(*nodes, plan=a_plan())) == (
        "home: graph a (n0→n1  n1→n2  n2→n3  n3→n0), then b from round 10"
    )


def test_title_names_no_switch_to_the_graph_that_is_in_use() -> None:
    plan = create_plan("home", [Member(f"n{i}") for i in range(4)], Schedule((A,), every=1))
    changed = plan.extend(plan.successor(7, schedule=Schedule((A,), every=1, origin=7)))
    assert title(a_status(a_node(round=3), plan=changed)) == "home: graph a (n0→n1  n1→n2  n2→n3  n3→n0)"


def test_title_estimates_the_time_that_is_left() -> None:
    status = a_status(a_node("n0", round=12), plan=a_plan(last=EVERYONE, last_from=12))
    assert title(replace(status, time_left_s=754.4)).endswith("(12 edges), about 12 min 34 s left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.6, "1 min 00 s"),
        (754, "12 min 34 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86_399, "1 d 00 h"),
        (200_000, "2 d 08 h"),
    ],
)
def test_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_bytes_of_departed_nodes_stay_in_the_sum() -> None:
    status = a_status(a_node(accuracy=0.5, payload_bytes=2_000, dense_bytes=6_000), plan=a_plan())
    status = replace(status, departed_payload_bytes=1_000, departed_dense_bytes=3_000)
    assert "3.0 kB (uncompressed 9.0 kB, 3 times as much)" in shown(Screen().render(status))
    assert (cluster_json(status)["payload_bytes"], cluster_json(status)["dense_bytes"]) == (3_000, 9_000)


def test_title_names_the_switch_of_a_record_that_is_not_in_force_yet() -> None:
    plan = a_plan().extend(a_plan().successor(15, schedule=Schedule((EVERYONE,), every=1, origin=15)))
    assert title(a_status(a_node(round=12), plan=plan)).endswith("then complete from round 15")


def test_status_shows_what_was_requested_and_what_waits() -> None:
    status = replace(
        a_status(a_node(round=9), plan=a_plan()),
        requested="mine",
        difference="graph a is used instead of mine: mine has no edge of n9",
        pending=(PendingChange("graph b", "the run resumes", 12), PendingChange("n7 leaves", "the answer of n0", 12)),
    )
    for text in (printed(status), shown(Screen().render(status))):
        assert "Requested: graph mine. Graph a is used instead of mine: mine has no edge of n9." in text
        assert "Pending: graph b, after the run resumes." in text
        assert "Pending: n7 leaves, after the answer of n0." in text
    view = cluster_json(status)
    assert (view["requested"], view["difference"]) == ("mine", status.difference)
    assert view["pending"][0] == {"change": "graph b", "waits_for": "the run resumes", "earliest_round": 12}
    plain = cluster_json(a_status())
    assert (plain["requested"], plain["difference"], plain["pending"]) == (None, None, [])


def test_last_graph_has_no_next_and_many_edges_are_counted() -> None:
    plan = a_plan(last=EVERYONE, last_from=30)
    assert title(a_status(a_node(round=29), plan=plan)).endswith("then complete from round 30")
    assert title(a_status(a_node(round=30), plan=plan)) == "home: graph complete (12 edges)"


def test_caption_names_the_controller_and_its_term() -> None:
    assert printed(a_status()).splitlines()[-1].strip() == "controller 10.0.0.5:7700, term 3"


# --- rows


@pytest.mark.parametrize(
    ("node", "state"),
    [
        (a_node(), "joining"),
        (a_node(state=NodeState.RUNNING), "running"),
        (a_node(state=NodeState.RUNNING, waiting_for=("n1",), waiting_s=0.5), "running"),
        (
            a_node(state=NodeState.RUNNING, waiting_for=("n1", "n3"), waiting_s=12),
            "waits for n1, n3 (12 s)",
        ),
        (a_straggler("n1", "n3"), "holds up n1, n3 (12 s)"),
        (a_straggler(), "holds up others (12 s)"),
        (a_straggler("n1", connected=False), "not seen for 7 s"),
        (a_straggler("n1", state=NodeState.DONE), "done"),
        (a_node(connected=False, state=NodeState.RUNNING), "not seen for 7 s"),
        (a_node(connected=False, state=NodeState.DONE), "done"),
        (a_node(connected=False, state=NodeState.STOPPED), "stopped"),
        (a_node(connected=False, state=NodeState.FAILED, error="disk on fire"), "failed: disk on fire"),
    ],
)
def test_row_ends_with_the_state_of_its_node(node: NodeView, state: str) -> None:
    row = next(line for line in printed(a_status(node)).splitlines() if "n0" in line)
    assert row.rstrip(" │").endswith(state)


def test_row_shows_a_dash_for_unknown_values() -> None:
    known = a_node(round=5, rounds=120, loss=0.12345, accuracy=0.877, payload_bytes=1_234, dense_bytes=5_600_000)
    rows = [row for row in printed(a_status(known, a_node("n1"))).splitlines() if "│" in row]
    first, second = ([cell.strip() for cell in row.split("│")[1:-1]] for row in rows)
    assert first == ["n0", "5/120", "0.123", "87.7%", "1.2 kB", "5.6 MB", "joining"]
    assert second == ["n1", "-", "-", "-", "0 B", "0 B", "joining"]


def test_markup_in_a_name_is_printed_verbatim() -> None:
    assert "[red]" in printed(a_status(a_node("[red]", state=NodeState.FAILED, error="[/]")))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (1_550, "1.6 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1_000_000, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (3_000_000_000_000, "3.0 TB"),
    ],
)
def test_size_uses_decimal_units(count: int, text: str) -> None:
    assert size(count) == text


# --- JSON


def test_json_has_null_for_unknown_values() -> None:
    status = json.loads(json.dumps(cluster_json(a_status(a_node(round=5, loss=0.5), plan=a_plan()))))
    (node,) = status["nodes"]
    assert (status["cluster"], status["missing"], status["record"]["number"]) == ("home", 2, 0)
    assert (node["node"], node["round"], node["loss"], node["accuracy"]) == ("n0", 5, 0.5, None)
    assert (node["state"], node["connected"], node["last_seen_s"]) == ("unspecified", True, 7.25)
    assert (node["holds_up"], node["holds_up_s"]) == ([], 0)
    assert (status["controller"], status["term"]) == ("10.0.0.5:7700", 3)
    (node,) = cluster_json(a_status(a_straggler("n1")))["nodes"]
    assert (node["holds_up"], node["holds_up_s"]) == (["n1"], 12)
    bare = cluster_json(a_status())
    assert (bare["record"], bare["graph"], bare["next"], bare["consensus_distance"]) == (None,) * 4


def test_json_names_who_refused_what_from_whom() -> None:
    nodes = [a_node(faults=(Fault("n1", "push", 9),)), a_node("n1", faults=(Fault("n1", "report", 2),))]
    assert cluster_json(a_status(*nodes))["faults"] == [
        {"node": "n0", "peer": "n1", "kind": "push", "count": 9},
        {"node": "controller", "peer": "n1", "kind": "report", "count": 2},
    ]
    assert "refused from n1: 9 × push, 2 × report by controller, n0" in printed(a_status(*nodes))


def test_json_names_the_current_graph_and_the_next() -> None:
    status = cluster_json(a_status(a_node(round=5), a_node("n1", round=12), plan=a_plan(2)))
    assert status["graph"] == {"name": "a", "edges": [["n0", "n1"], ["n1", "n0"]]}
    coming = {"round": 10, "graph": "b", "edges": [["n0", "n1"], ["n1", "n0"]]}
    assert (status["round"], status["next"]) == (5, coming)


# --- topology show


def test_next_switch_is_of_the_schedule_or_a_later_record() -> None:
    plan = a_plan()
    assert next_switch(plan, 3) == {"round": 10, "graph": "b"}
    changed = plan.extend(plan.successor(7, schedule=Schedule((EVERYONE,), every=1, origin=7)))
    assert next_switch(changed, 3) == {"round": 7, "graph": "complete"}
    assert next_switch(changed, 7) is None


def test_round_of_a_cluster_is_that_of_its_slowest_node() -> None:
    nodes = [a_node(round=9), a_node("n1", round=4), a_node("newcomer")]
    assert _plan(a_status(*nodes, plan=a_plan())) == (a_plan(), 4)


def test_run_that_has_not_started_has_no_graph_to_show() -> None:
    with pytest.raises(ConfigError, match="it waits for 2 more nodes"):
        _plan(a_status())


def test_node_that_cannot_save_says_so_until_it_has_ended() -> None:
    trouble: dict[str, Any] = {"save_error": "no [red]space[/] left", "save_error_s": 125.0}
    status = a_status(a_node(state=NodeState.RUNNING, **trouble), plan=a_plan())
    for picture in (status_table(status), Screen().render(status)):
        text = shown(picture)
        assert "running, cannot save" in text and "n0 cannot save for 2 min 05 s: no [red]space[/] left" in text
    (node,) = cluster_json(status)["nodes"]
    assert (node["save_error"], node["save_error_s"]) == ("no [red]space[/] left", 125.0)
    for state in (NodeState.DONE, NodeState.FAILED):
        assert "cannot save" not in printed(a_status(a_node(state=state, **trouble), plan=a_plan()))


# --- watch and nodes


def test_watch_shows_graph_nodes_and_curves() -> None:
    screen = Screen()
    before = shown(screen.render(a_status(a_node())))
    assert "waiting for 2 more nodes" in before
    nodes = [
        a_node(f"n{i}", round=7, rounds=50, round_s=0.25, accuracy=0.5, u=1.0, payload_bytes=2_000, received_bytes=900,
               dense_bytes=60_000, state=NodeState.RUNNING)
        for i in range(4)
    ]  # fmt: skip
    status = a_status(*nodes, plan=a_plan())
    status = replace(status, consensus_distance=1.5, consensus_round=6, paused=True)
    text = shown(screen.render(status))
    assert "home (paused): graph a (n0→n1  n1→n2  n2→n3  n3→n0), then b from round 10" in text
    for word in (" n0 ", "7/50", "0.25", "50.0%", "1.000", "2.0 kB", "900 B", "running"):
        assert word in text
    assert "8.0 kB (uncompressed 240.0 kB, 30 times as much)" in text
    assert "models apart   1.5 (round 6)" in text
    assert any(head in text for head in "→↘↓↙←↖↑↗")
    last = replace(status, nodes=tuple(replace(n, status=replace(n.status, accuracy=0.75)) for n in nodes))
    text = shown(screen.render(last))  # at once, as at the end of a run
    assert "mean accuracy  ▁ 75.0%" in text


def test_nodes_are_listed_with_address_and_last_report() -> None:
    text = shown(nodes_table(a_status(a_node(round=3), a_node("n1", connected=False, state=NodeState.PAUSED))))
    assert "10.0.0.1:7600" in text
    assert "7.2 s ago" in text
    assert "lost, 7 s ago" in text
    assert "paused" in text


def test_nodes_are_listed_with_memory_and_energy() -> None:
    measured = a_node(peak_memory_bytes=387_000_000, joules_per_round=1.234, power_sensor="RAPL package-0")
    text = shown(nodes_table(a_status(measured, a_node("n1", power_sensor="no sensor"))))
    assert "387.0 MB" in text
    assert "1.23 J" in text
    assert "no sensor" in text


def below(status: ClusterStatus) -> list[str]:
    """The lines below the table."""
    return printed(status).rpartition("┘\n")[2].splitlines()


def test_page_that_the_network_can_open_is_named_alone() -> None:
    assert below(a_status(a_node())) == ["controller 10.0.0.5:7700, term 3"]
    served = replace(a_status(a_node()), page="http://10.0.0.5:8080")
    assert below(served) == ["controller 10.0.0.5:7700, term 3", "page http://10.0.0.5:8080"]


def test_page_on_loopback_says_how_to_open_it_from_here() -> None:
    served = replace(a_status(a_node()), page="http://127.0.0.1:8080")
    assert below(served)[1:] == [
        "page http://127.0.0.1:8080 on 10.0.0.5 only",
        "from here: ssh -L 8080:127.0.0.1:8080 10.0.0.5, or start the controller with --http 0.0.0.0:8080",
    ]


def test_page_on_loopback_of_this_machine_needs_no_more() -> None:
    here = replace(a_status(a_node()), page="http://127.0.0.1:8080", leadership=Leadership(0, "", "127.0.0.1:7700"))
    assert below(here)[1:] == ["page http://127.0.0.1:8080"]


# --- narrow terminals


def a_busy_node() -> NodeView:
    waits = {"waiting_for": ("living-room-pi",), "waiting_s": 12.0, "round": 1000, "rounds": 1002}
    known = {"loss": 0.5, "accuracy": 0.9, "round_s": 1.5, "peak_memory_bytes": 387_000_000}
    node = a_node("kitchen-pi", state=NodeState.RUNNING, power_sensor="INA3221 VDD_IN", **waits, **known)
    return replace(node, address="192.168.178.104:7600", last_seen_s=1234.5)


@pytest.mark.parametrize(
    ("table", "whole", "hidden"),
    [
        (status_table, ("1000/1002", "90.0%", "waits for living-room-pi"), "no room for: sent, uncompressed"),
        (
            watch_table,
            ("1000/1002", "90.0%", "waits for living-room-pi"),
            "no room for: s/round, u, received, holds up, seen",
        ),
        (
            nodes_table,
            ("192.168.178.104:7600", "running", "1234.5 s ago"),
            "no room for: peak memory, energy",
        ),
    ],
    ids=["status", "watch", "nodes"],
)
def test_narrow_terminal_loses_whole_columns(
    table: Callable[[ClusterStatus], RenderableType], whole: tuple[str, ...], hidden: str
) -> None:
    text = shown(table(a_status(a_busy_node())), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for cell in ("kitchen-pi", *whole):
        assert cell in text
    assert hidden in text
    assert "no room for" not in shown(table(a_status(a_busy_node())), width=160)


@pytest.mark.parametrize("table", [status_table, watch_table, nodes_table])
def test_narrowest_terminal_wraps_what_every_row_needs(table: Callable[[ClusterStatus], RenderableType]) -> None:
    text = shown(table(a_status(a_busy_node())), width=30)
    assert "…" not in text


def test_table_in_a_pipe_has_every_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    stdout().print(nodes_table(a_status(a_busy_node())))
    assert "energy per round" in capsys.readouterr().out


def test_markup_in_a_name_is_verbatim_in_the_watch_table() -> None:
    assert "[red]n" in shown(watch_table(a_status(a_node("[red]n"))))
