"""Keeps the history of a run, and its TensorBoard events. A disk that refuses it costs the history, not the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from edgenode.config.schema import Config
from edgenode.core.protocol.status import ClusterStatus, NodeState
from edgenode.errors import CheckpointError
from edgenode.observability.tensorboard import Events
from edgenode.storage import result_file
from edgenode.storage.run_history import Recorder, RunHistory

log = structlog.get_logger()

_LOOK_EVERY_S = 1.0


class RunRecorder:
    """The record of one run, from its founding to its end.

    Args:
        rounds: of the whole run, gossip included.
        goes_on: the run was founded before this controller started.
        status: the run as it is now.
        events: takes the same for TensorBoard, if wanted.
    """

    def __init__(
        self,
        config: Config,
        rounds: int,
        state_dir: Path,
        goes_on: bool,
        status: Callable[[], ClusterStatus],
        events: Events | None = None,
    ) -> None:
        self._events = events
        self._config, self._rounds, self._goes_on, self._status = config, rounds, goes_on, status
        self._history = RunHistory(state_dir)
        self._recorder: Recorder | None = None

    async def keep(self) -> None:
        """Write until cancelled, or until the disk refuses it."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            status = self._status()
            if status.plan is None:
                continue
            self._note_events(status)
            try:
                self._begun().note(status)
            except CheckpointError as exc:
                log.warning("the run goes on without a history", reason=str(exc))
                return

    def end(self, ended_well: bool) -> None:
        """The run is over; it was stopped if a member says so."""
        status = self._status()
        self._note_events(status)
        if self._events:
            self._events.close()
        stopped = any(node.status.state is NodeState.STOPPED for node in status.nodes)
        try:
            self._begun().end(status, "failed" if not ended_well else "stopped" if stopped else "done")
        except CheckpointError as exc:
            log.warning("the end of the run is not in the history", reason=str(exc))

    def curve(self) -> list[dict[str, Any]]:
        """The means over the nodes so far, oldest first; nothing if there is no history."""
        try:
            return self._history.curve(self._recorder.run) if self._recorder else []
        except CheckpointError as exc:
            log.warning("no curves", reason=str(exc))
            return []

    def _note_events(self, status: ClusterStatus) -> None:
        if self._events:
            self._events.note(status)

    def _begun(self) -> Recorder:
        config = self._config
        about = {
            "cluster": config.run.cluster,
            "run_digest": config.digest(),
            "algorithm": config.algorithm.name,
            "compressor": result_file.describe_compressor(config),
            "nodes": config.run.nodes,
            "rounds": self._rounds,
            "config": config.to_toml(),
        }
        self._recorder = self._recorder or Recorder(self._history, about, self._goes_on)
        return self._recorder
