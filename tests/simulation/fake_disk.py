"""A disk in memory that does to unflushed data what a power cut may do, drawn from a seed.

1. A file that was not flushed holds its old content, its new content, a part of it, zeros or garbage.
2. A change of names that was not flushed with its folder has happened or not, independently of other changes.
3. POSIX guarantees hold, and no others. Flushing a file does not make its name durable. Flushing a folder makes neither
   the files in it durable nor its own name. A rename happens as a whole or not at all.
4. What was flushed is never damaged.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = 512


class PowerCut(Exception):
    """The machine is off. Its disk fails every operation until ``crash``."""


@dataclass(slots=True)
class _File:
    content: bytes = b""
    durable: bytes = b""


@dataclass(slots=True)
class _Folder:
    """Names as they are visible, as they were last flushed, and the changes since. A change to None is a removal."""

    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)
    changes: list[Mapping[str, _File | _Folder | None]] = field(default_factory=list)

    def change(self, change: Mapping[str, _File | _Folder | None]) -> None:
        self.changes.append(change)
        _apply(self.entries, change)


class SimulatedDisk:
    """The ``Disk`` of a machine whose power may be cut.

    Attributes:
        capacity: bytes of content that fit; None for no limit. Writing more fails with ENOSPC and keeps what fits.
        operations: the number of changes and flushes so far.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.operations = 0
        self._root = _Folder()
        self._last: int | None = None
        self._off = False

    # --- faults -------------------------------------------------------------------------------------

    def fail_after(self, operations: int | None) -> None:
        """Let so many more operations succeed; None for all. The next one raises PowerCut, as do all after it.

        None after a failure makes the disk work again with nothing lost: only the process had died.
        """
        self._last = None if operations is None else self.operations + operations
        self._off = False

    def crash(self, rng: random.Random) -> None:
        """The power fails and returns: draw what survived."""
        _settle(self._root, rng, rng.random())
        self.fail_after(None)

    # --- the disk -----------------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        self._step()
        folder = self._root
        for name in _parts(path):
            if name not in folder.entries:
                folder.change({name: _Folder()})
            folder = _as_folder(folder.entries[name], path)

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        content = b"".join(parts)
        self._step()
        folder, name = self._place(path)
        file = folder.entries.get(name)
        if isinstance(file, _Folder):
            raise _error(errno.EISDIR, path)
        if file is None:
            file = _File()
            folder.change({name: file})
        file.content = b""
        room = len(content) if self.capacity is None else self.capacity - _size(self._root)
        file.content = content[: max(0, room)]
        if room < len(content):
            raise _error(errno.ENOSPC, path)

    def flush(self, path: Path) -> None:
        self._step()
        match self._find(path):
            case _File() as file:
                file.durable = file.content
            case _Folder() as folder:
                folder.durable = dict(folder.entries)
                folder.changes.clear()

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        if old.parent != new.parent:
            raise _error(errno.EXDEV, new)
        folder, name = self._place(new)
        node, there = self._find(old), folder.entries.get(name)
        match node, there:
            case _File(), _Folder():
                raise _error(errno.EISDIR, new)
            case _Folder(), _File():
                raise _error(errno.ENOTDIR, new)
            case _, _Folder(entries) if entries:
                raise _error(errno.ENOTEMPTY, new)
        folder.change({old.name: None, name: node})

    def remove(self, path: Path) -> None:
        self._step()
        folder, name = self._place(path)
        if name in folder.entries:
            _empty(_as_folder(folder.entries[name], path))
            folder.change({name: None})

    def names(self, folder: Path) -> list[str]:
        self._require_power()
        try:
            return list(self._folder(folder).entries)
        except FileNotFoundError:
            return []

    def read(self, path: Path) -> bytes:
        self._require_power()
        file = self._find(path)
        if isinstance(file, _Folder):
            raise _error(errno.EISDIR, path)
        return file.content

    def _step(self) -> None:
        self._off = self._off or self.operations == self._last
        self._require_power()
        self.operations += 1

    def _require_power(self) -> None:
        if self._off:
            raise PowerCut(f"after {self.operations} operations")

    def _folder(self, path: Path) -> _Folder:
        return _as_folder(self._find(path), path)

    def _place(self, path: Path) -> tuple[_Folder, str]:
        """The folder of a path, and the last name."""
        *parents, name = _parts(path)
        return _as_folder(self._walk(parents, path), path), name

    def _find(self, path: Path) -> _File | _Folder:
        return self._walk(_parts(path), path)

    def _walk(self, names: Iterable[str], path: Path) -> _File | _Folder:
        node: _File | _Folder = self._root
        for name in names:
            entries = _as_folder(node, path).entries
            if name not in entries:
                raise _error(errno.ENOENT, path)
            node = entries[name]
        return node


def _apply(entries: dict[str, _File | _Folder], change: Mapping[str, _File | _Folder | None]) -> None:
    """A file has one name. A new name removes the old one, even if the change that set the old one did not survive."""
    for name, node in change.items():
        for other in [n for n, there in entries.items() if n == name or there is node]:
            del entries[other]
        if node is not None:
            entries[name] = node


def _settle(folder: _Folder, rng: random.Random, probability: float) -> None:
    for change in folder.changes:
        if rng.random() < probability:
            _apply(folder.durable, change)
    folder.changes.clear()
    folder.entries = dict(folder.durable)
    for node in folder.entries.values():
        if isinstance(node, _Folder):
            _settle(node, rng, probability)
        elif node.content != node.durable:
            node.content = node.durable = _torn(rng, node.durable, node.content)


def _torn(rng: random.Random, old: bytes, new: bytes) -> bytes:
    at = rng.randrange(len(new) + 1)
    rest = min(rng.randint(1, _BLOCK), len(new) - at)
    outcomes = (
        old,
        new,
        new[:at],
        new[:at] + bytes(len(new) - at),
        new[:at] + bytes(rest) + new[at + rest :],
        new[:at] + rng.randbytes(rest) + new[at + rest :],
    )
    return rng.choice(outcomes)


def _empty(folder: _Folder) -> None:
    for name, node in list(folder.entries.items()):
        if isinstance(node, _Folder):
            _empty(node)
        folder.change({name: None})


def _size(node: _File | _Folder) -> int:
    return len(node.content) if isinstance(node, _File) else sum(map(_size, node.entries.values()))


def _as_folder(node: _File | _Folder, path: Path) -> _Folder:
    if isinstance(node, _File):
        raise _error(errno.ENOTDIR, path)
    return node


def _parts(path: Path) -> list[str]:
    return [name for name in str(path).split("/") if name]  # several times as fast as path.parts


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))
