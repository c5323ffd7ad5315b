"""Strictly typed code passes mypy: that of README.md and the documentation, a new project, and a user's script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributions import DOCS, python_blocks

# One worker, which reads the frameworks once. mypy reads all of transformers and Lightning.
pytestmark = [pytest.mark.slow, pytest.mark.group("typed code"), pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
# torchvision and PEFT have no types, and torch leaves Tensor.backward without.
UNTYPED = ("import-untyped", 'untyped function "backward"')
LOOP = """
from typing import Any
import torch
from torch import nn
from torch.utils.data import DataLoader
model, criterion, tests = nn.Linear(2, 2), nn.CrossEntropyLoss(), [1]
optimizer = torch.optim.Adam(model.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
loader: DataLoader[tuple[torch.Tensor, ...]]
def correct_answers() -> int: return 1
def validation_loss() -> float: return 1.0
def train_on(batch: Any) -> float: return 1.0
import edgenode
mesh = edgenode.Mesh(model, "run.toml", optimizer, scheduler)
"""
# What the text around a fragment assumes, by page and number.
ASSUMED = {
    "privacy.md": LOOP,
    "your-own-loop.md": LOOP,
    "integrations.md": """
from typing import Any
from lightning.pytorch import LightningModule
module, loader, tests = LightningModule(), [1], [1]
model: Any
args: Any
data: Any
def correct_answers() -> int: return 1
""",
    "live.md": """
import torch
from torch import nn
example = torch.ones(1)
def next_photos() -> torch.Tensor: return example
def make_model() -> nn.Module: return nn.Linear(1, 1)
""",
}


SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import edgenode

model = nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
teacher = nn.Linear(2, 2)
loader: DataLoader[tuple[torch.Tensor, ...]] = DataLoader(TensorDataset(torch.ones(3, 2)))

with edgenode.Mesh(model, "run.toml", optimizer, scheduler, teacher, settings={"run.rounds": 5}) as mesh:

    @mesh.evaluate
    def accuracy() -> float:
        return 0.5

    for batch in mesh.loop(loader):
        mesh.step(loss=model(batch[0]).sum())
    for number in mesh.loop([1, 2]):
        mesh.step(loss=number + 0.5)
    mesh.extra["best"] = accuracy()
    print(mesh.round, mesh.done, mesh.result, mesh.state_dir / "model.safetensors")
reveal_type(mesh)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy has read of torch and others, once for all tests."""
    return tmp_path_factory.mktemp("cache")


def mypy(folder: Path, cache: Path, *files: str) -> str:
    """What mypy prints about files that are strictly typed."""
    options = ("--strict", "--follow-imports=silent", f"--cache-dir={cache}")
    command = [sys.executable, "-m", "mypy", *options, *files]
    environ = {**os.environ, "MYPYPATH": f"{ROOT}:{ROOT / 'lab'}"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=580, check=False)
    assert re.search(r"^(Success: no issues|Found \d+ error)", done.stdout, re.M), done.stdout + done.stderr
    return done.stdout


def errors(printed: str, *files: str) -> list[str]:
    """The errors in these files. Those of generated stubs are not silent here. In an installed package they are."""
    return [line for line in printed.splitlines() if line.startswith(files) and " error: " in line]


def ours(found: list[str]) -> list[str]:
    """Without the errors that the types of others cause."""
    return [line for line in found if not any(text in line for text in UNTYPED)]


def test_code_of_the_pages_passes_mypy_strict(tmp_path: Path, cache: Path) -> None:
    pages = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    for page in pages:
        for number, block in enumerate(python_blocks(os.path.relpath(page, DOCS))):
            name = f"{page.stem.replace('-', '_')}_{number}.py"
            (tmp_path / name).write_text(ASSUMED.get(page.name, "") + block)
    for script in (ROOT / "examples" / "frameworks").glob("*.py"):
        shutil.copy(script, tmp_path)
    files = [path.name for path in tmp_path.glob("*.py")]
    assert len(files) > 10
    assert ours(errors(mypy(tmp_path, cache, *files), *files)) == []


def test_a_new_project_passes_mypy_strict(tmp_path: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "edgenode", "new", "birds"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    files = ("birds.py", "test_birds.py")
    assert ours(errors(mypy(tmp_path / "birds", cache, *files), *files)) == []


def test_a_typed_script_passes_mypy(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    printed = mypy(tmp_path, cache, "script.py")
    assert 'Revealed type is "edgenode.mesh.mesh.Mesh"' in printed
    assert errors(printed, "script.py") == []
