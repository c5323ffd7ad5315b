"""DistributedDataParallel over gloo, without compression or with the PowerSGD hook of rank 1."""

from __future__ import annotations

import os

import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd
from torch.nn.parallel import DistributedDataParallel
from work import Training, build, optimiser, process


def main() -> None:
    rank, job = process()
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    dist.init_process_group("gloo", f"tcp://{job.hosts[0]}:29500", rank=rank, world_size=job.nodes)
    model = DistributedDataParallel(build(job.model))
    if job.variant == "powersgd":
        state = powersgd.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        model.register_comm_hook(state, powersgd.powerSGD_hook)
    optimizer, training = optimiser(job, model.parameters()), Training(rank, job)
    dist.barrier()
    for _ in range(job.steps):
        training.take(model, optimizer)
        training.evaluate_if_due(model.module)


if __name__ == "__main__":
    main()
