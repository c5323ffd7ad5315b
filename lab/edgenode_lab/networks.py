"""The paper's networks that no device needs (sections 8.2 and 8.3: ResNet-110, VGG11 without BatchNorm), and LeNet-5.

edgenode finds them by entry points of edgenode.models. Each is a function of the number of classes, the number of
channels and the image size. edgenode itself has ResNet-20.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgenode.tasks.models import Halve, resnet


def resnet110(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """He et al. 2015, for small images: 1,727,962 parameters on three channels and 10 classes."""
    return resnet(18, num_classes, in_channels, image_size)


def lenet5(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """LeCun et al. 1998 with ReLU and max-pooling: 61,706 parameters on one channel and 10 classes.

    Raises:
        ValueError: the images are too small.
    """
    padding = 2 if image_size < 32 else 0  # LeCun padded the 28x28 digits to 32x32
    side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
    if side < 1:
        raise ValueError("LeNet-5 needs at least 12x12")
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=padding), nn.ReLU(), Halve(),
        nn.Conv2d(6, 16, 5), nn.ReLU(), Halve(),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, num_classes),
    )  # fmt: skip


class VGG11(nn.Module):
    """VGG11 without BatchNorm, one hidden layer of 512: 9,488,266 parameters, the paper's 37.95 MB.

    Raises:
        ValueError: the images are too small.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        side = image_size // 32
        if side < 1:
            raise ValueError("VGG11 halves the image five times and needs at least 32x32")
        self.features = _vgg_features(in_channels)
        self.classifier = nn.Sequential(nn.Linear(512 * side * side, 512), nn.ReLU(), nn.Linear(512, num_classes))
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                # Without BatchNorm, larger weights diverge within a few steps at the paper's learning rate of 0.05.
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def _vgg_features(in_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = in_channels
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width == 0:
            layers.append(Halve())
            continue
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
        before = width
    return nn.Sequential(*layers)
