"""Finds what installed packages add to edgenode. A package declares it as an entry point of one of edgenode's groups.

The objects of edgenode itself are in the same tables, so a name in run.toml means the same either way. A name with a
colon, as in "mine:TRACKING", is an object of a module that can be imported, and needs no package.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgenode.errors import ConfigError, one_of

T = TypeVar("T")

_LABORATORY: Mapping[str, frozenset[str]] = {
    "edgenode.algorithms": frozenset(
        {"attacked", "choco-jwins", "dsgt", "gut", "mt", "noloco", "qg-dsgdm", "qg-dsgdm-n", "skew-scout"}
        | {"sparse-loco", "sparta"}
    ),
    "edgenode.commands": frozenset({"experiment"}),
    "edgenode.compressors": frozenset({"shuffled"}),
    "edgenode.datasets": frozenset({"cifar10", "cifar100", "fashion-mnist"}),
    "edgenode.models": frozenset({"lenet5", "resnet110", "vgg11"}),
}
"""The names that edgenode-lab adds to each group, so that an error can name it while it is not installed."""


_IN_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_in_module(name: str) -> bool:
    """Return whether a name is that of an object in a module, as in "mine:TRACKING"."""
    return _IN_MODULE.fullmatch(name) is not None


def entry_points(group: str) -> EntryPoints:
    """The entry points of a group, of all installed packages."""
    return _search(group, tuple(sys.path))


@cache  # for each sys.path: a search opens files of every package, and each node of a simulation asks
def _search(group: str, path: tuple[str, ...]) -> EntryPoints:
    return metadata.entry_points(group=group)


class Group(Generic[T]):
    """The objects of one entry-point group, by name: edgenode's own, and those of installed packages.

    Packages are searched only for a name that edgenode does not have. So they cannot replace its objects.

    Args:
        name: the name of the group.
        kind: the type of every object.
        table: edgenode's own objects. The objects of packages are added when they are first used.

    Attributes:
        own: the names of edgenode's own objects.
    """

    def __init__(self, name: str, kind: type[T] | Any, table: dict[str, T]) -> None:
        self.name, self._kind, self._table = name, kind, table
        self.own = tuple(table)

    def __getitem__(self, name: str) -> T:
        """The object of that name.

        Raises:
            ConfigError: there is none, or its package cannot be used. The text continues "it is x, but".
        """
        if name not in self._table:
            self._table[name] = self._load(name)
        return self._table[name]

    def __contains__(self, name: str) -> bool:
        return name in self._table or is_in_module(name) or name in self.names()

    def names(self) -> tuple[str, ...]:
        """Every installed name, edgenode's own first."""
        return (*self.own, *sorted({point.name for point in entry_points(self.name)} - set(self.own)))

    def add_all(self) -> dict[str, str]:
        """Load every installed name. Return the reasons for those that cannot be used, by name."""
        reasons = {}
        for name in self.names():
            try:
                self[name]
            except ConfigError as exc:
                reasons[name] = str(exc)
        return reasons

    def provider(self, name: str) -> str:
        """The package and version that provide a name. It is not imported."""
        return " and ".join(sorted(_provider(point) for point in entry_points(self.name).select(name=name)))

    def providers(self, names: Iterable[str]) -> dict[str, str]:
        """The package and version of each of these names that a package provides. A key names the group, too."""
        foreign = [name for name in names if name not in self.own]
        if not foreign:
            return {}
        others = {point.name: _provider(point) for point in entry_points(self.name)}
        others |= {name: _source_of(name) for name in foreign if is_in_module(name)}
        return {f"package of {self.name}:{name}": others[name] for name in foreign if name in others}

    def in_laboratory(self, name: str) -> str:
        """Say what to install for a name that edgenode-lab adds. Empty if it is installed, or does not add the name."""
        if name not in _LABORATORY.get(self.name, ()) or name in self:
            return ""
        return "it is part of edgenode-lab, which is not installed: pip install edgenode-lab"

    def _load(self, name: str) -> T:
        if is_in_module(name):
            module, _, variable = name.partition(":")
            return self._imported(name, module, lambda: getattr(importlib.import_module(module), variable))
        found = {_provider(point): point for point in entry_points(self.name).select(name=name)}
        if not found:
            raise ConfigError(self._unknown(name))
        if len(found) > 1:
            raise ConfigError(f"{' and '.join(sorted(found))} both provide it: uninstall one of them")
        ((provider, point),) = found.items()
        return self._imported(point.value, provider, point.load)

    def _imported(self, what: str, provider: str, load: Callable[[], Any]) -> T:
        try:
            loaded = load()
        except Exception as exc:
            reason = " ".join(str(exc).split())
            raise ConfigError(f"{provider} cannot be imported: {type(exc).__name__}: {reason}") from exc
        if not isinstance(loaded, self._kind):
            raise ConfigError(f"{provider} provides {what}, which is not of type {self._kind.__name__}")
        return loaded

    def _unknown(self, name: str) -> str:
        if missing := self.in_laboratory(name):
            return missing
        names = self.names()
        (nearest,) = get_close_matches(name.lower(), names, n=1, cutoff=0.0)
        return f"it must be {one_of(names)}; did you mean {json.dumps(nearest)}?"


def _source_of(name: str) -> str:
    """The module of a name in a module, and a digest of its source."""
    module = importlib.import_module(name.partition(":")[0])
    source = Path(module.__file__).read_bytes() if module.__file__ else b""
    return f"{module.__name__} {sha256(source).hexdigest()[:16]}"


def _provider(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module
