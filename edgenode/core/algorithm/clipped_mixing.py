"""Limits what liars among the in-neighbours do to a model: ClippedGossip on what their messages add up to. Pure.

A message of top-k has the entries that were due, and says little about the model behind it. So a node judges what the
messages of a neighbour add up to. For each in-neighbour j it keeps a vector [d],

    away_j = (1 - eta) away_j + eta (C[v_j] - (u_j / u) C[v]) / u

which is how far j alone would have led z away from this node, if mixing forgets at the rate eta.

1. The radius is the largest |away_j|, without the ``liars`` in-neighbours that are farthest. If there are 2 liars + 1
   in-neighbours or more, it lies between the distances of two honest ones, whatever the liars send.
2. A message from beyond the radius counts for radius / |away_j|, and the own message for the rest. It counts for
   nothing beyond ``_TOO_FAR`` radii, where no honest neighbour was seen.
3. The same holds for |u_j / u - 1|. In balanced graphs every honest u is 1, so nothing of a false u passes.
4. Without compression eta is 1, and away_j is the difference of the models. Rule 2 is then ClippedGossip (He,
   Karimireddy and Jaggi 2022), with the distance filter of BALANCE (Fang et al. 2024).
5. The hand-off of a leaver is left out: nothing limits it.

The vectors are part of the state, so a run that resumes has them. A neighbour that is not heard in a round is
forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import Contribution, Sent

_AWAY = "away."
_TOO_FAR = 1.25  # radii. In runs without a lie (benchmarks/notes/security.md) no neighbour was farther than 1.18
_ROUNDING = 1e-6  # of u


class ClippedMixing:
    """The shares of the received messages that one learner mixes.

    Memory is O(d) for each in-neighbour, and so is the time of a round.

    Args:
        liars: the number of in-neighbours that may lie. 0 mixes every message as it is.
    """

    def __init__(self, learner: VectorLearner, liars: int) -> None:
        self._learner, self._liars = learner, liars

    def shares(self, received: Sequence[tuple[str, int, Contribution]]) -> list[float]:
        """Return the share of each contribution, 0 to 1, that is mixed in the place of the own message.

        To be called once a round, between the learner's ``compress_update`` and ``mix_round``.

        Args:
            received: sender, incarnation and contribution, in sender order.
        """
        if not self._liars:
            return [1.0] * len(received)
        own = self._learner.own_push
        exchanged = {f"{_AWAY}{sender}.{number}": c for sender, number, c in received if c.weight < 1}
        self._forget_others(exchanged)
        lengths = [_length(self._follow(name, own, c)) for name, c in exchanged.items()]
        weights = [float(np.abs(c.u / own.u - 1).max()) for c in exchanged.values()]
        pairs = zip(clipped(lengths, self._liars), clipped(weights, self._liars, _ROUNDING), strict=True)
        shares = dict(zip(exchanged, map(min, pairs), strict=True))
        return [shares.get(f"{_AWAY}{sender}.{number}", 0.0) for sender, number, _ in received]

    def _forget_others(self, heard: dict[str, Contribution]) -> None:
        kept = self._learner.state.kept
        for name in [name for name in kept if name.startswith(_AWAY) and name not in heard]:
            del kept[name]

    def _follow(self, name: str, own: Sent, received: Contribution) -> Floats:
        """Add a message to what its sender's messages add up to, and return that, or the block that is exchanged."""
        state = self._learner.state
        if name not in state.kept:
            state.kept[name] = np.zeros_like(state.x)
        away, rate, u = state.part(own.block).kept[name], own.averaging_rate, float(own.u.mean())
        away *= np.float32(max(0.0, 1 - rate))
        received.payload.add_to(away, rate / u)
        own.payload.add_to(away, -rate * float(received.u.mean()) / u**2)
        return away


def clipped(distances: Sequence[float], liars: int, floor: float = 0.0) -> list[float]:
    """Return the share of each that is mixed, given its distance.

    Args:
        floor: distances up to it always count.
    """
    if not distances:
        return []
    radius = max(floor, sorted(distances)[max(0, len(distances) - 1 - liars)])
    return [1.0 if d <= radius else radius / d if d <= _TOO_FAR * radius else 0.0 for d in distances]


def _length(vector: Floats) -> float:
    return float(np.sqrt(np.dot(vector, vector)))
