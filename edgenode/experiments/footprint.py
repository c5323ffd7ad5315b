"""What one device needs for its share of a batch of 128: memory and arithmetic of one step, counted by torch.

Activations are the tensors that autograd keeps for the backward pass, each storage once. Arithmetic is what torch's
FlopCounterMode counts, a multiplication and an addition as two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

EFFECTIVE_BATCH = 128
_MODEL = "resnet20"
_PRINTED = {1: ("243", "5.24"), 16: ("20.3", "0.33")}
_NODE_VECTORS = 2  # x and the error beside the model, its gradient and its momentum

NOTES = (
    f"One step of ResNet-20 on CIFAR images, an effective batch of {EFFECTIVE_BATCH} shared out. Memory: the "
    "activations that autograd keeps; the model, its gradient and its momentum; x and the error of Sparse-Push, if "
    "there is anybody to push to. The paper's 5.24 GFlops fit the multiplications of the forward pass alone; it does "
    "not say what its megabytes hold."
)
HEADINGS = (
    "nodes", "batch per node", "activations, MB", "model, gradient, momentum, MB", "x and error, MB", "all memory, MB",
    "paper, MB", "forward, G multiplications", "paper, GFlops", "forward and backward, GFlops",
)  # fmt: skip


def lines() -> list[list[str]]:
    """One row for a node alone, one for a node of sixteen."""
    return [_line(nodes) for nodes in _PRINTED]


def _line(nodes: int) -> list[str]:
    from torch import nn

    from edgenode.tasks import models

    batch = EFFECTIVE_BATCH // nodes
    model = models.build(_MODEL, 10, 3, 32)
    activations, forward, both = count(model, batch)
    vector = 4 * sum(parameter.numel() for parameter in nn.Module.parameters(model))
    pushed = _NODE_VECTORS * vector if nodes > 1 else 0
    memory = activations + 3 * vector + pushed
    megabytes = [f"{size / 1e6:.2f}" for size in (activations, 3 * vector, pushed, memory)]
    return [
        str(nodes), str(batch), *megabytes, _PRINTED[nodes][0],
        f"{forward / 2e9:.3f}", _PRINTED[nodes][1], f"{both / 1e9:.3f}",
    ]  # fmt: skip


def count(model: object, batch: int) -> tuple[int, int, int]:
    """(bytes of activations, operations of the forward pass, of both passes) of one step of a network for CIFAR."""
    import torch
    from torch import Tensor, nn
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    assert isinstance(model, nn.Module)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
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


def draw(headings: Sequence[str], lines: Sequence[Sequence[str]], path: Path) -> None:
    """Write the picture: memory and arithmetic, ours beside the paper's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
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
