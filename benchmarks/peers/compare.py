"""edgenode beside its peers, on the same work over slow links: one table and one picture.

    python -m benchmarks.peers.compare                                   # everything: about an hour
    python -m benchmarks.peers.compare --work digits --rate 10           # a part
    python -m benchmarks.peers.compare --peers "DDP gloo" "edgenode rolling 10 %" --work fashion --rate 1

Four nodes train one model with the same data, batch size, optimiser and number of steps. Each is a process in a network
namespace of its own, whose link is limited to 1 or 10 Mbit/s in each direction by tc tbf. A run ends when the mean
accuracy of the nodes reaches the highest target, after the last step, or after `--most` seconds. Steps per second are
those after the first evaluation.

- Seconds count from the first step of a node, without evaluations, which take as long as the steps between them.
- Bytes are those that the link of a node has sent and received since then, as its interface counts them, so headers,
  TLS and acknowledgements are included. A server has a host of its own, which is not counted.

Needs root, iproute2, and Fashion-MNIST (`--data`). Peers are installed from PyPI into virtual environments below
`--venvs`. One that cannot be installed or fails is named below the table. Writes table.md, curves.json and, with
matplotlib, curves.png to `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.peers.work import Job
from edgenode import factory
from edgenode.config.load import load
from edgenode.security import local
from edgenode.tasks import datasets
from edgenode.tasks.partition import partition
from edgenode_lab.datasets import DEBIAN_FASHION_MNIST
from tests.e2e import netns

HERE = Path(__file__).parent
NODES = 4
TARGETS = (0.80, 0.85)
WORK = {"digits": ("digits", "mlp", 0.02), "fashion": ("fashion-mnist", "small-cnn", 0.05)}
"""Data set, model and learning rate."""
_TEST_IMAGES = 2000  # evaluation is not what is compared
_EVALUATE_EVERY, _LOCAL_STEPS = 20, 10
_PORT = 7600
_CLUSTER = "peers"


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        script: beside this file. Empty for edgenode.
        packages: of its virtual environment, which has the name of the script. Without any, it runs in this one.
        server: whether one more process runs on a host of its own.
        settings: keys of run.toml.
    """

    script: str = ""
    packages: tuple[str, ...] = ()
    variant: str = ""
    server: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)


PEERS = {
    "edgenode rolling 10 %": Peer(settings={"algorithm.name": "sp", "algorithm.compressor": "rolling",
                                            "algorithm.share": 0.1}),
    "edgenode rolling 10 %, 4 bits, 4 local steps": Peer(
        settings={"algorithm.name": "sp", "algorithm.compressor": "rolling", "algorithm.share": 0.1,
                  "algorithm.values": "fitted4", "task.local_steps": 4}
    ),
    "edgenode DiLoCo, 1 bit, 4 local steps": Peer(
        settings={"algorithm.name": "diloco", "algorithm.values": "fitted1", "algorithm.averaging_rate": 0.3,
                  "topology.graphs": ["halving"], "task.local_steps": 4}
    ),
    "edgenode top-1 %": Peer(settings={"algorithm.name": "sp", "algorithm.share": 0.01}),
    "edgenode D-PSGD": Peer(settings={"algorithm.name": "d-psgd"}),
    "gRPC alone": Peer("grpc_ring"),
    "local steps alone": Peer("local_steps"),
    "DDP gloo": Peer("ddp", ("torch",)),
    "DDP gloo, PowerSGD": Peer("ddp", ("torch",), "powersgd"),
    "decent-dp": Peer("decent_dp_ring", ("torch", "decent-dp==0.2.3")),
    "hivemind": Peer("hivemind_average", ("torch", "hivemind==1.1.12")),
    "Flower": Peer("flower", ("torch", "flwr==1.42.0"), server=True),
    "p2pfl": Peer("p2pfl_gossip", ("torch", "p2pfl[dp]==0.4.4", "pyarrow<21", "huggingface-hub<1")),
}  # fmt: skip


class Point(NamedTuple):
    """The mean over the nodes after some steps."""

    step: int
    s: float
    bytes: float
    accuracy: float


@dataclass
class Curve:
    """One run."""

    work: str
    mbit: float
    peer: str
    points: list[Point]
    failure: str = ""

    def first(self, accuracy: float) -> Point | None:
        """Where the accuracy is first reached."""
        return next((point for point in self.points if point.accuracy >= accuracy), None)


# --- one run -----------------------------------------------------------------------------------------


