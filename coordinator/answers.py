"""Answers under way: which target owes which request, and what happens to it when that target is gone.

Everything here runs on the event loop and never waits, except `Answer` while a submitter waits for its next tokens.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection

import msgspec

from coordinator.events import LinkId
from coordinator.openai_schema import Asked
from coordinator.records import PeerState, TargetRecord
from wanspec_p2p.errors import (
    NoTarget,
    Overloaded,
    RemoteProtocolError,
    RequestError,
    RequestTimeout,
    TargetLost,
    UnknownModel,
    request_error,
)
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, ServedModel, Tokens
from wanspec_p2p.types import FinishReason, TokenId

__all__ = ["Answer", "Answers"]

MAX_RESUMES = 2
"""Targets one answer may outlive. A prompt that brings its target down must not go on to all the others."""
TEXT_ALONE = 2
"""Messages without a token that one target may send for an answer: the text it still held back at its end."""
TOKEN_TEXT = 1024
"""Characters a token may have, on the average of an answer; the longest of common vocabularies have an eighth of it."""
NO_TARGET_RETRY, OVERLOADED_RETRY = 5.0, 1.0
"""Seconds a submitter is asked to wait before it tries again."""


class Answer:
    """One request's tokens as they are committed. Iterate over it, and `close` it whatever happens."""

    def __init__(self, answers: Answers, asked: Asked, target: TargetRecord, stall_seconds: float) -> None:
        self.asked = asked
        self.model: ServedModel = target.model
        self.link: LinkId = target.link
        self.ids: list[TokenId] = []
        self.messages = 0  # of its target, tokens or text
        self.characters = 0
        self.resumes = 0
        self.echoed = 0  # tokens of the prompt that were given back
        self.left: set[LinkId] = set()  # where it was before; what still comes from there is late
        self.text_alone = False  # what the target held back at the end has been put
        self.finished: Finished | None = None
        self._answers, self._stall_seconds = answers, stall_seconds
        # Holds at most one answer, which the model's context bounds; a slow reader holds up nobody else.
        self._inbox: asyncio.Queue[Tokens | Finished | RequestError] = asyncio.Queue()

    @property
    def request(self) -> str:
        return self.asked.generate.request

    @property
    def longest(self) -> int:
        """Tokens the answer may have: what was asked for, or what fits the model."""
        asked = self.asked.generate.max_tokens
        return self.model.context if asked is None else min(asked, self.model.context)

    def remaining(self) -> Generate:
        """The request, from where the answer stands."""
        generate = self.asked.generate
        return msgspec.structs.replace(generate, committed=(*generate.committed, *self.ids))

    def put(self, item: Tokens | Finished | RequestError) -> None:
        self._inbox.put_nowait(item)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Tokens:
        """The next tokens; when there are no more, `finished` is set.

        Raises:
            RequestError: the answer failed; the exception says how.
        """
        if self.finished is not None:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._stall_seconds):
                item = await self._inbox.get()
        except TimeoutError as error:
            raise RequestTimeout(f"the target sent nothing for {self._stall_seconds:g} s") from error
        if isinstance(item, RequestError):
            raise item
        if isinstance(item, Tokens):
            return item
        # The target that finished it knows nothing of what others sent before.
        usage = msgspec.structs.replace(item.usage, completion_tokens=len(self.ids))
        self.finished = msgspec.structs.replace(item, usage=usage)
        raise StopAsyncIteration

    def close(self) -> None:
        """Forget the answer; the target is told at once if it still works on it."""
        self._answers.release(self)


