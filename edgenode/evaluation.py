"""What a test says of a model: an accuracy, or named metrics of which the first one counts. Pure.

1. A number alone is an accuracy: a fraction from 0 to 1, where more is better.
2. Of named metrics, the first is an accuracy by any name, or the loss: any number, where less is better.
3. Names that differ in case alone are one name.
4. A node's evaluations have the same names, so each metric has one curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgenode.errors import EdgenodeError
from edgenode.names import RULE, is_name

MOST_METRICS = 16
_LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a test measured."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a test.

    Attributes:
        accuracy: 0 to 1, more is better. None if nothing was tested, or the first metric is the loss.
        metrics: all named metrics, the one that counts first. Empty for an accuracy without a name.
    """

    accuracy: float | None = None
    metrics: tuple[Metric, ...] = ()

    @property
    def loss(self) -> float | None:
        """The first metric, if it is the loss."""
        return loss_of(self.metrics)

    def with_metric(self, name: str, value: float) -> Evaluation:
        """Return it with a metric more, behind all others. Without a test it stays as it is."""
        found = self.metrics or (() if self.accuracy is None else (Metric("accuracy", self.accuracy),))
        return replace(self, metrics=(*found, Metric(name, value))) if found else self

    def to_log(self) -> dict[str, float]:
        """Return all that was measured: ``test/accuracy`` if it has no name, or ``test/NAME``."""
        if self.accuracy is not None and not self.metrics:
            return {"test/accuracy": self.accuracy}
        return {f"test/{metric.name}": metric.value for metric in self.metrics}


NOT_TESTED = Evaluation()


def loss_of(metrics: Iterable[Metric]) -> float | None:
    """Return the loss of a test, if that is its first metric."""
    first = next(iter(metrics), None)
    return first.value if first is not None and first.name == _LOSS else None


def by_name(metrics: Iterable[Metric]) -> dict[str, float]:
    """Return metrics as a dict, in their order."""
    return {metric.name: metric.value for metric in metrics}


class Evaluations:
    """Reads what the test function of one node returns, again and again."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] | None = None  # of the evaluations before

    def read(self, returned: Any, source: str) -> Evaluation:
        """Return the result of a test.

        Args:
            returned: a number, or a dict of numbers by name.
            source: the test function, for errors.

        Raises:
            EdgenodeError: it is none, a number is out of range, or the names are other ones than before.
        """
        if not isinstance(returned, Mapping):
            found = Evaluation(_accuracy(number(returned, f"{source} returned a result that"), f"{source} returned"))
        else:
            found = _named(returned, f"{source} returned")
        names = tuple(metric.name for metric in found.metrics)
        if self._names not in (None, names):
            raise EdgenodeError(
                f"{source} returned {_listed(names)}, but before {_listed(self._names or ())}: return the same metrics "
                "in the same order each time"
            )
        self._names = names
        return found


def number(value: Any, what: str) -> float:
    """Return a value, or a tensor with one entry, as a float.

    Raises:
        EdgenodeError: it is not one number.
    """
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise EdgenodeError(f"{what} has shape {shape}, but it must be one number, as of loss.mean()")
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError):
        raise EdgenodeError(f"{what} is {value!r}, but it must be a number") from None


def _named(returned: Mapping[Any, Any], did: str) -> Evaluation:
    if not 1 <= len(returned) <= MOST_METRICS:
        raise EdgenodeError(f"{did} {len(returned)} metrics, but a test has 1 to {MOST_METRICS}")
    for name in returned:
        if not (isinstance(name, str) and is_name(name)):
            raise EdgenodeError(f"{did} a metric called {name!r}, but a name has {RULE}")
    _refuse_one_name_twice(returned, did)
    metrics = tuple(Metric(name, number(value, f"{did} a metric {name} that")) for name, value in returned.items())
    for metric in metrics:
        if not math.isfinite(metric.value):
            raise EdgenodeError(f"{did} {metric.name} = {metric.value:g}, but a metric is a finite number")
    first = metrics[0]
    if first.name == _LOSS:
        return Evaluation(None, metrics)
    if not 0 <= first.value <= 1:
        raise EdgenodeError(
            f"{did} {first.name} = {first.value:g} first, but the first metric is a fraction from 0 to 1 where more is "
            "better, or it is called loss"
        )
    return Evaluation(first.value, metrics)


def _refuse_one_name_twice(names: Iterable[str], did: str) -> None:
    """Refuse names that differ in case alone: some databases of trackers take them for one.

    Raises:
        EdgenodeError: there are two.
    """
    seen = dict[str, str]()
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise EdgenodeError(f"{did} two metrics with one name, {other} and {name}: rename one")


def _accuracy(value: float, did: str) -> float:
    if 0 <= value <= 1:
        return value
    remedy = f": return {value / 100:g} for {value:g} %" if 1 < value <= 100 else ""
    raise EdgenodeError(f'{did} {value:g}, but an accuracy is a fraction from 0 to 1{remedy}; a loss is {{"loss": …}}')


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "a number without a name"
