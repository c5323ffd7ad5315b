"""Predicts the next character of a text. Every board has the text of another package of Python's standard library."""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

PACKAGES = ["asyncio", "email", "encodings", "pydoc_data"]  # of each board: code, code, tables, prose
LENGTH, SIZE = 32, 200_000  # characters of a window, and of a package
STEPS, BATCH, WIDTH = 400, 16, 64


def windows(package, test=False):
    """The ASCII text of a package as [windows, LENGTH + 1]. Every thirtieth window is for the test."""
    files = sorted(Path(sysconfig.get_path("stdlib"), package).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)
    rows = torch.tensor([code for code in text if code < 128][:SIZE]).unfold(0, LENGTH + 1, LENGTH)
    return rows[(torch.arange(len(rows)) % 30 == 0) == test]


class Writer(nn.Module):
    """Reads a text with a GRU. What it reads a character as is also what it compares the next one with."""

    def __init__(self):
        super().__init__()
        self.read = nn.Embedding(128, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.write = nn.Linear(WIDTH, 128)
        nn.init.normal_(self.read.weight, std=WIDTH**-0.5)
        self.write.weight = self.read.weight  # tied: one tensor under two names

    def forward(self, characters):
        """Logits [batch, LENGTH, 128] of the character after each of characters [batch, LENGTH]."""
        return self.write(self.gru(self.read(characters))[0])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--part", type=int, help="the board whose text to train on (default: the texts of all)")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()
packages = PACKAGES if given.part is None else [PACKAGES[given.part]]

torch.set_num_threads(1)
torch.manual_seed(given.seed)
model = Writer()
optimizer = torch.optim.RMSprop(model.parameters(), lr=4e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
data = TensorDataset(torch.cat([windows(package) for package in packages]))
loader = DataLoader(data, BATCH, sampler=RandomSampler(data, replacement=True, num_samples=STEPS * BATCH))
tests = torch.cat([windows(package, test=True) for package in PACKAGES])


def loss_of(rows):
    return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def measure():
    with torch.no_grad():
        loss = torch.stack([loss_of(rows) for rows in tests.chunk(8)]).mean()
    return {"loss": loss.item(), "perplexity": loss.exp().item()}


for (rows,) in loader:
    loss = loss_of(rows)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()

print("perplexity of the text of all boards: {perplexity:.2f}".format(**measure()))
