"""The pages, played from their own text: blank boards become nodes that train, by hand and as services."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs_commands import commands, toml
from tests.e2e import aarch64, boards
from tests.e2e.boards import HOME, Board, blank_boards
from tests.e2e.fleet import until

_WHY_NOT, _NO_AARCH64 = boards.unavailable(), aarch64.unavailable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT)),
    pytest.mark.timeout(900),
]
RUN = toml("README.md", "Train on four devices")
INVITE = r"inv-[0-9a-z]+"
TRAINED_S = 600.0
_CHARS_PER_MINUTE, _PASTE_S = 200, 3.0  # a person types each command once, and pastes it on the other boards
_OF_BOARD = "--ns $$ --nslist net"  # of all processes of this machine, those in the namespace of the board
_THERE = ("sudo apt", "git clone")  # the packages and the checkout


def install(board: Board, run: str, emulated: aarch64.Board | None) -> None:
    """Type what devices.md has for a Raspberry Pi, from its first login."""
    for heading in ("Prepare a Raspberry Pi", "Install edgenode"):
        for command in commands("docs/devices.md", heading):
            board.typed.append(command.text)
            if "-m venv" in command.text:
                board.run(f"{command.text} --without-pip")
            elif "bin/pip install" in command.text:
                board.install(emulated)
            elif not command.text.startswith(_THERE):
                board.run(command.text)
    board.path(f"{HOME}/run.toml").write_text(run)
    board.typed.append(run)


@contextmanager
def four_boards(folder: Path, run: str, emulated: aarch64.Board | None = None) -> Iterator[list[Board]]:
    """Boards with edgenode and a run.toml. The last one may be an emulated one."""
    needed = () if emulated is None else (emulated.root, emulated.site)
    with blank_boards(4, folder, [], *needed) as all_boards:
        for board in all_boards:
            install(board, run, emulated if board is all_boards[-1] else None)
        yield all_boards


def is_trained(board: Board, model: str) -> Callable[[], bool]:
    return lambda: board.path(model).exists()


def test_services_train_from_blank_boards(tmp_path: Path) -> None:
    with four_boards(tmp_path, RUN) as all_boards:
        train_as_services(all_boards)
        check_typing(all_boards[0].typed)


@pytest.mark.skipif(_NO_AARCH64 is not None, reason=str(_NO_AARCH64))
@pytest.mark.group("aarch64")
@pytest.mark.timeout(1800)
def test_services_train_with_an_emulated_raspberry_pi(tmp_path: Path) -> None:
    """An emulated step takes tens of times as long, so the run is shorter."""
    shorter = RUN.replace("rounds = 1000", "rounds = 60")
    assert shorter != RUN
    with four_boards(tmp_path, shorter, aarch64.make_board()) as all_boards:
        assert "aarch64" in all_boards[-1].run("edgenode doctor | head -1")
        train_as_services(all_boards)


def train_as_services(all_boards: list[Board]) -> None:
    """Play "Run as systemd services" up to the trained models. One board loses its power in between."""
    first = all_boards[0]
    install_script, enable, invite, join, status = commands("docs/deploy.md", "Run as systemd services")[:5]
    first.type(install_script.text)
    for unit in ("node", "controller"):
        verified = first.run(f"systemd-analyze verify /etc/systemd/system/edgenode-{unit}.service 2>&1")
        assert verified == ""
    first.type(enable.text)
    assert invite.text in first.path("/var/log/units/edgenode-controller").read_text()  # the log has the command
    for board in all_boards:
        (found,) = re.findall(INVITE, first.type(invite.text))
        board.type(join.with_invite(found))
        assert board.path("/etc/edgenode/node.env").stat().st_mode & 0o777 == 0o600
    assert "this node" not in first.type(status.text)
    reboot(all_boards[1])
    for board in all_boards:
        until(is_trained(board, "/var/lib/edgenode/node/model.safetensors"), f"{board.name} has trained", TRAINED_S)
    assert "this node is enrolled already" in node_log(all_boards[1])


def test_boards_train_by_hand_and_again_with_the_same_commands(tmp_path: Path) -> None:
    with four_boards(tmp_path, RUN) as all_boards:
        train_by_hand(all_boards)


def train_by_hand(all_boards: list[Board]) -> None:
    """Play the README's commands, steer the run from the right boards, and type the first commands again."""
    first, second, *_ = all_boards
    start, join = commands("README.md", "Train on four devices")[:2]
    shown = first.leave_running(start.text)
    until(lambda: len(re.findall(INVITE, shown.read_text())) == len(all_boards), "the controller prints a command each")
    typed = re.findall(rf"^edgenode run --join {INVITE}(?=\r?$)", shown.read_text(), re.M)
    assert [len(line) <= 80 for line in typed] == [True] * len(all_boards)
    assert {re.sub(INVITE, "inv-…", line) for line in typed} == {join.text}
    logs = [board.leave_running(line) for board, line in zip(all_boards, typed, strict=True)]
    for log in logs:
        until(lambda log=log: "epoch done" in log.read_text(), "the run is under way")

    *_, status = commands("docs/devices.md", "Start a run by hand")[:4]
    assert "pi-4" in first.type(status.text)
    refused = second.run("edgenode stop 2>&1", code=1)
    assert "edgenode invite NAME --role operator" in refused
    add, become = commands("docs/devices.md", "Start a run by hand")[4:]
    printed = first.type(add.text).strip()
    assert re.sub(INVITE, "inv-…", printed) == become.text
    assert second.type(printed).startswith("you are operator anna of the cluster edgenode")
    second.type("edgenode stop")
    for log in logs:
        until(lambda log=log: "run stopped" in log.read_text(), "all nodes stop")

    until(lambda: not first.run(f"pgrep {_OF_BOARD} -f '[e]dgenode controller' || true"), "the controller ends")
    first.leave_running(start.text)
    logs = [board.leave_running(line) for board, line in zip(all_boards, typed, strict=True)]  # the invites are used
    for log in logs:
        until(lambda log=log: "run begins" in log.read_text(), "the run resumes")
        assert "this node is enrolled already" in log.read_text()


def reboot(board: Board) -> None:
    """Cut the power of a node, in the middle of the run, and start its service as systemd does at boot."""
    until(lambda: "run begins" in node_log(board), "the run begins")
    node = "edgenode run --config /etc/edgenode/[r]un.toml --state-dir /var/lib/edgenode/node"
    board.run(f"pkill -KILL {_OF_BOARD} -f '{node}'")
    board.run("systemctl restart edgenode-node")


def node_log(board: Board) -> str:
    return board.path("/var/log/units/edgenode-node").read_text(errors="replace")


def check_typing(typed: list[str]) -> None:
    """Four boards take five minutes of typing, run.toml included."""
    invites = [command for command in typed if re.search(INVITE, command)]
    without = [re.sub(INVITE, "", command) for command in typed]
    chars = sum(len(command) + 1 for command in {*without})
    pasted = len(without) - len({*without}) + len(invites)
    minutes = chars / _CHARS_PER_MINUTE + pasted * _PASTE_S / 60
    print(f"{len(typed)} commands, {chars} characters typed, {pasted} pastes: {minutes:.1f} min")
    assert minutes <= 5
