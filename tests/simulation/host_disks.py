"""The disks of the hosts, with real checkpoints: half-written when a process dies, torn when the power fails.

A checkpoint that was acknowledged as saved must be there afterwards, and all members must resume from one history.

A save is simulated when something depends on what is on its disk: a read, a death during a save, or a power cut. Many
runs have nothing of the kind.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.events import Save
from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import LocalProtocolError
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore
from tests.simulation.fake_disk import PowerCut, SimulatedDisk
from tests.simulation.learners import Arrays, TrackedLearner

_STATE_DIR = Path("/edgenode")
_HISTORY = "history"  # an array next to those that a learner packs
_OPERATIONS_OF_A_SAVE = 24  # no less than a save makes
_TRACES = 3  # the newest saves of which a disk shows anything: it keeps two, and a power cut may undo a removal
_NO_STATE = State(np.zeros(0, dtype=np.float32))  # learners pack theirs as local arrays


class HostDisks:
    """The disks of all hosts of one run."""

    def __init__(self, run_digest: str, rng: random.Random, happened: Counter[str]) -> None:
        self._run_digest, self._rng, self._happened = run_digest, rng, happened
        self._disks: defaultdict[str, SimulatedDisk] = defaultdict(SimulatedDisk)
        self._saving: defaultdict[str, deque[Checkpoint]] = defaultdict(deque)
        # Acknowledged, and not simulated yet.
        self._saved: defaultdict[str, deque[Checkpoint]] = defaultdict(partial(deque, maxlen=_TRACES))
        self._safe: defaultdict[str, set[int]] = defaultdict(set)  # the newest acknowledged rounds
        self._history = 0  # one more whenever all members resume
        self._resumed_from: dict[int, tuple[int, int]] = {}  # history -> (round, history) that it resumed from

    def begin_save(self, host: str, save: Save, learner: TrackedLearner, steps: Arrays) -> None:
        """A process begins to write a checkpoint. Until the save is finished, it may die half-way.

        Args:
            steps: what the host's ledger packed.
        """
        first, before = self._resumed_from.get(self._history, (-1, 0))
        history = before if save.round == first else self._history  # the round that all resumed from is of both
        local = {**learner.pack(save.state), **steps, _HISTORY: np.array([history])}
        self._saving[host].append(Checkpoint(save.round, _NO_STATE, save.plan, local, {}))

    def finish_save(self, host: str) -> None:
        """The oldest save under way is on the medium."""
        checkpoint = self._saving[host].popleft()
        self._saved[host].append(checkpoint)
        self._safe[host] = set(sorted({*self._safe[host], checkpoint.round})[-2:])

    def interrupt(self, host: str, power: bool) -> None:
        """A process ends: what it was writing is half there. A power cut also tears what was not flushed."""
        if self._saving[host]:
            store, disk = self._store(host), self._disks[host]
            disk.fail_after(self._rng.randrange(_OPERATIONS_OF_A_SAVE))
            with suppress(PowerCut):
                store.save(self._saving[host][0])
            self._saving[host].clear()
            disk.fail_after(None)
        if power:
            self._happened["power cut"] += 1
            self._store(host)
            self._disks[host].crash(self._rng)

    def scan(self, host: str) -> tuple[frozenset[int], Plan | None]:
        """What a process finds on its disk: its rounds, and the plan in the newest one.

        Raises:
            LocalProtocolError: an acknowledged checkpoint is lost.
        """
        rounds, plan, damage = self._store(host).scan()
        self._happened["torn checkpoint rejected"] += len(damage)
        newest = sorted({*self._safe[host], *rounds})[-2:]
        lost = set(newest) & self._safe[host] - rounds
        if lost:
            raise LocalProtocolError(f"{host} has lost the checkpoints of rounds {sorted(lost)}")
        self._safe[host] &= set(newest)  # a newer save may be on the disk without an acknowledgement
        return rounds, plan

    def wipe(self, host: str) -> None:
        """All that a host has saved is deleted."""
        for kept in (self._disks, self._saving, self._saved, self._safe):
            kept.pop(host, None)

    def load(self, host: str, t: int) -> Arrays:
        """What a learner packed before a round."""
        return self._store(host).load(t).local

    def has(self, host: str, t: int) -> bool:
        """Whether there is a checkpoint of a round."""
        return t in self._store(host).rounds()

    def begin_history(self) -> None:
        """All members resume from a common round."""
        self._happened["resumed after all were down"] += 1
        self._history += 1

    def resume(self, host: str, t: int, learner: TrackedLearner) -> TrackedLearner:
        """A learner from the checkpoint of the common round. Newer checkpoints are removed.

        Before round 0 a node is the same in all histories.

        Raises:
            LocalProtocolError: another member resumed from another history.
        """
        local = self._store(host).load(t).local
        began = t, int(local[_HISTORY][0])
        if t > 0 and self._resumed_from.setdefault(self._history, began) != began:
            raise LocalProtocolError(f"round {t} was resumed from two histories")
        # precaution: a resume removes the newer checkpoints
        self.rewind(host, t)
        return learner.unpacked(local)

    def rewind(self, host: str, t: int) -> None:
        """Remove the checkpoints of later rounds."""
        self._store(host).rewind(t)
        self._safe[host] = {r for r in self._safe[host] if r <= t}

    def _store(self, host: str) -> CheckpointStore:
        """The checkpoints of a host, with all that it has saved."""
        store, saved = CheckpointStore(_STATE_DIR, self._run_digest, self._disks[host]), self._saved[host]
        while saved:
            store.save(saved.popleft())
        return store
