"""The controller and the nodes of one run with faults, and what their logs agree on.

Every question about a run reads the logs of all processes that ever took part: a restarted node has a new log.
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

WINDOW = 8  # rounds that a node may be ahead of its peers
EPOCH = 12  # rounds

ENDLESS = 1_000_000  # rounds: on any machine, the run ends only when the test stops it

# A silent member is evicted soon.
RUN: dict[str, object] = {
    "run.nodes": 3,
    "run.rounds": ENDLESS,
    "run.evict_after_s": 2.0,
    "run.checkpoint_every": 50,
    "run.barrier_timeout_s": 5,  # after that a node logs that it waits, and keeps waiting
    "task.skew": 0.8,
    "task.norm": "group",
    "algorithm.gossip_graph": "complete",  # one round averages any number of nodes
}
# All models agree after every round, not only after a last phase that a stopped run skips: accuracies compare.
AGREEING = {**RUN, "algorithm.name": "sp", "algorithm.compressor": "identity"}
LEARNT = 300  # rounds, after which the accuracy of such a run hardly grows

_CHANGE = re.compile(
    r"plan changes +at_round=(\d+)(?: leaving=(\[.*?\]))? nodes=(\d+) record=(\d+)(?: rounds=\d+)? stops=\w+(.*)"
)
_BEGIN = re.compile(r"run begins +nodes=\[(.*?)\]")
_EPOCH = re.compile(r"epoch done .*round=(\d+)")

Start = Callable[..., Process]


@dataclass(frozen=True)
class Change:
    """A change of plan, as one node logged it."""

    at_round: int
    nodes: int
    leaving: str
    without: str


class LiveRun:
    """The processes of one run.

    Args:
        node, controller: start one, on the right host and with the right clock or disk.
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
        """Start the controller, the first time or again."""
        self.controller = self._controller("--state-dir", str(self.fleet.state("controller")))
        return self.controller

    def restart(self, i: int) -> Process:
        """Restart a node that was killed."""
        self.nodes[i] = self._node(i)
        return self.nodes[i]

    def others(self, *absent: int) -> list[Process]:
        return [node for i, node in enumerate(self.nodes) if i not in absent]

    # --- progress -----------------------------------------------------------------------------------

    def changes(self) -> dict[int, Change]:
        """Return every change of plan that any process logged, by record number. Asserts that they agree."""
        found: dict[int, Change] = {}
        for process in self.fleet.processes:
            if process.name.startswith("node-"):
                for number, change in logged_changes(process):
                    known = found.setdefault(number, change)
                    assert known == change, f"record {number} is {known}, and at {process.name} {change}"
        return found

    def evictions(self, i: int) -> int:
        """How many records have evicted a node."""
        return sum(f"'node-{i}'" in change.without for change in self.changes().values())

    def until_evicted(self, i: int, before: int) -> None:
        until(lambda: self.evictions(i) > before, lambda: f"node-{i} is evicted\n{self.fleet.report()}")

    def until_all_train(self, epochs: int = 1) -> None:
        """Wait until every node is a member again and has trained since."""
        until(
            lambda: all(members(node) == len(self.nodes) for node in self.nodes),
            lambda: f"all are members again: {[members(node) for node in self.nodes]}\n{self.fleet.report()}",
        )
        self.until_progress(self.nodes, epochs)

    def until_round(self, t: int) -> None:
        """Wait until every node has finished this many rounds."""
        until(
            lambda: all(last_round(node) >= t for node in self.nodes),
            lambda: f"all have finished {t} rounds: {list(map(last_round, self.nodes))}\n{self.fleet.report()}",
        )

    def until_progress(self, nodes: Sequence[Process], epochs: int = 1) -> None:
        """Wait until each of these nodes has finished this many more epochs."""
        began = {node.name: last_round(node) for node in nodes}

        def done() -> bool:
            return all(last_round(node) >= began[node.name] + epochs * EPOCH for node in nodes)

        until(done, lambda: f"{', '.join(began)} continue from {began}\n{self.fleet.report()}")

    # --- the end ------------------------------------------------------------------------------------

    def complete(self) -> list[dict[str, Any]]:
        """Wait until all processes have ended well after all rounds, and return the nodes' results."""
        return self._results(self.nodes, factory.run_spec(self.config).rounds)

    def stop(self, *absent: int, **where: Any) -> list[dict[str, Any]]:
        """Stop the run. All end well before the promised round. Return the nodes' results."""
        t = self.request_stop(**where)
        return self._results(self.others(*absent), t)

    def _results(self, nodes: Sequence[Process], rounds: int) -> list[dict[str, Any]]:
        for process in (*nodes, self.controller):
            process.exits(0)
        self.changes()
        results = [self.result(node) for node in nodes]
        assert [result["nodes"][0]["rounds"] for result in results] == [rounds] * len(nodes)
        return results

    def request_stop(self, **where: Any) -> int:
        """Run `edgenode stop`, and return the round before which it promises the end."""
        stop = self.fleet.command("stop", "--cluster", self.config.run.cluster, **where)
        promise = re.search(r"stop(?:s|ped) before round (\d+)", stop.stdout)  # "stopped" of one that was queued
        assert promise, stop.stdout
        return int(promise[1])

    def result(self, node: Process) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.fleet.state(node.name) / "result.json").read_text())
        return found


def mean_accuracy(results: Sequence[dict[str, Any]]) -> float:
    return sum(result["mean_test_accuracy"] for result in results) / len(results)


def sum_u(results: Sequence[dict[str, Any]]) -> float:
    return float(sum(result["sum_u"] for result in results))


def logged_changes(node: Process) -> list[tuple[int, Change]]:
    return [
        (int(match[4]), Change(int(match[1]), int(match[3]), match[2] or "", match[5].strip()))
        for match in _CHANGE.finditer(node.stderr)
    ]


def members(node: Process) -> int:
    """How many members the newest plan in a node's log has."""
    log = node.stderr
    newest = max([*_CHANGE.finditer(log), *_BEGIN.finditer(log)], key=lambda match: match.start(), default=None)
    if newest is None:
        return 0
    return int(newest[3]) if newest.re is _CHANGE else newest[1].count("'") // 2


def last_round(node: Process) -> int:
    """The round at the last end of an epoch in a node's log."""
    return max((int(match[1]) for match in _EPOCH.finditer(node.stderr)), default=0)


def count(node: Process, pattern: str) -> int:
    """How often a pattern is in a node's log."""
    return len(re.findall(pattern, node.stderr))


def logs_again(node: Process, pattern: str, before: int) -> None:
    """Wait until a pattern is in a node's log more often than before."""
    until(lambda: count(node, pattern) > before, lambda: f"{node.name} logs {pattern!r} again\n{node.tail()}")
