"""The README's figure: test accuracy against bytes sent per node, with and without compression.

    python benchmarks/headline.py --choose        # plays every candidate on validation data: half an hour of one core
    python benchmarks/headline.py                 # measures the chosen ones on the test images: ten minutes of one core

Four nodes train small-cnn on the digits with label skew 0.8, on graphs a, b and c in turn, and end with an exact
average. A candidate is a way to do so: how many steps, how many of them between two exchanges, the learning rate, the
loss, and what a message carries. Uncompressed messages carry all entries in bfloat16 or float32.

1. `--choose` plays the candidates with `task.validation` = 0.2 on seeds 100 and 101, and looks at no test image. It
   appends a line for each to `benchmarks/notes/headline.csv`, and skips those that are there.
2. Of each family, those are chosen that no candidate with as many bytes, to 0.01 MB, or fewer equals on the validation
   data. float32 takes the choices of bfloat16.
3. Without `--choose`, the chosen ones train on all training data on seeds 0 to 5. Their test accuracy is the figure.

The factor of a compressed candidate is that to the cheapest uncompressed one as accurate on validation data. The
paper's method, top-1 %, is measured too, chosen or not.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation

CHOICES = Path(__file__).parent / "notes" / "headline.csv"
CHOICE_SEEDS, SEEDS = range(100, 102), range(6)
T95 = {2: 12.706, 6: 2.571}  # of Student's t, by the number of seeds
COMPRESSED, BFLOAT16, FLOAT32 = "compressed", "bfloat16", "float32"
COMMON: Mapping[str, object] = {
    "run.nodes": 4,
    "run.evaluate_every": 0,
    "run.threads": 1,
    "run.device": "cpu",
    "algorithm.name": "scsp",
    "task.skew": 0.8,
    "topology.graphs": ["a", "b", "c"],
    "topology.every": "1ep",
}
LOSSES = ("cross_entropy", "balanced")
LENGTHS = ((100, 100), (100, 25), (100, 5), (100, 1))  # steps, and how many of them precede each exchange
MESSAGES: Mapping[str, tuple[Mapping[str, object], tuple[tuple[int, int], ...]]] = {
    "all entries, 4 bits": ({"compressor": "identity", "values": "fitted4"}, LENGTHS[:3]),
    "all entries, 2 bits": ({"compressor": "identity", "values": "fitted2"}, LENGTHS[1:2]),
    "rolling 20 %, 4 bits": ({"compressor": "rolling", "share": 0.2, "values": "fitted4"}, LENGTHS[2:3]),
    "top-1 %": ({"compressor": "topk", "share": 0.01}, ((500, 1),)),
}


@dataclass(frozen=True)
class Candidate:
    """One way to train. ``local`` steps precede each exchange."""

    family: str
    message: str
    steps: int
    local: int
    rate: float
    loss: str

    def keys(self) -> dict[str, object]:
        """The keys of run.toml."""
        carries: Mapping[str, object] = {"compressor": "identity", "values": self.family}
        last = self.family
        if self.family == COMPRESSED:
            carries, last = MESSAGES[self.message][0], "int8"
        return {
            **COMMON,
            **{f"algorithm.{key}": value for key, value in carries.items()},
            "algorithm.gossip_values": last,
            "run.rounds": self.steps // self.local,
            "task.local_steps": self.local,
            "task.learning_rate": self.rate,
            "task.loss": self.loss,
        }

    def measure(self, seed: int, validation: float = 0.0) -> tuple[float, float]:
        """MB sent per node, and the accuracy in percent."""
        keys = {**self.keys(), "run.seed": seed, "task.validation": validation}
        simulation = Simulation(load(None, keys, environ={}))
        accuracy = 100 * simulation.run()["mean_test_accuracy"]
        return simulation.payload_bytes / 1e6, accuracy

    def __str__(self) -> str:
        loss = ", balanced" if self.loss == "balanced" else ""
        return f"{self.message}, {self.steps // self.local} x {self.local} steps, {self.rate:g}{loss}"


Chosen = tuple[Candidate, float, float]  # with its MB and its accuracy on the validation data


def candidates() -> Iterator[Candidate]:
    """Everything that is tried."""
    for message, (_, lengths) in MESSAGES.items():
        for (steps, local), loss in product(lengths, LOSSES):
            yield Candidate(COMPRESSED, message, steps, local, 0.02, loss)
    for (steps, local), rate, loss in product(LENGTHS, (0.02, 0.05), LOSSES):
        yield Candidate(BFLOAT16, BFLOAT16, steps, local, rate, loss)


def choose() -> None:
    """Play what has no line yet, each on all seeds for choices."""
    known = {candidate for candidate, _, _ in read_choices()}
    if not CHOICES.exists():
        CHOICES.write_text("family,message,steps,local,rate,loss,mb,validation accuracy\n")
    for candidate in sorted(candidates(), key=lambda c: c.steps):
        if candidate not in known:
            mb, accuracy = mean_of(candidate, CHOICE_SEEDS, validation=0.2)[:2]
            with CHOICES.open("a", newline="") as file:
                fields = (candidate.family, candidate.message, candidate.steps, candidate.local)
                csv.writer(file, lineterminator="\n").writerow(
                    [*fields, candidate.rate, candidate.loss, f"{mb:.4f}", f"{accuracy:.2f}"]
                )
            print(f"{candidate}: {accuracy:.2f} % for {mb:.3f} MB", flush=True)


def read_choices() -> list[Chosen]:
    """The candidates that have been played."""
    if not CHOICES.exists():
        return []
    with CHOICES.open(newline="") as file:
        return [
            (Candidate(family, message, int(steps), int(local), float(rate), loss), float(mb), float(accuracy))
            for family, message, steps, local, rate, loss, mb, accuracy in list(csv.reader(file))[1:]
        ]


def frontier(played: Sequence[Chosen], family: str) -> list[Chosen]:
    """Those of a family that none with as few bytes equals, cheapest first."""
    found: list[Chosen] = []
    for chosen in sorted((c for c in played if c[0].family == family), key=lambda c: (round(c[1], 2), -c[2])):
        if not found or chosen[2] > found[-1][2]:
            found.append(chosen)
    return found


def mean_of(candidate: Candidate, seeds: Sequence[int], validation: float = 0.0) -> tuple[float, float, float]:
    """Over the seeds: mean MB, mean accuracy, and half of the accuracy's 95 % interval."""
    runs = [candidate.measure(seed, validation) for seed in seeds]
    accuracies = [accuracy for _, accuracy in runs]
    return fmean(mb for mb, _ in runs), fmean(accuracies), T95[len(runs)] * stdev(accuracies) / len(runs) ** 0.5


