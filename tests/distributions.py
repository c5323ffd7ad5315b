"""Distributions that exist for one test: modules with entry points, as pip would install them."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgenode.entry_points import Group

DOCS = Path(__file__).parents[1] / "docs"


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    points: Mapping[str, Mapping[str, str]],
    source: str,
    module: str,
    name: str = "acme",
    version: str = "1.0",
) -> None:
    """Put a distribution on the path: one module, and the entry points {group: {name: value}}.

    Child processes have it too.
    """
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
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, module, raising=False)


def install_project(project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a project of one module on the path, as its pyproject.toml describes it."""
    declared = tomllib.loads((project / "pyproject.toml").read_text())
    about, (module,) = declared["project"], declared["tool"]["setuptools"]["py-modules"]
    source = (project / f"{module}.py").read_text()
    install(folder, monkeypatch, about["entry-points"], source, module, about["name"], about["version"])


def python_blocks(page: str) -> list[str]:
    """The Python code of a page of the documentation."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def forget(*groups: Group[Any]) -> None:
    """Remove from the tables what the packages of a test have added."""
    for group in groups:
        for name in set(group._table) - set(group.own):
            del group._table[name]
