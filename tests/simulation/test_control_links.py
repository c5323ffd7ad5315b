"""Control links: what is said on one keeps its order, ends with it, and is never heard on the next."""

from __future__ import annotations

import random
from collections import Counter

from tests.simulation.control_links import Links
from tests.simulation.event_queue import Agenda, Processes
from tests.simulation.lossy_network import Air
from tests.simulation.scenario import CONTROLLER, Conditions, Partition
from tests.simulation.test_event_queue import play


def linked() -> tuple[Agenda, Air, Links]:
    """A node and a controller that are about to hold a link between them."""
    agenda, happened = Agenda(), Counter[str]()
    processes, air = Processes(agenda), Air(Conditions(), random.Random(0), happened)
    links = Links(agenda, processes, air)
    processes.start("n")
    links.dial("n", hold, links)
    return agenda, air, links


def hold(link: int, links: Links) -> None:
    """The controller takes the link."""
    links.of_controller["n"] = link


def test_what_is_said_arrives_in_order_whatever_the_latencies() -> None:
    agenda, _, links = linked()
    heard, reached = list[int](), list[int]()
    play(agenda)
    for number in range(50):
        links.up("n", heard.append, number)
        links.down("n", reached.append, number)
    play(agenda)
    assert heard == reached == list(range(50))


def test_nothing_is_heard_on_a_link_that_either_end_has_lost() -> None:
    agenda, _, links = linked()
    play(agenda)
    words = list[str]()
    links.up("n", words.append, "up")
    links.down("n", words.append, "down")
    links.dial("n", hold, links)  # before any of it arrives
    play(agenda)
    assert words == []
    links.of_controller.clear()
    links.down("n", words.append, "nobody is there")
    links.up("n", words.append, "nobody hears it")
    play(agenda)
    assert words == []


def test_a_link_is_not_made_across_a_partition() -> None:
    agenda, air, links = linked()
    ways = air.part(Partition(frozenset({"n"}), frozenset({CONTROLLER}), 1.0, one_way=True))
    play(agenda)
    assert links.of_controller == {}
    air.heal(ways)
    links.dial("n", hold, links)
    play(agenda)
    assert links.of_controller == links.of_nodes
