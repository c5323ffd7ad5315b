"""Crashes at every moment of a run, one after the other.

    python -m tests.simulation.crash_matrix --nodes 3
    python -m tests.simulation.crash_matrix --nodes 4 --crashes 2 --rounds 3 --sample 10000

A short run is played once to count its moments: before every action of every node and of the controller, and after
the last action of every event. Then it is played once more for each moment, and the process that acts at this moment
dies: permanently, or with a restart soon after. The runs differ in what happens meanwhile: nothing, a change of
topology, a member that joins, leaves or is evicted, a pause, changes in a pause, all at once, or a last phase that is
most of the run. In one the members are fixed: all that die come back, and those that have ended stay for them. With two
crashes, every pair of moments is played.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from gmpy2 import mpq

from edgenode.core.protocol.events import Evict, Rotate
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology import allreduce
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec
from tests.simulation.campaign import add_options, play, report, trials
from tests.simulation.cluster_sim import ClusterSim
from tests.simulation.exact_learner import ExactLearner
from tests.simulation.faults import local_update
from tests.simulation.scenario import Disturbance, LeaveRequest, PauseFor, Scenario, Start

Crash = tuple[
    str, int, int, tuple[tuple[int, float | None], ...]
]  # run, nodes, rounds, (moment, seconds until the restart)

_ROUNDS = 12
_BACK_S = 0.4
_LAST_PHASE, FIXED = "allreduce", "fixed"
RUNS: dict[str, tuple[tuple[float, Disturbance], ...]] = {
    "quiet": (),
    _LAST_PHASE: (),
    FIXED: (),
    "rotate": ((0.1, Rotate(0, (GraphSpec("b"),), Period(1))),),
    "join": ((0.05, Start("x")),),
    "leave": ((0.1, LeaveRequest("n1")),),
    "evict": ((0.2, Evict(0, "n1", force=True)),),
    "pause": ((0.1, PauseFor(0, 0.3)),),
    "queue": (
        (0.1, PauseFor(0, 0.3)),
        (0.15, Rotate(1, (GraphSpec("b"),), Period(1))),
        (0.2, Rotate(2, (GraphSpec("c"),), Period(1))),
    ),
    "all": (
        (0.05, Start("x")),
        (0.1, Rotate(0, (GraphSpec("b"),), Period(1))),
        (0.15, LeaveRequest("n2")),
        (0.3, Evict(2, "n1", force=True)),
    ),
}


def build_run(crash: Crash) -> ClusterSim:
    """A run with its crashes, not played yet."""
    run, nodes, rounds, crash_at = crash
    schedule, last_rounds = ScheduleSpec((GraphSpec("a"),)), 0
    if run == _LAST_PHASE:
        last_rounds, training = len(allreduce.edges(nodes)), rounds // 4
        rounds = training + last_rounds
        schedule = replace(schedule, last=GraphSpec(allreduce.NAME), last_from=training)
    requirements = Requirements("fixed", doubly_stochastic=True, fixed=True) if run == FIXED else Requirements()
    run_spec = RunSpec(
        "crashes", nodes, "run", schedule, rounds=rounds, requirements=requirements, gossip_rounds=last_rounds
    )
    # A daemon shows nothing of a round before the checkpoint of its beginning is safe.
    sync_s = (0.0, 0.005) if run == FIXED else Scenario.sync_s
    scenario = Scenario(
        seed=nodes,
        sync_s=sync_s,
        latency_s=(0.001, 0.02),
        window=2,
        disturbances=RUNS[run],
        crash_at=dict(crash_at),
        evict_s=0.5,
        checkpoint_every=2,
        leave_s=None if run == FIXED else 1.0,
        patience_s=60,
    )

    def learner(x: Any) -> ExactLearner:
        return ExactLearner(rounds, x, blocks=nodes if last_rounds else 1, last_rounds=last_rounds)

    learners = {f"n{i}": learner(mpq(i, 3)) for i in range(nodes)}
    return ClusterSim(run_spec, learners, local_update, scenario, learner)


def crashes(run: str, nodes: int, count: int, rounds: int = _ROUNDS) -> Iterator[Crash]:
    """Every combination of so many crashes in a run."""
    last = play(build_run((run, nodes, rounds, ()))).moments
    for when in combinations(range(1, last + 1), count):
        for back in product((_BACK_S,) if run == FIXED else (None, _BACK_S), repeat=count):
            yield run, nodes, rounds, tuple(zip(when, back, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--crashes", type=int, default=1, help="crashes in one run")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--runs", default=",".join(RUNS), help="names of runs [default: all]")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="play only N of the cases, always the same [default: all]"
    )
    parser.add_argument("--replay", metavar="RUN:MOMENT=BACK,...", help="play one case, as a failure prints it")
    add_options(parser)
    options = parser.parse_args()
    if options.replay:
        cases = [_read(options.replay, options.nodes, options.rounds)]
    else:
        runs = options.runs.split(",")
        cases = [crash for run in runs for crash in crashes(run, options.nodes, options.crashes, options.rounds)]
        if options.sample is not None:
            print(f"{options.sample} of {len(cases)} cases")
            cases = random.Random(0).sample(cases, options.sample)
    summary = report(trials(build_run, cases, jobs=options.jobs), len(cases), "case", _replay, options.first)
    for kind, count in sorted(summary.happened.items()):
        print(f"  {kind}: {count}")
    sys.exit(bool(summary.failures))


def _replay(crash: Crash) -> str:
    run, nodes, rounds, crash_at = crash
    when = ",".join(f"{moment}={'' if back is None else back}" for moment, back in crash_at)
    return f"python -m tests.simulation.crash_matrix --nodes {nodes} --rounds {rounds} --replay {run}:{when}"


def _read(text: str, nodes: int, rounds: int) -> Crash:
    run, _, when = text.partition(":")
    pairs = [pair.partition("=") for pair in when.split(",")]
    return run, nodes, rounds, tuple((int(moment), float(back) if back else None) for moment, _, back in pairs)


if __name__ == "__main__":
    main()
