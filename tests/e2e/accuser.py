"""An enrolled member that trains and pushes as it should, and accuses another: `python accuser.py NAME run ...`.

It reports that it waits for all others, that no way leads to NAME, and that each message of NAME is noise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgenode.cli import main
from edgenode.core.algorithm.poison_alarm import PoisonAlarm, Suspicion
from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.status import NodeStatus
from edgenode.net.link_watch import LinkWatch
from edgenode.node.progress import ProgressReporter

A_WHILE_S = 1e6
victim = sys.argv.pop(1)
inspect, status = PoisonAlarm.inspect, ProgressReporter.status


def accusing(self: PoisonAlarm, received: Sequence[Any], members: int) -> tuple[list[Any], list[Suspicion]]:
    mixed, _ = inspect(self, received, members)
    return mixed, [Suspicion(victim, "it is noise") for sender, _, _ in received if sender == victim]


def waiting(self: ProgressReporter) -> NodeStatus:
    true = status(self)
    others = tuple(name for name in self.snapshot.plan.latest.names if name != self._replica.name)
    return true if true.state.ended else replace(true, waiting_for=others, waiting_s=A_WHILE_S)


PoisonAlarm.inspect = accusing  # type: ignore[method-assign]
ProgressReporter.status = waiting  # type: ignore[method-assign]
LinkWatch.blocked = property(  # type: ignore[method-assign,assignment]
    lambda self: (BlockedLink(victim, 0, "10.0.0.9:7600", "no answer", A_WHILE_S),)
)

if __name__ == "__main__":
    main()
