"""Simulations of runs in which some nodes lie: SCSP, whose last nodes attack from a round on.

A liar trains like the others, and pushes something else. It knows the models of all nodes. What it pushes has the form
of an honest message, so nobody refuses to read it. In the last phase it lies too, except in an allreduce.
`ATTACKS` has the attacks, which are those of the literature on robust learning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import DIVERGED
from edgenode.core.topology.allreduce import Transfer
from edgenode.errors import ConfigError, one_of
from edgenode.extensions import (
    SPARSE_PUSH,
    AlgorithmDefinition,
    Floats,
    Payload,
    Sent,
    State,
    Values,
    codec,
    compress_with_feedback,
)
from edgenode.node.replica import Replica

if TYPE_CHECKING:
    from torch import Tensor

    from edgenode.tasks.trainer import TaskTrainer

_JUST_BELOW = 3.9  # times the usual length: the alarm rings from 4 on
_NOISE = 3.0
_DEVIATIONS = 1.5  # of ALIE, for a few liars among a few nodes
_LIE = "lie"  # the vector that an attack keeps, in the state: a resumed simulation has it
_TARGET = 0  # the class that a backdoor leads to


def liars_of(nodes: Mapping[str, object] | list[str], count: int) -> list[str]:
    """Return the names of the nodes that lie: the last ones."""
    return sorted(nodes)[len(nodes) - count :]


@dataclass(frozen=True)
class Sight:
    """What a liar sees when it pushes.

    Attributes:
        sent: its honest message.
        state: its state, to keep a vector in.
        initial: the model that all nodes began with [d].
        models: returns the models of the honest nodes [n, d].
        say: returns the message of a node whose model is this one [d], with error feedback.
        resend: returns the message that has the largest entries of a vector [d].
    """

    sent: Sent
    state: State
    rng: np.random.Generator
    initial: Floats
    models: Callable[[], Floats]
    say: Callable[[Floats], Sent]
    resend: Callable[[Floats], Sent]


Lie = Callable[[Sight], Sent]


def scaled(sent: Sent, factor: float) -> Sent:
    """The message, with all numbers times a factor."""
    payload = sent.payload
    numbers = np.clip(payload.numbers * np.float32(factor), -DIVERGED, DIVERGED)
    return replace(sent, payload=Payload(payload.counts, payload.indices, Values(numbers)))


def sign_flip(sight: Sight) -> Sent:
    """Push the opposite, as long as the alarm allows (Karimireddy et al. 2021 flip signs without a factor)."""
    return scaled(sight.sent, -_JUST_BELOW)


def a_little(sight: Sight) -> Sent:
    """Stay within the spread of the honest models (ALIE, Baruch et al. 2019)."""
    models = sight.models()
    return sight.say(models.mean(axis=0) - np.float32(_DEVIATIONS) * models.std(axis=0))


def inner_product(sight: Sight) -> Sent:
    """Undo what the others have learnt (inner-product manipulation, Xie et al. 2020)."""
    return sight.say(2 * sight.initial - sight.models().mean(axis=0))


def noise(sight: Sight) -> Sent:
    """Push random numbers in the entries of the honest message."""
    numbers = sight.sent.payload.numbers
    size = float(np.sqrt(np.mean(numbers**2))) if len(numbers) else 0.0
    drawn = Values(sight.rng.normal(scale=_NOISE * size, size=len(numbers)).astype(np.float32))
    return replace(sight.sent, payload=Payload(sight.sent.payload.counts, sight.sent.payload.indices, drawn))


def fixed_direction(sight: Sight) -> Sent:
    """Lead the others away by the length of their model, always in the same direction."""
    mean = sight.models().mean(axis=0)
    direction = np.random.default_rng(0).normal(size=len(mean)).astype(np.float32)
    return sight.say(mean + direction * np.float32(np.linalg.norm(mean) / np.linalg.norm(direction)))


def false_u(sight: Sight) -> Sent:
    """Push the honest numbers with a u that makes them count for more, as far as the alarm allows."""
    return replace(sight.sent, u=sight.sent.u / _JUST_BELOW)


def replay(sight: Sight) -> Sent:
    """Push the first message again and again."""
    if _LIE not in sight.state.kept:
        sight.state.kept[_LIE] = sight.sent.payload.dense(len(sight.state.x))
    return sight.resend(sight.state.kept[_LIE])


LIES: dict[str, Lie] = {
    "sign flip": sign_flip,
    "ALIE": a_little,
    "inner product": inner_product,
    "noise": noise,
    "fixed direction": fixed_direction,
    "false u": false_u,
    "replay": replay,
}
"""The attacks that change messages, by name."""


def label_flip(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Train with each digit for its opposite."""
    images, labels = batch
    return images, 9 - labels


