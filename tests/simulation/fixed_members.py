"""Disasters of runs whose members are fixed, and what must hold in them besides the other invariants."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import pairwise

from edgenode.core.protocol.events import Evict, Extend, Rotate, Stop
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec
from tests.simulation.invariants import require
from tests.simulation.scenario import (
    CONTROLLER,
    BlockLink,
    ClockJump,
    Disturbance,
    Freeze,
    Kill,
    LeaveRequest,
    LinkBreak,
    Partition,
    PauseFor,
    Scenario,
    Start,
)

_GRAPHS = ("a", "two-way", "complete")


def require_fixed_members(plans: Iterable[Plan]) -> None:
    """No member is new, has left or was evicted, the graph is the first, and changes start with an exchange."""
    for plan in plans:
        first, *changes = plan.records
        schedule = first.schedule
        exchange = len(schedule.period(schedule.graphs[0], first.names)) if schedule.name == "doubling" else 1
        for record in changes:
            require(record.incarnations == first.incarnations, f"members of record {record.number} changed")
            require(not record.evictions and not record.handoffs, f"record {record.number} removes a member")
            require(record.schedule == schedule, f"record {record.number} changes the graph")
            require(record.start % exchange == 0, f"record {record.number} starts within an exchange")
            require((record.rounds or 0) % exchange == 0, f"record {record.number} ends within an exchange")


def require_exchanges(plans: Iterable[Plan], exchange: int) -> None:
    """Members come, and none leaves or was evicted by a record. Changes start with an exchange."""
    for plan in plans:
        for before, record in pairwise(plan.records):
            require(before.incarnations.items() <= record.incarnations.items(), f"record {record.number} drops members")
            require(not record.evictions and not record.handoffs, f"record {record.number} removes a member")
            require(record.start % exchange == 0, f"record {record.number} starts within an exchange")
            rounds = len(record.schedule.period(record.schedule.graphs[0], record.names))
            require(rounds == exchange, f"an exchange has {rounds} rounds since record {record.number}")


def run_spec_and_scenario(seed: int) -> tuple[RunSpec, Scenario]:
    """What a run is created from, and what happens to it. On a graph with several rounds, each is one exchange."""
    rng = random.Random(f"fixed members {seed}")
    nodes, rounds = rng.randint(2, 5), 4 * rng.randint(3, 12)
    spans = nodes in (2, 4) and rng.random() < 0.5  # then the mean of an exchange is that of push-sum
    graph = GraphSpec("doubling" if spans else rng.choice(_GRAPHS))
    requirements = Requirements("fixed", doubly_stochastic=not spans, fixed=True, spans_period=spans)
    names = [f"n{i}" for i in range(nodes)]
    schedule = ScheduleSpec((graph,), Period(1))
    run_spec = RunSpec("fixed-members", nodes, "run", schedule, rounds=rounds, requirements=requirements)
    until = rounds * 0.12
    crash_s = rng.uniform(0.3, until) if rng.random() < 0.3 else None
    scenario = Scenario(
        seed=seed,
        lose=rng.choice([0, 0, 0.1, 0.3]),
        duplicate=rng.choice([0, 0.2]),
        window=rng.choice([1, 2, 8]),
        latency_s=rng.choice([(0.001, 0.02), (0.001, 0.3)]),
        disturbances=_disturbances(rng, names, rounds, until, may_force=not spans),
        crash_s=crash_s,
        back_s=None if crash_s is None else rng.uniform(0.1, 3),
        disk_lost=rng.random() < 0.3,
        evict_s=rng.choice([1.0, 3.0]),
        checkpoint_every=rng.choice([0, 4, 5]),  # at least the rounds by which nodes can be apart
        leave_s=rng.choice([None, 1.0, 10.0]),
        patience_s=200,
    )
    return run_spec, scenario


def _disturbances(
    rng: random.Random, names: list[str], rounds: int, until: float, may_force: bool
) -> tuple[tuple[float, Disturbance], ...]:
    def kill(name: str) -> Kill:
        return Kill(name, rng.uniform(0.1, 6), power=rng.random() < 0.5)

    draws: list[Callable[[int, str], Disturbance]] = [
        lambda request_id, name: kill(name),
        lambda request_id, name: kill(name),
        lambda request_id, name: Freeze(name, rng.uniform(0.5, 8)),
        lambda request_id, name: LeaveRequest(name),
        lambda request_id, name: Start(f"x{request_id}"),
        lambda request_id, name: Rotate(request_id, (GraphSpec(rng.choice("abc")),), Period(1)),
        lambda request_id, name: LinkBreak(name),
        lambda request_id, name: Stop(request_id) if rng.random() < 0.3 else LinkBreak(name),
        lambda request_id, name: Extend(request_id, rounds + rng.randint(0, 12)),
        lambda request_id, name: Evict(request_id, name, force=rng.random() < 0.5 and may_force),
        lambda request_id, name: ClockJump(rng.choice([name, CONTROLLER])),
        lambda request_id, name: PauseFor(request_id, rng.uniform(0.1, 8)),
        lambda request_id, name: BlockLink(name, rng.choice(names), rng.uniform(1, 8), relayed=rng.random() < 0.5),
        lambda request_id, name: Partition(frozenset({name}), frozenset({*names, CONTROLLER}) - {name},
                                           rng.uniform(0.3, 8), one_way=rng.random() < 0.5),
    ]  # fmt: skip
    drawn = [
        (rng.uniform(0.2, until), rng.choice(draws)(request_id, rng.choice(names)))
        for request_id in range(rng.randint(1, 5))
    ]
    if rng.random() < 0.15:  # the power fails for all
        when = rng.uniform(0.3, until)
        drawn += [(when + rng.uniform(0, 0.1), Kill(name, rng.uniform(1, 3), power=True)) for name in names]
    sound = [(t, d) for t, d in drawn if not (isinstance(d, BlockLink) and d.sender == d.receiver)]
    return tuple(sorted(sound, key=lambda timed: timed[0]))
