"""Check whether torch brought CUDA to a machine that cannot use it, and name the commands that give the space back.

The package index has torch without CUDA for few platforms. Elsewhere, a plain ``pip install`` brings gigabytes of
NVIDIA's libraries to a machine without an NVIDIA GPU.
"""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from edgenode.doctor import Finding, installed_file, ok, warning

_SYSTEM = Path("/")
_NVIDIA = "0x10de"  # its vendor number on the PCI bus
_DISPLAY = "0x03"  # the PCI class of GPUs, which NVIDIA's network cards do not have
_LIBRARIES = re.compile(r"^(nvidia|cuda|triton)(?!-ml)\b")  # nvidia-ml-py only asks the driver, and is small
_IN_TORCH = re.compile(r"cuda|nvrtc|cupti|nvshmem|nvtx", re.IGNORECASE)
_CONSTRAINED = "aarch64"  # the machine that cpu.txt has pins for


def cuda(system: Path = _SYSTEM) -> Iterator[Finding]:
    """Compare the build of torch with the machine. ``system`` is the folder with its ``dev``, ``proc`` and ``sys``.

    There is no finding if torch does not load: ``machine.torch`` says so.
    """
    try:
        import torch
    except (ImportError, OSError, RuntimeError):
        return
    version = torch.version.cuda
    if version is None:
        yield ok("cuda", "torch is built without CUDA")
    elif torch.cuda.is_available() or has_nvidia_gpu(system):
        yield ok("cuda", f"torch is built for CUDA {version}, and this machine has an NVIDIA GPU")
    else:
        yield _unused(version)


def _unused(version: str) -> Finding:
    libraries = sorted(_libraries())
    size = sum(map(_size, libraries)) + _size("torch", _IN_TORCH)
    text = f"torch is built for CUDA {version}, but this machine has no NVIDIA GPU: CUDA takes {size / 1e6:,.0f} MB"
    return warning("cuda", text, _replacement(libraries))


def has_nvidia_gpu(system: Path = _SYSTEM) -> bool:
    """Return whether there is an NVIDIA GPU on the PCI bus, in a Jetson or under WSL, even if no driver works."""
    if (system / "proc" / "driver" / "nvidia").exists() or (system / "dev" / "dxg").exists():
        return True
    if "nvidia,tegra" in _read(system / "proc" / "device-tree" / "compatible"):
        return True
    devices = (system / "sys" / "bus" / "pci" / "devices").glob("*")
    return any(_read(d / "vendor").startswith(_NVIDIA) and _read(d / "class").startswith(_DISPLAY) for d in devices)


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _libraries() -> Iterator[str]:
    """The names of the installed distributions that only CUDA needs."""
    names = {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower() for each in metadata.distributions()}
    yield from filter(_LIBRARIES.match, names)


def _size(distribution: str, names: re.Pattern[str] | None = None) -> int:
    """The bytes of the installed files, or of those whose names match."""
    files = metadata.files(distribution) or []
    found = (Path(str(file.locate())) for file in files if names is None or names.search(file.name))
    return sum(path.stat().st_size for path in found if path.is_file())


def _replacement(libraries: list[str]) -> str:
    """The commands that replace this torch. They first remove the old one, because a card may be full."""
    pip = f"{shlex.quote(sys.executable)} -m pip"
    removal = f"{pip} uninstall --yes torch torchvision {' '.join(libraries)}".rstrip()
    if platform.machine() != _CONSTRAINED:
        return f"run `{removal}`, then install torch and torchvision for the CPU as pytorch.org/get-started shows"
    constraints = shlex.quote(str(installed_file("cpu.txt")))
    return f"run `{removal} && {pip} install -c {constraints} torch torchvision`"
