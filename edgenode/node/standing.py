"""The standing of a node in the plan: whether it is a member, and which keys of other nodes count.

1. A member counts with its key in the plan. One that has left or was evicted counts with its last key, so it can
   deliver what it still has to push while no controller answers. Its key may be revoked, but that is the door's matter.
2. Another node counts if the controller vouches for its key, as for that of a newcomer. The certificate alone proves
   only that the key of the authority has signed it, and an old copy of that can be anywhere.
3. With fixed peers, nobody can be asked, and every certificate of the authority counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgenode.core.protocol.orders import NewKey
from edgenode.core.protocol.plan.plan import Plan
from edgenode.security.subject import Subject

if TYPE_CHECKING:
    from edgenode.net.control_client import ControlLink
    from edgenode.net.vouching import Vouching
    from edgenode.node.progress import ProgressReporter


class Standing:
    """The standing of one node. It has none before it takes part in the run.

    Args:
        window: the number of pushes to a peer that may be unanswered.
        controller: asks the controller about keys. None with fixed peers.
    """

    def __init__(self, name: str, window: int, controller: Vouching | None) -> None:
        self._name, self._window, self._controller = name, window, controller
        self._start: tuple[Plan, int] | None = None
        self._progress: ProgressReporter | None = None
        self._link: ControlLink | None = None

    def welcomed(self, plan: Plan, t: int) -> None:
        """Take note of the plan with which the node is about to begin, at round t."""
        self._start = plan, t

    def begin(self, progress: ProgressReporter, link: ControlLink | None) -> None:
        """Let the node take part from now on, with a link to the controller if the run has one."""
        self._progress, self._link = progress, link

    async def admits(self, subject: Subject, key_id: str) -> bool:
        """Return whether a subject that shows a key may call this node.

        Raises:
            TransportError: the controller would have to say so, and cannot be asked now.
        """
        if subject.role != "node":
            return True
        if known := self._known():
            plan, t = known
            if subject.name in plan.latest.names:
                return plan.admits(subject.name, key_id, t)
            former = plan.member(subject.name)
            if former is not None and former.key == key_id:
                return True
        return self._controller is None or await self._controller.vouches_for(subject, key_id)

    def _known(self) -> tuple[Plan, int] | None:
        """The plan, and the first round whose keys count: peers may wait with a new key for as long as a window."""
        if self._progress is None:
            return self._start
        snapshot = self._progress.snapshot
        return snapshot.plan, max(0, snapshot.round - self._window)

    def is_member(self) -> bool:
        """Return whether it takes part in the run, with a link to the controller."""
        return self._link is not None

    def ask_for_key(self, key_id: str) -> None:
        """Ask the controller to put a key into the plan. The question can be lost."""
        if self._link is not None:
            self._link.report(NewKey(key_id))

    def is_known_by(self, key_id: str) -> bool:
        """Return whether the receivers of its pushes have answered one of a round in which the plan has this key."""
        if self._progress is None:
            return False
        snapshot = self._progress.snapshot
        members = snapshot.plan.at(max(0, snapshot.next_round - self._window)).members
        return any(member.node == self._name and member.key == key_id for member in members)
