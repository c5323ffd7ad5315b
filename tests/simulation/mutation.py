"""The protocol without one of its precautions. The simulator must detect each of these mutants.

    python -m tests.simulation.mutation

A precaution is a statement below a comment that names it: ``# precaution: a paused node begins no round``. A mutant
finds the statement by this comment and removes the precaution from the syntax tree. The result is written to a copy of
the source, and disasters are played there until one of them breaks an invariant. If a mutant survives, its precaution
is not needed, or the simulator does not test it.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_ROOT = Path(__file__).parents[2]
_TREES = ("edgenode", "tests/simulation")
_PACKAGE = "tests.simulation"
_COMMENT = re.compile(r"\s*# precaution: (.+)")
_BROKEN = (
    "NameError",
    "AttributeError",
    "TypeError",
    "ImportError",
    "SyntaxError",
)  # of the mutant, not of the protocol

Place = ast.stmt | ast.match_case
Edit = Callable[[Place], Place | None]  # -> the statement without its precaution, None for no statement


@dataclass(frozen=True)
class Mutant:
    """Precautions by name, each with the edit that removes it, and the disasters that detect it."""

    edits: tuple[tuple[str, Edit], ...]
    play: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first precaution."""
        return self.edits[0][0]


# --- edits ------------------------------------------------------------------------------------------


def delete(place: Place) -> None:
    """Remove the whole statement."""


def without_operand(index: int) -> Edit:
    """Remove one operand from the ``and`` or ``or`` of the statement."""
    return _rewrite(ast.BoolOp, lambda node: _operands(node, index))


def _operands(node: ast.BoolOp, index: int) -> ast.expr:
    rest = [value for i, value in enumerate(node.values) if i != index]
    return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


def becomes(text: str) -> Edit:
    """Replace the value that the statement assigns or returns."""

    def edit(place: Place) -> Place:
        assert isinstance(place, ast.Assign | ast.Return), place
        place.value = ast.parse(text, mode="eval").body
        return place

    return edit


def _rewrite(kind: type[ast.AST], new: Callable[..., ast.expr], of: Callable[..., bool] = lambda node: True) -> Edit:
    """Replace the first expression of a kind, from the outside in."""

    def edit(place: Place) -> Place:
        found: list[ast.AST] = []

        class First(ast.NodeTransformer):
            def visit(self, node: ast.AST) -> Any:
                if found or not isinstance(node, kind) or not of(node):
                    return self.generic_visit(node)
                found.append(node)
                return new(node)

        edited: Place = First().visit(place)
        assert found, f"no {kind.__name__} in {ast.unparse(place)}"
        return edited

    return edit


def _same_term(node: ast.BinOp) -> ast.expr:
    assert isinstance(node.op, ast.Add), ast.unparse(node)
    return node.left if isinstance(node.right, ast.Constant) else node.right


def _round_too_early(node: ast.Call) -> ast.expr:
    return ast.parse(f"max(-1, {ast.unparse(node)} - 1)", mode="eval").body


def _same_hop(node: ast.BinOp) -> ast.expr:
    return ast.parse("t + 1", mode="eval").body


def _min(new: Callable[[ast.Call], ast.expr]) -> Edit:
    return _rewrite(ast.Call, new, lambda node: isinstance(node.func, ast.Name) and node.func.id == "min")


def _later(node: ast.Call) -> ast.expr:
    return node.args[1]


def _buffered_twice(place: Place) -> Place:
    """Rename the sender of a repeat, so that it is buffered again."""
    assert isinstance(place, ast.If) and isinstance(place.test, ast.Compare), place
    rename = ast.parse(f'while True:\n    {ast.unparse(place.test.left)} += "\'"').body[0]
    assert isinstance(rename, ast.While)
    rename.test = place.test
    return rename


def _treated_as_current(place: Place) -> Place:
    """Treat a push of an old round as one of the current round."""
    assert isinstance(place, ast.If) and isinstance(place.test, ast.Compare), place
    now, then = ast.unparse(place.test.comparators[0]), ast.unparse(place.test.left)
    place.body = ast.parse(f"{then} = {now}; message = __import__('dataclasses').replace(message, round={now})").body
    return place


