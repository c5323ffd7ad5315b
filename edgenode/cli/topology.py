"""``edgenode topology``: show and change the communication graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edgenode.cli.connect import Where, cluster_options, with_operator
from edgenode.cli.graph_ascii import draw
from edgenode.cli.shared_options import json_option
from edgenode.cli.waiting import wait_for_reply
from edgenode.config.graphs import GRAPHS
from edgenode.core.protocol.events import Reply
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.wording import counted
from edgenode.errors import ConfigError
from edgenode.factory import graph_spec
from edgenode.observability.reply_words import rotated, rotated_json
from edgenode.observability.status_view import (
    graph_json,
    next_switch,
    open_links_json,
    open_links_lines,
    requests_json,
    requests_lines,
)

if TYPE_CHECKING:
    from edgenode.net.operator_client import OperatorClient

_MOST_LINKS = 64  # with a line each

_wait_option = click.option(
    "--wait-for-round", is_flag=True,
    help="If the change is queued, wait until the round at which it takes effect is known.",
)  # fmt: skip


@click.group()
def topology() -> None:
    """Show and change the communication graph of a running cluster.

    A change takes effect at the same round at every node, without an interruption of training. While the run is paused,
    or an earlier change is not in force yet, a change is queued. A newer one replaces it.

    \b
    Examples:
      edgenode topology show
      edgenode topology set b
      edgenode topology rotate a,b,c --every 6ep
      edgenode topology set my-graph.txt      one "sender receiver" per line
    """


@topology.command("list")
def list_presets() -> None:
    """List the presets: the graphs that have a name.

    \b
    Example:
      edgenode topology list
    """
    reasons = GRAPHS.add_all()
    for name in GRAPHS.names():
        click.echo(f"{name:21} {reasons.get(name) or GRAPHS[name].meaning}")


@topology.command()
@cluster_options
@json_option
def show(where: Where, as_json: bool) -> None:
    """Draw the current graph, and name the next change, and what waits.

    Each open connection has a line: its way, what a call takes there and back, and the bytes a second that it sends.

    \b
    Examples:
      edgenode topology show
      edgenode topology show --json
    """
    status = with_operator(where, lambda client: client.status())
    plan, t = _plan(status)
    graph, coming, open_links = graph_json(plan, t), next_switch(plan, t), open_links_json(status)
    if as_json:
        view = {"round": t, "graph": graph["name"], "edges": graph["edges"], "next": coming, **requests_json(status)}
        click.echo(json.dumps({**view, "open_links": open_links}))
        return
    click.echo(f"round {t}: graph {graph['name']}")
    click.echo(draw(plan.graph(t)))
    for line in (*open_links_lines(open_links, _MOST_LINKS), *requests_lines(requests_json(status))):
        click.echo(line)
    click.echo(f"next: graph {coming['graph']} from round {coming['round']}" if coming else "next: no change planned")


@topology.command("set")
@click.argument("graph", metavar="NAME|FILE")
@_wait_option
@cluster_options
@json_option
def set_graph(graph: str, wait_for_round: bool, as_json: bool, where: Where) -> None:
    """Use one graph: a preset, or an edge-list file.

    The file has one "sender receiver" per line. # starts a comment.

    \b
    Examples:
      edgenode topology set b
      edgenode topology set a@berlin:paris    (few messages between berlin-1, ... and paris-1, ...)
      edgenode topology set my-graph.txt
    """
    _change([graph_spec(graph)], "1r", wait_for_round, as_json, where)


@topology.command()
@click.argument("names", metavar="NAME|FILE,...")
@click.option(
    "--every",
    default="1ep",
    show_default=True,
    metavar="Nep|Nr",
    help="How many epochs or rounds each graph is used at a time.",
)
@_wait_option
@cluster_options
@json_option
def rotate(names: str, every: str, wait_for_round: bool, as_json: bool, where: Where) -> None:
    """Use several graphs in turn.

    \b
    Examples:
      edgenode topology rotate a,b,c --every 6ep
      edgenode topology rotate a,b --every 10r
    """
    _change([graph_spec(n.strip()) for n in names.split(",") if n.strip()], every, wait_for_round, as_json, where)


def _change(graphs: Sequence[GraphSpec], every: str, wait_for_round: bool, as_json: bool, where: Where) -> None:
    if not graphs:
        raise ConfigError("a rotation needs at least one graph, as in edgenode topology rotate a,b")
    period = Period.parse(every)
    if weighted := [graph.name for graph in graphs if graph.given]:
        raise ConfigError(f"{weighted[0]} has weights of its own, which a run has from its start or not at all")

    async def call(client: OperatorClient) -> Reply:
        return await wait_for_reply(client, client.rotate(graphs, period, wait_for_round))

    reply = with_operator(where, call)
    click.echo(json.dumps(rotated_json(graphs, reply)) if as_json else rotated(graphs, reply))


def _plan(status: ClusterStatus) -> tuple[Plan, int]:
    """The plan, and the round of the slowest node."""
    if status.plan is None:
        raise ConfigError(
            f"the run has not started: it waits for {counted(status.missing, 'more node')}; start edgenode run on them"
        )
    return status.plan, status.round
