"""Networks by name: their sizes, images that do not fit, and unknown names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest
import torch
from torch import nn

from edgenode.entry_points import Group
from edgenode.errors import ConfigError
from edgenode.tasks import models
from tests.distributions import forget, install


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "channels", "size", "count"),
    [
        ("small-cnn", 1, 8, 19_338),
        ("small-cnn", 3, 32, 19_626),
        ("resnet20", 3, 32, 269_722),
    ],
)
def test_parameter_counts(name: str, channels: int, size: int, count: int) -> None:
    assert parameters(models.build(name, 10, channels, size)) == count


@pytest.mark.parametrize("size", [8, 12, 16, 28, 32])
def test_small_cnn_stays_small_at_every_size(size: int) -> None:
    model = models.build("small-cnn", 10, 1, size)
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)
    assert 10_000 <= parameters(model) <= 25_000


@pytest.mark.parametrize("size", [2, 7, 28])
def test_pooling_without_gradient_is_bit_identical(size: int) -> None:
    images, pool = torch.randn(3, 4, size, size + 1), models.Halve()
    with torch.no_grad():
        assert torch.equal(pool(images), nn.functional.max_pool2d(images, 2))
    assert pool(images.requires_grad_()).grad_fn is not None


def test_group_norm_replaces_batch_norm_in_channel_pairs() -> None:
    model = models.build("resnet20", 10, 3, 32, norm="group")
    kinds = [type(module) for module in model.modules()]
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert nn.BatchNorm2d not in kinds
    assert len(norms) == 19
    assert all(norm.num_channels == 2 * norm.num_groups for norm in norms)
    assert parameters(model) == 269_722
    assert not list(model.buffers())


def test_shortcut_halves_images_and_pads_channels() -> None:
    block = models.build("resnet20", 10, 3, 32).layer2[0]
    images = torch.arange(16 * 4 * 4, dtype=torch.float32).view(1, 16, 4, 4)
    shortcut = block._shortcut(images)
    assert shortcut.shape == (1, 32, 2, 2)
    assert torch.equal(shortcut[:, 8:24], images[:, :, ::2, ::2])
    assert not shortcut[:, :8].any() and not shortcut[:, 24:].any()


def test_torchvision_on_grey_images_keeps_parameter_names() -> None:
    model = models.build("squeezenet1_1", 7, 1, 32)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert "features.0.weight" in model.state_dict()


def test_torchvision_auxiliary_heads_are_removed() -> None:
    with torch.random.fork_rng():
        model = models.build("googlenet", 10, 3, 32)
    assert model.training
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_same_generator_state_gives_the_same_weights() -> None:
    def weights() -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return nn.utils.parameters_to_vector(models.build("resnet20", 10, 3, 32).parameters())

    assert torch.equal(weights(), weights())


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'resnet-20' is unknown: did you mean 'resnet20'"):
        models.build("resnet-20", 10, 3, 32)


def test_unknown_norm_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="'layer' is unknown: choose one of batch, group"):
        models.build("resnet20", 10, 3, 32, norm="layer")


def test_unfit_image_size_fails_when_built() -> None:
    with pytest.raises(ConfigError, match=r"model 'alexnet' cannot take images of 3x8x8: "):
        models.build("alexnet", 10, 3, 8)


def test_network_of_the_laboratory_is_not_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG-11 is in both, and means the paper's, with and without the laboratory."""
    monkeypatch.setattr("edgenode.entry_points.entry_points", lambda group: EntryPoints(()))
    monkeypatch.setattr(models, "MODELS", Group("edgenode.models", Callable, {}))
    with pytest.raises(ConfigError, match=r"^model 'vgg11': it is part of edgenode-lab, .*: pip install edgenode-lab$"):
        models.build("vgg11", 10, 3, 32)
    assert "vgg13" in models.names()


# --- models of packages

NET = """
from torch import nn

def net(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    points = {"linear": "acme_models:net", "resnet20": "acme_models:net", "broken": "absent_module:net"}
    install(tmp_path, monkeypatch, {"edgenode.models": points}, NET, "acme_models")
    yield
    forget(models.MODELS)


@pytest.mark.usefixtures("package")
def test_model_of_a_package_is_built_by_its_name() -> None:
    models.refuse_unknown("linear")
    assert [tuple(p.shape) for p in models.build("linear", 10, 1, 8).parameters()] == [(10, 64), (10,)]
    assert len(list(models.build("resnet20", 10, 1, 28).parameters())) == 59  # a package cannot replace it
    assert models.names()[:2] == models.MODELS.own
    assert {"broken", "linear"} < set(models.names())


@pytest.mark.usefixtures("package")
def test_model_package_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model 'broken': acme 1\.0 cannot be imported: ModuleNotFoundError"):
        models.refuse_unknown("broken")
    with pytest.raises(ConfigError, match=r"'liner' is unknown: did you mean 'linear'\? \(own: .*, broken, .*linear"):
        models.refuse_unknown("liner")
