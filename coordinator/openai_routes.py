"""The OpenAI API: `/v1/models`, `/v1/chat/completions`, `/v1/completions` (docs/reference/http-api.md)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.access import ApiKeys
from coordinator.answer import Answer
from coordinator.executor import Executor
from coordinator.openai_responses import Reply, model_body, several
from coordinator.openai_schema import Asked, parse_chat, parse_completion
from coordinator.streams import EventStream, collect, events, while_connected
from wanspec_p2p.errors import InvalidRequest, RequestError, UnknownModel
from wanspec_p2p.protocol.target_to_coordinator import ServedModel, Tokens

__all__ = ["OpenAiRoutes", "json_response"]

MAX_BODY_BYTES = 4 << 20
"""A prompt that fits into a frame takes at most this much as JSON with every character escaped."""
Parse: TypeAlias = Callable[..., Sequence[Asked]]

log = structlog.get_logger("coordinator")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


class OpenAiRoutes:
    """Args:
    random_seed: 16 random bytes for requests that bring no seed.
    """

    def __init__(self, executor: Executor, keys: ApiKeys, *, random_seed: Callable[[], bytes]) -> None:
        self._executor, self._keys, self._random_seed = executor, keys, random_seed
        self._created = int(executor.clock.wall())

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{id:path}", self.model, methods=["GET"]),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
        ]

    async def models(self, request: Request) -> Response:
        await self._keys.check(request.headers)
        return json_response({"object": "list", "data": [self._describe(name) for name in sorted(self._served())]})

    async def model(self, request: Request) -> Response:
        await self._keys.check(request.headers)
        name = request.path_params["id"]
        served = self._served()
        if name not in served:
            there = f"there are: {', '.join(sorted(served))}" if served else "no target is connected"
            raise UnknownModel(f"there is no model {name[:64]!r} at the moment; {there}", param="model")
        return json_response(self._describe(name))

    def _served(self) -> Counter[str]:
        return Counter(target.model.name for target in self._executor.registry.targets.values())

    def _describe(self, name: str) -> dict[str, Any]:
        targets = sorted(self._executor.registry.targets.values(), key=lambda target: target.peer)
        served: list[ServedModel] = [target.model for target in targets if target.model.name == name]
        return model_body(served[0], created=self._created, targets=len(served))

    async def chat_completions(self, request: Request) -> Response:
        return await self._complete(request, lambda body, **given: (parse_chat(body, **given),))

    async def completions(self, request: Request) -> Response:
        return await self._complete(request, parse_completion)

    async def _complete(self, request: Request, parse: Parse) -> Response:
        """One request, from its body to its response; whatever ends it, the target learns and it is counted once."""
        await self._keys.check(request.headers)
        body = await _body(request)
        name = request.state.request_id = self._executor.new_id()
        headers = {"x-request-id": name}
        with self._counted():
            asked = parse(body, request=name, random_seed=self._random_seed)
        if len(asked) > 1:
            return await self._several(request, asked, headers)
        with self._counted():
            answer = self._executor.answers.open(asked[0])
        ended = _Ending(self._executor, answer)
        try:
            first = await while_connected(request.receive, anext(answer, None))
            ended.started()
            reply = Reply(answer.asked, answer.model, created=int(self._executor.clock.wall()))
            if answer.asked.stream:
                return EventStream(events(answer, reply, first), ended, headers)
            response = await self._whole(request, answer, reply, first, headers)
        except BaseException as error:
            ended(error)
            raise
        ended(None)
        return response

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """What is refused before there is an answer to end."""
        try:
            yield
        except RequestError as error:
            self._executor.metrics.failed(error.code)
            raise

    async def _whole(
        self, request: Request, answer: Answer, reply: Reply, first: Tokens | None, headers: dict[str, str]
    ) -> Response:
        rest = await while_connected(request.receive, collect(answer))
        assert answer.finished is not None  # collect has seen its end
        parts = rest if first is None else [first, *rest]
        reply.model = answer.model  # of the target that finished it
        return json_response(reply.whole(parts, answer.finished), headers=headers)

    async def _several(self, request: Request, asked: Sequence[Asked], headers: dict[str, str]) -> Response:
        """An answer to each of several prompts, or none at all: one that fails ends the others."""
        answers: list[tuple[Answer, _Ending]] = []
        problem: BaseException | None = None
        try:
            for each in asked:
                with self._counted():
                    answer = self._executor.answers.open(each)
                answers.append((answer, _Ending(self._executor, answer)))
            parts = await while_connected(request.receive, _all(_first_noted(*each) for each in answers))
        except BaseException as error:
            problem = error
            raise
        finally:
            for answer, ended in answers:
                ended(None if answer.finished is not None else problem)
        created = int(self._executor.clock.wall())
        ends = [answer.finished for answer, _ in answers if answer.finished is not None]  # all of them, by now
        replies = [Reply(answer.asked, answer.model, created=created) for answer, _ in answers]
        return json_response(several(replies, parts, ends), headers=headers)


async def _first_noted(answer: Answer, ended: _Ending) -> list[Tokens]:
    first = await anext(answer, None)
    ended.started()
    rest = await collect(answer)
    return rest if first is None else [first, *rest]


async def _all(answers: Iterable[Coroutine[Any, Any, list[Tokens]]]) -> list[list[Tokens]]:
    """All of them, or the first failure; then none goes on."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


class _Ending:
    """Lets go of an answer once, and counts how it ended."""

    def __init__(self, executor: Executor, answer: Answer) -> None:
        self._executor, self._answer = executor, answer
        self._since = executor.clock.monotonic()

    def started(self) -> None:
        self._executor.metrics.first_token(self._executor.clock.monotonic() - self._since)

    def __call__(self, problem: BaseException | None) -> None:
        answer, metrics = self._answer, self._executor.metrics
        answer.close()
        if problem is None and answer.finished is not None:
            metrics.answered(answer.finished.usage, resumes=answer.resumes)
        else:
            metrics.failed(_outcome(problem))
        log.info(
            "answered" if problem is None else "answer ended early",
            request=answer.request,
            model=answer.asked.model,
            tokens=len(answer.ids),
            seconds=round(self._executor.clock.monotonic() - self._since, 3),
            **({} if problem is None else {"reason": type(problem).__name__}),
        )


def _outcome(problem: BaseException | None) -> str:
    if isinstance(problem, RequestError):
        return problem.code
    return "cancelled" if isinstance(problem, ClientDisconnect | OSError | asyncio.CancelledError) else "failed"


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise InvalidRequest(f"the body is longer than {MAX_BODY_BYTES} bytes")
    return bytes(body)
