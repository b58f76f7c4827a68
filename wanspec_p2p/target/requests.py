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
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, Receipt, Tokens, Usage
from wanspec_p2p.speculation.instructions import Committed, Emit
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.stats import SessionStats
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.echo import echo, token_logprob
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.target.text import TextStream
from wanspec_p2p.target.underway import Said, Underway
from wanspec_p2p.types import FinishReason, PeerId, Privacy, SessionId, TokenId

__all__ = ["Answer", "RequestDesk"]

KEPT_SECONDS = 10.0
"""How long an answer goes on that nobody hears: so long a coordinator, or the way to it, may be away."""
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
        say: Callable[[Said], None],
        receipts: Callable[[list[Receipt]], None],
        new_id: Callable[[], str],
        clock: Clock,
        local: Engine | None = None,
    ) -> None:
        self._knowledge, self._local = Knowledge(), local
        self._engine, self._tokenizer, self._pool, self._policy = engine, tokenizer, pool, policy
        self._queue, self._say, self._receipts = queue, say, receipts
        self._new_id, self._clock = new_id, clock
        self._answers: dict[str, Underway] = {}
        self._unheard: list[Underway] = []

    @property
    def active(self) -> int:
        """Requests that somebody waits for."""
        return len(self._answers)

    @property
    def unheard(self) -> int:
        """Answers that go on, or have come to their end, without anybody to tell."""
        return len(self._unheard)

    def generate(self, request: Generate) -> None:
        """Start on a request, or go on with one that nobody hears; what becomes of it is said, not raised.

        Raises:
            RemoteProtocolError: a request of this name is being answered already.
        """
        if request.request in self._answers:
            raise RemoteProtocolError("a request of this name is being answered already")
        kept = next((unheard for unheard in self._unheard if unheard.continues(request)), None)
        if kept is None:
            kept = Underway(request, self._say)
            kept.task = asyncio.create_task(self._answer(request, kept), name=f"request-{request.request}")
        else:
            log.info("a request goes on with who asks for it again", request=request.request)
            self._unheard.remove(kept)
            kept.resume(request)
        if not kept.task.done():
            self._answers[request.request] = kept
            kept.task.add_done_callback(lambda _: self._forget(kept))

    def _forget(self, underway: Underway) -> None:
        if self._answers.get(underway.name) is underway:
            del self._answers[underway.name]

    def cancel(self, request: str) -> None:
        """Who cancels has stopped listening: nothing more is said of the request."""
        if (underway := self._answers.get(request)) is not None:
            log.info("a request is cancelled", request=request)
            underway.task.cancel()

    def unhear(self) -> None:
        """The way to the coordinator is lost: go on with everything for `KEPT_SECONDS`, and keep what would be said."""
        later = asyncio.get_running_loop().call_later
        for underway in self._answers.values():
            underway.deadline = later(KEPT_SECONDS, self._give_up, underway)
            self._unheard.append(underway)
        self._answers.clear()

    def _give_up(self, underway: Underway) -> None:
        log.info("nobody asked for a request again: it ends", request=underway.name)
        underway.task.cancel()
        underway.task.add_done_callback(lambda _: self._drop(underway))  # its pass may run for a while

    def _drop(self, underway: Underway) -> None:
        if underway in self._unheard:
            self._unheard.remove(underway)

    async def idle(self, seconds: float) -> None:
        """Wait until nothing is being answered, for at most so many seconds."""
        if self._answers:
            await asyncio.wait([underway.task for underway in self._answers.values()], timeout=seconds)

    async def cancel_all(self) -> None:
        """Returns when no request has a pass running any more."""
        for underway in self._unheard:
            assert underway.deadline is not None
            underway.deadline.cancel()
        tasks = [underway.task for underway in (*self._answers.values(), *self._unheard)]
        self._unheard.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: Generate, say: Callable[[Said], None]) -> None:
        try:
            await self._serve(request, say)
        except RequestError as error:
            log.info("a request is refused", request=request.request, code=error.code)
            say(Failed(request.request, error.code, error.message[: limits.MAX_REASON], error.param))
        except EngineError as error:
            log.error("the model failed: the request is lost", request=request.request, error=str(error))
            say(Failed(request.request, "internal_error", "the target's model failed"))
        except Exception:
            # A bug of ours; whoever waits for the answer must learn that there will be none.
            log.exception("answering failed: this is a bug", request=request.request)
            say(Failed(request.request, "internal_error", "the target failed"))

    async def _serve(self, request: Generate, say: Callable[[Said], None]) -> None:
        prompt = self._prompt(request)
        wanted = self._length(request, prompt)
        answer = Answer(request, prompt, self._tokenizer, say)
        await answer.catch_up()
        over = self._already_over(request, answer, wanted)
        echoing = request.echo and not request.committed
        if over is not None and not echoing:
            answer.finish(over, SessionStats(), 0.0, drafters=0)
            return
        if self._engine.full and self._engine.queued >= self._queue:
            raise Overloaded("the target's queue is full: try again shortly", retry_after=1.0)
        async with self._engine.slot():
            if echoing:
                await self._echo(request, prompt, say)
            if over is None:
                await self._run(request, self._spec(request, prompt, wanted), answer)
            else:
                answer.finish(over, SessionStats(), 0.0, drafters=0)

    async def _echo(self, request: Generate, prompt: Sequence[TokenId], say: Callable[[Said], None]) -> None:
        await echo(request, prompt, engine=self._engine, tokenizer=self._tokenizer, cache=self._new_id(), say=say)

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
        answer.finish(reason, session.stats, self._clock.monotonic() - started, drafters=len(runner.leases))

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
        say: Callable[[Said], None],
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
            accepted=self._won.total(),
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
        self._won.update(t.origin for t in tokens if t.origin is not None)
