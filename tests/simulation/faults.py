"""The simulator of disasters: random faults happen to a cluster, and every invariant must hold in exact fractions.

    python -m tests.simulation.faults --seeds 0..2000

Everything is drawn from the seed: the number of nodes, the graphs, latencies, loss, duplicates, the window, the number
of blocks of the model, kills and restarts, suspended processes, joins and leaves, crashes of the controller, and the
requests of operators, with graphs that name their nodes among them. With ``--overlap`` the same disasters happen to
runs with an overlap of 1 to 3 rounds, also with ``--last-phase``. With ``--links``, a firewall blocks links between
members besides, for a while or for ever, also with these two. With ``--lost-disk``, only those seeds are played in
which the controller crashes and the next one recovers the run from the nodes: one in eleven. With ``--leave``, only
those in which a member asks to leave: one in eight. With ``--fixed``, members are fixed, also with ``--links``. With
``--exchanges``, they die for good or lose their state, and others join.
`invariants`, `mass_accounting`, `request_record` and `host_ledgers` state what must hold. A failure prints the command
that replays it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from gmpy2 import mpq

from edgenode.core.protocol.events import Evict, Extend, Rotate, Stop
from edgenode.core.protocol.plan.lag import Lag
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology import allreduce
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import ScheduleSpec
from tests.simulation.campaign import add_options, report, trials
from tests.simulation.cluster_sim import ClusterSim
from tests.simulation.exact_learner import ExactLearner
from tests.simulation.exchange_runs import build_run_with_exchanges
from tests.simulation.fixed_members import run_spec_and_scenario
from tests.simulation.scenario import (
    CONTROLLER,
    BlockLink,
    ClockJump,
    Disturbance,
    Expel,
    Freeze,
    Kill,
    LeaveRequest,
    LinkBreak,
    Partition,
    PauseFor,
    RevokeKey,
    Scenario,
    Start,
)

_ENOUGH = 600  # seeds, of which one must show every kind of fault
GRAPHS = ("a", "b", "c", "chord", "complete", "exponential", "one-peer-exponential")
KINDS = (
    "lost",
    "duplicated",
    "reordered",
    "kill",
    "power cut",
    "died while it counted a step",
    "torn checkpoint rejected",
    "freeze",
    "start",
    "joined",
    "evicted",
    "restarted after its eviction",
    "controller crashed",
    "controller lost its disk",
    "partition",
    "one-way partition",
    "blocked",
    "stalled",
    "clock jump",
    "slow",
    "rotate",
    "leave",
    "leave refused",
    "stop",
    "extend",
    "evict",
    "revoke",
    "pause",
    "resume",
    "resumed after all were down",
    "exited after its end",
    "queued",
    "replaced in the queue",
    "substitute",
    "returned to the requested graph",
)


def build_run(seed: int, power_fails: bool = False, overlaps: bool = False, links: bool = False) -> ClusterSim:
    """The run of a seed, not played yet.

    Args:
        power_fails: the only fault is a power cut for all nodes at once.
        overlaps: with an overlap. Its random numbers are its own.
        links: links between members are blocked besides. Its random numbers are its own.
    """
    rng = random.Random(seed)
    nodes, rounds = rng.randint(2, 6), rng.randint(10, 50)
    names = [f"n{i}" for i in range(nodes)]
    graphs = tuple(GraphSpec(name) for name in rng.sample(GRAPHS, rng.randint(1, 3)))
    run_spec = RunSpec("faults", nodes, "run", ScheduleSpec(graphs, Period(rng.randint(1, 5))), rounds=rounds)
    eta, grain = rng.choice([mpq(1), mpq(1, 4)]), rng.choice([mpq(0), mpq(1, 4)])
    crash_s = rng.uniform(0.5, rounds * 0.15) if rng.random() < 0.3 else None
    slow = {rng.choice(names): (0.1, 0.5)} if rng.random() < 0.1 else {}
    scenario = Scenario(
        seed=seed,
        lose=rng.choice([0, 0, 0.1, 0.3]),
        duplicate=rng.choice([0, 0.2]),
        stall=rng.choice([0, 0, 0.02]),
        slow=slow,
        window=rng.choice([1, 2, 8]),
        latency_s=rng.choice([(0.001, 0.02), (0.001, 0.3)]),
        disturbances=_power_cut(rng, names, rounds) if power_fails else _disturbances(rng, names, rounds, seed),
        crash_s=crash_s,
        back_s=None if crash_s is None else rng.uniform(0.1, 3),
        disk_lost=rng.random() < 0.3,
        evict_s=rng.choice([1.0, 3.0]),
        checkpoint_every=rng.choice([0, 1, 5]),
        leave_s=random.Random(f"leave {seed}").choice([None, 1.0, 10.0]),
        patience_s=200,
    )
    if overlaps:
        run_spec, scenario = _with_overlap(run_spec, scenario)
    scenario = _with_extensions(run_spec, scenario, rounds * 0.15)
    if links:
        scenario = _with_blocked_links(scenario, names, rounds * 0.15)
    blocks = rng.choice([1, 1, 1, 2])

    def learner(x: Any) -> ExactLearner:
        return ExactLearner(rounds, x, eta, grain, blocks, run_spec.gossip_rounds)

    learners = {name: learner(mpq(i, 3)) for i, name in enumerate(names)}
    return ClusterSim(run_spec, learners, local_update, scenario, learner)


def _with_overlap(run_spec: RunSpec, scenario: Scenario) -> tuple[RunSpec, Scenario]:
    """A run with an overlap, and perhaps with last rounds in lock-step. The window is as far above it as it was."""
    rng = random.Random(f"overlap {scenario.seed}")
    overlap, gossip_rounds = rng.randint(1, 3), rng.choice([0, 0, 4, run_spec.rounds // 2])
    if run_spec.schedule.last:
        gossip_rounds = run_spec.gossip_rounds
    lag = Lag(overlap, scenario.checkpoint_every)
    return replace(run_spec, lag=lag, gossip_rounds=gossip_rounds), replace(scenario, window=scenario.window + overlap)


def build_run_with_last_phase(seed: int, overlaps: bool = False, links: bool = False) -> ClusterSim:
    """The run of a seed that ends with an allreduce. Most of its faults happen in that phase, which is most of it.

    Half of the runs have graphs that know networks. These random numbers are their own.
    """
    rng = random.Random(f"last phase {seed}")
    nodes, training = rng.randint(2, 9), rng.choice([1, 2, 4, 6, 25])
    names = [f"n{i}" for i in range(nodes)]
    at = random.Random(f"networks {seed}").choice(["", "", "@n1:n2", "@n4:n0:n3"])
    graphs = tuple(GraphSpec(f"{name}{at}") for name in rng.sample(GRAPHS, rng.randint(1, 2)))
    schedule = ScheduleSpec(graphs, Period(rng.randint(1, 5)), GraphSpec(f"{allreduce.NAME}{at}"), training)
    last_rounds = len(allreduce.edges(nodes))
    rounds = training + last_rounds
    run_spec = RunSpec("last-phase", nodes, "run", schedule, rounds=rounds, gossip_rounds=last_rounds)
    latency_s = rng.choice([(0.001, 0.02), (0.001, 0.3)])
    until = training * 0.1 + last_rounds * latency_s[1] + 0.5
    crash_s = rng.uniform(0.1, until) if rng.random() < 0.2 else None
    scenario = Scenario(
        seed=seed,
        lose=rng.choice([0, 0, 0.1, 0.3]),
        duplicate=rng.choice([0, 0.2]),
        window=rng.choice([1, 2, 8]),
        latency_s=latency_s,
        disturbances=_power_cut(rng, names, 10) if rng.random() < 0.1 else _in_last_phase(rng, names, until),
        crash_s=crash_s,
        back_s=None if crash_s is None else rng.uniform(0.1, 3),
        disk_lost=rng.random() < 0.3,
        evict_s=rng.choice([1.0, 3.0]),
        checkpoint_every=rng.choice([0, 1, 5]),
        leave_s=rng.choice([0.01, 1.0, 10.0]),
        patience_s=200,
    )
    if overlaps:
        run_spec, scenario = _with_overlap(run_spec, scenario)
    scenario = _with_extensions(run_spec, scenario, until)
    if links:
        scenario = _with_blocked_links(scenario, names, until)
    eta, blocks = rng.choice([mpq(1), mpq(1, 4)]), rng.choice([1, 3, 9])

    def learner(x: Any) -> ExactLearner:
        return ExactLearner(rounds, x, eta, blocks=blocks, last_rounds=last_rounds)

    learners = {name: learner(mpq(i, 3)) for i, name in enumerate(names)}
    return ClusterSim(run_spec, learners, local_update, scenario, learner)


def _in_last_phase(rng: random.Random, names: list[str], until: float) -> tuple[tuple[float, Disturbance], ...]:
    drawn: list[tuple[float, Disturbance]] = []
    for request_id in range(rng.randint(1, 4)):
        name = rng.choice(names)
        what: tuple[Disturbance, ...] = (
            Kill(name), Kill(name), Kill(name, rng.uniform(0.1, 6), power=rng.random() < 0.5),
            Freeze(name, rng.uniform(0.5, 8)), Evict(request_id, name, force=rng.random() < 0.5), LinkBreak(name),
            LeaveRequest(name), Start(f"x{request_id}"), PauseFor(request_id, rng.uniform(0.1, 3)),
            Rotate(request_id, (GraphSpec("b"),), Period(1)), Stop(request_id), _partition(rng, names),
        )  # fmt: skip
        drawn.append((rng.uniform(0.1, until), rng.choice(what)))
    return tuple(sorted(drawn, key=lambda timed: timed[0]))


def build_run_with_liars(seed: int) -> ClusterSim:
    """The run of a seed in which members lie, besides some of the other faults. An operator evicts them in the end."""
    rng = random.Random(f"liars {seed}")
    nodes, rounds = rng.randint(3, 6), rng.randint(10, 50)
    names = [f"n{i}" for i in range(nodes)]
    graphs = tuple(GraphSpec(name) for name in rng.sample(GRAPHS, rng.randint(1, 2)))
    run_spec = RunSpec("liars", nodes, "run", ScheduleSpec(graphs, Period(rng.randint(1, 5))), rounds=rounds)
    liars = {name: rng.choice([0.1, 0.5]) for name in rng.sample(names, 1 if nodes < 5 else rng.randint(1, 2))}
    honest = [name for name in names if name not in liars]
    disturbances: list[tuple[float, Disturbance]] = [(rng.uniform(0.5, rounds * 0.15), Expel(name)) for name in liars]
    for request_id in range(rng.randint(0, 2)):
        when, name = rng.uniform(0.3, rounds * 0.15), rng.choice(honest)
        others = (Freeze(name, rng.uniform(0.5, 2)), LinkBreak(name), Start(f"x{request_id}"), Kill(name, 1.0),
                  Rotate(request_id, (GraphSpec(rng.choice("abc")),), Period(1)))  # fmt: skip
        disturbances.append((when, rng.choice(others)))
    crash_s = rng.uniform(0.5, rounds * 0.15) if rng.random() < 0.2 else None
    scenario = Scenario(
        seed=seed,
        lose=rng.choice([0, 0, 0.1]),
        duplicate=rng.choice([0, 0.2]),
        window=rng.choice([2, 8]),
        latency_s=rng.choice([(0.001, 0.02), (0.001, 0.3)]),
        disturbances=tuple(sorted(disturbances, key=lambda timed: timed[0])),
        crash_s=crash_s,
        back_s=None if crash_s is None else rng.uniform(0.1, 3),
        evict_s=1.0,
        leave_s=10.0,
        liars=liars,
        patience_s=200,
    )
    learners = {name: ExactLearner(rounds, mpq(i, 3), mpq(1, 4)) for i, name in enumerate(names)}
    return ClusterSim(run_spec, learners, local_update, scenario, lambda z: ExactLearner(rounds, z, mpq(1, 4)))


def build_run_with_fixed_members(seed: int, links: bool = False) -> ClusterSim:
    """The run of a seed whose members are fixed. All that die come back, and restart the others.

    Those that have ended stay for them until all have ended, or exit before, as a daemon does after some minutes and at
    SIGTERM. If they are needed again, an operator starts them.
    """
    run_spec, scenario = run_spec_and_scenario(seed)
    if links:
        scenario = _with_blocked_links(scenario, [f"n{i}" for i in range(run_spec.nodes)], run_spec.rounds * 0.12)

    def learner(x: Any) -> ExactLearner:
        return ExactLearner(run_spec.rounds, x, mpq(1, 4))

    learners = {f"n{i}": learner(mpq(i, 3)) for i in range(run_spec.nodes)}
    return ClusterSim(run_spec, learners, local_update, scenario, learner)


def _with_blocked_links(scenario: Scenario, names: list[str], until: float) -> Scenario:
    """A scenario in which links between members are blocked besides."""
    disturbances = [*scenario.disturbances, *_blocks(names, until, scenario.seed)]
    return replace(scenario, disturbances=tuple(sorted(disturbances, key=lambda timed: timed[0])))


def _blocks(names: list[str], until: float, seed: int) -> list[tuple[float, Disturbance]]:
    """Some links that are blocked for a while or for ever, in one direction or in both."""
    rng = random.Random(f"links {seed}")
    drawn: list[tuple[float, Disturbance]] = []
    for _ in range(rng.randint(1, 3)):
        sender, receiver = rng.sample(names, 2)
        when, relayed = rng.uniform(0.1, until), rng.random() < 0.8
        for_s = rng.choice([None, rng.uniform(2, 15)]) if relayed else rng.uniform(1, 8)
        drawn.append((when, BlockLink(sender, receiver, for_s, relayed)))
        if rng.random() < 0.3:
            drawn.append((when, BlockLink(receiver, sender, for_s, relayed)))
    return drawn


def _power_cut(rng: random.Random, names: list[str], rounds: int) -> tuple[tuple[float, Disturbance], ...]:
    """The power fails for all nodes and returns; half of the time it fails twice, perhaps before all have resumed."""
    when = rng.uniform(0.5, rounds * 0.15)
    times = (when,) if rng.random() < 0.5 else (when, when + rng.uniform(1.5, 5))
    kills = [(w + rng.uniform(0, 0.1), Kill(name, rng.uniform(1, 3), power=True)) for w in times for name in names]
    return tuple(sorted(kills, key=lambda timed: timed[0]))


def _disturbances(
    rng: random.Random, names: list[str], rounds: int, seed: int
) -> tuple[tuple[float, Disturbance], ...]:
    if rng.random() < 0.05:
        return _power_cut(rng, names, rounds)
    draws: list[Callable[[int, str], Disturbance]] = [
        lambda request_id, name: Kill(name),
        lambda request_id, name: Kill(name, rng.uniform(0.1, 6), power=rng.random() < 0.5),
        lambda request_id, name: Freeze(name, rng.uniform(0.5, 8)),
        lambda request_id, name: LeaveRequest(name),
        lambda request_id, name: Start(f"x{request_id}"),
        lambda request_id, name: Rotate(request_id, (GraphSpec(rng.choice("abc")),), Period(1)),
        lambda request_id, name: LinkBreak(name),
        lambda request_id, name: Stop(request_id) if rng.random() < 0.2 else LinkBreak(name),
        lambda request_id, name: Evict(request_id, name, force=rng.random() < 0.5),
        lambda request_id, name: ClockJump(rng.choice([name, CONTROLLER])),
        lambda request_id, name: PauseFor(request_id, rng.uniform(0.1, 8)),
        lambda request_id, name: _partition(rng, names),
        lambda request_id, name: _partition(rng, names),
    ]
    disturbances = [
        (rng.uniform(0.3, rounds * 0.15), rng.choice(draws)(request_id, rng.choice(names)))
        for request_id in range(rng.randint(0, 4))
    ]
    disturbances += _requests(random.Random(f"requests {seed}"), names, rounds)
    revocations = random.Random(f"revocations {seed}")
    if revocations.random() < 0.1:
        disturbances.append((revocations.uniform(0.3, rounds * 0.15), RevokeKey(revocations.choice(names))))
    return tuple(sorted(disturbances, key=lambda timed: timed[0]))


def _requests(rng: random.Random, names: list[str], rounds: int) -> list[tuple[float, Disturbance]]:
    """In a quarter of the runs: graphs that name their nodes, members that go and return, changes in quick succession.

    Its random numbers are its own, so that it changes no other run.
    """
    if rng.random() > 0.25:
        return []
    when = rng.uniform(0.5, max(0.6, rounds * 0.08))
    drawn: list[tuple[float, Disturbance]] = [(when, Rotate(100, edge_lists(rng, names), Period(rng.randint(1, 3))))]
    for request_id in range(101, 101 + rng.randint(1, 5)):
        when += rng.choice([0.01, 0.3, 1.0])
        name = rng.choice(names)
        drawn.append(
            rng.choice(
                [
                    (when, Rotate(request_id, (GraphSpec(rng.choice(GRAPHS)),), Period(1))),
                    (when, Rotate(request_id, edge_lists(rng, names), Period(rng.randint(1, 3)))),
                    (when, Kill(name, rng.uniform(0.1, 3))),
                    (when, Evict(request_id, name, force=rng.random() < 0.5)),
                    (when, Start(f"y{request_id}")),
                    (when, PauseFor(request_id, rng.uniform(0.5, 3))),
                ]
            )
        )
    return drawn


def _with_extensions(run_spec: RunSpec, scenario: Scenario, until: float) -> Scenario:
    """In a fifth of the runs, an operator asks once or twice to train longer. The random numbers are its own."""
    rng = random.Random(f"extensions {scenario.seed}")
    if rng.random() > 0.2:
        return scenario
    drawn = [
        (rng.uniform(0.1, until), Extend(request_id, run_spec.training_rounds + rng.randint(0, 15)))
        for request_id in range(200, 200 + rng.randint(1, 2))
    ]
    return replace(scenario, disturbances=tuple(sorted([*scenario.disturbances, *drawn], key=lambda timed: timed[0])))


def edge_lists(rng: random.Random, names: list[str]) -> tuple[GraphSpec, ...]:
    """A random strongly connected digraph over these nodes, as one list of edges or as two that take turns."""
    order = rng.sample(names, len(names))
    pairs = [(a, b) for a in names for b in names if a != b]
    more = rng.sample(pairs, rng.randint(0, len(pairs)))
    edges = sorted({*zip(order, [*order[1:], order[0]], strict=True), *more})
    parts = rng.choice([1, 1, 2])
    return tuple(GraphSpec(f"edges-{rng.randrange(1000)}", tuple(edges[i::parts])) for i in range(parts))


def _partition(rng: random.Random, names: list[str]) -> Partition:
    """Two random groups of hosts cannot reach each other. The controller is a host, too."""
    hosts = [*names, CONTROLLER]
    rng.shuffle(hosts)
    first = rng.randint(1, len(hosts) - 1)
    second = rng.randint(1, len(hosts) - first)
    sides = frozenset(hosts[:first]), frozenset(hosts[first : first + second])
    return Partition(*sides, rng.uniform(0.3, 8), one_way=rng.random() < 0.5)


def local_update(name: str, t: int, z: Any) -> Any:
    """An exact local update, which differs between nodes and rounds."""
    first = sum(map(ord, name)) + 7 * t
    return np.array([mpq((first + 3 * block) % 11 - 5, 4) for block in range(len(z))], dtype=object)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0..200", help="FIRST..LAST without the last one, or one seed")
    parser.add_argument("--twice", action="store_true", help="play every seed twice and compare the transcripts")
    parser.add_argument(
        "--power-fails", action="store_true", help="the only fault is a power cut for all nodes at once"
    )
    parser.add_argument("--overlap", action="store_true", help="mixing lags behind pushing by 1 to 3 rounds")
    parser.add_argument("--links", action="store_true", help="links between members are blocked besides")
    parser.add_argument("--liars", action="store_true", help="members lie, in runs with seeds of their own")
    parser.add_argument("--fixed", action="store_true", help="members are fixed, in runs with seeds of their own")
    parser.add_argument(
        "--exchanges", action="store_true", help="runs of exchanges: members die for good, and others join"
    )
    parser.add_argument("--last-phase", action="store_true", help="runs that end with an allreduce, with faults in it")
    parser.add_argument(
        "--lost-disk", action="store_true", help="only the seeds in which the controller loses its disk"
    )
    parser.add_argument("--leave", action="store_true", help="only the seeds in which a member asks to leave")
    add_options(parser)
    options = parser.parse_args()
    first, _, last = options.seeds.partition("..")
    build = partial(build_run, power_fails=options.power_fails, overlaps=options.overlap, links=options.links)
    if options.last_phase:
        build = partial(build_run_with_last_phase, overlaps=options.overlap, links=options.links)
    if options.fixed and (options.liars or options.overlap or options.last_phase or options.power_fails):
        parser.error("--fixed goes with --links only: no member can be evicted, and no round mixed later")
    fixed = partial(build_run_with_fixed_members, links=options.links)
    build = build_run_with_liars if options.liars else fixed if options.fixed else build
    build = build_run_with_exchanges if options.exchanges else build
    every = range(int(first), int(last) if last else int(first) + 1)
    seeds = [seed for seed in every if not options.lost_disk or build(seed).scenario.controller_loses_disk]
    seeds = [seed for seed in seeds if not options.leave or build(seed).scenario.member_leaves]
    played = trials(build, seeds, options.twice, options.jobs)
    special = "--liars " if options.liars else "--power-fails " if options.power_fails else ""
    special = "--last-phase " if options.last_phase else special
    special = "--exchanges " if options.exchanges else "--fixed " if options.fixed else special
    special += "--overlap " if options.overlap else ""
    special += "--links " if options.links else ""
    replay = f"python -m tests.simulation.faults {special}--seeds {{}}"
    summary = report(played, len(seeds), "seed", replay.format, options.first)
    for kind in sorted({*KINDS, *summary.happened}):
        print(f"  {kind}: {summary.happened[kind]}")
    all_kinds = len(seeds) >= _ENOUGH and not (special or options.lost_disk or options.leave)
    never = [kind for kind in KINDS if not summary.happened[kind]] if all_kinds else []
    if never:
        print(f"never happened: {', '.join(never)}")
    sys.exit(bool(summary.failures or never))


if __name__ == "__main__":
    main()
