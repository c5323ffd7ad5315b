"""What must hold in every run of exchanges, whoever dies, comes back or is given up.

1. After an exchange all its members have one x and one momentum, to the bit.
2. n times the mean change is what the members brought, less what they keep: no change is lost, and none counts twice.
3. What a member brings is what it kept at the end of the exchange before, and what its local steps changed. So only a
   process that is out takes anything along. One that joins brings nothing else, or what it kept when all others resumed
   without it.
4. An exchange begins with the x that the one before ended with.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import LocalProtocolError
from tests.simulation.exchange_learner import ExchangeLearner, Number


@dataclass
class _Exchange:
    """The numbers that the members of one exchange ended with.

    Attributes:
        common: x, the change and the momentum that it leaves to the next one.
        kept: the rest of each member.
        surplus: what the members of it have brought, and do not keep.
    """

    common: tuple[Number, Number, Number]
    kept: dict[str, Number] = field(default_factory=dict)
    surplus: Number = 0


class ExchangeAccounting:
    """The exchanges of a run, in the history that its members share.

    A history ends when all who know it lose their disks. Members that it had given up then go on from an older one.
    """

    def __init__(self, happened: Counter[str]) -> None:
        self._happened = happened
        self._ended: dict[int, _Exchange] = {}  # round after its last one -> exchange
        self._histories: dict[str, dict[int, _Exchange]] = {}  # digest of a record -> the exchanges of its history

    def resumed(self, plan: Plan, t: int) -> None:
        """All resume from before a round. What was done from there on is done again."""
        history = self._histories.get(plan.records[0].parent, self._ended)
        self._ended = {end: exchange for end, exchange in history.items() if end <= t}

    def mixed(self, name: str, plan: Plan, t: int, learner: ExchangeLearner) -> None:
        """A member has mixed a round."""
        if (t + 1) % learner.exchange:
            return
        self._histories |= dict.fromkeys((record.digest for record in plan.records), self._ended)
        names = plan.at(t).names
        common = learner.x, learner.change, learner.momentum
        exchange = self._ended.setdefault(t + 1, _Exchange(common))
        _require(exchange.common == common, f"{name} ends the exchange before round {t + 1} with another model")
        _require(name not in exchange.kept, f"{name} ends the exchange before round {t + 1} twice")
        before = self._ended.get(t + 1 - learner.exchange)
        if before is not None:
            _require(before.common[0] == learner.start_x, f"{name} began the exchange of round {t} with another model")
            kept = before.kept.get(name)
            if kept is None:
                kept = self._unsent(name, plan) if learner.carried else 0
                self._happened["first exchange of a newcomer"] += 1
                self._happened["came back with what it had not sent"] += bool(kept)
            _require(kept == learner.carried, f"{name} did not bring what it had kept before {t}")
        exchange.kept[name] = learner.rest
        exchange.surplus += learner.carried + learner.gained - learner.rest
        if exchange.kept.keys() == set(names):
            _require(
                exchange.surplus == len(names) * learner.change, f"a change of the exchange before {t + 1} is lost"
            )
            self._happened["exchange"] += 1
            if before is not None and before.kept.keys() - set(names):
                self._happened["first exchange without a member"] += 1

    def _unsent(self, name: str, plan: Plan) -> Number:
        """What a member that joins kept when all others resumed."""
        resumed = self._ended.get(plan.records[0].start)
        return resumed.kept.get(name, 0) if resumed else 0


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise LocalProtocolError(text)
