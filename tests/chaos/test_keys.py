"""Keys that rotate and are revoked while nodes and the controller die and return.

The certificates of all nodes are due every few seconds. So a node is killed, or its key is revoked, at any moment of a
rotation: while two keys of it are valid, or one is in the plan and another in its file.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgenode.core.protocol.plan.plan import Plan
from edgenode.security.subject import Subject
from edgenode.storage.controller_state import ControllerState
from tests.chaos.live_run import AGREEING, LiveRun, count, logs_again
from tests.e2e.fleet import Fleet, Process, until

NODES = 4
# Only a revocation, or a new process, proves that a member is gone.
SETTINGS = {
    **AGREEING,
    "run.nodes": NODES,
    "run.evict_after_s": 60.0,
    "topology.graphs": ["complete"],
    "algorithm.values": "float32",
}
PROGRAM = str(Path(__file__).with_name("rotating_node.py"))
CONTROLLER = str(Path(__file__).with_name("generous_controller.py"))
RENEWED = "renewed the certificate"
DISTURBANCES = ("nothing dies", "a node dies before", "the controller dies before", "the controller dies after")

Member = tuple[str, int]  # name and incarnation


class RotatingRun(LiveRun):
    """A run whose nodes get new keys every few seconds, and write down what they do (`rotating_node`)."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.chance = chance
        self._notes: dict[Process, Path] = {}
        super().__init__(fleet, fleet.configure(SETTINGS), self._start, self._start_controller)

    def _start_controller(self, *arguments: str) -> Process:
        return self.fleet.controller(*arguments, program=(CONTROLLER,))

    def _start(self, i: int, *arguments: str) -> Process:
        """Start a node for the first time, or again with what is in its state folder."""
        name, state = f"node-{i}", self.fleet.state(f"node-{i}")
        if not state.exists() and "--join" not in arguments:
            self.fleet.authority().keep(state / "credentials.pem", Subject("node", name))
        return self.start(name, state, *arguments)

    def start(self, name: str, state: Path, *arguments: str) -> Process:
        notes = self.fleet.folder / f"notes-{len(self._notes)}"
        notes.touch()
        program = (PROGRAM, f"{self.chance.uniform(1.5, 4):.1f}", str(notes))
        common = ("--config", "run.toml", "--name", name, "--state-dir", str(state), "--listen", "127.0.0.1:0")
        node = self.fleet.start(name, "run", *common, *arguments, program=program)
        self._notes[node] = notes
        return node

    def enrol_again(self, i: int) -> None:
        """Start a reinstalled device, with an invite for its name."""
        invite = self.fleet.command("invite", f"node-{i}", "--cluster", self.fleet.cluster)
        (line,) = re.findall(r"inv-\S+", invite.stdout)
        self.nodes[i] = self._start(i, "--join", line)

    def until_all_rotate(self, *absent: int) -> None:
        """Wait until each of the others has another key than now."""
        before = {node: count(node, RENEWED) for node in self.others(*absent)}
        for node, renewals in before.items():
            logs_again(node, RENEWED, renewals)

    def keys(self, i: int) -> frozenset[str]:
        """The keys that a node has had and has. A rotation may add one at any time."""
        register = json.loads((self.fleet.folder / "authority" / "register.json").read_text())
        valid: list[str] = register["keys"].get(Subject("node", f"node-{i}").dns_name, [])
        known = {m.key for record in self.plan().records for m in record.members if m.node == f"node-{i}"}
        return frozenset(known.union(valid))

    def plan(self) -> Plan:
        """The plan so far, as the controller has saved it."""
        saved = ControllerState(self.fleet.state("controller"), self.config.digest()).load()
        assert saved is not None
        return saved.plan

    # --- what the nodes wrote down ------------------------------------------------------------------

    def notes(self, node: Process) -> list[dict[str, Any]]:
        *lines, _ = self._notes[node].read_text().split("\n")  # the last one may not be whole
        return [json.loads(line) for line in lines]

    def live_calls(self, keys: frozenset[str], *absent: int) -> int:
        """How many calls the others serve to whoever has shown one of these keys."""
        return sum(
            note["calls"] for node in self.others(*absent) for note in self.notes(node) if note.get("key") in keys
        )

    def rounds(self) -> dict[tuple[int, Member], list[Member]]:
        """Round and process -> the processes whose pushes it has mixed."""
        return {
            (note["round"], _member(note["process"])): list(map(_member, note["senders"]))
            for node in self._notes
            for note in self.notes(node)
            if "round" in note
        }


def _member(pair: list[Any]) -> Member:
    return pair[0], pair[1]


