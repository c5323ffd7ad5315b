"""A loop that is left by break or return is told from one that an exception unwinds."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from edgenode.mesh.loop_exit import advancing, is_left_on_purpose

left = list[bool]()  # of each loop that was dropped: whether on purpose


def batches() -> Iterator[int]:
    try:
        while True:
            advanced_by = advancing(sys._getframe(1))
            yield 1
    except GeneratorExit:
        left.append(is_left_on_purpose(sys._getframe(1), advanced_by))
        raise


def progress_bar(inner: Iterable[Any]) -> Iterator[Any]:
    try:
        for item in inner:  # noqa: UP028 - as tqdm does it
            yield item
    finally:
        len("closed")


Wrap = Callable[[], Iterable[Any]]
WRAPS: list[Wrap] = [
    batches,
    lambda: enumerate(batches()),
    lambda: zip(batches(), [1, 2], strict=False),
    lambda: progress_bar(batches()),
    lambda: progress_bar(enumerate(batches())),
    lambda: (batch for batch in batches()),
]


def by_break(wrap: Wrap) -> None:
    for _ in wrap():
        break


def by_return(wrap: Wrap) -> Any:
    for item in wrap():
        return item
    return None


def by_break_in_a_context(wrap: Wrap) -> None:
    for _ in wrap():
        with contextlib.nullcontext():
            break


def by_break_after_an_inner_loop(wrap: Wrap) -> None:
    for _ in wrap():
        for number in range(3):
            if number == 1:
                break
        break


def by_error(wrap: Wrap) -> None:
    for _ in wrap():
        raise KeyError


def by_error_of_a_call(wrap: Wrap) -> None:
    for _ in wrap():
        int("one")


def by_handled_error(wrap: Wrap) -> None:
    with contextlib.suppress(KeyError):
        for _ in wrap():
            raise KeyError


def by_interrupt(wrap: Wrap) -> None:
    for _ in wrap():
        raise KeyboardInterrupt


def by_exit(wrap: Wrap) -> None:
    for _ in wrap():
        sys.exit(1)


@pytest.mark.parametrize("wrap", WRAPS, ids=["plain", "enumerate", "zip", "bar", "bar of enumerate", "expression"])
@pytest.mark.parametrize(
    ("leave", "on_purpose"),
    [
        (by_break, True),
        (by_return, True),
        (by_break_in_a_context, True),
        (by_break_after_an_inner_loop, True),
        (by_error, False),
        (by_error_of_a_call, False),
        (by_handled_error, False),
        (by_interrupt, False),
        (by_exit, False),
    ],
)
def test_break_and_return_are_on_purpose(leave: Callable[[Wrap], Any], on_purpose: bool, wrap: Wrap) -> None:
    left.clear()
    with contextlib.suppress(KeyError, ValueError, KeyboardInterrupt, SystemExit):
        leave(wrap)
    assert left == [on_purpose]


def test_loop_that_a_framework_drops_is_not_left() -> None:
    """A Trainer advances its loop in a callback. An exception that is handled drops the Trainer anywhere."""
    left.clear()

    class Trainer:
        def __init__(self) -> None:
            self.turns = batches()

        def train(self) -> Trainer:
            next(self.turns)
            return self

    Trainer().train()  # and drop it, as break drops an iterator
    assert left == [False]
