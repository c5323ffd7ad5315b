"""Loops of one's own that share a part of their model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

from edgenode import ConfigError, EdgenodeError, LiveModel, Mesh
from edgenode.addresses import free_ports
from tests.mesh.conftest import MakeMesh

XS = torch.randn(32, 4, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    def __init__(self, classes: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def train(mesh: Mesh, model: Net, optimizer: Any, fail_at: int = -1) -> None:
    labels = torch.arange(32) % model.head.out_features

    @mesh.evaluate
    def accuracy() -> float:
        return (model(XS).argmax(1) == labels).float().mean().item()

    for rows in mesh.loop([XS[:16], XS[16:]]):
        loss = nn.functional.cross_entropy(model(rows), labels[: len(rows)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if mesh.round == fail_at:
            raise KeyError("the power fails")
        mesh.step(loss=loss)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.02)


def together(count: int, node: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=node, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def addresses(count: int, folder: Path) -> list[dict[str, Any]]:
    """The arguments of each node's Mesh."""
    at = [f"127.0.0.1:{port}" for port in free_ports(count)]
    others = [[address for address in at if address != own] for own in at]
    return [{"name": f"n{i}", "listen": at[i], "peers": others[i], "state_dir": folder / f"n{i}"} for i in range(count)]


def test_nodes_with_other_heads_share_a_body(tmp_path: Path) -> None:
    """Each begins with its own head, and the first node's body. Each writes its own head."""
    models, where = [Net(3, seed=1), Net(5, seed=2)], addresses(2, tmp_path)
    settings = {"run.nodes": 2, "run.rounds": 20, "run.evaluate_every": 10, "algorithm.name": "scsp",
                "algorithm.gossip_graph": "allreduce"}  # fmt: skip
    results: dict[int, Any] = {}

    def node(i: int) -> None:
        optimizer = adam(models[i])
        mesh = Mesh(models[i], None, optimizer, shared="body", settings=settings, **where[i])
        train(mesh, models[i], optimizer)
        results[i] = mesh.result

    with capture_logs() as logs:
        together(2, node)
    assert [result["nodes"][0]["test_accuracy"] > 0.2 for _, result in sorted(results.items())] == [True, True]
    body = [torch.cat([p.detach().flatten() for p in model.body.parameters()]) for model in models]
    assert torch.allclose(*body, atol=1e-4)
    counts = {(log["shared_parameters"], log["local_parameters"]) for log in logs if log["event"] == "data loaded"}
    assert counts == {(56, 27), (56, 45)}
    for i, model in enumerate(models):
        live = LiveModel(tmp_path / f"n{i}", Net(3 + 2 * i, seed=9))
        assert torch.equal(live.model.state_dict()["head.weight"], model.head.weight.detach())


def test_own_part_resumes_to_the_bit(make_mesh: MakeMesh, tmp_path: Path) -> None:
    def model_after(fail_at: int, folder: str) -> dict[str, torch.Tensor]:
        for seed in (3, 4):  # a program that starts again makes another head
            model = Net(3, seed)
            optimizer = adam(model)
            mesh = make_mesh(model, optimizer, shared=model.body, state_dir=tmp_path / folder)
            try:
                train(mesh, model, optimizer, fail_at if seed == 3 else -1)
                break
            except KeyError:
                pass
        return model.state_dict()

    straight, resumed = model_after(-1, "straight"), model_after(8, "resumed")
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_checkpoint_of_another_head_is_refused_by_name(make_mesh: MakeMesh) -> None:
    model = Net(3)
    train(make_mesh(model, optimizer := adam(model), shared="body"), model, optimizer)
    other = Net(4)
    with pytest.raises(EdgenodeError, match=r"own part has changed: head\.bias is \(3,\) in the checkpoint and \(4,\)"):
        train(make_mesh(other, optimizer := adam(other), shared="body"), other, optimizer)


def test_nodes_that_share_other_parts_are_refused(tmp_path: Path) -> None:
    where, errors = addresses(2, tmp_path), {}

    def node(i: int) -> None:
        mesh = Mesh(Net(3), None, shared=["body", "head.bias"][: 2 - i],
                    settings={"run.nodes": 2}, **where[i])  # fmt: skip
        try:
            list(mesh.loop([XS]))
        except EdgenodeError as exc:
            errors[i] = str(exc)

    together(2, node)
    assert 'shared parameter head.bias is "3", not absent' in errors[0]
    assert 'shared parameter head.bias is absent, not "3"' in errors[1]


@pytest.mark.parametrize(
    ("shared", "text"),
    [
        ("bodi", "shared: 'bodi' matches no trainable parameter of the model, whose parts are body, head"),
        ((), "shared is empty, so the nodes would exchange nothing"),
    ],
)
def test_wrong_parts_are_refused(make_mesh: MakeMesh, shared: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_mesh(Net(3), shared=shared)


def test_optimiser_of_neither_part_is_refused(make_mesh: MakeMesh) -> None:
    model, other = Net(3), nn.Linear(2, 2)
    optimizer = torch.optim.Adam([*model.parameters(), *other.parameters()])
    with pytest.raises(ConfigError, match=r"a tensor of shape .2, 2. that is not a parameter of the model, shared or"):
        make_mesh(model, optimizer, shared="body")


def test_key_of_the_file_is_the_default(make_mesh: MakeMesh) -> None:
    with pytest.raises(ConfigError, match="shared: 'trunk' matches no trainable parameter"):
        make_mesh(Net(3), settings={"task.shared": ["trunk"]})
    make_mesh(Net(3), shared="body", settings={"task.shared": ["trunk"]})


def test_critic_stays_local_while_generators_are_averaged(tmp_path: Path) -> None:
    """Two nodes with optimisers of their own for each network. Generators of other data end alike, critics do not."""
    where, nets = addresses(2, tmp_path), [nn.ModuleDict(), nn.ModuleDict()]
    settings = {"run.nodes": 2, "run.rounds": 30, "algorithm.name": "sgp"}

    def node(i: int) -> None:
        torch.manual_seed(i)
        nets[i].update({"generator": nn.Linear(2, 1), "critic": nn.Linear(1, 1)})
        generator, critic = nets[i]["generator"], nets[i]["critic"]
        of_generator = torch.optim.SGD(generator.parameters(), lr=0.02)
        of_critic = torch.optim.SGD(critic.parameters(), lr=0.02)
        mesh = Mesh(nets[i], None, of_generator, of_critic, shared=generator, settings=settings, **where[i])
        for real in mesh.loop([torch.full((4, 1), float(i))]):
            noise = torch.ones(4, 2)
            of_critic.zero_grad()
            (critic(generator(noise).detach()).mean() - critic(real).mean() + critic.weight.square().sum()).backward()
            of_critic.step()
            of_generator.zero_grad()
            (-critic(generator(noise)).mean()).backward()
            of_generator.step()
            mesh.step()

    together(2, node)
    assert torch.allclose(nets[0]["generator"].weight, nets[1]["generator"].weight, atol=0.02)
    assert not torch.allclose(nets[0]["critic"].weight, nets[1]["critic"].weight, atol=0.1)
