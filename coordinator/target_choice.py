"""Which target answers a request, and which one goes on with an answer whose target is gone."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from coordinator.answer import Answer
from coordinator.events import LinkId
from coordinator.openai_schema import Asked
from coordinator.records import PeerState, TargetRecord
from wanspec_p2p.errors import NoTarget, Overloaded, UnknownModel
from wanspec_p2p.protocol import limits

__all__ = ["MAX_RESUMES", "NO_TARGET_RETRY", "OVERLOADED_RETRY", "TargetChoice"]

MAX_RESUMES = 2
"""Targets one answer may outlive. A prompt that brings its target down must not go on to all the others."""
NO_TARGET_RETRY, OVERLOADED_RETRY = 5.0, 1.0
"""Seconds a submitter is asked to wait before it tries again."""


class TargetChoice:
    """Args:
    targets: those registered now.
    load: answers that a target owes.
    hung: whether nothing comes over a link any more; answers are opened on such a target only where there is no other.
    """

    def __init__(
        self,
        targets: Callable[[], Collection[TargetRecord]],
        load: Callable[[LinkId], int],
        hung: Callable[[LinkId], bool],
    ) -> None:
        self._targets, self._load, self._hung = targets, load, hung

    def first(self, asked: Asked) -> TargetRecord:
        """The least loaded target that serves the model, with the engine the request names if it names one.

        Raises:
            UnknownModel, NoTarget, Overloaded.
        """
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

    def heir(self, answer: Answer) -> TargetRecord | None:
        """The target that may go on with it. Before the first token any that would have been chosen will do."""
        if answer.resumes >= MAX_RESUMES:
            return None
        if len(msgspec.json.encode(answer.remaining())) > limits.MAX_FRAME_BYTES:
            return None  # prompt and answer together have outgrown a frame
        engine = answer.model.fingerprint if answer.started else answer.asked.fingerprint
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

    def _least_loaded(self, targets: Collection[TargetRecord]) -> TargetRecord | None:
        free = [
            target
            for target in targets
            if target.state is PeerState.ACTIVE and self._load(target.link) < target.slots + target.queue
        ]
        return min(
            free,
            key=lambda target: (self._hung(target.link), self._load(target.link) / target.slots, target.peer),
            default=None,
        )