class Answers:
    """Args:
    targets: those registered now.
    send: puts a message on a target's link; never blocks.
    stall_seconds: an answer without a token for this long ends with a timeout.
    hung: whether nothing comes over a link any more; answers are opened on such a target only where there is no other.
    """

    def __init__(
        self,
        targets: Callable[[], Collection[TargetRecord]],
        send: Callable[[LinkId, Generate | Cancel], None],
        *,
        stall_seconds: float,
        hung: Callable[[LinkId], bool] = lambda link: False,
    ) -> None:
        self._targets, self._send, self._stall_seconds, self._hung = targets, send, stall_seconds, hung
        self._owed: dict[str, Answer] = {}
        self._load: Counter[LinkId] = Counter()
        self._closing: str | None = None

    def __len__(self) -> int:
        return len(self._owed)

    def load(self, link: LinkId) -> int:
        """Answers this target owes."""
        return self._load[link]

    @property
    def owing(self) -> Collection[LinkId]:
        """Links of the targets that owe answers."""
        return self._load.keys()

    def open(self, asked: Asked) -> Answer:
        """Give a request to the least loaded target that serves its model, with the engine it names if it names one.

        Raises:
            UnknownModel, NoTarget, Overloaded.
        """
        if self._closing is not None:
            raise NoTarget(self._closing, retry_after=NO_TARGET_RETRY)
        answer = Answer(self, asked, self._choose(asked), self._stall_seconds)
        self._assign(answer)
        return answer

    def _choose(self, asked: Asked) -> TargetRecord:
        targets = self._targets()
        serving = [target for target in targets if target.model.name == asked.model]
        if targets and not serving:
            names = ", ".join(sorted({target.model.name for target in targets}))
            raise UnknownModel(f"there is no model {asked.model!r}; there are: {names}", param="model")
        if asked.fingerprint is not None:
            serving = [target for target in serving if target.model.fingerprint == asked.fingerprint]
        if not any(target.state is PeerState.ACTIVE for target in serving):
            which = "target" if asked.fingerprint is None else "target of this engine fingerprint"
            raise NoTarget(f"no {which} is connected at the moment", retry_after=NO_TARGET_RETRY)
        target = self._least_loaded(serving)
        if target is None:
            raise Overloaded("every target's queue is full: try again", retry_after=OVERLOADED_RETRY)
        return target

    def _least_loaded(self, targets: Collection[TargetRecord]) -> TargetRecord | None:
        free = [
            target
            for target in targets
            if target.state is PeerState.ACTIVE and self._load[target.link] < target.slots + target.queue
        ]
        return min(
            free,
            key=lambda target: (self._hung(target.link), self._load[target.link] / target.slots, target.peer),
            default=None,
        )

    def _assign(self, answer: Answer) -> None:
        self._owed[answer.request] = answer
        self._load[answer.link] += 1
        self._send(answer.link, answer.remaining())

    def _unassign(self, answer: Answer) -> None:
        del self._owed[answer.request]
        self._load[answer.link] -= 1
        if not self._load[answer.link]:
            del self._load[answer.link]

    # What targets send

    def tokens(self, link: LinkId, message: Tokens) -> None:
        """Raises RemoteProtocolError for tokens out of order, as the answer could not be trusted any more, and for more
        than was asked for: what waits for a slow reader must have an end."""
        answer = self._find(link, message.request)
        if answer is None:
            return
        if message.echo:
            self._echo(answer, message)
            return
        due = len(answer.asked.generate.committed) + len(answer.ids)
        if message.position != due:
            raise RemoteProtocolError(f"token {due} of a request was due, token {message.position} came")
        if message.logprobs and answer.asked.generate.top_logprobs is None:
            raise RemoteProtocolError("log-probabilities came for a request that asked for none")
        if not message.ids:
            if answer.text_alone and answer.left:
                return  # the target before had sent the end of the text, and was lost before it finished
            answer.text_alone = True
        answer.messages += 1
        answer.characters += len(message.text)
        messages = answer.longest + TEXT_ALONE * (answer.resumes + 1)
        characters = answer.longest * TOKEN_TEXT
        if due + len(message.ids) > answer.longest or answer.messages > messages or answer.characters > characters:
            raise RemoteProtocolError(f"an answer of at most {answer.longest} tokens did not end")
        answer.ids.extend(message.ids)
        answer.put(message)

    def _echo(self, answer: Answer, message: Tokens) -> None:
        """Tokens of the prompt. A target that takes the answer over before its first token begins again."""
        end = message.position + len(message.ids)
        if end <= answer.echoed:
            return
        generate = answer.asked.generate
        wanted = generate.echo and (generate.top_logprobs is not None or not message.logprobs)
        if not wanted or message.position != answer.echoed or end > answer.model.context:
            raise RemoteProtocolError("a prompt came back that was not asked for, or not in order")
        if len(message.text) > len(message.ids) * TOKEN_TEXT:
            raise RemoteProtocolError("a prompt came back with more text than tokens have")
        answer.echoed = end
        answer.put(message)

    def finish(self, link: LinkId, message: Finished) -> None:
        answer = self._find(link, message.request)
        if answer is None:
            return
        self._unassign(answer)
        if message.reason is FinishReason.CANCELLED:
            answer.put(TargetLost("the target gave the answer up"))
        else:
            answer.put(message)

    def fail(self, link: LinkId, message: Failed) -> None:
        answer = self._find(link, message.request)
        if answer is not None:
            self._unassign(answer)
            answer.put(request_error(message.code, message.message, param=message.param))

    def _find(self, link: LinkId, request: str) -> Answer | None:
        """None where the answer was cancelled, or is another target's by now: then the message is just late."""
        answer = self._owed.get(request)
        return answer if answer is not None and answer.link == link else None

    # Ends

    def release(self, answer: Answer) -> None:
        if self._owed.get(answer.request) is answer:
            self._unassign(answer)
            self._send(answer.link, Cancel(answer.request, "the submitter is gone"))

    def target_gone(self, link: LinkId, reason: str) -> None:
        """Go on elsewhere where the same tokens come out (equal engine fingerprint); otherwise say so now."""
        for answer in self._of(link):
            heir = self._heir(answer)
            self._unassign(answer)
            if heir is None:
                answer.put(TargetLost(f"{reason} after {len(answer.ids)} tokens of the answer"))
            else:
                self._move(answer, heir)

    def target_hung(self, link: LinkId) -> int:
        """Go on elsewhere too. What nobody else can take waits: the target may wake up before its link is given up.

        Returns:
            How many answers have been moved.
        """
        before = self._load[link]
        for answer in self._of(link):
            if (heir := self._heir(answer)) is not None:
                self._unassign(answer)
                self._send(link, Cancel(answer.request, "another target goes on with it"))
                self._move(answer, heir)
        return before - self._load[link]

    def _of(self, link: LinkId) -> list[Answer]:
        return [answer for answer in self._owed.values() if answer.link == link]

    def _move(self, answer: Answer, heir: TargetRecord) -> None:
        answer.left.add(answer.link)
        answer.link, answer.model = heir.link, heir.model
        answer.resumes += 1
        self._assign(answer)

    def _heir(self, answer: Answer) -> TargetRecord | None:
        """The target that may go on with it. Before the first token any that would have been chosen will do."""
        if answer.resumes >= MAX_RESUMES or self._closing is not None:
            return None
        if len(msgspec.json.encode(answer.remaining())) > limits.MAX_FRAME_BYTES:
            return None  # prompt and answer together have outgrown a frame
        started = bool(answer.ids or answer.asked.generate.committed)
        engine = answer.model.fingerprint if started else answer.asked.fingerprint
        return self._least_loaded(
            [
                target
                for target in self._targets()
                # Where it was before, it may still be under way: two answers of one name on one link are one too many.
                if target.link not in (answer.link, *answer.left)
                and not self._hung(target.link)
                and target.model.name == answer.asked.model
                and (engine is None or target.model.fingerprint == engine)
            ]
        )

    def shut_down(self, reason: str) -> None:
        """Nothing new from now on; what is under way ends with a typed error, and its targets are told."""
        self._closing = reason
        for answer in tuple(self._owed.values()):
            self.release(answer)
            answer.put(NoTarget(reason, retry_after=NO_TARGET_RETRY))
