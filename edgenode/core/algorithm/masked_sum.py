"""DiLoCo whose messages tell nothing but their sum: secure aggregation (Bonawitz et al. 2017), without dropouts.

1. A node rounds its change to integers from -L to L, in steps that all nodes know: they follow from the last average.
   What the rounding leaves out counts in the next exchange, as in DiLoCo.
2. It adds its masks, modulo M. They are random to each node that lacks one of its secrets, and so is the message. The
   masks of all nodes add up to 0, so the sum of all messages is that of the integers, to the bit.
3. With 2 n L + 1 < M, no sum of integers reaches the outermost values. Masks that do not cancel do, in some of many
   coordinates. Then no node takes the step.
4. A message with the masks of another one would tell the difference of what the two hide. So masks are drawn for one
   process of each node and one exchange (`edgenode.node.mask_key`).
5. Graph and members are fixed: the sum needs the message of every node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import (
    DIVERGED,
    Compressor,
    Floats,
    Ints,
    Layout,
    Payload,
    Values,
    largest_magnitude,
)
from edgenode.core.algorithm.diloco import DILOCO, begin_at_start, take_outer_step
from edgenode.core.algorithm.rounding import per_tensor
from edgenode.core.algorithm.sparse_push import Contribution, Sent, State
from edgenode.core.algorithm.update_rules import UpdateRule
from edgenode.core.topology.graph import Digraph
from edgenode.errors import Diverged, GraphError, LocalProtocolError, SpoiledSum

FEWEST = 3
"""Of two nodes, each could subtract its own change from the sum."""
_REACH = 4.0  # the least of the largest level, in root mean squares of the last average
_FINEST = 0.5  # the least distance of two levels, in the same. Finer levels gain less than such that reach further.
_FIRST = 0.1  # the root mean square of the first average, as a share of the model's, until there is one
_LEAST = 1e-4  # the same of any later one, so that a tensor that stood still can move

Masks = Callable[[int, int, int], Ints]
"""Returns the sum of a node's masks of an exchange [size], given its number, their size and the modulus."""


def most_nodes(bits: int) -> int:
    """The largest number of nodes for which integers of so many bits have a level and an outermost value."""
    return (1 << bits - 1) - 2


class MaskedSum:
    """Makes the messages of one node, and adds those of all.

    Args:
        masks: those of this node. None sends the integers as they are.
    """

    def __init__(self, nodes: int, bits: int, masks: Masks | None) -> None:
        self._nodes, self._bits, self._masks = nodes, bits, masks
        self._largest = (1 << bits - 1) - 1
        self._modulus = 2 * self._largest + 1
        self.levels = most_nodes(bits) // nodes

    def compress(self, state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
        """Return the masked integers of the change. What they leave out stays in ``rest``.

        Raises:
            Diverged: a number of the change is 1e15 or larger, or NaN.
        """
        change = state.kept["change"]
        if not (largest := largest_magnitude(change)) < DIVERGED:  # also true for NaN
            raise Diverged(f"a number to send is {largest:.4g}")
        counts = np.asarray(layout.sizes, dtype=np.int64)
        steps = self._steps(state, counts)
        of_each = np.repeat(steps, counts)
        codes = np.clip(np.rint(change / of_each), -self.levels, self.levels)
        state.kept["rest"] += change - codes.astype(np.float32) * of_each
        hidden = codes.astype(np.int64)
        if self._masks is not None:
            hidden += self._masks(state.round, layout.size, self._modulus)
        return Payload(counts, None, Values(self._centred(hidden), self._bits, steps))

    def _steps(self, state: State, counts: Ints) -> Floats:
        """The distance of the levels of each tensor, [tensors]: the same at all nodes."""
        model = _root_mean_square(state.kept["start"]) or 1.0
        spread = np.full(len(counts), np.float32(_FIRST * model))
        if state.round:
            last = np.sqrt(per_tensor(np.add, state.kept["last"] ** 2, counts) / np.maximum(counts, 1))
            spread = np.maximum(last, np.float32(_LEAST * model))
        return np.asarray(spread * max(_REACH / self.levels, _FINEST), dtype=np.float32)

    def _centred(self, numbers: Ints) -> NDArray[np.int8]:
        """The numbers modulo M, nearest to 0."""
        return np.asarray((numbers + self._largest) % self._modulus - self._largest, dtype=np.int8)

    def mix(self, state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
        """Take DiLoCo's outer step with the mean of all changes.

        Raises:
            LocalProtocolError: a message is missing. The masks of its sender do not cancel.
            SpoiledSum: the masks of the messages do not cancel, or one has other steps.
        """
        payloads = [own.payload, *(contribution.payload for contribution in received)]
        if len(payloads) != self._nodes:
            raise LocalProtocolError(f"{len(payloads)} messages of {self._nodes} nodes: the masks do not cancel")
        if not all(_is_like(own.payload, payload) for payload in payloads):
            raise SpoiledSum("a message has other steps, or another format")
        total = self._centred(np.sum([payload.values.codes for payload in payloads], axis=0, dtype=np.int64))
        if len(total) and max(total.max(), -total.min()) > self._nodes * self.levels:
            raise SpoiledSum("the masks of the messages do not cancel, so a member has sent a wrong one")
        mean = replace(own.payload, values=replace(own.payload.values, codes=total)).numbers / np.float32(self._nodes)
        take_outer_step(state, replace(own, payload=Payload(own.payload.counts, None, Values(mean))), 1.0, ())
        state.kept["last"][:] = mean

    def rule(self, rule: UpdateRule) -> UpdateRule:
        """A rule with these messages."""
        return replace(rule, compress=self.compress, mix=self.mix)


def _is_like(own: Payload, payload: Payload) -> bool:
    """Return whether a message has the format and the steps of the own one. Only then can the two be added."""
    ours, theirs = own.values, payload.values
    return (
        (theirs.bits, theirs.fitted, payload.indices) == (ours.bits, ours.fitted, None)
        and np.array_equal(payload.counts, own.counts)
        and np.array_equal(theirs.scales, ours.scales)  # type: ignore[arg-type]  # None equals no array
    )


def _root_mean_square(vector: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(vector, dtype=np.float64))))


def require_complete(name: str, graph: Digraph, rate: float) -> None:
    """Refuse a graph in which a node does not receive all messages, or only one.

    Raises:
        GraphError: it is not complete, or has fewer than three nodes.
    """
    if len(graph.edges) != len(graph.nodes) * (len(graph.nodes) - 1):
        raise GraphError(f"masked-diloco cannot use {name}: masks cancel in the sum of all messages; use complete")
    if len(graph.nodes) < FEWEST:
        raise GraphError(f"masked-diloco needs {FEWEST} nodes: the sum would tell a node the change of the other")


def _refuse(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    raise LocalProtocolError("masked-diloco without masks")


MASKED = replace(
    DILOCO,
    keeps=(*DILOCO.keeps, "last"),
    begin=begin_at_start,
    compress=_refuse,
    check_graph=require_complete,
    common=None,
    join=None,
)
"""The rule before a node has its masks (`MaskedSum.rule`). It sends nothing."""
