"""The twenty mistakes of docs/errors.md, with the real commands: what the page says is what the terminal shows."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from edgenode.addresses import free_ports
from edgenode.security.authority import Authority
from edgenode.security.invite import Invite
from edgenode.security.subject import Subject
from tests.chaos.test_machines import NO_FAKETIME, with_clock
from tests.e2e.fleet import Fleet, Process

pytestmark = [pytest.mark.slow, pytest.mark.group("mistakes")]
ROW = re.compile(r"\| (\d+) \| (.+?) \| `(.+?)` \| (\d+) \| (.+?) \|")
# Python's and gRPC's own lines, and a reason that is not there.
NOISE = re.compile(
    r"Traceback|ExceptionGroup|Error: $|\.cc:\d+\]|^[EWI]\d{4} |absl::|TSI_|SSL_ERROR|Handshake failed"
    r"|(?:why|reason|error)=(?:''|\"\"| |$)|: ?'?$|None$",
    re.M,
)
HERE = ("--listen", "127.0.0.1:0", "--wait", "1")


@dataclass(frozen=True)
class Row:
    """A mistake on the page."""

    mistake: str
    message: str
    code: int
    remedy: str

    @property
    def pattern(self) -> str:
        return ".*".join(re.escape(piece) for piece in self.message.split("…"))


ROWS = {int(n): Row(m, text, int(code), r) for n, m, text, code, r in ROW.findall(Path("docs/errors.md").read_text())}


class Mistakes:
    """Plays them against one controller, one waiting node and one other program. All commands run at once."""

    def __init__(self, fleet: Fleet, listener: socket.socket) -> None:
        fleet.configure()
        self._fleet, self._taken = fleet, f"127.0.0.1:{listener.getsockname()[1]}"
        self._closed, self._peer = (f"127.0.0.1:{port}" for port in free_ports(2))
        self._state = str(fleet.state("node-0"))
        controller, waiting = fleet.controller(), fleet.node("node-0", "--wait", "200")
        self._controller = controller.logs(r"controller ready .*listen=(\S+)")[1]
        waiting.logs("listening")
        self._services = controller, waiting
        other = Authority(fleet.folder / "other", "other")
        other.keep(fleet.folder / "stranger.pem", Subject("operator", "stranger"))
        fleet.authority().keep(fleet.folder / "operator.pem", Subject("operator", "test"))
        for text, name in (("[run\n", "torn"), ("[run]\nround = 3\n", "key"), ('[run]\nrounds = "3"\n', "type")):
            (fleet.folder / name).mkdir()
            (fleet.folder / name / "run.toml").write_text(text)

    def play(self) -> Mapping[int, Process]:
        """Start all commands. Each ends by itself."""
        return {n: self._start(n, *words) for n, words in self._commands().items()}

    def _start(self, n: int, *words: str) -> Process:
        if n != 17:
            return self._fleet.start(f"mistake-{n}", *words)
        return self._fleet.start(f"mistake-{n}", *words, spawn=partial(with_clock, {"FAKETIME": "+100d"}))

    def _commands(self) -> Mapping[int, tuple[str, ...]]:
        host, port = self._closed.split(":")
        invite = str(Invite(bytes(10), bytes(16), ((host, int(port)),)))
        run = ("run", "--config", "run.toml", *HERE)
        dial = ("status", "--controller", self._controller)
        commands = {
            1: ("run", "--config", "nowhere/run.toml"),
            2: ("controller", "--config", "torn/run.toml"),
            3: ("run", "--config", "key/run.toml"),
            4: ("run", "--config", "type/run.toml"),
            5: (*run, "--insecure", "--state-dir", "a", "--set", "task.dataset=digit"),
            6: (*run, "--insecure", "--state-dir", "b", "--set", "task.dataset=cifar10",
                "--set", "task.data_dir=/nowhere"),
            7: ("topology", "set", "rign"),
            8: ("controller", "--config", "run.toml", "--insecure", "--state-dir", "c", "--listen", self._taken),
            9: (*run, "--state-dir", "d"),
            10: (*run, "--state-dir", "e", "--peers", self._closed),
            11: (*run, "--state-dir", "f", "--join", invite[:-4]),
            12: (*run, "--state-dir", "g", "--join", invite, "--set", "run.cluster=nobody"),
            13: ("run", *HERE, "--insecure", "--state-dir", "h", "--set", "run.cluster=nobody"),
            14: ("evict", "pi-1", "--cluster", "nobody"),
            15: ("status", "--controller", self._closed),
            16: (*dial, "--credentials", "stranger.pem"),
            17: dial,
            18: ("run", "--config", "run.toml", "--insecure", "--listen", "0.0.0.0:0"),
            19: (*run, "--insecure", "--name", "node-0", "--state-dir", self._state),
            20: (*run, "--insecure", "--state-dir", "i", "--peers", self._peer),
        }  # fmt: skip
        return commands if NO_FAKETIME is None else {n: words for n, words in commands.items() if n != 17}

    def services(self) -> str:
        """What the daemons have logged meanwhile."""
        return "".join(process.stderr for process in self._services)


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mistakes]:
    with Fleet(tmp_path_factory.mktemp("mistakes")) as fleet, socket.create_server(("127.0.0.1", 0)) as listener:
        yield Mistakes(fleet, listener)


@pytest.fixture(scope="module")
def played(mistakes: Mistakes) -> Mapping[int, Process]:
    return mistakes.play()


def test_the_page_has_twenty() -> None:
    assert list(ROWS) == list(range(1, 21))


@pytest.mark.parametrize("n", ROWS, ids=lambda n: f"{n} {ROWS[n].mistake}")
def test_mistake_has_one_clear_error(n: int, played: Mapping[int, Process]) -> None:
    if n not in played:
        pytest.skip(str(NO_FAKETIME))
    row, process = ROWS[n], played[n]
    process.exits(row.code)
    shown = process.stdout + process.stderr
    assert not NOISE.search(shown), shown
    assert process.stdout == ""
    assert len(process.errors) <= 2  # the first may say what is searched for
    assert re.match(f"edgenode: {row.pattern}", process.errors[-1]), shown
    assert len(row.remedy) > 10


def test_strangers_leave_no_line_of_grpc_at_a_daemon(mistakes: Mistakes, played: Mapping[int, Process]) -> None:
    for process in played.values():
        process.popen.wait(200)
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(64)):
        with socket.create_connection(("127.0.0.1", int(mistakes._controller.rpartition(":")[2]))) as there:
            there.sendall(data)
            there.settimeout(1)
            with suppress(TimeoutError, ConnectionError):  # half a greeting is waited for
                there.recv(1)
    assert not NOISE.search(mistakes.services()), mistakes.services()
