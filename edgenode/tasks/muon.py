"""Muon for the weights of hidden layers, and AdamW for all other parameters, as one optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from edgenode.errors import ConfigError


class MuonAndAdamW(Optimizer):
    """Muon (Jordan et al. 2024), which makes the update of a weight orthogonal, with AdamW where that has no meaning.

    A weight of a convolution [out, in, ...] is a matrix [out, in * ...]. The entries of an update are as large as
    those of AdamW (Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, equation 4), so one learning rate
    and weight decay fit both.

    Raises:
        ConfigError: torch has no Muon, or the model has no hidden weights.
    """

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"task.optimizer = muon needs torch 2.9 or later, but this is {torch.__version__}")
        self._hidden = hidden_weights(model)
        if not self._hidden:
            raise ConfigError(
                f"task.optimizer = muon is for the weights of hidden layers, but {type(model).__name__} has none: "
                "use adamw"
            )
        # torch's Muon takes matrices only. These share the memory of the weights.
        self._matrices = [nn.Parameter(weight.detach().flatten(1)) for weight in self._hidden]
        hidden = {id(weight) for weight in self._hidden}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in hidden]
        options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
        muon = torch.optim.Muon(self._matrices, adjust_lr_fn="match_rms_adamw", **options)
        self._parts: dict[str, Optimizer] = {"muon": muon} | ({"adamw": AdamW(rest, **options)} if rest else {})
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        """The groups of the parts themselves, so what a scheduler sets in them holds for the parts."""
        return [group for part in self._parts.values() for group in part.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients of the model."""
        for weight, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of each part, by its name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises KeyError or ValueError if it belongs to another model."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.param_groups = self._groups()


def hidden_weights(model: nn.Module) -> list[Tensor]:
    """The trainable weights of two or more dimensions, without embeddings and without the output layer.

    The output layer is the last weight of the model, also if that is frozen or shared with an embedding. A weight that
    is not contiguous in memory, as in channels_last, is no matrix.
    """
    weights = [p for _, p in model.named_parameters(remove_duplicate=False) if p.ndim >= 2]
    embeddings = [p for layer in model.modules() if isinstance(layer, nn.Embedding) for p in layer.parameters()]
    outer = {id(p) for p in (*embeddings, *weights[-1:])}
    trained = (p for p in model.parameters() if p.requires_grad and p.ndim >= 2)
    return [p for p in trained if p.is_contiguous() and id(p) not in outer]
