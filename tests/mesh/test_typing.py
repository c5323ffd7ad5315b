"""A user's strictly typed script passes mypy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_a_typed_script_passes_mypy(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "script.py"]
    environ = {**os.environ, "MYPYPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=250, check=False)
    assert 'Revealed type is "edgenode.mesh.mesh.Mesh"' in done.stdout
    # Those of generated stubs are not silent here. In an installed package they are.
    assert [line for line in done.stdout.splitlines() if line.startswith("script.py") and " error: " in line] == []
