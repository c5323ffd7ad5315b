"""Records the history of a run and its TensorBoard events. If the disk fails, only the history is lost.

All writing is done in one thread, in order, so that a slow disk does not block the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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

_SAMPLE_EVERY_S = 1.0


class RunRecorder:
    """Records one run, from its start to its end.

    Args:
        rounds: rounds of the whole run, gossip included.
        resumed: the run started before this controller did.
        status: reads the current status of the run.
        events: writes TensorBoard events too, if given.
    """

    def __init__(
        self,
        config: Config,
        rounds: int,
        state_dir: Path,
        resumed: bool,
        status: Callable[[], ClusterStatus],
        events: Events | None = None,
    ) -> None:
        self._events = events
        self._config, self._rounds, self._resumed, self._status = config, rounds, resumed, status
        self._history = RunHistory(state_dir)
        self._recorder: Recorder | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="history")

    async def record(self) -> None:
        """Record until cancelled, or until the disk fails."""
        while True:
            await asyncio.sleep(_SAMPLE_EVERY_S)
            status = self._status()
            if status.plan is None:
                continue
            if not await asyncio.get_running_loop().run_in_executor(self._writer, self._note, status):
                return

    async def end(self, ended_well: bool) -> None:
        """Record the end of the run. Its outcome is "stopped" if a node reports that it stopped."""
        status = self._status()
        stopped = any(node.status.state is NodeState.STOPPED for node in status.nodes)
        outcome = "failed" if not ended_well else "stopped" if stopped else "done"
        await asyncio.get_running_loop().run_in_executor(self._writer, self._note_end, status, outcome)
        self._writer.shutdown()

    def curve(self) -> list[dict[str, Any]]:
        """The means over the nodes so far, oldest first. Empty without a history."""
        try:
            return self._history.curve(self._recorder.run) if self._recorder else []
        except CheckpointError as exc:
            log.warning("cannot read the history", reason=str(exc))
            return []

    def _note(self, status: ClusterStatus) -> bool:
        """Write a status. False if the disk failed."""
        self._note_events(status)
        try:
            self._opened().note(status)
        except CheckpointError as exc:
            log.warning("the run continues without a history", reason=str(exc))
            return False
        return True

    def _note_end(self, status: ClusterStatus, outcome: str) -> None:
        self._note_events(status)
        if self._events:
            self._events.close()
        try:
            self._opened().end(status, outcome)
        except CheckpointError as exc:
            log.warning("cannot record the end of the run", reason=str(exc))

    def _note_events(self, status: ClusterStatus) -> None:
        if self._events:
            self._events.note(status)

    def _opened(self) -> Recorder:
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
        self._recorder = self._recorder or Recorder(self._history, about, self._resumed)
        return self._recorder
