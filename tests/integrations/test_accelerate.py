"""Objects that accelerate has prepared, in a loop of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from structlog.testing import capture_logs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgenode import Mesh
from tests.integrations.conftest import Arguments

accelerate = pytest.importorskip("accelerate")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of accelerate


class Disturbed(Dataset[tuple[Tensor, Tensor]]):
    """Its samples are disturbed by random numbers when they are fetched."""

    def __init__(self) -> None:
        self.points = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.points[i] + 0.1 * torch.randn(4), (self.points[i].sum() > 0).long()


def train(arguments: dict[str, Any], seed: int = 0, fail_at: int = -1, **options: Any) -> tuple[Mesh, list[float]]:
    """Run the loop, and return its losses. Raise KeyError in the body at a round."""
    torch.manual_seed(seed)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)  # as in another process
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
    loader = DataLoader(Disturbed(), 4, shuffle=True)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    mesh = Mesh(model, None, optimizer, schedule, **arguments)
    losses = []
    for points, labels in mesh.loop(loader):
        loss = nn.functional.cross_entropy(model(points), labels)
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if mesh.round == fail_at:
            raise KeyError("the power fails")
        losses.append(loss.item())
        mesh.step(loss=loss)
    assert schedule.get_last_lr() == pytest.approx([0.02 * 0.9**12])
    return mesh, losses


# A checkpoint within the second pass of three batches, at its end, and after it.
@pytest.mark.parametrize(("saved", "precision"), [(5, "no"), (6, "bf16"), (7, "no")])
def test_prepared_loop_resumes_to_the_bit(alone: Arguments, tmp_path: Path, saved: int, precision: str) -> None:
    arguments = alone(run__checkpoint_every=saved)
    with capture_logs() as lines:
        whole, losses = train({**arguments, "state_dir": tmp_path / "whole"}, mixed_precision=precision)
    assert [line["event"] for line in lines if "optimiser" in line["event"]] == []
    assert whole._loop is not None and whole._loop.passes.samples == 10
    with pytest.raises(KeyError):
        train(arguments, fail_at=saved + 2, mixed_precision=precision)
    resumed, rest = train(arguments, seed=7, mixed_precision=precision)
    assert rest == losses[saved:]
    files = [load_file(mesh.state_dir / "model.safetensors") for mesh in (whole, resumed)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
