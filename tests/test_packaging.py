"""What the package declares: a plain install has everything that edgenode imports."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.sources import ROOT, in_one_process, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distributions(requirements: list[str]) -> set[str]:
    """Normalised names of required distributions."""
    return {normalised(re.split(r"[\s<>=!~;\[]", requirement)[0]) for requirement in requirements}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@in_one_process
def test_every_import_is_a_declared_dependency() -> None:
    extras = [r for name, extra in PROJECT["optional-dependencies"].items() if name != "dev" for r in extra]
    declared = distributions([*PROJECT["dependencies"], *extras, *PROJECT["optional-dependencies"]])
    providers = packages_distributions()
    modules = [source for source in sources() if source.path.parts[0] == "edgenode"]
    foreign = {
        (package, source.path.as_posix())
        for source in modules
        for package in source.imports
        if package != "edgenode" and package not in sys.stdlib_module_names
    }
    assert len(modules) > 100
    assert {f for f in foreign if not declared & set(map(normalised, [*providers.get(f[0], []), f[0]]))} == set()
