"""One request from its question to the end of its answer: a slot, a session, tokens, and what drafters are owed."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import EngineError, Overloaded, RequestError
from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Receipt
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.stats import SessionStats
from wanspec_p2p.speculation.target_session import TargetSession
from wanspec_p2p.target.answer import Answer
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.echo import echo
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.question import Question, Reader
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.target.underway import Said
from wanspec_p2p.types import Privacy, SessionId

__all__ = ["Answering"]

log = structlog.get_logger(__name__)


class Answering:
    """Answers requests on one engine, each call of `answer` one of them.

    Args:
        queue: requests that may wait for a slot.
        receipts: takes what drafters did for a session that has ended.
        new_id: unique names, for sessions and receipts.
        knowledge: what the target's sessions learn.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        tokenizer: Tokenizer,
        pool: DrafterPool | None,
        policy: Policy,
        queue: int,
        receipts: Callable[[list[Receipt]], None],
        new_id: Callable[[], str],
        clock: Clock,
        knowledge: Knowledge,
    ) -> None:
        self._knowledge = knowledge
        self._engine, self._tokenizer, self._pool, self._policy = engine, tokenizer, pool, policy
        self._reader = Reader(tokenizer)
        self._queue, self._receipts = queue, receipts
        self._new_id, self._clock = new_id, clock

    async def answer(self, request: Generate, say: Callable[[Said], None]) -> None:
        """What becomes of it is said, not raised."""
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
        if not request.committed:  # or else it may be over already, and need no room
            self._check_room()
        question = Question.of(request, await self._reader.ids(request), self._engine)
        answer = Answer(request, question.prompt, self._tokenizer, say)
        await answer.catch_up()
        over = question.already_over(stopped=answer.stopped)
        echoing = request.echo and not request.committed
        if over is not None and not echoing:
            answer.finish(over, SessionStats(), 0.0, drafters=0)
            return
        self._check_room()
        async with self._engine.slot():
            if echoing:
                await self._echo(question, say)
            if over is None:
                await self._run(question, answer)
            else:
                answer.finish(over, SessionStats(), 0.0, drafters=0)

    def _check_room(self) -> None:
        if self._engine.full and self._engine.queued >= self._queue:
            raise Overloaded("the target's queue is full: try again shortly", retry_after=1.0)

    async def _echo(self, question: Question, say: Callable[[Said], None]) -> None:
        engine, tokenizer, cache = self._engine, self._tokenizer, self._new_id()
        await echo(question.request, question.prompt, engine=engine, tokenizer=tokenizer, cache=cache, say=say)

    async def _run(self, question: Question, answer: Answer) -> None:
        started = self._clock.monotonic()
        spec = question.spec(SessionId(self._new_id()))
        session = TargetSession(spec, self._policy, self._knowledge, local=self._engine.draft_reach)
        runner = SessionRunner(
            session,
            self._engine,
            self._who_may_see(question.request),
            lambda emit: answer.take(emit, runner),
            self._clock,
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
                rtt=runner.rtts.get(node),
                by_depth=stats.by_depth[: limits.MAX_TOKENS_PER_ROUND],
                rounds=stats.rounds,
            )
            for node, stats in runner.session.stats.peers.items()
            if stats.drafted or stats.rounds >= limits.FIRST_DRAFT_ROUNDS
        ]
        if receipts:
            self._receipts(receipts)
