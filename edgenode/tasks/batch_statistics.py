"""BatchNorm statistics of a model that was not trained here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def cumulative_statistics(model: nn.Module) -> Iterator[bool]:
    """Reset the BatchNorm layers of a model, and let them average equally over all batches to come.

    As torch.optim.swa_utils.update_bn does it. Yields whether there are any.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield bool(layers)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
