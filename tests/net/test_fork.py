"""A process that is forked beside gRPC, as the worker of a DataLoader is."""

from __future__ import annotations

import gc
from multiprocessing import get_context

import grpc
import grpc.aio

import edgenode.net  # noqa: F401  # protects forked processes


class Cycle:
    """Garbage that only the collector frees."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel, self.itself = channel, self


async def test_collector_of_a_forked_process_frees_no_object_of_grpc() -> None:
    gc.disable()
    try:
        channel = grpc.aio.insecure_channel("127.0.0.1:1")
        await channel.close()
        Cycle(channel)
        del channel
        forked = get_context("fork").Process(target=gc.collect, daemon=True)
        forked.start()
    finally:
        gc.enable()
    forked.join(60)
    ended = forked.exitcode
    forked.kill()
    assert ended == 0
