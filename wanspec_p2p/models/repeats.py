"""Where the end of a text stood before, and what came next: an index that grows and shrinks with its text.

A scan of the text for each row would cost as much as a small model's pass once the text has a few thousand tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wanspec_p2p.types import TokenId

__all__ = ["LONGEST", "Repeat", "RepeatIndex"]

LONGEST = 32
"""Tokens of a match that are counted; longer ones are as good."""
GRAMS = (4, 2, 1)
"""Lengths that are looked up at once, longest first; what lies between is compared."""
OCCURRENCES = 32
"""The latest ones that are compared, so that a text of one word over and over costs no more than another."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The longest match of a text's end in the text before it.

    Attributes:
        length: tokens that match, from 1 to LONGEST.
        shares: of each token among those that followed a match of that length; they sum to 1.
    """

    length: int
    shares: dict[TokenId, float]


class RepeatIndex:
    """A text, and for each of its n-grams where it ended. Both ends of every operation cost by the token."""

    def __init__(self) -> None:
        self._tokens: list[TokenId] = []
        # Of each gram, the positions of the tokens that followed it, ascending.
        self._followers: dict[tuple[TokenId, ...], list[int]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[TokenId]) -> None:
        for token in tokens:
            at = len(self._tokens)
            for gram in self._grams():
                self._followers.setdefault(gram, []).append(at)
            self._tokens.append(token)

    def truncate(self, length: int) -> None:
        """Take back all but the first `length` tokens."""
        while len(self._tokens) > length:
            self._tokens.pop()
            for gram in self._grams():
                positions = self._followers[gram]
                positions.pop()
                if not positions:
                    del self._followers[gram]

    def _grams(self) -> list[tuple[TokenId, ...]]:
        """That end where the text ends, longest first."""
        return [tuple(self._tokens[-n:]) for n in GRAMS if n <= len(self._tokens)]

    def repeat(self) -> Repeat | None:
        """The longest match of the end among the latest OCCURRENCES of its longest gram; None: its end is new."""
        found = next((self._followers[gram] for gram in self._grams() if gram in self._followers), None)
        if found is None:
            return None
        end = self._tokens[-LONGEST:]
        lengths = {at: self._common(at, end) for at in found[-OCCURRENCES:]}
        longest = max(lengths.values())
        followed = Counter(self._tokens[at] for at, length in lengths.items() if length == longest)
        total = sum(followed.values())
        return Repeat(longest, {token: count / total for token, count in followed.items()})

    def _common(self, at: int, end: list[TokenId]) -> int:
        """How many tokens before `at` are the last ones of `end`."""
        if self._tokens[max(at - len(end), 0) : at] == end:
            return len(end)
        length = 1
        while length < min(at, len(end)) and self._tokens[at - 1 - length] == end[-1 - length]:
            length += 1
        return length
