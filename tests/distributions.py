"""Distributions that exist for one test: modules with entry points, as pip would install them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgenode.entry_points import Group


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    points: Mapping[str, Mapping[str, str]],
    source: str,
    module: str,
    name: str = "acme",
    version: str = "1.0",
) -> None:
    """Put a distribution on the path: one module, and the entry points {group: {name: value}}."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in points.items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    (folder / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)


def forget(*groups: Group[Any]) -> None:
    """Remove from the tables what the packages of a test have added."""
    for group in groups:
        for name in set(group._table) - set(group.own):
            del group._table[name]
