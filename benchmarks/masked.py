"""What masked messages cost daemons, against DiLoCo with the same number format: bytes, processor time and seconds.

    python benchmarks/masked.py

Four daemons with fixed peers and certificates train a ResNet-20, with one step on one digit before
each exchange. The row of a format is the difference of a long run and a short one, so starts do not count. Printed are
the median and the range of the repetitions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from edgenode.addresses import free_ports
from edgenode.config.load import load
from edgenode.security.authority import Authority
from edgenode.security.subject import Subject

NODES, SHORT, LONG = 4, 10, 60
ENVIRON = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1", "EDGENODE_HTTP": "none"}
ALGORITHMS = [(name, values) for values in ("int8", "int4") for name in ("diloco", "masked-diloco")]


@dataclass(frozen=True)
class Cost:
    """What the nodes of a run took: bytes of one message, and seconds of a node."""

    message_bytes: float
    cpu_s: float
    wall_s: float


def run(name: str, values: str, rounds: int, folder: Path) -> Cost:
    """Train to the end."""
    settings = {
        "run.cluster": "masked", "run.nodes": NODES, "run.rounds": rounds, "run.threads": 1, "run.evaluate_every": 0,
        "run.checkpoint_every": 1000, "task.model": "resnet20", "task.batch_size": 1, "topology.graphs": ["complete"],
        "algorithm.name": name, "algorithm.values": values,
    }  # fmt: skip
    (folder / "run.toml").write_text(load(None, settings, environ={}).to_toml())
    authority, ports, processes = Authority(folder / "authority", "masked"), free_ports(NODES), []
    peers = ",".join(f"127.0.0.1:{port}" for port in ports)
    began = time.monotonic()
    for i, port in enumerate(ports):
        authority.keep(folder / f"node-{i}" / "credentials.pem", Subject("node", f"node-{i}"))
        where = ("--listen", f"127.0.0.1:{port}", "--peers", peers, "--state-dir", str(folder / f"node-{i}"))
        command = [sys.executable, "-m", "edgenode", "run", "--config", str(folder / "run.toml"), "--name", f"node-{i}"]
        with (folder / f"{i}.log").open("wb") as log:
            processes.append(subprocess.Popen([*command, *where], env=ENVIRON, stdout=log, stderr=log))
    cpu_s = 0.0
    for i, process in enumerate(processes):
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, (folder / f"{i}.log").read_text()
        cpu_s += (used.ru_utime + used.ru_stime) / NODES
    wall_s = time.monotonic() - began
    (node,) = json.loads((folder / "node-0" / "result.json").read_text())["nodes"]
    return Cost(node["payload_bytes"] / node["messages"], cpu_s, wall_s)


def show(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[Cost]] = {}
    for _ in range(options.runs):
        for algorithm in ALGORITHMS:
            costs = []
            for rounds in (SHORT, LONG):
                with tempfile.TemporaryDirectory() as folder:
                    costs.append(run(*algorithm, rounds, Path(folder)))
            short, long = costs
            each = 1e3 / (LONG - SHORT)
            cost = Cost(long.message_bytes, each * (long.cpu_s - short.cpu_s), each * (long.wall_s - short.wall_s))
            found.setdefault(algorithm, []).append(cost)
    print("| | values | bytes of a message | ms of processor time of an exchange | ms of an exchange |")
    print("|---|---|---|---|---|")
    for (name, values), rows in found.items():
        cells = show([cost.cpu_s for cost in rows]), show([cost.wall_s for cost in rows])
        print(f"| {name} | {values} | {rows[-1].message_bytes:,.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