def draw(path: Path, curves: Mapping[str, Sequence[tuple[float, float, float]]]) -> None:
    """A curve of each family, with 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles = {COMPRESSED: ("#1f6feb", "compressed"), BFLOAT16: ("#57606a", "uncompressed, bfloat16"),
              FLOAT32: ("#b0b7bf", "uncompressed, float32")}  # fmt: skip
    for family, points in curves.items():
        mb, accuracy, half = zip(*points, strict=True)
        color, label = styles[family]
        axes.errorbar(mb, accuracy, yerr=half, color=color, label=label, lw=2, marker="o", ms=4, capsize=3)
    axes.set(xscale="log", xlabel="bytes sent per node in the whole run", ylabel="mean test accuracy, %")
    axes.xaxis.set_major_formatter(lambda mb, _: f"{mb:g} MB" if mb >= 1 else f"{1000 * mb:g} kB")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the chosen candidates with their test accuracy, and the factors, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="play the candidates on validation data")
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy.png"))
    options = parser.parse_args()
    if options.choose:
        choose()
        return
    measured: dict[Candidate, tuple[float, float, float]] = {}
    curves: dict[str, list[tuple[float, float, float]]] = {COMPRESSED: [], BFLOAT16: [], FLOAT32: []}
    played = read_choices()
    print("| chosen | validation, % | test, %, with 95 % interval | MB |\n|---|---|---|---|")
    for family, points in curves.items():
        for chosen, _, validation in frontier(played, BFLOAT16 if family == FLOAT32 else family):
            candidate = replace(chosen, family=FLOAT32, message=FLOAT32) if family == FLOAT32 else chosen
            mb, accuracy, half = measured[candidate] = mean_of(candidate, SEEDS)
            points.append((mb, accuracy, half))
            print(f"| {candidate} | {validation:.2f} | {accuracy:.2f} ± {half:.2f} | {mb:.3f} |", flush=True)
    for candidate, _, validation in played:
        if candidate.message == "top-1 %" and candidate.loss == "balanced" and candidate not in measured:
            mb, accuracy, half = mean_of(candidate, SEEDS)
            print(f"| {candidate} (not chosen) | {validation:.2f} | {accuracy:.2f} ± {half:.2f} | {mb:.3f} |")
    for ours, _, accuracy in frontier(played, COMPRESSED):
        other = next((c for c, _, theirs in frontier(played, BFLOAT16) if theirs >= accuracy), None)
        if other is not None:
            mb, tested, _ = measured[ours]
            for opponent in (other, replace(other, family=FLOAT32, message=FLOAT32)):
                more, theirs, _ = measured[opponent]
                print(f"{more / mb:.1f} times fewer bytes: {ours} ({tested:.2f} %), {opponent} ({theirs:.2f} %)")
    draw(options.out, curves)


if __name__ == "__main__":
    main()
