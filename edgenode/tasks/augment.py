"""Random crop and horizontal flip for a whole batch at once (section 8.2: RandomCrop, RandomHorizontalFlip).

One gather replaces a loop over images, which costs more than the network on a small CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4
"""Pixels of black added on each side before the crop, as for CIFAR."""


@dataclass(frozen=True, slots=True)
class Shifts:
    """One draw for a batch of N: each crop's first row and column in the padded image, and whether it is flipped."""

    rows: Tensor
    columns: Tensor
    flipped: Tensor


def draw(count: int, generator: torch.Generator | None = None) -> Shifts:
    """Draw from a generator, by default from torch's own."""
    offsets = torch.randint(0, 2 * PADDING + 1, (2, count), generator=generator)
    flipped = torch.randint(0, 2, (count,), generator=generator).bool()
    return Shifts(offsets[0], offsets[1], flipped)


def apply(images: Tensor, shifts: Shifts) -> Tensor:
    """Return images of the same shape [N, C, H, W] and type: padded, cropped back to H x W, then flipped."""
    count, channels, height, width = images.shape
    padded = functional.pad(images, (PADDING,) * 4)
    across = torch.arange(width)
    columns = torch.where(shifts.flipped[:, None], across.flip(0), across) + shifts.columns[:, None]
    rows = torch.arange(height) + shifts.rows[:, None]
    device = images.device
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows.to(device)[:, None, :, None],
        columns.to(device)[:, None, None, :],
    ]
