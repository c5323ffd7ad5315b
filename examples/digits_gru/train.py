"""Reads handwritten digits row by row with a GRU."""

import argparse

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

import edgenode
from edgenode.tasks import datasets  # only for the images, which the package carries

STEPS, BATCH = 1200, 32


class Digits(Dataset):
    """The rows of an image [8, 8], from 0 to 1, and its digit. Part "1/4" is the second quarter of the images."""

    def __init__(self, split, part="0/1"):
        digits = datasets.load("digits")
        index, parts = map(int, part.split("/"))
        self.images = getattr(digits, f"{split}_images")[index::parts]
        self.labels = getattr(digits, f"{split}_labels")[index::parts]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i, 0].float() / 16, self.labels[i]


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 88, batch_first=True)
        self.out = nn.Sequential(nn.Dropout(0.2), nn.Linear(88, 10))

    def forward(self, rows):
        _, last = self.gru(rows)
        return self.out(last[0])


parser = argparse.ArgumentParser()
parser.add_argument("--part", default="0/1", help="which part of the images to train on, as in 1/4")
part = parser.parse_args().part

torch.manual_seed(0)
model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
data = Digits("train", part)
loader = DataLoader(data, BATCH, sampler=RandomSampler(data, num_samples=STEPS * BATCH))
tests = DataLoader(Digits("test"), batch_size=256)
mesh = edgenode.Mesh(model, "run.toml", optimizer, scheduler)


@mesh.evaluate
def accuracy():
    model.eval()
    with torch.no_grad():
        right = sum((model(rows).argmax(1) == digits).sum().item() for rows, digits in tests)
    model.train()
    return right / len(tests.dataset)


for rows, digits in mesh.loop(loader):
    loss = functional.cross_entropy(model(rows), digits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    mesh.step(loss=loss)

print(f"test accuracy {accuracy():.2%}")
