"""The progress of a node, and its reports to the controller, to metrics, to systemd and to its log.

A `Node` belongs to its owner task, which works on it in another thread. Reports therefore never read the node. They
read the `NodeSnapshot` that the owner publishes after every event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from edgenode.config.sections import RunSection
from edgenode.core.protocol.events import Mixed, TimedOut
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.orders import Fence, FenceAnswer, Halt, Progress
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.net.control_client import ControlLink
from edgenode.net.faults import Faults
from edgenode.net.link_watch import LinkWatch
from edgenode.node.replica import Replica
from edgenode.node.resources import Sensors, Usage
from edgenode.node.save_errors import SaveErrors

log = structlog.get_logger()

_REPORT_EVERY_S = 0.2
_MOST_REPORTS_PER_S = 80.0  # of all members together
_LOG_STALL_EVERY_S = 30.0
_SHOW_WAIT_AFTER_S = 1.0


class NodeSnapshot(NamedTuple):
    """A node after its last event.

    Attributes:
        plan: the plan as far as it knows it.
        missing: the peers that hold it up. A paused node waits for no peer.
        fence: the fence that the node stands behind, or None.
        stands_still: it is paused, and no local step is under way.
    """

    round: int
    next_round: int
    end: int
    plan: Plan
    missing: tuple[str, ...] = ()
    fence: Fence | None = None
    halted: bool = False
    stands_still: bool = False

    @classmethod
    def of(cls, node: Node) -> NodeSnapshot:
        missing = () if node.state.halted else node.state.missing()
        return cls(
            node.state.round,
            node.state.next_round,
            node.state.end,
            node.state.plan,
            missing,
            node.state.fence,
            node.state.halted,
            node.state.stands_still,
        )


@dataclass
class StallReporter:
    """When a node logs that it makes no progress: every ``every_s`` for which it is held up in one round."""

    every_s: float
    _round: int = -1
    _since: float = 0.0
    _reported: float = 0.0

    def due(self, now: float, t: int, held_up: bool) -> float | None:
        """Return the seconds for which the node has stood still, if it has to log that now."""
        if t != self._round or not held_up:
            self._round, self._since, self._reported = t, now, now
        if now - self._reported < self.every_s:
            return None
        self._reported = now
        return now - self._since


@dataclass
class RoundTimer:
    """The recent duration of a round: a moving average over about ten rounds."""

    round_s: float = 0.0
    _ended: float | None = None

    def round_ended(self, now: float) -> None:
        """A round is closed."""
        if self._ended is not None:
            took = now - self._ended
            self.round_s += (took - self.round_s) * (0.1 if self.round_s else 1.0)
        self._ended = now

    def interrupt(self) -> None:
        """The run pauses or resumes. The time until the next end of a round does not count."""
        self._ended = None


class EpochLog:
    """Logs that epochs have ended: at most every ``every_s``, for all epochs since the line before."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._logged: float | None = None
        self._epochs = 0  # since the last line
        self._newest: dict[str, object] = {}

    def epoch_ended(self, now: float, **figures: object) -> None:
        """An epoch has ended, with these figures. One that is None is not logged: a private node has no loss."""
        self._epochs += 1
        self._newest = {name: value for name, value in figures.items() if value is not None}
        if self._logged is None or now - self._logged >= self._every_s:
            self.log_newest(now)

    def log_newest(self, now: float) -> None:
        """Log what has no line yet, if anything."""
        if self._epochs:
            log.info("epoch done", **self._newest, **({"epochs": self._epochs} if self._epochs > 1 else {}))
            self._logged, self._epochs = now, 0


