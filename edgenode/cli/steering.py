"""``edgenode pause``, ``resume``, ``stop``, ``extend`` and ``evict``: requests that change a run, or its members."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from edgenode.cli.connect import Where, cluster_options, with_operator
from edgenode.cli.shared_options import as_name, confirm, yes_option
from edgenode.cli.waiting import wait_for_reply, wait_until_done
from edgenode.core.protocol.controller.links import describe
from edgenode.core.protocol.status import ClusterStatus, NodeState
from edgenode.core.wording import counted
from edgenode.observability.reply_words import TO_RESUME, evicted, extended, stopped

if TYPE_CHECKING:
    from edgenode.net.operator_client import OperatorClient

detach_option = click.option(
    "--detach", is_flag=True, help="Return as soon as the controller has accepted the request."
)


@click.command()
@detach_option
@cluster_options
def pause(detach: bool, where: Where) -> None:
    """Pause the run: every node finishes its round and waits.

    While the run is paused, no node is evicted for silence or counts as slow. A restarted controller and nodes that
    come back know that the run is paused. If the controller is lost for good, start another one with --recover, which
    also resumes the run.

    \b
    Examples:
      edgenode pause
      edgenode pause --detach
    """

    async def call(client: OperatorClient) -> str:
        t = await wait_for_reply(client, client.pause())
        if detach:
            return f"no node begins a round after {t} once it has received the request"
        if not await wait_until_done(client, _nodes_not_paused):
            return "lost the connection to the controller; paused nodes wait until a controller runs again"
        return f"every node is paused: {_rounds(await client.status())}"

    _operate(where, call)


@click.command()
@cluster_options
def resume(where: Where) -> None:
    """Resume a paused run: every node continues from where it waits.

    \b
    Example:
      edgenode resume
    """

    async def call(client: OperatorClient) -> str:
        await client.resume()
        return "the run continues"

    _operate(where, call)


@click.command()
@detach_option
@yes_option
@cluster_options
def stop(detach: bool, yes: bool, where: Where) -> None:
    """Stop all nodes before the same round, and write their checkpoints. Stops a paused run too.

    The controller ends too. To resume from that round, start it and the nodes again. On a terminal, the command asks
    first.

    \b
    Examples:
      edgenode stop
      edgenode stop --detach --yes
    """

    async def call(client: OperatorClient) -> str:
        before = await client.status()
        confirm(
            f"Stop {before.cluster} in round {before.round}? {counted(len(before.nodes), 'node')} will write a "
            "checkpoint and exit, and so will the controller. The run resumes when all are started again.",
            yes,
        )
        reply = await wait_for_reply(client, client.stop())
        if detach:
            return stopped(reply)
        click.echo(stopped(reply).partition("\n")[0])
        ends = reply.start

        def remaining(status: ClusterStatus) -> str:
            nonlocal ends
            ends = status.plan.latest.end if status.plan and status.plan.latest.end is not None else ends
            return _nodes_not_stopped(status)

        await wait_until_done(client, remaining)
        return f"every node has stopped before round {ends}\n{TO_RESUME}"

    _operate(where, call)


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), metavar="N",
              help="Train for N rounds, counted from the beginning of the run, as run.rounds does.")  # fmt: skip
@click.option("--add", type=click.IntRange(min=1), metavar="N",
              help="Train for N rounds more than planned.")  # fmt: skip
@cluster_options
def extend(rounds: int | None, add: int | None, where: Where) -> None:
    """Train longer: give a run that trains more rounds.

    The request must come some rounds before the end of training. The last phase of SCSP follows after the new end. A
    learning rate that falls until the end of the run then follows the longer run. run.toml need not change.

    To train on after a run has stopped or ended, set run.rounds in run.toml to the larger number, and start the
    controller and the nodes again.

    \b
    Examples:
      edgenode extend --rounds 2000
      edgenode extend --add 500
    """
    if (rounds is None) == (add is None):
        raise click.UsageError("give either --rounds or --add")

    async def call(client: OperatorClient) -> str:
        longer = rounds
        if longer is None:
            plan = (await client.status()).plan
            longer = (add or 0) + ((plan.latest.rounds or 0) if plan else 0)
        return extended(longer, await wait_for_reply(client, client.extend(longer)))

    _operate(where, call)


@click.command()
@click.argument("node", callback=as_name)
@click.option("--force", is_flag=True,
              help="Evict even if less than half of the members, or fewer than run.min_nodes, remain, or if none "
                   "of them is connected.")  # fmt: skip
@yes_option
@cluster_options
def evict(node: str, force: bool, yes: bool, where: Where) -> None:
    """Continue the run without NODE, because it will not come back.

    What it learnt since its last push is lost. If it still runs or starts again, it joins as a newcomer. To keep it
    out, use edgenode revoke, which evicts it too. If the graph is a list of edges, the rest of it is used if it is
    strongly connected. Otherwise the reply names the preset that is used. On a terminal, the command asks first.

    \b
    Examples:
      edgenode evict pi-3
      edgenode evict pi-3 --force
    """

    async def call(client: OperatorClient) -> str:
        return evicted(node, await wait_for_reply(client, client.evict(node, force)))

    confirm(f"Evict {node}? What it learnt since its last push is lost, and it can only join as a newcomer.", yes)
    _operate(where, call)


def _operate(where: Where, call: Callable[[OperatorClient], Any]) -> None:
    try:
        click.echo(with_operator(where, call))
    except KeyboardInterrupt:
        click.echo("edgenode: interrupted; the request may still take effect (see edgenode status)", err=True)
        raise SystemExit(130) from None


def _nodes_not_paused(status: ClusterStatus) -> str:
    """Connected nodes that are still in a round. A disconnected node pauses when it must wait for another."""
    if not status.paused:
        return ""
    running = [n.node for n in status.nodes if n.connected and n.status.state is NodeState.RUNNING]
    return f"waiting for {', '.join(running)} to finish the round{_held(status)}" if running else ""


def _nodes_not_stopped(status: ClusterStatus) -> str:
    alive = (NodeState.RUNNING, NodeState.PAUSED)
    running = [n.node for n in status.nodes if n.status.state in alive]
    return f"waiting for {', '.join(running)} to stop{_held(status)}" if running else ""


def _held(status: ClusterStatus) -> str:
    """The links that hold the run, and what to check."""
    links = [describe(v.sender, v.blocked, for_s=False) for v in status.links if not (v.blocked.by or v.left_out)]
    return f": {'; '.join(links)}" if links else ""


def _rounds(status: ClusterStatus) -> str:
    rounds = sorted({n.status.round for n in status.nodes if n.connected})
    if not rounds:
        return "no node is connected"
    return f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
