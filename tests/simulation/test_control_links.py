"""Control links: messages keep their order, and are lost with their link."""

from __future__ import annotations

import random
from collections import Counter

from tests.simulation.control_links import ControlLinks
from tests.simulation.event_queue import EventQueue, Processes
from tests.simulation.lossy_network import LossyNetwork
from tests.simulation.scenario import CONTROLLER, Partition, Scenario
from tests.simulation.test_event_queue import play


def linked() -> tuple[EventQueue, LossyNetwork, ControlLinks]:
    """A node that is connecting to a controller."""
    queue, happened = EventQueue(), Counter[str]()
    processes, network = Processes(queue), LossyNetwork(Scenario(), random.Random(0), happened)
    links = ControlLinks(queue, processes, network)
    processes.start("n")
    links.connect("n", accept, links)
    return queue, network, links


def accept(link: int, links: ControlLinks) -> None:
    """The controller accepts the link."""
    links.of_controller["n"] = link


def test_messages_arrive_in_order_whatever_the_latencies() -> None:
    queue, _, links = linked()
    up, down = list[int](), list[int]()
    play(queue)
    for number in range(50):
        links.send_up("n", up.append, number)
        links.send_down("n", down.append, number)
    play(queue)
    assert up == down == list(range(50))


def test_messages_on_a_link_that_either_end_lost_are_lost() -> None:
    queue, _, links = linked()
    play(queue)
    received = list[str]()
    links.send_up("n", received.append, "up")
    links.send_down("n", received.append, "down")
    links.connect("n", accept, links)  # before any of it arrives
    play(queue)
    assert received == []
    links.of_controller.clear()
    links.send_down("n", received.append, "no link here")
    links.send_up("n", received.append, "no link there")
    play(queue)
    assert received == []


def test_links_do_not_cross_a_partition() -> None:
    queue, network, links = linked()
    directions = network.begin(Partition(frozenset({"n"}), frozenset({CONTROLLER}), 1.0, one_way=True))
    play(queue)
    assert links.of_controller == {}
    network.end(directions)
    links.connect("n", accept, links)
    play(queue)
    assert links.of_controller == links.of_nodes
