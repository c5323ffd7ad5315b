"""A one-stage detector without anchors, its loss, and the mean average precision (mAP) of what it finds."""

import math

import torch
from torch import nn
from torch.nn import functional

STRIDE = 8  # pixels, the width of a cell
LEAST_SCORE, MOST_OVERLAP = 0.05, 0.5  # of what is found


def layer(inputs, outputs, stride):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()
    )


class Detector(nn.Module):
    """Each cell of a grid says which object has its centre there, and how far its box reaches.

    Takes images [N, 3, H, W]. Returns the logits of the classes [N, cells, classes] and boxes [N, cells, 4] in pixels.
    """

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(layer(3, 16, 2), layer(16, 32, 2), layer(32, 64, 2), layer(64, 64, 1))
        self.reach = nn.Conv2d(64, 4, 1)  # how far a box reaches, which is the same question for every object
        self.head = nn.Conv2d(64, classes, 1)
        nn.init.constant_(self.head.bias, -3.0)  # most cells have no object

    def forward(self, images):
        seen = self.body(images - 0.5)
        logits, reach = (layer(seen).flatten(2).transpose(1, 2) for layer in (self.head, self.reach))
        left_top, right_bottom = (STRIDE * reach.clamp(-4, 4).exp()).chunk(2, dim=2)
        points = centres(*seen.shape[2:])
        return logits, torch.cat([points - left_top, points + right_bottom], dim=2)


def centres(rows, columns):
    """The centres of all cells [cells, 2], as x and y in pixels."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return STRIDE * (torch.stack([x, y], dim=2).flatten(0, 1) + 0.5)


def overlap(one, other):
    """The intersection over the union of boxes [..., 4]."""
    sides = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (one, other)]
    return sides.prod(-1) / (sum(areas) - sides.prod(-1)).clamp(min=1e-6)


def loss_of(logits, boxes, true_boxes, labels):
    """The focal loss of the classes and the loss of the overlap, per cell with an object. Pictures are square."""
    points = centres(*[math.isqrt(logits.shape[1])] * 2)
    middles = (true_boxes[..., :2] + true_boxes[..., 2:]) / 2
    away = (points[None, :, None] - middles[:, None]).abs().amax(-1)  # [N, cells, objects]
    away = away.masked_fill(labels[:, None] < 0, torch.inf)
    distance, nearest = away.min(2)
    has = distance <= 0.75 * STRIDE
    label = labels.gather(1, nearest)
    target = functional.one_hot(label.clamp(min=0), logits.shape[2]) * has[..., None]
    misses = functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    focal = (misses * (logits.sigmoid() - target).square()).sum()
    true = true_boxes.gather(1, nearest[..., None].expand(-1, -1, 4))
    return (focal + (1 - overlap(boxes[has], true[has])).sum()) / has.sum().clamp(min=1)


def found_in(logits, boxes):
    """What is found in one picture, the surest first: boxes [K, 4], labels [K] and scores [K]."""
    scores, labels = logits.sigmoid().max(1)
    order = scores.argsort(descending=True)
    left, kept = order[scores[order] >= LEAST_SCORE], []
    while len(left):
        kept.append(left[0])
        same = (labels[left] == labels[left[0]]) & (overlap(boxes[left], boxes[left[0]]) > MOST_OVERLAP)
        left = left[~same]
    best = torch.stack(kept) if kept else left
    return boxes[best], labels[best], scores[best]


def average_precision(found, truth, label, least=0.5):
    """The area under precision over recall of one class. A box is right if it overlaps one not yet found by 50 %.

    found has the boxes, labels and scores of each picture, and truth the boxes and labels.
    """
    hits, objects = [], 0
    for (boxes, labels, scores), (true_boxes, true_labels) in zip(found, truth, strict=True):
        free = true_boxes[true_labels == label]
        objects += len(free)
        mine = labels == label
        for score, box in sorted(zip(scores[mine].tolist(), boxes[mine], strict=True), key=lambda x: -x[0]):
            overlaps = overlap(free, box)
            right = len(free) > 0 and bool(overlaps.max() >= least)
            hits.append((score, right))
            if right:
                free = free[torch.arange(len(free)) != overlaps.argmax()]
    if not hits or not objects:
        return 0.0
    right = torch.tensor([right for _, right in sorted(hits, key=lambda hit: -hit[0])])
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    return (best_from_here[right].sum() / objects).item()


def mean_average_precision(found, truth):
    """The mean of `average_precision` over the classes that occur in the truth."""
    seen = sorted({label for _, labels in truth for label in labels.tolist() if label >= 0})
    return sum(average_precision(found, truth, label) for label in seen) / len(seen)