def expected_u(plan: Plan, end: int, rounds: dict[tuple[int, Member], list[Member]]) -> dict[str, float]:
    """Play the pushes that were mixed again, and return each member's u. Asserts that no other could have been mixed.

    The pushes of an evicted process count up to a round, and may be lost on their way. All others are mixed.
    """
    u: dict[Member, float] = {}
    for t in range(end):
        graph, evicted, members = plan.graph(t), plan.evicted_later(t), plan.at(t).incarnations
        u = {member: u.get(member, 1.0) for member in members.items()}
        mixed: dict[Member, float] = {}
        for name, incarnation in members.items():
            senders = rounds.get((t, (name, incarnation)))
            if senders is None:  # it had died, or was shut out
                assert name in evicted, f"{name} left out round {t}"
                continue
            back = 0  # shares of receivers that are evicted: an evicted process does not know it
            if name not in evicted:
                allowed = {m: members[m] for m in graph.in_neighbours(name) if t <= evicted.get(m, t)}
                needed = {m: incarnation for m, incarnation in allowed.items() if m not in evicted}
                assert needed.items() <= set(senders) <= allowed.items(), f"{name}, round {t}: {senders}"
                back = sum(t >= evicted.get(peer, t + 1) for peer in graph.out_neighbours(name))
            kept = (1 + back) * graph.weight(name) * u[name, incarnation]
            mixed[name, incarnation] = kept + sum(graph.weight(sender[0]) * u[sender] for sender in senders)
        u |= mixed
    return {name: u[name, incarnation] for name, incarnation in plan.latest.incarnations.items()}


def shut_out(run: RotatingRun, victim: int, other: int, disturbance: str) -> frozenset[str]:
    """Revoke a node's keys while something dies, and return them. Its calls end, and it is evicted."""
    fleet, chance = run.fleet, run.chance
    time.sleep(chance.uniform(0, 3))  # these pauses are the fault, not waits
    if disturbance == "a node dies before":
        run.nodes[other].kill()
    if disturbance == "the controller dies before":
        run.controller.kill()
        time.sleep(chance.uniform(0, 3))
        run.start_controller().logs("controller ready")
    keys = run.keys(victim)
    fleet.command("revoke", f"node-{victim}", "--yes", "--cluster", fleet.cluster)
    revoked_s = time.monotonic()
    if disturbance == "the controller dies after":
        run.controller.kill()
        time.sleep(chance.uniform(0, 2))
        run.start_controller()
    if disturbance == "a node dies before":
        run.restart(other)
    keys |= run.keys(victim)
    until(lambda: not run.live_calls(keys, victim), lambda: f"its calls end\n{fleet.report()}")
    print(f"after {time.monotonic() - revoked_s:.1f} s, no node serves a call of node-{victim}")
    run.until_evicted(victim, 0)
    assert keys <= fleet.authority().revoked()
    return keys


def reinstall(run: RotatingRun, victim: int) -> Process:
    """Let the device come back with a new key, and return the process of a thief with the old one."""
    device, stolen = run.nodes[victim], run.fleet.folder / "stolen"
    shutil.copytree(run.fleet.state(device.name), stolen)
    device.kill()
    shutil.rmtree(run.fleet.state(device.name))
    run.enrol_again(victim)
    run.until_all_train()
    return run.start(device.name, stolen)


@pytest.mark.slow
def test_revoked_node_is_shut_out_while_keys_rotate(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    disturbance, returns = DISTURBANCES[seed % len(DISTURBANCES)], chance.random() < 0.7
    victim, other = chance.sample(range(NODES), 2)
    print(f"seed {seed}: the key of node-{victim} is revoked, {disturbance} (node-{other}), it returns: {returns}")
    run = RotatingRun(fleet, chance)
    run.nodes[0].logs("epoch=3 ")
    run.until_all_rotate()
    assert not any(change.without for change in run.changes().values())

    keys = shut_out(run, victim, other, disturbance)
    run.until_progress(run.others(victim), epochs=4)
    refused = f"refused a call .*key of node node-{victim} is not valid"
    run.controller.logs(refused)
    before, absent = count(run.controller, refused), () if returns else (victim,)
    run.nodes[victim].exits(3)
    outsider = reinstall(run, victim) if returns else run.restart(victim)
    outsider.exits(3)
    logs_again(run.controller, refused, before)
    run.until_all_rotate(*absent)

    members, plan = run.others(*absent), run.plan()
    assert [member.node for member in plan.latest.members] == [node.name for node in members]
    results = run.stop(*absent)
    assert not run.live_calls(keys, *absent)
    assert not count(outsider, "run begins")
    assert not any(count(node, "poison alarm|rejected") for node in members)
    u = expected_u(plan, results[0]["nodes"][0]["rounds"], run.rounds())
    print("u", u)
    assert {result["nodes"][0]["node"]: result["sum_u"] for result in results} == pytest.approx(u)
    first, *rest = [load_file(fleet.state(node.name) / "model.safetensors") for node in members]
    for model in rest:
        for name, tensor in model.items():
            np.testing.assert_allclose(tensor, first[name], rtol=1e-3, atol=1e-5)
