"""``edgenode pause``, ``resume``, ``stop`` and ``evict``: what an operator wants of a run, or of a member."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgenode.cli.options import cluster_options, with_operator

if TYPE_CHECKING:
    from edgenode.core.protocol.status import ClusterStatus
    from edgenode.net.operator import Operator

no_wait_option = click.option(
    "--no-wait", is_flag=True, envvar="EDGENODE_NO_WAIT", show_envvar=True, help="Do not wait until it has happened."
)


@click.command()
@no_wait_option
@cluster_options
def pause(no_wait: bool, controller: str, cluster: str) -> None:
    """Let every node end its round and stand still, until the run is resumed.

    Nobody is taken for dead or slow meanwhile. A restarted controller knows of the pause, and so do nodes that come
    back. If the controller is lost for good, start another one with --recover: then the run goes on.

    \b
    Examples:
      edgenode pause
      edgenode pause --no-wait
    """

    async def call(operator: Operator) -> str:
        from edgenode.cli.waiting import followed, granted

        t = await granted(operator, operator.pause())
        if no_wait:
            return f"no node begins a round after {t} once it has heard"
        if not await followed(operator, _still_moving):
            return "the controller is gone; the nodes stand still until there is one again"
        return f"every node stands still: {_rounds(await operator.status())}"

    _operate(controller, cluster, call)


@click.command()
@cluster_options
def resume(controller: str, cluster: str) -> None:
    """Let a paused run go on, from where every node stands.

    \b
    Example:
      edgenode resume
    """

    async def call(operator: Operator) -> str:
        await operator.resume()
        return "the run goes on"

    _operate(controller, cluster, call)


@click.command()
@no_wait_option
@cluster_options
def stop(no_wait: bool, controller: str, cluster: str) -> None:
    """Stop the run before one round, the same at every node, with checkpoints written; a paused run too.

    Started again, every node goes on from there.

    \b
    Examples:
      edgenode stop
      edgenode stop --no-wait
    """

    async def call(operator: Operator) -> str:
        from edgenode.cli.waiting import followed, granted

        start = await granted(operator, operator.stop())
        if not no_wait:
            click.echo(f"every node stops before round {start}")
            await followed(operator, _still_running)
        return (
            f"every node {'stops' if no_wait else 'has stopped'} before round {start}; started again, it goes on there"
        )

    _operate(controller, cluster, call)


@click.command()
@click.argument("node")
@click.option("--force", is_flag=True, envvar="EDGENODE_FORCE", show_envvar=True,
              help="Even if fewer than half of the members, or than run.min_nodes, are left.")  # fmt: skip
@cluster_options
def evict(node: str, force: bool, controller: str, cluster: str) -> None:
    """Go on without a node: for the operator who knows that it is dead.

    Its own share of what was learnt since its last push is lost. Started again, it joins as a newcomer.

    \b
    Examples:
      edgenode evict pi-3
      edgenode evict pi-3 --force
    """

    async def call(operator: Operator) -> str:
        from edgenode.cli.waiting import granted

        start = await granted(operator, operator.evict(node, force))
        return f"the others go on without {node} from round {start}"

    _operate(controller, cluster, call)


def _operate(controller: str, cluster: str, call: Callable[[Operator], Any]) -> None:
    try:
        click.echo(with_operator(controller, cluster, call))
    except KeyboardInterrupt:
        click.echo("edgenode: interrupted; what was asked for may still happen (edgenode status)", err=True)
        raise SystemExit(130) from None


def _still_moving(status: ClusterStatus) -> str:
    """Who has yet to come to a stand; one without a link does so when it must wait for another."""
    from edgenode.core.protocol.status import NodeState

    if not status.paused:
        return ""
    running = [n for n in status.nodes if n.connected and n.status.state is NodeState.RUNNING]
    return f"waiting for {', '.join(n.node for n in running)} to end the round" if running else ""


def _still_running(status: ClusterStatus) -> str:
    from edgenode.core.protocol.status import NodeState

    alive = (NodeState.RUNNING, NodeState.PAUSED)
    running = [n.node for n in status.nodes if n.status.state in alive]
    return f"waiting for {', '.join(running)}" if running else ""


def _rounds(status: ClusterStatus) -> str:
    rounds = sorted({n.status.round for n in status.nodes if n.connected})
    if not rounds:
        return "none is connected"
    return f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
