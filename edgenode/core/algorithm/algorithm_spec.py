"""An algorithm as data: the compressor, averaging rate, block and update rule of each round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgenode.core.algorithm.compression import Compressor, Floats, as_float32, keep_all
from edgenode.core.algorithm.sparse_push import State, error_of
from edgenode.core.algorithm.update_rules import SPARSE_PUSH, UpdateRule
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import ConfigError

_MAX_GOSSIP_ROUNDS = 10_000

UNCOMPRESSED = Compressor(keep_all, as_float32)


@dataclass(frozen=True)
class RoundStep:
    """The parameters of one round.

    Attributes:
        drops_error: the round begins without what compression has left out so far.
        block: the block that is exchanged, or None for the whole model.
    """

    trains: bool
    compressor: Compressor
    averaging_rate: float
    drops_error: bool = False
    block: int | None = None


@dataclass(frozen=True)
class RateSchedule:
    """The averaging rate over the run: eta_t = eta * min(1, (t + 1) / warmup) / (1 + max(0, t - warmup))^decay.

    It depends on nothing but t. So all nodes have the same rate in a round, also when the run becomes longer.
    """

    warmup: int = 0
    decay: float = 0.0

    def at(self, rate: float, t: int) -> float:
        """Return eta of round t."""
        if t < self.warmup:
            return rate * (t + 1) / self.warmup
        return rate * float((1 + t - self.warmup) ** -self.decay) if self.decay else rate


@dataclass(frozen=True)
class AlgorithmSpec:
    """An update rule for ``training_rounds``, then Algorithm 2's gossip of all x for ``gossip_rounds`` (0 is SP).

    Attributes:
        blocks: with more than one, the rolling exchange: round t exchanges block t mod ``blocks`` of the flat vector.
            Every node exchanges the same block in the same round, and each block has a push-sum weight of its own. So
            each block is push-sum on the run's graphs, once every ``blocks`` rounds, and is exact on unbalanced graphs.
        exchange_rounds: the rounds of an exchange. A node trains only before the first of them.
        sums: the gossip rounds are those of an allreduce, which changes no x.
        gossip_compressor: the compressor of the gossip rounds. If it rounds, a node keeps its rounding error,
            and the next round starts without an error: error feedback would leave more.
        rates: what becomes of the averaging rate during training.
    """

    compressor: Compressor
    averaging_rate: float
    training_rounds: int
    gossip_rounds: int = 0
    blocks: int = 1
    rule: UpdateRule = SPARSE_PUSH
    gossip_compressor: Compressor = UNCOMPRESSED
    exchange_rounds: int = 1
    sums: bool = False
    rates: RateSchedule = RateSchedule()

    @property
    def rounds(self) -> int:
        """Training and gossip rounds, T + k."""
        return self.training_rounds + self.gossip_rounds

    def gossips(self, t: int) -> bool:
        """Return whether round t belongs to the last phase."""
        return t >= self.training_rounds

    def step(self, t: int) -> RoundStep:
        """The parameters of round t, 0 <= t < rounds."""
        if not self.gossips(t):
            block = t % self.blocks if self.blocks > 1 else None
            trains = t % self.exchange_rounds == 0
            rate = self.rule.rate_at(self.rates.at(self.averaging_rate, t), t)
            return RoundStep(trains, self.compressor.at(t), rate, block=block)
        drops_error = t == self.training_rounds or self.gossip_compressor.lossy
        return RoundStep(False, self.gossip_compressor, 1.0, drops_error=drops_error)

    def initial(self, model: Floats) -> State:
        """The first state: the common model, and zeros for the vectors that the rule keeps, or what it begins with.

        There is no error if the compressor is lossless, or nothing is exchanged.
        """
        lossless = not self.compressor.lossy or self.averaging_rate == 0
        keeps = [name for name in self.rule.keeps if not (name == "error" and lossless)]
        if "error" in keeps:
            keeps += [error_of(name) for name in self.rule.sends[1:]]
        state = State.initial(model, keeps, self.blocks)
        if self.rule.begin is not None:
            self.rule.begin(state)
        return state

    def joining(self, brought: Mapping[str, Floats]) -> State:
        """The first state of a node that joins at the beginning of an exchange, with its common part (`UpdateRule`)."""
        state = self.initial(brought["x"])
        assert self.rule.join is not None
        self.rule.join(state, brought)
        return state


def gossip_rounds_needed(spec: GraphSpec, nodes: int, tolerance: float) -> int:
    """The least k after which push-sum over a graph has averaged any values to within a relative tolerance.

    1. With P the product of k mixing matrices, z_i = sum_j P_ij x_j / sum_j P_ij.
    2. So k is the first for which every normalised weight is within tolerance / n of 1 / n.
    3. On a directed ring 1e-3 takes 21 / 97 / 391 rounds for 4 / 8 / 16 nodes: the slowest mode shrinks by cos(pi / n)
       per round.

    Raises:
        ConfigError: 10,000 rounds are not enough.
    """
    named = sorted({end for edge in spec.edges or () for end in edge})
    period = spec.period(tuple(named or (f"{i:06d}" for i in range(nodes))))
    nodes = len(period[0].nodes)
    product = np.eye(nodes)
    for k in range(_MAX_GOSSIP_ROUNDS):
        if np.abs(nodes * product / product.sum(axis=1, keepdims=True) - 1).max() <= tolerance:
            return k
        product = period[k % len(period)].mixing_matrix() @ product
    raise ConfigError(
        f"graph {spec.name} does not reach a consensus of {tolerance} on {nodes} nodes: set algorithm.gossip_rounds, a "
        "larger algorithm.gossip_tolerance, or another algorithm.gossip_graph"
    )
