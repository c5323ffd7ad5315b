"""The log of what operators requested of a controller.

The controller records a request before it carries it out, and its outcome afterwards. A client that hangs up, or a
controller that crashes, leaves an entry without an outcome.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgenode.storage.history_database import opened, rows
from edgenode.storage.run_history import NAME

_ENTRIES = 10_000
_LONGEST = 1000


class AuditLog:
    """The newest requests. Every call opens and closes the database.

    Every call raises CheckpointError if the file is not a history, or if the disk fails.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME

    def begin(self, who: str, request: str) -> int:
        """Record a request. Return the number of its entry."""
        with opened(self.path) as database:
            (number,) = database.execute(
                "INSERT INTO audit (at, who, request) VALUES (?, ?, ?) RETURNING number",
                (time.time(), who, request[:_LONGEST]),
            ).fetchone()
            database.execute("DELETE FROM audit WHERE number <= ? - ?", (number, _ENTRIES))
        return int(number)

    def end(self, number: int, outcome: str) -> None:
        """Record the outcome of a request."""
        with opened(self.path) as database:
            database.execute("UPDATE audit SET outcome = ? WHERE number = ?", (outcome[:_LONGEST], number))

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries, oldest first: time in seconds since 1970, who, request, and outcome, or None."""
        return rows(self.path, "SELECT at, who, request, outcome FROM audit ORDER BY number")
