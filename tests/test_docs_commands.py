"""What the pages tell people to type exists: commands, options, and the same steps on every page."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest

from edgenode.cli import group
from tests.docs_commands import Command, commands, section

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A line of code or a word of the text, without what a comment or another program adds.
_TYPED = re.compile(r"(?:^ {4,}|`)(?:\$ |sudo )?edgenode ([a-z-][^`|>;]*?)(?:`|$|  +# .*| [|>;] .*)", re.M)
TYPED = sorted({(page.name, typed) for page in PAGES for typed in _TYPED.findall(page.read_text().replace("\\\n", ""))})


@pytest.mark.parametrize(("page", "typed"), TYPED)
def test_documented_command_exists(page: str, typed: str) -> None:
    words = shlex.split(typed, comments=True)
    command: click.Command = group
    context = click.Context(group)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, f"{page}: {typed}"
        command, words = found, words[1:]
    with suppress(click.BadOptionUsage):  # the text may name an option without its value
        command.make_parser(click.Context(command)).parse_args(words)


def test_services_have_their_invite() -> None:
    typed = [command.text for command in commands("docs/deploy.md", "Run as systemd services")]
    assert "sudo edgenode invite --credentials /var/lib/edgenode-controller/operator.pem" in typed
    assert "edgenode doctor --systemd --join inv-… | sudo sh" in typed


def test_containers_have_their_invite_and_the_port_to_enrol_at() -> None:
    text = section("docs/deploy.md", "Run in containers")
    assert "docker exec controller edgenode invite" in text
    assert re.search(r"edgenode run .*--join inv-…", text)
    assert re.search(r"^EXPOSE .*\b7701\b", Path("deploy/Dockerfile").read_text(), re.M)


def test_command_and_place_are_told_apart() -> None:
    assert commands("docs/devices.md", "Start a run by hand")[0] == Command(
        "edgenode doctor", "on every board: look first"
    )
