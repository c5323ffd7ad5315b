"""The standing of a node in the plan: whether it is a member, and which keys count."""

from __future__ import annotations

from edgenode.core.protocol.orders import NewKey
from edgenode.net.control_client import ControlLink
from edgenode.node.progress import ProgressReporter
from edgenode.security.subject import Subject


class Standing:
    """The standing of one node. It has none before it takes part in the run.

    Args:
        window: the number of pushes to a peer that may be unanswered.
    """

    def __init__(self, name: str, window: int) -> None:
        self._name, self._window = name, window
        self._progress: ProgressReporter | None = None
        self._link: ControlLink | None = None

    def begin(self, progress: ProgressReporter, link: ControlLink | None) -> None:
        """Let the node take part from now on, with a link to the controller if the run has one."""
        self._progress, self._link = progress, link

    def admits(self, subject: Subject, key_id: str) -> bool:
        """Return whether the plan admits a subject that shows a key."""
        if self._progress is None or subject.role != "node":
            return True
        snapshot = self._progress.snapshot
        # as long as its peers, after a change of its key, may wait with the new one
        return snapshot.plan.admits(subject.name, key_id, max(0, snapshot.round - self._window))

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
