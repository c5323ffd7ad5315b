"""Drawings of graphs. Look at a drawing before you change it here."""

from __future__ import annotations

import pytest

from edgenode.cli.graph_ascii import draw
from edgenode.core.topology.graph import PRESETS, Digraph, GraphSpec

FOUR = ("pi-0", "pi-1", "pi-2", "pi-3")
PICTURES = {
    "a": """
                          pi-0
                      ⣀⠤⠒⠉    ⠈⠑⠢⢄⡀
                  ⣀⠤↗⠉            ⠈⠑⠢⢄⡀
              ⣀⠤⠒⠉                    ⠈⠑⠢⢄⡀
          ⣀⠤⠒⠉                            ⠈⠑↘⢄⡀
      ⣀⠤⠒⠉                                    ⠈⠑⠢⢄⡀
  pi-3                                            pi-1
      ⠈⠑⠢⢄⡀                                   ⣀⠤⠒⠉
          ⠈↖⠢⢄⡀                           ⣀⠤⠒⠉
              ⠈⠑⠢⢄⡀                   ⣀⠤⠒⠉
                  ⠈⠑⠢⢄⡀           ⣀↙⠒⠉
                      ⠈⠑⠢⢄⡀   ⣀⠤⠒⠉
                          pi-2
  pi-0 → pi-1
  pi-1 → pi-2
  pi-2 → pi-3
  pi-3 → pi-0
""",
    "b": """
                          pi-0
                      ⣀⠤⠒⠉    ⠈⠑⠢⢄⡀
                  ⣀⠤⠒⠉            ⠈↖⠢⢄⡀
              ⣀⠤⠒⠉                    ⠈⠑⠢⢄⡀
          ⣀↙⠒⠉                            ⠈⠑⠢⢄⡀
      ⣀⠤⠒⠉                                    ⠈⠑⠢⢄⡀
  pi-3                                            pi-1
      ⠈⠑⠢⢄⡀                                   ⣀⠤⠒⠉
          ⠈⠑⠢⢄⡀                           ⣀⠤↗⠉
              ⠈⠑⠢⢄⡀                   ⣀⠤⠒⠉
                  ⠈⠑↘⢄⡀           ⣀⠤⠒⠉
                      ⠈⠑⠢⢄⡀   ⣀⠤⠒⠉
                          pi-2
  pi-0 → pi-3
  pi-1 → pi-0
  pi-2 → pi-1
  pi-3 → pi-2
""",
    "c": """
                          pi-0
                      ⣀⠤⠒⠉  ⡇
                  ⣀⠤↗⠉      ⡇
              ⣀⠤⠒⠉          ⡇
          ⣀⠤⠒⠉              ⡇
      ⣀⠤⠒⠉                  ⡇
  pi-3 ⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒←⠒⠒⠒⠒⠒⠒⠒⠒⠒⡗⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒⠒ pi-1
                            ⡇                 ⣀⠤⠒⠉
                            ↓             ⣀⠤↗⠉
                            ⡇         ⣀⠤⠒⠉
                            ⡇     ⣀⠤⠒⠉
                            ⡇ ⣀⠤⠒⠉
                          pi-2
  pi-0 → pi-2
  pi-1 → pi-3
  pi-2 → pi-1
  pi-3 → pi-0
""",
    "chord": """
                          pi-0
                      ⣀⠤⠒⠉  ⡇ ⠈⠑⠢⢄⡀
                  ⣀⠤↗⠉      ⡇     ⠈⠑⠢⢄⡀
              ⣀⠤⠒⠉          ⡇         ⠈⠑⠢⢄⡀
          ⣀⠤⠒⠉              ⡇             ⠈⠑↘⢄⡀
      ⣀⠤⠒⠉                  ⡇                 ⠈⠑⠢⢄⡀
  pi-3                      ⡇                     pi-1
      ⠈⠑⠢⢄⡀                 ⡇                 ⣀⠤⠒⠉
          ⠈↖⠢⢄⡀             ↓             ⣀⠤⠒⠉
              ⠈⠑⠢⢄⡀         ⡇         ⣀⠤⠒⠉
                  ⠈⠑⠢⢄⡀     ⡇     ⣀↙⠒⠉
                      ⠈⠑⠢⢄⡀ ⡇ ⣀⠤⠒⠉
                          pi-2
  pi-0 → pi-1, pi-2
  pi-1 → pi-2
  pi-2 → pi-3
  pi-3 → pi-0
""",
}


def a_graph(name: str, nodes: tuple[str, ...] = FOUR) -> Digraph:
    return GraphSpec(name).period(nodes)[0]


@pytest.mark.parametrize("name", PICTURES)
def test_drawings_of_the_four_node_graphs(name: str) -> None:
    assert draw(a_graph(name)) == PICTURES[name].strip("\n")


def test_two_nodes_are_drawn_side_by_side() -> None:
    line, *pushes = draw(a_graph("a", ("x", "y"))).splitlines()
    assert line.split()[0] == "x"
    assert line.split()[-1] == "y"
    assert "←" in line
    assert "→" in line
    assert pushes == ["  x → y", "  y → x"]


@pytest.mark.parametrize("count", range(2, 9))
@pytest.mark.parametrize("name", PRESETS)
def test_every_node_has_a_label_and_every_edge_a_head(name: str, count: int) -> None:
    nodes = tuple(f"node-{i:02d}" for i in range(count))
    graph = a_graph(name, nodes)
    lines = draw(graph).splitlines()
    picture = "\n".join(lines[:-count])
    assert all(picture.count(f" {node}") == 1 for node in nodes)
    heads = sum(picture.count(head) for head in "→↘↓↙←↖↑↗")
    crossing = len(graph.edges) > count  # heads may share a cell
    assert len(graph.edges) - heads in (range(len(graph.edges)) if crossing else (0,))
    assert lines[-count:] == [f"  {n} → {', '.join(graph.out_neighbours(n)) or 'none'}" for n in nodes]


def test_drawing_fits_a_narrow_terminal() -> None:
    for nodes in (tuple(f"node-{i:02d}" for i in range(8)), tuple(f"{i}-{'x' * 38}" for i in range(5))):
        lines = draw(a_graph("a", nodes)).splitlines()
        assert max(map(len, lines[: -len(nodes)])) <= 56


def test_above_eight_nodes_only_the_list_is_printed() -> None:
    nodes = tuple(f"{i:02d}" for i in range(9))
    assert len(draw(a_graph("a", nodes)).splitlines()) == 9


def test_node_without_out_neighbours_is_listed() -> None:
    assert draw(Digraph(("x",), frozenset())) == "  x → none"
