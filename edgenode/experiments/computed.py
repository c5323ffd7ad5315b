"""Tables that need no training: what a message weighs, and what a device needs for a share of a batch."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenode.experiments import footprint, sizes
from edgenode.experiments.report import table
from edgenode.storage.checkpoints import write_atomically


@dataclass(frozen=True)
class Computed:
    """A table of numbers that are computed or counted, never of a trained model."""

    name: str
    title: str
    notes: str
    headings: Sequence[str]
    lines: Callable[[], list[list[str]]]
    draw: Callable[[Sequence[str], Sequence[Sequence[str]], Path], None] | None = None


COMPUTED: dict[str, Computed] = {
    each.name: each
    for each in (
        Computed("fig3", "Figure 3: what one device needs, alone and as one of sixteen", footprint.NOTES,
                 footprint.HEADINGS, footprint.lines, footprint.draw),
        Computed("sizes", "What a message weighs, and a whole run: Tables 2, 4 and 7", sizes.NOTES,
                 sizes.HEADINGS, sizes.lines),
    )
}  # fmt: skip


def write(computed: Computed, out: Path) -> None:
    """Compute, and write NAME.md, NAME.csv and, where there is a picture, NAME.png into ``out``."""
    lines = computed.lines()
    out.mkdir(parents=True, exist_ok=True)
    picture = f"\n![{computed.title}]({computed.name}.png)\n" if computed.draw else ""
    text = f"# {computed.title}\n\n    edgenode experiment {computed.name}\n\n{computed.notes}\n\n"
    write_atomically(out / f"{computed.name}.md", f"{text}{table(computed.headings, lines)}\n{picture}")
    plain = io.StringIO()
    csv.writer(plain, lineterminator="\n").writerows([computed.headings, *lines])
    write_atomically(out / f"{computed.name}.csv", plain.getvalue())
    if computed.draw:
        computed.draw(computed.headings, lines, out / f"{computed.name}.png")
