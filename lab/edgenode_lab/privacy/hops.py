"""What a node learns of the first steps of nodes that never push to it, from the pushes that it receives.

Each node of a run attacks all others (`gossip`). It knows the graphs, the common initial model and its own steps, and
keeps copies of the models of its in-neighbours, as good as their pushes allow (`transcript`):

1. Whole models are the messages of the linear system.
2. A rolling block is a system of its own, which is mixed in its rounds alone.
3. Top-k mixes coordinates that the attacker does not know of. In the mean over rounds a coordinate is mixed by
   averaging_rate / share of W, so copies are taken for whole models that are mixed by that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.core.protocol.events import Mixed, NodeAction, Push
from edgenode.core.topology.graph import Digraph
from edgenode.node.replica import Replica
from edgenode.simulate.simulation import Simulation
from edgenode_lab.privacy import gossip, shadows, victims
from edgenode_lab.privacy.first_round import FirstRound, FirstStep, attack, first_steps
from edgenode_lab.privacy.transcript import ModelCopy

NODES = 6

Vectors = NDArray[np.float64]
Coordinates = slice | NDArray[np.int64]


@dataclass(frozen=True)
class HopCell:
    """One setting that is attacked. All digits of a node are in each of its steps.

    Attributes:
        labels: what the table says of it: algorithm and graph.
        settings: the keys of run.toml that differ from those of all cells.
        learning_rate: that of the steps. The smaller it is, the more do the steps of a node resemble each other.
        batch: the digits of each node.
    """

    labels: tuple[str, str]
    settings: Mapping[str, object]
    learning_rate: float
    batch: int = 1

    @property
    def name(self) -> str:
        return ", ".join((*self.labels, f"learning rate {self.learning_rate:g}", f"batch {self.batch}"))

    def config(self, draw: int) -> Config:
        """Return the configuration of one run of this cell.

        Raises:
            ConfigError: it is not valid.
        """
        options = {"draw": draw, "samples": 2 * NODES * self.batch, "nodes": NODES, "skew": 0.0}
        step = {"local_steps": 1, "momentum": 0.0, "learning_rate": self.learning_rate, "batch_size": self.batch}
        keys = {"run.nodes": NODES, "task.options": options, **{f"task.{key}": value for key, value in step.items()}}
        return load(None, {**shadows.BASE, **keys, **self.settings}, environ={})


class Wiretap:
    """Records a simulation. All attributes are by round, node and coordinate.

    Attributes:
        copies: what the receivers of a node's push then know of its model.
        models: the models that are pushed.
        mixed: the models after the round.
        u: the push-sum weights that are pushed, [rounds, nodes].
    """

    def __init__(self, config: Config, initial: Floats) -> None:
        self.spec = factory.algorithm_spec(config)
        shape = (self.spec.training_rounds, config.run.nodes, len(initial))
        self.copies, self.models, self.mixed = (np.zeros(shape, np.float32) for _ in range(3))
        self.u = np.zeros(shape[:2])
        self._copies = [ModelCopy(self.spec, initial) for _ in range(config.run.nodes)]

    def observe(self, name: str, replica: Replica, action: NodeAction) -> None:
        """See an action of a node before it is performed."""
        node = _number(name)
        match action:
            case Push(_, message) if message.round < len(self.u) and not self.u[message.round, node]:
                t = message.round  # the same payload goes to every receiver
                self._copies[node].receive(message, replica.learner)
                self.copies[t, node], self.u[t, node] = self._copies[node].z, message.u[0]
                self.models[t, node] = replica.learner.model()
            case Mixed(t) if t < len(self.u):
                self.mixed[t, node] = replica.learner.model()


def attack_cell(cell: HopCell, draws: int) -> dict[int, FirstRound]:
    """Run and attack a cell: the result by the number of pushes that lead from a node to its attacker."""
    pool, steps = victims.Pool(2 * NODES * cell.batch, NODES, 0.0), dict[int, list[FirstStep]]()
    initial = shadows.initial_model(cell.config(0))
    for draw in range(draws):
        config = cell.config(draw)
        hops = distances(_graphs(config, 1)[0])
        for attacker, believed in enumerate(estimates(config, initial)[1]):
            for node, step in enumerate(first_steps(pool, pool.members(draw), believed)):
                if node != attacker:
                    steps.setdefault(int(hops[node, attacker]), []).append(step)
    everything = victims.all_images()
    return {count: attack(steps[count], initial, everything, cell.learning_rate) for count in sorted(steps)}


def estimates(config: Config, initial: Floats) -> tuple[Floats, Floats]:
    """Run, and return the true first steps, [nodes, size], and what each node believes, [attackers, nodes, size]."""
    tap = Wiretap(config, initial)
    Simulation(config, observe=tap.observe).run()
    graphs = _graphs(config, tap.spec.training_rounds)
    rate, identity = tap.spec.averaging_rate, np.eye(config.run.nodes)
    if config.algorithm.compressor == "topk":
        rate = min(1.0, rate / config.algorithm.share)
    found = np.zeros((config.run.nodes, *tap.models[0].shape), np.float32)
    for coordinates, rounds in _parts(tap, initial):
        weights = {t: rate * (graphs[t].mixing_matrix() - identity) for t in rounds}
        parts = gossip.coefficients([identity + weights.get(t, 0.0) for t in range(len(graphs))])
        for own in range(config.run.nodes):
            heard = [(t, _number(sender)) for t in rounds for sender in graphs[t].in_neighbours(_names(config)[own])]
            found[own][:, coordinates] = _believed(tap, initial, parts, coordinates, own, heard)
    return tap.models[0] - initial, found


def _believed(
    tap: Wiretap, initial: Floats, parts: Vectors, coordinates: Coordinates, own: int, heard: list[tuple[int, int]]
) -> Vectors:
    """Return what a node believes of the first steps of all nodes, for some coordinates."""
    before = np.concatenate([initial[None], tap.mixed[:-1, own]])[:, coordinates]
    models = tap.models[:, own][:, coordinates].astype(np.float64)
    steps = tap.u[:, own, None] * (models - before)
    rounds, senders = np.array(heard).T
    sent = tap.u[rounds, senders, None] * (tap.copies[rounds, senders][:, coordinates] - initial[coordinates])
    of_others = parts[rounds, senders]
    sent = sent - of_others[:, :, own] @ steps
    of_others[:, :, own] = 0
    mine = np.unique(rounds)
    error = gossip.own_error(models[mine], tap.copies[mine, own][:, coordinates], steps)
    return gossip.first_steps(of_others, sent, gossip.own_drift(steps), error)


def _parts(tap: Wiretap, initial: Floats) -> Iterator[tuple[Coordinates, range]]:
    """Which coordinates are mixed in which rounds."""
    blocks, rounds = tap.spec.blocks, tap.spec.training_rounds
    if blocks == 1:
        yield slice(None), range(rounds)
        return
    positions = tap.spec.initial(np.arange(len(initial), dtype=np.float32))
    for block in range(blocks):
        yield positions.part(block).x.astype(np.int64), range(block, rounds, blocks)


def distances(graph: Digraph) -> NDArray[np.int64]:
    """Return how many pushes lead from a node to another at least, [senders, receivers]. 0 if none do, or to itself."""
    found = np.zeros((len(graph.nodes), len(graph.nodes)), np.int64)
    position = {node: number for number, node in enumerate(graph.nodes)}
    for sender in graph.nodes:
        reached, hops = {sender}, 0
        while ahead := {out for node in reached for out in graph.out_neighbours(node)} - reached:
            hops += 1
            for node in ahead:
                found[position[sender], position[node]] = hops
            reached |= ahead
    return found


def _graphs(config: Config, rounds: int) -> list[Digraph]:
    schedule = factory.schedule(config)
    return [schedule.graph(t, tuple(_names(config))) for t in range(rounds)]


def _names(config: Config) -> list[str]:
    return [f"node-{number}" for number in range(config.run.nodes)]


def _number(name: str) -> int:
    return int(name.removeprefix("node-"))
