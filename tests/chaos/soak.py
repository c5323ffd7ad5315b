"""A run without end that fails if the memory or the file descriptors of a process grow.

    python -m tests.chaos.soak --hours 2 --out FOLDER

A controller and four nodes train on loopback. The topology changes and a status is read once a minute. Samples go to
FOLDER/samples.csv. At the end, or on Ctrl-C, a Markdown table shows each process at the start and at the end of the
measured window, which begins after a warm-up. The exit code is 1 if memory or descriptors grow.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from tests.e2e.fleet import Fleet, Process

NODES = 4
ENDLESS = 100_000_000  # rounds: years
NORMAL = {
    "run.rounds": ENDLESS,
    "run.evaluate_every": 50,
    "run.checkpoint_every": 50,
    "run.barrier_timeout_s": 120,
    "task.norm": "group",
    "algorithm.gossip_graph": "plan",
}
SAMPLE_EVERY_S = 30.0
CHANGE_EVERY_S = 60.0
WARM_UP_S = 600.0
SLOPE_LIMIT_MIB_PER_H = 1.0
FD_SLACK = 4  # a status or topology command may be connected during a sample
CHANGES = (("set", "b"), ("rotate", "a,b,c", "--every", "2ep"), ("set", "c"), ("rotate", "c,a", "--every", "50r"))


@dataclass(frozen=True)
class Sample:
    """One process at one time."""

    at_s: float
    process: str
    rss_kib: int
    pss_kib: int
    fds: int
    round: int


@dataclass(frozen=True)
class Verdict:
    """How one process changed over the measured window."""

    process: str
    rss_start_mib: float
    rss_end_mib: float
    slope_mib_per_h: float
    fds_min: int
    fds_max: int
    fds_grew: bool
    rounds: int

    @property
    def sound(self) -> bool:
        return self.slope_mib_per_h <= SLOPE_LIMIT_MIB_PER_H and not self.fds_grew


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.out.mkdir(parents=True, exist_ok=True)
    samples = soak(options.out, options.hours * 3600)
    verdicts = judge(samples)
    print(table(verdicts), flush=True)
    return 0 if verdicts and all(v.sound for v in verdicts) else 1


def soak(out: Path, duration_s: float) -> list[Sample]:
    """Run and sample. Ctrl-C returns the samples so far."""
    samples: list[Sample] = []
    with Fleet(out / "fleet") as fleet, (out / "samples.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Sample)])
        fleet.configure(NORMAL)
        processes = [fleet.controller("--state-dir", str(fleet.state("controller"))), *fleet.nodes(NODES)]
        try:
            for process in processes[1:]:
                process.logs("epoch done")
            for sample in watch(fleet, processes, duration_s):
                samples.append(sample)
                writer.writerow(astuple(sample))
                file.flush()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    return samples


def watch(fleet: Fleet, processes: list[Process], duration_s: float) -> Iterator[Sample]:
    """Change the topology from time to time, and sample every process."""
    began, changes = time.monotonic(), itertools.cycle(CHANGES)
    next_change_s = CHANGE_EVERY_S
    for tick in itertools.count():
        time.sleep(max(0.0, began + tick * SAMPLE_EVERY_S - time.monotonic()))  # a pace, not a wait for a condition
        now_s = time.monotonic() - began
        if now_s >= duration_s:
            return
        for process in processes:
            if process.popen.poll() is not None:
                raise AssertionError(f"{process.name} ended by itself\n{process.tail()}")
        rounds = rounds_of(fleet)
        for process in processes:
            yield sample(process, now_s, rounds.get(process.name, 0))
        if now_s >= next_change_s:
            next_change_s += CHANGE_EVERY_S
            command(fleet, "topology", *next(changes))


def command(fleet: Fleet, *words: str) -> str:
    """Run one operator's command, and delete its logs, which would be thousands."""
    done = fleet.command(*words, "--cluster", fleet.cluster)
    fleet.processes.remove(done)
    output = done.stdout
    done.out.unlink()
    done.log.unlink()
    return output


def rounds_of(fleet: Fleet) -> dict[str, int]:
    status = json.loads(command(fleet, "status", "--json"))
    return {node["node"]: node["round"] for node in status["nodes"]}


def sample(process: Process, at_s: float, t: int) -> Sample:
    folder = Path("/proc") / str(process.popen.pid)
    rss = memory_kib(folder / "status", "VmRSS")
    return Sample(
        round_to_tenth(at_s), process.name, rss, memory_kib(folder / "smaps_rollup", "Pss"), count_fds(folder), t
    )


def round_to_tenth(seconds: float) -> float:
    return float(f"{seconds:.1f}")


def memory_kib(file: Path, key: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:  # not every kernel has smaps_rollup
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def count_fds(folder: Path) -> int:
    return sum(1 for _ in (folder / "fd").iterdir())


def judge(samples: list[Sample]) -> list[Verdict]:
    """Return one verdict for each process with samples after the warm-up."""
    measured = [s for s in samples if s.at_s >= WARM_UP_S]
    names = dict.fromkeys(s.process for s in measured)
    return [verdict(name, [s for s in measured if s.process == name]) for name in names]


def verdict(name: str, seen: list[Sample]) -> Verdict:
    hours = np.array([s.at_s for s in seen]) / 3600
    mib = np.array([s.rss_kib for s in seen]) / 1024
    slope = float(np.polyfit(hours, mib, 1)[0]) if len(seen) > 2 else 0.0
    fds = np.array([s.fds for s in seen])
    third = max(1, len(fds) // 3)
    grew = bool(np.median(fds[-third:]) > np.median(fds[:third]) or fds.max() - fds.min() > FD_SLACK)
    return Verdict(name, mib[0], mib[-1], slope, int(fds.min()), int(fds.max()), grew, seen[-1].round)


def table(verdicts: list[Verdict]) -> str:
    head = ("process", "RSS start, MiB", "RSS end, MiB", "slope, MiB/h", "fds min", "fds max", "rounds done", "sound")
    rows = [head, ("---",) * len(head)]
    for v in verdicts:
        sizes = (f"{v.rss_start_mib:.1f}", f"{v.rss_end_mib:.1f}", f"{v.slope_mib_per_h:+.2f}")
        rows.append((v.process, *sizes, str(v.fds_min), str(v.fds_max), str(v.rounds), "yes" if v.sound else "NO"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
