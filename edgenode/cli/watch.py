"""``edgenode watch``: the dashboard in a terminal, over ssh too."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from edgenode.cli.connect import Where, cluster_options, with_operator
from edgenode.cli.fitted_table import stdout
from edgenode.cli.graph_ascii import draw
from edgenode.cli.status_table import title, watch_table
from edgenode.core.protocol.status import ClusterStatus
from edgenode.errors import ConfigError, TransportError
from edgenode.observability.status_view import node_json, requests_json, requests_lines, saving_lines, size

if TYPE_CHECKING:
    from edgenode.net.operator_client import OperatorClient

_POINTS = 60  # of a curve, at least _SAMPLE_EVERY_S apart
_SAMPLE_EVERY_S = 0.5
_BLOCKS = "▁▂▃▄▅▆▇█"


@click.command()
@click.option("--once", is_flag=True,
              help="Print the current state once and exit.")  # fmt: skip
@cluster_options
def watch(once: bool, where: Where) -> None:
    """Watch a running cluster: the graph, and the round, accuracy, loss, bytes and state of every node.

    Exits when the run ends, or when you press Ctrl-C. The run is not affected.

    \b
    Examples:
      edgenode watch
      edgenode watch --controller 10.0.0.5:7700
      ssh pi@10.0.0.5 -t edgenode watch
    """
    console = stdout()
    try:
        over = with_operator(where, lambda client: _watch(client, console, once))
    except KeyboardInterrupt:
        return  # the normal way to leave
    if over:
        click.echo("the run is over")


async def _watch(client: OperatorClient, console: Console, once: bool) -> bool:
    """Show the run until it ends. False if it has not ended."""
    screen = Screen()
    if once or not console.is_terminal:
        console.print(screen.render(await client.status()))
        return False
    with Live(console=console, auto_refresh=False, screen=True) as live:
        try:
            async for status in client.watch():
                live.update(screen.render(status), refresh=True)
        except TransportError as exc:
            raise ConfigError(f"lost the connection to the controller, the nodes continue to train: {exc}") from exc
    console.print(screen.render(status))
    return True


class Screen:
    """Renders statuses, and remembers as many as its curves show."""

    def __init__(self) -> None:
        self._accuracy: deque[float] = deque(maxlen=_POINTS)
        self._bytes: deque[float] = deque(maxlen=_POINTS)
        self._sampled = 0.0

    def render(self, status: ClusterStatus) -> RenderableType:
        """The graph, the nodes and the curves."""
        self._sample(status)
        lines = [*requests_lines(requests_json(status)), *saving_lines(map(node_json, status.nodes))]
        head: list[RenderableType] = [Text(title(status), "bold"), *map(Text, lines)]
        if status.plan is None:
            return Group(*head, watch_table(status))
        graph = draw(status.plan.graph(status.round), pushes=False)
        return Group(*head, Text(graph), watch_table(status), Text(self._curves(status)))

    def _sample(self, status: ClusterStatus) -> None:
        """Add a point: the mean accuracy of the nodes that have measured it, and the bytes of all nodes."""
        now = time.monotonic()
        known = [n.status.accuracy for n in status.nodes if n.status.accuracy is not None]
        if not known:
            return
        if self._accuracy and now - self._sampled < _SAMPLE_EVERY_S:  # the last point is that of the newest status
            self._accuracy.pop()
            self._bytes.pop()
        else:
            self._sampled = now
        self._accuracy.append(sum(known) / len(known))
        self._bytes.append(status.payload_bytes)

    def _curves(self, status: ClusterStatus) -> str:
        if not self._accuracy:
            return "no accuracy measured yet"
        sent, dense = status.payload_bytes, status.dense_bytes
        times = f" (uncompressed {size(dense)}, {dense / sent:.0f} times as much)" if sent else ""
        lines = [
            f"mean accuracy  {_curve(self._accuracy)} {self._accuracy[-1]:.1%}",
            f"sent by all    {_curve(self._bytes)} {size(sent)}{times}",
        ]
        if status.consensus_distance is not None:
            lines.append(f"models apart   {status.consensus_distance:.4g} (round {status.consensus_round})")
        return "\n".join(lines)


def _curve(values: deque[float]) -> str:
    """A curve in one line of text."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((v - low) / span * (len(_BLOCKS) - 1))] for v in values)
