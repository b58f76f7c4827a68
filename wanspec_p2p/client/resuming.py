"""When an answer that broke off is taken up again, and with what. Pure: both clients ask and wait by this.

A coordinator that was killed remembers nothing, and need not: seed, prompt and the token ids received so far decide all
that is to come, on any engine of the same fingerprint (docs/decisions/0018-a-broken-answer-is-asked-for-again.md).
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from wanspec_p2p.client.exchange import AnswerBuilder
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import LinkClosed, NoTarget, Overloaded, TargetLost, UnknownModel, Unreachable, WanspecError
from wanspec_p2p.links.backoff import Backoff

__all__ = ["RESUME_SECONDS", "Resumption"]

RESUME_SECONDS = 30.0
"""How long a broken answer is asked for without a further token."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 2.0
"""Seconds between two attempts, at most: at first, and in the end."""
MAX_TARGET_LOSSES = 1
"""A coordinator has tried several targets before it says that the target is lost; the prompt may be what kills them."""
AWAY = (LinkClosed, Unreachable, NoTarget, Overloaded, UnknownModel)
"""What one sees while a coordinator and its targets come back one after the other."""


class Resumption:
    """One answer's.

    Args:
        builder: what has been received of it.
        seconds: see `RESUME_SECONDS`; with 0 a broken answer is an error at once.
        rng: jitter, so that a thousand submitters do not return in one instant.
    """

    def __init__(self, builder: AnswerBuilder, seconds: float, clock: Clock, rng: random.Random) -> None:
        self._builder, self._seconds, self._clock = builder, seconds, clock
        self._backoff = Backoff(rng, first=FIRST_WAIT, cap=LONGEST_WAIT)
        self._broken: float | None = None  # since when no token has come
        self._tokens = 0
        self._losses = 0

    def wait(self, error: WanspecError) -> float:
        """Seconds to wait before the rest is asked for.

        Raises:
            WanspecError: `error` itself, where asking again would be of no use or has been for long enough.
        """
        builder, now = self._builder, self._clock.monotonic()
        builder.broken = True
        if self._broken is not None and len(builder.token_ids) > self._tokens:
            self._broken = None
            self._backoff.reset()
        if self._broken is None:
            if not builder.begun and not isinstance(error, LinkClosed):
                raise error  # it never began: whoever asked can ask again
            self._broken, self._tokens = now, len(builder.token_ids)
        self._losses += isinstance(error, TargetLost)
        again = isinstance(error, AWAY) or (isinstance(error, TargetLost) and self._losses <= MAX_TARGET_LOSSES)
        wait = self._backoff.next()
        if not again or not builder.resumable or now + wait - self._broken >= self._seconds:
            raise error
        builder.resume()
        return wait

    def body(self, body: Mapping[str, object]) -> dict[str, object]:
        """The request for what is still to come."""
        builder = self._builder
        if not builder.token_ids:
            return dict(body)
        extension = body.get("wanspec", {})
        assert isinstance(extension, dict)  # `request_body` made it
        rest = {"committed": builder.token_ids, "seed": builder.seed, "fingerprint": builder.fingerprint}
        return {**body, "wanspec": {**extension, **rest}}
