"""The README's figure: test accuracy against bytes sent per node, compressed and uncompressed, both measured.

    python benchmarks/headline.py [--out docs/accuracy.png] [--seeds 3]

Simulates the configuration of `edgenode demo` (four nodes, digits with label skew 0.8, SCSP at top-1 %, graphs a, b and
c in turn) and the same run without compression (stochastic gradient push), by default with three seeds each. The
balanced loss is the compressed run's alone: it makes the uncompressed run less accurate. Accuracy is measured every 5
rounds, which resolves 0.4 MB of the uncompressed run. Curves are means over the seeds.

The equal accuracy is the final accuracy of the compressed runs. Each curve reaches it at its first evaluation that is
at least as accurate, and the factor is the ratio of the bytes sent until then.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation

Curve = NDArray[np.float64]  # [evaluations, 2]: MB sent per node, accuracy in percent

EVALUATE_EVERY = 5
COMPRESSED = {
    "algorithm.name": "scsp",
    "algorithm.share": 0.01,
    "task.loss": "balanced",
}
UNCOMPRESSED = {"algorithm.name": "sgp"}
COMMON = {
    "run.nodes": 4,
    "run.rounds": 500,
    "run.evaluate_every": EVALUATE_EVERY,
    "run.threads": 1,
    "run.device": "cpu",
    "task.skew": 0.8,
    "task.learning_rate": 0.02,
    "topology.graphs": ["a", "b", "c"],
    "topology.every": "1ep",
}


def measure(algorithm: dict[str, object], seed: int) -> Curve:
    """The curve of one run, with its final accuracy as the last point."""
    simulation = Simulation(load(None, {**COMMON, **algorithm, "run.seed": seed}, environ={}))
    points: list[tuple[float, float]] = []

    def after_round() -> None:
        accuracy = simulation.accuracy
        if simulation.round % EVALUATE_EVERY == 0 and accuracy is not None:
            points.append((simulation.payload_bytes / 1e6, 100 * accuracy))

    final = 100 * simulation.run(after_round)["mean_test_accuracy"]
    return np.array([*points, (simulation.payload_bytes / 1e6, final)])


def first_reach(curve: Curve, accuracy: float) -> float:
    """MB sent at the first evaluation with at least this accuracy.

    Raises:
        ValueError: there is none.
    """
    reached = curve[curve[:, 1] >= accuracy, 0]
    if not len(reached):
        raise ValueError(f"the curve ends at {curve[-1, 1]:.2f} % and never reaches {accuracy:.2f} %")
    return float(reached[0])


def draw(path: Path, compressed: Curve, uncompressed: Curve, accuracy: float, reached: tuple[float, float]) -> None:
    """Both curves, [seeds, evaluations, 2], as means with the range over the seeds, and the equal accuracy."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curves, color, label in (
        (compressed, "#1f6feb", "edgenode: SCSP, top-1 %"),
        (uncompressed, "#8b949e", "uncompressed: SGP"),
    ):
        mean = curves.mean(axis=0)
        axes.fill_between(
            mean[:, 0], curves[..., 1].min(axis=0), curves[..., 1].max(axis=0), color=color, alpha=0.2, lw=0
        )
        axes.plot(mean[:, 0], mean[:, 1], color=color, lw=2, label=label)
    axes.plot(reached, (accuracy, accuracy), color="#24292f", lw=1, ls=":", marker="o", ms=5)
    axes.annotate(
        f"{accuracy:.1f} %: {reached[1] / reached[0]:.0f} times fewer bytes",
        (np.sqrt(reached[0] * reached[1]), accuracy), (0, 7), textcoords="offset points", ha="center",
    )  # fmt: skip
    axes.set(xscale="log", xlabel="bytes sent per node", ylabel="mean test accuracy, %")
    axes.xaxis.set_major_formatter(lambda mb, _: f"{mb:g} MB" if mb >= 1 else f"{1000 * mb:g} kB")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the numbers of the caption and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy.png"))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    options = parser.parse_args()
    seeds = range(options.seeds)
    with ProcessPoolExecutor() as pool:
        curves = list(pool.map(measure, *zip(*product((COMPRESSED, UNCOMPRESSED), seeds), strict=True)))
    compressed, uncompressed = np.array(curves[: len(seeds)]), np.array(curves[len(seeds) :])
    accuracy = float(compressed[:, -1, 1].mean())
    reached = first_reach(compressed.mean(axis=0), accuracy), first_reach(uncompressed.mean(axis=0), accuracy)
    for label, runs, mb in (("compressed", compressed, reached[0]), ("uncompressed", uncompressed, reached[1])):
        sent, final = runs[:, -1].mean(axis=0)
        print(
            f"{label}: finally {final:.2f} % ({', '.join(f'{a:.2f}' for a in runs[:, -1, 1])}) for {sent:.3f} MB per "
            f"node; {accuracy:.2f} % for {mb:.3f} MB"
        )
    print(f"equal accuracy for {reached[1] / reached[0]:.1f} times fewer bytes")
    draw(options.out, compressed, uncompressed, accuracy, reached)


if __name__ == "__main__":
    main()
