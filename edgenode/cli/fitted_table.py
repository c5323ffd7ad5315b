"""A table that leaves out whole columns in a narrow terminal, because half an address or a state helps nobody."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

Row = TypeVar("Row")

_BORDER = 3  # of each cell, and one more at the end
_WRAPPED = 24  # a column that wraps needs no more
_UNLIMITED = 1000  # a pipe or a file has no width


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table.

    Attributes:
        cell: the cell of a row. A str is shown as it is, without markup.
        leave_out: the columns with the highest numbers are left out first. Those with 0 stay.
        wraps: long cells may take several lines.
    """

    heading: str
    cell: Callable[[Row], str | Text]
    leave_out: int = 0
    right: bool = True
    wraps: bool = False


class FittedTable(Generic[Row]):
    """Shows the columns for which there is room, and names the others."""

    def __init__(self, columns: Sequence[Column[Row]], rows: Iterable[Row], expand: bool = False) -> None:
        self._columns, self._expand = columns, expand
        cells = ([column.cell(row) for column in columns] for row in rows)
        self._rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in cells]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich."""
        shown = self._that_fit(options.max_width)
        table = Table(expand=self._expand and console.is_terminal)
        for index in shown:
            column = self._columns[index]
            table.add_column(column.heading, justify="right" if column.right else "left", overflow="fold")
        for row in self._rows:
            table.add_row(*(row[index] for index in shown))
        yield table
        if hidden := [c.heading for index, c in enumerate(self._columns) if index not in shown]:
            yield Text(f"no room for: {', '.join(hidden)}", "dim")

    def _that_fit(self, width: int) -> Sequence[int]:
        """The indices of the columns to show."""
        shown = list(range(len(self._columns)))
        while sum(map(self._width, shown)) + 1 > width:
            least = max(shown, key=lambda index: self._columns[index].leave_out)
            if self._columns[least].leave_out == 0:
                break
            shown.remove(least)
        return shown

    def _width(self, index: int) -> int:
        column = self._columns[index]
        widest = max((row[index].cell_len for row in self._rows), default=0)
        return max(min(widest, _WRAPPED) if column.wraps else widest, len(column.heading)) + _BORDER


def plain_table(
    headings: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Sequence[str] = (), **looks: Any
) -> Table:
    """A table of rich with all columns. Those in ``right`` are aligned there. Times are not wrapped."""
    table = Table(**looks)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=heading in ("time", "began"))
    for row in rows:
        table.add_row(*row)
    return table


def stdout() -> Console:
    """A console for the tables of a command: as wide as the terminal or $COLUMNS, and without a limit in a pipe."""
    limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if limited else _UNLIMITED)
