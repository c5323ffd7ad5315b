"""How long a graph is used before the next one, in rounds or in training epochs.

A period becomes a number of rounds only when a run starts, because only then is it known how many rounds an epoch has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgenode.errors import GraphError


@dataclass(frozen=True, slots=True)
class Period:
    """A number of rounds, or of training epochs.

    Raises:
        GraphError: the number is below 1.
    """

    count: int
    unit: Literal["rounds", "epochs"] = "rounds"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise GraphError(f"a period must be 1 or more {self.unit}, not {self.count}")

    @classmethod
    def parse(cls, text: str) -> Period:
        """Read "6ep", "100r" or "100", the inverse of ``str``.

        Raises:
            GraphError: the text is not a period.
        """
        match = re.fullmatch(r"([0-9]{1,9})(ep|r|)", text)
        if match is None or int(match[1]) == 0:
            raise GraphError(f"{text!r} is not a period: expected epochs, as in 6ep, or rounds, as in 100r or 100")
        return cls(int(match[1]), "epochs" if match[2] == "ep" else "rounds")

    def __str__(self) -> str:
        return f"{self.count}{'ep' if self.unit == 'epochs' else 'r'}"

    def rounds(self, rounds_per_epoch: int) -> int:
        """The period in rounds, where an epoch has that many."""
        return self.count * (rounds_per_epoch if self.unit == "epochs" else 1)
