"""What a node keeps on disk: checkpoints of whole rounds. Safetensors and JSON, never pickle; whole or not at all.

A checkpoint is a folder, written beside its place, flushed and renamed into it. The state of round t is the one
between two rounds, so the checkpoints of one round on all nodes are a consistent cut of the cluster.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from edgenode.core.plan import Plan, Record
from edgenode.core.sparse_push import State
from edgenode.errors import CheckpointError, EdgenodeError

_FORMAT = 1
_KEPT = 2
_LOCAL = "local."
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """Everything a node needs to go on as if it had never stopped.

    Attributes:
        local: the trainer's own state: momentum, BatchNorm buffers.
        counts: messages and bytes sent so far, by name.
    """

    round: int
    state: State
    plan: Plan
    local: Arrays
    counts: Mapping[str, int]


class Store:
    """The checkpoints of one node in one folder."""

    def __init__(self, state_dir: Path, run_digest: str) -> None:
        self.folder = state_dir / "checkpoints"
        self._run_digest = run_digest

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint atomically and drop all but the newest two.

        Raises:
            CheckpointError: the disk refuses it.
        """
        final = self.folder / f"round-{checkpoint.round:09d}"
        scratch = self.folder / f".{final.name}.partial"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            arrays = {"x": checkpoint.state.x, "error": checkpoint.state.error}
            arrays |= {_LOCAL + key: np.ascontiguousarray(value) for key, value in checkpoint.local.items()}
            save_file(arrays, scratch / "state.safetensors")
            (scratch / "meta.json").write_text(json.dumps(self._meta(checkpoint, scratch), indent=1))
            for path in (*scratch.iterdir(), scratch):
                _flush(path)
            shutil.rmtree(final, ignore_errors=True)
            scratch.rename(final)
            _flush(self.folder)
        except OSError as exc:
            raise CheckpointError(f"cannot write the checkpoint of round {checkpoint.round}: {exc}") from exc
        for old in sorted(self.rounds())[:-_KEPT]:
            shutil.rmtree(self.folder / f"round-{old:09d}", ignore_errors=True)

    def rounds(self) -> frozenset[int]:
        """The rounds a checkpoint was written for."""
        return frozenset(int(path.name.removeprefix("round-")) for path in self.folder.glob("round-*"))

    def load(self, round: int) -> Checkpoint:
        """The checkpoint of a round.

        Raises:
            CheckpointError: it is absent, damaged, or of another run; the file is named.
        """
        folder = self.folder / f"round-{round:09d}"
        try:
            meta = json.loads((folder / "meta.json").read_text())
            if meta["format"] != _FORMAT:
                raise CheckpointError(f"{folder}: format {meta['format']}, expected {_FORMAT}")
            if meta["run_digest"] != self._run_digest:
                raise CheckpointError(
                    f"{folder} is of another run: run digest {meta['run_digest']}, ours is {self._run_digest}"
                )
            if meta["sha256"] != _sha256(folder / "state.safetensors"):
                raise CheckpointError(f"{folder / 'state.safetensors'} is damaged: its checksum does not match")
            arrays = load_file(folder / "state.safetensors")
            plan = Plan(tuple(Record.from_json(text) for text in meta["records"]))
            state = State(arrays.pop("x"), arrays.pop("error"), float.fromhex(meta["u"]))
            local = {key.removeprefix(_LOCAL): value for key, value in arrays.items()}
            counts = {str(name): int(count) for name, count in meta["counts"].items()}
            return Checkpoint(int(meta["round"]), state, plan, local, counts)
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, EdgenodeError) as exc:
            raise CheckpointError(f"{folder} cannot be read: {exc}") from exc

    def offer(self) -> tuple[frozenset[int], Plan | None]:
        """What to offer for resuming: the intact rounds, and the plan of the newest of them.

        Raises:
            CheckpointError: there is none.
        """
        intact = {}
        damage = [f"no checkpoint in {self.folder}"]
        for round in sorted(self.rounds()):
            try:
                intact[round] = self.load(round).plan
            except CheckpointError as exc:
                damage.append(str(exc))
        if not intact:
            raise CheckpointError("cannot resume: " + "; ".join(damage[1:] or damage))
        return frozenset(intact), intact[max(intact)]

    def _meta(self, checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "run_digest": self._run_digest,
            "round": checkpoint.round,
            "u": checkpoint.state.u.hex(),
            "counts": dict(checkpoint.counts),
            "records": [record.to_json() for record in checkpoint.plan.records],
            "sha256": _sha256(folder / "state.safetensors"),
        }


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    _flush(scratch)
    scratch.rename(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