def _known_here(place: Place) -> Place:
    """Ignore the time that a record takes to reach all members, and the fence."""
    assert isinstance(place, ast.Assign) and isinstance(place.value, ast.BoolOp), place
    first = place.value.values[0]
    assert isinstance(first, ast.Compare) and isinstance(first.comparators[0], ast.BinOp), ast.unparse(place)
    first.comparators[0] = first.comparators[0].left
    place.value = first
    return place


def _once_it_is_answered(place: Place) -> Place:
    """Let it take back what it pushed until its last push is answered."""
    assert isinstance(place, ast.If) and isinstance(place.test, ast.BoolOp), place
    place.test.values[0] = ast.parse("self.stage is Stage.OVER", mode="eval").body
    return place


def _answered_at_once(place: Place) -> Place:
    assert isinstance(place, ast.Assign), place
    place.value = ast.parse(
        f"[Answer(message.sender, Ack(message.round, Verdict.OK, 0)), *({ast.unparse(place.value)})]", mode="eval"
    ).body
    return place


def _not_persisted(node: ast.List) -> ast.expr:
    return ast.List(node.elts[1:], node.ctx)


def _else(node: ast.IfExp) -> ast.expr:
    return node.orelse


def _no_limit(node: ast.IfExp) -> ast.expr:
    return ast.IfExp(node.test, node.body, ast.Constant(0))


def _mutant(precaution: str, edit: Edit, *play: str, also: tuple[tuple[str, Edit], ...] = ()) -> Mutant:
    return Mutant(((precaution, edit), *also), play or ("faults", "--seeds", "0..1000"))


