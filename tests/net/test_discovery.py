"""Discovery over real multicast on the loopback interface: no packet is simulated."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from edgenode.errors import ConfigError, LocalProtocolError, TransportError
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import LOOPBACK, interfaces_for
from edgenode.net.mdns_service import Service, instance_label

# Every run of the tests has clusters of its own: another run may share the loopback interface.
RUN = f"test-{os.getpid()}"
SOON_S = 5.0


def a_node(name: str = "n0", port: int = 7001, *, cluster: str = RUN, address: str = LOOPBACK) -> Service:
    return Service("node", cluster, name, (address,), port, protocol=1)


def a_controller(port: int = 7000, *, cluster: str = RUN) -> Service:
    return Service("controller", cluster, "controller", (LOOPBACK,), port, protocol=1)


@asynccontextmanager
async def discoveries(count: int, cluster: str = RUN) -> AsyncIterator[list[Discovery]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Discovery(cluster, (LOOPBACK,))) for _ in range(count)]


async def until(discovery: Discovery, expected: dict[str, Service], within_s: float = SOON_S) -> None:
    async with asyncio.timeout(within_s), aclosing(discovery.watch("node")) as pictures:
        async for picture in pictures:
            if picture == expected:
                return


async def crash(discovery: Discovery) -> None:
    """Close the sockets without a goodbye, as a killed process does."""
    zeroconf = discovery._open()[0].zeroconf
    zeroconf.registry.async_remove(zeroconf.registry.async_get_service_infos())
    await discovery.__aexit__(None, None, None)


async def test_a_node_finds_a_controller_that_was_there_before() -> None:
    async with discoveries(1) as [controller]:
        await controller.announce(a_controller())
        for _ in range(2):
            async with discoveries(1) as [node]:
                # Measured 0.02 to 0.12 s; a multicast answer alone would come 1.1 s after the one before.
                assert await node.wait("controller", timeout_s=0.8) == a_controller()
                assert node.services("node") == {}


async def test_nodes_that_were_there_before_see_the_newcomer_and_its_fields() -> None:
    async with discoveries(3) as [first, second, third]:
        async with asyncio.TaskGroup() as group:
            for discovery, name in ((first, "n0"), (second, "n1"), (third, "n2")):
                group.create_task(discovery.announce(a_node(name)), name=f"announce {name}")
        expected = {name: a_node(name) for name in ("n0", "n1", "n2")}
        for discovery in (first, second, third):
            await until(discovery, expected)
        assert await first.wait("node", "n2", timeout_s=SOON_S) == a_node("n2")
        assert list(first.services("node")) == ["n0", "n1", "n2"]


async def test_another_cluster_is_not_shown_but_named_when_nothing_is_found() -> None:
    async with discoveries(1, f"{RUN}-other") as [other], discoveries(1) as [ours]:
        await other.announce(a_node(cluster=f"{RUN}-other"))
        with pytest.raises(TransportError) as caught:
            await ours.wait("node", timeout_s=0.3)
        assert ours.services("node") == {}
    text = str(caught.value)
    assert f"no node of cluster '{RUN}' found in 0.3 s" in text
    assert "_edgenode._tcp.local. by mDNS on 127.0.0.1" in text
    assert f"{RUN}-other" in text.partition("saw other clusters: ")[2].split(", ")


async def test_waiting_for_a_name_in_vain_tells_which_were_found() -> None:
    async with discoveries(2) as [n0, seeker]:
        await n0.announce(a_node("n0"))
        with pytest.raises(TransportError, match=r"no node 'n9' of cluster .*; found n0"):
            await seeker.wait("node", "n9", timeout_s=0.3)


async def test_same_names_in_two_clusters_do_not_mix() -> None:
    async with discoveries(2, f"{RUN}-a") as [a, a_seeker], discoveries(1, f"{RUN}-b") as [b]:
        await b.announce(a_node(port=7002, cluster=f"{RUN}-b"))
        await a.announce(a_node(port=7001, cluster=f"{RUN}-a"))
        found = await a_seeker.wait("node", timeout_s=SOON_S)
        assert found == a_node(port=7001, cluster=f"{RUN}-a")
        await until(b, {"n0": a_node(port=7002, cluster=f"{RUN}-b")})


async def test_a_withdrawn_service_disappears_and_may_come_back() -> None:
    async with discoveries(2) as [n0, watcher]:
        await n0.announce(a_node())
        await until(watcher, {"n0": a_node()})
        await n0.withdraw()
        await until(watcher, {})
        await n0.withdraw()
        await n0.announce(a_node())
        await until(watcher, {"n0": a_node()})


async def test_leaving_the_context_says_goodbye() -> None:
    async with discoveries(1) as [watcher]:
        async with discoveries(1) as [n0]:
            await n0.announce(a_node())
            await until(watcher, {"n0": a_node()})
        await until(watcher, {})


async def test_a_new_port_and_address_replace_the_old_ones_and_back() -> None:
    async with discoveries(2) as [n0, watcher]:
        for service in (a_node(), a_node(port=7002, address="127.0.0.2"), a_node()):
            await n0.announce(service)
            await until(watcher, {"n0": service})


async def test_a_device_that_crashed_announces_again_at_once_at_another_port() -> None:
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


async def test_a_former_life_that_still_answers_does_not_stop_the_same_device() -> None:
    async with discoveries(2) as [hanging, after]:
        await hanging.announce(a_node(port=7001))
        await after.announce(a_node(port=7002))
        await until(after, {"n0": a_node(port=7002)})


async def test_a_process_of_the_same_device_that_lives_is_not_its_former_life() -> None:
    asked = []

    async def is_alive(holder: Service) -> bool:
        asked.append(holder.targets)
        return True

    async with discoveries(2) as [holder, late]:
        await holder.announce(a_controller(7000), is_alive)
        with pytest.raises(
            ConfigError, match=r"is held by 127\.0\.0\.1:7000; this one is at 127\.0\.0\.1:7001: stop one"
        ):
            await late.announce(a_controller(7001), is_alive)
    assert asked == [("127.0.0.1:7000",)]


async def test_a_name_that_another_device_holds_is_refused_and_its_address_named() -> None:
    async with discoveries(2) as [holder, late]:
        await holder.announce(a_node(address="127.0.0.2"))
        # At once again: zeroconf drops packets equal to a recent one, and the answer may be one.
        for _ in range(3):
            with pytest.raises(ConfigError, match=r"node name 'n0' of cluster .* is held by 127\.0\.0\.2:7001"):
                await late.announce(a_node(address=LOOPBACK))
        await late.announce(a_node("n1"))
        await until(holder, {"n0": a_node(address="127.0.0.2"), "n1": a_node("n1")})


async def test_a_stranger_who_asks_right_after_others_is_refused_too() -> None:
    async with discoveries(1) as [holder]:
        await holder.announce(a_node(address="127.0.0.2"))
        for pause_s in (0.0, 0.1, 0.2):
            async with discoveries(1) as [late]:
                await asyncio.sleep(pause_s)  # the answers to late's first questions cross with its probes
                with pytest.raises(ConfigError, match="is held by"):
                    await late.announce(a_node(address=LOOPBACK))


async def test_a_long_and_a_foreign_name_arrive_whole() -> None:
    names = ["n" * 150, "n" * 149 + "m", "Küche.2", "küche 2"]
    async with discoveries(1) as [seeker], discoveries(len(names)) as announcers:
        async with asyncio.TaskGroup() as group:
            for discovery, name in zip(announcers, names, strict=True):
                group.create_task(discovery.announce(a_node(name)), name=f"announce {name[:8]}")
        await until(seeker, {name: a_node(name) for name in sorted(names)})


async def test_what_cannot_be_announced_is_refused() -> None:
    async with discoveries(1) as [discovery]:
        with pytest.raises(ConfigError, match="1 to 200 bytes"):
            await discovery.announce(a_node("n" * 201))
        with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is an address to listen on"):
            await discovery.announce(a_node(address="0.0.0.0"))
        with pytest.raises(LocalProtocolError, match="in discovery of"):
            await discovery.announce(a_node(cluster="elsewhere"))
    with pytest.raises(LocalProtocolError, match="outside of its context"):
        await discovery.announce(a_node())


async def test_an_address_of_no_interface_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no interface has the address 192\.0\.2\.77: choose one of .*127\.0\.0\.1"):
        await Discovery(RUN, ("192.0.2.77",)).__aenter__()
    with pytest.raises(ConfigError, match="interface 'eth7' is not an IP address"):
        await Discovery(RUN, ("eth7",)).__aenter__()


async def test_without_addresses_those_of_the_interfaces_are_announced() -> None:
    async with discoveries(2) as [n0, seeker]:
        assert n0.interfaces == (LOOPBACK,)
        await n0.announce(replace(a_node(), addresses=()))
        assert await seeker.wait("node", timeout_s=SOON_S) == a_node()


async def test_an_error_in_the_body_and_a_cancellation_pass_through_and_close_all() -> None:
    with pytest.raises(RuntimeError, match="body"):
        async with discoveries(1) as [n0]:
            await n0.announce(a_node())
            raise RuntimeError("body")

    async def live(started: asyncio.Event) -> None:
        async with discoveries(1) as [n0]:
            await n0.announce(a_node())
            started.set()
            await n0.wait("node", "nobody", timeout_s=60)

    started = asyncio.Event()
    task = asyncio.get_running_loop().create_task(live(started), name="live")
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_amid_the_goodbyes_still_closes_the_sockets() -> None:
    discovery = Discovery(RUN, (LOOPBACK,))
    await discovery.__aenter__()
    await discovery.announce(a_node())
    zeroconf = discovery._open()[0].zeroconf
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await discovery.__aexit__(None, None, None)
    assert zeroconf.done


def test_targets_put_ipv6_in_brackets() -> None:
    service = Service("node", "lab", "n0", ("10.0.0.2", "fd00::2"), 7001, 1)
    assert service.targets == ("10.0.0.2:7001", "[fd00::2]:7001")


def test_interfaces_follow_the_listen_host() -> None:
    assert interfaces_for("127.0.0.1") == interfaces_for("127.8.0.1") == interfaces_for("localhost") == (LOOPBACK,)
    assert interfaces_for("192.0.2.7") == ("192.0.2.7",)
    everywhere = interfaces_for("0.0.0.0")
    assert everywhere == interfaces_for("")
    assert everywhere[-1] == LOOPBACK
    assert len(set(everywhere)) == len(everywhere)
    with pytest.raises(ConfigError, match="'kitchen' is not an IP address"):
        interfaces_for("kitchen")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("lab", "a-b"), ("b-lab", "a")),
        (("lab", "Node"), ("lab", "node")),
        (("lab", "n.1"), ("lab", "n-1")),
        (("lab", "x" * 80), ("lab", "x" * 81)),
        (("y" * 80, "n"), ("y" * 81, "n")),
    ],
)
def test_labels_are_unique_dns_labels(one: tuple[str, str], other: tuple[str, str]) -> None:
    labels = [instance_label(*one), instance_label(*other)]
    assert labels[0].lower() != labels[1].lower()
    assert all(0 < len(label.encode()) <= 63 and "." not in label for label in labels)


def test_a_plain_label_is_readable() -> None:
    assert instance_label("lab", "pi-3") == "pi-3@lab"
