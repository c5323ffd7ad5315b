"""``edgenode demo``: a controller and nodes as real processes on one machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from edgenode.cli.options import take_sigterm_as_ctrl_c
from edgenode.cli.status_table import status_table
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.protocol.status import ClusterStatus
from edgenode.errors import EdgenodeError, TransportError
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.operator_client import operator_client
from edgenode.observability import plotting
from edgenode.observability.status_view import size
from edgenode.storage import result_file

_START_S = 30.0
_END_S = 20.0
_TERM_S = 5.0


@dataclass
class AccuracyCurve:
    """The curve of the plot: the means over the nodes, sample by sample."""

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
@click.option("--nodes", default=4, show_default=True, type=click.IntRange(2, 64), envvar="EDGENODE_NODES",
              help="Number of node processes.")  # fmt: skip
@click.option("--rounds", default=1000, show_default=True, type=click.IntRange(1), envvar="EDGENODE_ROUNDS",
              help="Training rounds.")  # fmt: skip
@click.option("--algorithm", default="scsp", show_default=True, type=click.Choice(["sp", "scsp"]),
              envvar="EDGENODE_ALGORITHM", help="Sparse-Push, without or with the final gossip.")  # fmt: skip
@click.option("--topk", default=1.0, show_default=True, type=click.FloatRange(0, 100, min_open=True),
              envvar="EDGENODE_TOPK", help="Percentage of each tensor that a round sends.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, envvar="EDGENODE_JSON", help="Print result.json instead of a table.")
@click.option("--out", type=click.Path(path_type=Path), envvar="EDGENODE_OUT", show_envvar=True,
              help="Folder for the results. [default: runs/demo-TIME]")  # fmt: skip
def demo(nodes: int, rounds: int, algorithm: str, topk: float, as_json: bool, out: Path | None) -> None:
    """Train on handwritten digits on this machine, with a controller and four nodes as five real processes.

    The processes find each other by mDNS and communicate over gRPC on loopback. Every node has its own, unequal share
    of the data (skew 0.8). Writes result.json, accuracy.png and one model.safetensors per node, and prints a table. The
    picture needs edgenode[plots].

    \b
    Examples:
      edgenode demo
      edgenode demo --nodes 8 --rounds 2000 --topk 0.5
      edgenode demo --algorithm sp --json --out /tmp/sp
    """
    out = (out or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    config = _config(out, nodes, rounds, algorithm, topk)
    console = Console(stderr=as_json)
    curve = AccuracyCurve()
    began = time.monotonic()
    take_sigterm_as_ctrl_c()
    processes = DemoProcesses(config, out)
    try:
        processes.start()
        asyncio.run(_watch(processes, console, curve))
        codes = processes.join()
        if any(codes.values()):
            raise EdgenodeError(f"{processes.why_failed(codes)}; logs are in {out / 'logs'}")
    except KeyboardInterrupt:
        processes.stop()
        click.echo(f"edgenode: interrupted; results so far are in {out}", err=True)
        raise SystemExit(130) from None
    finally:
        processes.stop()
    result = _gather(config, out, time.monotonic() - began)
    if plotting.available():
        _plot(out / "accuracy.png", curve, result)
    else:
        click.echo(f"edgenode: warning: accuracy.png is not drawn: {plotting.NOT_INSTALLED}", err=True)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print(console, result, out)


def _config(out: Path, nodes: int, rounds: int, algorithm: str, topk: float) -> Config:
    """The demo's run.toml, kept with the results so that you can start the same run by hand."""
    config = load(
        None,
        {
            "run.cluster": f"demo-{os.getpid()}",
            "run.nodes": nodes,
            "run.threads": 1,  # all nodes share this machine
            "run.device": "cpu",
            "run.rounds": rounds,
            "run.evaluate_every": max(1, min(25, rounds // 10)),
            "task.skew": 0.8,
            "task.learning_rate": 0.02,
            "algorithm.name": algorithm,
            "algorithm.share": topk / 100,
            # a round of whole models costs as much as a hundred sparse ones: use the graph that averages in the fewest
            "algorithm.gossip_graph": "one-peer-exponential",
            "topology.graphs": ["a", "b", "c"],
            "topology.every": "1ep",
        },
        environ={},
    )
    (out / "run.toml").write_text(config.to_toml(), encoding="utf-8")
    return config


class DemoProcesses:
    """The processes of the demo. ``stop`` ends all of them in every case."""

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out = config, out
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Spawn the nodes and the controller. They start in any order."""
        common = ["--config", str(self.out / "run.toml"), "--listen", "127.0.0.1:0"]
        for i in range(self.config.run.nodes):
            name = f"node-{i:0{len(str(self.config.run.nodes - 1))}d}"
            self._spawn(name, ["run", "--name", name, "--state-dir", str(self.out / name), *common])
        self._spawn(
            "controller", ["controller", "--http", "127.0.0.1:0", "--state-dir", str(self.out / "controller"), *common]
        )

    def _spawn(self, name: str, arguments: list[str]) -> None:
        logs = self.out / "logs"
        logs.mkdir(exist_ok=True)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("EDGENODE_")}
        environ |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1"}
        with (logs / f"{name}.log").open("wb") as log, _uninterrupted():
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "edgenode", *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ,
                start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
            )  # fmt: skip

    def ended(self) -> dict[str, int]:
        """Exit codes of the processes that have exited."""
        return {name: p.returncode for name, p in self.processes.items() if p.poll() is not None}

    def join(self) -> dict[str, int]:
        """Wait until all have exited by themselves. Returns the exit codes by name."""
        deadline = time.monotonic() + _END_S
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
        return {name: p.wait() for name, p in self.processes.items()}

    def why_failed(self, codes: dict[str, int]) -> str:
        """The last line of a failed node's log."""
        failed = sorted((name for name, code in codes.items() if code), key=lambda n: n == "controller")
        lines = (self.out / "logs" / f"{failed[0]}.log").read_text(errors="replace").strip().splitlines()
        return f"{failed[0]} failed: {lines[-1] if lines else 'its log is empty'}"

    def stop(self) -> None:
        """End every process that still runs: interrupt it, and kill it if that does not help."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _TERM_S
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block.

    Between the start of a child and its entry in the list, an interrupt would leave a child that nobody ends.
    """
    caught: list[int] = []
    before = {s: signal.signal(s, lambda number, _: caught.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


async def _watch(processes: DemoProcesses, console: Console, curve: AccuracyCurve) -> None:
    """Show the run until the controller reports its end."""
    with console.status("starting a controller and the nodes"):
        target = await _found(processes)
    with _ended_line(console), Live(console=console, refresh_per_second=8) as live:
        try:
            async with operator_client(target) as client:
                async for status in client.watch():
                    curve.note(status)
                    live.update(status_table(status))
                    if any(processes.ended().values()):
                        return
        except TransportError:
            if processes.processes["controller"].poll() is None:
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
        if codes := processes.ended():
            raise EdgenodeError(processes.why_failed(codes))
        try:
            async with Discovery(processes.config.run.cluster, (LOOPBACK,)) as discovery:
                return (await discovery.wait("controller", timeout_s=1.0)).targets[0]
        except TransportError:
            if time.monotonic() > deadline:
                raise


def _gather(config: Config, out: Path, wall_s: float) -> dict[str, Any]:
    """Merge the nodes' result.json files into one."""
    from safetensors.numpy import load_file

    folders = sorted(path.parent for path in out.glob("node-*/result.json"))
    models = [load_file(folder / "model.safetensors") for folder in folders]
    import numpy as np

    flat = [np.concatenate([tensor.ravel() for _, tensor in sorted(model.items())]) for model in models]
    nodes = [result_file.read_node(folder / "result.json") for folder in folders]
    result = result_file.summary(config, nodes, wall_s, flat)
    result_file.write(out / "result.json", result)
    return result


def _print(console: Console, result: dict[str, Any], out: Path) -> None:
    table = Table(title="result", title_justify="left", title_style="bold")
    for heading in ("node", "test accuracy", "rounds", "messages", "payload sent", "on the wire", "u"):
        table.add_column(heading, justify="left" if heading == "node" else "right")
    for node in result["nodes"]:
        table.add_row(
            node["node"], f"{node['test_accuracy']:.2%}", str(node["rounds"]), str(node["messages"]),
            size(node["payload_bytes"]), size(node["wire_bytes"]), f"{node['u']:.3f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"mean test accuracy [bold]{result['mean_test_accuracy']:.2%}[/], "
        f"[bold]{result['compression_factor']:.0f}x[/] fewer bytes than uncompressed, {result['wall_s']:.0f} s"
    )
    files = "result.json, accuracy.png" if plotting.available() else "result.json"
    console.print(f"{files} and a model.safetensors per node are in {out}", soft_wrap=True)


def _plot(path: Path, curve: AccuracyCurve, result: dict[str, Any]) -> None:
    """Plot accuracy against bytes sent per node, and against the size of the same messages without compression."""
    nodes = result["nodes"]
    sent = [*curve.sent, sum(n["payload_bytes"] for n in nodes) / len(nodes)]
    dense = [*curve.dense, sum(n["dense_bytes"] for n in nodes) / len(nodes)]
    accuracy = [*curve.accuracy, result["mean_test_accuracy"]]
    plotting.plot_accuracy(path, sent, dense, accuracy, f"{result['algorithm'].upper()}, {result['compressor']}")
