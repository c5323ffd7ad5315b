"""The messages on docs/errors.md are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGES = Path("edgenode"), Path("lab/edgenode_lab")


def literals() -> str:
    """All text of the code, without the placeholders."""
    trees = (ast.parse(path.read_text()) for package in PACKAGES for path in sorted(package.rglob("*.py")))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


def documented() -> list[str]:
    """The messages of all tables but the twenty mistakes, which tests/e2e/test_mistakes.py plays."""
    lines = Path("docs/errors.md").read_text().splitlines()
    cells = [line.split(" | ")[0] for line in lines if line.startswith("| `")]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def test_every_message_on_the_page_is_one_of_the_code() -> None:
    messages, text = documented(), literals()
    pieces = [piece.strip(" '\":;,.()") for message in messages for piece in message.split("…")]
    assert len(messages) > 40
    assert [piece for piece in pieces if " " in piece and piece not in text] == []
