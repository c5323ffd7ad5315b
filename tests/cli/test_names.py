"""Names of nodes and clusters on the command line: one rule, refused in one line before anything starts."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from edgenode.cli import group
from edgenode.cli.shared_options import node_name
from edgenode.names import RULE


def refused(*arguments: str, **environ: str) -> str:
    found = CliRunner().invoke(group, arguments, env=environ)
    assert found.exit_code == 2
    assert found.stdout == ""
    return found.stderr


@pytest.mark.parametrize("name", ["Küche", "../../../x", "", "n" * 5000, "a b", "-n"])
def test_invalid_name_of_a_node_is_refused_in_one_line(name: str) -> None:
    line = refused("run", f"--name={name}")
    shown = f'"{name}"' if len(name) < 80 else f'"{name[:76]}...'
    assert line == f"edgenode: command-line option --name = {shown}, but it must be {RULE}\n"


def test_node_cannot_have_the_name_of_the_controller() -> None:
    line = refused("run", "--name=controller", "--controller=127.0.0.1:1")
    assert line == "edgenode: name = controller, but that is the name of the controller: choose another\n"


def test_invalid_name_in_the_environment_names_the_variable() -> None:
    line = refused("run", EDGENODE_NAME="pi 3")
    assert line == f'edgenode: environment variable EDGENODE_NAME = "pi 3", but it must be {RULE}\n'


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (("status", "--cluster", "../x"), "command-line option --cluster"),
        (("runs", "list", "--cluster", "../x"), "command-line option --cluster"),
        (("evict", "../x"), "command-line argument NODE"),
    ],
)
def test_every_name_on_the_command_line_is_checked(arguments: tuple[str, ...], source: str) -> None:
    assert refused(*arguments) == f'edgenode: {source} = "../x", but it must be {RULE}\n'


def test_host_name_that_is_no_name_is_replaced_with_a_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "pi 3")
    assert node_name(None) == "pi-3"
    assert capsys.readouterr().err == "edgenode: note: this node is named pi-3, because 'pi 3' cannot be a name\n"
    assert node_name("pi-4") == "pi-4"
    monkeypatch.setattr(socket, "gethostname", lambda: "pi-3")
    assert node_name(None) == "pi-3"
    assert capsys.readouterr().err == ""
