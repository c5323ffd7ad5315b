"""``edgenode topology``: show and change the communication graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgenode.cli.connect import Where, cluster_options, with_operator
from edgenode.cli.options import json_option
from edgenode.core.topology.period import Period
from edgenode.core.wording import counted
from edgenode.errors import ConfigError

if TYPE_CHECKING:
    from edgenode.core.protocol.plan import Plan
    from edgenode.core.protocol.status import ClusterStatus
    from edgenode.core.topology.graph import GraphSpec
    from edgenode.net.operator_client import OperatorClient


@click.group()
def topology() -> None:
    """Show and change the communication graph of a running cluster.

    A change takes effect at the same round at every node, without an interruption of training.

    \b
    Examples:
      edgenode topology show
      edgenode topology set b
      edgenode topology rotate a,b,c --every 6ep
      edgenode topology apply my-graph.txt      one "sender receiver" per line
    """


@topology.command("list")
def list_presets() -> None:
    """List the presets: the graphs that have a name.

    \b
    Example:
      edgenode topology list
    """
    from edgenode.config.graphs import GRAPHS

    reasons = GRAPHS.add_all()
    for name in GRAPHS.names():
        click.echo(f"{name:21} {reasons.get(name) or GRAPHS[name].meaning}")


@topology.command()
@cluster_options
@json_option
def show(where: Where, as_json: bool) -> None:
    """Draw the current graph, and name the next change.

    \b
    Examples:
      edgenode topology show
      edgenode topology show --json
    """
    status = with_operator(where, lambda client: client.status())
    plan, t = _plan(status)
    from edgenode.observability.status_view import graph_json, next_switch

    graph, coming = graph_json(plan, t), next_switch(plan, t)
    if as_json:
        click.echo(json.dumps({"round": t, "graph": graph["name"], "edges": graph["edges"], "next": coming}))
        return
    from edgenode.cli.graph_ascii import draw

    click.echo(f"round {t}: graph {graph['name']}")
    click.echo(draw(plan.graph(t)))
    click.echo(f"next: graph {coming['graph']} from round {coming['round']}" if coming else "next: no change planned")


@topology.command("set")
@click.argument("name")
@cluster_options
def set_graph(name: str, where: Where) -> None:
    """Use one graph: a preset, or an edge-list file.

    \b
    Examples:
      edgenode topology set b
      edgenode topology set my-graph.txt
    """
    from edgenode.factory import graph_spec

    _change([graph_spec(name)], "1r", where)


@topology.command()
@click.argument("names", metavar="NAME,NAME,...")
@click.option(
    "--every",
    default="1ep",
    show_default=True,
    metavar="Nep|Nr",
    envvar="EDGENODE_EVERY",
    help="How many epochs or rounds each graph is used at a time.",
)
@cluster_options
def rotate(names: str, every: str, where: Where) -> None:
    """Use several graphs in turn.

    \b
    Examples:
      edgenode topology rotate a,b,c --every 6ep
      edgenode topology rotate a,b --every 10r
    """
    from edgenode.factory import graph_spec

    _change([graph_spec(n.strip()) for n in names.split(",") if n.strip()], every, where)


@topology.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@cluster_options
def apply(file: Path, where: Where) -> None:
    """Use the graph of an edge-list file.

    The file has one "sender receiver" per line. # starts a comment.

    \b
    Example:
      edgenode topology apply my-graph.txt
    """
    from edgenode.core.topology.graph import parse_edges

    _change([parse_edges(file.stem, file.read_text(encoding="utf-8", errors="replace"))], "1r", where)


def _change(graphs: Sequence[GraphSpec], every: str, where: Where) -> None:
    if not graphs:
        raise ConfigError("a rotation needs at least one graph, as in edgenode topology rotate a,b")
    period = Period.parse(every)

    async def call(client: OperatorClient) -> tuple[int, bool]:
        from edgenode.cli.waiting import wait_for_reply

        start = await wait_for_reply(client, client.rotate(graphs, period))
        return start, (await client.status()).paused

    start, paused = with_operator(where, call)
    names = "+".join(spec.name for spec in graphs)
    click.echo(f"graph {names} takes effect at round {start} at every node")
    if paused:
        click.echo("the run is paused: it reaches that round after edgenode resume")


def _plan(status: ClusterStatus) -> tuple[Plan, int]:
    """The plan, and the round of the slowest node."""
    if status.plan is None:
        raise ConfigError(
            f"the run has not started: it waits for {counted(status.missing, 'more node')}; start edgenode run on them"
        )
    return status.plan, status.round
