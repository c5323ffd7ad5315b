"""The privacy ledgers of the hosts. Whatever happens, no node forgets a noisy step that it took.

1. A step is counted before it is taken. Once it is taken, others may have received its result.
2. So the ledger has at least all steps that were taken, also those that a resume from an older round repeats.
3. It has more only for deaths, each of which costs the steps that were counted ahead.

The disks and the random numbers are their own, so that they change no run.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from edgenode.storage.privacy_ledger import FileLedger
from edgenode.tasks.privacy_budget import RESERVATIONS, Budget, Spending
from tests.simulation.fake_disk import PowerCut, SimulatedDisk
from tests.simulation.invariants import require
from tests.simulation.learners import Arrays

_STATE_DIR = Path("/edgenode")
_KIND = Spending(noise=1.0, rate=0.1, steps=0)
_STEPS = "noisy steps"  # an array next to those that a learner packs
_OPERATIONS_OF_TWO_WRITES = 16  # no less than they make


class HostLedgers:
    """The ledgers of all hosts of one run."""

    def __init__(self, seed: int, happened: Counter[str]) -> None:
        self._rng, self._happened = random.Random(f"ledgers {seed}"), happened
        self._disks: defaultdict[str, SimulatedDisk] = defaultdict(SimulatedDisk)
        self._budgets: dict[str, Budget] = {}  # of the processes that run and have asked for it
        self._taken: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()

    def take(self, host: str) -> None:
        """A node takes a noisy step."""
        self._taken[host] += self._budget(host).take()

    def pack(self, host: str) -> Arrays:
        """What a checkpoint has of the steps. The ledger counts none ahead from here."""
        budget = self._budget(host)
        budget.settle()
        return {_STEPS: np.array([sum(part.steps for part in budget.spent())])}

    def resume(self, host: str, packed: Arrays) -> None:
        """A process resumes from a checkpoint."""
        self._budget(host).raise_to((Spending(_KIND.noise, _KIND.rate, int(packed[_STEPS][0])),))

    def interrupt(self, host: str, power: bool) -> None:
        """A process ends, perhaps while it counts a step. A power cut also tears what was not flushed.

        Raises:
            LocalProtocolError: the ledger forgets a step.
        """
        disk, budget = self._disks[host], self._budgets.pop(host, None)
        if budget is not None and self._rng.random() < 0.5:
            disk.fail_after(self._rng.randrange(_OPERATIONS_OF_TWO_WRITES))
            try:
                budget.settle()
                self._taken[host] += budget.take()
            except PowerCut:
                self._happened["died while it counted a step"] += 1
            disk.fail_after(None)
        if power:
            disk.crash(self._rng)
        self._deaths[host] += 1
        self._check(host)

    def wipe(self, host: str) -> None:
        """All that a host has saved is deleted."""
        for kept in (self._disks, self._budgets, self._taken, self._deaths):
            kept.pop(host, None)

    def check_end(self) -> None:
        """At the end of a run, no node has forgotten a step.

        Raises:
            LocalProtocolError: one has.
        """
        for host in self._taken:
            self._check(host)

    def _check(self, host: str) -> None:
        taken, counted = self._taken[host], sum(part.steps for part in self._ledger(host).read())
        require(counted >= taken, f"{host} took {taken} noisy steps and counts {counted}")
        most = taken + RESERVATIONS * (self._deaths[host] + 1)
        require(
            counted <= most, f"{host} took {taken} noisy steps and counts {counted}, with {self._deaths[host]} deaths"
        )

    def _budget(self, host: str) -> Budget:
        if host not in self._budgets:
            self._budgets[host] = Budget(self._ledger(host), None, 1e-5, _KIND)
        return self._budgets[host]

    def _ledger(self, host: str) -> FileLedger:
        return FileLedger(_STATE_DIR, self._disks[host])
