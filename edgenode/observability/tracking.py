"""Gives the measurements of a run to a tracker: TensorBoard, MLflow or Weights & Biases.

1. A tracker works in a thread of its own, and nothing waits for it. While it is busy, samples are left out.
2. A tracker that fails or hangs is logged once, and the run continues. So does the tracker, once it works again.
3. A run that resumes continues the tracker's runs, and no round is passed on twice.
4. The name of a node comes from outside. A tracker shows it, and makes a path of it only through `to_name`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import structlog

from edgenode.config.schema import Config
from edgenode.core.protocol.status import ClusterStatus, NodeStatus
from edgenode.errors import ConfigError, in_words
from edgenode.observability.tracked_runs import TrackedRuns

log = structlog.get_logger()

T = TypeVar("T")
_SAMPLE_EVERY_S = 1.0
_BUSY_S = 60.0  # importing MLflow and creating its database takes 10 s on a busy machine
_QUIET_S = 2.0  # a wait is logged that takes longer
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_CLUSTER = "cluster"
_VALUES: Mapping[str, Callable[[NodeStatus], float | None]] = {
    "accuracy": lambda s: s.accuracy,
    "loss": lambda s: s.loss,
    "push_sum_weight": lambda s: s.u,
    "bytes/sent": lambda s: s.payload_bytes,
    "bytes/received": lambda s: s.received_bytes,
    "bytes/uncompressed": lambda s: s.dense_bytes,
    "seconds/round": lambda s: round(s.round_s, 4),
}


class Tracker(Protocol):
    """A receiver of measurements. Only one thread uses it. It may raise anything, and is called again afterwards."""

    def log(self, node: str, t: int, values: Mapping[str, float]) -> None:
        """Add the values of a node, or of the cluster as a whole, after t rounds."""

    def close(self, ended_well: bool) -> None:
        """Write what is left. The run ended, well or not."""


def checked_target(target: str) -> str:
    """A target as users write it: tensorboard:DIR, mlflow:URI, wandb or wandb:PROJECT.

    Raises:
        ConfigError: it is not one, or its package is not installed.
    """
    kind, _, place = target.partition(":")
    if kind not in _PACKAGES or not (place or target == "wandb"):
        raise ConfigError(f"cannot track to {target!r}: choose tensorboard:DIR, mlflow:URI, wandb or wandb:PROJECT")
    try:
        installed = importlib.util.find_spec(_PACKAGES[kind]) is not None
    except ValueError:
        installed = False
    if not installed:
        raise ConfigError(f"tracking to {kind} needs {_PACKAGES[kind]}: pip install 'edgenode[{kind}]'")
    return target


def open_tracker(target: str, config: Config, state_dir: Path, ids: dict[str, str]) -> Tracker:
    """The tracker of a checked target. It connects when it is first used.

    Args:
        ids: the tracker's name of its run for each node. It continues these, and adds those that it begins.
    """
    kind, _, place = target.partition(":")
    match kind:
        case "tensorboard":
            from edgenode.observability.tensorboard import TensorBoard

            return TensorBoard(Path(place))
        case "mlflow":
            from edgenode.observability.mlflow import MLflow

            return MLflow(place, config, ids)
        case _:
            from edgenode.observability.wandb import WandB

            return WandB(place or "edgenode", config, state_dir, ids)


def track_row(tracker: Tracker, row: Mapping[str, Any]) -> None:
    """Give a row of a simulation's history to a tracker, under the names that runs of devices have."""
    names = {"payload_bytes": "bytes/sent", "dense_bytes": "bytes/uncompressed"}
    left_out = ("round", "node")
    values = {names.get(name, name): value for name, value in row.items() if name not in left_out}
    tracker.log(row["node"], row["round"], {name: float(v) for name, v in values.items() if v is not None})


