"""What passes cost and what they bring, measured: the prices that every decision of a target is made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wanspec_p2p.speculation.allotment import Wish, draft_places, verification_rows
from wanspec_p2p.speculation.calibration import RankTable, Reliability
from wanspec_p2p.speculation.contribution import Contribution, Originality
from wanspec_p2p.speculation.passcost import PassCost
from wanspec_p2p.types import PeerId, Segment

__all__ = ["LONG_PROMPT", "SHORT_PROMPT", "Knowledge", "Pace", "SharedPass", "SharedPasses"]

MEMORY = 0.95
SHORT_PROMPT = 64
"""A pass that reads more tokens than this at once tells nothing of what a row costs."""
SHORT_DRAFT_PROMPT = 16
"""The same of a drafter's pass, which else has a handful of rows."""
LONG_PROMPT = 512
"""More than this are read in a pass of their own: they are work for one, and what they may bring down is their own."""
MAX_PEERS = 4096
UNKNOWN = 1e9
"""Tokens a second, before the first round: no time is spent on what could be dear."""
RETRY_ROUNDS = 64
"""Verifications without a draft pass after which one is run to see what it takes by now."""


class Pace:
    """Tokens per second of model time, lately: what any other use of that time must beat."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def spent(self, seconds: float) -> None:
        self._seconds += seconds

    def made(self, tokens: int) -> None:
        """A round is over."""
        self._tokens = MEMORY * (self._tokens + tokens)
        self._seconds *= MEMORY

    def also_made(self, tokens: int) -> None:
        """By others in the round that `made` has ended."""
        self._tokens += MEMORY * tokens

    @property
    def rate(self) -> float:
        """0 before the first round."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0


class SharedPass:
    """A pass, as far as the sessions in it have told of it.

    Args:
        drafting: it is one of the target's own drafter.
    """

    def __init__(self, turn: int, begun: float, *, drafting: bool) -> None:
        self.turn, self.drafting, self._begun = turn, drafting, begun
        self.width = 0  # rows of logits
        self.sessions = 0
        self.reading = False  # a prompt that is not short
        self.over = False
        self._ended: float | None = None  # until somebody has told that the next turn has begun

    def end(self, at: float) -> float | None:
        """Its seconds, for whoever is the first to say that it is over; None for the others."""
        if self.over:
            return None
        self.over, self._ended = True, at
        return at - self._begun

    def followed(self, at: float) -> float | None:
        """Seconds from its end to the next turn, for whoever is the first to say that this has begun."""
        ended, self._ended = self._ended, None
        return None if ended is None else max(0.0, at - ended)


class SharedPasses:
    """The passes of one model, which sessions that share a turn have in common.

    Args:
        short: tokens that one of them may read and still be told from one that reads a prompt.
        drafting: the model is the target's own drafter.
    """

    def __init__(self, short: int = SHORT_PROMPT, *, drafting: bool = False) -> None:
        self._short, self._drafting = short, drafting
        self._latest = SharedPass(0, 0.0, drafting=drafting)
        self._latest.over = True
        self._company = 0

    def join(self, turn: int, at: float, segment: Segment) -> SharedPass:
        """A session has this segment in this turn's pass, which begins."""
        if self._latest.over or self._latest.turn != turn:
            self._company = self._latest.width if self._latest.sessions > 1 else 0
            self._latest = SharedPass(turn, at, drafting=self._drafting)
        self._latest.sessions += 1
        self._latest.width += segment.rows
        self._latest.reading |= len(segment.tokens) > self._short
        return self._latest

    def rows(self, joined: SharedPass) -> int:
        """Of a pass that is being made up, as far as they are known: others may join it, as they did the last one."""
        return max(joined.width, self._company)


