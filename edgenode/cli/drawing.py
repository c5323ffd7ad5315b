"""A directed graph as text: nodes on an ellipse, edges as dotted lines with an arrowhead near the receiver."""

from __future__ import annotations

import math

from edgenode.core.graph import Digraph

_WIDTH, _HEIGHT = 60, 17
_MAX_DRAWN = 12
_HEADS = "→↘↓↙←↖↑↗"


def draw(graph: Digraph) -> str:
    """The graph as lines of text; above a dozen nodes only the list of pushes is readable, so only that."""
    pushes = "\n".join(f"  {n} → {', '.join(graph.out_neighbours(n)) or 'nobody'}" for n in graph.nodes)
    if not 2 <= len(graph.nodes) <= _MAX_DRAWN:
        return pushes
    canvas = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    places = _places(graph.nodes)
    for sender, receiver in sorted(graph.edges):
        _line(canvas, places[sender], places[receiver], both=(receiver, sender) in graph.edges)
    for node, (x, y) in places.items():
        label = f"({node})"
        left = min(max(0, round(x) - len(label) // 2), _WIDTH - len(label))
        canvas[round(y)][left : left + len(label)] = label
    return "\n".join("".join(row).rstrip() for row in canvas) + "\n" + pushes


def _places(nodes: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Node -> (column, row), clockwise from the top."""
    margin = max(map(len, nodes)) / 2 + 2
    rx, ry = _WIDTH / 2 - margin, _HEIGHT / 2 - 1
    turns = {node: 2 * math.pi * i / len(nodes) for i, node in enumerate(nodes)}
    return {n: (_WIDTH / 2 + rx * math.sin(t), (_HEIGHT - 1) / 2 - ry * math.cos(t)) for n, t in turns.items()}


def _line(canvas: list[list[str]], start: tuple[float, float], end: tuple[float, float], both: bool) -> None:
    (x0, y0), (x1, y1) = start, end
    steps = round(max(abs(x1 - x0) / 2, abs(y1 - y0), 1))
    for step in range(1, steps):
        column, row = round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
        if canvas[row][column] == " ":
            canvas[row][column] = "·"
    at = 0.62 if both else 0.7  # heads of opposite edges must not cover each other
    eighth = round(math.atan2(y1 - y0, (x1 - x0) / 2) / (math.pi / 4)) % 8
    canvas[round(y0 + (y1 - y0) * at)][round(x0 + (x1 - x0) * at)] = _HEADS[eighth]