_SEEDS = "faults", "--seeds"
_POWER = "faults", "--power-fails", "--seeds"
_LINKS = "faults", "--links", "--seeds"
_LIARS = "faults", "--liars", "--seeds"
_LAST_PHASE = "faults", "--last-phase", "--seeds"
_OVERLAP = "faults", "--overlap", "--seeds"
_FIXED = "faults", "--fixed", "--seeds"
_EXCHANGES = "faults", "--exchanges", "--seeds"
_OVERLAP_TO_LAST_PHASE = "faults", "--overlap", "--last-phase", "--seeds"
MUTANTS = (
    _mutant("a checkpoint's files are flushed before it is renamed into place", delete, *_POWER, "0..400"),
    _mutant("the folder of a renamed checkpoint is flushed", delete, *_POWER, "0..400"),
    _mutant("a file is flushed before it is renamed into place", delete, *_POWER, "0..100"),
    _mutant("the folder of a renamed file is flushed", delete, *_POWER, "0..100"),
    _mutant("a noisy step is counted before it is taken", delete, *_POWER, "0..100"),
    _mutant("a plan is persisted before anyone is welcomed to it", _rewrite(ast.List, _not_persisted)),
    _mutant("a controller starts in a higher term", _rewrite(ast.BinOp, _same_term)),
    _mutant("a fenced node begins no round", without_operand(0), *_SEEDS, "74..1000"),
    _mutant("a paused node begins no round", without_operand(1)),
    _mutant("a node that connects learns whether the run is paused", delete, "crash_matrix", "--runs", "pause"),
    _mutant("a fenced node takes no push of a node that is being evicted", delete),
    _mutant("only a promise of this ballot counts", without_operand(0)),
    _mutant("a fence covers the nodes that join while it is up", becomes("[]"), *_SEEDS, "59502"),
    _mutant(
        "nodes that join are welcomed before a fence asks them for a promise",
        becomes("[*(a for node in dead for a in self._evict(node)), *actions]"), *_SEEDS, "81014",
    ),
    _mutant("a push of an evicted incarnation is refused", delete),
    _mutant("every process of a name has an incarnation of its own", _rewrite(ast.BinOp, _same_term)),
    _mutant("no round of an evicted node counts that it may not have begun", _min(_later)),
    _mutant("every round of an evicted node counts that others may have mixed", _min(_round_too_early)),
    _mutant("an answer is evidence that its sender began the next round", delete),
    _mutant("what was pushed to an evicted node is taken back", delete),
    _mutant("an eviction takes back no push that is not kept any more", delete, *_LIARS, "200667"),
    _mutant(
        "a leaver that has handed over what it had takes nothing back", _once_it_is_answered, *_SEEDS, "306665",
        also=(("what an evicted node passed on counts as evidence of where it came from", delete),),
    ),
    _mutant("a round keeps the share of a receiver that is evicted", becomes("[]")),
    _mutant("what an evicted node pushed after its last round is discarded", delete, *_SEEDS, "190..1000"),
    _mutant("a sender waits when a window of pushes is unanswered", _rewrite(ast.IfExp, _no_limit)),
    _mutant(
        "a repeat of a push is buffered once", _buffered_twice,
        also=(("a repeat of a push that waits is ignored", delete),),
    ),
    _mutant("a push that was mixed is not taken again", _treated_as_current),
    _mutant("a push is acknowledged when it is mixed, not when it arrives", _answered_at_once),
    _mutant("a change starts when everyone can know it", _known_here, *_SEEDS, "656..1000"),
    _mutant("one change is in force before the next is offered", delete),
    _mutant(
        "an operator's change is persisted before it is offered or answered", becomes("[]"), *_SEEDS, "207..1000",
    ),
    _mutant(
        "a change of members adapts the requested graph, not the one in use",
        becomes("self._state.rotated(rotation, start) if rotation else self._state.plan.latest.schedule"),
    ),
    _mutant(
        "an eviction adapts the requested graph, not the one in use",
        becomes("adapt(self.plan.latest.schedule, members, self.run_spec.requirements)"),
    ),
    _mutant(
        "a rotation that a newer one replaced is not offered after it",
        becomes("[c for c in self.queue if c != change]"), *_SEEDS, "86444",
    ),
    _mutant("a leaver that has gone can still be evicted", becomes("self.involved(plan)"), *_SEEDS, "200..600"),
    _mutant(
        "a checkpoint from before a resume of all does not count", without_operand(0), *_POWER, "250..1000",
        also=(("a resume removes the newer checkpoints", delete),),
    ),
    _mutant("a leaver hands on which rounds the others have begun", _rewrite(ast.IfExp, _else), *_SEEDS, "22364"),
    _mutant("a phase that a survivor may lack parts of begins again", delete, *_LAST_PHASE, "0..300"),
    _mutant("no change but an eviction starts within an allreduce", delete, *_LAST_PHASE, "0..600"),
    _mutant("a run is extended before its training ends", delete, *_OVERLAP, "0..600"),
    _mutant(
        "a run that was extended stays so when all resume",
        becomes("state.run_spec.training_rounds"), *_POWER, "0..600",
    ),
    _mutant(
        "no node ends before it knows that all nodes have all parts", becomes("self.confirms_from"),
        *_LAST_PHASE, "0..1500",
    ),
    _mutant("a record that no controller signed is not believed", delete, *_LIARS, "0..300"),
    _mutant("a push of a round that its sender cannot have begun is refused", delete, *_LIARS, "0..600"),
    _mutant("nothing is in flight when the last phase begins", without_operand(1), *_OVERLAP_TO_LAST_PHASE, "0..400"),
    _mutant("nothing is in flight when a member leaves", delete, *_OVERLAP, "0..400"),
    _mutant("nothing is in flight when a record starts", becomes("min(t, 0)"), *_OVERLAP, "0..400"),
    _mutant("nothing is in flight when a checkpoint is taken", becomes("started"), *_OVERLAP, "0..400"),
    _mutant("a push is evidence of what its sender has mixed, and of no more", becomes("t"), *_OVERLAP, "0..400"),
    _mutant("what is in flight to an evicted node is taken back", becomes("self.round"), *_OVERLAP, "0..400"),
    _mutant(
        "a record takes as much longer for a hop as a message waits to be mixed",
        _rewrite(ast.BinOp, _same_hop), *_OVERLAP, "0..400",
    ),
    _mutant(
        "a recovering controller that has not heard everyone needs a majority",
        becomes("False"), "faults", "--seeds", "12559",
    ),
    _mutant(
        "a recovering controller needs a majority against a revoked member, too",
        becomes("evict.force"), *_SEEDS, "209582",
    ),
    _mutant(
        "the fence of a controller before waits until its newest record is known", without_operand(2),
        *_SEEDS, "220319",
    ),
    _mutant("members that run restart when one of them has lost its state", becomes("[]"), *_FIXED, "0..100"),
    _mutant("nobody waits for the answer of a member that has ended", becomes("[]"), *_FIXED, "0..100"),
    _mutant("a change of plan starts with an exchange", becomes("known"), *_FIXED, "233"),
    _mutant(
        "an exchange keeps its rounds when members are given up", becomes("self.requested.exchange"),
        *_EXCHANGES, "0..300",
    ),
    _mutant(
        "a controller that lost its disk does not follow a member that was given up", becomes("False"),
        *_EXCHANGES, "0..300",
    ),
    _mutant("an exchange keeps its rounds when members join", delete, *_EXCHANGES, "0..300"),
    _mutant("a controller that takes over keeps the rounds of an exchange", delete, *_EXCHANGES, "0..1000"),
    _mutant("a newcomer believes a copy that most of the others have", becomes("True"), *_EXCHANGES, "0..300"),
    _mutant("what a member has sent is not brought again", becomes("True"), *_EXCHANGES, "2873"),
    _mutant("a node that the others resumed without ends", delete, *_SEEDS, "726513"),
    _mutant("what an evicted node passed on counts as evidence of where it came from", delete, *_LINKS, "636256"),
    _mutant(
        "an eviction counts more than a change that only the evicted node knows", becomes("False"), *_LINKS, "50916",
    ),
    _mutant("a link that broke again before the graphs use it stays left out", delete, *_LINKS, "640079"),
    _mutant(
        "a controller that takes over knows which links the plan does without", delete,
        "faults", "--links", "--lost-disk", "--seeds", "0..2000",
        also=(("a link that broke again before the graphs use it stays left out", delete),),
    ),
)  # fmt: skip


