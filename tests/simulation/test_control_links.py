"""Control links: what is said on one keeps its order, ends with it, and is never heard on the next."""

from __future__ import annotations

import random
from collections import Counter

from tests.simulation.control_links import ControlLinks
from tests.simulation.event_queue import EventQueue, Processes
from tests.simulation.lossy_network import LossyNetwork
from tests.simulation.scenario import CONTROLLER, Partition, Scenario
from tests.simulation.test_event_queue import play


def linked() -> tuple[EventQueue, LossyNetwork, ControlLinks]:
    """A node and a controller that are about to hold a link between them."""
    queue, happened = EventQueue(), Counter[str]()
    processes, air = Processes(queue), LossyNetwork(Scenario(), random.Random(0), happened)
    links = ControlLinks(queue, processes, air)
    processes.start("n")
    links.dial("n", hold, links)
    return queue, air, links


def hold(link: int, links: ControlLinks) -> None:
    """The controller takes the link."""
    links.of_controller["n"] = link


def test_what_is_said_arrives_in_order_whatever_the_latencies() -> None:
    queue, _, links = linked()
    heard, reached = list[int](), list[int]()
    play(queue)
    for number in range(50):
        links.up("n", heard.append, number)
        links.down("n", reached.append, number)
    play(queue)
    assert heard == reached == list(range(50))


def test_nothing_is_heard_on_a_link_that_either_end_has_lost() -> None:
    queue, _, links = linked()
    play(queue)
    words = list[str]()
    links.up("n", words.append, "up")
    links.down("n", words.append, "down")
    links.dial("n", hold, links)  # before any of it arrives
    play(queue)
    assert words == []
    links.of_controller.clear()
    links.down("n", words.append, "nobody is there")
    links.up("n", words.append, "nobody hears it")
    play(queue)
    assert words == []


def test_a_link_is_not_made_across_a_partition() -> None:
    queue, air, links = linked()
    ways = air.part(Partition(frozenset({"n"}), frozenset({CONTROLLER}), 1.0, one_way=True))
    play(queue)
    assert links.of_controller == {}
    air.heal(ways)
    links.dial("n", hold, links)
    play(queue)
    assert links.of_controller == links.of_nodes