def write_data(work: str, data_dir: str | None, skew: float, folder: Path) -> None:
    """A shard for each rank, and the test data."""
    data = datasets.load(WORK[work][0], data_dir)
    scale = float(data.train_images.max())
    for rank, indices in enumerate(partition(data.train_labels, NODES, skew, 0)):
        _write(folder / f"{rank}.npz", data.train_images[indices], data.train_labels[indices], scale)
    _write(folder / "test.npz", data.test_images[:_TEST_IMAGES], data.test_labels[:_TEST_IMAGES], scale)


def _write(path: Path, images: datasets.Tensor, labels: datasets.Tensor, scale: float) -> None:
    np.savez(path, images=(images.float() / scale).numpy().astype(np.float16), labels=labels.numpy())


def run(work: str, mbit: float, name: str, options: argparse.Namespace) -> Curve:
    """Run one peer to a target, to the end or to the limit of time."""
    peer = PEERS[name]
    curve = Curve(work, mbit, name, [])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgenode-peers-")))
        write_data(work, options.data if work == "fashion" else None, options.skew, folder)
        bridge = stack.enter_context(netns.Bridge(NODES + 1))
        for host in range(NODES + 1):
            stack.enter_context(bridge.limit(host, int(mbit * 1e6)))
        job = Job(
            WORK[work][1], list(bridge.addresses), options.steps, options.batch, WORK[work][2],
            _EVALUATE_EVERY, _LOCAL_STEPS, peer.variant,
        )  # fmt: skip
        (folder / "job.json").write_text(json.dumps({k: v for k, v in asdict(job).items() if k != "folder"}))
        local.prepare(folder, _CLUSTER, map(_name, range(NODES)))  # certificates
        command = _edgenode(peer, job, folder) if not peer.script else _script(peer, folder, options.venvs)
        running = []
        for rank in range(NODES + peer.server):
            log = stack.enter_context((folder / f"{rank}.log").open("wb"))
            running.append(bridge.spawn(rank, command(rank), cwd=folder, env=_environ(folder), stdout=log, stderr=log))
        stack.callback(_kill_all, bridge)
        deadline = time.monotonic() + options.most
        while time.monotonic() < deadline:
            time.sleep(0.5)
            codes = [process.poll() for process in running]
            curve.points = read(folder)
            if failed := [rank for rank, code in enumerate(codes) if code]:
                curve.failure = _last_line(folder / f"{failed[0]}.log")
            there = not options.all_steps and curve.first(max(TARGETS))
            if failed or None not in codes[:NODES] or there:
                break
    return curve


def _edgenode(peer: Peer, job: Job, folder: Path) -> Callable[[int], list[str]]:
    """run.toml and the command of a rank."""
    settings = {
        "run.cluster": _CLUSTER, "run.nodes": NODES, "run.threads": 1, "task.entry": "edgenode_task:Work",
        "topology.graphs": ["a"], "task.batch_size": job.batch, "task.learning_rate": job.learning_rate,
        **peer.settings,
    }  # fmt: skip
    local_steps = peer.settings.get("task.local_steps", 1)
    assert isinstance(local_steps, int)
    rounds = factory.exchange_rounds(load(None, settings, environ={}))  # of an exchange
    settings["run.rounds"] = job.steps // local_steps * rounds
    settings["run.evaluate_every"] = job.evaluate_every // local_steps * rounds
    (folder / "run.toml").write_text(load(None, settings, environ={}).to_toml())
    addresses = [f"{host}:{_PORT}" for host in job.hosts[:NODES]]
    return lambda rank: [
        sys.executable, "-m", "edgenode", "run", "--config", str(folder / "run.toml"), "--name", _name(rank),
        "--listen", addresses[rank], "--peers", ",".join(addresses), "--state-dir", str(folder / _name(rank)),
    ]  # fmt: skip


def _name(rank: int) -> str:
    return f"n{rank}"


def _script(peer: Peer, folder: Path, venvs: Path) -> Callable[[int], list[str]]:
    python = str(venvs.absolute() / peer.script / "bin" / "python") if peer.packages else sys.executable
    return lambda rank: [python, str(HERE / f"{peer.script}.py"), str(rank), str(folder)]


def _environ(folder: Path) -> dict[str, str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("EDGENODE_") and "proxy" not in k.lower()}
    ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), "EDGENODE_PEERS_FOLDER": str(folder)}
    return environ | ours | {"GRPC_ENABLE_FORK_SUPPORT": "0", "HOME": str(folder)}


def read(folder: Path) -> list[Point]:
    """The mean of the nodes, as far as all have come."""
    rows = []
    for rank in range(NODES):
        path = folder / f"{rank}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        rows.append([json.loads(line) for line in lines if line.endswith("\n")])
    return [
        Point(same[0]["step"], *(statistics.mean(row[key] for row in same) for key in ("s", "bytes", "accuracy")))
        for same in zip(*rows, strict=False)
    ]