class Knowledge:
    """What one target has learned and all its sessions share: of drafters, of costs, and of its own drafter's ranks.

    A row that one session adds to a pass delays all that are in it. So its price is that of the whole pass, and what
    its time would bring otherwise is what all of them make (`allotment`). Each pass is counted once, whoever shares it.
    """

    def __init__(self) -> None:
        self.verify = PassCost()
        self.local = PassCost()
        self.pace = Pace()
        self.table = RankTable()
        self.verifying, self.drafting = SharedPasses(), SharedPasses(SHORT_DRAFT_PROMPT, drafting=True)
        self._rounds_undrafted = 0  # in a row
        self._peers: dict[PeerId, _Known] = {}
        self._everyone = Contribution()

    def verification_rows(self, wishes: Sequence[Wish], most: int) -> list[int]:
        """How many of its candidates each waiting session is to verify, at most so many together."""
        return verification_rows(wishes, self.verify, self._rate(len(wishes)), most)

    def draft_places(self, wishes: Sequence[Wish], most: int) -> list[int]:
        """At how many of its places each waiting session is to draft before that, in at most so many rows together."""
        # What the last passes took may be long past, where only another one could tell.
        retry = self._rounds_undrafted >= RETRY_ROUNDS
        return draft_places(wishes, self.verify, self.local, self._rate(len(wishes)), most, retry=retry)

    def _rate(self, waiting: int) -> float:
        """Tokens a second that time is worth: never less than these sessions would make by decoding plainly."""
        seconds = self.verify.seconds(waiting)
        if seconds > 0.0:
            return max(self.pace.rate, waiting / seconds)
        return self.pace.rate or UNKNOWN

    def verifying_takes(self, shared: SharedPass) -> float:
        """Seconds that a verification which begins should take; 0 where nobody knows."""
        return 0.0 if shared.reading else self.verify.seconds(self.verifying.rows(shared))

    def verified(self, shared: SharedPass, tokens: int, at: float) -> None:
        """A session made so many tokens of a pass that is over."""
        seconds = shared.end(at)
        if seconds is None:
            self.pace.also_made(tokens)
            return
        self._rounds_undrafted += 1
        if not shared.reading:
            self.verify.measured(shared.width, seconds)
        self.pace.spent(seconds)
        self.pace.made(tokens)

    def drafted(self, shared: SharedPass, at: float) -> None:
        """A pass of the target's own drafter, for one session or more, is over."""
        seconds = shared.end(at)
        if seconds is None:
            return
        if self._rounds_undrafted >= RETRY_ROUNDS:
            self.local = PassCost()
        self._rounds_undrafted = 0
        if not shared.reading:
            self.local.measured(shared.width, seconds)
        self.pace.spent(seconds)

    def resumed(self, shared: SharedPass, at: float) -> None:
        """The turn after a pass has begun: what it brought is taken in. Time that code takes is time, too."""
        seconds = shared.followed(at)
        if seconds is not None:
            self.pace.spent(seconds)
            if shared.drafting:
                self.local.followed(seconds)

    def reliability(self, peer: PeerId) -> Reliability:
        return self._of(peer).reliability

    def contributed(self, peer: PeerId, tokens: int, at: float) -> None:
        """A node drafted for a session that settled a round, so many of whose tokens it had drafted."""
        self._of(peer).contribution.round(tokens, at)
        self._everyone.round(tokens, at)

    def originality(self, peer: PeerId) -> Originality:
        return self._of(peer).originality

    def expected(self, peer: PeerId, likely: float, at: float) -> float:
        """Tokens of the answer that a node can be expected to bring a round.

        Args:
            likely: share of what is usual, of a node that was never seen.
        """
        return self._of(peer).contribution.expected(likely * self._everyone.usual, at)

    def fruitless(self, peer: PeerId, at: float) -> bool:
        """Whether a node has drafted for long, and for nothing."""
        return self._of(peer).contribution.fruitless(at)

    def forget(self, peer: PeerId) -> None:
        self._peers.pop(peer, None)

    def _of(self, peer: PeerId) -> _Known:
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= MAX_PEERS:
                del self._peers[next(iter(self._peers))]
            known = self._peers[peer] = _Known()
        return known


@dataclass(frozen=True, slots=True)
class _Known:
    """Of one node."""

    reliability: Reliability = field(default_factory=Reliability)
    contribution: Contribution = field(default_factory=Contribution)
    originality: Originality = field(default_factory=Originality)
