"""Reads a graph from text: a list of edges, over nodes by name or by number. Pure."""

from __future__ import annotations

from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.weights import OUT_DEGREE
from edgenode.core.wording import counted
from edgenode.errors import GraphError

_SHOWN = 20
_Row = tuple[list[tuple[str, str]], float | None]


def parse_edges(name: str, text: str, rule: str = OUT_DEGREE) -> GraphSpec:
    """Parse a list of edges, one per line. # starts a comment.

    1. A line is ``sender receiver`` or ``sender -> receiver``. ``a -- b`` is an edge in both directions.
    2. A number may follow: the weight of the edge. Then all lines have one, and ``rule`` does not apply.
    3. A node is its name, or a whole number N for node-N.

    Raises:
        GraphError: malformed lines, all of them with their numbers, a duplicate edge, weights that a node cannot give,
            or no edge at all.
    """
    rows: dict[int, _Row] = {}
    wrong: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace("->", " ").replace("--", " -- ").replace(",", " ").split()
        if not words:
            continue
        try:
            rows[number] = _row(words)
        except ValueError:
            wrong.append(
                f"line {number}: expected 'sender receiver' or 'a -- b', and maybe a weight, got {line.strip()!r}"
            )
    weighted = sum(weight is not None for _, weight in rows.values())
    if 0 < weighted < len(rows):
        wrong += [
            f"line {number}: no weight, and other edges have one" for number, row in rows.items() if row[1] is None
        ]
    first: dict[tuple[str, str], int] = {}
    for number, (edges, _) in rows.items():
        wrong += [f"line {number}: {s}->{r} is in line {first[s, r]} already" for s, r in edges if (s, r) in first]
        wrong += [f"line {number}: {s}->{s} is a self-loop; every node has one already" for s, r in edges if s == r]
        first |= {edge: number for edge in edges if edge not in first}
    if wrong:
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise GraphError("\n  ".join([f"{name} has {counted(len(wrong), 'error')}:", *wrong[:_SHOWN]]) + more)
    if not rows:
        raise GraphError(f"{name} lists no edge")
    every = [(edge, weight) for edges, weight in rows.values() for edge in edges]
    given = tuple(weight for _, weight in every if weight is not None)
    return GraphSpec(name, tuple(edge for edge, _ in every), OUT_DEGREE if given else rule, given)


def _row(words: list[str]) -> _Row:
    """The edges of a line, and their weight. Raises ValueError."""
    both = words[1:2] == ["--"]
    sender, receiver, *rest = (words[:1] + words[2:]) if both else words
    if len(rest) > 1 or "--" in (sender, receiver):
        raise ValueError
    a, b = _node(sender), _node(receiver)
    return [(a, b), (b, a)] if both and a != b else [(a, b)], float(rest[0]) if rest else None


def _node(word: str) -> str:
    return f"node-{int(word)}" if word.isdecimal() and word.isascii() else word
