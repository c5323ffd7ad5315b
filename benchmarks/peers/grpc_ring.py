"""gRPC alone: D-PSGD in a ring over one stream of grpc.aio for each edge, with TLS and nothing else.

It answers no push, checks nothing, and ends if a node does. D-PSGD of edgenode, whose messages travel by gRPC, cannot
be faster. It runs in the environment of edgenode.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import torch
from work import Training, build, optimiser, process

from edgenode.net.rpc import channel
from edgenode.net.tls import MutualTls
from edgenode.node.resources import keep_freed_memory
from edgenode.security.secret_files import read_credentials
from edgenode.security.subject import Subject

_PORT = 7600
_METHOD = "peers.Ring", "Push"


async def main() -> None:
    rank, job = process()
    keep_freed_memory()
    model = build(job.model)
    optimizer, training = optimiser(job, model.parameters()), Training(rank, job)
    own = read_credentials(job.folder / f"n{rank}" / "credentials.pem")
    assert own is not None
    security, arrived, done = MutualTls(own, lambda *_: True), asyncio.Queue[bytes](), asyncio.Event()

    async def receive(pushes: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        async for push in pushes:
            arrived.put_nowait(push)
        done.set()

    service, method = _METHOD
    server = grpc.aio.server()
    handlers = {method: grpc.stream_stream_rpc_method_handler(receive)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    security.bind(server, f"{job.hosts[rank]}:{_PORT}")
    await server.start()
    successor = (rank + 1) % job.nodes
    async with channel(f"{job.hosts[successor]}:{_PORT}", security, Subject("node", f"n{successor}").dns_name) as there:
        await asyncio.wait_for(there.channel_ready(), 60)
        stream = there.stream_stream(f"/{service}/{method}")()
        flat = _flat(model)
        for _ in range(job.steps):
            training.take(model, optimizer)
            await stream.write(flat.tobytes())
            flat += np.frombuffer(await arrived.get(), np.float32)
            flat *= 0.5
            training.evaluate_if_due(model)
        await stream.done_writing()
        await stream.code()  # the successor has read everything
        await done.wait()
    await server.stop(None)


def _flat(model: torch.nn.Module) -> np.ndarray:
    """The memory of all parameters, moved to one vector [d]."""
    parameters = list(model.parameters())
    flat = torch.nn.utils.parameters_to_vector(parameters).detach()
    torch.nn.utils.vector_to_parameters(flat, parameters)  # views of it
    return flat.numpy()


if __name__ == "__main__":
    asyncio.run(main())