class BarrierWait:
    """The wait of a round for its peers: since when, and when it times out.

    Args:
        timeout_s: None for no limit: with a controller, unresponsive peers are evicted.

    Attributes:
        since: the monotonic time at which the wait began. None if the round does not wait.
    """

    def __init__(self, timeout_s: float | None, post: Callable[[TimedOut], None]) -> None:
        self.since: float | None = None
        self._timeout_s, self._post = timeout_s, post
        self._deadline: asyncio.TimerHandle | None = None

    def begin(self, t: int) -> None:
        """Round t waits from now on."""
        self.end()
        self.since = time.monotonic()
        if self._timeout_s is not None:
            self._deadline = asyncio.get_running_loop().call_later(self._timeout_s, self._post, TimedOut(t))

    def end(self) -> None:
        """The round waits no more."""
        self.since = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def report_every_s(members: int, evict_after_s: float) -> float:
    """Seconds between two reports of one of so many members.

    All members together report at most 80 times a second, so that the controller has as much work with many as with
    few. But each reports four times before the controller suspects it, however many there are.
    """
    return max(_REPORT_EVERY_S, min(members / _MOST_REPORTS_PER_S, evict_after_s / 4))


class ProgressReporter:
    """Reports of one node.

    Args:
        link: the link to the controller, if the run has one.
        settings: the section `run` of the configuration.
        faults: the protocol violations of its peers.

    Attributes:
        snapshot: the node after its last event.
        save_errors: the files that it cannot save at present.
        farewell: the answer of a node that has ended to every later fence.
        links: the links to its receivers. They are assigned once, right after both are made.
    """

    def __init__(
        self,
        replica: Replica,
        wait: BarrierWait,
        link: ControlLink | None,
        settings: RunSection,
        faults: Faults,
    ) -> None:
        self.snapshot = NodeSnapshot.of(replica.node)
        self.farewell: FenceAnswer | None = None
        self.links: LinkWatch | None = None
        self.sensors = Sensors()
        self.save_errors = SaveErrors()
        self._end: tuple[NodeState, str] | None = None
        self._start, self._faults = self.snapshot.round, faults
        self._replica, self._wait, self._link = replica, wait, link
        self._evict_after_s = settings.evict_after_s
        self._stall_reporter = StallReporter(min(settings.barrier_timeout_s, _LOG_STALL_EVERY_S))
        self._round_timer = RoundTimer()
        self._epoch_log = EpochLog(settings.log_every_s)

    # --- what the owner task notes ------------------------------------------------------------------

    def round_ended(self, mixed: Mixed) -> None:
        """A round is closed, and with it maybe an epoch."""
        now = time.monotonic()
        self._round_timer.round_ended(now)
        rounds, epoch_rounds, stats = mixed.round + 1, self._replica.rounds_per_epoch, self._replica.stats
        if rounds % epoch_rounds == 0:
            self._epoch_log.epoch_ended(
                now,
                epoch=rounds // epoch_rounds,
                round=rounds,
                graph=self.snapshot.plan.at(mixed.round).schedule.spec(mixed.round).name,
                loss=None if stats.loss is None else round(stats.loss, 4),
            )

    def evaluated(self, t: int, accuracy: float | None) -> None:
        """The model after ``t`` rounds has been tested, if there is something to test it with."""
        if metrics := self._replica.stats.evaluation.metrics:
            log.info("test metrics", round=t, metrics={m.name: round(m.value, 4) for m in metrics})
        elif accuracy is not None:
            log.info("test accuracy", round=t, accuracy=round(accuracy, 4))

    def halt_ordered(self, halt: Halt) -> None:
        """The controller pauses or resumes the run, or repeats that."""
        if halt.halted != self.snapshot.halted:
            self._round_timer.interrupt()
            log.info("pausing: no further round begins" if halt.halted else "resuming", round=self.snapshot.round)

    def plan_changed(self, record: Record) -> None:
        """A record changes the plan."""
        without, leaving = [node for node, _ in record.evictions], [leaver for leaver, _ in record.handoffs]
        changes = {name: nodes for name, nodes in (("without", without), ("leaving", leaving)) if nodes}
        length = {"rounds": record.rounds, "stops": record.end is not None}
        log.info(
            "plan changes", record=record.number, at_round=record.start, nodes=len(record.members), **length, **changes
        )

    # --- reports ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Report regularly, until cancelled."""
        while True:
            self.report()
            self._log_if_stalled()
            await asyncio.sleep(report_every_s(len(self.snapshot.plan.latest.names), self._evict_after_s))

    def report(self, state: NodeState | None = None, error: str = "") -> None:
        """Report to the controller now. A state is that of a node that has ended."""
        if state is not None:
            self._end = state, error
            self._epoch_log.log_newest(time.monotonic())
        if self._link is not None:
            snapshot, latest = self.snapshot, self.snapshot.plan.latest
            blocked = self.links.blocked if self.links is not None else ()
            progress = Progress(snapshot.next_round, latest.number, latest.digest, self.farewell, blocked)
            self._link.progress(progress, self.status())

    def status(self) -> NodeStatus:
        """The node as it is now, for the controller and for monitoring."""
        now = NodeState.PAUSED if self.snapshot.stands_still else NodeState.RUNNING
        state, error = self._end or (now, "")
        snapshot, stats, usage, since = self.snapshot, self._replica.stats, self.usage(), self._wait.since
        save_error, save_error_s = self.save_errors.longest()
        waiting = snapshot.missing if since is not None else ()
        return NodeStatus(
            round=snapshot.round,
            rounds=snapshot.end,
            loss=stats.loss,
            accuracy=stats.accuracy,
            metrics=stats.evaluation.metrics,
            round_s=self._round_timer.round_s,
            sketch_round=stats.sketch_round,
            sketch=tuple(stats.sketch),
            u=stats.u,
            waiting_for=waiting,
            waiting_s=time.monotonic() - since if waiting and since is not None else 0.0,
            state=state,
            error=error,
            faults=self._faults.by_peer,
            save_error=save_error,
            save_error_s=save_error_s,
            ways=self.links.ways if self.links is not None else (),
            open_links=self.links.open_links if self.links is not None else (),
            peak_memory_bytes=usage.peak_memory_bytes or 0,
            joules_per_round=usage.joules_per_round,
            power_sensor=usage.power_sensor,
            **stats.counts,
        )

    def usage(self) -> Usage:
        """The memory and energy that the node used in the rounds of this process."""
        return self.sensors.usage(self.snapshot.round - self._start)

    def in_a_line(self) -> str:
        """The node as it is now, for people."""
        snapshot, since = self.snapshot, self._wait.since
        parts = [f"round {snapshot.round} of {snapshot.end}"]
        if self._replica.stats.accuracy is not None:
            parts.append(f"accuracy {self._replica.stats.accuracy:.1%}")
        if snapshot.missing and since is not None and time.monotonic() - since > _SHOW_WAIT_AFTER_S:
            parts.append(f"waiting for {', '.join(snapshot.missing)} ({time.monotonic() - since:.0f} s)")
        if self._is_controller_unreachable():
            parts.append("controller unreachable")
        if snapshot.halted:
            parts.append("paused")
        if error := self.save_errors.longest()[0]:
            parts.append(error)
        return ", ".join(parts)

    def _log_if_stalled(self) -> None:
        snapshot = self.snapshot
        since_s = self._stall_reporter.due(time.monotonic(), snapshot.round, bool(snapshot.missing or snapshot.fence))
        if since_s is None:
            return
        fenced = {"evicting": sorted(snapshot.fence.evicted)} if snapshot.fence else {}
        controller = {"controller": "unreachable"} if self._is_controller_unreachable() else {}
        waiting = {"waiting_for": list(snapshot.missing), "since_s": round(since_s)}
        log.warning("no progress", round=snapshot.round, **waiting, **fenced, **controller)

    def _is_controller_unreachable(self) -> bool:
        return self._link is not None and not self._link.connected.is_set()
