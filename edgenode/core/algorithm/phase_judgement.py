"""Judges what an allreduce gives a node, before the node takes it in place of its own model. Pure.

The messages are sums over several members, so what a member puts into them shows in the result only. But an honest
result can be worse than each model, too, where the models are far apart.

1. Distances have a unit: the distance that training has moved the own model, in the same entries. All models begin at
   one point, so an average is less than one unit away, even of models that share nothing.
2. The spread is the distance at which the result is to be expected, by the nearest of the other models. Each message of
   the reduce shows some, and comes from another sender. So a member that lies can make the spread smaller, but not
   larger while another message arrives. Of two nodes each receives one message. Then there is no spread.
3. The loss of a result is the share of what training has gained that it loses. Where all nodes test with the same data,
   the better model is better for all. A node that knows its own data only loses much there by a good average.
4. A result is refused if it loses more than ``Limits.lost``, or is far away and loses more than ``Limits.lost_if_far``.
   Where no loss is known, it is refused if it is further away than any honest one.
5. A refused result is suspicious if it is far away, or loses more than the spread explains.

The limits are from runs without a lie (benchmarks/notes/security.md). A newcomer with its sponsor's model makes the
spread small, and loses little. A lie that costs less passes, so this bounds the harm and does not find every lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np

from edgenode.core.algorithm.compression import CHUNK, Floats
from edgenode.core.algorithm.partial_sums import PhaseResult


@dataclass(frozen=True)
class Limits:
    """The shares of what training gained that a result may lose."""

    lost: float
    lost_if_far: float


COMMON_TEST = Limits(0.2, 0.1)
OWN_DATA = Limits(4.0, 0.4)

_FARTHEST = 1.1  # units
_FAR = 3.0  # spreads
_LOST, _LOST_BY_SPREAD = 0.5, 8.0  # the most that a spread explains: the latter times its square


@dataclass(frozen=True)
class Refusal:
    """A result that a node does not take.

    Attributes:
        is_suspicious: the distance of honest models does not explain it.
    """

    reason: str
    is_suspicious: bool


def share_lost(untrained: float, before: float, after: float) -> float | None:
    """Return the share of what training gained that a result loses, from three losses. None if it gained nothing."""
    gained = untrained - before
    if not gained > 0:
        return None
    return (after - before) / gained if isfinite(after) else inf


def judge(result: PhaseResult, initial: Floats | None, lost: float | None, limits: Limits) -> Refusal | None:
    """Return why a node should keep its own model, or None.

    Args:
        initial: z [d] that training began with. Without it, the unit of distances is the length of the own model.
        lost: the share of what training gained that the result loses. None if that is not known.
    """
    whole = [slice(0, len(result.average))]
    if not all(np.isfinite(result.average[part]).all() for part in _chunks(whole)):
        return Refusal("it has numbers that are not finite", is_suspicious=True)
    distance = _in_units(_length(whole, result.average, result.before), _length(whole, result.before, initial))
    spread = _spread(result, initial)
    is_far = distance > _FARTHEST or (spread is not None and distance > _FAR * spread)
    where = f"it is {distance:.2g} times as far away as training came"
    if spread is not None:
        where += f", and {spread:.2g} times is to be expected"
    if lost is None:
        return Refusal(where, is_suspicious=True) if distance > _FARTHEST else None
    if lost <= (limits.lost_if_far if is_far else limits.lost):
        return None
    unexplained = spread is not None and lost > _LOST + _LOST_BY_SPREAD * spread**2
    reason = f"it loses {min(lost, 99):.0%} of what training gained; {where}"
    if is_far or unexplained:
        return Refusal(reason, is_suspicious=True)
    return Refusal(f"{reason}; the models seem to be too far apart", is_suspicious=False)


def _spread(result: PhaseResult, initial: Floats | None) -> float | None:
    """The distance at which the average is to be expected, by the nearest others. None if there is one message.

    Of n models with independent deviations, the average is at the share sqrt((1 - 1/n) / (1 + 1/k)) of the distance of
    an average of k others.
    """
    if len(result.others) < 2:
        return None
    rest = 1 - 1 / result.nodes
    return min(
        sqrt(rest / (1 + 1 / others.count)) * _in_units(others.distance, _length(others.where, result.before, initial))
        for others in result.others
    )


def _in_units(distance: float, unit: float) -> float:
    return distance / unit if unit else inf if distance else 0.0


@np.errstate(over="ignore", invalid="ignore")
def _length(where: Sequence[slice], vector: Floats, origin: Floats | None) -> float:
    """The L2 distance of a vector from another one, or from 0, in some ranges."""
    square = 0.0
    for part in _chunks(where):
        difference = vector[part] if origin is None else vector[part] - origin[part]
        square += float(np.dot(difference, difference))
    return sqrt(square)


def _chunks(where: Sequence[slice]) -> Iterator[slice]:
    """Parts of ranges, each of which fits a cache."""
    for part in where:
        for begin in range(part.start, part.stop, CHUNK):
            yield slice(begin, min(begin + CHUNK, part.stop))
