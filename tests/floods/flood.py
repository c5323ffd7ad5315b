"""A run of four nodes and a controller on a bridge, an attacker on a host of its own, and what the attack costs.

    python -m tests.floods.flood --seconds 600 "tests/floods/connections.py silent {controller}:7700 {node}:7600"
    python -m tests.floods.flood --seconds 600 | tee floods.md
    python -m tests.floods.flood --seconds 90 --only mDNS --only controllers

This measures a run before, during and after an attack, and prints a row of a table. Each argument is the command line
of an attacker, and all of them attack at the same time. Without one, each attack of `SERIES` gets a run of its own: for
600 s each, that takes two and a half hours. `--only` plays those whose name has one of these texts. `{controller}`,
`{node}` and `{attacker}` stand for the addresses of the controller, of node-0 and of the attacker, and `{folder}` for
the folder of the run. All hosts share the processors of this machine, and a real attacker has its own. So the attacker
has the lowest priority (nice 19), and a step of the run takes 50 ms, in which nobody computes.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.live_run import RUN, LiveRun, last_round
from tests.e2e.fleet import Fleet, Popen, Process
from tests.e2e.netns import Bridge

NODES = 4
CONTROLLER, ATTACKER = NODES, NODES + 1  # hosts. A node is on the host of its number
SETTINGS: Mapping[str, object] = {**RUN, "run.nodes": NODES, "run.evict_after_s": 20.0, "run.barrier_timeout_s": 60}
COMMAND_S = 60.0
MORE_ADDRESSES = tuple(f"10.77.0.{number}" for number in range(50, 250))
"""Further addresses of the attacker's host."""
_ROOT = Path(__file__).parents[2]
_STDERR = 2
_LINKS = "tests/floods/connections.py silent {controller}:7700 {node}:7600"
_SOURCES = " ".join(MORE_ADDRESSES)
_OTHER_PORTS = f"tests/floods/connections.py silent {{controller}}:8080 {{controller}}:7701 --sources {_SOURCES}"
_HELLOS = f"tests/floods/connections.py hello {{controller}}:7701 --sources {_SOURCES}"
_SERVICES = "tests/floods/mdns_packets.py new --rate 40"
_IMPOSTORS = "tests/floods/mdns_packets.py controllers --sources {attacker}"
_MEMBER = "-m tests.floods.member {kind} {{folder}} {{controller}}:7700"
SERIES: Mapping[str, Sequence[str]] = {
    "1,500 silent connections to each gRPC port, renewed": [_LINKS],
    "the same to the page and the enrolment port, from 200 addresses": [_OTHER_PORTS],
    "the same with whole ClientHellos, to the enrolment port": [_HELLOS],
    "40 mDNS packets a second, of new services": [_SERVICES],
    "200 silent controllers": [_IMPOSTORS],
    "greetings of another run with 1 MB": [_MEMBER.format(kind="meet")],
    "first reports with a million rounds": [_MEMBER.format(kind="report")],
    "calls of `Watch` that stay open": [_MEMBER.format(kind="watch")],
    "reports of counts of 2^53": [_MEMBER.format(kind="counts")],
    "fetches of the model that are never read": [_MEMBER.format(kind="fetch")],
    "a stranger's attacks, all at once": [_LINKS, _OTHER_PORTS, _SERVICES, _IMPOSTORS],
}
"""The attacks to be shown, each with the command lines of its attackers."""


@dataclass(frozen=True)
class Moment:
    """What a run does for some seconds.

    Attributes:
        rate: rounds per second of the slowest node.
        memory: resident memory of each process at the end, in MB.
        descriptors: open files of each process at the end.
        status_s: the longest time of `edgenode status`, with the start of Python.
        failures: how many commands failed.
    """

    rate: float
    memory: Mapping[str, float]
    descriptors: Mapping[str, int]
    status_s: float
    failures: int


