"""What CONTRIBUTING.md says of the length of functions and modules, and of the folders of the tests.

Besides, what a state machine of the core shows is read by others, and changed by the core alone.
"""

from __future__ import annotations

from tests.sources import ROOT, in_one_process, sources

pytestmark = in_one_process
_KINDS = {"chaos", "e2e", "examples", "floods", "fuzz", "simulation"}  # folders of tests of more than one package
_BY_ITS_COMMAND = {"bench"}  # tested in tests/cli


def test_module_has_at_most_350_lines() -> None:
    assert [source.path for source in sources() if source.lines > 350] == []


def test_function_has_at_most_60_lines() -> None:
    functions = [(source.path, name, lines) for source in sources() for name, lines in source.functions]
    assert [function for function in functions if function[2] > 60] == []


def test_only_the_core_changes_the_state_of_a_node_or_a_cluster() -> None:
    written = [(source.path, source.sets_state) for source in sources() if "core" not in source.path.parts]
    assert [module for module in written if module[1]] == []


def test_every_package_has_a_folder_of_tests() -> None:
    packages = {path.parent.name for path in (ROOT / "edgenode").glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    assert folders - _KINDS == packages - _BY_ITS_COMMAND
