"""The progress of a simulation on standard error: a bar on a terminal, else lines. No phase is silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from edgenode.simulate import progress
    from edgenode.simulate.simulation import Simulation

_LINE_EVERY_S, _DRAW_EVERY_S = 1.5, 0.25


class _View(Protocol):
    every_s: float

    def begin(self, simulation: Simulation) -> None:
        """Take the simulation, once its nodes are made."""

    def show(self) -> None:
        """Show what is done so far. Called every ``every_s`` seconds."""

    def end(self) -> None:
        """Show that the last round is done."""


@contextmanager
def shown(phases: progress.Progress) -> Iterator[Callable[[Simulation], Callable[[], None]]]:
    """Show the progress in a thread of its own, until the end of the block.

    Yields a function that takes the simulation and returns what to call after each round.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        with _shown(_Lines(phases)) as begin:
            yield begin
        return
    # narrow enough for 80 columns
    columns = ("{task.description}", BarColumn(12), TaskProgressColumn(), TimeRemainingColumn(), "left")
    bar = Progress(*columns, TextColumn("{task.fields[state]}"), console=console, speed_estimate_period=600)
    with bar, _shown(_Bar(phases, bar)) as begin:
        yield begin


@contextmanager
def _shown(view: _View) -> Iterator[Callable[[Simulation], Callable[[], None]]]:
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(view.every_s):
            view.show()

    def begin(simulation: Simulation) -> Callable[[], None]:
        view.begin(simulation)
        return lambda: view.end() if simulation.round == simulation.rounds else None

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield begin
    finally:
        ended.set()
        thread.join()


class _Lines:
    """A line every so many seconds, and one after the last round."""

    every_s = _LINE_EVERY_S

    def __init__(self, phases: progress.Progress) -> None:
        self._phases = phases
        self._simulation: Simulation | None = None
        self._began, self._first, self._round = time.monotonic(), 0, -1

    def begin(self, simulation: Simulation) -> None:
        self._began, self._first = time.monotonic(), simulation.round
        self._simulation = simulation

    def show(self) -> None:
        if self._simulation is None or not self._phases.in_rounds:
            click.echo(str(self._phases), err=True)
        elif self._simulation.round < self._simulation.rounds:
            self._show_round(self._simulation, self._phases.done, self._phases.total)

    def end(self) -> None:
        if self._simulation is not None:
            self._show_round(self._simulation, 0, 1)

    def _show_round(self, simulation: Simulation, done: int, total: int) -> None:
        at, passed_s = simulation.round, time.monotonic() - self._began
        texts = [f"round {at} of {simulation.rounds}"]
        if at == self._round:
            texts[0] += f" and {done:,} of {total:,} nodes"
        if (rounds := at - self._first + done / total) > 0:
            texts.append(f"{passed_s / rounds * (simulation.rounds - at - done / total):.0f} s left")
        self._round = at
        click.echo(", ".join(filter(None, [*texts, _state(simulation)])), err=True)


class _Bar:
    """A bar of each phase before the rounds, and then of the rounds."""

    every_s = _DRAW_EVERY_S

    def __init__(self, phases: progress.Progress, bar: Progress) -> None:
        self._phases, self._bar = phases, bar
        self._simulation: Simulation | None = None
        self._task, self._phase = bar.add_task("loading", total=None, state=""), ""

    def begin(self, simulation: Simulation) -> None:
        self._bar.reset(self._task, completed=simulation.round)
        self._simulation = simulation

    def show(self) -> None:
        phases, simulation = self._phases, self._simulation
        if simulation is None:
            if self._phase != phases.phase:  # its pace is another
                self._bar.reset(self._task, total=phases.total or None, description=phases.phase)
                self._phase = phases.phase
            self._bar.update(self._task, completed=phases.done)
            return
        done = simulation.round + (phases.done / phases.total if phases.in_rounds else 0)
        state = f"{simulation.round}/{simulation.rounds} {_state(simulation)}"
        self._bar.update(self._task, description=phases.phase, total=simulation.rounds, completed=done, state=state)

    def end(self) -> None:
        self.show()


def _state(simulation: Simulation) -> str:
    loss = "" if simulation.loss is None else f"loss {simulation.loss:.4f}"
    accuracy = "" if simulation.accuracy is None else f"accuracy {simulation.accuracy:.2%}"
    return ", ".join(filter(None, (loss, accuracy)))
