"""Gives the measurements of a run to a tracker: TensorBoard, MLflow or Weights & Biases.

1. A tracker works in a thread of its own, and nothing waits for it. While it is busy, samples are left out.
2. A tracker that fails or hangs is logged once, and the run continues. So does the tracker, once it works again.
3. The name of a node comes from outside. A tracker shows it, and makes a path of it only through `to_name`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, TypeVar

import structlog

from edgenode.config.schema import Config
from edgenode.core.protocol.status import ClusterStatus, NodeStatus
from edgenode.errors import ConfigError, in_words

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


def open_tracker(target: str, config: Config, state_dir: Path) -> Tracker:
    """The tracker of a checked target. It connects when it is first used."""
    kind, _, place = target.partition(":")
    match kind:
        case "tensorboard":
            from edgenode.observability.tensorboard import TensorBoard

            return TensorBoard(Path(place))
        case "mlflow":
            from edgenode.observability.mlflow import MLflow

            return MLflow(place, config)
        case _:
            from edgenode.observability.wandb import WandB

            return WandB(place or "edgenode", config, state_dir)


class Tracking:
    """Samples the status of a run for a tracker, and passes on each node's values once per round.

    Args:
        target: a target from `checked_target`. Empty for no tracker.
        state_dir: the folder where a tracker may keep files.
        status: returns the status of the run.
    """

    def __init__(self, target: str, config: Config, state_dir: Path, status: Callable[[], ClusterStatus]) -> None:
        self._target, self._config, self._state_dir, self._status = target, config, state_dir, status
        self._tracker: Tracker | None = None
        self._passed_on: dict[str, int] = {}  # the newest round by node
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
        self._attempt(lambda tracker, well: tracker.close(well), ended_well)

    def _attempt(self, call: Callable[[Tracker, T], None], what: T) -> None:
        try:
            self._tracker = self._tracker or open_tracker(self._target, self._config, self._state_dir)
            call(self._tracker, what)
        except Exception as exc:  # whatever it is, the run continues
            self._warn(in_words(exc))

    def _pass_on(self, tracker: Tracker, status: ClusterStatus) -> None:
        for node in status.nodes:
            known = {name: value(node.status) for name, value in _VALUES.items()}
            known |= {f"test/{metric.name}": metric.value for metric in node.status.metrics}
            self._log_new(tracker, node.node, node.status.round, known)
        known = {"consensus_distance": status.consensus_distance}
        self._log_new(tracker, _CLUSTER, status.consensus_round, known)

    def _log_new(self, tracker: Tracker, node: str, t: int, known: Mapping[str, float | None]) -> None:
        values = {name: float(value) for name, value in known.items() if value is not None}
        if values and t > self._passed_on.get(node, 0):
            self._passed_on[node] = t
            tracker.log(node, t, values)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("tracking fails, and the run continues", reason=reason.splitlines()[0])
