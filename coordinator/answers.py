"""Answers under way: which target owes which request, and what happens to it when that target is gone.

Everything here runs on the event loop and never waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from coordinator.answer import Answer
from coordinator.events import LinkId
from coordinator.openai_schema import Asked
from coordinator.records import TargetRecord
from coordinator.target_choice import NO_TARGET_RETRY, TargetChoice
from wanspec_p2p.errors import NoTarget, TargetLost, request_error
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, Tokens
from wanspec_p2p.types import FinishReason

__all__ = ["Answers"]


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
        self._send, self._stall_seconds = send, stall_seconds
        self._choice = TargetChoice(targets, self.load, hung)
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
        answer = Answer(asked, self._choice.first(asked), self._stall_seconds, self.release)
        self._assign(answer)
        return answer

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
        """Raises RemoteProtocolError for what cannot be part of the answer (`Answer.take`)."""
        if (answer := self._find(link, message.request)) is not None:
            answer.take(message)

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
        answer.move(heir)
        self._assign(answer)

    def _heir(self, answer: Answer) -> TargetRecord | None:
        return self._choice.heir(answer) if self._closing is None else None

    def shut_down(self, reason: str) -> None:
        """Nothing new from now on; what is under way ends with a typed error, and its targets are told."""
        self._closing = reason
        for answer in tuple(self._owed.values()):
            self.release(answer)
            answer.put(NoTarget(reason, retry_after=NO_TARGET_RETRY))
