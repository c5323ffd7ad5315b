"""The code in docs/extending.md works, and passes the checks that the page describes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenode.config.graphs import GRAPHS
from edgenode.config.sections import ALGORITHMS
from edgenode_lab.testing import check_algorithm, check_graph
from tests.distributions import forget, install, python_blocks

SIGNUM, QGM, HYPERCUBE, _ = python_blocks("extending.md")
POINTS = {
    "edgenode.algorithms": {"qgm": "documented_code:ALGORITHM"},
    "edgenode.graphs": {"hypercube": "documented_code:HYPERCUBE"},
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install(tmp_path, monkeypatch, POINTS, QGM + HYPERCUBE, "documented_code")
    yield
    forget(ALGORITHMS, GRAPHS)


def without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.unparse(tree)


def test_page_shows_the_compressor_of_the_example() -> None:
    example = Path(__file__).parents[2] / "examples" / "signum" / "edgenode_signum.py"
    assert without_docstrings(SIGNUM) == without_docstrings(example.read_text())


def test_algorithm_of_the_page_passes_its_check() -> None:
    check_algorithm("qgm", "chord")


def test_graph_of_the_page_passes_its_check() -> None:
    check_graph("hypercube")
