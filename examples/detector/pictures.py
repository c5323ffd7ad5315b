"""Draws pictures of shapes on textured backgrounds, with their boxes: the data of the boards, always the same."""

import torch
from torch.nn import functional
from torch.utils.data import TensorDataset

SIZE = 48  # pixels, the width and height of a picture
MOST = 3  # objects in a picture

# Whether a point of a box, from -1 to 1 across and down, belongs to the shape.
SHAPES = {
    "disc": lambda x, y: x**2 + y**2 <= 1,
    "frame": lambda x, y: (x.abs() > 0.5) | (y.abs() > 0.5),
    "triangle": lambda x, y: 2 * x.abs() <= y + 1,
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
    "diamond": lambda x, y: x.abs() + y.abs() <= 1,
    "hourglass": lambda x, y: x.abs() <= y.abs(),
    "square": lambda x, y: x.abs() <= 1,
    "plus": lambda x, y: (x.abs() <= 0.35) | (y.abs() <= 0.35),
    "bars": lambda x, y: y.abs() >= 0.35,
    "cross": lambda x, y: (x.abs() - y.abs()).abs() <= 0.4,
    "bow": lambda x, y: y.abs() <= x.abs(),
    "chequer": lambda x, y: x * y > 0,
}
BOARDS = [list(SHAPES)[i : i + 3] for i in range(0, len(SHAPES), 3)]  # the objects that each board sees


def texture(random):
    """A background [3, SIZE, SIZE]: two colours that blend in waves, and noise."""
    coarse = torch.rand(1, 1, 6, 6, generator=random)
    blend = functional.interpolate(coarse, size=SIZE, mode="bicubic")[0].clamp(0, 1)
    one, other = torch.rand(2, 3, 1, 1, generator=random)
    return blend * one + (1 - blend) * other


def place(taken, random):
    """A box [4], as left, top, right and bottom, that overlaps none of those taken. None if there is no place."""
    for _ in range(20):
        width, height = torch.randint(10, 23, (2,), generator=random).tolist()
        left = int(torch.randint(0, SIZE - width + 1, (1,), generator=random))
        top = int(torch.randint(0, SIZE - height + 1, (1,), generator=random))
        box = (left, top, left + width, top + height)
        if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            return box
    return None


def draw(names, random):
    """One picture [3, SIZE, SIZE] with values from 0 to 1, the boxes of its objects, and their numbers in names."""
    picture, boxes, labels = texture(random), [], []
    for _ in range(int(torch.randint(1, MOST + 1, (1,), generator=random))):
        box = place(boxes, random)
        if box is None:
            break
        left, top, right, bottom = box
        label = int(torch.randint(len(names), (1,), generator=random))
        y = (torch.arange(bottom - top) + 0.5) / (bottom - top) * 2 - 1
        x = (torch.arange(right - left) + 0.5) / (right - left) * 2 - 1
        shape = SHAPES[names[label]](x[None, :], y[:, None]).expand(len(y), len(x))
        part = picture[:, top:bottom, left:right]
        away = torch.where(part.mean((1, 2)) < 0.5, 1.0, -1.0) * (0.15 + 0.35 * torch.rand(3, generator=random))
        part += shape * away[:, None, None]
        boxes.append(box)
        labels.append(label)
    picture += 0.08 * torch.randn(picture.shape, generator=random)
    return picture.clamp(0, 1), boxes, labels


def pictures(board, names, count, seed):
    """Pictures of a board, as images [N, 3, SIZE, SIZE], boxes [N, MOST, 4] and labels [N, MOST], -1 for no object.

    A label is a number in names, which has the board's objects and may have others.
    """
    random = torch.Generator().manual_seed(1_000_003 * seed + board)
    images, boxes, labels = [], torch.zeros(count, MOST, 4), torch.full((count, MOST), -1)
    for i in range(count):
        image, its_boxes, its_labels = draw(BOARDS[board], random)
        images.append(image)
        boxes[i, : len(its_boxes)] = torch.tensor(its_boxes)
        labels[i, : len(its_labels)] = torch.tensor([names.index(BOARDS[board][label]) for label in its_labels])
    return TensorDataset(torch.stack(images), boxes, labels)
