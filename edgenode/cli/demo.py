"""``edgenode demo``: a controller and nodes as real processes on one machine."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from click.core import ParameterSource
from rich.console import Console
from rich.live import Live
from safetensors.numpy import load_file

from edgenode.cli.demo_processes import DemoProcesses
from edgenode.cli.fitted_table import plain_table
from edgenode.cli.shared_options import json_option, results_folder, take_sigterm_as_ctrl_c, track_option
from edgenode.cli.status_table import status_table
from edgenode.config.load import load
from edgenode.config.schema import KEYS, Config
from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.wording import counted
from edgenode.errors import EdgenodeError, TransportError
from edgenode.factory import check_networked
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.operator_client import operator_client
from edgenode.observability import plotting
from edgenode.observability.status_view import figure, less_than_uncompressed, size
from edgenode.storage import result_file

_START_S = 30.0


_CLUSTER = "EDGENODE_RUN_CLUSTER"  # a demo keeps away from the clusters on the network
_SUITS_A_DEMO: Mapping[str, object] = {
    "run.threads": 1,  # all nodes share this machine
    "run.device": "cpu",
    "run.rounds": 500,
    "task.skew": 0.8,
    "task.loss": "balanced",  # with it, as accurate after half of the rounds
    "task.learning_rate": 0.02,
    "topology.graphs": ["a", "b", "c"],
    "topology.every": "1ep",
}


@dataclass
class AccuracyCurve:
    """The curve of the plot: means over the nodes."""

    sent: list[float] = field(default_factory=list)
    dense: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def note(self, status: ClusterStatus) -> None:
        """Add a sample, if every node has measured its accuracy."""
        reports = [n.status for n in status.nodes]
        known = [r.accuracy for r in reports if r.accuracy is not None]
        if not reports or len(known) < len(reports):
            return
        sent = sum(r.payload_bytes for r in reports) / len(reports)
        if not self.sent or sent > self.sent[-1]:
            self.sent.append(sent)
            self.dense.append(sum(r.dense_bytes for r in reports) / len(reports))
            self.accuracy.append(sum(known) / len(known))


@click.command()
@click.option("--nodes", default=4, show_default=True, type=click.IntRange(2, 64),
              help="Number of node processes.")  # fmt: skip
@click.option("--rounds", default=500, show_default=True, type=click.IntRange(1),
              help="Training rounds.")  # fmt: skip
@click.option("--algorithm", default="scsp", show_default=True, type=click.Choice(["sp", "scsp"]),
              help="Sparse-Push, without or with the final gossip.")  # fmt: skip
@click.option("--share", default=0.01, show_default=True, type=click.FloatRange(0, 1, min_open=True),
              help="Share of each tensor that a round sends, as algorithm.share.")  # fmt: skip
@json_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the results. [default: runs/demo-TIME]")  # fmt: skip
@track_option
@click.pass_context
def demo(
    ctx: click.Context,
    nodes: int,
    rounds: int,
    algorithm: str,
    share: float,
    as_json: bool,
    out: Path | None,
    track: str,
) -> None:
    """Train on handwritten digits on this machine, with a controller and four nodes as five real processes.

    The processes find each other by mDNS and communicate over gRPC on loopback. Every node has its own, unequal share
    of the data (skew 0.8). Writes result.json, accuracy.png and one model.safetensors per node, and prints a table, or
    with --json the content of result.json. The picture needs edgenode[plots]. Variables of run.toml's keys apply, as in
    EDGENODE_TASK_SKEW=0.5.

    \b
    Examples:
      edgenode demo
      edgenode demo --nodes 8 --rounds 1000 --share 0.005
      edgenode demo --algorithm sp --json --out /tmp/sp
    """
    out = results_folder(out, "demo")
    keys = {"nodes": "run.nodes", "rounds": "run.rounds", "algorithm": "algorithm.name", "share": "algorithm.share"}
    values = {"nodes": nodes, "rounds": rounds, "algorithm": algorithm, "share": share}
    chosen = [name for name in keys if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    config = demo_config({keys[name]: values[name] for name in chosen}, os.environ)
    (out / "run.toml").write_text(config.to_toml(), encoding="utf-8")
    if ignored := ignored_variables(os.environ, {str(option.envvar) for option in ctx.command.params}):
        click.echo(f"edgenode: note: the demo ignores {', '.join(ignored)}", err=True)
    console = Console(stderr=as_json)
    curve = AccuracyCurve()
    began = time.monotonic()
    processes = DemoProcesses(config, out, track)
    take_sigterm_as_ctrl_c()
    try:
        nodes_text = counted(config.run.nodes, "node")
        click.echo(f"starting a controller and {nodes_text}, with logs in {processes.logs}", err=True)
        with console.status("starting a controller and the nodes"):
            processes.start_controller()
            controller = asyncio.run(_found(processes))
            processes.start_nodes()
        asyncio.run(_watch(processes, controller, console, curve))
        if not processes.why_failed():
            processes.join()
        if cause := processes.why_failed():
            raise EdgenodeError(f"{cause}; logs are in {processes.logs}")
    except KeyboardInterrupt:
        processes.stop()
        click.echo(f"edgenode: interrupted; results so far are in {out}", err=True)
        raise SystemExit(130) from None
    finally:
        processes.stop()
    result = _gather(config, out, time.monotonic() - began)
    _draw(out / "accuracy.png", curve, result)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print(console, result, out)


def demo_config(given: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """The demo's run: the keys that options give, over EDGENODE_* variables, over what suits a demo.

    Raises:
        ConfigError: a value is not allowed, or daemons cannot train it.
    """
    variables = {k: v for k, v in environ.items() if k != _CLUSTER}
    suits = {key: value for key, value in _SUITS_A_DEMO.items() if _variable(key) not in variables}
    config = load(None, {"run.cluster": f"demo-{os.getpid()}", **suits, **given}, variables)
    if _variable("run.evaluate_every") not in variables:
        run = msgspec.structs.replace(config.run, evaluate_every=max(1, min(25, config.run.rounds // 10)))
        config = msgspec.structs.replace(config, run=run)
    check_networked(config, controller=True)
    return config


def ignored_variables(environ: Mapping[str, str], own: Collection[str]) -> list[str]:
    """The EDGENODE_* variables that have no effect on a demo, whose own options have the variables ``own``."""
    applied = {*own, *map(_variable, KEYS)} - {_CLUSTER}
    return sorted(name for name in environ if name.startswith("EDGENODE_") and name not in applied)


def _variable(key: str) -> str:
    return f"EDGENODE_{key.replace('.', '_').upper()}"


async def _watch(processes: DemoProcesses, controller: str, console: Console, curve: AccuracyCurve) -> None:
    """Show the run until the controller reports its end."""
    with _ended_line(console), Live(console=console, refresh_per_second=4) as live:
        try:
            async with operator_client(controller, security=processes.security) as client:
                link = ""
                async for status in client.watch():
                    curve.note(status)
                    link = link or (await client.open_page() if status.page else "")
                    live.update(status_table(status, link))
                    if processes.why_failed():
                        return
        except TransportError:
            if processes.processes["controller"].is_alive():
                await asyncio.sleep(1)


@contextmanager
def _ended_line(console: Console) -> Iterator[None]:
    """End the last frame with a newline. Rich omits it where the output is not a terminal."""
    try:
        yield
    finally:
        if not console.is_terminal:
            console.line()


async def _found(processes: DemoProcesses) -> str:
    deadline = time.monotonic() + _START_S
    while True:
        if processes.any_ended():
            raise EdgenodeError(f"{processes.why_failed() or 'a process ended early'}; logs are in {processes.logs}")
        try:
            async with Discovery(processes.config.run.cluster, (LOOPBACK,)) as discovery:
                return (await discovery.wait("controller", timeout_s=1.0)).targets[0]
        except TransportError:
            if time.monotonic() > deadline:
                raise


def _gather(config: Config, out: Path, wall_s: float) -> dict[str, Any]:
    """Merge the nodes' result.json files into one."""
    folders = sorted(path.parent for path in out.glob("node-*/result.json"))
    models = [load_file(folder / "model.safetensors") for folder in folders]
    flat = [np.concatenate([tensor.ravel() for _, tensor in sorted(model.items())]) for model in models]
    nodes = [result_file.read_node(folder / "result.json") for folder in folders]
    result = result_file.summary(config, nodes, wall_s, flat)
    result_file.write(out / "result.json", result)
    return result


