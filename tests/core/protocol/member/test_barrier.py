"""The barrier holds contributions and never judges them."""

from __future__ import annotations

from edgenode.core.protocol.member.barrier import Barrier


def test_first_contribution_of_a_sender_and_round_counts() -> None:
    barrier: Barrier[str] = Barrier()
    assert barrier.add(3, "a", "first")
    assert not barrier.add(3, "a", "second")
    assert barrier.release(3) == [("a", "first")]


def test_missing_names_the_senders_without_a_contribution() -> None:
    barrier: Barrier[int] = Barrier()
    barrier.add(0, "b", 1)
    assert barrier.missing(0, ("a", "b", "c")) == ("a", "c")
    assert barrier.missing(1, ("b",)) == ("b",)
    assert barrier.missing(1, ()) == ()


def test_buffered_rounds_are_counted_by_sender() -> None:
    barrier: Barrier[int] = Barrier()
    for t in (5, 2, 9):
        barrier.add(t, "a", t)
    barrier.add(2, "b", 0)
    barrier.missing(7, ("a",))
    assert (barrier.buffered_from("a"), barrier.buffered_from("b"), barrier.buffered_from("c")) == (3, 1, 0)


def test_release_is_in_sender_order_and_only_once() -> None:
    barrier: Barrier[int] = Barrier()
    for sender in ("n10", "n2", "n1"):
        barrier.add(1, sender, len(sender))
    assert [sender for sender, _ in barrier.release(1)] == ["n1", "n10", "n2"]
    assert barrier.release(1) == []
    assert barrier.buffered_from("n2") == 0
