"""decent-dp: D-PSGD in a ring, where a node exchanges its whole model with one neighbour in each step."""

from __future__ import annotations

import os

import torch.distributed as dist
from decent_dp.ddp import DecentralizedDataParallel
from work import Training, build, optimiser, process


def main() -> None:
    rank, job = process()
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    dist.init_process_group("gloo", f"tcp://{job.hosts[0]}:29500", rank=rank, world_size=job.nodes)
    model = DecentralizedDataParallel(
        build(job.model),
        lambda named: optimiser(job, [parameter for _, parameter in named]),
        topology="ring",
        _local_world_size=1,
    )
    training = Training(rank, job)
    dist.barrier()
    for _ in range(job.steps):
        training.loss(model).backward()  # the hooks of decent-dp step the optimiser
        training.evaluate_if_due(model)


if __name__ == "__main__":
    main()
