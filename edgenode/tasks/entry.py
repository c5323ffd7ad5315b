"""Finds, checks and identifies the task that ``task.entry`` names."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgenode.errors import ConfigError
from edgenode.tasks.task import Task


def load(entry: str, options: Mapping[str, Any]) -> Task:
    """Return the task of a class, as in "birds.task:Birds", built from its options.

    Raises:
        ConfigError: it cannot be imported or built, or is not a task. The text says why.
    """
    where = f"task.entry = {entry!r}"
    found = _attribute(entry, where)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"{where}: {found!r} is not a class derived from edgenode.Task")
    missing = [name for name in ("model", "train_data") if getattr(found, name) is getattr(Task, name)]
    if missing:
        raise ConfigError(f"{where}: it does not define {' and '.join(missing)}, which every task needs")
    try:
        return found(**options)
    except TypeError as exc:
        accepted = ", ".join(inspect.signature(found).parameters) or "none"
        raise ConfigError(f"{where}: {exc}, from task.options (it takes {accepted})") from exc


def _attribute(entry: str, where: str) -> object:
    module_name, _, name = entry.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as exc:
        hint = ""
        if isinstance(exc, ModuleNotFoundError) and exc.name and module_name.startswith(exc.name):
            hint = ": it must be installed, or lie next to run.toml"
        raise ConfigError(f"{where}: importing {module_name} fails with {type(exc).__name__}: {exc}{hint}") from exc
    if not hasattr(module, name):
        classes = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)]
        known = [n for n in classes if vars(module)[n] is not Task]
        tasks = f"its tasks are {', '.join(known)}" if known else "it has no task"
        raise ConfigError(f"{where}: {module_name} has no {name}; {tasks}")
    return getattr(module, name)


def identity(entry: str) -> dict[str, str]:
    """Identify the code of an entry, which must be equal on all nodes.

    That is the version of its distribution, if it is installed, and a digest of the package's or module's source.

    Args:
        entry: the entry of a task that was loaded.
    """
    module_name = entry.partition(":")[0]
    package = module_name.partition(".")[0]
    found = {"source of the task": _source_digest(package)}
    distributions = _distributions(tuple(sys.path)).get(package, [])
    if distributions:
        found["version of the task"] = f"{distributions[0]} {importlib.metadata.version(distributions[0])}"
    return found


@cache  # for each sys.path: a search opens files of every package, and each node of a simulation asks
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """The distributions of each package."""
    return importlib.metadata.packages_distributions()


def _source_digest(package: str) -> str:
    module = importlib.import_module(package)
    digest = sha256()
    folders = [Path(folder) for folder in getattr(module, "__path__", [])]
    files = sorted((str(path.relative_to(folder)), path) for folder in folders for path in folder.rglob("*.py"))
    if not folders and module.__file__ is not None:
        files = [(Path(module.__file__).name, Path(module.__file__))]
    for name, path in files:
        digest.update(f"{name}\0".encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
