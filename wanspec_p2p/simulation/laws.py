"""Where simulated tokens come from: the target's text, and how well a drafter foresees it.

After *every* prefix there is a token the target would say and a drafter's guess at it, both hashes of the prefix: the
sequence of calls does not matter, PYTHONHASHSEED does not, and two nodes with the same drafter guess alike. A prefix
that has left the target's text is a prefix like any other, so that no model can know that it is wrong. Figures are of
greedy decoding: a law says who agrees with whom, which leaves nothing to draw. Answers that are drawn leave the text
again and again, and who agrees then is up to the rows (`models`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX
from wanspec_p2p.types import TokenId

__all__ = [
    "CANDIDATES",
    "REFERENCE_RANKS",
    "VOCAB_SIZE",
    "CalibratedLaw",
    "Guess",
    "IidLaw",
    "Judged",
    "Law",
    "Place",
    "RecordedLaw",
    "Text",
    "tempered",
]

VOCAB_SIZE = 512
"""Ids in simulated text. Few, so that rows stay cheap; enough that a law can be as unsure as a real one."""
CANDIDATES = 4
REFERENCE_RANKS = (0.80, 0.13, 0.04, 0.015, 0.015)
"""Chances that the target's token is a drafter's candidate of rank 1 to 4, and that it is none of them."""

_CERTAIN = CONFIDENCE_MAX - 0.2
_CLUELESS = 0.35
"""Sureness that rounds to the highest and to the lowest confidence, in units of 1 / CONFIDENCE_MAX."""
_LEAST = 1e-9
_GAP = 1e-3
"""Between the logits of two ranks at least: float32 tells them apart."""


class Place(NamedTuple):
    """A prefix, as far as a law needs to know it."""

    key: bytes  # hash of the prefix
    truth: TokenId  # what the target says next
    anchor: int  # hash of the prefix where its end last joined the target's text
    run: int  # tokens since then, all of them the target's


class Text:
    """What the target says, after whatever was said: greedy, endless, and a function of `seed` alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.start = _place(_key("text", seed), None)

    def step(self, place: Place, token: TokenId) -> Place:
        """The place one token further."""
        digest = hashlib.blake2b(token.to_bytes(4, "little"), digest_size=32, key=place.key).digest()
        return _place(digest, place if token == place.truth else None)

    def after(self, tokens: Iterable[TokenId], place: Place | None = None) -> Place:
        """The place behind `tokens`, from `place` or from the beginning."""
        return functools.reduce(self.step, tokens, place or self.start)

    def continuation(self, prompt: Iterable[TokenId], count: int) -> list[TokenId]:
        """The answer to `prompt`, `count` tokens of it: what every session must come to."""
        place, answer = self.after(prompt), []
        for _ in range(count):
            answer.append(place.truth)
            place = self.step(place, place.truth)
        return answer


class Guess(NamedTuple):
    """What a drafter thinks comes next. Empty: no opinion."""

    tokens: tuple[TokenId, ...]  # best first, at most CANDIDATES
    logits: tuple[float, ...]  # of each, above all other ids' 0


class Law(Protocol):
    """One drafter model's relation to the target. Nodes that serve the same model share their law."""

    text: Text

    def guess(self, place: Place) -> Guess: ...


class Judged(NamedTuple):
    """What a real drafter thought at one position of a recording, and how right it was."""

    confidence: int  # 0..CONFIDENCE_MAX
    rank: int  # of the target's token, from 1; 0: none of the candidates
    candidates: int  # at most CANDIDATES; 0: no opinion


class _Draws:
    """Uniform 64-bit words for each place: the same for the same drafter of the same text, however often asked."""

    def __init__(self, text: Text, drafter: str) -> None:
        self.text = text
        self._key = _key(f"drafter {drafter}", text.seed)[:16]

    def _words(self, place: Place) -> tuple[int, int]:
        first, second = struct.unpack("<QQ", hashlib.blake2b(place.key, digest_size=16, key=self._key).digest())
        return first, second


