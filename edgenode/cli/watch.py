"""``edgenode watch``: the dashboard in a terminal, over ssh too."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import click

from edgenode.cli.options import cluster_options, with_operator
from edgenode.errors import ConfigError, TransportError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from edgenode.core.protocol.status import ClusterStatus
    from edgenode.net.operator import Operator

_POINTS = 60  # of a curve, each half a second or more apart
_EVERY_S = 0.5
_BLOCKS = "▁▂▃▄▅▆▇█"


@click.command()
@click.option("--once", is_flag=True, envvar="EDGENODE_ONCE", show_envvar=True,
              help="Print one picture and end, as into a file.")  # fmt: skip
@cluster_options
def watch(once: bool, controller: str, cluster: str) -> None:
    """Watch a running cluster: the graph, and every node's round, accuracy, loss, bytes, and whom it waits for.

    Ends with the run, or with Ctrl-C; the run does not notice.

    \b
    Examples:
      edgenode watch
      edgenode watch --controller 10.0.0.5:7700
      ssh pi@10.0.0.5 -t edgenode watch
    """
    from rich.console import Console

    console = Console()
    try:
        over = with_operator(controller, cluster, lambda operator: _watch(operator, console, once))
    except KeyboardInterrupt:
        return  # that is how one leaves it
    if over:
        click.echo("the run is over")


async def _watch(operator: Operator, console: Console, once: bool) -> bool:
    """Show until the end; True if it was the run's."""
    from rich.live import Live

    screen = Screen()
    if once or not console.is_terminal:
        console.print(screen.drawn(await operator.status()))
        return False
    with Live(console=console, auto_refresh=False, screen=True) as live:
        try:
            async for status in operator.watch():
                live.update(screen.drawn(status), refresh=True)
        except TransportError as exc:
            raise ConfigError(f"the controller is gone, the nodes train on: {exc}") from exc
    console.print(screen.drawn(status))
    return True


class Screen:
    """The picture, and the short past that its curves need."""

    def __init__(self) -> None:
        self._accuracy: deque[float] = deque(maxlen=_POINTS)
        self._bytes: deque[float] = deque(maxlen=_POINTS)
        self._sampled = 0.0

    def drawn(self, status: ClusterStatus) -> RenderableType:
        """A status as a picture."""
        from rich.console import Group
        from rich.text import Text

        from edgenode.cli.graph_ascii import draw
        from edgenode.cli.status_table import title, watch_table

        self._sample(status)
        head: list[RenderableType] = [Text(title(status), "bold")]
        if status.plan is None:
            return Group(*head, watch_table(status))
        graph = draw(status.plan.graph(status.round), pushes=False)
        return Group(*head, Text(graph), watch_table(status), Text(self._curves(status)))

    def _sample(self, status: ClusterStatus) -> None:
        now = time.monotonic()
        reports = [n.status for n in status.nodes]
        known = [r.accuracy for r in reports if r.accuracy is not None]
        if not known or now - self._sampled < _EVERY_S:
            return
        self._sampled = now
        self._accuracy.append(sum(known) / len(known))
        self._bytes.append(sum(r.payload_bytes for r in reports if r.accuracy is not None) / len(known))

    def _curves(self, status: ClusterStatus) -> str:
        if not self._accuracy:
            return "no accuracy measured yet"
        from edgenode.observability.status_view import size

        sent = sum(n.status.payload_bytes for n in status.nodes)
        dense = sum(n.status.dense_bytes for n in status.nodes)
        times = f", {dense / sent:.0f} times as much uncompressed ({size(dense)})" if sent else ""
        apart = (
            f"\nmodels apart   {status.consensus_distance:.4g} (round {status.consensus_round})"
            if status.consensus_distance is not None
            else ""
        )
        return (
            f"mean accuracy  {_line(self._accuracy)} {self._accuracy[-1]:.1%}\n"
            f"bytes a node   {_line(self._bytes)} {size(int(self._bytes[-1]))}; all: {size(sent)}{times}{apart}"
        )


def _line(values: deque[float]) -> str:
    """A curve in one line of text."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((v - low) / span * (len(_BLOCKS) - 1))] for v in values)
