"""TensorBoard events of a run, written by the controller in one folder per node. Needs the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgenode.core.protocol.status import ClusterStatus, NodeStatus
from edgenode.errors import ConfigError

_SCALARS: Mapping[str, Callable[[NodeStatus], float | None]] = {
    "accuracy": lambda s: s.accuracy,
    "loss": lambda s: s.loss,
    "push_sum_weight": lambda s: s.u,
    "bytes/sent": lambda s: s.payload_bytes,
    "bytes/received": lambda s: s.received_bytes,
    "bytes/uncompressed": lambda s: s.dense_bytes,
    "seconds/round": lambda s: round(s.round_s, 4),
}


class Events:
    """Writes the values of each node once per round.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as exc:
            raise ConfigError("--tensorboard needs tensorboardX: pip install 'edgenode[tensorboard]'") from exc
        self._open, self._folder = SummaryWriter, folder
        self._writers: dict[str, Any] = {}
        self._written: dict[str, int] = {}

    def note(self, status: ClusterStatus) -> None:
        """Write the values of a status that are new."""
        for node in status.nodes:
            t = node.status.round
            if t > self._written.get(node.node, 0):
                self._written[node.node] = t
                for tag, value in _SCALARS.items():
                    self._add(node.node, tag, value(node.status), t)
        if status.consensus_distance is not None and status.consensus_round > self._written.get("", 0):
            self._written[""] = status.consensus_round
            self._add("cluster", "consensus_distance", status.consensus_distance, status.consensus_round)

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, name: str, tag: str, value: float | None, t: int) -> None:
        if value is None:
            return
        if name not in self._writers:
            self._writers[name] = self._open(str(self._folder / name), flush_secs=5)
        self._writers[name].add_scalar(tag, value, t)
