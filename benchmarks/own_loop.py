"""Memory and processor time of a Mesh in a training loop of one's own, above the same loop alone, by size of the model.

    python benchmarks/own_loop.py                     # four transformers, each also with LoRA: about ten minutes
    python benchmarks/own_loop.py --millions 29 --no-lora

A transformer with tied embeddings trains with Adam on random text, alone and as a pair of nodes over loopback, one
thread each. A node runs top-1 % SCSP, writes a checkpoint every third round, and ends with the exact average. Each part
of the run has a peak of its own: the kernel's counter is reset in between. A model is the 4 bytes of each parameter
that is trained. The time of a round leaves out the first two, and those with a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgenode.addresses import free_ports

SIZES: Mapping[str, tuple[int, int, int]] = {  # millions of parameters: words, width, layers
    "0.03": (512, 32, 1), "0.3": (1024, 64, 4), "9.5": (9216, 256, 9), "29": (8192, 512, 8),
}  # fmt: skip
ROUNDS = 9
CHECKPOINT_EVERY = 3
RANK = 8  # of LoRA
SETTINGS: Mapping[str, object] = {
    "run.nodes": 2, "run.rounds": ROUNDS, "run.evaluate_every": 0, "run.checkpoint_every": CHECKPOINT_EVERY,
    "topology.every": "100r", "task.local_steps": 1,
}  # fmt: skip
PARTS = ("join", "step", "exchange", "checkpoint", "end")


class Peaks:
    """The most resident memory of each part of a run, in MiB."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    def end(self, part: str) -> None:
        """End a part. The next one begins."""
        (line,) = (li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("VmHWM:"))
        self.of[part] = max(self.of.get(part, 0.0), int(line.split()[1]) / 1024)
        Path("/proc/self/clear_refs").write_text("5")


def transformer(size: str, lora: bool) -> tuple[Any, Any, Callable[[], float]]:
    """A model, its optimiser, and a step that returns its loss."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)
    torch.manual_seed(0)
    words, width, layers = SIZES[size]

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(words, width)
            layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

        def forward(self, text: Any) -> Any:
            return self.layers(self.embedding(text)) @ self.embedding.weight.T

    model: Any = Transformer()
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=RANK, target_modules=["linear1", "linear2"]))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    text = torch.randint(words, (4, 33))

    def step() -> float:
        loss = cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return model, optimizer, step


def measure(kind: str, size: str, lora: bool, index: int, ports: Sequence[int], folder: Path) -> dict[str, Any]:
    """Run the loop in this process. Return the peaks, and the processor time of rounds, in ms."""
    peaks = Peaks()
    model, optimizer, step = transformer(size, lora)
    from edgenode import Mesh

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rounds: list[float] = []
    if kind == "alone":
        for _ in range(ROUNDS):
            began = time.process_time()
            step()
            rounds.append(1000 * (time.process_time() - began))
            peaks.end("step")
        return {"peaks": peaks.of, "rounds": rounds, "parameters": trained}
    mesh = Mesh(
        model, None, optimizer, settings=SETTINGS, name=f"n{index}", listen=f"127.0.0.1:{ports[index]}",
        state_dir=folder / f"n{index}", peers=",".join(f"127.0.0.1:{port}" for port in ports),
    )  # fmt: skip
    began = time.process_time()
    for t, _ in enumerate(mesh.loop([None] * ROUNDS), start=1):
        peaks.end("join") if t == 1 else None
        loss = step()
        peaks.end("step")
        mesh.step(loss=loss)
        peaks.end("end" if mesh.done else "exchange" if t % CHECKPOINT_EVERY else "checkpoint")
        now = time.process_time()
        rounds.append(1000 * (now - began))
        began = now
    return {"peaks": peaks.of, "rounds": rounds, "parameters": trained}


def run(kind: str, size: str, lora: bool) -> dict[str, Any]:
    """What `measure` returns: of the node whose peak is higher."""
    ports = free_ports(2)
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE", "EDGENODE_INSECURE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        asked = [kind, size, str(int(lora)), ",".join(map(str, ports)), folder]
        running = [
            subprocess.Popen([sys.executable, __file__, "--measure", *asked, str(index)], stdout=subprocess.PIPE,
                             env=environ, stderr=(Path(folder) / f"log{index}").open("w"))
            for index in range(1 if kind == "alone" else 2)
        ]  # fmt: skip
        outputs = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            sys.exit((Path(folder) / "log0").read_text())
    return max(map(json.loads, outputs), key=lambda found: max(found["peaks"].values()))


def usual(rounds: Sequence[float], exchanges: bool) -> float:
    """The median time of a round after the first two, without those with a checkpoint."""
    kept = [ms for t, ms in enumerate(rounds, start=1) if t > 2 and not (exchanges and t % CHECKPOINT_EVERY < 1)]
    return statistics.median(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", nargs="+", choices=SIZES, default=list(SIZES), help="of parameters")
    parser.add_argument("--lora", action=argparse.BooleanOptionalAction, help="only with it, or only without")
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, size, lora, ports, folder, index = options.measure
        found = measure(kind, size, lora == "1", int(index), [int(p) for p in ports.split(",")], Path(folder))
        print(json.dumps(found))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; peaks of resident memory in MiB\n")
    parts = " | ".join(PARTS)
    print(f"| parameters | alone | {parts} | node above alone, MiB | models | time of a step, ms | exchange |")
    print("|---" * (len(PARTS) + 6) + "|")
    for size in options.millions:
        for lora in (False, True) if options.lora is None else (options.lora,):
            alone, node = run("alone", size, lora), run("node", size, lora)
            show(size, lora, alone, node)


def show(size: str, lora: bool, alone: Mapping[str, Any], node: Mapping[str, Any]) -> None:
    base, peaks = max(alone["peaks"].values()), node["peaks"]
    above = max(peaks.values()) - base
    models = above / (4 * node["parameters"] / 2**20)
    step = usual(alone["rounds"], exchanges=False)
    extra = usual(node["rounds"], exchanges=True) - step
    columns = " | ".join(f"{peaks[part]:.0f}" for part in PARTS)
    what = f"{size} million, LoRA: {node['parameters']:,}" if lora else f"{node['parameters']:,}"
    print(f"| {what} | {base:.0f} | {columns} | {above:.0f} | {models:.1f} | {step:.0f} | {extra:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
