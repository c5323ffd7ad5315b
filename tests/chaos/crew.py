"""The controller and the nodes of one run, whoever of them is dead right now, and what their logs agree on.

What is asked of a run is asked of the logs of all processes that ever took part in it: a restarted node has a new log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgenode import factory
from edgenode.config.schema import Config
from tests.e2e.fleet import Fleet, Process, until

RESTART = ()  # what a node is started with when it is started again
WINDOW = 8  # rounds that a node may be ahead of its peers
EPOCH = 12  # rounds
END_S = 90.0

ENDLESS = 1_000_000  # rounds: however quick the machine is, no run is over before the test says so

# A silent member is missed soon.
RUN: dict[str, object] = {
    "run.nodes": 3,
    "run.rounds": ENDLESS,
    "run.evict_after_s": 2.0,
    "run.checkpoint_every": 50,
    "run.barrier_timeout_s": 5,  # after that a node says that it waits, and goes on waiting
    "task.skew": 0.8,
    "task.norm": "group",
    "algorithm.gossip_graph": "complete",  # one round averages any number of nodes
}
# All agree at every moment, not only after a last phase that a stopped run never comes to: so accuracies compare.
AGREEING = {**RUN, "algorithm.name": "sp", "algorithm.compressor": "identity"}
LEARNT = 300  # rounds, after which such a run gets hardly better any more

_CHANGE = re.compile(r"plan changes +at_round=(\d+)(?: leaving=(\[.*?\]))? nodes=(\d+) record=(\d+) stops=\w+(.*)")
_BEGIN = re.compile(r"run begins +nodes=\[(.*?)\]")
_EPOCH = re.compile(r"epoch done .*round=(\d+)")

Start = Callable[..., Process]


@dataclass(frozen=True)
class Change:
    """A change of plan, as one node told it."""

    at_round: int
    nodes: int
    leaving: str
    without: str


class Crew:
    """One run's processes.

    Args:
        start_node, start_controller: start one; where on the network, and in what state, is theirs to know.
    """

    def __init__(
        self, fleet: Fleet, config: Config, node: Start | None = None, controller: Start | None = None
    ) -> None:
        self.fleet, self.config = fleet, config
        self._node, self._controller = node or self._on_loopback, controller or fleet.controller
        self.controller = self.start_controller()
        self.nodes = [self._node(i) for i in range(config.run.nodes)]

    def _on_loopback(self, i: int, *arguments: str) -> Process:
        return self.fleet.node(f"node-{i}", *arguments)

    def start_controller(self) -> Process:
        """Start the controller, for the first time or again."""
        self.controller = self._controller("--state-dir", str(self.fleet.state("controller")))
        return self.controller

    def restart(self, i: int) -> Process:
        """Start a node again that was killed."""
        self.nodes[i] = self._node(i, *RESTART)
        return self.nodes[i]

    def others(self, *absent: int) -> list[Process]:
        return [node for i, node in enumerate(self.nodes) if i not in absent]

    # --- what they have done ------------------------------------------------------------------------

    def changes(self) -> dict[int, Change]:
        """Every change of plan that any process told of, by its record's number; they must not contradict."""
        found: dict[int, Change] = {}
        for process in self.fleet.processes:
            if process.name.startswith("node-"):
                for number, change in changes_told_by(process):
                    known = found.setdefault(number, change)
                    assert known == change, f"record {number} is {known}, and at {process.name} {change}"
        return found

    def cuts(self, i: int) -> int:
        """How many records have cut a node out."""
        return sum(f"'node-{i}'" in change.without for change in self.changes().values())

    def until_cut(self, i: int, before: int, timeout_s: float = 30) -> None:
        until(lambda: self.cuts(i) > before, timeout_s, lambda: f"node-{i} is cut out\n{self.fleet.report()}")

    def until_all_train(self, epochs: int = 1, timeout_s: float = 60) -> None:
        """Wait until every node is a member among all the others again, and has trained on since."""
        until(
            lambda: all(members(node) == len(self.nodes) for node in self.nodes),
            timeout_s,
            lambda: f"all are members again: {[members(node) for node in self.nodes]}\n{self.fleet.report()}",
        )
        self.until_progress(self.nodes, epochs, timeout_s)

    def until_round(self, t: int, timeout_s: float = 90) -> None:
        """Wait until every node has finished so many rounds."""
        until(
            lambda: all(last_round(node) >= t for node in self.nodes),
            timeout_s,
            lambda: f"all have finished {t} rounds: {list(map(last_round, self.nodes))}\n{self.fleet.report()}",
        )

    def until_progress(self, nodes: Sequence[Process], epochs: int = 1, timeout_s: float = 60) -> None:
        """Wait until these nodes have each finished so many epochs more."""
        began = {node.name: last_round(node) for node in nodes}

        def done() -> bool:
            return all(last_round(node) >= began[node.name] + epochs * EPOCH for node in nodes)

        until(done, timeout_s, lambda: f"{', '.join(began)} go on from {began}\n{self.fleet.report()}")

    # --- how it ended -------------------------------------------------------------------------------

    def ended(self, *absent: int, timeout_s: float = END_S) -> list[dict[str, Any]]:
        """Wait until all have ended well, with all rounds done; return the nodes' results."""
        nodes = self.others(*absent)
        for process in (*nodes, self.controller):
            process.ended(0, timeout_s)
        self.changes()
        results = [self.result(node) for node in nodes]
        rounds = factory.run_spec(self.config).rounds
        assert [result["nodes"][0]["rounds"] for result in results] == [rounds] * len(nodes)
        return results

    def stop(self, *absent: int, timeout_s: float = END_S, **where: Any) -> list[dict[str, Any]]:
        """Stop a run that has no end; all stop before the promised round, and end well; return the nodes' results."""
        t = self.told_to_stop(**where)
        nodes = self.others(*absent)
        for process in (*nodes, self.controller):
            process.ended(0, timeout_s)
        self.changes()
        results = [self.result(node) for node in nodes]
        assert [result["nodes"][0]["rounds"] for result in results] == [t] * len(nodes)
        return results

    def told_to_stop(self, **where: Any) -> int:
        """Ask for the end of the run; return the round before which it is promised."""
        stop = self.fleet.command("stop", "--cluster", self.config.run.cluster, **where)
        promise = re.search(r"stops before round (\d+)", stop.stdout)
        assert promise, stop.stdout
        return int(promise[1])

    def result(self, node: Process) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.fleet.state(node.name) / "result.json").read_text())
        return found


