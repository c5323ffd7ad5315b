"""The check of torch's build, against installed distributions and folders like those of real machines."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgenode.doctor import Finding, Level, cuda_build

ROOT = Path(__file__).parents[2]
GPU = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n"}
NETWORK_CARD = {**GPU, "sys/bus/pci/devices/0000:01:00.0/class": "0x020000\n"}
OTHER_GPU = {**GPU, "sys/bus/pci/devices/0000:01:00.0/vendor": "0x1002\n"}
JETSON = {"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0"}
PI = {"proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def install(site: Path, name: str, files: dict[str, int]) -> None:
    """Lay an installed distribution, whose files have these sizes."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    write(site, {file: "x" * size for file, size in files.items()})
    write(site, {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"})
    write(site, {f"{info}/RECORD": "".join(f"{file},,{size}\n" for file, size in files.items())})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that Python's packages are found in: torch is a CUDA build of 2 MB, and its libraries have 5."""
    site = tmp_path / "site"
    install(site, "torch", {"torch/lib/libtorch_cuda.so": 2_000_000, "torch/lib/libtorch_cpu.so": 9_000_000})
    install(site, "nvidia-cublas", {"nvidia/libcublas.so.13": 3_000_000})
    install(site, "cuda-bindings", {"cuda/bindings.so": 500_000})
    install(site, "triton", {"triton/compiler.so": 1_500_000})
    for other in ("nvidia-ml-py", "cudazoo", "tritonclient-x"):
        install(site, other, {f"{other}.py": 2_000_000})
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "path", [str(site)])
    return site


def check(system: Path) -> Finding:
    (found,) = cuda_build.cuda(system)
    return found


def test_build_for_the_cpu_is_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", None)
    assert str(check(tmp_path)) == "torch is built without CUDA"


@pytest.mark.parametrize("machine", [GPU, JETSON, {"proc/driver/nvidia/version": ""}, {"dev/dxg": ""}])
@pytest.mark.usefixtures("site")
def test_build_for_cuda_is_ok_beside_a_gpu(machine: dict[str, str], tmp_path: Path) -> None:
    found = check(write(tmp_path / "system", machine))
    assert (found.level, found.text[-30:]) == (Level.OK, "this machine has an NVIDIA GPU")


@pytest.mark.usefixtures("site")
def test_gpu_that_torch_can_use_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert check(tmp_path).level is Level.OK


@pytest.mark.parametrize("machine", [{}, PI, NETWORK_CARD, OTHER_GPU])
@pytest.mark.usefixtures("site")
def test_unused_cuda_is_a_warning_with_its_size(machine: dict[str, str], tmp_path: Path) -> None:
    found = check(write(tmp_path / "system", machine))
    text = "torch is built for CUDA 13.0, but this machine has no NVIDIA GPU: CUDA takes 7 MB"
    assert (found.check, found.level, found.text) == ("cuda", Level.WARNING, text)


@pytest.mark.usefixtures("site")
def test_remedy_on_a_board_removes_and_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    removal, install = check(tmp_path).remedy.removeprefix("run `").removesuffix("`").split(" && ")
    unused = ["torch", "torchvision", "cuda-bindings", "nvidia-cublas", "triton"]
    assert shlex.split(removal) == [sys.executable, "-m", "pip", "uninstall", "--yes", *unused]
    *command, constraints, torch, torchvision = shlex.split(install)
    assert (command, torch, torchvision) == (
        [sys.executable, "-m", "pip", "install", "-c"],
        "torch",
        "torchvision",
    )
    assert Path(constraints) == ROOT / "deploy" / "cpu.txt"
    pins = [Requirement(line) for line in Path(constraints).read_text().splitlines() if line and line[0] != "#"]
    assert [pin.name for pin in pins] == [torch, torchvision]
    assert all(pin.marker is not None and pin.marker.evaluate({"platform_machine": "aarch64"}) for pin in pins)
    assert not any(pin.marker is None or pin.marker.evaluate({"platform_machine": "x86_64"}) for pin in pins)


def test_remedy_of_an_installed_wheel_names_its_own_constraints(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    install(site, "edgenode", {"../share/edgenode/cpu.txt": 1})
    assert f"install -c {tmp_path.resolve()}/share/edgenode/cpu.txt torch" in check(tmp_path).remedy


@pytest.mark.usefixtures("site")
def test_remedy_elsewhere_points_to_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    remedy = check(tmp_path).remedy
    assert "uninstall --yes torch torchvision cuda-bindings nvidia-cublas triton`" in remedy
    assert remedy.endswith("install torch and torchvision for the CPU as pytorch.org/get-started shows")
