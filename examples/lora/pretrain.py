"""Trains the base model of the adapters on the modules of the standard library that are not in a package."""

import argparse

import torch
from adapters import BASE, PACKAGES, Transformer, windows
from torch.nn import functional

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=1000)
steps = parser.parse_args().steps

torch.set_num_threads(1)
torch.manual_seed(0)
model, rows = Transformer(), windows(".")
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(1, steps + 1):
    batch = rows[torch.randint(len(rows), (16,))]
    loss = functional.cross_entropy(model(batch[:, :-1]), batch[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(f"step {step} of {steps}, loss {loss:.2f}", flush=True)
torch.save(model.state_dict(), BASE)

with torch.no_grad():
    for package in PACKAGES:
        test = windows(package, test=True)
        print(f"{package}: {(model(test[:, :-1]).argmax(1) == test[:, 1:]).float().mean():.1%}")
