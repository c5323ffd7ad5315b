"""The "balanced" loss: logits are shifted by the log of how frequent each class is on the node.

A node with many shirts and few boots learns above all that shirts are frequent, and every node learns this of other
classes. In training, each node therefore adds the log of its own class frequencies to the logits (logit adjustment,
Menon et al., "Long-tail learning via logit adjustment", arXiv 2007.07314, equation 10). The shift explains the
frequencies, so the model need not. The model that is exchanged and evaluated has no shift, and predicts as if all
classes were equally frequent. Zhang et al. (arXiv 2209.00189) calibrate logits for labels that differ between clients.

The frequencies come from the labels of the node's own samples, and stay on the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgenode.errors import ConfigError
from edgenode.tasks.batches import Batches
from edgenode.tasks.local_data import labels_of
from edgenode.tasks.task import Samples


class LogitAdjustment:
    """The shift of one node, for the samples that its batches are drawn from at present.

    Raises:
        ConfigError: the data set does not have the class of each sample.
    """

    def __init__(self, train: Samples, batches: Batches) -> None:
        self._train, self._batches = train, batches
        self._of: tuple[Tensor, Tensor] | None = None  # samples, and the shift for them
        self._labels()

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Shift what the model returns: logits [batch, classes]."""
        hook = model.register_forward_hook(lambda module, inputs, logits: self._shifted(logits))
        try:
            yield
        finally:
            hook.remove()

    def _shifted(self, logits: object) -> Tensor:
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigError(f"task.loss = balanced needs a model that returns logits [batch, classes], not {shape}")
        return logits + self._shift(logits)

    def _shift(self, logits: Tensor) -> Tensor:
        samples = self._batches.samples
        if self._of is None or self._of[0] is not samples:
            self._of = samples, log_prior(self._labels()[samples], logits.shape[1]).to(logits.device)
        return self._of[1]

    def _labels(self) -> Tensor:
        labels = labels_of(self._train)
        if labels is None:
            raise ConfigError(
                "task.loss = balanced counts classes, but the training data has no attribute targets "
                "with the class of each sample"
            )
        return labels


def log_prior(labels: Tensor, classes: int) -> Tensor:
    """The log of the frequency of each class, float32 [classes]. One sample is added to each, so that all are finite.

    Raises:
        ConfigError: a label is not one of the classes.
    """
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) > classes:
        raise ConfigError(f"a sample has class {len(counts) - 1}, but the model knows the classes 0 to {classes - 1}")
    return ((counts + 1.0).double() / (len(labels) + classes)).log().float()
