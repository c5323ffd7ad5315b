"""The rounds of one node by hand: stages, window, end, pauses; and a golden transcript of four nodes."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, as_float32, keep_none
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate, State
from edgenode.core.protocol.events import (
    Answer,
    Answered,
    Await,
    Evaluate,
    Fail,
    Finish,
    Mixed,
    Publish,
    Received,
    TimedOut,
    Trained,
)
from edgenode.core.protocol.member.member_state import Stage
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import EvictionCommitted, FenceAnswer, Halt, Offer, OfferAnswer
from edgenode.errors import BarrierTimeout, LocalProtocolError
from tests.core.protocol.node_driver import (
    STILL,
    a_node,
    a_plan,
    fence,
    kinds,
    only,
    pair,
    play,
    play_round,
    pushed,
    receive,
    train,
    without,
)

# --- rounds -----------------------------------------------------------------------------------------

GOLDEN = """
n0 start
    Save(0 State([0] [0] [1]) plan#0)
    Train(0 [0])
n1 start
    Save(0 State([1] [0] [1]) plan#0)
    Train(0 [1])
n2 start
    Save(0 State([2] [0] [1]) plan#0)
    Train(0 [2])
n3 start
    Save(0 State([3] [0] [1]) plan#0)
    Train(0 [3])
n0 Trained(0 [0])
    Push(n1 n0@0#0 5cc3a655)
    Await(0 [n3])
n1 Trained(0 [0])
    Push(n2 n1@0#0 020a7c91)
    Await(0 [n0])
n2 Trained(0 [0])
    Push(n3 n2@0#0 e57acc10)
    Await(0 [n1])
n3 Trained(0 [0])
    Push(n0 n3@0#0 290a8619)
    Await(0 [n2])
n1 Received(n0@0#0 5cc3a655)
    Answer(n0 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([1/2] [0] [1]) plan#0)
    Await(1 [n2])
n2 Received(n1@0#0 020a7c91)
    Answer(n1 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([3/2] [0] [1]) plan#0)
    Await(1 [n3])
n3 Received(n2@0#0 e57acc10)
    Answer(n2 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([5/2] [0] [1]) plan#0)
    Await(1 [n0])
n0 Received(n3@0#0 290a8619)
    Answer(n3 Ack(0 OK 0  []))
    Mixed(0 1 3 1.0)
    Save(1 State([3/2] [0] [1]) plan#0)
    Await(1 [n1])
n0 Answered(n1 Ack(0 OK 0  []))
    Finish(1 [3/2] True )
n1 Answered(n2 Ack(0 OK 0  []))
    Finish(1 [1/2] True )
n2 Answered(n3 Ack(0 OK 0  []))
    Finish(1 [3/2] True )
n3 Answered(n0 Ack(0 OK 0  []))
    Finish(1 [5/2] True )
"""


def test_golden_transcript_of_four_nodes() -> None:
    plan = a_plan(4)
    nodes = {f"n{i}": a_node(f"n{i}", plan, rounds=1) for i in range(4)}
    assert play(nodes) == GOLDEN.strip().splitlines()


def test_stages_of_a_round() -> None:
    plan = a_plan(2)
    node, peer = a_node("n0", plan), a_node("n1", plan)
    peer.start()
    assert node.state.stage is Stage.READY
    assert kinds(node.start()) == ["Save", "Train"]
    assert node.state.stage is Stage.TRAINING
    assert node.state.next_round == 0
    assert kinds(train(node)) == ["Push", "Await"]
    assert node.state.stage is Stage.WAITING
    assert (node.state.next_round, node.state.missing()) == (1, ("n1",))
    actions = node.handle(Received(pushed(train(peer))))
    assert kinds(actions) == ["Answer", "Mixed", "Train"]
    assert (node.state.stage, node.state.round) == (Stage.TRAINING, 1)
    assert only(Mixed, actions).messages == 1


def test_early_push_is_answered_when_it_is_mixed() -> None:
    node, peer = pair()
    first = pushed(train(peer))
    assert node.handle(Received(first)) == []
    actions = train(node)
    assert kinds(actions) == ["Push", "Answer", "Mixed", "Train"]
    assert only(Answer, actions) == Answer("n1", Ack(0, Verdict.OK, 0))


def test_unrequested_training_is_a_local_error() -> None:
    node, _ = pair()
    with pytest.raises(LocalProtocolError, match="trained round 3 while TRAINING in round 0"):
        node.handle(Trained(3, STILL))
    train(node)
    with pytest.raises(LocalProtocolError, match="trained round 0 while WAITING in round 0"):
        node.handle(Trained(0, STILL))


def test_timeout_names_the_round_and_the_missing_peers() -> None:
    plan = a_plan(4, "complete")
    node = a_node("n0", plan)
    node.start()
    assert node.handle(TimedOut(0)) == []  # it trains, so no peer holds it up
    train(node)
    node.handle(Received(Message("n2", 0, 0, 0, plan.latest.digest, 0.25, (1.0,), b"2 1")))
    assert node.handle(TimedOut(1)) == []
    error = only(Fail, node.handle(TimedOut(0))).error
    assert isinstance(error, BarrierTimeout)
    assert (error.round, error.missing) == (0, ("n1", "n3"))
    assert node.handle(TimedOut(0)) == []


def test_run_without_communication_still_advances() -> None:
    """K = 0 and eta = 0, the control of the paper. Empty payloads keep the barrier in step and move no mass."""
    layout = Layout((3, 2))
    algorithm_spec = AlgorithmSpec(Compressor(keep_none, as_float32), 0.0, training_rounds=3)
    plan = a_plan(3, "chord")
    nodes = {
        f"n{i}": Node(
            f"n{i}",
            plan,
            VectorLearner(algorithm_spec, layout, State.initial(np.full(5, i, dtype=np.float32)), 0, f"n{i}"),
        )
        for i in range(3)
    }
    play(nodes, LocalUpdate(np.zeros(5, dtype=np.float32), is_difference=True))
    for i, node in enumerate(nodes.values()):
        assert node.state.stage is Stage.OVER
        state = node.state.learner.snapshot(0)
        assert state.u.tolist() == [1.0]
        assert (state.x == i).all()


def test_evaluations_and_checkpoints_are_made_when_due() -> None:
    node = a_node("n0", a_plan(1), rounds=2, evaluate_every=1, checkpoint_every=2)
    assert kinds(node.start()) == ["Save", "Train"]
    actions = train(node)
    assert only(Evaluate, actions).round == 1
    assert kinds(train(node)) == ["Mixed", "Save", "Finish"]


def test_model_is_published_when_due_and_not_at_the_end() -> None:
    node = a_node("n0", a_plan(1), rounds=4, publish_every=2)
    assert kinds(node.start()) == ["Save", "Train"]
    assert kinds(train(node)) == ["Mixed", "Train"]
    actions = train(node)
    assert kinds(actions) == ["Mixed", "Publish", "Train"]
    assert only(Publish, actions).round == 2
    train(node)
    assert kinds(train(node)) == ["Mixed", "Save", "Finish"]


# --- the window, and the end ------------------------------------------------------------------------


def test_full_window_waits_for_the_oldest_answer() -> None:
    node, _ = pair(window=2)
    assert "Train" in kinds(play_round(node, 0))
    actions = play_round(node, 1)
    assert only(Await, actions) == Await(2, ("n1",))
    assert node.state.stage is Stage.READY
    assert node.handle(Answered("n1", Ack(1, Verdict.OK, 0))) == []  # not the oldest push, so the deadline stays
    assert kinds(node.handle(Answered("n1", Ack(0, Verdict.SEEN, 0)))) == ["Train"]


def test_timeout_of_a_full_window_names_the_silent_receiver() -> None:
    node, _ = pair(window=1)
    play_round(node, 0)
    error = only(Fail, node.handle(TimedOut(1))).error
    assert (error.round, error.missing) == (1, ("n1",))


def test_finish_waits_for_every_last_answer() -> None:
    plan = a_plan(2)
    node = a_node("n0", plan, rounds=2)
    node.start()
    play_round(node, 0)
    actions = play_round(node, 1)
    assert kinds(actions) == ["Answer", "Mixed", "Save", "Await"]
    assert node.handle(Answered("n1", Ack(1, Verdict.OK, 0))) == []
    finish = only(Finish, node.handle(Answered("n1", Ack(0, Verdict.OK, 0))))
    assert (finish.round, finish.complete) == (2, True)
    assert node.state.stage is Stage.OVER
    assert only(Ack, receive(node, 1)).verdict is Verdict.SEEN  # it still answers


def test_single_node_runs_alone() -> None:
    node = a_node("n0", a_plan(1), rounds=3, evaluate_every=2, checkpoint_every=1)
    node.start()
    assert kinds(train(node)) == ["Mixed", "Save", "Train"]
    assert kinds(train(node)) == ["Mixed", "Save", "Evaluate", "Train"]
    assert kinds(train(node)) == ["Mixed", "Save", "Finish"]


def test_single_node_never_trains_the_round_of_its_stop() -> None:
    plan = a_plan(1)
    node = a_node("n0", plan)
    node.start()
    now = plan.successor(0 + 1, end=1)
    in_training = plan.successor(1, end=1)
    assert only(OfferAnswer, node.handle(Offer(now))).accepted
    train(node)
    assert (node.state.round, node.state.stage) == (1, Stage.OVER)
    late = a_node("n0", plan)
    late.start()
    train(late)
    assert not only(OfferAnswer, late.handle(Offer(in_training))).accepted


def test_stop_ends_every_node_at_the_same_round() -> None:
    plan = a_plan(4)
    nodes = {f"n{i}": a_node(f"n{i}", plan, rounds=50) for i in range(4)}
    assert only(OfferAnswer, nodes["n2"].handle(Offer(plan.successor(5, end=5)))).accepted
    lines = play(nodes)
    assert {(node.state.stage, node.state.round) for node in nodes.values()} == {(Stage.OVER, 5)}
    assert sum(line.startswith("    Finish(5") and line.endswith("False )") for line in lines) == 4
    assert sum(line.startswith("    Save(5 ") for line in lines) == 4


# --- pausing ----------------------------------------------------------------------------------------


def test_halted_node_ends_its_round_and_begins_no_other() -> None:
    node, peer = pair()
    assert node.handle(Halt(True)) == []
    assert not node.state.stands_still  # its local step is under way
    message = pushed(train(peer))
    assert kinds(train(node)) == ["Push", "Await"]
    assert node.state.stands_still
    assert kinds(node.handle(Received(message))) == ["Answer", "Mixed"]
    assert (node.state.round, node.state.stage, node.state.stands_still) == (1, Stage.READY, True)
    assert node.handle(Halt(True)) == []  # a repeat changes nothing
    assert kinds(node.handle(Halt(False))) == ["Train"]
    assert node.handle(Halt(False)) == []


def test_node_can_be_halted_from_the_start() -> None:
    node = a_node("n0", a_plan(2))
    assert kinds(node.start(halted=True)) == ["Save"]
    assert node.state.stands_still
    assert kinds(node.handle(Halt(False))) == ["Train"]


def test_wait_that_a_pause_interrupted_begins_again() -> None:
    node, _ = pair()
    train(node)
    node.handle(Halt(True))
    assert node.handle(Halt(False)) == [Await(0, ("n1",))]


def test_halted_node_answers_offers_and_fences() -> None:
    node, _ = pair()
    play_round(node, 0)
    train(node)
    node.handle(Halt(True))
    assert only(OfferAnswer, node.handle(Offer(node.state.plan.successor(5)))).accepted
    assert only(FenceAnswer, fence(node, "n1")).begun == 1
    record = without(node.state.plan, "n1", last=1, start=6)
    assert kinds(node.handle(EvictionCommitted((record,)))) == ["PlanChanged", "Mixed"]
    assert (node.state.round, node.state.stands_still) == (2, True)


def test_halted_node_finishes_after_its_last_round() -> None:
    plan = a_plan(1)
    node = a_node("n0", plan, rounds=1)
    node.start()
    node.handle(Halt(True))
    assert kinds(train(node))[-1] == "Finish"
