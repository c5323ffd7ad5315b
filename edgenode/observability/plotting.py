"""Figures, and the plot of accuracy against bytes. They need the extra `plots`.

A command that draws first asks whether it can. Without matplotlib, it says so and does the rest.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgenode.errors import ConfigError
from edgenode.observability.status_view import size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_INSTALLED = "matplotlib is not installed: pip install 'edgenode[plots]'"


def available() -> bool:
    """Return whether figures can be drawn. Does not import matplotlib, which takes half a second."""
    return importlib.util.find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, for files of any format."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_accuracy(
    path: Path,
    sent: Sequence[float],
    dense: Sequence[float],
    accuracy: Sequence[float],
    label: str,
    senders: str = "per node",
) -> None:
    """Write an image in the format of the path's suffix.

    Args:
        sent, dense: bytes at successive moments, as sent and uncompressed.
        accuracy: 0 to 1, at the same moments.
        senders: the senders of the bytes, in words.

    Raises:
        ConfigError: matplotlib does not know the format.
    """
    percent = [100 * a for a in accuracy]
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    axes.plot(sent, percent, color="#1f6feb", lw=2, label=f"edgenode: {label}")
    axes.plot(dense, percent, color="#8b949e", lw=2, ls="--", label="the same messages, uncompressed")
    axes.plot(sent[-1:], percent[-1:], "o", color="#1f6feb")
    axes.annotate(f"{percent[-1]:.1f} %", (sent[-1], percent[-1]), (-6, 8), textcoords="offset points", ha="right")
    axes.set(xscale="log", xlabel=f"bytes sent, {senders}", ylabel="mean test accuracy, %")
    axes.xaxis.set_major_formatter(lambda value, _: size(int(value)))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as exc:  # matplotlib names the formats it knows
        raise ConfigError(f"{path}: {exc}") from exc
