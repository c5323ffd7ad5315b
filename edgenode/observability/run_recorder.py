"""Records the history of a run. While the disk fails, only the history has a gap.

All writing is done in one thread, in order, so that a slow disk does not block the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from edgenode.config.schema import Config
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.status import ClusterStatus
from edgenode.errors import CheckpointError
from edgenode.observability.run_events import EventWatch, ending, outcome_of
from edgenode.storage import result_file
from edgenode.storage.run_history import Recorder, RunEvent, RunHistory

log = structlog.get_logger()

_T = TypeVar("_T")
_SAMPLE_EVERY_S = 1.0
_EVENTS_SHOWN = 100
_EVENTS_KEPT = 1000  # while they cannot be written


class RecordedRun(Protocol):
    """The part of a run that the recorder reads."""

    @property
    def state(self) -> ClusterState:
        """Its plan and its length."""

    def status(self) -> ClusterStatus:
        """The current status."""

    def restore(self, reached: int, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Continue from the round, and from the counts of the nodes, that an earlier controller recorded."""


class RunRecorder:
    """Records one run, from its start to its end.

    Args:
        restarted: this controller started in the middle of the run.
    """

    def __init__(self, config: Config, state_dir: Path, restarted: bool, run: RecordedRun) -> None:
        self._config, self._restarted, self._run = config, restarted, run
        self._history = RunHistory(state_dir)
        self._recorder: Recorder | None = None
        self._events: EventWatch | None = None
        self._news: list[RunEvent] = []
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="history")

    async def record(self) -> None:
        """Record until cancelled. While the disk fails, moments are lost, and the newest events are kept."""
        failed = False
        while True:
            await asyncio.sleep(_SAMPLE_EVERY_S)
            if (plan := self._run.state.plan) is None or not self._is_under_way():
                continue
            try:
                await self._sample(plan)
            except CheckpointError as exc:
                if not failed:
                    log.warning("the run continues without a history", reason=str(exc))
                failed = True
                del self._news[:-_EVENTS_KEPT]
                continue
            if failed:
                log.info("the history is recorded again")
            failed = False

    def observe(self, plan: Plan | None, paused: bool, halted_by: str = "by an operator") -> None:
        """Note what is new. To be called after every change, so that no short pause is missed."""
        if self._events and plan is not None and self._events.is_news(plan, paused):
            self._news += self._events.news(plan, paused, self._run.status().round, halted_by)

    def note(self, event: RunEvent) -> None:
        """Record an event that neither the plan nor the pause shows."""
        self._news.append(event)

    async def end(self, ended_well: bool) -> None:
        """Record the end of the run. Its outcome is "stopped" if a node reports that it stopped."""
        try:
            if (plan := self._run.state.plan) is not None:
                await self._sample(plan, ended_well)
        except CheckpointError as exc:
            log.warning("cannot record the end of the run", reason=str(exc))
        self._writer.shutdown()

    def curve(self) -> list[dict[str, Any]]:
        """The moments so far, oldest first. Empty without a history."""
        return self._read(self._history.curve)

    def events(self) -> list[dict[str, Any]]:
        """The newest events, oldest first. Empty without a history."""
        return self._read(lambda run: self._history.events(run, _EVENTS_SHOWN))

    def _read(self, query: Callable[[int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        try:
            return query(self._recorder.run) if self._recorder else []
        except CheckpointError as exc:
            log.warning("cannot read the history", reason=str(exc))
            return []

    def resumed(self) -> bool:
        """Return whether the run began earlier: with another controller, or before a stop. Nodes run already."""
        plan = self._run.state.plan
        return self._restarted or (plan is not None and plan.records[0].number > 0)

    def _is_under_way(self) -> bool:
        """Return whether nodes run. Until then, the plan may come from a checkpoint."""
        known = self._restarted or self._events is not None
        return known or any(node.status.reported for node in self._run.status().nodes)

    async def _sample(self, plan: Plan, ended_well: bool | None = None) -> None:
        """Write what is new. ``ended_well`` is given at the end of the run."""
        events = self._events or await self._open(plan)
        status = self._run.status()
        self._news += events.news(plan, status.paused, status.round)
        if ended_well is None:
            await self._in_writer(lambda: self._write(status))
            return
        outcome = outcome_of(status, ended_well)
        self._news.append(ending(outcome, status))
        await self._in_writer(lambda: self._write(status, outcome))

    async def _open(self, plan: Plan) -> EventWatch:
        """Begin to record: a new run, or one that began earlier, with another controller or before a stop."""
        first, resumed = plan.records[0], self.resumed()
        recorder = await self._in_writer(lambda: self._opened(resumed))
        so_far = recorder.so_far
        # if the run has resumed from a checkpoint since, it has fallen back from the recorded round
        self._run.restore(so_far.round if so_far.record >= first.number else 0, so_far.counts)
        self._events = EventWatch(so_far, self._run.status().leadership.term if self._restarted else None)
        return self._events

    def _opened(self, resumed: bool) -> Recorder:
        config = self._config
        about = {
            "cluster": config.run.cluster,
            "run_digest": config.digest(),
            "algorithm": config.algorithm.name,
            "compressor": result_file.describe_compressor(config),
            "nodes": config.run.nodes,
            **self._length(),
        }
        self._recorder = self._recorder or Recorder(self._history, about, resumed)
        return self._recorder

    def _length(self) -> dict[str, Any]:
        """Return the fields that change when the run is extended."""
        planned = self._run.state.plan.latest.rounds if self._run.state.plan else None
        return {"rounds": self._run.state.rounds, "config": self._config.lasting(planned).to_toml()}

    def _write(self, status: ClusterStatus, outcome: str = "") -> None:
        assert self._recorder is not None
        news = self._news.copy()
        self._recorder.describe(self._length())
        if outcome:
            self._recorder.end(status, outcome, news)
        else:
            self._recorder.note(status, news)
        del self._news[: len(news)]  # only now: a write that is cancelled before it begins loses no event

    async def _in_writer(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)
