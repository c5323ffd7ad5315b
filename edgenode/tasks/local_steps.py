"""Decides how many steps a node takes in a round: as many as fit the time of the slowest node.

The slowest node limits the length of a round. The others wait for its pushes, and could train in this time. A node
cannot distinguish a slow node from a slow network. If it filled every wait with steps, all nodes would wait for each
other's steps and take ever more. Therefore

1. all nodes take one step in the same rounds, the first `MEASURED` of every `PERIOD`,
2. a node measures its step and its wait in these rounds only, and
3. takes ``1 + wait / step`` steps in the others. A round is then at most as long as two measured ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenode.errors import CheckpointError

STEPS = "steps"

PERIOD = 200
MEASURED = 12
_UNSETTLED = 3  # rounds after which the longer rounds before no longer matter
_MOST = 64


class StepsThatFit:
    """The number of steps of each round, from measured times. No clock is read here.

    Attributes:
        count: the number of steps in rounds that are not measured.
    """

    def __init__(self) -> None:
        self.count = 1
        self._steps_s: list[float] = []
        self._waits_s: list[float] = []

    def of(self, t: int) -> int:
        """The number of steps of round t."""
        return 1 if t % PERIOD < MEASURED else self.count

    def observe(self, t: int, step_s: float, wait_s: float) -> None:
        """Round t took a step of that time, and then waited so long for the next round."""
        place = t % PERIOD
        if not _UNSETTLED <= place < MEASURED:
            return
        if place == _UNSETTLED:
            self._steps_s, self._waits_s = [], []
        self._steps_s.append(step_s)
        self._waits_s.append(wait_s)
        # The median: a round with an evaluation or a checkpoint does not count.
        self.count = min(_MOST, 1 + int(median(self._waits_s) / max(1e-6, median(self._steps_s))))


class Steps:
    """The steps of each round of a trainer, numbered from the start of the run: the same number in every round."""

    def __init__(self, count: int) -> None:
        self._count = count

    def begin_round(self, t: int) -> range:
        """Return the numbers of the steps of round t."""
        return range(t * self._count, (t + 1) * self._count)

    def end_round(self) -> None:
        """Note that the steps are taken."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return copies of the state for a checkpoint, under the name `STEPS`."""
        return {}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned. Raises CheckpointError if it is not there."""


class MeasuredSteps(Steps):
    """As many steps as fit, measured with this machine's clock."""

    def __init__(self) -> None:
        self._policy = StepsThatFit()
        self._taken = 0
        self._round = self._of_round = 0
        self._began_s = self._ended_s = 0.0

    def begin_round(self, t: int) -> range:
        now = time.monotonic()
        if self._of_round:  # not the first round of this process
            step_s = (self._ended_s - self._began_s) / self._of_round
            self._policy.observe(self._round, step_s, now - self._ended_s)
        self._round, self._of_round, self._began_s = t, self._policy.of(t), now
        self._taken += self._of_round
        return range(self._taken - self._of_round, self._taken)

    def end_round(self) -> None:
        self._ended_s = time.monotonic()

    def state(self) -> dict[str, NDArray[Any]]:
        return {STEPS: np.array([self._taken, self._policy.count])}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        if STEPS not in state or state[STEPS].shape != (2,):
            raise CheckpointError(f"{STEPS!r} cannot be restored: {state.get(STEPS)}")
        self._taken, self._policy.count = map(int, state[STEPS])
