"""The batched gather equals a loop that pads, slices and flips one image at a time."""

from __future__ import annotations

import torch
from torch.nn import functional

from edgenode.tasks import augment


def one_by_one(images: torch.Tensor, shifts: augment.Shifts) -> torch.Tensor:
    height, width = images.shape[2:]
    result = []
    for image, row, column, flip in zip(images, shifts.rows, shifts.columns, shifts.flipped, strict=True):
        padded = functional.pad(image, (4, 4, 4, 4))
        crop = padded[:, int(row) : int(row) + height, int(column) : int(column) + width]
        result.append(crop.flip(2) if flip else crop)
    return torch.stack(result)


def test_batch_equals_per_image_reference() -> None:
    generator = torch.Generator().manual_seed(3)
    for dtype in (torch.uint8, torch.float32):
        images = torch.randint(0, 256, (64, 3, 10, 12), generator=generator).to(dtype)
        shifts = augment.draw(64, generator)
        augmented = augment.apply(images, shifts)
        assert augmented.dtype == dtype
        assert torch.equal(augmented, one_by_one(images, shifts))


def test_draw_reaches_every_offset_and_both_flips() -> None:
    shifts = augment.draw(2000, torch.Generator().manual_seed(0))
    assert set(shifts.rows.tolist()) == set(shifts.columns.tolist()) == set(range(9))
    assert 900 < int(shifts.flipped.sum()) < 1100
