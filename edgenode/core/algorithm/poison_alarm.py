"""Notices contributions that history and error feedback do not explain, and evaluations that collapse. Pure.

What a node receives is compared with what it sends itself. All nodes are in the same round, so their messages grow
together while error feedback warms up, change together when the last phase begins, and carry the same block.

1. The level of a message is |C[v]| / u, its length on the scale of z. u belongs to it: a message of half the mass has
   half the length, and one with too small a u would stretch its receiver's z.
2. The reference of a round is the largest of: the own level of the round, the median of the own recent levels, the
   median of all levels of the round, and a floor. In runs without a fault (benchmarks/notes/security.md) no level was
   above 2.93 references, and with top-k and error feedback none above 1.22.
3. A sender whose recent levels are above the reference may be so, up to a factor: nodes with more data take longer
   steps. Above ``_FACTOR`` times that, a message raises the alarm.
4. Error feedback holds back what it does not send, so a message with a kept share p grows to |x| / sqrt(p). A newcomer
   begins without error, and its neighbours do not: in its first 4 / p rounds that bound is part of its reference.
5. u is a share of the mass of the run, which is 1 for each process that joined. The bound has room for mass that
   leavers left behind.

A message that is not longer than others, and wrong, passes. So the alarm is no Byzantine tolerance: it notices noise
and faults, not an adversary that knows it. What passes shows in the next evaluation (`EvaluationWatch`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, inf, isfinite, sqrt
from statistics import median, median_low

import numpy as np

from edgenode.core.algorithm.clipped_mixing import ClippedMixing
from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import Contribution

_FACTOR = 4.0  # above it, a message raises the alarm
_MOST_TYPICAL = 4.0  # a sender's history raises its limit by at most this
_RECENT = 15  # levels kept per sender
_ENOUGH = 5  # of them make a history
_FLOOR = 0.02  # of |x|: shorter messages change little, however short the others are
_WARM_UP = 4  # divided by the kept share, the rounds until a newcomer's error is as large as that of others
_SETTLED = 0.8  # of the best score
_MASS_LEFT = 4  # times the members: the most mass that a run can have


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A member whose contribution raised the alarm, and why."""

    member: str
    reason: str


