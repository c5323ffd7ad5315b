"""Blank boards on one network: each has a host name, an address, and files of its own where the pages write.

A board is a process with namespaces of its own for network, mounts and host name. What it writes goes to a layer above
this machine's folders, and is gone with it. A person types commands on it as root, so that `sudo` does nothing, and
`systemctl` is that of `systemctl.py`. A board has one core.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.e2e import aarch64, netns
from tests.e2e.fleet import DEADLINE_S, until

CHECKOUT = Path(__file__).parents[2]
HOME = "/home/pi"
_LAYERED = ("/etc", "/opt", "/usr/local", "/home", "/var")
_SHIMS = {
    "sudo": 'exec "$@"',
    "systemctl": f'exec {sys.executable} {Path(__file__).with_name("systemctl.py")} "$@"',
    "python3": f'exec {Path(sys.base_prefix) / "bin" / "python3"} "$@"',
}


class Board:
    """One board. Everything that is typed on it is counted in ``typed``."""

    def __init__(self, name: str, folder: Path, holder: int, typed: list[str]) -> None:
        self.name, self.folder, self._holder, self.typed = name, folder, holder, typed
        self._terminals: list[subprocess.Popen[bytes]] = []

    def path(self, inside: str) -> Path:
        """Where a file of the board lies for this process."""
        return Path(f"/proc/{self._holder}/root{inside}")

    def type(self, command: str, code: int = 0) -> str:
        """Type a command, and return what it prints."""
        self.typed.append(command)
        return self.run(command, code)

    def run(self, command: str, code: int = 0) -> str:
        """What a command prints that nobody types."""
        done = subprocess.run(
            self._inside(command), capture_output=True, text=True, timeout=TYPED_S, check=False, env=_ENVIRON
        )
        assert done.returncode == code, f"{self.name}: {command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def leave_running(self, command: str) -> Path:
        """Type a command in a terminal of its own. Returns the file with what the terminal shows."""
        self.typed.append(command)
        shown = self.folder / f"terminal-{len(self._terminals) + 1}"
        terminal = f"script -qefc {shlex.quote(command)} /dev/null"
        with shown.open("wb") as output:
            popen = subprocess.Popen(
                self._inside(terminal), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_ENVIRON,
                start_new_session=True,
            )  # fmt: skip
        self._terminals.append(popen)
        return shown

    def end(self, namespace: str) -> None:
        """Kill every process of the board."""
        pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
        for pid in map(int, pids.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for popen in self._terminals:
            popen.wait()

    def _inside(self, command: str) -> list[str]:
        namespaces = ["nsenter", f"--target={self._holder}", "--net", "--mount", "--uts"]
        return [*namespaces, "env", "-C", HOME, "taskset", "-c", str(self._core), "bash", "-c", command]

    @property
    def _core(self) -> int:
        cores = sorted(os.sched_getaffinity(0))
        return cores[int(self.name.rpartition("-")[2]) % len(cores)]

    def install(self, emulated: aarch64.Board | None = None) -> None:
        """What `pip install .` does, with the packages of this environment: `tests/test_installation.py` runs pip.

        Args:
            emulated: the board is an aarch64 one, with these files. This machine's Python has made its environment.
        """
        environment = self.path("/opt/edgenode")
        (packages,) = environment.glob("lib/python*/site-packages")
        paths = [str(CHECKOUT), *(path for path in sys.path if path.endswith("site-packages"))]
        python = "/opt/edgenode/bin/python"
        if emulated is not None:
            packages = environment / "lib" / Path(emulated.python[-1]).name / "site-packages"
            packages.mkdir(parents=True)
            (environment / "pyvenv.cfg").write_text(f"home = {Path(emulated.python[-1]).parent}\n")
            paths = [str(CHECKOUT), str(emulated.site)]
            python = shlex.join((emulated.python[0], "-0", python, *emulated.python[1:]))
        (packages / "edgenode.pth").write_text("\n".join(paths))
        script = environment / "bin" / "edgenode"
        script.write_text(f'#!/bin/sh\nexec {python} -m edgenode "$@"\n')
        script.chmod(0o755)


TYPED_S = 2 * DEADLINE_S
_ENVIRON = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "HOME": HOME, "TERM": "dumb", "COLUMNS": "80", "LANG": "C.UTF-8", "GRPC_ENABLE_FORK_SUPPORT": "0",
}  # fmt: skip


def unavailable() -> str | None:
    """Why there can be no boards here, or None."""
    if reason := netns.unavailable():
        return reason
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "script", "taskset") if shutil.which(tool) is None]
    if missing:
        return f"boards need {', '.join(missing)} (util-linux)"
    layer = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/up /mnt/work && mount -t overlay overlay -o " + _options(
        "/opt", "/mnt"
    )
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", f"{layer} /opt"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "boards need overlay file systems"


def _options(lower: str, own: str) -> str:
    return f"lowerdir={lower},upperdir={own}/up,workdir={own}/work"


@contextmanager
def blank_boards(count: int, folder: Path, typed: list[str], *needed: Path) -> Iterator[list[Board]]:
    """Boards pi-1, pi-2, ... that end with the block, with all of their processes.

    Args:
        needed: files of this machine that every user of a board can read, besides Python and the checkout.
    """
    with ExitStack() as stack:
        bridge = stack.enter_context(netns.Bridge(count))
        boards = []
        for number in range(count):
            name = f"pi-{number + 1}"
            own = folder / name
            setup = own / "setup.sh"
            (own / "layers").mkdir(parents=True)
            setup.write_text(_setup(name, own, (Path(sys.base_prefix), CHECKOUT, *needed)))
            holder = bridge.spawn(number, ["unshare", "--mount", "--uts", "sh", "-e", str(setup)])
            boards.append(Board(name, own, holder.pid, typed))
            stack.callback(boards[-1].end, bridge.namespaces[number])
            until((own / "is-up").exists, f"{name} is up", 20)
        yield boards


def _setup(name: str, own: Path, needed: tuple[Path, ...]) -> str:
    """The script that makes a board of a process, and stays."""
    closed = {str(parent) for path in needed for parent in path.parents if not parent.stat().st_mode & stat.S_IXOTH}
    lines = [f"hostname {name}", f"mount -t tmpfs tmpfs {own}/layers"]
    for number, root in enumerate((*_LAYERED, *sorted(closed))):
        layer = f"{own}/layers/{number}"
        lines += [f"mkdir -p {layer}/up {layer}/work", f"mount -t overlay overlay -o {_options(root, layer)} {root}"]
    lines += [f"chmod o+x {root}" for root in sorted(closed)]
    lines += ["mkdir -p /usr/local/bin /home/pi /etc/systemd/system"]
    for shim, script in _SHIMS.items():
        lines += [f"printf '#!/bin/sh\\n%s\\n' {shlex.quote(script)} > /usr/local/bin/{shim}"]
        lines += [f"chmod 755 /usr/local/bin/{shim}"]
    return "\n".join([*lines, f"touch {own}/is-up", "exec sleep 86400"]) + "\n"
