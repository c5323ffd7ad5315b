"""Discovery over real multicast on the loopback interface."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from edgenode.errors import ConfigError, LocalProtocolError, TransportError
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_service import Service

pytestmark = pytest.mark.group("discovery")  # whose clusters have the same names in every process of a run

# Every run of the tests has its own clusters, because another run can share the loopback interface.
RUN = f"test-{os.getpid()}"
SOON_S = 5.0


def a_node(name: str = "n0", port: int = 7001, *, cluster: str = RUN, address: str = LOOPBACK) -> Service:
    return Service("node", cluster, name, (address,), port, protocol=1)


def a_controller(port: int = 7000, *, cluster: str = RUN) -> Service:
    return Service("controller", cluster, "controller", (LOOPBACK,), port, protocol=1)


@pytest.fixture
def short_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat announcements and goodbyes after 10 ms: every packet is sent, and a test waits a second less.

    Not for tests that announce the same again: zeroconf drops packets that equal one of the last 0.8 s.
    """
    monkeypatch.setattr("zeroconf._core._REGISTER_TIME", 10)
    monkeypatch.setattr("zeroconf._core._UNREGISTER_TIME", 10)


@pytest.fixture
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe for 40 ms: enough where the name is free, and on loopback."""
    monkeypatch.setattr("edgenode.net.discovery._PROBE_INTERVAL_S", 0.02)


quick = pytest.mark.usefixtures("short_repeats", "short_probes")
real_probes = pytest.mark.usefixtures("short_repeats")
real_repeats = pytest.mark.usefixtures("short_probes")


@asynccontextmanager
async def discoveries(count: int, cluster: str = RUN) -> AsyncIterator[list[Discovery]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Discovery(cluster, (LOOPBACK,))) for _ in range(count)]


async def until(discovery: Discovery, expected: dict[str, Service], within_s: float = SOON_S) -> None:
    async with asyncio.timeout(within_s), aclosing(discovery.watch("node")) as views:
        async for services in views:
            if services == expected:
                return


async def crash(discovery: Discovery) -> None:
    """Close the sockets without goodbyes, as a killed process does."""
    zeroconf = discovery._open()[0].zeroconf
    zeroconf.registry.async_remove(zeroconf.registry.async_get_service_infos())
    await discovery.__aexit__(None, None, None)


async def test_node_finds_an_earlier_controller_at_once() -> None:
    async with discoveries(1) as [controller]:
        await controller.announce(a_controller())
        for _ in range(2):
            async with discoveries(1) as [node]:
                # Measured: 0.02 to 0.12 s. A multicast answer alone would come 1.1 s after the one before.
                assert await node.wait("controller", timeout_s=0.8) == a_controller()
                assert node.services("node") == {}


@quick
async def test_nodes_see_each_other_with_all_fields() -> None:
    async with discoveries(3) as [first, second, third]:
        async with asyncio.TaskGroup() as group:
            for discovery, name in ((first, "n0"), (second, "n1"), (third, "n2")):
                group.create_task(discovery.announce(a_node(name)), name=f"announce {name}")
        expected = {name: a_node(name) for name in ("n0", "n1", "n2")}
        for discovery in (first, second, third):
            await until(discovery, expected)
        assert await first.wait("node", "n2", timeout_s=SOON_S) == a_node("n2")
        assert list(first.services("node")) == ["n0", "n1", "n2"]


@quick
async def test_other_cluster_is_named_only_when_nothing_is_found() -> None:
    async with discoveries(1, f"{RUN}-other") as [other], discoveries(1) as [ours]:
        await other.announce(a_node(cluster=f"{RUN}-other"))
        with pytest.raises(TransportError) as caught:
            await ours.wait("node", timeout_s=0.3)
        assert ours.services("node") == {}
    text = str(caught.value)
    assert f"no node of cluster '{RUN}' found in 0.3 s" in text
    assert "_edgenode._tcp.local. by mDNS on 127.0.0.1" in text
    assert f"{RUN}-other" in text.partition("saw other clusters: ")[2].split(", ")


@quick
async def test_missing_name_is_reported_with_those_found() -> None:
    async with discoveries(2) as [n0, seeker]:
        await n0.announce(a_node("n0"))
        with pytest.raises(TransportError, match=r"no node 'n9' of cluster .*; found n0"):
            await seeker.wait("node", "n9", timeout_s=0.3)


@quick
async def test_same_names_in_two_clusters_do_not_mix() -> None:
    async with discoveries(2, f"{RUN}-a") as [a, a_seeker], discoveries(1, f"{RUN}-b") as [b]:
        await b.announce(a_node(port=7002, cluster=f"{RUN}-b"))
        await a.announce(a_node(port=7001, cluster=f"{RUN}-a"))
        found = await a_seeker.wait("node", timeout_s=SOON_S)
        assert found == a_node(port=7001, cluster=f"{RUN}-a")
        await until(b, {"n0": a_node(port=7002, cluster=f"{RUN}-b")})


@pytest.mark.slow
async def test_goodbye_changes_nothing() -> None:
    async with discoveries(1) as [watcher]:
        for port in (7001, 7002):
            async with discoveries(1) as [n0]:
                await n0.announce(a_node(port=port))
                await until(watcher, {"n0": a_node(port=port)})
            assert watcher.services("node") == {"n0": a_node(port=port)}


@pytest.mark.slow
@real_repeats
async def test_new_port_and_address_replace_the_old_ones() -> None:
    async with discoveries(2) as [n0, watcher]:
        for service in (a_node(), a_node(port=7002, address="127.0.0.2"), a_node()):
            await n0.announce(service)
            await until(watcher, {"n0": service})


@quick
async def test_crashed_process_announces_again_at_another_port() -> None:
    async with discoveries(1) as [watcher]:
        before = Discovery(RUN, (LOOPBACK,))
        await before.__aenter__()
        await before.announce(a_node(port=7001))
        await until(watcher, {"n0": a_node(port=7001)})
        await crash(before)
        assert watcher.services("node") == {"n0": a_node(port=7001)}
        async with discoveries(1) as [after]:
            await after.announce(a_node(port=7002))
            await until(watcher, {"n0": a_node(port=7002)})


@pytest.mark.slow
@real_probes
async def test_name_is_refused_if_its_holder_is_asked_and_holds_it() -> None:
    asked = []

    async def holds(other: Service, here: bool) -> bool:
        asked.append((other.targets, here))
        return other.port == 7000

    async with discoveries(2) as [holder, late]:
        await holder.announce(a_controller(7000), holds)
        # Repeated at once: zeroconf drops packets that equal a recent one, and the answer can be such a packet.
        for _ in range(3):
            with pytest.raises(
                ConfigError,
                match=r"controller name 'controller' of cluster .* is held by 127\.0\.0\.1:7000; "
                r"this one is at 127\.0\.0\.1:7001: stop one",
            ):
                await late.announce(a_controller(7001), holds)
        await late.announce(a_node("n1"), holds)
        await until(holder, {"n1": a_node("n1")})
    assert asked == [(("127.0.0.1:7000",), True)] * 3


@real_probes
async def test_claim_of_another_device_is_told_from_one_of_this_one() -> None:
    """It says that it is at an address of this one. Its packets come from its own address, and some from loopback."""
    asked = []

    async def holds(other: Service, here: bool) -> bool:
        asked.append(here)
        return False

    async with Discovery(RUN, ("127.0.0.2",)) as other, discoveries(1) as [late]:
        await other.announce(a_node(port=7001))
        await late.announce(a_node(port=7002), holds)
        assert late.targets("node", "n0")[:1] == ("127.0.0.1:7002",)
    assert False in asked


@pytest.mark.slow
@real_probes
async def test_probe_right_after_other_questions_finds_the_holder() -> None:
    async def holds(other: Service, here: bool) -> bool:
        return True

    async with discoveries(1) as [holder]:
        await holder.announce(a_node(port=7001))
        for pause_s in (0.0, 0.1, 0.2):
            async with discoveries(1) as [late]:
                await asyncio.sleep(pause_s)  # the answers to its first questions cross with its probes
                with pytest.raises(ConfigError, match="is held by"):
                    await late.announce(a_node(port=7002), holds)


@quick
async def test_long_and_dotted_names_arrive_whole() -> None:
    names = ["n" * 63, "n" * 62 + "m", "Lab.2", "lab-2"]
    async with discoveries(1) as [seeker], discoveries(len(names)) as announcers:
        async with asyncio.TaskGroup() as group:
            for discovery, name in zip(announcers, names, strict=True):
                group.create_task(discovery.announce(a_node(name)), name=f"announce {name[:8]}")
        await until(seeker, {name: a_node(name) for name in sorted(names)})


async def test_invalid_announcements_are_refused() -> None:
    async with discoveries(1) as [discovery]:
        with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is an address to listen on"):
            await discovery.announce(a_node(address="0.0.0.0"))
        with pytest.raises(LocalProtocolError, match="in discovery of"):
            await discovery.announce(a_node(cluster="elsewhere"))
    with pytest.raises(LocalProtocolError, match="outside of its context"):
        await discovery.announce(a_node())


async def test_address_of_no_interface_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no interface has the address 192\.0\.2\.77: choose one of .*127\.0\.0\.1"):
        await Discovery(RUN, ("192.0.2.77",)).__aenter__()
    with pytest.raises(ConfigError, match="interface 'eth7' is not an IP address"):
        await Discovery(RUN, ("eth7",)).__aenter__()


@quick
async def test_service_without_addresses_gets_those_of_interfaces() -> None:
    async with discoveries(2) as [n0, seeker]:
        assert n0.interfaces == (LOOPBACK,)
        await n0.announce(replace(a_node(), addresses=()))
        assert await seeker.wait("node", timeout_s=SOON_S) == a_node()


@quick
async def test_error_or_cancellation_in_the_body_closes_everything() -> None:
    with pytest.raises(RuntimeError, match="body"):
        async with discoveries(1) as [n0]:
            await n0.announce(a_node())
            raise RuntimeError("body")

    async def live(started: asyncio.Event) -> None:
        async with discoveries(1) as [n0]:
            await n0.announce(a_node())
            started.set()
            await n0.wait("node", "n9", timeout_s=60)

    started = asyncio.Event()
    task = asyncio.get_running_loop().create_task(live(started), name="live")
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_during_goodbyes_closes_the_sockets() -> None:
    discovery = Discovery(RUN, (LOOPBACK,))
    await discovery.__aenter__()
    await discovery.announce(a_node())
    zeroconf = discovery._open()[0].zeroconf
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await discovery.__aexit__(None, None, None)
    assert zeroconf.done
