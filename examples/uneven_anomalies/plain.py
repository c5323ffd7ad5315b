"""Finds anomalies in the readings of machines with an autoencoder. Boards have 10 to 10,000 readings."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

READINGS = [10, 100, 1000, 5000, 10000]  # of each board
MODES_SEEN = 5  # by each board, of MODES in which its machine can run
SENSORS, MODES, FREEDOM = 24, 12, 3
STEPS, BATCH = 800, 64

fixed = torch.Generator().manual_seed(7)
centres = torch.randn(MODES, SENSORS, generator=fixed)
directions = 0.6 * torch.randn(MODES, FREEDOM, SENSORS, generator=fixed)


def readings(count, modes, noise, generator):
    """Readings [count, SENSORS] of a machine that works well, in some of its modes."""
    mode = modes[torch.randint(len(modes), (count,), generator=generator)]
    load = torch.randn(count, FREEDOM, generator=generator)
    clean = torch.tanh(centres[mode] + torch.einsum("nf,nfs->ns", load, directions[mode]))
    return clean + noise * torch.randn(count, SENSORS, generator=generator)


def noise(board):
    return 0.05 + 0.02 * board


def seen_by(board, seed):
    """The readings that a board has: its machine was in five modes so far."""
    modes = (3 * board + torch.arange(MODES_SEEN)) % MODES
    return readings(READINGS[board], modes, noise(board), torch.Generator().manual_seed(1000 * seed + board + 1))


def tests_of(board, seed, count=1000):
    """As many good readings as broken ones of a board, in any mode. Some sensors of the broken ones show another's."""
    generator = torch.Generator().manual_seed(1000 * seed + board + 501)
    good, broken, other = (readings(count, torch.arange(MODES), noise(board), generator) for _ in range(3))
    broken = torch.where(torch.rand(count, SENSORS, generator=generator) < 0.15, other, broken)
    return good, broken


def error(readings):
    """The error with which the model shows a reading that it has compressed: large for what it does not know."""
    return (model(readings) - readings).square().mean(1)


@torch.no_grad()
def auc(board):
    """The probability that a broken reading of a board has a larger error than a good one."""
    good, broken = map(error, tests_of(board, given.seed))
    return (broken[:, None] > good).float().mean().item()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--part", type=int, help="the board whose readings to train on (default: those of all)")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()
boards = range(len(READINGS)) if given.part is None else [given.part]

torch.set_num_threads(1)
torch.manual_seed(given.seed)
encoder = nn.Sequential(nn.Linear(SENSORS, 64), nn.ReLU(), nn.Linear(64, 8))
decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, SENSORS))
model = nn.Sequential(encoder, decoder)
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
data = TensorDataset(torch.cat([seen_by(board, given.seed) for board in boards]))
loader = DataLoader(data, BATCH, sampler=RandomSampler(data, replacement=True, num_samples=STEPS * BATCH))


def score():
    """The AUC on the board that this is."""
    return auc(boards[0])


for (batch,) in loader:
    loss = error(batch).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()

print("AUC on each board:", *(f"{auc(board):.3f}" for board in range(len(READINGS))))
