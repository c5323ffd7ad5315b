"""One node's numbers in an allreduce (`core.topology.allreduce`): sums of x and u by parts, then averages of parts.

1. The sums begin as copies of x and u. The state itself stays as it is. So a phase that begins again, because a node
   died, has what it needs, and until all parts are here, z is that of the state.
2. Reduce. Sums that are sent leave the node with their u, and are added where they arrive. A push-sum weight belongs to
   a piece: the intersection of a part and a block of the rolling exchange.
3. Gather. The owner of a part rounds X / U once, to the number format of the phase. What it rounded to is sent from
   node to node as it is, and is what all nodes take, the owner included. So all have the same model to the bit.
4. At the end x is z and u is 1.

What rounding takes from a sum in the reduce is lost: the sum has left, so no later message could bring it. Numbers that
no model has are cut off. They would end the node that adds them, as if its own training had diverged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import (
    CHUNK,
    DIVERGED,
    Compressor,
    Floats,
    Ints,
    Layout,
    Payload,
    Values,
    block_bounds,
    largest_magnitude,
)
from edgenode.core.algorithm.sparse_push import State, Weights, debias
from edgenode.core.topology.allreduce import Transfer
from edgenode.errors import LocalProtocolError, RemoteProtocolError

_LARGEST = np.float32(DIVERGED / 2000)  # the sum over more members than a run can have is no divergence of this node
Numbers = NDArray[Any]  # float32, or exact fractions
_NOTHING: Floats = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Division:
    """The positions of a vector's parts.

    Attributes:
        parts: the first entry of each part, and the end.
        pieces: the first entry of each piece, which has one push-sum weight, and the end.
        tensors: the first entry of each tensor, or part of a tensor, and the end.
    """

    parts: Ints
    pieces: Ints
    tensors: Ints

    def entries(self, transfer: Transfer) -> list[slice]:
        """Return the ranges of the vector that are sent."""
        return [slice(self.parts[begin], self.parts[end]) for begin, end in transfer.ranges]

    def weights(self, transfer: Transfer) -> list[slice]:
        """The pieces that are sent."""
        return self._numbers(self.pieces, transfer)

    def scales(self, transfer: Transfer) -> list[slice]:
        """The tensors, or parts of tensors, that are sent."""
        return self._numbers(self.tensors, transfer)

    def layout(self, transfer: Transfer) -> Layout:
        """The layout of the entries that are sent."""
        return Layout(tuple(joined(np.diff(self.tensors), self.scales(transfer)).tolist()))

    def debiased(self, transfer: Transfer, x: Numbers, u: Numbers) -> Numbers:
        """z of the parts that are sent, from their x and u."""
        z, weights = np.empty_like(x), u.astype(x.dtype)
        ends = np.cumsum(joined(np.diff(self.pieces), self.weights(transfer))).tolist()
        for begin, end, weight in zip([0, *ends], ends, weights, strict=False):
            np.divide(x[begin:end], weight, out=z[begin:end])
        return z

    def of_pieces(self, u: Numbers) -> Numbers:
        """The push-sum weight of each piece, from those of the blocks."""
        blocks = block_bounds(int(self.parts[-1]), len(u))
        return u[np.searchsorted(blocks, self.pieces[:-1], side="right") - 1]

    def _numbers(self, bounds: Ints, transfer: Transfer) -> list[slice]:
        return [slice(*np.searchsorted(bounds, (where.start, where.stop))) for where in self.entries(transfer)]


@lru_cache(maxsize=8)
def division(layout: Layout, parts: int, blocks: int) -> Division:
    """The parts of a model whose state has a push-sum weight for each of so many blocks."""
    bounds = block_bounds(layout.size, parts)
    pieces = np.union1d(bounds, block_bounds(layout.size, blocks))
    return Division(bounds, pieces, np.union1d(bounds, layout.offsets))


def joined(vector: Numbers, where: Sequence[slice]) -> Numbers:
    """Ranges of a vector, one after the other, in a new one."""
    return np.concatenate([vector[:0], *(vector[part] for part in where)])


def seen(vector: Numbers, where: Sequence[slice]) -> Numbers:
    """The same, without a copy if it is one range."""
    return vector[where[0]] if len(where) == 1 else joined(vector, where)


def put(vector: Numbers, where: Sequence[slice], numbers: Numbers) -> None:
    """The inverse of ``joined``."""
    at = 0
    for part in where:
        vector[part] = numbers[at : (at := at + part.stop - part.start)]


class PartialSums:
    """The sums of x [d] and u [pieces] that a node holds."""

    def __init__(self, x: Numbers, u: Numbers, of: Division) -> None:
        self.x, self._of = x.copy(), of
        self.u: Numbers = of.of_pieces(u)

    def sent(self, transfer: Transfer) -> tuple[Numbers, Numbers]:
        """x and u of some parts, copied."""
        return joined(self.x, self._of.entries(transfer)), joined(self.u, self._of.weights(transfer))

    def leave(self, transfer: Transfer) -> None:
        """The sums of some parts are somewhere else now."""
        for held, where in self._held(transfer):
            for part in where:
                held[part] *= 0

    def add(self, transfer: Transfer, x: Numbers, u: Numbers) -> None:
        """Add sums of some parts that arrive."""
        for (held, where), arriving in zip(self._held(transfer), (x, u), strict=True):
            at = 0
            for part in where:
                held[part] += arriving[at : (at := at + part.stop - part.start)]

    def average(self, transfer: Transfer) -> Numbers:
        """z of some parts."""
        x, u = seen(self.x, self._of.entries(transfer)), seen(self.u, self._of.weights(transfer))
        return self._of.debiased(transfer, x, u)

    def _held(self, transfer: Transfer) -> tuple[tuple[Numbers, list[slice]], ...]:
        return (self.x, self._of.entries(transfer)), (self.u, self._of.weights(transfer))


@dataclass(frozen=True)
class Others:
    """Other nodes' models, as a message of the reduce has them.

    Attributes:
        where: the ranges of the vector that it has.
        distance: the L2 distance between their average and the own model there.
        count: the number of models in it, at most.
    """

    where: list[slice]
    distance: float
    count: int


@dataclass(frozen=True)
class PhaseResult:
    """What an allreduce gave one node.

    Attributes:
        before: z [d] of the node before the phase. It may be the x of its state.
        average: z [d] of all nodes, as far as no member lied.
        others: one for each message of the reduce, each of another sender.
        nodes: the number of nodes.
    """

    before: Floats
    average: Floats
    others: Sequence[Others]
    nodes: int


class LastPhase:
    """The last phase of one node on float32 vectors.

    Args:
        state: the state at its start. It is not changed.
        compressor: selects everything, and rounds it to a number format.

    Attributes:
        average: z [d] of all nodes, as soon as all parts are here.
    """

    def __init__(self, state: State, layout: Layout, parts: int, compressor: Compressor) -> None:
        self.average: Floats | None = None
        self._state, self._others = state, list[Others]()
        self._of, self._compressor = division(layout, parts, len(state.u)), compressor
        self._sums = PartialSums(state.x, state.u, self._of)
        self._here = np.zeros(parts, dtype=bool)  # the parts of which the average is here
        self._codes: Values | None = None  # of all parts, zeros where it is not here

    def send(self, transfer: Transfer, rng: np.random.Generator) -> tuple[Payload, Weights]:
        """The message of a round. It has the weights of its pieces, or [1] if it has none or sends no sums.

        It may be part of the sums, so it is encoded before the round is mixed.
        """
        layout = self._of.layout(transfer)
        if transfer.reduces:
            x, u = seen(self._sums.x, self._of.entries(transfer)), joined(self._sums.u, self._of.weights(transfer))
            return self._compressor(x, layout, rng, copy=False), u if len(u) else np.ones(1)
        if transfer.count and self._codes is None:
            self._begin_to_gather(transfer, rng)
        where, scales = self._of.entries(transfer), self._of.scales(transfer)
        return Payload(np.asarray(layout.sizes, dtype=np.int64), None, self._selected(where, scales)), np.ones(1)

    def _begin_to_gather(self, own: Transfer, rng: np.random.Generator) -> None:
        """Round the average of the own part, which is the first message of the gather."""
        with np.errstate(over="ignore"):
            average = self._sums.average(own)
        np.clip(average, -_LARGEST, _LARGEST, out=average)
        values = self._compressor(average, self._of.layout(own), rng, copy=False).values
        # all other sums have left, and zeros are in their place
        codes = self._sums.x if values.bits == 32 else np.zeros(len(self._sums.x), dtype=values.codes.dtype)
        scales = None if values.scales is None else np.zeros(len(self._of.tensors) - 1, dtype=np.float32)
        self._codes = Values(codes, values.bits, scales, values.fitted)
        self._keep(own, values)

    def _selected(self, where: list[slice], scales: list[slice]) -> Values:
        all_of = self._codes or Values(self._sums.x[:0])
        some = None if all_of.scales is None else joined(all_of.scales, scales)
        return Values(seen(all_of.codes, where), all_of.bits, some, all_of.fitted)

    def _keep(self, transfer: Transfer, values: Values) -> None:
        """Averages of some parts are here, as codes."""
        assert self._codes is not None
        put(self._codes.codes, self._of.entries(transfer), values.codes)
        if self._codes.scales is not None and values.scales is not None:
            put(self._codes.scales, self._of.scales(transfer), values.scales)
        for begin, end in transfer.ranges:
            self._here[begin:end] = True

    def mix(self, own: Transfer, received: Sequence[tuple[Transfer, Payload, Weights]]) -> None:
        """End a round, in which the own message left, and others arrived.

        Raises:
            LocalProtocolError: a message of the other kind arrives: a sum instead of an average, or the reverse.
        """
        if own.reduces:
            self._sums.leave(own)
        for transfer, payload, u in received:
            if (transfer.parts, transfer.reduces) != (own.parts, own.reduces):
                raise LocalProtocolError(f"{transfer} arrived in a round in which {own} is sent")
            if transfer.reduces:
                x = payload.numbers
                if not largest_magnitude(x) <= _LARGEST:
                    x = np.clip(x, -_LARGEST, _LARGEST)
                self._compare(transfer, x, u)
                self._sums.add(transfer, x, u)
            elif transfer.count:
                self._keep(transfer, payload.values)
        if self._codes is not None and self.average is None and self._here.all():
            self.average = self._model()

    @np.errstate(over="ignore", invalid="ignore")
    def _compare(self, transfer: Transfer, x: Floats, u: Weights) -> None:
        """Note how far away the models in a message of the reduce are."""
        if not len(x):
            return
        state, of, square, at = self._state, self._of, 0.0, 0
        own_u, their_u = of.of_pieces(state.u).astype(np.float32), iter(u.astype(np.float32))
        for piece in (piece for where in of.weights(transfer) for piece in range(where.start, where.stop)):
            weight, end = next(their_u), int(of.pieces[piece + 1])
            for begin in range(int(of.pieces[piece]), end, CHUNK):
                part = slice(begin, min(begin + CHUNK, end))
                difference = x[at : (at := at + part.stop - part.start)] / weight
                difference -= state.x[part] / own_u[piece]
                square += float(np.dot(difference, difference))
        self._others.append(Others(of.entries(transfer), float(np.sqrt(square)), 1 << len(self._others)))

    @property
    def result(self) -> PhaseResult | None:
        """What the phase gave. None before its end."""
        if self.average is None:
            return None
        before = self._state.x if self._state.is_unbiased else debias(self._state)
        return PhaseResult(before, self.average, self._others, len(self._here))

    def _model(self) -> Floats:
        assert self._codes is not None
        return np.ascontiguousarray(self._codes.decode(np.diff(self._of.tensors)), dtype=np.float32)


def weights_sent(layout: Layout, blocks: int, transfer: Transfer) -> int:
    """The number of push-sum weights in a message."""
    if not transfer.reduces:
        return 1
    return max(1, sum(int(w.stop - w.start) for w in division(layout, transfer.parts, blocks).weights(transfer)))


def check_format(payload: Payload, compressor: Compressor) -> None:
    """Hold a message to the number format of the phase, in which every node passes it on.

    Raises:
        RemoteProtocolError: it has another one, or leaves entries out.
    """
    own = compressor(_NOTHING, Layout(()), np.random.default_rng(0)).values
    theirs = payload.values
    if payload.indices is not None or (len(theirs.codes) and (theirs.bits, theirs.fitted) != (own.bits, own.fitted)):
        raise RemoteProtocolError("its values are not in the number format of the last phase")
