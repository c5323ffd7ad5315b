"""The checkpoints of a node: a folder per round, in safetensors and JSON, never pickle.

The state of round t is the one between two rounds, so the checkpoints of one round on all nodes are a consistent cut of
the cluster.

The process may die, or the power may fail, at any moment. The invariant is: a checkpoint whose save has returned can be
loaded until two newer rounds are saved. The steps of a save, with what can be loaded after a power cut:

1. Remove what dead processes left unfinished. Write the files into a hidden folder, which loads ignore.
2. Flush the files and their folder, then the checkpoint folder and its parents, whose names may be new.
3. If the round was saved before, rename that checkpoint to a hidden name. Loads read it there until step 4 is done.
4. Rename the new folder into place. Until the next step, a load finds the old checkpoint or the new one, each whole.
5. Flush the checkpoint folder. The new checkpoint survives from here on.
6. Remove what is not kept any more. Only now, because before step 5 the new one could be lost.

A save may run in a thread of its own, during the local step of the next round. It copies nothing: step 1 writes
the files part after part from the arrays of the node, and hashes them on the way. The arrays must stay as they are
until it sets ``Checkpoint.read``. The slow part, to flush the files, comes after that.

The node waits for the end of a save before it pushes, answers or reports anything more (`node/node_runner`). So all
that others can know of the rounds after a checkpoint comes after step 5, as if the node had stood still, and a power
cut loses no more than that.

A run resumes from one of the newest two. Older ones are kept for an operator who goes back to before something went
wrong, ever fewer of them: of the rounds that ``every`` times 1, 2, 4, 8 and so on divide, the newest two each. So all
nodes keep the same rounds. While something is wrong, only rounds from before count, and new checkpoints replace none.

Damage of other kinds is detected: SHA256SUMS covers all content. ``load`` verifies it, and so does
``sha256sum -c SHA256SUMS`` in the folder of a checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as tensors

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.canonical import differences
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.errors import CheckpointError, EdgenodeError, OtherRun
from edgenode.storage import tensor_file
from edgenode.storage.filesystem import REAL_DISK, Disk, make_durable
from edgenode.storage.state_folder import CHECKPOINTS

_FORMAT = 2
_KEPT = 2
_LOCAL = "local."
_STATE, _META, _SUMS = "state.safetensors", "meta.json", "SHA256SUMS"
_PARTIAL, _REPLACED = "partial", "replaced"
_CHECKPOINT = re.compile(rf"round-([0-9]{{9}})|\.round-([0-9]{{9}})\.{_REPLACED}")
Arrays = Mapping[str, NDArray[Any]]
Parts = Iterable[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state that a node needs to resume with bit-identical results.

    Attributes:
        local: the trainer's state: momentum, BatchNorm buffers.
        counts: messages and bytes sent so far, by name.
        read: set by ``save`` once it has read the arrays, or has failed.
    """

    round: int
    state: State
    plan: Plan
    local: Arrays
    counts: Mapping[str, int]
    read: Event = field(default_factory=Event, compare=False)


