"""Sorts handwritten digits into boxes. Every board has its own order of the boxes."""

import argparse

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from edgenode.tasks import datasets  # only for the images, which the package carries

STEPS, BATCH, BOARDS = 600, 32, 4


def images_of(split, board, parts):
    """Images [N, 1, 8, 8] and the box of each, on this board."""
    digits = datasets.load("digits")
    boxes = torch.randperm(10, generator=torch.Generator().manual_seed(board))
    images, labels = getattr(digits, f"{split}_images"), getattr(digits, f"{split}_labels")
    return TensorDataset(images[board % parts :: parts].float() / 16, boxes[labels[board % parts :: parts]])


class Sorter(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(self.body(images))


parser = argparse.ArgumentParser()
parser.add_argument("--board", type=int, default=0, help="the number of this board, which decides on its boxes")
board = parser.parse_args().board

torch.manual_seed(board)
torch.set_num_threads(1)
model = Sorter()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
data, tests = images_of("train", board, BOARDS), images_of("test", board, 1)
loader = DataLoader(data, BATCH, sampler=RandomSampler(data, num_samples=STEPS * BATCH))


def accuracy():
    images, boxes = tests.tensors
    with torch.no_grad():
        return (model(images).argmax(1) == boxes).float().mean().item()


for images, boxes in loader:
    loss = functional.cross_entropy(model(images), boxes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

print(f"board {board} sorts {accuracy():.2%} of the test images")
