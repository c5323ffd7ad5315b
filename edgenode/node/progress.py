"""How long rounds take, and when a node reports that it makes no progress. Pure: the caller passes the time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StallReporter:
    """When a node is to say that it makes no progress: every ``every_s`` for which it is held up in one round."""

    every_s: float
    _round: int = -1
    _since: float = 0.0
    _said: float = 0.0

    def due(self, now: float, t: int, held_up: bool) -> float | None:
        """For how long it has stood still, if that is to be said now."""
        if t != self._round or not held_up:
            self._round, self._since, self._said = t, now, now
        if now - self._said < self.every_s:
            return None
        self._said = now
        return now - self._since


@dataclass
class RoundTimer:
    """What a round takes lately: a moving average over about ten."""

    round_s: float = 0.0
    _ended: float | None = None

    def round_ended(self, now: float) -> None:
        """A round is closed."""
        if self._ended is not None:
            took = now - self._ended
            self.round_s += (took - self.round_s) * (0.1 if self.round_s else 1.0)
        self._ended = now

    def interrupt(self) -> None:
        """The time until the next end is of no round: the run was paused."""
        self._ended = None
