"""A cluster's status as tables for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from edgenode.addresses import split_address
from edgenode.cli.fitted_table import Column, FittedTable
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.core.wording import counted
from edgenode.net.interfaces import is_this_machine
from edgenode.observability.status_view import (
    duration,
    faults_lines,
    next_switch,
    node_json,
    page_from_elsewhere,
    requests_json,
    requests_lines,
    saving_lines,
    size,
)

_SHOWN_FROM_S = 1.0  # shorter waits are part of every round
_MOST_EDGES = 8  # in a title


def status_table(status: ClusterStatus, link: str = "") -> RenderableType:
    """The graph, the next switch and what is pending, one row per node, and the controller with its page.

    Args:
        link: signs in to the page. Without it, the page is named by its URL.
    """
    table = FittedTable(
        Column("node", right=False),
        Column("round"),
        Column("loss", leave_out=1),
        Column("test accuracy"),
        Column("sent", leave_out=2),
        Column("uncompressed", leave_out=3),
        Column("state", right=False, wraps=True),
    )
    for node in status.nodes:
        report = node.status
        table.add_row(
            node.node,
            _round(report),
            _loss(report),
            _accuracy(report),
            size(report.payload_bytes),
            size(report.dense_bytes),
            _state(node),
        )
    controller = f"controller {status.leadership.address}, term {status.leadership.term}"
    below = [
        *saving_lines(map(node_json, status.nodes)),
        *faults_lines(status.nodes),
        controller,
        *(page_lines(status, link or status.page) if status.page else []),
    ]
    above = Text(title(status), "bold"), *map(Text, requests_lines(requests_json(status)))
    return Group(*above, table, *(Text(line, "italic") for line in below))


def watch_table(status: ClusterStatus) -> FittedTable:
    """One row per node, with the columns of the controller's page."""
    table = FittedTable(
        Column("node", right=False),
        Column("round"),
        Column("s/round", leave_out=4),
        Column("accuracy"),
        Column("loss", leave_out=1),
        Column("u", leave_out=6),
        Column("sent", leave_out=2),
        Column("received", leave_out=5),
        Column("holds up", leave_out=3),
        Column("seen", leave_out=7),
        Column("state", right=False, wraps=True),
        expand=True,
    )
    for node in status.nodes:
        report = node.status
        table.add_row(
            node.node,
            _round(report),
            f"{report.round_s:.2f}" if report.round_s else "-",
            _accuracy(report),
            _loss(report),
            f"{report.u:.3f}",
            size(report.payload_bytes),
            size(report.received_bytes),
            f"{node.holds_up_s:.0f} s" if node.holds_up_s >= _SHOWN_FROM_S else "-",
            f"{node.last_seen_s:.1f} s",
            _state(node),
        )
    return table


def nodes_table(status: ClusterStatus) -> FittedTable:
    """One row per node: its address, its state, and what it uses of its machine."""
    table = FittedTable(
        Column("node", right=False),
        Column("address", right=False),
        Column("state", right=False),
        Column("round", leave_out=1),
        Column("last seen", leave_out=2),
        Column("peak memory", leave_out=3),
        Column("energy per round", leave_out=4),
    )
    for node in status.nodes:
        report = node.status
        seen = f"{node.last_seen_s:.1f} s ago" if node.connected else f"lost, {node.last_seen_s:.0f} s ago"
        state = "joining" if report.state is NodeState.UNSPECIFIED else report.state.value
        memory = size(report.peak_memory_bytes) if report.peak_memory_bytes else "-"
        table.add_row(node.node, node.address, state, str(report.round), seen, memory, _energy(report))
    return table


def page_lines(status: ClusterStatus, link: str) -> list[str]:
    """Return where the controller's page opens, and what to do if it does not open here.

    Args:
        link: the link to the page.
    """
    machine, _ = split_address(status.leadership.address)
    how = page_from_elsewhere(status.page, machine)
    if not how or is_this_machine(machine):
        return [f"page {link}"]
    return [f"page {link} on {machine} only", f"from here: {how}"]


def title(status: ClusterStatus) -> str:
    """The cluster in a line."""
    if status.plan is None:
        return f"{status.cluster}: waiting for {counted(status.missing, 'more node')}"
    paused = " (paused)" if status.paused else ""
    left = "" if status.time_left_s is None else f", about {duration(status.time_left_s)} left"
    return f"{status.cluster}{paused}: {_graph_line(status.plan, status.round)}{left}"


def _graph_line(plan: Plan, t: int) -> str:
    switch = next_switch(plan, t)
    following = f", then {switch['graph']} from round {switch['round']}" if switch else ""
    edges = sorted(plan.graph(t).edges)
    drawn = "  ".join(f"{s}→{r}" for s, r in edges) if len(edges) <= _MOST_EDGES else f"{len(edges)} edges"
    return f"graph {plan.at(t).schedule.spec(t).name} ({drawn}){following}"


def _round(report: NodeStatus) -> str:
    return f"{report.round}/{report.rounds}" if report.rounds else "-"


def _loss(report: NodeStatus) -> str:
    return "-" if report.loss is None else f"{report.loss:.3f}"


def _accuracy(report: NodeStatus) -> str:
    return "-" if report.accuracy is None else f"{report.accuracy:.1%}"


def _energy(report: NodeStatus) -> Text:
    """Joules per round, or why they are not known."""
    return Text(f"{report.joules_per_round:.3g} J" if report.joules_per_round else report.power_sensor or "-")


def _state(node: NodeView) -> Text:
    report, state = node.status, _activity(node)
    if report.save_error and not report.state.ended:
        return Text.assemble(state, ", ", ("cannot save", "red"))
    return state


def _activity(node: NodeView) -> Text:
    report = node.status
    if report.state is NodeState.FAILED:
        return Text(f"failed: {report.error}", "red")
    if report.state is NodeState.DONE:
        return Text("done", "green")
    if report.state is NodeState.STOPPED:
        return Text("stopped", "yellow")
    if not node.connected:
        return Text(f"not seen for {node.last_seen_s:.0f} s", "red")
    if report.state is NodeState.PAUSED:
        return Text("paused", "yellow")
    if node.holds_up_s >= _SHOWN_FROM_S:
        return Text(f"holds up {', '.join(node.holds_up) or 'others'} ({node.holds_up_s:.0f} s)", "yellow")
    if report.waiting_s >= _SHOWN_FROM_S:
        return Text(f"waits for {', '.join(report.waiting_for)} ({report.waiting_s:.0f} s)", "yellow")
    return Text("running" if report.state is NodeState.RUNNING else "joining")
