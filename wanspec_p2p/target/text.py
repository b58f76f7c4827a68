"""From token ids to the text a submitter sees: whole characters only, and nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.types import TokenId

__all__ = ["Detokenizer", "StopScanner", "TextStream"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTEXT = 8
"""Tokens before the new ones that are decoded again with them."""


class Detokenizer:
    """What each batch of tokens adds to the text. A character that is not whole yet waits for its last byte.

    What a token adds can depend on the one before it, so new ids are decoded together with a few before them.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[TokenId] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._read = len(self._ids)  # ids whose text is out; those before it are context

    def add(self, ids: Sequence[TokenId]) -> str:
        self._ids.extend(ids)
        added = self._added()
        if not added or added.endswith(_REPLACEMENT):
            return ""
        self._settle()
        return added

    def finish(self) -> str:
        """What is left when no more tokens come: a broken character is shown as U+FFFD."""
        added = self._added()
        self._settle()
        return added

    def _added(self) -> str:
        known = self._tokenizer.decode(self._ids[: self._read])
        return self._tokenizer.decode(self._ids)[len(known) :]

    def _settle(self) -> None:
        self._ids = self._ids[-_CONTEXT:]
        self._read = len(self._ids)


class StopScanner:
    """Holds back text that may be the beginning of a stop string, and cuts at the first that is whole."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """The text that is safe to show; empty once a stop string was met."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Length of the longest proper beginning of `stop` that the held text ends with."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0


class TextStream:
    """Both together: ids in, text to show out."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], prompt: Sequence[TokenId] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._scanner = StopScanner(stops)

    @property
    def stopped(self) -> bool:
        return self._scanner.stopped

    def add(self, ids: Sequence[TokenId]) -> str:
        return self._scanner.add(self._detokenizer.add(ids))

    def finish(self) -> str:
        """The rest; nothing where a stop string ended the text."""
        if self.stopped:
            return ""
        return self._scanner.add(self._detokenizer.finish()) + self._scanner.finish()
