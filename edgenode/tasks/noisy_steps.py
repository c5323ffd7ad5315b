"""Steps on the data of one node under differential privacy: DP-SGD (Abadi et al. 2016, Algorithm 1).

The trainer of a task (`private_steps`) and a loop of one's own (`edgenode.mesh.private_loop`) take them:

1. Each sample is in a step by a chance of its own, from the operating system. The guarantee counts on it that nobody
   knows which ones are.
2. The ledger counts the step.
3. A backward pass computes the gradient of each sample, by hooks of Opacus in the model. Each is clipped.
4. Noise is added to their sum, once, before anything is computed from it.
5. All that follows uses this sum and the data no more: the optimiser, the error that compression leaves, messages,
   checkpoints and models. So the guarantee of the steps is theirs too.

The loss has to be the mean of losses that each depend on one sample.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenode.errors import CheckpointError, ConfigError
from edgenode.tasks.os_random import OsRandom
from edgenode.tasks.packing import Arrays
from edgenode.tasks.privacy_budget import Budget, Ledger, MemoryLedger, Spending, noise_for

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


class Draw(NamedTuple):
    """The samples of a step.

    Attributes:
        chosen: their positions among those of the node.
        random: draws the noise of the step.
    """

    chosen: NDArray[np.int64]
    random: OsRandom


class NoisySteps:
    """The steps of one node.

    Args:
        model: gets the hooks of Opacus, until `end`.
        trained: the parameters that the steps change.
        samples: the number of training samples of the node.
        batch: the mean number of samples in a step.
        planned: the number of steps of the whole run.
        seed: of the run and the node, for reproducible noise.

    Raises:
        ConfigError: Opacus is not installed, cannot compute the gradient of each sample of this model, or no noise is
            enough.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: Mapping[str, nn.Parameter],
        privacy: Privacy,
        *,
        samples: int,
        batch: int,
        planned: int,
        seed: tuple[int, int],
    ) -> None:
        hooks = _hooks_for(model)
        self._privacy, self._samples, self._seed = privacy, samples, seed
        self._parameters = list(trained.items())
        self._rate = min(1.0, batch / samples)
        self._noise = _noise(privacy, self._rate, planned)
        self._hooks = hooks(model)
        warnings.filterwarnings("ignore", "Full backward hook is firing")  # the inputs of the model need no gradients
        self._random = OsRandom()
        self._checked = self._ended = False
        self._planned = planned

    @cached_property
    def budget(self) -> Budget:
        """What was spent, and what is left. From its first use on, no other process may use the ledger."""
        privacy, kind = self._privacy, Spending(self._noise, self._rate, 0)
        return Budget(privacy.ledger or MemoryLedger(), privacy.epsilon, privacy.delta, kind)

    def begin(self) -> None:
        """Read what was spent before, and log it. Raises CheckpointError if the ledger cannot be read."""
        privacy, spent = self._privacy, self.budget.epsilon
        if privacy.ledger is None:  # one of the many nodes of a simulation
            return
        log.info(
            "training is differentially private",
            epsilon="unlimited" if privacy.epsilon is None else privacy.epsilon, spent=round(spent, 3),
            delta=privacy.delta, noise=round(self._noise, 3), clip_norm=privacy.clip_norm,
            batch=round(self._rate * self._samples), steps=self._planned,
        )  # fmt: skip
        if privacy.reproducible:
            log.warning("privacy.reproducible: the noise is known to all nodes, so there is no guarantee")

    def take(self) -> bool:
        """Count one step more, which may then be taken. False if it must not be: the budget is spent, or the disk does
        not take its count.
        """
        budget = self.budget
        try:
            taken = budget.take()
        except CheckpointError as exc:
            log.warning("a step is left out, because it cannot be counted", reason=str(exc))
            return False
        if not taken:
            if not self._ended:
                self._ended = True
                log.warning(
                    "the privacy budget is spent: this node trains no more, and mixes what it receives",
                    epsilon=round(budget.epsilon, 3),
                )
            return False
        return True

    def draw(self, step: int) -> Draw:
        """Return the samples of a step, each by a chance of its own."""
        random = self._random
        if self._privacy.reproducible:
            random = OsRandom(sha256(repr((*self._seed, step)).encode()).digest())
        return Draw(np.flatnonzero(random.uniform(self._samples) < self._rate), random)

    def add_noise(self, total: Tensor, random: OsRandom) -> None:
        """Turn the sum of the clipped gradients [size] into the noisy mean gradient."""
        noise = torch.from_numpy(random.normal(len(total))).to(total.device)
        total.add_(noise, alpha=self._noise * self._privacy.clip_norm)
        total /= self._rate * self._samples

    def add_clipped(self, total: Tensor, count: int) -> None:
        """Add the clipped gradients of `count` samples, of which a backward pass was taken, to `total` [size or more].

        Raises:
            ConfigError: Opacus does not see all of the gradient of a parameter.
        """
        found = list(self.of_samples(count))
        if not found:
            raise ConfigError("[privacy]: a step had no backward pass through the model in training mode")
        if not self._checked:
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

    def of_samples(self, count: int) -> Iterator[tuple[str, Tensor]]:
        """The gradient of each sample, [count, ...], by the parameter's name. Forgets them."""
        for name, parameter in self._parameters:
            gradients = getattr(parameter, "grad_sample", None)
            parameter.grad_sample = None  # type: ignore[attr-defined]
            if gradients is None:
                continue
            if isinstance(gradients, list) or len(gradients) != count:
                raise ConfigError(
                    f"[privacy]: the model must use {name} once for each sample of a batch, in its own layer, with one "
                    "backward pass"
                )
            if gradients.dtype != torch.float32:
                raise ConfigError(f"[privacy]: the gradients of {name} must be float32: leave out autocast")
            yield name, gradients

    def _check(self, found: list[tuple[str, Tensor]], count: int) -> None:
        """Compare the gradients of samples with the gradient of the batch, once."""
        self._checked = True
        mean = {name: part.mean(dim=0) for name, part in found}
        for name, parameter in self._parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            other = mean.get(name, torch.zeros_like(gradient))
            scale = float(gradient.abs().max())
            if not torch.allclose(gradient, other, rtol=1e-2, atol=1e-3 * scale + 1e-8):
                raise ConfigError(
                    f"[privacy]: the gradients of {count} samples do not add up to the gradient of {name}: the model "
                    "uses it outside of its layer, such as a weight that two layers share, or the gradient was changed "
                    "after backward()"
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

    def end(self) -> None:
        """Take the hooks out of the model."""
        self._hooks.remove_hooks()
        for _, parameter in self._parameters:
            for name in [name for name in vars(parameter) if name in ("grad_sample", "_forward_counter")]:
                delattr(parameter, name)


def _noise(privacy: Privacy, rate: float, planned: int) -> float:
    """The noise that is set, or else the least that keeps the planned steps within epsilon."""
    if privacy.noise is not None or privacy.epsilon is None:
        return privacy.noise or 0.0
    return noise_for(privacy.epsilon, privacy.delta, rate, planned)


def coarse(samples: int) -> int:
    """The number of samples that a private node tells others: the nearest power of two."""
    return 1 << round(math.log2(max(1, samples)))


def _hooks_for(model: nn.Module) -> Any:
    """Return the class of the hooks with which Opacus computes the gradient of each sample in every backward pass.

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
        hint = '; task.norm = "group" and nn.GroupNorm have none' if "BatchNorm" in str(errors[0]) else ""
        raise ConfigError(f"[privacy]: {' '.join(str(errors[0]).split())}{hint}")
    return GradSampleHooks
