"""A character transformer on the text of Python's standard library. Each node has another package."""

import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import nn

import edgenode

PACKAGES = ["asyncio", "email", "encodings", "pydoc_data"]  # of node-0, node-1, ...: code, code, tables, prose
LENGTH = 64  # characters that the model sees
SIZE = 300_000  # characters of a package that are used


@cache
def windows(package, test=False):
    """The ASCII text of a package as [windows, LENGTH + 1]. Every thirtieth window is for the test.

    A window begins with the last character of the one before.
    """
    files = sorted(Path(sysconfig.get_path("stdlib"), package).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)
    characters = torch.tensor([code for code in text if code < 128][:SIZE])
    rows = characters.unfold(0, LENGTH + 1, LENGTH)
    return rows[(torch.arange(len(rows)) % 30 == 0) == test]


class Windows(torch.utils.data.Dataset):
    """Characters, and the character that follows each of them."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i, :-1], self.rows[i, 1:]


class Transformer(nn.Module):
    def __init__(self, width=64, layers=2):
        super().__init__()
        self.characters = nn.Embedding(128, width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, 128)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH), persistent=False)

    def forward(self, characters):
        """Logits [batch, 128, LENGTH] of the character after each of characters [batch, LENGTH]."""
        x = self.characters(characters) + self.places
        return self.out(self.layers(x, mask=self.mask, is_causal=True)).transpose(1, 2)


class StandardLibrary(edgenode.Task):
    """The next character of Python's standard library.

    Args:
        everything: whether every node has all packages, to compare with.
    """

    def __init__(self, everything=False):
        self.everything = everything

    def model(self):
        return Transformer()

    def train_data(self, node):
        number = int(node.name.rpartition("-")[2]) % len(PACKAGES)
        packages = PACKAGES if self.everything else [PACKAGES[number]]
        return Windows(torch.cat([windows(package) for package in packages]))

    def test_data(self, node):
        return Windows(torch.cat([windows(package, test=True) for package in PACKAGES]))

    def optimizer(self, model):
        return torch.optim.Adam(model.parameters(), lr=3e-3)
