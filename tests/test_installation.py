"""The package, built for real and installed alone in an environment: `make test-package`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.group("package"), pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "deploy", "docs", "edgenode", "examples", "lab", "protos", "tests")
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "mkdocs.yml", "pyproject.toml")

_MADE = re.compile(r"__pycache__|/build/|\.egg-info")  # by Python and pip

# Bytes of the installed distributions: first of torch, torchvision and what they require, then of the others.
SIZES = """
import json, re
from importlib import metadata
from packaging.requirements import Requirement

def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()

found = {normalised(each.metadata["Name"]): each for each in metadata.distributions()}
of_torch, ahead = set(), ["torch", "torchvision"]
while ahead:
    name = normalised(ahead.pop())
    if name in found and name not in of_torch:
        of_torch.add(name)
        needs = map(Requirement, found[name].requires or ())
        ahead += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
def size(name):
    return sum(file.locate().stat().st_size for file in found[name].files if file.locate().is_file())

others = found.keys() - of_torch - {"pip", "setuptools"}
print(json.dumps([{name: size(name) for name in names} for names in (of_torch, others)]))
"""


def run(*command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Deleted at the end: pytest's own folders stay, and an environment has a gigabyte."""
    with TemporaryDirectory(prefix="edgenode-package-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    """The folder with the source distribution, and the wheel that was built from it."""
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def programs(folder: Path, built: Path) -> Path:
    """bin/ of an environment in which only the wheel was installed."""
    venv.create(folder / "venv", with_pip=True)
    (wheel,) = built.glob("*.whl")
    run(folder / "venv" / "bin" / "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=folder)
    return folder / "venv" / "bin"


def test_index_would_accept_both_files(built: Path) -> None:
    files = sorted(built.iterdir())
    assert [file.name.partition("-")[0] for file in files] == ["edgenode", "edgenode"]
    run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=built)


def test_source_distribution_holds_the_whole_project(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    expected = {path.relative_to(ROOT).as_posix() for path in found if not _MADE.search(path.as_posix())}
    assert len(expected) > 400
    assert expected.union(FILES) - packed == set()
    assert not any(_MADE.search(name) for name in packed if name.partition("/")[0] in FOLDERS)


def test_wheel_brings_little_but_torch(programs: Path, tmp_path: Path) -> None:
    of_torch, ours = json.loads(run(programs / "python", "-c", SIZES, cwd=tmp_path).stdout)
    rest, shared = sum(ours.values()) / 1e6, sum(of_torch[name] for name in ("numpy", "pillow")) / 1e6
    print(f"\nwithout torch, torchvision and what they require: {rest:.0f} MB; NumPy and Pillow: {shared:.0f} MB")
    assert rest < 80, ours
    assert not {"grpcio-reflection", "matplotlib", "scikit-learn", "scipy"} & ours.keys()


def test_laboratory_adds_its_command_and_algorithms(programs: Path, folder: Path, tmp_path: Path) -> None:
    missing = "it is part of edgenode-lab, which is not installed: pip install edgenode-lab"
    refused = run(programs / "edgenode", "experiment", cwd=tmp_path, code=2)
    assert refused.stderr == f"edgenode: edgenode experiment: {missing}\n"
    shutil.copytree(ROOT / "lab", folder / "lab", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    run(sys.executable, "-m", "build", "--wheel", folder / "lab", cwd=folder)
    (wheel,) = (folder / "lab" / "dist").glob("*.whl")
    run(programs / "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=folder)
    assert "table2" in run(programs / "edgenode", "experiment", cwd=tmp_path).stdout
    sparta = ("--set", "algorithm.name=sparta", "--set", "topology.graphs=two-way", "--set", "run.rounds=3")
    result = json.loads(run(programs / "edgenode", "simulate", "--json", *sparta, cwd=tmp_path).stdout)
    assert result["algorithm"] == "sparta"
    run(programs / "pip", "uninstall", "-q", "-y", "edgenode-lab", cwd=folder)


def test_demo_runs_from_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    demo = run(programs / "edgenode", "demo", "--rounds", "100", "--out", "demo", cwd=tmp_path)
    assert "result.json and a model.safetensors per node are in" in demo.stdout
    warning = "edgenode: warning: accuracy.png is not drawn: matplotlib is not installed: pip install 'edgenode[plots]'"
    assert demo.stderr.splitlines()[-1] == warning
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert len(result["nodes"]) == 4
    assert result["mean_test_accuracy"] > 0.8
    assert not (tmp_path / "demo" / "accuracy.png").exists()
    state = tmp_path / "demo" / "controller"
    assert "done" in run(programs / "edgenode", "runs", "list", "--state-dir", state, cwd=tmp_path).stdout
    run(programs / "edgenode", "runs", "plot", "--state-dir", state, cwd=tmp_path, code=2)


@pytest.mark.parametrize("command", ["run", "controller"])
def test_reflection_names_its_extra(programs: Path, tmp_path: Path, command: str) -> None:
    words = (command, "--insecure", "--reflection", "--listen", "127.0.0.1:0", "--state-dir", tmp_path)
    refused = run(programs / "edgenode", *words, cwd=tmp_path, code=2)
    needed = "edgenode: --reflection needs grpcio-reflection: pip install 'edgenode[reflection]'"
    assert refused.stderr.splitlines()[-1] == needed
