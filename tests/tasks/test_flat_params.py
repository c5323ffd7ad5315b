"""Any model as one vector of its trainable parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgenode.errors import ConfigError, LocalProtocolError
from edgenode.tasks.flat_params import FlatModel, FlatParameters
from tests.tasks.small_trainer import small_net

CPU = torch.device("cpu")


def mixed_net() -> nn.Sequential:
    """Layers in three formats."""
    return nn.Sequential(nn.Linear(3, 4).bfloat16(), nn.Linear(4, 5).double(), nn.Linear(5, 2))


def random_vector(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=size).astype(np.float32)


@pytest.mark.parametrize("make", [FlatParameters, lambda model: FlatModel(model, CPU)])
def test_vector_goes_in_and_comes_out_unchanged(make: type) -> None:
    flat = make(small_net())
    vector = random_vector(flat.size)
    flat.load(vector)
    assert np.array_equal(flat.read(), vector)
    after, is_difference = flat.after_steps()
    assert np.array_equal(after, vector) and not is_difference
    first = np.concatenate([p.detach().numpy().ravel() for p in flat.model.parameters() if p.requires_grad])
    assert np.array_equal(first, vector)


@pytest.mark.parametrize("make", [FlatParameters, lambda model: FlatModel(model, CPU)])
def test_model_after_steps_takes_no_memory_of_its_own(make: type) -> None:
    flat = make(small_net())
    vector, _ = flat.after_steps()
    assert vector is flat.staging


@pytest.mark.parametrize("make", [FlatParameters, lambda model: FlatModel(model, CPU)])
def test_vector_is_loaded_from_where_it_is_staged(make: type) -> None:
    flat, vector = make(small_net()), random_vector(flat_size := FlatParameters(small_net()).size)
    flat.staging[:] = vector
    flat.load(flat.staging)
    assert flat.staging.shape == (flat_size,)
    assert np.array_equal(flat.read(), vector)


def test_frozen_parameters_and_buffers_are_not_exchanged() -> None:
    flat = FlatParameters(small_net())
    assert "frozen" not in dict(flat.layout)
    assert list(flat.buffers()) == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


def test_tied_weights_are_exchanged_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    flat = FlatParameters(net)
    assert [name for name, _ in flat.layout] == ["0.weight", "0.bias", "1.bias"]
    flat.load(np.ones(flat.size, np.float32))
    assert net[1].weight is net[0].weight
    assert bool((net[1].weight == 1).all())


def test_loading_keeps_the_tensors_that_an_optimiser_holds() -> None:
    net = small_net()
    optimizer = torch.optim.Adam(net.parameters())
    flat = FlatParameters(net)
    flat.load(random_vector(flat.size))
    before = flat.read()
    net(torch.ones(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert not np.array_equal(flat.read(), before)


def test_other_formats_hold_a_rounded_copy() -> None:
    flat = FlatParameters(mixed_net())
    vector = random_vector(flat.size)
    flat.load(vector)
    loaded = flat.read()
    assert not np.array_equal(loaded[:12], vector[:12])  # bfloat16
    assert np.array_equal(loaded[16:], vector[16:])  # float64 and float32


def test_update_of_another_format_has_no_rounding_of_the_load() -> None:
    flat = FlatParameters(mixed_net())
    vector = random_vector(flat.size)
    flat.load(vector)
    assert np.array_equal(flat.after_steps()[0], np.zeros(flat.size))
    with torch.no_grad():
        flat.parameters["0.weight"][0, 0] = 3
        flat.parameters["1.weight"][0, 0] += 1e-9
    update, is_difference = flat.after_steps()
    assert is_difference
    assert update[0] == np.float32(3 - torch.tensor(vector[0]).bfloat16().double().item())
    assert update[16] == pytest.approx(1e-9, rel=1e-6)  # float32 alone would lose it
    assert np.count_nonzero(update) == 2


def test_vector_of_another_size_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match=r"shape \(3,\) does not fit a model of"):
        FlatParameters(small_net()).load(np.zeros(3, np.float32))


def unfit(change: str) -> nn.Module:
    net = nn.Linear(2, 2)
    match change:
        case "frozen":
            net.requires_grad_(False)
        case "nan":
            net.bias.data[1] = float("nan")
        case "meta":
            net = nn.Linear(2, 2, device="meta")
        case "complex":
            net = nn.Linear(2, 2, dtype=torch.complex64)
        case "lazy":
            return nn.LazyLinear(2)
        case "shared":
            net.register_parameter("twin", nn.Parameter(net.weight.data))
    return net


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("frozen", "the model has no trainable parameter"),
        ("nan", "parameter bias holds NaN or infinity before the first round"),
        ("meta", "parameter weight is on the meta device"),
        ("complex", r"parameter weight is torch\.complex64: only floating-point"),
        ("lazy", "parameter weight has no shape yet: pass one batch through the model first"),
        ("shared", "parameters twin and weight share memory"),
    ],
)
def test_unfit_models_are_refused_by_name(change: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        FlatParameters(unfit(change))


def test_parameters_move_to_where_vectors_are_staged() -> None:
    """Each with a storage of its own, so that a file of one layer does not have all others."""
    model = small_net()
    before = FlatParameters(model).read()
    flat = FlatParameters(model, in_place=True)
    assert flat.in_place
    assert np.array_equal(flat.staging, before)
    after, is_difference = flat.after_steps()
    assert after is flat.staging and not is_difference
    for parameter in flat.parameters.values():
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()
        with torch.no_grad():
            parameter.add_(1)
    assert np.array_equal(flat.staging, before + 1)
    assert np.array_equal(flat.read(), before + 1)


def test_parameters_that_move_away_are_copied() -> None:
    flat = FlatParameters(small_net(), in_place=True)
    first = next(iter(flat.parameters.values()))
    first.data = torch.full_like(first, 7.0)
    after, _ = flat.after_steps()
    assert (after[: first.numel()] == 7).all()
    vector = random_vector(flat.size)
    flat.load(vector)
    assert np.array_equal(first.detach().numpy().ravel(), vector[: first.numel()])
    assert np.array_equal(flat.read(), vector)


def test_parameter_that_another_tensor_shows_stays() -> None:
    """An optimiser of one's own may hold it."""
    model = nn.Linear(3, 2)
    held = model.weight.data
    flat = FlatParameters(model, in_place=True)
    held += 1
    after, _ = flat.after_steps()
    assert np.array_equal(after[:6], held.numpy().ravel())
    assert np.array_equal(after[:6], model.weight.detach().numpy().ravel())
    assert model.bias.data_ptr() == flat.staging[6:].ctypes.data


def test_parameters_in_another_order_or_format_stay_where_they_are() -> None:
    images = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    flat, vector = FlatParameters(images, in_place=True), random_vector(108)
    assert not flat.in_place
    flat.load(vector)
    assert images.weight.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images.weight.detach().contiguous().numpy().ravel(), vector)
    assert not FlatParameters(mixed_net(), in_place=True).in_place
