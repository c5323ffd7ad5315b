"""What happens to a simulated cluster from outside: the network, the faults, the operators. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgenode.core.protocol.events import Evict, Rotate, Stop

CONTROLLER = "controller"  # its name among the hosts


@dataclass(frozen=True)
class Kill:
    """A process ends without a word; ``back_s`` later (None: never) another starts under its name, from its disk.

    With ``power``, what was not flushed may be lost or torn.
    """

    node: str
    back_s: float | None = None
    power: bool = False


@dataclass(frozen=True)
class Freeze:
    """A process stands still, and goes on after ``for_s`` as if nothing had been: a zombie, if it was evicted."""

    node: str
    for_s: float


@dataclass(frozen=True)
class Start:
    """A process starts: a newcomer."""

    node: str


@dataclass(frozen=True)
class Partition:
    """For a while nothing passes from any of some hosts to any of others; nor back, unless it is one-way."""

    senders: frozenset[str]
    receivers: frozenset[str]
    for_s: float
    one_way: bool = False


@dataclass(frozen=True)
class Leap:
    """A host's clock leaps forward: its pushes are repeated at once; the controller takes somebody for silent."""

    node: str


@dataclass(frozen=True)
class Depart:
    """A member asks to leave."""

    node: str


@dataclass(frozen=True)
class LinkBreak:
    """A control link breaks, and its node dials again."""

    node: str


@dataclass(frozen=True)
class Rest:
    """An operator pauses the run, and resumes it after ``for_s``, trying until a controller takes it."""

    request_id: int
    for_s: float


Fault = Kill | Freeze | Start  # of a process
Disturbance = Rotate | Stop | Evict | Depart | LinkBreak | Fault | Partition | Leap | Rest


@dataclass(frozen=True)
class Scenario:
    """What the network does to the messages, and what happens from outside.

    Attributes:
        latency_s: of every message, drawn anew: pushes overtake each other; a control link keeps its order.
        lose: share of pushes and answers that get lost; a push is repeated until answered, as in the daemon.
        duplicate: share of those that arrive twice.
        stall: share of messages, control links included, that take ``stall_s`` longer.
        training_s: of a local step; ``slow`` overrides it by node.
        crash_s: when the controller vanishes; ``crash_at_offer`` instead counts the offer it says last.
        crash_at: at these moments, counted over the whole run, whoever acts dies between two of its actions; the value
            is when it is back, None for never.
        back_s: how long after that another takes its place; None is never. It has what the first one persisted,
            unless ``disk_lost``.
        evict_s: how long a silent process is waited for before the controller takes it for dead.
        sync_s: how long a checkpoint takes to be safe on disk.
        disturbances: (when, what): an operator's request, a departure, or a fault.
        leave_s: after its end, a node goes away, whoever may still wait for an answer; None: never.
        patience_s: without any push answered, after which the run counts as deadlocked.
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
    patience_s: float = 600.0
