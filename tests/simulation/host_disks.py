"""The disks of the hosts, with real checkpoints: half-written when a process dies, torn when the power fails.

What a save has acknowledged must be there afterwards, and all who resume must do so from one history.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.events import Save
from edgenode.core.protocol.plan import Plan
from edgenode.errors import LocalProtocolError
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore
from tests.simulation.fake_disk import PowerCut, SimulatedDisk
from tests.simulation.learners import Weighed

_STATE_DIR = Path("/edgenode")
_HISTORY = "history"  # beside what a learner packs
_OPERATIONS_OF_A_SAVE = 24  # at least as many as there are
_NO_STATE = State(np.zeros(0, dtype=np.float32))  # learners pack their own


class HostDisks:
    """The disks of all hosts of one run."""

    def __init__(self, run_digest: str, rng: random.Random, happened: Counter[str]) -> None:
        self._run_digest, self._rng, self._happened = run_digest, rng, happened
        self._disks: defaultdict[str, SimulatedDisk] = defaultdict(SimulatedDisk)
        self._saving: defaultdict[str, deque[Checkpoint]] = defaultdict(deque)
        self._safe: defaultdict[str, set[int]] = defaultdict(set)  # the newest rounds whose saves have returned
        self._histories = 0  # one more whenever all resume
        self._resumed_from: dict[int, tuple[int, int]] = {}  # from which round of which history

    def begin(self, host: str, save: Save, learner: Weighed) -> None:
        """A process begins to write a checkpoint; until it is done, it may die half-way."""
        first, before = self._resumed_from.get(self._histories, (-1, 0))
        history = before if save.round == first else self._histories  # the round that all went on from is of both
        local = {**learner.pack(save.state), _HISTORY: np.array([history])}
        self._saving[host].append(Checkpoint(save.round, _NO_STATE, save.plan, local, {}))

    def done(self, host: str) -> None:
        """The oldest save that was begun is on the medium."""
        checkpoint = self._saving[host].popleft()
        self._store(host).save(checkpoint)
        self._safe[host] = set(sorted({*self._safe[host], checkpoint.round})[-2:])

    def break_off(self, host: str, power: bool) -> None:
        """A process ends: whatever it was writing is half there. A power cut also tears what was not flushed."""
        disk = self._disks[host]
        if self._saving[host]:
            disk.cut_after(self._rng.randrange(_OPERATIONS_OF_A_SAVE))
            with suppress(PowerCut):
                self._store(host).save(self._saving[host][0])
            self._saving[host].clear()
        disk.cut_after(None)
        if power:
            self._happened["power cut"] += 1
            disk.crash(self._rng)

    def offer(self, host: str) -> tuple[frozenset[int], Plan | None]:
        """What a process finds on its disk: the rounds, and the plan in the newest."""
        rounds, plan, damage = self._store(host).scan()
        self._happened["torn checkpoint refused"] += len(damage)
        newest = sorted({*self._safe[host], *rounds})[-2:]
        lost = set(newest) & self._safe[host] - rounds
        if lost:
            raise LocalProtocolError(f"{host} had saved rounds {sorted(lost)}, and lost them")
        self._safe[host] &= set(newest)  # one that was not acknowledged may have come through, and taken their place
        return rounds, plan

    def saved(self, host: str, t: int) -> bool:
        """Whether there is a checkpoint of a round."""
        return t in self._store(host).rounds()

    def all_resume(self) -> None:
        """A new history begins."""
        self._happened["resumed after all were down"] += 1
        self._histories += 1

    def resume(self, host: str, t: int, learner: Weighed) -> Weighed:
        """A learner from the checkpoint of the common round; what was saved after it is gone."""
        local = self._store(host).load(t).local
        began = t, int(local[_HISTORY][0])
        if self._resumed_from.setdefault(self._histories, began) != began:
            raise LocalProtocolError(f"round {t} was resumed from two histories")
        # precaution: a resume removes the newer checkpoints
        self.rewind(host, t)
        return learner.unpacked(local)

    def rewind(self, host: str, t: int) -> None:
        """Drop what was saved after a round."""
        self._store(host).rewind(t)
        self._safe[host] = {r for r in self._safe[host] if r <= t}

    def _store(self, host: str) -> CheckpointStore:
        return CheckpointStore(_STATE_DIR, self._run_digest, self._disks[host])