class IidLaw(_Draws):
    """The target's token has each rank with a fixed probability, independent of all else, and confidence is constant.

    Args:
        drafter: name of the model; another one is right and wrong elsewhere.
        ranks: probabilities of ranks 1 to 4 and of none, as REFERENCE_RANKS; no later rank likelier than an earlier.

    Raises:
        ValueError: `ranks` are no such probabilities.
    """

    def __init__(self, text: Text, drafter: str = "drafter", ranks: Sequence[float] = REFERENCE_RANKS) -> None:
        super().__init__(text, drafter)
        ranks = tuple(ranks)
        if len(ranks) != CANDIDATES + 1 or not all(0.0 <= share <= 1.0 for share in ranks):
            raise ValueError(f"ranks are {CANDIDATES + 1} probabilities: of rank 1 to {CANDIDATES}, and of none")
        if not math.isclose(math.fsum(ranks), 1.0, abs_tol=1e-6):
            raise ValueError(f"the probabilities of ranks sum to 1, not to {math.fsum(ranks):g}")
        if any(later > earlier for earlier, later in itertools.pairwise(ranks[:-1])):
            raise ValueError("no rank is likelier than the one before it: the drafter would have put it first")
        self._ends = tuple(itertools.accumulate(ranks[:-1]))
        self._logits = _logits(ranks)

    def guess(self, place: Place) -> Guess:
        where, which = self._words(place)
        # Truncated to 53 bits, so that a chance of 1 is certain.
        rank = bisect_right(self._ends, (where >> 11) * 2.0**-53) + 1
        return Guess(_candidates(place.truth, rank % (CANDIDATES + 1), CANDIDATES, which), self._logits)


class CalibratedLaw(_Draws):
    """(confidence, rank) of a place are those of a position of a recording drawn by the place: jointly, but
    independent of the places before.

    Args:
        drafter: name of the model.
        judged: at least one position.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, text: Text, judged: Sequence[Judged], drafter: str = "drafter") -> None:
        super().__init__(text, drafter)
        if not judged:
            raise ValueError("the recording has no position")
        self._judged = judged

    def guess(self, place: Place) -> Guess:
        where, which = self._words(place)
        judged = self._judged[self._position(place, where)]
        candidates = _candidates(place.truth, judged.rank, judged.candidates, which)
        return Guess(candidates, tempered(judged.confidence)[: judged.candidates])

    def _position(self, place: Place, where: int) -> int:
        return where % len(self._judged)


class RecordedLaw(CalibratedLaw):
    """Positions of a recording in their order, for as long as a prefix follows the target's text.

    An answer begins at a position drawn by its prompt and goes round the recording; a prefix that leaves the text goes
    on somewhere else in it, drawn by the prefix. Drafters of the same text are at the same position.
    """

    def _position(self, place: Place, where: int) -> int:
        return (place.anchor + place.run) % len(self._judged)


def _key(what: str, seed: int) -> bytes:
    return hashlib.blake2b(f"wanspec.simulation {what} {seed}".encode(), digest_size=32).digest()


def _place(digest: bytes, before: Place | None) -> Place:
    """The place of a prefix with this hash, 32 bytes; `before` where its last token was the target's."""
    key, truth, anchor = struct.unpack("<16sQQ", digest)
    if before is None:
        return Place(key, truth % VOCAB_SIZE, anchor, 0)
    return Place(key, truth % VOCAB_SIZE, before.anchor, before.run + 1)


def _candidates(truth: TokenId, rank: int, count: int, draw: int) -> tuple[TokenId, ...]:
    """`count` different ids, the truth at `rank` (0: nowhere) and the others drawn from the rest of the vocabulary."""
    others = VOCAB_SIZE - 1
    ids = [(truth + 1 + (draw + k) % others) % VOCAB_SIZE for k in range(count)]
    if rank:
        ids[rank - 1] = truth
    return tuple(ids)


def _logits(ranks: Sequence[float]) -> tuple[float, ...]:
    """Logarithms of the probabilities above that of each other id, strictly descending and above 0."""
    others = math.log(max(ranks[-1] / (VOCAB_SIZE - CANDIDATES), _LEAST))
    logits: list[float] = []
    for rank in range(CANDIDATES - 1, -1, -1):
        least = logits[0] + _GAP if logits else _GAP
        logits.insert(0, max(math.log(max(ranks[rank], _LEAST)) - others, least))
    return tuple(logits)


@functools.cache
def tempered(confidence: int) -> tuple[float, ...]:
    """The reference law's logits at the temperature where `Sampler.rank` finds this confidence at temperature 0."""
    wanted = min(max(float(confidence), _CLUELESS), _CERTAIN) / CONFIDENCE_MAX
    reference = _logits(REFERENCE_RANKS)
    low, high = 0.0, 16.0  # sureness grows with the factor
    for _ in range(60):
        middle = (low + high) / 2
        if _sureness([middle * logit for logit in reference]) < wanted:
            low = middle
        else:
            high = middle
    return tuple(high * logit for logit in reference)


def _sureness(logits: Sequence[float]) -> float:
    """exp(-entropy) of a row with these logits and 0 elsewhere."""
    others = VOCAB_SIZE - len(logits)
    total = math.fsum(map(math.exp, logits)) + others
    return math.exp(math.fsum(math.exp(logit) * logit for logit in logits) / total) / total
