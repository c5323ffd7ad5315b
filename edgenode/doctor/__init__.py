"""What would stop a run on this machine, found before it does. Each check says what it found, and what to do.

Nothing here changes anything, and nothing is concluded from names: ports are bound, models trained for a step,
packets sent and received.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """What a finding means for a run."""

    OK = "ok"
    WARNING = "warning"  # a run may do, or do worse
    PROBLEM = "problem"  # a run would not do


@dataclass(frozen=True)
class Finding:
    """The answer of one check; ``remedy`` is empty if there is nothing to do."""

    check: str
    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, remedy: str = "") -> Finding:
    """A run may do without."""
    return Finding(check, Level.WARNING, text, remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    """A run would not do."""
    return Finding(check, Level.PROBLEM, text, remedy)
