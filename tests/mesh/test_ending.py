"""The end of a node whose loop ends before the run."""

from __future__ import annotations

import threading
from typing import cast

from edgenode.mesh.ending import Ending, settle_all
from edgenode.mesh.node_thread import NodeThread


class SlowToStop:
    """A node that has been told to stop, and has not yet ended."""

    def __init__(self) -> None:
        self.stops, self.may_end, self.has_ended = threading.Event(), threading.Event(), False

    def stop(self, reason: str) -> None:
        self.stops.set()
        assert self.may_end.wait(10)
        self.has_ended = True


def test_next_loop_waits_for_a_node_that_is_being_stopped() -> None:
    """Its folder and its port are not free before."""
    node = SlowToStop()
    ending = Ending(cast(NodeThread, node), lambda: None)
    ending.begin()
    ending.stop_soon()
    assert node.stops.wait(10)
    threading.Timer(0.1, node.may_end.set).start()
    settle_all()
    assert node.has_ended


def test_node_whose_run_ended_is_not_stopped() -> None:
    node = SlowToStop()
    ending = Ending(cast(NodeThread, node), lambda: None)
    ending.begin()
    ending.run_ended()
    ending.stop("late")
    settle_all()
    assert (node.stops.is_set(), ending.broke_off) == (False, False)
