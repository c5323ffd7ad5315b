"""A cluster's status as tables for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from edgenode.addresses import split_address
from edgenode.cli.fitted_table import Column, FittedTable
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeView
from edgenode.core.wording import counted
from edgenode.net.interfaces import is_this_machine
from edgenode.observability.status_view import (
    duration,
    faults_lines,
    figure,
    next_switch,
    node_json,
    open_links_json,
    open_links_lines,
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
    below = [
        *saving_lines(map(node_json, status.nodes)),
        *faults_lines(status.nodes),
        *open_links_lines(open_links_json(status)),
        f"controller {status.leadership.address}, term {status.leadership.term}",
        *(page_lines(status, link or status.page) if status.page else []),
    ]
    above = Text(title(status), "bold"), *map(Text, requests_lines(requests_json(status)))
    return Group(*above, FittedTable(_STATUS, status.nodes), *(Text(line, "italic") for line in below))


def watch_table(status: ClusterStatus) -> FittedTable[NodeView]:
    """One row per node, with the columns of the controller's page."""
    return FittedTable(_WATCH, status.nodes, expand=True)


def nodes_table(status: ClusterStatus) -> FittedTable[NodeView]:
    """One row per node: its address, its state, and what it uses of its machine."""
    return FittedTable(_NODES, status.nodes)


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
    switch, name = next_switch(plan, t), plan.at(t).schedule.spec(t).name
    ahead = switch if switch and switch["graph"] != name else None  # a change of members may keep the graph
    following = f", then {ahead['graph']} from round {ahead['round']}" if ahead else ""
    edges = sorted(plan.graph(t).edges)
    drawn = "  ".join(f"{s}→{r}" for s, r in edges) if len(edges) <= _MOST_EDGES else f"{len(edges)} edges"
    return f"graph {name} ({drawn}){following}"


# Columns ---------------------------------------------------------------------------------------------------


def _seen(node: NodeView) -> str:
    return f"{node.last_seen_s:.1f} s ago" if node.connected else f"lost, {node.last_seen_s:.0f} s ago"


def _memory(node: NodeView) -> str:
    return size(node.status.peak_memory_bytes) if node.status.peak_memory_bytes else "-"


def _energy(node: NodeView) -> str:
    """Joules per round, or why they are not known."""
    return f"{node.status.joules_per_round:.3g} J" if node.status.joules_per_round else node.status.power_sensor or "-"


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


_NODE = Column[NodeView]("node", lambda n: n.node, right=False)
_ROUND = Column[NodeView]("round", lambda n: f"{n.status.round}/{n.status.rounds}" if n.status.rounds else "-")
_LOSS = Column[NodeView]("loss", lambda n: figure(n.status.loss, ".3f"), leave_out=1)
_SENT = Column[NodeView]("sent", lambda n: size(n.status.payload_bytes), leave_out=2)
_STATE = Column("state", _state, right=False, wraps=True)

_STATUS: tuple[Column[NodeView], ...] = (
    _NODE,
    _ROUND,
    _LOSS,
    Column("test accuracy", lambda n: figure(n.status.accuracy, ".1%")),
    _SENT,
    Column("uncompressed", lambda n: size(n.status.dense_bytes), leave_out=3),
    _STATE,
)
_WATCH: tuple[Column[NodeView], ...] = (
    _NODE,
    _ROUND,
    Column("s/round", lambda n: f"{n.status.round_s:.2f}" if n.status.round_s else "-", leave_out=4),
    Column("accuracy", lambda n: figure(n.status.accuracy, ".1%")),
    _LOSS,
    Column("u", lambda n: f"{n.status.u:.3f}", leave_out=6),
    _SENT,
    Column("received", lambda n: size(n.status.received_bytes), leave_out=5),
    Column("holds up", lambda n: f"{n.holds_up_s:.0f} s" if n.holds_up_s >= _SHOWN_FROM_S else "-", leave_out=3),
    Column("seen", lambda n: f"{n.last_seen_s:.1f} s", leave_out=7),
    _STATE,
)
_NODES: tuple[Column[NodeView], ...] = (
    _NODE,
    Column("address", lambda n: n.address, right=False),
    Column(
        "state", lambda n: "joining" if n.status.state is NodeState.UNSPECIFIED else n.status.state.value, right=False
    ),
    Column("round", lambda n: str(n.status.round), leave_out=1),
    Column("last seen", _seen, leave_out=2),
    Column("peak memory", _memory, leave_out=3),
    Column("energy per round", _energy, leave_out=4),
)
