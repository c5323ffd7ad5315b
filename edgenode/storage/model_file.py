"""model.safetensors: the model of one node, with what a reader needs to know about it.

It is replaced by a rename, so a reader finds a whole file at every moment: the old one or the new one. This also holds
when the writer is killed, and after a power cut. A reader that has opened the old file keeps reading the old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from edgenode.errors import CheckpointError, ConfigError
from edgenode.storage import tensor_file
from edgenode.storage.replacement import check_replaceable, replacing

if TYPE_CHECKING:
    from torch import Tensor

MODEL_FILE = "model.safetensors"
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The content of a file.

    Attributes:
        tensors: a state dict.
        metadata: "round", "run_digest", "cluster", "node", "model", and more that describes the model.
        version: the file's `version`.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    version: Version


def check_writable(path: Path) -> None:
    """Refuse a path that `write` could not write to. Makes its folder.

    Raises:
        ConfigError: the text gives the reason.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"--publish {path} is a folder: name a file")
        check_replaceable(path)
    except OSError as exc:
        raise ConfigError(f"--publish {path} cannot be written: {exc.strerror or exc}") from exc


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Make or replace a file. It is on the medium when this returns.

    Raises:
        CheckpointError: the disk does not accept it. The old file stays.
    """
    try:
        with replacing(path) as draft, draft.open("wb") as file:
            file.writelines(tensor_file.parts(tensors, metadata))
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc


def version(path: Path) -> Version | None:
    """Return a value that differs between any two files that were ever at this path. None if there is no file now."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read(path: Path) -> ModelFile:
    """Read a file.

    Raises:
        ConfigError: there is none, or it is not a safetensors file.
    """
    from safetensors.torch import load

    found = version(path)  # taken before the content, which may be newer: then it is only read once more
    if found is None:
        raise ConfigError(
            f"{path} does not exist: a node writes it every run.publish_every rounds, and at the end of the run"
        )
    try:
        # Read once: safe_open opens the path a second time for the tensors, and might find the next file there.
        content = path.read_bytes()
        return ModelFile(load(content), _metadata(content), found)
    except (OSError, SafetensorError) as exc:
        raise ConfigError(f"{path} is not a model in safetensors format: {exc}") from exc


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of an intact file: it begins with the length of a header in JSON."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return metadata
