"""Names the note of a tone from its sound. Each node hears another instrument, in a room with another noise."""

import math
from functools import cache

import torch
from torch import nn

import edgenode

RATE, CLIP = 8000, 2048  # samples a second, samples of a clip
LOWEST, OCTAVES = 130.8, 3  # C3
PARTIALS = torch.arange(1, 9).float()
INSTRUMENTS = {  # the frequency of each partial over the note's, its loudness, its decay a second, the noise
    "flute": (PARTIALS, 0.3**PARTIALS, 0.5, 0.10),
    "clarinet": (2 * PARTIALS - 1, 1 / PARTIALS, 1.0, 0.02),
    "violin": (PARTIALS, 1 / PARTIALS, 0.2, 0.05),
    "bell": (PARTIALS**1.4 / 2, 0.8**PARTIALS, 6.0, 0.01),
}


def play(instrument, count, generator):
    """Clips [count, CLIP] of an instrument, and their notes [count] from 0 for C to 11 for B."""
    ratios, loudness, decay, noise = INSTRUMENTS[instrument]
    notes = torch.randint(12, (count,), generator=generator)
    octaves = torch.randint(OCTAVES, (count,), generator=generator)
    detuned = 0.1 * torch.randn(count, generator=generator)  # in semitones
    pitches = LOWEST * 2 ** (octaves + (notes + detuned) / 12)
    frequencies = pitches[:, None] * ratios  # [count, partials]
    phases = 2 * math.pi * torch.rand(count, len(ratios), generator=generator)
    seconds = torch.arange(CLIP) / RATE
    waves = torch.sin(2 * math.pi * frequencies[:, :, None] * seconds + phases[:, :, None])
    heard = (frequencies < RATE / 2) * loudness  # a higher partial would sound as a lower one
    tones = (heard[:, :, None] * waves).sum(1) * torch.exp(-decay * seconds)
    volumes = 0.3 + torch.rand(count, 1, generator=generator)
    return volumes * tones + noise * torch.randn(count, CLIP, generator=generator), notes


class Tones(torch.utils.data.Dataset):
    """The loudness [frequencies] of clips, in the unit of their mean, and their notes."""

    def __init__(self, instruments, count, seed):
        generator = torch.Generator().manual_seed(seed)
        clips, notes = zip(*(play(instrument, count, generator) for instrument in instruments), strict=True)
        spectra = torch.fft.rfft(torch.cat(clips) * torch.hann_window(CLIP)).abs()[:, : CLIP // 4]
        self.spectra = torch.log1p(20 * spectra / spectra.amax(1, keepdim=True))
        self.targets = torch.cat(notes)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.spectra[i], self.targets[i]


@cache
def tests(seed):
    """Tones of all instruments, made once for all nodes of a simulation."""
    return Tones(INSTRUMENTS, 100, seed)


class Notes(edgenode.Task):
    """The note of a tone.

    Args:
        everything: whether every node hears all instruments, to compare with.
    """

    def __init__(self, everything=False):
        self.everything = everything

    def model(self):
        return nn.Sequential(nn.Linear(CLIP // 4, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 12))

    def train_data(self, node):
        number = int(node.name.rpartition("-")[2]) % len(INSTRUMENTS)
        instruments = list(INSTRUMENTS) if self.everything else [list(INSTRUMENTS)[number]]
        return Tones(instruments, 500, seed=100 * node.seed + number)

    def test_data(self, node):
        return tests(seed=100 * node.seed + 99)
