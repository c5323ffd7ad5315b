"""SCSP's last phase as an allreduce: the part of the model that each node sends in each round, and its receiver.

The model is divided into n parts, one for each of n nodes. Each node pushes to one other in each round. These are the
reduce-scatter and the all-gather over a circulant graph of Träff ("Optimal, non-pipelined reduce-scatter and allreduce
algorithms", 2024), with edges in one direction only. The sizes are s = n, ceil(n / 2), ..., 1, one hop h for each step
from s to h = ceil(s / 2).

1. Reduce, with falling sizes. Node r holds sums of the parts r, ..., r + s - 1 (mod n), at first its own x and u. It
   sends the last s - h of them to node r + h, and keeps h. They are the first s - h parts of that node, which adds
   them. The sums leave the sender with their u, so no x and no u is lost or doubled.
2. After the last of these rounds, node r holds the sums X and U of part r over all nodes, and of no other part. So
   z = X / U is the average, whatever u the nodes began with.
3. Gather, with rising sizes. Node r holds z of the parts r - h + 1, ..., r, at first its own only. It sends the last
   s - h of them to node r + h, which has none of them and lacks no part in between. They are copies.
4. Confirm, with the hops of the gather and no part. A node that has mixed the last of these rounds knows of all
   others that they have all parts. So no node ends before all have the average, and a node that dies
   takes nothing along that others need: either all of them have the average, or none has ended, and all begin again.

Reduce and gather each take ceil(log2 n) rounds, in which a node sends (n - 1) / n of a model. Rounds that confirm send
a header.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

NAME = "allreduce"


@dataclass(frozen=True, slots=True)
class Transfer:
    """The message of one node in a round: the parts ``first``, ``first + 1``, ... of the model, modulo ``parts``.

    Attributes:
        parts: the number of parts of the model.
        count: the number of parts that are sent. 0 in a round that confirms.
        reduces: sums of x and u are sent, and leave the sender. Otherwise copies of averages are sent.
        begins: it is the first round: the sums begin with the sender's own x and u.
    """

    parts: int
    first: int
    count: int
    reduces: bool
    begins: bool

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The parts as ranges [begin, end) of consecutive numbers: two if they pass the last part."""
        end = self.first + self.count
        if end <= self.parts:
            return ((self.first, end),) if self.count else ()
        return (self.first, self.parts), (0, end - self.parts)


@lru_cache(maxsize=64)
def hops(n: int) -> tuple[tuple[int, int], ...]:
    """The steps of the reduce over n >= 1 nodes: (size before, hop, which is the size after). ceil(log2 n) of them."""
    sizes = [n]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return tuple(pairwise(sizes))


def edges(n: int) -> list[list[tuple[int, int]]]:
    """The edges of each round over the positions 0 to n - 1."""
    falling = [hop for _, hop in hops(n)]
    in_turn = [*falling, *reversed(falling), *reversed(falling)]
    return [[(i, (i + hop) % n) for i in range(n)] for hop in in_turn] or [[]]


@dataclass(frozen=True)
class Allreduce:
    """The rounds and transfers of one last phase.

    Attributes:
        start: its first round.
        nodes: the nodes that take part, by their positions in the graph. A node's rank is its position.
    """

    start: int
    nodes: tuple[str, ...]

    @cached_property
    def _ranks(self) -> dict[str, int]:
        return {node: rank for rank, node in enumerate(self.nodes)}

    @property
    def confirms_from(self) -> int:
        """The first round after which nothing is exchanged any more. A node that begins it has the average."""
        return self.start + 2 * len(hops(len(self.nodes)))

    @property
    def end(self) -> int:
        """The round after its last one."""
        # precaution: no node ends before it knows that all nodes have all parts
        return self.start + 3 * len(hops(len(self.nodes)))

    def transfer(self, t: int, node: str) -> Transfer:
        """Return the message of a node in a round of this phase, ``start <= t < end``."""
        n, rank, k = len(self.nodes), self._ranks[node], t - self.start
        steps = hops(n)
        if k < len(steps):
            size, hop = steps[k]
            return Transfer(n, (rank + hop) % n, size - hop, reduces=True, begins=k == 0)
        if k < 2 * len(steps):
            size, hop = steps[2 * len(steps) - 1 - k]
            return Transfer(n, (rank - (size - hop) + 1) % n, size - hop, reduces=False, begins=False)
        return Transfer(n, rank, 0, reduces=False, begins=False)
