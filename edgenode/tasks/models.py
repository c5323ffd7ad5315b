"""Builds a network by name, with random weights.

The names are small-cnn, for the smallest devices, and resnet20. Installed packages add others, as entry points of
edgenode.models: functions of the number of classes, the number of channels and the image size that return a network.
Any other name is looked up in torchvision.models.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenode.entry_points import Group
from edgenode.errors import ConfigError, first_line

GROUP_SIZE = 2
"""Channels normalised together by norm="group" (section 8.3: "group size of 2")."""

NORMS = ("batch", "group")


def build(name: str, num_classes: int, in_channels: int, image_size: int, norm: str = "batch") -> nn.Module:
    """Return the network `name`: images [N, in_channels, image_size, image_size] -> logits [N, num_classes].

    Weights are drawn from torch's default generator. norm="group" replaces BatchNorm by GroupNorm: running statistics
    are never exchanged, and diverge under skewed data (section 8.3).

    Raises ConfigError for an unknown name, or images that do not fit the network.
    """
    if norm not in NORMS:
        raise ConfigError(f"norm {norm!r} is unknown: choose one of {', '.join(NORMS)}")
    make = _provided(name) if name in MODELS else partial(_from_torchvision, name)
    try:
        model = make(num_classes, in_channels, image_size)
        if norm == "group":
            _batch_to_group_norm(model)
        _probe(model, in_channels, image_size)
    except (RuntimeError, AssertionError, ValueError) as exc:
        size = f"{in_channels}x{image_size}x{image_size}"
        raise ConfigError(f"model {name!r} cannot take images of {size}: {first_line(exc)}") from exc
    return model


def refuse_unknown(name: str) -> None:
    """Raise ConfigError if `build` does not know this name. Builds nothing."""
    if name in MODELS:
        _provided(name)
    elif missing := MODELS.in_laboratory(name):
        raise ConfigError(f"model {name!r}: {missing}")
    elif name not in _torchvision_names():
        raise ConfigError(_unknown(name))


def _provided(name: str) -> Make:
    try:
        return MODELS[name]
    except ConfigError as exc:
        raise ConfigError(f"model {name!r}: {exc}") from exc


def names() -> tuple[str, ...]:
    """Return every name that `build` knows, our own first."""
    provided = MODELS.names()
    return (*provided, *(name for name in _torchvision_names() if name not in provided))


def _probe(model: nn.Module, in_channels: int, image_size: int) -> None:
    """Pass one blank image, so that a size that does not fit fails now instead of in the first round."""
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, in_channels, image_size, image_size))
    model.train()


def _batch_to_group_norm(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _group_norm(child.num_features, GROUP_SIZE))


def _group_norm(channels: int, group_size: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // group_size if channels % group_size == 0 else 1, channels)


class Halve(nn.MaxPool2d):
    """2x2 max-pooling, faster without a gradient. The built-in always computes the positions of the maxima, which only
    a gradient needs. On a CPU that makes the evaluation of a small network 50 % slower."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return functional.max_pool2d(images, 2)
        height, width = (side // 2 * 2 for side in images.shape[2:])
        rows = torch.maximum(images[:, :, 0:height:2], images[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


# small-cnn ---------------------------------------------------------------------------------------------


def _small_cnn(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Three 3x3 convolutions with GroupNorm and one linear layer: 19,338 parameters on the 8x8 digits.

    Each layer halves images that are at least 6 wide: 8 -> 4, 4, 4 and 28 -> 14, 7, 3 and 32 -> 16, 8, 4. Adaptive
    pooling is not used, because it has no deterministic gradient on CUDA.
    """
    layers: list[nn.Module] = []
    side = image_size
    widths = (in_channels, 16, 32, 32)
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), _group_norm(after, 4)]
        if side >= 6:
            layers.append(Halve())
            side //= 2
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, num_classes))


# ResNet for small images -------------------------------------------------------------------------------


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters (He et al. 2015, option A)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.grown = stride, after - before

    def forward(self, images: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(images)))
        return functional.relu(self.bn2(self.conv2(out)) + self._shortcut(images))

    def _shortcut(self, images: Tensor) -> Tensor:
        if self.grown == 0:
            return images
        half = self.grown // 2
        return functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))


class _ResNet(nn.Module):
    """He et al. 2015, section 4.2: a stem and three stages of `blocks` blocks; 6 * blocks + 2 layers."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.fc = nn.Linear(64, num_classes)
        self.apply(_he_initial)

    def forward(self, images: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(images)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.fc(out.mean(dim=(2, 3)))
        return logits


def _stage(before: int, after: int, stride: int, blocks: int) -> nn.Sequential:
    first = _BasicBlock(before, after, stride)
    return nn.Sequential(first, *(_BasicBlock(after, after, 1) for _ in range(blocks - 1)))


def _he_initial(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


def resnet(blocks: int, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """A ResNet of 6 * blocks + 2 layers."""
    del image_size  # the mean over the last stage fits any size
    return _ResNet(blocks, num_classes, in_channels)


Make = Callable[[int, int, int], nn.Module]
"""(classes, channels, image size) -> a network."""

_OWN: dict[str, Make] = {"small-cnn": _small_cnn, "resnet20": partial(resnet, 3)}

MODELS: Group[Make] = Group("edgenode.models", Callable, _OWN)


# torchvision -------------------------------------------------------------------------------------------


def _torchvision_names() -> list[str]:
    import torchvision

    found: list[str] = torchvision.models.list_models(module=torchvision.models)
    return found


def _from_torchvision(name: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    import torchvision

    refuse_unknown(name)
    options: dict[str, object] = {}
    if name in {"googlenet", "inception_v3"}:
        # Without auxiliary heads the output is a single tensor in training too. init_weights avoids a warning.
        options = {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        options = {"image_size": image_size}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    if in_channels == 1:
        # A hook instead of a wrapper keeps torchvision's parameter names, also in the exported file.
        model.register_forward_pre_hook(_grey_to_rgb)
    return model


def _grey_to_rgb(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].expand(-1, 3, -1, -1), *args[1:])


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)[0]
    own = ", ".join(MODELS.names())
    return f"model {name!r} is unknown: did you mean {near!r}? (own: {own}; or any name of torchvision.models)"
