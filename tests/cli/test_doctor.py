"""`edgenode doctor`: lines, JSON, exit codes, and the installation of the services."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.doctor import Finding, ok
from edgenode.security.authority import Authority
from edgenode.security.invite import Invite
from edgenode.security.local import OPERATOR, OWN
from edgenode.security.subject import Role, Subject


def run(*words: str) -> Result:
    return CliRunner().invoke(group, ("doctor", *words))


@pytest.fixture
def quiet_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No packets are sent. tests/doctor and tests/e2e do that."""

    async def nothing(interfaces: Sequence[str], needed: bool) -> AsyncIterator[Finding]:
        yield ok("multicast", "not asked")

    monkeypatch.setattr("edgenode.doctor.network.multicast", nothing)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_network")
def test_each_check_is_a_line_and_success_is_exit_code_0(tmp_path: Path) -> None:
    where = ("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path), "--controller", "none")
    result = run(*where, "--set", "run.threads=1", "--set", "run.device=cpu")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[-1] == "no problems"
    checks = [line.split()[1] for line in lines[:-1]]
    assert checks == [
        *("python", "packages", "torch", "cuda", "model", "memory", "disk", "power"),
        *("certificate", "port", "port", "port", "port", "multicast", "nodes"),
    ]
    assert all(re.match(r"(ok     |warning)  \w+ +\S", line) for line in lines[:-1])


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_network")
def test_advice_without_a_controller_is_certificates_of_ones_own(tmp_path: Path) -> None:
    where = ("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path), "--peers", "127.0.0.1:1")
    result = run(*where, "--set", "run.threads=1", "--set", "run.device=cpu", "--set", "algorithm.name=d2",
                 "--set", "topology.graphs=two-way")  # fmt: skip
    (advice,) = [line for line in result.output.splitlines() if line.split()[1] == "certificate"]
    assert "edgenode cert init" in advice
    assert "edgenode invite" not in advice
    assert "problem" not in result.output.replace("no problems", "")


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_network")
@pytest.mark.parametrize(
    ("roles", "found"), [(("node",), "ok"), (("operator",), "warning"), (("node", "operator"), "ok")]
)
def test_certificate_of_an_operator_starts_no_node(tmp_path: Path, roles: tuple[Role, ...], found: str) -> None:
    authority = Authority(tmp_path / "authority", "edgenode")
    for role in roles:
        authority.keep(tmp_path / "state" / (OWN if role == "node" else OPERATOR), Subject(role, "anna"))
    where = ("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path / "state"), "--controller", "127.0.0.1:1")
    result = run(*where, "--set", "run.threads=1", "--set", "run.device=cpu")
    (line,) = [line for line in result.output.splitlines() if line.split()[1] == "certificate"]
    assert line.split()[0] == found, line
    assert ("edgenode invite" in line) == (found == "warning")


@pytest.mark.usefixtures("quiet_network")
def test_settings_that_a_controller_refuses_are_a_problem(tmp_path: Path) -> None:
    where = ("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path), "--controller", "127.0.0.1:1")
    result = run(*where, "--set", "run.threads=1", "--set", "run.device=cpu", "--set", "algorithm.name=d2",
                 "--set", "topology.graphs=two-way", "--set", "run.straggler=drop")  # fmt: skip
    found = [line for line in result.output.splitlines() if "the members of a run of d2 are fixed" in line]
    assert [line.split()[0] for line in found] == ["problem"]


@pytest.mark.usefixtures("quiet_network")
def test_one_cause_is_one_problem(tmp_path: Path) -> None:
    where = ("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path), "--controller", "127.0.0.1:1")
    result = run(*where, "--set", "run.threads=1", "--set", "run.device=cpu", "--set", "algorithm.name=d2")
    assert result.output.count("d2 cannot use a: its weights are not symmetric") == 1


def test_problem_is_exit_code_1_with_its_remedy() -> None:
    result = run("--set", "run.nodes=none")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "1 problem"
    assert re.search(r"^problem  run.toml +command-line option: run.nodes = .*: correct it$", result.output, re.M)
    result = run("--set", "run.nodes=none", "--json")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert [set(finding) for finding in found] == [{"check", "level", "text", "remedy"}] * 3
    assert [(f["check"], f["level"]) for f in found] == [("python", "ok"), ("packages", "ok"), ("run.toml", "problem")]


def test_printed_commands_install_the_services(tmp_path: Path) -> None:
    result = run("--systemd")
    assert result.exit_code == 0
    commands = [shlex.split(line, comments=True) for line in result.output.splitlines()]
    for name in ("node", "controller"):
        (sed,) = [words for words in commands if words[:1] == ["sed"] and words[2].endswith(f"edgenode-{name}.service")]
        assert sed[1] == f"s|/opt/edgenode|{sys.prefix}|"
        assert "ExecStart=/opt/edgenode/bin/edgenode" in Path(sed[2]).read_text()
        assert sed[3:] == [">", f"/etc/systemd/system/edgenode-{name}.service"]
    assert not [words for words in commands if words[:1] == ["systemctl"] and words[1] != "daemon-reload"]
    for next_step in (
        "systemctl enable --now edgenode-controller",
        "edgenode doctor --systemd --join inv-... | sudo sh",
    ):
        assert next_step in result.output


def test_printed_commands_start_a_node_with_an_invite() -> None:
    invite = str(Invite(bytes(10), bytes(16), (("10.0.0.5", 7701),)))
    result = run("--systemd", "--join", f"edgenode run --join {invite}")
    *_, file, enable, restart = [words for words in map(shlex.split, result.output.splitlines()) if words[:1] != ["#"]]
    assert file[:4] == ["echo", f"EDGENODE_JOIN={invite}", ">>", "/etc/edgenode/node.env"]
    assert [enable, restart] == [["systemctl", verb, "edgenode-node"] for verb in ("enable", "restart")]
    refused = run("--systemd", "--join", invite[:-1])
    assert (refused.exit_code, refused.stdout) == (1, "")  # a shell gets no half of a script


def test_printed_commands_start_a_relay_without_a_run(tmp_path: Path) -> None:
    invite = str(Invite(bytes(10), bytes(16), (("10.0.0.5", 7701),)))
    assert "--relay-only is for --systemd" in run("--relay-only").output
    without = run("--systemd", "--relay-only").output
    assert "run.toml" not in without
    assert "edgenode doctor --systemd --relay-only --join inv-... | sudo sh" in without
    result = run("--systemd", "--relay-only", "--join", f"edgenode relay --join {invite}")
    *before, file, enable, restart = [
        words for words in map(shlex.split, result.output.splitlines()) if words[0] != "#"
    ]
    (sed,) = [words for words in before if words[0] == "sed" and words[1] == f"s|/opt/edgenode|{sys.prefix}|"]
    assert "/bin/edgenode relay --state-dir" in Path(sed[2]).read_text()
    assert sed[3:] == [">", "/etc/systemd/system/edgenode-relay.service"]
    assert file[:4] == ["echo", f"EDGENODE_JOIN={invite}", ">>", "/etc/edgenode/relay.env"]
    assert [enable, restart] == [["systemctl", verb, "edgenode-relay"] for verb in ("enable", "restart")]


def test_installation_in_a_home_folder_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", "/home/pi/venv")
    assert "A service cannot see home folders" in run("--systemd").output
