"""Fine-tunes a character transformer by LoRA. Only the adapters are trained and exchanged.

All nodes have the same base model, which pretrain.py makes. Each node has the text of another package.
"""

import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import edgenode

BASE = Path(__file__).with_name("base.pt")
PACKAGES = ["asyncio", "email", "encodings", "pydoc_data"]  # of node-0, node-1, ...: code, code, tables, prose
LENGTH, WIDTH, HEADS, RANK = 64, 64, 4, 4
SIZE = 300_000  # characters of a package that are used


@cache
def windows(package, test=False):
    """The ASCII text of a package as [windows, LENGTH + 1]. Every thirtieth window is for the test."""
    files = sorted(Path(sysconfig.get_path("stdlib"), package).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)
    characters = torch.tensor([code for code in text if code < 128][:SIZE])
    rows = characters.unfold(0, LENGTH + 1, LENGTH)
    return rows[(torch.arange(len(rows)) % 30 == 0) == test]


class Block(nn.Module):
    """Attention to what came before, and a layer for each place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        heads = self.attend(self.first(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.join(found.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.widen(self.second(x))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.characters = nn.Embedding(128, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128))

    def forward(self, characters):
        """Logits [batch, 128, LENGTH] of the character after each of characters [batch, LENGTH]."""
        return self.out(self.blocks(self.characters(characters) + self.places)).transpose(1, 2)


class Adapted(nn.Module):
    """A frozen linear layer plus a trained matrix of a low rank, which is zero at the start."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down = nn.Parameter(torch.randn(RANK, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, x):
        return self.layer(x) + functional.linear(functional.linear(x, self.down), self.up)


class FineTuning(edgenode.Task):
    """The next character of a package, by a frozen base model with adapters.

    Args:
        everything: whether every node has all packages, to compare with.
    """

    def __init__(self, everything=False):
        self.everything = everything

    def model(self):
        if not BASE.exists():
            raise edgenode.ConfigError(f"there is no base model yet: run python {BASE.with_name('pretrain.py')}")
        model = Transformer()
        model.load_state_dict(torch.load(BASE))
        model.requires_grad_(False)
        for block in model.blocks:
            for name in ("attend", "join", "widen", "narrow"):
                setattr(block, name, Adapted(getattr(block, name)))
        return model

    def train_data(self, node):
        number = int(node.name.rpartition("-")[2]) % len(PACKAGES)
        packages = PACKAGES if self.everything else [PACKAGES[number]]
        return Windows(torch.cat([windows(package) for package in packages]))

    def test_data(self, node):
        return Windows(torch.cat([windows(package, test=True) for package in PACKAGES]))


class Windows(torch.utils.data.Dataset):
    """Characters, and the character that follows each of them."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i, :-1], self.rows[i, 1:]
