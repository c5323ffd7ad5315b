"""The simulator of disasters: whatever a seed thinks of happens to a cluster, and no unit of mass may be missing.

    python -m edgenode.simulator.faults --seeds 0..2000

Every knob is drawn from the seed: the number of nodes, the graphs, latencies, loss, duplicates, the window, who is
killed and comes back, who stands still and goes on as a zombie, who joins and leaves, when the controller dies, what
operators want. The invariants are those of `network` and `books`, in exact fractions. A failure prints the command
that replays it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from edgenode.core.cluster import Charter
from edgenode.core.graph import PRESETS, GraphSpec
from edgenode.core.messages import Leave, Lost, Rotate, Stop
from edgenode.core.plan import Schedule
from edgenode.errors import EdgenodeError, LocalProtocolError
from edgenode.simulator.conditions import Conditions, Freeze, Kill, Order, Start
from edgenode.simulator.learners import Ledger
from edgenode.simulator.network import Network

KINDS = (
    "lost",
    "duplicated",
    "kill",
    "freeze",
    "start",
    "joined",
    "cut",
    "evicted and told so",
    "controller crashed",
    "resumed after all were down",
)


def network(seed: int) -> Network:
    """The run of a seed, not yet played."""
    rng = random.Random(seed)
    nodes, rounds = rng.randint(2, 6), rng.randint(10, 50)
    names = [f"n{i}" for i in range(nodes)]
    graphs = tuple(GraphSpec(name) for name in rng.sample(sorted(PRESETS), rng.randint(1, 3)))
    charter = Charter("faults", nodes, "run", Schedule(graphs, rng.randint(1, 5)), epochs=False, rounds=rounds)
    eta, grain = rng.choice([Fraction(1), Fraction(1, 4)]), rng.choice([Fraction(0), Fraction(1, 4)])
    crash_s = rng.uniform(0.5, rounds * 0.15) if rng.random() < 0.3 else None
    conditions = Conditions(
        seed=seed,
        lose=rng.choice([0, 0, 0.1, 0.3]),
        duplicate=rng.choice([0, 0.2]),
        window=rng.choice([1, 2, 8]),
        latency_s=rng.choice([(0.001, 0.02), (0.001, 0.3)]),
        orders=_orders(rng, names, rounds),
        crash_s=crash_s,
        back_s=None if crash_s is None else rng.uniform(0.1, 3),
        evict_s=rng.choice([1.0, 3.0]),
        checkpoint_every=rng.choice([0, 1, 5]),
        patience_s=200,
    )
    learners = {name: Ledger(rounds, Fraction(i, 3), eta, grain) for i, name in enumerate(names)}
    return Network(charter, learners, _displace, conditions, lambda z: Ledger(rounds, z[0], eta, grain))


def _orders(rng: random.Random, names: list[str], rounds: int) -> tuple[tuple[float, Order], ...]:
    if rng.random() < 0.05:  # the power goes out for all, and comes back
        when = rng.uniform(0.5, rounds * 0.15)
        return tuple((when + rng.uniform(0, 0.1), Kill(name, rng.uniform(1, 3))) for name in names)
    draws: list[Callable[[int, str], Order]] = [
        lambda ticket, name: Kill(name),
        lambda ticket, name: Kill(name, rng.uniform(0.1, 6)),
        lambda ticket, name: Freeze(name, rng.uniform(0.5, 8)),
        Leave,
        lambda ticket, name: Start(f"x{ticket}"),
        lambda ticket, name: Rotate(ticket, (GraphSpec(rng.choice("abc")),), 1, epochs=False),
        lambda ticket, name: Lost(name),
        lambda ticket, name: Stop(ticket) if rng.random() < 0.2 else Lost(name),
    ]
    orders = [
        (rng.uniform(0.3, rounds * 0.15), rng.choice(draws)(ticket, rng.choice(names)))
        for ticket in range(rng.randint(0, 4))
    ]
    return tuple(sorted(orders, key=lambda order: order[0]))


def _displace(name: str, round: int, z: Any) -> Any:
    """A local step that differs from node to node and from round to round, and is exact."""
    return np.array([Fraction((sum(map(ord, name)) + 7 * round) % 11 - 5, 4)], dtype=object)


def play(seed: int) -> Network:
    """Play a seed to its end.

    Raises:
        EdgenodeError: an invariant broke, or nothing moved although a majority was alive.
    """
    played = network(seed)
    try:
        played.run()
    except LocalProtocolError as exc:
        paused = "deadlock" in str(exc) and any("stays: without" in line for line in played.lines)
        all_dead = "dried up" in str(exc) and not played.nodes
        if not paused and not all_dead:
            raise
        played.happened["paused below half, and said so" if paused else "all died, one for good"] += 1
    return played


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0..200", help="first..last, the last one not included; or one seed")
    first, _, last = parser.parse_args().seeds.partition("..")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    happened, failures = Counter[str](), 0
    for done, seed in enumerate(seeds, 1):
        try:
            happened += play(seed).happened
        except EdgenodeError as exc:
            failures += 1
            print(f"seed {seed}: {type(exc).__name__}: {exc}", flush=True)
            print(f"  replay: python -m edgenode.simulator.faults --seeds {seed}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{done}/{len(seeds)} seeds, {failures} violations", end="", file=sys.stderr, flush=True)
    print(f"{len(seeds)} seeds, {failures} violations")
    for kind in sorted({*KINDS, *happened}):
        print(f"  {kind}: {happened[kind]}")
    never = [kind for kind in KINDS if not happened[kind]] if len(seeds) >= 200 else []
    if never:
        print(f"never happened: {', '.join(never)}")
    sys.exit(1 if failures or never else 0)


if __name__ == "__main__":
    main()
