"""The shared state of the controller's parts: leadership, plan, requests and membership."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from edgenode.core.protocol.controller.changes import Change, PendingOffer, Requested
from edgenode.core.protocol.controller.membership import Membership
from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Persist, Rotate, Send, Stop
from edgenode.core.protocol.orders import Abort, Halt, Hello, Join, Leadership, Refuse
from edgenode.core.protocol.plan.last_phase import end_of
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import MAX_RECORD_BYTES, Record
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.protocol.plan.signatures import Signer
from edgenode.core.topology.adaptation import Adapted, adapt
from edgenode.core.topology.period import NO_DATA, Epoch
from edgenode.core.topology.schedule import Link, Schedule
from edgenode.errors import GraphError

_SPARE_BYTES = 1 << 13  # for the signature, and for the evictions that may follow


@dataclass
class ClusterState:
    """The facts that the decisions are made from.

    Attributes:
        recover: the last controller's disk is lost, so the plan comes from the members that run.
        plan: None until the run is created.
        paused: no round begins, as requested. Never set if the plan came from the members only.
        halted_by: the request that last paused or resumed the run.
        ballot: the ballot of the newest fence in this term.
        aborted: the reason why the run ends on every node, if training diverged. It is not persisted: the run ends.
        requested: the schedule that an operator requested last, or the first one. None until there is a plan.
        queue: the changes to come, in the order of their requests.
        offer: the record on offer, if there is one.
        revoked: the ids of the keys that no node may use. They are persisted elsewhere, before they come here.
        broken: the links that have not worked for long. Those that the plan does without are known from the plan.
    """

    run_spec: RunSpec
    leadership: Leadership
    recover: bool
    signer: Signer
    plan: Plan | None = None
    paused: bool = False
    halted_by: str = "by an operator"
    ballot: int = 0
    aborted: str = ""
    membership: Membership = field(default_factory=Membership)
    requested: Schedule | None = None
    queue: list[Change] = field(default_factory=list)
    offer: PendingOffer | None = None
    revoked: frozenset[str] = frozenset()
    broken: frozenset[Link] = frozenset()

    def __post_init__(self) -> None:
        self.membership.fixed = self.has_fixed_members

    @property
    def has_fixed_members(self) -> bool:
        """Return whether the algorithm needs the initial members, and the first graph, to the end (`fixed_members`)."""
        return self.run_spec.requirements.fixed

    @property
    def admits(self) -> bool:
        """Return whether nodes can join the run while it is under way."""
        return self.run_spec.requirements.admits or not self.has_fixed_members

    @property
    def exchange_rounds(self) -> int:
        """The number of rounds after which all nodes have one model, and a change of plan can start."""
        if not self.run_spec.requirements.spans_period or self.plan is None:
            return 1
        latest = self.plan.latest
        return len(latest.schedule.period(latest.schedule.graphs[0], latest.names))

    @property
    def kept_exchange(self) -> int:
        """`Schedule.exchange` for a run that resumes: its exchanges keep their rounds when members are given up."""
        assert self.requested is not None
        # precaution: an exchange keeps its rounds when members are given up
        return self.exchange_rounds if self.membership.out else self.requested.exchange

    def next_exchange(self, t: int) -> int:
        """The first round from round t on in which a change of plan can start."""
        return -(-t // self.exchange_rounds) * self.exchange_rounds

    def why_fixed(self, refused: str) -> str:
        """Return why the controller refuses what would change members or graph. Empty unless they are fixed."""
        algorithm = self.run_spec.requirements.algorithm
        if not self.has_fixed_members:
            return ""
        return f"{refused}: {algorithm} needs every member of this run, and its graph"

    @property
    def training_rounds(self) -> int:
        """The rounds of training of the run, or of one that would be created."""
        planned = self.plan.latest.rounds if self.plan else None
        return self.run_spec.training_rounds if planned is None else planned

    @property
    def rounds(self) -> int:
        """The rounds of the whole run, without what is added when its last phase begins again."""
        return self.training_rounds + self.run_spec.gossip_rounds

    @property
    def known_plan(self) -> Plan:
        """The plan of a run that is created."""
        assert self.plan is not None
        return self.plan

    @property
    def missing(self) -> int:
        """The number of nodes that the start of the run waits for."""
        return 0 if self.plan else max(0, self.run_spec.nodes - len(self.membership.present))

    @property
    def waits_for(self) -> frozenset[str]:
        """The members that must come back before the run can resume, if no node is in it any more."""
        return self.membership.waited_for(self.plan) if self.plan and not self.over else frozenset()

    def lead_in(self, term: int) -> None:
        """Raise the term to at least this one."""
        self.leadership = replace(self.leadership, term=max(self.leadership.term, term))

    def leader_of(self, join: Join, plan: Plan) -> Leadership | None:
        """The controller that a running member follows, if this one yields to it; None if this one leads.

        A recovering controller leads: the operator vouches that the other one is lost for good.
        """
        theirs = join.follows
        if theirs is None or (self.plan and theirs.run_id != self.run_id):  # of another run it proves nothing
            theirs = Leadership(plan.latest.term, self.leadership.nonce)
        if self.recover:
            self.lead_in(theirs.term + self.leadership.yields_to(theirs))
            return None
        foreign = self.plan is None or self.leadership.yields_to(theirs) or plan.latest.term > self.leadership.term
        return theirs if foreign else None

    # --- statements of this controller, and the controllers that it believes --------------------------

    @property
    def run_id(self) -> str:
        """The id of the run, or the one that a run would get."""
        return self.plan.latest.run_id if self.plan else self.leadership.nonce

    def new_record(self, record: Record) -> Record:
        """A record that an operator, or new members, made necessary, signed.

        Raises:
            GraphError: it is so large that no node would read it.
        """
        if (size := len(record.statement)) > MAX_RECORD_BYTES - _SPARE_BYTES:
            raise GraphError(
                f"the plan of {len(record.members)} nodes takes {size} bytes in one record, at most "
                f"{MAX_RECORD_BYTES - _SPARE_BYTES}: use fewer nodes, or a graph with fewer edges"
            )
        return self.signed(record)

    def signed(self, record: Record) -> Record:
        """A record that every node believes."""
        return replace(record, signature=self.signer.sign(record.statement))

    def greeting(self) -> Hello:
        """The first order of every link."""
        leadership = replace(self.leadership, run_id=self.run_id)
        return Hello(replace(leadership, signature=self.signer.sign(leadership.statement)), self.paused, self.revoked)

    def revoked_members(self) -> set[str]:
        """Members that nobody may listen to any more, as their keys are revoked."""
        if self.plan is None:
            return set()
        members = ((node, self.plan.member(node)) for node in self.membership.running(self.plan))
        return {node for node, member in members if member and member.key in self.revoked}

    def check_join(self, join: Join) -> None:
        """Believe no plan and no other controller without its signature.

        Raises:
            RemoteProtocolError: it has none.
        """
        if join.plan is not None:
            self.check(join.plan)
        for shown in (join.follows, join.fence):
            if shown is not None:
                self.signer.verify(shown)

    def check(self, plan: Plan) -> None:
        """Hold a chain of records from a node against the signature of the last: its digests vouch for the others.

        Raises:
            RemoteProtocolError: no controller of this cluster made it.
        """
        if self.plan is None or plan.latest.digest != self.plan.latest.digest:
            self.signer.verify(plan.latest)

    def outrank(self, plan: Plan) -> None:
        """Lead in a term above that of another controller's plan: members may have promised fences of that term."""
        self.lead_in(plan.latest.term + 1)

    @property
    def epoch(self) -> Epoch:
        """The epoch of the run, or of one that the connected nodes would begin."""
        if self.plan is not None:
            return self.plan.latest.epoch
        return Epoch.of(join.data for join in self.membership.present.values()) if self.membership.present else NO_DATA

    # --- what operators requested -------------------------------------------------------------------

    @property
    def coming(self) -> list[Change]:
        """The changes that are on offer or queued, oldest first."""
        return [*(self.offer.changes if self.offer else ()), *self.queue]

    def rotated(self, rotation: Rotate, start: int) -> Schedule:
        """The schedule that a rotation requests from a round on."""
        every = rotation.period.rounds(self.epoch.rounds)
        return replace(self.known_plan.latest.schedule, graphs=rotation.graphs, every=every, origin=start, without=())

    def adapted(self, members: tuple[str, ...], t: int | None = None) -> Adapted:
        """The requested schedule over these members. Every record uses it.

        Args:
            t: the last phase begins when the plan for this round says, or the newest plan.
        """
        assert self.requested is not None
        requested = self.requested
        if self.plan is not None:
            in_force = self.plan.latest if t is None else self.plan.at(t)
            requested = replace(requested, last_from=in_force.schedule.last_from)
        # precaution: an eviction adapts the requested graph, not the one in use
        return self.fitted(requested, members)

    def fitted(self, requested: Schedule, members: tuple[str, ...]) -> Adapted:
        """A requested schedule over these members and the links between them that work.

        If not all that are broken can be left out, those that are left out already come first.
        """
        if self.has_fixed_members:
            return adapt(requested, members, self.run_spec.requirements)
        left_out = self.plan.latest.schedule.without if self.plan else ()
        broken = sorted(self.broken, key=lambda link: (link not in left_out, link))
        return adapt(requested, members, self.run_spec.requirements, tuple(broken))

    @property
    def difference(self) -> str:
        """The substitute of the newest record for the requested schedule, and why. Empty if there is none."""
        if self.plan is None:
            return ""
        latest, now = self.plan.latest, self.adapted(self.plan.latest.names)
        if now.schedule.without == latest.schedule.without:
            return now.difference
        assert self.requested is not None
        requested, without = replace(self.requested, last_from=latest.schedule.last_from), latest.schedule.without
        return adapt(requested, latest.names, self.run_spec.requirements, without).difference

    def learn(self, plan: Plan) -> None:
        """Take a plan that nodes know and this controller did not: of a controller before, or of a checkpoint.

        A record holds the schedule that is used, not the one that was requested. If the requested schedule does not
        explain a record, another one was requested before it. That is the one of a queued rotation that explains the
        record, which is fulfilled, or else the one that the record uses.
        """
        news = plan.news(self.plan) if self.plan else plan.records
        self.plan, self.requested = plan, self.requested or replace(plan.records[0].schedule, without=())
        # precaution: a controller that takes over keeps the rounds of an exchange
        if exchange := plan.latest.schedule.exchange:
            self.requested = replace(self.requested, exchange=exchange)
        # precaution: a controller that takes over knows which links the plan does without
        self.broken |= frozenset(plan.latest.schedule.without)
        for record in news:
            if not self._explains(self.requested, record):
                self.requested = self._fulfilled(record)
        if plan.latest.end is not None:
            self.queue = [change for change in self.queue if change != Stop(UNREQUESTED)]

    def _explains(self, requested: Schedule, record: Record) -> bool:
        """Return whether a record uses the same schedule as if this one was requested."""
        theirs = record.schedule
        requested, without = replace(requested, last_from=theirs.last_from, exchange=theirs.exchange), theirs.without
        return adapt(requested, record.names, self.run_spec.requirements, without).schedule == record.schedule

    def _fulfilled(self, record: Record) -> Schedule:
        """Return the schedule that was requested for a record. It leaves the queue, with the older ones it replaced."""
        for i, change in enumerate(self.queue):
            if isinstance(change, Rotate) and change.request_id == UNREQUESTED:
                requested = self.rotated(change, record.start)
                if self._explains(requested, record):
                    # precaution: a rotation that a newer one replaced is not offered after it
                    self.queue = [c for j, c in enumerate(self.queue) if j > i or not isinstance(c, Rotate)]
                    return requested
        return replace(record.schedule, without=())

    # --- what the next controller must know ---------------------------------------------------------

    def restore(self, saved: Persist) -> None:
        """Continue from what the last controller persisted."""
        self.paused, self.requested, self.queue = saved.paused, saved.requested, list(saved.queued)
        if self.requested is None:  # saved by a version that did not keep it
            self.learn(saved.plan)
        self.plan, self.broken = saved.plan, frozenset(saved.plan.latest.schedule.without)

    def persist(self) -> Persist:
        """The state that the next controller must know."""
        queued = tuple(replace(c, request_id=UNREQUESTED, wait=False) for c in self.coming if isinstance(c, Requested))
        return Persist(self.leadership.term, self.ballot, self.known_plan, self.paused, self.requested, queued)

    def halt(self, paused: bool, halted_by: str = "by an operator") -> list[ClusterAction]:
        """Pause the run, or continue it."""
        if paused == self.paused:
            return []
        self.paused, self.halted_by = paused, halted_by
        return [self.persist(), *(Send(node, Halt(paused)) for node in sorted(self.membership.present))]

    # --- the end ------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Return whether every member has ended well, or the run was aborted."""
        # without a member that was given up, the others restart and resume, also if their last reports come meanwhile
        ended = self.plan is not None and not self.membership.out and not self.membership.running(self.plan)
        return bool(self.aborted) or ended

    def why_over(self) -> str:
        """The way in which the run ended."""
        if self.aborted:
            return f"the run has failed: {self.aborted}"
        end = self.plan.latest.end if self.plan else None
        rounds = end_of(self.plan, self.rounds) if self.plan else self.rounds
        how = f"completed all {rounds} rounds" if end is None else f"stopped before round {end}"
        return f"the run is over: its members {how}"

    def abort(self, node: str, reason: str) -> list[ClusterAction]:
        """A member reports that training diverged: order every other one to end. Only the first report counts."""
        if self.plan is None or self.over or node not in self.membership.running(self.plan):
            return []
        self.aborted = reason
        return [Send(n, Abort(reason)) for n in sorted(self.membership.present) if self.membership.takes_part(n)]

    def refuse_all(self, nodes: Iterable[str], reason: str) -> list[ClusterAction]:
        """Turn nodes away."""
        refused = sorted(nodes)
        for node in refused:
            self.membership.disconnect(node)
        return [Send(node, Refuse(reason)) for node in refused]
