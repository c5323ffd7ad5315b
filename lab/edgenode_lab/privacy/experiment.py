"""`edgenode experiment privacy`: plays the runs that are not there yet, attacks them and writes privacy.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgenode.errors import ConfigError
from edgenode.storage.filesystem import write_atomically
from edgenode_lab.privacy import cells, report, shadows, victims
from edgenode_lab.privacy.first_round import FirstRound, attack, first_steps
from edgenode_lab.privacy.hops import attack_cell

NAME = "privacy"
TITLE = "What messages, reports and models tell of training samples (the digits)"


def measure(
    out: Path, command: str, overrides: Mapping[str, object], only: Sequence[str], say: Callable[[str], None]
) -> None:
    """Measure all cells whose names contain all texts of ``only``, and write the report after each.

    Runs are kept in ``out``, so an interrupted measurement resumes.

    Args:
        overrides: keys of run.toml for the runs of the membership table. The other attacks are on single steps.

    Raises:
        EdgenodeError: no cell has that name, a setting is not valid, or training diverged.
    """

    def matches(name: str) -> bool:
        return all(text in name for text in only)

    chosen = [cell for cell in cells.CELLS if matches(cell.name)]
    first = [cell for cell in cells.FIRST_ROUNDS if matches(cell.name)]
    hops = [cell for cell in cells.HOPS if matches(cell.name)]
    if not (chosen or first or hops):
        raise ConfigError(f"no row of {NAME} matches {' and '.join(only)}; an example is {cells.CELLS[0].name}")
    tables = report.Tables()

    def write(name: str) -> None:
        write_atomically(out / f"{NAME}.md", report.text(command, cells.DRAWS, tables))
        say(f"{name}: done")

    for cell in chosen:
        tables.membership += report.membership_rows(cell, _runs(cell, cells.DRAWS, overrides, out))
        write(cell.name)
    for cell in first:
        tables.first.append(report.first_round_row(cell, _first_round(cell, out)))
        write(cell.name)
    for across in hops:
        tables.hops += report.hop_rows(across, attack_cell(across, cells.HOP_DRAWS))
        write(across.name)


def _first_round(cell: shadows.Cell, out: Path) -> FirstRound:
    runs = _runs(cell, cells.FIRST_ROUND_DRAWS, {}, out)
    pool = victims.Pool(cell.samples, shadows.NODES, cell.skew)
    steps = [step for seen in runs for step in first_steps(pool, seen.members, seen.first)]
    return attack(steps, runs[0].initial, victims.all_images(), cells.LEARNING_RATE)


def _runs(cell: shadows.Cell, draws: int, overrides: Mapping[str, object], out: Path) -> list[shadows.Seen]:
    """All runs of a cell, with a bar if a person waits for them."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    steps = track(range(draws), cell.name, console=console, disable=not console.is_terminal, transient=True)
    return [shadows.play(cell, draw, overrides, out / NAME) for draw in steps]
