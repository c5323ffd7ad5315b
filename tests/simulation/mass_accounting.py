"""The mass of a simulated run, to the last unit: what every process has, what is on its way, what the dead took along.

A push moves ``share`` from its sender, when that mixes, to its receiver, when that mixes; in between the books hold the
difference. When a process is cut out at round L, its history is rewound to the moment it had emitted round L: that is
the history the survivors agree on, and the sum must still be what it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.errors import LocalProtocolError
from tests.simulation.learners import Mass, Weighed

Process = str  # name:incarnation


@dataclass
class _Entry:
    """One push: whether its sender has given the share away, and whether its receiver has taken it."""

    share: Mass
    debited: bool = False
    mixed: bool = False

    @property
    def aloft(self) -> Mass:
        aloft: Mass = self.share * (self.debited - self.mixed)
        return aloft


class MassAccounting:
    """Sum of x and u over all processes, dead ones included, and all that is aloft, against what ought to be there."""

    def __init__(self, zero: Mass) -> None:
        self.total, self._between, self._there = zero, zero, zero
        self._living: dict[Process, Weighed] = {}
        self._weighed: dict[Process, Mass] = {}  # of each of the living, when it last did something
        self._dead: dict[Process, Mass] = {}
        self._left: dict[Process, tuple[Weighed, int]] = {}  # leavers, with their last rounds
        self._cut: set[Process] = set()
        self._pushes: dict[tuple[Process, Process, int], _Entry] = {}
        self._displaced: dict[tuple[Process, int], Mass] = {}
        self._sunk: dict[tuple[Process, Process, int], Mass] = {}  # what leavers had pushed to the dead in vain

    def open(self, process: Process, learner: Weighed, t: int) -> None:
        """A process becomes a member from a round on, with the mass it brings; not one that was cut out before."""
        if process in self._cut:
            return
        self._living[process] = learner
        self._weighed[process] = learner.mass()
        self._there = self._there + self._weighed[process]
        self.total = self.total + self._weighed[process]
        learner.halves[t - 1] = self._weighed[process]

    def weigh(self, process: Process) -> Mass | None:
        """What a process has by now, if it is alive: to be asked whenever it did something."""
        if process not in self._living:
            return None
        before, now = self._weighed[process], self._living[process].mass()
        if (before != now).any():
            self._there = self._there + now - before
            self._weighed[process] = now
        return now

    def _bury(self, process: Process) -> Weighed:
        self._there = self._there - self._weighed.pop(process)
        return self._living.pop(process)

    def displaced(self, process: Process, t: int, amount: Mass) -> None:
        """A local step."""
        if process in self._living:
            self.total = self.total + amount
            self._displaced[process, t] = amount

    def pushed(self, sender: Process, receiver: Process, t: int, share: Mass) -> None:
        """A push is made."""
        if sender in self._living:
            self._pushes[sender, receiver, t] = _Entry(share)

    def mixed(self, receiver: Process, sender: Process, t: int) -> None:
        """A push is in its receiver's x."""
        if receiver not in self._living:
            return
        entry = self._pushes.get((sender, receiver, t))
        _require(entry is not None, f"{receiver} mixed what {sender} pushed in {t}, which does not count")
        assert entry is not None
        _require(not entry.mixed, f"{receiver} mixed what {sender} pushed in {t} twice")
        self._change(entry, mixed=True)

    def debited(self, sender: Process, t: int, leaves: bool) -> None:
        """A round is closed: its pushes have left the sender. A leaver has nothing any more."""
        if sender not in self._living:
            return
        if leaves and not any(s == sender and r == t for s, _, r in self._pushes):
            return  # its heir is dead: what it has goes with it, and it may still be cut out
        for (s, _, r), entry in self._pushes.items():
            if s == sender and r == t:
                self._change(entry, debited=True)
                if leaves:
                    _require((self._living[s].mass() == entry.share).all(), f"{s} left something behind")
        if leaves:
            self._left[sender] = self._bury(sender), t

    def awaits(self, sender: Process, receiver: Process, t: int) -> bool:
        """Whether a push is made and not mixed."""
        entry = self._pushes.get((sender, receiver, t))
        return entry is not None and not entry.mixed

    def evict(self, lasts: dict[Process, int]) -> None:
        """The record is made: rewind the evicted to the emission of their last rounds.

        One that was a member but never came to its first round brought nothing, and takes nothing along.
        """
        self._cut |= set(lasts)
        lasts = {p: last for p, last in lasts.items() if p not in self._left or last < self._left[p][1]}
        for process, last in lasts.items():
            if process in self._left:  # nobody knows that it came to its last round: it never left
                learner, _ = self._left.pop(process)
                self._dead[process] = learner.halves[last]
                back = [share for (p, _, t), share in self._sunk.items() if p == process and t >= last]
                self.total = sum(back, self.total)
            if process in self._living:
                learner = self._bury(process)
                self._dead[process] = learner.halves.get(last, learner.mass())  # it may not have emitted that round yet
            for (p, t), amount in self._displaced.items():
                if p == process and t > last:
                    self.total = self.total - amount
        for sender, receiver, t in list(self._pushes):
            if receiver in lasts and t >= lasts[receiver] and sender in self._left:
                self._sink(sender, receiver, t)
        for (sender, receiver, t), entry in list(self._pushes.items()):
            if receiver in lasts and t >= lasts[receiver]:
                self._change(entry, mixed=False)
            elif receiver in lasts and sender not in self._cut:
                _require(entry.mixed, f"{receiver} began round {lasts[receiver]} without mixing {sender}'s {t}")
            if sender in lasts and t >= lasts[sender]:
                self._change(entry, debited=False)
            if sender in lasts and t > lasts[sender]:
                self._void(sender, receiver, t)

    def taken_back(self, sender: Process, dead: Process, last: int) -> None:
        """A survivor knows the record: its pushes to the dead from round ``last`` on never were."""
        if sender in self._cut:
            return
        for s, receiver, t in list(self._pushes):
            if s == sender and receiver == dead and t >= last:
                if self._pushes[s, receiver, t].debited and sender in self._living:
                    halves = self._living[sender].halves  # as they would have been, had it not pushed
                    share = self._pushes[s, receiver, t].share
                    halves.update({r: half + share for r, half in halves.items() if r > t})
                self._void(s, receiver, t)

    def _sink(self, sender: Process, receiver: Process, t: int) -> None:
        """What a leaver pushed does not count, and nobody can take it back: it is gone."""
        entry = self._pushes[sender, receiver, t]
        self._sunk[sender, receiver, t] = entry.share
        self.total = self.total - entry.share
        self._change(entry, mixed=False)
        self._void(sender, receiver, t)

    def _has_sunk(self, process: Process) -> bool:
        """Whether all that a process handed over when it left is gone, with its heir or an heir of that."""
        _, end = self._left.get(process, (None, -1))
        handoffs = {r for s, r, t in [*self._pushes, *self._sunk] if (s, t) == (process, end)}
        return any((process, handoff_to, end) in self._sunk or self._has_sunk(handoff_to) for handoff_to in handoffs)

    def _void(self, sender: Process, receiver: Process, t: int) -> None:
        entry = self._pushes.pop((sender, receiver, t))
        if entry.mixed:
            if self._has_sunk(receiver):  # not that part of it
                self.total = self.total + entry.share
            else:
                _require(receiver in self._dead, f"{receiver} mixed {sender}'s {t}, which does not count")
                self._dead[receiver] = self._dead[receiver] - entry.share
            entry.mixed = False
            self._between = self._between + entry.share
        self._change(entry, debited=False)

    def _change(self, entry: _Entry, debited: bool | None = None, mixed: bool | None = None) -> None:
        before = entry.aloft
        entry.debited = entry.debited if debited is None else debited
        entry.mixed = entry.mixed if mixed is None else mixed
        self._between = self._between + entry.aloft - before

    def knows_as_cut(self, process: Process) -> bool:
        """Whether a process was cut out."""
        return process in self._cut

    def balance(self) -> Mass:
        """What is there and should not be: 0 where sums are exact."""
        balance: Mass = sum(self._dead.values(), self._there + self._between) - self.total
        return balance

    @property
    def lost(self) -> Mass:
        """What the dead took along: declared, never silent."""
        lost: Mass = sum(self._dead.values(), 0 * self.total)
        return lost

    def in_flight(self, among: set[Process]) -> int:
        """Pushes between some living processes that are not settled on both sides."""
        return sum(
            entry.debited != entry.mixed
            for (sender, receiver, _), entry in self._pushes.items()
            if {sender, receiver} <= among & self._living.keys()
        )


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise LocalProtocolError(text)
