"""What messages weigh: vectors of the paper's networks, compressed and encoded as a push is, and counted.

Which entries are kept and how far apart they lie does not depend on what was learned before, so random vectors do.
"""

from __future__ import annotations

import numpy as np

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Compressor, Layout, Random, TopK, as_float32, as_int8, keep_all
from edgenode.experiments.presets import PAPER_EPOCHS, RESNET20, RESNET110, VGG11

PAPER_ROUNDS = PAPER_EPOCHS * 391
_PAPER_GOSSIP, _OUR_GOSSIP = 40, 2

NOTES = (
    "Bytes of one message as they are encoded, header and checksum included, of random vectors of the network's "
    f"tensors; factors are against 4 bytes per parameter. The whole run has {PAPER_ROUNDS:,} training rounds and then "
    f"SCSP's uncompressed ones: the paper's {_PAPER_GOSSIP} on the ring, or the {_OUR_GOSSIP} in which the one-peer "
    "exponential graph averages four nodes exactly. At top-0.1% the paper prints 665 for ResNet-20 beside 1.07 MB and "
    "0.0018 MB, which are 595."
)
HEADINGS = (
    "network", "compressor", "message, bytes", "factor", "paper",
    f"whole run, {_PAPER_GOSSIP} gossip rounds", f"whole run, {_OUR_GOSSIP}", "paper",
)  # fmt: skip

# network -> (name in models, compressor -> (the paper's factor of a message, of a whole run))
_PRINTED: dict[str, tuple[str, dict[str, tuple[float | None, float | None]]]] = {
    RESNET20: ("resnet20", {
        "top-10%": (6.68, None), "top-1%": (66.8, 64.3), "top-0.1%": (665, 466),
        "4 bits": (7.96, None), "2 bits": (15.84, None), "1 bit": (31.36, None),
    }),
    VGG11: ("vgg11", {"top-10%": (6.66, None), "top-1%": (66.7, 63.9), "top-0.1%": (667, 467)}),
    RESNET110: ("resnet110", {"top-1%": (66.4, 63.6), "top-0.1%": (611, 438)}),
}  # fmt: skip


def lines() -> list[list[str]]:
    """The table: the paper's rows, top-k with float32 values as in the paper and with int8 as is our default."""
    rows = []
    for network, (model, printed) in _PRINTED.items():
        layout = layout_of(model)
        for name, (of_message, of_run) in printed.items():
            for values in ("float32", "int8") if name.startswith("top") else ("",):
                size = message_bytes(layout, compressor(name, values))
                label = f"{name}, {values}" if values else name
                runs = [f"{whole_run(layout, size, k):.4g}" for k in (_PAPER_GOSSIP, _OUR_GOSSIP)]
                factor = f"{4 * layout.size / size:.4g}"
                rows.append([network, label, str(size), factor, _shown(of_message), *runs, _shown(of_run)])
    return rows


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:g}"


def layout_of(model: str) -> Layout:
    """The tensors of a network for CIFAR-10."""
    from edgenode.tasks import models

    network = models.build(model, 10, 3, 32)
    return Layout(tuple(parameter.numel() for parameter in network.parameters()))


def compressor(name: str, values: str) -> Compressor:
    """From a row's name: "top-1%" or "4 bits"."""
    number = name.removeprefix("top-").rstrip("%bits ")
    if name.startswith("top"):
        return Compressor(TopK(float(number) / 100), as_int8 if values == "int8" else as_float32)
    return Compressor(keep_all, Random(int(number)))


def message_bytes(layout: Layout, compress: Compressor) -> int:
    """What one push of a random vector weighs."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(layout.size, dtype=np.float32)
    return len(codec.encode(compress(vector, layout, rng), layout))


def whole_run(layout: Layout, message: int, gossip_rounds: int) -> float:
    """The factor of training rounds with this message and uncompressed gossip rounds, against all uncompressed."""
    dense = message_bytes(layout, Compressor(keep_all, as_float32))
    sent = PAPER_ROUNDS * message + gossip_rounds * dense
    return (PAPER_ROUNDS + gossip_rounds) * 4 * layout.size / sent
