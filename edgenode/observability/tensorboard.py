"""TensorBoard event files, in one folder per node."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from edgenode.names import to_name


class TensorBoard:
    """Writes each event at once, and raises errors. SummaryWriter would write in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, EventsWriter] = {}

    def log(self, node: str, t: int, values: Mapping[str, float]) -> None:
        if (writer := self._writers.get(node)) is None:
            folder = self._folder / to_name(node)
            folder.mkdir(parents=True, exist_ok=True)
            writer = self._writers[node] = EventsWriter(str(folder / "events"))
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        writer.write_event(Event(wall_time=time.time(), step=t, summary=summary))
        writer.flush()

    def close(self, ended_well: bool) -> None:
        for writer in self._writers.values():
            writer.close()
