"""Many simulated runs on all processors: what became of each, what happened in all of them, and how to replay one."""

from __future__ import annotations

import argparse
import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from typing import Generic, TypeVar

from edgenode.core.protocol.node import Node
from tests.simulation.cluster_sim import ClusterSim, Stuck

T = TypeVar("T")


@dataclass(frozen=True)
class Trial(Generic[T]):
    """What became of one run; ``error`` is empty if everything held."""

    of: T
    happened: Counter[str]
    digest: str
    error: str = ""


def play(network: ClusterSim) -> ClusterSim:
    """Play a run to its end, or to where it is right not to go on.

    Raises:
        EdgenodeError: an invariant broke, or nothing moved although a majority was alive.
    """
    try:
        network.run()
    except Stuck:
        why = _may_wait(network)
        if not why:
            raise
        network.happened[why] += 1
    return network


def _may_wait(stuck: ClusterSim) -> str:
    """Why a run that does not go on is right not to; empty if it is not."""
    if any("stays: without" in line for line in stuck.transcript.lines):
        return "paused below half, and said so"
    if stuck.cluster and stuck.cluster.missing() and len(stuck.alive) < stuck.run_spec.nodes:
        return "a founder never came"
    held = any(node.fenced or node.halted for node in stuck.nodes.values())
    absent = {name for node in stuck.nodes.values() for name in node.plan.latest.names} - set(stuck.nodes)
    if stuck.cluster is None and (held or absent or not stuck.nodes):
        return "the controller was needed, and never came back"
    if stuck.cluster and stuck.cluster.recover and stuck.cluster.plan is None and not stuck.nodes:
        return "nobody knew the run that was to be recovered"
    if stuck.nodes and all(_has_left(name, node) for name, node in stuck.nodes.items() if name not in stuck.finished):
        return "a leaver that nobody answered any more"  # `edgenode run` gives up after some seconds
    for_good = stuck.cluster is not None and bool(stuck.cluster.waits_for() - stuck.alive)
    return "all died, one for good" if for_good and not stuck.nodes else ""


def _has_left(name: str, node: Node) -> bool:
    leaves = [r.start for r in node.plan.records for leaver, _ in r.handoffs if leaver == name]
    return bool(leaves) and node.round >= max(leaves)


def trial(make: Callable[[T], ClusterSim], of: T, twice: bool = False) -> Trial[T]:
    """Play one run; ``twice``: and once more, which must give the same transcript."""
    try:
        played = play(make(of))
        digest = played.transcript.digest
        same = not twice or play(make(of)).transcript.digest == digest
    except Exception as exc:  # whatever it is, it is a failure, and the other runs go on
        return Trial(of, Counter(), "", f"{type(exc).__name__}: {exc}")
    return Trial(of, played.happened, digest, "" if same else "played twice, it gave two transcripts")


def trials(
    make: Callable[[T], ClusterSim], of: Sequence[T], twice: bool = False, jobs: int | None = None
) -> Iterator[Trial[T]]:
    """Play many runs on all processors, or on ``jobs`` of them; in their order. ``make`` is a function of a module."""
    # millions of short-lived values: looking for cycles among them less often saves a tenth of the time
    with get_context("spawn").Pool(jobs, gc.set_threshold, (50_000, 20, 20)) as pool:
        yield from pool.imap(partial(trial, make, twice=twice), of, chunksize=16)


@dataclass
class Summary:
    """What happened in all runs."""

    runs: int
    failures: int
    happened: Counter[str]
    digest: str


def report(
    played: Iterator[Trial[T]], total: int, noun: str, replay: Callable[[T], str], first: bool = False
) -> Summary:
    """Print every failure with the command that replays it, the progress, and at the end the sums.

    With ``first`` it ends after the first failure.
    """
    happened, failures, digest = Counter[str](), 0, sha256()
    for done, one in enumerate(played, 1):
        happened += one.happened
        digest.update(one.digest.encode())
        if one.error:
            failures += 1
            print(f"{noun} {one.of}: {one.error}\n  replay: {replay(one.of)}", flush=True)
            if first:
                return Summary(done, failures, happened, digest.hexdigest())
        if sys.stderr.isatty():
            print(f"\r{done}/{total} {noun}s, {failures} violations", end="", file=sys.stderr, flush=True)
        elif done % 1000 == 0:
            print(f"{done}/{total} {noun}s, {failures} violations", file=sys.stderr, flush=True)
    print(f"{total} {noun}s, {failures} violations, transcripts {digest.hexdigest()[:16]}")
    return Summary(total, failures, happened, digest.hexdigest())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all of these commands have."""
    parser.add_argument("--first", action="store_true", help="end with the first violation")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes [default: one per processor]")
