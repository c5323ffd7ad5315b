"""hivemind: local steps, and an average of the models over all nodes, which find each other in its DHT."""

from __future__ import annotations

import time
from pathlib import Path

import hivemind
import torch
from work import Training, build, optimiser, process

_PORT = 31337
_MATCHMAKING_S, _AVERAGING_S = 1.0, 60.0


def join(rank: int, host: str, meeting: Path) -> hivemind.DHT:
    """Enter the DHT through rank 0, which leaves its address in a file."""
    own = [f"/ip4/{host}/tcp/{_PORT}"]
    if rank == 0:
        dht = hivemind.DHT(host_maddrs=own, start=True)
        text = "\n".join(map(str, dht.get_visible_maddrs()))
        meeting.with_suffix(".new").write_text(text)
        meeting.with_suffix(".new").rename(meeting)
        return dht
    while not meeting.exists():
        time.sleep(0.1)
    return hivemind.DHT(host_maddrs=own, initial_peers=meeting.read_text().split(), start=True)


def main() -> None:
    rank, job = process()
    dht = join(rank, job.hosts[rank], job.folder / "dht")
    model = build(job.model)
    optimizer, training = optimiser(job, model.parameters()), Training(rank, job)
    tensors = [parameter.detach().clone() for parameter in model.parameters()]
    averager = hivemind.averaging.DecentralizedAverager(
        tensors, dht, prefix="peers", start=True, target_group_size=job.nodes, min_group_size=job.nodes,
        min_matchmaking_time=_MATCHMAKING_S,
    )  # fmt: skip
    while training.step < job.steps:
        for _ in range(job.local_steps):
            training.take(model, optimizer)
        with averager.get_tensors() as averaged, torch.no_grad():
            for there, parameter in zip(averaged, model.parameters(), strict=True):
                there.copy_(parameter)
        if averager.step(timeout=_AVERAGING_S) is not None:
            with averager.get_tensors() as averaged, torch.no_grad():
                for there, parameter in zip(averaged, model.parameters(), strict=True):
                    parameter.copy_(there)
        training.evaluate_if_due(model)
    averager.shutdown()
    dht.shutdown()


if __name__ == "__main__":
    main()
