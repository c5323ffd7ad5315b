"""A cluster as a rich table: what status prints and the demo keeps on screen."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from edgenode.core.protocol.plan import Plan
from edgenode.net.proto import control_pb2, operator_pb2
from edgenode.net.wire import plan_from_wire
from edgenode.observability.status_view import current_round, size, state_name

_SAID_FROM_S = 1.0


def status_table(status: operator_pb2.ClusterStatus) -> Table:
    """One row per node; the title names the graph and the next switch, the caption the controller and its page."""
    page = f", page {status.page}" if status.page else ""
    table = Table(
        title=Text(title(status)), title_justify="left", title_style="bold",
        caption=Text(f"controller {status.leadership.address}, term {status.leadership.term}{page}"), caption_justify="left",
    )  # fmt: skip
    for heading in ("node", "round", "loss", "test accuracy", "sent", "instead of", "state"):
        table.add_column(heading, justify="left" if heading in ("node", "state") else "right")
    for node in status.nodes:
        progress = node.progress
        table.add_row(
            Text(node.node),  # not a str: that may hold markup
            f"{progress.round}/{progress.rounds}" if progress.rounds else "-",
            f"{progress.loss:.3f}" if progress.HasField("loss") else "-",
            f"{progress.accuracy:.1%}" if progress.HasField("accuracy") else "-",
            size(progress.payload_bytes),
            size(progress.dense_bytes),
            _state(node),
        )
    return table


def watch_table(status: operator_pb2.ClusterStatus) -> Table:
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
        progress = node.progress
        table.add_row(
            Text(node.node),
            f"{progress.round}/{progress.rounds}" if progress.rounds else "-",
            f"{progress.round_s:.2f}" if progress.round_s else "-",
            f"{progress.accuracy:.1%}" if progress.HasField("accuracy") else "-",
            f"{progress.loss:.3f}" if progress.HasField("loss") else "-",
            f"{progress.u:.3f}",
            size(progress.payload_bytes),
            size(progress.received_bytes),
            f"{node.holds_up_s:.0f} s" if node.holds_up_s >= _SAID_FROM_S else "-",
            f"{node.last_seen_s:.1f} s",
            _state(node),
        )
    return table


def nodes_table(status: operator_pb2.ClusterStatus) -> Table:
    """One row per node: where it is, how it is, and what it takes of its machine."""
    table, right = Table(), ("round", "last seen", "peak memory", "energy a round")
    for heading in ("node", "address", "state", *right):
        table.add_column(heading, justify="right" if heading in right else "left")
    for node in status.nodes:
        seen = f"{node.last_seen_s:.1f} s ago" if node.connected else f"lost, {node.last_seen_s:.0f} s ago"
        state = state_name(node.progress.state) if node.progress.state else "joining"
        memory = size(node.progress.peak_memory_bytes) if node.progress.peak_memory_bytes else "-"
        where = Text(node.node), Text(node.address)
        table.add_row(*where, state, str(node.progress.round), seen, memory, _energy(node.progress))
    return table


def _energy(progress: control_pb2.Progress) -> Text:
    """Joules a round, or why they are not known."""
    return Text(f"{progress.joules_per_round:.3g} J" if progress.joules_per_round else progress.power_sensor or "-")


def title(status: operator_pb2.ClusterStatus) -> str:
    """The cluster in a line."""
    plan = plan_from_wire(status.records)
    if plan is None:
        return f"{status.cluster}: waiting for {status.missing} more nodes"
    paused = " (paused)" if status.paused else ""
    return f"{status.cluster}{paused}: {_graph_line(plan, current_round(status))}"


def _graph_line(plan: Plan, t: int) -> str:
    schedule = plan.at(t).schedule
    switch = schedule.next_switch(t)
    following = f", then {schedule.spec(switch).name} from round {switch}" if switch is not None else ""
    edges = sorted(plan.graph(t).edges)
    drawn = "  ".join(f"{s}→{r}" for s, r in edges) if len(edges) <= 8 else f"{len(edges)} edges"
    return f"graph {schedule.spec(t).name} ({drawn}){following}"


def _state(node: operator_pb2.NodeStatus) -> Text:
    progress = node.progress
    if progress.state == control_pb2.STATE_FAILED:
        return Text(f"failed: {progress.error}", "red")
    if progress.state == control_pb2.STATE_DONE:
        return Text("done", "green")
    if progress.state == control_pb2.STATE_STOPPED:
        return Text("stopped", "yellow")
    if not node.connected:
        return Text(f"not seen for {node.last_seen_s:.0f} s", "red")
    if progress.state == control_pb2.STATE_PAUSED:
        return Text("paused", "yellow")
    if node.holds_up_s >= _SAID_FROM_S:
        return Text(f"holds up {', '.join(node.holds_up) or 'the others'} since {node.holds_up_s:.0f} s", "yellow")
    if progress.waiting_s >= _SAID_FROM_S:
        return Text(f"waits for {', '.join(progress.waiting_for)} since {progress.waiting_s:.0f} s", "yellow")
    return Text("running" if progress.state == control_pb2.STATE_RUNNING else "joining")
