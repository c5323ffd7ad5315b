"""What the package declares: a plain install has everything that edgenode imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distributions(requirements: list[str]) -> set[str]:
    """Normalised names of required distributions."""
    return {normalised(re.split(r"[\s<>=!~;\[]", requirement)[0]) for requirement in requirements}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(source: Path) -> Iterator[str]:
    """Top-level packages that a module imports."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_every_import_is_a_declared_dependency() -> None:
    extras = [r for name, extra in PROJECT["optional-dependencies"].items() if name != "dev" for r in extra]
    declared = distributions([*PROJECT["dependencies"], *extras, *PROJECT["optional-dependencies"]])
    providers = packages_distributions()
    sources = [path for path in (ROOT / "edgenode").rglob("*.py") if path.parent.name != "proto"]
    foreign = {
        (package, path.relative_to(ROOT).as_posix())
        for path in sources
        for package in imported(path)
        if package != "edgenode" and package not in sys.stdlib_module_names
    }
    assert len(sources) > 100
    assert {f for f in foreign if not declared & set(map(normalised, [*providers.get(f[0], []), f[0]]))} == set()
