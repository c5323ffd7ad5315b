"""docs/errors.md has every error that a command can end with, and no error that does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from edgenode import errors

PACKAGES = Path("edgenode"), Path("lab/edgenode_lab")
SOURCES = [path for package in PACKAGES for path in sorted(package.rglob("*.py")) if "proto" not in path.parts]
PAGE = " ".join(Path("docs/errors.md").read_text().split())
# A bug, or what a peer sent: the log has it, and no command ends with it. Of keys and certificates, the text is enough.
ELSEWHERE = {"LocalProtocolError", "RemoteProtocolError", "SecurityError"}
TYPES = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
} - ELSEWHERE
# Functions that make or print such an error.
MAKERS = {"_error", "refuse"}
# Callers check this before, or it is part of another message.
UNREACHABLE = {
    "a number to send is ",  # in "training diverged"
    "the loss is ",
    "an epoch has ",
    "members must be sorted and named once each",
    "a record's number and start are not negative",
    "a schedule needs at least one graph",
    "a schedule must use each graph for 1 or more rounds, not ",
    "a schedule needs at least one node",
    "norm ",
    "skew is ",
    "alpha is ",
    ", but must be ",
    " shards were asked for, but at least one is needed",
    " shards were asked for, but there are only ",
    " does not exist: there are ",
    "status ",
    "no TLS: ",
}


def text_of(node: ast.expr) -> list[str]:
    """The fixed pieces of a string, between its placeholders."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant)]
    return text_of(node.left) + text_of(node.right) if isinstance(node, ast.BinOp) else []


def raised() -> Iterator[tuple[str, list[str]]]:
    """Where an error is made, and the fixed pieces of its text."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TYPES | MAKERS:
                pieces = [piece for argument in node.args for piece in text_of(argument)]
                if any(re.search(r"\w{2}", piece) for piece in pieces):
                    yield f"{path}:{node.lineno}", pieces


def longest(pieces: list[str]) -> str:
    return max((piece.strip(" '\":;,.") for piece in pieces), key=len)


def test_every_error_is_on_the_page() -> None:
    lacks = {
        where: longest(pieces)
        for where, pieces in raised()
        if longest(pieces) not in PAGE and UNREACHABLE.isdisjoint(pieces)
    }
    assert not lacks, "add these messages to docs/errors.md, with causes and remedies"


def documented() -> list[str]:
    cells = [line.split(" | ")[0] for line in Path("docs/errors.md").read_text().splitlines() if line.startswith("| `")]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_every_error_on_the_page_exists() -> None:
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.expr))
    strings = "\n".join(piece for node in nodes for piece in text_of(node))
    unknown = [message for message in documented() if longest(message.split("…")) not in strings]
    assert len(documented()) > 100
    assert not unknown, "no error of edgenode has these words"
