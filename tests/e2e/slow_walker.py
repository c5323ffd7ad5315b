"""A member that takes SECONDS for a local step, and reports that it waits: `python slow_walker.py SECONDS run ...`."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from edgenode.cli import main
from edgenode.core.protocol.events import NodeAction, Train
from edgenode.core.protocol.status import NodeStatus
from edgenode.node.progress import ProgressReporter
from edgenode.node.replica import Replica

seconds, step, status = float(sys.argv.pop(1)), Replica.step, ProgressReporter.status


def slow(self: Replica, action: Train) -> list[NodeAction]:
    time.sleep(seconds)
    return step(self, action)


def waiting(self: ProgressReporter) -> NodeStatus:
    true = status(self)
    return true if true.state.ended else replace(true, waiting_for=("node-0",), waiting_s=seconds)


Replica.step = slow  # type: ignore[method-assign]
ProgressReporter.status = waiting  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