def mean_accuracy(results: Sequence[dict[str, Any]]) -> float:
    return sum(result["mean_test_accuracy"] for result in results) / len(results)


def sum_u(results: Sequence[dict[str, Any]]) -> float:
    return float(sum(result["sum_u"] for result in results))


def changes_told_by(node: Process) -> list[tuple[int, Change]]:
    return [
        (int(match[4]), Change(int(match[1]), int(match[3]), match[2] or "", match[5].strip()))
        for match in _CHANGE.finditer(node.stderr)
    ]


def members(node: Process) -> int:
    """How many members the newest plan that a node tells of has."""
    said = node.stderr
    newest = max([*_CHANGE.finditer(said), *_BEGIN.finditer(said)], key=lambda match: match.start(), default=None)
    if newest is None:
        return 0
    return int(newest[3]) if newest.re is _CHANGE else newest[1].count("'") // 2


def last_round(node: Process) -> int:
    """The last end of an epoch that a node tells of, in rounds."""
    return max((int(match[1]) for match in _EPOCH.finditer(node.stderr)), default=0)


def count(node: Process, pattern: str) -> int:
    """How often a node said something."""
    return len(re.findall(pattern, node.stderr))


def says_again(node: Process, pattern: str, before: int, timeout_s: float = 30) -> None:
    """Wait until a node has said something more often than before."""
    until(
        lambda: count(node, pattern) > before, timeout_s, lambda: f"{node.name} says {pattern!r} again\n{node.tail()}"
    )
