"""Many simulated runs on all processors: the result of each, the sums, and the command that replays a failure."""

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

from edgenode.core.protocol.member.node import Node
from tests.simulation.cluster_sim import ClusterSim, Stuck

T = TypeVar("T")

_OPERATOR_STARTS = 10


@dataclass(frozen=True)
class Trial(Generic[T]):
    """The result of one run. ``error`` is empty if every invariant held."""

    of: T
    happened: Counter[str]
    digest: str
    error: str = ""


def play(sim: ClusterSim) -> ClusterSim:
    """Play a run to its end, or to a state in which it must not continue.

    Raises:
        EdgenodeError: an invariant is broken, or nothing moves although the run could continue.
    """
    continue_run = sim.run
    for _ in range(_OPERATOR_STARTS):
        try:
            return continue_run()
        except Stuck:
            if needed := _needed_again(sim):
                continue_run = partial(sim.start_again, needed)
                continue
            why = _why_stuck(sim)
            if not why:
                raise
            sim.happened[why] += 1
            return sim
    raise Stuck(f"the members that had ended were started again {_OPERATOR_STARTS} times, and are needed still")


def _needed_again(stuck: ClusterSim) -> frozenset[str]:
    """Fixed members that an operator has to start again, because they ended and did not stay until all had.

    Either all members have to resume, and these are missing. Or the controller never heard that they have ended.
    """
    cluster = stuck.cluster
    if cluster is None or not cluster.state.has_fixed_members or cluster.state.plan is None:
        return frozenset()
    missing, gone = cluster.state.waits_for, stuck.finished.keys() - stuck.alive
    needed = missing <= gone if missing else bool(gone & cluster.state.membership.running(cluster.state.plan))
    return frozenset(gone) if needed else frozenset()


def _why_stuck(stuck: ClusterSim) -> str:
    """Why a run must not continue. Empty if it could."""
    if any("stays: without" in line for line in stuck.transcript.lines) and not _enough_are_left(stuck):
        return "too few members were left"
    if stuck.cluster and stuck.cluster.state.missing and len(stuck.alive) < stuck.run_spec.nodes:
        return "an initial member never came"
    held = any(node.state.fenced or node.state.halted for node in stuck.nodes.values())
    absent = {name for node in stuck.nodes.values() for name in node.state.plan.latest.names} - set(stuck.nodes)
    if stuck.cluster is None and (held or absent or not stuck.nodes):
        return "the controller was needed and did not return"
    if stuck.cluster and stuck.cluster.state.recover and stuck.cluster.state.plan is None and not stuck.nodes:
        return "no node knew the run to recover"
    if stuck.nodes and all(_has_left(name, node) for name, node in stuck.nodes.items() if name not in stuck.finished):
        return "a leaver got no answer"  # `edgenode run` gives up after some seconds
    revoked = {line.split()[1] for line in stuck.transcript.lines if line.endswith("loses its key -> ")}
    if (
        stuck.cluster
        and stuck.cluster.state.plan
        and not stuck.nodes
        and revoked >= set(stuck.cluster.state.plan.latest.names)
    ):
        return "all members lost their keys"
    if (
        stuck.liars
        and stuck.cluster
        and stuck.cluster.state.plan
        and stuck.liars >= set(stuck.cluster.state.plan.latest.names)
    ):
        return "only liars were members"
    if stuck.liars and stuck.liars >= stuck.nodes.keys() and stuck.nodes:
        return "only liars were left"
    if _all_given_up(stuck):
        return "all members died and were given up"
    never_back = stuck.cluster is not None and bool(stuck.cluster.state.waits_for - stuck.alive)
    return "all members died, one permanently" if never_back and not stuck.nodes else ""


def _enough_are_left(stuck: ClusterSim) -> bool:
    """Whether enough members of a run of exchanges live for the others to be evicted."""
    cluster = stuck.cluster
    if cluster is None or cluster.state.plan is None or not cluster.state.run_spec.requirements.admits:
        return False
    names = set(cluster.state.plan.latest.names)
    return 2 * len((names & stuck.alive) - cluster.state.membership.out) > len(names)


def _all_given_up(stuck: ClusterSim) -> bool:
    """Whether no member lives and none is waited for. Newcomers without a checkpoint have nothing to resume from."""
    cluster = stuck.cluster
    if cluster is None or cluster.state.plan is None or cluster.state.over or cluster.state.waits_for:
        return False
    waiting = {name for name, join in cluster.state.membership.present.items() if not join.saved} - set(
        cluster.state.plan.latest.names
    )
    return stuck.alive <= waiting


def _has_left(name: str, node: Node) -> bool:
    leaves = [r.start for r in node.state.plan.records for leaver, _ in r.handoffs if leaver == name]
    return bool(leaves) and node.state.round >= max(leaves)


def trial(make: Callable[[T], ClusterSim], of: T, twice: bool = False, digests: bool = True) -> Trial[T]:
    """Play one run.

    Args:
        twice: play it again, and compare the transcripts.
        digests: compute the digest of the transcript, which takes a twentieth of the time. Else it is empty.
    """
    try:
        played = play(make(of))
        digest = played.transcript.digest if digests or twice else ""
        same = not twice or play(make(of)).transcript.digest == digest
    except Exception as exc:  # every error is a failure, and the other runs continue
        return Trial(of, Counter(), "", f"{type(exc).__name__}: {exc}")
    return Trial(of, played.happened, digest, "" if same else "the second transcript differs")


def trials(
    make: Callable[[T], ClusterSim], of: Sequence[T], twice: bool = False, jobs: int | None = None, digests: bool = True
) -> Iterator[Trial[T]]:
    """Play many runs, on all processors, on ``jobs`` of them or, with one, here. Yields their results in order.

    ``make`` is a function of a module, because it is sent to other processes.
    """
    play_one = partial(trial, make, twice=twice, digests=digests)
    # There are millions of short-lived values. A rarer search for cycles among them saves a tenth of the time.
    rarely = (50_000, 20, 20)
    if jobs == 1:
        before = gc.get_threshold()
        gc.set_threshold(*rarely)
        try:
            yield from map(play_one, of)
        finally:
            gc.set_threshold(*before)
        return
    with get_context("spawn").Pool(jobs, gc.set_threshold, rarely) as pool:
        yield from pool.imap(play_one, of, chunksize=16)


@dataclass
class Summary:
    """The sums over all runs."""

    runs: int
    failures: int
    happened: Counter[str]
    digest: str


def report(
    played: Iterator[Trial[T]], total: int, noun: str, replay: Callable[[T], str], first: bool = False
) -> Summary:
    """Print every failure with the command that replays it, then the sums. Progress goes to stderr.

    ``first``: end after the first failure.
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
    """Add the options that all campaigns have."""
    parser.add_argument("--first", action="store_true", help="end after the first violation")
    parser.add_argument("--jobs", type=int, metavar="N", help="parallel processes [default: one per processor]")
