"""The file that counts the noisy steps on the data of one node. No command removes it, and --fresh keeps it.

The steps of all runs with this state folder count together: a guarantee is about data, whatever run it is used in.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgenode.errors import CheckpointError
from edgenode.storage.filesystem import REAL_DISK, Disk, make_durable, write_atomically
from edgenode.tasks.privacy_budget import Spending

LEDGER = "privacy.json"


class FileLedger:
    """The ledger in a state folder."""

    def __init__(self, folder: Path, disk: Disk = REAL_DISK) -> None:
        self._path, self._disk = folder / LEDGER, disk
        self._folder_is_durable = False

    def read(self) -> tuple[Spending, ...]:
        """Return all steps that were ever taken. None without a file.

        Raises:
            CheckpointError: the file cannot be read. What was spent is then unknown.
        """
        try:
            rows = json.loads(self._disk.read(self._path))
            spent = tuple(Spending(float(row["noise"]), float(row["rate"]), int(row["steps"])) for row in rows)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise CheckpointError(
                f"{self._path} cannot be read, so what this node has spent of its privacy is unknown: {exc}"
            ) from exc
        if any(part.noise <= 0 or not 0 < part.rate <= 1 or part.steps < 0 for part in spent):
            raise CheckpointError(f"{self._path} has numbers that no run writes: what this node has spent is unknown")
        return spent

    def write(self, spent: tuple[Spending, ...]) -> None:
        """Replace the steps. They survive a power cut when this returns.

        Raises:
            CheckpointError: they cannot be written. The step that they stand for must not be taken.
        """
        rows = [{"noise": part.noise, "rate": part.rate, "steps": part.steps} for part in spent]
        try:
            if not self._folder_is_durable:  # a new folder would be gone with the file
                make_durable(self._disk, self._path.parent)
                self._folder_is_durable = True
            write_atomically(self._path, json.dumps(rows, indent=1), self._disk)
        except OSError as exc:
            raise CheckpointError(f"cannot write {self._path}: {exc.strerror or exc}") from exc
