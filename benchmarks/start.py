"""How long `edgenode run` takes until it is ready for its peers, against `import torch`.

    python benchmarks/start.py

A node is ready when it serves with its data loaded. Both run in turn. Printed are processor time, which other work on
the machine disturbs least, and elapsed time: the median of the runs, with the range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import psutil

_IMPORT = "import sys, time, torch; print('done', file=sys.stderr, flush=True); time.sleep(60)"
_ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}


def took(command: Sequence[str], until: str = "") -> tuple[float, float]:
    """Processor time and elapsed time of a command, in seconds: to its end, or until it prints some text."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, *command], env=_ENVIRON, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if not any(until in line for line in process.stderr) and until:
            sys.exit(f"the node never printed {until!r}")
        elapsed, usage = time.monotonic() - began, psutil.Process(process.pid).cpu_times()
        process.kill()
    return usage.user + usage.system, elapsed


def node(port: int) -> tuple[float, float]:
    """One node, until it serves its peers with its data loaded."""
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "edgenode", "run", "--insecure", "--listen", address, "--peers", address, "--state-dir", folder]
        return took([*words, "--set", "run.nodes=1"], until="listening")


def show(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--port", type=int, default=7655)
    options = parser.parse_args()
    runs = [(node(options.port), took(["-c", _IMPORT], until="done")) for _ in range(options.runs)]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| s | edgenode run | import torch | ratio |\n|---|---|---|---|")
    for place, what in enumerate(("processor time", "elapsed")):
        ours, theirs = ([run[side][place] for run in runs] for side in (0, 1))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(f"| {what} | {show(ours)} | {show(theirs)} | {show(ratios)} |")


if __name__ == "__main__":
    main()
