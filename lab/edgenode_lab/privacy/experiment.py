"""`edgenode experiment privacy`: plays the runs that are not there yet, attacks them and writes privacy.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgenode.errors import ConfigError
from edgenode.storage.filesystem import write_atomically
from edgenode_lab.privacy import cells, report, shadows, victims
from edgenode_lab.privacy.first_round import attack

NAME = "privacy"
TITLE = "What messages, reports and models tell of training samples (the digits)"


def measure(
    out: Path, command: str, overrides: Mapping[str, object], only: Sequence[str], say: Callable[[str], None]
) -> None:
    """Measure all cells whose names contain all texts of ``only``, and write the report after each.

    Runs are kept in ``out``, so an interrupted measurement resumes.

    Args:
        overrides: keys of run.toml for the runs of the membership table. First rounds are always one step.

    Raises:
        EdgenodeError: no cell has that name, a setting is not valid, or training diverged.
    """
    chosen = [cell for cell in cells.CELLS if all(text in cell.name for text in only)]
    first = [cell for cell in cells.FIRST_ROUNDS if all(text in cell.name for text in only)]
    if not chosen + first:
        raise ConfigError(f"no row of {NAME} matches {' and '.join(only)}; an example is {cells.CELLS[0].name}")
    membership_rows: list[tuple[str, ...]] = []
    first_rows: list[tuple[str, ...]] = []

    def write(cell: shadows.Cell) -> None:
        write_atomically(out / f"{NAME}.md", report.text(command, cells.DRAWS, membership_rows, first_rows))
        say(f"{cell.name}: done")

    for cell in chosen:
        runs = _runs(cell, cells.DRAWS, overrides, out)
        membership_rows += report.membership_rows(cell, runs)
        write(cell)
    for cell in first:
        runs = _runs(cell, cells.FIRST_ROUND_DRAWS, {}, out)
        pool = victims.Pool(cell.samples, shadows.NODES, cell.skew)
        result = attack(runs, pool, victims.all_images(), cells.LEARNING_RATE)
        first_rows.append(report.first_round_row(cell, result))
        write(cell)


def _runs(cell: shadows.Cell, draws: int, overrides: Mapping[str, object], out: Path) -> list[shadows.Seen]:
    """All runs of a cell, with a bar if a person waits for them."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    steps = track(range(draws), cell.name, console=console, disable=not console.is_terminal, transient=True)
    return [shadows.play(cell, draw, overrides, out / NAME) for draw in steps]
