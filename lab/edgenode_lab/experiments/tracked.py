"""Gives the learning curves of an experiment to a tracker: a run for each node of each trial, once the trial has ended.

1. tracked.json in ``--out`` has what was passed on. So the same command passes nothing on twice, and a command that
   tracks for the first time passes on what was measured before it.
2. A tracker that fails is reported once, and the experiment continues. The next command passes on what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edgenode.errors import CheckpointError, in_words
from edgenode.observability.tracking import open_tracker, track_row
from edgenode.storage.filesystem import write_atomically
from edgenode_lab.experiments.runner import OutcomeStore, Trial

if TYPE_CHECKING:
    from edgenode.simulate.history import Row

FILE = "tracked.json"
_LABEL = 32  # characters, so that a name with digest, interval and node is short enough for a folder


class CurveTracking:
    """Passes the histories of trials on.

    Args:
        target: as ``--track`` has it.
        warn: takes the reason when the tracker fails.

    Raises:
        CheckpointError: tracked.json is damaged.
    """

    def __init__(self, target: str, store: OutcomeStore, out: Path, warn: Callable[[str], None]) -> None:
        self._target, self._store, self._out, self._warn = target, store, out, warn
        self._works = True
        self._passed = self._read()

    def _read(self) -> list[str]:
        path = self._out / FILE
        try:
            passed = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(passed, list) and all(isinstance(key, str) for key in passed):
                return passed
            why = "it is not a list of text"
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as exc:
            why = str(exc)
        raise CheckpointError(f"{path} cannot be read: {why}; remove it to pass on all runs again")

    def add(self, trials: Iterable[Trial]) -> None:
        """Pass on those that have a history and were not passed on."""
        for trial in trials:
            # a target can have a password
            key = sha256(json.dumps([self._target, trial.digest, self._store.every]).encode()).hexdigest()[:16]
            if not self._works or key in self._passed or not (history := self._store.history(trial)):
                continue
            try:
                self._pass_on(trial, history)
            except Exception as exc:  # a tracker may raise anything
                self._works = False
                self._warn(f"tracking stopped at {trial.name}: {in_words(exc)}; the same command passes on the rest")
                return
            self._passed.append(key)
            write_atomically(self._out / FILE, json.dumps(self._passed))

    def _pass_on(self, trial: Trial, history: Sequence[Row]) -> None:
        tracker = open_tracker(self._target, trial.config, self._out, {})
        outcome = self._store.get(trial)
        label = f"{trial.name[:_LABEL]}-{trial.digest[:8]}-every-{self._store.every}"
        ended_well = False
        try:
            for row in history:
                track_row(tracker, {**row, "node": f"{label}-{row['node']}"})
            ended_well = outcome is not None and "error" not in outcome
        finally:
            tracker.close(ended_well)
