"""A prompt given back token by token (`echo`), with the log-probabilities the model gives it.

That is how evaluation tools ask how likely a text is: they read the scores of the prompt, not the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from wanspec_p2p.errors import InvalidRequest
from wanspec_p2p.models.base import Rows, Tokenizer
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import TokenLogprob, Tokens
from wanspec_p2p.speculation.instructions import TokenScores
from wanspec_p2p.speculation.sampling import Row, logprobs
from wanspec_p2p.target.engine import Engine, to_its_end
from wanspec_p2p.target.text import Detokenizer
from wanspec_p2p.types import Segment, TokenId

__all__ = ["MAX_SCORES", "echo", "token_logprob"]

PIECE_TOKENS = 32
"""Prompt tokens in one pass and in one message: as long as a round of drafts, so others wait no longer than for one."""
MAX_SCORES = 1 << 18
"""Log-probabilities of one prompt, each token's likeliest ones included: the coordinator holds them all at once."""


def token_logprob(tokenizer: Tokenizer, token: TokenId, scores: TokenScores | None) -> TokenLogprob:
    """Args:
    scores: None for the first token of a prompt, which follows nothing.
    """

    def text(of: TokenId) -> str:
        return tokenizer.piece(of)[: limits.MAX_TOKEN_TEXT]

    if scores is None:
        return TokenLogprob(token, text(token), None)
    top = tuple((other, text(other), logprob) for other, logprob in scores.top)
    return TokenLogprob(token, text(token), scores.logprob, top)


async def echo(
    request: Generate,
    prompt: Sequence[TokenId],
    *,
    engine: Engine,
    tokenizer: Tokenizer,
    cache: str,
    say: Callable[[Tokens], None],
) -> None:
    """Say the prompt, piece by piece. No pass runs and no cache is left when it returns or raises.

    Args:
        cache: a name no session has.

    Raises:
        InvalidRequest: more scores than `MAX_SCORES` were asked for.
        EngineError: the model failed.
    """
    if request.top_logprobs is not None and len(prompt) * (request.top_logprobs + 1) > MAX_SCORES:
        raise InvalidRequest(
            f"{request.top_logprobs} likeliest tokens for each of {len(prompt)} prompt tokens are too many: with the"
            f" tokens themselves at most {MAX_SCORES} log-probabilities come with one echo",
            param="logprobs",
        )
    text = Detokenizer(tokenizer)
    scorer = None if request.top_logprobs is None else _Scorer(engine, tokenizer, cache, request.top_logprobs)
    try:
        for at in range(0, len(prompt), PIECE_TOKENS):
            piece = tuple(prompt[at : at + PIECE_TOKENS])
            entries = () if scorer is None else await scorer.score(piece)
            shown = text.add(piece) + (text.finish() if at + PIECE_TOKENS >= len(prompt) else "")
            say(Tokens(request.request, at, piece, shown, (None,) * len(piece), entries, echo=True))
            await asyncio.sleep(0)
    finally:
        if scorer is not None:
            await to_its_end(asyncio.ensure_future(engine.model.release(cache)))


class _Scorer:
    """Reads a prompt as if it had been drafted: such a pass has a row for every token, where a prefill has one."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, cache: str, top: int) -> None:
        self._engine, self._tokenizer, self._cache, self._top = engine, tokenizer, cache, top
        self._length = self._provisional = 0  # positions in the cache
        self._before: Row | None = None  # the row after the last token

    async def score(self, piece: tuple[TokenId, ...]) -> tuple[TokenLogprob, ...]:
        """Of tokens that follow those of the call before."""
        rows = await self._run(piece)
        entries = []
        for token, row in zip(piece, [self._before, *rows[:-1]], strict=True):
            entries.append(token_logprob(self._tokenizer, token, None if row is None else self._scores(row, token)))
            await asyncio.sleep(0)  # a row takes about a millisecond
        self._before = rows[-1]
        return tuple(entries)

    async def _run(self, piece: tuple[TokenId, ...]) -> Rows:
        first, chain = (piece[:1], piece[1:]) if self._before is None else ((), piece)
        segment = Segment(
            cache=self._cache,
            length=self._length,
            keep=tuple(range(self._provisional)),
            tokens=first,
            tree=chain,
            parents=tuple(range(-1, len(chain) - 1)),
        )
        rows = await self._engine.take_part(lambda turn: segment)
        assert rows is not None  # there was a segment
        self._length += self._provisional + len(first)
        self._provisional = len(chain)
        return rows

    def _scores(self, row: Row, token: TokenId) -> TokenScores:
        logprob, top = logprobs(row, self._engine.model.info.vocab_size, token, self._top)
        return TokenScores(logprob, tuple(top))
