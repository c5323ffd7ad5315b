"""The gradients of a node's steps under differential privacy: DP-SGD (Abadi et al. 2016, Algorithm 1).

1. Each sample is in a step by a chance of its own, from the operating system. The guarantee counts on it that nobody
   knows which ones are.
2. The gradient of each sample is clipped. Opacus computes them.
3. Noise is added to their sum, once, before anything is computed from it.
4. All that follows uses this sum and the data no more: the optimiser, the error that compression leaves, messages,
   checkpoints and models. So the guarantee of the steps is theirs too.

The loss has to be the mean of losses that each depend on one sample.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenode.errors import CheckpointError, ConfigError
from edgenode.tasks.flat_params import FlatModel, FlatParameters
from edgenode.tasks.os_random import OsRandom
from edgenode.tasks.packing import Arrays
from edgenode.tasks.privacy_budget import Budget, Ledger, MemoryLedger, Spending, noise_for
from edgenode.tasks.settings import TrainSettings

log = structlog.get_logger()

PREFIX = "privacy"
_SPENT = f"{PREFIX}.spent"


@dataclass(frozen=True, slots=True)
class Privacy:
    """What [privacy] of run.toml asks for.

    Attributes:
        ledger: counts the steps on the data of this node. The default forgets them with the process.
    """

    epsilon: float | None
    delta: float
    noise: float | None
    clip_norm: float
    reproducible: bool = False
    ledger: Ledger | None = None


class PrivateSteps:
    """The steps of one trainer.

    Args:
        samples: the number of training samples of the node.
        rounds: the number of rounds that are planned.
        seed: of the run and the node, for reproducible noise.

    Raises:
        ConfigError: Opacus is not installed, cannot compute the gradient of each sample of this model, or no noise is
            enough.
    """

    def __init__(
        self,
        flat: FlatParameters,
        privacy: Privacy,
        settings: TrainSettings,
        samples: int,
        rounds: int,
        *,
        seed: tuple[int, int],
    ) -> None:
        if not isinstance(flat, FlatModel):
            raise ConfigError("[privacy] needs a model with all its trained parameters in float32")
        self._flat, self._privacy, self._samples, self._seed = flat, privacy, samples, seed
        self._parameters = list(flat.trained.items())
        _hook(flat.model)
        self._at_once = settings.batch_size
        self._rate = min(1.0, settings.batch_size * settings.accumulate / samples)
        planned = rounds * (1 if settings.local_steps == "auto" else settings.local_steps)
        self._noise = _noise(privacy, self._rate, planned)
        kind = Spending(self._noise, self._rate, 0)
        self.budget = Budget(privacy.ledger or MemoryLedger(), privacy.epsilon, privacy.delta, kind)
        self._random = OsRandom()
        self._checked = self._ended = False
        if privacy.ledger is not None:  # a node trains, and not one of the many of a simulation
            self._describe(planned)

    def _describe(self, planned: int) -> None:
        privacy, spent = self._privacy, self.budget.epsilon
        log.info(
            "training is differentially private",
            epsilon="unlimited" if privacy.epsilon is None else privacy.epsilon, spent=round(spent, 3),
            delta=privacy.delta, noise=round(self._noise, 3), clip_norm=privacy.clip_norm,
            batch=round(self._rate * self._samples), steps=planned,
        )  # fmt: skip
        if privacy.reproducible:
            log.warning("privacy.reproducible: the noise is known to all nodes, so there is no guarantee")

    def begin_step(self, step: int) -> Tensor | None:
        """Return the samples of a step, as positions among those of the node. None if the step must not be taken: the
        budget is spent, or the disk does not take its count.
        """
        try:
            taken = self.budget.take()
        except CheckpointError as exc:
            log.warning("a step is left out, because it cannot be counted", reason=str(exc))
            return None
        if not taken:
            if not self._ended:
                self._ended = True
                log.warning(
                    "the privacy budget is spent: this node trains no more, and mixes what it receives",
                    epsilon=round(self.budget.epsilon, 3),
                )
            return None
        if self._privacy.reproducible:
            self._random = OsRandom(sha256(repr((*self._seed, step)).encode()).digest())
        return torch.from_numpy(np.flatnonzero(self._random.uniform(self._samples) < self._rate))

    def differentiate(self, chosen: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        """Put the noisy mean gradient into the gradients of the model, for the samples of `begin_step`.

        Args:
            loss: returns the mean loss of some of them.

        Raises:
            ConfigError: Opacus does not see all of the gradient of a parameter.
        """
        total = self._flat.zeros_padded()
        gradients = self._flat.padded[1]
        for part in torch.split(chosen, self._at_once) if len(chosen) else ():
            gradients.zero_()
            with warnings.catch_warnings():  # the inputs need no gradients
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                loss(part).backward()  # type: ignore[no-untyped-call]
            self._add_clipped(total, len(part))
        size = self._flat.trained_size
        noise = torch.from_numpy(self._random.normal(size)).to(total.device)
        gradients[:size] = total[:size].add_(noise, alpha=self._noise * self._privacy.clip_norm)
        gradients[:size] /= self._rate * self._samples

    def _add_clipped(self, total: Tensor, count: int) -> None:
        """Add the clipped gradients of `count` samples to `total`."""
        found = list(self._of_samples(count))
        if not self._checked and count:
            self._check(found, count)
        lengths = torch.stack([part.flatten(1).norm(dim=1) for _, part in found]).norm(dim=0)
        factors = (self._privacy.clip_norm / lengths.clamp(min=1e-12)).clamp(max=1.0)
        factors[~torch.isfinite(lengths)] = 0.0
        first = 0
        pieces = dict(found)
        for name, parameter in self._parameters:
            if (part := pieces.get(name)) is not None:
                clipped = torch.einsum("i,i...->...", factors, torch.nan_to_num(part, 0.0, 0.0, 0.0))
                total[first : first + parameter.numel()] += clipped.flatten()
            first += parameter.numel()

    def _of_samples(self, count: int) -> Iterator[tuple[str, Tensor]]:
        """The gradient of each sample, [count, ...], by the parameter's name. Forgets them."""
        for name, parameter in self._parameters:
            gradients = getattr(parameter, "grad_sample", None)
            parameter.grad_sample = None  # type: ignore[attr-defined]
            if gradients is None:
                continue
            if isinstance(gradients, list) or len(gradients) != count:
                raise ConfigError(f"[privacy]: the model must use {name} once for each sample, in its own layer")
            yield name, gradients

    def _check(self, found: list[tuple[str, Tensor]], count: int) -> None:
        """Compare the gradients of samples with the gradient of the batch, once."""
        self._checked = True
        mean = {name: part.mean(dim=0) for name, part in found}
        for name, parameter in self._parameters:
            gradient = parameter.grad
            assert gradient is not None
            other = mean.get(name, torch.zeros_like(gradient))
            scale = float(gradient.abs().max())
            if not torch.allclose(gradient, other, rtol=1e-2, atol=1e-3 * scale + 1e-8):
                raise ConfigError(
                    f"[privacy]: the gradients of {count} samples do not add up to the gradient of {name}: the model "
                    "uses it outside of its layer, such as a weight that two layers share"
                )

    def state(self) -> Arrays:
        """Return the steps that were taken, for a checkpoint: float64 [k, 3]. The ledger then counts none ahead."""
        with suppress(CheckpointError):  # it then counts the steps ahead, which is no harm
            self.budget.settle()
        rows = [(part.noise, part.rate, part.steps) for part in self.budget.spent()]
        return {_SPENT: np.array(rows, dtype=np.float64)}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Count at least the steps that a checkpoint knows of. Raises CheckpointError if it is damaged."""
        if _SPENT not in state:
            return
        rows = state[_SPENT].astype(np.float64)
        if rows.ndim != 2 or rows.shape[1] != 3 or not np.isfinite(rows).all() or (rows < 0).any():
            raise CheckpointError(f"{_SPENT!r} cannot be restored: {rows}")
        self.budget.raise_to(tuple(Spending(float(n), float(r), int(s)) for n, r, s in rows))


def _noise(privacy: Privacy, rate: float, planned: int) -> float:
    """The noise that is set, or else the least that keeps the planned steps within epsilon."""
    if privacy.noise is not None or privacy.epsilon is None:
        return privacy.noise or 0.0
    return noise_for(privacy.epsilon, privacy.delta, rate, planned)


def coarse(samples: int) -> int:
    """The number of samples that a private node tells others: the nearest power of two."""
    return 1 << round(math.log2(max(1, samples)))


def _hook(model: nn.Module) -> None:
    """Let Opacus compute the gradient of each sample in every backward pass of a model.

    Raises:
        ConfigError: it is not installed, or cannot do so.
    """
    try:
        from opacus.grad_sample import GradSampleHooks
        from opacus.validators import ModuleValidator
    except ImportError as exc:
        raise ConfigError("[privacy] needs Opacus: pip install 'edgenode[privacy]'") from exc
    errors = ModuleValidator.validate(model, strict=False) or GradSampleHooks.validate(model, strict=False)
    if errors:
        hint = '; task.norm = "group" has none' if "BatchNorm" in str(errors[0]) else ""
        raise ConfigError(f"[privacy]: {' '.join(str(errors[0]).split())}{hint}")
    GradSampleHooks(model)
