"""A model of which nodes share a part: which tensors that is, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgenode.errors import CheckpointError, ConfigError
from edgenode.tasks.flat_params import FlatModel, FlatParameters
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.shared_part import Shared
from edgenode.tasks.task import RunLength
from edgenode.tasks.trainer import TaskTrainer
from tests.tasks.small_trainer import NODE, Digits, digits_trainer, local_update, run

CPU = torch.device("cpu")


class Net(nn.Module):
    """A body and a head with BatchNorm, a frozen scale, and a buffer of no layer."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
        self.head = nn.Sequential(nn.BatchNorm1d(8, affine=False), nn.Linear(8, classes, dtype=torch.float32))
        self.scale = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("classes", torch.arange(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


BODY = ["body.1.weight", "body.1.bias", "body.2.weight", "body.2.bias"]
HEAD = ["head.1.weight", "head.1.bias"]


@pytest.mark.parametrize(
    ("choose", "names", "buffers"),
    [
        (lambda net: None, BODY + HEAD, {"body.2", "head.0", "classes"}),
        (lambda net: "body", BODY, {"body.2"}),
        (lambda net: net.body, BODY, {"body.2"}),
        (lambda net: [net.head[1], "body.[12]"], BODY + HEAD, {"body.2"}),
        (lambda net: "*.weight", ["body.1.weight", "body.2.weight", "head.1.weight"], {"body.2"}),
        (lambda net: ("body.1", net.head), ["body.1.weight", "body.1.bias", *HEAD], {"head.0"}),
        (lambda net: net, BODY + HEAD, {"body.2", "head.0", "classes"}),
    ],
)
@pytest.mark.parametrize("flat_model", [False, True])
def test_shared_parameters_are_chosen_by_name_pattern_or_module(
    choose: Callable[[Net], Shared], names: list[str], buffers: set[str], flat_model: bool
) -> None:
    net = Net()
    flat = FlatModel(net, CPU, choose(net)) if flat_model else FlatParameters(net, choose(net))
    assert list(flat.parameters) == names
    assert {name.removesuffix(".running_mean") for name in flat.buffers() if "running_var" not in name} - {
        "body.2.num_batches_tracked",
        "head.0.num_batches_tracked",
    } == buffers
    assert flat.own_size == sum(p.numel() for p in net.parameters() if p.requires_grad) - flat.size
    flat.load(np.full(flat.size, 7, np.float32))
    changed = [name for name, p in net.named_parameters() if bool((p == 7).all())]
    assert changed == names


@pytest.mark.parametrize(
    ("choose", "text"),
    [
        (lambda net: "bodi", "shared: 'bodi' matches no trainable parameter of the model, whose parts are body, head"),
        (lambda net: ["body", "scale"], "shared: 'scale' matches no trainable parameter"),
        (lambda net: [], "shared is empty, so the nodes would exchange nothing"),
        (lambda net: nn.Linear(2, 2), "shared has a Linear that is not a part of the model"),
        (lambda net: ["body", net.scale], "shared has a Parameter, but it takes names, patterns and modules"),
    ],
)
def test_what_chooses_nothing_is_refused(choose: Callable[[Net], Shared], text: str) -> None:
    net = Net()
    with pytest.raises(ConfigError, match=text):
        FlatParameters(net, choose(net))


def test_tied_weight_is_shared_if_one_of_its_layers_is() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(4, 4), "out": nn.Linear(4, 4)})
    net["out"].weight = net["embed"].weight
    assert list(FlatParameters(net, "out").parameters) == ["embed.weight", "out.bias"]


# --- training -------------------------------------------------------------------------------------------


def trainer(shared: tuple[str, ...], classes: int = 10, **settings: object):  # type: ignore[no-untyped-def]
    chosen = TrainSettings(**{"batch_size": 16, "learning_rate": 0.05, "shared": shared, **settings})
    return digits_trainer(torch.arange(100), Digits(lambda: Net(classes)), chosen)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "learning_rate": 0.01}])
def test_alone_a_part_is_trained_as_the_whole(settings: dict[str, object]) -> None:
    """The own part is not in the vector, and yet takes the same steps."""
    whole, part = trainer((), **settings), trainer(("body",), **settings)
    size = part.size
    assert 0 < size < whole.size
    z, z_part = whole.initial(), part.initial()
    for t in range(6):
        z = z + local_update(whole.train(t, z.copy()), z)
        z_part = z_part + local_update(part.train(t, z_part.copy()), z_part)
    names = {n: v for n, v in whole.named_tensors(z).items() if v.is_floating_point()}
    mine = part.named_tensors(z_part)
    np.testing.assert_allclose(z_part, z[:size], rtol=1e-3, atol=1e-5)
    for name, value in names.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_restored_own_part_trains_on_to_the_bit(optimizer: str) -> None:
    first = trainer(("body",), optimizer=optimizer)
    z = run(first, first.initial(), range(4))
    state = first.local_state()
    expected = run(first, z, range(4, 8))
    second = trainer(("body",), optimizer=optimizer)
    second.load_local_state(state)
    assert np.array_equal(run(second, z, range(4, 8)), expected)
    ours, theirs = second.named_tensors(expected), first.named_tensors(expected)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not torch.equal(ours["head.1.weight"], trainer(("body",)).named_tensors(z)["head.1.weight"])


def test_own_part_of_another_shape_is_not_restored() -> None:
    state = trainer(("body",)).local_state()
    other = trainer(("body",), classes=12)
    before = other.local_state()
    with pytest.raises(
        CheckpointError, match=r"own part has changed: classes is \(10,\) in the checkpoint and \(12,\)"
    ):
        other.load_local_state(state)
    assert all(np.array_equal(value, before[name]) for name, value in other.local_state().items())


@pytest.mark.parametrize(("shared", "decides"), [((), False), (("body",), True)])
def test_own_test_decides_where_a_part_is_for_the_own_data(shared: tuple[str, ...], decides: bool) -> None:
    """An average that is worse in the node's test may be better for all, but not for its own head."""
    task = Digits(Net)
    data = LocalData.whole(task.train_data(NODE), task.test_data(NODE))
    found = TaskTrainer(task, data, TrainSettings(shared=shared), RunLength(10, 1), seed=0)
    assert found.tests_alike == decides
