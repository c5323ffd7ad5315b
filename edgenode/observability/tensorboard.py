"""TensorBoard events of a run, written by the controller: one folder per node. Needs the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgenode.errors import ConfigError

_SCALARS = {
    "accuracy": "accuracy",
    "loss": "loss",
    "push_sum_weight": "u",
    "bytes/sent": "payload_bytes",
    "bytes/received": "received_bytes",
    "bytes/uncompressed": "dense_bytes",
    "seconds/round": "round_s",
}


class Events:
    """Writes what changed since the last look, at the round of each node.

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

    def note(self, view: Mapping[str, Any]) -> None:
        """Take a status of the running cluster, as `edgenode.observability.status_view` makes it."""
        for node in view["nodes"]:
            if node["round"] > self._written.get(node["node"], 0):
                self._written[node["node"]] = node["round"]
                for tag, key in _SCALARS.items():
                    self._add(node["node"], tag, node[key], node["round"])
        if view["consensus_distance"] is not None and view["consensus_round"] > self._written.get("", 0):
            self._written[""] = view["consensus_round"]
            self._add("cluster", "consensus_distance", view["consensus_distance"], view["consensus_round"])

    def close(self) -> None:
        """Write what is buffered."""
        for writer in self._writers.values():
            writer.close()

    def _add(self, name: str, tag: str, value: float | None, t: int) -> None:
        if value is None:
            return
        if name not in self._writers:
            self._writers[name] = self._open(str(self._folder / name), flush_secs=5)
        self._writers[name].add_scalar(tag, value, t)