class Tracking:
    """Samples the status of a run for a tracker, and passes on each node's values once per round.

    Args:
        target: a target from `checked_target`. Empty for no tracker.
        state_dir: the folder where a tracker may keep files.
        status: returns the status of the run.
        resumed: returns whether the run began earlier, once it is under way.
    """

    def __init__(
        self,
        target: str,
        config: Config,
        state_dir: Path,
        status: Callable[[], ClusterStatus],
        resumed: Callable[[], bool],
    ) -> None:
        self._target, self._config, self._state_dir = target, config, state_dir
        self._status, self._resumed = status, resumed
        self._tracker: Tracker | None = None
        self._runs: TrackedRuns | None = None  # until the run is under way
        self._samples: SimpleQueue[ClusterStatus | None] = SimpleQueue()
        self._taken = time.monotonic()
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    async def run(self) -> None:
        """Track until cancelled. What the tracker has not written a minute later is lost."""
        if not self._target:
            return
        self._thread.start()
        try:
            while True:
                await asyncio.sleep(_SAMPLE_EVERY_S)
                if self._samples.empty():
                    self._samples.put(self._status())
                elif time.monotonic() - self._taken > _BUSY_S:
                    self._warn(f"it has not answered for {_BUSY_S:.0f} s")
        finally:
            self._samples.put(self._status())
            self._samples.put(None)
            await asyncio.to_thread(self._thread.join, _QUIET_S)
            if self._thread.is_alive():
                log.info("writing the last values to the tracker")
                await asyncio.to_thread(self._thread.join, _BUSY_S)
            if self._thread.is_alive():
                self._warn("it has not written the last values")

    # --- in the thread of the tracker -------------------------------------------------------------

    def _work(self) -> None:
        status = None
        while (sample := self._samples.get()) is not None:
            self._taken, status = time.monotonic(), sample
            self._attempt(self._pass_on, sample)
        ended_well = status is not None and all(node.status.state.ended_well for node in status.nodes)
        self._attempt(self._close, ended_well)

    def _attempt(self, call: Callable[[T], None], what: T) -> None:
        try:
            call(what)
        except Exception as exc:  # whatever it is, the run continues
            self._warn(in_words(exc))

    def _pass_on(self, status: ClusterStatus) -> None:
        known = [(node.node, node.status.round, _measured(node.status)) for node in status.nodes]
        known.append((_CLUSTER, status.consensus_round, {"consensus_distance": status.consensus_distance}))
        if self._runs is None and any(t > 0 for _, t, _ in known):
            about = [self._target, self._config.run.cluster, self._config.digest()]
            self._runs = TrackedRuns(self._state_dir, about, self._resumed())
        if self._runs is None:
            return
        runs, new = self._runs, list[tuple[str, int, dict[str, float]]]()
        for node, t, measured in known:
            values = {name: float(value) for name, value in measured.items() if value is not None}
            if values and t > runs.rounds.get(node, 0):
                new.append((node, t, values))
        if new:
            self._log(runs, new)

    def _log(self, runs: TrackedRuns, new: list[tuple[str, int, dict[str, float]]]) -> None:
        runs.rounds |= {node: t for node, t, _ in new}
        runs.save()  # before, so that a power cut leaves out a round, and doubles none
        ids = dict(runs.ids)
        self._tracker = self._tracker or open_tracker(self._target, self._config, self._state_dir, runs.ids)
        for one in new:
            self._tracker.log(*one)
        if runs.ids != ids:
            runs.save()

    def _close(self, ended_well: bool) -> None:
        if self._tracker is not None:
            self._tracker.close(ended_well)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("tracking fails, and the run continues", reason=reason.splitlines()[0])


def _measured(status: NodeStatus) -> dict[str, float | None]:
    """The values of a node, by their name in the tracker. None is unknown."""
    of_test = {f"test/{metric.name}": metric.value for metric in status.metrics}
    return {**{name: value(status) for name, value in _VALUES.items()}, **of_test}
