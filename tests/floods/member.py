"""Attacks a run again and again as a device that is enrolled and in no run, until it is killed.

    python -m tests.floods.member ATTACK FOLDER HOST:PORT

FOLDER is that of the run (`tests.e2e.fleet`), and HOST:PORT is its controller. ATTACK is one of these:

meet    greetings of another run to node-0, with a configuration of 1 MB
report  a first report with a million saved rounds
watch   300 calls that stay open
counts  joins, and reports of counts of 2^53
fetch   fetches of node-0's model, of which nothing is read
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import grpc.aio

from edgenode.config.load import load
from edgenode.core.protocol.orders import Progress
from edgenode.core.protocol.status import COUNTERS, NodeStatus
from edgenode.net.order_wire import progress_to_wire
from edgenode.net.proto import peer_pb2, peer_pb2_grpc
from edgenode.net.rpc import channel
from edgenode.security.authority import Authority
from edgenode.security.subject import Subject
from tests.e2e.attacker import (
    Attack,
    Attacker,
    Cluster,
    begin_with_a_million_rounds,
    meet_with_a_large_configuration,
    member,
    read_status,
    watch_on_many_streams,
)

DEVICE = Subject("node", "node-9")
_FETCHES, _UNREAD_S = 3, 60.0
_PROCESSES = itertools.count()


async def report_absurd_counts(a: Attacker) -> None:
    absurd = NodeStatus(round=3, rounds=9, **dict.fromkeys(COUNTERS, 1 << 53))
    joined = replace(a, process=f"process {next(_PROCESSES)}")
    await joined.attend(joined.join(), joined.identity(), progress_to_wire(Progress(3, 0, ""), absurd))


async def fetch_and_read_nothing(a: Attacker) -> None:
    async with AsyncExitStack() as stack:
        there = channel(a.cluster.address("node-0"), a.security, Subject("node", "node-0").dns_name)
        await stack.enter_async_context(there)
        request = peer_pb2.FetchModelRequest(identity=a.identity(plan_digest="").to_wire())
        fetches = [peer_pb2_grpc.PeerServiceStub(there).FetchModel(request) for _ in range(_FETCHES)]
        await asyncio.sleep(_UNREAD_S)
        del fetches


ATTACKS: dict[str, Attack] = {
    "meet": meet_with_a_large_configuration,
    "report": begin_with_a_million_rounds,
    "watch": watch_on_many_streams,
    "counts": report_absurd_counts,
    "fetch": fetch_and_read_nothing,
}


async def attack(kind: str, folder: Path, controller: str) -> None:
    Authority(folder / "authority", "").keep(folder / DEVICE.name / "credentials.pem", DEVICE)
    status = await read_status(controller, member(folder, "operator.pem"))
    cluster = Cluster(load(folder / "run.toml", {}, environ={}), controller, status)
    attacker = Attacker(cluster, member(folder / DEVICE.name), DEVICE.name)
    while True:
        with suppress(grpc.aio.AioRpcError):  # it is refused, which is right
            await ATTACKS[kind](attacker)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("controller")
    options = parser.parse_args()
    asyncio.run(attack(options.attack, options.folder, options.controller))
    return 0


if __name__ == "__main__":
    sys.exit(main())
