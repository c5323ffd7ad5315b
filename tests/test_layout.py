"""What CONTRIBUTING.md says of the length of functions and modules, and of the folders of the tests.

Besides, what a state machine of the core shows is read by others, and changed by the core alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_GENERATED = ROOT / "edgenode" / "net" / "proto"
_KINDS = {"chaos", "e2e", "examples", "floods", "fuzz", "simulation"}  # folders of tests of more than one package
_BY_ITS_COMMAND = {"bench"}  # tested in tests/cli


def modules() -> Iterator[tuple[Path, str]]:
    """Every module of edgenode and of the lab, and its text."""
    for package in (ROOT / "edgenode", ROOT / "lab" / "edgenode_lab"):
        for path in sorted(package.rglob("*.py")):
            if _GENERATED not in path.parents:
                yield path.relative_to(ROOT), path.read_text()


def test_module_has_at_most_350_lines() -> None:
    assert [path for path, text in modules() if text.count("\n") > 350] == []


def test_function_has_at_most_60_lines() -> None:
    functions = (
        (path, node.name, (node.end_lineno or 0) - node.lineno + 1)
        for path, text in modules()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [function for function in functions if function[2] > 60] == []


def test_only_the_core_changes_the_state_of_a_node_or_a_cluster() -> None:
    written = [
        (path, ast.unparse(node))
        for path, text in modules()
        if "core" not in path.parts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if re.search(r"\b_?(node|cluster)\.state\b", ast.unparse(node.value))
    ]
    assert written == []


def test_every_package_has_a_folder_of_tests() -> None:
    packages = {path.parent.name for path in (ROOT / "edgenode").glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}
    assert folders - _KINDS == packages - _BY_ITS_COMMAND