class PoisonAlarm:
    """Inspects the contributions of each round before one learner mixes them.

    Memory is O(1) for each neighbour. Time is O(d) for a round, and O(k) for a message of k entries.

    Args:
        refuses: the learner's own message replaces a contribution that raises the alarm.
        liars: the number of in-neighbours whose lies mixing limits (`clipped_mixing`).
        newcomer: the learner began in the middle of a run, without the error that others have.

    Attributes:
        mixed: the senders of what was mixed since it was last cleared.
    """

    def __init__(self, learner: VectorLearner, refuses: bool = False, liars: int = 0, newcomer: bool = False) -> None:
        self._learner, self._refuses, self._clipped = learner, refuses, ClippedMixing(learner, liars)
        self._age = 0.0 if newcomer else inf  # in rounds
        self._own: deque[float] = deque(maxlen=_RECENT)
        self._ratios: defaultdict[tuple[str, int], deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self.mixed: set[str] = set()

    @np.errstate(over="ignore", divide="ignore")
    def inspect(
        self, received: Sequence[tuple[str, int, Contribution]], members: int
    ) -> tuple[list[Contribution], list[Suspicion]]:
        """Return the contributions to mix in a round. Suspicious and distant ones are replaced or blended.

        To be called between the learner's ``compress_update`` and ``mix_round``.

        Args:
            received: sender, incarnation and contribution, in sender order.
            members: the number of members of the run.
        """
        levels = [_level(c.payload.numbers, c.u) for _, _, c in received]
        reference = self._reference([level for level, (_, _, c) in zip(levels, received, strict=True) if c.weight < 1])
        mixed: list[Contribution] = []
        suspicions: list[Suspicion] = []
        shares = self._clipped.shares(received)
        for (sender, incarnation, contribution), level, share in zip(received, levels, shares, strict=True):
            handoff = contribution.weight == 1.0
            expected = max(reference, self._size) if handoff else reference * self._typical((sender, incarnation))
            reason = _reason(level, expected, contribution, members)
            if reason:
                suspicions.append(Suspicion(sender, reason))
            elif not handoff:
                self._ratios[sender, incarnation].append(level / reference if reference else 0.0)
            kept = 0.0 if reason and self._refuses else share
            if kept:
                self.mixed.add(sender)
            mixed += self._blended(contribution, kept)
        self._age += 1
        return mixed, suspicions

    @property
    def _size(self) -> float:
        """The level of the whole model, and of what else a message has."""
        state = self._learner.state
        return hypot(*(_level(vector, state.u) for vector in state.sent))

    def _reference(self, levels: list[float]) -> float:
        """Return the reference for a level of this round: rules 2 and 4."""
        learner = self._learner
        sent = learner.own_push
        own, size = _level(sent.payload.numbers, sent.u), self._size
        kept = len(sent.payload.numbers) / (learner.layout.size * learner.vectors)
        floor = size * (_FLOOR if sent.block is None else sqrt(kept))
        if len(learner.state.error) and self._age * kept < _WARM_UP:
            floor = size / sqrt(kept) if kept else inf
        self._own.append(own)
        usual = median(self._own) if sent.block is None else 0.0
        return max(own, usual, median_low([own, *levels]), floor)

    def _typical(self, sender: tuple[str, int]) -> float:
        """Return the usual ratio of a sender's level to the reference, at least 1: rule 3."""
        ratios = self._ratios[sender]
        return min(max(1.0, median(ratios)), _MOST_TYPICAL) if len(ratios) >= _ENOUGH else 1.0

    def _blended(self, contribution: Contribution, kept: float) -> list[Contribution]:
        """A share of a contribution, and of the own message for the rest: as if its sender were that much nearer.

        x and u are blended alike, so z stays within the two models. A handoff is not exchanged for anything, so it is
        mixed or left out.
        """
        if kept == 1.0:
            return [contribution]
        if contribution.weight == 1.0:
            return []
        own = self._learner.own_push
        parts = [(kept, contribution.u, contribution.payload), (1 - kept, own.u, own.payload)]
        return [Contribution(share * contribution.weight, u, payload) for share, u, payload in parts if share]


def _level(numbers: Floats, u: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The length of a message on the scale of z. Infinite if it overflows."""
    aligned = np.require(numbers, requirements="A")  # numpy would copy both operands
    return float(np.sqrt(np.dot(aligned, aligned)) / (np.add.reduce(u) / len(u)))


def _reason(level: float, expected: float, contribution: Contribution, members: int) -> str:
    """Return why a contribution raises the alarm, or ""."""
    heaviest, most = float(contribution.u.max()), _MASS_LEFT * members
    if heaviest > most:
        return f"its u is {heaviest:.3g}, and {members} members have {members} together"
    if level > _FACTOR * expected or not isfinite(level):
        return f"its message is {level / expected if expected else inf:.3g} times as long as expected"
    return ""


class EvaluationWatch:
    """Notices when the own evaluation collapses, and knows until which round all was well.

    A score is the accuracy, 0 to 1. Where there is none it is 1 / (1 + loss), of the test, or else the mean of training
    since the last evaluation. An evaluation collapses if its score is below half of the median of the last five, and
    that median is within a fifth of the best: training had settled. All is well again when a score is within a fifth of
    the best.

    Args:
        good_until: the value that a resumed node had. It has no earlier scores, so it never takes it back.

    Attributes:
        good_until: while something is wrong, the newest round before it. Else None.
    """

    def __init__(self, good_until: int | None = None) -> None:
        self.good_until = good_until
        self._scores: deque[float] = deque(maxlen=5)
        self._best, self._last = 0.0 if good_until is None else inf, 0
        self._collapsed = False

    def suspect(self, t: int) -> None:
        """The model after ``t`` rounds is the last that is known to be good."""
        self.good_until = t if self.good_until is None else min(t, self.good_until)

    def evaluated(self, t: int, score: float) -> str:
        """Take the score after ``t`` rounds. Return what happened if it collapses now, or ""."""
        fell = ""
        self._best = max(self._best, score)
        usual = median(self._scores) if len(self._scores) == self._scores.maxlen else 0.0
        if score >= _SETTLED * self._best:
            self.good_until, self._collapsed = None, False
        elif usual >= _SETTLED * self._best and score < usual / 2 and not self._collapsed:
            fell, self._collapsed = f"the own score fell from {usual:.3g} to {score:.3g} since round {self._last}", True
            self.suspect(self._last)
        if self.good_until is None:
            self._scores.append(score)
            self._last = t
        return fell
