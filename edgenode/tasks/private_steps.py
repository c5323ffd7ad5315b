"""The noisy gradients of a trainer's steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgenode.errors import ConfigError
from edgenode.tasks.flat_params import FlatModel, FlatParameters
from edgenode.tasks.noisy_steps import NoisySteps, Privacy
from edgenode.tasks.os_random import OsRandom
from edgenode.tasks.settings import TrainSettings


class PrivateSteps(NoisySteps):
    """The steps of one trainer.

    Args:
        samples: the number of training samples of the node.
        rounds: the number of rounds that are planned.
        seed: of the run and the node, for reproducible noise.

    Raises:
        ConfigError: as `NoisySteps`, or a trained parameter is not in float32.
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
        self._flat, self._at_once, self._of_step = flat, settings.batch_size, OsRandom()
        planned = rounds * (1 if settings.local_steps == "auto" else settings.local_steps)
        super().__init__(
            flat.model, flat.trained, privacy, samples=samples, batch=settings.batch_size * settings.accumulate,
            planned=planned, seed=seed,
        )  # fmt: skip
        self.begin()

    def begin_step(self, step: int) -> Tensor | None:
        """Return the samples of a step, as positions among those of the node. None if the step must not be taken."""
        if not self.take():
            return None
        chosen, self._of_step = self.draw(step)
        return torch.from_numpy(chosen)

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
            loss(part).backward()  # type: ignore[no-untyped-call]
            self.add_clipped(total, len(part))
        size = self._flat.trained_size
        self.add_noise(total[:size], self._of_step)
        gradients[:size] = total[:size]
