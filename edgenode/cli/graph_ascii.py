"""Draws a directed graph as text.

Nodes are on an ellipse. Edges are lines of Braille dots with an arrowhead near the receiver.
"""

from __future__ import annotations

import math

from edgenode.core.topology.graph import Digraph

_WIDTH, _HEIGHT = 56, 13  # characters, each of 2 x 4 dots: a dot is about as wide as high
_MAX_DRAWN = 8  # with more nodes, labels cover arrowheads
_HEADS = "→↘↓↙←↖↑↗"
_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of a dot by column and row, as Unicode numbers them
Place = tuple[float, float]  # column, row


def draw(graph: Digraph, pushes: bool = True) -> str:
    """The drawing, then with ``pushes`` the list of out-neighbours. Above _MAX_DRAWN nodes, only the list."""
    listed = "\n".join(f"  {n} → {', '.join(graph.out_neighbours(n)) or 'none'}" for n in graph.nodes)
    if not 2 <= len(graph.nodes) <= _MAX_DRAWN:
        return listed
    canvas = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    places = _places(graph.nodes)
    for sender, receiver in sorted(graph.edges):
        _line(canvas, places[sender], places[receiver])
    for sender, receiver in sorted(graph.edges):
        _head(canvas, places[sender], places[receiver])
    for node, (column, row) in places.items():
        label = f" {node} "
        left = min(max(0, round(column - len(label) / 2)), _WIDTH - len(label))
        canvas[round(row)][left : left + len(label)] = label
    rows = ["".join(row).rstrip() for row in canvas]
    return "\n".join([*(row for row in rows if row), *([listed] if pushes else [])])


def _places(nodes: tuple[str, ...]) -> dict[str, Place]:
    """Clockwise from the top. Two nodes are side by side, because one above the other would leave the drawing empty."""
    rx, ry = (_WIDTH - max(map(len, nodes))) / 2 - 2, (_HEIGHT - 1) / 2
    first = -math.pi / 2 if len(nodes) == 2 else 0.0
    turns = {node: first + 2 * math.pi * i / len(nodes) for i, node in enumerate(nodes)}
    return {n: (_WIDTH / 2 + rx * math.sin(t), ry - ry * math.cos(t)) for n, t in turns.items()}


def _line(canvas: list[list[str]], start: Place, end: Place) -> None:
    steps = round(max(2 * abs(end[0] - start[0]), 4 * abs(end[1] - start[1])))
    for step in range(steps + 1):
        column, row = _between(start, end, step / steps)
        dot = _DOTS[int(2 * column) % 2][int(4 * row) % 4]
        cell = canvas[int(row)][int(column)]
        canvas[int(row)][int(column)] = chr((_BLANK if cell == " " else ord(cell)) | dot)


def _head(canvas: list[list[str]], start: Place, end: Place) -> None:
    column, row = _between(start, end, 0.7)  # nearer to the receiver, so that opposite edges have separate heads
    eighth = round(math.atan2(2 * (end[1] - start[1]), end[0] - start[0]) / (math.pi / 4)) % 8
    canvas[int(row)][int(column)] = _HEADS[eighth]


def _between(start: Place, end: Place, share: float) -> Place:
    """A point on the line between the middles of two rows, away from the borders between dots."""
    (x0, y0), (x1, y1) = start, end
    return x0 + (x1 - x0) * share + 0.01, y0 + (y1 - y0) * share + 0.49
