"""What the pages tell people to type exists: commands, options, and the same steps on every page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from edgenode.cli import group
from tests.docs_commands import Command, commands, section

PAGES = {
    "README.md": ("Train on four devices", "Watch and steer the run", "Change the topology while it trains"),
    "docs/devices.md": ("Install edgenode", "Start a run by hand", "Start a run with the boards"),
    "docs/deploy.md": ("Check the device first", "Run as systemd services"),
    "docs/security.md": ("Let a device in", "Let a person in", "Make certificates without a controller"),
    "docs/own-photos.md": ("3. Start",),
}
TYPED = [
    (page, command.text)
    for page, headings in PAGES.items()
    for heading in headings
    for command in commands(page, heading)
    if re.match(r"(sudo )?edgenode ", command.text)
]


@pytest.mark.parametrize(("page", "text"), TYPED)
def test_documented_command_exists(page: str, text: str) -> None:
    words = shlex.split(text.removeprefix("sudo ").partition(" | ")[0], comments=True)[1:]
    command: click.Command = group
    context = click.Context(group)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"{page}: {text}"
        command, words = found, words[1:]
    command.make_parser(click.Context(command)).parse_args(words)


def test_every_path_to_a_service_has_its_invite() -> None:
    for page, heading in (
        ("docs/devices.md", "Start a run with the boards"),
        ("docs/deploy.md", "Run as systemd services"),
    ):
        typed = [command.text for command in commands(page, heading)]
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
