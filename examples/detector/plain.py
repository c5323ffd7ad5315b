"""Trains a detector on the pictures of one board, or of all. Every board sees other objects."""

import argparse

import torch
from detector import Detector, found_in, loss_of, mean_average_precision
from pictures import BOARDS, pictures
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler

STEPS, BATCH, PICTURES = 400, 16, 240

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--board", default="all", help="the number of this board, from 0 to 3 (default: all)")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()
boards = list(range(len(BOARDS))) if given.board == "all" else [int(given.board)]
names = [name for board in boards for name in BOARDS[board]]
steps = STEPS * len(boards)

torch.set_num_threads(1)
torch.manual_seed(10 * given.seed + boards[0])
model = Detector(len(names))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
data = ConcatDataset([pictures(board, names, PICTURES, seed=given.seed) for board in boards])
loader = DataLoader(data, BATCH, sampler=RandomSampler(data, num_samples=steps * BATCH))
tests = {board: pictures(board, names, 100, seed=10**6).tensors for board in boards}


@torch.no_grad()
def precision_on(board):
    images, boxes, labels = tests[board]
    found = [found_in(*one) for one in zip(*model(images), strict=True)]
    return mean_average_precision(found, list(zip(boxes, labels, strict=True)))


def precision():
    return sum(precision_on(board) for board in boards) / len(boards)


for images, boxes, labels in loader:
    loss = loss_of(*model(images), boxes, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()

for board in boards:
    print(f"board {board} finds {', '.join(BOARDS[board])}: mAP {precision_on(board):.1%}")
