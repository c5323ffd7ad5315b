"""A cluster as a rich table: what status prints and the demo keeps on screen."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from edgenode.core.protocol.plan import Plan
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.observability.status_view import size

_SAID_FROM_S = 1.0


def status_table(status: ClusterStatus) -> Table:
    """One row per node; the title names the graph and the next switch, the caption the controller and its page."""
    page = f", page {status.page}" if status.page else ""
    caption = Text(f"controller {status.leadership.address}, term {status.leadership.term}{page}")
    table = Table(
        title=Text(title(status)), title_justify="left", title_style="bold", caption=caption, caption_justify="left"
    )
    for heading in ("node", "round", "loss", "test accuracy", "sent", "instead of", "state"):
        table.add_column(heading, justify="left" if heading in ("node", "state") else "right")
    for node in status.nodes:
        report = node.status
        table.add_row(
            Text(node.node),  # not a str: that may hold markup
            f"{report.round}/{report.rounds}" if report.rounds else "-",
            f"{report.loss:.3f}" if report.loss is not None else "-",
            f"{report.accuracy:.1%}" if report.accuracy is not None else "-",
            size(report.payload_bytes),
            size(report.dense_bytes),
            _state(node),
        )
    return table


def watch_table(status: ClusterStatus) -> Table:
    """One row per node with all that the page shows."""
    table = Table(expand=True)
    for heading in (
        "node",
        "round",
        "s/round",
        "accuracy",
        "loss",
        "u",
        "sent",
        "received",
        "holds up",
        "seen",
        "state",
    ):
        table.add_column(heading, justify="left" if heading in ("node", "state") else "right")
    for node in status.nodes:
        report = node.status
        table.add_row(
            Text(node.node),
            f"{report.round}/{report.rounds}" if report.rounds else "-",
            f"{report.round_s:.2f}" if report.round_s else "-",
            f"{report.accuracy:.1%}" if report.accuracy is not None else "-",
            f"{report.loss:.3f}" if report.loss is not None else "-",
            f"{report.u:.3f}",
            size(report.payload_bytes),
            size(report.received_bytes),
            f"{node.holds_up_s:.0f} s" if node.holds_up_s >= _SAID_FROM_S else "-",
            f"{node.last_seen_s:.1f} s",
            _state(node),
        )
    return table


def nodes_table(status: ClusterStatus) -> Table:
    """One row per node: where it is, how it is, and what it takes of its machine."""
    table, right = Table(), ("round", "last seen", "peak memory", "energy a round")
    for heading in ("node", "address", "state", *right):
        table.add_column(heading, justify="right" if heading in right else "left")
    for node in status.nodes:
        seen = f"{node.last_seen_s:.1f} s ago" if node.connected else f"lost, {node.last_seen_s:.0f} s ago"
        state = "joining" if node.status.state is NodeState.UNSPECIFIED else node.status.state.value
        memory = size(node.status.peak_memory_bytes) if node.status.peak_memory_bytes else "-"
        where = Text(node.node), Text(node.address)
        table.add_row(*where, state, str(node.status.round), seen, memory, _energy(node.status))
    return table


def _energy(report: NodeStatus) -> Text:
    """Joules a round, or why they are not known."""
    return Text(f"{report.joules_per_round:.3g} J" if report.joules_per_round else report.power_sensor or "-")


def title(status: ClusterStatus) -> str:
    """The cluster in a line."""
    if status.plan is None:
        return f"{status.cluster}: waiting for {status.missing} more nodes"
    paused = " (paused)" if status.paused else ""
    return f"{status.cluster}{paused}: {_graph_line(status.plan, status.round)}"


def _graph_line(plan: Plan, t: int) -> str:
    schedule = plan.at(t).schedule
    switch = schedule.next_switch(t)
    following = f", then {schedule.spec(switch).name} from round {switch}" if switch is not None else ""
    edges = sorted(plan.graph(t).edges)
    drawn = "  ".join(f"{s}→{r}" for s, r in edges) if len(edges) <= 8 else f"{len(edges)} edges"
    return f"graph {schedule.spec(t).name} ({drawn}){following}"


def _state(node: NodeView) -> Text:
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
    if node.holds_up_s >= _SAID_FROM_S:
        return Text(f"holds up {', '.join(node.holds_up) or 'the others'} since {node.holds_up_s:.0f} s", "yellow")
    if report.waiting_s >= _SAID_FROM_S:
        return Text(f"waits for {', '.join(report.waiting_for)} since {report.waiting_s:.0f} s", "yellow")
    return Text("running" if report.state is NodeState.RUNNING else "joining")
