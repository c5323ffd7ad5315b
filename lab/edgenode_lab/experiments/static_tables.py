"""The tables that need no training: the size of messages, and what one device needs for its share of a batch."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Compressor, Layout, TopK, keep_all
from edgenode.core.algorithm.partial_sums import division
from edgenode.core.algorithm.rounding import QUANTISE, Random
from edgenode.core.topology.allreduce import Allreduce
from edgenode.observability import plotting
from edgenode.storage.filesystem import write_atomically
from edgenode_lab.experiments.report import table
from edgenode_lab.experiments.scales import NODES, PAPER_ROUNDS, RESNET20, RESNET110, VGG11


@dataclass(frozen=True)
class StaticTable:
    """A table of numbers that are computed or counted, and do not depend on a trained model."""

    name: str
    title: str
    notes: str
    headings: Sequence[str]
    lines: Callable[[], list[list[str]]]
    draw: Callable[[Sequence[str], Sequence[Sequence[str]], Path], None] | None = None


def write(static_table: StaticTable, out: Path) -> None:
    """Compute, and write NAME.md, NAME.csv and, if it has a figure and matplotlib is there, NAME.png into ``out``."""
    name, title, lines = static_table.name, static_table.title, static_table.lines()
    out.mkdir(parents=True, exist_ok=True)
    draw = static_table.draw if plotting.available() else None
    figure = f"\n![{title}]({name}.png)\n" if draw else ""
    text = f"# {title}\n\n    edgenode experiment {name}\n\n{static_table.notes}\n\n"
    write_atomically(out / f"{name}.md", f"{text}{table(static_table.headings, lines)}\n{figure}")
    plain = io.StringIO()
    csv.writer(plain, lineterminator="\n").writerows([static_table.headings, *lines])
    write_atomically(out / f"{name}.csv", plain.getvalue())
    if draw:
        draw(static_table.headings, lines, out / f"{name}.png")


# message sizes -----------------------------------------------------------------------------------------
#
# Random vectors give the sizes of real messages: which entries are kept and how far apart they lie does not depend on
# what a model has learned.

_PAPER_GOSSIP = 40

_SIZE_NOTES = (
    "Bytes of one encoded message, header and checksum included, for random vectors of the network's tensors. Factors "
    f"are against 4 bytes per parameter. The whole run has {PAPER_ROUNDS:,} training rounds and then SCSP's "
    f"uncompressed ones: the paper's {_PAPER_GOSSIP} on the ring, or an allreduce, in which each of four nodes sends "
    "1.5 models and averages exactly, with values in float32 or int8. A rolling message is the mean over the blocks. "
    "At top-0.1% the paper prints 665 for ResNet-20 next to 1.07 MB and 0.0018 MB, which are 595."
)
_SIZE_HEADINGS = (
    "network", "compressor", "message, bytes", "bits per kept entry", "factor", "paper",
    f"whole run, {_PAPER_GOSSIP} gossip rounds", "whole run, allreduce", "whole run, allreduce in int8",
    "paper",
)  # fmt: skip

# network -> (name in models, compressor -> (the paper's factor of a message, of a whole run))
_PAPER_FACTORS: dict[str, tuple[str, dict[str, tuple[float | None, float | None]]]] = {
    RESNET20: ("resnet20", {
        "top-10%": (6.68, None), "top-1%": (66.8, 64.3), "top-0.1%": (665, 466),
        "4 bits": (7.96, None), "2 bits": (15.84, None), "1 bit": (31.36, None), "rolling 1%": (None, None),
    }),
    VGG11: ("vgg11", {
        "top-10%": (6.66, None), "top-1%": (66.7, 63.9), "top-0.1%": (667, 467), "rolling 1%": (None, None),
    }),
    RESNET110: ("resnet110", {"top-1%": (66.4, 63.6), "top-0.1%": (611, 438), "rolling 1%": (None, None)}),
}  # fmt: skip

_VALUES = {"top": ("float32", "int8", "fitted1"), "rolling": ("int8", "fitted4", "fitted2")}


def _size_lines() -> list[list[str]]:
    """The paper's rows, top-k also in edgenode's number formats, and the rolling exchange."""
    rows = []
    for network, (model, printed) in _PAPER_FACTORS.items():
        layout = layout_of(model)
        for name, (of_message, of_run) in printed.items():
            for values in _VALUES.get(name.partition("-")[0].partition(" ")[0], ("",)):
                size, bits = message_size(layout, compressor(name, values), 100 if name == "rolling 1%" else 1)
                label = f"{name}, {values}" if values else name
                factors = [allreduce_run_factor(layout, size, last) for last in ("float32", "int8")]
                of_runs = [f"{f:.4g}" for f in (whole_run_factor(layout, size, _PAPER_GOSSIP), *factors)]
                ours = [str(size), f"{bits:.1f}", f"{4 * layout.size / size:.4g}"]
                rows.append([network, label, *ours, _or_empty(of_message), *of_runs, _or_empty(of_run)])
    return rows


def _or_empty(number: float | None) -> str:
    return "" if number is None else f"{number:g}"


def layout_of(model: str) -> Layout:
    """The tensors of a network for CIFAR-10."""
    from edgenode.tasks import models

    network = models.build(model, 10, 3, 32)
    return Layout(tuple(parameter.numel() for parameter in network.parameters()))


def compressor(name: str, values: str) -> Compressor:
    """The compressor of a row's name, such as "top-1%", "4 bits" or "rolling 1%"."""
    number = name.removeprefix("top-").rstrip("%bits ")
    if name.startswith("top"):
        return Compressor(TopK(float(number) / 100), QUANTISE[values])
    return Compressor(keep_all, QUANTISE[values] if name.startswith("rolling") else Random(int(number)))


