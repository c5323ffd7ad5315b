"""What several tests ask of the source: every module is parsed once for all tests of the group `sources`."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_GENERATED = ROOT / "edgenode" / "net" / "proto"

in_one_process = pytest.mark.group("sources")


@dataclass
class Source:
    """A module.

    Attributes:
        path: below the root of the repository.
        functions: the name of each, and its lines.
        sets_state: what it assigns to the state of a node or a cluster.
        imports: top-level packages.
        texts: its literals.
    """

    path: Path
    lines: int
    functions: list[tuple[str, int]] = field(default_factory=list)
    sets_state: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)

    def add(self, node: ast.AST) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.functions.append((node.name, (node.end_lineno or 0) - node.lineno + 1))
            case ast.Attribute(ctx=ast.Store()) if re.search(r"\b_?(node|cluster)\.state\b", ast.unparse(node.value)):
                self.sets_state.append(ast.unparse(node))
            case ast.Import():
                self.imports.update(alias.name.split(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                self.imports.add(module.split(".")[0])
            case ast.Constant(value=str(text)):
                self.texts.append(text)


@cache
def sources() -> list[Source]:
    """Every module of edgenode and of the lab, without generated code."""
    return [
        _read(path)
        for package in (ROOT / "edgenode", ROOT / "lab" / "edgenode_lab")
        for path in sorted(package.rglob("*.py"))
        if _GENERATED not in path.parents
    ]


def _read(path: Path) -> Source:
    text = path.read_text()
    source = Source(path.relative_to(ROOT), text.count("\n"))
    for node in ast.walk(ast.parse(text)):
        source.add(node)
    return source
