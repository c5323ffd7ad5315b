"""The commands of the pages, in the order of the page, as a person reads them: what to type, and where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

INVITE = "inv-…"


@dataclass(frozen=True)
class Command:
    """One line of a code block.

    Attributes:
        where: the comment after it.
    """

    text: str
    where: str

    def with_invite(self, invite: str) -> str:
        """The command as it is typed."""
        return self.text.replace(INVITE, invite)


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next heading.

    Raises:
        ValueError: the page has no such heading.
    """
    text = Path(page).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)
    if found is None:
        raise ValueError(f"{page} has no heading {heading!r}")
    return found[1]


def commands(page: str, heading: str) -> list[Command]:
    """The indented lines below a heading."""
    lines = re.findall(r"^ {4,}(\S.*)$", section(page, heading), re.M)
    return [Command(text.strip(), where.strip()) for text, _, where in (line.partition("  # ") for line in lines)]


def toml(page: str, heading: str) -> str:
    """The run.toml below a heading."""
    (found,) = re.findall(r"^```toml\n(.*?)^```$", section(page, heading), re.M | re.S)
    return str(found)