def message_bytes(layout: Layout, compress: Compressor, blocks: int = 1) -> int:
    """The mean size of the encoded payloads of the blocks of a random vector."""
    return message_size(layout, compress, blocks)[0]


def message_size(layout: Layout, compress: Compressor, blocks: int = 1) -> tuple[int, float]:
    """The mean size of the encoded payloads of the blocks of a random vector, in bytes and in bits per kept entry."""
    rng = np.random.default_rng(0)
    parts = [layout.part(block if blocks > 1 else None, blocks) for block in range(blocks)]
    vectors = [rng.standard_normal(part.size, dtype=np.float32) for part in parts]
    payloads = [compress(vector, part, rng) for vector, part in zip(vectors, parts, strict=True)]
    size = sum(len(codec.encode(payload, part)) for payload, part in zip(payloads, parts, strict=True))
    return round(size / blocks), 8 * size / max(1, sum(len(payload.numbers) for payload in payloads))


def whole_run_factor(layout: Layout, message: int, gossip_rounds: int, gossip_values: str = "float32") -> float:
    """Uncompressed bytes over sent bytes, for training rounds of ``message`` bytes and gossip rounds of all values."""
    dense = message_bytes(layout, Compressor(keep_all, QUANTISE[gossip_values]))
    sent = PAPER_ROUNDS * message + gossip_rounds * dense
    return (PAPER_ROUNDS + gossip_rounds) * 4 * layout.size / sent


def allreduce_run_factor(layout: Layout, message: int, values: str = "float32") -> float:
    """The same for training rounds that end with an allreduce of four nodes."""
    models = PAPER_ROUNDS + 2 * (NODES - 1) / NODES
    return models * 4 * layout.size / (PAPER_ROUNDS * message + allreduce_bytes(layout, NODES, values))


def allreduce_bytes(layout: Layout, nodes: int, values: str = "float32") -> int:
    """The encoded payloads of one node in an allreduce."""
    phase = Allreduce(0, tuple(f"{i:04d}" for i in range(nodes)))
    steps = [phase.transfer(t, phase.nodes[0]) for t in range(phase.end)]
    layouts = [division(layout, nodes, 1).layout(step) for step in steps]
    return sum(message_bytes(part, Compressor(keep_all, QUANTISE[values])) for part in layouts)


# footprint ---------------------------------------------------------------------------------------------

EFFECTIVE_BATCH = 128
_FOOTPRINT_MODEL = "resnet20"
_PAPER_FOOTPRINTS = {1: ("243", "5.24"), 16: ("20.3", "0.33")}  # nodes -> (MB, GFlops)
_NODE_VECTORS = 2  # x and the error. The model, its gradient and its momentum come on top.

