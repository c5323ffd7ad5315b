"""An emulated Raspberry Pi 4: edgenode as an aarch64 program, with the torch that such a board gets.

A board is a folder with Debian's Python for aarch64, and one with the wheels that `pip install -c deploy/cpu.txt .`
selects there. qemu-aarch64-static runs its programs as processes of this machine, with this machine's kernel, network
and files. They import edgenode from this working tree. Check `unavailable()` first: a board needs mmdebstrap,
qemu-user-static and uv.

>>> board = make_board()                                      # built once, then taken from the user's cache folder
>>> fleet.start("doctor", "doctor", spawn=board.spawn)        # this edgenode process is an aarch64 one
>>> fleet.node("pi", spawn=partial(board.spawn, spawn=partial(bridge.spawn, 3)))   # on host 3 of a netns.Bridge
>>> subprocess.run(["ip", "netns", "exec", "NS", *board.python, "-m", "edgenode", "doctor"], env=board.environ())

In a network namespace, nothing differs: `ip netns exec NS qemu-aarch64-static ...` is the command, and it keeps its
pid. A process on a board cannot start another one, because the kernel does not know how to execute a file for aarch64.
So `edgenode demo`, `edgenode launch` and worker processes of a DataLoader do not work there. To import torch takes 10
to 20 s of processor time, and 40 s the first time. Give what waits for a board a long deadline.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from platformdirs import user_cache_path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "deploy" / "cpu.txt"

_RELEASE, _PYTHON = "trixie", "3.13"
_PACKAGES = ("python3", "libgomp1", "libstdc++6", "ca-certificates")
_QEMU = "qemu-aarch64-static"
# The processor of a Pi 4: programs that need more than ARMv8.0 end here as they do there. On the default of qemu, which
# is no board, the SVE code of NumPy's OpenBLAS returns wrong products of matrices.
_CPU = "cortex-a72"
_TOOLS = {"mmdebstrap": "mmdebstrap", _QEMU: "qemu-user-static"}
_BUILD_S = 600

Spawn = Callable[..., subprocess.Popen[Any]]


def unavailable() -> str | None:
    """Return why there is no emulated board here, or None."""
    if not sys.platform.startswith("linux"):
        return f"an emulated board needs Linux, this is {sys.platform}"
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if find_spec("uv") is None:
        missing.append("uv (pip install -e '.[dev]')")
    return f"an emulated board needs {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class Board:
    """The folders of an emulated board: Debian's files, and the installed wheels."""

    root: Path
    site: Path

    @property
    def python(self) -> tuple[str, ...]:
        """The command that starts the board's Python."""
        return _QEMU, "-cpu", _CPU, "-L", str(self.root), str(self.root / "usr" / "bin" / f"python{_PYTHON}")

    def environ(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables for a process on the board: these, or else this process's, with the board's packages."""
        kept = dict(os.environ if variables is None else variables)
        for name in ("OPENBLAS_CORETYPE", "PYTHONDONTWRITEBYTECODE"):  # of another processor; or no import is cached
            kept.pop(name, None)
        paths = (str(ROOT), str(self.site), *filter(None, [kept.get("PYTHONPATH")]))
        return kept | {"PYTHONPATH": os.pathsep.join(paths)}

    def spawn(self, argv: Sequence[str], spawn: Spawn = subprocess.Popen, **popen_kwargs: Any) -> subprocess.Popen[Any]:
        """Start a Python command on the board, for `Fleet.start`. `argv` begins with this machine's Python."""
        return spawn([*self.python, *argv[1:]], **{**popen_kwargs, "env": self.environ(popen_kwargs.get("env"))})


def make_board() -> Board:
    """Return a board, from the cache if possible. Else it takes a minute, the package index and Debian's archive.

    Raises:
        RuntimeError: a tool failed. The message has its output.
    """
    cache = user_cache_path("edgenode-tests")
    with _locked(cache):
        root = cache / f"{_RELEASE}-{_digest(*_PACKAGES)}"
        if not root.is_dir():
            _build(root, _unpack_debian)
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        site = cache / f"site-{_digest(_PYTHON, *wanted, CONSTRAINTS.read_text())}"
        if not site.is_dir():
            _build(site, _install)
    return Board(root, site)


def _unpack_debian(folder: Path) -> None:
    include = f"--include={','.join(_PACKAGES)}"
    _run("mmdebstrap", "--architectures=arm64", "--variant=extract", include, _RELEASE, str(folder))
    for name in ("bin", "lib", "sbin"):  # as a package's script would make them, which cannot run here
        if not (folder / name).exists():
            (folder / name).symlink_to(f"usr/{name}")


def _install(folder: Path) -> None:
    """Install what edgenode requires, and a package that is empty but for edgenode's metadata."""
    with TemporaryDirectory() as name:
        project = Path(name)
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, project)
        (project / "edgenode").mkdir()
        (project / "edgenode" / "__init__.py").touch()
        uv("pip", "install", "--quiet", "--target", str(folder), *for_board(_PYTHON), name)


def for_board(python: str) -> tuple[str, ...]:
    """Options of uv that select the wheels for a board, as pip selects them there. Markers are those of the board."""
    return (
        "--python-platform", "aarch64-manylinux_2_28", "--python-version", python, "--constraint", str(CONSTRAINTS),
    )  # fmt: skip


def uv(*arguments: str) -> str:
    """Run uv, and return its output."""
    return _run(sys.executable, "-m", "uv", *arguments)


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder in full or not at all."""
    with TemporaryDirectory(dir=folder.parent, prefix="partial-") as name:
        made = Path(name) / folder.name
        fill(made)
        made.rename(folder)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Keep other test processes out, which use the same cache."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
