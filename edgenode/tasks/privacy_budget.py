"""The privacy that the noisy steps of a node have spent, and how many more it may take.

A step of DP-SGD is a Gaussian mechanism on a Poisson sample of the data (Abadi et al. 2016). Steps compose by their
Rényi divergences (Mironov et al. 2019), which Opacus computes. Two data sets are neighbours if one has one sample more.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgenode.errors import ConfigError

ORDERS = (1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 4.5, *range(5, 64), 64, 80, 96, 128, 192, 256, 384, 512)
"""The orders of the Rényi divergences. The best one counts: more of them would give a slightly smaller epsilon."""

_MOST_NOISE = 1e4
_UNLIMITED = 1 << 62
RESERVATIONS = 100
"""So often the count of a whole budget is written, and so much of it a crash may cost. Without a limit, it is the
number of steps that are counted ahead.
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """Noisy steps of one kind.

    Attributes:
        noise: standard deviation of the noise, as a multiple of the length to which gradients are clipped.
        rate: the chance of each sample to be in a step.
        steps: their number.
    """

    noise: float
    rate: float
    steps: int


class Ledger(Protocol):
    """The steps that were ever taken on the data of one node."""

    def read(self) -> tuple[Spending, ...]:
        """Return all of them. Raises CheckpointError if they cannot be read."""
        ...

    def write(self, spent: tuple[Spending, ...]) -> None:
        """Replace them, so that they survive a power cut. Raises CheckpointError if they cannot be written."""
        ...


class MemoryLedger:
    """A ledger of a node in a simulation, which publishes nothing."""

    def __init__(self) -> None:
        self._spent: tuple[Spending, ...] = ()

    def read(self) -> tuple[Spending, ...]:
        return self._spent

    def write(self, spent: tuple[Spending, ...]) -> None:
        self._spent = spent


@lru_cache(maxsize=64)
def _divergences(noise: float, rate: float) -> NDArray[np.float64]:
    """The Rényi divergence of one step, at each of `ORDERS`."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=ORDERS), dtype=np.float64)


def epsilon_of(spent: Iterable[Spending], delta: float) -> float:
    """Return the epsilon that steps have spent together, at `delta`."""
    from opacus.accountants.analysis.rdp import get_privacy_spent

    parts = [part.steps * _divergences(part.noise, part.rate) for part in spent if part.steps]
    if not parts:
        return 0.0
    with warnings.catch_warnings(action="ignore"):  # that the best order is the first or the last
        epsilon, _ = get_privacy_spent(orders=ORDERS, rdp=np.sum(parts, axis=0), delta=delta)
    return float(epsilon)


def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Return the least noise, to 0.1 %, with which so many steps spend at most `epsilon` at `delta`.

    Raises:
        ConfigError: no noise suffices.
    """
    low, high = 0.0, 1.0
    while epsilon_of([Spending(high, rate, steps)], delta) > epsilon:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise ConfigError(f"privacy.epsilon = {epsilon:g} is too small for {steps} steps at delta = {delta:g}")
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        spends = epsilon_of([Spending(middle, rate, steps)], delta)
        low, high = (low, middle) if spends <= epsilon else (middle, high)
    return high


class Budget:
    """Counts the steps of one node, and refuses those beyond its limit.

    1. The ledger counts a step before its noise is drawn. What a crash, a rollback or an older checkpoint takes back
       stays counted, since others may have received it.
    2. The ledger counts some steps ahead, so that few wait for the disk. A crash costs these.
    3. `settle` lets the ledger count what was taken and no more. The next step is counted before it is taken, as any.

    Args:
        epsilon: the limit. None has none.
        kind: noise and rate of the steps from now on.
    """

    def __init__(self, ledger: Ledger, epsilon: float | None, delta: float, kind: Spending) -> None:
        self._ledger, self._limit, self._delta, self._kind = ledger, epsilon, delta, kind
        self._count(ledger.read())

    def _count(self, spent: tuple[Spending, ...]) -> None:
        """Begin with these steps, all of which are in the ledger."""
        same = [part for part in spent if _alike(part, self._kind)]
        self._others = tuple(part for part in spent if not _alike(part, self._kind))
        self._taken = self._reserved = sum(part.steps for part in same)
        self._most = _UNLIMITED if self._limit is None else self._most_steps()

    def _most_steps(self) -> int:
        """The largest number of steps of this kind within the limit, all that were ever taken included."""
        low, high = 0, 1
        while self._epsilon(high) <= self._limit_or_inf and high < _UNLIMITED:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._epsilon(middle) <= self._limit_or_inf else (low, middle)
        return low

    @property
    def _limit_or_inf(self) -> float:
        return float("inf") if self._limit is None else self._limit

    def _epsilon(self, steps: int) -> float:
        return epsilon_of((*self._others, replace(self._kind, steps=steps)), self._delta)

    @property
    def left(self) -> int:
        """The number of steps within the limit that are left."""
        return max(0, self._most - self._taken)

    @property
    def epsilon(self) -> float:
        """What all steps have spent."""
        return self._epsilon(self._taken)

    def spent(self) -> tuple[Spending, ...]:
        """All steps that were taken."""
        return (*self._others, replace(self._kind, steps=self._taken))

    def take(self) -> bool:
        """Count one step more, which may then be taken. False beyond the limit.

        Raises:
            CheckpointError: the ledger cannot be written.
        """
        if not self.left:
            return False
        # precaution: a noisy step is counted before it is taken
        if self._taken == self._reserved:
            ahead = max(1, self._most // RESERVATIONS) if self._limit is not None else RESERVATIONS
            self._write(min(self._most, self._taken + ahead))
        self._taken += 1
        return True

    def settle(self) -> None:
        """Count no step ahead. Raises CheckpointError if the ledger cannot be written."""
        if self._reserved != self._taken:
            self._write(self._taken)

    def _write(self, steps: int) -> None:
        self._ledger.write((*self._others, replace(self._kind, steps=steps)))
        self._reserved = steps

    def raise_to(self, spent: tuple[Spending, ...]) -> None:
        """Count at least the steps that a checkpoint knows of. Its ledger may be lost.

        Raises:
            CheckpointError: the ledger cannot be written.
        """
        known = list(self.spent())
        for part in spent:
            mine = next((other for other in known if _alike(other, part)), replace(part, steps=0))
            if mine.steps < part.steps:
                known = [other for other in known if not _alike(other, part)] + [part]
        if tuple(known) != self.spent():
            self._ledger.write(tuple(known))
            self._count(tuple(known))


def _alike(one: Spending, other: Spending) -> bool:
    return (one.noise, one.rate) == (other.noise, other.rate)