def _print(console: Console, result: dict[str, Any], out: Path) -> None:
    headings = ("node", "test accuracy", "rounds", "messages", "payload sent", "on the wire", "u")
    rows = (
        (node["node"], figure(node["test_accuracy"], ".2%"), str(node["rounds"]), str(node["messages"]),
         size(node["payload_bytes"]), size(node["wire_bytes"]), f"{node['u']:.3f}")
        for node in result["nodes"]
    )  # fmt: skip
    title = {"title": "result", "title_justify": "left", "title_style": "bold"}
    console.print(plain_table(headings, rows, right=headings[1:], **title))
    factor = result["compression_factor"]
    fewer = f"sent [bold]{less_than_uncompressed(factor)}[/], " if factor else ""
    console.print(
        f"mean test accuracy [bold]{figure(result['mean_test_accuracy'], '.2%')}[/], {fewer}{result['wall_s']:.0f} s"
    )
    files = "result.json, accuracy.png" if plotting.available() else "result.json"
    console.print(f"{files} and a model.safetensors per node are in {out}", soft_wrap=True)


def _draw(path: Path, curve: AccuracyCurve, result: dict[str, Any]) -> None:
    """Plot accuracy against the bytes that a node sent, and against the same messages uncompressed, or say why not."""
    if result["mean_test_accuracy"] is None:
        click.echo(f"edgenode: warning: {path.name} is not drawn: the data has no test images", err=True)
        return
    if not plotting.available():
        click.echo(f"edgenode: warning: {path.name} is not drawn: {plotting.NOT_INSTALLED}", err=True)
        return
    nodes = result["nodes"]
    sent = [*curve.sent, sum(n["payload_bytes"] for n in nodes) / len(nodes)]
    dense = [*curve.dense, sum(n["dense_bytes"] for n in nodes) / len(nodes)]
    accuracy = [*curve.accuracy, result["mean_test_accuracy"]]
    plotting.plot_accuracy(path, sent, dense, accuracy, f"{result['algorithm'].upper()}, {result['compressor']}")
