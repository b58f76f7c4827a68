"""What passes cost and what they bring, measured: the prices that every decision of a target is made with."""

from __future__ import annotations

from wanspec_p2p.speculation.calibration import RankTable, Reliability
from wanspec_p2p.types import PeerId, Segment

__all__ = ["LONG_PROMPT", "SHORT_PROMPT", "Knowledge", "Pace", "PassCost", "SharedPass", "SharedPasses"]

MEMORY = 0.95
ROW_PRIOR = 0.01
"""Share of a pass that one more row costs, before widths have been compared: an accelerator's is less, a CPU's more."""
PRIOR_WEIGHT = 128.0
"""Of that prior, in squared rows: it has gone when widths have varied by some ten rows for a few rounds."""
SHORT_PROMPT = 64
"""A pass that reads more tokens than this at once tells nothing of what a row costs."""
SHORT_DRAFT_PROMPT = 16
"""The same of a drafter's pass, which else has a handful of rows."""
LONG_PROMPT = 512
"""More than this are read in a pass of their own: they are work for one, and what they may bring down is their own."""
MAX_PEERS = 4096
RETRY_ROUNDS = 64
"""Verifications without a draft pass after which one is run to see what it takes by now."""


class PassCost:
    """Seconds of a pass as a line over its width, by least squares with fading memory."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        return self._n > 0

    def measured(self, width: int, seconds: float) -> None:
        """A pass over `width` candidates took so long."""
        self._n = MEMORY * self._n + 1.0
        self._x = MEMORY * self._x + width
        self._y = MEMORY * self._y + seconds
        self._xx = MEMORY * self._xx + width**2
        self._xy = MEMORY * self._xy + width * seconds

    @property
    def mean(self) -> float:
        return self._y / self._n if self._n else 0.0

    @property
    def per_row(self) -> float:
        """Seconds that one more candidate takes."""
        if not self._n:
            return 0.0
        spread = self._xx - self._x**2 / self._n
        slope = self._xy - self._x * self._y / self._n
        return max(0.0, (slope + PRIOR_WEIGHT * ROW_PRIOR * self.mean) / (spread + PRIOR_WEIGHT))


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
    """A pass, as far as the sessions in it have told of it."""

    def __init__(self, turn: int, begun: float) -> None:
        self.turn, self._begun = turn, begun
        self.width = 0  # rows of logits
        self.reading = False  # a prompt that is not short
        self.over = False

    def end(self, at: float) -> float | None:
        """Its seconds, for whoever is the first to say that it is over; None for the others."""
        if self.over:
            return None
        self.over = True
        return at - self._begun


class SharedPasses:
    """The passes of one model, which sessions that share a turn have in common.

    Args:
        short: tokens that one of them may read and still be told from one that reads a prompt.
    """

    def __init__(self, short: int = SHORT_PROMPT) -> None:
        self._short = short
        self._latest = SharedPass(0, 0.0)
        self._latest.over = True

    def join(self, turn: int, at: float, segment: Segment) -> SharedPass:
        """A session has this segment in this turn's pass, which begins."""
        if self._latest.over or self._latest.turn != turn:
            self._latest = SharedPass(turn, at)
        self._latest.width += segment.rows
        self._latest.reading |= len(segment.tokens) > self._short
        return self._latest


class Knowledge:
    """What one target has learned and all its sessions share: drafters' reliability, costs, its own drafter's ranks.

    A row that one session adds to a pass delays all that are in it. So its price is that of the whole pass, and what
    its time would bring otherwise is what all of them make: `row_price` tokens. Each pass is counted once, whoever
    shares it; for a session that is alone both are its own.
    """

    def __init__(self) -> None:
        self.verify = PassCost()
        self.local = PassCost()
        self.pace = Pace()
        self.table = RankTable()
        self.verifying, self.drafting = SharedPasses(), SharedPasses(SHORT_DRAFT_PROMPT)
        self._rounds_undrafted = 0  # in a row
        self._reliability: dict[PeerId, Reliability] = {}

    @property
    def row_price(self) -> float:
        """Tokens that the target makes in the time of one more row."""
        return self.pace.rate * self.verify.per_row

    @property
    def local_row_price(self) -> float:
        """The same of a pass of the target's own drafter."""
        return self.pace.rate * self.local.per_row

    def drafting_pays(self, gain: float) -> bool:
        """Whether a pass of the target's own drafter makes more of its time than all sessions do at their pace.

        Args:
            gain: tokens it would add to the next verification, summed over the sessions that wait for the model.
        """
        if self._rounds_undrafted >= RETRY_ROUNDS:  # what it was seen to take may be long past
            return gain > 0.0
        rate = self.pace.rate or 1.0 / max(self.verify.mean, 1e-9)  # before the first round: as if decoding plainly
        return gain > self.local.mean * rate

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

    def reliability(self, peer: PeerId) -> Reliability:
        known = self._reliability.get(peer)
        if known is None:
            if len(self._reliability) >= MAX_PEERS:
                del self._reliability[next(iter(self._reliability))]
            known = self._reliability[peer] = Reliability()
        return known
