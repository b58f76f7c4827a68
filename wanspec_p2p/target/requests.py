"""Requests: from what a submitter asked to a session, and from its tokens to text, usage and receipts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import ContextTooLong, EngineError, InvalidRequest, Overloaded, RequestError
from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, Receipt, TokenLogprob, Tokens, Usage
from wanspec_p2p.speculation.instructions import Committed, Emit
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.target.text import TextStream
from wanspec_p2p.types import FinishReason, Privacy, SessionId, TokenId

__all__ = ["Answer", "RequestDesk"]

log = structlog.get_logger(__name__)


class RequestDesk:
    """All requests of one target.

    Args:
        say: takes messages for the coordinator; must not block.
        receipts: takes what drafters did for a finished session.
        new_id: unique names, for sessions and receipts.
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
    ) -> None:
        self._engine, self._tokenizer, self._pool, self._policy = engine, tokenizer, pool, policy
        self._queue, self._say, self._receipts = queue, say, receipts
        self._new_id, self._clock = new_id, clock
        self._answers: dict[str, asyncio.Task[None]] = {}

    @property
    def active(self) -> int:
        return len(self._answers)

    def generate(self, request: Generate) -> None:
        """Start on a request; its outcome is said, never raised."""
        if request.request in self._answers:
            self._say(Failed(request.request, "invalid_value", "a request of this name is being answered"))
            return
        task = asyncio.create_task(self._answer(request), name=f"request-{request.request}")
        self._answers[request.request] = task
        task.add_done_callback(lambda _: self._answers.pop(request.request, None))

    def cancel(self, request: str) -> None:
        if (task := self._answers.get(request)) is not None:
            task.cancel()

    async def idle(self, seconds: float) -> None:
        """Wait until nothing is being answered, for at most so many seconds."""
        if self._answers:
            await asyncio.wait(list(self._answers.values()), timeout=seconds)

    async def cancel_all(self) -> None:
        tasks = list(self._answers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: Generate) -> None:
        try:
            spec = self._spec(request)
            if self._engine.full and self._engine.queued >= self._queue:
                raise Overloaded("the target's queue is full: try again shortly", retry_after=1.0)
            async with self._engine.slot():
                await self._run(request, spec)
        except RequestError as error:
            self._say(Failed(request.request, error.code, error.message[: limits.MAX_REASON], error.param))
        except EngineError as error:
            log.error("the model failed", request=request.request, error=str(error))
            self._say(Failed(request.request, "internal_error", "the target's model failed"))

    async def _run(self, request: Generate, spec: SessionSpec) -> None:
        started = self._clock.monotonic()
        session = TargetSession(spec, self._policy)
        answer = Answer(request, spec, self._tokenizer, self._say)
        seen = self._pool if request.network and request.privacy is Privacy.PUBLIC else None
        runner = SessionRunner(session, self._engine, seen, lambda emit: answer.take(emit, runner), self._clock)
        try:
            reason = await runner.run()
        finally:
            self._write_receipts(session)
        answer.finish(reason, session, self._clock.monotonic() - started)

    def _spec(self, request: Generate) -> SessionSpec:
        """The session a request asks for.

        Raises:
            InvalidRequest, ContextTooLong: in words the submitter understands.
        """
        info = self._engine.model.info
        prompt = self._prompt(request)
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt")
        if any(token >= info.vocab_size for token in (*prompt, *request.committed)):
            raise InvalidRequest(f"token ids must be below {info.vocab_size}", param="prompt")
        room = info.context - len(prompt)
        if room <= len(request.committed):
            raise ContextTooLong(
                f"the prompt has {len(prompt)} tokens; this model's context holds {info.context}, answer included",
                param="messages" if request.messages else "prompt",
            )
        wanted = room if request.max_tokens is None else min(request.max_tokens, room)
        if len(request.committed) >= wanted:
            raise InvalidRequest("the answer to resume is already complete", param="max_tokens")
        return SessionSpec(
            session=SessionId(self._new_id()),
            prompt=tuple(prompt),
            seed=request.seed,
            sampling=request.sampling,
            vocab_size=info.vocab_size,
            max_tokens=wanted,
            committed=request.committed,
            stop_tokens=() if request.ignore_eos else info.eos,
            top_logprobs=request.top_logprobs,
        )

    def _prompt(self, request: Generate) -> Sequence[TokenId]:
        given = [bool(request.messages), request.prompt is not None, bool(request.prompt_ids)]
        if sum(given) != 1:
            raise InvalidRequest("give exactly one of messages, prompt and prompt token ids")
        if request.messages:
            return self._tokenizer.encode_chat([(m.role, m.content) for m in request.messages])
        if request.prompt is not None:
            return self._tokenizer.encode(request.prompt)
        return request.prompt_ids

    def _write_receipts(self, session: TargetSession) -> None:
        if self._pool is None:
            return
        receipts = []
        for node, stats in session.stats.drafters.items():
            if not stats.drafted:
                continue
            link = self._pool.link(node)
            receipts.append(
                Receipt(
                    id=self._new_id(),
                    node=node,
                    jti=self._pool.lease_of(node),
                    session=session.spec.session,
                    drafted=stats.drafted,
                    verified=stats.verified,
                    accepted=stats.accepted,
                    won=stats.won,
                    rtt=None if link is None else link.rtt,
                )
            )
        if receipts:
            self._receipts(receipts)


class Answer:
    """What a submitter has seen of one answer: whole characters, nothing past a stop string."""

    def __init__(
        self,
        request: Generate,
        spec: SessionSpec,
        tokenizer: Tokenizer,
        say: Callable[[Tokens | Finished | Failed], None],
    ) -> None:
        self._request, self._spec, self._tokenizer, self._say = request, spec, tokenizer, say
        self._text = TextStream(tokenizer, request.stop, spec.prompt)
        self._position = len(spec.committed)
        for token in spec.committed:
            self._text.add([token])

    def take(self, emit: Emit, runner: SessionRunner) -> None:
        shown: list[Committed] = []
        pieces: list[str] = []
        for committed in emit.tokens:
            shown.append(committed)
            pieces.append(self._text.add([committed.token]))
            if self._text.stopped:
                break
        self._send(shown, "".join(pieces))
        if self._text.stopped:
            runner.cancel()

    def finish(self, reason: FinishReason, session: TargetSession, seconds: float) -> None:
        if self._text.stopped:
            reason = FinishReason.STOP
        if rest := self._text.finish():
            self._send([], rest)
        stats = session.stats
        longest = max(stats.histogram, default=0)
        usage = Usage(
            prompt_tokens=len(self._spec.prompt),
            completion_tokens=self._position,
            rounds=stats.rounds,
            drafted=stats.verified,
            accepted=stats.accepted,
            late=stats.late,
            accepted_histogram=tuple(stats.histogram[k] for k in range(longest + 1)),
            won_by_peer=stats.won_by_peer,
            near_ties=stats.near_ties,
            seconds=seconds,
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

    def _logprob(self, committed: Committed) -> TokenLogprob:
        assert committed.scores is not None
        piece = self._tokenizer.piece
        return TokenLogprob(
            token=committed.token,
            text=piece(committed.token),
            logprob=committed.scores.logprob,
            top=tuple((token, piece(token), logprob) for token, logprob in committed.scores.top),
        )
