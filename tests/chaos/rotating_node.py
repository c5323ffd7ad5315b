"""A node that renews its certificate often, and writes down whose pushes it mixes and whose calls it serves.

    python rotating_node.py SECONDS FILE run --config run.toml ...

A certificate is due after this many seconds, not after two thirds of 90 days. FILE gets a line of JSON for each round
(its number, the process, and the senders) and for each call that begins (1) or ends (-1), with the caller's key.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

from edgenode.cli import main
from edgenode.core.protocol.member.rounds import Rounds
from edgenode.net.door import LiveCalls
from edgenode.node import node_process, renewal

life_s = float(sys.argv.pop(1))
file = Path(sys.argv.pop(1)).open("a", buffering=1)  # noqa: SIM115 - as long as the process
inspect, run = Rounds._inspect, LiveCalls.run


def is_due(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > life_s


def inspect_and_note(self: Rounds, received: list[tuple[str, Any]]) -> Any:
    t, name, incarnations = self._state.round, self._state.name, self._state.plan.at(self._state.round).incarnations
    senders = [[sender, incarnations[sender]] for sender, _ in received]
    print(json.dumps({"round": t, "process": [name, self._state.incarnation], "senders": senders}), file=file)
    return inspect(self, received)


async def run_and_note(self: LiveCalls, key_id: str, *call: Any) -> Any:
    print(json.dumps({"key": key_id, "calls": 1}), file=file)
    try:
        return await run(self, key_id, *call)
    finally:
        print(json.dumps({"key": key_id, "calls": -1}), file=file)


renewal.is_due = is_due  # type: ignore[assignment]
node_process.keep_renewed = functools.partial(renewal.keep_renewed, check_s=0.5)  # type: ignore[assignment]
Rounds._inspect = inspect_and_note  # type: ignore[method-assign]
LiveCalls.run = run_and_note  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
