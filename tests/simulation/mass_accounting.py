"""The mass of a simulated run: what each process holds, what is in flight, and what dead processes took along.

A push moves its ``share`` out of its sender when the sender mixes the round, or pushes it in a run with an overlap. It
moves into its receiver when the receiver mixes it. The difference between the two is in flight. When a process is
evicted with last round L, its history is rewound to the moment before it mixed round L: in lock-step, when it had
compressed its update of that round. That is the history on which the survivors agree, and the sum must still be what it
was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgenode.errors import LocalProtocolError
from tests.simulation.learners import Mass, TrackedLearner

Process = str  # name:incarnation
MixedBefore = Callable[[int], int]  # the round before which all are mixed when a round begins


@dataclass
class _Push:
    """One push: whether its share has left the sender, and whether it is in its receiver."""

    share: Mass
    debited: bool = False
    mixed: bool = False

    @property
    def in_flight(self) -> Mass:
        in_flight: Mass = self.share * (self.debited - self.mixed)
        return in_flight


class MassAccounting:
    """The sum of x and u over all processes, dead ones included, and over all pushes in flight, and what it must be.

    Attributes:
        expected: what joined and trained, less what an eviction undid.
    """

    def __init__(self, zero: Mass) -> None:
        self.expected, self._in_flight, self._held = zero, zero, zero
        self._living: dict[Process, TrackedLearner] = {}
        self._masses: dict[Process, Mass] = {}  # of the living, when each of them last did something
        self._dead: dict[Process, Mass] = {}
        self._left: dict[Process, tuple[TrackedLearner, int]] = {}  # leavers, with their last rounds
        self._evicted: set[Process] = set()
        self._pushes: dict[tuple[Process, Process, int], _Push] = {}
        self._local_updates: dict[tuple[Process, int], Mass] = {}
        self._lost_handoffs: dict[tuple[Process, Process, int], Mass] = {}  # to receivers that died before they counted

    def join(self, process: Process, learner: TrackedLearner, t: int) -> None:
        """A process becomes a member from a round on, with the mass that it brings. An evicted process does not."""
        if process in self._evicted:
            return
        self._living[process] = learner
        self._masses[process] = learner.mass()
        self._held = self._held + self._masses[process]
        self.expected = self.expected + self._masses[process]
        learner.steps["half", t - 1] = self._masses[process]

    def measure(self, process: Process) -> Mass | None:
        """What a process holds now, if it is alive. To be called whenever it did something."""
        if process not in self._living:
            return None
        before, now = self._masses[process], self._living[process].mass()
        if before.tolist() != now.tolist():  # several times as fast as (before != now).any()
            self._held = self._held + now - before
            self._masses[process] = now
        return now

    def _remove(self, process: Process) -> TrackedLearner:
        self._held = self._held - self._masses.pop(process)
        return self._living.pop(process)

    def trained(self, process: Process, t: int, local_update: Mass) -> None:
        """A local step adds mass."""
        if process in self._living:
            self.expected = self.expected + local_update
            self._local_updates[process, t] = local_update

    def pushed(self, sender: Process, receiver: Process, t: int, share: Mass, given: bool) -> None:
        """A push is made, and has left its sender if it is given."""
        if sender in self._living:
            push = self._pushes[sender, receiver, t] = _Push(share)
            self._change(push, debited=given)

    def mixed(self, receiver: Process, sender: Process, t: int) -> None:
        """A push is in its receiver's x."""
        if receiver not in self._living:
            return
        push = self._pushes.get((sender, receiver, t))
        _require(push is not None, f"{receiver} mixed what {sender} pushed in {t}, which does not count")
        assert push is not None
        _require(not push.mixed, f"{receiver} mixed what {sender} pushed in {t} twice")
        self._change(push, mixed=True)

    def debited(self, sender: Process, t: int, leaves: bool) -> None:
        """A sender mixed a round, so what it pushed has left it. A leaver holds nothing any more."""
        if sender not in self._living:
            return
        if leaves and not any(s == sender and r == t for s, _, r in self._pushes):
            return  # its hand-off target is dead: it keeps what it has, and may still be evicted
        for (s, _, r), push in self._pushes.items():
            if s == sender and r == t:
                self._change(push, debited=True)
                if leaves:
                    _require((self._living[s].mass() == push.share).all(), f"{s} left something behind")
        if leaves:
            self._left[sender] = self._remove(sender), t

    def awaits(self, sender: Process, receiver: Process, t: int) -> bool:
        """Whether a push is made and not mixed."""
        push = self._pushes.get((sender, receiver, t))
        return push is not None and not push.mixed

    def evict(self, lasts: dict[Process, int], mixed_before: MixedBefore) -> None:
        """An eviction is committed: rewind each evicted process to the moment before it mixed its last round.

        A member that never came to its first round brought nothing, and takes nothing along.
        """
        self._evicted |= set(lasts)
        lasts = {p: last for p, last in lasts.items() if p not in self._left or last < self._left[p][1]}
        pushed = {process: self._rewind(process, last, mixed_before) for process, last in lasts.items()}
        for sender, receiver, t in list(self._pushes):
            if receiver in lasts and t >= lasts[receiver] and sender in self._left:
                self._lose_handoff(sender, receiver, t)
        for (sender, receiver, t), push in list(self._pushes.items()):
            if receiver in lasts and t >= lasts[receiver]:
                self._change(push, mixed=False)
            elif receiver in lasts and sender not in self._evicted:
                _require(push.mixed, f"{receiver} began round {lasts[receiver]} without mixing {sender}'s {t}")
            if sender in lasts and t >= pushed[sender]:
                self._change(push, debited=False)
            if sender in lasts and t > pushed[sender]:
                self._cancel(sender, receiver, t)

    def _rewind(self, process: Process, last: int, mixed_before: MixedBefore) -> int:
        """Rewind to the half step of the newest round that a process had pushed before it mixed its last round, or to
        where it had mixed all before its last round and not pushed the next one. The first round that has not left.
        """
        newest, begins_next = last, False
        learner = self._left[process][0] if process in self._left else self._living.get(process)
        if learner is not None:
            pushed = (t for step, t in learner.steps if step == "half" and mixed_before(t) <= last)
            newest = max(pushed, default=last)
            begins_next = ("mixed", last) in learner.steps and mixed_before(newest) < last
            step: Any = ("mixed", last) if begins_next else ("half", newest)
            self._dead[process] = learner.steps.get(step, learner.mass())
        if process in self._left:  # nothing shows that it came to its last round, so it never left
            del self._left[process]
            back = [share for (p, _, t), share in self._lost_handoffs.items() if p == process and t >= last]
            self.expected = sum(back, self.expected)
        if process in self._living:
            self._remove(process)
        for (p, t), local_update in self._local_updates.items():
            if p == process and t > newest:
                self.expected = self.expected - local_update
        return newest + begins_next

    def taken_back(self, sender: Process, evicted: Process, last: int) -> None:
        """A survivor knows of an eviction: what it pushed to the evicted from round ``last`` on does not count."""
        if sender in self._evicted:
            return
        for s, receiver, t in list(self._pushes):
            if s == sender and receiver == evicted and t >= last:
                self._cancel(s, receiver, t)

    def _lose_handoff(self, sender: Process, receiver: Process, t: int) -> None:
        """What a leaver pushed does not count, and no process can take it back: it is lost."""
        push = self._pushes[sender, receiver, t]
        self._lost_handoffs[sender, receiver, t] = push.share
        self.expected = self.expected - push.share
        self._change(push, mixed=False)
        self._cancel(sender, receiver, t)

    def _handoff_is_lost(self, process: Process) -> bool:
        """Whether all that a leaver handed over is lost, with its target or with a target further on."""
        _, end = self._left.get(process, (None, -1))
        targets = {r for s, r, t in [*self._pushes, *self._lost_handoffs] if (s, t) == (process, end)}
        return any((process, target, end) in self._lost_handoffs or self._handoff_is_lost(target) for target in targets)

    def _holder(self, process: Process) -> Process:
        """Which process has what this one mixed: a leaver has handed it over, perhaps to another leaver."""
        if process not in self._left:
            return process
        _, end = self._left[process]
        return self._holder(next(receiver for sender, receiver, t in self._pushes if (sender, t) == (process, end)))

    def _cancel(self, sender: Process, receiver: Process, t: int) -> None:
        push = self._pushes.pop((sender, receiver, t))
        if push.mixed:
            if self._handoff_is_lost(receiver):  # this part of it is not
                self.expected = self.expected + push.share
            else:
                holder = self._holder(receiver)
                _require(holder in self._dead, f"{receiver} mixed {sender}'s {t}, which does not count")
                self._dead[holder] = self._dead[holder] - push.share
            push.mixed = False
            self._in_flight = self._in_flight + push.share
        self._change(push, debited=False)

    def _change(self, push: _Push, debited: bool | None = None, mixed: bool | None = None) -> None:
        before = push.in_flight
        push.debited = push.debited if debited is None else debited
        push.mixed = push.mixed if mixed is None else mixed
        self._in_flight = self._in_flight + push.in_flight - before

    def is_evicted(self, process: Process) -> bool:
        """Whether a process was evicted."""
        return process in self._evicted

    def excess(self) -> Mass:
        """What there is more than expected: 0 where sums are exact."""
        excess: Mass = sum(self._dead.values(), self._held + self._in_flight) - self.expected
        return excess

    def unsettled(self, among: set[Process]) -> int:
        """How many pushes between some living processes have left the sender and not arrived, or the reverse."""
        return sum(
            push.debited != push.mixed
            for (sender, receiver, _), push in self._pushes.items()
            if {sender, receiver} <= among & self._living.keys()
        )


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise LocalProtocolError(text)
