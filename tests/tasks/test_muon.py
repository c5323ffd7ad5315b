"""Muon for hidden weights, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgenode.errors import ConfigError
from edgenode.tasks.muon import MuonAndAdamW, hidden_weights
from tests.torch_versions import has_muon


class Net(nn.Module):
    """An embedding, a convolution, a norm, a hidden layer and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.convolution = nn.Conv1d(8, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.hidden = nn.Linear(6, 12)
        self.output = nn.Linear(12, 5)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.convolution(self.embedding(words).transpose(1, 2)))
        return self.output(functional.relu(self.hidden(features.mean(2))))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def differentiate(model: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    words, labels = torch.randint(20, (16, 7), generator=random), torch.randint(5, (16,), generator=random)
    model.zero_grad()
    functional.cross_entropy(model(words), labels).backward()


def test_hidden_weights_are_neither_embeddings_nor_the_output_layer_nor_vectors() -> None:
    model = net()
    assert [id(w) for w in hidden_weights(model)] == [id(model.convolution.weight), id(model.hidden.weight)]
    model.convolution.weight.requires_grad_(False)
    assert [id(w) for w in hidden_weights(model)] == [id(model.hidden.weight)]


def test_frozen_or_shared_output_layer_leaves_all_hidden_weights() -> None:
    frozen, shared = net(), net()
    frozen.output.requires_grad_(False)
    assert [id(w) for w in hidden_weights(frozen)] == [id(frozen.convolution.weight), id(frozen.hidden.weight)]
    shared.hidden, shared.output = nn.Linear(6, 8), nn.Linear(8, 20)
    shared.output.weight = shared.embedding.weight
    assert [id(w) for w in hidden_weights(shared)] == [id(shared.convolution.weight), id(shared.hidden.weight)]


@has_muon
def test_model_may_train_hidden_weights_alone() -> None:
    model = net()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is model.hidden.weight)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = MuonAndAdamW(model, 0.01, 0.0)
    optimizer.load_state_dict(optimizer.state_dict())
    differentiate(model, 0)
    optimizer.step()
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["hidden.weight"]


@has_muon
def test_steps_are_those_of_muon_on_matrices_and_of_adamw_on_the_rest() -> None:
    ours, theirs = net(), net()
    # For Muon of torch, the convolution is a plain matrix.
    matrix = nn.Parameter(theirs.convolution.weight.detach().flatten(1).clone())
    rest = [p for p in theirs.parameters() if p is not theirs.convolution.weight and p is not theirs.hidden.weight]
    muon = torch.optim.Muon([matrix, theirs.hidden.weight], lr=0.01, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.02)
    optimizer = MuonAndAdamW(ours, 0.01, 0.02)
    for seed in range(5):
        differentiate(ours, seed)
        optimizer.step()
        differentiate(theirs, seed)
        matrix.grad = theirs.convolution.weight.grad.flatten(1)
        muon.step()
        adamw.step()
        with torch.no_grad():
            theirs.convolution.weight.copy_(matrix.view_as(theirs.convolution.weight))
    for (name, our), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(our, their), name


@has_muon
def test_rate_that_a_scheduler_sets_holds_for_both() -> None:
    model = net()
    optimizer = MuonAndAdamW(model, 0.01, 0.0)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    differentiate(model, 0)
    optimizer.step()
    scheduler.step()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@has_muon
def test_frozen_parameters_and_those_without_a_gradient_stay() -> None:
    model = net()
    model.hidden.bias.requires_grad_(False)
    before = model.hidden.bias.detach().clone()
    optimizer = MuonAndAdamW(model, 0.01, 0.1)
    differentiate(model, 0)
    model.hidden.weight.grad = None
    weight = model.hidden.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.hidden.bias, before)
    assert torch.equal(model.hidden.weight, weight)


@has_muon
def test_model_without_hidden_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="muon is for the weights of hidden layers, but Linear has none: use adamw"):
        MuonAndAdamW(nn.Linear(4, 2), 0.01, 0.0)


def test_torch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ConfigError, match=r"optimizer = muon needs torch 2\.9 or later, but"):
        MuonAndAdamW(net(), 0.01, 0.0)