def _kill_all(bridge: netns.Bridge) -> None:
    """Kill all processes in the namespaces, among them those that the peers have started."""
    for namespace in bridge.namespaces:
        found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
        for pid in found.stdout.split():
            os.kill(int(pid), signal.SIGKILL)


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["its log is empty"])[-1][:200]


# --- environments, table and picture -----------------------------------------------------------------


def installed(names: Sequence[str], venvs: Path) -> Iterator[str]:
    """The peers that are installed. Installs what is missing, and says what cannot be."""
    failed: dict[str, str] = {}
    for name in names:
        peer = PEERS[name]
        place = venvs / peer.script
        if peer.packages and not (place / ".ready").exists() and peer.script not in failed:
            print(f"installing {' '.join(peer.packages)} into {place}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            command = [place / "bin" / "python", "-m", "pip", "install", "-q", "numpy", *peer.packages]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                failed[peer.script] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            else:
                (place / ".ready").touch()
        if peer.script in failed:
            print(f"skipping {name}: {failed[peer.script]}", flush=True)
        else:
            yield name


def table(curves: Sequence[Curve]) -> str:
    """All runs, as Markdown."""
    head = ["work", "Mbit/s", "peer", "steps/s"]
    head += [f"{unit} to {target:.0%}" for target in TARGETS for unit in ("steps", "s", "MB")] + ["highest accuracy"]
    lines = [head, ["---"] * len(head)]
    for curve in curves:
        first, last = (curve.points[0], curve.points[-1]) if curve.points[1:] else (None, None)
        cells = [f"{(last.step - first.step) / (last.s - first.s):.1f}" if first and last else "-"]
        for target in TARGETS:
            point = curve.first(target)
            cells += [f"{point.step}", f"{point.s:.2f}", f"{point.bytes / 1e6:.3f}"] if point else ["-"] * 3
        best = f"{max(point.accuracy for point in curve.points):.1%}" if curve.points else "-"
        lines.append([curve.work, f"{curve.mbit:g}", curve.peer, *cells, best])
    failures = [f"{c.peer}, {c.work}, {c.mbit:g} Mbit/s failed: {c.failure}" for c in curves if c.failure]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *failures])


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Accuracy against bytes and against seconds, a row for each work and rate."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: it needs matplotlib (edgenode[plots])")
        return
    rows = list(dict.fromkeys((curve.work, curve.mbit) for curve in curves))
    figure = Figure(figsize=(11, 3.2 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for (work, mbit), (by_bytes, by_time) in zip(rows, grid, strict=True):
        for curve in (c for c in curves if (c.work, c.mbit) == (work, mbit) and c.points):
            style = {"color": f"C{list(PEERS).index(curve.peer)}", "label": curve.peer}
            accuracy = [100 * point.accuracy for point in curve.points]
            by_bytes.plot([point.bytes / 1e6 for point in curve.points], accuracy, **style)
            by_time.plot([point.s for point in curve.points], accuracy, **style)
        for axes, unit in ((by_bytes, "MB through the link of a node"), (by_time, "seconds")):
            axes.set(xscale="log", xlabel=unit, ylabel="mean test accuracy, %", title=f"{work}, {mbit:g} Mbit/s")
            axes.grid(alpha=0.3)
            for target in TARGETS:
                axes.axhline(100 * target, color="#24292f", lw=0.8, ls=":")
    grid[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--rate", nargs="+", type=float, default=[1, 10], metavar="MBIT")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER",
                        help=f"of {', '.join(map(repr, PEERS))}".replace("%", "%%"))  # fmt: skip
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--all-steps", action="store_true", help="also after the highest accuracy is reached")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--skew", type=float, default=0.0, help="share of the data that is cut by label")
    parser.add_argument("--most", type=float, default=300, help="seconds of a run")
    parser.add_argument("--data", default=str(DEBIAN_FASHION_MNIST), help="folder of Fashion-MNIST")
    parser.add_argument("--venvs", type=Path, default=Path.home() / ".cache" / "edgenode-peers")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    options = parser.parse_args()
    if reason := netns.cannot_disturb():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the namespaces are removed in every case
    options.out.mkdir(parents=True, exist_ok=True)
    peers, curves = list(installed(options.peers, options.venvs)), []
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    for work, mbit, name in product(options.work, options.rate, peers):
        curves.append(run(work, mbit, name, options))
        print(table(curves[-1:]).splitlines()[2], curves[-1].failure, flush=True)
        (options.out / "curves.json").write_text(json.dumps([asdict(curve) for curve in curves], indent=1))
    (options.out / "table.md").write_text(table(curves) + "\n")
    draw(curves, options.out / "curves.png")
    print(f"\n{table(curves)}\n\nwritten to {options.out}")


if __name__ == "__main__":
    main()
