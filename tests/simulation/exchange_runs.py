"""Disasters of runs of exchanges: members come, lose their state, or die for good, and others go on without them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from gmpy2 import mpq

from edgenode.core.protocol.events import Evict, Extend, Stop
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec
from tests.simulation.cluster_sim import ClusterSim
from tests.simulation.exchange_learner import ExchangeLearner
from tests.simulation.scenario import (
    CONTROLLER,
    BlockLink,
    ClockJump,
    Disturbance,
    Freeze,
    GiveUp,
    Kill,
    LeaveRequest,
    LinkBreak,
    LoseState,
    Partition,
    PauseFor,
    RevokeKey,
    Scenario,
    Start,
)

_REQUIREMENTS = Requirements("diloco", fixed=True, spans_period=True, admits=True)


def build_run_with_exchanges(seed: int) -> ClusterSim:
    """The run of a seed, in which each exchange is accounted for."""
    rng = random.Random(f"exchanges {seed}")
    nodes = rng.randint(2, 7)
    names = [f"n{i}" for i in range(nodes)]
    schedule = ScheduleSpec((GraphSpec(rng.choice(("doubling", "doubling", "doubling", "complete"))),), Period(1))
    exchange = len(schedule.graphs[0].period(tuple(names)))
    rounds = exchange * rng.randint(5, 20)
    run_spec = RunSpec("exchanges", nodes, "run", schedule, rounds=rounds, requirements=_REQUIREMENTS)
    until = rounds * 0.12
    crash_s = rng.uniform(0.3, until) if rng.random() < 0.3 else None
    disturbances = _disturbances(rng, names, rounds, until)
    if seed % 2:  # the failure detector is alone
        disturbances = tuple((when, what) for when, what in disturbances if not isinstance(what, GiveUp))
    disk_lost = rng.random() < 0.3
    if rng.random() < 0.15:  # the controller forgets that it gave up a member, which hears of it last
        name, when = rng.choice(names), rng.uniform(0.2, until)
        cut_off = Partition(frozenset({name}), frozenset({CONTROLLER}), rng.uniform(2, 6))
        disturbances += ((when, cut_off), (when + rng.uniform(0, 1), GiveUp(name)))
        crash_s, disk_lost = when + rng.uniform(1, 4), True
    scenario = Scenario(
        seed=seed,
        lose=rng.choice([0, 0, 0.1, 0.3]),
        duplicate=rng.choice([0, 0.2]),
        window=rng.choice([1, 2, 8]),
        latency_s=rng.choice([(0.001, 0.02), (0.001, 0.3)]),
        disturbances=tuple(sorted(disturbances, key=lambda timed: timed[0])),
        crash_s=crash_s,
        back_s=None if crash_s is None else rng.uniform(0.1, 3),
        disk_lost=disk_lost,
        evict_s=rng.choice([1.0, 3.0]),
        checkpoint_every=exchange * rng.choice([2, 3, 5]),  # at least the rounds by which nodes can be apart
        leave_s=rng.choice([None, 1.0, 10.0]),
        poisons=rng.choice(["", *names]),
        patience_s=200,
    )

    def learner(x: Any) -> ExchangeLearner:
        return ExchangeLearner(rounds, np.ravel(np.array(x, dtype=object))[0], exchange, mpq(1, 4))

    return ClusterSim(run_spec, {name: learner(mpq(1, 3)) for name in names}, _local_update, scenario, learner)


def _local_update(name: str, t: int, z: Any) -> Any:
    return np.array([mpq((sum(map(ord, name)) + 7 * t) % 11 - 5, 3)], dtype=object)


def _disturbances(
    rng: random.Random, names: list[str], rounds: int, until: float
) -> tuple[tuple[float, Disturbance], ...]:
    draws: list[Callable[[int, str], Disturbance]] = [
        lambda request_id, name: Kill(name, rng.uniform(0.1, 6), power=rng.random() < 0.5),
        lambda request_id, name: LoseState(name, rng.uniform(0.1, 6)),
        lambda request_id, name: Freeze(name, rng.uniform(0.5, 8)),
        lambda request_id, name: LeaveRequest(name),
        lambda request_id, name: Start(f"x{request_id}"),
        lambda request_id, name: Stop(request_id) if rng.random() < 0.3 else LinkBreak(name),
        lambda request_id, name: Extend(request_id, rounds + rng.randint(0, 12)),
        lambda request_id, name: Evict(request_id, name, force=rng.random() < 0.7),
        lambda request_id, name: ClockJump(rng.choice([name, CONTROLLER])),
        lambda request_id, name: PauseFor(request_id, rng.uniform(0.1, 8)),
        lambda request_id, name: BlockLink(name, rng.choice(names), rng.uniform(1, 8), relayed=rng.random() < 0.5),
        lambda request_id, name: Partition(frozenset({name}), frozenset({*names, CONTROLLER}) - {name},
                                           rng.uniform(0.3, 8), one_way=rng.random() < 0.5),
        lambda request_id, name: Partition(frozenset({name}), frozenset({CONTROLLER}), rng.uniform(0.3, 8)),
    ]  # fmt: skip
    drawn = [
        (rng.uniform(0.2, until), rng.choice(draws)(request_id, rng.choice(names)))
        for request_id in range(rng.randint(0, 4))
    ]
    for name in rng.sample(names, rng.choice([0, 1, 1, 1, min(2, len(names) - 1)])):  # dies for good
        when = rng.uniform(0.2, until)
        death = RevokeKey(name) if rng.random() < 0.2 else Kill(name, power=rng.random() < 0.5)
        drawn += [(when, death), (when + rng.uniform(0, 3), GiveUp(name))]
        if rng.random() < 0.5:  # or comes back
            drawn.append((when + rng.uniform(3, 12), Start(name)))
    if rng.random() < 0.15:  # the power fails for all, and one of them may not come back
        when, lost = rng.uniform(0.3, until), rng.choice([None, None, rng.choice(names)])
        drawn += [
            (when + rng.uniform(0, 0.1), Kill(name, None if name == lost else rng.uniform(1, 3), power=True))
            for name in names
        ]
        drawn += [(when + rng.uniform(0, 5), GiveUp(lost))] if lost else []
    sound = [(t, d) for t, d in drawn if not (isinstance(d, BlockLink) and d.sender == d.receiver)]
    return tuple(sound)
