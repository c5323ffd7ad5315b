"""Mixed precision, gradient scalers, `torch.compile` and CUDA in a loop of one's own: it trains, and resumes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgenode import LiveModel, Mesh
from edgenode.addresses import free_ports
from tests.mesh.conftest import MakeMesh

POINTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
LABELS = (POINTS.sum(1) > 0).long()
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
DISABLED = pytest.param("disabled", marks=pytest.mark.slow)
INDUCTOR = pytest.param("compiled", marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")])  # of torch


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(body, nn.Dropout(0.2), nn.Linear(8, 2))


def train(
    make_mesh: MakeMesh, how: str, seed: int = 0, fail_at: int = -1, **arguments: Any
) -> tuple[Mesh, list[float]]:
    """Run the loop, and return its losses. Raise KeyError in the body at a round."""
    plain = network(seed).to("cuda" if "cuda" in how else "cpu")
    model: Any = torch.compile(plain) if how == "compiled" else plain
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    device = next(model.parameters()).device
    dtype = torch.float16 if how == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device.type, enabled=how != "disabled", growth_interval=5)
    mesh = make_mesh(model, optimizer, scaler, **arguments)
    mesh.evaluate(lambda: float((model(POINTS.to(device)).argmax(1).cpu() == LABELS).float().mean()))
    losses = []
    for points, labels in mesh.loop(DataLoader(TensorDataset(POINTS, LABELS), 16, shuffle=True)):
        with torch.autocast(device.type, dtype):
            loss = nn.functional.cross_entropy(model(points.to(device)), labels.to(device))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if mesh.round == fail_at:
            raise KeyError("the power fails")
        losses.append(loss.item())
        mesh.step(loss=loss)
    assert scaler.get_scale() == (65536.0 * 4 if scaler.is_enabled() else 1.0)  # 12 steps grow it twice
    return mesh, losses


@pytest.mark.parametrize("how", ["scaled", DISABLED, INDUCTOR, pytest.param("cuda", marks=CUDA)])
def test_a_loop_resumes_to_the_bit(make_mesh: MakeMesh, tmp_path: Path, how: str) -> None:
    whole, losses = train(make_mesh, how, state_dir=tmp_path / "whole")
    with pytest.raises(KeyError):
        train(make_mesh, how, fail_at=8)
    resumed, rest = train(make_mesh, how, seed=7)  # from the checkpoint before round 5
    assert rest == losses[5:]
    files = [load_file(mesh.state_dir / "model.safetensors") for mesh in (whole, resumed)]
    assert files[0].keys() == files[1].keys() == network().state_dict().keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    live = LiveModel(resumed.state_dir, network())
    assert live.metadata["model"] == "Sequential"
    assert ((live.model(POINTS).argmax(1) == LABELS).float().mean() > 0.8) and losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch
def test_nodes_with_and_without_a_compiler_train_one_model(tmp_path: Path) -> None:
    ports, starts = free_ports(3), dict[int, Tensor]()

    def node(i: int) -> None:
        model: Any = network(seed=i)
        if i == 1:
            model = torch.compile(model, backend="eager")
        elif i == 2:
            model[0] = torch.compile(model[0], backend="eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        mesh = Mesh(
            model, None, optimizer, name=f"n{i}", state_dir=tmp_path / f"n{i}", listen=f"127.0.0.1:{ports[i]}",
            settings={"run.nodes": 3, "run.rounds": 6}, shared="0", peers=[f"127.0.0.1:{port}" for port in ports],
        )  # fmt: skip
        for points, labels in mesh.loop([(POINTS, LABELS)]):
            starts.setdefault(i, next(model.parameters()).detach().clone())
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(points), labels)
            loss.backward()
            optimizer.step()
            mesh.step(loss=loss)
        LiveModel(mesh.state_dir, model)

    threads = [threading.Thread(target=node, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])
    written = [load_file(tmp_path / f"n{i}" / "model.safetensors") for i in range(3)]
    names = network().state_dict().keys()
    assert [file.keys() for file in written] == [names] * 3
    # compression leaves the models of the nodes a little apart
    apart = {
        name for name in names if not all(torch.allclose(written[0][name], file[name], atol=0.2) for file in written)
    }
    assert apart <= {"0.1.num_batches_tracked", "2.weight", "2.bias"}
    assert "2.weight" in apart
