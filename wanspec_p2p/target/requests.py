"""Requests: from what a submitter asked to a session, and from its tokens to text, usage and receipts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import (
    ContextTooLong,
    EngineError,
    InvalidRequest,
    Overloaded,
    RemoteProtocolError,
    RequestError,
)
from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, Receipt, TokenLogprob, Tokens, Usage
from wanspec_p2p.speculation.instructions import Committed, Emit
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.stats import SessionStats
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.target.text import TextStream
from wanspec_p2p.types import FinishReason, PeerId, Privacy, SessionId, TokenId

__all__ = ["Answer", "RequestDesk"]

MAX_PIECE = 1024
"""Characters of one token's text in log-probabilities."""

_CATCH_UP = 64
"""Tokens between two chances for others to run."""

log = structlog.get_logger(__name__)


class RequestDesk:
    """All requests of one target.

    Args:
        queue: requests that may wait for a slot.
        say: takes messages for the coordinator; must not block.
        receipts: takes what drafters did for a session that has ended.
        new_id: unique names, for sessions and receipts.
        local: the target's own drafter.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        tokenizer: Tokenizer,
        pool: DrafterPool | None,
        policy: Policy,
        queue: int,
        say: Callable[[Tokens | Finished | Failed], None],
        receipts: Callable[[list[Receipt]], None],
        new_id: Callable[[], str],
        clock: Clock,
        local: Engine | None = None,
    ) -> None:
        self._knowledge, self._local = Knowledge(), local
        self._engine, self._tokenizer, self._pool, self._policy = engine, tokenizer, pool, policy
        self._queue, self._say, self._receipts = queue, say, receipts
        self._new_id, self._clock = new_id, clock
        self._answers: dict[str, asyncio.Task[None]] = {}

    @property
    def active(self) -> int:
        return len(self._answers)

    def generate(self, request: Generate) -> None:
        """Start on a request; what becomes of it is said, not raised.

        Raises:
            RemoteProtocolError: a request of this name is being answered already.
        """
        if request.request in self._answers:
            raise RemoteProtocolError("a request of this name is being answered already")
        task = asyncio.create_task(self._answer(request), name=f"request-{request.request}")
        self._answers[request.request] = task
        task.add_done_callback(lambda _: self._answers.pop(request.request, None))

    def cancel(self, request: str) -> None:
        """Who cancels has stopped listening: nothing more is said of the request."""
        if (task := self._answers.get(request)) is not None:
            log.info("a request is cancelled", request=request)
            task.cancel()

    async def idle(self, seconds: float) -> None:
        """Wait until nothing is being answered, for at most so many seconds."""
        if self._answers:
            await asyncio.wait(list(self._answers.values()), timeout=seconds)

    async def cancel_all(self) -> None:
        """Returns when no request has a pass running any more."""
        tasks = list(self._answers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: Generate) -> None:
        try:
            await self._serve(request)
        except RequestError as error:
            log.info("a request is refused", request=request.request, code=error.code)
            self._say(Failed(request.request, error.code, error.message[: limits.MAX_REASON], error.param))
        except EngineError as error:
            log.error("the model failed: the request is lost", request=request.request, error=str(error))
            self._say(Failed(request.request, "internal_error", "the target's model failed"))
        except Exception:
            # A bug of ours; whoever waits for the answer must learn that there will be none.
            log.exception("answering failed: this is a bug", request=request.request)
            self._say(Failed(request.request, "internal_error", "the target failed"))

    async def _serve(self, request: Generate) -> None:
        prompt = self._prompt(request)
        wanted = self._length(request, prompt)
        answer = Answer(request, prompt, self._tokenizer, self._say)
        await answer.catch_up()
        if (reason := self._already_over(request, answer, wanted)) is not None:
            answer.finish(reason, SessionStats(), 0.0)
            return
        if self._engine.full and self._engine.queued >= self._queue:
            raise Overloaded("the target's queue is full: try again shortly", retry_after=1.0)
        async with self._engine.slot():
            await self._run(request, self._spec(request, prompt, wanted), answer)

    async def _run(self, request: Generate, spec: SessionSpec, answer: Answer) -> None:
        started = self._clock.monotonic()
        session = TargetSession(spec, self._policy, self._knowledge, local=self._local is not None)
        runner = SessionRunner(
            session,
            self._engine,
            self._who_may_see(request),
            lambda emit: answer.take(emit, runner),
            self._clock,
            self._local,
        )
        try:
            reason = await runner.run()
        finally:
            self._write_receipts(runner)
        answer.finish(reason, session.stats, self._clock.monotonic() - started)

    def _who_may_see(self, request: Generate) -> DrafterPool | None:
        """The drafters a prompt may be shown to; None: the target decodes alone.

        In this release a target does not know which pools are trusted, so `trusted` is served as `private` is.
        """
        return self._pool if request.network and request.privacy is Privacy.PUBLIC else None

    def _prompt(self, request: Generate) -> tuple[TokenId, ...]:
        """Token ids of the prompt.

        Raises:
            InvalidRequest: in words the submitter understands.
        """
        if bool(request.messages) + (request.prompt is not None) + bool(request.prompt_ids) != 1:
            raise InvalidRequest("give exactly one of messages, prompt and prompt token ids")
        if request.messages:
            prompt: Sequence[TokenId] = self._tokenizer.encode_chat([(m.role, m.content) for m in request.messages])
        elif request.prompt is not None:
            prompt = self._tokenizer.encode(request.prompt)
        else:
            prompt = request.prompt_ids
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt")
        vocabulary = self._engine.model.info.vocab_size
        if any(token >= vocabulary for token in (*prompt, *request.committed)):
            raise InvalidRequest(f"token ids must be below {vocabulary}", param="prompt")
        return tuple(prompt)

    def _length(self, request: Generate, prompt: Sequence[TokenId]) -> int:
        """Tokens the whole answer may have.

        Raises:
            ContextTooLong: not even one.
        """
        context = self._engine.context
        if len(prompt) >= context:
            raise ContextTooLong(
                f"the prompt has {len(prompt)} tokens; this model's context holds {context}, answer included",
                param="messages" if request.messages else "prompt",
            )
        room = context - len(prompt)
        return room if request.max_tokens is None else min(request.max_tokens, room)

    def _already_over(self, request: Generate, answer: Answer, wanted: int) -> FinishReason | None:
        """How an answer ended whose target was lost after its last token and before it said so."""
        if answer.stopped or not set(self._stop_tokens(request)).isdisjoint(request.committed):
            return FinishReason.STOP
        return FinishReason.LENGTH if len(request.committed) >= wanted else None

    def _stop_tokens(self, request: Generate) -> tuple[TokenId, ...]:
        return () if request.ignore_eos else self._engine.model.info.eos

    def _spec(self, request: Generate, prompt: tuple[TokenId, ...], wanted: int) -> SessionSpec:
        return SessionSpec(
            session=SessionId(self._new_id()),
            prompt=prompt,
            seed=request.seed,
            sampling=request.sampling,
            vocab_size=self._engine.model.info.vocab_size,
            max_tokens=wanted,
            committed=request.committed,
            stop_tokens=self._stop_tokens(request),
            top_logprobs=request.top_logprobs,
        )

    def _write_receipts(self, runner: SessionRunner) -> None:
        receipts = [
            Receipt(
                id=self._new_id(),
                node=node,
                jti=runner.leases[node],
                session=runner.session.spec.session,
                # A node may have sent any number; a count the coordinator refuses would cost us our link to it.
                drafted=min(stats.drafted, limits.MAX_DRAFTED),
                verified=stats.verified,
                accepted=stats.accepted,
                won=stats.won,
                rtt=self._rtt(node),
                by_depth=stats.by_depth[: limits.MAX_WINDOW],
            )
            for node, stats in runner.session.stats.drafters.items()
            if stats.drafted
        ]
        if receipts:
            self._receipts(receipts)

    def _rtt(self, node: PeerId) -> float | None:
        link = None if self._pool is None else self._pool.link(node)
        return None if link is None else link.rtt


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
        say: Callable[[Tokens | Finished | Failed], None],
    ) -> None:
        self._request, self._prompt_tokens, self._tokenizer, self._say = request, len(prompt), tokenizer, say
        self._text = TextStream(tokenizer, request.stop, prompt)
        self._position = len(request.committed)
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

    def finish(self, reason: FinishReason, stats: SessionStats, seconds: float) -> None:
        if rest := self._text.finish():
            self._send([], rest)
        if self.stopped:
            reason = FinishReason.STOP
        longest = max(stats.histogram, default=0)
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._position,
            rounds=stats.rounds,
            drafted=stats.verified,
            accepted=self._won.total(),
            late=min(stats.late, limits.MAX_DRAFTED),
            accepted_histogram=tuple(stats.histogram[k] for k in range(longest + 1)),
            won_by_peer=dict(self._won),
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
                logprobs=tuple(self._logprob(t) for t in tokens if t.scores is not None),
            )
        )
        self._position += len(tokens)
        self._won.update(t.origin for t in tokens if t.origin is not None)

    def _logprob(self, committed: Committed) -> TokenLogprob:
        assert committed.scores is not None
        return TokenLogprob(
            token=committed.token,
            text=self._piece(committed.token),
            logprob=committed.scores.logprob,
            top=tuple((token, self._piece(token), logprob) for token, logprob in committed.scores.top),
        )

    def _piece(self, token: TokenId) -> str:
        return self._tokenizer.piece(token)[:MAX_PIECE]