# --- playing them -----------------------------------------------------------------------------------


def precautions(root: Path = _ROOT) -> Iterator[tuple[str, Path, int]]:
    """Every precaution in the source: its name, its file, and the line of its statement."""
    for path in sorted(p for tree in _TREES for p in (root / tree).rglob("*.py")):
        lines = path.read_text().splitlines()
        for at, line in enumerate(lines):
            if found := _COMMENT.fullmatch(line):
                statement = next(i for i in range(at, len(lines)) if not lines[i].lstrip().startswith("#"))
                yield found[1], path, statement + 1


def _edit(path: Path, line: int, edit: Edit) -> None:
    tree = ast.parse(path.read_text())

    class There(ast.NodeTransformer):
        done = False

        def visit(self, node: ast.AST) -> Any:
            starts = node.pattern.lineno if isinstance(node, ast.match_case) else getattr(node, "lineno", 0)
            if not isinstance(node, ast.stmt | ast.match_case) or starts != line:
                return self.generic_visit(node)
            self.done = True
            return edit(node) or ast.Pass()

    there = There()
    edited = ast.fix_missing_locations(there.visit(tree))
    assert there.done, f"{path}:{line} begins no statement"
    path.write_text(ast.unparse(edited) + "\n")


def catch(mutant: Mutant) -> str:
    """The first violation that a mutant causes. Empty if it survives.

    Raises:
        ValueError: a precaution is not in the source exactly once, or the mutant does not run.
    """
    with TemporaryDirectory() as folder:
        for tree in _TREES:
            shutil.copytree(_ROOT / tree, Path(folder) / tree, ignore=shutil.ignore_patterns("__pycache__"))
        for name, edit in mutant.edits:
            places = [(path, line) for found, path, line in precautions(Path(folder)) if found == name]
            if len(places) != 1:
                raise ValueError(f"'# precaution: {name}' is in the source {len(places)} times, not once")
            _edit(*places[0], edit)
        what, *options = mutant.play
        command = [sys.executable, "-m", f"{_PACKAGE}.{what}", *options, "--first", "--jobs", "1"]
        environ = {**os.environ, "PYTHONPATH": folder}
        run = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    caught = run.stdout.splitlines()[0] if run.returncode == 1 and run.stdout else ""
    if run.returncode not in (0, 1) or (run.returncode and not caught) or any(kind in caught for kind in _BROKEN):
        raise ValueError(f"{mutant.name}: the mutant does not run: {caught or run.stderr[-2000:]}")
    return caught


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of the names of mutants [default: all]")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or any(name in m.name for name in options.names)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = []
        for mutant, caught in zip(chosen, pool.map(catch, chosen), strict=True):
            print(
                f"{'caught  ' if caught else 'SURVIVES'}  without: {mutant.name}: {caught or 'no violation'}",
                flush=True,
            )
            found.append(bool(caught))
    print(f"{sum(found)} of {len(found)} mutants caught")
    sys.exit(not all(found))


if __name__ == "__main__":
    main()
