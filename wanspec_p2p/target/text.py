"""From token ids to the text a submitter sees: whole characters only, and nothing past a stop string.

What is shown does not depend on how the ids were cut into rounds, so an answer that goes on at another target shows the
same text.
"""

from __future__ import annotations

from collections.abc import Sequence

from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.types import TokenId

__all__ = ["Detokenizer", "StopScanner", "TextStream"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTEXT = 8
"""Tokens of the prompt that are decoded again with the first of the answer."""
_PATIENCE = 8
"""Tokens that may wait for a character to become whole: one takes four bytes, so by then it is broken."""
_MISSING = 3
"""Replacement characters at the end that may still become something: all but the last byte of a character."""


class Detokenizer:
    """What each batch of tokens adds to the text. A character that is not whole yet waits for its last byte.

    What a token adds can depend on the one before it, so new ids are decoded together with those that came before.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[TokenId] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._settled = len(self._ids)  # ids whose text is out; they are context
        self._shown = len(tokenizer.decode(self._ids))  # characters of the text of all `_ids` that are out

    def add(self, ids: Sequence[TokenId]) -> str:
        self._ids.extend(ids)
        text = self._tokenizer.decode(self._ids)
        broken = len(text) - len(text.rstrip(_REPLACEMENT))
        waiting = len(self._ids) - self._settled
        if broken and waiting <= _PATIENCE:
            return ""
        held = min(broken, _MISSING)
        added = text[self._shown : len(text) - held]
        if broken:
            self._keep(self._ids[-_PATIENCE:], held)
        elif added:
            self._keep(self._ids[self._settled :], 0)  # context that begins with a whole character
        else:
            del self._ids[self._settled :]  # ids without text, such as end-of-sequence
        return added

    def finish(self) -> str:
        """What is left when no more tokens come: a broken character is shown as U+FFFD."""
        text = self._tokenizer.decode(self._ids)
        added, self._shown = text[self._shown :], len(text)
        return added

    def _keep(self, ids: list[TokenId], held: int) -> None:
        self._ids = ids
        self._settled = len(ids)
        self._shown = max(0, len(self._tokenizer.decode(ids)) - held)


class StopScanner:
    """Holds back text that may be the beginning of a stop string, and cuts at the first that is whole."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [_Progress(stop) for stop in stops]
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """The text that is safe to show; empty once a stop string was met."""
        if self.stopped:
            return ""
        before, self._held = len(self._held), self._held + text
        # The first to *end* counts, the longest of those: it is what a reader of single characters would meet.
        for end, character in enumerate(text if self._stops else "", before + 1):
            met = [stop.length for stop in self._stops if stop.reads(character)]
            if met:
                self.stopped = True
                shown, self._held = self._held[: end - max(met)], ""
                return shown
        shows = len(self._held) - max((stop.read for stop in self._stops), default=0)
        shown, self._held = self._held[:shows], self._held[shows:]
        return shown

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held


class _Progress:
    """How much of the beginning of a stop string the text ends with: `read` characters.

    After Knuth, Morris and Pratt (SIAM J. Comput. 6, 1977): a few steps for each character, however long the string and
    whatever was held, since every token of every answer is looked at on the event loop.
    """

    def __init__(self, stop: str) -> None:
        self._stop, self.length, self.read = stop, len(stop), 0
        self._falls = [0]  # by length, from 1: the longest shorter beginning that a beginning ends with
        for character in stop[1:]:
            self._falls.append(self._after(self._falls[-1], character))

    def reads(self, character: str) -> bool:
        """Whether the string is whole with the next character of the text; then nothing more may be read."""
        self.read = self._after(self.read, character)
        return self.read == self.length

    def _after(self, read: int, character: str) -> int:
        while read and self._stop[read] != character:
            read = self._falls[read - 1]
        return read + (self._stop[read] == character)


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
        return self._scanner.add(self._detokenizer.finish()) + self._scanner.finish()
