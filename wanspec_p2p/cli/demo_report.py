"""What the demo found out: two answers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wanspec_p2p.client.answers import Answer

__all__ = ["Report", "Run"]


@dataclass(frozen=True, slots=True)
class Run:
    answer: Answer
    seconds: float
    """From the request to the last token, as the submitter saw it."""

    @property
    def tokens_per_second(self) -> float:
        return len(self.answer.token_ids) / self.seconds


@dataclass(frozen=True, slots=True)
class Report:
    together: Run
    alone: Run
    names: Mapping[str, str]
    """Of the nodes, by peer id."""

    @property
    def first_difference(self) -> int | None:
        """Where the token ids part; None if they are equal."""
        ours, theirs = self.together.answer.token_ids, self.alone.answer.token_ids
        if ours == theirs:
            return None
        return next(
            (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
            min(map(len, (ours, theirs))),
        )

    @property
    def identical(self) -> bool:
        return self.first_difference is None

    @property
    def won_by_name(self) -> dict[str, int]:
        """Positions each node was first with; a node that won none is listed too."""
        won = self.together.answer.speculation.won_by_peer
        return {name: won.get(peer, 0) for peer, name in sorted(self.names.items(), key=lambda entry: entry[1])}

    def as_json(self) -> dict[str, object]:
        answer, speculation = self.together.answer, self.together.answer.speculation
        return {
            "identical": self.identical,
            "first_difference": self.first_difference,
            "tokens": len(answer.token_ids),
            "rounds": speculation.rounds,
            "accepted_per_round": speculation.accepted_per_round,
            "drafted": speculation.drafted,
            "accepted": speculation.accepted,
            "late": speculation.late,
            "target_draft_passes": speculation.target_draft_passes,
            "won_by_peer": self.won_by_name,
            "tokens_per_second": self.together.tokens_per_second,
            "tokens_per_second_alone": self.alone.tokens_per_second,
            "rounds_alone": self.alone.answer.speculation.rounds,
            "near_ties": speculation.near_ties,
            "finish_reason": answer.finish_reason.value,
            "model": answer.model,
            "fingerprint": answer.fingerprint,
            "text": answer.text,
        }
