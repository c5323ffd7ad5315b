"""The messages on docs/errors.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sources import in_one_process, sources


def documented() -> list[str]:
    """The messages of all tables but the twenty mistakes, which tests/e2e/test_mistakes.py plays."""
    lines = Path("docs/errors.md").read_text().splitlines()
    cells = [line.split(" | ")[0] for line in lines if line.startswith("| `")]
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


@in_one_process
def test_every_message_on_the_page_is_one_of_the_code() -> None:
    messages, text = documented(), "\n".join(text for source in sources() for text in source.texts)
    pieces = [piece.strip(" '\":;,.()") for message in messages for piece in message.split("…")]
    assert len(messages) > 40
    assert [piece for piece in pieces if " " in piece and piece not in text] == []
