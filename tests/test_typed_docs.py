"""The code that users copy is typed: that of README.md and of the documentation, and the project of `edgenode new`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributions import DOCS, python_blocks

ROOT = Path(__file__).parents[1]
# torchvision and PEFT have no types, and torch leaves Tensor.backward without.
UNTYPED = ("import-untyped", 'untyped function "backward"')
# What the text around a fragment assumes, by page and number.
ASSUMED = {
    "your-own-loop.md": """
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
""",
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


def errors(folder: Path, *files: str) -> list[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *files]
    environ = {**os.environ, "MYPYPATH": f"{ROOT}:{ROOT / 'lab'}"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=580, check=False)
    assert re.search(r"^(Success: no issues|Found \d+ error)", done.stdout, re.M), done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(files) and " error: " in line]
    return [line for line in lines if not any(text in line for text in UNTYPED)]


@pytest.mark.slow
@pytest.mark.timeout(600)  # mypy reads all of transformers and Lightning
def test_code_of_the_pages_passes_mypy_strict(tmp_path: Path) -> None:
    pages = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    for page in pages:
        for number, block in enumerate(python_blocks(os.path.relpath(page, DOCS))):
            name = f"{page.stem.replace('-', '_')}_{number}.py"
            (tmp_path / name).write_text(ASSUMED.get(page.name, "") + block)
    for script in (ROOT / "examples" / "frameworks").glob("*.py"):
        shutil.copy(script, tmp_path)
    files = [path.name for path in tmp_path.glob("*.py")]
    assert len(files) > 10
    assert errors(tmp_path, *files) == []


@pytest.mark.slow
def test_a_new_project_passes_mypy_strict(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgenode", "new", "birds"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert errors(tmp_path / "birds", "birds.py", "test_birds.py") == []
