"""Compare an example with nodes that train alone, and with one node that has the data of all. Prints a table.

python examples/compare.py char_transformer
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ALONE = ["algorithm.name=local"]
WAYS = {
    "together, with edgenode": [],
    "each node alone": ALONE,
    "one node with all data": [*ALONE, "run.nodes=1"],
}


def play(folder, seed, settings, out):
    """Run the example, and return the results of its nodes."""
    single = "run.nodes=1" in settings
    options = [part for setting in [*settings, f"run.seed={seed}"] for part in ("--set", setting)]
    if (folder / "train.py").exists():  # a loop of its own
        part = [] if single else ["--part", "{index}"]
        command = ["launch", *options, "--out", out, "train.py", "--", "--seed", str(seed), *part]
        files = "node-*/result.json"
    else:
        everything = ["--set", "task.options.everything=true"] if single else []
        command = ["simulate", *options, *everything, "--out", out]
        files = "result.json"
    command = [sys.executable, "-m", "edgenode", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return [node for file in Path(out).glob(files) for node in json.loads(file.read_text())["nodes"]]


def mean(values):
    return sum(values) / len(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("example", type=Path, help="folder of the example")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of run.toml")
    given = parser.parse_args()
    folder = given.example if given.example.exists() else Path(__file__).parent / given.example
    print("| | score | seeds, from to | worst node | sent per node |\n|---|---|---|---|---|", flush=True)
    for way, settings in WAYS.items():
        scores, worst, sent = [], [], []
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as out:
                nodes = play(folder, seed, [*given.set, *settings], out)
            accuracies = [node["test_accuracy"] for node in nodes]
            scores.append(mean(accuracies))
            worst.append(min(accuracies))
            sent.append(mean([node["payload_bytes"] for node in nodes]))
        span = f"{min(scores):.1%} to {max(scores):.1%}"
        print(f"| {way} | {mean(scores):.1%} | {span} | {mean(worst):.1%} | {mean(sent) / 1e6:.2f} MB |", flush=True)


if __name__ == "__main__":
    main()
