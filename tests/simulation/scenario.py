"""What happens to a simulated cluster from outside: the network, the faults and the operators. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgenode.core.protocol.events import Evict, Extend, Rotate, Stop

CONTROLLER = "controller"  # the name of its host


@dataclass(frozen=True)
class Kill:
    """A process ends without notice. After ``back_s`` (None: never) another one starts under its name, from its disk.

    With ``power``, what was not flushed may be lost or torn.
    """

    node: str
    back_s: float | None = None
    power: bool = False


@dataclass(frozen=True)
class LoseState(Kill):
    """A process ends, and its state folder is deleted."""


@dataclass(frozen=True)
class Freeze:
    """A process is suspended for ``for_s``, then continues. If it was evicted meanwhile, it is a zombie."""

    node: str
    for_s: float


@dataclass(frozen=True)
class Start:
    """A process starts: a newcomer."""

    node: str


@dataclass(frozen=True)
class Partition:
    """For ``for_s`` no message passes from the senders to the receivers; nor back, unless it is one-way."""

    senders: frozenset[str]
    receivers: frozenset[str]
    for_s: float
    one_way: bool = False


@dataclass(frozen=True)
class BlockLink:
    """For ``for_s`` (None: for ever) no push passes from one host to another, nor the answers to these pushes.

    All else passes. With ``relayed``, a relay carries the pushes once the sender has noticed.
    """

    sender: str
    receiver: str
    for_s: float | None = None
    relayed: bool = True


@dataclass(frozen=True)
class ClockJump:
    """A host's clock jumps forward: a node repeats its pushes at once, the controller takes one node for silent."""

    host: str


@dataclass(frozen=True)
class LeaveRequest:
    """A member asks to leave."""

    node: str


@dataclass(frozen=True)
class LinkBreak:
    """A control link breaks, and its node connects again."""

    node: str


@dataclass(frozen=True)
class RevokeKey:
    """An operator revokes the key of a process: from now on nobody takes anything from it."""

    node: str


@dataclass(frozen=True)
class PauseFor:
    """An operator pauses the run, and resumes it after ``for_s``, repeating until a controller replies."""

    request_id: int
    for_s: float


@dataclass(frozen=True)
class Expel:
    """An operator evicts a liar, repeating until it is done. Its key is revoked then, and its process cut off."""

    node: str


@dataclass(frozen=True)
class GiveUp:
    """An operator forces a run whose members are fixed to go on without a member, repeating until it does."""

    node: str


ProcessFault = Kill | Freeze | Start
Disturbance = (
    Rotate
    | Stop
    | Extend
    | Evict
    | PauseFor
    | LeaveRequest
    | LinkBreak
    | Expel
    | GiveUp
    | RevokeKey
    | ProcessFault
    | Partition
    | BlockLink
    | ClockJump
)


@dataclass(frozen=True)
class Scenario:
    """What the network does to the messages, and what happens from outside.

    Attributes:
        latency_s: range of the latency of a message. Pushes may overtake each other, a control link keeps its order.
        lose: share of pushes and answers that are lost. A push is repeated until it is answered, as in the daemon.
        duplicate: share of the others that arrive twice.
        stall: share of messages, control links included, that take ``stall_s`` longer.
        training_s: range of the duration of a local step. ``slow`` overrides it by node.
        crash_s: when the controller crashes.
        crash_at_offer: the controller crashes after it has sent this many offers.
        crash_at: moment -> seconds until the restart, None for never. Moments are counted over the whole run. Whatever
            acts at such a moment dies there, between two of its actions.
        back_s: seconds until the controller restarts after the other crashes; None for never. It finds what the one
            before has persisted, unless ``disk_lost``.
        evict_s: how long a process is silent before the controller requests its eviction.
        sync_s: range of the time until a checkpoint is safe on disk.
        disturbances: (when, what).
        leave_s: how long after its end a node exits, whether or not others still wait for its answer; None for never.
        liars: node -> the share of its messages that are lies (`liars`).
        poisons: the member that gives newcomers to an exchange a wrong copy, if there are two others to ask.
        patience_s: a run in which no push was answered for so long counts as deadlocked.
    """

    seed: int = 0
    latency_s: tuple[float, float] = (0.001, 0.1)
    lose: float = 0.0
    duplicate: float = 0.0
    stall: float = 0.0
    stall_s: tuple[float, float] = (1.0, 5.0)
    retry_s: float = 0.5
    training_s: tuple[float, float] = (0.01, 0.05)
    slow: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    window: int = 8
    crash_s: float | None = None
    crash_at_offer: int | None = None
    crash_at: Mapping[int, float | None] = field(default_factory=dict)
    back_s: float | None = None
    disk_lost: bool = False
    evict_s: float = 3.0
    sync_s: tuple[float, float] = (0.0, 0.05)
    checkpoint_every: int = 0
    disturbances: tuple[tuple[float, Disturbance], ...] = ()
    leave_s: float | None = None
    liars: Mapping[str, float] = field(default_factory=dict)
    poisons: str = ""
    patience_s: float = 600.0

    @property
    def member_leaves(self) -> bool:
        """Whether a member asks to leave."""
        return any(isinstance(disturbance, LeaveRequest) for _, disturbance in self.disturbances)

    @property
    def controller_loses_disk(self) -> bool:
        """Whether a controller crashes, and the next one recovers the run from the nodes."""
        return self.disk_lost and self.crash_s is not None