_FOOTPRINT_NOTES = (
    f"One step of ResNet-20 on CIFAR images, with an effective batch of {EFFECTIVE_BATCH} divided among the nodes. "
    "Memory consists of the activations that autograd keeps; the model, its gradient and its momentum; and x and the "
    "error of Sparse-Push, where there is more than one node. The paper's 5.24 GFlops fit the multiplications of the "
    "forward pass alone. It does not state what its megabytes include."
)
_FOOTPRINT_HEADINGS = (
    "nodes", "batch per node", "activations, MB", "model, gradient, momentum, MB", "x and error, MB", "all memory, MB",
    "paper, MB", "forward, G multiplications", "paper, GFlops", "forward and backward, GFlops",
)  # fmt: skip


def _footprint_lines() -> list[list[str]]:
    """One row for a node alone, and one for a node of sixteen."""
    return [_footprint_line(nodes) for nodes in _PAPER_FOOTPRINTS]


def _footprint_line(nodes: int) -> list[str]:
    from torch import nn

    from edgenode.tasks import models

    batch = EFFECTIVE_BATCH // nodes
    model = models.build(_FOOTPRINT_MODEL, 10, 3, 32)
    activations, forward, both = footprint(model, batch)
    vector = 4 * sum(parameter.numel() for parameter in nn.Module.parameters(model))
    pushed = _NODE_VECTORS * vector if nodes > 1 else 0
    memory = activations + 3 * vector + pushed
    megabytes = [f"{size / 1e6:.2f}" for size in (activations, 3 * vector, pushed, memory)]
    paper_mb, paper_gflops = _PAPER_FOOTPRINTS[nodes]
    return [
        str(nodes), str(batch), *megabytes, paper_mb, f"{forward / 2e9:.3f}", paper_gflops, f"{both / 1e9:.3f}",
    ]  # fmt: skip


def footprint(model: object, batch: int) -> tuple[int, int, int]:
    """What one training step of a network for CIFAR needs, as torch counts it.

    Returns:
        Bytes of activations: the tensors that autograd keeps for the backward pass, each storage once. Then the
        operations of the forward pass, and of both passes, where a multiplication and an addition count as two.
    """
    import torch
    from torch import Tensor, nn
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    assert isinstance(model, nn.Module)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = model(torch.zeros(batch, 3, 32, 32))
            loss = nn.functional.cross_entropy(logits, torch.zeros(batch, dtype=torch.int64))
        forward = counter.get_total_flops()
        loss.backward()  # type: ignore[no-untyped-call]
    return sum(kept.values()), forward, counter.get_total_flops()


def _draw_footprint(headings: Sequence[str], lines: Sequence[Sequence[str]], path: Path) -> None:
    """Memory and arithmetic as bars, edgenode's next to the paper's."""
    figure = plotting.new_figure(7, 3.4)
    panels = figure.subplots(1, 2)
    for axes, ours, paper in zip(panels, (5, 7), (6, 8), strict=True):
        for shift, column in ((-0.2, ours), (0.2, paper)):
            bars = axes.bar([i + shift for i in range(len(lines))], [float(line[column]) for line in lines], 0.4,
                            label="here" if column == ours else "the paper")  # fmt: skip
            axes.bar_label(bars, fmt="%.3g")
        axes.margins(y=0.12)
        axes.set_xticks(range(len(lines)), [f"{line[0]} nodes" if line[0] != "1" else "alone" for line in lines])
        axes.set_title(headings[ours], fontsize="medium")
    panels[0].legend()
    figure.savefig(path, dpi=110)


TABLES: dict[str, StaticTable] = {
    each.name: each
    for each in (
        StaticTable("fig3", "Figure 3: what one device needs, alone and as one of sixteen",
                    _FOOTPRINT_NOTES, _FOOTPRINT_HEADINGS, _footprint_lines, _draw_footprint),
        StaticTable("sizes", "What a message weighs, and a whole run: Tables 2, 4 and 7",
                    _SIZE_NOTES, _SIZE_HEADINGS, _size_lines),
    )
}  # fmt: skip
