"""What a node keeps on disk: checkpoints of whole rounds. Safetensors and JSON, never pickle; whole or not at all.

A checkpoint is a folder, written beside its place, flushed and renamed into it; ``sha256sum -c SHA256SUMS`` in the
folder tells whether it is intact, and so does ``load``. The state of round t is the one
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

from edgenode.core.messages import Persist
from edgenode.core.plan import Plan, Record
from edgenode.core.sparse_push import State
from edgenode.errors import CheckpointError, EdgenodeError, RemoteProtocolError

_FORMAT = 1
_KEPT = 2
_LOCAL = "local."
_STATE, _META, _SUMS = "state.safetensors", "meta.json", "SHA256SUMS"
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
            for left in self.folder.glob(".*.partial"):  # of a process that died while it wrote
                shutil.rmtree(left, ignore_errors=True)
            scratch.mkdir(parents=True)
            arrays = {"x": checkpoint.state.x, "error": checkpoint.state.error}
            arrays |= {_LOCAL + key: np.asarray(value, order="C") for key, value in checkpoint.local.items()}
            save_file(arrays, scratch / _STATE)
            (scratch / _META).write_text(json.dumps(self._meta(checkpoint), indent=1))
            (scratch / _SUMS).write_text(_sums(scratch))
            for path in (*scratch.iterdir(), scratch):
                _flush(path)
            shutil.rmtree(final, ignore_errors=True)
            scratch.rename(final)
            _flush(self.folder)
        except (OSError, SafetensorError) as exc:
            raise CheckpointError(f"cannot write the checkpoint of round {checkpoint.round}: {exc}") from exc
        for old in sorted(self.rounds())[:-_KEPT]:
            shutil.rmtree(self.folder / f"round-{old:09d}", ignore_errors=True)

    def rounds(self) -> frozenset[int]:
        """The rounds a checkpoint was written for."""
        return frozenset(int(path.name.removeprefix("round-")) for path in self.folder.glob(f"round-{'[0-9]' * 9}"))

    def load(self, round: int) -> Checkpoint:
        """The checkpoint of a round.

        Raises:
            CheckpointError: it is absent, damaged, or of another run; the file is named.
        """
        folder = self.folder / f"round-{round:09d}"
        try:
            sums = _sums(folder)
            if (folder / _SUMS).read_bytes() != sums.encode():
                raise CheckpointError(f"{folder} is damaged: {_SUMS} does not match")
            meta = json.loads((folder / _META).read_text())
            if meta["format"] != _FORMAT:
                raise CheckpointError(f"{folder}: format {meta['format']}, expected {_FORMAT}")
            if meta["run_digest"] != self._run_digest:
                raise CheckpointError(
                    f"{folder} is of another run: run digest {meta['run_digest']}, ours is {self._run_digest}"
                )
            if meta["round"] != round:
                raise CheckpointError(f"{folder} holds round {meta['round']}")
            arrays = load_file(folder / _STATE)
            plan = Plan(tuple(Record.from_json(text) for text in meta["records"]))
            state = State(arrays.pop("x"), arrays.pop("error"), float.fromhex(meta["u"]))
            local = {key.removeprefix(_LOCAL): value for key, value in arrays.items()}
            counts = {str(name): int(count) for name, count in meta["counts"].items()}
            return Checkpoint(round, state, plan, local, counts)
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

    def _meta(self, checkpoint: Checkpoint) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "run_digest": self._run_digest,
            "round": checkpoint.round,
            "u": checkpoint.state.u.hex(),
            "counts": dict(checkpoint.counts),
            "records": [record.to_json() for record in checkpoint.plan.records],
        }


class Ledger:
    """What a controller writes down before it acts: its term, its ballot and the plan. Gone when the run is over."""

    def __init__(self, state_dir: Path, run_digest: str) -> None:
        self._path = state_dir / "controller.json"
        self._run_digest = run_digest

    def save(self, persist: Persist) -> None:
        """Replace what was written down, on disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        records = [record.to_json() for record in persist.plan.records]
        content = {"run_digest": self._run_digest, "term": persist.term, "ballot": persist.ballot, "records": records}
        write_atomically(self._path, json.dumps(content, indent=1))

    def load(self) -> Persist | None:
        """What the last controller of this run wrote down; None if there was none, or its run is over.

        Raises:
            CheckpointError: the file is damaged, or of another run.
        """
        if not self._path.exists():
            return None
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["run_digest"] != self._run_digest:
                raise CheckpointError(
                    f"{self._path} is of an unfinished run with another configuration: "
                    "remove it, or give another --state-dir"
                )
            plan = Plan(tuple(Record.from_json(text) for text in content["records"]))
            if not plan.records:
                raise ValueError("no records")
            return Persist(int(content["term"]), int(content["ballot"]), plan)
        except (OSError, ValueError, KeyError, TypeError, RemoteProtocolError) as exc:
            raise CheckpointError(f"{self._path} cannot be read: {exc}") from exc

    def close(self) -> None:
        """The run is over."""
        self._path.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    _flush(scratch)
    scratch.rename(path)


def _sums(folder: Path) -> str:
    return "".join(f"{_sha256(folder / name)}  {name}\n" for name in (_META, _STATE))


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