class AttackedRun:
    """The processes of a run on a bridge. The attacker's host is the last.

    Args:
        files: the limit of open files of every process, soft and hard. None keeps that of this process.
    """

    def __init__(
        self, bridge: Bridge, fleet: Fleet, settings: Mapping[str, object] = {}, files: int | None = None,
        controller: Sequence[str] = (), variables: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        self.bridge, self.fleet, self._files = bridge, fleet, files
        config = fleet.configure({**SETTINGS, **settings}, paced=True)
        for address in MORE_ADDRESSES:
            bridge.add_address(ATTACKER, address)
        self.run = LiveRun(fleet, config, self._node, partial(self._controller, *controller))

    @property
    def processes(self) -> list[Process]:
        return [*self.run.nodes, self.run.controller]

    def until_trains(self, rounds: int = 60) -> None:
        self.run.until_round(rounds)

    def measure(self, seconds: float) -> Moment:
        """Watch the run for some seconds. Commands are started meanwhile, one after the other."""
        began, first, slowest, failures = time.monotonic(), self._rounds(), 0.0, 0
        while (left := began + seconds - time.monotonic()) > 0:
            took, code = self.status()
            slowest, failures = max(slowest, took), failures + (code != 0)
            time.sleep(min(max(0.0, left - took), 5.0))
        passed = time.monotonic() - began
        rate = min(now - then for now, then in zip(self._rounds(), first, strict=True)) / passed
        living = [p for p in self.processes if p.popen.poll() is None]
        memory, files = {p.name: resident_mb(p) for p in living}, {p.name: open_files(p) for p in living}
        return Moment(rate, memory, files, slowest, failures)

    def status(self) -> tuple[float, int]:
        """Run `edgenode status` on the controller's host. Return the seconds that it took, and its exit code."""
        began = time.monotonic()
        where = f"{self.bridge.addresses[CONTROLLER]}:7700"
        command = self.fleet.start("status", "status", "--controller", where, spawn=self._spawn(CONTROLLER))
        self.fleet.processes.remove(command)
        if code := command.popen.wait(COMMAND_S):
            print(command.tail(), file=sys.stderr)
        return time.monotonic() - began, code

    @contextmanager
    def attacked_by(self, *program: str, count: int = 1) -> Iterator[list[Popen]]:
        """Run a program, and its arguments, on the attacker's host while the body runs.

        `{controller}`, `{node}` and `{attacker}` in an argument become the addresses of the controller, of node-0 and
        of the attacker, and `{folder}` becomes the folder of the run.
        """
        hosts = {"controller": CONTROLLER, "node": 0, "attacker": ATTACKER}
        addresses = {name: self.bridge.addresses[host] for name, host in hosts.items()}
        places = {**addresses, "folder": self.fleet.folder}
        argv = ["nice", "-n", "19", sys.executable, *(argument.format_map(places) for argument in program)]
        spawn = partial(self.bridge.spawn, ATTACKER, argv, cwd=_ROOT, stdout=_STDERR)  # stdout is for the table
        attackers = [spawn() for _ in range(count)]
        try:
            yield list(attackers)
            ended = [attacker.poll() for attacker in attackers if attacker.poll() is not None]
            assert not ended, f"an attacker ended: {ended}"
        finally:
            for attacker in attackers:
                attacker.kill()
                attacker.wait()

    def none_has_ended(self) -> None:
        """Assert that every process of the run is alive, and has logged no trace."""
        for process in self.processes:
            assert process.popen.poll() is None, f"{process.name} has ended\n{process.tail()}"
            assert "Traceback" not in process.stderr, process.tail()

    def _rounds(self) -> list[int]:
        return [last_round(node) for node in self.run.nodes]

    def _node(self, i: int, *arguments: str) -> Process:
        return self.fleet.node(f"node-{i}", *arguments, listen=None, spawn=self._spawn(i))

    def _controller(self, *arguments: str) -> Process:
        return self.fleet.controller(*arguments, listen=None, spawn=self._spawn(CONTROLLER))

    def _spawn(self, host: int) -> Any:
        limit = [] if self._files is None else ["prlimit", f"--nofile={self._files}:{self._files}"]

        def spawn(argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
            return self.bridge.spawn(host, [*limit, *argv], **kwargs)

        return spawn


def resident_mb(process: Process) -> float:
    text = Path(f"/proc/{process.popen.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s*(\d+) kB$", text, re.M)
    return int(found[1]) / 1024 if found else 0.0


def open_files(process: Process) -> int:
    return len(list(Path(f"/proc/{process.popen.pid}/fd").iterdir()))


def worst_growth(before: Moment, during: Moment) -> float:
    """By how many MB the process that grew most has grown."""
    return max(during.memory[name] - before.memory[name] for name in during.memory)


def table(moments: Mapping[str, Moment]) -> str:
    """A Markdown table of what a run did before, during and after an attack."""
    before = next(iter(moments.values()))
    rows = ["| | rounds/s | part | most memory more, MB | most open files | `status`, s | failed |", "|-|-|-|-|-|-|-|"]
    for name, moment in moments.items():
        part, growth = moment.rate / before.rate, worst_growth(before, moment)
        files = max(moment.descriptors.values())
        rows.append(
            f"| {name} | {moment.rate:.1f} | {part:.2f} | {growth:.1f} | {files} | {moment.status_s:.1f} "
            f"| {moment.failures} |"
        )
    return "\n".join(rows)


HEAD = (
    "| attack | rounds/s: before, during, after | part | most memory more, MB | most open files | `status`, s: before, "
    "during, after | failed |\n|-|-|-|-|-|-|-|"
)


def row(name: str, moments: Sequence[Moment]) -> str:
    """A row of the table of many attacks: what a run did before, during and after one."""
    before, during, _ = moments
    rates = ", ".join(f"{moment.rate:.1f}" for moment in moments)
    waits = ", ".join(f"{moment.status_s:.1f}" for moment in moments)
    files, failures = max(during.descriptors.values()), sum(moment.failures for moment in moments)
    part, growth = during.rate / before.rate, worst_growth(before, during)
    return f"| {name} | {rates} | {part:.2f} | {growth:.1f} | {files} | {waits} | {failures} |"


def attacked(programs: Sequence[str], options: argparse.Namespace) -> list[Moment]:
    """Let attackers attack a run of its own. Return what it did before, during and after that.

    Raises:
        AssertionError: a process has ended, or has logged a trace.
    """
    with tempfile.TemporaryDirectory() as folder, Bridge(NODES + 2) as bridge, Fleet(Path(folder) / "fleet") as fleet:
        run = AttackedRun(bridge, fleet, files=options.files, controller=("--http", "0.0.0.0:8080"))
        run.until_trains()
        moments = [run.measure(options.quiet)]
        with ExitStack() as attack:
            for program in programs:
                attack.enter_context(run.attacked_by(*shlex.split(program)))
            moments.append(run.measure(options.seconds))
        moments.append(run.measure(options.quiet))
        run.none_has_ended()
        return moments


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="of the attack")
    parser.add_argument("--quiet", type=float, default=60.0, help="seconds before and after it")
    parser.add_argument("--files", type=int, default=1024, help="limit of open files of every process")
    parser.add_argument("--only", action="append", metavar="TEXT", help="the attacks of the series with this text")
    parser.add_argument("attackers", nargs="*", help="a program and its arguments, quoted")
    options = parser.parse_args(argv)
    if options.attackers and options.only:
        parser.error("--only chooses from the series, and attackers are given")
    wanted = options.only or [""]
    series = {name: programs for name, programs in SERIES.items() if any(text in name for text in wanted)}
    if options.attackers:
        series = {" and ".join(options.attackers): options.attackers}
    if not series:
        parser.error(f"no attack of the series has this text; they are: {'; '.join(SERIES)}")
    failed = False
    print(HEAD)
    for name, programs in series.items():
        try:
            print(row(name, attacked(programs, options)), flush=True)
        except AssertionError as exc:
            failed = True
            print(f"| {name} | failed: {str(exc).splitlines()[0]} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
