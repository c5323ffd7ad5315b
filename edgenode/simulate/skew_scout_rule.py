"""Skew-Scout (Hsieh et al. 2020): how much to send, from what models lose when they travel.

Every so many rounds each model travels to a neighbour and is tested on the training data there. Where data are skewed
it does worse there than at home, the more so the less the nodes have said to each other. Skew-Scout minimises

    loss_weight * max(0, lost - tolerated) + sent

over how much is said: here the share that top-k keeps, which the paper's theta stands for. ``lost`` is the mean
accuracy lost by travelling (its AL), ``sent`` the bytes of a period over those of uncompressed messages (its C / CM).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass
class Scout:
    """The search over ``SHARES``, by hill climbing.

    Attributes:
        at: which share is in use.
        measured: what each share cost when it was last in use.
    """

    tolerated: float
    loss_weight: float
    at: int
    measured: dict[int, float] = field(default_factory=dict)

    @classmethod
    def starting_at(cls, share: float, tolerated: float, loss_weight: float) -> Scout:
        """A search that begins with the nearest of the shares."""
        at = min(range(len(SHARES)), key=lambda i: abs(math.log(SHARES[i] / share)))
        return cls(tolerated, loss_weight, at)

    @property
    def share(self) -> float:
        """What to keep until the next travel."""
        return SHARES[self.at]

    def travelled(self, lost: float, sent: float) -> None:
        """Take the measures of a period and choose the next share.

        It goes to a neighbouring share that is not known yet if that is where the cost may be lower: upwards if too
        much accuracy was lost, else downwards. Otherwise it goes to the cheaper neighbour, if there is one.
        """
        self.measured[self.at] = self.loss_weight * max(0.0, lost - self.tolerated) + sent
        ahead = self.at + (1 if lost > self.tolerated else -1)
        if ahead in range(len(SHARES)) and ahead not in self.measured:
            self.at = ahead
        else:
            near = [i for i in (self.at, self.at - 1, self.at + 1) if i in self.measured]
            self.at = min(near, key=lambda i: self.measured[i])
