"""The runs that a tracker has for the nodes, in a file of the state folder, so that a resumed run continues them.

A resumed run trains the rounds after its checkpoint again. The tracker may have them already, so none of them is passed
on twice. The file is not flushed: it is a note for the next start, and no step of a run depends on it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "tracking.json"
_NOTHING: dict[str, Any] = {"ids": {}, "rounds": {}}


class TrackedRuns:
    """The runs of one tracker.

    Args:
        of: what they belong to: the tracker, the cluster and the digest of run.toml.
        resumed: the run began earlier. Continue with what the file has of it.

    Attributes:
        ids: the tracker's name of its run for each node. The tracker adds to it.
        rounds: the newest round that was passed on, by node.
    """

    def __init__(self, folder: Path, of: list[str], resumed: bool) -> None:
        self._path, self._of = folder / NAME, of
        known = self._known() if resumed else _NOTHING
        self.ids: dict[str, str] = dict(known["ids"])
        self.rounds: dict[str, int] = dict(known["rounds"])

    def _known(self) -> dict[str, Any]:
        """The content of the file. Nothing without one, or if it is of something else or was cut by a power cut."""
        try:
            known = json.loads(self._path.read_bytes())
            return known if known["of"] == self._of and known.keys() >= _NOTHING.keys() else _NOTHING
        except (OSError, ValueError, KeyError, TypeError):
            return _NOTHING

    def save(self) -> None:
        """Write the file. While the disk cannot be written, it stays as it is."""
        scratch = self._path.with_suffix(".partial")
        with suppress(OSError):
            scratch.write_text(json.dumps({"of": self._of, "ids": self.ids, "rounds": self.rounds}))
            scratch.replace(self._path)
