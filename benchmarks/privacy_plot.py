"""The figure of docs/privacy.md: what an attack finds against the bytes that are sent, and accuracy against epsilon.

    python benchmarks/privacy_plot.py

It measures nothing. The numbers are those of the tables "Membership" and "Accuracy and epsilon" in
`benchmarks/notes/privacy.md`, without the rows with other digits, other local steps or skew, and one graph for each
algorithm, the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from matplotlib.axes import Axes

from edgenode.observability.plotting import new_figure

NOTES = Path(__file__).parent / "notes" / "privacy.md"
LEFT_OUT = ("few samples", "local steps")
AVERAGES = ", averages"  # another attack on the messages of the same runs
HOLDERS = {"neighbour": "full", "final model": "none"}


@dataclass
class Found:
    """What LiRA finds of the samples of one algorithm at 1 % false ones, in percent, by who looks."""

    sent_kb: float
    by: dict[str, float] = field(default_factory=dict)


def rows(section: str) -> Iterator[dict[str, str]]:
    """The rows of the first table of a section, by the headings of its columns. The first column of some has none."""
    lines = iter(NOTES.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].splitlines())
    head = next([cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|"))
    next(lines)
    for line in takewhile(lambda line: line.startswith("|"), lines):
        yield dict(zip(head, (cell.strip() for cell in line.split("|")[1:-1]), strict=True))


def membership() -> dict[str, Found]:
    """What is found of each algorithm. Of several attacks of one holder, the best counts."""
    found: dict[str, Found] = {}
    graphs: dict[str, str] = {}
    for row in rows("Membership"):
        name = row["Algorithm"].removesuffix(AVERAGES)
        if row["Skew"] != "0" or row["Attack"] != "LiRA" or any(text in name for text in LEFT_OUT):
            continue
        if graphs.setdefault(name, row["Graph"]) == row["Graph"] and (holder := row["Who sees it"]) in HOLDERS:
            by = found.setdefault(name, Found(float(row["Sent, kB"].replace(",", "")))).by
            by[holder] = max(by.get(holder, 0.0), float(row["1 % false"].split()[0]))
    return found


def draw_membership(axes: Axes) -> None:
    """A colour for each algorithm, a filled circle for a neighbour and an empty one for the final model."""
    labelled = set[str]()
    for place, (name, found) in enumerate(membership().items()):
        private = "epsilon" in name
        label = "with epsilon 1, 3 and 8" if private else name
        for holder, filling in HOLDERS.items():
            axes.plot(found.sent_kb, found.by[holder], "o", color="black" if private else f"C{place}",
                      fillstyle=filling, label=None if label in labelled else label)  # fmt: skip
            labelled.add(label)
    axes.axhline(1, color="grey", linestyle=":")
    axes.set(xscale="log", xlabel="kB sent per node", ylabel="training samples found at 1 % false, %",
             ylim=(0, None), title="filled: a neighbour; empty: the final model; dotted: chance")  # fmt: skip
    axes.xaxis.set_major_formatter(lambda kb, _: f"{kb:g}")
    axes.xaxis.set_minor_formatter(lambda _kb, _: "")
    axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def draw_epsilon(axes: Axes) -> None:
    """A line for each way to train, and a dotted one for the same without privacy."""
    table = list(rows("Accuracy and epsilon"))
    for place, way in enumerate(heading for heading in table[0] if heading):
        points = [
            (float(row[""].removeprefix("epsilon ")), *map(float, row[way].split(" ± ")))
            for row in table
            if row[""].startswith("epsilon ")
        ]
        epsilon, accuracy, spread = zip(*points, strict=True)
        axes.errorbar(epsilon, accuracy, yerr=spread, color=f"C{place}", marker="o", capsize=3, label=way)
        axes.axhline(float(table[0][way].split(" ± ")[0]), color=f"C{place}", linestyle=":")
    axes.set(xscale="log", xlabel="epsilon", ylabel="test accuracy, %", title="dotted: no privacy")
    axes.set_xticks([1, 3, 8], ["1", "3", "8"], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/privacy.png"))
    options = parser.parse_args()
    figure = new_figure(9, 4.6)
    left, right = figure.subplots(1, 2)
    draw_membership(left)
    draw_epsilon(right)
    for axes in (left, right):
        axes.title.set_fontsize("small")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
