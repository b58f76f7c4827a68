"""What a submitter sees of one answer: its tokens as text, and at its end what it took."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

import structlog

from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Finished, Tokens, Usage
from wanspec_p2p.speculation.instructions import Committed, Emit
from wanspec_p2p.speculation.stats import SessionStats
from wanspec_p2p.target.echo import token_logprob
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.target.text import TextStream
from wanspec_p2p.target.underway import Said
from wanspec_p2p.types import FinishReason, PeerId, TokenId

__all__ = ["Answer"]

_CATCH_UP = 64
"""Tokens between two chances for others to run."""

log = structlog.get_logger(__name__)


class Answer:
    """What a submitter has seen of one answer: whole characters, nothing past a stop string.

    Args:
        prompt: its token ids.
    """

    def __init__(
        self,
        request: Generate,
        prompt: Sequence[TokenId],
        tokenizer: Tokenizer,
        say: Callable[[Said], None],
    ) -> None:
        self._request, self._prompt_tokens, self._tokenizer, self._say = request, len(prompt), tokenizer, say
        self._text = TextStream(tokenizer, request.stop, prompt)
        self._position = len(request.committed)
        self._drafted = 0  # of the tokens sent
        self._won: Counter[PeerId] = Counter()

    async def catch_up(self) -> None:
        """Take in the tokens that another target has shown, one by one as it did; a long answer takes a while."""
        for at, token in enumerate(self._request.committed):
            self._text.add([token])
            if at % _CATCH_UP == _CATCH_UP - 1:
                await asyncio.sleep(0)

    @property
    def stopped(self) -> bool:
        """A stop string was met."""
        return self._text.stopped

    def take(self, emit: Emit, runner: SessionRunner) -> None:
        # A message for each run of one origin, so that whoever colours text knows whose it is.
        for _, run in groupby(emit.tokens, key=lambda committed: committed.origin):
            shown: list[Committed] = []
            text = ""
            for committed in run:
                shown.append(committed)
                text += self._text.add([committed.token])
                if self.stopped:
                    break
            self._send(shown, text)
            if self.stopped:
                break
        if self.stopped:
            runner.cancel()

    def finish(self, reason: FinishReason, stats: SessionStats, seconds: float, *, drafters: int) -> None:
        """Args:
        drafters: nodes that were asked to draft.
        """
        if rest := self._text.finish():
            self._send([], rest)
        if self.stopped:
            reason = FinishReason.STOP
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._position,
            rounds=stats.rounds,
            drafted=stats.verified,
            accepted=self._drafted,
            late=min(stats.late, limits.MAX_DRAFTED),
            accepted_by_length=stats.accepted_by_length,
            won_by_peer=dict(self._won),
            drafters=drafters,
            lost=min(stats.lost, limits.MAX_DRAFTED),
            invalid=min(stats.invalid, limits.MAX_DRAFTED),
            target_draft_passes=min(stats.local_passes, limits.MAX_DRAFTED),
            near_ties=stats.near_ties,
            seconds=seconds,
        )
        log.info(
            "answered",
            request=self._request.request,
            reason=reason.value,
            tokens=usage.completion_tokens,
            rounds=usage.rounds,
            accepted=usage.accepted,
            seconds=round(seconds, 3),
        )
        self._say(Finished(self._request.request, reason, usage))

    def _send(self, tokens: Sequence[Committed], text: str) -> None:
        self._say(
            Tokens(
                request=self._request.request,
                position=self._position,
                ids=tuple(t.token for t in tokens),
                text=text,
                origins=tuple(t.origin for t in tokens),
                logprobs=tuple(
                    token_logprob(self._tokenizer, t.token, t.scores) for t in tokens if t.scores is not None
                ),
            )
        )
        self._position += len(tokens)
        self._drafted += sum(t.drafted for t in tokens)
        self._won.update(t.origin for t in tokens if t.origin is not None)