class CheckpointStore:
    """The checkpoints of one node in one folder. Every method raises CheckpointError if the disk fails.

    Args:
        config: the text that ``run_digest`` is the digest of, so that an error can name the keys that differ.
        every: rounds between two checkpoints. 0 keeps the newest two and no older ones.
    """

    def __init__(
        self, state_dir: Path, run_digest: str, disk: Disk = REAL_DISK, config: str = "", every: int = 0
    ) -> None:
        self.folder = state_dir / CHECKPOINTS
        self._run_digest, self._config, self._disk, self._every = run_digest, config, disk, every

    def save(self, checkpoint: Checkpoint, good_until: int | None = None) -> None:
        """Write a checkpoint, then remove those that are not kept. It is on the medium when this returns.

        Args:
            good_until: the newest round before something went wrong. None if all is well.
        """
        scratch = self._hidden(checkpoint.round, _PARTIAL)
        try:
            self._write(checkpoint, scratch)
        except (OSError, CheckpointError) as exc:
            with suppress(OSError):  # make room on a full disk
                self._disk.remove(scratch)
            raise CheckpointError(f"cannot write the checkpoint of round {checkpoint.round}: {exc}") from exc
        finally:
            checkpoint.read.set()
        with suppress(OSError, CheckpointError):
            self._remove_older(checkpoint.round, good_until)

    def _write(self, checkpoint: Checkpoint, scratch: Path) -> None:
        disk, place = self._disk, self._place(checkpoint.round)
        for name in disk.names(self.folder):
            if name.startswith(".") and name.endswith(f".{_PARTIAL}"):  # from a process that died during a save
                disk.remove(self.folder / name)
        disk.make_folder(scratch)
        sums: dict[str, str] = {}
        for name, content in self._files(checkpoint, sums):
            disk.write(scratch / name, content)
        for name in (_STATE, _META, _SUMS):
            # precaution: a checkpoint's files are flushed before it is renamed into place
            disk.flush(scratch / name)
        disk.flush(scratch)
        make_durable(disk, self.folder)
        if place.name in disk.names(self.folder):
            replaced = self._hidden(checkpoint.round, _REPLACED)
            disk.remove(replaced)
            disk.rename(place, replaced)
        disk.rename(scratch, place)
        # precaution: the folder of a renamed checkpoint is flushed
        disk.flush(self.folder)

    def _remove_older(self, saved: int, good_until: int | None) -> None:
        self._disk.remove(self._hidden(saved, _REPLACED))
        good = [t for t in self.rounds() if good_until is None or t <= good_until]
        for old in self.rounds() - self._newest() - thinned(good, self._every):
            self._disk.remove(self._hidden(old, _REPLACED))
            self._disk.remove(self._place(old))

    def _newest(self) -> set[int]:
        """The rounds from which a run resumes without an operator's choice."""
        return set(sorted(self.rounds())[-_KEPT:])

    def rounds(self) -> frozenset[int]:
        """The rounds with a checkpoint, intact or not."""
        try:
            found = map(_CHECKPOINT.fullmatch, self._disk.names(self.folder))
        except OSError as exc:
            raise CheckpointError(f"{self.folder} cannot be read: {exc}") from exc
        return frozenset(int(match[1] or match[2]) for match in found if match)

    def load(self, t: int) -> Checkpoint:
        """Load the checkpoint of a round.

        Raises:
            OtherRun: it belongs to another run.
            CheckpointError: it is absent or damaged. The text names the file.
        """
        folder = self._place(t)
        try:
            names = self._disk.names(self.folder)
            replaced = self._hidden(t, _REPLACED)
            if folder.name not in names and replaced.name in names:
                folder = replaced
            return self._read(folder, t)
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, EdgenodeError) as exc:
            raise CheckpointError(f"{folder} cannot be read: {exc}") from exc

    def _read(self, folder: Path, t: int) -> Checkpoint:
        content = {name: self._disk.read(folder / name) for name in (_META, _STATE)}
        if self._disk.read(folder / _SUMS) != _sums({name: sha256(data).hexdigest() for name, data in content.items()}):
            raise CheckpointError(f"{folder} is damaged: {_SUMS} does not match")
        meta = json.loads(content[_META])
        if meta["format"] != _FORMAT:
            raise CheckpointError(f"{folder}: format {meta['format']}, expected {_FORMAT}")
        if (theirs := meta["run_digest"]) != self._run_digest:
            keys = differences(self._config, meta.get("config", ""), theirs)
            digests = f"run digest {theirs}, ours is {self._run_digest}"
            raise OtherRun(f"{folder} is of another run: {f'in this one {keys}' if keys else digests}")
        if meta["round"] != t:
            raise CheckpointError(f"{folder} holds round {meta['round']}")
        arrays = tensors.load(content[_STATE])
        plan = Plan(tuple(Record.from_json(text) for text in meta["records"]))
        local = {key.removeprefix(_LOCAL): arrays.pop(key) for key in list(arrays) if key.startswith(_LOCAL)}
        state = State.of(arrays, arrays.pop("u"))
        counts = {str(name): int(count) for name, count in meta["counts"].items()}
        return Checkpoint(t, state, plan, local, counts)

    def rewind(self, t: int) -> None:
        """Remove the checkpoints after a round: all nodes resume from that round."""
        try:
            for newer in sorted(r for r in self.rounds() if r > t):
                self._disk.remove(self._hidden(newer, _REPLACED))
                self._disk.remove(self._place(newer))
            self._disk.flush(self.folder)
        except FileNotFoundError:
            pass  # the folder does not exist: nothing was saved
        except OSError as exc:
            raise CheckpointError(f"cannot remove the checkpoints after round {t}: {exc}") from exc

    def scan(self) -> tuple[frozenset[int], Plan | None, tuple[str, ...]]:
        """Verify the newest two. Return the intact rounds, the plan of the newest, and a text for each damaged one.

        Raises:
            OtherRun: a checkpoint belongs to another run.
        """
        plans, damage = {}, []
        for t in sorted(self._newest()):
            try:
                plans[t] = self.load(t).plan
            except OtherRun:
                raise
            except CheckpointError as exc:
                damage.append(str(exc))
        return frozenset(plans), plans[max(plans)] if plans else None, tuple(damage)

    def _place(self, t: int) -> Path:
        return self.folder / f"round-{t:09d}"

    def _hidden(self, t: int, purpose: str) -> Path:
        return self.folder / f".round-{t:09d}.{purpose}"

    def _files(self, checkpoint: Checkpoint, sums: dict[str, str]) -> Iterator[tuple[str, Parts]]:
        """Name and parts of each file. ``sums`` takes the SHA-256 of each one that has been read to its end."""
        arrays: dict[str, NDArray[Any]] = {**checkpoint.state.vectors, "u": checkpoint.state.u}
        arrays |= {_LOCAL + key: np.asarray(value) for key, value in checkpoint.local.items()}
        meta = {
            "format": _FORMAT,
            "run_digest": self._run_digest,
            "config": self._config,
            "round": checkpoint.round,
            "counts": dict(checkpoint.counts),
            "records": [record.to_json() for record in checkpoint.plan.records],
        }
        yield _STATE, _hashed(_then_set(checkpoint.read, tensor_file.parts(arrays)), _STATE, sums)
        yield _META, _hashed([json.dumps(meta, indent=1).encode()], _META, sums)
        yield _SUMS, [_sums(sums)]


def _then_set(read: Event, parts: Parts) -> Parts:
    yield from parts
    read.set()


def _hashed(parts: Parts, name: str, sums: dict[str, str]) -> Parts:
    found = sha256()
    for part in parts:
        found.update(part)
        yield part
    sums[name] = found.hexdigest()


def thinned(rounds: Iterable[int], every: int) -> set[int]:
    """The rounds to keep for long. What is not among them at one round is not among them later."""
    level, kept = [t for t in sorted(rounds) if every and t % every == 0], set[int]()
    while level:
        kept |= set(level[-2:])
        every *= 2
        level = [t for t in level if t % every == 0] if len(level) > 2 else []
    return kept


def _sums(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sums[name]}  {name}\n" for name in (_META, _STATE)).encode()
