"""Checks that find what would stop a run on this machine, and name the remedy.

They change nothing, and they try things rather than infer them: they bind ports, train the model for a few steps, and
send and receive packets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path


class Level(StrEnum):
    """The meaning of a finding for a run."""

    OK = "ok"
    WARNING = "warning"  # a run works, perhaps worse
    PROBLEM = "problem"  # a run fails


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``remedy`` is empty if there is nothing to do."""

    check: str
    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


def ok(check: str, text: str) -> Finding:
    """A finding that needs no action."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, remedy: str = "") -> Finding:
    """A run works without it."""
    return Finding(check, Level.WARNING, text, remedy)


def problem(check: str, text: str, remedy: str) -> Finding:
    """A run fails."""
    return Finding(check, Level.PROBLEM, text, remedy)


def installed_file(name: str) -> Path:
    """A file of ``deploy``, as the wheel installed it or as the checkout has it."""
    for each in metadata.distributions(name="edgenode"):
        for file in each.files or ():
            if file.match(f"share/edgenode/{name}"):
                return Path(str(file.locate())).resolve()
    return Path(__file__).parents[2] / "deploy" / name
