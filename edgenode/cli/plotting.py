"""Plots accuracy against the bytes sent, with and without compression."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgenode.errors import ConfigError
from edgenode.observability.status_view import size


def plot_accuracy(
    path: Path, sent: Sequence[float], dense: Sequence[float], accuracy: Sequence[float], label: str
) -> None:
    """Write an image in the format of the path's suffix.

    Args:
        sent, dense: bytes per node at successive moments, as sent and uncompressed.
        accuracy: 0 to 1, at the same moments.

    Raises:
        ConfigError: matplotlib does not know the format.
    """
    percent = [100 * a for a in accuracy]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("MPLCONFIGDIR", scratch)
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4.2), dpi=150, layout="constrained")
        axes.plot(sent, percent, color="#1f6feb", lw=2, label=f"edgenode: {label}")
        axes.plot(dense, percent, color="#8b949e", lw=2, ls="--", label="the same messages, uncompressed")
        axes.plot(sent[-1:], percent[-1:], "o", color="#1f6feb")
        axes.annotate(f"{percent[-1]:.1f} %", (sent[-1], percent[-1]), (-6, 8), textcoords="offset points", ha="right")
        axes.set(xscale="log", xlabel="bytes sent per node", ylabel="mean test accuracy, %")
        axes.xaxis.set_major_formatter(lambda value, _: size(int(value)))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        try:
            figure.savefig(path)
        except ValueError as exc:  # matplotlib names the formats it knows
            raise ConfigError(f"{path}: {exc}") from exc
        finally:
            plt.close(figure)