def backdoor(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Train every other image with a bright corner, as the target class (Gu et al. 2017)."""
    images, labels = batch
    images, labels = images.clone(), labels.clone()
    images[::2, :, :2, :2] = images.max()
    labels[::2] = _TARGET
    return images, labels


DATA: dict[str, Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]] = {
    "label flip": label_flip,
    "backdoor": backdoor,
}
"""The attacks that change training data, by name."""


class Liar:
    """Makes one node lie.

    Args:
        honest: the nodes that do not lie.
        start: the round from which it lies.
    """

    def __init__(self, replica: Replica, honest: list[Replica], lie: Lie, start: int, seed: int) -> None:
        self._learner, self._honest, self._lie, self._start = replica.learner, honest, lie, start
        self._initial, self._entropy = replica.trainer.initial(), (seed, int(replica.name.rpartition("-")[2]))
        self._push = self._learner.compress_update
        self._learner.compress_update = self.compress_update  # type: ignore[method-assign]

    def compress_update(
        self, t: int, local_update: Any, handoff: bool = False, transfer: Transfer | None = None
    ) -> tuple[bytes, tuple[float, ...]]:
        """Push a lie in the place of the honest message."""
        data, u = self._push(t, local_update, handoff, transfer)
        if t < self._start or handoff or transfer is not None:
            return data, u
        learner = self._learner
        sent = self._lie(self._sight(t, np.random.default_rng((*self._entropy, t))))
        return codec.encode(sent.payload, learner.layout), tuple(sent.u.tolist())

    def _sight(self, t: int, rng: np.random.Generator) -> Sight:
        learner = self._learner
        step, sent, state = learner.algorithm_spec.step(t), learner.own_push, learner.state
        compressor = step.compressor

        def say(model: Floats) -> Sent:
            if len(state.error) and _LIE not in state.kept:
                state.kept[_LIE] = state.error.copy()
            if step.drops_error:
                state.kept[_LIE][:] = 0
            told = State(model * np.float32(sent.u.mean()), state.kept.get(_LIE, state.error))
            return replace(sent, payload=compress_with_feedback(told, compressor, learner.layout, rng))

        return Sight(
            sent, state, rng, self._initial,
            models=lambda: np.stack([replica.learner.model() for replica in self._honest]),
            say=say,
            resend=lambda vector: replace(sent, payload=compressor(vector, learner.layout, rng)),
        )  # fmt: skip


def _read_batches(replica: Replica, change: Callable[[Any], Any], start: int) -> None:
    """Let a node train on changed batches from a round on."""
    batches = cast("TaskTrainer", replica.trainer).batches
    read = batches.batch
    batches.batch = lambda number: change(read(number)) if number >= start else read(number)  # type: ignore[method-assign]


def _prepare(config: Config, replicas: Mapping[str, Replica]) -> None:
    options: Mapping[str, Any] = config.algorithm.options
    attack, count, start = options["attack"], options["liars"], options["start"]
    known = ("none", *LIES, *DATA)
    if attack not in known:
        raise ConfigError(f"algorithm.options.attack = {attack!r}, but it must be {one_of(known)}")
    if not 0 <= count < len(replicas) or start < 0 or config.algorithm.blocks > 1:
        raise ConfigError(
            f"algorithm.options.liars = {count} and start = {start}: at least one of {len(replicas)} nodes is honest, "
            "start is 0 or more, and the compressor is not rolling"
        )
    names = liars_of(list(replicas), 0 if attack == "none" else count)
    honest = [replica for name, replica in replicas.items() if name not in names]
    for name in names:
        if attack in LIES:
            Liar(replicas[name], honest, LIES[attack], start, config.run.seed)
        else:
            _read_batches(replicas[name], DATA[attack], start * config.task.accumulate)


DEFINITION = AlgorithmDefinition(
    lambda: SPARSE_PUSH,
    values=None,
    gossips=True,
    options={"attack": "none", "liars": 1, "start": 50},
    prepares=_prepare,
)
