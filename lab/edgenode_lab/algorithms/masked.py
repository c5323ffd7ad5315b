"""Simulations of DiLoCo whose messages tell nothing but their sum: secure aggregation (Bonawitz et al. 2017).

1. A node rounds its change to integers from -L to L, in steps that all nodes know: they follow from the last average.
   What the rounding leaves out counts in the next exchange, as in DiLoCo.
2. Each pair of nodes has a secret, from the exchange of Diffie and Hellman over P-256, the curve of the certificates.
   HKDF gives a key for each exchange, and AES in counter mode a mask. One of the two adds it, and the other subtracts
   it, modulo M.
3. So a message is random to each node that lacks one of its sender's keys. In the sum of all messages the masks cancel:
   with M > 2 n L it is that of the integers, to the bit.

Graph and members are fixed: the sum needs the message of every node. An exchange that began again without one would
need new masks, since two messages with the same masks tell the difference of what they hide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from edgenode.config.schema import Config
from edgenode.core.algorithm.diloco import DILOCO, begin_at_start, take_outer_step
from edgenode.errors import ConfigError, LocalProtocolError
from edgenode.extensions import (
    AlgorithmDefinition,
    Compressor,
    Contribution,
    Digraph,
    Floats,
    GraphError,
    Ints,
    Layout,
    Payload,
    Sent,
    State,
    UpdateRule,
    Values,
    per_tensor,
)
from edgenode.node.replica import Replica
from edgenode.tasks.os_random import OsRandom

_BITS = {"int8": 8, "int4": 4}
_REACH = 4.0  # of the levels, in root mean squares of the last average
_FIRST = 0.02  # the root mean square of the first average, as a share of the model's, until there is one
_LEAST = 1e-3  # the same of any later one, so that a tensor that stood still can move

Masks = Callable[[int, int, int], Ints]
"""Returns the masks of an exchange, given its number, their count and the modulus."""


class PairwiseMasks:
    """The masks of one node: for each other node a secret that only the two know.

    Args:
        keys: the public keys of all nodes, by name.
        run: a text that no other run with these keys has.
    """

    def __init__(self, name: str, own: ec.EllipticCurvePrivateKey, keys: Mapping[str, Any], run: str) -> None:
        self._name, self._run = name, run
        self._secrets = {other: own.exchange(ec.ECDH(), key) for other, key in keys.items() if other != name}

    def __call__(self, t: int, size: int, modulus: int) -> Ints:
        """Return the sum of the masks of an exchange [size], modulo ``modulus``. Over all nodes they add up to 0."""
        total = np.zeros(size, dtype=np.int64)
        for other, secret in self._secrets.items():
            pair = sorted((self._name, other))
            info = f"{self._run} {t} {pair[0]} {pair[1]}".encode()
            random = OsRandom(HKDF(SHA256(), 32, salt=None, info=info).derive(secret))
            mask = (random.uniform(size) * modulus).astype(np.int64)
            total += mask if self._name == pair[0] else -mask
        return total % modulus


class MaskedSum:
    """Makes the messages of one node, and adds those of all.

    Args:
        masks: those of this node. None sends the integers as they are.
    """

    def __init__(self, nodes: int, bits: int, masks: Masks | None) -> None:
        self._nodes, self._bits, self._masks = nodes, bits, masks
        self._largest = 2 ** (bits - 1) - 1
        self._modulus = 2 * self._largest + 1
        self.levels = self._largest // nodes

    def compress(self, state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
        """Return the masked integers of the change. What they leave out stays in ``rest``."""
        counts = np.asarray(layout.sizes, dtype=np.int64)
        steps = self._steps(state, counts)
        of_each = np.repeat(np.where(steps > 0, steps, np.float32(1)), counts)
        change = state.kept["change"]
        codes = np.clip(np.rint(change / of_each), -self.levels, self.levels)
        state.kept["rest"] += change - codes.astype(np.float32) * of_each
        hidden = codes.astype(np.int64)
        if self._masks is not None:
            hidden += self._masks(state.round, layout.size, self._modulus)
        return Payload(counts, None, Values(self._centred(hidden), self._bits, steps))

    def _steps(self, state: State, counts: Ints) -> Floats:
        """The distance of the levels of each tensor, [tensors]: the same at all nodes."""
        model, last = _root_mean_square(state.kept["start"]), state.kept["last"]
        if last.any():
            spread = np.sqrt(per_tensor(np.add, last * last, counts) / np.maximum(counts, 1))
            spread = np.maximum(spread, np.float32(_LEAST * _FIRST * model))
        else:
            spread = np.full(len(counts), _FIRST * model)
        return np.asarray(spread * (_REACH / self.levels), dtype=np.float32)

    def _centred(self, numbers: Ints) -> NDArray[np.int8]:
        """The numbers modulo M, nearest to 0."""
        return np.asarray((numbers + self._largest) % self._modulus - self._largest, dtype=np.int8)

    def mix(self, state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
        """Take DiLoCo's outer step with the mean of all changes.

        Raises:
            LocalProtocolError: a message is missing. The masks of its sender do not cancel.
        """
        payloads = [own.payload, *(contribution.payload for contribution in received)]
        if len(payloads) != self._nodes:
            raise LocalProtocolError(f"{len(payloads)} messages of {self._nodes} nodes: the masks do not cancel")
        total = self._centred(np.sum([payload.values.codes for payload in payloads], axis=0, dtype=np.int64))
        mean = replace(own.payload, values=replace(own.payload.values, codes=total)).numbers / np.float32(self._nodes)
        take_outer_step(state, replace(own, payload=Payload(own.payload.counts, None, Values(mean))), 1.0, ())
        state.kept["last"][:] = mean

    def rule(self, rule: UpdateRule) -> UpdateRule:
        """A rule with these messages."""
        return replace(rule, compress=self.compress, mix=self.mix)


def _root_mean_square(vector: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(vector, dtype=np.float64))))


def require_complete(name: str, graph: Digraph, rate: float) -> None:
    """Refuse a graph in which a node does not receive all messages.

    Raises:
        GraphError: it is not complete.
    """
    if len(graph.edges) != len(graph.nodes) * (len(graph.nodes) - 1):
        raise GraphError(f"masked cannot use {name}: its masks cancel in the sum of all messages; use complete")


def _prepare(config: Config, replicas: Mapping[str, Replica]) -> None:
    algorithm, nodes = config.algorithm, len(replicas)
    if algorithm.compressor != "identity" or algorithm.values not in _BITS:
        raise ConfigError('masked: algorithm.compressor must be "identity", and algorithm.values "int8" or "int4"')
    bits = _BITS[algorithm.values]
    if nodes < 3 or MaskedSum(nodes, bits, None).levels < 1:
        raise ConfigError(f"masked: with {algorithm.values}, a run has 3 to {2 ** (bits - 1) - 1} nodes, not {nodes}")
    own = {name: ec.generate_private_key(ec.SECP256R1()) for name in replicas}
    public = {name: key.public_key() for name, key in own.items()}
    for name, replica in replicas.items():
        masks = PairwiseMasks(name, own[name], public, config.run.cluster) if algorithm.options["masks"] else None
        spec = replica.learner.algorithm_spec
        replica.learner.algorithm_spec = replace(spec, rule=MaskedSum(nodes, bits, masks).rule(spec.rule))


MASKED = replace(
    DILOCO, keeps=(*DILOCO.keeps, "last"), begin=begin_at_start, check_graph=require_complete, common=None, join=None
)
"""Until a simulation begins, and gives each node its keys, it is DiLoCo."""

DEFINITION = AlgorithmDefinition(
    lambda: MASKED, "identity", "int8", doubly_stochastic=True, options={"masks": True}, prepares=_prepare
)
