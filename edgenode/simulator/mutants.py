"""The protocol without one of its precautions: the simulator must notice every one that is missing.

    python -m edgenode.simulator.mutants

Each mutant is a change of the source. It is made in a copy of the package, and disasters are played there until one of
them breaks an invariant. If a mutant survives, its precaution is not needed, or the simulator is blind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """A precaution, by name, and how to take it away: text of a file, and what stands there instead."""

    name: str
    file: str
    text: str
    instead: str
    play: tuple[str, ...] = ("faults", "--seeds", "0..1000")
    also: tuple[tuple[str, str, str], ...] = ()  # where the same precaution is taken again


MUTANTS = (
    Mutant(
        "no flush of a checkpoint's files",
        "store.py",
        "            disk.flush(scratch / name)\n",
        "",
        ("faults", "--power-fails", "--seeds", "0..400"),
    ),
    Mutant(
        "no flush of the folder that a checkpoint is renamed into",
        "store.py",
        "        disk.rename(scratch, place)\n        disk.flush(self.folder)\n",
        "        disk.rename(scratch, place)\n",
        ("faults", "--power-fails", "--seeds", "0..400"),
    ),
    Mutant(
        "the founding of a run is not persisted",
        "core/cluster.py",
        "return [self._persist(), *(Welcome(node, plan, start)",
        "return [*(Welcome(node, plan, start)",
    ),
    Mutant(
        "a controller starts again in its old term",
        "simulator/throne.py",
        "Reign(saved.term + 1 if saved else 0,",
        "Reign(saved.term if saved else 0,",
    ),
    Mutant(
        "a fenced node goes on with its rounds",
        "core/node.py",
        "case Stage.READY if self.fenced or (self.halted and",
        "case Stage.READY if (self.halted and",
    ),
    Mutant(
        "a paused node goes on with its rounds",
        "core/node.py",
        " or (self.halted and self.round < self.end):",
        ":",
    ),
    Mutant(
        "a node that calls is not told whether the run is paused",
        "simulator/network.py",
        "                self._halt(name, paused)\n",
        "",
        ("crashes", "--runs", "pause"),
    ),
    Mutant(
        "a fenced node takes pushes of the evicted",
        "core/node.py",
        "        if message.sender in self.fenced:\n",
        "        if False:\n",
    ),
    Mutant(
        "a promise of another ballot counts",
        "core/fence.py",
        "(answer.term, answer.ballot) != (self.term, self.ballot) or",
        "",
    ),
    Mutant(
        "incarnations are not compared",
        "core/node.py",
        "        return message.incarnation <= self.plan.last_cut(message.sender)\n",
        "        return False\n",
    ),
    Mutant(
        "a new process has the incarnation of the old one",
        "core/plan.py",
        "return 1 + self._past.newest.get(node, -1)",
        "return self._past.newest.get(node, -1)",
    ),
    Mutant(
        "L is the newest round that anyone has begun",
        "core/fence.py",
        "(dead, min(self._held(plan, dead), start - 1))",
        "(dead, start - 1)",
    ),
    Mutant(
        "L is a round too early",
        "core/fence.py",
        "(dead, min(self._held(plan, dead), start - 1))",
        "(dead, max(-1, min(self._held(plan, dead), start - 1) - 1))",
    ),
    Mutant(
        "answers are no evidence of begun rounds",
        "core/node.py",
        "                self._heard_of(event.receiver, event.round + 1)  # it mixed that round, and began the next\n",
        "",
    ),
    Mutant(
        "nothing pushed to the dead is taken back",
        "core/node.py",
        "                    self._learner.take_back(round, graph.weight(self.name))\n",
        "                    pass\n",
    ),
    Mutant(
        "pushes to the dead are given away in rounds to come",
        "core/node.py",
        "        back = sum(peer in gone and round >= gone[peer] for peer in graph.out_neighbours(self.name))\n",
        "        back = 0\n",
    ),
    Mutant(
        "what the dead pushed after L is mixed",
        "core/node.py",
        "            self._barrier.discard(dead, after=last)\n",
        "",
        ("faults", "--seeds", "130..1000"),
    ),
    Mutant(
        "no window: a sender does not wait for answers",
        "core/node.py",
        "answered_to = self.round if self.round >= self.end else self.round - self._window + 1",
        "answered_to = self.round if self.round >= self.end else 0",
    ),
    Mutant(
        "no de-duplication: a repeat is held beside the first",
        "core/barrier.py",
        "        if sender in of_round:\n            return False\n        of_round[sender] = contribution\n",
        '        while sender in of_round:\n            sender += "\'"\n        of_round[sender] = contribution\n',
        also=(("core/node.py", "        if not self._barrier.missing(round, (sender,)):\n            return []", "#"),),
    ),
    Mutant(
        "no de-duplication: a push that was mixed is taken again",
        "core/node.py",
        "        if round < self.round:\n            return [self._answer(message, Verdict.SEEN)]\n",
        "        if round < self.round:\n            round = self.round\n",
    ),
    Mutant(
        "a push is acknowledged when it arrives, not when it is mixed",
        "core/node.py",
        "        return self._advance() if self.stage is Stage.WAITING else []\n\n    def _is_cut",
        "        actions = self._advance() if self.stage is Stage.WAITING else []\n"
        "        return [self._answer(message, Verdict.OK), *actions]\n\n    def _is_cut",
    ),
    Mutant(
        "a change may start before everyone can know it",
        "core/node.py",
        "in_time = record.known_by >= self.next_round + rounds and not self.fenced",
        "in_time = record.known_by >= self.next_round",
        ("faults", "--seeds", "250..1000"),
    ),
    Mutant(
        "a second change is offered before the first is in force",
        "core/cluster.py",
        "        if not self._roll.is_settled(self.plan):\n            return []\n",
        "",
    ),
    Mutant(
        "a leaver that has gone is waited for, as it is no member to be cut out",
        "core/roll.py",
        "return frozenset(plan.latest.names) | _leavers(plan).keys()",
        "return self.involved(plan)",
        ("faults", "--seeds", "200..600"),
    ),
    Mutant(
        "what was saved before a resume from an earlier round stays, and counts",
        "core/plan.py",
        "        return of_ours and round",
        "        return round",
        ("faults", "--power-fails", "--seeds", "250..1000"),
        also=(("simulator/disks.py", "        self.rewind(host, round)\n", ""),),
    ),
    Mutant(
        "a leaver takes along what it knows of the others",
        "core/node.py",
        "held = tuple(sorted(self._newest.items())) if leaves else ()",
        "held = ()",
        ("faults", "--seeds", "22364"),
    ),
    Mutant(
        "a recovering controller breaks a tie before it has heard everyone",
        "core/cluster.py",
        "blind = self.recover and",
        "blind = False and",
        ("faults", "--seeds", "11387"),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutants, by a part of their names [default: all]")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or any(name in m.name for name in options.names)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = []
        for mutant, caught in zip(chosen, pool.map(catch, chosen), strict=True):
            print(f"{'caught  ' if caught else 'SURVIVES'}  {mutant.name}: {caught or 'nothing happened'}", flush=True)
            found.append(bool(caught))
    print(f"{sum(found)} of {len(found)} mutants caught")
    sys.exit(not all(found))


def catch(mutant: Mutant) -> str:
    """What the simulator says of a mutant first; empty if it notices nothing.

    Raises:
        ValueError: the source of the precaution is not there, or not once.
    """
    with TemporaryDirectory() as folder:
        shutil.copytree(_PACKAGE, Path(folder) / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        for file, text, instead in ((mutant.file, mutant.text, mutant.instead), *mutant.also):
            path = Path(folder) / _PACKAGE.name / file
            source = path.read_text()
            if source.count(text) != 1:
                raise ValueError(f"{mutant.name}: {file} has {source.count(text)} times {text!r}")
            path.write_text(source.replace(text, instead))
        command = [
            sys.executable,
            "-m",
            f"edgenode.simulator.{mutant.play[0]}",
            *mutant.play[1:],
            "--first",
            "--jobs",
            "1",
        ]
        environ = {**os.environ, "PYTHONPATH": folder}
        run = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return run.stdout.splitlines()[0] if run.returncode == 1 and run.stdout else ""


if __name__ == "__main__":
    main()
